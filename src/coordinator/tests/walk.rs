//! A random walk: simulated nodes, clients and operators around the real core, in virtual time.
//!
//! Whatever is random comes from one seed, so a walk can be repeated exactly. What a node says in one connection
//! arrives in order; otherwise anything may overtake anything.

use crate::coordinator::input::{Beat, SessionEnding};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::mesh::*;
use super::random::Random;
use crate::coordinator::input::{Assign, Effect, Ending, Facts, Input, Message, Reply};
use crate::coordinator::recovery::RestartPolicy;
use crate::coordinator::settings::Settings;
use crate::types::{
    AttemptId, AttemptRef, FaultCause, Incarnation, Measured, NodeStatus, Outcome, RunId, SessionId, Stage,
    Summary,
};

/// A node's process as it sees itself.
struct Process {
    name: &'static str,
    incarnation: u64,
    alive: bool,
    /// Connected, but does nothing.
    hangs: bool,
    session: Option<SessionId>,
    running: Vec<Assign>,
    /// Results that were not acknowledged.
    held: Vec<(Assign, Ending)>,
}

pub(super) struct Walk {
    pub(super) mesh: TestMesh,
    random: Random,
    processes: Vec<Process>,
    /// What was said in each connection and has not arrived.
    to_coordinator: BTreeMap<SessionId, VecDeque<Input>>,
    to_nodes: BTreeMap<SessionId, VecDeque<Message>>,
    /// Results of the past, to be said again.
    history: Vec<Input>,
    sessions: u64,
    requests: u64,
    runs: Vec<RunId>,
    /// Attempts whose node was presumed dead for a while.
    doubted: BTreeSet<AttemptId>,
    calm: bool,
}

const TOOLS: [&[&str]; 3] = [&["ruff"], &["flake8", "ruff"], &["bandit", "mypy", "pylint"]];

impl Walk {
    pub(super) fn new(seed: u64) -> Self {
        let restart = RestartPolicy { launched: ALL.map(node).into(), ..RestartPolicy::default() };
        let settings = Settings {
            restart,
            recovery_timeout: seconds(10),
            task_timeout: seconds(60),
            // Else a task is hardly ever given up.
            kept_runs: 3,
            max_retry_attempts: 2,
            max_open_runs: 3,
            ..Settings::default()
        };
        let process = |name| Process {
            name,
            incarnation: 0,
            alive: false,
            hangs: false,
            session: None,
            running: Vec::new(),
            held: Vec::new(),
        };
        Self {
            mesh: TestMesh::with(settings),
            random: Random(seed),
            processes: ALL.map(process).into(),
            to_coordinator: BTreeMap::new(),
            to_nodes: BTreeMap::new(),
            history: Vec::new(),
            sessions: 0,
            requests: 0,
            runs: Vec::new(),
            doubted: BTreeSet::new(),
            calm: false,
        }
    }

    /// So many random steps, then calm until every run has ended.
    pub(super) fn run(&mut self, steps: usize) {
        for _ in 0..steps {
            self.step();
        }
        self.settle();
    }

    fn step(&mut self) {
        let at = self.random.below(self.processes.len());
        match self.random.below(100) {
            0..25 => self.deliver_to_coordinator(),
            25..45 => self.deliver_to_node(),
            45..60 => self.end_something(at),
            60..68 => self.connect(at),
            68..78 => self.beat(at),
            78..84 => self.start_run(),
            84 => self.cancel_run(),
            85..87 => self.crash(at),
            87..90 => self.drop_connection(at),
            90 => self.processes[at].hangs = !self.processes[at].hangs,
            91 => self.operate(at),
            92..94 => self.repeat_the_past(),
            94 => self.mesh.pass(seconds(8)),
            _ => self.mesh.pass(std::time::Duration::from_millis(700)),
        }
        self.carry();
        self.check_cores();
    }

    /// Everybody behaves; every run must end.
    fn settle(&mut self) {
        self.calm = true;
        for at in 0..self.processes.len() {
            self.processes[at].hangs = false;
            self.input(recovering("", self.processes[at].name));
        }
        for _ in 0..400 {
            for at in 0..self.processes.len() {
                self.connect(at);
                self.beat(at);
            }
            while !self.to_coordinator.is_empty() || !self.to_nodes.is_empty() {
                self.deliver_to_coordinator();
                self.deliver_to_node();
            }
            for at in 0..self.processes.len() {
                while !self.processes[at].running.is_empty() {
                    self.end_something(at);
                }
            }
            let open = self.mesh.core.state().open_runs().count();
            if open == 0 && self.to_coordinator.is_empty() && self.to_nodes.is_empty() {
                return;
            }
            if self.to_coordinator.is_empty() && self.to_nodes.is_empty() {
                self.mesh.pass(seconds(4));
                self.carry();
            }
        }
        panic!("runs are open after the calm: {:?}", self.mesh.core.state().open);
    }

    fn input(&mut self, input: Input) -> Reply {
        let reply = self.mesh.input(input);
        self.carry();
        reply
    }

