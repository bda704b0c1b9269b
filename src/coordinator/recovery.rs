//! Brings FAILED nodes back: their process is started again, within a budget; then links, state and work follow.
//!
//! What happens to nodes is followed by the recorded events, whoever recorded them, so that every way to FAILED and back
//! is covered. What is kept here is volatile: a coordinator that starts anew grants each node a new budget.

mod policy;

use std::collections::BTreeMap;

use super::decision::{Effect, Reply};
use super::event::{Event, RecoveryStep, RunEvent};
use super::message::Message;
use super::{Coordinator, Draft};
use crate::types::{FaultCause, NodeId, NodeStatus, Tick};
pub use policy::RestartPolicy;
use policy::Starts;

/// Characters that are kept of why a start failed.
const MOST_WORDS: usize = 512;

/// The recoveries of all nodes.
#[derive(Debug, Default)]
pub struct Recoveries {
    nodes: BTreeMap<NodeId, Recovery>,
    attempted: u64,
}

/// How far the recovery of one node is.
#[derive(Debug, Default)]
struct Recovery {
    starts: Starts,
    stage: Stage,
    /// What was last heard of its process, in words; empty for nothing.
    words: String,
    /// Why it was FAILED last.
    cause: Option<FaultCause>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
enum Stage {
    /// Nothing to do.
    #[default]
    Idle,
    /// It is FAILED; what follows is decided at the end of this decision.
    Fallen,
    /// It was FAILED under an earlier coordinator, and its process is to be started then. Nobody was told yet.
    TakenUp { due: Tick },
    /// Its process is to be started.
    Waiting { due: Tick },
    /// The launcher was asked.
    Starting { start: u64, asked: Tick, deadline: Tick },
    /// A new process of it joined, which nobody was told of yet.
    Joined { asked: Option<Tick> },
    /// It works; its links are being established.
    Linking { since: Tick },
    /// It stays FAILED until somebody does something.
    GivenUp,
}

impl Stage {
    /// Whether there is something to do for it now.
    fn moves(self, now: Tick) -> bool {
        match self {
            Stage::Idle | Stage::GivenUp => false,
            Stage::Waiting { due: at } | Stage::Starting { deadline: at, .. } => now >= at,
            Stage::Fallen | Stage::TakenUp { .. } | Stage::Joined { .. } | Stage::Linking { .. } => true,
        }
    }
}

impl Recoveries {
    /// Starts that were asked for, since the coordinator's start.
    pub const fn attempted(&self) -> u64 {
        self.attempted
    }

    /// Follows what happens to nodes.
    pub(super) fn follow(&mut self, now: Tick, event: &Event) {
        match event {
            Event::NodeStatusChanged { node, status, cause } => {
                let recovery = self.nodes.entry(node.clone()).or_default();
                recovery.starts.set_active(now, *status == NodeStatus::Active);
                match (status, cause, recovery.stage) {
                    // An operator's word stands until an operator takes it back.
                    (NodeStatus::Failed, Some(FaultCause::Operator), _) => recovery.stage = Stage::Idle,
                    // Its own doing.
                    (NodeStatus::Failed, Some(FaultCause::RestartFailed), _) => {}
                    (
                        NodeStatus::Failed,
                        cause,
                        Stage::Idle | Stage::Joined { .. } | Stage::Linking { .. },
                    ) => {
                        recovery.stage = Stage::Fallen;
                        recovery.cause = *cause;
                    }
                    // It is back by itself: its process never ended.
                    (
                        NodeStatus::Active,
                        _,
                        Stage::TakenUp { .. } | Stage::Waiting { .. } | Stage::GivenUp,
                    ) => {
                        recovery.stage = Stage::Idle;
                    }
                    _ => {}
                }
            }
            Event::NodeForgotten(node) => {
                self.nodes.remove(node);
            }
            Event::NodeJoined { spec, .. } => {
                let recovery = self.nodes.entry(spec.node_id.clone()).or_default();
                let asked = match recovery.stage {
                    // Its first start needs no recovery.
                    Stage::Idle | Stage::Joined { .. } | Stage::Linking { .. } => return,
                    Stage::Starting { asked, .. } => Some(asked),
                    Stage::Fallen | Stage::TakenUp { .. } | Stage::Waiting { .. } | Stage::GivenUp => None,
                };
                recovery.stage = Stage::Joined { asked };
                recovery.words.clear();
            }
            _ => {}
        }
    }

