//! Streams over restarts: what is recorded is told once, and what is not can be heard of again.

use std::collections::BTreeSet;

use lintmesh::proto::v1::run_event::Event;

use super::*;

const RESTARTS: usize = 10;
const SHARDS: usize = 40;

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
    let (mut accepted, mut attempts, mut found, mut lost) = (BTreeSet::new(), BTreeSet::new(), None, 0);
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
            Event::Fault(fault) => {
                // Given out by a coordinator that was killed before it said so to the node.
                assert_eq!(fault.cause, "ATTEMPT_LOST", "{fault:?}");
                lost += 1;
            }
            _ => {}
        }
    }
    assert_eq!(accepted.len(), 2 + 2 * SHARDS);
    assert_eq!(attempts.len(), accepted.len() + lost, "what a node has it is not given again");
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
    let (after, flags) = (impatient.newest(), connection.flags());
    let how = format!("`lintmesh watch {run_id} --after {after} {flags}`");
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
