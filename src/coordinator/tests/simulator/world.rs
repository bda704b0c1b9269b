//! The whole mesh in one place: the real core, simulated nodes and clients, the network between them, virtual time.
//!
//! Everything random comes from one seed, everything ordered from one schedule, so an execution can be repeated.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::super::random::Random;
use super::checks::Checks;
use super::clients::Clients;
use super::fault::{Fault, Place};
use super::host::Host;
use super::network::{Arrival, ConnectionId, End, Motion, Network, Segment};
use super::scenario::Scenario;
use super::schedule::Schedule;
use super::seat::Seat;
use super::trace::{Mode, Trace};
use crate::coordinator::input::Input;
use crate::coordinator::message::Message;
use crate::types::{AttemptRef, NodeId, RunId, Tick, UnixMillis};

/// When every simulation begins; not at zero, so that a moment before it can be told from none.
const START: Tick = Tick(1_000_000_000);
/// What a process finds when it goes on after a stall, at most; its kernel's queues are no longer.
const BACKLOG: usize = 100_000;

/// Connections between two places, those included of which one end does not know yet that they are over; and what is
/// planned for them.
const CONNECTIONS: usize = 16;
const PLANNED: usize = 1000;

/// What is said in a connection.
#[derive(Debug, Clone)]
pub(super) enum Said {
    /// From a node to the coordinator.
    Input(Box<Input>),
    /// From a node to the coordinator: the answer to its probe, with the node's wall clock.
    ProbeAnswer { number: u64, wall: UnixMillis },
    /// From the coordinator.
    Welcome { heartbeat_interval: Duration, probe_interval: Duration },
    /// From the coordinator: no session; whether coming back is of no use.
    Refused { finally: bool },
    /// From a node to the coordinator: is it there?
    Ask,
    /// From the coordinator: it is, and a beat or a question arrived.
    Here,
    /// From the coordinator's core.
    Message(Box<Message>),
    /// Between nodes: who dials, and whom it means.
    PeerHello { node: NodeId, life: u64, receiver_life: u64 },
    /// Between nodes: this link is not planned here (yet).
    TurnedAway,
    /// Between nodes.
    Probe { number: u64 },
    /// Between nodes.
    ProbeAck { number: u64 },
    /// Between nodes: pass this result on.
    Relay { result: Box<Input> },
    /// Between nodes: the coordinator says this to you.
    Relayed { message: Box<Message> },
}

/// What happens at a moment.
#[derive(Debug, Clone)]
pub(super) enum Happening {
    /// In the network.
    Moves(Motion<Said>),
    /// A kernel has something for its process.
    Arrives(Place, Arrival<Said>),
    /// The coordinator looks at its queue and its clock.
    Decides { turn: u64 },
    /// The coordinator looks whether a connection is silent for too long.
    Doubts(ConnectionId),
    /// A process goes on after a stall.
    Resumes { place: Place, stall: usize },
    /// A node dials the coordinator.
    Dials { node: usize, life: u64 },
    /// A node's heartbeat is due.
    Beats { node: usize, life: u64, connection: ConnectionId },
    /// A node looks at its links and its session.
    Ticks { node: usize, life: u64 },
    /// An attempt of a node ends.
    Ends { node: usize, life: u64, attempt: AttemptRef },
    /// The launcher of the coordinator's machine was asked to start a node's process.
    Launches { node: usize, start: u64, seat: u64 },
    /// A node's machine has its power back.
    Boots { node: usize },
    /// A process that was asked to end has had its time.
    Killed { node: usize, life: u64 },
    /// The launcher is told that a process ended.
    Exited { node: usize, process_id: u32, seat: u64 },
    /// The coordinator's store answers.
    Stores { commit: u64 },
    /// The coordinator's process ends while it waits for its store.
    Dies { life: u64 },
    /// The coordinator's process is started again.
    StartsAgain { life: u64 },
    /// A client asks for a run.
    Asks,
    /// A client that was not answered asks again.
    AsksAgain { request: u64 },
    /// A client reads on in the log of its run.
    Watches(RunId),
    /// A client cancels its run.
    Cancels { request: u64 },
    /// A fault of the script begins.
    Begins(usize),
    /// A fault of the script is over.
    Mends(usize),
}

pub(super) struct World {
    pub(super) scenario: Scenario,
    pub(super) schedule: Schedule<Happening>,
    pub(super) random: Random,
    pub(super) network: Network<Said>,
    pub(super) seat: Seat,
    pub(super) hosts: Vec<Host>,
    pub(super) clients: Clients,
    pub(super) checks: Checks,
    pub(super) trace: Trace,
    /// What waits for a process that gets no time, and the number of its stall.
    pub(super) stalled: BTreeMap<Place, (usize, VecDeque<Happening>)>,
    /// Nothing new goes wrong.
    pub(super) calm: bool,
    pub(super) happened: u64,
}

