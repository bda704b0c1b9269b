//! Runs start, are cancelled, end, and are forgotten.

use super::breaker::CallOutcome;
use super::decision::{Effect, Refusal, Reply};
use super::event::{FinishedResult, NewTask, RunEvent, RunOrder, TaskRef};
use super::message::Message;
use super::{Coordinator, Draft};
use crate::types::{AttemptRef, NodeId, Outcome, RunId, Stage, TaskId};

impl Coordinator {
    pub(super) fn start_run(&mut self, draft: &mut Draft, run: RunId, order: RunOrder) -> Reply {
        if !order.request_id.is_empty() {
            let key = (order.caller.clone(), order.request_id.clone());
            if let Some(earlier) = self.state.requests.get(&key) {
                let same = self.state.runs.get(earlier).is_some_and(|run| run.order.body == order.body);
                return if same {
                    Reply::Run(earlier.clone())
                } else {
                    Reply::Refused(Refusal::IdReused(order.request_id))
                };
            }
        }
        if self.state.runs.contains_key(&run) {
            // Starting it again would wipe out the one there is.
            return Reply::Refused(Refusal::IdReused(run.to_string()));
        }
        let superseded = match self.admit(&order.caller, &order.project, &order.supersede_key) {
            Ok(superseded) => superseded,
            Err(refusal) => return Reply::Refused(refusal),
        };
        for older in superseded {
            let detail = format!(
                "superseded by run {run}, a newer one with the supersede_key `{}` of the same caller and project",
                order.supersede_key
            );
            self.finish(draft, &older, Outcome::Cancelled, None, detail);
        }
        self.forget_old_runs(draft);
        self.deadlines.insert(run.clone(), draft.now.tick + order.timeout);
        let plan = NewTask {
            task: TaskRef { id: TaskId(1), stage: Stage::Plan, tool: None, shard: 0, shards: 0 },
            cost: 1,
        };
        let assignments = self.assignments(&run, std::slice::from_ref(&plan));
        self.record_run(draft, &run, RunEvent::Started { order: Box::new(order), assignments });
        self.record_run(draft, &run, RunEvent::TasksCreated { tasks: vec![plan], assignments: None });
        Reply::Run(run)
    }

    /// Whether there is room for one more run of a caller's project; the open runs that it would take the place of.
    pub fn admit(&self, caller: &str, project: &str, supersede_key: &str) -> Result<Vec<RunId>, Refusal> {
        let is_older = |order: &RunOrder| {
            !supersede_key.is_empty()
                && (&*order.supersede_key, &*order.caller, &*order.project)
                    == (supersede_key, caller, project)
        };
        let open = self.state.open_runs();
        let superseded: Vec<RunId> =
            open.filter(|(_, run)| is_older(&run.order)).map(|(id, _)| id.clone()).collect();
        let limit = self.settings.max_open_runs;
        if self.state.open.len() - superseded.len() >= limit {
            return Err(Refusal::TooManyRuns(limit));
        }
        match self.settings.max_runs_per_project {
            Some(limit) if self.queue.open_runs(project) - superseded.len() >= limit => {
                Err(Refusal::TooManyRunsOfProject { project: project.to_owned(), limit })
            }
            _ => Ok(superseded),
        }
    }

    pub(super) fn cancel_run(&mut self, draft: &mut Draft, run: &RunId, reason: &str) -> Reply {
        let Some(state) = self.state.runs.get(run) else {
            return Reply::Refused(Refusal::UnknownRun(run.clone()));
        };
        if state.is_open() {
            self.finish(draft, run, Outcome::Cancelled, None, reason.to_owned());
        }
        Reply::Run(run.clone())
    }

    pub(super) fn finish(
        &mut self,
        draft: &mut Draft,
        run: &RunId,
        outcome: Outcome,
        result: Option<FinishedResult>,
        detail: String,
    ) {
        self.deadlines.remove(run);
        let running: Vec<(NodeId, AttemptRef)> = self
            .presences
            .iter()
            .flat_map(|(node, presence)| {
                presence.running.iter().filter(|(_, running)| running.run == *run).map(|(id, running)| {
                    let attempt = AttemptRef { run: run.clone(), task: running.task, attempt: *id };
                    (node.clone(), attempt)
                })
            })
            .collect();
        for (node, attempt) in running {
            self.release(draft, &node, &attempt, CallOutcome::Ignored);
            if let Some(session) = self.presence(&node).session {
                let message = Message::Revoke { attempt, reason: "its run has ended".into() };
                draft.effects.push(Effect::Send { node, session, message });
            }
        }
        self.record_run(draft, run, RunEvent::Finished { outcome, result, detail });
    }
}
