//! Which blobs runs and clients still need.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::needed::Pinned;
use super::workspace::Callers;
use crate::coordinator::state::State;
use crate::engine::Handle;
use crate::middleware::stream_limit::Caller;
use crate::status::ApiError;
use crate::types::{Digest, RunId};
use crate::workspace::blobs::{BlobStore, Pin};

/// How long blobs that a client asked about stay, so that it has time to upload the rest and start its run.
pub const SNAPSHOT_KEPT: Duration = Duration::from_secs(600);

/// How many blobs are promised to one caller at a time, one asked about twice counted twice; its oldest promises are
/// broken first.
const MAX_OF_ONE: usize = 500_000;

/// How many are promised to all together. Beyond, new promises are refused: nobody's are broken for those of others.
const MAX_PROMISED: usize = 2_000_000;

/// When promises may be over for which another was refused.
const PROMISE_RETRY: Duration = Duration::from_secs(60);

/// To whom blobs are promised.
pub type Owner = (Callers, Caller);

/// Keeps what is needed in the blob store.
#[derive(Default)]
pub struct Pins(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    /// What runs hold that had not ended when it was last looked.
    open: BTreeMap<RunId, Vec<Pin>>,
    /// The results of those that had, if they have one.
    ended: BTreeMap<RunId, Option<Pin>>,
    promises: BTreeMap<Owner, Promises>,
    /// Blobs in all promises together.
    promised: usize,
}

/// Those of one owner, the oldest first.
#[derive(Default)]
struct Promises {
    all: VecDeque<Promise>,
    /// Blobs in all of them together.
    blobs: usize,
}

struct Promise {
    until: Instant,
    blobs: usize,
    _pin: Pin,
}

/// What has become of runs since it was last looked.
#[derive(Debug, Default, PartialEq, Eq)]
struct Changes {
    /// Runs that ended and are kept, with their results.
    ended: Vec<(RunId, Option<Digest>)>,
    /// Runs that were held and are not there any more.
    gone: Vec<RunId>,
    /// All ended runs that are kept, if others are held than these.
    kept: Option<BTreeSet<RunId>>,
}

impl Pins {
    /// Those that a stored state needs.
    pub fn resumed(Pinned { open, ended, .. }: Pinned) -> Self {
        Self(Mutex::new(Inner { open, ended, ..Inner::default() }))
    }

    /// Keeps blobs that somebody asked about, or brought, for a while; an error if others were promised too many.
    pub fn promise(&self, owner: Owner, blobs: &BlobStore, digests: &[Digest]) -> Result<(), ApiError> {
        if digests.is_empty() {
            return Ok(());
        }
        let now = Instant::now();
        let pin = blobs.pin(digests.iter().copied());
        let promise = Promise { until: now + SNAPSHOT_KEPT, blobs: digests.len(), _pin: pin };
        self.lock().add(owner, promise, now)
    }

    /// Keeps blobs for as long as a run that has started needs them.
    pub fn keep_for(&self, run: &RunId, pins: impl IntoIterator<Item = Pin>) {
        self.lock().open.entry(run.clone()).or_default().extend(pins);
    }

    /// Lets go of what ended runs no longer need: all but their results; of everything of forgotten runs; and of
    /// promises that are over.
    pub async fn release(&self, engine: &Handle, blobs: &BlobStore) {
        let (open, ended) = {
            let mut held = self.lock();
            held.expire(Instant::now());
            (held.open.keys().cloned().collect::<Vec<_>>(), held.ended.len())
        };
        if open.is_empty() && ended == 0 {
            return;
        }
        // A stopped coordinator lets go of nothing.
        let changes =
            engine.query(move |core, _| changes(core.state(), open, ended)).await.unwrap_or_default();
        for (run, result) in changes.ended {
            let kept = result.map(|digest| blobs.pin([digest]));
            let mut held = self.lock();
            // Only now: the result is in it, and must be held without a gap.
            held.open.remove(&run);
            held.ended.insert(run, kept);
        }
        let mut held = self.lock();
        for run in changes.gone {
            held.open.remove(&run);
        }
        if let Some(kept) = changes.kept {
            held.ended.retain(|run, _| kept.contains(run));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Lets go of the promises that are over.
    fn expire(&mut self, now: Instant) {
        let promised = &mut self.promised;
        self.promises.retain(|_, of_one| {
            *promised -= of_one.break_while(|_, oldest| oldest.until <= now);
            !of_one.all.is_empty()
        });
    }

    fn add(&mut self, owner: Owner, promise: Promise, now: Instant) -> Result<(), ApiError> {
        self.expire(now);
        let more = promise.blobs;
        if let Some(of_one) = self.promises.get_mut(&owner) {
            self.promised -= of_one.break_while(|blobs, _| blobs.saturating_add(more) > MAX_OF_ONE);
        }
        if self.promised.saturating_add(more) > MAX_PROMISED {
            return Err(ApiError::ResourceExhausted {
                what: "blobs that were asked about lately",
                limit: MAX_PROMISED as u64,
                retry: PROMISE_RETRY,
            });
        }
        let of_one = self.promises.entry(owner).or_default();
        self.promised += more;
        of_one.blobs += more;
        of_one.all.push_back(promise);
        Ok(())
    }
}

impl Promises {
    /// Breaks the oldest for as long as `breaks` says so of all blobs and the oldest; answers how many blobs were in them.
    fn break_while(&mut self, breaks: impl Fn(usize, &Promise) -> bool) -> usize {
        let before = self.blobs;
        while let Some(oldest) = self.all.front()
            && breaks(self.blobs, oldest)
        {
            self.blobs -= oldest.blobs;
            self.all.pop_front();
        }
        before - self.blobs
    }
}

/// What has changed for those who hold so many ended runs and these open ones. Looks at all runs only if the numbers do
/// not match: runs are forgotten by number and by age, at any time.
fn changes(state: &State, open: Vec<RunId>, known_ended: usize) -> Changes {
    let mut changes = Changes::default();
    for id in open {
        match state.runs.get(&id).map(|run| run.ending.as_ref()) {
            Some(None) => {}
            Some(Some(ending)) => {
                let result = ending.result.as_ref().map(|result| result.output.digest);
                changes.ended.push((id, result));
            }
            None => changes.gone.push(id),
        }
    }
    let ended = state.runs.len().saturating_sub(state.open.len());
    if ended != known_ended + changes.ended.len() {
        let kept = state.runs.iter().filter(|(_, run)| !run.is_open());
        changes.kept = Some(kept.map(|(id, _)| id.clone()).collect());
    }
    changes
}

#[cfg(test)]
mod tests;
