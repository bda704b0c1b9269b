//! Diagnose and `lintmesh doctor` measure: a stopped process is found by a probe, not by what was heard of it before.

use std::process::Output;
use std::time::Duration;

use lintmesh::proto::v1::*;
use nix::sys::signal::Signal;

use super::support::calls::bad_fields;
use super::support::serve::{DEADLINE, Serve, lintmesh, signal};

async fn diagnose(serve: &Serve, node: &str, sections: &[DiagnosisSection]) -> DiagnoseResponse {
    let sections = sections.iter().map(|section| i32::from(*section)).collect();
    let request = DiagnoseRequest { node_id: node.to_owned(), sections };
    serve.coordinator().diagnose(request).await.expect("always answers").into_inner()
}

fn codes(section: &SectionDiagnosis) -> Vec<(&str, &str)> {
    section.findings.iter().map(|finding| (finding.code.as_str(), finding.node_id.as_str())).collect()
}

async fn doctor(serve: &Serve, arguments: &[&str]) -> Output {
    let mut command = lintmesh();
    command.args(["doctor", "--skip-toolchain", "--server", &serve.url()]).args(arguments);
    command.current_dir(serve.dir.path());
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

fn checks(output: &Output) -> Vec<serde_json::Value> {
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let sections = report["sections"].as_array().unwrap().clone();
    sections.iter().flat_map(|section| section["checks"].as_array().unwrap().clone()).collect()
}

#[tokio::test]
async fn every_node_of_a_whole_mesh_answers_a_probe_sent_for_the_purpose() {
    let serve = Serve::start("").await;
    let told = diagnose(&serve, "", &[]).await;
    assert_eq!(told.server_version, env!("CARGO_PKG_VERSION"));
    let [communication, consensus, performance] = &told.sections[..] else { panic!("{told:?}") };
    assert_eq!(communication.nodes.len(), 4);
    for (name, node) in &communication.nodes {
        assert!(node.node_exists, "{name}");
        assert_eq!(
            (node.node_status(), node.connectivity_test.as_str()),
            (NodeStatus::Active, "passed"),
            "{name}"
        );
        let probe = &node.probes[0];
        let round_trip = Duration::try_from(probe.round_trip.expect("measured")).expect("valid");
        assert!(!round_trip.is_zero() && round_trip < Duration::from_secs(2), "{name}: {round_trip:?}");
        let offset = probe.clock_offset_ms.expect("measured");
        assert!(offset.abs() < 5_000, "one machine has one clock: {offset}");
    }
    assert_eq!(consensus.result(), DiagnosisResult::Passed, "{consensus:?}");
    assert!(consensus.figures.iter().any(|figure| figure.name == "largest_clock_offset"));
    assert!(performance.figures.iter().any(|figure| figure.name == "load_imbalance"));

    let only = diagnose(&serve, "", &[DiagnosisSection::Performance]).await;
    assert_eq!(only.sections.len(), 1);
    let request = DiagnoseRequest { node_id: String::new(), sections: vec![0, 77] };
    let refused = serve.coordinator().diagnose(request).await.expect_err("no sections");
    assert_eq!(bad_fields(&refused), ["sections[0]", "sections[1]"]);
}

#[tokio::test]
async fn a_stopped_process_is_found_at_once_and_well_again_when_it_goes_on() {
    let serve = Serve::start("").await;
    let communication = [DiagnosisSection::Communication];
    let process = serve.node("backend-dev").await.process_id;
    signal(process, Signal::SIGSTOP);
    let told = diagnose(&serve, "backend-dev", &communication).await;
    assert_eq!(told.result(), DiagnosisResult::Failed);
    let node = &told.sections[0].nodes["backend-dev"];
    assert!(node.node_exists && node.last_heartbeat_age.is_some());
    assert_eq!(node.connectivity_test, "failed", "its connection stands, but nobody answers");
    assert!(codes(&told.sections[0]).contains(&("probe_failed", "backend-dev")), "{told:?}");
    assert!(told.sections[0].findings.iter().all(|finding| !finding.remedy.is_empty()));

    let output = doctor(&serve, &["--json", "--node", "backend-dev"]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let found = checks(&output);
    let found = found.iter().find(|check| check["name"] == "backend-dev").expect("told");
    assert_eq!(found["result"], "failed");
    let text = doctor(&serve, &[]).await;
    let text = String::from_utf8(text.stdout).expect("text");
    assert!(text.contains("backend-dev") && text.contains("probe_failed"), "{text}");
    assert!(!text.contains('\u{1b}'), "not a terminal");

    signal(process, Signal::SIGCONT);
    let recovered = async {
        loop {
            let told = diagnose(&serve, "backend-dev", &communication).await;
            let node = &told.sections[0].nodes["backend-dev"];
            if node.connectivity_test == "passed" && node.node_status() == NodeStatus::Active {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(DEADLINE, recovered).await.expect("it answers again");
}

#[tokio::test]
async fn an_unknown_node_is_an_answer_and_too_few_nodes_are_a_finding() {
    let serve = Serve::start("").await;
    for name in ["nobody", "No Such Node"] {
        let told = diagnose(&serve, name, &[DiagnosisSection::Communication]).await;
        let node = &told.sections[0].nodes[name];
        assert!(!node.node_exists && node.connectivity_test.starts_with("error: "), "{node:?}");
        assert_eq!(codes(&told.sections[0]), [("node_not_found", name)]);
    }
    let output = doctor(&serve, &["--node", "nobody"]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    for node in ["api-docs", "system-architect"] {
        let request = HandleFaultRequest {
            action: FaultAction::Fail.into(),
            node_id: node.to_owned(),
            ..Default::default()
        };
        serve.coordinator().handle_fault(request).await.expect("done");
    }
    let told = diagnose(&serve, "", &[]).await;
    let [communication, consensus, _] = &told.sections[..] else { panic!("{told:?}") };
    assert!(codes(communication).contains(&("node_failed", "api-docs")), "{communication:?}");
    assert_eq!(consensus.result(), DiagnosisResult::Failed);
    assert!(codes(consensus).contains(&("insufficient_nodes", "")), "{consensus:?}");
}
