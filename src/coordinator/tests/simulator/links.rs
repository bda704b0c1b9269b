//! What nodes hold among themselves: links that are probed, and results that are passed on.

use std::collections::BTreeMap;
use std::time::Duration;

use super::fault::Place;
use super::network::{Arrival, ConnectionId, End, Segment};
use super::world::{Said, World};
use crate::coordinator::input::Input;
use crate::coordinator::message::{Message, Peer, Roster};
use crate::types::{LinkReport, LinkState, NodeId, Tick};

/// Probes in a row without an answer that make a link SILENT.
const MISSED: u32 = 2;
/// Silence after which a link is closed and dialled anew.
const HOPELESS: Duration = Duration::from_secs(5);
/// How long a dial may take, and an asked-for look.
const DIAL_DEADLINE: Duration = Duration::from_secs(5);
const LOOK_DEADLINE: Duration = Duration::from_secs(1);
/// The first pause before a link is dialled again, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// A node's links.
#[derive(Default)]
pub(super) struct Links {
    version: u64,
    out: BTreeMap<NodeId, Link>,
    /// Connections that peers dialled: who it is, once it said so.
    taken: BTreeMap<ConnectionId, Option<NodeId>>,
    accept: Vec<(NodeId, u64)>,
    /// Looks the coordinator asked for: the subject, the request, until when.
    looks: Vec<(NodeId, u64, Tick)>,
    /// Whose results were passed on, and by which connection they came.
    origins: BTreeMap<NodeId, (ConnectionId, End)>,
}

/// A link that this node observes.
struct Link {
    peer: Peer,
    line: Line,
    state: LinkState,
    probes: u64,
    unanswered: u32,
    sent_at: Tick,
    answered_at: Option<Tick>,
    round_trip: Option<Duration>,
    failures: u32,
    /// The peer said that it does not take the link (yet).
    turned_away: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    Down { dial_at: Tick },
    Dialling { connection: ConnectionId, since: Tick },
    Open { connection: ConnectionId, since: Tick },
}

impl Line {
    const fn connection(self) -> Option<ConnectionId> {
        match self {
            Line::Down { .. } => None,
            Line::Dialling { connection, .. } | Line::Open { connection, .. } => Some(connection),
        }
    }
}

impl Links {
    pub(super) fn reports(&self, now: Tick) -> Vec<LinkReport> {
        let report = |link: &Link| LinkReport {
            last_seen_age: link.answered_at.map(|at| now.since(at)),
            round_trip: link.round_trip,
            ..LinkReport::new(link.peer.node.clone(), link.state)
        };
        self.out.values().map(report).collect()
    }

    pub(super) fn states(&self) -> impl Iterator<Item = (&NodeId, LinkState)> {
        self.out.values().map(|link| (&link.peer.node, link.state))
    }

    /// The rosters of a coordinator are counted; another one may count from the start.
    pub(super) const fn begin_session(&mut self) {
        self.version = 0;
    }

    /// A link whose peer answers.
    pub(super) fn live(&self) -> Option<ConnectionId> {
        let mut up = self.out.values().filter(|link| link.state == LinkState::Up);
        up.find_map(|link| link.line.connection())
    }

    fn of(&mut self, connection: ConnectionId) -> Option<&mut Link> {
        self.out.values_mut().find(|link| link.line.connection() == Some(connection))
    }
}

impl World {
    fn number_of(&self, name: &NodeId) -> Option<usize> {
        self.hosts.iter().position(|host| host.node == *name)
    }

    pub(super) fn follow_roster(&mut self, node: usize, life: u64, roster: Roster) {
        let now = self.now();
        let Some(process) = self.process(node, life) else { return };
        let links = &mut process.links;
        if roster.version <= links.version {
            return;
        }
        links.version = roster.version;
        links.accept = roster.accept.iter().map(|(node, life)| (node.clone(), life.0)).collect();
        let mut gone = Vec::new();
        links.out.retain(|_, link| {
            let stays = !roster.rebuild && roster.dial.contains(&link.peer);
            if !stays {
                gone.extend(link.line.connection().map(|connection| (connection, End::Dialer)));
            }
            stays
        });
        links.taken.retain(|connection, peer| {
            let stays =
                peer.as_ref().is_none_or(|peer| links.accept.iter().any(|(accepted, _)| accepted == peer));
            if !stays {
                gone.push((*connection, End::Acceptor));
            }
            stays
        });
        for peer in roster.dial {
            links.out.entry(peer.node.clone()).or_insert(Link {
                peer,
                line: Line::Down { dial_at: now },
                state: LinkState::Connecting,
                probes: 0,
                unanswered: 0,
                sent_at: now,
                answered_at: None,
                round_trip: None,
                failures: 0,
                turned_away: false,
            });
        }
        for (connection, end) in gone {
            self.close(connection, end);
        }
        self.look_at_links(node, life);
    }

