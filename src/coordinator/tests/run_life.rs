//! Runs start, end, time out, are cancelled and forgotten.

use super::mesh::*;
use crate::coordinator::decision::{Refusal, Reply};
use crate::coordinator::event::RunEvent;
use crate::coordinator::input::{Facts, Input};
use crate::coordinator::settings::Settings;
use crate::types::{Digest, Outcome, RunId, Stage};

#[test]
fn a_run_goes_through_its_stages_and_ends_with_its_result() {
    let mut mesh = TestMesh::full();
    let run = mesh.planned(&["mypy", "ruff"], 3);
    mesh.drain();
    let count = |stage| mesh.tasks(&run, stage).len();
    assert_eq!(Stage::ALL.map(count), [1, 6, 6, 1]);
    let ending = mesh.run(&run).ending.clone().expect("ended");
    assert_eq!((ending.outcome, ending.result.is_some()), (Outcome::Clean, true));
    let log = mesh.log(&run);
    assert_eq!(mesh.run(&run).sequence, log.len() as u64, "events are numbered without gaps");
    assert!(matches!(log.first(), Some(RunEvent::Started { .. })));
    assert!(matches!(log.last(), Some(RunEvent::Finished { .. })));
}

#[test]
fn a_run_remembers_what_the_nodes_were_that_did_its_tasks() {
    let mut mesh = TestMesh::full();
    let run = mesh.planned(&["mypy", "ruff"], 3);
    mesh.drain();
    let worked: std::collections::BTreeMap<_, _> = mesh
        .log(&run)
        .iter()
        .filter_map(|event| match event {
            RunEvent::TaskAccepted { node, .. } => {
                Some((node.clone(), mesh.core.state().members[node].spec.agent_type.clone()))
            }
            _ => None,
        })
        .collect();
    let origins = &mesh.run(&run).origins;
    let agents: std::collections::BTreeMap<_, _> =
        origins.iter().map(|(node, origin)| (node.clone(), origin.agent_type.clone())).collect();
    assert!(worked.len() > 1);
    assert_eq!(agents, worked);
    for origin in origins.values() {
        assert_eq!(
            (origin.toolchain_id.as_str(), origin.environment_class.as_str()),
            ("toolchain", "cpython-3.11")
        );
    }
    let log = mesh.log(&run);
    let told = log.iter().filter(|event| matches!(event, RunEvent::TaskAccepted { origin: Some(_), .. }));
    assert_eq!(told.count(), worked.len(), "once for each");
}

#[test]
fn each_task_is_told_what_it_reads() {
    let mut mesh = TestMesh::full();
    let run = mesh.start(&["mypy", "ruff"]);
    let plan = mesh.running_of(&run, Stage::Plan).pop().expect("PLAN runs");
    assert_eq!((plan.plan, plan.outputs.len()), (None, 0));
    mesh.plan_done(&run, 2);
    let planned = Some(blob(&plan.attempt.to_string()).digest);
    let mut classified = Vec::new();
    while let Some(assign) = mesh.running().pop() {
        assert_eq!(assign.plan, planned);
        let lint_of = |assign: &crate::coordinator::message::Assign| {
            let same = |task: &&&crate::coordinator::run::Task| {
                task.task.tool == assign.task.tool && task.task.shard == assign.task.shard
            };
            mesh.tasks(&run, Stage::Lint).iter().find(same).and_then(|task| task.output()).map(|it| it.digest)
        };
        match assign.task.stage {
            Stage::Lint => assert_eq!(assign.outputs, []),
            Stage::Classify => {
                assert_eq!(Some(assign.outputs.clone()), lint_of(&assign).map(|digest| vec![digest]));
                classified.push(blob(&assign.attempt.to_string()).digest);
            }
            Stage::Aggregate => {
                let (mut read, mut made) = (assign.outputs.clone(), classified.clone());
                read.sort();
                made.sort();
                assert_eq!((read.len(), read), (4, made));
            }
            Stage::Plan => panic!("PLAN is done"),
        }
        mesh.finish(&assign);
    }
    assert_eq!(mesh.outcome(&run), Some(Outcome::Clean));
}

#[test]
fn a_run_without_lint_tasks_still_ends() {
    let mut mesh = TestMesh::full();
    let run = mesh.planned(&["ruff"], 0);
    mesh.drain();
    assert_eq!(mesh.outcome(&run), Some(Outcome::Clean));
}

#[test]
fn the_same_request_gives_the_same_run() {
    let mut mesh = TestMesh::full();
    let request = || {
        let mut order = order(&["ruff"]);
        order.request_id = "once".into();
        order
    };
    let first = mesh.start_order(request());
    assert_eq!(mesh.start_order(request()), first);
    mesh.drain();
    assert_eq!(mesh.start_order(request()), first, "also after it ended");
    let mut changed = request();
    changed.body = Digest::of(b"another");
    assert_eq!(refusal(mesh.start_order(changed)), Refusal::IdReused("once".into()));
    let mut elsewhere = request();
    elsewhere.caller = "somebody else".into();
    assert_ne!(mesh.start_order(elsewhere), first, "ids belong to their callers");
    assert_eq!(mesh.core.state().runs.len(), 2);
}

