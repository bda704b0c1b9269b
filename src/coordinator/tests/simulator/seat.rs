//! The coordinator's process: the real core behind queues, a timer and connections, as its engine and server have them.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::checks::Gist;
use super::fault::Place;
use super::network::{Arrival, ConnectionId, End, Segment};
use super::scenario::Scenario;
use super::world::{Happening, Said, World};
use crate::coordinator::Coordinator;
use crate::coordinator::decision::{Effect, Refusal, Reply};
use crate::coordinator::input::{Input, SessionEnding};
use crate::coordinator::message::Message;
use crate::types::{Epoch, NodeId, Now, SessionId, Tick};

/// Inputs that are decided at one moment, at most.
const BATCH: usize = 256;
/// Silence of a connection that the server takes.
const PATIENCE: Duration = Duration::from_secs(35);
/// Probes of a connection whose sending is remembered.
const PROBES: usize = 64;
/// Between something to decide and its decision: the way through tasks and queues.
const HANDLING: (Duration, Duration) = (Duration::from_micros(20), Duration::from_micros(400));
/// How late a timer comes, at most.
const LATE: Duration = Duration::from_millis(2);

pub(super) struct Seat {
    core: Coordinator,
    lines: BTreeMap<ConnectionId, Line>,
    /// What launchers, clients and operators want.
    commands: VecDeque<Input>,
    turn: u64,
    due: Option<Tick>,
}

/// A node's connection at this end.
struct Line {
    node: NodeId,
    /// What arrived; one input at a time is in the engine's queue.
    inbox: VecDeque<Input>,
    heard_at: Tick,
    ended: bool,
    probes: BTreeMap<u64, Tick>,
}

impl Seat {
    pub(super) fn new(scenario: &Scenario) -> Self {
        Self {
            core: Coordinator::new(scenario.settings.clone(), Epoch(1)),
            lines: BTreeMap::new(),
            commands: VecDeque::new(),
            turn: 0,
            due: None,
        }
    }

    pub(super) const fn core(&self) -> &Coordinator {
        &self.core
    }

    /// What waits to be decided.
    pub(super) fn queued(&self) -> usize {
        self.commands.len() + self.lines.values().map(|line| line.inbox.len()).sum::<usize>()
    }

    fn batch(&mut self) -> Vec<Input> {
        let mut batch: Vec<Input> =
            self.lines.values_mut().filter_map(|line| line.inbox.pop_front()).take(BATCH).collect();
        let room = self.commands.len().min(BATCH - batch.len());
        batch.extend(self.commands.drain(..room));
        batch
    }
}

impl World {
    pub(super) fn seat_hears(&mut self, arrival: Arrival<Said>) {
        let (now, connection) = (self.now(), arrival.connection);
        if !self.network.is_open(connection, End::Acceptor) {
            return;
        }
        let wall = self.wall(Place::Coordinator);
        if let Segment::Fin = arrival.segment {
            self.close(connection, End::Acceptor);
            return self.line_over(connection, SessionEnding::Reset);
        }
        let Segment::Data(said) = arrival.segment else { return };
        if let Said::Input(input) = &said
            && let Input::Joined { hello, .. } = &**input
        {
            let node = hello.spec.node_id.clone();
            let (inbox, probes) = (VecDeque::new(), BTreeMap::new());
            self.seat.lines.insert(connection, Line { node, inbox, heard_at: now, ended: false, probes });
            self.schedule.after(PATIENCE, Happening::Doubts(connection));
        }
        let Some(line) = self.seat.lines.get_mut(&connection).filter(|line| !line.ended) else { return };
        line.heard_at = now;
        let is_beat = matches!(&said, Said::Input(input) if matches!(**input, Input::Beat { .. }));
        match said {
            Said::Input(input) => line.inbox.push_back(*input),
            Said::ProbeAnswer { number, wall: theirs } => {
                let Some(sent) = line.probes.remove(&number) else { return };
                let round_trip = now.since(sent);
                let half = i64::try_from(round_trip.as_millis() / 2).unwrap_or(i64::MAX);
                let clock_offset_ms = theirs.0.cast_signed() - (wall.0.cast_signed() - half);
                let (session, node) = (SessionId(connection), line.node.clone());
                let answered = Input::ProbeAnswered { session, node, number, round_trip, clock_offset_ms };
                line.inbox.push_back(answered);
            }
            Said::Ask => return self.say(connection, End::Acceptor, Said::Here),
            _ => return,
        }
        if is_beat {
            self.say(connection, End::Acceptor, Said::Here);
        }
        self.prompt();
    }

