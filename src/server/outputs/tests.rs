use tokio_util::sync::CancellationToken;

use super::*;
use crate::config;
use crate::coordinator::decision::Reply;
use crate::coordinator::input::Hello;
use crate::coordinator::message::Message;
use crate::coordinator::run::TaskState;
use crate::coordinator::settings::Settings;
use crate::engine::clock::SystemClock;
use crate::engine::{Engine, EngineOptions, Handle};
use crate::server::needed::Pinned;
use crate::server::needed::tests::order;
use crate::server::room::{Place, Room};
use crate::server::service::{Parts, TreePolicy};
use crate::store::MemoryStore;
use crate::types::{AttemptId, Digest, Epoch, Incarnation, NodeSpec, RunId, TaskId};
use crate::workspace::blobs::testing::{Faults, Faulty};
use crate::workspace::blobs::{BlobLimits, BlobStore};

fn node(name: &str) -> NodeId {
    NodeId::new(name).expect("valid")
}

fn attempt(number: u64) -> AttemptRef {
    let attempt = AttemptId { epoch: Epoch(1), number };
    AttemptRef { run: RunId::new("run").expect("valid"), task: TaskId(1), attempt }
}

#[test]
fn a_result_waits_once_and_not_too_many_do() {
    let (unstored, one, two) = (Unstored::default(), node("one"), node("two"));
    assert!(unstored.admit(&attempt(0), &one));
    assert!(!unstored.admit(&attempt(0), &two), "sent again while it waits");
    let admitted = (1..1000).filter(|number| unstored.admit(&attempt(*number), &one)).count();
    assert_eq!(admitted, MOST_UNSTORED - 1);
    assert_eq!(unstored.leave(&attempt(0)), BTreeSet::new(), "too early for all");
    assert!(unstored.admit(&attempt(2000), &two));
    let called: Vec<BTreeSet<NodeId>> = (1..64).map(|number| unstored.leave(&attempt(number))).collect();
    let called: Vec<&BTreeSet<NodeId>> = called.iter().filter(|nodes| !nodes.is_empty()).collect();
    assert_eq!(called, [&BTreeSet::from([one])], "once, and nobody who found a place");
}

#[test]
fn only_what_the_node_is_to_blame_for_is_the_attempts_failure() {
    let (digest, place) = (Digest::of(b""), String::new());
    let mismatch = BlobError::DigestMismatch { expected: digest, actual: digest };
    for error in [BlobError::Missing(digest), mismatch, BlobError::TooLarge { size: 2, limit: 1 }] {
        assert!(matches!(Untaken::from(error), Untaken::Unusable(_)));
    }
    let failed = BlobError::Io { place: place.clone(), source: std::io::ErrorKind::Other.into() };
    for error in [BlobError::Full { needed: 1, limit: 1 }, BlobError::DiskFull { place }, failed] {
        assert!(matches!(Untaken::from(error), Untaken::NotNow(_)));
    }
}

/// A server's services on a folder that fails when it is told to, and a node that was given a run's first task.
struct Rig {
    service: Arc<Service>,
    faults: Faults,
    attempt: AttemptRef,
    _dir: tempfile::TempDir,
    messages: tokio::sync::mpsc::Receiver<Message>,
}

const PLAN: &[u8] = br#"{"tools":[],"files":0}"#;

impl Rig {
    async fn start() -> Self {
        let (restarts, _) = tokio::sync::mpsc::channel(1);
        let clock = Arc::new(SystemClock::new());
        let (settings, store) = (Settings::default(), MemoryStore::new());
        let options = EngineOptions { settings, store, clock, restarts, salvage: false };
        let (engine, handle) = Engine::open(options).expect("opens");
        tokio::spawn(engine.run());
        let dir = tempfile::tempdir().expect("a folder");
        let (objects, faults) = Faulty::open(dir.path());
        let limits = BlobLimits { max_blob_bytes: 1 << 20, max_total_bytes: 1 << 20 };
        let place = Place { dir: dir.path().to_owned(), what: "runs", setting: "state.dir" };
        let service = Service::new(Parts {
            engine: handle.clone(),
            blobs: BlobStore::load(objects, limits).expect("loads"),
            pinned: Pinned::default(),
            settings: config::Settings::default(),
            trees: TreePolicy::default(),
            toolchain_mode: None,
            random: Arc::new(|| 7),
            draining: CancellationToken::new(),
            room: Some(Room::new(vec![place], 0, Arc::new(|_| Ok(1)))),
        });
        let (attempt, messages) = assigned(&handle).await;
        Self { service, faults, attempt, _dir: dir, messages }
    }

    fn result(&self) -> peer::AttemptResult {
        let output = TaskOutput { digest: Digest::of(PLAN), size: PLAN.len() as u64 };
        peer::AttemptResult {
            key: self.attempt.clone(),
            executor: NodeId::new("one").expect("valid"),
            incarnation: Incarnation(1),
            ending: peer::Ending::Output { output, data: Some(PLAN.to_vec()) },
            measured: Default::default(),
        }
    }

    /// Whether the core knows that what the attempt made is here.
    async fn has_arrived(&self) -> bool {
        let attempt = self.attempt.attempt;
        let read = move |core: &crate::coordinator::Coordinator, _| {
            core.presences()[&node("one")].running[&attempt].has_arrived
        };
        self.service.engine.query(read).await.expect("runs")
    }

