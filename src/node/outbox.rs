//! Results that the coordinator has not acknowledged yet: they outlive a session and are sent again in the next.

use std::collections::VecDeque;

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

    /// Takes a result, to be sent.
    pub fn push(&mut self, result: AttemptResult) {
        self.entries.push_back(Entry { result, sent_in: None });
    }

    /// Whether the attempt's result waits here.
    pub fn contains(&self, key: &AttemptRef) -> bool {
        self.entries.iter().any(|entry| entry.result.key == *key)
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
        outbox.push(result(1));
        outbox.push(result(2));
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
        outbox.push(result(1));
        assert!(outbox.has_room(0) && !outbox.has_room(1));
    }
}
