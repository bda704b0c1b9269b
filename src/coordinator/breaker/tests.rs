use proptest::prelude::*;

use super::*;

fn second(n: u64) -> Tick {
    Tick(n * 1_000_000)
}

fn call(breaker: &mut Breaker, now: Tick, outcome: CallOutcome) {
    let permit = breaker.admit(now).expect("let through");
    breaker.record(now, permit, outcome, 0.0);
}

fn opened() -> Breaker {
    let mut breaker = Breaker::new(BreakerSettings::default());
    for _ in 0..5 {
        call(&mut breaker, second(0), CallOutcome::Failure);
    }
    breaker
}

#[test]
fn five_hard_failures_in_a_row_open_it_for_the_recovery_time() {
    let mut breaker = opened();
    assert_eq!(breaker.state(second(59)), State::Open);
    assert_eq!(breaker.trip_reason(), Some(TripReason::ConsecutiveFailures));
    assert_eq!(breaker.next_probe(), Some(second(60)));
    assert_eq!(breaker.admit(second(59)), Err(Refused { next_probe: second(60) }));
    assert_eq!(breaker.state(second(60)), State::HalfOpen);
}

#[test]
fn a_success_ends_the_run_of_failures() {
    let mut breaker = Breaker::new(BreakerSettings::default());
    for n in 0..19 {
        let outcome = if n % 4 == 3 { CallOutcome::Success } else { CallOutcome::Failure };
        call(&mut breaker, second(0), outcome);
        assert_eq!(breaker.state(second(0)), State::Closed);
    }
    call(&mut breaker, second(0), CallOutcome::Failure);
    assert_eq!(breaker.trip_reason(), Some(TripReason::SuccessRate), "4 of 20 succeeded");
}

#[test]
fn overload_lowers_the_rate_but_makes_no_run() {
    let mut breaker = Breaker::new(BreakerSettings::default());
    for _ in 0..19 {
        call(&mut breaker, second(0), CallOutcome::Overloaded);
    }
    assert_eq!(breaker.state(second(0)), State::Closed);
    call(&mut breaker, second(0), CallOutcome::Overloaded);
    assert_eq!(breaker.trip_reason(), Some(TripReason::SuccessRate));
}

#[test]
fn one_probe_at_a_time_and_its_success_closes() {
    let mut breaker = opened();
    let probe = breaker.admit(second(60)).expect("the probe");
    assert!(probe.is_probe());
    assert!(breaker.admit(second(61)).is_err(), "a second call while the probe is under way");
    breaker.record(second(62), probe, CallOutcome::Success, 0.0);
    assert_eq!(breaker.state(second(62)), State::Closed);
    assert_eq!(breaker.trip_reason(), None);
}

#[test]
fn a_probe_that_says_nothing_frees_its_slot() {
    let mut breaker = opened();
    let probe = breaker.admit(second(60)).expect("the probe");
    breaker.record(second(61), probe, CallOutcome::Ignored, 0.0);
    assert_eq!(breaker.state(second(61)), State::HalfOpen);
    assert!(breaker.admit(second(61)).expect("the next probe").is_probe());
}

#[test]
fn each_failed_probe_doubles_the_recovery_time_up_to_the_cap() {
    let mut breaker = opened();
    let mut now = second(60);
    for expected in [120, 240, 480, 600, 600] {
        let probe = breaker.admit(now).expect("the probe");
        breaker.record(now, probe, CallOutcome::Failure, 0.0);
        let next = breaker.next_probe().expect("open");
        assert_eq!(next.since(now), Duration::from_secs(expected));
        assert_eq!(breaker.trip_reason(), Some(TripReason::ProbeFailed));
        now = next;
    }
}

#[test]
fn jitter_lengthens_the_recovery_time_and_bad_numbers_do_no_harm() {
    for (jitter, expected) in [(1.0, 66.0), (0.5, 63.0), (7.0, 66.0), (-1.0, 60.0), (f64::NAN, 60.0)] {
        let mut breaker = Breaker::new(BreakerSettings::default());
        breaker.trip(second(0), TripReason::DeclaredFailed, jitter);
        let wait = breaker.next_probe().expect("open").since(second(0));
        assert_eq!(wait, Duration::from_secs_f64(expected), "{jitter}");
    }
}

#[test]
fn results_from_before_the_trip_are_ignored() {
    let mut breaker = Breaker::new(BreakerSettings::default());
    let old = breaker.admit(second(0)).expect("closed");
    breaker.trip(second(1), TripReason::DeclaredFailed, 0.0);
    breaker.record(second(2), old, CallOutcome::Success, 0.0);
    assert_eq!(breaker.state(second(2)), State::Open);

    breaker.half_open_now();
    let probe = breaker.admit(second(3)).expect("the probe");
    breaker.record(second(3), old, CallOutcome::Failure, 0.0);
    breaker.record(second(4), probe, CallOutcome::Success, 0.0);
    assert_eq!(breaker.state(second(4)), State::Closed);
}

#[test]
fn a_new_incarnation_is_probed_at_once() {
    let mut breaker = opened();
    breaker.half_open_now();
    assert_eq!(breaker.state(second(1)), State::HalfOpen);
    assert_eq!(breaker.trip_reason(), Some(TripReason::ConsecutiveFailures), "it stays suspect");
    call(&mut breaker, second(1), CallOutcome::Success);
    assert_eq!(breaker.state(second(1)), State::Closed);
    breaker.half_open_now();
    assert_eq!(breaker.state(second(1)), State::Closed, "a closed breaker needs no probe");
}

fn any_outcome() -> impl Strategy<Value = CallOutcome> {
    prop_oneof![
        Just(CallOutcome::Success),
        Just(CallOutcome::Failure),
        Just(CallOutcome::Overloaded),
        Just(CallOutcome::Ignored),
    ]
}

proptest! {
    /// Whatever happens: never two probes at once, refused exactly when `would_admit` says no, and it
    /// always comes back once calls succeed.
    #[test]
    fn it_never_sticks(
        steps in prop::collection::vec((0_u64..100, prop::option::of(any_outcome()), 0.0..1.0_f64), 0..300),
    ) {
        let mut breaker = Breaker::new(BreakerSettings::default());
        let mut now = second(0);
        let mut under_way: Vec<Permit> = Vec::new();
        for (wait, finished, jitter) in steps {
            now = now + Duration::from_secs(wait);
            let expected = breaker.would_admit(now);
            let admitted = breaker.admit(now);
            prop_assert_eq!(admitted.is_ok(), expected);
            if let Ok(permit) = admitted {
                under_way.push(permit);
            }
            let probes = under_way.iter().filter(|p| p.probe && p.generation == breaker.generation).count();
            prop_assert!(probes <= 1);
            if let (Some(outcome), false) = (finished, under_way.is_empty()) {
                breaker.record(now, under_way.remove(0), outcome, jitter);
            }
        }
        for permit in under_way {
            breaker.record(now, permit, CallOutcome::Ignored, 0.0);
        }
        now = now + Duration::from_secs(660);
        let permit = breaker.admit(now).expect("after the longest recovery time");
        breaker.record(now, permit, CallOutcome::Success, 0.0);
        prop_assert_eq!(breaker.state(now), State::Closed);
    }
}
