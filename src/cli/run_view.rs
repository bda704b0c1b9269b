//! What a run's events add up to: the state that progress lines and summaries are drawn from.

use std::collections::BTreeMap;

use crate::proto::v1::run_event::Event;
use crate::proto::v1::{NodeAssignment, RunEvent, RunFinished, RunProgress, Stage, TaskRef};

/// One tool of a run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ToolView {
    /// LINT tasks that wait.
    pub queued: u32,
    /// LINT tasks that run.
    pub running: u32,
    /// LINT tasks that are done.
    pub done: u32,
    /// Done, weighed by cost: 0 to 1.
    pub progress: f64,
    /// What it reported so far, before folding.
    pub diagnostics: usize,
    /// Its failure, if it failed.
    pub error: Option<String>,
}

/// A run's place in the queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueView {
    /// Its tasks that wait.
    pub waiting: u32,
    /// Its tasks that run.
    pub running: u32,
    /// Runs before it, if it waits and nothing of it runs.
    pub ahead: u32,
}

impl QueueView {
    /// What progress tells of it.
    pub const fn of(progress: &RunProgress) -> Self {
        let RunProgress { waiting_tasks, running_tasks, runs_ahead, .. } = progress;
        Self { waiting: *waiting_tasks, running: *running_tasks, ahead: *runs_ahead }
    }

    /// `waiting, 2 runs ahead`; none unless the run waits and nothing of it runs.
    pub fn waiting(self) -> Option<String> {
        if self.waiting == 0 || self.running > 0 {
            return None;
        }
        Some(match self.ahead {
            0 => "waiting, next in the queue".to_owned(),
            1 => "waiting, 1 run ahead".to_owned(),
            ahead => format!("waiting, {ahead} runs ahead"),
        })
    }
}

/// A run as its events tell it.
#[derive(Debug, Clone, Default)]
pub struct RunView {
    /// Its id; empty before the first event.
    pub run_id: String,
    /// Files to lint.
    pub files: u32,
    /// The newest recorded event: where to resume.
    pub last_sequence: u64,
    /// By tool name.
    pub tools: BTreeMap<String, ToolView>,
    /// By node id.
    pub nodes: BTreeMap<String, NodeAssignment>,
    /// How many tasks each node finished.
    pub finished_tasks: BTreeMap<String, u32>,
    /// How its tasks and its place in the queue were last told.
    pub queue: QueueView,
    /// Set by the last event.
    pub finished: Option<RunFinished>,
    /// Diagnostics of CLASSIFY tasks that are not accepted yet: they are sent again after a resume.
    provisional: BTreeMap<u64, (String, usize)>,
    aggregating: bool,
}

impl RunView {
    /// Takes in the next event.
    pub fn apply(&mut self, event: &RunEvent) {
        if self.run_id.is_empty() {
            self.run_id.clone_from(&event.run_id);
        }
        self.last_sequence = self.last_sequence.max(event.sequence);
        match &event.event {
            Some(Event::Started(started)) => {
                self.files = started.files;
                self.tools.extend(started.tools.iter().map(|tool| (tool.clone(), ToolView::default())));
                if let Some(assignments) = &started.assignments {
                    self.nodes.clone_from(&assignments.nodes);
                }
            }
            Some(Event::Assignments(assignments)) => self.nodes.clone_from(&assignments.nodes),
            Some(Event::TaskAssigned(assigned)) => {
                self.aggregating |=
                    assigned.task.as_ref().is_some_and(|task| task.stage() == Stage::Aggregate);
            }
            Some(Event::Diagnostics(batch)) => {
                if let Some(task) = &batch.task {
                    let entry = self.provisional.entry(task.task_id).or_default();
                    entry.0.clone_from(&task.tool);
                    entry.1 += batch.diagnostics.len();
                }
            }
            Some(Event::TaskAccepted(accepted)) => {
                *self.finished_tasks.entry(accepted.node_id.clone()).or_default() += 1;
                if let Some(task) = &accepted.task {
                    self.accept(task, &accepted.tool_error);
                }
            }
            Some(Event::Progress(progress)) => self.progress(progress),
            Some(Event::Finished(finished)) => self.finished = Some(finished.clone()),
            Some(Event::TasksCreated(_) | Event::Fault(_) | Event::Redistribution(_)) | None => {}
        }
    }

