//! What a node knows of one of its links: a state machine without a clock of its own.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::types::{LinkReport, LinkState, NodeId};

/// Missed probes in a row after which a link is SILENT.
const MISSES: u32 = 2;
/// Probes that may be unanswered and still be answered late.
const OUTSTANDING: usize = 8;

/// A directed link as its observer sees it.
#[derive(Debug)]
pub(super) struct View {
    state: LinkState,
    /// An answer is due: to a call for a connection, or to a probe.
    waiting: bool,
    /// Ticks in a row at which it was still due.
    missed: u32,
    probes: VecDeque<Sent>,
    last_seen: Option<Instant>,
    round_trip: Option<Duration>,
    clock_offset_ms: Option<i64>,
    sent_bytes: u64,
    received_bytes: u64,
}

#[derive(Debug, Clone, Copy)]
struct Sent {
    number: u64,
    at: Instant,
    wall_ms: i64,
}

impl View {
    /// Of a link that was just planned.
    pub(super) const fn new() -> Self {
        Self {
            state: LinkState::Connecting,
            waiting: false,
            missed: 0,
            probes: VecDeque::new(),
            last_seen: None,
            round_trip: None,
            clock_offset_ms: None,
            sent_bytes: 0,
            received_bytes: 0,
        }
    }

    pub(super) const fn state(&self) -> LinkState {
        self.state
    }

    /// A connection is being opened; nothing is due on an older one.
    pub(super) fn dialling(&mut self) {
        self.probes.clear();
        self.waiting = true;
    }

    /// A probe left at `now`, `wall_ms` by this node's clock.
    pub(super) fn sent(&mut self, number: u64, now: Instant, wall_ms: i64) {
        if self.probes.len() >= OUTSTANDING {
            self.probes.pop_front();
        }
        self.probes.push_back(Sent { number, at: now, wall_ms });
        self.waiting = true;
    }

    /// A probe was answered, at `peer_ms` by the peer's clock if it told. Answers the round trip; nothing if this probe
    /// was never sent or was answered before.
    ///
    /// The peer's clock is compared with the middle of the round trip (Mills, RFC 5905, with one timestamp of the peer
    /// in place of two, since it answers at once).
    pub(super) fn answered(&mut self, number: u64, now: Instant, peer_ms: Option<i64>) -> Option<Duration> {
        let sent = *self.probes.iter().find(|sent| sent.number == number)?;
        // A connection keeps the order: what was sent before is not answered any more.
        self.probes.retain(|later| later.number > number);
        let round_trip = now.saturating_duration_since(sent.at);
        if let Some(peer_ms) = peer_ms {
            let half = i64::try_from(round_trip.as_millis() / 2).unwrap_or(i64::MAX);
            self.clock_offset_ms = Some(peer_ms.saturating_sub(sent.wall_ms.saturating_add(half)));
        }
        self.round_trip = Some(round_trip);
        self.last_seen = Some(now);
        self.state = LinkState::Up;
        self.missed = 0;
        // Later probes have not had their time yet.
        self.waiting = !self.probes.is_empty();
        Some(round_trip)
    }

    /// A probe interval passed. If this node's own timer came late, nobody is accused: the peer's silence is measured
    /// from now.
    pub(super) fn tick(&mut self, now: Instant, punctual: bool) {
        if !punctual {
            self.missed = 0;
            if self.state == LinkState::Up {
                self.last_seen = Some(now);
            }
        } else if self.waiting {
            self.missed = self.missed.saturating_add(1);
            if self.missed >= MISSES && matches!(self.state, LinkState::Connecting | LinkState::Up) {
                self.state = LinkState::Silent;
            }
        }
    }

    /// The connection was refused, or ended from the other side.
    pub(super) fn reset(&mut self) {
        self.nothing_due();
        self.state = LinkState::Reset;
    }

    /// The peer itself said that it does not take this link (yet): it is there, and says nothing about the link.
    pub(super) fn turned_away(&mut self) {
        self.nothing_due();
        if matches!(self.state, LinkState::Up | LinkState::Silent) {
            self.state = LinkState::Connecting;
        }
    }

    fn nothing_due(&mut self) {
        self.probes.clear();
        self.waiting = false;
        self.missed = 0;
    }

    /// Counts payload.
    pub(super) fn moved(&mut self, sent: usize, received: usize) {
        self.sent_bytes = self.sent_bytes.saturating_add(sent as u64);
        self.received_bytes = self.received_bytes.saturating_add(received as u64);
    }

