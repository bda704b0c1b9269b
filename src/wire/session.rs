//! The coordinator's side of a node session: what a node says as inputs, what the core says as messages.

use crate::coordinator::input::{Assign, Hello, Message, Roster};
use crate::proto::peer::v1 as pb;
use crate::proto::peer::v1::mesh_message::Payload;
use crate::status::FieldViolation;
use crate::types::{AttemptRef, Incarnation, ToolName};

use super::peer::{Assignment, StageInputs, UnfinishedTask, attempt_of};
use super::specialist;

/// A Hello, or all that is wrong with it.
pub fn hello(message: pb::Hello) -> Result<Hello, Vec<FieldViolation>> {
    let declared = message.specialist.unwrap_or_default();
    let spec = specialist::read(declared, "hello.specialist");
    let mut bad = Vec::new();
    let mut attempts = |field: &str, refs: &[pb::AttemptRef]| -> Vec<AttemptRef> {
        let read = |(index, one): (usize, &pb::AttemptRef)| match attempt_of(Some(one)) {
            Ok(attempt) => Some(attempt),
            Err(error) => {
                bad.push(FieldViolation::new(format!("hello.{field}[{index}]"), error.to_string()));
                None
            }
        };
        refs.iter().enumerate().filter_map(read).collect()
    };
    let running = attempts("running", &message.running);
    let unacknowledged = attempts("unacknowledged", &message.unacknowledged);
    if message.incarnation == 0 {
        bad.push(FieldViolation::new("hello.incarnation", "must be greater than 0"));
    }
    let mut tools = std::collections::BTreeMap::new();
    for (name, version) in message.tools {
        match ToolName::new(&name) {
            Ok(tool) => {
                tools.insert(tool, version);
            }
            Err(error) => bad.push(FieldViolation::new("hello.tools", error.to_string())),
        }
    }
    match spec {
        Ok(spec) if bad.is_empty() => Ok(Hello {
            spec,
            incarnation: Incarnation(message.incarnation),
            host_id: message.host_id,
            cpu_slots: message.cpu_slots,
            toolchain_id: message.toolchain_id,
            tools,
            environment_class: message.environment_class,
            failure_domain: message.failure_domain,
            peer_endpoint: Some(message.peer_endpoint).filter(|endpoint| !endpoint.is_empty()),
            draining: message.draining,
            sandbox: message.sandbox,
            process_id: message.process_id,
            running,
            unacknowledged,
        }),
        spec => {
            bad.extend(spec.err().unwrap_or_default());
            Err(bad)
        }
    }
}

/// A message of the core as its payload on the wire.
pub fn payload(message: Message) -> Payload {
    match message {
        Message::Assign(assign) => Payload::TaskAssignment(pb::TaskAssignment {
            kind: Some(pb::task_assignment::Kind::Assign(assignment(*assign).to_proto())),
        }),
        Message::Revoke { attempt, reason } => Payload::TaskAssignment(pb::TaskAssignment {
            kind: Some(pb::task_assignment::Kind::Revoke(pb::Revoke {
                attempt: Some(attempt.to_proto()),
                reason,
            })),
        }),
        Message::Acknowledge(attempt) => Payload::ResultShare(pb::ResultShare {
            kind: Some(pb::result_share::Kind::Ack(pb::ResultAck { attempt: Some(attempt.to_proto()) })),
        }),
        Message::Probe { number } => {
            Payload::Heartbeat(pb::Heartbeat { kind: Some(pb::heartbeat::Kind::Probe(pb::Probe { number })) })
        }
        Message::ProbeRequest { subject, number } => Payload::Heartbeat(pb::Heartbeat {
            kind: Some(pb::heartbeat::Kind::ProbeRequest(pb::ProbeRequest {
                subject_id: subject.to_string(),
                number,
            })),
        }),
        Message::Roster(roster) => Payload::FaultTolerance(pb::FaultTolerance {
            kind: Some(pb::fault_tolerance::Kind::Roster(links(*roster))),
        }),
        Message::Forward { message, .. } => payload(*message),
        Message::Shutdown { reason } => Payload::FaultTolerance(pb::FaultTolerance {
            kind: Some(pb::fault_tolerance::Kind::Shutdown(pb::Shutdown { reason })),
        }),
    }
}

fn links(roster: Roster) -> pb::Roster {
    pb::Roster {
        version: roster.version,
        topology: roster.topology.as_str().to_owned(),
        dial: roster
            .dial
            .into_iter()
            .map(|peer| pb::PeerAddress {
                node_id: peer.node.to_string(),
                incarnation: peer.incarnation.0,
                endpoint: peer.endpoint,
                secret: String::new(),
            })
            .collect(),
        accept: roster
            .accept
            .into_iter()
            .map(|(node, incarnation)| pb::PeerAdmission {
                node_id: node.to_string(),
                incarnation: incarnation.0,
                secret_sha256: String::new(),
            })
            .collect(),
        rebuild: roster.rebuild,
    }
}

fn assignment(assign: Assign) -> Assignment {
    Assignment {
        key: assign.attempt,
        stage: assign.task.stage,
        shard: assign.task.shard,
        tool: assign.task.tool,
        timeout: assign.timeout,
        inputs: StageInputs {
            manifest: Some(assign.manifest),
            spec: Some(assign.spec),
            plan: assign.plan,
            outputs: assign.outputs,
            makers: assign.makers,
            failed: assign
                .failed
                .into_iter()
                .filter_map(|(task, reason)| {
                    Some(UnfinishedTask { tool: task.tool?, shard: task.shard, reason })
                })
                .collect(),
        },
        tree_root: assign.tree_root.map(Into::into),
        cpu_slots: assign.cpu_slots,
        capabilities: assign.capabilities.into_iter().collect(),
    }
}