    fn accept(&mut self, task: &TaskRef, error: &str) {
        if let Some((tool, count)) = self.provisional.remove(&task.task_id) {
            self.tools.entry(tool).or_default().diagnostics += count;
        }
        if !error.is_empty() && !task.tool.is_empty() {
            self.tools.entry(task.tool.clone()).or_default().error = Some(error.to_owned());
        }
    }

    fn progress(&mut self, progress: &RunProgress) {
        self.queue = QueueView::of(progress);
        for (name, counts) in &progress.tools {
            let tool = self.tools.entry(name.clone()).or_default();
            (tool.queued, tool.running, tool.done) = (counts.queued, counts.running, counts.done);
            tool.progress = counts.progress.clamp(0.0, 1.0);
        }
        if !progress.nodes.is_empty() {
            self.nodes.clone_from(&progress.nodes);
        }
    }

    /// Goes on after an event without those before it.
    pub fn skip_to(&mut self, run_id: &str, sequence: u64) {
        run_id.clone_into(&mut self.run_id);
        self.last_sequence = sequence;
        self.provisional.clear();
    }

    /// The stream broke and is watched again after [`RunView::last_sequence`].
    pub fn resumed(&mut self) {
        self.provisional.clear();
    }

    /// What the run is doing as a whole.
    pub fn headline(&self) -> String {
        if let (None, Some(waiting)) = (&self.finished, self.queue.waiting()) {
            return waiting;
        }
        let files = self.files;
        let plural = if files == 1 { "" } else { "s" };
        let all_done =
            !self.tools.is_empty() && self.tools.values().all(|t| t.queued + t.running == 0 && t.done > 0);
        let phase = if self.finished.is_some() {
            "done"
        } else if self.aggregating {
            "merging the results of"
        } else if self.tools.values().all(|t| t.queued + t.running + t.done == 0) {
            "planning"
        } else if all_done {
            "classifying"
        } else {
            "linting"
        };
        format!("{phase} {files} file{plural}")
    }
}

