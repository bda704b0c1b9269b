//! The connections of nodes: where messages for them go.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;

use crate::coordinator::message::Message;
use crate::types::SessionId;

/// Messages that may wait for a slow connection before it is ended.
const QUEUE: usize = 1024;

/// All open connections.
#[derive(Debug, Clone, Default)]
pub struct Sessions {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    last: u64,
    ended: bool,
    open: BTreeMap<SessionId, mpsc::Sender<Message>>,
}

impl Sessions {
    /// Opens a connection. The receiver ends when the connection is closed from this side: at once after
    /// [`close_all`](Self::close_all).
    pub fn open(&self) -> (SessionId, mpsc::Receiver<Message>) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let mut inner = self.lock();
        inner.last += 1;
        let session = SessionId(inner.last);
        if !inner.ended {
            inner.open.insert(session, sender);
        }
        (session, receiver)
    }

    /// Closes a connection.
    pub fn close(&self, session: SessionId) {
        self.lock().open.remove(&session);
    }

    /// Closes all connections, those that nodes open anew included: a node that comes back at once would hold up the
    /// end that it was closed for.
    pub fn close_all(&self) {
        let mut inner = self.lock();
        inner.ended = true;
        inner.open.clear();
    }

    /// Queues a message. A connection that does not keep up is closed: its node comes back and both sides compare
    /// what they have, so nothing is lost.
    pub fn send(&self, session: SessionId, message: Message) {
        let mut inner = self.lock();
        let Some(sender) = inner.open.get(&session) else { return };
        if sender.try_send(message).is_err() {
            tracing::warn!(session = session.0, "closing a connection that does not keep up");
            inner.open.remove(&session);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn once_all_are_closed_none_stays_open() {
        let sessions = Sessions::default();
        let (_, mut before) = sessions.open();
        sessions.close_all();
        let (session, mut after) = sessions.open();
        assert_eq!(before.try_recv(), Err(mpsc::error::TryRecvError::Disconnected));
        assert_eq!(after.try_recv(), Err(mpsc::error::TryRecvError::Disconnected));
        assert_eq!(session, SessionId(2), "it can still be told from others");
    }
}
