//! The coordinator's side of a node session: what a node says as inputs, what the core says as messages.

use crate::coordinator::input::Hello;
use crate::coordinator::message::{Assign, Message, Roster};
use crate::proto::peer::v1 as pb;
use crate::proto::peer::v1::mesh_message::Payload;
use crate::status::FieldViolation;
use crate::types::{AttemptRef, Incarnation, ToolName};

use super::peer::{Assignment, StageInputs, UnfinishedTask, attempt_of};
use super::specialist;

/// The most attempts of a kind that a node may name: far more than any runs at a time or holds results of.
const MOST_ATTEMPTS: usize = 1000;

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
        let named = refs.iter().take(MOST_ATTEMPTS).enumerate().filter_map(read).collect();
        if refs.len() > MOST_ATTEMPTS {
            let text = format!("names {} attempts; {MOST_ATTEMPTS} at most", refs.len());
            bad.push(FieldViolation::new(format!("hello.{field}"), text));
        }
        named
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
    if !message.peer_endpoint.is_empty() && !is_endpoint(&message.peer_endpoint) {
        let text = "must be http://HOST:PORT or https://HOST:PORT, at most 300 characters";
        bad.push(FieldViolation::new("hello.peer_endpoint", text));
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

/// Whether others can be told to dial this.
fn is_endpoint(text: &str) -> bool {
    text.len() <= 300
        && text.parse::<http::Uri>().is_ok_and(|uri| {
            matches!(uri.scheme_str(), Some("http" | "https"))
                && uri.port_u16().is_some_and(|port| port > 0)
                && uri.path_and_query().is_none_or(|path| path.as_str() == "/")
        })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_something_that_can_be_dialled() {
        for good in ["http://127.0.0.1:7000", "https://node-1.example.org:443", "http://[::1]:1"] {
            assert!(is_endpoint(good), "{good}");
        }
        let long = format!("http://{}:1", "x".repeat(300));
        for bad in
            ["127.0.0.1:7000", "ftp://a:1", "http://a", "http://a:0", "http://a:1/path", "http://", &long]
        {
            assert!(!is_endpoint(bad), "{bad}");
        }
    }

    #[test]
    fn a_hello_that_names_more_attempts_than_any_node_has_is_refused() {
        let named = |count: usize| {
            let attempt = pb::AttemptRef { run_id: "run".into(), task_id: 1, epoch: 1, number: 1 };
            let unacknowledged = vec![attempt; count];
            let refused = hello(pb::Hello { unacknowledged, ..Default::default() }).expect_err("says little");
            refused.iter().any(|violation| violation.field == "hello.unacknowledged")
        };
        assert!(!named(MOST_ATTEMPTS) && named(MOST_ATTEMPTS + 1));
    }
}
