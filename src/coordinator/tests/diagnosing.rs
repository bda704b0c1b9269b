//! What is found to be wrong, and what not.

use std::collections::BTreeMap;
use std::time::Duration;

use super::mesh::*;
use crate::coordinator::diagnose::{
    DiagnosisResult, Examination, Finding, FindingSeverity, PathProbe, ProbeOutcome, ProbePlan, Section,
    SectionDiagnosis,
};
use crate::coordinator::input::{Beat, Input};
use crate::coordinator::settings::Settings;
use crate::types::{LinkReport, LinkState, Load, NodeStatus};

const MILLI: Duration = Duration::from_millis(1);

fn answered(name: &str, clock_offset_ms: i64) -> PathProbe {
    let outcome = ProbeOutcome::Answered { round_trip: MILLI, clock_offset_ms: Some(clock_offset_ms) };
    PathProbe { from: None, to: node(name), outcome }
}

fn unanswered(name: &str) -> PathProbe {
    PathProbe { from: None, to: node(name), outcome: ProbeOutcome::Unanswered }
}

fn by_peer(peer: &str, name: &str, outcome: ProbeOutcome) -> PathProbe {
    PathProbe { from: Some(node(peer)), to: node(name), outcome }
}

fn examine(mesh: &TestMesh, section: Section, of: Option<&str>, probes: Vec<PathProbe>) -> SectionDiagnosis {
    let heard: BTreeMap<_, _> = mesh
        .core
        .presences()
        .iter()
        .filter_map(|(id, presence)| Some((id.clone(), presence.heard_at?.0)))
        .collect();
    let node = of.map(str::to_owned);
    let examination = Examination { began: mesh.now, node, sections: vec![section], heard, probes };
    let mut told = mesh.core.diagnose(mesh.now, &examination);
    assert_eq!(told.len(), 1);
    let told = told.remove(0);
    for finding in &told.findings {
        assert!(!finding.evidence.is_empty() && !finding.remedy.is_empty(), "{finding:?}");
    }
    told
}

fn codes(told: &SectionDiagnosis) -> Vec<&str> {
    told.findings.iter().map(|finding| finding.code).collect()
}

fn all_answer() -> Vec<PathProbe> {
    ALL.iter().map(|name| answered(name, 3)).collect()
}

#[test]
fn a_whole_mesh_passes_in_every_section() {
    let mut mesh = TestMesh::full();
    mesh.link_up();
    for section in Section::ALL {
        let told = examine(&mesh, section, None, all_answer());
        assert_eq!((told.result, codes(&told)), (DiagnosisResult::Passed, vec![]), "{section:?}");
    }
    let told = examine(&mesh, Section::Communication, None, all_answer());
    assert_eq!(told.nodes.len(), 4);
    assert!(told.nodes.values().all(|node| node.probes[0].result() == "passed"));
}

#[test]
fn an_unknown_node_is_an_answer_even_if_its_name_cannot_be_one() {
    let mesh = TestMesh::full();
    for name in ["nobody", "No Body"] {
        let told = examine(&mesh, Section::Communication, Some(name), vec![]);
        assert_eq!((told.result, codes(&told)), (DiagnosisResult::Failed, vec!["node_not_found"]));
        assert_eq!(told.nodes[name].status, None);
    }
    assert_eq!(mesh.core.probe_plan(Some(&node("nobody"))), ProbePlan::default());
}

#[test]
fn a_node_that_does_not_answer_is_found_while_it_is_still_active() {
    let mut mesh = TestMesh::full();
    mesh.link_up();
    mesh.pass(seconds(2));
    let mut probes = all_answer();
    probes[1] = unanswered(BACKEND);
    let told = examine(&mesh, Section::Communication, None, probes);
    assert_eq!((told.result, codes(&told)), (DiagnosisResult::Failed, vec!["probe_failed"]));
    assert_eq!(told.findings[0].node.as_deref(), Some(BACKEND));
    let node = &told.nodes[BACKEND];
    assert_eq!((node.status, node.last_heartbeat_age), (Some(NodeStatus::Active), Some(seconds(2))));
    assert_eq!(node.probes[0].result(), "failed");
}