    /// Once a probe interval: dials what is down, probes what is up, and says what is silent.
    pub(super) fn look_at_links(&mut self, node: usize, life: u64) {
        let now = self.now();
        let Some(process) = self.process(node, life) else { return };
        let abstaining = process.abstaining;
        let (mut dial, mut probe, mut close, mut silent) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for link in process.links.out.values_mut() {
            if abstaining {
                // Answers may wait to be read.
                link.unanswered = 0;
            }
            match link.line {
                Line::Down { dial_at } if now >= dial_at => dial.push(link.peer.node.clone()),
                Line::Down { .. } => {}
                Line::Dialling { connection, since } if now >= since + DIAL_DEADLINE => {
                    close.push(connection);
                }
                Line::Dialling { .. } => link.unanswered += 1,
                Line::Open { connection, since } => {
                    let heard = link.answered_at.map_or(since, |at| at.max(since));
                    if link.unanswered >= MISSED && now >= heard + HOPELESS {
                        close.push(connection);
                    } else {
                        link.probes += 1;
                        link.unanswered += 1;
                        link.sent_at = now;
                        probe.push((connection, link.probes));
                    }
                }
            }
            // A refusal says more than the silence after it.
            let unknown = matches!(link.state, LinkState::Connecting | LinkState::Up);
            if link.unanswered > MISSED && unknown && !abstaining {
                silent.push(link.peer.node.clone());
            }
        }
        let over: Vec<_> = process.links.looks.extract_if(.., |(_, _, until)| now >= *until).collect();
        for peer in silent {
            self.link_is(node, life, &peer, LinkState::Silent);
        }
        for (connection, number) in probe {
            self.say(connection, End::Dialer, Said::Probe { number });
        }
        for connection in close {
            self.close(connection, End::Dialer);
            self.link_down(node, life, connection, None);
        }
        for peer in dial {
            self.dial_peer(node, life, &peer);
        }
        for (subject, number, _) in over {
            self.report(node, |session, node| Input::ProbeReported {
                session,
                node,
                subject,
                number,
                round_trip: None,
            });
        }
    }

    fn dial_peer(&mut self, node: usize, life: u64, peer: &NodeId) {
        let (now, Some(target)) = (self.now(), self.number_of(peer)) else { return };
        let connection = self.dial(Place::Node(node), Place::Node(target));
        let links = self.process(node, life).map(|process| &mut process.links.out);
        if let Some(link) = links.and_then(|links| links.get_mut(peer)) {
            link.line = Line::Dialling { connection, since: now };
        }
    }

    fn link_is(&mut self, node: usize, life: u64, peer: &NodeId, state: LinkState) {
        let Some(process) = self.process(node, life) else { return };
        let Some(link) = process.links.out.get_mut(peer) else { return };
        if std::mem::replace(&mut link.state, state) != state {
            let subject = peer.clone();
            self.report(node, |session, node| Input::LinkChanged { session, node, subject, state });
        }
    }

    fn link_down(&mut self, node: usize, life: u64, connection: ConnectionId, state: Option<LinkState>) {
        let now = self.now();
        let Some(link) = self.process(node, life).and_then(|process| process.links.of(connection)) else {
            return;
        };
        let peer = link.peer.node.clone();
        let most = BACKOFF.0.saturating_mul(2_u32.saturating_pow(link.failures)).min(BACKOFF.1);
        link.failures += 1;
        let turned_away = std::mem::take(&mut link.turned_away);
        let state = match (state, link.state) {
            (Some(LinkState::Reset), LinkState::Up | LinkState::Silent) if turned_away => {
                Some(LinkState::Connecting)
            }
            (Some(LinkState::Reset), _) if turned_away => None,
            (state, _) => state,
        };
        if state.is_some() {
            link.unanswered = 0;
        }
        let pause = self.random.duration(Duration::ZERO, most);
        if let Some(link) = self.process(node, life).and_then(|process| process.links.of(connection)) {
            link.line = Line::Down { dial_at: now + pause };
        }
        if let Some(state) = state {
            self.link_is(node, life, &peer, state);
        }
    }

