//! What must hold after every decision, whatever was done to the mesh.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::coverage::RunLog;
use super::durable::Durable;
use super::excuses::Excuses;
use super::host::Host;
use super::starts::Starts;
use crate::coordinator::decision::{Decision, Effect, Reply};
use crate::coordinator::event::{Event, RecoveryStep, RunEvent};
use crate::coordinator::input::{FaultAction, FaultRequest, FaultTarget, Input};
use crate::coordinator::message::Message;
use crate::coordinator::state::State;
use crate::coordinator::{Coordinator, invariants};
use crate::types::{AttemptId, AttemptRef, Epoch, FaultCause, NodeId, NodeStatus, RunId, SessionId, Tick};

/// Results that are kept to be said again.
const RESULTS: usize = 32;

/// What an input was about, as far as it matters after its decision.
pub(super) enum Gist {
    Joined(SessionId, NodeId),
    Closed(SessionId),
    Result(Box<Input>),
    /// An operator brings nodes back.
    Recovery(FaultTarget),
    Other,
}

impl Gist {
    pub(super) fn of(input: &Input) -> Self {
        match input {
            Input::Joined { session, hello } => Self::Joined(*session, hello.spec.node_id.clone()),
            Input::SessionClosed { session, .. } => Self::Closed(*session),
            Input::TaskEnded { .. } => Self::Result(Box::new(input.clone())),
            Input::HandleFault(FaultRequest { action: FaultAction::Recover, target, .. }) => {
                Self::Recovery(target.clone())
            }
            _ => Self::Other,
        }
    }
}

pub(super) struct Checks {
    /// The state by its events alone, which were written and read again; of the coordinator that runs, stored or not.
    replayed: State,
    pub(super) durable: Durable,
    logs: BTreeMap<RunId, RunLog>,
    attempts: BTreeSet<AttemptRef>,
    live: BTreeMap<SessionId, NodeId>,
    /// Attempts whose node was presumed dead for a while, or has yet to find a coordinator that began anew.
    doubted: BTreeSet<AttemptId>,
    results: VecDeque<Input>,
    names: Vec<NodeId>,
    pub(super) excuses: Excuses,
    starts: Starts,
    /// Each change of a status.
    pub(super) changes: Vec<(Tick, NodeId, NodeStatus, Option<FaultCause>)>,
    /// What was met, by name.
    pub(super) met: BTreeMap<&'static str, u64>,
}

impl Checks {
    pub(super) fn new(hosts: &[Host]) -> Self {
        Self {
            replayed: State::new(Epoch(1)),
            durable: Durable::new(),
            logs: BTreeMap::new(),
            attempts: BTreeSet::new(),
            live: BTreeMap::new(),
            doubted: BTreeSet::new(),
            results: VecDeque::new(),
            names: hosts.iter().map(|host| host.node.clone()).collect(),
            excuses: Excuses::new(hosts.len()),
            starts: Starts::default(),
            changes: Vec::new(),
            met: BTreeMap::new(),
        }
    }

    pub(super) const fn results(&self) -> &VecDeque<Input> {
        &self.results
    }

    pub(super) fn meet(&mut self, what: &'static str) {
        *self.met.entry(what).or_default() += 1;
    }

    /// The sessions of a coordinator end with it.
    pub(super) fn no_session_lives(&mut self) {
        self.live.clear();
    }

    /// A coordinator begins with what was stored. What it grants anew is granted anew here.
    pub(super) fn begin_anew(&mut self, now: Tick) {
        self.replayed = self.durable.state.clone();
        self.starts = Starts::default();
        self.doubted.clear();
        self.excuses.was_deaf(now);
    }

