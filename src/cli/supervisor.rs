//! Watches the nodes that this process launched, and starts nodes again when the coordinator asks.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;

use crate::coordinator::input::Input;
use crate::engine::RestartOrder;
use crate::node::launcher::command::{Occasion, RestartCommand};
use crate::node::launcher::{Launcher, NodeExited};
use crate::server::RunningServer;
use crate::types::NodeId;

/// How long a node that is stopped may take.
const NODE_STOP: Duration = Duration::from_secs(2);
/// Restart commands that run at a time.
const COMMANDS: usize = 4;

/// How the supervision ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The launched nodes end too.
    Stop,
    /// They go on for the next coordinator, if they may outlive this one.
    Leave,
}

/// Starts and watches nodes for one coordinator.
pub(super) struct Supervisor {
    server: Arc<RunningServer>,
    launcher: Option<Launcher>,
    exits: Option<mpsc::Receiver<NodeExited>>,
    command: Option<Arc<RestartCommand>>,
    commands: Arc<Semaphore>,
    /// The nodes that are being started: one that hangs holds up no other.
    under_way: BTreeSet<NodeId>,
    starts: JoinSet<Prepared>,
    /// The process that each start made.
    processes: BTreeMap<NodeId, (u32, u64)>,
}

/// What was done for a start.
enum Prepared {
    /// What was left of the node's process is gone: a new one can be launched.
    Cleared(RestartOrder),
    /// The command was run.
    Commanded(RestartOrder, Result<(), String>),
}

impl Supervisor {
    /// For a coordinator, its launched nodes if there are any, and the command for others.
    pub(super) fn new(
        server: Arc<RunningServer>,
        launched: Option<(Launcher, mpsc::Receiver<NodeExited>)>,
        command: Option<RestartCommand>,
    ) -> Self {
        let (launcher, exits) = launched.unzip();
        Self {
            server,
            launcher,
            exits,
            command: command.map(Arc::new),
            commands: Arc::new(Semaphore::new(COMMANDS)),
            under_way: BTreeSet::new(),
            starts: JoinSet::new(),
            processes: BTreeMap::new(),
        }
    }

    /// Supervises until it is told how to end.
    pub(super) async fn run(mut self, told: oneshot::Receiver<End>) {
        let end = tokio::select! {
            // Whatever is under way: a coordinator that cannot store its facts answers nothing.
            end = told => end.unwrap_or(End::Stop),
            never = self.supervise() => match never {},
        };
        // Commands that still run are killed.
        self.starts.shutdown().await;
        if let Some(launcher) = &mut self.launcher {
            match end {
                End::Stop => launcher.stop_all(NODE_STOP).await,
                End::Leave => launcher.leave(NODE_STOP).await,
            }
        }
    }

    async fn supervise(&mut self) -> Infallible {
        loop {
            let next_exit = async {
                match &mut self.exits {
                    Some(exits) => exits.recv().await,
                    None => None,
                }
            };
            tokio::select! {
                Some(exit) = next_exit => self.exited(exit).await,
                Some(order) = self.server.next_restart() => self.begin(order).await,
                Some(done) = self.starts.join_next() => match done {
                    Ok(prepared) => self.finish(prepared).await,
                    Err(error) => tracing::error!(%error, "a start of a node failed"),
                },
                // The coordinator has stopped, and there is nobody to watch.
                else => std::future::pending().await,
            }
        }
    }

    /// A process ended: its words first, so that whoever reads the verdict finds the reason.
    async fn exited(&mut self, exit: NodeExited) {
        let node = exit.node_id.clone();
        let start = match self.processes.get(&node) {
            Some((pid, start)) if *pid == exit.pid => Some(*start),
            Some(_) => None,
            None => Some(0),
        };
        if let Some(start) = start.filter(|_| !exit.ordered) {
            self.failed(&node, start, exit.to_string()).await;
        }
        // A stopped coordinator has no more use for it.
        let exited = Input::ProcessExited { node, process_id: exit.pid };
        let _ = self.server.engine().decide(exited).await;
    }

    async fn begin(&mut self, order: RestartOrder) {
        let node = order.node.clone();
        if self.under_way.contains(&node) {
            return self
                .failed(&node, order.start, "an earlier start of it is still under way".to_owned())
                .await;
        }
        let launcher = self.launcher.as_mut().filter(|launcher| launcher.launches(&node));
        // FAILED is FAILED: nothing that it still does matters, and it may be stopped and deaf to all but this.
        if let Some(cleared) = launcher.and_then(|launcher| launcher.stop(&node, Duration::ZERO).ok()) {
            self.starts.spawn(async move {
                cleared.await;
                Prepared::Cleared(order)
            });
        } else if let Some(command) = self.command.clone() {
            let (engine, commands) = (self.server.engine(), self.commands.clone());
            self.starts.spawn(async move {
                // Never closed.
                let _permit = commands.acquire_owned().await;
                let asked = order.node.clone();
                let endpoint =
                    engine.query(move |core, _| core.presences().get(&asked)?.peer_endpoint.clone());
                let occasion = Occasion {
                    node_id: order.node.clone(),
                    endpoint: endpoint.await.ok().flatten().unwrap_or_default(),
                    cause: order.cause.clone(),
                };
                let ended = command.run(&occasion).await.map_err(|error| error.to_string());
                Prepared::Commanded(order, ended)
            });
        } else {
            return self.failed(&node, order.start, "nothing here starts this node".to_owned()).await;
        }
        self.under_way.insert(node);
    }

    async fn finish(&mut self, prepared: Prepared) {
        let (order, ended) = match prepared {
            Prepared::Cleared(order) => {
                let launched = self.launch(&order);
                (order, launched)
            }
            Prepared::Commanded(order, ended) => (order, ended),
        };
        self.under_way.remove(&order.node);
        if let Err(reason) = ended {
            tracing::warn!(node = %order.node, reason, "the node could not be started again");
            self.failed(&order.node, order.start, reason).await;
        }
    }

    fn launch(&mut self, order: &RestartOrder) -> Result<(), String> {
        let launcher = self.launcher.as_mut().ok_or("nothing here starts this node")?;
        let pid = launcher.launch(&order.node).map_err(|error| error.to_string())?;
        self.processes.insert(order.node.clone(), (pid, order.start));
        Ok(())
    }

    async fn failed(&mut self, node: &NodeId, start: u64, reason: String) {
        // A stopped coordinator has no more use for it.
        let _ = self.server.engine().decide(Input::RestartFailed { node: node.clone(), start, reason }).await;
    }
}

#[cfg(test)]
mod tests;