    /// Has something decided that no node said.
    pub(super) fn command(&mut self, input: Input) {
        self.seat.commands.push_back(input);
        self.prompt();
    }

    fn prompt(&mut self) {
        let soon = self.now() + self.random.duration(HANDLING.0, HANDLING.1);
        self.turn_at(soon);
    }

    fn turn_at(&mut self, when: Tick) {
        if self.seat.due.is_some_and(|due| due <= when) {
            return;
        }
        self.seat.turn += 1;
        self.seat.due = Some(when);
        self.schedule.at(when, Happening::Decides { turn: self.seat.turn });
    }

    pub(super) fn take_turn(&mut self, turn: u64) {
        if turn == self.seat.turn {
            let batch = self.seat.batch();
            self.decide_batch(batch);
        }
    }

    /// Decides, commits, performs: as the engine does, time passes once for all.
    pub(super) fn decide_batch(&mut self, batch: Vec<Input>) {
        let now = Now { tick: self.now(), wall: self.wall(Place::Coordinator) };
        self.seat.due = None;
        let (mut effects, mut wake_at) = (Vec::new(), None);
        for input in batch.into_iter().chain([Input::Timer]) {
            let session = match &input {
                Input::Joined { session, .. } => Some(*session),
                _ => None,
            };
            self.trace.write(now.tick, &input);
            let gist = Gist::of(&input);
            let decision = self.seat.core.decide(now, input);
            self.trace.write(now.tick, &decision);
            self.checks.after(&self.seat.core, &self.hosts, now.tick, &gist, &decision);
            if let Gist::Closed(SessionId(connection)) = gist {
                self.seat.lines.remove(&connection);
            }
            effects.extend(decision.effects);
            wake_at = decision.wake_at;
            self.answer(session, decision.reply);
        }
        for effect in effects {
            self.perform(effect);
        }
        if let Some(wake) = wake_at {
            let late = self.random.duration(Duration::ZERO, LATE);
            self.turn_at(wake.max(now.tick) + late);
        }
        if self.seat.queued() > 0 {
            self.prompt();
        }
    }

    fn answer(&mut self, session: Option<SessionId>, reply: Reply) {
        let Some(SessionId(connection)) = session else {
            if let Reply::Run(run) = reply {
                self.clients.has(run);
            }
            return;
        };
        match reply {
            Reply::Welcome { heartbeat_interval, probe_interval, .. } => {
                let said = Said::Welcome { heartbeat_interval, probe_interval };
                self.say(connection, End::Acceptor, said);
            }
            Reply::Refused(refusal) => {
                let finally = matches!(refusal, Refusal::StaleIncarnation { .. });
                self.say(connection, End::Acceptor, Said::Refused { finally });
                self.close(connection, End::Acceptor);
                self.seat.lines.remove(&connection);
            }
            _ => {}
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Send { session: SessionId(connection), message, .. } => {
                let now = self.now();
                let Some(line) = self.seat.lines.get_mut(&connection).filter(|line| !line.ended) else {
                    return;
                };
                if let Message::Probe { number } = message {
                    line.probes.insert(number, now);
                    if line.probes.len() > PROBES {
                        line.probes.pop_first();
                    }
                }
                self.say(connection, End::Acceptor, Said::Message(Box::new(message)));
            }
            Effect::CloseSession(SessionId(connection)) => {
                self.close(connection, End::Acceptor);
                self.line_over(connection, SessionEnding::Given);
            }
            Effect::RestartProcess { node, start, .. } => {
                if let Some(node) = self.hosts.iter().position(|host| host.node == node) {
                    self.order_start(node, start);
                }
            }
        }
    }

    /// The server's keep-alive.
    pub(super) fn doubt(&mut self, connection: ConnectionId) {
        let now = self.now();
        let Some(line) = self.seat.lines.get(&connection).filter(|line| !line.ended) else { return };
        let due = line.heard_at + PATIENCE;
        if now < due {
            return self.schedule.at(due, Happening::Doubts(connection));
        }
        self.close(connection, End::Acceptor);
        self.line_over(connection, SessionEnding::Given);
    }

    /// A connection ended. What was read of it before is decided before, unless this side ended it.
    fn line_over(&mut self, connection: ConnectionId, ending: SessionEnding) {
        let Some(line) = self.seat.lines.get_mut(&connection).filter(|line| !line.ended) else { return };
        line.ended = true;
        if ending == SessionEnding::Given {
            line.inbox.retain(|input| matches!(input, Input::Joined { .. }));
        }
        let (session, node) = (SessionId(connection), line.node.clone());
        line.inbox.push_back(Input::SessionClosed { session, node, ending });
        self.prompt();
    }
}
