use super::*;
use crate::coordinator::event::{Event, FinishedResult, RunEvent};
use crate::server::needed::tests::{ended, finished, order, output, started};
use crate::types::Epoch;
use crate::workspace::blobs::BlobLimits;

fn id(name: &str) -> RunId {
    RunId::new(name).expect("valid")
}

#[tokio::test(start_paused = true)]
async fn promises_end_by_time_and_the_oldest_are_broken_for_room() {
    let dir = tempfile::tempdir().expect("a folder");
    let limits = BlobLimits { max_blob_bytes: 100, max_total_bytes: 100 };
    let blobs = BlobStore::open(dir.path(), limits).expect("opens");
    let mut held = Inner::default();
    let now = Instant::now();
    for (blobs_in_it, seconds) in [(400_000, 1), (600_000, 2)] {
        let until = now + Duration::from_secs(seconds);
        held.promises.push_back(Promise { until, blobs: blobs_in_it, _pin: blobs.pin([]) });
        held.promised += blobs_in_it;
    }
    held.make_room(0, now);
    assert_eq!((held.promises.len(), held.promised), (2, 1_000_000), "full, and nothing is over");
    held.make_room(1, now);
    assert_eq!((held.promises.len(), held.promised), (1, 600_000));
    held.make_room(0, now + Duration::from_secs(2));
    assert_eq!((held.promises.len(), held.promised), (0, 0));
}

#[test]
fn ended_runs_are_told_with_their_results_and_forgotten_ones_whenever_they_go() {
    let mut state = State::new(Epoch(1));
    for run in ["one", "two", "three"] {
        state.apply(&started(run, order(Digest::of(b"manifest"), Digest::of(b"spec"), None)));
    }
    let all: Vec<_> = ["one", "two", "three"].map(id).into();
    assert_eq!(changes(&state, all.clone(), 0), Changes::default(), "nothing has ended");

    let result: FinishedResult = finished(output(b"result"));
    state.apply(&ended("one", 2, Some(result)));
    state.apply(&ended("two", 2, None));
    let told = changes(&state, all, 0);
    let expected = [(id("one"), Some(Digest::of(b"result"))), (id("two"), None)];
    assert_eq!((told.ended, told.gone, told.kept), (expected.into(), Vec::new(), None));

    // Forgotten by age: no run has started since.
    state.apply(&Event::RunForgotten(id("one")));
    let told = changes(&state, vec![id("three")], 2);
    assert_eq!((told.ended.len(), told.kept), (0, Some(BTreeSet::from([id("two")]))));
    // Ended and forgotten between two looks.
    state.apply(&ended("three", 2, None));
    state.apply(&Event::RunForgotten(id("three")));
    let told = changes(&state, vec![id("three")], 1);
    assert_eq!((told.ended.len(), told.gone, told.kept), (0, vec![id("three")], None));
    assert!(matches!(ended("three", 2, None), Event::Run { event: RunEvent::Finished { .. }, .. }));
}
