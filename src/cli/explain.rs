//! `lintmesh explain`: why the tasks of a run are where they are.

use serde_json::{Value, json};

use super::connect::ServerArgs;
use super::exit::Exit;
use super::{output, task_name, time};
use crate::linters::report::visible;
use crate::proto::v1::{
    AttemptInfo, Candidate, ExplainTaskRequest, ExplainTaskResponse, Obstacle, PendingStage, RefusalReason,
    RunState, Stage, TaskExplanation, TaskPosition,
};

/// Pages that are asked for at most; a run may have more tasks than anybody reads.
const MOST_PAGES: usize = 100;

/// Arguments of `explain`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 told, 2 an error, for example an unknown run or task")]
pub(super) struct ExplainArgs {
    /// The run, as `lintmesh runs` names it
    #[arg(value_name = "RUN")]
    run: String,
    /// The number of a task; without it all tasks that are not over are told
    #[arg(value_name = "TASK", value_parser = clap::value_parser!(u64).range(1..))]
    task: Option<u64>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub(super) async fn run(args: ExplainArgs) -> anyhow::Result<Exit> {
    let mut client = args.server.connect().await?.coordinator();
    let mut request = ExplainTaskRequest {
        run_id: args.run,
        task_id: args.task.unwrap_or(0),
        ..ExplainTaskRequest::default()
    };
    let mut told = client.explain_task(request.clone()).await?.into_inner();
    for _ in 1..MOST_PAGES {
        if told.next_page_token.is_empty() {
            break;
        }
        request.page_token = std::mem::take(&mut told.next_page_token);
        let page = client.explain_task(request.clone()).await?.into_inner();
        told.tasks.extend(page.tasks);
        told.next_page_token = page.next_page_token;
    }
    if args.json {
        output::print_line(&format!("{:#}", as_json(&told)))?;
    } else {
        output::print(screen(&told, args.task.is_some()).as_bytes())?;
    }
    Ok(Exit::Success)
}

fn screen(told: &ExplainTaskResponse, single: bool) -> String {
    let state = match told.state() {
        RunState::Finished => "it has ended".to_owned(),
        _ => format!("tasks that are not over: {}", told.unfinished_tasks),
    };
    let mut text = format!("{}: {state}\n", told.run_id);
    // Alike candidates are told once: hundreds of tasks may wait for the same.
    let mut last: Option<&Vec<Candidate>> = None;
    for task in &told.tasks {
        text.push('\n');
        text.push_str(&task_text(task, single || last != Some(&task.candidates)));
        last = Some(&task.candidates);
    }
    if !single {
        let pending: String = told.pending_stages.iter().map(pending_text).collect();
        if !pending.is_empty() {
            text.push('\n');
            text.push_str(&pending);
        }
    }
    if !told.next_page_token.is_empty() {
        text.push_str("\nmore tasks follow; name one by its number\n");
    }
    text
}

fn task_text(task: &TaskExplanation, with_candidates: bool) -> String {
    let name = task.task.as_ref().map(|of| format!("{} {}", of.task_id, task_name(of))).unwrap_or_default();
    let mut text =
        format!("task {}: {}, {}\n", visible(&name), position(task.position()), visible(&task.reason));
    if !task.remedy.is_empty() {
        text.push_str(&format!("  -> {}\n", visible(&task.remedy)));
    }
    for attempt in &task.attempts {
        text.push_str(&format!("  {}\n", attempt_text(attempt)));
    }
    if task.counted_attempts > 0 {
        text.push_str(&format!(
            "  {} of {} attempts are used up\n",
            task.counted_attempts, task.max_attempts
        ));
    }
    if task.candidates.is_empty() {
        return text;
    }
    if !with_candidates {
        text.push_str("  nodes: as above\n");
        return text;
    }
    let mut rows = vec![
        ["", "NODE", "RANK", "SUITABILITY", "MATCH", "WEIGHT", "LOAD", "REFUSED BECAUSE"]
            .map(String::from)
            .to_vec(),
    ];
    rows.extend(task.candidates.iter().map(|node| {
        let rank = match (node.rank, node.made_for) {
            (0, _) => "-".to_owned(),
            (rank, true) => rank.to_string(),
            (rank, false) => format!("{rank} (fallback)"),
        };
        let refusals: Vec<String> =
            node.refusals.iter().map(|refusal| visible(&refusal.detail).into_owned()).collect();
        vec![
            String::new(),
            visible(&node.node_id).into_owned(),
            rank,
            format!("{:.3}", node.suitability),
            format!("{:.2}", node.capability_match),
            format!("{:.2}", node.priority_weight),
            format!("{:.2}", node.load_score),
            refusals.join("; "),
        ]
    }));
    text.push_str(&output::table(&rows));
    text
}

fn attempt_text(attempt: &AttemptInfo) -> String {
    let detail = match attempt.detail.as_str() {
        "" => String::new(),
        detail => format!(": {}", visible(detail)),
    };
    let end =
        attempt.end_time.as_ref().map(|end| format!(" to {}", time::utc(Some(end)))).unwrap_or_default();
    format!(
        "attempt {} on {}, {}{end}: {}{detail}",
        visible(&attempt.attempt),
        visible(&attempt.node_id),
        time::utc(attempt.start_time.as_ref()),
        visible(&attempt.outcome),
    )
}

fn pending_text(pending: &PendingStage) -> String {
    let named: Vec<String> =
        pending.waits_for.iter().map(|task| format!("{} {}", task.task_id, task_name(task))).collect();
    let more = (pending.waits_for_tasks as usize).saturating_sub(named.len());
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    format!("{}: is made when these are over: {}{more}\n", stage(pending.stage()), visible(&named.join(", ")))
}

const fn stage(stage: Stage) -> &'static str {
    match stage {
        Stage::Unspecified => "task",
        Stage::Plan => "plan",
        Stage::Lint => "lint",
        Stage::Classify => "classify",
        Stage::Aggregate => "aggregate",
    }
}