#[test]
fn what_peers_see_tells_a_dead_node_from_a_cut_path() {
    let mesh = TestMesh::full();
    let reached = ProbeOutcome::Answered { round_trip: MILLI, clock_offset_ms: None };
    let cut = vec![unanswered(BACKEND), by_peer(DOCS, BACKEND, reached)];
    let told = examine(&mesh, Section::Communication, Some(BACKEND), cut);
    assert_eq!(codes(&told), ["reached_by_peers_only"]);
    assert!(told.findings[0].evidence.contains(DOCS), "{:?}", told.findings);
    let dead = vec![unanswered(BACKEND), by_peer(DOCS, BACKEND, ProbeOutcome::Unanswered)];
    assert_eq!(codes(&examine(&mesh, Section::Communication, Some(BACKEND), dead)), ["probe_failed"]);
    let apart = vec![answered(BACKEND, 0), by_peer(DOCS, BACKEND, ProbeOutcome::Unanswered)];
    let told = examine(&mesh, Section::Communication, Some(BACKEND), apart);
    assert_eq!((told.result, codes(&told)), (DiagnosisResult::Warning, vec!["peer_probe_failed"]));
}

#[test]
fn each_status_has_its_cause_and_its_remedy() {
    let mut mesh = TestMesh::full();
    mesh.input(failing("f", BACKEND));
    mesh.disconnect(DOCS);
    mesh.input(Input::Declare(vec![crate::types::NodeSpec {
        node_id: node("spare"),
        ..specialist(BACKEND)
    }]));
    let probes = vec![PathProbe {
        from: None,
        to: node(DOCS),
        outcome: ProbeOutcome::Impossible("it has no session with the coordinator"),
    }];
    let told = examine(&mesh, Section::Communication, None, probes);
    let of = |code: &str| told.findings.iter().find(|finding| finding.code == code).expect(code);
    let failed = of("node_failed");
    assert!(failed.evidence.contains("FAILED (OPERATOR)"), "{failed:?}");
    assert!(failed.remedy.contains("lintmesh fault recover backend-dev"), "{failed:?}");
    assert!(of("node_degraded").evidence.contains("SESSION_LOST"));
    assert!(of("node_initializing").evidence.contains("never heard from"));
    assert!(of("probe_failed").evidence.contains("no session"));
    let severities: Vec<_> = told.findings.iter().map(|finding| finding.severity).collect();
    assert!(severities.windows(2).all(|two| two[0] >= two[1]), "the worst first: {severities:?}");
}

#[test]
fn a_node_that_was_drained_is_recovered_and_one_that_was_asked_to_end_is_started_again() {
    let mut mesh = TestMesh::full();
    mesh.input(draining("d", BACKEND, 30));
    super::draining::asked_to_end(&mut mesh, DOCS);
    let told = examine(&mesh, Section::Communication, None, all_answer());
    let of = |name: &str| {
        let mut of_it = told.findings.iter().filter(|finding| finding.node.as_deref() == Some(name));
        of_it.next().expect(name).remedy.as_str()
    };
    assert_eq!(of(BACKEND), "`lintmesh fault recover backend-dev` when it may work again");
    assert!(of(DOCS).contains("start it again"), "{}", of(DOCS));
}

#[test]
fn fewer_than_three_active_nodes_are_not_enough_to_agree() {
    let mut mesh = TestMesh::full();
    mesh.input(failing("f", BACKEND));
    let told = examine(&mesh, Section::Consensus, None, all_answer());
    assert_eq!(told.result, DiagnosisResult::Passed);
    mesh.input(failing("g", DOCS));
    let told = examine(&mesh, Section::Consensus, None, all_answer());
    assert_eq!((told.result, codes(&told)), (DiagnosisResult::Failed, vec!["insufficient_nodes"]));
}

#[test]
fn a_clock_more_than_five_seconds_off_is_named_with_its_offset() {
    let mesh = TestMesh::full();
    let of = |offset: i64| {
        let mut probes = all_answer();
        probes[2] = answered(DOCS, offset);
        examine(&mesh, Section::Consensus, None, probes)
    };
    assert_eq!(codes(&of(5_000)), [""; 0], "five seconds are tolerated");
    for (offset, word) in [(5_001, "5.001 s ahead of"), (-7_250, "7.250 s behind")] {
        let told = of(offset);
        assert_eq!((told.result, codes(&told)), (DiagnosisResult::Warning, vec!["clock_synchronization"]));
        let Finding { node, evidence, .. } = &told.findings[0];
        assert_eq!(node.as_deref(), Some(DOCS));
        assert!(evidence.contains(word), "{evidence}");
        let figure = told.figures.iter().find(|figure| figure.name == "largest_clock_offset");
        assert!((figure.expect("measured").value - offset.abs() as f64 / 1000.0).abs() < 1e-9);
    }
}

