//! The only owner of the coordinator: receives what happens, has it decided, commits the facts, performs the effects.
//!
//! What arrives together is committed together. No effect is seen before the facts behind it are stored, and readers see
//! committed state only. While the store cannot take facts, nothing is decided; only those who look at the mesh's health
//! are answered. If it fails for good, the engine stops: it must not go on with a state nobody can restore.

pub mod clock;
pub mod codec;
mod commit;
pub mod compaction;
mod figures;
mod handle;
mod log;
pub mod probes;
mod progress;
mod restore;
pub mod sessions;
pub mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch as channel};

use crate::coordinator::Coordinator;
use crate::coordinator::decision::{Effect, Reply};
use crate::coordinator::event::Event;
use crate::coordinator::input::Input;
use crate::coordinator::settings::Settings;
use crate::store::{Record, Store, StoreError};
use crate::types::{NodeId, Now, RunId, Tick};
use clock::Clock;
use commit::Committer;
pub use figures::{COMMIT_BUCKETS, StoreFigures};
pub use handle::{Handle, Storage};
use log::log;
use probes::Probes;
pub use progress::progress;
pub use restore::RestoreError;
use restore::Restored;
use sessions::Sessions;
use watch::RunLogs;

/// Commands that may wait; beyond, callers wait.
const QUEUE: usize = 1024;
/// Commands decided before one commit.
const BATCH: usize = 256;

/// A question about the committed state.
type Query = Box<dyn FnOnce(&Coordinator, Now) + Send>;

/// A node's process is to be started, in place of one that may be left. What comes of it is told by the node's joining,
/// or by [`Input::RestartFailed`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestartOrder {
    /// Which node.
    pub node: NodeId,
    /// Counts the starts, from 1.
    pub start: u64,
    /// Why it is FAILED; empty if an operator wants it started.
    pub cause: String,
}

enum Command {
    /// To be decided one after the other, and committed together.
    Inputs(Vec<Input>, oneshot::Sender<Vec<Reply>>),
    /// To be decided only if its answer is still awaited then.
    WhileAwaited(Box<Input>, oneshot::Sender<Reply>),
    Query(Query),
    /// Has the store asked who owns it; answered if it is this coordinator.
    CheckOwnership(oneshot::Sender<()>),
}

/// The engine has stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the coordinator has stopped")]
pub struct Stopped;

