//! A report in every form, from the same result.

use lintmesh::proto::v1::*;
use lintmesh::types::Digest;
use nix::sys::signal::Signal;
use tonic::Code;

use super::FILES;
use crate::support::calls::*;
use crate::support::serve::Serve;

#[tokio::test]
async fn every_form_of_a_report_tells_of_the_same_result() {
    let serve = Serve::start("").await;
    let mut client = serve.coordinator();
    let events = run(&mut client, request(inline(&FILES), &["ruff", "flake8", "bandit"])).await;
    let (run_id, ending) = (&events[0].run_id, finished(&events));
    let count = ending.summary.as_ref().expect("counts").diagnostics as usize;
    assert!(count > 2, "{ending:?}");

    let result = report(&mut client, run_id, ReportFormat::Result).await.expect("a report");
    assert_eq!(Digest::of(&result).to_string(), ending.report_digest);
    let json = report(&mut client, run_id, ReportFormat::Json).await.expect("a report");
    assert_eq!(report(&mut client, run_id, ReportFormat::Unspecified).await.expect("a report"), json);
    let parts: std::collections::BTreeMap<String, Box<serde_json::value::RawValue>> =
        serde_json::from_slice(&json).expect("JSON");
    assert_eq!(parts["result"].get().as_bytes(), result, "byte for byte");
    let execution: serde_json::Value = serde_json::from_str(parts["execution"].get()).expect("JSON");
    assert_eq!(execution["run_id"], **run_id);
    let result: serde_json::Value = serde_json::from_slice(&result).expect("JSON");
    assert_eq!(result["diagnostics"].as_array().expect("a list").len(), count);

    let sarif = report(&mut client, run_id, ReportFormat::Sarif).await.expect("a report");
    let sarif: serde_json::Value = serde_json::from_slice(&sarif).expect("JSON");
    assert_eq!(sarif["version"], "2.1.0");
    let results = sarif["runs"].as_array().expect("runs").iter();
    let results = results.map(|run| run["results"].as_array().expect("results").len());
    assert_eq!(results.sum::<usize>(), count);
    let text = report(&mut client, run_id, ReportFormat::Text).await.expect("a report");
    let text = String::from_utf8(text).expect("text");
    assert_eq!(text.lines().filter(|line| line.starts_with("pkg/")).count(), count, "{text}");
    let junit = report(&mut client, run_id, ReportFormat::Junit).await.expect("a report");
    let junit = String::from_utf8(junit).expect("text");
    assert!(junit.starts_with("<?xml") && junit.contains("F821"), "{junit}");

    let request = DownloadReportRequest { run_id: run_id.clone(), format: 99 };
    let refused = client.download_report(request).await.expect_err("no such form");
    assert_eq!(bad_fields(&refused), ["format"]);
    let unknown = report(&mut client, "run-0", ReportFormat::Json).await.expect_err("no such run");
    assert_error(&unknown, Code::NotFound, "RESOURCE_NOT_FOUND");
}

#[tokio::test]
async fn a_report_tells_of_the_run_whoever_is_there_when_it_is_asked_for() {
    let mut serve = Serve::start("").await;
    let mut client = serve.coordinator();
    let events = run(&mut client, request(inline(&FILES), &["ruff", "flake8"])).await;
    let run_id = &events[0].run_id;
    let whole = async |serve: &Serve| {
        let json = report(&mut serve.coordinator(), run_id, ReportFormat::Json).await.expect("a report");
        serde_json::from_slice::<serde_json::Value>(&json).expect("JSON")
    };
    let mut before = whole(&serve).await;
    let execution = &before["execution"];
    assert_eq!(execution["toolchain_id"].as_str().map(str::len), Some(64), "{execution}");
    assert!(execution["environment_class"].as_str().is_some_and(|class| !class.is_empty()), "{execution}");
    let mut worked: Vec<_> = events
        .iter()
        .filter_map(|event| match &event.event {
            Some(run_event::Event::TaskAccepted(done)) => Some(done.node_id.clone()),
            _ => None,
        })
        .collect();
    worked.sort();
    worked.dedup();
    let nodes = execution["nodes"].as_object().expect("nodes");
    assert_eq!(nodes.keys().collect::<Vec<_>>(), worked.iter().collect::<Vec<_>>());
    assert!(nodes.values().all(|node| node["agent_type"].as_str().is_some_and(|agent| !agent.is_empty())));

    serve.signal(Signal::SIGTERM);
    assert!(serve.ended().await.success());
    // No node comes back.
    serve.again("", &["--launch", "external"]).await;
    let mut after = whole(&serve).await;
    // How the linters were installed is told by nodes that have the same ones.
    for told in [&mut before, &mut after] {
        told["execution"].as_object_mut().expect("an object").remove("toolchain_mode");
    }
    assert_eq!(after, before);
}
