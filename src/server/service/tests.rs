//! What callers hear while facts cannot be stored.

use std::time::Duration;

use tokio::time::timeout;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use super::testing::{Rig, hello};
use crate::coordinator::decision::Reply;
use crate::coordinator::input::Input;
use crate::proto::v1;
use crate::proto::v1::coordinator_service_server::CoordinatorService as _;
use crate::server::coordinator::Coordination;
use crate::types::RunId;

/// The answer to a call, which does not wait for the store.
async fn at_once<T>(call: impl Future<Output = Result<tonic::Response<T>, Status>>) -> Result<T, Status> {
    timeout(Duration::from_secs(1), call).await.expect("answered at once").map(tonic::Response::into_inner)
}

fn assert_refused<T>(call: &str, answer: Result<T, Status>) {
    let Err(status) = answer else { panic!("{call} is answered") };
    let reason = status.get_details_error_info().expect("details").reason;
    assert_eq!((status.code(), reason.as_str()), (Code::ResourceExhausted, "DISK_FULL"), "{call}");
    assert!(status.message().contains("state.dir"), "{call}: {}", status.message());
    assert!(status.get_details_retry_info().is_some(), "{call}");
}

#[tokio::test(start_paused = true)]
async fn while_facts_cannot_be_stored_calls_say_so_at_once_and_health_goes_on() {
    let rig = Rig::start(1 << 20);
    let run_id = rig.start_run("run").await.to_string();
    let api = Coordination::new(rig.service.clone());
    rig.stall().await;
    let fault = v1::HandleFaultRequest {
        fault_id: "f".into(),
        all_nodes: true,
        action: v1::FaultAction::ResetBreakers.into(),
        ..Default::default()
    };
    let spec = hello("another").spec;
    let specialist = v1::Specialist {
        node_id: spec.node_id.to_string(),
        agent_type: spec.agent_type.to_string(),
        capabilities: spec.capabilities.iter().map(ToString::to_string).collect(),
        priority_weight: 1.0,
        max_concurrent_tasks: 1,
        ..Default::default()
    };
    let declaring = v1::InitializeMeshRequest { specialists: vec![specialist], ..Default::default() };
    let get = v1::GetRunRequest { run_id: run_id.clone() };
    let explain = v1::ExplainTaskRequest { run_id: run_id.clone(), ..Default::default() };
    let download = v1::DownloadReportRequest { run_id: run_id.clone(), ..Default::default() };
    let cancel = v1::CancelRunRequest { run_id: run_id.clone() };
    assert_refused("CancelRun", at_once(api.cancel_run(Request::new(cancel))).await);
    assert_refused("HandleFault", at_once(api.handle_fault(Request::new(fault))).await);
    assert_refused("InitializeMesh", at_once(api.initialize_mesh(Request::new(declaring))).await);
    assert_refused("GetRun", at_once(api.get_run(Request::new(get.clone()))).await);
    assert_refused("ListRuns", at_once(api.list_runs(Request::new(Default::default()))).await);
    assert_refused("ExplainTask", at_once(api.explain_task(Request::new(explain))).await);
    assert_refused("DownloadReport", at_once(api.download_report(Request::new(download))).await);
    at_once(api.get_mesh_status(Request::new(v1::GetMeshStatusRequest {}))).await.expect("health goes on");
    let wait = Some(prost_types::Duration { seconds: 0, nanos: 0 });
    let asking = v1::InitializeMeshRequest { wait, ..Default::default() };
    let measured = at_once(api.initialize_mesh(Request::new(asking))).await.expect("nothing is declared");
    assert!(!measured.ready);

    rig.go_on();
    tokio::time::sleep(Duration::from_secs(10)).await;
    let run = at_once(api.get_run(Request::new(get))).await.expect("answered").run.expect("a run");
    assert_eq!(run.state(), v1::RunState::Open, "what was refused did not happen");
}

#[tokio::test(start_paused = true)]
async fn a_question_is_given_up_when_the_store_begins_to_stall() {
    let rig = Rig::start(1 << 20);
    let service = rig.service.clone();
    let (asked, ()) = tokio::join!(
        async {
            // Behind what cannot be stored, which nobody knows yet.
            tokio::task::yield_now().await;
            timeout(Duration::from_secs(1), service.ask(|core, _| core.state().runs.len())).await
        },
        rig.stall(),
    );
    let refused = asked.expect("at once").expect_err("nobody may see that run");
    assert_eq!(refused.reason(), "DISK_FULL");
}

#[tokio::test(start_paused = true)]
async fn what_its_caller_has_given_up_is_not_decided_behind_its_back() {
    let rig = Rig::start(1 << 20);
    let runs = [rig.start_run("given-up").await, rig.start_run("awaited").await];
    rig.stall().await;
    let cancel = |run: &RunId| Input::CancelRun { run: run.clone(), reason: "enough".into() };
    let engine = rig.service.engine.clone();
    timeout(Duration::from_secs(20), engine.decide_while_awaited(cancel(&runs[0])))
        .await
        .expect_err("nothing is decided");
    let awaited = engine.decide_while_awaited(cancel(&runs[1]));
    let (awaited, ()) = tokio::join!(awaited, async { rig.go_on() });
    assert_eq!(awaited, Ok(Reply::Run(runs[1].clone())));
    let open = rig.service.ask(|core, _| core.state().open.clone()).await.expect("answered");
    assert!(open.contains(&runs[0]) && !open.contains(&runs[1]), "{open:?}");
}
