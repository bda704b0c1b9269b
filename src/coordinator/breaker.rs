//! The circuit breaker as a state machine: Closed, Open, HalfOpen.
//!
//! It has no clock and no randomness of its own: the tower layer and the scheduler both drive it with
//! a [`Tick`] and a jitter number. It trips on a run of hard failures, because a dead peer should be
//! noticed at once, and on the success rate over a window, because a peer that answers every third
//! call never fails often enough in a row.

mod window;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::types::Tick;
use window::Window;

/// When a breaker opens, and for how long.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BreakerSettings {
    /// Hard failures in a row that open it (`circuit_breaker_threshold`); 0 counts as 1.
    pub failure_threshold: u32,
    /// Calls inside the window below which the success rate decides nothing.
    pub min_requests: u32,
    /// Success rate (0 to 1) below which it opens.
    pub min_success_rate: f64,
    /// Length of the window of the success rate.
    pub window: Duration,
    /// How long it stays Open before a probe is let through (`recovery_timeout`). Each failed probe
    /// doubles it.
    pub recovery_timeout: Duration,
    /// What the doubling stops at.
    pub max_recovery_timeout: Duration,
    /// Share of the recovery time (0 to 1) that the jitter may add, so that callers do not probe together.
    pub jitter_share: f64,
}

impl Default for BreakerSettings {
    fn default() -> Self {
        Self {
            failure_threshold: 5,
            min_requests: 20,
            min_success_rate: 0.5,
            window: Duration::from_secs(60),
            recovery_timeout: Duration::from_secs(60),
            max_recovery_timeout: Duration::from_secs(600),
            jitter_share: 0.1,
        }
    }
}

/// What a breaker lets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Everything.
    Closed,
    /// Nothing.
    Open,
    /// One probe at a time.
    HalfOpen,
}

/// Why a breaker opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum TripReason {
    /// Too many hard failures in a row.
    ConsecutiveFailures,
    /// Too low a share of successes in the window.
    SuccessRate,
    /// The probe failed.
    ProbeFailed,
    /// The peer was declared FAILED, by its detector or by an operator.
    DeclaredFailed,
}

impl TripReason {
    /// The name as it is written in logs: `CONSECUTIVE_FAILURES`, ...
    pub const fn as_str(self) -> &'static str {
        match self {
            TripReason::ConsecutiveFailures => "CONSECUTIVE_FAILURES",
            TripReason::SuccessRate => "SUCCESS_RATE",
            TripReason::ProbeFailed => "PROBE_FAILED",
            TripReason::DeclaredFailed => "DECLARED_FAILED",
        }
    }
}

/// A breaker that opened and was not closed since: what must be remembered of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tripped {
    /// Why it opened last.
    pub reason: TripReason,
    /// From when a probe is let through.
    pub probe_at: Tick,
    /// Probes that failed since it was last Closed.
    pub failed_probes: u32,
}

/// What became of a call that was let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallOutcome {
    /// The peer did its work, even if its answer was that the caller is wrong.
    Success,
    /// The peer failed.
    Failure,
    /// The peer is alive and refused for lack of room: lowers the rate and fails a probe, but a run of
    /// refusals alone does not open the breaker.
    Overloaded,
    /// Says nothing about the peer: cancelled, or never sent.
    Ignored,
}

/// Leave for one call; give it back with the outcome by [`Breaker::record`], exactly once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permit {
    /// Of the state in which it was given: later states ignore it.
    generation: u64,
    probe: bool,
}

impl Permit {
    /// For a call that a breaker before this one let through: it counts while this one was never tripped.
    pub const fn adopted() -> Self {
        Self { generation: 0, probe: false }
    }

    /// Whether the call is the one probe of HalfOpen.
    pub const fn is_probe(self) -> bool {
        self.probe
    }
}

/// The breaker lets nothing through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the circuit is open")]
pub struct Refused {
    /// When the next probe is let through. While a probe is under way this is `now`: its result decides.
    pub next_probe: Tick,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Closed { consecutive_failures: u32 },
    Open { next_probe: Tick },
    HalfOpen { probing: bool },
}

/// The breaker of one peer.
#[derive(Debug, Clone)]
pub struct Breaker {
    settings: BreakerSettings,
    phase: Phase,
    window: Window,
    generation: u64,
    /// Probes that failed since it was last Closed; the exponent of the recovery time.
    failed_probes: u32,
    tripped: Option<(TripReason, Tick)>,
}

impl Breaker {
    /// A Closed breaker.
    pub fn new(settings: BreakerSettings) -> Self {
        Self {
            settings,
            phase: Phase::Closed { consecutive_failures: 0 },
            window: Window::new(settings.window),
            generation: 0,
            failed_probes: 0,
            tripped: None,
        }
    }

    /// Opens it as an earlier one of the same peer was, which had so much of its time left.
    pub fn resume(&mut self, now: Tick, reason: TripReason, left: Duration, failed_probes: u32) {
        self.failed_probes = failed_probes;
        let next_probe = now + left.min(self.recovery_time(1.0));
        self.tripped = Some((reason, next_probe));
        self.enter(Phase::Open { next_probe });
    }

    /// What must be remembered of it; `None` while Closed. Changes when it opens, opens again, is closed, and when its
    /// time is cut short; not when its time is simply over.
    pub fn tripped(&self) -> Option<Tripped> {
        let failed_probes = self.failed_probes;
        self.tripped.map(|(reason, probe_at)| Tripped { reason, probe_at, failed_probes })
    }

