//! What became of the attempts of a task, as the events of its run tell it.

use std::collections::{BTreeMap, BTreeSet};

use super::event::{AttemptFault, RunEvent};
use crate::types::{AttemptId, FaultCause, NodeId, TaskId, UnixMillis};

/// Attempts of one task that are told, the newest; refusals for lack of room may have made many more.
const TOLD_ATTEMPTS: usize = 20;

/// One attempt.
#[derive(Debug, Clone, PartialEq)]
pub struct AttemptStory {
    /// Which.
    pub attempt: AttemptId,
    /// On which node.
    pub node: NodeId,
    /// When it was given to the node.
    pub started_at: UnixMillis,
    /// When it was over, and how; none while it runs.
    pub ended: Option<(UnixMillis, AttemptEnding)>,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq)]
pub enum AttemptEnding {
    /// Its result was accepted.
    Accepted,
    /// Another attempt of the task was accepted, or the run ended.
    Superseded,
    /// It failed.
    Failed {
        /// What kind of failure.
        cause: AttemptFault,
        /// In words.
        detail: String,
        /// Whether it counts against the task's budget.
        counts: bool,
    },
    /// It was taken from its node.
    TakenBack {
        /// Why the node failed, if it did.
        cause: Option<FaultCause>,
        /// Whether it counts against the task's budget.
        counts: bool,
    },
}

/// The attempts of some tasks, oldest first, at most the newest twenty of each.
pub fn attempts<'a>(
    events: impl IntoIterator<Item = (UnixMillis, &'a RunEvent)>,
    tasks: &BTreeSet<TaskId>,
) -> BTreeMap<TaskId, Vec<AttemptStory>> {
    let mut stories: BTreeMap<TaskId, Vec<AttemptStory>> = BTreeMap::new();
    let mut faults: BTreeMap<&NodeId, FaultCause> = BTreeMap::new();
    for (at, event) in events {
        match event {
            RunEvent::TaskAssigned { task, attempt, node, .. } if tasks.contains(&task.id) => {
                let told = stories.entry(task.id).or_default();
                if told.len() == TOLD_ATTEMPTS {
                    told.remove(0);
                }
                told.push(AttemptStory {
                    attempt: *attempt,
                    node: node.clone(),
                    started_at: at,
                    ended: None,
                });
            }
            RunEvent::AttemptFailed { task, attempt, counts, cause, detail, .. } => {
                let ending = AttemptEnding::Failed { cause: *cause, detail: detail.clone(), counts: *counts };
                end(&mut stories, task.id, at, ending, |story| story.attempt == *attempt);
            }
            RunEvent::NodeFault { node, cause } => {
                faults.insert(node, *cause);
            }
            RunEvent::Redistributed { from, tasks, counts } => {
                // A later redistribution from the node has another reason: its process was started again, for example.
                let cause = faults.remove(from);
                for task in tasks {
                    let ending = AttemptEnding::TakenBack { cause, counts: *counts };
                    end(&mut stories, task.id, at, ending, |story| story.node == *from);
                }
            }
            RunEvent::TaskAccepted { task, attempt, .. } => {
                end(&mut stories, task.id, at, AttemptEnding::Accepted, |story| story.attempt == *attempt);
                end(&mut stories, task.id, at, AttemptEnding::Superseded, |_| true);
            }
            RunEvent::Finished { .. } => {
                for task in tasks {
                    end(&mut stories, *task, at, AttemptEnding::Superseded, |_| true);
                }
            }
            _ => {}
        }
    }
    stories
}

/// Ends the running attempts of a task that fit.
fn end(
    stories: &mut BTreeMap<TaskId, Vec<AttemptStory>>,
    task: TaskId,
    at: UnixMillis,
    ending: AttemptEnding,
    fits: impl Fn(&AttemptStory) -> bool,
) {
    let told = stories.get_mut(&task).into_iter().flatten();
    for story in told.filter(|story| story.ended.is_none() && fits(story)) {
        story.ended = Some((at, ending.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coordinator::event::TaskRef;
    use crate::types::{Epoch, Incarnation, Stage};

    fn node(name: &str) -> NodeId {
        NodeId::new(name).expect("a valid node id")
    }

    fn attempt(number: u64) -> AttemptId {
        AttemptId { epoch: Epoch(1), number }
    }

    fn task(id: u64) -> TaskRef {
        TaskRef { id: TaskId(id), stage: Stage::Lint, tool: None, shard: 0, shards: 1 }
    }

    fn assigned(id: u64, number: u64, name: &str) -> RunEvent {
        let (task, attempt, node) = (task(id), attempt(number), node(name));
        RunEvent::TaskAssigned { task, attempt, node, incarnation: Incarnation(1), second: false }
    }

    fn told(events: &[RunEvent]) -> BTreeMap<TaskId, Vec<AttemptStory>> {
        let events = (1..).map(UnixMillis).zip(events);
        attempts(events, &[TaskId(1), TaskId(2)].into())
    }

    #[test]
    fn each_attempt_has_the_ending_that_its_run_recorded() {
        let failed = RunEvent::AttemptFailed {
            task: task(1),
            attempt: attempt(1),
            node: node("a"),
            counts: true,
            cause: AttemptFault::Deadline,
            detail: "too slow".into(),
        };
        let taken = || RunEvent::Redistributed { from: node("b"), tasks: vec![task(1)], counts: false };
        let stories = told(&[
            assigned(1, 1, "a"),
            assigned(3, 2, "a"),
            failed,
            assigned(1, 3, "b"),
            RunEvent::NodeFault { node: node("b"), cause: FaultCause::SessionLost },
            taken(),
            assigned(1, 4, "b"),
            taken(),
            assigned(1, 5, "c"),
        ]);
        let endings: Vec<_> = stories[&TaskId(1)].iter().map(|story| story.ended.clone()).collect();
        let failed =
            AttemptEnding::Failed { cause: AttemptFault::Deadline, detail: "too slow".into(), counts: true };
        let lost = AttemptEnding::TakenBack { cause: Some(FaultCause::SessionLost), counts: false };
        let restarted = AttemptEnding::TakenBack { cause: None, counts: false };
        assert_eq!(
            endings,
            [
                Some((UnixMillis(3), failed)),
                Some((UnixMillis(6), lost)),
                Some((UnixMillis(8), restarted)),
                None
            ]
        );
        assert_eq!(stories.len(), 1, "of the tasks that were asked for only");
    }

    #[test]
    fn only_the_newest_attempts_of_a_task_are_kept() {
        let events: Vec<_> = (1..=30).map(|number| assigned(1, number, "a")).collect();
        let stories = told(&events);
        let numbers: Vec<_> = stories[&TaskId(1)].iter().map(|story| story.attempt.number).collect();
        assert_eq!(numbers, (11..=30).collect::<Vec<_>>());
    }
}