#[test]
fn clocks_that_were_not_measured_are_not_called_right() {
    let mesh = TestMesh::full();
    let told = examine(&mesh, Section::Consensus, None, ALL.iter().map(|name| unanswered(name)).collect());
    assert_eq!((told.result, codes(&told)), (DiagnosisResult::NotMeasured, vec!["clock_not_measured"]));
    assert_eq!(told.findings[0].severity, FindingSeverity::Info);
    let empty = TestMesh::with(Settings::default());
    for section in [Section::Communication, Section::Performance] {
        assert_eq!(examine(&empty, section, None, vec![]).result, DiagnosisResult::NotMeasured);
    }
}

#[test]
fn uneven_load_is_measured_as_the_manual_says() {
    let mut mesh = TestMesh::full();
    let told = examine(&mesh, Section::Performance, None, vec![]);
    let figure = |told: &SectionDiagnosis, name: &str| {
        told.figures.iter().find(|figure| figure.name == name).expect("measured").value
    };
    assert!(figure(&told, "load_imbalance").abs() < 1e-12);
    // Plan runs on none; the load of one node alone rises to 0.3 by what it measures of itself, and more by its tasks.
    mesh.planned(&["ruff"], 2);
    let session = mesh.session(BACKEND);
    let load = Load { cpu: 1.0, memory: 1.0, ..Load::default() };
    mesh.input(Input::Beat { session, node: node(BACKEND), beat: Beat { load, ..Beat::default() } });
    let told = examine(&mesh, Section::Performance, None, vec![]);
    let most = 0.4 * 2.0 / 3.0 + 0.3 + 0.3;
    assert!((figure(&told, "load_imbalance") - (most - most / 4.0)).abs() < 1e-9, "{told:?}");
    assert_eq!((told.result, codes(&told)), (DiagnosisResult::Warning, vec!["load_imbalance"]));
    assert_eq!(told.findings[0].node.as_deref(), Some(BACKEND));
}

#[test]
fn more_than_a_hundred_waiting_tasks_are_a_queue_that_builds_up() {
    let mut mesh = TestMesh::full();
    mesh.planned(&["ruff"], 102);
    let told = examine(&mesh, Section::Performance, None, vec![]);
    assert!(!codes(&told).contains(&"run_queue_buildup"), "100 wait, two run");
    mesh.planned(&["ruff"], 1);
    let told = examine(&mesh, Section::Performance, None, vec![]);
    let finding = told.findings.iter().find(|finding| finding.code == "run_queue_buildup").expect("found");
    assert!(finding.evidence.starts_with("101 tasks of 2 open runs"), "{finding:?}");
}

#[test]
fn an_active_node_whose_breaker_is_open_is_told() {
    let mut mesh = TestMesh::with(Settings { circuit_breaker_threshold: 1, ..Settings::default() });
    mesh.join(BACKEND);
    let run = mesh.planned(&["ruff"], 1);
    let lint = mesh.running_of(&run, crate::types::Stage::Lint)[0].clone();
    mesh.fails(&lint);
    let told = examine(&mesh, Section::Performance, None, vec![]);
    assert_eq!(codes(&told), ["breaker_open"]);
    assert!(told.findings[0].evidence.contains("in 60 s"), "{:?}", told.findings);
}

#[test]
fn peers_that_hold_a_link_are_asked_to_probe_three_at_most() {
    let mut mesh = TestMesh::full();
    let plan = mesh.core.probe_plan(Some(&node(BACKEND)));
    assert_eq!((plan.direct.len(), plan.by_peers.len()), (1, 0), "nobody has a link to it");
    for name in [ARCHITECT, DOCS, INTEGRATION] {
        let session = mesh.session(name);
        let state = if name == DOCS { LinkState::Up } else { LinkState::Silent };
        let beat = Beat { links: vec![LinkReport::new(node(BACKEND), state)], ..Beat::default() };
        mesh.input(Input::Beat { session, node: node(name), beat });
    }
    let plan = mesh.core.probe_plan(Some(&node(BACKEND)));
    let observers: Vec<_> = plan.by_peers.iter().map(|(observer, ..)| observer.to_string()).collect();
    assert_eq!(observers, [DOCS, INTEGRATION, ARCHITECT]);
    assert!(plan.by_peers.iter().all(|(_, _, subject)| *subject == node(BACKEND)));
    assert_eq!(mesh.core.probe_plan(None).direct.len(), 4);
}
