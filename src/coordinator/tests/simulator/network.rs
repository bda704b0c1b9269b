//! Connections as processes see those of TCP: what is sent arrives in order, late if packets were lost or could not
//! get through, or the connection ends.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::super::random::Random;
use super::fault::{Fault, Place};
use crate::types::Tick;

/// The first pause before a lost packet is sent again, and the longest; each doubles the one before (RFC 6298, with the
/// minimum that Linux takes).
const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(120);
/// Starting a connection waits longer (RFC 6298, 2.1).
const FIRST_RETRY_OF_SYN: Duration = Duration::from_secs(1);
/// How often the end of a connection is sent before its kernel forgets it (`tcp_orphan_retries` of Linux).
const RETRIES_OF_END: u32 = 8;
/// One way, in microseconds: a local network.
const DELAY: (u64, u64) = (80, 600);

/// A connection's number; for a session also its [`crate::types::SessionId`].
pub(super) type ConnectionId = u64;

/// Which end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum End {
    Dialer,
    Acceptor,
}

impl End {
    pub(super) const fn other(self) -> Self {
        match self {
            End::Dialer => End::Acceptor,
            End::Acceptor => End::Dialer,
        }
    }
}

/// What travels in a connection.
#[derive(Debug, Clone)]
pub(super) enum Segment<P> {
    /// The dialer wants a connection.
    Syn,
    /// It has it.
    Accepted,
    /// Something was said.
    Data(P),
    /// The connection is over: closed, reset, or nobody is there.
    Fin,
}

/// What the network does by itself later.
#[derive(Debug, Clone)]
pub(super) enum Motion<P> {
    /// A segment reaches the other end, unless it is lost.
    Arrive { connection: ConnectionId, towards: End, segment: Segment<P> },
    /// What was lost is sent again.
    Retry { connection: ConnectionId, towards: End },
}

/// A segment that reached its process's kernel.
#[derive(Debug, Clone)]
pub(super) struct Arrival<P> {
    pub(super) connection: ConnectionId,
    pub(super) at: End,
    pub(super) segment: Segment<P>,
}

struct Lane<P> {
    /// When the last segment arrives at the earliest: none overtakes another.
    last: Tick,
    lost: VecDeque<Segment<P>>,
    retry: Duration,
    retries: u32,
}

struct Connection<P> {
    places: [Place; 2],
    /// Towards the dialer, towards the acceptor.
    lanes: [Lane<P>; 2],
    closed: [bool; 2],
}

/// All connections, and the faults that disturb them.
pub(super) struct Network<P> {
    connections: BTreeMap<ConnectionId, Connection<P>>,
    dialled: ConnectionId,
    faults: BTreeMap<usize, Fault>,
    lost: u64,
}

/// Something to happen after a pause.
pub(super) type Later<P> = (Duration, Motion<P>);

impl<P> Network<P> {
    pub(super) const fn new() -> Self {
        Self { connections: BTreeMap::new(), dialled: 0, faults: BTreeMap::new(), lost: 0 }
    }

    pub(super) fn disturb(&mut self, number: usize, fault: Fault) {
        self.faults.insert(number, fault);
    }

    pub(super) fn mend(&mut self, number: usize) {
        self.faults.remove(&number);
    }

    pub(super) fn mend_all(&mut self) {
        self.faults.clear();
    }

    /// Packets that were lost.
    pub(super) const fn lost(&self) -> u64 {
        self.lost
    }

    pub(super) fn len(&self) -> usize {
        self.connections.len()
    }

    pub(super) fn is_cut(&self, from: Place, to: Place) -> bool {
        self.faults.values().any(|fault| fault.cuts(from, to))
    }

    /// Where an end of a connection is.
    pub(super) fn place(&self, connection: ConnectionId, end: End) -> Option<Place> {
        Some(self.connections.get(&connection)?.places[end as usize])
    }

    /// The connections that a place has not closed.
    pub(super) fn of(&self, place: Place) -> Vec<(ConnectionId, End)> {
        let mut found = Vec::new();
        for (id, connection) in &self.connections {
            for end in [End::Dialer, End::Acceptor] {
                if connection.places[end as usize] == place && !connection.closed[end as usize] {
                    found.push((*id, end));
                }
            }
        }
        found
    }

    pub(super) fn is_open(&self, connection: ConnectionId, end: End) -> bool {
        self.connections.get(&connection).is_some_and(|connection| !connection.closed[end as usize])
    }