impl World {
    pub(super) fn new(scenario: Scenario, mode: Mode) -> Self {
        let hosts: Vec<Host> = (0..scenario.nodes).map(Host::new).collect();
        let mut world = Self {
            schedule: Schedule::new(START),
            random: Random(scenario.seed),
            network: Network::new(),
            seat: Seat::new(&scenario),
            checks: Checks::new(&hosts),
            clients: Clients::default(),
            trace: Trace::new(mode),
            stalled: BTreeMap::new(),
            calm: false,
            happened: 0,
            hosts,
            scenario,
        };
        for (number, (at, _)) in world.scenario.script.iter().enumerate() {
            world.schedule.at(START + *at, Happening::Begins(number));
        }
        for node in 0..world.hosts.len() {
            world.start_process(node);
        }
        if world.scenario.asks.is_some() {
            world.schedule.after(Duration::from_secs(2), Happening::Asks);
        }
        world
    }

    pub(super) const fn now(&self) -> Tick {
        self.schedule.now()
    }

    /// Since the start.
    pub(super) fn elapsed(&self) -> Duration {
        self.since_start(self.now())
    }

    pub(super) fn since_start(&self, moment: Tick) -> Duration {
        moment.since(START)
    }

    /// Lets everything happen until a moment after the start.
    pub(super) fn run_until(&mut self, end: Duration) {
        while let Some(happening) = self.schedule.next(START + end) {
            self.happened += 1;
            self.trace.write(self.schedule.now(), &happening);
            self.happen(happening);
            let places = self.hosts.len() + 1;
            assert!(self.network.len() <= CONNECTIONS * places * places, "connections are bounded");
            assert!(self.schedule.len() <= PLANNED * places * places, "what is planned is bounded");
        }
    }

    pub(super) fn happen(&mut self, happening: Happening) {
        if let Some((_, backlog)) = place_of(&happening).and_then(|place| self.stalled.get_mut(&place)) {
            backlog.push_back(happening);
            assert!(backlog.len() <= BACKLOG, "a stalled process is sent more and more");
            return;
        }
        match happening {
            Happening::Moves(motion) => self.move_on(motion),
            Happening::Arrives(Place::Coordinator, arrival) => self.seat_hears(arrival),
            Happening::Arrives(Place::Node(node), arrival) => self.host_hears(node, arrival),
            Happening::Decides { turn } => self.take_turn(turn),
            Happening::Doubts(connection) => self.doubt(connection),
            Happening::Resumes { place, stall } => self.resume(place, stall),
            Happening::Dials { node, life } => self.dial_coordinator(node, life),
            Happening::Beats { node, life, connection } => self.beat(node, life, connection),
            Happening::Ticks { node, life } => self.tick(node, life),
            Happening::Ends { node, life, attempt } => self.end_attempt(node, life, &attempt),
            Happening::Launches { node, start, seat } => self.launch(node, start, seat),
            Happening::Boots { node } => self.boot(node),
            Happening::Killed { node, life } => self.kill(node, life),
            Happening::Exited { node, process_id, seat } => self.tell_exit(node, process_id, seat),
            Happening::Stores { commit } => self.store_answers(commit),
            Happening::Dies { life } => self.die(life),
            Happening::StartsAgain { life } => self.start_again(life),
            Happening::Asks => self.ask(),
            Happening::AsksAgain { request } => self.submit_again(request),
            Happening::Watches(run) => self.watch(run),
            Happening::Cancels { request } => self.cancel(request),
            Happening::Begins(number) => self.begin(number),
            Happening::Mends(number) => self.mend(number),
        }
    }

    fn move_on(&mut self, motion: Motion<Said>) {
        let (arrivals, later) = self.network.step(&mut self.random, motion);
        if let Some((pause, motion)) = later {
            self.schedule.after(pause, Happening::Moves(motion));
        }
        for arrival in arrivals {
            let Some(place) = self.network.place(arrival.connection, arrival.at) else { continue };
            // A kernel takes a connection whether its process gets time or not.
            if matches!(arrival.segment, Segment::Syn) && self.has_process(place) {
                self.transmit(arrival.connection, arrival.at, Segment::Accepted);
            } else {
                self.happen(Happening::Arrives(place, arrival));
            }
        }
    }