    /// What the coordinator is told.
    pub(super) fn report(&self, peer: NodeId, now: Instant) -> LinkReport {
        LinkReport {
            peer,
            state: self.state,
            last_seen_age: self.last_seen.map(|at| now.saturating_duration_since(at)),
            round_trip: self.round_trip,
            clock_offset_ms: self.clock_offset_ms,
            sent_bytes: self.sent_bytes,
            received_bytes: self.received_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Dial,
        Send(u64),
        Answer(u64),
        Tick,
        Late,
        Reset,
        TurnedAway,
    }
    use Step::*;

    fn after(steps: &[Step]) -> View {
        let (start, mut view) = (Instant::now(), View::new());
        for (index, step) in steps.iter().enumerate() {
            let now = start + SECOND * u32::try_from(index).expect("few");
            match *step {
                Dial => view.dialling(),
                Send(number) => view.sent(number, now, 0),
                Answer(number) => {
                    view.answered(number, now, None);
                }
                Tick => view.tick(now, true),
                Late => view.tick(now, false),
                Reset => view.reset(),
                TurnedAway => view.turned_away(),
            }
        }
        view
    }

    #[test]
    fn states_follow_from_what_happened() {
        let up = [Dial, Send(1), Answer(1)];
        let cases: &[(&[Step], LinkState, &str)] = &[
            (&[], LinkState::Connecting, "planned"),
            (&[Dial, Tick], LinkState::Connecting, "one miss is none"),
            (&[Dial, Tick, Tick], LinkState::Silent, "a connection that never stands"),
            (&[Dial, Send(1), Tick, Tick], LinkState::Silent, "stands, and was never answered"),
            (&up, LinkState::Up, "answered"),
            (&[Tick, Tick, Tick], LinkState::Connecting, "nothing was due"),
            (&[Dial, Reset], LinkState::Reset, "refused"),
            (&[Dial, Reset, Dial, Tick, Tick, Tick], LinkState::Reset, "refused before, and silent now"),
            (&[Dial, TurnedAway], LinkState::Connecting, "not planned there yet"),
            (&[Dial, Tick, Tick, Dial, Send(1), Answer(1)], LinkState::Up, "back after silence"),
            (&[Dial, Reset, Dial, Send(1), Answer(1)], LinkState::Up, "back after a reset"),
            (&[Dial, Send(1), Answer(2), Tick, Tick], LinkState::Silent, "an answer that nobody asked for"),
            (&[Dial, Send(1), Dial, Answer(1)], LinkState::Connecting, "an answer on an older connection"),
        ];
        for (steps, state, why) in cases {
            assert_eq!(after(steps).state(), *state, "{why}");
        }
        let then = |more: &[Step]| after(&[&up, more].concat()).state();
        assert_eq!(then(&[Send(2), Tick, Send(3), Tick]), LinkState::Silent);
        assert_eq!(then(&[Send(2), Tick, Send(3), Answer(2), Tick]), LinkState::Up, "late is not never");
        assert_eq!(then(&[Send(2), Tick, Send(3), Answer(3), Tick, Send(4), Tick]), LinkState::Up);
        assert_eq!(
            then(&[Send(2), Tick, Send(3), Late, Send(4), Tick]),
            LinkState::Up,
            "this node was asleep"
        );
        assert_eq!(then(&[Send(2), Late, Tick, Tick]), LinkState::Silent, "awake again, and still nothing");
        assert_eq!(then(&[Reset]), LinkState::Reset);
        assert_eq!(then(&[TurnedAway]), LinkState::Connecting);
    }

    #[test]
    fn an_answer_is_measured_against_the_middle_of_its_round_trip() {
        let (start, mut view) = (Instant::now(), View::new());
        view.dialling();
        view.sent(1, start, 1_000);
        view.sent(2, start + SECOND, 2_000);
        let later = start + Duration::from_millis(1_200);
        assert_eq!(view.answered(2, later, Some(2_100 - 30)), Some(Duration::from_millis(200)));
        view.moved(60, 70);
        let peer = NodeId::new("api-docs").expect("valid");
        let report = view.report(peer.clone(), later + SECOND);
        let measured = LinkReport {
            state: LinkState::Up,
            last_seen_age: Some(SECOND),
            round_trip: Some(Duration::from_millis(200)),
            clock_offset_ms: Some(-30),
            sent_bytes: 60,
            received_bytes: 70,
            ..LinkReport::new(peer.clone(), LinkState::Up)
        };
        assert_eq!(report, measured);
        assert_eq!(view.answered(2, later, None), None, "answered before");
        view.tick(later + SECOND * 9, false);
        let age = view.report(peer, later + SECOND * 9).last_seen_age;
        assert_eq!(age, Some(Duration::ZERO), "ages restart when this node was asleep");
    }

    proptest! {
        /// Whatever happens, a link is not called silent while its own ticks are late, and is up only by an answer.
        #[test]
        fn no_accusation_without_two_punctual_misses(steps in prop::collection::vec(0_u8..7, 0..60)) {
            let (start, mut view) = (Instant::now(), View::new());
            let (mut punctual, mut number, mut now) = (0, 0, start);
            for step in steps {
                now += Duration::from_millis(300);
                let before = view.state();
                match step {
                    0 => view.dialling(),
                    1 => { number += 1; view.sent(number, now, 0) }
                    2 => if view.answered(number, now, None).is_some() { punctual = 0 },
                    3 => { view.tick(now, true); punctual += 1 }
                    4 => { view.tick(now, false); punctual = 0 }
                    5 => { view.reset(); punctual = 0 }
                    _ => { view.turned_away(); punctual = 0 }
                }
                let state = view.state();
                if state == LinkState::Silent && before != LinkState::Silent {
                    prop_assert!(step == 3 && punctual >= 2);
                }
                if state == LinkState::Up && before != LinkState::Up {
                    prop_assert_eq!(step, 2);
                }
                prop_assert!(view.probes.len() <= OUTSTANDING);
            }
        }
    }
}
