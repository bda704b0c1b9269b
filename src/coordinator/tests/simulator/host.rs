//! A node: its process, its session with the coordinator, and what it is told there.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::super::builders::{ALL, hello, node, specialist};
use super::fault::Place;
use super::links::Links;
use super::network::{Arrival, ConnectionId, End, Segment};
use super::work::{Held, Running};
use super::world::{Happening, Said, World};
use crate::coordinator::input::{Beat, Hello, Input};
use crate::coordinator::message::Message;
use crate::types::{AttemptRef, Load, NodeId, SessionId, Tick};

/// How long the coordinator may take to answer Hello.
const WELCOME_DEADLINE: Duration = Duration::from_secs(10);
/// Silence of the coordinator after which a node asks it, and after which it gives its session up; the same of its
/// answers, beyond the time between heartbeats, to which it answers.
const QUIET: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(5);
/// The first pause before a node dials again, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// How long a node whose launcher is gone goes on without a session.
const ORPHAN_GRACE: Duration = Duration::from_secs(60);
/// A timer that comes later than this tells a process that it was asleep.
const SLIP: Duration = Duration::from_millis(500);

/// A node's machine.
pub(super) struct Host {
    pub(super) node: NodeId,
    pub(super) name: String,
    /// Attempts it runs at a time.
    pub(super) most_tasks: usize,
    /// Processes started so far.
    pub(super) lives: u64,
    pub(super) starts_fail: u32,
    pub(super) skew_ms: i64,
    /// Until when its machine is off.
    pub(super) off_until: Tick,
    pub(super) process: Option<Process>,
}

/// A node's process as it sees itself.
pub(super) struct Process {
    pub(super) life: u64,
    pub(super) session: Session,
    failures: u32,
    pub(super) running: BTreeMap<AttemptRef, Running>,
    /// Results that were not acknowledged.
    pub(super) outbox: VecDeque<Held>,
    pub(super) links: Links,
    heartbeat_interval: Duration,
    pub(super) probe_interval: Duration,
    /// When the next tick should come.
    due: Tick,
    /// Silence before this moment was perhaps its own.
    awake_since: Tick,
    /// Its own timers came late; over with the next that is in time.
    pub(super) abstaining: bool,
    /// It was late since its last beat.
    was_late: bool,
    /// It was asked to end: it takes no new work.
    pub(super) draining: bool,
    /// Its launcher is gone.
    pub(super) is_orphan: bool,
    /// When it last had a session.
    session_at: Tick,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Session {
    None,
    Dialling { connection: ConnectionId, since: Tick },
    Joined { connection: ConnectionId, heard_at: Tick, answered_at: Tick },
}

impl Session {
    pub(super) const fn joined(self) -> Option<ConnectionId> {
        match self {
            Session::Joined { connection, .. } => Some(connection),
            _ => None,
        }
    }

    const fn connection(self) -> Option<ConnectionId> {
        match self {
            Session::None => None,
            Session::Dialling { connection, .. } | Session::Joined { connection, .. } => Some(connection),
        }
    }
}

impl Host {
    pub(super) fn new(number: usize) -> Self {
        let name = match number / ALL.len() {
            0 => ALL[number].to_owned(),
            round => format!("{}-{}", ALL[number % ALL.len()], round + 1),
        };
        Self {
            node: node(&name),
            name,
            most_tasks: specialist(ALL[number % ALL.len()]).max_concurrent_tasks as usize,
            lives: 0,
            starts_fail: 0,
            skew_ms: 0,
            off_until: Tick(0),
            process: None,
        }
    }

    fn hello(&self, number: usize) -> Option<Hello> {
        let process = self.process.as_ref()?;
        let mut hello = hello(ALL[number % ALL.len()], process.life);
        hello.spec.node_id = self.node.clone();
        hello.host_id = if number.is_multiple_of(2) { "one".into() } else { "two".into() };
        hello.peer_endpoint = Some(format!("http://{}:1", self.name));
        hello.draining = process.draining;
        hello.running = process.running.keys().cloned().collect();
        hello.unacknowledged = process.outbox.iter().map(|held| held.attempt.clone()).collect();
        Some(hello)
    }
}

impl World {
    /// The process of a node, if it is this one.
    pub(super) fn process(&mut self, node: usize, life: u64) -> Option<&mut Process> {
        self.hosts[node].process.as_mut().filter(|process| process.life == life)
    }

