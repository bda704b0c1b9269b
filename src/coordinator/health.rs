//! The health of the mesh and of each node, measured from what the coordinator knows.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Coordinator;
use super::alert::Alert;
use super::breaker::State as BreakerState;
use super::links::LinkPlan;
use super::message::Topology;
use super::metrics::Figures;
use super::node::{LoadScore, Presence};
use super::placement::Need;
use super::run::Run;
use crate::types::{
    FaultCause, LinkReport, LinkState, NodeId, NodeStatus, Now, RunId, Stage, ToolName, UnixMillis,
};

/// The health of the mesh at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct MeshHealth {
    /// When.
    pub at: UnixMillis,
    /// Counts the decisions that changed something.
    pub revision: u64,
    /// ACTIVE / all.
    pub topology_health: f64,
    /// Live links.
    pub connections: u32,
    /// Links to hold now, between the nodes that are there.
    pub planned_connections: u32,
    /// Live links / those that all nodes would have.
    pub connectivity: f64,
    /// The shape in force.
    pub topology: Topology,
    /// ACTIVE nodes.
    pub active_nodes: u32,
    /// All nodes.
    pub total_nodes: u32,
    /// By node.
    pub nodes: BTreeMap<NodeId, NodeHealth>,
    /// By node: its own part of each tool's work that is done.
    pub node_progress: BTreeMap<NodeId, BTreeMap<ToolName, f64>>,
    /// By tool.
    pub integration_progress: BTreeMap<ToolName, f64>,
    /// Tasks that wait.
    pub queued_tasks: u32,
    /// Tasks that run.
    pub running_tasks: u32,
    /// Runs with work to do.
    pub open_runs: u32,
    /// The thirteen figures.
    pub figures: Figures,
    /// The alerts that are raised.
    pub alerts: Vec<Alert>,
    /// What the mesh still stands.
    pub tolerance: FaultTolerance,
}

/// How many nodes may still fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FaultTolerance {
    /// Nodes that may be other than ACTIVE at a time: fault_tolerance_level of all, rounded down.
    pub tolerated: u32,
    /// Nodes that are.
    pub unavailable: u32,
    /// Nodes that may still fail.
    pub remaining: u32,
}

/// The health of one node.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeHealth {
    /// Its status.
    pub status: NodeStatus,
    /// Why it is not ACTIVE.
    pub cause: Option<FaultCause>,
    /// The same in words, as far as more is known.
    pub detail: String,
    /// How busy it is.
    pub load: LoadScore,
    /// Since it was last heard from.
    pub last_heartbeat_age: Option<Duration>,
    /// When it was last heard from.
    pub last_heartbeat: Option<UnixMillis>,
    /// Its breaker.
    pub breaker: BreakerState,
    /// Tasks it runs.
    pub running_tasks: u32,
    /// Tasks that wait and are meant for it: it is the one made for them that suits best.
    pub queued_tasks: u32,
    /// Where other nodes reach it.
    pub peer_endpoint: Option<String>,
    /// Its process.
    pub process_id: u32,
    /// Its links, as it last told of them.
    pub links: Vec<LinkReport>,
    /// Those of them that are live.
    pub connection_count: u32,
    /// Its clock less the coordinator's, in milliseconds.
    pub clock_offset_ms: Option<i64>,
}

impl Coordinator {
    /// Measures. `tools` are the tools whose progress is shown even if no run has used them.
    pub fn mesh_health(&self, now: Now, tools: &[ToolName]) -> MeshHealth {
        let queued = self.queued_by_node(now);
        let nodes: BTreeMap<NodeId, NodeHealth> = self
            .state
            .members
            .iter()
            .map(|(id, member)| {
                let presence = self.presences.get(id);
                let health = NodeHealth {
                    status: member.status,
                    cause: member.cause,
                    detail: member.detail.clone(),
                    load: presence.map_or_else(LoadScore::default, |at| at.load_score(&member.spec)),
                    last_heartbeat_age: presence
                        .and_then(|at| at.heard_at)
                        .map(|(heard, _)| now.tick.since(heard)),
                    last_heartbeat: presence.and_then(|at| at.heard_at).map(|(_, wall)| wall),
                    breaker: presence.map_or(BreakerState::Closed, |at| at.breaker.state(now.tick)),
                    running_tasks: presence.map_or(0, |at| count(at.running.len())),
                    queued_tasks: queued.get(id).copied().unwrap_or(0),
                    peer_endpoint: presence.and_then(|at| at.peer_endpoint.clone()),
                    process_id: presence.map_or(0, |at| at.process_id),
                    links: presence.map(|at| self.told_links(id, at)).unwrap_or_default(),
                    connection_count: count(self.live_links(id).count()),
                    clock_offset_ms: presence.and_then(|at| at.clock_offset_ms),
                };
                (id.clone(), health)
            })
            .collect();
        let relevant = self.relevant_runs();
        let tasks = self.state.open_runs().map(|(_, run)| run.waiting_and_running());
        let (queued_tasks, running_tasks) =
            tasks.fold((0, 0), |(waiting, running), run| (waiting + run.0, running + run.1));
        MeshHealth {
            at: now.wall,
            revision: self.revision,
            topology_health: self.state.health(),
            connections: count(self.connections()),
            planned_connections: count(self.links.links().count()),
            connectivity: self.connectivity(),
            topology: self.topology(),
            active_nodes: count(self.state.active().count()),
            total_nodes: count(self.state.members.len()),
            nodes,
            node_progress: self.node_progress(&relevant),
            integration_progress: integration_progress(&relevant, tools),
            queued_tasks: count(queued_tasks),
            running_tasks: count(running_tasks),
            open_runs: count(self.state.open.len()),
            figures: self.figures(now.tick),
            alerts: self.alerts().collect(),
            tolerance: self.fault_tolerance(),
        }
    }

