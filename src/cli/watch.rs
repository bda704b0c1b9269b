//! `lintmesh watch`: the events of a run, line by line, from the first or a later one to the end.

use super::connect::ServerArgs;
use super::exit::Exit;
use super::follow::{self, FollowError, Manner, Start, Watcher};
use super::interrupt::Interrupt;
use super::reconnect::ReconnectArgs;
use super::run_view::RunView;
use super::{outcome_name, output, task_name, time};
use crate::proto::v1::run_event::Event;
use crate::proto::v1::{Outcome, RunEvent, WatchRunRequest};

/// Arguments of `watch`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: as the run ended: 0 clean, 1 findings, 3 incomplete or cancelled; 2 an error"
)]
pub(super) struct WatchArgs {
    /// The run, as `lintmesh runs` names it
    #[arg(value_name = "RUN")]
    run: String,
    /// Start after this event: the number at the start of its line
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    after: u64,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    reconnect: ReconnectArgs,
}

struct Lines {
    /// The place in the queue that was last told.
    place: Option<String>,
    closed: Option<std::io::Error>,
    interrupt: Interrupt,
}

impl Watcher for Lines {
    fn event(&mut self, event: &RunEvent, view: &RunView) {
        if let Some(text) = line(event).or_else(|| self.queue_line(event, view))
            && let Err(error) =
                std::io::Write::write_all(&mut std::io::stdout(), format!("{text}\n").as_bytes())
        {
            // Nobody reads any more: there is no reason to follow on.
            self.closed = Some(error);
            self.interrupt.raise(0);
        }
    }

    fn notice(&mut self, text: &str) {
        output::say(&format!("lintmesh: {text}"));
    }
}

impl Lines {
    /// The run's place in the queue, when it waits at another than before.
    fn queue_line(&mut self, event: &RunEvent, view: &RunView) -> Option<String> {
        let place = view.queue.waiting();
        if place == self.place {
            return None;
        }
        self.place.clone_from(&place);
        place.map(|place| numbered(event, &format!("queue: {place}")))
    }
}

/// Exits as the run did: 0 clean, 1 findings, 3 incomplete or cancelled. Leaving does not cancel the run.
pub(super) async fn run(args: WatchArgs, interrupt: &Interrupt) -> anyhow::Result<Exit> {
    let connection = args.server.connect().await?;
    let start = Start::Existing(WatchRunRequest { run_id: args.run, after_sequence: args.after });
    let mut lines = Lines { place: None, closed: None, interrupt: interrupt.clone() };
    let mut view = RunView::default();
    let manner = Manner { cancel: false, patience: args.reconnect.reconnect };
    match follow::follow(&connection, start, manner, interrupt, &mut lines, &mut view).await {
        Ok(finished) => Ok(match finished.outcome() {
            Outcome::Clean => Exit::Success,
            Outcome::Findings => Exit::Findings,
            Outcome::Unspecified | Outcome::Incomplete | Outcome::Cancelled => Exit::Incomplete,
        }),
        Err(FollowError::Interrupted) => match lines.closed {
            Some(error) => output::quiet_end(Err(error)).map(|()| Exit::Success).map_err(Into::into),
            None => Ok(interrupt.exit().unwrap_or(Exit::Error)),
        },
        Err(error) => Err(error.into()),
    }
}