    pub(super) fn hear_peer(&mut self, node: usize, life: u64, arrival: Arrival<Said>) {
        let (now, connection, at) = (self.now(), arrival.connection, arrival.at);
        let Some(process) = self.process(node, life) else { return };
        match (at, arrival.segment) {
            (End::Dialer, Segment::Accepted) => {
                let Some(link) = process.links.of(connection) else { return };
                link.line = Line::Open { connection, since: now };
                link.probes += 1;
                link.unanswered = 1;
                link.sent_at = now;
                let (number, receiver_life) = (link.probes, link.peer.incarnation.0);
                let node = self.hosts[node].node.clone();
                self.say(connection, End::Dialer, Said::PeerHello { node, life, receiver_life });
                self.say(connection, End::Dialer, Said::Probe { number });
            }
            (_, Segment::Fin) => {
                process.links.taken.remove(&connection);
                self.close(connection, at);
                if at == End::Dialer {
                    self.link_down(node, life, connection, Some(LinkState::Reset));
                }
            }
            (End::Dialer, Segment::Data(Said::ProbeAck { number })) => {
                self.probe_answered(node, life, connection, number);
            }
            (End::Dialer, Segment::Data(Said::TurnedAway)) => {
                if let Some(link) = process.links.of(connection) {
                    link.turned_away = true;
                }
            }
            (_, Segment::Data(Said::Relayed { message })) => self.obey(node, life, *message),
            (End::Acceptor, Segment::Data(said)) => self.serve_peer(node, life, connection, said),
            _ => {}
        }
    }

    fn probe_answered(&mut self, node: usize, life: u64, connection: ConnectionId, number: u64) {
        let now = self.now();
        let Some(process) = self.process(node, life) else { return };
        let Some(link) = process.links.of(connection) else { return };
        link.answered_at = Some(now);
        link.unanswered = 0;
        link.failures = 0;
        if number == link.probes {
            link.round_trip = Some(now.since(link.sent_at));
        }
        let (peer, took) = (link.peer.node.clone(), link.round_trip);
        let looks: Vec<_> = process.links.looks.extract_if(.., |(subject, _, _)| *subject == peer).collect();
        self.link_is(node, life, &peer, LinkState::Up);
        for (subject, number, _) in looks {
            let round_trip = took.or(Some(Duration::ZERO));
            self.report(node, |session, node| Input::ProbeReported {
                session,
                node,
                subject,
                number,
                round_trip,
            });
        }
    }

    fn serve_peer(&mut self, node: usize, life: u64, connection: ConnectionId, said: Said) {
        let Some(process) = self.process(node, life) else { return };
        match said {
            Said::PeerHello { node: peer, life: its_life, receiver_life } => {
                if receiver_life == life && process.links.accept.contains(&(peer.clone(), its_life)) {
                    process.links.taken.insert(connection, Some(peer));
                } else {
                    self.say(connection, End::Acceptor, Said::TurnedAway);
                    self.close(connection, End::Acceptor);
                }
            }
            Said::Probe { number } if process.links.taken.contains_key(&connection) => {
                self.say(connection, End::Acceptor, Said::ProbeAck { number });
            }
            Said::Relay { mut result } => {
                let Some(Some(origin)) = process.links.taken.get(&connection).cloned() else { return };
                process.links.origins.insert(origin, (connection, End::Acceptor));
                let relay = self.hosts[node].node.clone();
                if let Input::TaskEnded { via, .. } = &mut *result {
                    *via = Some(relay);
                }
                self.tell(node, Said::Input(result));
            }
            _ => {}
        }
    }

    /// The coordinator asks for a look at a node.
    pub(super) fn look_at(&mut self, node: usize, life: u64, subject: &NodeId, number: u64) {
        let now = self.now();
        let Some(process) = self.process(node, life) else { return };
        let until = now + LOOK_DEADLINE;
        process.links.looks.push((subject.clone(), number, until));
        let probe = process.links.out.get_mut(subject).and_then(|link| match link.line {
            Line::Open { connection, .. } => {
                link.probes += 1;
                link.sent_at = now;
                Some((connection, link.probes))
            }
            _ => None,
        });
        if let Some((connection, number)) = probe {
            self.say(connection, End::Dialer, Said::Probe { number });
        }
    }

    /// Passes on what the coordinator says to a node whose results came this way.
    pub(super) fn pass_on(&mut self, node: usize, to: &NodeId, message: Message) {
        let origin = self.hosts[node].process.as_ref().and_then(|process| process.links.origins.get(to));
        if let Some((connection, end)) = origin.copied() {
            self.say(connection, end, Said::Relayed { message: Box::new(message) });
        }
    }
}
