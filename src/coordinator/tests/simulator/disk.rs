//! What the coordinator's store has on its disk: frames with a checksum, of which the last may be torn.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::coordinator::event::{Event, RunEvent};
use crate::coordinator::snapshot::Part;
use crate::coordinator::state::State;
use crate::types::{Digest, Epoch, RunId};

/// Characters of a frame's head: its length and its digest.
const LENGTH: usize = 10;
const HEAD: usize = LENGTH + 64;

/// The events of each run, as watchers are told them; the first has the number 1.
pub(super) type RunLogs = BTreeMap<RunId, Vec<RunEvent>>;

#[derive(Default)]
pub(super) struct Disk {
    epoch: Epoch,
    snapshot: Vec<u8>,
    /// What was appended since the snapshot.
    log: Vec<u8>,
    /// Events in it.
    loose: usize,
}

/// What a snapshot holds.
#[derive(Serialize, Deserialize)]
enum Kept {
    State(Box<Part>),
    Event { run: RunId, event: Box<RunEvent> },
}

/// What a coordinator begins with.
pub(super) struct Loaded {
    pub(super) state: State,
    pub(super) logs: RunLogs,
    /// Whether the end of the log was torn, and cut.
    pub(super) was_torn: bool,
}

fn frame(batch: &[impl Serialize]) -> Vec<u8> {
    let body = serde_json::to_vec(batch).expect("writes");
    let mut frame = format!("{:>LENGTH$}{}", body.len(), Digest::of(&body)).into_bytes();
    assert_eq!(frame.len(), HEAD);
    frame.extend(body);
    frame
}

/// Takes the first frame off, if it is whole.
fn take<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (head, rest) = bytes.split_at_checked(HEAD)?;
    let head = std::str::from_utf8(head).ok()?;
    let (body, rest) = rest.split_at_checked(head[..LENGTH].trim().parse().ok()?)?;
    (Digest::of(body).to_string() == head[LENGTH..]).then(|| {
        *bytes = rest;
        body
    })
}

impl Disk {
    pub(super) const fn loose(&self) -> usize {
        self.loose
    }

    /// A batch, as one.
    pub(super) fn append(&mut self, batch: &[Event]) {
        self.log.extend(frame(batch));
        self.loose += batch.len();
    }

    /// A batch of which a part only reached the disk, chosen by a number.
    pub(super) fn tear(&mut self, batch: &[Event], at: usize) {
        let frame = frame(batch);
        self.log.extend(&frame[..at % frame.len()]);
    }

    /// The state in place of the events that made it.
    pub(super) fn compact(&mut self, state: &State, logs: &RunLogs) {
        let parts = state.parts().map(|part| Kept::State(Box::new(part)));
        let events = logs.iter().flat_map(|(run, events)| {
            events.iter().map(|event| Kept::Event { run: run.clone(), event: Box::new(event.clone()) })
        });
        self.snapshot = frame(&parts.chain(events).collect::<Vec<_>>());
        self.log.clear();
        self.loose = 0;
    }

    /// Begins a new epoch with what is there.
    pub(super) fn open(&mut self) -> Loaded {
        self.epoch = Epoch(self.epoch.0 + 1);
        let (mut state, mut logs) = (State::new(self.epoch), RunLogs::new());
        if let Some(body) = take(&mut &*self.snapshot) {
            for kept in serde_json::from_slice::<Vec<Kept>>(body).expect("reads") {
                match kept {
                    Kept::State(part) => state.restore(*part),
                    Kept::Event { run, event } => logs.entry(run).or_default().push(*event),
                }
            }
        }
        let mut rest = &*self.log;
        while let Some(body) = take(&mut rest) {
            for event in serde_json::from_slice::<Vec<Event>>(body).expect("reads") {
                state.apply(&event);
                follow(&mut logs, &event);
            }
        }
        let torn = rest.len();
        self.log.truncate(self.log.len() - torn);
        Loaded { state, logs, was_torn: torn > 0 }
    }
}

/// Keeps the logs of runs.
pub(super) fn follow(logs: &mut RunLogs, event: &Event) {
    match event {
        Event::Run { run, sequence, event, .. } => {
            let log = logs.entry(run.clone()).or_default();
            assert_eq!(*sequence, log.len() as u64 + 1, "{run}: its events are numbered without gaps");
            log.push(event.clone());
        }
        Event::RunForgotten(run) => {
            logs.remove(run);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coordinator::tests::builders::{ALL, specialist};

    #[test]
    fn a_torn_batch_is_cut_wherever_it_is_torn_and_the_log_goes_on_after_it() {
        let declared = |number: usize| Event::NodeDeclared(specialist(ALL[number]));
        for at in [0, 1, 9, 40, HEAD, HEAD + 1, 300] {
            let mut disk = Disk::default();
            disk.append(&[declared(0)]);
            disk.tear(&[declared(1), declared(2)], at);
            let loaded = disk.open();
            assert_eq!((loaded.state.members.len(), loaded.was_torn), (1, at > 0));
            disk.append(&[declared(3)]);
            let loaded = disk.open();
            assert_eq!((loaded.state.members.len(), loaded.was_torn), (2, false));
            assert_eq!(loaded.state.epoch, Epoch(2));
        }
    }
}