    /// The moments at which a start is due, or late.
    pub(super) fn wakes(&self) -> impl Iterator<Item = Tick> {
        self.nodes.values().filter_map(|recovery| match recovery.stage {
            Stage::Waiting { due: at } | Stage::Starting { deadline: at, .. } => Some(at),
            _ => None,
        })
    }
}

impl Coordinator {
    /// The recoveries of nodes since this coordinator's start.
    pub const fn recoveries(&self) -> &Recoveries {
        &self.recoveries
    }

    /// A start came to nothing, or the process it made has ended, with these words. Of a node that has joined since, the
    /// detectors decide; then the words are kept for what they find.
    pub(super) fn restart_failed(
        &mut self,
        draft: &mut Draft,
        node: &NodeId,
        start: u64,
        reason: &str,
    ) -> Reply {
        if self.state.members.contains_key(node) {
            let recovery = self.recoveries.nodes.entry(node.clone()).or_default();
            recovery.words = reason.chars().take(MOST_WORDS).collect();
            if matches!(recovery.stage, Stage::Starting { start: current, .. } if current == start) {
                self.start_failed(draft, node);
            }
        }
        Reply::Done
    }

    /// Has the node's process started now, whatever its budget, unless a start is under way. Answers whether anything
    /// here can.
    pub(super) fn start_by_hand(&mut self, draft: &mut Draft, node: &NodeId) -> bool {
        let can = self.settings.restart.can_start(node);
        let recovery = self.recoveries.nodes.entry(node.clone()).or_default();
        recovery.starts.forget();
        if !matches!(recovery.stage, Stage::Starting { .. }) {
            recovery.stage = Stage::Idle;
            if can {
                self.ask(draft, node);
            }
        }
        can
    }

    /// Takes up the recovery of a node that was FAILED under an earlier coordinator, with a new budget: it is started
    /// unless it comes by itself within the start's grace. An operator's word stands. Answers whether there is one.
    pub(super) fn take_up_recovery(&mut self, node: &NodeId, cause: Option<FaultCause>, now: Tick) -> bool {
        let policy = &self.settings.restart;
        let is_startable = policy.can_start(node) && policy.budget > 0 && !self.is_drained(node);
        let stage = match cause {
            Some(FaultCause::Operator) => Stage::Idle,
            _ if is_startable => Stage::TakenUp { due: now + self.settings.message_timeout },
            _ => Stage::GivenUp,
        };
        let recovery = self.recoveries.nodes.entry(node.clone()).or_default();
        (recovery.stage, recovery.cause) = (stage, cause);
        matches!(stage, Stage::TakenUp { .. })
    }

    /// A process that its launcher had started ended in order: another takes its place.
    pub(super) fn replace_process(&mut self, node: &NodeId) {
        let recovery = self.recoveries.nodes.entry(node.clone()).or_default();
        recovery.stage = Stage::Fallen;
        recovery.cause = None;
    }

