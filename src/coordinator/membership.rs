//! Nodes come, speak, and go.

use std::collections::BTreeSet;

use super::breaker::CallOutcome;
use super::decision::{Effect, Refusal, Reply};
use super::event::{AttemptFault, Event, RunEvent};
use super::input::{Hello, SessionEnding};
use super::message::Message;
use super::node::Presence;
use super::run::Task;
use super::suspicion::Contact;
use super::{ATTEMPT_GRACE, Coordinator, Draft};
use crate::types::{
    AttemptId, AttemptRef, FaultCause, Incarnation, Load, NodeId, NodeStatus, RunId, SessionId, Tick,
};

impl Coordinator {
    /// A node says who it is and what it has. What it still runs is adopted or revoked; a new connection is not an
    /// empty node.
    pub(super) fn join(&mut self, draft: &mut Draft, session: SessionId, hello: Hello) -> Reply {
        let node = hello.spec.node_id.clone();
        let known = self.state.members.get(&node).and_then(|member| member.incarnation);
        // The newest process is the one that started last, by its machine's clock. Where none is there any more the clock
        // may have been wrong before: results are told apart by equality alone.
        if let Some(current) = known
            && hello.incarnation < current
            && !self.is_away(&node)
        {
            return Reply::Refused(Refusal::StaleIncarnation { node, current, offered: hello.incarnation });
        }
        let is_new_process = known != Some(hello.incarnation);
        if !is_new_process && self.state.members.get(&node).is_some_and(|member| member.spec != hello.spec) {
            // What a process is, is fixed at its start; its running work was given to what it said then.
            return Reply::Refused(Refusal::DeclaredOtherwise(node));
        }
        if known.is_none()
            && !self.state.members.contains_key(&node)
            && let Some(refusal) = self.too_many_nodes(1)
        {
            return Reply::Refused(refusal);
        }
        let is_other_session = self
            .presences
            .get(&node)
            .and_then(|presence| presence.session)
            .is_some_and(|open| open != session);
        if is_new_process && is_other_session && self.is_responsive(&node, draft.now.tick) {
            // A process that died is found out within seconds; until then this could be a second one of its name.
            return Reply::Refused(Refusal::NodeIdTaken(node));
        }
        // The same connection may say Hello twice.
        if let Some(older) = self.presence(&node).session.take()
            && older != session
        {
            draft.effects.push(Effect::CloseSession(older));
        }
        if is_new_process {
            // A process that is gone took its work with it, but for the results that its successor found.
            let kept = self.left_results(&node, &hello);
            // Nor does the work of one that was asked to end count.
            let counts = !self.is_awaited(&node) && !self.goes_in_order(&node);
            self.take_work_but(draft, &node, &kept, counts, "its process was started again");
            let joined = Event::NodeJoined { spec: hello.spec, incarnation: hello.incarnation };
            self.record(draft, joined);
        }
        let now = draft.now;
        let is_back_at_once = self.is_back_at_once(&node, now.tick);
        let has_moved =
            self.presences.get(&node).map(|presence| &presence.peer_endpoint) != Some(&hello.peer_endpoint);
        let presence = self.presence(&node);
        presence.session = Some(session);
        presence.disconnected_at = None;
        if is_new_process {
            presence.contact = Contact { alarm: presence.contact.alarm, ..Contact::default() };
            presence.links.clear();
        }
        presence.contact.since = Some(now.tick);
        presence.contact.has_spoken = false;
        // It is here: what was to be excused is over.
        presence.contact.is_excused = false;
        (presence.contact.probes, presence.contact.probed_at) = (0, None);
        presence.heard_at = Some((now.tick, now.wall));
        presence.host_id = hello.host_id;
        presence.cpu_slots = hello.cpu_slots;
        presence.toolchain_id = hello.toolchain_id;
        presence.tools = hello.tools;
        presence.environment_class = hello.environment_class;
        presence.failure_domain = hello.failure_domain;
        presence.peer_endpoint = hello.peer_endpoint;
        presence.clock_offset_ms = None;
        presence.contact.clock_offsets.clear();
        presence.sandbox = hello.sandbox;
        presence.process_id = hello.process_id;
        if is_new_process {
            presence.load = Load::default();
            presence.measured = false;
            self.change_breaker(draft, &node, |_, breaker| breaker.half_open_now());
        }
        self.reconcile(draft, &node, session, hello.incarnation, &hello.running, &hello.unacknowledged);
        if hello.draining {
            self.note_leaving(&node, "its process was asked to end");
        } else if self.is_awaited(&node) {
            self.is_not_leaving(&node);
        }
        let starts = is_new_process || self.status(&node) == Some(NodeStatus::Initializing);
        let proves_itself = !starts && !is_back_at_once;
        if let Some((status, cause)) = self.status_on_contact(&node)
            && !(status == NodeStatus::Active && proves_itself)
        {
            self.set_status(draft, &node, status, cause);
        }
        self.clear_suspicion(&node, now.tick);
        self.relink(&node);
        self.relink_process(&node, is_new_process || has_moved);
        self.wake(&node, now.tick);
        Reply::Welcome {
            epoch: self.state.epoch,
            heartbeat_interval: self.settings.heartbeat_interval,
            probe_interval: self.settings.probe_interval,
        }
    }

