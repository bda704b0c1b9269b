//! The figures by which operators judge the mesh: the thirteen of the operations manual, and counts since the start.
//!
//! What cannot be measured is absent, never zero. `docs/operations.md` gives each figure's unit, window and formula.

mod window;

use std::collections::BTreeMap;
use std::ops::AddAssign;
use std::time::Duration;

pub use window::{STEP, WINDOW};

use super::Coordinator;
use super::event::{AttemptFault, Event, RunEvent};
use crate::types::{FaultCause, NodeId, NodeStatus, Outcome, Tick};
use window::SlidingWindow;

/// Messages between coordinator and nodes since this process started, as the shell counts them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Messages sent and received.
    pub messages: u64,
    /// Their bytes, before compression and encryption.
    pub bytes: u64,
    /// Sum of the times that messages took.
    pub latency: Duration,
    /// How many messages that sum is of.
    pub latency_samples: u64,
}

/// The thirteen figures of the operations manual, "Metrics Collection".
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Figures {
    /// Nodes that are ACTIVE.
    pub active_nodes: u32,
    /// Nodes, declared or joined.
    pub total_nodes: u32,
    /// Live links / the links that all nodes would have, 0 to 1.
    pub connectivity_percentage: f64,
    /// ACTIVE / all, 0 to 1.
    pub topology_health: f64,
    /// Mean time of a message, in seconds.
    pub average_message_latency: Option<f64>,
    /// Messages a second.
    pub message_throughput: Option<f64>,
    /// Tasks that ended well / tasks that ended, 0 to 1.
    pub task_completion_rate: Option<f64>,
    /// Nodes that were FAILED / all nodes, 0 to 1.
    pub node_failure_rate: Option<f64>,
    /// Recoveries that ended well / recoveries that ended, 0 to 1.
    pub recovery_success_rate: Option<f64>,
    /// Decisions that were agreed / decisions, 0 to 1.
    pub consensus_agreement_rate: Option<f64>,
    /// Share of the hosts' CPU that nodes and their linters use, 0 to 1.
    pub total_cpu_usage: Option<f64>,
    /// Share of the hosts' memory that nodes and their linters hold, 0 to 1.
    pub total_memory_usage: Option<f64>,
    /// Bytes a second.
    pub network_bandwidth_usage: Option<f64>,
}

/// Counts since this process started; they only grow.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Totals {
    /// Attempts that ended, by how: `accepted`, `failed`, `rejected`, `lost`, `deadline`, `taken_back`.
    pub attempts: BTreeMap<&'static str, u64>,
    /// Runs that ended, by how.
    pub runs: BTreeMap<Outcome, u64>,
    /// Tasks that used up their attempts.
    pub given_up: u64,
    /// Process starts of nodes that joined.
    pub joins: u64,
    /// Changes of a node's status, by the new status and its cause.
    pub transitions: BTreeMap<(NodeStatus, Option<FaultCause>), u64>,
    /// Recoveries that ended, by whether the node came back.
    pub recoveries: BTreeMap<bool, u64>,
}

/// What is counted over the window.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    done: u64,
    given_up: u64,
    recovered: u64,
    not_recovered: u64,
    traffic: Traffic,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, more: Self) {
        self.done += more.done;
        self.given_up += more.given_up;
        self.recovered += more.recovered;
        self.not_recovered += more.not_recovered;
        self.traffic.messages += more.traffic.messages;
        self.traffic.bytes += more.traffic.bytes;
        self.traffic.latency = self.traffic.latency.saturating_add(more.traffic.latency);
        self.traffic.latency_samples += more.traffic.latency_samples;
    }
}

/// A node's last time of being FAILED.
#[derive(Debug, Clone, Copy)]
struct Failure {
    since: Tick,
    /// When it was over; none while it lasts.
    ended: Option<Tick>,
    /// Whether it is still open how its recovery ends.
    recovering: bool,
}

/// What the figures are measured from. Volatile: it begins anew with each coordinator start.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    window: SlidingWindow<Counts>,
    failures: BTreeMap<NodeId, Failure>,
    /// What the shell told last.
    seen: Traffic,
    /// Whether it tells anything: without it there is no throughput.
    tells_traffic: bool,
    totals: Totals,
}