    pub(super) fn after(
        &mut self,
        core: &Coordinator,
        hosts: &[Host],
        now: Tick,
        gist: &Gist,
        decision: &Decision,
    ) {
        if !cfg!(debug_assertions) {
            // Else the core itself has looked.
            assert_eq!(invariants::broken(core), Vec::<String>::new());
        }
        for event in &decision.events {
            self.look_at_a_word_of_an_operator(gist, event);
            let record = serde_json::to_vec(event).expect("writes");
            self.replayed.apply(&serde_json::from_slice(&record).expect("reads"));
            self.follow(core, hosts, now, event);
        }
        if !decision.events.is_empty() {
            assert_eq!(&self.replayed, core.state(), "replaying the events gives the state");
        }
        match gist {
            Gist::Joined(session, node) if matches!(decision.reply, Reply::Welcome { .. }) => {
                self.live.insert(*session, node.clone());
            }
            Gist::Closed(session) => {
                self.live.remove(session);
            }
            Gist::Recovery(target) => self.starts.forget(target),
            Gist::Result(input) => {
                self.results.push_back((**input).clone());
                if self.results.len() > RESULTS {
                    self.results.pop_front();
                }
            }
            _ => {}
        }
        for effect in &decision.effects {
            self.look_at(now, effect);
        }
        self.look_at_bounds(core);
    }

    /// What an operator marked FAILED stays so until an operator brings it back.
    fn look_at_a_word_of_an_operator(&self, gist: &Gist, event: &Event) {
        let Event::NodeStatusChanged { node, status, cause } = event else { return };
        let by_operator = (NodeStatus::Failed, Some(FaultCause::Operator));
        let before = self.replayed.members.get(node).map(|member| (member.status, member.cause));
        if before == Some(by_operator) {
            let is_meant = match gist {
                Gist::Recovery(FaultTarget::All) => true,
                Gist::Recovery(FaultTarget::Node(target)) => target == node,
                _ => false,
            };
            assert!(is_meant, "{node} was marked FAILED by an operator and is {status} ({cause:?})");
        }
    }

    fn follow(&mut self, core: &Coordinator, hosts: &[Host], now: Tick, event: &Event) {
        match event {
            Event::NodeStatusChanged { node, status, cause } => {
                self.changes.push((now, node.clone(), *status, *cause));
                self.starts.follow(now, node, *status);
                self.meet(match status {
                    NodeStatus::Initializing => "node initializing",
                    NodeStatus::Active => "node active",
                    NodeStatus::Degraded => "node degraded",
                    NodeStatus::Failed => "node failed",
                });
                let number = self.names.iter().position(|name| name == node).expect("a node of this mesh");
                // One witness is little: where no more are left, connections that end by chance at the same time look
                // like the end of a process, and without any the node must be back in the grace.
                let witnesses = self.witnesses(core, node);
                let looks_ended =
                    witnesses.len() < 2 || self.excuses.were_reset_together(number, &witnesses, now);
                let may_fail = hosts[number].process.is_none()
                    || self.excuses.may_fail(number, now)
                    || (*cause == Some(FaultCause::SessionLost) && looks_ended);
                assert!(
                    *status != NodeStatus::Failed || may_fail,
                    "{node} is healthy and was taken for dead: {cause:?}"
                );
            }
            Event::FaultHandled { .. } => self.meet("fault handled"),
            Event::NodeBreaker { trip, .. } => {
                self.meet(if trip.is_some() { "breaker opened" } else { "breaker closed" });
            }
            // When they are stored.
            Event::Run { .. } | Event::RunForgotten(_) => {}
            Event::NodeRecovery { step, .. } => self.meet(match step {
                RecoveryStep::GivenUp => "recovery given up",
                RecoveryStep::Restarted => "restarted",
                RecoveryStep::Linked => "linked",
                RecoveryStep::Drained => "drained",
                RecoveryStep::Left => "left in order",
                _ => "recovery step",
            }),
            Event::NodeDrained { .. }
            | Event::NodeDeclared(_)
            | Event::MeshConfigured(_)
            | Event::NodeForgotten(_)
            | Event::NodeJoined { .. } => {}
        }
    }

    /// The peers whose word about a node counts.
    fn witnesses(&self, core: &Coordinator, node: &NodeId) -> Vec<usize> {
        let views = core.presences().get(node).map(|presence| &presence.contact.views);
        let is_witness = |peer: &NodeId| {
            let is_active = core.state().active().any(|(active, _)| active == peer);
            is_active && peer != node && views.is_some_and(|views| views.contains_key(peer))
        };
        (0..self.names.len()).filter(|number| is_witness(&self.names[*number])).collect()
    }

