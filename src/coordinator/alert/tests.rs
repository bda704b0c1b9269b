use proptest::prelude::*;

use super::*;

const SETTINGS: fn() -> AlertSettings = AlertSettings::default;

fn at(seconds: u64) -> Now {
    Now { tick: Tick(seconds * 1_000_000), wall: UnixMillis(seconds * 1000) }
}

/// A mesh that is well but for its connectivity.
fn connectivity(share: f64) -> Figures {
    Figures { connectivity_percentage: share, topology_health: 1.0, ..Figures::default() }
}

/// What is raised after a value for each second.
fn raised_after(values: &[f64]) -> Vec<bool> {
    let mut alerts = Alerts::default();
    let look = |(second, value): (usize, &f64)| {
        alerts.compare(at(second as u64), &connectivity(*value), &SETTINGS(), Tick(0));
        alerts.raised().next().is_some()
    };
    values.iter().enumerate().map(look).collect()
}

#[test]
fn each_rule_has_its_threshold_severity_and_words() {
    let bad = Figures {
        connectivity_percentage: 0.699,
        topology_health: 0.599,
        average_message_latency: Some(5.01),
        node_failure_rate: Some(0.201),
        consensus_agreement_rate: Some(0.799),
        ..Figures::default()
    };
    let mut alerts = Alerts::default();
    assert!(!alerts.compare(at(0), &bad, &SETTINGS(), Tick(0)), "held first");
    assert!(alerts.compare(at(10), &bad, &SETTINGS(), Tick(0)));
    let told: Vec<_> = alerts
        .raised()
        .map(|alert| (alert.rule.id(), alert.rule.severity().as_str(), alert.message()))
        .collect();
    let expected = [
        ("low_connectivity", "warning", "mesh connectivity is 69.9 %, below 70.0 %"),
        (
            "high_node_failure_rate",
            "warning",
            "the share of nodes that failed in 300 s is 20.1 %, above 20.0 %",
        ),
        ("high_message_latency", "warning", "the mean time of a message is 5.01 s, above 5.00 s"),
        ("low_consensus_rate", "warning", "the share of decisions that were agreed is 79.9 %, below 80.0 %"),
        ("degraded_health", "critical", "mesh health is 59.9 %, below 60.0 %"),
    ];
    assert_eq!(told, expected.map(|(id, severity, text)| (id, severity, text.to_owned())));
    assert!(
        alerts.raised().all(|alert| alert.since == UnixMillis(0) && !alert.rule.recommendation().is_empty())
    );
}

#[test]
fn a_value_at_its_threshold_is_good() {
    let edge = Figures {
        connectivity_percentage: 0.7,
        topology_health: 0.6,
        average_message_latency: Some(5.0),
        node_failure_rate: Some(0.2),
        consensus_agreement_rate: Some(0.8),
        ..Figures::default()
    };
    let mut alerts = Alerts::default();
    for second in 0..100 {
        alerts.compare(at(second), &edge, &SETTINGS(), Tick(0));
    }
    assert_eq!(alerts.raised().count(), 0);
}

#[test]
fn what_cannot_be_measured_raises_nothing_and_ends_what_was_raised() {
    let slow = Figures { average_message_latency: Some(9.0), ..connectivity(1.0) };
    let mut alerts = Alerts::default();
    for second in 0..=10 {
        alerts.compare(at(second), &slow, &SETTINGS(), Tick(0));
    }
    assert_eq!(alerts.raised().map(|alert| alert.rule).collect::<Vec<_>>(), [Rule::HighMessageLatency]);
    let unknown = connectivity(1.0);
    alerts.compare(at(20), &unknown, &SETTINGS(), Tick(0));
    assert_eq!(alerts.raised().next().map(|alert| alert.value), Some(9.0), "the last that was measured");
    assert!(alerts.compare(at(50), &unknown, &SETTINGS(), Tick(0)));
    assert_eq!(alerts.raised().count(), 0);
}

#[test]
fn it_is_raised_after_its_hold_and_ended_after_a_hold_beyond_the_margin() {
    // Bad for 10 s, then between threshold and margin for 60 s, then good for 30 s.
    let values = [vec![0.5; 11], vec![0.72; 60], vec![0.735; 31]].concat();
    let raised = raised_after(&values);
    assert_eq!(raised.iter().position(|raised| *raised), Some(10));
    let ended = raised.iter().rposition(|raised| *raised).map(|last| last + 1);
    assert_eq!(ended, Some(11 + 60 + 30));
}

#[test]
fn nothing_is_raised_before_the_start_is_over() {
    let mut alerts = Alerts::default();
    let armed_at = at(30).tick;
    for second in 0..30 {
        alerts.compare(at(second), &connectivity(0.0), &SETTINGS(), armed_at);
    }
    assert_eq!(alerts.raised().count(), 0);
    assert_eq!(alerts.next_change(&SETTINGS(), armed_at), Some(armed_at));
    assert!(alerts.compare(at(30), &connectivity(0.0), &SETTINGS(), armed_at));
}

#[test]
fn a_threshold_that_leaves_no_room_for_the_margin_can_still_be_met() {
    let settings = AlertSettings { low_connectivity: 1.0, high_node_failure_rate: 0.0, ..SETTINGS() };
    let mut alerts = Alerts::default();
    let bad = Figures { node_failure_rate: Some(0.1), ..connectivity(0.9) };
    alerts.compare(at(0), &bad, &settings, Tick(0));
    alerts.compare(at(10), &bad, &settings, Tick(0));
    assert_eq!(alerts.raised().count(), 2);
    let best = Figures { node_failure_rate: Some(0.0), ..connectivity(1.0) };
    alerts.compare(at(11), &best, &settings, Tick(0));
    alerts.compare(at(41), &best, &settings, Tick(0));
    assert_eq!(alerts.raised().count(), 0);
}

proptest! {
    /// However the value moves, an alert begins only after ten bad seconds on end and ends only after thirty good ones.
    #[test]
    fn an_alert_never_flaps(values in prop::collection::vec(
        prop_oneof![Just(0.5), Just(0.69), Just(0.7), Just(0.72), Just(0.735), Just(1.0)], 1..300,
    )) {
        let raised = raised_after(&values);
        for second in 1..values.len() {
            if raised[second] && !raised[second - 1] {
                prop_assert!(second >= 10 && values[second - 10..=second].iter().all(|value| *value < 0.7));
            }
            if !raised[second] && raised[second - 1] {
                prop_assert!(second >= 30 && values[second - 30..=second].iter().all(|value| *value >= 0.735));
            }
        }
    }
}