    /// Takes the effects to where they go.
    fn carry(&mut self) {
        for effect in std::mem::take(&mut self.mesh.effects) {
            match effect {
                Effect::Send { session, message, .. } => {
                    if self.processes.iter().any(|process| process.session == Some(session)) {
                        self.to_nodes.entry(session).or_default().push_back(message);
                    }
                }
                Effect::CloseSession(session) => {
                    if let Some(at) =
                        self.processes.iter().position(|process| process.session == Some(session))
                    {
                        self.drop_connection(at);
                    }
                }
                Effect::RestartProcess { node, .. } => {
                    if let Some(at) = self.processes.iter().position(|process| process.name == node.as_str())
                    {
                        self.crash(at);
                    }
                }
            }
        }
    }

    fn say(&mut self, session: SessionId, input: Input) {
        self.to_coordinator.entry(session).or_default().push_back(input);
    }

    fn deliver_to_coordinator(&mut self) {
        let at = self.random.below(self.to_coordinator.len());
        let Some(mut entry) = self.to_coordinator.iter_mut().nth(at).map(|(session, _)| *session).and_then(
            |session| match self.to_coordinator.entry(session) {
                std::collections::btree_map::Entry::Occupied(entry) => Some(entry),
                std::collections::btree_map::Entry::Vacant(_) => None,
            },
        ) else {
            return;
        };
        let input = entry.get_mut().pop_front();
        if entry.get().is_empty() {
            entry.remove();
        }
        let Some(input) = input else { return };
        let joined = match &input {
            Input::Joined { session, .. } => Some(*session),
            _ => None,
        };
        if let (Some(session), Reply::Refused(_)) = (joined, self.input(input))
            && let Some(at) = self.processes.iter().position(|process| process.session == Some(session))
        {
            self.drop_connection(at);
        }
    }

    fn deliver_to_node(&mut self) {
        let at = self.random.below(self.to_nodes.len());
        let Some(session) = self.to_nodes.keys().nth(at).copied() else { return };
        let Some(process) = self.processes.iter_mut().find(|process| process.session == Some(session)) else {
            self.to_nodes.remove(&session);
            return;
        };
        if process.hangs {
            return;
        }
        let Some(queue) = self.to_nodes.get_mut(&session) else { return };
        let message = queue.pop_front();
        if queue.is_empty() {
            self.to_nodes.remove(&session);
        }
        match message {
            Some(Message::Assign(assign)) => {
                if !self.calm && self.random.percent(10) {
                    let (node, attempt) = (node(process.name), assign.attempt.clone());
                    self.say(session, Input::Rejected { node, attempt, reason: "full".into() });
                } else {
                    process.running.push(*assign);
                }
            }
            Some(Message::Revoke { attempt, .. }) => process.running.retain(|one| one.attempt != attempt),
            Some(Message::Probe { number }) => {
                let node = node(process.name);
                let (round_trip, clock_offset_ms) = (seconds(0), 0);
                self.say(
                    session,
                    Input::ProbeAnswered { session, node, number, round_trip, clock_offset_ms },
                );
            }
            Some(Message::Acknowledge(attempt)) => process.held.retain(|(one, _)| one.attempt != attempt),
            _ => {}
        }
    }

    fn end_something(&mut self, at: usize) {
        let process = &mut self.processes[at];
        if process.hangs || process.running.is_empty() {
            return;
        }
        let assign = process.running.remove(self.random.below(process.running.len()));
        let ending = if !self.calm && self.random.percent(15) {
            Ending::Failed("it broke".into())
        } else {
            self.made(&assign)
        };
        let process = &mut self.processes[at];
        process.held.push((assign.clone(), ending.clone()));
        let said = Input::TaskEnded {
            executor: node(process.name),
            incarnation: Incarnation(process.incarnation),
            attempt: assign.attempt,
            ending,
            measured: Measured::default(),
            via: None,
        };
        if let Some(session) = process.session {
            self.say(session, said.clone());
            if !self.calm && self.random.percent(10) {
                self.say(session, said.clone());
            }
        }
        self.history.push(said);
    }

    fn made(&mut self, assign: &Assign) -> Ending {
        let is_bad = !self.calm && self.random.percent(5);
        let run = self.mesh.core.state().runs.get(&assign.attempt.run);
        let shards = self.random.below(4) as u64;
        let facts = match assign.task.stage {
            Stage::Plan => Facts::Plan(plan(run.into_iter().flat_map(|run| run.order.tools.keys()), shards)),
            Stage::Lint => Facts::Lint { error: is_bad.then(tool_error) },
            Stage::Classify => Facts::Classify,
            Stage::Aggregate => Facts::Aggregate {
                outcome: if !is_bad && run.is_some_and(|run| run.has_gaps()) {
                    Outcome::Incomplete
                } else {
                    Outcome::Findings
                },
                summary: Summary::default(),
                tool_errors: BTreeMap::new(),
            },
        };
        Ending::Made { output: blob(&assign.attempt.to_string()), facts }
    }

