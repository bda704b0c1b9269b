//! Whether the nodes can be reached.

use super::probing::{PathProbe, ProbeOutcome};
use super::{
    DiagnosisResult, Examination, Figure, Finding, FindingSeverity, NodeCommunication, Section,
    SectionDiagnosis,
};
use crate::coordinator::Coordinator;
use crate::coordinator::node::Member;
use crate::types::{FaultCause, NodeId, NodeStatus};

/// Share of the links among ACTIVE nodes below which they are rebuilt. Source: the operations manual, "Connection
/// Optimization".
const ENOUGH_LINKS: f64 = 0.8;

impl Coordinator {
    pub(super) fn communication(&self, examination: &Examination) -> SectionDiagnosis {
        let names: Vec<String> = match &examination.node {
            Some(name) => vec![name.clone()],
            None => self.state.members.keys().map(ToString::to_string).collect(),
        };
        let (mut findings, mut nodes) = (Vec::new(), std::collections::BTreeMap::new());
        for name in names {
            let known = NodeId::new(&name).ok().and_then(|id| self.state.members.get_key_value(&id));
            let Some((id, member)) = known else {
                findings.push(self.not_found(&name));
                nodes.insert(name, unknown());
                continue;
            };
            let node = self.reached(id, member, examination);
            findings.extend(status_finding(&name, &node, member.drained));
            findings.extend(probe_findings(&name, &node));
            nodes.insert(name, node);
        }
        let (figure, finding) = self.links();
        findings.extend(finding.filter(|_| examination.node.is_none()));
        let mut told = SectionDiagnosis::of(Section::Communication, findings, figure.into_iter().collect());
        told.nodes = nodes;
        if told.nodes.is_empty() {
            told.result = DiagnosisResult::NotMeasured;
        }
        told
    }

    fn not_found(&self, name: &str) -> Finding {
        Finding {
            code: "node_not_found",
            severity: FindingSeverity::Critical,
            node: Some(name.to_owned()),
            evidence: format!("none of the {} nodes of the mesh has this name", self.state.members.len()),
            remedy:
                "correct the name, or declare the node with InitializeMesh; `lintmesh status` lists all nodes"
                    .to_owned(),
        }
    }

    fn reached(&self, id: &NodeId, member: &Member, examination: &Examination) -> NodeCommunication {
        let heard = examination.heard.get(id);
        NodeCommunication {
            status: Some(member.status),
            cause: member.cause,
            detail: member.detail.clone(),
            last_heartbeat_age: heard.map(|heard| examination.began.since(*heard)),
            connection_count: u32::try_from(self.live_links(id).count()).unwrap_or(u32::MAX),
            probes: examination.probes.iter().filter(|probe| probe.to == *id).cloned().collect(),
        }
    }

    /// The share of the links among the ACTIVE nodes that live, if there are nodes that take links.
    fn links(&self) -> (Option<Figure>, Option<Finding>) {
        let linking: Vec<&NodeId> = self
            .state
            .active()
            .filter(|(id, _)| self.presences.get(*id).is_some_and(|at| at.peer_endpoint.is_some()))
            .map(|(id, _)| id)
            .collect();
        // The plan may be sparser than a full mesh.
        let planned: usize = linking.iter().map(|id| self.links.dials(id).count()).sum();
        if planned == 0 {
            return (None, None);
        }
        let live: usize = linking.iter().map(|id| self.live_links(id).count()).sum();
        let share = live as f64 / planned as f64;
        let figure = Figure { name: "live_links", value: share, unit: "", threshold: Some(ENOUGH_LINKS) };
        let finding = (share < ENOUGH_LINKS).then(|| Finding {
            code: "links_missing",
            severity: FindingSeverity::Warning,
            node: None,
            evidence: format!("{live} of {planned} links between nodes are alive"),
            remedy: "verify the network between the nodes' machines and that their peer ports are open; `lintmesh fault \
                     rebuild --all` opens every link anew"
                .to_owned(),
        });
        (Some(figure), finding)
    }
}

fn unknown() -> NodeCommunication {
    NodeCommunication {
        status: None,
        cause: None,
        detail: String::new(),
        last_heartbeat_age: None,
        connection_count: 0,
        probes: Vec::new(),
    }
}