    pub(super) fn start_process(&mut self, node: usize) {
        let now = self.now();
        let host = &mut self.hosts[node];
        host.lives += 1;
        let life = host.lives;
        host.process = Some(Process {
            life,
            session: Session::None,
            failures: 0,
            running: BTreeMap::new(),
            outbox: VecDeque::new(),
            links: Links::default(),
            heartbeat_interval: Duration::from_secs(5),
            probe_interval: Duration::from_secs(1),
            due: Tick(u64::MAX),
            awake_since: Tick(0),
            abstaining: false,
            was_late: false,
            draining: false,
            is_orphan: false,
            session_at: now,
        });
        let pause = self.random.duration(Duration::from_millis(100), Duration::from_millis(600));
        self.schedule.after(pause, Happening::Dials { node, life });
        let phase = self.random.duration(Duration::ZERO, Duration::from_secs(1));
        self.schedule.after(pause + phase, Happening::Ticks { node, life });
    }

    pub(super) fn dial_coordinator(&mut self, node: usize, life: u64) {
        let now = self.now();
        if self.process(node, life).is_none_or(|process| process.session != Session::None) {
            return;
        }
        let connection = self.dial(Place::Node(node), Place::Coordinator);
        if let Some(process) = self.process(node, life) {
            process.session = Session::Dialling { connection, since: now };
        }
    }

    pub(super) fn host_hears(&mut self, node: usize, arrival: Arrival<Said>) {
        let Some(process) = &self.hosts[node].process else {
            self.close(arrival.connection, arrival.at);
            return;
        };
        let life = process.life;
        if process.session.connection() == Some(arrival.connection) {
            self.hear_coordinator(node, life, arrival);
        } else if !self.network.is_open(arrival.connection, arrival.at) {
            // What was still on its way when this end was closed.
        } else {
            self.hear_peer(node, life, arrival);
        }
    }

    fn hear_coordinator(&mut self, node: usize, life: u64, arrival: Arrival<Said>) {
        let (now, connection) = (self.now(), arrival.connection);
        let said = match arrival.segment {
            Segment::Fin => {
                self.close(connection, End::Dialer);
                return self.session_over(node, life);
            }
            Segment::Accepted => {
                let Some(hello) = self.hosts[node].hello(node) else { return };
                let joined = Input::Joined { session: SessionId(connection), hello: Box::new(hello) };
                return self.say(connection, End::Dialer, Said::Input(Box::new(joined)));
            }
            Segment::Data(said) => said,
            Segment::Syn => return,
        };
        let Some(process) = self.process(node, life) else { return };
        if let Session::Joined { heard_at, answered_at, .. } = &mut process.session {
            *heard_at = now;
            if matches!(said, Said::Here) {
                *answered_at = now;
            }
        }
        match said {
            Said::Welcome { heartbeat_interval, probe_interval } => {
                process.session = Session::Joined { connection, heard_at: now, answered_at: now };
                process.links.begin_session();
                process.failures = 0;
                process.heartbeat_interval = heartbeat_interval;
                process.probe_interval = probe_interval;
                self.schedule.after(Duration::ZERO, Happening::Beats { node, life, connection });
                self.send_results(node, life);
            }
            // A process that is not wanted ends; so does one that is asked to.
            Said::Refused { finally: true } => self.end_process(node),
            Said::Refused { finally: false } => {}
            Said::Message(message) => self.obey(node, life, *message),
            _ => {}
        }
    }

    /// Does what the coordinator says, however it came here.
    pub(super) fn obey(&mut self, node: usize, life: u64, message: Message) {
        let Some(process) = self.process(node, life) else { return };
        match message {
            Message::Assign(assign) => self.take(node, life, *assign),
            Message::Revoke { attempt, .. } => {
                process.running.remove(&attempt);
                process.outbox.retain(|held| held.attempt != attempt);
            }
            Message::Acknowledge(attempt) => process.outbox.retain(|held| held.attempt != attempt),
            Message::Probe { number } => {
                let wall = self.wall(Place::Node(node));
                self.tell(node, Said::ProbeAnswer { number, wall });
            }
            Message::ProbeRequest { subject, number } => self.look_at(node, life, &subject, number),
            Message::Roster(roster) => self.follow_roster(node, life, *roster),
            Message::Forward { to, message } => self.pass_on(node, &to, *message),
            Message::Shutdown { .. } => self.end_process(node),
        }
    }

