use super::*;
use crate::coordinator::event::{Event, FinishedResult, RunEvent};
use crate::server::needed::tests::{ended, finished, order, output, started};
use crate::types::Epoch;
use crate::workspace::blobs::BlobLimits;

fn id(name: &str) -> RunId {
    RunId::new(name).expect("valid")
}

fn owner(name: &str) -> Owner {
    (Callers::Clients, Caller::Token(name.into()))
}

#[tokio::test(start_paused = true)]
async fn promises_end_by_time_and_nobodys_are_broken_for_those_of_others() {
    let dir = tempfile::tempdir().expect("a folder");
    let limits = BlobLimits { max_blob_bytes: 100, max_total_bytes: 100 };
    let blobs = BlobStore::open(dir.path(), limits).expect("opens");
    let now = Instant::now();
    let promise = |blobs_in_it, seconds| {
        let until = now + Duration::from_secs(seconds);
        Promise { until, blobs: blobs_in_it, _pin: blobs.pin([]) }
    };
    let mut held = Inner::default();
    held.add(owner("a"), promise(200_000, 1), now).expect("room");
    held.add(owner("a"), promise(300_000, 2), now).expect("room");
    held.add(owner("b"), promise(300_000, 3), now).expect("room");
    let of = |held: &Inner, name| held.promises.get(&owner(name)).map_or(0, |of_one| of_one.blobs);
    assert_eq!((of(&held, "a"), of(&held, "b"), held.promised), (500_000, 300_000, 800_000));
    // One more than a caller may have: its own oldest goes.
    held.add(owner("a"), promise(1, 4), now).expect("room");
    assert_eq!((of(&held, "a"), of(&held, "b"), held.promised), (300_001, 300_000, 600_001));
    // The nodes of an address are not its clients.
    let node = (Callers::Nodes, owner("a").1);
    held.add(node, promise(1, 4), now).expect("room");
    assert_eq!((of(&held, "a"), held.promised), (300_001, 600_002));
    for name in ["c", "d", "e"] {
        held.add(owner(name), promise(450_000, 5), now).expect("room");
    }
    let refused = held.add(owner("f"), promise(50_000, 6), now).expect_err("all together have too many");
    assert_eq!(refused.reason(), "LIMIT_REACHED");
    assert_eq!((of(&held, "a"), of(&held, "f"), held.promised), (300_001, 0, 1_950_002));
    held.add(owner("f"), promise(50_000, 6), now + Duration::from_secs(2)).expect("a promise is over");
    assert_eq!((of(&held, "a"), of(&held, "b"), of(&held, "f")), (1, 300_000, 50_000));
    held.expire(now + Duration::from_secs(6));
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
