//! What a status says, in the words of the screen and of the JSON.

use crate::proto::v1::{
    AlertSeverity, BreakerState, GetMeshStatusResponse, LinkState, MeshHealth, NodeHealth, NodeInfo,
    NodeStatus,
};

/// A share of ACTIVE nodes below this is a degraded system.
const DEGRADED_BELOW: f64 = 0.75;

/// Whether all nodes are ACTIVE, and there is one.
pub(super) fn is_ready(status: &GetMeshStatusResponse) -> bool {
    status.metrics.as_ref().is_some_and(|mesh| mesh.total_nodes > 0 && mesh.active_nodes == mesh.total_nodes)
}

/// Whether so few of the nodes are ACTIVE that the system is degraded.
pub(super) fn is_degraded(mesh: &MeshHealth) -> bool {
    mesh.system_health < DEGRADED_BELOW
}

/// How many of the planned links are not alive.
pub(super) const fn missing_connections(mesh: &MeshHealth) -> u32 {
    mesh.planned_connections.saturating_sub(mesh.connections)
}

/// A link that its node told to be other than alive.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BrokenLink<'a> {
    pub(super) from: &'a str,
    pub(super) to: &'a str,
    pub(super) state: &'static str,
}

/// The links that are not alive though both their nodes are there, as the nodes last told, by node.
pub(super) fn broken_links(mesh: &MeshHealth) -> Vec<BrokenLink<'_>> {
    let is_there = |id: &String| {
        let status = mesh.node_health.get(id).map(NodeHealth::status);
        matches!(status, Some(NodeStatus::Active | NodeStatus::Degraded))
    };
    let mut broken: Vec<BrokenLink<'_>> = mesh
        .node_health
        .iter()
        .flat_map(|(from, node)| node.links.iter().map(move |link| (from, link)))
        .filter(|(from, link)| is_there(from) && is_there(&link.peer_id))
        .filter_map(|(from, link)| {
            let state = match link.state() {
                LinkState::Up => return None,
                LinkState::Unspecified => "UNKNOWN",
                LinkState::Connecting => "CONNECTING",
                LinkState::Reset => "RESET",
                LinkState::Silent => "SILENT",
            };
            Some(BrokenLink { from, to: &link.peer_id, state })
        })
        .collect();
    broken.sort_by_key(|link| (link.from, link.to));
    broken
}

pub(super) fn node_status(node: &NodeInfo) -> &'static str {
    match node.status() {
        NodeStatus::Unspecified => "UNKNOWN",
        NodeStatus::Initializing => "INITIALIZING",
        NodeStatus::Active => "ACTIVE",
        NodeStatus::Degraded => "DEGRADED",
        NodeStatus::Failed => "FAILED",
    }
}

pub(super) fn breaker(node: &NodeInfo) -> &'static str {
    match node.breaker() {
        BreakerState::Unspecified => "",
        BreakerState::Closed => "closed",
        BreakerState::Open => "open",
        BreakerState::HalfOpen => "half-open",
    }
}

pub(super) const fn severity(severity: AlertSeverity) -> &'static str {
    match severity {
        AlertSeverity::Unspecified => "unknown",
        AlertSeverity::Warning => "warning",
        AlertSeverity::Critical => "critical",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::v1::LinkHealth;

    #[test]
    fn ready_means_every_node_is_active_and_there_is_one() {
        let status = |active_nodes, total_nodes| GetMeshStatusResponse {
            metrics: Some(MeshHealth { active_nodes, total_nodes, ..Default::default() }),
            ..Default::default()
        };
        assert!(is_ready(&status(4, 4)));
        assert!(!is_ready(&status(3, 4)));
        assert!(!is_ready(&GetMeshStatusResponse::default()));
    }

    #[test]
    fn three_of_four_nodes_are_not_yet_a_degraded_system() {
        let mesh = |system_health| MeshHealth { system_health, ..Default::default() };
        assert!(!is_degraded(&mesh(0.75)) && is_degraded(&mesh(0.74)));
    }

    #[test]
    fn links_that_are_not_alive_are_named_in_order_and_those_of_nodes_that_are_gone_are_not() {
        let link = |peer: &str, state: LinkState| LinkHealth {
            peer_id: peer.into(),
            state: state.into(),
            ..Default::default()
        };
        let node =
            |status: NodeStatus, links| NodeHealth { status: status.into(), links, ..Default::default() };
        let to = |peers: [&str; 3]| peers.map(|peer| link(peer, LinkState::Reset)).into();
        let mesh = MeshHealth {
            node_health: [
                ("b".to_owned(), node(NodeStatus::Degraded, to(["c", "a", "gone"]))),
                ("a".to_owned(), node(NodeStatus::Active, vec![link("b", LinkState::Up)])),
                ("c".to_owned(), node(NodeStatus::Active, vec![link("a", LinkState::Silent)])),
                ("gone".to_owned(), node(NodeStatus::Failed, to(["a", "b", "c"]))),
            ]
            .into(),
            connections: 1,
            planned_connections: 3,
            ..Default::default()
        };
        let broken = [
            BrokenLink { from: "b", to: "a", state: "RESET" },
            BrokenLink { from: "b", to: "c", state: "RESET" },
            BrokenLink { from: "c", to: "a", state: "SILENT" },
        ];
        assert_eq!(broken_links(&mesh), broken);
        assert_eq!(missing_connections(&mesh), 2);
    }
}
