//! What is asked of runs is answered after a restart as before.

use lintmesh::coordinator::run::TaskState;
use lintmesh::types::RunId;

use super::*;

/// Waits until so many tasks of a run are done, and nodes have all others that there are so far.
async fn until_worked_off(coordinator: &Coordinator, run: &str, wanted: usize) {
    let (engine, id) = (coordinator.engine(), RunId::new(run).expect("valid"));
    let worked_off = async {
        let mut revision = engine.revision();
        loop {
            let id = id.clone();
            let tasks =
                engine.query(move |core, _| core.state().runs[&id].tasks.clone()).await.expect("runs");
            let done = tasks.iter().filter(|task| task.output().is_some()).count();
            assert!(done <= wanted, "no more was allowed");
            let rest = tasks.iter().filter(|task| matches!(task.state, TaskState::Running { .. })).count();
            if done == wanted && rest > 0 && done + rest == tasks.len() {
                return;
            }
            revision.changed().await.expect("runs");
        }
    };
    tokio::time::timeout(DEADLINE, worked_off).await.expect("in time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_id_holds_over_restarts_and_runs_are_told_as_before() {
    let mut coordinator = Coordinator::start("").await;
    let nodes = PlayedNodes::at(&coordinator, 3);
    let open = begun(&coordinator, asked("open")).await;
    let state = async |coordinator: &Coordinator, run_id: &str| {
        let get = GetRunRequest { run_id: run_id.to_owned() };
        coordinator.client().get_run(get).await.expect("known").into_inner().run.expect("a run")
    };
    let cancelled =
        begun(&coordinator, CoordinateRequest { project: "other".into(), ..asked("cancelled") }).await;
    coordinator.client().cancel_run(CancelRunRequest { run_id: cancelled.clone() }).await.expect("cancelled");
    nodes.permits.add_permits(3);
    let explained = async |coordinator: &Coordinator, run_id: &str| {
        let ask = ExplainTaskRequest { run_id: run_id.to_owned(), ..Default::default() };
        coordinator.client().explain_task(ask).await.expect("known").into_inner()
    };
    // PLAN and two more; all that follows from them is with nodes, and waits for the test.
    until_worked_off(&coordinator, &open, 3).await;
    let before = (state(&coordinator, &open).await, explained(&coordinator, &open).await);
    let ended_before = state(&coordinator, &cancelled).await;
    assert_eq!((ended_before.outcome(), ended_before.detail.is_empty()), (Outcome::Cancelled, false));

    coordinator.kill();
    coordinator.begin().await;
    // Before any node is back: it is stored.
    assert_eq!(started(&mut coordinator.client(), asked("open")).await, open, "attached");
    let attached = coordinator.client().coordinate(asked("open")).await.expect("attached").into_inner();
    drop(attached);
    assert_eq!(state(&coordinator, &cancelled).await, ended_before);
    for request_id in ["open", "cancelled"] {
        let other = CoordinateRequest { priority: 3, ..asked(request_id) };
        let refused = coordinator.client().start_run(start(other)).await.expect_err("another body");
        assert_error(&refused, Code::InvalidArgument, "REQUEST_ID_REUSED");
    }

    begun(&coordinator, asked("open")).await;
    let after = (state(&coordinator, &open).await, explained(&coordinator, &open).await);
    let tasks = |told: &ExplainTaskResponse| -> Vec<_> {
        let tasks = told.tasks.iter();
        tasks
            .map(|task| (task.task.clone(), task.position, task.counted_attempts, task.attempts.len()))
            .collect()
    };
    assert_eq!(tasks(&after.1), tasks(&before.1));
    assert_eq!(after.1.pending_stages, before.1.pending_stages);
    let counts = |run: &Run| {
        let so_far = run.progress.clone().expect("told");
        (so_far.tools, so_far.waiting_tasks + so_far.running_tasks, run.start_time, run.last_sequence)
    };
    assert_eq!(counts(&after.0), counts(&before.0));
    nodes.permits.add_permits(100);
    let events = watched(&mut coordinator.client(), &open, before.0.last_sequence).await;
    assert_eq!(finished(&events).outcome(), Outcome::Findings);
    let report = async |coordinator: &Coordinator| {
        report(&mut coordinator.client(), &open, ReportFormat::Result).await.expect("a report")
    };
    let reported = report(&coordinator).await;
    let (ended, listed) = (state(&coordinator, &open).await, list(&coordinator, Default::default()).await);
    coordinator.stop().await;
    coordinator.begin().await;
    assert_eq!(report(&coordinator).await, reported);
    let unlinked = |mut run: Run| {
        run.progress = None;
        run
    };
    assert_eq!(unlinked(state(&coordinator, &open).await), unlinked(ended));
    assert_eq!(list(&coordinator, Default::default()).await, listed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_are_listed_by_the_time_of_their_start_over_a_restart() {
    let mut coordinator = Coordinator::start("").await;
    let _nodes = PlayedNodes::at(&coordinator, 1);
    let mut runs: Vec<(String, prost_types::Timestamp)> = Vec::new();
    for number in 0..4 {
        if number == 2 {
            coordinator.kill();
            coordinator.begin().await;
        }
        let run_id = begun(&coordinator, asked(&format!("r{number}"))).await;
        let get = GetRunRequest { run_id: run_id.clone() };
        let run = coordinator.client().get_run(get).await.expect("known").into_inner().run.expect("a run");
        runs.push((run_id, run.start_time.expect("told")));
        // The next one starts in a later millisecond.
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    let newest_first = |numbers: &[usize]| numbers.iter().map(|at| runs[*at].0.clone()).collect::<Vec<_>>();
    let between = |since: Option<usize>, until: Option<usize>| ListRunsRequest {
        started_after: since.map(|at| runs[at].1),
        started_before: until.map(|at| runs[at].1),
        ..Default::default()
    };
    for (since, until, expected) in [
        (None, None, &[3, 2, 1, 0][..]),
        (Some(1), None, &[3, 2, 1]),
        (None, Some(2), &[1, 0]),
        (Some(1), Some(3), &[2, 1]),
        (Some(3), None, &[3]),
        (None, Some(0), &[]),
    ] {
        let listed = list(&coordinator, between(since, until)).await;
        assert_eq!(listed, newest_first(expected), "{since:?} to {until:?}");
    }
    let open =
        ListRunsRequest { state: RunState::Open.into(), project: "ledger".into(), ..between(Some(2), None) };
    assert_eq!(list(&coordinator, open).await, newest_first(&[3, 2]));
    let none = ListRunsRequest { project: "other".into(), ..between(Some(2), None) };
    assert_eq!(list(&coordinator, none).await, newest_first(&[]));
    let time = |seconds, nanos| Some(prost_types::Timestamp { seconds, nanos });
    for (started_after, started_before, field) in [
        (time(5, 1_000_000_000), None, "started_after"),
        (None, time(253_402_300_800, 0), "started_before"),
        (time(5, -1), None, "started_after"),
        (time(5, 0), time(5, 0), "started_before"),
    ] {
        let asked = ListRunsRequest { started_after, started_before, ..Default::default() };
        let refused = coordinator.client().list_runs(asked).await.expect_err("no such time");
        assert_eq!(bad_fields(&refused), [field]);
    }
}
