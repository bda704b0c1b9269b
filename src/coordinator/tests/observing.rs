//! The thirteen figures and the alerts follow what happens, and time.

use std::time::Duration;

use super::mesh::*;
use crate::coordinator::alert::Rule;
use crate::coordinator::input::{Beat, Input};
use crate::coordinator::message::Topology;
use crate::coordinator::metrics::{Figures, Traffic, WINDOW};
use crate::coordinator::settings::Settings;
use crate::types::{LinkReport, LinkState, Load, NodeStatus, Outcome, Stage};

const OTHERS: [&str; 3] = [ARCHITECT, DOCS, INTEGRATION];

fn figures(mesh: &TestMesh) -> Figures {
    mesh.core.figures(mesh.now)
}

fn raised(mesh: &TestMesh) -> Vec<Rule> {
    mesh.core.alerts().map(|alert| alert.rule).collect()
}

/// A heartbeat that tells of live links to all others that are connected.
fn linked_beat(mesh: &mut TestMesh, name: &str, load: Load) {
    let state = |other: &str| match mesh.core.presences()[&node(other)].session {
        Some(_) => LinkState::Up,
        None => LinkState::Reset,
    };
    let others = ALL.iter().filter(|other| **other != name);
    let links = others.map(|other| LinkReport::new(node(other), state(other))).collect();
    let session = mesh.session(name);
    mesh.input(Input::Beat { session, node: node(name), beat: Beat { load, links, ..Beat::default() } });
}

/// The four specialists, linked, and with alerts that may be raised.
fn settled() -> TestMesh {
    let mut mesh = TestMesh::full();
    for name in ALL {
        linked_beat(&mut mesh, name, Load::default());
    }
    for _ in 0..8 {
        mesh.pass_answering(&ALL, seconds(5));
        for name in ALL {
            linked_beat(&mut mesh, name, Load::default());
        }
    }
    mesh
}

/// Lets time pass while nodes send heartbeats with their links.
fn live(mesh: &mut TestMesh, names: &[&str], duration: Duration) {
    let end = mesh.now + duration;
    while mesh.now < end {
        for name in names {
            linked_beat(mesh, name, Load::default());
        }
        mesh.pass_answering(names, seconds(1));
    }
}

#[test]
fn what_was_not_measured_is_absent() {
    let mut mesh = TestMesh::with(Settings::default());
    mesh.decide(Input::Timer);
    assert_eq!(
        figures(&mesh),
        Figures { connectivity_percentage: 1.0, ..Figures::default() },
        "no nodes, so nothing is planned"
    );
    let idle = figures(&TestMesh::full());
    assert_eq!((idle.active_nodes, idle.total_nodes, idle.topology_health), (4, 4, 1.0));
    assert_eq!(idle.node_failure_rate, Some(0.0), "nodes there are");
    let absent = [
        idle.average_message_latency,
        idle.message_throughput,
        idle.task_completion_rate,
        idle.recovery_success_rate,
        idle.consensus_agreement_rate,
        idle.total_cpu_usage,
        idle.total_memory_usage,
        idle.network_bandwidth_usage,
    ];
    assert_eq!(absent, [None; 8]);
}

#[test]
fn connectivity_counts_links_between_active_nodes_that_answer() {
    let mut mesh = settled();
    assert_eq!(figures(&mesh).connectivity_percentage, 1.0);
    assert_eq!(mesh.core.topology(), Topology::FullMesh);
    let session = mesh.session(DOCS);
    let silent = |state| Input::LinkChanged { session, node: node(DOCS), subject: node(BACKEND), state };
    mesh.input(silent(LinkState::Silent));
    assert_eq!(figures(&mesh).connectivity_percentage, 11.0 / 12.0);
    assert_eq!(mesh.core.live_links(&node(DOCS)).count(), 2);
    mesh.input(silent(LinkState::Up));
    mesh.input(failing("f", BACKEND));
    assert_eq!(figures(&mesh).connectivity_percentage, 6.0 / 12.0, "the three others among themselves");
}

#[test]
fn throughput_bandwidth_and_latency_are_means_over_the_window() {
    let mut mesh = TestMesh::full();
    let begun = mesh.now;
    let told = |messages, latency_samples: u32| Traffic {
        messages,
        bytes: messages * 100,
        latency: Duration::from_millis(20) * latency_samples,
        latency_samples: latency_samples.into(),
    };
    mesh.input(Input::Traffic(told(1000, 0)));
    mesh.pass_with(&ALL, seconds(100));
    mesh.input(Input::Traffic(told(1500, 50)));
    let seen = mesh.now.since(begun).as_secs_f64();
    let measured = figures(&mesh);
    assert_eq!(measured.message_throughput, Some(1500.0 / seen));
    assert_eq!(measured.network_bandwidth_usage, Some(150_000.0 / seen));
    assert!((measured.average_message_latency.expect("sampled") - 0.02).abs() < 1e-9);
    mesh.pass_with(&ALL, WINDOW + seconds(5));
    let later = figures(&mesh);
    assert_eq!((later.message_throughput, later.average_message_latency), (Some(0.0), None));
}