    /// What recovery has to do at the end of a decision.
    pub(super) fn recover(&mut self, draft: &mut Draft) {
        let now = draft.now.tick;
        let moving = self.recoveries.nodes.iter().filter(|(_, recovery)| recovery.stage.moves(now));
        let nodes: Vec<(NodeId, Stage)> =
            moving.map(|(node, recovery)| (node.clone(), recovery.stage)).collect();
        for (node, stage) in nodes {
            match stage {
                Stage::Fallen => self.plan_start(draft, &node),
                Stage::TakenUp { due } => self.go_on_waiting(draft, &node, due),
                Stage::Waiting { .. } if self.is_drained(&node) => self.plan_start(draft, &node),
                // It is there again, and has to prove itself.
                Stage::Waiting { .. } if self.is_responsive(&node, now) => {
                    self.set_stage(&node, Stage::Waiting { due: now + self.settings.heartbeat_interval });
                }
                Stage::Waiting { .. } => self.ask(draft, &node),
                Stage::Starting { .. } => self.overdue(draft, &node),
                Stage::Joined { asked } => self.returned(draft, &node, asked),
                Stage::Linking { since } => self.linked(draft, &node, since),
                Stage::Idle | Stage::GivenUp => {}
            }
        }
    }

    /// A node is FAILED, or a start of it was in vain: decides when its process is started, if at all.
    fn plan_start(&mut self, draft: &mut Draft, node: &NodeId) {
        let now = draft.now.tick;
        let policy = &self.settings.restart;
        let hindrance = if self.is_drained(node) {
            Some("it is drained: recover it to start it")
        } else if !policy.can_start(node) {
            Some("no launcher: start the node again by hand")
        } else if policy.budget == 0 {
            Some("nodes.restart_budget is 0: recover it to start it")
        } else {
            None
        };
        if let Some(hindrance) = hindrance {
            self.set_stage(node, Stage::GivenUp);
            return self.tell(draft, node, RecoveryStep::GivenUp, hindrance.to_owned());
        }
        let Some(recovery) = self.recoveries.nodes.get_mut(node) else { return };
        match recovery.starts.next(now, policy) {
            Some(due) if due <= now => self.ask(draft, node),
            Some(due) => {
                recovery.stage = Stage::Waiting { due };
                let (made, words) = (recovery.starts.count(), in_words(&recovery.words));
                let (budget, pause) = (policy.budget, due.since(now).as_secs_f64());
                let detail = format!("start {} of {budget} in {pause} s{words}", made + 1);
                self.tell(draft, node, RecoveryStep::Waiting, detail);
            }
            None => {
                recovery.stage = Stage::GivenUp;
                let detail = format!(
                    "started {} times within {} s in vain{}; remove the cause, then recover the node",
                    recovery.starts.count(),
                    policy.window.as_secs_f64(),
                    in_words(&recovery.words)
                );
                self.set_status(draft, node, NodeStatus::Failed, Some(FaultCause::RestartFailed));
                self.tell(draft, node, RecoveryStep::GivenUp, detail);
            }
        }
    }

    /// What an earlier coordinator said of it, for example that nothing will start it, is not so any more.
    fn go_on_waiting(&mut self, draft: &mut Draft, node: &NodeId, due: Tick) {
        self.set_stage(node, Stage::Waiting { due });
        let pause = due.since(draft.now.tick).as_secs_f64();
        let detail = format!(
            "the coordinator was started again; start 1 of {} in {pause:.0} s unless it joins by itself",
            self.settings.restart.budget
        );
        self.tell(draft, node, RecoveryStep::Waiting, detail);
    }

    fn ask(&mut self, draft: &mut Draft, node: &NodeId) {
        let now = draft.now.tick;
        let (budget, timeout) = (self.settings.restart.budget, self.settings.restart.start_timeout);
        let recovery = self.recoveries.nodes.entry(node.clone()).or_default();
        let made = recovery.starts.note(now);
        self.recoveries.attempted += 1;
        let start = self.recoveries.attempted;
        recovery.stage = Stage::Starting { start, asked: now, deadline: now + timeout };
        let detail = format!("start {made} of {budget}{}", in_words(&recovery.words));
        let cause = recovery.cause.map_or("", FaultCause::as_str).to_owned();
        draft.effects.push(Effect::RestartProcess { node: node.clone(), start, cause });
        self.tell(draft, node, RecoveryStep::Restarting, detail);
    }

