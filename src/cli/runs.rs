//! `lintmesh runs`: the newest runs, or those of a time, a project, a state.

use std::time::SystemTime;

use anyhow::Context as _;
use serde_json::{Value, json};

use super::connect::ServerArgs;
use super::exit::Exit;
use super::run_view::QueueView;
use super::time::Moment;
use super::{outcome_name, output, time};
use crate::proto::v1::{ListRunsRequest, Run, RunState};

/// The most that one page of the server holds.
const PAGE: u32 = 500;

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum State {
    /// They have work to do
    Open,
    /// They have ended
    Finished,
}

/// Arguments of `runs`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
        lintmesh runs --state open                               what the service works on\n  \
        lintmesh runs --since 2h --project ledger                the runs of a project in the last two hours\n  \
        lintmesh runs --since 2026-11-20 --until 2026-11-21      the runs of a day\n  \
        lintmesh watch RUN, lintmesh report RUN                  what happened in one, and what it found")]
pub(super) struct RunsArgs {
    /// Only runs with this label
    #[arg(long, value_name = "LABEL", default_value = "", hide_default_value = true)]
    project: String,
    /// Only runs that are open, or only those that have ended
    #[arg(long, value_name = "STATE", value_enum)]
    state: Option<State>,
    /// The same as --state open
    #[arg(long, conflicts_with = "state")]
    open: bool,
    /// Only runs that were accepted then or later: a time before now (30m, 2h, 7d), a day (2026-11-20, in UTC), or a time
    /// (2026-11-20T12:00:00Z)
    #[arg(long, value_name = "TIME")]
    since: Option<Moment>,
    /// Only runs that were accepted before then; of a day this is its beginning
    #[arg(long, value_name = "TIME")]
    until: Option<Moment>,
    /// How many to list, newest first
    #[arg(long, value_name = "COUNT", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub(super) async fn run(args: RunsArgs) -> anyhow::Result<Exit> {
    let now = SystemTime::now();
    let moment = |time: &Option<Moment>| time.as_ref().map(|time| time.at(now));
    let (started_after, started_before) = (moment(&args.since), moment(&args.until));
    let state = match args.state {
        Some(State::Finished) => RunState::Finished,
        Some(State::Open) => RunState::Open,
        None if args.open => RunState::Open,
        None => RunState::Unspecified,
    };
    let connection = args.server.connect().await?;
    let mut client = connection.coordinator();
    let mut runs: Vec<Run> = Vec::new();
    let mut page_token = String::new();
    loop {
        let wanted = args.limit.saturating_sub(u32::try_from(runs.len()).unwrap_or(u32::MAX));
        let request = ListRunsRequest {
            project: args.project.clone(),
            state: state.into(),
            started_after,
            started_before,
            page_size: i32::try_from(wanted.min(PAGE)).unwrap_or(i32::MAX),
            page_token,
        };
        let page = client.list_runs(request).await.context("listing the runs")?.into_inner();
        let empty = page.runs.is_empty();
        runs.extend(page.runs);
        page_token = page.next_page_token;
        if page_token.is_empty() || empty || runs.len() >= args.limit as usize {
            break;
        }
    }
    runs.truncate(args.limit as usize);
    if args.json {
        let all: Vec<Value> = runs.iter().map(as_json).collect();
        output::print_line(&format!("{:#}", Value::Array(all)))?;
    } else {
        output::print(screen(&runs).as_bytes())?;
    }
    Ok(Exit::Success)
}

fn state(run: &Run) -> &'static str {
    if run.state() == RunState::Open { "OPEN" } else { outcome_name(run.outcome()) }
}

/// An open run's tasks, or its place in the queue, beside its state.
fn shown_state(run: &Run) -> String {
    let queue = run.progress.as_ref().map(QueueView::of).unwrap_or_default();
    match (run.state(), queue.waiting()) {
        (RunState::Open, Some(waiting)) => format!("OPEN: {waiting}"),
        (RunState::Open, None) => format!("OPEN: {} running, {} waiting", queue.running, queue.waiting),
        _ => state(run).to_owned(),
    }
}

fn screen(runs: &[Run]) -> String {
    if runs.is_empty() {
        return "no runs\n".to_owned();
    }
    let header = ["RUN", "STATE", "PROJECT", "PRIORITY", "STARTED", "TOOK", "FILES", "DIAGNOSTICS"];
    let mut rows = vec![header.map(String::from).to_vec()];
    for run in runs {
        let count = |value: fn(&crate::proto::v1::RunSummary) -> u32| {
            run.summary.as_ref().map(|s| value(s).to_string())
        };
        rows.push(vec![
            run.run_id.clone(),
            shown_state(run),
            run.project.clone(),
            run.priority.to_string(),
            time::utc(run.start_time.as_ref()),
            time::between(run.start_time.as_ref(), run.end_time.as_ref()),
            count(|summary| summary.files).unwrap_or_default(),
            count(|summary| summary.diagnostics).unwrap_or_default(),
        ]);
    }
    output::table(&rows)
}

fn as_json(run: &Run) -> Value {
    let queue = run.progress.as_ref().map(QueueView::of).unwrap_or_default();
    json!({
        "run_id": run.run_id,
        "state": state(run),
        "project": run.project,
        "priority": run.priority,
        "supersede_key": run.supersede_key,
        "waiting_tasks": queue.waiting,
        "running_tasks": queue.running,
        "runs_ahead": queue.ahead,
        "start_time": run.start_time.as_ref().map(time::rfc3339),
        "end_time": run.end_time.as_ref().map(time::rfc3339),
        "files": run.summary.as_ref().map(|summary| summary.files),
        "diagnostics": run.summary.as_ref().map(|summary| summary.diagnostics),
        "report_digest": run.report_digest,
        "detail": run.detail,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::v1::{Outcome, RunProgress, RunSummary};

    #[test]
    fn a_run_is_listed_with_its_outcome_or_as_open() {
        let ended = Run {
            run_id: "r2".into(),
            state: RunState::Finished.into(),
            outcome: Outcome::Incomplete.into(),
            summary: Some(RunSummary { files: 3, diagnostics: 7, ..Default::default() }),
            ..Default::default()
        };
        let progress = |waiting_tasks, running_tasks, runs_ahead| RunProgress {
            waiting_tasks,
            running_tasks,
            runs_ahead,
            ..Default::default()
        };
        let open = |progress| Run {
            run_id: "r1".into(),
            state: RunState::Open.into(),
            progress: Some(progress),
            ..Default::default()
        };
        let waits = Run { priority: -3, ..open(progress(4, 0, 2)) };
        let text = screen(&[ended.clone(), open(progress(3, 1, 0)), waits.clone()]);
        assert!(text.lines().nth(1).is_some_and(|l| l.contains("INCOMPLETE") && l.ends_with('7')), "{text}");
        assert!(text.lines().nth(2).is_some_and(|l| l.contains("OPEN: 1 running, 3 waiting")), "{text}");
        let last = text.lines().nth(3).expect("a line");
        assert!(last.contains("OPEN: waiting, 2 runs ahead") && last.ends_with(" -3"), "{text}");
        let shown = as_json(&waits);
        assert_eq!(
            (&shown["runs_ahead"], &shown["priority"], &shown["state"]),
            (&json!(2), &json!(-3), &json!("OPEN"))
        );
        assert_eq!(as_json(&ended)["diagnostics"], 7);
        assert_eq!(screen(&[]), "no runs\n");
    }
}