impl Metrics {
    /// Takes note of a fact.
    pub(super) fn observe(&mut self, now: Tick, event: &Event) {
        match event {
            Event::NodeJoined { .. } => self.totals.joins += 1,
            Event::NodeStatusChanged { node, status, cause } => self.status(now, node, *status, *cause),
            // It is not among the nodes of which the failed ones are a share.
            Event::NodeForgotten(node) => {
                self.failures.remove(node);
            }
            Event::Run { event, .. } => self.run_event(now, event),
            _ => {}
        }
    }

    fn run_event(&mut self, now: Tick, event: &RunEvent) {
        let outcome = match event {
            RunEvent::TaskAccepted { .. } => {
                self.window.add(now, Counts { done: 1, ..Counts::default() });
                "accepted"
            }
            RunEvent::AttemptFailed { cause, .. } => match cause {
                AttemptFault::Failed => "failed",
                AttemptFault::Rejected => "rejected",
                AttemptFault::Lost => "lost",
                AttemptFault::Deadline => "deadline",
                AttemptFault::Hung => "hung",
            },
            RunEvent::Redistributed { tasks, .. } => {
                *self.totals.attempts.entry("taken_back").or_default() += tasks.len() as u64;
                return;
            }
            RunEvent::TaskGivenUp { .. } => {
                self.window.add(now, Counts { given_up: 1, ..Counts::default() });
                self.totals.given_up += 1;
                return;
            }
            RunEvent::Finished { outcome, .. } => {
                *self.totals.runs.entry(*outcome).or_default() += 1;
                return;
            }
            _ => return,
        };
        *self.totals.attempts.entry(outcome).or_default() += 1;
    }

    fn status(&mut self, now: Tick, node: &NodeId, status: NodeStatus, cause: Option<FaultCause>) {
        *self.totals.transitions.entry((status, cause)).or_default() += 1;
        let open = self.failures.get_mut(node).filter(|failure| failure.ended.is_none());
        match (status, open) {
            // An operator's word is a decision, not a failure, and ends what was one.
            (NodeStatus::Failed, Some(failure)) if is_by_choice(cause) => {
                failure.ended = Some(now);
                failure.recovering = false;
            }
            (NodeStatus::Failed, Some(failure))
                if cause == Some(FaultCause::RestartFailed) && failure.recovering =>
            {
                failure.recovering = false;
                self.recovery_ended(now, false);
            }
            (NodeStatus::Failed, None) if !is_by_choice(cause) => {
                let failure = Failure { since: now, ended: None, recovering: true };
                self.failures.insert(node.clone(), failure);
            }
            (NodeStatus::Active, Some(failure)) => {
                failure.ended = Some(now);
                if std::mem::take(&mut failure.recovering) {
                    self.recovery_ended(now, true);
                }
            }
            _ => {}
        }
    }

    /// A node that was FAILED under an earlier coordinator still is, and perhaps its recovery goes on.
    pub(super) fn take_up_failure(
        &mut self,
        now: Tick,
        node: &NodeId,
        cause: Option<FaultCause>,
        recovering: bool,
    ) {
        if !is_by_choice(cause) {
            self.failures.insert(node.clone(), Failure { since: now, ended: None, recovering });
        }
    }

    fn recovery_ended(&mut self, now: Tick, well: bool) {
        *self.totals.recoveries.entry(well).or_default() += 1;
        let (recovered, not_recovered) = (u64::from(well), u64::from(!well));
        self.window.add(now, Counts { recovered, not_recovered, ..Counts::default() });
    }

    /// Takes note of what the shell counted since its start.
    pub(super) fn traffic(&mut self, now: Tick, traffic: Traffic) {
        let new = Traffic {
            messages: traffic.messages.saturating_sub(self.seen.messages),
            bytes: traffic.bytes.saturating_sub(self.seen.bytes),
            latency: traffic.latency.saturating_sub(self.seen.latency),
            latency_samples: traffic.latency_samples.saturating_sub(self.seen.latency_samples),
        };
        self.seen = traffic;
        self.tells_traffic = true;
        self.window.begin(now);
        if new != Traffic::default() {
            self.window.add(now, Counts { traffic: new, ..Counts::default() });
        }
    }