#[test]
fn a_run_id_that_exists_is_not_started_again() {
    let mut mesh = TestMesh::full();
    let run = mesh.planned(&["ruff"], 1);
    let again = Input::StartRun { run: run.clone(), order: Box::new(order(&["mypy"])) };
    assert_eq!(refusal(mesh.input(again)), Refusal::IdReused(run.to_string()));
    mesh.drain();
    assert_eq!(mesh.outcome(&run), Some(Outcome::Clean));
}

#[test]
fn too_many_open_runs_are_refused_until_one_ends() {
    let mut mesh = TestMesh::with(Settings { max_open_runs: 2, ..Settings::default() });
    let first = mesh.start(&["ruff"]);
    mesh.start(&["ruff"]);
    assert_eq!(refusal(mesh.start_order(order(&["ruff"]))), Refusal::TooManyRuns(2));
    mesh.input(Input::CancelRun { run: first, reason: "enough".into() });
    mesh.start(&["ruff"]);
}

#[test]
fn cancel_revokes_what_runs_and_drops_what_comes_after() {
    let mut mesh = TestMesh::full();
    let run = mesh.planned(&["mypy", "ruff"], 2);
    let running = mesh.running();
    assert_eq!(running.len(), 2);
    let cancel = || Input::CancelRun { run: run.clone(), reason: "the user pressed Ctrl-C".into() };
    assert_eq!(mesh.input(cancel()), Reply::Run(run.clone()));
    assert_eq!(mesh.revoked(), [&running[0].attempt, &running[1].attempt]);
    let ending = mesh.run(&run).ending.clone().expect("ended");
    assert_eq!((ending.outcome, ending.detail.as_str()), (Outcome::Cancelled, "the user pressed Ctrl-C"));
    let sequence = mesh.run(&run).sequence;
    assert_eq!(mesh.input(cancel()), Reply::Run(run.clone()), "twice is once");
    mesh.ended_by(
        BACKEND,
        &running[0],
        crate::coordinator::input::Ending::Made { output: blob("late"), facts: Facts::Lint { error: None } },
    );
    assert_eq!((mesh.run(&run).sequence, mesh.core.stale_results()), (sequence, 1));
    let unknown = RunId::new("unknown").expect("valid");
    let reply = mesh.input(Input::CancelRun { run: unknown.clone(), reason: String::new() });
    assert_eq!(refusal(reply), Refusal::UnknownRun(unknown));
}

#[test]
fn a_run_past_its_timeout_is_cancelled_at_the_moment_asked_for() {
    let mut mesh = TestMesh::full();
    let mut short = order(&["ruff"]);
    short.timeout = seconds(3);
    let Reply::Run(run) = mesh.start_order(short) else { panic!("started") };
    mesh.plan_done(&run, 1);
    let lint = mesh.running().pop().expect("LINT runs");
    mesh.pass_with(&ALL, seconds(3) - std::time::Duration::from_micros(1));
    assert!(mesh.run(&run).is_open());
    assert_eq!(mesh.wake_at, Some(mesh.now + std::time::Duration::from_micros(1)));
    mesh.effects.clear();
    mesh.pass(std::time::Duration::from_micros(1));
    let ending = mesh.run(&run).ending.clone().expect("ended");
    assert_eq!(ending.outcome, Outcome::Cancelled);
    assert_eq!(ending.detail, "the run took longer than its timeout of 3 s");
    assert_eq!(mesh.revoked(), [&lint.attempt]);
}

#[test]
fn old_runs_are_forgotten_with_their_request_ids_but_open_ones_never() {
    let mut mesh = TestMesh::with(Settings { kept_runs: 2, ..Settings::default() });
    let open = mesh.start(&["ruff"]);
    let mut ended = Vec::new();
    for number in 0..5 {
        let mut order = order(&["ruff"]);
        order.request_id = format!("request-{number}");
        let Reply::Run(run) = mesh.start_order(order) else { panic!("started") };
        mesh.input(Input::CancelRun { run: run.clone(), reason: "done".into() });
        ended.push(run);
    }
    let state = mesh.core.state();
    assert!(state.runs.contains_key(&open));
    assert_eq!(
        ended.iter().map(|run| state.runs.contains_key(run)).collect::<Vec<_>>(),
        [false, false, true, true, true]
    );
    assert_eq!(state.requests.len(), 3);
    assert_eq!(state.order.len(), state.runs.len());
}
