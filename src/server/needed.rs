//! What a stored state needs of the blob store: found out and pinned at a start, before anything can be dropped.

use std::collections::BTreeMap;

use crate::coordinator::run::{Run, Task};
use crate::coordinator::state::State;
use crate::types::{Digest, Manifest, RunId};
use crate::workspace::blobs::{BlobError, BlobStore, Pin};

/// The blobs that a state refers to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Needed {
    open: Vec<OpenRun>,
    /// Runs that have ended, with their results.
    ended: Vec<(RunId, Option<Digest>)>,
}

/// A run that goes on.
#[derive(Debug, PartialEq, Eq)]
struct OpenRun {
    id: RunId,
    manifest: Digest,
    spec: Digest,
    /// Whether nodes read its tree where it is.
    in_place: bool,
    /// What its tasks have made so far.
    outputs: Vec<Digest>,
}

/// What is kept for a state.
#[derive(Default)]
pub struct Pinned {
    /// Of runs that go on.
    pub open: BTreeMap<RunId, Vec<Pin>>,
    /// The results of those that have ended, if they have one.
    pub ended: BTreeMap<RunId, Option<Pin>>,
    /// Open runs that cannot go on, with the reason: a blob is gone.
    pub lost: Vec<(RunId, String)>,
}

impl Needed {
    /// What a state refers to.
    pub fn by(state: &State) -> Self {
        let mut needed = Self::default();
        for (id, run) in &state.runs {
            match &run.ending {
                None => needed.open.push(OpenRun::of(id, run)),
                Some(ending) => {
                    let result = ending.result.as_ref().map(|result| result.output.digest);
                    needed.ended.push((id.clone(), result));
                }
            }
        }
        needed
    }

    /// Pins all of it, and tells which open runs cannot go on. Blocks: the manifests of open runs are read.
    pub fn pin(self, blobs: &BlobStore) -> Pinned {
        let mut pinned = Pinned::default();
        for run in self.open {
            let mut pins = Vec::new();
            if let Err(reason) = run.pin(blobs, &mut pins) {
                pinned.lost.push((run.id.clone(), reason));
            }
            pinned.open.insert(run.id, pins);
        }
        for (run, result) in self.ended {
            if let Some(digest) = result.filter(|digest| !blobs.contains(digest)) {
                tracing::warn!(%run, %digest, "the result of the run is not in the blob store any more");
            }
            pinned.ended.insert(run, result.map(|digest| blobs.pin([digest])));
        }
        pinned
    }
}

impl OpenRun {
    fn of(id: &RunId, run: &Run) -> Self {
        Self {
            id: id.clone(),
            manifest: run.order.manifest,
            spec: run.order.spec,
            in_place: run.order.tree_root.is_some(),
            outputs: run.tasks.iter().filter_map(Task::output).map(|output| output.digest).collect(),
        }
    }

    /// Pins what it needs; an error says why it cannot go on.
    fn pin(&self, blobs: &BlobStore, pins: &mut Vec<Pin>) -> Result<(), String> {
        let own: Vec<Digest> = [self.manifest, self.spec].into_iter().chain(self.outputs.clone()).collect();
        pins.push(blobs.pin(own.iter().copied()));
        let mut missing = blobs.missing(&own);
        // Read to the end, so that what was cut short by a power cut is found now.
        missing.extend(read(blobs, &self.spec)?.is_none().then_some(self.spec));
        match read(blobs, &self.manifest)? {
            Some(bytes) if !self.in_place => {
                let manifest = Manifest::parse(&bytes)
                    .map_err(|_| format!("its manifest {} is not readable", self.manifest))?;
                let files: Vec<Digest> = manifest.files().iter().map(|file| file.digest).collect();
                pins.push(blobs.pin(files.iter().copied()));
                missing.extend(blobs.missing(&files));
            }
            Some(_) => {}
            None => missing.push(self.manifest),
        }
        missing.sort();
        missing.dedup();
        match missing.first() {
            None => Ok(()),
            Some(first) => Err(format!(
                "{} of the blobs it needs are not in the blob store any more, among them {first}; start it again",
                missing.len()
            )),
        }
    }
}

/// The bytes of a blob, if it is there and sound.
fn read(blobs: &BlobStore, digest: &Digest) -> Result<Option<Vec<u8>>, String> {
    match blobs.get(digest) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(BlobError::Missing(_)) => Ok(None),
        Err(error) => Err(format!("a blob it needs cannot be read: {error}")),
    }
}

#[cfg(test)]
pub mod tests;
