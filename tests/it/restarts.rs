//! What clients see of restarts of the coordinator: every recorded event once, the same answers, no run twice.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lintmesh::cli::connect::{Connection, connect};
use lintmesh::cli::follow::{FollowError, Manner, Start, Watcher, follow};
use lintmesh::cli::interrupt::Interrupt;
use lintmesh::cli::run_view::RunView;
use lintmesh::proto::v1::run_event::Event;
use lintmesh::proto::v1::*;
use tokio::task::JoinHandle;
use tonic::Code;

use super::support::calls::*;
use super::support::coordinator::Coordinator;
use super::support::played_nodes::PlayedNodes;
use super::support::serve::{DEADLINE, until};

const RESTARTS: usize = 10;
const SHARDS: usize = 40;
/// Runs that are followed with a patience that no test exhausts.
const PATIENT: Manner = Manner { cancel: false, patience: DEADLINE };

/// Writes down what it is told.
#[derive(Clone, Default)]
struct Told {
    events: Arc<Mutex<Vec<RunEvent>>>,
    notices: Arc<Mutex<Vec<String>>>,
}

impl Watcher for Told {
    fn event(&mut self, event: &RunEvent, _: &RunView) {
        self.events.lock().unwrap().push(event.clone());
    }

    fn notice(&mut self, text: &str) {
        self.notices.lock().unwrap().push(text.to_owned());
    }
}

impl Told {
    fn recorded(&self) -> Vec<RunEvent> {
        recorded(&self.events.lock().unwrap())
    }

    fn newest(&self) -> u64 {
        self.recorded().last().map_or(0, |event| event.sequence)
    }

    fn noticed(&self, text: &str) -> usize {
        self.notices.lock().unwrap().iter().filter(|notice| notice.contains(text)).count()
    }

    fn all(&self) -> String {
        self.notices.lock().unwrap().join("\n")
    }
}

type Following = JoinHandle<Result<RunFinished, FollowError>>;

/// Follows as the commands do.
fn following(
    connection: &Connection,
    start: Start,
    interrupt: &Interrupt,
    manner: Manner,
) -> (Told, Following) {
    let told = Told::default();
    let (connection, interrupt, mut watcher) = (connection.clone(), interrupt.clone(), told.clone());
    let following = tokio::spawn(async move {
        let mut view = RunView::default();
        follow(&connection, start, manner, &interrupt, &mut watcher, &mut view).await
    });
    (told, following)
}

async fn ended(following: Following) -> RunFinished {
    let ended = tokio::time::timeout(DEADLINE, following).await.expect("it ends").expect("no panic");
    ended.expect("to the end of the run")
}

fn asked(request_id: &str) -> CoordinateRequest {
    CoordinateRequest {
        request_id: request_id.to_owned(),
        project: "ledger".to_owned(),
        ..request(inline(&[("a.py", "import os\n")]), &["ruff"])
    }
}

/// Starts a run as soon as there are nodes to take it.
async fn begun(coordinator: &Coordinator, request: CoordinateRequest) -> String {
    let wait = prost_types::Duration { seconds: 50, nanos: 0 };
    let mesh = InitializeMeshRequest { wait: Some(wait), ..Default::default() };
    coordinator.client().initialize_mesh(mesh).await.expect("answers");
    started(&mut coordinator.client(), request).await
}

