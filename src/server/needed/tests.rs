use std::time::Duration;

use super::*;
use crate::coordinator::event::{Event, FinishedResult, NewTask, RunEvent, RunOrder, TaskRef};
use crate::types::{
    AttemptId, Epoch, ManifestEntry, Measured, NodeId, Outcome, Priority, RequestKind, Stage, Summary,
    TaskId, TaskOutput, TreePath, UnixMillis,
};
use crate::workspace::blobs::{BlobLimits, LocalObjects};

/// The order of a run of a tree.
pub fn order(manifest: Digest, spec: Digest, tree_root: Option<&str>) -> RunOrder {
    RunOrder {
        caller: "test".into(),
        request_id: String::new(),
        body: Digest::of(b""),
        project: String::new(),
        priority: Priority::default(),
        supersede_key: String::new(),
        manifest,
        files: 1,
        spec,
        tree_root: tree_root.map(str::to_owned),
        tools: BTreeMap::new(),
        timeout: Duration::from_secs(60),
        source: RequestKind::Snapshot,
    }
}

/// An output of these bytes.
pub fn output(bytes: &[u8]) -> TaskOutput {
    TaskOutput { digest: Digest::of(bytes), size: bytes.len() as u64 }
}

/// A result with this output.
pub fn finished(output: TaskOutput) -> FinishedResult {
    FinishedResult { output, summary: Summary::default(), tool_errors: BTreeMap::new() }
}

fn event(run: &str, sequence: u64, event: RunEvent) -> Event {
    Event::Run { run: RunId::new(run).expect("valid"), sequence, at: UnixMillis(1), event }
}

/// A run's first event.
pub fn started(run: &str, order: RunOrder) -> Event {
    event(run, 1, RunEvent::Started { order: Box::new(order), assignments: BTreeMap::new() })
}

/// A run's last event.
pub fn ended(run: &str, sequence: u64, result: Option<FinishedResult>) -> Event {
    event(run, sequence, RunEvent::Finished { outcome: Outcome::Clean, result, detail: String::new() })
}

fn planned(run: &str, output: TaskOutput) -> [Event; 2] {
    let task = TaskRef { id: TaskId(1), stage: Stage::Plan, tool: None, shard: 0, shards: 0 };
    let accepted = RunEvent::TaskAccepted {
        task: task.clone(),
        attempt: AttemptId { epoch: Epoch(1), number: 1 },
        node: NodeId::new("a").expect("valid"),
        output,
        tool_error: None,
        measured: Measured::default(),
        origin: None,
    };
    let tasks = vec![NewTask { task, cost: 1 }];
    [event(run, 2, RunEvent::TasksCreated { tasks, assignments: None }), event(run, 3, accepted)]
}

fn manifest(blobs: &BlobStore, file: &[u8]) -> Digest {
    let entry = ManifestEntry {
        path: TreePath::new("a.py").expect("valid"),
        digest: Digest::of(file),
        size: file.len() as u64,
        lint: true,
    };
    blobs.put(&Manifest::new(vec![entry]).expect("valid").canonical_bytes()).expect("stored")
}

const ROOMY: BlobLimits = BlobLimits { max_blob_bytes: 1 << 20, max_total_bytes: 1 << 20 };

#[test]
fn what_open_runs_and_kept_results_need_outlives_a_start_with_no_room_at_all() {
    let dir = tempfile::tempdir().expect("a folder");
    let blobs = BlobStore::open(dir.path(), ROOMY).expect("opens");
    let [file, spec, plan, result, other] =
        [b"file", b"spec", b"plan", b"rslt", b"othr"].map(|bytes| blobs.put(bytes).expect("stored"));
    let tree = manifest(&blobs, b"file");
    let mut state = State::new(Epoch(1));
    state.apply(&started("open", order(tree, spec, None)));
    for event in planned("open", output(b"plan")) {
        state.apply(&event);
    }
    let forgotten = Digest::of(b"another manifest");
    state.apply(&started("done", order(forgotten, spec, None)));
    state.apply(&ended("done", 2, Some(finished(output(b"rslt")))));
    drop(blobs);

    let none = BlobLimits { max_total_bytes: 0, ..ROOMY };
    let objects = LocalObjects::open(dir.path()).expect("opens");
    let blobs = BlobStore::load(objects, none).expect("loads");
    let pinned = Needed::by(&state).pin(&blobs);
    blobs.trim();
    assert_eq!(pinned.lost, []);
    assert_eq!(blobs.missing(&[tree, file, spec, plan, result, other]), [other]);
    drop(pinned);
    blobs.trim();
    assert_eq!(blobs.total_bytes(), 0);
}

#[test]
fn a_run_whose_blobs_are_gone_is_told_with_a_reason_and_another_goes_on() {
    let dir = tempfile::tempdir().expect("a folder");
    let blobs = BlobStore::open(dir.path(), ROOMY).expect("opens");
    let spec = blobs.put(b"spec").expect("stored");
    let (tree, nowhere) = (manifest(&blobs, b"not there"), Digest::of(b"no manifest"));
    let garbled = blobs.put(b"not JSON").expect("stored");
    let mut state = State::new(Epoch(1));
    state.apply(&started("file", order(tree, spec, None)));
    state.apply(&started("in-place", order(tree, spec, Some("/srv/tree"))));
    state.apply(&started("manifest", order(nowhere, spec, None)));
    state.apply(&started("nonsense", order(garbled, spec, None)));
    state.apply(&started("output", order(tree, spec, Some("/srv/tree"))));
    for event in planned("output", output(b"gone")) {
        state.apply(&event);
    }
    let pinned = Needed::by(&state).pin(&blobs);
    let lost: Vec<_> = pinned.lost.iter().map(|(run, reason)| (run.as_str(), reason.as_str())).collect();
    let names: Vec<_> = lost.iter().map(|(run, _)| *run).collect();
    assert_eq!(names, ["file", "manifest", "nonsense", "output"]);
    let says = |at: usize, text: &str| assert!(lost[at].1.contains(text), "{}: {text}", lost[at].1);
    says(0, &Digest::of(b"not there").to_string());
    says(1, &nowhere.to_string());
    says(2, "manifest");
    says(3, &Digest::of(b"gone").to_string());
    assert_eq!(pinned.open.len(), 5, "what is left is kept until the runs have ended");
}