const fn position(position: TaskPosition) -> &'static str {
    match position {
        TaskPosition::Unspecified => "somewhere",
        TaskPosition::Queued => "queued",
        TaskPosition::Running => "running",
        TaskPosition::Done => "done",
        TaskPosition::GivenUp => "given up",
        TaskPosition::Dropped => "dropped",
    }
}

/// A name of an enum of the protocol without the enum's own.
fn short(name: &str, prefix: &str) -> String {
    name.trim_start_matches(prefix).to_owned()
}

fn as_json(told: &ExplainTaskResponse) -> Value {
    json!({
        "run_id": told.run_id,
        "open": told.state() == RunState::Open,
        "unfinished_tasks": told.unfinished_tasks,
        "pending_stages": told.pending_stages.iter().map(|pending| json!({
            "stage": stage(pending.stage()),
            "waits_for_tasks": pending.waits_for_tasks,
            "waits_for": pending.waits_for.iter().map(|task| task.task_id).collect::<Vec<_>>(),
        })).collect::<Vec<_>>(),
        "tasks": told.tasks.iter().map(task_json).collect::<Vec<_>>(),
        "complete": told.next_page_token.is_empty(),
    })
}

fn task_json(task: &TaskExplanation) -> Value {
    let of = task.task.clone().unwrap_or_default();
    let obstacle = match task.obstacle() {
        Obstacle::Unspecified => Value::Null,
        obstacle => short(obstacle.as_str_name(), "OBSTACLE_").into(),
    };
    json!({
        "task_id": of.task_id,
        "task": task_name(&of),
        "position": short(task.position().as_str_name(), "TASK_POSITION_"),
        "reason": task.reason,
        "remedy": task.remedy,
        "obstacle": obstacle,
        "counted_attempts": task.counted_attempts,
        "max_attempts": task.max_attempts,
        "attempts": task.attempts.iter().map(|attempt| json!({
            "attempt": attempt.attempt,
            "node_id": attempt.node_id,
            "start": attempt.start_time.as_ref().map(time::rfc3339),
            "end": attempt.end_time.as_ref().map(time::rfc3339),
            "outcome": attempt.outcome,
            "detail": attempt.detail,
            "counts": attempt.counts,
        })).collect::<Vec<_>>(),
        "candidates": task.candidates.iter().map(candidate_json).collect::<Vec<_>>(),
    })
}