    /// Whether a node that joins again only lost its connection for a moment. Any other must prove itself first.
    fn is_back_at_once(&self, node: &NodeId, now: Tick) -> bool {
        self.presences.get(node).is_some_and(|presence| {
            let in_grace =
                presence.disconnected_at.is_some_and(|at| now < at + self.settings.reconnect_grace);
            self.status(node) == Some(NodeStatus::Degraded)
                && ((in_grace && presence.contact.was_active) || presence.contact.is_excused)
        })
    }

    /// The attempts of a node's former processes whose results its new process holds: as many as it may run, for they
    /// take their places until they are delivered.
    fn left_results(&self, node: &NodeId, hello: &Hello) -> BTreeSet<AttemptId> {
        let given = self.presences.get(node).into_iter().flat_map(Presence::attempts);
        given
            .filter(|attempt| hello.unacknowledged.contains(attempt))
            .map(|attempt| attempt.attempt)
            .take(hello.spec.max_concurrent_tasks as usize)
            .collect()
    }

    /// Compares what a node says it has with what it should have. What it runs is of its present process; results may be
    /// of a former one.
    fn reconcile(
        &mut self,
        draft: &mut Draft,
        node: &NodeId,
        session: SessionId,
        incarnation: Incarnation,
        running: &[AttemptRef],
        unacknowledged: &[AttemptRef],
    ) {
        let now = draft.now.tick;
        self.presence(node).running.comes_again(now + ATTEMPT_GRACE);
        let given: BTreeSet<AttemptRef> = self.presence(node).attempts().collect();
        let (runs, strays): (Vec<_>, Vec<_>) =
            running.iter().partition(|attempt| self.is_current(attempt, node, incarnation));
        let strays = strays.into_iter().map(|attempt| (attempt, "given to another node"));
        // It need not bring what would only be dropped.
        let unwanted = unacknowledged.iter().filter(|attempt| !given.contains(attempt));
        let unwanted = unwanted.map(|attempt| (attempt, "nobody waits for its result"));
        for (attempt, reason) in strays.chain(unwanted) {
            let message = Message::Revoke { attempt: attempt.clone(), reason: reason.into() };
            draft.effects.push(Effect::Send { node: node.clone(), session, message });
        }
        let lost: Vec<AttemptRef> = given
            .into_iter()
            .filter(|attempt| !runs.contains(&attempt) && !unacknowledged.contains(attempt))
            .collect();
        for attempt in lost {
            self.attempt_failed(
                draft,
                node,
                &attempt,
                false,
                AttemptFault::Lost,
                "the node does not know of it",
            );
        }
    }

    /// Whether this very execution is one that its task waits for.
    pub(super) fn is_current(&self, attempt: &AttemptRef, node: &NodeId, incarnation: Incarnation) -> bool {
        let task = self.state.runs.get(&attempt.run).filter(|run| run.is_open());
        let executions = task.and_then(|run| run.task(attempt.task)).map(Task::executions);
        executions.into_iter().flatten().any(|execution| {
            execution.attempt == attempt.attempt
                && execution.node == *node
                && execution.incarnation == incarnation
        })
    }