fn watch(run_id: &str, after_sequence: u64) -> Start {
    Start::Existing(WatchRunRequest { run_id: run_id.to_owned(), after_sequence })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watching_client_sees_each_recorded_event_once_over_ten_restarts() {
    let mut coordinator = Coordinator::start("").await;
    let nodes = PlayedNodes::at(&coordinator, SHARDS);
    let run_id = begun(&coordinator, asked("once")).await;
    let (connection, interrupt) =
        (connect(&coordinator.url(), None, None).await.expect("it listens"), Interrupt::default());
    let (watcher, watching) = following(&connection, watch(&run_id, 0), &interrupt, PATIENT);
    // Attaches to the run that the request started, and is told its end like any other.
    let again = Start::New(Box::new(asked("once")));
    let (attached, attaching) = following(&connection, again, &interrupt, PATIENT);
    nodes.permits.add_permits(1);
    for restart in 0..RESTARTS {
        let before = watcher.newest();
        // About two events for each of the tasks, of which 82 are to be done.
        nodes.permits.add_permits(6);
        until("the run goes on", || watcher.newest() > before + 6).await;
        // While tasks end: some of what the nodes say is stored and not told, some is not even stored.
        nodes.permits.add_permits(1);
        if restart % 2 == 0 {
            coordinator.kill();
        } else {
            coordinator.stop().await;
        }
        until("the break is told", || watcher.noticed("connection to the server broke") > restart).await;
        coordinator.begin().await;
        until("the return is told", || watcher.noticed("connected again after") > restart).await;
    }
    nodes.permits.add_permits(1000);
    let (first, second) = (ended(watching).await, ended(attaching).await);
    assert_eq!((first.outcome(), &first), (Outcome::Findings, &second));

    let numbers: Vec<u64> = watcher.recorded().iter().map(|event| event.sequence).collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>(), "each once, in order, without a gap");
    assert!(numbers.len() > 160, "{}", numbers.len());
    assert_eq!(watcher.recorded(), attached.recorded());
    let whole = watched(&mut coordinator.client(), &run_id, 0).await;
    assert_eq!(watcher.recorded(), recorded(&whole), "what was told is what is recorded");
    assert_eq!(
        watcher.noticed("the coordinator was restarted; connected again"),
        RESTARTS,
        "{}",
        watcher.all()
    );
    assert_eq!(watcher.noticed("going on after event"), RESTARTS, "{}", watcher.all());

    // Each task is accepted once, in an attempt of its own, and what it found came right before that.
    let (mut accepted, mut attempts, mut found) = (BTreeSet::new(), BTreeSet::new(), None);
    for event in watcher.events.lock().unwrap().iter() {
        match event.event.as_ref().expect("an event") {
            Event::TaskAssigned(assigned) => assert!(attempts.insert(assigned.attempt.clone())),
            Event::Diagnostics(batch) => found = batch.task.clone(),
            Event::TaskAccepted(done) => {
                let task = done.task.clone().expect("a task");
                if task.stage() == Stage::Classify {
                    assert_eq!(found.as_ref(), Some(&task), "its diagnostics");
                }
                assert!(accepted.insert(task.task_id), "accepted once: {task:?}");
            }
            _ => {}
        }
    }
    assert_eq!(accepted.len(), 2 + 2 * SHARDS);
    assert_eq!(attempts.len(), accepted.len(), "nothing was given out twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_id_holds_over_restarts_and_runs_are_told_as_before() {
    let mut coordinator = Coordinator::start("").await;
    let nodes = PlayedNodes::at(&coordinator, 3);
    let open = begun(&coordinator, asked("open")).await;
    nodes.permits.add_permits(3);
    let state = async |coordinator: &Coordinator, run_id: &str| {
        let get = GetRunRequest { run_id: run_id.to_owned() };
        coordinator.client().get_run(get).await.expect("known").into_inner().run.expect("a run")
    };
    let cancelled =
        begun(&coordinator, CoordinateRequest { project: "other".into(), ..asked("cancelled") }).await;
    coordinator.client().cancel_run(CancelRunRequest { run_id: cancelled.clone() }).await.expect("cancelled");
    let explained = async |coordinator: &Coordinator, run_id: &str| {
        let ask = ExplainTaskRequest { run_id: run_id.to_owned(), ..Default::default() };
        coordinator.client().explain_task(ask).await.expect("known").into_inner()
    };
    // PLAN, and two LINT tasks of three; all else waits for the test.
    let settled = async {
        loop {
            let run = state(&coordinator, &open).await;
            if run
                .progress
                .as_ref()
                .is_some_and(|so_far| so_far.tools.get("ruff").is_some_and(|ruff| ruff.done == 2))
            {
                return run;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, settled).await.expect("three tasks are done");
    let quiet = async |coordinator: &Coordinator| {
        let (mut last, mut same) = (0, 0);
        while same < 20 {
            let newest = state(coordinator, &open).await.last_sequence;
            same = if newest == last { same + 1 } else { 0 };
            last = newest;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    quiet(&coordinator).await;
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

/// The ids of the runs that fit, by pages of one.
async fn list(coordinator: &Coordinator, filter: ListRunsRequest) -> Vec<String> {
    let (mut ids, mut page_token) = (Vec::new(), String::new());
    loop {
        let asked = ListRunsRequest { page_size: 1, page_token, ..filter.clone() };
        let page = coordinator.client().list_runs(asked).await.expect("a page").into_inner();
        ids.extend(page.runs.into_iter().map(|run| run.run_id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return ids;
        }
    }
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_whose_server_stays_away_can_be_interrupted_and_gives_up_in_time() {
    let mut coordinator = Coordinator::start("").await;
    let _nodes = PlayedNodes::at(&coordinator, 1);
    let run_id = begun(&coordinator, asked("lost")).await;
    let connection = connect(&coordinator.url(), None, None).await.expect("it listens");
    let (interrupt, never) = (Interrupt::default(), Interrupt::default());
    let (patient, waiting) = following(&connection, watch(&run_id, 0), &interrupt, PATIENT);
    let hasty = Manner { cancel: false, patience: Duration::from_millis(300) };
    let (impatient, giving_up) = following(&connection, watch(&run_id, 0), &never, hasty);
    until("both have events", || patient.newest() > 0 && impatient.newest() > 0).await;
    coordinator.kill();
    let given_up = tokio::time::timeout(DEADLINE, giving_up).await.expect("in time").expect("no panic");
    assert!(matches!(given_up, Err(FollowError::Refused { .. })), "{given_up:?}");
    let how = format!("`lintmesh watch {run_id} --after {}`", impatient.newest());
    assert_eq!(impatient.noticed(&how), 1, "{}", impatient.all());
    until("the break is told", || patient.noticed("connection to the server broke") == 1).await;
    interrupt.raise(2);
    let interrupted = tokio::time::timeout(DEADLINE, waiting).await.expect("at once").expect("no panic");
    assert!(matches!(interrupted, Err(FollowError::Interrupted)), "{interrupted:?}");
    assert_eq!(patient.noticed("connected again"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_is_told_on_after_a_restart_with_later_revisions() {
    let mut coordinator = Coordinator::start("").await;
    let _nodes = PlayedNodes::at(&coordinator, 1);
    begun(&coordinator, asked("some")).await;
    let mut after_revision = 0;
    for _ in 0..3 {
        let asked = StreamHealthRequest { after_revision, ..Default::default() };
        let mut reports = coordinator.client().stream_health(asked).await.expect("a stream").into_inner();
        let told = tokio::time::timeout(DEADLINE, reports.message()).await.expect("at once, for it is news");
        let health = told.expect("no error").expect("a report").health.expect("told");
        assert!(health.revision > after_revision, "{} after {after_revision}", health.revision);
        after_revision = health.revision;
        coordinator.kill();
        let broken = tokio::time::timeout(DEADLINE, async {
            loop {
                match reports.message().await {
                    Ok(Some(told)) => after_revision = told.health.expect("told").revision,
                    ended => return ended,
                }
            }
        });
        assert!(broken.await.expect("it ends").is_err(), "the stream breaks");
        coordinator.begin().await;
    }
}
