//! The test mesh: a coordinator whose clock is advanced by hand, and nodes played by the test.

mod crash;

use std::collections::BTreeMap;
use std::time::Duration;

pub(super) use super::builders::*;
use crate::coordinator::decision::{Effect, Reply};
use crate::coordinator::event::{Event, RunEvent, RunOrder};
use crate::coordinator::input::{Ending, Facts, Hello, Input, SessionEnding};
use crate::coordinator::message::{Assign, Message, Roster};
use crate::coordinator::run::{Run, Task};
use crate::coordinator::settings::Settings;
use crate::coordinator::state::State;
use crate::coordinator::{Coordinator, invariants};
use crate::types::{
    AttemptRef, Epoch, FaultCause, Incarnation, LinkState, Measured, NodeId, NodeStatus, Now, Outcome, RunId,
    SessionId, Stage, Summary, Tick, UnixMillis,
};

/// A coordinator under test. After each decision its invariants must hold, and the events so far, written and read
/// as JSON, must give its state.
pub(super) struct TestMesh {
    pub(super) core: Coordinator,
    pub(super) now: Tick,
    pub(super) wake_at: Option<Tick>,
    /// All so far.
    pub(super) events: Vec<Event>,
    /// Of the last input.
    pub(super) effects: Vec<Effect>,
    replayed: State,
    assigned: BTreeMap<AttemptRef, Assign>,
    /// The newest of each node; they are not among the effects.
    pub(super) rosters: BTreeMap<NodeId, Roster>,
    /// Probes that were not answered.
    probes: Vec<(NodeId, SessionId, u64)>,
    incarnations: BTreeMap<NodeId, u64>,
    sessions: u64,
    runs: u64,
}

impl TestMesh {
    /// No node yet.
    pub(super) fn with(settings: Settings) -> Self {
        let mut core = Coordinator::new(settings, Epoch(1));
        // It started long ago.
        core.decide(Now::default(), Input::Timer);
        Self {
            now: Tick(1_000_000) + core.settings().message_timeout,
            core,
            wake_at: None,
            events: Vec::new(),
            effects: Vec::new(),
            replayed: State::new(Epoch(1)),
            assigned: BTreeMap::new(),
            rosters: BTreeMap::new(),
            probes: Vec::new(),
            incarnations: BTreeMap::new(),
            sessions: 0,
            runs: 0,
        }
    }

    /// The four specialists, joined.
    pub(super) fn full() -> Self {
        Self::full_with(Settings::default())
    }

    /// The same, with settings.
    pub(super) fn full_with(settings: Settings) -> Self {
        let mut mesh = Self::with(settings);
        mesh.input(Input::Declare(ALL.map(specialist).into()));
        for name in ALL {
            mesh.join(name);
        }
        mesh
    }

    /// Decides an input and lets time pass, as the engine does.
    pub(super) fn input(&mut self, input: Input) -> Reply {
        self.effects.clear();
        let reply = self.decide(input);
        self.decide(Input::Timer);
        reply
    }

    /// Decides one input alone.
    pub(super) fn decide(&mut self, input: Input) -> Reply {
        let now = Now { tick: self.now, wall: UnixMillis(self.now.0 / 1000) };
        let decision = self.core.decide(now, input);
        assert_eq!(invariants::broken(&self.core), Vec::<String>::new());
        for event in &decision.events {
            let record = serde_json::to_vec(event).expect("writes");
            self.replayed.apply(&serde_json::from_slice(&record).expect("reads"));
        }
        assert_eq!(&self.replayed, self.core.state(), "replaying the events gives the state");
        for effect in &decision.effects {
            match effect {
                Effect::Send { message: Message::Assign(assign), .. } => {
                    let earlier = self.assigned.insert(assign.attempt.clone(), (**assign).clone());
                    assert_eq!(earlier, None, "attempts are never reused");
                }
                Effect::Send { node, message: Message::Roster(roster), .. } => {
                    let earlier = self.rosters.insert(node.clone(), (**roster).clone());
                    assert!(earlier.is_none_or(|earlier| earlier.version < roster.version));
                }
                Effect::Send { node, session, message: Message::Probe { number } } => {
                    self.probes.push((node.clone(), *session, *number));
                }
                _ => {}
            }
        }
        self.events.extend(decision.events);
        let is_roster = |effect: &Effect| matches!(effect, Effect::Send { message: Message::Roster(_), .. });
        self.effects.extend(decision.effects.into_iter().filter(|effect| !is_roster(effect)));
        self.wake_at = decision.wake_at;
        decision.reply
    }

    /// Starts a node's process and connects it.
    pub(super) fn join(&mut self, name: &str) -> SessionId {
        let hello = hello(name, self.incarnation(name).0 + 1);
        self.connect(hello)
    }

