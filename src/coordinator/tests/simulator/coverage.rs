//! What must be true of a run's events: each task is done once or given up, and gaps are told.

use std::collections::{BTreeMap, BTreeSet};

use crate::coordinator::event::{RunEvent, TaskRef};
use crate::types::{AttemptId, Outcome, RunId, TaskId};

/// A run as its events tell it.
#[derive(Default)]
pub(super) struct RunLog {
    length: u64,
    created: BTreeSet<TaskId>,
    ended: BTreeMap<TaskId, TaskRef>,
    attempts: BTreeSet<(TaskId, AttemptId)>,
    has_gaps: bool,
    outcome: Option<Outcome>,
}

impl RunLog {
    pub(super) const fn has_ended(&self) -> bool {
        self.outcome.is_some()
    }

    /// Checks the next event. Answers what it was, to be counted.
    pub(super) fn follow(&mut self, run: &RunId, sequence: u64, event: &RunEvent) -> &'static str {
        self.length += 1;
        assert_eq!(sequence, self.length, "{run}: its events are numbered without gaps");
        assert_eq!(self.outcome, None, "{run}: nothing happens after its end: {event:?}");
        match event {
            RunEvent::Started { .. } => {
                assert_eq!(self.length, 1, "{run} starts once");
                "run started"
            }
            RunEvent::TasksCreated { tasks, .. } => {
                for new in tasks {
                    assert!(self.created.insert(new.task.id), "{run}: {} is made once", new.task);
                }
                "tasks created"
            }
            RunEvent::TaskAssigned { task, attempt, .. } => {
                assert!(self.created.contains(&task.id), "{run}: {task} was made");
                assert!(self.attempts.insert((task.id, *attempt)), "{run}: {attempt} is assigned once");
                assert!(!self.ended.contains_key(&task.id), "{run}: {task} was over");
                "task assigned"
            }
            RunEvent::TaskAccepted { task, attempt, tool_error, .. } => {
                assert!(self.attempts.contains(&(task.id, *attempt)), "{run}: {attempt} was assigned");
                self.end(run, task);
                self.has_gaps |= tool_error.is_some();
                "task accepted"
            }
            RunEvent::TaskGivenUp { task, reason } => {
                assert!(!reason.is_empty(), "{run}: {task} was given up for a reason");
                self.end(run, task);
                self.has_gaps = true;
                "task given up"
            }
            RunEvent::Finished { outcome, result, detail } => {
                self.outcome = Some(*outcome);
                if *outcome != Outcome::Cancelled {
                    let is_whole = self.ended.keys().eq(&self.created);
                    assert!(result.is_none() || is_whole, "{run}: every task is over");
                    assert!(result.is_some() || !detail.is_empty(), "{run}: says why it has no result");
                    assert_eq!(*outcome == Outcome::Incomplete, self.has_gaps, "{run}: gaps are told");
                }
                match outcome {
                    Outcome::Cancelled => "run cancelled",
                    Outcome::Incomplete => "run incomplete",
                    Outcome::Clean | Outcome::Findings => "run complete",
                }
            }
            RunEvent::AttemptFailed { .. } => "attempt failed",
            RunEvent::NodeFault { .. } => "node fault",
            RunEvent::Redistributed { .. } => "redistributed",
        }
    }

    fn end(&mut self, run: &RunId, task: &TaskRef) {
        let earlier = self.ended.insert(task.id, task.clone());
        assert_eq!(earlier, None, "{run}: {task} ends once");
    }
}