    /// An event of a run is stored.
    pub(super) fn follow_run(&mut self, run: &RunId, sequence: u64, event: &RunEvent) {
        let log = self.logs.entry(run.clone()).or_default();
        let met = log.follow(run, sequence, event);
        self.meet(met);
    }

    pub(super) fn forget_run(&mut self, run: &RunId) {
        let log = self.logs.remove(run).expect("only what was known is forgotten");
        assert!(log.has_ended(), "{run} was forgotten before its end");
        self.attempts.retain(|attempt| attempt.run != *run);
        self.meet("run forgotten");
    }

    fn look_at(&mut self, now: Tick, effect: &Effect) {
        match effect {
            Effect::Send { node, session, message } => {
                assert_eq!(self.live.get(session), Some(node), "{session} is live: {message:?}");
                match message {
                    Message::Assign(assign) => {
                        let is_new = self.attempts.insert(assign.attempt.clone());
                        assert!(is_new, "{} is assigned once", assign.attempt);
                    }
                    Message::Revoke { .. } => self.meet("revoked"),
                    Message::Forward { .. } => self.meet("passed on"),
                    Message::ProbeRequest { .. } => self.meet("look asked for"),
                    Message::Probe { .. } => self.meet("probe"),
                    Message::Roster(roster) => {
                        self.meet(if roster.rebuild { "rebuild" } else { "roster" });
                    }
                    Message::Acknowledge(_) | Message::Shutdown { .. } => {}
                }
            }
            Effect::CloseSession(session) => {
                let was_live = self.live.remove(session).is_some();
                assert!(was_live, "{session} was live");
            }
            Effect::RestartProcess { node, cause, .. } => {
                self.meet("start ordered");
                self.starts.note(now, node, cause);
            }
        }
    }

    fn look_at_bounds(&mut self, core: &Coordinator) {
        let (state, settings) = (core.state(), core.settings());
        assert!(state.open.len() <= settings.max_open_runs, "open runs are bounded");
        assert!(
            state.runs.len() <= settings.kept_runs + settings.max_open_runs + 1,
            "runs are bounded: {}",
            state.runs.len()
        );
        assert!(state.requests.len() <= state.runs.len(), "requests are forgotten with their runs");
        assert!(state.faults.len() <= 1000 && state.faults.len() == state.fault_order.len());
        assert!(core.presences().len() <= self.names.len() && state.members.len() <= self.names.len());
        assert!(self.live.len() <= 2 * self.names.len(), "a node has one session, and one that ends");
        self.look_at_cores(core);
    }

    /// The LINT tasks of a machine never outnumber its cores; but for those of nodes that were presumed dead, whose
    /// cores are given to others.
    fn look_at_cores(&mut self, core: &Coordinator) {
        let presences = core.presences();
        let held: BTreeSet<AttemptId> =
            presences.values().flat_map(|presence| presence.running.keys().copied()).collect();
        self.doubted.retain(|attempt| held.contains(attempt));
        let mut in_use: BTreeMap<&str, u32> = BTreeMap::new();
        for (node, presence) in presences {
            let cause = core.state().members.get(node).and_then(|member| member.cause);
            let is_silent = matches!(cause, Some(FaultCause::Silent | FaultCause::SessionLost));
            if is_silent || presence.contact.is_awaited {
                self.doubted.extend(presence.running.keys());
            }
            for (attempt, running) in &presence.running {
                // Until it joins a coordinator that began anew, nobody knows a node's machine.
                if !self.doubted.contains(attempt) && !presence.host_id.is_empty() {
                    *in_use.entry(&presence.host_id).or_default() += running.cpu_slots;
                }
            }
        }
        assert!(in_use.values().all(|used| *used <= 2), "cores are not given twice: {in_use:?}");
    }

    /// After the calm: every run has ended.
    pub(super) fn unfinished(&self) -> Vec<&RunId> {
        self.logs.iter().filter(|(_, log)| !log.has_ended()).map(|(run, _)| run).collect()
    }
}