    /// Says something in the session, if there is one. Answers whether it was said.
    pub(super) fn tell(&mut self, node: usize, said: Said) -> bool {
        let session = self.hosts[node].process.as_ref().and_then(|process| process.session.joined());
        if let Some(connection) = session {
            self.say(connection, End::Dialer, said);
        }
        session.is_some()
    }

    /// Says something of a session, which is named in it.
    pub(super) fn report(&mut self, node: usize, input: impl FnOnce(SessionId, NodeId) -> Input) {
        let session = self.hosts[node].process.as_ref().and_then(|process| process.session.joined());
        if let Some(connection) = session {
            let input = input(SessionId(connection), self.hosts[node].node.clone());
            self.say(connection, End::Dialer, Said::Input(Box::new(input)));
        }
    }

    fn session_over(&mut self, node: usize, life: u64) {
        let least = Duration::ZERO;
        let Some(process) = self.process(node, life) else { return };
        process.session = Session::None;
        let most = BACKOFF.0.saturating_mul(2_u32.saturating_pow(process.failures)).min(BACKOFF.1);
        process.failures += 1;
        // Full jitter.
        let pause = self.random.duration(least, most);
        self.schedule.after(pause, Happening::Dials { node, life });
    }

    pub(super) fn beat(&mut self, node: usize, life: u64, connection: ConnectionId) {
        let now = self.now();
        let Some(process) = self.process(node, life) else { return };
        if process.session.joined() != Some(connection) {
            return;
        }
        let attempts =
            process.running.iter().map(|(attempt, running)| (attempt.clone(), running.idle(now))).collect();
        let running_tasks = u32::try_from(process.running.len()).unwrap_or(u32::MAX);
        let beat = Beat {
            load: Load { running_tasks, ..Load::default() },
            links: process.links.reports(now),
            attempts,
            abstaining: std::mem::take(&mut process.was_late),
        };
        let interval = process.heartbeat_interval;
        self.report(node, |session, node| Input::Beat { session, node, beat });
        self.schedule.after(interval, Happening::Beats { node, life, connection });
    }

    /// Once a probe interval.
    pub(super) fn tick(&mut self, node: usize, life: u64) {
        let (now, has_launcher) = (self.now(), self.seat.is_up);
        let Some(process) = self.process(node, life) else { return };
        process.abstaining = now >= process.due + SLIP;
        process.was_late |= process.abstaining;
        process.due = now + process.probe_interval;
        if process.abstaining {
            process.awake_since = now;
        }
        let (mut over, mut ask) = (None, None);
        let every = process.heartbeat_interval;
        match process.session {
            Session::Joined { heard_at, answered_at, connection } => {
                // After a sleep its own silence is no sign of the coordinator's.
                let silence = now.since(heard_at.max(process.awake_since));
                let unanswered = now.since(answered_at.max(process.awake_since));
                over = (silence >= PATIENCE || unanswered >= PATIENCE + every).then_some(connection);
                ask = (silence >= QUIET || unanswered >= every + QUIET).then_some(connection);
                process.session_at = now;
            }
            Session::Dialling { since, connection } => {
                over = (now >= since + WELCOME_DEADLINE).then_some(connection);
            }
            Session::None => {}
        }
        let interval = process.probe_interval;
        // One whose launcher is there again waits for it.
        if process.is_orphan && !has_launcher && now >= process.session_at + ORPHAN_GRACE {
            self.checks.meet("orphan ended");
            return self.end_process(node);
        }
        if let Some(connection) = over {
            self.close(connection, End::Dialer);
            self.session_over(node, life);
        } else if let Some(connection) = ask {
            self.say(connection, End::Dialer, Said::Ask);
        }
        self.look_at_links(node, life);
        self.seek_relay(node, life);
        let late = self.random.duration(Duration::ZERO, Duration::from_millis(3));
        self.schedule.after(interval + late, Happening::Ticks { node, life });
    }
}