    pub(super) fn dial(&mut self, from: Place, to: Place) -> ConnectionId {
        let now = self.now();
        let (connection, motions) = self.network.dial(now, &mut self.random, from, to);
        for (pause, motion) in motions {
            self.schedule.after(pause, Happening::Moves(motion));
        }
        connection
    }

    pub(super) fn say(&mut self, connection: ConnectionId, from: End, said: Said) {
        self.transmit(connection, from, Segment::Data(said));
    }

    pub(super) fn transmit(&mut self, connection: ConnectionId, from: End, segment: Segment<Said>) {
        let now = self.now();
        for (pause, motion) in self.network.send(now, &mut self.random, connection, from, segment) {
            self.schedule.after(pause, Happening::Moves(motion));
        }
    }

    /// Closes an end of a connection.
    pub(super) fn close(&mut self, connection: ConnectionId, end: End) {
        let now = self.now();
        for (pause, motion) in self.network.close(now, &mut self.random, connection, end) {
            self.schedule.after(pause, Happening::Moves(motion));
        }
    }

    /// A process gets no time; where there is none, there is nothing to stall.
    pub(super) fn stall(&mut self, place: Place, stall: usize, lasts: Duration) {
        if !self.has_process(place) {
            return;
        }
        // Of two stalls at once the later one ends both.
        let backlog = self.stalled.remove(&place).map_or_else(VecDeque::new, |(_, backlog)| backlog);
        self.stalled.insert(place, (stall, backlog));
        self.schedule.after(lasts, Happening::Resumes { place, stall });
    }

    fn resume(&mut self, place: Place, stall: usize) {
        if self.stalled.get(&place).is_none_or(|(current, _)| *current != stall) {
            return;
        }
        let Some((_, backlog)) = self.stalled.remove(&place) else { return };
        if place == Place::Coordinator
            && self.seat.is_up
            && self.seat.commit.is_none()
            && self.random.percent(50)
        {
            // Its timer may be noticed before what it was sent.
            self.decide_batch(Vec::new());
        }
        for happening in backlog {
            self.happen(happening);
        }
    }

    /// Everything that is stalled goes on.
    pub(super) fn resume_all(&mut self) {
        for (place, stall) in
            self.stalled.iter().map(|(place, (stall, _))| (*place, *stall)).collect::<Vec<_>>()
        {
            self.resume(place, stall);
        }
    }

    pub(super) fn fault(&self, number: usize) -> Option<Fault> {
        self.scenario.script.get(number).map(|(_, fault)| fault.clone())
    }

    /// A place's wall clock.
    pub(super) fn wall(&self, place: Place) -> UnixMillis {
        let skew = match place {
            Place::Coordinator => 0,
            Place::Node(node) => self.hosts[node].skew_ms,
        };
        UnixMillis((1_700_000_000_000 + self.now().0 / 1000).saturating_add_signed(skew))
    }

    fn has_process(&self, place: Place) -> bool {
        match place {
            Place::Coordinator => self.seat.is_up,
            Place::Node(node) => self.hosts[node].process.is_some(),
        }
    }
}

/// A failure names its seed, and what was done to the mesh.
impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let lines: Vec<_> = self.trace.lines().map(String::as_str).collect();
            eprintln!(
                "{}\nthe simulation failed {:.6} s after its start: {}\n\
                 repeat it with LINTMESH_SIMULATION_SEED={} cargo test --lib simulation",
                lines.join("\n"),
                self.elapsed().as_secs_f64(),
                self.scenario.told(),
                self.scenario.seed,
            );
        }
    }
}

/// The process that something happens to; none for what kernels and the world do.
fn place_of(happening: &Happening) -> Option<Place> {
    match happening {
        Happening::Arrives(place, _) => Some(*place),
        // The launcher is part of the coordinator's process.
        Happening::Decides { .. }
        | Happening::Doubts(_)
        | Happening::Stores { .. }
        | Happening::Launches { .. }
        | Happening::Exited { .. } => Some(Place::Coordinator),
        Happening::Dials { node, .. }
        | Happening::Beats { node, .. }
        | Happening::Ticks { node, .. }
        | Happening::Ends { node, .. } => Some(Place::Node(*node)),
        Happening::Moves(_)
        | Happening::Resumes { .. }
        | Happening::Boots { .. }
        | Happening::Killed { .. }
        | Happening::Dies { .. }
        | Happening::StartsAgain { .. }
        | Happening::Asks
        | Happening::AsksAgain { .. }
        | Happening::Watches(_)
        | Happening::Cancels { .. }
        | Happening::Begins(_)
        | Happening::Mends(_) => None,
    }
}
