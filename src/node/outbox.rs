//! Results that the coordinator has not acknowledged yet: they outlive a session and are sent again in the next. A spool
//! has them outlive the process too.

pub(in crate::node) mod keeper;
mod record;
pub mod spool;

use std::collections::VecDeque;
use std::sync::Arc;

use crate::types::AttemptRef;
use crate::wire::peer::{AttemptResult, Ending};

/// Bytes of outputs in it above which no attempt is started. Those that run may still add theirs, up to what
/// [`Held`](super::held::Held) takes of outputs that were not brought.
const BUSY_BYTES: usize = 128 << 20;

/// A result that nobody acknowledged.
#[derive(Debug, Clone, PartialEq)]
pub struct Unacknowledged {
    /// The result.
    pub result: AttemptResult,
    /// The output's bytes, if the coordinator does not have them yet.
    pub unsent: Option<Arc<[u8]>>,
}

impl Unacknowledged {
    /// Bytes of its output, as far as they are here.
    fn bytes(&self) -> usize {
        let inline = match &self.result.ending {
            Ending::Output { data: Some(data), .. } => data.len(),
            _ => 0,
        };
        inline + self.unsent.as_ref().map_or(0, |bytes| bytes.len())
    }
}

/// A bounded queue of results, oldest first. The bound holds because nobody starts an attempt whose result would not
/// have room (see [`Outbox::has_room`]).
#[derive(Debug)]
pub struct Outbox {
    entries: VecDeque<Entry>,
    capacity: usize,
}

#[derive(Debug)]
struct Entry {
    kept: Unacknowledged,
    /// The connection on which it was sent last, by this process's own count: a coordinator that restarts may
    /// number its sessions anew. A lost connection says nothing about what arrived.
    sent_in: Option<u64>,
}

impl Outbox {
    /// An empty outbox for at most `capacity` results.
    pub fn new(capacity: usize) -> Self {
        Self { entries: VecDeque::new(), capacity }
    }

    /// Whether one more attempt may start while `running` others will leave a result too.
    pub fn has_room(&self, running: usize) -> bool {
        self.entries.len() + running < self.capacity
            && self.entries.iter().map(|entry| entry.kept.bytes()).sum::<usize>() <= BUSY_BYTES
    }

    /// Takes a result, to be sent.
    pub fn push(&mut self, kept: Unacknowledged) {
        self.entries.push_back(Entry { kept, sent_in: None });
    }

    /// The attempt's result, with the bytes that must be brought before it.
    pub fn get(&self, key: &AttemptRef) -> Option<&Unacknowledged> {
        self.entry(key).map(|entry| &entry.kept)
    }

    /// The attempt's result, if it waits here.
    pub fn result(&self, key: &AttemptRef) -> Option<&AttemptResult> {
        self.entry(key).map(|entry| &entry.kept.result)
    }

    /// The output that must be brought before the attempt's result.
    pub fn unsent(&self, key: &AttemptRef) -> Option<Arc<[u8]>> {
        self.entry(key)?.kept.unsent.clone()
    }

    /// The attempt's output was brought.
    pub fn was_sent(&mut self, key: &AttemptRef) {
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.kept.result.key == *key) {
            entry.kept.unsent = None;
        }
    }

    /// The attempt has failed after all; answers its new result.
    pub fn fail(&mut self, key: &AttemptRef, reason: String) -> Option<&AttemptResult> {
        let kept = &mut self.entries.iter_mut().find(|entry| entry.kept.result.key == *key)?.kept;
        kept.unsent = None;
        kept.result.ending = Ending::Failure(reason);
        Some(&kept.result)
    }

    fn entry(&self, key: &AttemptRef) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.kept.result.key == *key)
    }

    /// The attempts whose results wait here, oldest first.
    pub fn keys(&self) -> Vec<AttemptRef> {
        self.entries.iter().map(|entry| entry.kept.result.key.clone()).collect()
    }

    /// The next result that was not sent on this connection; it counts as sent.
    pub fn next_unsent(&mut self, connection: u64) -> Option<AttemptResult> {
        let entry = self.entries.iter_mut().find(|entry| entry.sent_in != Some(connection))?;
        entry.sent_in = Some(connection);
        Some(entry.kept.result.clone())
    }

    /// Has the attempt's result sent once more; answers whether it waits here.
    pub fn send_again(&mut self, key: &AttemptRef) -> bool {
        match self.entries.iter_mut().find(|entry| entry.kept.result.key == *key) {
            Some(entry) => {
                entry.sent_in = None;
                true
            }
            None => false,
        }
    }

    /// Forgets a result: the coordinator has it, or does not want it. Unknown attempts are ignored.
    pub fn forget(&mut self, key: &AttemptRef) {
        self.entries.retain(|entry| entry.kept.result.key != *key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::testing::{key, result};
    use crate::types::{Digest, TaskOutput};

    fn kept(number: u64, unsent: Option<Arc<[u8]>>) -> Unacknowledged {
        Unacknowledged { result: result(number), unsent }
    }

    #[test]
    fn a_result_is_sent_once_a_session_until_it_is_acknowledged() {
        let mut outbox = Outbox::new(3);
        outbox.push(kept(1, Some(vec![1].into())));
        outbox.push(kept(2, None));
        assert_eq!((outbox.unsent(&key(1)).as_deref(), outbox.unsent(&key(2))), (Some(&[1][..]), None));
        outbox.was_sent(&key(1));
        assert_eq!((outbox.unsent(&key(1)), outbox.result(&key(1))), (None, Some(&result(1))));
        let first = 1;
        assert_eq!(outbox.next_unsent(first), Some(result(1)));
        assert_eq!(outbox.next_unsent(first), Some(result(2)));
        assert_eq!(outbox.next_unsent(first), None);

        outbox.forget(&key(1));
        outbox.forget(&key(1));
        assert_eq!(outbox.keys(), [key(2)]);
        assert_eq!(outbox.next_unsent(2), Some(result(2)), "a new session gets it again");
        assert!(outbox.send_again(&key(2)) && !outbox.send_again(&key(1)));
        assert_eq!(outbox.next_unsent(2), Some(result(2)));
    }

    #[test]
    fn running_attempts_reserve_their_room() {
        let mut outbox = Outbox::new(2);
        assert!(outbox.has_room(1) && !outbox.has_room(2));
        outbox.push(kept(1, None));
        assert!(outbox.has_room(0) && !outbox.has_room(1));
    }

    #[test]
    fn much_that_waits_to_be_brought_leaves_no_room_for_more_work() {
        let mut outbox = Outbox::new(64);
        outbox.push(kept(1, Some(vec![0; BUSY_BYTES].into())));
        assert!(outbox.has_room(1));
        let data = vec![0];
        let output = TaskOutput { digest: Digest::of(&data), size: 1 };
        let ending = Ending::Output { output, data: Some(data) };
        outbox.push(Unacknowledged { result: AttemptResult { ending, ..result(2) }, unsent: None });
        assert!(!outbox.has_room(0));
        outbox.was_sent(&key(1));
        assert!(outbox.has_room(0));
    }
}