    pub(super) fn dial(
        &mut self,
        now: Tick,
        random: &mut Random,
        from: Place,
        to: Place,
    ) -> (ConnectionId, Vec<Later<P>>) {
        self.dialled += 1;
        let lane = |retry| Lane { last: now, lost: VecDeque::new(), retry, retries: 0 };
        let connection = Connection {
            places: [from, to],
            lanes: [lane(FIRST_RETRY), lane(FIRST_RETRY_OF_SYN)],
            closed: [false; 2],
        };
        self.connections.insert(self.dialled, connection);
        (self.dialled, self.send(now, random, self.dialled, End::Dialer, Segment::Syn))
    }

    /// Sends from an end to the other.
    pub(super) fn send(
        &mut self,
        now: Tick,
        random: &mut Random,
        id: ConnectionId,
        from: End,
        segment: Segment<P>,
    ) -> Vec<Later<P>> {
        let towards = from.other();
        let Some(connection) = self.connections.get_mut(&id) else { return Vec::new() };
        let (source, target) = (connection.places[from as usize], connection.places[towards as usize]);
        let slow = self.faults.values().map(|fault| fault.delays(source, target)).max().unwrap_or_default();
        let delay = random.duration(Duration::from_micros(DELAY.0), Duration::from_micros(DELAY.1))
            + random.duration(Duration::ZERO, slow);
        let lane = &mut connection.lanes[towards as usize];
        lane.last = (now + delay).max(lane.last + Duration::from_micros(1));
        vec![(lane.last.since(now), Motion::Arrive { connection: id, towards, segment })]
    }

    /// Closes an end. What it sent before still arrives, then the end.
    pub(super) fn close(
        &mut self,
        now: Tick,
        random: &mut Random,
        id: ConnectionId,
        end: End,
    ) -> Vec<Later<P>> {
        if !self.abandon(id, end) {
            return Vec::new();
        }
        self.send(now, random, id, end, Segment::Fin)
    }

    /// An end is gone without a word. Answers whether it was there.
    pub(super) fn abandon(&mut self, id: ConnectionId, end: End) -> bool {
        let Some(connection) = self.connections.get_mut(&id) else { return false };
        let was_open = !std::mem::replace(&mut connection.closed[end as usize], true);
        if connection.closed == [true; 2] {
            self.connections.remove(&id);
        }
        was_open
    }

    /// Moves a segment on. Answers what arrived, and what happens later.
    pub(super) fn step(
        &mut self,
        random: &mut Random,
        motion: Motion<P>,
    ) -> (Vec<Arrival<P>>, Option<Later<P>>) {
        let (id, towards) = match &motion {
            Motion::Arrive { connection, towards, .. } | Motion::Retry { connection, towards } => {
                (*connection, *towards)
            }
        };
        let Some(connection) = self.connections.get(&id) else { return (Vec::new(), None) };
        let (from, to) = (connection.places[towards.other() as usize], connection.places[towards as usize]);
        let gets_through = !self.is_cut(from, to) && {
            let percent = self.faults.values().map(|fault| fault.loses(from, to)).max().unwrap_or(0);
            percent == 0 || !random.percent(percent)
        };
        let Some(connection) = self.connections.get_mut(&id) else { return (Vec::new(), None) };
        let lane = &mut connection.lanes[towards as usize];
        let retry = |lane: &mut Lane<P>| {
            let pause = lane.retry;
            lane.retry = (pause * 2).min(LAST_RETRY);
            lane.retries += 1;
            (pause, Motion::Retry { connection: id, towards })
        };
        let mut arrived = VecDeque::new();
        match motion {
            Motion::Arrive { segment, .. } => {
                let waits = !lane.lost.is_empty();
                if waits || !gets_through {
                    lane.lost.push_back(segment);
                    self.lost += u64::from(!waits);
                    return (Vec::new(), (!waits).then(|| retry(lane)));
                }
                arrived.push_back(segment);
            }
            Motion::Retry { .. } => {
                let is_forgotten =
                    lane.retries > RETRIES_OF_END && matches!(lane.lost.front(), None | Some(Segment::Fin));
                if !gets_through && !is_forgotten {
                    self.lost += 1;
                    return (Vec::new(), Some(retry(lane)));
                }
                let lost = std::mem::take(&mut lane.lost);
                if gets_through {
                    arrived = lost;
                }
                lane.retry = FIRST_RETRY;
                lane.retries = 0;
            }
        }
        if connection.closed[towards as usize] {
            // Nobody is there to take it; its kernel says so.
            let refusal = Motion::Arrive { connection: id, towards: towards.other(), segment: Segment::Fin };
            return (Vec::new(), Some((Duration::from_micros(DELAY.1), refusal)));
        }
        let arrived = arrived.into_iter().map(|segment| Arrival { connection: id, at: towards, segment });
        (arrived.collect(), None)
    }
}
