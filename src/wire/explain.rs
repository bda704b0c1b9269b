//! Explanations on the wire.

use crate::coordinator::eligibility::Refused;
use crate::coordinator::explain::{Candidate, Obstacle, PendingStage, TaskExplanation};
use crate::coordinator::history::{AttemptEnding, AttemptStory};
use crate::coordinator::run::TaskState;
use crate::proto::v1;
use crate::types::{FaultCause, Tick};

use super::{run, time};

/// A task with its attempts. `budget` is how many may count before it is given up.
pub fn task(
    told: &TaskExplanation,
    attempts: &[AttemptStory],
    budget: u32,
    now: Tick,
) -> v1::TaskExplanation {
    let position = match told.state {
        TaskState::Queued if told.obstacle.is_none() => v1::TaskPosition::Dropped,
        TaskState::Queued => v1::TaskPosition::Queued,
        TaskState::Running { .. } => v1::TaskPosition::Running,
        TaskState::Done { .. } => v1::TaskPosition::Done,
        TaskState::GivenUp { .. } => v1::TaskPosition::GivenUp,
    };
    v1::TaskExplanation {
        task: Some(run::task_ref(&told.task)),
        position: position.into(),
        reason: told.reason(now),
        remedy: told.remedy(),
        obstacle: told.obstacle.map_or(v1::Obstacle::Unspecified, v1::Obstacle::from).into(),
        attempts: attempts.iter().map(attempt).collect(),
        counted_attempts: told.crashes,
        max_attempts: budget.saturating_add(1),
        candidates: told.candidates.iter().map(|told| candidate(told, now)).collect(),
        time_left: told.time_left.map(time::duration),
    }
}

/// A stage that waits for others.
pub fn pending_stage(pending: &PendingStage) -> v1::PendingStage {
    v1::PendingStage {
        stage: v1::Stage::from(pending.stage).into(),
        waits_for_tasks: u32::try_from(pending.waits_for).unwrap_or(u32::MAX),
        waits_for: pending.first.iter().map(run::task_ref).collect(),
    }
}

impl From<Obstacle> for v1::Obstacle {
    fn from(obstacle: Obstacle) -> Self {
        match obstacle {
            Obstacle::None => v1::Obstacle::None,
            Obstacle::Room => v1::Obstacle::Room,
            Obstacle::ProjectCap => v1::Obstacle::ProjectCap,
            Obstacle::Breaker => v1::Obstacle::Breaker,
            Obstacle::Absence => v1::Obstacle::Absence,
            Obstacle::Tool => v1::Obstacle::Tool,
            Obstacle::Capabilities => v1::Obstacle::Capabilities,
            Obstacle::Empty => v1::Obstacle::Empty,
        }
    }
}

fn candidate(told: &Candidate, now: Tick) -> v1::Candidate {
    v1::Candidate {
        node_id: told.node.to_string(),
        rank: told.rank.unwrap_or(0),
        refusals: told.refused.iter().map(|refused| refusal(refused, now)).collect(),
        made_for: told.is_made_for,
        suitability: told.suitability,
        capability_match: told.capability_match,
        priority_weight: told.priority_weight,
        load_score: told.load.score,
        task_load: told.load.tasks,
        capability_load: told.load.capabilities,
        resource_load: told.load.resources,
    }
}

fn refusal(refused: &Refused, now: Tick) -> v1::Refusal {
    let reason = match refused {
        Refused::Status { .. } => v1::RefusalReason::Status,
        Refused::NotConnected => v1::RefusalReason::NotConnected,
        Refused::Breaker { .. } => v1::RefusalReason::Breaker,
        Refused::CapabilitiesMissing(_) => v1::RefusalReason::Capabilities,
        Refused::Tool { found: None, .. } => v1::RefusalReason::ToolMissing,
        Refused::Tool { found: Some(_), .. } => v1::RefusalReason::ToolVersion,
        Refused::NoFreeSlot { .. } => v1::RefusalReason::NoFreeSlot,
        Refused::CoresTaken { .. } => v1::RefusalReason::CoresTaken,
    };
    let retry_after = match refused {
        Refused::Breaker { next_probe: Some(at), .. } => Some(time::duration(at.since(now))),
        _ => None,
    };
    v1::Refusal { reason: reason.into(), detail: refused.describe(now), retry_after }
}

fn attempt(told: &AttemptStory) -> v1::AttemptInfo {
    let (outcome, detail, counts) = match &told.ended {
        None => ("RUNNING", String::new(), false),
        Some((_, AttemptEnding::Accepted)) => ("ACCEPTED", String::new(), false),
        Some((_, AttemptEnding::Superseded)) => ("SUPERSEDED", String::new(), false),
        Some((_, AttemptEnding::Failed { cause, detail, counts })) => {
            (cause.as_str(), detail.clone(), *counts)
        }
        Some((_, AttemptEnding::TakenBack { cause, counts })) => {
            ("TAKEN_BACK", cause.map_or("", FaultCause::as_str).to_owned(), *counts)
        }
    };
    v1::AttemptInfo {
        attempt: told.attempt.to_string(),
        node_id: told.node.to_string(),
        start_time: Some(time::timestamp(told.started_at)),
        end_time: told.ended.as_ref().map(|(at, _)| time::timestamp(*at)),
        outcome: outcome.to_owned(),
        detail,
        counts,
    }
}
