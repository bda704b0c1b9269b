//! An alert is raised, told and ended: in the log, in StreamHealth, and at an Alertmanager.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use lintmesh::proto::v1::*;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::support::serve::{DEADLINE, Serve, until};

/// What a stand-in for an Alertmanager was told: each post that it took, whole.
type Posts = Arc<Mutex<Vec<Value>>>;

/// Takes posts, the first of which it refuses.
async fn alertmanager() -> (SocketAddr, Posts) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let posts = Posts::default();
    let taken = Arc::clone(&posts);
    tokio::spawn(async move {
        let mut refused = false;
        while let Ok((http, _)) = listener.accept().await {
            let answer = if refused { "200 OK" } else { "503 Service Unavailable" };
            let post = answered(http, answer).await;
            if std::mem::replace(&mut refused, true) {
                taken.lock().unwrap().push(post);
            }
        }
    });
    (address, posts)
}

/// Reads one request, checks its head, answers it; its body.
async fn answered(mut http: TcpStream, answer: &str) -> Value {
    let (mut read, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let count = http.read(&mut buffer).await.expect("readable");
        assert!(count > 0, "a whole request");
        read.extend_from_slice(&buffer[..count]);
        let text = String::from_utf8_lossy(&read);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let head = head.to_ascii_lowercase();
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
        if body.len() < length.and_then(|length| length.parse().ok()).expect("a length") {
            continue;
        }
        assert!(head.starts_with("post /prefix/api/v2/alerts http/1.1"), "{head}");
        assert!(
            head.contains("content-type: application/json") && head.contains("host: 127.0.0.1:"),
            "{head}"
        );
        let text = format!("HTTP/1.1 {answer}\r\ncontent-length: 0\r\n\r\n");
        http.write_all(text.as_bytes()).await.expect("answered");
        return serde_json::from_str(body).expect("JSON");
    }
}

/// The newest that was told of an alert: whether it is raised.
fn told(posts: &Posts, name: &str) -> Option<bool> {
    let posts = posts.lock().unwrap();
    let mut entries = posts.iter().flat_map(|post| post.as_array().expect("a list"));
    let newest = entries.rfind(|entry| entry["labels"]["alertname"] == name)?.clone();
    let time = |key: &str| {
        newest[key].as_str().expect("a time").parse::<prost_types::Timestamp>().expect("RFC 3339")
    };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    assert!(time("startsAt").seconds <= now.as_secs() as i64, "{newest}");
    assert_eq!(
        (&newest["labels"]["severity"], &newest["labels"]["mesh"]),
        (&"critical".into(), &"it".into())
    );
    assert!(newest["annotations"]["description"].as_str().is_some_and(|text| !text.is_empty()), "{newest}");
    // Raised ones end a while after the next post, ended ones have.
    Some(time("endsAt").seconds > now.as_secs() as i64)
}

async fn act(serve: &Serve, action: FaultAction) {
    for node in ["api-docs", "backend-dev"] {
        let fault = HandleFaultRequest { action: action.into(), node_id: node.into(), ..Default::default() };
        serve.coordinator().handle_fault(fault).await.expect("done");
    }
}

#[tokio::test]
async fn an_alert_is_logged_streamed_posted_and_resolved_when_it_ends() {
    let (address, posts) = alertmanager().await;
    // One that takes connections and never answers must hold up nobody.
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let silent = silent.local_addr().map(|address| (address, silent)).expect("bound");
    let settings = format!(
        "[mesh]\nheartbeat_interval = 0.4\nmessage_timeout = 2.0\n\
         [alerts]\nraise_after = 0.3\nclear_after = 0.3\nresend_interval = 1.0\nlabels = {{ mesh = \"it\" }}\n\
         alertmanager_url = [\"http://{}\", \"http://{address}/prefix\"]\n",
        silent.0
    );
    let serve = Serve::start(&settings).await;
    let hourly = prost_types::Duration { seconds: 3600, nanos: 0 };
    let request = StreamHealthRequest { interval: Some(hourly), ..Default::default() };
    let mut stream = serve.coordinator().stream_health(request).await.expect("a stream").into_inner();
    let mut streamed = async |raised: bool| {
        let seen = async {
            loop {
                let health = stream.message().await.expect("alive").expect("told").health.expect("health");
                let alert = health.alerts.iter().find(|alert| alert.id == "degraded_health");
                if alert.is_some() == raised {
                    return alert.cloned();
                }
            }
        };
        tokio::time::timeout(DEADLINE, seen).await.expect("streamed")
    };
    assert_eq!(streamed(false).await, None);

    act(&serve, FaultAction::Fail).await;
    let alert = streamed(true).await.expect("raised");
    assert_eq!((alert.severity(), alert.value, alert.threshold), (AlertSeverity::Critical, 0.5, 0.6));
    assert_eq!(alert.message, "mesh health is 50.0 %, below 60.0 %");
    assert!(!alert.recommendation.is_empty() && alert.since.is_some());
    let of = |line: &Value| line["id"] == "degraded_health";
    until("the alert is logged", || serve.logged("alert raised").iter().any(of)).await;
    let name = "lintmesh_degraded_health";
    until("the alert is posted, though the first post was refused", || told(&posts, name) == Some(true))
        .await;
    let count = posts.lock().unwrap().len();
    until("it is posted again while it lasts", || posts.lock().unwrap().len() > count).await;

    act(&serve, FaultAction::Recover).await;
    assert_eq!(streamed(false).await, None);
    until("its end is logged", || serve.logged("alert ended").iter().any(of)).await;
    until("its end is posted", || told(&posts, name) == Some(false)).await;
    until("the other one is given up each time", || {
        !serve.logged("an Alertmanager could not be told").is_empty()
    })
    .await;
    let lines = super::metrics::scrape(&serve).await;
    for outcome in ["delivered", "failed"] {
        let start = format!("lintmesh_alert_posts_total{{outcome=\"{outcome}\"}} ");
        assert!(lines.iter().any(|line| line.starts_with(&start)), "{lines:#?}");
    }
}

#[test]
fn settings_that_make_no_sense_are_refused_at_the_start() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("lintmesh.toml");
    let settings = "[alerts]\nlow_connectivity = 1.5\nmargin = -1\n\
                    alertmanager_url = [\"ftp://x\", \"https://am:9093\"]\nlabels = { \"no-dash\" = \"x\" }\n";
    std::fs::write(&file, settings).expect("written");
    let serve =
        super::support::serve::lintmesh().arg("serve").arg("--config").arg(&file).output().expect("runs");
    assert_eq!(serve.status.code(), Some(2));
    let said = String::from_utf8_lossy(&serve.stderr).into_owned();
    for key in [
        "alerts.low_connectivity",
        "alerts.margin",
        "alerts.alertmanager_url[0]",
        "alerts.alertmanager_url[1]",
        "alerts.labels.no-dash",
    ] {
        assert!(said.contains(key), "{key}: {said}");
    }
}
