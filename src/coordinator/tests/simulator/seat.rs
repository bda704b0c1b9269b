//! The coordinator's process: the real core behind queues, a timer and connections, as its engine and server have them.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::checks::Gist;
use super::commits::{Commit, Step};
use super::disk::{Disk, RunLogs};
use super::fault::{Moment, Place, Trouble};
use super::network::{Arrival, ConnectionId, End, Segment};
use super::scenario::Scenario;
use super::world::{Happening, Said, World};
use crate::coordinator::Coordinator;
use crate::coordinator::decision::{Effect, Refusal, Reply};
use crate::coordinator::input::{Input, SessionEnding};
use crate::coordinator::message::Message;
use crate::types::{NodeId, Now, SessionId, Tick};

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
    commands: VecDeque<(Asker, Input)>,
    turn: u64,
    due: Option<Tick>,
    /// Whether its process is there; if not, the core is the last one's.
    pub(super) is_up: bool,
    /// Counts its processes.
    pub(super) life: u64,
    pub(super) disk: Disk,
    /// Calls of the store so far.
    pub(super) commits: u64,
    /// What is being stored; nothing is decided meanwhile.
    pub(super) commit: Option<Commit>,
    /// What those who watch runs may see.
    pub(super) logs: RunLogs,
    /// When it is to end, and by which fault of the script.
    pub(super) doom: Option<(usize, Moment)>,
    /// What is wrong with its store, and by which fault of the script.
    pub(super) trouble: Option<(usize, Trouble)>,
    /// Runs that were given a name.
    pub(super) named: u64,
}

/// Who waits for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asker {
    Nobody,
    Session(SessionId),
    /// A client, with this request.
    Client(u64),
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
        let mut disk = Disk::default();
        let first = disk.open().state.epoch;
        Self {
            core: Coordinator::new(scenario.settings.clone(), first),
            lines: BTreeMap::new(),
            commands: VecDeque::new(),
            turn: 0,
            due: None,
            is_up: true,
            life: 1,
            disk,
            commits: 0,
            commit: None,
            logs: RunLogs::new(),
            doom: None,
            trouble: None,
            named: 0,
        }
    }

    /// Its process ends; what it knew is gone.
    pub(super) fn end(&mut self) {
        self.is_up = false;
        self.life += 1;
        self.turn += 1;
        self.due = None;
        self.doom = None;
        self.lines.clear();
        self.commands.clear();
        self.logs.clear();
    }

    /// Another process of it begins.
    pub(super) fn begin(&mut self, core: Coordinator, logs: RunLogs) {
        self.is_up = true;
        self.core = core;
        self.logs = logs;
    }

    /// Stores the state in place of the events that made it.
    pub(super) fn compact(&mut self) {
        self.disk.compact(self.core.state(), &self.logs);
    }

    pub(super) const fn core(&self) -> &Coordinator {
        &self.core
    }

    /// What waits to be decided.
    pub(super) fn queued(&self) -> usize {
        self.commands.len() + self.lines.values().map(|line| line.inbox.len()).sum::<usize>()
    }

    fn batch(&mut self) -> Vec<(Asker, Input)> {
        let said = self.lines.values_mut().filter_map(|line| line.inbox.pop_front());
        let mut batch: Vec<_> = said.take(BATCH).map(|input| (asker(&input), input)).collect();
        let room = self.commands.len().min(BATCH - batch.len());
        batch.extend(self.commands.drain(..room));
        batch
    }
}

/// Who waits for the answer to what a node said.
const fn asker(input: &Input) -> Asker {
    match input {
        Input::Joined { session, .. } => Asker::Session(*session),
        _ => Asker::Nobody,
    }
}

impl World {
    pub(super) fn seat_hears(&mut self, arrival: Arrival<Said>) {
        let (now, connection) = (self.now(), arrival.connection);
        if !self.network.is_open(connection, End::Acceptor) {
            return;
        }
        if !self.seat.is_up {
            // Nobody listens.
            return self.close(connection, End::Acceptor);
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
        self.command_of(Asker::Nobody, input);
    }

    pub(super) fn command_of(&mut self, asker: Asker, input: Input) {
        if self.seat.is_up {
            self.seat.commands.push_back((asker, input));
            self.prompt();
        }
    }

    pub(super) fn prompt(&mut self) {
        let soon = self.now() + self.random.duration(HANDLING.0, HANDLING.1);
        self.turn_at(soon);
    }

    /// Its timer.
    pub(super) fn wake_at(&mut self, wake: Tick) {
        let late = self.random.duration(Duration::ZERO, LATE);
        self.turn_at(wake.max(self.now()) + late);
    }

    fn turn_at(&mut self, when: Tick) {
        if !self.seat.is_up || self.seat.commit.is_some() {
            return;
        }
        if self.seat.due.is_some_and(|due| due <= when) {
            return;
        }
        self.seat.turn += 1;
        self.seat.due = Some(when);
        self.schedule.at(when, Happening::Decides { turn: self.seat.turn });
    }

    pub(super) fn take_turn(&mut self, turn: u64) {
        if turn != self.seat.turn {
            return;
        }
        self.seat.due = None;
        // What waits is decided when that is stored.
        if self.seat.is_up && self.seat.commit.is_none() {
            let batch = self.seat.batch();
            self.decide_batch(batch);
        }
    }

    /// Decides, commits, performs: as the engine does, time passes once for all.
    pub(super) fn decide_batch(&mut self, batch: Vec<(Asker, Input)>) {
        let now = Now { tick: self.now(), wall: self.wall(Place::Coordinator) };
        self.seat.due = None;
        let mut step = Step::default();
        for (asker, input) in batch.into_iter().chain([(Asker::Nobody, Input::Timer)]) {
            self.trace.write(now.tick, &input);
            let gist = Gist::of(&input);
            let decision = self.seat.core.decide(now, input);
            self.trace.write(now.tick, &decision);
            self.checks.after(&self.seat.core, &self.hosts, now.tick, &gist, &decision);
            if let Gist::Closed(SessionId(connection)) = gist {
                self.seat.lines.remove(&connection);
            }
            step.events.extend(decision.events);
            step.effects.extend(decision.effects);
            step.wake_at = decision.wake_at;
            if asker != Asker::Nobody {
                step.replies.push((asker, decision.reply));
            }
        }
        self.commit(step);
    }

    pub(super) fn answer(&mut self, asker: Asker, reply: Reply) {
        let connection = match asker {
            Asker::Nobody => return,
            Asker::Client(request) => return self.answer_client(request, &reply),
            Asker::Session(SessionId(connection)) => connection,
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

    pub(super) fn perform(&mut self, effect: Effect) {
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