    /// Starts the process if there is none, and connects it if it is not.
    fn connect(&mut self, at: usize) {
        let process = &mut self.processes[at];
        if !process.alive {
            process.alive = true;
            process.incarnation += 1;
        }
        if process.session.is_some() || process.hangs {
            return;
        }
        self.sessions += 1;
        let session = SessionId(self.sessions);
        process.session = Some(session);
        let mut hello = hello(process.name, process.incarnation);
        hello.host_id = if at < 2 { "one".into() } else { "two".into() };
        hello.running = process.running.iter().map(|assign| assign.attempt.clone()).collect();
        hello.unacknowledged = process.held.iter().map(|(assign, _)| assign.attempt.clone()).collect();
        let (executor, incarnation) = (node(process.name), Incarnation(process.incarnation));
        let held: Vec<_> =
            process.held.iter().map(|(assign, ending)| (assign.attempt.clone(), ending.clone())).collect();
        self.say(session, Input::Joined { session, hello: Box::new(hello) });
        for (attempt, ending) in held {
            let (executor, measured) = (executor.clone(), Measured::default());
            self.say(
                session,
                Input::TaskEnded { executor, incarnation, attempt, ending, measured, via: None },
            );
        }
    }

    fn beat(&mut self, at: usize) {
        let process = &self.processes[at];
        if let Some(session) = process.session.filter(|_| !process.hangs) {
            let node = node(process.name);
            let running = process.running.iter().chain(process.held.iter().map(|(assign, _)| assign));
            let attempts = running.map(|assign| (assign.attempt.clone(), seconds(0))).collect();
            self.say(session, Input::Beat { session, node, beat: Beat { attempts, ..Beat::default() } });
        }
    }

    fn drop_connection(&mut self, at: usize) {
        let process = &mut self.processes[at];
        if let Some(session) = process.session.take() {
            let node = node(process.name);
            self.to_nodes.remove(&session);
            self.say(session, Input::SessionClosed { session, node, ending: SessionEnding::Reset });
        }
    }

    fn crash(&mut self, at: usize) {
        self.drop_connection(at);
        let process = &mut self.processes[at];
        let was_alive = std::mem::replace(&mut process.alive, false);
        process.hangs = false;
        process.running.clear();
        process.held.clear();
        if was_alive && self.random.percent(50) {
            let process_id = u32::try_from(self.processes[at].incarnation).unwrap_or(0);
            let node = node(self.processes[at].name);
            self.input(Input::ProcessExited { node, process_id });
        }
    }

    fn start_run(&mut self) {
        let mut order = order(TOOLS[self.random.below(TOOLS.len())]);
        order.timeout = seconds(self.random.below(200) as u64 + 5);
        self.requests += u64::from(self.random.percent(80));
        order.request_id = format!("request-{}", self.requests);
        order.body = crate::types::Digest::of(order.request_id.as_bytes());
        if let Reply::Run(run) = self.mesh.start_order(order)
            && !self.runs.contains(&run)
        {
            self.runs.push(run);
        }
    }

    fn cancel_run(&mut self) {
        if !self.runs.is_empty() {
            let run = self.runs[self.random.below(self.runs.len())].clone();
            self.input(Input::CancelRun { run, reason: "enough".into() });
        }
    }

    fn operate(&mut self, at: usize) {
        let (id, name) = (format!("fault-{}", self.random.below(1000)), self.processes[at].name);
        let action = match self.random.below(10) {
            0..3 => failing(&id, name),
            3..5 => draining(&id, name, 3),
            _ => recovering(&id, name),
        };
        self.input(action);
    }

    fn repeat_the_past(&mut self) {
        if !self.history.is_empty() {
            let input = self.history[self.random.below(self.history.len())].clone();
            self.input(input);
        }
    }

    /// The LINT tasks of a machine never outnumber its cores, as the coordinator sees them; but for those of nodes that
    /// were presumed dead and came back.
    fn check_cores(&mut self) {
        let mut in_use: BTreeMap<&str, u32> = BTreeMap::new();
        for (id, presence) in self.mesh.core.presences() {
            let cause = self.mesh.core.state().members[id].cause;
            if matches!(cause, Some(FaultCause::Silent | FaultCause::SessionLost)) {
                self.doubted.extend(presence.running.keys());
            }
            for (attempt, running) in &presence.running {
                if !self.doubted.contains(attempt) {
                    *in_use.entry(&presence.host_id).or_default() += running.cpu_slots;
                }
            }
        }
        assert!(in_use.values().all(|used| *used <= 2), "{in_use:?}");
        let failed = self.mesh.core.state().members.iter();
        for (id, _) in failed.filter(|(_, member)| member.status == NodeStatus::Failed) {
            let has_work =
                self.mesh.core.presences().get(id).is_some_and(|presence| !presence.running.is_empty());
            assert!(!has_work, "{id}");
        }
    }

    /// The attempts that nodes have said ended, in that order.
    pub(super) fn attempts(&self) -> Vec<AttemptRef> {
        self.history
            .iter()
            .filter_map(|input| match input {
                Input::TaskEnded { attempt, .. } => Some(attempt.clone()),
                _ => None,
            })
            .collect()
    }
}
