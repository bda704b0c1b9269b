//! The only owner of the coordinator: receives what happens, has it decided, commits the facts, performs the effects.
//!
//! What arrives together is committed together. No effect is seen before the facts behind it are stored, and readers see
//! committed state only. If the store fails, the engine stops: it must not go on with a state nobody can restore.

pub mod clock;
pub mod codec;
mod handle;
mod log;
pub mod probes;
mod progress;
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
use crate::store::{Store, StoreError};
use crate::types::{NodeId, Now, RunId, Tick};
use clock::Clock;
pub use handle::Handle;
use log::log;
use probes::Probes;
pub use progress::progress;
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
    Input(Box<Input>, oneshot::Sender<Reply>),
    Query(Query),
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
}

/// The engine, ready to run.
pub struct Engine<S> {
    core: Coordinator,
    store: S,
    stored: u64,
    clock: Arc<dyn Clock>,
    commands: mpsc::Receiver<Command>,
    sessions: Sessions,
    logs: RunLogs,
    /// The positions in the queue that watchers know of.
    positions: BTreeMap<RunId, u32>,
    revision: channel::Sender<u64>,
    restarts: mpsc::Sender<RestartOrder>,
}

impl<S: Store> Engine<S> {
    /// Opens the store for a new coordinator start. Orders to start node processes go to `restarts`.
    pub fn new(
        settings: Settings,
        mut store: S,
        clock: Arc<dyn Clock>,
        restarts: mpsc::Sender<RestartOrder>,
    ) -> Result<(Self, Handle), EngineError> {
        let epoch = store.open_epoch()?;
        let (sender, commands) = mpsc::channel(QUEUE);
        let (revision, watched) = channel::channel(0);
        let (sessions, logs) = (Sessions::default(), RunLogs::default());
        let handle = Handle {
            commands: sender,
            sessions: sessions.clone(),
            probes: Probes::default(),
            logs: logs.clone(),
            revision: watched,
            clock: clock.clone(),
        };
        let core = Coordinator::new(settings, epoch);
        let positions = BTreeMap::new();
        let engine =
            Self { core, store, stored: 0, clock, commands, sessions, logs, positions, revision, restarts };
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
        let mut wake_at: Option<Tick> = None;
        loop {
            let first = tokio::select! {
                command = self.commands.recv() => match command {
                    Some(command) => Some(command),
                    None => return Ok(()),
                },
                () = sleep_until(wake_at, self.clock.now().tick) => None,
            };
            let mut batch: Vec<Command> = first.into_iter().collect();
            while batch.len() < BATCH
                && let Ok(more) = self.commands.try_recv()
            {
                batch.push(more);
            }
            wake_at = self.step(batch)?;
        }
    }

    /// Decides a batch, commits, performs. An empty batch lets time pass.
    fn step(&mut self, batch: Vec<Command>) -> Result<Option<Tick>, EngineError> {
        let now = self.clock.now();
        let (mut events, mut effects, mut replies, mut queries) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut inputs: Vec<(Input, Option<oneshot::Sender<Reply>>)> = Vec::new();
        for command in batch {
            match command {
                Command::Input(input, reply) => inputs.push((*input, Some(reply))),
                Command::Query(query) => queries.push(query),
            }
        }
        // Time passes with every batch: a notification is a hint, the sweep is the rule.
        inputs.push((Input::Timer, None));
        let mut wake_at = None;
        for (input, reply) in inputs {
            let decision = self.core.decide(now, input);
            events.extend(decision.events);
            effects.extend(decision.effects);
            wake_at = decision.wake_at;
            replies.extend(reply.map(|reply| (reply, decision.reply)));
        }
        self.commit(&events)?;
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
        for query in queries {
            query(&self.core, now);
        }
        Ok(wake_at)
    }

    fn commit(&mut self, events: &[Event]) -> Result<(), EngineError> {
        if events.is_empty() {
            return Ok(());
        }
        let batch = events.iter().map(codec::encode).collect::<Result<Vec<_>, _>>()?;
        let count = batch.len() as u64;
        self.store.append(self.core.state().epoch, self.stored, batch)?;
        self.stored += count;
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
                Event::Run { run, at, event } => {
                    self.logs.append(&run, at, event);
                    changed.insert(run);
                }
                Event::RunForgotten(run) => forgotten.push(run),
                Event::NodeDeclared(_) | Event::NodeJoined { .. } | Event::NodeStatusChanged { .. } => {
                    nodes_changed = true;
                }
                Event::NodeRecovery { .. } | Event::NodeDrained { .. } | Event::FaultHandled { .. } => {}
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

/// Waits until the tick; for ever if there is none.
async fn sleep_until(wake_at: Option<Tick>, now: Tick) {
    match wake_at {
        Some(at) => tokio::time::sleep(at.since(now)).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
