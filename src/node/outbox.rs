//! Results that the coordinator has not acknowledged yet: they outlive a session and are sent again in the next.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::types::AttemptRef;
use crate::wire::peer::AttemptResult;

/// A bounded queue of results, oldest first. The bound holds because nobody starts an attempt whose result would not
/// have room (see [`Outbox::has_room`]).
#[derive(Debug)]
pub struct Outbox {
    entries: VecDeque<Entry>,
    capacity: usize,
}

#[derive(Debug)]
struct Entry {
    result: AttemptResult,
    /// The connection on which it was sent last, by this process's own count: a coordinator that restarts may
    /// number its sessions anew. A lost connection says nothing about what arrived.
    sent_in: Option<u64>,
    /// The output's bytes, if the coordinator does not have them yet.
    unsent: Option<Arc<[u8]>>,
}

impl Outbox {
    /// An empty outbox for at most `capacity` results.
    pub fn new(capacity: usize) -> Self {
        Self { entries: VecDeque::new(), capacity }
    }

    /// Whether one more attempt may start while `running` others will leave a result too.
    pub fn has_room(&self, running: usize) -> bool {
        self.entries.len() + running < self.capacity
    }

    /// Takes a result, to be sent, with the bytes of its output if they must be brought before it.
    pub fn push(&mut self, result: AttemptResult, unsent: Option<Arc<[u8]>>) {
        self.entries.push_back(Entry { result, sent_in: None, unsent });
    }

    /// The attempt's result, if it waits here.
    pub fn result(&self, key: &AttemptRef) -> Option<&AttemptResult> {
        self.entry(key).map(|entry| &entry.result)
    }

    /// The output that must be brought before the attempt's result.
    pub fn unsent(&self, key: &AttemptRef) -> Option<Arc<[u8]>> {
        self.entry(key)?.unsent.clone()
    }

    /// The attempt's output was brought.
    pub fn was_sent(&mut self, key: &AttemptRef) {
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.result.key == *key) {
            entry.unsent = None;
        }
    }

    fn entry(&self, key: &AttemptRef) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.result.key == *key)
    }

    /// Whether the attempt's result waits here.
    pub fn contains(&self, key: &AttemptRef) -> bool {
        self.entry(key).is_some()
    }

    /// The attempts whose results wait here, oldest first.
    pub fn keys(&self) -> Vec<AttemptRef> {
        self.entries.iter().map(|entry| entry.result.key.clone()).collect()
    }

    /// The next result that was not sent on this connection; it counts as sent.
    pub fn next_unsent(&mut self, connection: u64) -> Option<AttemptResult> {
        let entry = self.entries.iter_mut().find(|entry| entry.sent_in != Some(connection))?;
        entry.sent_in = Some(connection);
        Some(entry.result.clone())
    }

    /// Has the attempt's result sent once more; answers whether it waits here.
    pub fn send_again(&mut self, key: &AttemptRef) -> bool {
        match self.entries.iter_mut().find(|entry| entry.result.key == *key) {
            Some(entry) => {
                entry.sent_in = None;
                true
            }
            None => false,
        }
    }

    /// Forgets a result: the coordinator has it, or does not want it. Unknown attempts are ignored.
    pub fn forget(&mut self, key: &AttemptRef) {
        self.entries.retain(|entry| entry.result.key != *key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::testing::{key, result};

    #[test]
    fn a_result_is_sent_once_a_session_until_it_is_acknowledged() {
        let mut outbox = Outbox::new(3);
        outbox.push(result(1), Some(vec![1].into()));
        outbox.push(result(2), None);
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
        outbox.push(result(1), None);
        assert!(outbox.has_room(0) && !outbox.has_room(1));
    }
}
