//! `lintmesh fault` against a real server.

use std::process::{Output, Stdio};
use std::time::Duration;

use lintmesh::proto::v1::{GetMeshStatusRequest, NodeStatus};
use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};

use super::support::calls::{inline, request, started};
use super::support::forward::forward;
use super::support::linters::GatedRuff;
use super::support::serve::{DEADLINE, Serve, lintmesh, signal, until};

async fn fault(serve: &Serve, arguments: &[&str]) -> Output {
    let mut command = lintmesh();
    command.arg("fault").args(arguments).args(["--server", &serve.url()]).stdin(Stdio::null());
    tokio::task::spawn_blocking(move || command.output()).await.expect("no panic").expect("starts")
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[tokio::test]
async fn drain_waits_until_the_node_runs_nothing_and_recover_until_it_is_active() {
    let ruff = GatedRuff::new();
    let serve = Serve::start(&ruff.settings()).await;
    started(&mut serve.coordinator(), request(inline(&[("a.py", "")]), &["ruff"])).await;
    until("ruff runs", || ruff.running() == 2).await;
    let holder = serve.holder().await;
    let waited = ["drain", &holder, "--timeout", "1h", "--wait", "--wait-timeout", "1s", "--json"];
    let late = fault(&serve, &waited).await;
    assert_eq!(late.status.code(), Some(1), "{late:?}");
    assert_eq!(json(&late)["unmet"], serde_json::json!([format!("{holder} still runs 1 tasks")]));
    ruff.open();
    let drained = fault(&serve, &["drain", &holder, "--wait", "--json", "--reason", "new kernel"]).await;
    assert!(drained.status.success(), "{drained:?}");
    let told = json(&drained);
    assert_eq!((&told["nodes"], &told["unmet"]), (&serde_json::json!([holder]), &serde_json::json!([])));
    assert_eq!(serve.node(&holder).await.cause, "DRAINING");

    let recovered = fault(&serve, &["recover", "--all", "--wait"]).await;
    assert!(recovered.status.success(), "{recovered:?}");
    let text = String::from_utf8(recovered.stdout).expect("UTF-8");
    assert!(text.contains("topology health  1.00") && text.contains("no longer drained"), "{text}");
    assert_eq!(serve.node(&holder).await.status(), NodeStatus::Active);
}

#[tokio::test]
async fn a_connection_that_breaks_while_it_waits_does_not_end_it() {
    let ruff = GatedRuff::new();
    let serve = Serve::start(&ruff.settings()).await;
    started(&mut serve.coordinator(), request(inline(&[("a.py", "")]), &["ruff"])).await;
    until("ruff runs", || ruff.running() == 2).await;
    let holder = serve.holder().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (broken, was_broken) = oneshot::channel();
    let api = serve.api;
    tokio::spawn(async move {
        // The first connection is for the word itself; the next one, for the first look, breaks, and so does what is
        // left of the first.
        let (mut near, _) = listener.accept().await.unwrap();
        let mut far = TcpStream::connect(api).await.unwrap();
        let next = tokio::select! {
            _ = copy_bidirectional(&mut near, &mut far) => listener.accept().await,
            next = listener.accept() => next,
        };
        drop((near, far, next.unwrap()));
        broken.send(()).unwrap();
        let (_cut, cuts) = mpsc::channel(1);
        forward(listener, api, cuts).await;
    });
    let mut command = lintmesh();
    command.args(["fault", "drain", &holder, "--timeout", "1h", "--wait", "--wait-timeout", "60s"]);
    command.args(["--server", &format!("http://{address}")]).stdin(Stdio::null());
    let drained = tokio::task::spawn_blocking(move || command.output().unwrap());
    let limit = std::time::Duration::from_secs(60);
    tokio::time::timeout(limit, was_broken).await.expect("in time").expect("a look that broke");
    ruff.open();
    let drained = drained.await.expect("no panic");
    assert_eq!(drained.status.code(), Some(0), "{drained:?}");
}

#[tokio::test]
async fn an_id_makes_a_call_idempotent_and_errors_say_what_is_wrong() {
    let serve = Serve::start("").await;
    let first = fault(&serve, &["fail", "api-docs", "--fault-id", "ticket-7", "--json"]).await;
    fault(&serve, &["recover", "api-docs"]).await;
    let again = fault(&serve, &["fail", "api-docs", "--fault-id", "ticket-7", "--json"]).await;
    assert!(first.status.success() && again.status.success(), "{again:?}");
    assert_eq!(json(&again), json(&first));
    assert_eq!(serve.node("api-docs").await.status(), NodeStatus::Active, "it was done once");
    let other = fault(&serve, &["fail", "backend-dev", "--fault-id", "ticket-7"]).await;
    assert!(!other.status.success());
    assert!(String::from_utf8_lossy(&other.stderr).contains("ticket-7"), "{other:?}");
    for (arguments, said) in [
        (&["reset-breakers", "nobody"][..], "nobody"),
        (&["drain", "--all"], "name one node"),
        (&["rebuild"], "NODE"),
    ] {
        let refused = fault(&serve, arguments).await;
        assert!(!refused.status.success(), "{refused:?}");
        assert!(String::from_utf8_lossy(&refused.stderr).contains(said), "{refused:?}");
    }
    let reset = fault(&serve, &["reset-breakers", "--all"]).await;
    let text = String::from_utf8(reset.stdout).expect("UTF-8");
    assert_eq!(text.matches("closed the circuit breaker of").count(), 4, "{text}");
}

#[tokio::test]
async fn a_node_whose_process_is_gone_is_forgotten_and_one_that_is_connected_is_not() {
    let serve = Serve::start("[nodes]\nrestart_budget = 0\n").await;
    let refused = fault(&serve, &["forget", "api-docs"]).await;
    assert!(!refused.status.success(), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("is connected"), "{refused:?}");
    signal(serve.node("api-docs").await.process_id, Signal::SIGKILL);
    let mut client = serve.coordinator();
    let gone = async {
        while serve.node("api-docs").await.status() != NodeStatus::Failed {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(DEADLINE, gone).await.expect("noticed");
    let told = fault(&serve, &["forget", "api-docs", "--json"]).await;
    assert!(told.status.success(), "{told:?}");
    assert_eq!(json(&told)["new_topology_health"], 1.0);
    assert!(json(&told)["steps"][0].as_str().expect("words").contains("it is configured"), "{told:?}");
    let left = client.get_mesh_status(GetMeshStatusRequest {}).await.expect("answers").into_inner();
    assert_eq!(left.node_statuses.len(), 3);
}