    /// Live links / those that all nodes would have; 1 if there are none to have.
    pub fn connectivity(&self) -> f64 {
        match LinkPlan::complete(self.links.topology(), self.state.members.len()) {
            0 => 1.0,
            complete => self.connections() as f64 / complete as f64,
        }
    }

    /// The shape in force.
    pub const fn topology(&self) -> Topology {
        self.links.topology()
    }

    fn connections(&self) -> usize {
        self.state.active().map(|(node, _)| self.live_links(node).count()).sum()
    }

    /// The peers to which a node holds a planned link that was lately measured alive, both being ACTIVE.
    pub fn live_links(&self, node: &NodeId) -> impl Iterator<Item = &NodeId> {
        let now = self.decided_at();
        self.links.dials(node).filter(move |peer| self.is_live(now, node, peer))
    }

    /// What a node told of the links it should hold, and its last word on those that were given up.
    fn told_links(&self, node: &NodeId, presence: &Presence) -> Vec<LinkReport> {
        let holds = |link: &&LinkReport| link.state != LinkState::Up || self.links.plans(node, &link.peer);
        presence.links.values().filter(holds).cloned().collect()
    }

    fn fault_tolerance(&self) -> FaultTolerance {
        let nodes = self.state.members.len();
        let tolerated = (self.settings.fault_tolerance_level * nodes as f64).floor() as u32;
        let unavailable = count(nodes - self.state.active().count());
        FaultTolerance { tolerated, unavailable, remaining: tolerated.saturating_sub(unavailable) }
    }

    /// How many waiting tasks are meant for each node.
    fn queued_by_node(&self, now: Now) -> BTreeMap<NodeId, u32> {
        let mesh = self.mesh(now.tick);
        let mut queued = BTreeMap::new();
        for ((stage, _), tasks) in self.state.open_runs().flat_map(|(_, run)| &run.waiting) {
            let need = Need { capabilities: self.settings.required.of(*stage), tool: None, cpu_slots: 0 };
            if let Some(node) = mesh.meant_for(&need) {
                *queued.entry(node.clone()).or_insert(0) += count(tasks.len());
            }
        }
        queued
    }

    /// The open runs, or the newest run if none is open.
    fn relevant_runs(&self) -> Vec<&Run> {
        let open: Vec<&Run> = self.state.open_runs().map(|(_, run)| run).collect();
        if open.is_empty() { self.newest_run().into_iter().collect() } else { open }
    }

    fn newest_run(&self) -> Option<&Run> {
        self.state.order.back().and_then(|id: &RunId| self.state.runs.get(id))
    }

    fn node_progress(&self, runs: &[&Run]) -> BTreeMap<NodeId, BTreeMap<ToolName, f64>> {
        let mut shares: BTreeMap<(NodeId, ToolName), (u64, u64)> = BTreeMap::new();
        for task in runs.iter().flat_map(|run| run.stage(Stage::Lint)) {
            let done = u64::from(task.output().is_some());
            for node in task.nodes() {
                if let Some(tool) = &task.task.tool {
                    let share = shares.entry((node.clone(), tool.clone())).or_default();
                    let cost = task.cost.max(1);
                    share.0 = share.0.saturating_add(done * cost);
                    share.1 = share.1.saturating_add(cost);
                }
            }
        }
        let mut progress: BTreeMap<NodeId, BTreeMap<ToolName, f64>> = BTreeMap::new();
        for ((node, tool), (done, all)) in shares {
            progress.entry(node).or_default().insert(tool, done as f64 / all as f64);
        }
        progress
    }
}

fn integration_progress(runs: &[&Run], tools: &[ToolName]) -> BTreeMap<ToolName, f64> {
    let mut sums: BTreeMap<ToolName, (f64, u32)> =
        tools.iter().map(|tool| (tool.clone(), (0.0, 0))).collect();
    for run in runs {
        for (tool, progress) in run.tool_progress() {
            let sum = sums.entry(tool).or_default();
            sum.0 += progress.fraction;
            sum.1 += 1;
        }
    }
    sums.into_iter()
        .map(|(tool, (sum, runs))| (tool, if runs == 0 { 0.0 } else { sum / f64::from(runs) }))
        .collect()
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
