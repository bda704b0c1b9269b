use super::*;

const fn alert(rule: Rule, value: f64) -> Alert {
    Alert { rule, value, threshold: 0.7, since: UnixMillis(1_700_000_000_000) }
}

fn kept() -> Duration {
    Duration::from_secs(240)
}

fn names(body: &serde_json::Value) -> Vec<(String, String)> {
    let text = |value: &serde_json::Value| value.as_str().expect("a text").to_owned();
    let entries = body.as_array().expect("a list");
    entries.iter().map(|entry| (text(&entry["labels"]["alertname"]), text(&entry["endsAt"]))).collect()
}

#[tokio::test(start_paused = true)]
async fn what_is_raised_is_told_until_beyond_the_next_post_and_its_end_once() {
    let mut outbox = Outbox::default();
    let until = Instant::now() + kept();
    let wall = UnixMillis(1_700_000_060_000);
    let low = alert(Rule::LowConnectivity, 0.5);
    assert!(outbox.take(vec![low], wall, until));
    assert!(!outbox.take(vec![alert(Rule::LowConnectivity, 0.6)], wall, until), "only its value is another");
    let labels = [("mesh".to_owned(), "test".to_owned())].into();
    let body = outbox.body(&labels, wall, kept());
    let expected = serde_json::json!([{
        "labels": { "alertname": "lintmesh_low_connectivity", "mesh": "test", "severity": "warning" },
        "annotations": {
            "summary": "mesh connectivity is 60.0 %, below 70.0 %",
            "description": Rule::LowConnectivity.recommendation(),
        },
        "startsAt": "2023-11-14T22:13:20Z",
        "endsAt": "2023-11-14T22:18:20Z",
    }]);
    assert_eq!(body, expected);

    let later = UnixMillis(wall.0 + 1500);
    assert!(outbox.take(Vec::new(), later, until));
    let ended = names(&outbox.body(&labels, later, kept()));
    assert_eq!(ended, [("lintmesh_low_connectivity".to_owned(), "2023-11-14T22:14:21.500Z".to_owned())]);
    assert!(!outbox.take(Vec::new(), UnixMillis(later.0 + 9000), until));
    assert_eq!(names(&outbox.body(&labels, later, kept())), ended, "not told yet, so it is kept as it was");
    outbox.expire(until);
    assert!(outbox.is_empty(), "by now the Alertmanager has concluded it by itself");
}

#[tokio::test(start_paused = true)]
async fn an_alert_that_is_raised_again_has_not_ended() {
    let mut outbox = Outbox::default();
    let until = Instant::now() + kept();
    for raised in [true, false, true] {
        let alerts = raised.then(|| alert(Rule::DegradedHealth, 0.1)).into_iter().collect();
        assert!(outbox.take(alerts, UnixMillis(0), until));
    }
    assert_eq!(names(&outbox.body(&BTreeMap::new(), UnixMillis(0), kept())).len(), 1);
}