/// An event in one line; progress has none of its own.
fn line(event: &RunEvent) -> Option<String> {
    let text = match event.event.as_ref()? {
        Event::Started(started) => {
            format!("started: files: {}, tools: {}", started.files, started.tools.join(", "))
        }
        Event::Assignments(assignments) => {
            let parts: Vec<String> = assignments
                .nodes
                .iter()
                .filter(|(_, node)| !node.assigned_tasks.is_empty())
                .map(|(id, node)| format!("{id} ({})", node.assigned_tasks.join(", ")))
                .collect();
            format!("planned: {}", parts.join("; "))
        }
        Event::TaskAssigned(assigned) => {
            let task = assigned.task.as_ref().map(task_name).unwrap_or_default();
            format!("assigned: {task} to {} as attempt {}", assigned.node_id, assigned.attempt)
        }
        Event::Diagnostics(batch) => {
            let task = batch.task.as_ref().map(task_name).unwrap_or_default();
            format!("diagnostics: {} from {task}", batch.diagnostics.len())
        }
        Event::TaskAccepted(accepted) => {
            let task = accepted.task.as_ref().map(task_name).unwrap_or_default();
            let failure = match accepted.tool_error.as_str() {
                "" => String::new(),
                error => format!("; the tool failed: {}", one_line(error)),
            };
            format!("accepted: {task} from {}{failure}", accepted.node_id)
        }
        Event::Fault(fault) => {
            format!("fault: {} {}: {}", fault.node_id, fault.cause, one_line(&fault.detail))
        }
        Event::Redistribution(redistribution) => {
            let tasks: Vec<String> = redistribution.tasks.iter().map(task_name).collect();
            format!("redistributed: {} from {}", tasks.join(", "), redistribution.from_node_id)
        }
        Event::TasksCreated(_) | Event::Progress(_) => return None,
        Event::Finished(finished) => {
            let counts = finished
                .summary
                .as_ref()
                .map(|s| format!(", diagnostics: {}, files: {}", s.diagnostics, s.files))
                .unwrap_or_default();
            let why =
                if finished.detail.is_empty() { String::new() } else { format!(": {}", finished.detail) };
            format!("finished: {}{counts}{why}", outcome_name(finished.outcome()))
        }
    };
    Some(numbered(event, &text))
}

fn numbered(event: &RunEvent, text: &str) -> String {
    let number = if event.sequence == 0 { "-".to_owned() } else { event.sequence.to_string() };
    format!("{} {number:>5} {text}", time::utc(event.time.as_ref()))
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::v1::{Fault, RunFinished, RunProgress};

    fn event(sequence: u64, event: Event) -> RunEvent {
        RunEvent { run_id: "r".into(), sequence, time: None, event: Some(event) }
    }

    #[test]
    fn a_place_in_the_queue_is_told_when_it_changes() {
        let mut lines = Lines { place: None, closed: None, interrupt: Interrupt::default() };
        let mut view = RunView::default();
        let mut told = Vec::new();
        for (waiting_tasks, running_tasks, runs_ahead) in
            [(1, 0, 2), (1, 0, 2), (1, 0, 1), (0, 1, 0), (0, 1, 0), (2, 0, 1)]
        {
            let progress = RunProgress { waiting_tasks, running_tasks, runs_ahead, ..Default::default() };
            let event = event(0, Event::Progress(progress));
            view.apply(&event);
            told.extend(lines.queue_line(&event, &view));
        }
        let ends: Vec<_> =
            told.iter().filter_map(|line| line.split_once("queue: ")).map(|(_, end)| end).collect();
        assert_eq!(ends, ["waiting, 2 runs ahead", "waiting, 1 run ahead", "waiting, 1 run ahead"]);
    }

    #[test]
    fn each_event_is_one_line_even_if_its_detail_is_not() {
        let fault =
            Fault { node_id: "n".into(), cause: "PROCESS_EXITED".into(), detail: "signal 9\nat once".into() };
        let text = line(&event(7, Event::Fault(fault))).expect("a line");
        assert!(text.ends_with("7 fault: n PROCESS_EXITED: signal 9 at once"), "{text}");
        let finished = RunFinished {
            outcome: Outcome::Cancelled.into(),
            detail: "timeout".into(),
            ..Default::default()
        };
        let text = line(&event(8, Event::Finished(finished))).expect("a line");
        assert!(text.ends_with("finished: CANCELLED: timeout"), "{text}");
        assert_eq!(line(&event(0, Event::Progress(RunProgress::default()))), None);
    }
}