    /// Connects the same process again, with what it says it has.
    pub(super) fn reconnect(&mut self, name: &str, running: &[&Assign], unacknowledged: &[&Assign]) {
        let mut hello = hello(name, self.incarnation(name).0);
        hello.running = running.iter().map(|assign| assign.attempt.clone()).collect();
        hello.unacknowledged = unacknowledged.iter().map(|assign| assign.attempt.clone()).collect();
        self.connect(hello);
    }

    pub(super) fn connect(&mut self, hello: Hello) -> SessionId {
        let name = hello.spec.node_id.clone();
        let open = self.core.presences().get(&name).and_then(|presence| presence.session);
        if let Some(session) = open.filter(|_| hello.incarnation > self.incarnation(name.as_str())) {
            // The connection of a process ends with it.
            self.decide(Input::SessionClosed { session, node: name.clone(), ending: SessionEnding::Reset });
        }
        self.incarnations.insert(name, hello.incarnation.0);
        self.sessions += 1;
        let session = SessionId(self.sessions);
        let reply = self.input(Input::Joined { session, hello: Box::new(hello) });
        let epoch = self.core.state().epoch;
        assert!(matches!(reply, Reply::Welcome { epoch: at, .. } if at == epoch), "{reply:?}");
        session
    }

    pub(super) fn incarnation(&self, name: &str) -> Incarnation {
        Incarnation(self.incarnations.get(&node(name)).copied().unwrap_or_default())
    }

    pub(super) fn session(&self, name: &str) -> SessionId {
        self.core.presences()[&node(name)].session.expect("connected")
    }

    /// All connected nodes tell that the links they should hold are up.
    pub(super) fn link_up(&mut self) {
        let links: Vec<(NodeId, NodeId)> =
            self.core.link_plan().links().map(|(from, to)| (from.clone(), to.clone())).collect();
        for (node, subject) in links {
            if let Some(session) = self.core.presences()[&node].session {
                self.input(Input::LinkChanged { session, node, subject, state: LinkState::Up });
            }
        }
    }

    /// Lets time pass as the engine does, in which no node says anything: the timer comes exactly when it was asked for.
    pub(super) fn pass(&mut self, duration: Duration) {
        self.pass_answering(&[], duration);
    }

    /// Lets time pass while some nodes answer probes.
    pub(super) fn pass_answering(&mut self, answering: &[&str], duration: Duration) {
        let end = self.now + duration;
        while let Some(wake) = self.wake_at.filter(|wake| *wake <= end) {
            assert!(wake > self.now, "the timer would spin");
            self.now = wake;
            self.decide(Input::Timer);
            self.answer_probes(answering);
        }
        self.now = end;
        self.decide(Input::Timer);
        self.answer_probes(answering);
    }

    fn answer_probes(&mut self, answering: &[&str]) {
        for (node, session, number) in std::mem::take(&mut self.probes) {
            if answering.contains(&node.as_str()) {
                let (round_trip, clock_offset_ms) = (Duration::ZERO, 0);
                self.decide(Input::ProbeAnswered { session, node, number, round_trip, clock_offset_ms });
                self.decide(Input::Timer);
            }
        }
    }

    /// Lets time pass while some nodes send their heartbeats and answer probes.
    pub(super) fn pass_with(&mut self, beating: &[&str], duration: Duration) {
        let end = self.now + duration;
        while self.now < end {
            for name in beating {
                self.beat(name);
            }
            let step = self.core.settings().heartbeat_interval.min(end.since(self.now));
            self.pass_answering(beating, step);
        }
        for name in beating {
            self.beat(name);
        }
    }

    pub(super) fn start(&mut self, tools: &[&str]) -> RunId {
        match self.start_order(order(tools)) {
            Reply::Run(run) => run,
            other => panic!("not started: {other:?}"),
        }
    }

    pub(super) fn start_order(&mut self, order: RunOrder) -> Reply {
        self.runs += 1;
        let run = RunId::new(&format!("run-{}", self.runs)).expect("a valid run id");
        self.input(Input::StartRun { run, order: Box::new(order) })
    }

    /// Starts a run and has PLAN done with so many shards for each tool.
    pub(super) fn planned(&mut self, tools: &[&str], shards: u64) -> RunId {
        let run = self.start(tools);
        self.plan_done(&run, shards);
        run
    }

    pub(super) fn plan_done(&mut self, run: &RunId, shards: u64) {
        let assign = self.running_of(run, Stage::Plan).pop().expect("PLAN runs");
        let facts = Facts::Plan(plan(self.run(run).order.tools.keys(), shards));
        self.made(&assign, facts);
    }

    pub(super) fn run(&self, run: &RunId) -> &Run {
        &self.core.state().runs[run]
    }