#[test]
fn usage_is_the_sum_over_the_nodes_of_a_host_and_the_mean_over_hosts() {
    let mut mesh = TestMesh::full();
    let mut elsewhere = hello(DOCS, 2);
    elsewhere.host_id = "other".into();
    mesh.connect(elsewhere);
    let load = |cpu, memory| Load { cpu, memory, ..Load::default() };
    linked_beat(&mut mesh, BACKEND, load(0.5, 0.2));
    linked_beat(&mut mesh, ARCHITECT, load(0.3, 0.1));
    assert_eq!(figures(&mesh).total_cpu_usage, Some(0.8), "the other host has not measured yet");
    linked_beat(&mut mesh, DOCS, load(0.2, 0.1));
    let measured = figures(&mesh);
    assert_eq!(measured.total_cpu_usage, Some(0.5));
    assert!((measured.total_memory_usage.expect("measured") - 0.2).abs() < 1e-12);
    mesh.disconnect(DOCS);
    assert_eq!(figures(&mesh).total_cpu_usage, Some(0.8), "what is gone is not known");
}

#[test]
fn tasks_attempts_and_runs_are_counted_by_how_they_ended() {
    let mut mesh = TestMesh::full();
    mesh.planned(&["ruff"], 1);
    mesh.drain();
    assert_eq!(figures(&mesh).task_completion_rate, Some(1.0));
    let totals = mesh.core.totals();
    assert_eq!(totals.attempts, [("accepted", 4)].into(), "PLAN, LINT, CLASSIFY, AGGREGATE");
    assert_eq!(totals.runs.values().sum::<u64>(), 1);
    let run = mesh.planned(&["ruff"], 1);
    for _ in 0..4 {
        let lint = mesh.running_of(&run, Stage::Lint)[0].clone();
        mesh.fails(&lint);
    }
    let totals = mesh.core.totals();
    assert_eq!((totals.attempts["failed"], totals.given_up), (4, 1));
    assert_eq!(figures(&mesh).task_completion_rate, Some(5.0 / 6.0));
    mesh.drain();
    assert_eq!(mesh.core.totals().runs[&Outcome::Incomplete], 1);
}

#[test]
fn a_failed_node_counts_while_it_is_failed_and_for_a_window_after() {
    let mut mesh = settled();
    mesh.disconnect(BACKEND);
    live(&mut mesh, &OTHERS, seconds(2));
    assert_eq!(mesh.status(BACKEND).0, NodeStatus::Failed);
    assert_eq!(figures(&mesh).node_failure_rate, Some(0.25));
    assert_eq!(figures(&mesh).recovery_success_rate, None, "it is not over");
    mesh.join(BACKEND);
    assert_eq!(figures(&mesh).recovery_success_rate, Some(1.0));
    live(&mut mesh, &ALL, WINDOW - seconds(1));
    assert_eq!(figures(&mesh).node_failure_rate, Some(0.25));
    live(&mut mesh, &ALL, seconds(2));
    assert_eq!(figures(&mesh).node_failure_rate, Some(0.0));
    live(&mut mesh, &ALL, seconds(5));
    assert_eq!(figures(&mesh).recovery_success_rate, None, "forgotten");
}

#[test]
fn a_recovery_that_takes_too_long_has_failed_once() {
    let mut mesh = settled();
    mesh.disconnect(BACKEND);
    live(&mut mesh, &OTHERS, seconds(62));
    assert_eq!(figures(&mesh).recovery_success_rate, Some(0.0));
    mesh.join(BACKEND);
    assert_eq!(figures(&mesh).recovery_success_rate, Some(0.0), "late is not counted again");
    assert_eq!(mesh.core.totals().recoveries, [(false, 1)].into());
}

#[test]
fn an_operators_word_is_no_failure() {
    let mut mesh = settled();
    mesh.input(failing("f", BACKEND));
    live(&mut mesh, &ALL, seconds(70));
    let measured = figures(&mesh);
    assert_eq!((measured.node_failure_rate, measured.recovery_success_rate), (Some(0.0), None));
}

#[test]
fn alerts_follow_time_alone_and_change_the_revision() {
    let mut mesh = settled();
    assert_eq!(raised(&mesh), []);
    mesh.input(failing("a", BACKEND));
    mesh.input(failing("b", DOCS));
    live(&mut mesh, &ALL, seconds(9));
    assert_eq!(raised(&mesh), []);
    for name in ALL {
        linked_beat(&mut mesh, name, Load::default());
    }
    let before = mesh.core.revision();
    mesh.pass_answering(&ALL, seconds(3));
    assert!(mesh.core.revision() > before, "watchers must be told");
    assert_eq!(raised(&mesh), [Rule::LowConnectivity, Rule::DegradedHealth]);
}

#[test]
fn an_alert_ends_when_the_mesh_is_whole_again() {
    let mut mesh = settled();
    mesh.input(failing("a", BACKEND));
    mesh.input(failing("b", DOCS));
    live(&mut mesh, &ALL, seconds(15));
    assert_eq!(raised(&mesh), [Rule::LowConnectivity, Rule::DegradedHealth]);
    mesh.input(recovering("c", BACKEND));
    mesh.input(recovering("d", DOCS));
    live(&mut mesh, &ALL, seconds(29));
    assert_eq!(raised(&mesh).len(), 2, "held");
    live(&mut mesh, &ALL, seconds(4));
    assert_eq!(raised(&mesh), []);
}

#[test]
fn the_tolerance_says_how_many_may_still_fail() {
    let mut mesh = settled();
    let tolerance = |mesh: &TestMesh| {
        let now = crate::types::Now { tick: mesh.now, ..Default::default() };
        let at = mesh.core.mesh_health(now, &[]).tolerance;
        (at.tolerated, at.unavailable, at.remaining)
    };
    assert_eq!(tolerance(&mesh), (1, 0, 1));
    mesh.input(failing("a", BACKEND));
    assert_eq!(tolerance(&mesh), (1, 1, 0));
    mesh.input(failing("b", DOCS));
    assert_eq!(tolerance(&mesh), (1, 2, 0));
}