    /// Lets time pass: what is older than the window is forgotten, and a recovery that takes longer than `patience`
    /// has failed.
    pub(super) fn advance(&mut self, now: Tick, patience: Duration) {
        self.window.begin(now);
        self.window.forget(now);
        let late = self.failures.values_mut().filter(|it| it.recovering && now >= it.since + patience);
        let late = late.map(|failure| failure.recovering = false).count();
        for _ in 0..late {
            self.recovery_ended(now, false);
        }
        self.failures.retain(|_, failure| failure.is_in_window(now));
    }

    /// When the figures change next although nothing happens.
    pub(super) fn next_change(&self, patience: Duration) -> Option<Tick> {
        let of_failures = self.failures.values().filter_map(|failure| match failure.ended {
            Some(ended) => Some(ended + WINDOW),
            None => failure.recovering.then(|| failure.since + patience),
        });
        of_failures.chain(self.window.next_change()).min()
    }

    /// Counts since this process started.
    pub const fn totals(&self) -> &Totals {
        &self.totals
    }
}

/// Whether somebody decided so: then it is no failure.
const fn is_by_choice(cause: Option<FaultCause>) -> bool {
    matches!(cause, Some(FaultCause::Operator | FaultCause::Draining))
}

impl Failure {
    fn is_in_window(&self, now: Tick) -> bool {
        self.ended.is_none_or(|ended| now < ended + WINDOW)
    }
}

impl Coordinator {
    /// Measures the thirteen figures.
    pub fn figures(&self, now: Tick) -> Figures {
        let metrics = &self.metrics;
        let counts = metrics.window.sum(now);
        let traffic = counts.traffic;
        let seconds = metrics.window.covers(now).as_secs_f64();
        let a_second =
            |amount: u64| (metrics.tells_traffic && seconds > 0.0).then(|| amount as f64 / seconds);
        let total = self.state.members.len() as u64;
        let failed = metrics.failures.values().filter(|failure| failure.is_in_window(now)).count() as u64;
        let mean_latency = traffic.latency.as_secs_f64() / traffic.latency_samples.max(1) as f64;
        Figures {
            active_nodes: u32::try_from(self.state.active().count()).unwrap_or(u32::MAX),
            total_nodes: u32::try_from(total).unwrap_or(u32::MAX),
            connectivity_percentage: self.connectivity(),
            topology_health: self.state.health(),
            average_message_latency: (traffic.latency_samples > 0).then_some(mean_latency),
            message_throughput: a_second(traffic.messages),
            task_completion_rate: share(counts.done, counts.given_up),
            node_failure_rate: share(failed, total.saturating_sub(failed)),
            recovery_success_rate: share(counts.recovered, counts.not_recovered),
            // Nothing is decided by votes yet.
            consensus_agreement_rate: None,
            total_cpu_usage: self.usage(|load| load.cpu),
            total_memory_usage: self.usage(|load| load.memory),
            network_bandwidth_usage: a_second(traffic.bytes),
        }
    }

    /// Counts since this process started.
    pub const fn totals(&self) -> &Totals {
        self.metrics.totals()
    }

    /// The mean over hosts of what the nodes of a host use of it together; none if no connected node has measured.
    fn usage(&self, part: impl Fn(&crate::types::Load) -> f64) -> Option<f64> {
        let mut hosts: BTreeMap<&str, f64> = BTreeMap::new();
        for presence in self.presences.values().filter(|presence| presence.session.is_some()) {
            if presence.measured {
                *hosts.entry(&presence.host_id).or_default() += part(&presence.load);
            }
        }
        let sum: f64 = hosts.values().map(|used| used.clamp(0.0, 1.0)).sum();
        (!hosts.is_empty()).then(|| sum / hosts.len() as f64)
    }
}

/// The share of the first among both; none if there is neither.
fn share(part: u64, rest: u64) -> Option<f64> {
    let all = part + rest;
    (all > 0).then(|| part as f64 / all as f64)
}
