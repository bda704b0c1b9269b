//! "Why is it not running?" is a query: ExplainTask and `lintmesh explain` name the dependency, the room, the breaker, the
//! missing tool.

use std::process::Output;
use std::time::Duration;

use lintmesh::proto::peer::v1::node_service_client::NodeServiceClient;
use lintmesh::proto::peer::v1::session_request::Message;
use lintmesh::proto::peer::v1::{Hello, SessionRequest, SessionResponse};
use lintmesh::proto::v1::coordinator_service_client::CoordinatorServiceClient;
use lintmesh::proto::v1::*;
use lintmesh::types::Digest;
use tonic::transport::Channel;
use tonic::{Code, Request, Streaming};

use super::support::calls::*;
use super::support::linters::GatedRuff;
use super::support::serve::{DEADLINE, Serve, channel, lintmesh, until};

const SECRET: &str = "shared by the nodes that others start";

async fn explain(
    client: &mut CoordinatorServiceClient<Channel>,
    run: &str,
    task: u64,
) -> ExplainTaskResponse {
    let request = ExplainTaskRequest { run_id: run.to_owned(), task_id: task, ..Default::default() };
    client.explain_task(request).await.expect("known").into_inner()
}

/// The first task of a run that waits for a node, once there is one.
async fn waiting(client: &mut CoordinatorServiceClient<Channel>, run: &str) -> TaskExplanation {
    let found = async {
        loop {
            let told = explain(client, run, 0).await;
            let waits = |task: &TaskExplanation| {
                task.position() == TaskPosition::Queued && task.obstacle() != Obstacle::None
            };
            if let Some(task) = told.tasks.into_iter().find(waits) {
                return task;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(DEADLINE, found).await.expect("a task waits")
}

fn reasons(task: &TaskExplanation, node: &str) -> Vec<RefusalReason> {
    let candidate =
        task.candidates.iter().find(|candidate| candidate.node_id == node).expect("every node is told");
    candidate.refusals.iter().map(Refusal::reason).collect()
}

/// A node that joins with no tools at all.
async fn join(serve: &Serve, node_id: &str, capabilities: Vec<String>) -> Streaming<SessionResponse> {
    let hello = Hello {
        protocol_min: 1,
        protocol_max: 1,
        mesh_id: "lintmesh".into(),
        specialist: Some(Specialist {
            node_id: node_id.into(),
            agent_type: "extra".into(),
            capabilities,
            priority_weight: 0.5,
            max_concurrent_tasks: 1,
            ..Default::default()
        }),
        incarnation: 1,
        ..Default::default()
    };
    let first = SessionRequest { message: Some(Message::Hello(hello)) };
    let messages = tokio_stream::StreamExt::chain(tokio_stream::iter([first]), tokio_stream::pending());
    let mut request = Request::new(messages);
    let value = format!("Bearer {SECRET}").parse().expect("ASCII");
    request.metadata_mut().insert("authorization", value);
    let mut client = NodeServiceClient::new(channel(serve.node_listener));
    client.session(request).await.expect("admitted").into_inner()
}

async fn command(serve: &Serve, arguments: &[&str]) -> Output {
    let mut command = lintmesh();
    command.arg("explain").args(arguments).args(["--server", &serve.url()]);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

#[tokio::test]
async fn each_thing_that_keeps_a_task_from_running_is_named() {
    let ruff = GatedRuff::new();
    let secret = Digest::of(SECRET.as_bytes());
    let settings =
        format!("{}[[nodes.secrets]]\nname = \"others\"\nsha256 = \"{secret}\"\n", ruff.settings());
    let serve = Serve::start(&settings).await;
    let mut client = serve.coordinator();
    let first = started(&mut client, request(inline(&[("a.py", "")]), &["ruff"])).await;
    until("ruff runs", || ruff.running() == 2).await;

    // What runs, and what waits for it.
    let told = explain(&mut client, &first, 0).await;
    assert_eq!((told.state(), told.unfinished_tasks), (RunState::Open, 1));
    let [lint] = &told.tasks[..] else { panic!("{told:?}") };
    assert_eq!(lint.position(), TaskPosition::Running);
    let [attempt] = &lint.attempts[..] else { panic!("{lint:?}") };
    assert_eq!(attempt.outcome, "RUNNING");
    assert!(lint.reason.starts_with(&format!("{} runs it", attempt.node_id)), "{lint:?}");
    assert!(lint.time_left.is_some() && lint.max_attempts == 4);
    let id = lint.task.as_ref().expect("named").task_id;
    let depends: Vec<_> =
        told.pending_stages.iter().map(|pending| (pending.stage(), pending.waits_for[0].task_id)).collect();
    assert_eq!(depends, [(Stage::Classify, id), (Stage::Aggregate, id)]);
    let plan = explain(&mut client, &first, 1).await;
    assert_eq!(plan.tasks[0].position(), TaskPosition::Done);
    assert_eq!(plan.tasks[0].attempts[0].outcome, "ACCEPTED");

    // No room: as many runs as it takes to fill the cores.
    let mut last = first.clone();
    let mut found = None;
    for _ in 0..60 {
        let told = explain(&mut client, &last, 0).await;
        let task = told.tasks.first().cloned().unwrap_or_default();
        if task.obstacle() == Obstacle::Room {
            found = Some(task);
            break;
        }
        last = started(&mut client, request(inline(&[("b.py", "")]), &["ruff"])).await;
        let planned = async {
            while !explain(&mut client, &last, 0)
                .await
                .tasks
                .iter()
                .any(|task| task.task.as_ref().is_some_and(|of| of.stage() == Stage::Lint))
            {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(DEADLINE, planned).await.expect("PLAN needs no core");
    }
    let full = found.expect("the cores are taken in the end");
    let no_room = [RefusalReason::CoresTaken, RefusalReason::NoFreeSlot];
    for candidate in &full.candidates {
        assert_eq!(candidate.rank, 0);
        assert!(
            candidate.refusals.iter().all(|refusal| no_room.contains(&refusal.reason())),
            "{candidate:?}"
        );
    }
    assert!(!full.remedy.is_empty());
    let output = command(&serve, &[&last]).await;
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(text.contains("queued, it waits for room") && text.contains("backend-dev"), "{text}");

    // Two nodes that join with room: one has not the tool, the other not even the capabilities.
    let capabilities =
        ["adapter_pattern_implementation", "linter_output_normalization"].map(String::from).to_vec();
    let _bare = join(&serve, "bare", capabilities).await;
    let _narrow = join(&serve, "narrow", vec!["other".into()]).await;
    let task = waiting(&mut client, &last).await;
    assert_eq!(reasons(&task, "bare"), [RefusalReason::ToolMissing]);
    let bare = task.candidates.iter().find(|candidate| candidate.node_id == "bare").expect("told");
    assert!(bare.made_for && bare.refusals[0].detail.contains("does not have ruff"), "{bare:?}");
    assert_eq!(reasons(&task, "narrow")[0], RefusalReason::Capabilities);

    // The nodes are gone: their status and their breakers keep them out.
    for node in ["api-docs", "backend-dev", "integration-specialist", "system-architect"] {
        let request = HandleFaultRequest {
            action: FaultAction::Fail.into(),
            node_id: node.into(),
            ..Default::default()
        };
        client.handle_fault(request).await.expect("done");
    }
    let task = waiting(&mut client, &first).await;
    assert_eq!(task.obstacle(), Obstacle::Absence);
    let refused = reasons(&task, "backend-dev");
    assert!(
        refused.contains(&RefusalReason::Status) && refused.contains(&RefusalReason::Breaker),
        "{refused:?}"
    );
    let backend = task.candidates.iter().find(|candidate| candidate.node_id == "backend-dev").expect("told");
    let breaker =
        backend.refusals.iter().find(|refusal| refusal.reason() == RefusalReason::Breaker).expect("told");
    let probe = Duration::try_from(breaker.retry_after.expect("known")).expect("valid");
    assert!(probe > Duration::from_secs(30) && probe < Duration::from_secs(70), "{probe:?}");
    assert!(task.attempts.iter().any(|attempt| attempt.outcome == "TAKEN_BACK"), "{task:?}");

    let id = task.task.as_ref().expect("named").task_id.to_string();
    let output = command(&serve, &[&first, &id, "--json"]).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(json["tasks"][0]["obstacle"], "ABSENCE");
    let output = command(&serve, &["run-unknown"]).await;
    assert_eq!(output.status.code(), Some(2), "{output:?}");

    let missing = ExplainTaskRequest { run_id: first.clone(), task_id: 99, ..Default::default() };
    assert_error(
        &client.explain_task(missing).await.expect_err("no such task"),
        Code::NotFound,
        "RESOURCE_NOT_FOUND",
    );
    let bad = ExplainTaskRequest { page_size: -1, page_token: "x".into(), ..Default::default() };
    let mut fields = bad_fields(&client.explain_task(bad).await.expect_err("three bad fields"));
    fields.sort();
    assert_eq!(fields, ["page_size", "page_token", "run_id"]);

    // What has ended says so.
    client.cancel_run(CancelRunRequest { run_id: first.clone() }).await.expect("cancelled");
    let told = explain(&mut client, &first, id.parse().expect("a number")).await;
    assert_eq!((told.state(), told.tasks[0].position()), (RunState::Finished, TaskPosition::Dropped));
}
