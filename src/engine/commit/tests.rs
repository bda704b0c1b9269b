use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use super::*;
use crate::store::{Loaded, MemoryLog, MemoryStore};

/// What a call comes to.
enum Turn {
    /// It is refused, and nothing is done.
    Refused(StoreError),
    /// It is done, and nobody hears of it.
    DoneUnheard,
}

/// A store that answers as it is told to; the calls it saw.
struct Scripted {
    inner: MemoryStore,
    turns: VecDeque<Turn>,
    calls: Arc<Mutex<Vec<&'static str>>>,
}

impl Scripted {
    fn turn<T>(
        &mut self,
        name: &'static str,
        call: impl FnOnce(&mut MemoryStore) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.calls.lock().expect("no panic").push(name);
        match self.turns.pop_front() {
            None => call(&mut self.inner),
            Some(Turn::Refused(error)) => Err(error),
            Some(Turn::DoneUnheard) => {
                call(&mut self.inner)?;
                Err(unknown())
            }
        }
    }
}

impl Store for Scripted {
    fn open_epoch(&mut self) -> Result<Epoch, StoreError> {
        self.inner.open_epoch()
    }

    fn load(&mut self) -> Result<Loaded, StoreError> {
        self.inner.load()
    }

    fn append(&mut self, epoch: Epoch, expected: u64, batch: &[Record]) -> Result<(), StoreError> {
        self.turn("append", |inner| inner.append(epoch, expected, batch))
    }

    fn snapshot(&mut self, epoch: Epoch, position: u64, records: &[Record]) -> Result<(), StoreError> {
        self.turn("snapshot", |inner| inner.snapshot(epoch, position, records))
    }

    fn position(&mut self, epoch: Epoch) -> Result<u64, StoreError> {
        self.turn("position", |inner| inner.position(epoch))
    }

    fn blocks(&self) -> bool {
        false
    }
}

fn unknown() -> StoreError {
    StoreError::Unknown { reason: "no answer".into() }
}

fn full() -> StoreError {
    StoreError::Full { place: "here".into() }
}

fn away() -> StoreError {
    StoreError::Unavailable { reason: "away".into() }
}

struct Rig {
    committer: Committer<Scripted>,
    log: MemoryLog,
    calls: Arc<Mutex<Vec<&'static str>>>,
}

fn rig(turns: impl IntoIterator<Item = Turn>) -> Rig {
    let (log, calls) = (MemoryLog::default(), Arc::default());
    let mut inner = MemoryStore::over(log.clone());
    let epoch = inner.open_epoch().expect("opens");
    let store = Scripted { inner, turns: turns.into_iter().collect(), calls: Arc::clone(&calls) };
    Rig { committer: Committer::new(store, epoch, 0, 0), log, calls }
}

fn batch(bytes: &[u8]) -> Arc<[Record]> {
    bytes.iter().map(|byte| Record { version: 1, bytes: vec![*byte] }).collect()
}

impl Rig {
    /// Appends two records, then a third; answers whether the store was told to stall and to go on.
    async fn append_all(&mut self) -> Result<Vec<bool>, StoreError> {
        let mut stalls = Vec::new();
        self.committer.append(batch(&[1, 2]), |error| stalls.push(error.is_some())).await?;
        self.committer.append(batch(&[3]), |_| unreachable!("nothing is wrong any more")).await?;
        Ok(stalls)
    }

    fn stored(&self) -> Vec<u8> {
        let loaded = MemoryStore::over(self.log.clone()).load().expect("loads");
        loaded.snapshot.iter().chain(&loaded.log).flat_map(|record| record.bytes.clone()).collect()
    }

