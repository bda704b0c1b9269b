//! From evidence about a node to a verdict: pure, so that the rules can be read, and tested, as a table.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::input::SessionEnding;
use crate::types::{FaultCause, LinkState, NodeId, Tick};

/// What tells whether a node is there, beside its session.
#[derive(Debug, Default)]
pub struct Contact {
    /// How its last session ended, while there is none.
    pub ending: Option<SessionEnding>,
    /// It was ACTIVE when its last session ended.
    pub was_active: bool,
    /// It was silent when its last session ended.
    pub was_silent: bool,
    /// It was heard in its session, after its Hello.
    pub has_spoken: bool,
    /// Since when it is heard without a gap.
    pub since: Option<Tick>,
    /// When a peer last had an answer from it.
    pub seen_at: Option<Tick>,
    /// How its peers see it.
    pub views: BTreeMap<NodeId, View>,
    /// Its own timers came late: what it says of the silence of others is not to be trusted.
    pub abstains: bool,
    /// When it was last asked for an answer.
    pub probed_at: Option<Tick>,
    /// How often it was asked, in this connection.
    pub probes: u64,
    /// When its peers were last asked about it.
    pub asked_at: Option<Tick>,
    /// Since when a peer says that something is wrong with it.
    pub accused_at: Option<Tick>,
    /// When it lately stopped being ACTIVE.
    pub flaps: VecDeque<Tick>,
    /// It was suspected together with too many others: nothing is held against it.
    pub is_excused: bool,
    /// It was there under an earlier coordinator and has not joined this one yet.
    pub is_awaited: bool,
    /// What the last probes measured of its clock, in milliseconds ahead of the coordinator's.
    pub clock_offsets: VecDeque<i64>,
    /// When it is looked at next.
    pub alarm: Option<Tick>,
}

impl Contact {
    /// What the end of its session says. A node that was silent before gives up its connection itself and dials anew:
    /// that looks like the end of its process and is none, so its silence goes on. The same of one that said nothing
    /// but Hello: it gave up before it was welcomed, for a node that is welcomed beats at once.
    pub fn proof_of_end(&self) -> SessionEnding {
        match self.ending {
            Some(SessionEnding::Reset) if !self.was_silent && self.has_spoken => SessionEnding::Reset,
            _ => SessionEnding::Given,
        }
    }
}

/// What one peer sees of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// The state of the peer's link to it.
    pub state: LinkState,
    /// Since when.
    pub since: Tick,
}

/// What is known of a node at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Evidence {
    /// How its session ended and how long ago; none while it is open.
    pub gone: Option<(SessionEnding, Duration)>,
    /// Since it was last heard.
    pub silence: Duration,
    /// Since a peer last had an answer from it; none if none had.
    pub unseen: Option<Duration>,
    /// Peers that watch it and can be believed: ACTIVE, heard from, awake.
    pub observers: usize,
    /// Those whose link to it was reset when its session was.
    pub resets: usize,
    /// Those whose link to it is up.
    pub ups: usize,
}

/// What the verdict is measured by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Silence after which a node is asked for an answer.
    pub quiet: Duration,
    /// Silence after which it is suspected.
    pub silent_after: Duration,
    /// How recently a peer must have had an answer for the node to count as seen.
    pub fresh: Duration,
    /// Silence after which it is FAILED (`message_timeout`).
    pub message_timeout: Duration,
    /// How long after a reset it may come back (`reconnect_grace`).
    pub reconnect_grace: Duration,
    /// The coordinator has just started: nobody is FAILED.
    pub is_starting: bool,
    /// The coordinator has just started, and the node, which was there before, has not found it yet: its work goes on.
    pub is_awaited: bool,
    /// So many are suspected at once that the coordinator suspects itself.
    pub is_guarded: bool,
    /// Since that was last so. Of those that were silent together the first to return must not condemn the others.
    pub unguarded: Duration,
}

/// What follows from evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is there.
    Present,
    /// Something is wrong: no new work.
    Degraded {
        /// What.
        cause: FaultCause,
        /// Whether its tasks should get a second attempt elsewhere.
        doubles_work: bool,
    },
    /// It is out of the mesh.
    Failed(FaultCause),
}

