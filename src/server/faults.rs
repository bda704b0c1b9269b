//! HandleFault: an operator's word about nodes.

use std::time::Duration;

use prost::Message as _;

use super::orders::{check_id, refused};
use super::service::{Service, stopped};
use crate::coordinator::decision::{Refusal, Reply};
use crate::coordinator::event::FaultAnswer;
use crate::coordinator::input::{FaultAction, FaultRequest, FaultTarget, Input};
use crate::proto::v1;
use crate::status::{ApiError, FieldViolation};
use crate::types::{Digest, NodeId};
use crate::wire;

/// The longest time that a drain may be given.
const MAX_DRAIN: Duration = Duration::from_secs(86_400);
/// Characters of a reason.
const MAX_REASON: usize = 512;

/// Has the request carried out. Everything that can be wrong with it is found before it takes effect.
pub async fn handle(
    service: &Service,
    request: v1::HandleFaultRequest,
) -> Result<v1::HandleFaultResponse, ApiError> {
    let (action, target) = checked(&request)?;
    let body = v1::HandleFaultRequest { fault_id: String::new(), ..request.clone() };
    let body = Digest::of(&body.encode_to_vec());
    tracing::info!(
        node = if request.all_nodes { "all" } else { &request.node_id },
        action = request.action().as_str_name(),
        reason = request.reason,
        "operator reports a fault"
    );
    let asked = FaultRequest { fault_id: request.fault_id.clone(), body, action, target };
    match service.engine.decide(Input::HandleFault(asked)).await.map_err(stopped)? {
        Reply::Fault(answer) => Ok(response(*answer, request.all_nodes)),
        Reply::Refused(Refusal::IdReused(id)) => Err(ApiError::IdReused { field: "fault_id", id }),
        Reply::Refused(refusal) => Err(refused(refusal)),
        Reply::Done | Reply::Welcome { .. } | Reply::Run(_) => {
            Err(ApiError::Internal { request_id: String::new() })
        }
    }
}

fn checked(request: &v1::HandleFaultRequest) -> Result<(FaultAction, FaultTarget), ApiError> {
    let mut bad = Vec::new();
    check_id("fault_id", &request.fault_id, &mut bad);
    if request.reason.chars().count() > MAX_REASON {
        bad.push(FieldViolation::new("reason", format!("must have at most {MAX_REASON} characters")));
    }
    let bound = match request.timeout.map(wire::time::span) {
        None => None,
        Some(Some(bound)) if bound <= MAX_DRAIN => Some(bound),
        Some(_) => {
            bad.push(FieldViolation::new("timeout", format!("must be 0 to {} s", MAX_DRAIN.as_secs())));
            None
        }
    };
    // A number that this release does not know is as unset.
    let action = match v1::FaultAction::try_from(request.action).unwrap_or_default() {
        v1::FaultAction::Unspecified => None,
        v1::FaultAction::Fail => Some(FaultAction::Fail),
        v1::FaultAction::Recover => Some(FaultAction::Recover),
        v1::FaultAction::Drain => Some(FaultAction::Drain { bound }),
        v1::FaultAction::ResetBreakers => Some(FaultAction::ResetBreaker),
        v1::FaultAction::RebuildConnections => Some(FaultAction::RebuildConnections),
        v1::FaultAction::Forget => Some(FaultAction::Forget),
    };
    if request.timeout.is_some() && !matches!(action, None | Some(FaultAction::Drain { .. })) {
        bad.push(FieldViolation::new("timeout", "is for FAULT_ACTION_DRAIN only"));
    }
    match (request.all_nodes, request.node_id.is_empty()) {
        (true, false) => bad.push(FieldViolation::new("node_id", "must be empty with all_nodes")),
        (true, true)
            if matches!(
                action,
                Some(FaultAction::Fail | FaultAction::Drain { .. } | FaultAction::Forget)
            ) =>
        {
            let text = "is for FAULT_ACTION_RECOVER, FAULT_ACTION_RESET_BREAKERS and \
                        FAULT_ACTION_REBUILD_CONNECTIONS only; name one node";
            bad.push(FieldViolation::new("all_nodes", text));
        }
        (false, true) => bad.push(FieldViolation::new("node_id", "is needed")),
        (true, true) | (false, false) => {}
    }
    let Some(action) = action else {
        let text = "must be FAULT_ACTION_FAIL, FAULT_ACTION_RECOVER, FAULT_ACTION_DRAIN, \
                    FAULT_ACTION_RESET_BREAKERS, FAULT_ACTION_REBUILD_CONNECTIONS or FAULT_ACTION_FORGET";
        bad.push(FieldViolation::new("action", text));
        return Err(ApiError::InvalidArgument(bad));
    };
    if !bad.is_empty() {
        return Err(ApiError::InvalidArgument(bad));
    }
    if request.all_nodes {
        return Ok((action, FaultTarget::All));
    }
    let unknown = || ApiError::NotFound { resource_type: "node", name: request.node_id.clone() };
    let node = NodeId::new(&request.node_id).map_err(|_| unknown())?;
    Ok((action, FaultTarget::Node(node)))
}

fn response(answer: FaultAnswer, all: bool) -> v1::HandleFaultResponse {
    let names = |nodes: &[NodeId]| nodes.iter().map(ToString::to_string).collect::<Vec<_>>();
    v1::HandleFaultResponse {
        failed_node: answer.nodes.first().filter(|_| !all).map(ToString::to_string).unwrap_or_default(),
        healthy_nodes: names(&answer.healthy_nodes),
        redistributed_tasks: answer
            .redistributed
            .iter()
            .map(|(run, task, to)| v1::RedistributedTask {
                run_id: run.to_string(),
                task: Some(wire::run::task_ref(task)),
                to_node_id: to.as_ref().map(ToString::to_string).unwrap_or_default(),
            })
            .collect(),
        new_topology_health: answer.topology_health,
        steps: answer.steps,
        nodes: names(&answer.nodes),
    }
}