    fn calls(&self) -> Vec<&'static str> {
        std::mem::take(&mut *self.calls.lock().expect("no panic"))
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_the_store_answers_a_batch_is_stored_once() {
    let refused = Turn::Refused;
    for (turns, calls, stalls) in [
        (vec![], vec!["append", "append"], vec![]),
        (vec![refused(full())], vec!["append", "append", "append"], vec![true, false]),
        (vec![refused(away()), refused(full())], vec!["append"; 4], vec![true, true, false]),
        // Done, but nobody said so: it must not be repeated.
        (vec![Turn::DoneUnheard], vec!["append", "position", "append"], vec![true, false]),
        // Not done: it must be.
        (vec![refused(unknown())], vec!["append", "position", "append", "append"], vec![true, false]),
        (
            vec![Turn::DoneUnheard, refused(away()), refused(unknown())],
            vec!["append", "position", "position", "position", "append"],
            vec![true, true, true, false],
        ),
    ] {
        let mut rig = rig(turns);
        assert_eq!(rig.append_all().await.expect("settled"), stalls);
        assert_eq!((rig.stored(), rig.calls()), (vec![1, 2, 3], calls));
        let figures = rig.committer.counts().figures();
        assert_eq!((rig.committer.loose(), figures.records, figures.commits), (3, 3, 2));
        assert_eq!(figures.errors, stalls.iter().filter(|stalled| **stalled).count() as u64);
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_store_is_waited_for_and_one_that_is_away_for_half_a_minute() {
    let hours = (0..10_000).map(|_| Turn::Refused(full()));
    rig(hours).append_all().await.expect("waits for room");
    let began = Instant::now();
    let minutes = (0..1_000).map(|_| Turn::Refused(away()));
    let error = rig(minutes).append_all().await.expect_err("another coordinator may do better");
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    assert!((PATIENCE..PATIENCE + LONGEST_PAUSE * 2).contains(&began.elapsed()), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn while_it_is_full_a_store_loses_no_patience() {
    let calls = |error: fn() -> StoreError, many| (0..many).map(move |_| Turn::Refused(error()));
    // Half an hour without room, a hiccup, another half an hour, and all is well.
    let turns = calls(full, 1_000).chain(calls(away, 1)).chain(calls(unknown, 1)).chain(calls(full, 1_000));
    let mut waiting = rig(turns.chain(calls(away, 1)));
    waiting.append_all().await.expect("the hiccups are short");
    assert_eq!(waiting.stored(), [1, 2, 3]);
    let began = Instant::now();
    rig(calls(full, 1_000).chain(calls(away, 1_000)))
        .append_all()
        .await
        .expect_err("it is away for too long");
    assert!(began.elapsed() > PATIENCE * 10, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_store_that_keeps_nothing_is_given_no_snapshot() {
    let (mut counted, mut kept) = (MemoryStore::new(), MemoryStore::over(MemoryLog::default()));
    let epochs = [&mut counted, &mut kept].map(|store| store.open_epoch().expect("opens"));
    for (store, epoch, loose) in [(counted, epochs[0], 0), (kept, epochs[1], 2)] {
        let mut committer = Committer::new(store, epoch, 0, 0);
        committer.append(batch(&[1, 2]), |_| {}).await.expect("appends");
        assert_eq!(committer.loose(), loose);
    }
}

#[tokio::test(start_paused = true)]
async fn what_only_a_human_can_mend_stops_at_once() {
    let fenced = StoreError::Fenced { own: Epoch(1), current: Epoch(2) };
    let mut rig = rig([Turn::Refused(fenced)]);
    assert!(matches!(rig.append_all().await, Err(StoreError::Fenced { .. })));
    assert_eq!((rig.stored(), rig.calls()), (vec![], vec!["append"]));
}

#[tokio::test(start_paused = true)]
async fn a_log_that_others_wrote_to_is_not_gone_on_with() {
    let mut rig = rig([Turn::Refused(unknown())]);
    let mut other = MemoryStore::over(rig.log.clone());
    other.append(Epoch(1), 0, &batch(&[9])).expect("appends");
    assert!(matches!(rig.append_all().await, Err(StoreError::Gap { expected: 2, actual: 1 })));
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_that_cannot_be_taken_harms_nothing_and_is_tried_again_later() {
    let mut rig = rig([Turn::Refused(full())]);
    rig.committer.loose = 8;
    rig.committer.snapshot(batch(&[7])).await.expect("no harm");
    assert_eq!((rig.committer.loose(), rig.stored()), (4, vec![]));
    rig.append_all().await.expect("appends");
    rig.committer.snapshot(batch(&[7])).await.expect("taken");
    assert_eq!((rig.committer.loose(), rig.stored()), (0, vec![7]));
}

#[tokio::test(start_paused = true)]
async fn the_store_is_asked_who_owns_it_now_and_then_and_believed_if_it_knows() {
    let mut rig = rig([Turn::Refused(away())]);
    rig.committer.check().await.expect("it does not know");
    for _ in 0..100 {
        rig.committer.check().await.expect("was asked just now");
    }
    tokio::time::advance(CHECK_EVERY).await;
    rig.committer.check().await.expect("owns it");
    assert_eq!(rig.calls(), ["position", "position"]);
    MemoryStore::over(rig.log.clone()).open_epoch().expect("opens");
    tokio::time::advance(CHECK_EVERY).await;
    let error = rig.committer.check().await.expect_err("another owns it");
    assert!(matches!(error, StoreError::Fenced { own: Epoch(1), current: Epoch(2) }), "{error}");
}
