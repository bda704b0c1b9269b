//! `/metrics` of the admin listener: what Prometheus reads.

use std::collections::{BTreeMap, BTreeSet};

use lintmesh::proto::v1::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::Code;

use super::support::calls::{finished, inline, request, run};
use super::support::serve::{DEADLINE, Serve};

/// The lines of a scrape.
pub(crate) async fn scrape(serve: &Serve) -> Vec<String> {
    let mut http = tokio::net::TcpStream::connect(serve.admin).await.expect("it listens");
    let get = "GET /metrics HTTP/1.1\r\nhost: prometheus\r\nconnection: close\r\n\r\n";
    http.write_all(get.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    http.read_to_string(&mut answer).await.expect("closed in order");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let kind = "content-type: text/plain; version=0.0.4; charset=utf-8";
    assert!(head.to_ascii_lowercase().contains(kind), "{head}");
    body.lines().map(str::to_owned).collect()
}

/// The samples of a page, and the kind of each family.
fn read(lines: &[String]) -> (BTreeMap<String, f64>, BTreeMap<String, String>) {
    let (mut samples, mut kinds, mut helped) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
    for line in lines {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("a help");
            assert!(!help.is_empty() && helped.insert(name.to_owned()), "{line}");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a kind");
            assert!(helped.contains(name), "{line}");
            assert_eq!(kinds.insert(name.to_owned(), kind.to_owned()), None, "told twice: {line}");
            assert_eq!(name.ends_with("_total"), kind == "counter", "{line}");
        } else {
            let (sample, value) = line.rsplit_once(' ').expect("a value");
            let family = sample.split('{').next().expect("a name");
            let bare = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| family.strip_suffix(suffix));
            assert!(
                kinds.contains_key(family) || bare.is_some_and(|bare| kinds.contains_key(bare)),
                "{line}"
            );
            let value = value.parse().expect("a number");
            assert_eq!(samples.insert(sample.to_owned(), value), None, "told twice: {line}");
        }
    }
    (samples, kinds)
}

#[tokio::test]
async fn figures_counts_and_calls_are_told_in_prometheus_format() {
    let serve = Serve::start("").await;
    let mut client = serve.coordinator();
    let tree = inline(&[("a.py", "import os\n")]);
    assert_eq!(finished(&run(&mut client, request(tree, &["ruff"])).await).outcome(), Outcome::Findings);
    let missing = client.get_run(GetRunRequest { run_id: "run-missing".into() }).await;
    assert_eq!(missing.expect_err("unknown").code(), Code::NotFound);
    let health = client.stream_health(StreamHealthRequest::default()).await.expect("a stream");
    let mut health = health.into_inner();
    health.message().await.expect("alive").expect("a report");

    let lines = scrape(&serve).await;
    let (samples, kinds) = read(&lines);
    for (name, value) in [
        ("lintmesh_active_nodes", 4.0),
        ("lintmesh_nodes", 4.0),
        ("lintmesh_topology_health_ratio", 1.0),
        ("lintmesh_task_completion_ratio", 1.0),
        ("lintmesh_node_failure_ratio", 0.0),
        ("lintmesh_nodes_by_status{status=\"ACTIVE\"}", 4.0),
        ("lintmesh_nodes_by_status{status=\"FAILED\"}", 0.0),
        ("lintmesh_node_starts_total", 4.0),
        ("lintmesh_attempts_total{outcome=\"accepted\"}", 4.0),
        ("lintmesh_runs_total{outcome=\"FINDINGS\"}", 1.0),
        ("lintmesh_open_runs", 0.0),
        ("lintmesh_tasks{state=\"running\"}", 0.0),
        ("lintmesh_planned_links", 12.0),
        ("lintmesh_remaining_failures", 1.0),
        ("lintmesh_breakers{state=\"closed\"}", 4.0),
        ("lintmesh_alert_raised{alert=\"degraded_health\",severity=\"critical\"}", 0.0),
        ("lintmesh_open_calls{rpc_method=\"lintmesh.v1.CoordinatorService/StreamHealth\"}", 1.0),
        ("lintmesh_open_calls{rpc_method=\"lintmesh.peer.v1.NodeService/Session\"}", 4.0),
    ] {
        assert_eq!(samples.get(name), Some(&value), "{name} in {lines:#?}");
    }
    assert!(kinds.contains_key("lintmesh_consensus_agreement_ratio"));
    for absent in ["lintmesh_consensus_agreement_ratio", "lintmesh_recovery_success_ratio"] {
        assert!(!samples.contains_key(absent), "{absent} was not measured");
    }

    let calls = |suffix: &str, method: &str, code: &str, more: &str| {
        let labels = format!(
            "rpc_system_name=\"grpc\",rpc_method=\"lintmesh.v1.CoordinatorService/{method}\",\
             rpc_response_status_code=\"{code}\"{more}"
        );
        samples.get(&format!("rpc_server_call_duration_seconds{suffix}{{{labels}}}")).copied()
    };
    assert_eq!(calls("_count", "Coordinate", "OK", ""), Some(1.0), "{lines:#?}");
    assert!(
        calls("_sum", "Coordinate", "OK", "").is_some_and(|seconds| seconds > 0.0),
        "to the stream's end"
    );
    assert_eq!(calls("_bucket", "Coordinate", "OK", ",le=\"+Inf\""), Some(1.0));
    assert_eq!(calls("_count", "GetRun", "NOT_FOUND", ""), Some(1.0));
    assert_eq!(calls("_count", "StreamHealth", "OK", ""), None, "it has not ended");
    drop(health);
    let let_go = async {
        loop {
            let lines = scrape(&serve).await;
            if lines.iter().any(|line| line.contains("StreamHealth\",rpc_response_status_code=\"CANCELLED\""))
            {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(DEADLINE, let_go).await.expect("a stream that its client lets go of is CANCELLED");
}
