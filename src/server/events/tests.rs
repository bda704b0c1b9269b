//! What a watcher hears while facts cannot be stored, and when the server stops.

use std::time::Duration;

use tokio::time::timeout;
use tokio_stream::StreamExt as _;
use tonic::Code;

use super::*;
use crate::coordinator::input::Input;
use crate::server::service::testing::Rig;
use crate::types::{Reported, Severity, ToolName, TreePath};

async fn next(events: &mut Events) -> Option<Told> {
    timeout(Duration::from_secs(5), events.next()).await.expect("told in time")
}

async fn told(events: &mut Events) -> v1::RunEvent {
    next(events).await.expect("open").expect("no error")
}

fn watch(rig: &Rig, run: &RunId) -> Events {
    let log = rig.service.engine.logs().get(run).expect("has begun");
    stream(rig.service.clone(), run.clone(), log, 0)
}

#[tokio::test(start_paused = true)]
async fn what_is_stored_is_told_while_nothing_else_can_be_and_progress_follows() {
    let rig = Rig::start(1 << 20);
    let run = rig.start_run("run").await;
    rig.stall().await;
    let mut events = watch(&rig, &run);
    assert_eq!(told(&mut events).await.sequence, 1);
    let newest = rig.service.engine.logs().get(&run).expect("there").newest();
    for sequence in 2..=newest {
        assert_eq!(told(&mut events).await.sequence, sequence);
    }
    timeout(Duration::from_secs(20), events.next()).await.expect_err("nobody knows how far it is");
    rig.go_on();
    assert!(matches!(told(&mut events).await.event, Some(Event::Progress(_))));
}

#[tokio::test(start_paused = true)]
async fn a_stop_is_heard_while_facts_cannot_be_stored() {
    let rig = Rig::start(1 << 20);
    let run = rig.start_run("run").await;
    rig.stall().await;
    let mut events = watch(&rig, &run);
    told(&mut events).await;
    rig.service.stopping.cancel();
    let last = loop {
        if let Err(status) = next(&mut events).await.expect("told why") {
            break status;
        }
    };
    assert_eq!(last.code(), Code::Unavailable, "{last:?}");
    assert!(next(&mut events).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_nothing_is_told_of_a_stop_and_where_to_go_on() {
    let rig = Rig::start(1 << 20);
    let run = rig.start_run("run").await;
    let mut events = watch(&rig, &run);
    let newest = rig.service.engine.logs().get(&run).expect("there").newest();
    // Each node changes the run's progress: more than can wait.
    for number in 0..2 * QUEUE {
        let _node = rig.join(&format!("node-{number}")).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let last = rig.service.engine.logs().get(&run).expect("there").newest();
    let cancel = Input::CancelRun { run: run.clone(), reason: "enough".into() };
    rig.service.engine.decide(cancel).await.expect("runs");
    tokio::time::sleep(Duration::from_secs(1)).await;
    rig.service.stopping.cancel();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (mut sequence, mut ending) = (0, None);
    while let Some(told) = next(&mut events).await {
        match told {
            Ok(event) => sequence = sequence.max(event.sequence),
            Err(status) => ending = Some(status),
        }
    }
    let ending = ending.expect("told why");
    assert!((newest..=last).contains(&sequence), "{sequence} of {newest} to {last}");
    assert!(ending.message().ends_with(&format!("after event {sequence}")), "{}", ending.message());
}

fn diagnostic(message: &str) -> Diagnostic {
    let tool = ToolName::new("ruff").expect("valid");
    Diagnostic {
        path: TreePath::new("a.py").expect("valid"),
        line: 1,
        column: None,
        end: None,
        tool: tool.clone(),
        code: "F821".into(),
        name: None,
        message: message.into(),
        severity: Severity::High,
        url: None,
        fingerprint: String::new(),
        line_hash: String::new(),
        reported_by: vec![Reported {
            tool,
            line: 1,
            column: None,
            code: "F821".into(),
            message: message.into(),
        }],
    }
}

#[test]
fn no_message_is_over_the_limit_and_none_is_left_out() {
    let task = v1::TaskRef { tool: "ruff".into(), ..v1::TaskRef::default() };
    let sizes = [10, 100_000, 100_000, 100_000, 10, 255_000, 10, 3_000_000, 10];
    let batches = split(&task, sizes.iter().map(|size| diagnostic(&"é".repeat(size / 2))).collect());
    assert!(batches.iter().all(|batch| batch.encoded_len() < 600 << 10 && !batch.diagnostics.is_empty()));
    let told: Vec<_> = batches.iter().flat_map(|batch| &batch.diagnostics).collect();
    assert_eq!(told.len(), sizes.len());
    for (told, size) in told.iter().zip(sizes) {
        assert_eq!(told.message, told.reported_by[0].message);
        assert_eq!(told.message.len() == size, size < 1_000_000, "only what does not fit is cut");
    }
    assert!(told[7].message.len() <= MESSAGE_BYTES + 3 && told[7].message.ends_with('…'));
    assert_eq!(split(&task, Vec::new()), []);
}
