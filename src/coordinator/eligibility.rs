//! What keeps a node from taking a task: the scheduler acts on it and ExplainTask tells it, so the two cannot differ.

use std::collections::{BTreeMap, BTreeSet};

use super::breaker::TripReason;
use super::node::{Member, Presence};
use super::placement::{Mesh, Need, covers};
use crate::types::{FaultCause, NodeId, NodeStatus, Tick, ToolName};

/// One reason why a node may not take a task now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// It is not ACTIVE.
    Status {
        /// What it is.
        status: NodeStatus,
        /// Why.
        cause: Option<FaultCause>,
    },
    /// It has no session, so nothing can be sent to it.
    NotConnected,
    /// Its breaker lets nothing through.
    Breaker {
        /// When an Open breaker lets its probe through; none while a probe is under way, whose result decides.
        next_probe: Option<Tick>,
        /// Why it opened.
        reason: Option<TripReason>,
    },
    /// It has some needed capabilities neither as its own nor as a fallback.
    CapabilitiesMissing(BTreeSet<String>),
    /// It does not have the tool in the version that the run is pinned to.
    Tool {
        /// The tool.
        tool: ToolName,
        /// The version that the run is pinned to; none: the run was planned without the tool.
        wanted: Option<String>,
        /// The node's version; none: the tool is missing there.
        found: Option<String>,
    },
    /// It runs as many tasks as it may.
    NoFreeSlot {
        /// Tasks it runs.
        running: usize,
        /// Tasks it may run at a time.
        slots: u32,
    },
    /// The cores of its machine are taken, by its own tasks or those of other nodes there.
    CoresTaken {
        /// Cores in use.
        in_use: u32,
        /// Cores of the machine.
        cores: u32,
        /// Cores that the task needs.
        needed: u32,
    },
}

impl Refused {
    /// The reason in words, for people.
    pub fn describe(&self, now: Tick) -> String {
        match self {
            Refused::Status { status, cause: None } => format!("it is {status}"),
            Refused::Status { status, cause: Some(cause) } => format!("it is {status} ({})", cause.as_str()),
            Refused::NotConnected => "it has no session with the coordinator".to_owned(),
            Refused::Breaker { next_probe, reason } => {
                let why = match reason {
                    None => "its circuit breaker lets nothing through",
                    Some(TripReason::ConsecutiveFailures) => {
                        "its circuit breaker is open: too many failures in a row"
                    }
                    Some(TripReason::SuccessRate) => "its circuit breaker is open: too few attempts end well",
                    Some(TripReason::ProbeFailed) => "its circuit breaker is open: the probe failed too",
                    Some(TripReason::DeclaredFailed) => {
                        "its circuit breaker is open: the node was declared FAILED"
                    }
                };
                match next_probe {
                    Some(at) => {
                        format!("{why}; it tries one task in {:.0} s", at.since(now).as_secs_f64().ceil())
                    }
                    None => format!("{why}; one task is tried now, and its result decides"),
                }
            }
            Refused::CapabilitiesMissing(names) => {
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                format!("it lacks {}", names.join(", "))
            }
            Refused::Tool { tool, wanted, found } => match (wanted, found) {
                (Some(wanted), Some(found)) => {
                    format!("it has {tool} {found}; the run is pinned to {wanted}")
                }
                (Some(wanted), None) => format!("it does not have {tool}; the run is pinned to {wanted}"),
                (None, found) => {
                    let found = found.as_deref().unwrap_or("none");
                    format!("it has {tool} {found}; the run was planned without the tool")
                }
            },
            Refused::NoFreeSlot { running, slots } => format!("it runs {running} of at most {slots} tasks"),
            Refused::CoresTaken { in_use, cores, .. } => {
                format!("{in_use} of {cores} cores of its machine are taken")
            }
        }
    }
}

/// One look at a node.
struct Look<'a> {
    mesh: &'a Mesh<'a>,
    member: &'a Member,
    presence: &'a Presence,
    need: &'a Need<'a>,
    cores_in_use: &'a BTreeMap<&'a str, u32>,
}

/// In the order in which they are told: first what takes longest to change.
const CHECKS: [fn(&Look<'_>) -> Option<Refused>; 7] =
    [by_status, by_session, by_breaker, by_capabilities, by_tool, by_slots, by_cores];

impl Mesh<'_> {
    /// What keeps a node from taking the task now, looked for only as far as the caller reads on. Empty: it may.
    /// `cores_in_use` is what [`Mesh::cores_in_use`] answers.
    pub fn refusals<'a>(
        &'a self,
        node: &NodeId,
        member: &'a Member,
        need: &'a Need<'a>,
        cores_in_use: &'a BTreeMap<&'a str, u32>,
    ) -> impl Iterator<Item = Refused> + 'a {
        let presence = self.presences.get(node);
        // A node that was never heard from has no session either, which goes without saying.
        let unheard = match member.status {
            NodeStatus::Active => Refused::NotConnected,
            status => Refused::Status { status, cause: member.cause },
        };
        let looks = presence.map(|presence| Look { mesh: self, member, presence, need, cores_in_use });
        presence.is_none().then_some(unheard).into_iter().chain(
            looks.into_iter().flat_map(|look| CHECKS.into_iter().filter_map(move |check| check(&look))),
        )
    }
}

fn by_status(look: &Look<'_>) -> Option<Refused> {
    let Member { status, cause, .. } = look.member;
    (*status != NodeStatus::Active).then_some(Refused::Status { status: *status, cause: *cause })
}

fn by_session(look: &Look<'_>) -> Option<Refused> {
    look.presence.session.is_none().then_some(Refused::NotConnected)
}

fn by_breaker(look: &Look<'_>) -> Option<Refused> {
    let breaker = &look.presence.breaker;
    let refused = || Refused::Breaker { next_probe: breaker.next_probe(), reason: breaker.trip_reason() };
    (!breaker.would_admit(look.mesh.now)).then(refused)
}

fn by_capabilities(look: &Look<'_>) -> Option<Refused> {
    let spec = &look.member.spec;
    if covers(look.need.capabilities, spec) {
        return None;
    }
    let has =
        |name: &&String| spec.capabilities.contains(*name) || spec.fallback_capabilities.contains(*name);
    let missing = look.need.capabilities.iter().filter(|name| !has(name)).cloned().collect();
    Some(Refused::CapabilitiesMissing(missing))
}

fn by_tool(look: &Look<'_>) -> Option<Refused> {
    let (tool, wanted) = look.need.tool?;
    let found = look.presence.tools.get(tool);
    (found.map(String::as_str) != wanted).then(|| Refused::Tool {
        tool: tool.clone(),
        wanted: wanted.map(str::to_owned),
        found: found.cloned(),
    })
}

fn by_slots(look: &Look<'_>) -> Option<Refused> {
    let (running, slots) = (look.presence.running.len(), look.member.spec.max_concurrent_tasks);
    (running >= slots as usize).then_some(Refused::NoFreeSlot { running, slots })
}

fn by_cores(look: &Look<'_>) -> Option<Refused> {
    let needed = look.need.cpu_slots;
    let cores = look.presence.cpu_slots;
    let in_use = look.cores_in_use.get(look.presence.host_id.as_str()).copied().unwrap_or(0);
    // A machine that says it has fewer cores than a task needs still works, one task at a time.
    (in_use + needed > cores.max(needed)).then_some(Refused::CoresTaken { in_use, cores, needed })
}