    fn start_failed(&mut self, draft: &mut Draft, node: &NodeId) {
        self.set_stage(node, Stage::Fallen);
        self.set_status(draft, node, NodeStatus::Failed, Some(FaultCause::RestartFailed));
        self.plan_start(draft, node);
    }

    fn overdue(&mut self, draft: &mut Draft, node: &NodeId) {
        if self.state.members.get(node).is_some_and(|member| member.status == NodeStatus::Active) {
            // The process that was to be replaced is there again.
            return self.set_stage(node, Stage::Idle);
        }
        let timeout = self.settings.restart.start_timeout.as_secs_f64();
        if let Some(recovery) = self.recoveries.nodes.get_mut(node) {
            recovery.words = format!("it did not join within {timeout} s of its start");
        }
        self.start_failed(draft, node);
    }

    /// A new process of a node joined: tells what was done and what it got.
    fn returned(&mut self, draft: &mut Draft, node: &NodeId, asked: Option<Tick>) {
        let now = draft.now.tick;
        self.set_stage(node, Stage::Linking { since: now });
        let mut detail = "its process was started by somebody else".to_owned();
        if let Some(asked) = asked {
            detail = format!("its new process joined after {:.1} s", now.since(asked).as_secs_f64());
        }
        self.tell(draft, node, RecoveryStep::Restarted, detail);
        let given = draft.events.iter().filter(|event| {
            matches!(event, Event::Run { event: RunEvent::TaskAssigned { node: to, .. }, .. } if to == node)
        });
        let given = given.count();
        let revoked = draft.effects.iter().filter(|effect| {
            matches!(effect, Effect::Send { node: to, message: Message::Revoke { .. }, .. } if to == node)
        });
        let revoked = revoked.count();
        let held = self.presences.get(node).map_or(0, |presence| presence.running.len());
        let detail = format!("{} attempts adopted, {revoked} revoked", held.saturating_sub(given));
        self.tell(draft, node, RecoveryStep::Synced, detail);
        let waiting = self.state.waiting_tasks();
        let detail = format!("{given} waiting tasks moved to it, {waiting} wait");
        self.tell(draft, node, RecoveryStep::Rebalanced, detail);
        self.linked(draft, node, now);
    }

    /// Tells once the links of a node that came back are up.
    fn linked(&mut self, draft: &mut Draft, node: &NodeId, since: Tick) {
        let Some(links) = self.links_up(draft.now.tick, node) else { return };
        self.set_stage(node, Stage::Idle);
        let after = draft.now.tick.since(since).as_secs_f64();
        self.tell(
            draft,
            node,
            RecoveryStep::Linked,
            format!("{links} links to and from it are up after {after:.1} s"),
        );
    }

    /// How many links to and from a node there are, if none that should be is missing.
    fn links_up(&self, now: Tick, node: &NodeId) -> Option<usize> {
        let is_active = |peer: &&NodeId| self.status(peer) == Some(NodeStatus::Active);
        let mut dialled = self.links.dials(node).filter(is_active);
        let mut watching = self.links.observers(node).filter(is_active);
        let count = dialled.clone().count() + watching.clone().count();
        let all_live = dialled.all(|peer| self.is_live(now, node, peer))
            && watching.all(|peer| self.is_live(now, peer, node));
        all_live.then_some(count)
    }

    fn set_stage(&mut self, node: &NodeId, stage: Stage) {
        if let Some(recovery) = self.recoveries.nodes.get_mut(node) {
            recovery.stage = stage;
        }
    }

    pub(super) fn tell(&mut self, draft: &mut Draft, node: &NodeId, step: RecoveryStep, detail: String) {
        self.record(draft, Event::NodeRecovery { node: node.clone(), step, detail });
    }
}

fn in_words(words: &str) -> String {
    if words.is_empty() { String::new() } else { format!("; {words}") }
}