    async fn task(&self) -> (TaskState, u32, u32) {
        let run = self.attempt.run.clone();
        let read = move |core: &crate::coordinator::Coordinator, _| {
            let task = core.state().runs[&run].task(TaskId(1)).expect("made").clone();
            (task.state, task.crashes, task.retries)
        };
        self.service.engine.query(read).await.expect("runs")
    }
}

/// Has a node join and a run start; answers the attempt it was given.
async fn assigned(engine: &Handle) -> (AttemptRef, tokio::sync::mpsc::Receiver<Message>) {
    let (session, mut messages) = engine.sessions().open();
    let required = Settings::default().required;
    let spec = NodeSpec {
        node_id: NodeId::new("one").expect("valid"),
        agent_type: "generalist".into(),
        capabilities: Stage::ALL.into_iter().flat_map(|stage| required.of(stage).clone()).collect(),
        fallback_capabilities: Default::default(),
        tools_focus: Vec::new(),
        priority_weight: 1.0,
        max_concurrent_tasks: 1,
    };
    let hello = Hello {
        spec,
        incarnation: Incarnation(1),
        host_id: "host".into(),
        cpu_slots: 1,
        toolchain_id: "toolchain".into(),
        tools: BTreeMap::new(),
        environment_class: "any".into(),
        failure_domain: "any".into(),
        peer_endpoint: None,
        draining: false,
        sandbox: "none".into(),
        process_id: 1,
        running: Vec::new(),
        unacknowledged: Vec::new(),
    };
    let joined = engine.decide(Input::Joined { session, hello: Box::new(hello) }).await;
    assert!(matches!(joined, Ok(Reply::Welcome { .. })), "{joined:?}");
    let order = Box::new(order(Digest::of(b"manifest"), Digest::of(b"spec"), None));
    let run = RunId::new("run").expect("valid");
    assert!(matches!(engine.decide(Input::StartRun { run, order }).await, Ok(Reply::Run(_))));
    loop {
        if let Message::Assign(assign) = messages.recv().await.expect("open") {
            return (assign.attempt.clone(), messages);
        }
    }
}

#[tokio::test]
async fn a_result_that_cannot_be_stored_waits_and_is_then_accepted_without_a_retry() {
    let rig = Rig::start().await;
    rig.faults.fill(true);
    for _ in 0..2 {
        let told = ended(&rig.service, vec![(rig.result(), None)]).await;
        assert!(matches!(told[..], [Input::ResultWaits { .. }]), "so that it is not acknowledged");
        rig.service.engine.decide_all(told).await.expect("runs");
    }
    assert!(!rig.service.unstored.admit(&rig.attempt, &node("one")), "it waits");
    assert!(rig.has_arrived().await, "and nobody waits for it");
    let (state, crashes, retries) = rig.task().await;
    assert!(matches!(state, TaskState::Running { .. }), "{state:?}");
    assert_eq!((crashes, retries), (0, 0));

    // There is room, but what is written is not kept; then it is.
    rig.faults.fail_syncs(true);
    rig.faults.fill(false);
    let told = ended(&rig.service, vec![(rig.result(), None)]).await;
    assert!(matches!(told[..], [Input::ResultWaits { .. }]), "it would not survive a power cut");
    rig.faults.fail_syncs(false);
    let mut revision = rig.service.engine.revision();
    let accepted = async {
        while !matches!(rig.task().await.0, TaskState::Done { .. }) {
            revision.changed().await.expect("runs");
        }
    };
    tokio::time::timeout(Duration::from_secs(60), accepted).await.expect("in the end");
    let (_, crashes, retries) = rig.task().await;
    assert_eq!((crashes, retries), (0, 0));
    assert!(rig.faults.synced().contains(&vec![Digest::of(PLAN)]), "durable before it is accepted");
}

#[tokio::test]
async fn a_result_for_which_there_was_no_place_is_brought_again_with_a_new_connection() {
    let mut rig = Rig::start().await;
    rig.faults.fill(true);
    let waiting = (1..=64).map(|number| attempt(1000 + number));
    assert!(waiting.clone().all(|other| rig.service.unstored.admit(&other, &node("two"))));
    let told = ended(&rig.service, vec![(rig.result(), None)]).await;
    rig.service.engine.decide_all(told).await.expect("runs");
    assert!(rig.has_arrived().await, "nobody waits for it");
    let mut left = waiting.clone();
    for other in left.by_ref().take(31) {
        end_wait(&rig.service, &other).await;
    }
    assert_eq!(rig.messages.try_recv().err(), Some(tokio::sync::mpsc::error::TryRecvError::Empty));
    end_wait(&rig.service, &left.next().expect("more")).await;
    assert_eq!(rig.messages.try_recv().err(), Some(tokio::sync::mpsc::error::TryRecvError::Disconnected));
}

#[tokio::test]
async fn what_a_node_did_wrong_is_its_attempts_failure_at_once() {
    let rig = Rig::start().await;
    let other = Digest::of(b"another");
    let output = TaskOutput { digest: other, size: 1 };
    for data in [Some(b"garbled".to_vec()), None] {
        let result = peer::AttemptResult { ending: peer::Ending::Output { output, data }, ..rig.result() };
        let told = ended(&rig.service, vec![(result, None)]).await;
        assert!(matches!(told[..], [Input::TaskEnded { ending: Ending::Failed(_), .. }]), "{told:?}");
    }
}