fn status_finding(name: &str, node: &NodeCommunication, is_drained: bool) -> Option<Finding> {
    let (code, severity) = match node.status? {
        NodeStatus::Active => return None,
        NodeStatus::Initializing => ("node_initializing", FindingSeverity::Warning),
        NodeStatus::Degraded => ("node_degraded", FindingSeverity::Warning),
        NodeStatus::Failed => ("node_failed", FindingSeverity::Critical),
    };
    let cause = match (node.cause, node.detail.as_str()) {
        (None, _) => String::new(),
        (Some(cause), "") => format!(" ({})", cause.as_str()),
        (Some(cause), detail) => format!(" ({}: {detail})", cause.as_str()),
    };
    let heard = match node.last_heartbeat_age {
        Some(age) => format!("last heard from {:.1} s ago", age.as_secs_f64()),
        None => "never heard from".to_owned(),
    };
    let status = node.status?;
    Some(Finding {
        code,
        severity,
        node: Some(name.to_owned()),
        evidence: format!("it is {status}{cause}, {heard}"),
        remedy: status_remedy(name, node.cause, is_drained),
    })
}

fn status_remedy(name: &str, cause: Option<FaultCause>, is_drained: bool) -> String {
    match cause {
        None => "start its process and let it reach the coordinator's node listener; its log tells what keeps it"
            .to_owned(),
        Some(FaultCause::Operator) => format!("`lintmesh fault recover {name}` when it may work again"),
        Some(FaultCause::Draining) if is_drained => {
            format!("`lintmesh fault recover {name}` when it may work again")
        }
        Some(FaultCause::Draining) => {
            "none is needed: it ends when its tasks are done; start it again to use it further".to_owned()
        }
        Some(FaultCause::ProcessExited) => {
            "see its log for why it ended; it is started again if the coordinator launched it, else start it".to_owned()
        }
        Some(FaultCause::RestartFailed) => {
            format!("see the server's log for why it does not start, mend that, then `lintmesh fault recover {name}`")
        }
        Some(FaultCause::Unreachable) => {
            "verify the network and firewall between the coordinator and its machine: its peers can reach it".to_owned()
        }
        Some(FaultCause::SessionLost | FaultCause::HeartbeatTimeout | FaultCause::Silent) => {
            "see whether its process runs or is stopped and whether its machine is overloaded; restart it, or verify \
             the network and firewall between the coordinator and its machine"
                .to_owned()
        }
    }
}

fn probe_findings(name: &str, node: &NodeCommunication) -> Vec<Finding> {
    let (by_peers, direct): (Vec<&PathProbe>, Vec<&PathProbe>) =
        node.probes.iter().partition(|probe| probe.from.is_some());
    let reaching: Vec<String> = by_peers
        .iter()
        .filter(|probe| probe.is_answered())
        .filter_map(|probe| probe.from.as_ref().map(ToString::to_string))
        .collect();
    let finding = |code, severity, evidence, remedy: &str| Finding {
        code,
        severity,
        node: Some(name.to_owned()),
        evidence,
        remedy: remedy.to_owned(),
    };
    let mut findings = Vec::new();
    for probe in direct.iter().filter(|probe| !probe.is_answered()) {
        let evidence = match probe.outcome {
            ProbeOutcome::Impossible(why) => format!("the coordinator cannot probe it: {why}"),
            _ => "it did not answer the coordinator's probe in time".to_owned(),
        };
        if reaching.is_empty() {
            findings.push(finding(
                "probe_failed",
                FindingSeverity::Critical,
                evidence,
                "see whether its process runs or is stopped; restart it, or verify the network and firewall between the \
                 coordinator and its machine",
            ));
        } else {
            findings.push(finding(
                "reached_by_peers_only",
                FindingSeverity::Critical,
                format!("{evidence}; {} can reach it", reaching.join(", ")),
                "verify the network and firewall between the coordinator and its machine",
            ));
        }
    }
    let unreached: Vec<String> = by_peers
        .iter()
        .filter(|probe| !probe.is_answered())
        .filter_map(|probe| Some(format!("{} ({})", probe.from.as_ref()?, probe.result())))
        .collect();
    if !unreached.is_empty() && direct.iter().any(|probe| probe.is_answered()) {
        findings.push(finding(
            "peer_probe_failed",
            FindingSeverity::Warning,
            format!("the coordinator reaches it, but not {}", unreached.join(", ")),
            "verify the network and firewall between those machines and that its peer port is open",
        ));
    }
    findings
}
