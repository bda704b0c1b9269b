//! Runs start, are cancelled, end, and are forgotten.

use super::breaker::CallOutcome;
use super::event::{Event, FinishedResult, NewTask, RunEvent, RunOrder, TaskRef};
use super::input::{Effect, Message, Refusal, Reply};
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
        let open = self.state.open.len();
        if open >= self.settings.max_open_runs {
            return Reply::Refused(Refusal::TooManyRuns(open));
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
            let presence = self.presence(&node);
            if let Some(released) = presence.running.remove(&attempt.attempt) {
                presence.breaker.record(draft.now.tick, released.permit, CallOutcome::Ignored, 0.0);
            }
            if let Some(session) = presence.session {
                let message = Message::Revoke { attempt, reason: "its run has ended".into() };
                draft.effects.push(Effect::Send { node, session, message });
            }
        }
        self.record_run(draft, run, RunEvent::Finished { outcome, result, detail });
    }

    /// Keeps as many finished runs as the settings say.
    fn forget_old_runs(&mut self, draft: &mut Draft) {
        let finished: Vec<RunId> = self
            .state
            .order
            .iter()
            .filter(|id| self.state.runs.get(*id).is_some_and(|run| !run.is_open()))
            .cloned()
            .collect();
        let surplus = finished.len().saturating_sub(self.settings.kept_runs);
        for run in finished.into_iter().take(surplus) {
            self.record(draft, Event::RunForgotten(run));
        }
    }
}