fn candidate_json(node: &Candidate) -> Value {
    json!({
        "node_id": node.node_id,
        "rank": (node.rank > 0).then_some(node.rank),
        "made_for": node.made_for,
        "suitability": node.suitability,
        "capability_match": node.capability_match,
        "priority_weight": node.priority_weight,
        "load_score": node.load_score,
        "task_load": node.task_load,
        "capability_load": node.capability_load,
        "resource_load": node.resource_load,
        "refused": node.refusals.iter().map(|refusal| json!({
            "reason": short(RefusalReason::try_from(refusal.reason).unwrap_or_default().as_str_name(), "REFUSAL_REASON_"),
            "detail": refusal.detail,
            "retry_after_seconds": refusal.retry_after.as_ref().and_then(|after| {
                std::time::Duration::try_from(*after).ok()
            }).map(|after| after.as_secs_f64()),
        })).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::v1::{Refusal, TaskRef};

    fn waiting(id: u64) -> TaskExplanation {
        let refusal = Refusal {
            reason: RefusalReason::ToolMissing.into(),
            detail: "it does not have ruff\u{1b}[31m".into(),
            retry_after: None,
        };
        TaskExplanation {
            task: Some(TaskRef {
                task_id: id,
                stage: Stage::Lint.into(),
                tool: "ruff".into(),
                shard: 1,
                shards: 2,
            }),
            position: TaskPosition::Queued.into(),
            reason: "none of 1 nodes has its tool".into(),
            remedy: "start a node that has ruff".into(),
            obstacle: Obstacle::Tool.into(),
            candidates: vec![Candidate {
                node_id: "backend-dev".into(),
                refusals: vec![refusal],
                ..Default::default()
            }],
            ..Default::default()
        }
    }

    fn told() -> ExplainTaskResponse {
        let pending = PendingStage {
            stage: Stage::Aggregate.into(),
            waits_for_tasks: 2,
            waits_for: waiting(2).task.into_iter().collect(),
        };
        ExplainTaskResponse {
            run_id: "run-1".into(),
            state: RunState::Open.into(),
            unfinished_tasks: 2,
            pending_stages: vec![pending],
            tasks: vec![waiting(2), waiting(3)],
            next_page_token: String::new(),
        }
    }

    #[test]
    fn the_text_names_reason_remedy_and_refusals_once_and_cannot_move_the_cursor() {
        let text = screen(&told(), false);
        assert!(text.contains("task 2 lint ruff 1/2: queued, none of 1 nodes has its tool"), "{text}");
        assert!(text.contains("-> start a node that has ruff"), "{text}");
        assert_eq!(text.matches("it does not have ruff").count(), 1, "{text}");
        assert!(text.contains("nodes: as above"), "{text}");
        assert!(
            text.contains("aggregate: is made when these are over: 2 lint ruff 1/2 and 1 more"),
            "{text}"
        );
        assert!(!text.contains('\u{1b}'), "{text:?}");
    }

    #[test]
    fn the_json_has_the_same() {
        let json = as_json(&told());
        assert_eq!(json["tasks"][0]["obstacle"], "TOOL");
        assert_eq!(json["tasks"][0]["candidates"][0]["refused"][0]["reason"], "TOOL_MISSING");
        assert_eq!(json["tasks"][0]["candidates"][0]["rank"], Value::Null);
        assert_eq!(json["pending_stages"][0]["waits_for"][0], 2);
    }
}
