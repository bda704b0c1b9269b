//! Events that are not kept any more: clients are told so, and how to go on.

use lintmesh::coordinator::event::Event as Fact;
use lintmesh::coordinator::state::State;
use lintmesh::engine::codec::{self, Kept};
use lintmesh::proto::v1::run_event::Event;
use lintmesh::store::Store as _;
use lintmesh::types::{Epoch, RunId};
use tonic_types::StatusExt as _;

use super::*;

/// Replaces what is stored by what a snapshot holds of runs whose events were given up, all but the newest of the open
/// ones.
async fn give_up_events(coordinator: &Coordinator, newest: usize) {
    let mut store = coordinator.store().await;
    let epoch = store.open_epoch().expect("owned");
    let loaded = store.load().expect("readable");
    assert!(loaded.snapshot.is_empty(), "so few records are not worth a snapshot");
    let facts: Vec<Fact> = loaded.log.iter().map(|record| codec::decode(record).expect("readable")).collect();
    let mut state = State::new(Epoch(1));
    facts.iter().for_each(|fact| state.apply(fact));
    let mut kept: Vec<Kept> = state.parts().map(Kept::State).collect();
    for fact in facts {
        let Fact::Run { run, sequence, at, event } = fact else { continue };
        let now = &state.runs[&run];
        if now.is_open() && sequence + newest as u64 > now.sequence {
            kept.push(Kept::Event { run, sequence, at, event });
        }
    }
    let records: Vec<_> = kept.iter().map(|kept| codec::encode_kept(kept).expect("plain data")).collect();
    store.snapshot(epoch, loaded.position, &records).expect("stored");
}

/// Asks for events that are gone; answers the oldest that is kept.
async fn refused(coordinator: &Coordinator, run_id: &str, after_sequence: u64, newest: u64) -> u64 {
    let asked = WatchRunRequest { run_id: run_id.to_owned(), after_sequence };
    let refused = coordinator.client().watch_run(asked).await.expect_err("gone");
    assert_error(&refused, Code::OutOfRange, "POSITION_EXPIRED");
    let details = refused.get_error_details();
    let told = &details.error_info().expect("info").metadata;
    assert_eq!((told["run_id"].as_str(), told["newest_sequence"].parse()), (run_id, Ok(newest)));
    let oldest: u64 = told["oldest_sequence"].parse().expect("a number");
    for remedy in [format!("after {}", oldest - 1), "GetRun".to_owned(), "DownloadReport".to_owned()] {
        assert!(refused.message().contains(&remedy), "{remedy}: {}", refused.message());
    }
    oldest
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_position_that_is_gone_is_told_with_the_oldest_one_kept() {
    let mut coordinator = Coordinator::start("").await;
    let nodes = PlayedNodes::at(&coordinator, 5);
    let ended_run = begun(&coordinator, asked("ended")).await;
    nodes.permits.add_permits(100);
    let before = recorded(&watched(&mut coordinator.client(), &ended_run, 0).await);
    let end = before.len() as u64;
    nodes.permits.forget_permits(1000);
    let open_run = begun(&coordinator, asked("open")).await;
    nodes.permits.add_permits(3);
    until("three tasks are done", || nodes.permits.available_permits() == 0).await;
    coordinator.stop().await;
    give_up_events(&coordinator, 4).await;
    coordinator.begin().await;

    for after in [0, 1, end - 1] {
        assert_eq!(refused(&coordinator, &ended_run, after, end).await, end + 1, "nothing is kept");
    }
    let mut client = coordinator.client();
    let rest = watched(&mut client, &ended_run, end);
    let rest = tokio::time::timeout(DEADLINE, rest).await.expect("it ends at once");
    assert_eq!(recorded(&rest), []);
    let beyond = WatchRunRequest { run_id: ended_run.clone(), after_sequence: end + 1 };
    let beyond = coordinator.client().watch_run(beyond).await.expect_err("there never was one");
    assert_error(&beyond, Code::OutOfRange, "SEQUENCE_NOT_REACHED");
    let attached = coordinator.client().coordinate(asked("ended")).await.expect_err("from the start");
    assert_error(&attached, Code::OutOfRange, "POSITION_EXPIRED");
    assert_eq!(attached.get_error_details().error_info().expect("info").metadata["run_id"], ended_run);
    let get = GetRunRequest { run_id: ended_run.clone() };
    let run = coordinator.client().get_run(get).await.expect("known").into_inner().run.expect("a run");
    assert_eq!((run.outcome(), run.last_sequence), (Outcome::Findings, end));
    assert!(report(&mut coordinator.client(), &ended_run, ReportFormat::Result).await.is_ok());

    // The commands say so and go on with what there is: of a run that has ended, its end.
    let connection = connect(&coordinator.url(), None, None).await.expect("it listens");
    let never = Interrupt::default();
    for start in [watch(&ended_run, 2), Start::New(Box::new(asked("ended")))] {
        let (told, following) = following(&connection, start, &never, PATIENT);
        assert_eq!(ended(following).await.outcome(), Outcome::Findings);
        assert_eq!(told.noticed(&format!("does not keep the run's events up to {end} any more")), 1);
        assert_eq!(told.recorded(), before[before.len() - 1..], "{}", told.all());
    }
    let (told, at_end) = following(&connection, watch(&ended_run, end), &never, PATIENT);
    assert_eq!((ended(at_end).await.outcome(), told.recorded()), (Outcome::Findings, Vec::new()));

    let run_id = RunId::new(&open_run).expect("valid");
    let newest = coordinator.engine().logs().get(&run_id).expect("remembered").newest();
    let oldest = refused(&coordinator, &open_run, 0, newest).await;
    assert!(oldest > 1 && oldest <= newest, "{oldest} of {newest}");
    let (told, following) = following(&connection, watch(&open_run, 0), &never, PATIENT);
    nodes.permits.add_permits(100);
    assert_eq!(ended(following).await.outcome(), Outcome::Findings);
    let events = told.recorded();
    let numbers: Vec<u64> = events.iter().map(|event| event.sequence).collect();
    let all = oldest..=events.last().expect("some").sequence;
    assert_eq!(numbers, all.collect::<Vec<_>>(), "from the oldest one kept to the end");
    assert!(matches!(events.last().and_then(|event| event.event.clone()), Some(Event::Finished(_))));
}