    /// What would be let through at `now`. An Open breaker whose time is over counts as HalfOpen.
    pub fn state(&self, now: Tick) -> State {
        match self.phase {
            Phase::Closed { .. } => State::Closed,
            Phase::Open { next_probe } if now < next_probe => State::Open,
            Phase::Open { .. } | Phase::HalfOpen { .. } => State::HalfOpen,
        }
    }

    /// Why it opened; `None` while Closed.
    pub fn trip_reason(&self) -> Option<TripReason> {
        self.tripped.map(|(reason, _)| reason)
    }

    /// When an Open breaker lets its probe through; `None` in the other states.
    pub fn next_probe(&self) -> Option<Tick> {
        match self.phase {
            Phase::Open { next_probe } => Some(next_probe),
            Phase::Closed { .. } | Phase::HalfOpen { .. } => None,
        }
    }

    /// Whether [`admit`](Self::admit) would let a call through.
    pub fn would_admit(&self, now: Tick) -> bool {
        match self.phase {
            Phase::Closed { .. } => true,
            Phase::Open { next_probe } => now >= next_probe,
            Phase::HalfOpen { probing } => !probing,
        }
    }

    /// Asks leave for one call.
    pub fn admit(&mut self, now: Tick) -> Result<Permit, Refused> {
        match self.phase {
            Phase::Closed { .. } => Ok(Permit { generation: self.generation, probe: false }),
            Phase::Open { next_probe } if now < next_probe => Err(Refused { next_probe }),
            Phase::HalfOpen { probing: true } => Err(Refused { next_probe: now }),
            Phase::Open { .. } | Phase::HalfOpen { probing: false } => {
                self.enter(Phase::HalfOpen { probing: true });
                Ok(Permit { generation: self.generation, probe: true })
            }
        }
    }

    /// Tells what became of a call. `jitter` is a random number from 0 to 1, used only if this opens the breaker.
    ///
    /// Outcomes of calls that were let through in an earlier state are ignored: a call that began
    /// before the trip says nothing about the peer of now.
    pub fn record(&mut self, now: Tick, permit: Permit, outcome: CallOutcome, jitter: f64) {
        if permit.generation != self.generation {
            return;
        }
        if permit.probe {
            match outcome {
                CallOutcome::Success => self.reset(),
                CallOutcome::Failure | CallOutcome::Overloaded => {
                    self.failed_probes = self.failed_probes.saturating_add(1);
                    self.open(now, TripReason::ProbeFailed, jitter);
                }
                CallOutcome::Ignored => self.enter(Phase::HalfOpen { probing: false }),
            }
            return;
        }
        let Phase::Closed { consecutive_failures } = &mut self.phase else { return };
        match outcome {
            CallOutcome::Success => {
                *consecutive_failures = 0;
                self.window.add(now, true);
                return;
            }
            CallOutcome::Failure => {
                *consecutive_failures = consecutive_failures.saturating_add(1);
                self.window.add(now, false);
            }
            CallOutcome::Overloaded => self.window.add(now, false),
            CallOutcome::Ignored => return,
        }
        let in_a_row = *consecutive_failures;
        if in_a_row >= self.settings.failure_threshold.max(1) {
            self.open(now, TripReason::ConsecutiveFailures, jitter);
        } else if self.window.is_below(self.settings.min_requests, self.settings.min_success_rate) {
            self.open(now, TripReason::SuccessRate, jitter);
        }
    }

    /// Opens it from outside; the recovery time starts anew.
    pub fn trip(&mut self, now: Tick, reason: TripReason, jitter: f64) {
        self.open(now, reason, jitter);
    }

    /// A new incarnation of the peer has proved itself: the next call is a probe, without waiting.
    /// A Closed breaker stays Closed.
    pub fn half_open_now(&mut self) {
        if !matches!(self.phase, Phase::Closed { .. }) {
            self.failed_probes = 0;
            if let Some((_, probe_at)) = &mut self.tripped {
                *probe_at = Tick(0);
            }
            self.enter(Phase::HalfOpen { probing: false });
        }
    }

    /// Closes it and forgets the past.
    pub fn reset(&mut self) {
        self.failed_probes = 0;
        self.tripped = None;
        self.window.clear();
        self.enter(Phase::Closed { consecutive_failures: 0 });
    }

    fn open(&mut self, now: Tick, reason: TripReason, jitter: f64) {
        let next_probe = now + self.recovery_time(jitter);
        self.tripped = Some((reason, next_probe));
        self.window.clear();
        self.enter(Phase::Open { next_probe });
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.generation = self.generation.wrapping_add(1);
    }

    /// `min(recovery_timeout * 2^failed_probes, max_recovery_timeout) * (1 + jitter_share * jitter)`.
    fn recovery_time(&self, jitter: f64) -> Duration {
        let doubled = 2_u32.saturating_pow(self.failed_probes);
        let longest = self.settings.max_recovery_timeout.max(self.settings.recovery_timeout);
        let base = self.settings.recovery_timeout.saturating_mul(doubled).min(longest);
        base.saturating_add(base.mul_f64(fraction(self.settings.jitter_share) * fraction(jitter)))
    }
}

/// From 0 to 1 whatever the number; NaN, which would spoil a duration, is 0.
fn fraction(number: f64) -> f64 {
    if number.is_nan() { 0.0 } else { number.clamp(0.0, 1.0) }
}

#[cfg(test)]
mod tests;