/// After a reset, how long a node that only lost its connection is given before its tasks are tried elsewhere as well.
pub const DOUBLE_AFTER_RESET: Duration = Duration::from_millis(250);
/// Peers that must have seen a reset as well, unless all that can be believed have.
const RESETS: usize = 2;

impl Evidence {
    /// Whether anything is wrong from where the coordinator stands.
    pub fn is_suspicious(&self, limits: &Limits) -> bool {
        self.gone.is_some() || self.silence >= limits.silent_after
    }

    /// Whether peers saw its connections end too: then its process is gone, and nobody needs to doubt himself.
    pub fn is_corroborated(&self) -> bool {
        matches!(self.gone, Some((SessionEnding::Reset, _)))
            && (self.resets >= RESETS || (self.resets > 0 && self.resets == self.observers))
    }

    /// Whether a peer had an answer since the coordinator had none: then the way to the node is broken, not the node.
    fn is_seen(&self, limits: &Limits) -> bool {
        let unanswered = match self.gone {
            Some((_, since)) => since,
            // Since the first probe without an answer.
            None => self.silence.saturating_sub(limits.quiet),
        };
        self.unseen.is_some_and(|unseen| unseen <= limits.fresh && unseen < unanswered)
    }

    /// Since anybody had an answer from it.
    fn out_of_contact(&self) -> Duration {
        self.unseen.map_or(self.silence, |unseen| unseen.min(self.silence))
    }
}

/// Judges a node.
pub fn judge(evidence: &Evidence, limits: &Limits) -> Verdict {
    if !evidence.is_suspicious(limits) {
        return Verdict::Present;
    }
    let is_seen = evidence.is_seen(limits);
    let patience = if limits.is_guarded { Duration::MAX } else { limits.unguarded };
    let timed_out =
        evidence.out_of_contact().min(patience) >= limits.message_timeout && !is_seen && !limits.is_starting;
    let Some((ending, since)) = evidence.gone else {
        return match (timed_out && !limits.is_guarded, is_seen) {
            (true, _) => Verdict::Failed(FaultCause::HeartbeatTimeout),
            (false, true) => Verdict::Degraded { cause: FaultCause::Unreachable, doubles_work: false },
            (false, false) => {
                Verdict::Degraded { cause: FaultCause::Silent, doubles_work: !limits.is_guarded }
            }
        };
    };
    let may_fail = !limits.is_starting && !limits.is_guarded;
    // Seen after the reset: what was reset is the connection, not the process.
    let outlived = evidence.unseen.is_some_and(|unseen| unseen < since);
    // The end of a process ends all its connections. If no peer saw that, only this one ended, as one does that is cut
    // by something between or given up by a node that hears nothing: then silence decides.
    let contradicted = evidence.ups > 0 || (evidence.observers > 0 && evidence.resets == 0);
    let stayed_away =
        ending == SessionEnding::Reset && since >= limits.reconnect_grace && !contradicted && !outlived;
    if (may_fail && (evidence.is_corroborated() || stayed_away))
        // Whoever dials neither us nor them for that long is not coming back, however many they are.
        || (timed_out && since >= limits.message_timeout)
    {
        return Verdict::Failed(FaultCause::SessionLost);
    }
    if is_seen {
        return Verdict::Degraded { cause: FaultCause::Unreachable, doubles_work: false };
    }
    let is_due = match ending {
        SessionEnding::Reset => since >= DOUBLE_AFTER_RESET,
        SessionEnding::Given => evidence.silence >= limits.silent_after,
    };
    Verdict::Degraded {
        cause: FaultCause::SessionLost,
        doubles_work: is_due && !limits.is_guarded && !limits.is_awaited,
    }
}

/// The longest hold-down.
const LONGEST_HOLD: Duration = Duration::from_secs(60);

/// How long a node that came back must stay in contact before it is ACTIVE again: one heartbeat, doubled for each time
/// more that it lately stopped being ACTIVE.
pub fn hold(heartbeat_interval: Duration, flaps: usize) -> Duration {
    let doublings = u32::try_from(flaps.saturating_sub(1)).unwrap_or(u32::MAX).min(16);
    heartbeat_interval.saturating_mul(1 << doublings).min(LONGEST_HOLD.max(heartbeat_interval))
}

#[cfg(test)]
mod tests;
