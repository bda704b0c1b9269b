//! How others speak to the engine: they have inputs decided, and ask about the committed state.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch as channel};

use super::clock::Clock;
use super::figures::{StoreCounts, StoreFigures};
use super::probes::Probes;
use super::sessions::Sessions;
use super::watch::{Progress, RunLog, RunLogs};
use super::{Command, Query, Stopped, progress};
use crate::coordinator::Coordinator;
use crate::coordinator::decision::Reply;
use crate::coordinator::input::Input;
use crate::store::StoreError;
use crate::types::{Epoch, Now, RunId};

/// Whether facts can be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// They are, as they come.
    Works,
    /// There is no room for them.
    Full,
    /// They cannot be brought to the store.
    Fails,
}

impl Storage {
    pub(super) const fn after(error: Option<&StoreError>) -> Self {
        match error {
            None => Storage::Works,
            Some(StoreError::Full { .. }) => Storage::Full,
            Some(_) => Storage::Fails,
        }
    }
}

/// How others speak to the engine. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) observer: mpsc::Sender<Query>,
    pub(super) sessions: Sessions,
    pub(super) probes: Probes,
    pub(super) logs: RunLogs,
    pub(super) revision: channel::Receiver<u64>,
    pub(super) storage: channel::Receiver<Storage>,
    pub(super) stored: StoreCounts,
    /// Says nothing, and ends when the store is closed.
    pub(super) store_open: channel::Receiver<()>,
    pub(super) is_durable: bool,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) epoch: Epoch,
}

impl Handle {
    /// This start of the coordinator.
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Has an input decided; answers once the facts are committed.
    pub async fn decide(&self, input: Input) -> Result<Reply, Stopped> {
        self.decide_all(vec![input]).await?.pop().ok_or(Stopped)
    }

    /// Has inputs that came together decided, one after the other; answers once the facts of all are committed. That
    /// is one commit, and one way there and back, where deciding each by itself would be one for each.
    pub async fn decide_all(&self, inputs: Vec<Input>) -> Result<Vec<Reply>, Stopped> {
        for input in &inputs {
            self.probes.notice(input);
        }
        let (reply, answers) = oneshot::channel();
        self.commands.send(Command::Inputs(inputs, reply)).await.map_err(|_| Stopped)?;
        answers.await.map_err(|_| Stopped)
    }

    /// The same for what must not happen behind its caller's back: if nobody awaits the answer any more when its turn
    /// comes, it is left undecided. While the store stalls that turn may come hours later.
    pub async fn decide_while_awaited(&self, input: Input) -> Result<Reply, Stopped> {
        self.probes.notice(&input);
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::WhileAwaited(Box::new(input), reply)).await.map_err(|_| Stopped)?;
        answer.await.map_err(|_| Stopped)
    }

    /// Asks about the committed state. Waits while facts cannot be stored: what is in memory is ahead of them then.
    pub async fn query<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Coordinator, Now) -> T + Send + 'static,
    ) -> Result<T, Stopped> {
        let (query, answer) = asked(question);
        self.commands.send(Command::Query(query)).await.map_err(|_| Stopped)?;
        answer.await.map_err(|_| Stopped)
    }

    /// Looks at the mesh's health. Answered also while facts cannot be stored; then what it sees may be ahead of what is
    /// stored.
    pub async fn observe<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Coordinator, Now) -> T + Send + 'static,
    ) -> Result<T, Stopped> {
        let (query, answer) = asked(question);
        self.observer.send(query).await.map_err(|_| Stopped)?;
        answer.await.map_err(|_| Stopped)
    }

    /// Whether runs outlive this process.
    pub const fn is_durable(&self) -> bool {
        self.is_durable
    }

    /// How the store does.
    pub fn store_figures(&self) -> StoreFigures {
        self.stored.figures()
    }

    /// Has the store asked whether this coordinator still owns it; it stops if not. Who asks again within seconds is
    /// answered at once.
    pub async fn check_ownership(&self) -> Result<(), Stopped> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::CheckOwnership(reply)).await.map_err(|_| Stopped)?;
        answer.await.map_err(|_| Stopped)
    }

    /// Completes when the store is closed. An engine that is aborted leaves it to a call that is under way.
    pub async fn store_closed(&self) {
        let mut open = self.store_open.clone();
        while open.changed().await.is_ok() {}
    }

    /// Whether facts can be stored now.
    pub fn storage(&self) -> Storage {
        *self.storage.borrow()
    }

    /// Changes with [`Handle::storage`].
    pub fn storage_changes(&self) -> channel::Receiver<Storage> {
        self.storage.clone()
    }

    /// How far a run is, after the newest change at least.
    pub async fn progress(&self, run: &RunId, log: &Arc<RunLog>) -> Result<Arc<Progress>, Stopped> {
        if let Some(known) = log.known_progress() {
            return Ok(known);
        }
        let (run, log) = (run.clone(), log.clone());
        self.query(move |core, _| log.progress_or(|| progress(core, &run))).await
    }

    /// The connections of nodes.
    pub const fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// The probes that somebody waits for.
    pub const fn probes(&self) -> &Probes {
        &self.probes
    }

    /// The logs of runs.
    pub const fn logs(&self) -> &RunLogs {
        &self.logs
    }

    /// Changes whenever a decision changed something.
    pub fn revision(&self) -> channel::Receiver<u64> {
        self.revision.clone()
    }

    /// The moment, by the engine's clock.
    pub fn now(&self) -> Now {
        self.clock.now()
    }
}

/// A question, and where its answer arrives.
fn asked<T: Send + 'static>(
    question: impl FnOnce(&Coordinator, Now) -> T + Send + 'static,
) -> (Query, oneshot::Receiver<T>) {
    let (reply, answer) = oneshot::channel();
    let query: Query = Box::new(move |core, now| {
        // The asker may have gone away.
        let _ = reply.send(question(core, now));
    });
    (query, answer)
}