/// The line of one tool, without its bar: `2 running, 1 queued, 3 done, 17 found`.
pub fn tool_line(tool: &ToolView) -> String {
    if let Some(error) = &tool.error {
        let first = error.lines().next().unwrap_or_default();
        return format!("failed: {}", first.chars().take(80).collect::<String>());
    }
    let counts = [(tool.running, "running"), (tool.queued, "queued"), (tool.done, "done")];
    let mut parts: Vec<String> = counts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, word)| format!("{count} {word}"))
        .collect();
    if parts.is_empty() {
        parts.push("waiting".to_owned());
    }
    if tool.diagnostics > 0 {
        parts.push(format!("{} found", tool.diagnostics));
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::v1::{
        Assignments, Diagnostic, DiagnosticBatch, Outcome, RunStarted, TaskAccepted, TaskAssigned,
        ToolRunProgress,
    };

    fn event(sequence: u64, event: Event) -> RunEvent {
        RunEvent { run_id: "r1".into(), sequence, time: None, event: Some(event) }
    }

    fn task(task_id: u64, stage: Stage, tool: &str) -> Option<TaskRef> {
        Some(TaskRef { task_id, stage: stage.into(), tool: tool.into(), shard: 1, shards: 1 })
    }

    fn progress(queued: u32, running: u32, done: u32) -> RunEvent {
        let ruff = ToolRunProgress { queued, running, done, progress: f64::from(done) };
        event(0, Event::Progress(RunProgress { tools: [("ruff".into(), ruff)].into(), ..Default::default() }))
    }

    fn started() -> RunEvent {
        let assignments = Some(Assignments { nodes: [("a".into(), NodeAssignment::default())].into() });
        event(1, Event::Started(RunStarted { files: 2, tools: vec!["ruff".into()], assignments }))
    }

    fn found(task_id: u64, count: usize) -> RunEvent {
        event(
            0,
            Event::Diagnostics(DiagnosticBatch {
                task: task(task_id, Stage::Classify, "ruff"),
                diagnostics: vec![Diagnostic::default(); count],
            }),
        )
    }

    fn accepted(sequence: u64, task_id: u64, stage: Stage, tool_error: &str) -> RunEvent {
        event(
            sequence,
            Event::TaskAccepted(TaskAccepted {
                task: task(task_id, stage, "ruff"),
                node_id: "a".into(),
                tool_error: tool_error.into(),
                ..Default::default()
            }),
        )
    }

    #[test]
    fn a_run_reads_from_planning_to_done() {
        let mut view = RunView::default();
        view.apply(&started());
        assert_eq!(view.headline(), "planning 2 files");
        assert_eq!(tool_line(&view.tools["ruff"]), "waiting");
        view.apply(&progress(1, 1, 0));
        assert_eq!(view.headline(), "linting 2 files");
        assert_eq!(tool_line(&view.tools["ruff"]), "1 running, 1 queued");
        view.apply(&progress(0, 0, 2));
        view.apply(&found(5, 3));
        view.apply(&accepted(2, 5, Stage::Classify, ""));
        assert_eq!(view.headline(), "classifying 2 files");
        assert_eq!(tool_line(&view.tools["ruff"]), "2 done, 3 found");
        let merge = TaskAssigned { task: task(6, Stage::Aggregate, ""), ..Default::default() };
        view.apply(&event(3, Event::TaskAssigned(merge)));
        assert_eq!(view.headline(), "merging the results of 2 files");
        let finished = RunFinished { outcome: Outcome::Findings.into(), ..Default::default() };
        view.apply(&event(4, Event::Finished(finished)));
        assert_eq!((view.headline().as_str(), view.last_sequence), ("done 2 files", 4));
        assert_eq!(view.finished_tasks["a"], 1);
    }

    #[test]
    fn a_run_that_waits_says_how_many_runs_are_ahead() {
        let mut view = RunView::default();
        view.apply(&started());
        for (waiting_tasks, running_tasks, runs_ahead, headline) in [
            (5, 0, 2, "waiting, 2 runs ahead"),
            (5, 0, 1, "waiting, 1 run ahead"),
            (5, 0, 0, "waiting, next in the queue"),
            (4, 1, 0, "planning 2 files"),
            (0, 0, 0, "planning 2 files"),
        ] {
            let told = RunProgress { waiting_tasks, running_tasks, runs_ahead, ..Default::default() };
            view.apply(&event(0, Event::Progress(told)));
            assert_eq!(view.headline(), headline);
        }
        view.queue = QueueView { waiting: 1, running: 0, ahead: 1 };
        view.apply(&event(2, Event::Finished(RunFinished::default())));
        assert_eq!(view.headline(), "done 2 files", "a run that was cancelled waits no more");
    }

    #[test]
    fn diagnostics_sent_again_after_a_resume_count_once() {
        let mut view = RunView::default();
        view.apply(&started());
        view.apply(&found(5, 3));
        view.resumed();
        view.apply(&found(5, 4));
        assert_eq!(view.tools["ruff"].diagnostics, 0, "provisional until accepted");
        view.apply(&accepted(2, 5, Stage::Classify, ""));
        assert_eq!(view.tools["ruff"].diagnostics, 4);
    }

    #[test]
    fn a_failed_tool_shows_the_first_line_of_its_failure() {
        let mut view = RunView::default();
        view.apply(&started());
        view.apply(&accepted(2, 3, Stage::Lint, "crashed: exit 3\nTraceback"));
        assert_eq!(tool_line(&view.tools["ruff"]), "failed: crashed: exit 3");
    }
}