    pub(super) fn session_closed(
        &mut self,
        draft: &mut Draft,
        session: SessionId,
        node: &NodeId,
        ending: SessionEnding,
    ) -> Reply {
        let now = draft.now.tick;
        let Some(presence) = self.presences.get_mut(node) else { return Reply::Done };
        if presence.session == Some(session) {
            presence.session = None;
            presence.disconnected_at = Some(now);
            presence.contact.ending = Some(ending);
            let was_active = self.status(node) == Some(NodeStatus::Active);
            let cause = self.state.members.get(node).and_then(|member| member.cause);
            let contact = &mut self.presence(node).contact;
            contact.was_active = was_active;
            contact.was_silent = matches!(cause, Some(FaultCause::Silent | FaultCause::Unreachable));
            self.wake(node, now);
            if was_active {
                self.set_status(draft, node, NodeStatus::Degraded, Some(FaultCause::SessionLost));
            }
            self.gone_if_leaving(draft, node);
        }
        Reply::Done
    }

    /// The launcher saw the process end: the surest of all signs, so there is no grace.
    pub(super) fn process_exited(&mut self, draft: &mut Draft, node: &NodeId, process_id: u32) -> Reply {
        let is_the_known_one =
            self.presences.get(node).is_none_or(|presence| [0, process_id].contains(&presence.process_id));
        if !is_the_known_one || !self.state.members.contains_key(node) {
            return Reply::Done;
        }
        let now = draft.now.tick;
        let presence = self.presence(node);
        // The process that the launcher starts next may end before it joins.
        presence.process_id = 0;
        // What the dead process sent may still be on its way; a late heartbeat must not revive it.
        if let Some(session) = presence.session.take() {
            presence.disconnected_at = Some(now);
            presence.contact.ending = Some(SessionEnding::Reset);
            draft.effects.push(Effect::CloseSession(session));
        }
        self.fail(draft, node, FaultCause::ProcessExited);
        Reply::Done
    }

    pub(super) fn status(&self, node: &NodeId) -> Option<NodeStatus> {
        self.state.members.get(node).map(|member| member.status)
    }

    pub(super) fn set_status(
        &mut self,
        draft: &mut Draft,
        node: &NodeId,
        status: NodeStatus,
        cause: Option<FaultCause>,
    ) {
        let Some(before) = self.state.members.get(node).map(|member| (member.status, member.cause)) else {
            return;
        };
        if before == (status, cause) {
            return;
        }
        self.record(draft, Event::NodeStatusChanged { node: node.clone(), status, cause });
        let now = draft.now.tick;
        if before.0 == NodeStatus::Active && cause != Some(FaultCause::Draining) {
            self.note_flap(node, now);
        }
        if matches!(status, NodeStatus::Initializing | NodeStatus::Failed) {
            self.clear_suspicion(node, now);
        }
        if before.0 != status {
            self.relink(node);
            self.wake(node, now);
        }
    }

    /// Takes all attempts from a node; their tasks wait for another. Answers how many there were.
    pub(super) fn take_work(
        &mut self,
        draft: &mut Draft,
        node: &NodeId,
        counts: bool,
        reason: &str,
    ) -> Vec<AttemptRef> {
        self.take_work_but(draft, node, &BTreeSet::new(), counts, reason)
    }

    /// The same, but for some of them.
    fn take_work_but(
        &mut self,
        draft: &mut Draft,
        node: &NodeId,
        kept: &BTreeSet<AttemptId>,
        counts: bool,
        reason: &str,
    ) -> Vec<AttemptRef> {
        let presence = self.presence(node);
        let session = presence.session;
        let running = presence.running.take_but(kept);
        let outcome = if counts { CallOutcome::Failure } else { CallOutcome::Ignored };
        self.change_breaker(draft, node, |now, breaker| {
            for attempt in running.values() {
                breaker.record(now, attempt.permit, outcome, 0.0);
            }
        });
        let taken: Vec<AttemptRef> = running.iter().map(|(id, running)| running.named(*id)).collect();
        let runs: BTreeSet<RunId> = taken.iter().map(|attempt| attempt.run.clone()).collect();
        for run in runs {
            let Some(state) = self.state.runs.get(&run) else { continue };
            let tasks = taken
                .iter()
                .filter(|attempt| attempt.run == run)
                .filter_map(|attempt| state.task(attempt.task))
                .map(|task| task.task.clone())
                .collect();
            self.record_run(draft, &run, RunEvent::Redistributed { from: node.clone(), tasks, counts });
        }
        if let Some(session) = session {
            for attempt in &taken {
                let message = Message::Revoke { attempt: attempt.clone(), reason: reason.to_owned() };
                draft.effects.push(Effect::Send { node: node.clone(), session, message });
            }
        }
        for attempt in &taken {
            self.give_up_if_exhausted(draft, &attempt.run, attempt.task, reason);
        }
        taken
    }
}