/// Why an engine could not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A record.
    #[error(transparent)]
    Codec(#[from] codec::CodecError),
    /// What is stored is no state.
    #[error(transparent)]
    Restore(#[from] restore::RestoreError),
}

/// What an engine is made of.
pub struct EngineOptions<S> {
    /// The core's settings.
    pub settings: Settings,
    /// Where facts are kept.
    pub store: S,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// Takes the orders to start node processes.
    pub restarts: mpsc::Sender<RestartOrder>,
    /// Go on without what is damaged in the store.
    pub salvage: bool,
}

/// The engine, ready to run.
pub struct Engine<S> {
    core: Coordinator,
    committer: Committer<S>,
    clock: Arc<dyn Clock>,
    commands: mpsc::Receiver<Command>,
    /// Questions that are answered even while facts cannot be stored.
    looks: mpsc::Receiver<Query>,
    sessions: Sessions,
    logs: RunLogs,
    /// The positions in the queue that watchers know of.
    positions: BTreeMap<RunId, u32>,
    revision: channel::Sender<u64>,
    storage: channel::Sender<Storage>,
    restarts: mpsc::Sender<RestartOrder>,
}

impl<S: Store> Engine<S> {
    /// Opens the store for a new coordinator start, and takes up the state that is there. Blocks on the store.
    pub fn open(options: EngineOptions<S>) -> Result<(Self, Handle), EngineError> {
        let EngineOptions { settings, mut store, clock, restarts, salvage } = options;
        let epoch = store.open_epoch()?;
        let loaded = store.load()?;
        let Restored { state, logs, lost, unreadable, .. } = restore::restore(&loaded, epoch, salvage)?;
        for run in &lost {
            tracing::warn!(%run, "the run is given up: what was stored of it is damaged");
        }
        // What was left out must not be found again at the next start: a snapshot takes its place, at once.
        let is_changed = !lost.is_empty() || unreadable > 0;
        if is_changed {
            store.keep_copy()?;
        }
        let loose = if is_changed { u64::MAX } else { loaded.log.len() as u64 };
        let core = Coordinator::resume(settings, state, clock.now());
        let (sender, commands) = mpsc::channel(QUEUE);
        let (observer, looks) = mpsc::channel(QUEUE);
        let (revision, revised) = channel::channel(0);
        let (storage, stored) = channel::channel(Storage::Works);
        let sessions = Sessions::default();
        let is_durable = store.is_durable();
        let committer = Committer::new(store, epoch, loaded.position, loose);
        let handle = Handle {
            commands: sender,
            observer,
            sessions: sessions.clone(),
            probes: Probes::default(),
            logs: logs.clone(),
            revision: revised,
            storage: stored,
            stored: committer.counts(),
            store_open: committer.store_open(),
            is_durable,
            clock: clock.clone(),
            epoch,
        };
        let positions = BTreeMap::new();
        let engine = Self {
            core,
            committer,
            clock,
            commands,
            looks,
            sessions,
            logs,
            positions,
            revision,
            storage,
            restarts,
        };
        Ok((engine, handle))
    }

    /// Runs until every handle is gone or the store fails. Then all connections of nodes are closed: nobody decides
    /// about them any more.
    pub async fn run(mut self) -> Result<(), EngineError> {
        let ended = self.serve().await;
        self.sessions.close_all();
        ended
    }

    async fn serve(&mut self) -> Result<(), EngineError> {
        let mut wake_at = self.core.wake_at();
        loop {
            let first = tokio::select! {
                command = self.commands.recv() => match command {
                    Some(command) => Some(command),
                    None => return Ok(()),
                },
                Some(look) = self.looks.recv() => {
                    look(&self.core, self.clock.now());
                    continue;
                }
                () = sleep_until(wake_at, self.clock.now().tick) => None,
            };
            let mut batch: Vec<Command> = first.into_iter().collect();
            while batch.len() < BATCH
                && let Ok(more) = self.commands.try_recv()
            {
                batch.push(more);
            }
            wake_at = self.step(batch).await?;
            if compaction::is_due(self.committer.loose(), self.core.state(), &self.logs) {
                self.compact().await?;
            }
        }
    }

    /// Decides a batch, commits, performs. An empty batch lets time pass.
    async fn step(&mut self, batch: Vec<Command>) -> Result<Option<Tick>, EngineError> {
        let now = self.clock.now();
        let (mut events, mut effects, mut replies, mut queries) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut awaited = Vec::new();
        let mut decide = |input| {
            let decision = self.core.decide(now, input);
            events.extend(decision.events);
            effects.extend(decision.effects);
            (decision.reply, decision.wake_at)
        };
        let mut checks = Vec::new();
        for command in batch {
            match command {
                Command::Inputs(inputs, reply) => {
                    replies.push((reply, inputs.into_iter().map(|input| decide(input).0).collect()));
                }
                Command::WhileAwaited(_, reply) if reply.is_closed() => {}
                Command::WhileAwaited(input, reply) => awaited.push((reply, decide(*input).0)),
                Command::Query(query) => queries.push(query),
                Command::CheckOwnership(reply) => checks.push(reply),
            }
        }
        // Time passes with every batch: a notification is a hint, the sweep is the rule.
        let (_, wake_at) = decide(Input::Timer);
        self.commit(&events).await?;
        self.publish(events);
        // Links and alerts change without an event.
        let revision = self.core.revision();
        self.revision.send_if_modified(|told| std::mem::replace(told, revision) != revision);
        for effect in effects {
            self.perform(effect);
        }
        for (reply, answer) in replies {
            // The caller may have gone away.
            let _ = reply.send(answer);
        }
        for (reply, answer) in awaited {
            let _ = reply.send(answer);
        }
        for query in queries {
            query(&self.core, now);
        }
        if !checks.is_empty() {
            let Self { core, committer, looks, clock, .. } = self;
            answering(looks, core, &**clock, committer.check()).await?;
        }
        for reply in checks {
            let _ = reply.send(());
        }
        Ok(wake_at)
    }

    /// Stores facts. As long as that takes, nothing is decided, but whoever looks at the mesh gets an answer.
    async fn commit(&mut self, events: &[Event]) -> Result<(), EngineError> {
        if events.is_empty() {
            return Ok(());
        }
        let batch = events.iter().map(codec::encode).collect::<Result<Arc<[Record]>, _>>()?;
        let Self { core, committer, looks, storage, clock, .. } = self;
        let committed = committer.append(batch, |error| {
            storage.send_replace(Storage::after(error));
        });
        answering(looks, core, &**clock, committed).await?;
        Ok(())
    }

    /// Has the store keep the state in place of the facts that made it.
    async fn compact(&mut self) -> Result<(), EngineError> {
        let records = compaction::records(self.core.state(), &self.logs)?;
        let Self { core, committer, looks, clock, .. } = self;
        answering(looks, core, &**clock, committer.snapshot(records)).await?;
        Ok(())
    }

    fn publish(&mut self, events: Vec<Event>) {
        if events.is_empty() {
            return;
        }
        let mut changed: BTreeSet<RunId> = BTreeSet::new();
        let mut forgotten = Vec::new();
        let mut nodes_changed = false;
        for event in events {
            log(&event);
            match event {
                Event::Run { run, sequence, at, event } => {
                    self.logs.append(&run, sequence, at, event);
                    changed.insert(run);
                }
                Event::RunForgotten(run) => forgotten.push(run),
                Event::NodeDeclared(_)
                | Event::MeshConfigured(_)
                | Event::NodeForgotten(_)
                | Event::NodeJoined { .. }
                | Event::NodeStatusChanged { .. } => {
                    nodes_changed = true;
                }
                Event::NodeRecovery { .. }
                | Event::NodeDrained { .. }
                | Event::NodeBreaker { .. }
                | Event::FaultHandled { .. } => {}
            }
        }
        if nodes_changed {
            changed.extend(self.core.state().open_runs().map(|(id, _)| id.clone()));
        }
        // What happens to one run moves others in the queue; only to those is it told.
        let positions = self.core.queue().positions();
        let moved = |run: &&RunId| positions.get(*run) != self.positions.get(*run);
        changed.extend(positions.keys().chain(self.positions.keys()).filter(moved).cloned());
        self.positions = positions;
        for run in changed {
            self.logs.touch(&run);
        }
        // Only now: a run may end and be forgotten in one batch, and its watchers must be told of the end.
        for run in forgotten {
            self.logs.forget(&run);
        }
    }

    fn perform(&self, effect: Effect) {
        match effect {
            Effect::Send { session, message, .. } => self.sessions.send(session, message),
            Effect::CloseSession(session) => self.sessions.close(session),
            Effect::RestartProcess { node, start, cause } => {
                let order = RestartOrder { node, start, cause };
                if let Err(error) = self.restarts.try_send(order) {
                    // The start is overdue some time later, which the core looks at.
                    let (mpsc::error::TrySendError::Full(order) | mpsc::error::TrySendError::Closed(order)) =
                        error;
                    tracing::warn!(node = %order.node, "no launcher takes the request to start this node");
                }
            }
        }
    }
}

/// Waits for the store, and answers those who only look meanwhile.
async fn answering<T>(
    looks: &mut mpsc::Receiver<Query>,
    core: &Coordinator,
    clock: &dyn Clock,
    stored: impl Future<Output = T>,
) -> T {
    let mut stored = std::pin::pin!(stored);
    loop {
        tokio::select! {
            biased;
            done = &mut stored => return done,
            Some(look) = looks.recv() => look(core, clock.now()),
        }
    }
}

/// Waits until the tick; for ever if there is none.
async fn sleep_until(wake_at: Option<Tick>, now: Tick) {
    match wake_at {
        Some(at) => tokio::time::sleep(at.since(now)).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
