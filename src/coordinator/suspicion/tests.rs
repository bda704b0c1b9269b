//! The verdicts, as a table.

use super::*;
use SessionEnding::{Given, Reset};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

const LIMITS: Limits = Limits {
    quiet: ms(1_000),
    silent_after: ms(2_500),
    fresh: ms(3_000),
    message_timeout: ms(30_000),
    reconnect_grace: ms(1_000),
    is_starting: false,
    is_awaited: false,
    is_guarded: false,
    unguarded: Duration::MAX,
};

/// A node that four peers watch, heard so long ago.
const fn silent_for(silence: u64) -> Evidence {
    Evidence { gone: None, silence: ms(silence), unseen: None, observers: 3, resets: 0, ups: 0 }
}

/// A node whose session ended so long ago, when it was last heard.
const fn gone_for(ending: SessionEnding, since: u64) -> Evidence {
    Evidence { gone: Some((ending, ms(since))), ..silent_for(since) }
}

const SILENT: Verdict = Verdict::Degraded { cause: FaultCause::Silent, doubles_work: true };
const GUARDED: Verdict = Verdict::Degraded { cause: FaultCause::Silent, doubles_work: false };
const UNREACHABLE: Verdict = Verdict::Degraded { cause: FaultCause::Unreachable, doubles_work: false };
const LOST: Verdict = Verdict::Degraded { cause: FaultCause::SessionLost, doubles_work: false };
const LOST_WITH_WORK: Verdict = Verdict::Degraded { cause: FaultCause::SessionLost, doubles_work: true };
const GONE: Verdict = Verdict::Failed(FaultCause::SessionLost);
const TIMED_OUT: Verdict = Verdict::Failed(FaultCause::HeartbeatTimeout);

#[test]
fn the_table_of_verdicts() {
    let seen = |evidence: Evidence, unseen| Evidence { unseen: Some(ms(unseen)), ..evidence };
    let resets = |evidence: Evidence, observers, resets| Evidence { observers, resets, ..evidence };
    let up = |evidence: Evidence| Evidence { ups: 1, ..evidence };
    let table = [
        ("heard just now", silent_for(0), Verdict::Present),
        ("quiet, asked, not late yet", silent_for(2_499), Verdict::Present),
        ("no answer to two probes", silent_for(2_500), SILENT),
        (
            "no answer, and a peer's last one is older than our first probe",
            seen(silent_for(2_500), 1_600),
            SILENT,
        ),
        ("no answer, but a peer has one since we asked", seen(silent_for(2_500), 1_400), UNREACHABLE),
        ("a peer's answer that is not fresh any more", seen(silent_for(10_000), 3_001), SILENT),
        ("an up link alone is no answer", up(silent_for(2_500)), SILENT),
        ("just before the timeout", silent_for(29_999), SILENT),
        ("at the timeout", silent_for(30_000), TIMED_OUT),
        ("at the timeout, but a peer sees it", seen(silent_for(30_000), 100), UNREACHABLE),
        ("long silent, seen until a while ago", seen(silent_for(300_000), 29_999), SILENT),
        ("long silent, not seen for the timeout", seen(silent_for(300_000), 30_000), TIMED_OUT),
        ("reset just now", gone_for(Reset, 0), LOST),
        ("reset, its work is tried elsewhere soon", gone_for(Reset, 250), LOST_WITH_WORK),
        ("reset, still in the grace", gone_for(Reset, 999), LOST_WITH_WORK),
        ("reset and not back, which one of three peers saw too", resets(gone_for(Reset, 1_000), 3, 1), GONE),
        ("reset and not back, which no peer saw", gone_for(Reset, 1_000), LOST_WITH_WORK),
        ("reset and not back for the timeout", gone_for(Reset, 30_000), GONE),
        ("reset and not back, nobody watches", resets(gone_for(Reset, 1_000), 0, 0), GONE),
        ("reset, one of three peers saw it too", resets(gone_for(Reset, 10), 3, 1), LOST),
        ("reset, two peers saw it too", resets(gone_for(Reset, 10), 3, 2), GONE),
        ("reset, the only peer saw it too", resets(gone_for(Reset, 10), 1, 1), GONE),
        ("reset, nobody watches", resets(gone_for(Reset, 10), 0, 0), LOST),
        ("reset and not back, but a peer's link is up", up(gone_for(Reset, 1_000)), LOST_WITH_WORK),
        ("reset, seen by a peer before", seen(resets(gone_for(Reset, 1_000), 3, 1), 1_100), GONE),
        ("reset, seen by a peer since", seen(gone_for(Reset, 1_000), 900), UNREACHABLE),
        ("reset, seen since, then no more", seen(gone_for(Reset, 20_000), 15_000), LOST_WITH_WORK),
        ("reset, seen since, not for the timeout", seen(gone_for(Reset, 60_000), 30_000), GONE),
        ("we gave up the session", gone_for(Given, 1_000), LOST),
        ("we gave it up and heard nothing since", gone_for(Given, 2_500), LOST_WITH_WORK),
        ("we gave it up, its peers' links are reset", resets(gone_for(Given, 10), 3, 3), LOST),
        ("we gave it up, a peer sees it", seen(gone_for(Given, 2_500), 100), UNREACHABLE),
        ("we gave it up and it does not return", gone_for(Given, 30_000), GONE),
    ];
    for (case, evidence, verdict) in table {
        assert_eq!(judge(&evidence, &LIMITS), verdict, "{case}");
    }
}

#[test]
fn nobody_is_failed_while_the_coordinator_starts() {
    let limits = Limits { is_starting: true, ..LIMITS };
    assert_eq!(judge(&silent_for(60_000), &limits), SILENT);
    assert_eq!(judge(&gone_for(Reset, 60_000), &limits), LOST_WITH_WORK);
    assert_eq!(judge(&Evidence { resets: 3, ..gone_for(Reset, 10) }, &limits), LOST);
}

#[test]
fn one_that_is_back_of_many_condemns_no_other() {
    let limits = Limits { unguarded: ms(29_999), ..LIMITS };
    assert_eq!(judge(&silent_for(60_000), &limits), SILENT);
    let limits = Limits { unguarded: ms(30_000), ..LIMITS };
    assert_eq!(judge(&silent_for(60_000), &limits), Verdict::Failed(FaultCause::HeartbeatTimeout));
}

#[test]
fn a_coordinator_that_suspects_itself_takes_nothing_from_anybody() {
    let limits = Limits { is_guarded: true, ..LIMITS };
    assert_eq!(judge(&silent_for(60_000), &limits), GUARDED);
    assert_eq!(judge(&gone_for(Reset, 29_999), &limits), LOST);
    assert_eq!(judge(&gone_for(Reset, 30_000), &limits), GONE, "those that do not even dial are gone");
    assert_eq!(judge(&silent_for(2_499), &limits), Verdict::Present);
}

#[test]
fn the_hold_doubles_up_to_a_minute() {
    let beat = ms(5_000);
    assert_eq!([0, 1, 2, 3, 4, 5, 100].map(|flaps| hold(beat, flaps).as_secs()), [5, 5, 10, 20, 40, 60, 60]);
    assert_eq!(hold(ms(90_000), 3), ms(90_000), "never shorter than a heartbeat");
}