    pub(super) fn tasks(&self, run: &RunId, stage: Stage) -> Vec<&Task> {
        self.run(run).stage(stage).collect()
    }

    /// What runs now, by attempt.
    pub(super) fn running(&self) -> Vec<Assign> {
        let held = self.core.presences().values().flat_map(|presence| presence.running.keys());
        let mut held: Vec<_> = held.copied().collect();
        held.sort();
        let find = |id| self.assigned.values().find(|assign| assign.attempt.attempt == id);
        held.into_iter().map(|id| find(id).expect("was assigned").clone()).collect()
    }

    pub(super) fn running_of(&self, run: &RunId, stage: Stage) -> Vec<Assign> {
        let all = self.running().into_iter();
        all.filter(|assign| assign.attempt.run == *run && assign.task.stage == stage).collect()
    }

    pub(super) fn running_on(&self, name: &str) -> Vec<Assign> {
        self.running().into_iter().filter(|assign| self.holder(assign).as_deref() == Some(name)).collect()
    }

    /// The node that has an attempt.
    pub(super) fn holder(&self, assign: &Assign) -> Option<String> {
        let presences = self.core.presences().iter();
        let mut holders =
            presences.filter(|(_, presence)| presence.running.contains_key(&assign.attempt.attempt));
        holders.next().map(|(id, _)| id.to_string())
    }

    /// The node that has a running attempt reports it done.
    pub(super) fn finish(&mut self, assign: &Assign) {
        let run = self.run(&assign.attempt.run);
        let facts = match assign.task.stage {
            Stage::Plan => Facts::Plan(plan(run.order.tools.keys(), 1)),
            Stage::Lint => Facts::Lint { error: None },
            Stage::Classify => Facts::Classify,
            Stage::Aggregate => Facts::Aggregate {
                outcome: if run.has_gaps() { Outcome::Incomplete } else { Outcome::Clean },
                summary: Summary::default(),
                tool_errors: BTreeMap::new(),
            },
        };
        self.made(assign, facts);
    }

    pub(super) fn made(&mut self, assign: &Assign, facts: Facts) {
        let ending = Ending::Made { output: blob(&assign.attempt.to_string()), facts };
        self.ended(assign, ending);
    }

    pub(super) fn fails(&mut self, assign: &Assign) {
        self.ended(assign, Ending::Failed("it broke".into()));
    }

    pub(super) fn ended(&mut self, assign: &Assign, ending: Ending) {
        let holder = self.holder(assign).expect("runs");
        self.ended_by(&holder, assign, ending);
    }

    pub(super) fn ended_by(&mut self, name: &str, assign: &Assign, ending: Ending) {
        self.input(Input::TaskEnded {
            executor: node(name),
            incarnation: self.incarnation(name),
            attempt: assign.attempt.clone(),
            ending,
            measured: Measured::default(),
            via: None,
        });
    }

    /// Finishes all there is to do.
    pub(super) fn drain(&mut self) {
        while let Some(assign) = self.running().first().cloned() {
            self.finish(&assign);
        }
    }

    pub(super) fn outcome(&self, run: &RunId) -> Option<Outcome> {
        self.run(run).ending.as_ref().map(|ending| ending.outcome)
    }

    pub(super) fn status(&self, name: &str) -> (NodeStatus, Option<FaultCause>) {
        let member = &self.core.state().members[&node(name)];
        (member.status, member.cause)
    }

    /// The events of a run, oldest first.
    pub(super) fn log(&self, run: &RunId) -> Vec<&RunEvent> {
        let events = self.events.iter();
        events
            .filter_map(|event| match event {
                Event::Run { run: of, event, .. } if of == run => Some(event),
                _ => None,
            })
            .collect()
    }

    /// What the last input had sent, and to whom.
    pub(super) fn sent(&self) -> Vec<(&NodeId, &Message)> {
        let effects = self.effects.iter();
        effects
            .filter_map(|effect| match effect {
                Effect::Send { node, message, .. } => Some((node, message)),
                _ => None,
            })
            .collect()
    }

    /// The attempts the last input revoked.
    pub(super) fn revoked(&self) -> Vec<&AttemptRef> {
        let sent = self.sent().into_iter();
        sent.filter_map(|(_, message)| match message {
            Message::Revoke { attempt, .. } => Some(attempt),
            _ => None,
        })
        .collect()
    }

    /// The attempts the last input acknowledged.
    pub(super) fn acknowledged(&self) -> Vec<&AttemptRef> {
        let sent = self.sent().into_iter();
        sent.filter_map(|(_, message)| match message {
            Message::Acknowledge(attempt) => Some(attempt),
            _ => None,
        })
        .collect()
    }
}
