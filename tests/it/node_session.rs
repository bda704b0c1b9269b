//! A node joins, works, keeps its results over lost connections, and leaves no process behind, however anybody dies.

pub(crate) mod coordinator;
pub(crate) mod processes;
mod stopped_shim;
mod unread_log;
pub(crate) mod world;

use std::fs;
use std::time::Duration;

use lintmesh::proto::peer::v1 as pb;
use lintmesh::proto::peer::v1::mesh_message::Payload;
use lintmesh::types::{
    AttemptRef, ClassifiedOutput, Digest, LintOutput, Manifest, ManifestEntry, Outcome, Plan, RunResult,
    Stage, TreePath,
};
use lintmesh::wire::peer::Ending;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use coordinator::{Coordinator, DEADLINE};
use processes::until_gone;
use world::{Run, SOURCE, World, assignment, output, planned, run_of};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_says_who_it_is_and_beats() {
    let (mut coordinator, world) = (Coordinator::start().await, World::with_ruff());
    let (node, stop) = world.node(&coordinator);
    let mut session = coordinator.session().await;
    let hello = session.hello.clone();
    let specialist = hello.specialist.unwrap();
    assert_eq!((specialist.node_id.as_str(), specialist.max_concurrent_tasks), ("backend-dev", 2));
    assert_eq!((hello.protocol_min, hello.protocol_max, hello.last_epoch), (1, 1, 0));
    assert_eq!((hello.mesh_id.as_str(), hello.host_id.as_str()), ("default", "host"));
    assert_eq!(hello.tools.get("ruff").map(String::as_str), Some("1.0"));
    assert!(hello.incarnation > 1_700_000_000_000_000, "microseconds since 1970: {}", hello.incarnation);
    assert_eq!(hello.process_id, std::process::id());
    assert!(!hello.sandbox.is_empty());
    for number in 1..=3 {
        let beat = session.beat().await;
        assert_eq!((beat.number, beat.running_tasks), (number, 0));
        assert!(beat.memory > 0.0 && beat.memory < 1.0, "{beat:?}");
    }
    stop.cancel();
    tokio::time::timeout(DEADLINE, node).await.expect("ends").unwrap().expect("in order");
    assert_eq!(fs::read_dir(world.work_dir()).unwrap().count(), 0, "its folder is gone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_not_wanted_ends_and_says_why() {
    let details = ErrorDetails::with_error_info("STALE_INCARNATION", "lintmesh", [] as [(String, String); 0]);
    let cases = [
        (Status::unauthenticated("the secret is used up"), "the secret is used up"),
        (
            Status::with_error_details(Code::AlreadyExists, "a newer one is here", details),
            "STALE_INCARNATION",
        ),
    ];
    for (status, words) in cases {
        let (coordinator, world) = (Coordinator::start().await, World::with_ruff());
        coordinator.refuse_next(status);
        let (node, _stop) = world.node(&coordinator);
        let error = tokio::time::timeout(DEADLINE, node).await.expect("ends").unwrap().expect_err("refused");
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_that_is_away_for_now_is_tried_again() {
    let (mut coordinator, world) = (Coordinator::start().await, World::with_ruff());
    for _ in 0..3 {
        coordinator.refuse_next(Status::unavailable("starting"));
    }
    let (_node, _stop) = world.node(&coordinator);
    coordinator.session().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_takes_a_tree_through_all_stages() {
    let (mut coordinator, world) = (Coordinator::start().await, World::with_ruff());
    let (_node, _stop) = world.node(&coordinator);
    let mut session = coordinator.session().await;
    let run = run_of(&coordinator);

    let lint = planned(&coordinator, &mut session, &run, 1).await;
    let plan_digest = lint.inputs.plan.unwrap();
    let plan: Plan = serde_json::from_slice(&coordinator.get(&plan_digest).unwrap()).unwrap();
    assert_eq!((plan.files, plan.tools.len(), plan.tools[0].shards.len()), (1, 1, 1), "{plan:?}");

    session.assign(&lint).await;
    let linted = session.result().await;
    assert_eq!(linted.measured.executable.as_deref(), world.ruff.to_str());
    let (_, bytes) = output(&linted);
    let found: LintOutput = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(found.error, None);
    let codes: Vec<_> = found.diagnostics.iter().map(|d| (d.path.as_str(), d.code.as_str())).collect();
    assert_eq!(codes, [("a.py", "F401")]);

    let mut classify = assignment(&run, 3, Stage::Classify);
    classify.inputs.outputs = vec![coordinator.put(&bytes)];
    session.assign(&classify).await;
    let (_, bytes) = output(&session.result().await);
    assert_eq!(serde_json::from_slice::<ClassifiedOutput>(&bytes).unwrap().diagnostics.len(), 1);

    let mut aggregate = assignment(&run, 4, Stage::Aggregate);
    aggregate.inputs.plan = Some(plan_digest);
    aggregate.inputs.outputs = vec![coordinator.put(&bytes)];
    session.assign(&aggregate).await;
    let (_, bytes) = output(&session.result().await);
    let result: RunResult = serde_json::from_slice(&bytes).unwrap();
    assert_eq!((result.outcome, result.diagnostics.len()), (Outcome::Findings, 1));
    for digest in [run.manifest, run.spec] {
        assert_eq!(coordinator.downloads(&digest), 1, "cached after the first download");
    }
    assert_eq!(coordinator.downloads(&plan_digest), 0, "it made that one itself");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_that_run_together_fetch_a_blob_once() {
    let (mut coordinator, world) = (Coordinator::start().await, World::with_ruff());
    let (_node, _stop) = world.node(&coordinator);
    let mut session = coordinator.session().await;
    let run = run_of(&coordinator);
    for number in [1, 2] {
        session.assign(&assignment(&run, number, Stage::Plan)).await;
    }
    let (first, second) = (session.result().await, session.result().await);
    assert_ne!(first.key, second.key);
    assert_eq!(output(&first), output(&second));
    for digest in [run.manifest, run.spec] {
        assert_eq!(coordinator.downloads(&digest), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_are_not_the_blob_are_never_used() {
    let (mut coordinator, world) = (Coordinator::start().await, World::with_ruff());
    let (_node, _stop) = world.node(&coordinator);
    let mut session = coordinator.session().await;
    let run = run_of(&coordinator);
    let other = coordinator.get(&run.manifest).unwrap();
    coordinator.put_as(run.manifest, &[other.as_slice(), b" "].concat());
    session.assign(&assignment(&run, 1, Stage::Plan)).await;
    match session.result().await.ending {
        Ending::Failure(reason) => assert!(reason.contains("do not match the digest"), "{reason}"),
        ending => panic!("{ending:?}"),
    }
    assert!(coordinator.downloads(&run.manifest) > 1, "damage on the way may be repaired by another try");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tree_in_place_is_linted_where_it_is() {
    let (mut coordinator, world) = (Coordinator::start().await, World::with_ruff());
    let (_node, _stop) = world.node(&coordinator);
    let mut session = coordinator.session().await;
    let run = run_of(&coordinator);
    let tree = tempfile::tempdir().unwrap();
    fs::write(tree.path().join("a.py"), SOURCE).unwrap();
    fs::write(tree.path().join("pyproject.toml"), "[tool.ruff]\nline-length = 100\n").unwrap();
    let mut plan = assignment(&run, 1, Stage::Plan);
    plan.tree_root = Some(tree.path().into());
    session.assign(&plan).await;
    let (_, plan) = output(&session.result().await);
    let mut lint = assignment(&run, 2, Stage::Lint);
    lint.tree_root = Some(tree.path().into());
    lint.inputs.plan = Some(coordinator.put(&plan));
    session.assign(&lint).await;
    let (_, bytes) = output(&session.result().await);
    assert_eq!(serde_json::from_slice::<LintOutput>(&bytes).unwrap().diagnostics.len(), 1);
    assert!(run.sources.iter().all(|digest| coordinator.downloads(digest) == 0), "nothing was shipped");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_output_is_uploaded_before_its_result() {
    let (mut coordinator, world) = (Coordinator::start().await, World::with_ruff());
    let (_node, _stop) = world.node(&coordinator);
    let mut session = coordinator.session().await;
    let entry = |number: usize| ManifestEntry {
        path: TreePath::new(&format!("{}/{number}.py", "folder".repeat(20))).unwrap(),
        digest: Digest::of(b""),
        size: 0,
        lint: true,
    };
    let manifest = Manifest::new((0..4_000).map(entry).collect()).unwrap();
    let run = Run { manifest: coordinator.put(&manifest.canonical_bytes()), ..run_of(&coordinator) };
    session.assign(&assignment(&run, 1, Stage::Plan)).await;
    match session.result().await.ending {
        Ending::Output { output, data: None } => {
            assert_eq!(coordinator.get(&output.digest).map(|blob| blob.len() as u64), Some(output.size));
        }
        ending => panic!("not uploaded: {ending:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_input_is_the_nodes_failure_and_names_the_blob() {
    let (mut coordinator, world) = (Coordinator::start().await, World::with_ruff());
    let (_node, _stop) = world.node(&coordinator);
    let mut session = coordinator.session().await;
    let run = Run { manifest: Digest::of(b"nowhere"), ..run_of(&coordinator) };
    session.assign(&assignment(&run, 1, Stage::Plan)).await;
    match session.result().await.ending {
        Ending::Failure(reason) => assert!(reason.contains(&run.manifest.to_string()), "{reason}"),
        ending => panic!("{ending:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_attempt_ends_its_linter() {
    let (world, mark) = World::with_endless_ruff();
    let mut coordinator = Coordinator::start().await;
    let (_node, _stop) = world.node(&coordinator);
    let mut session = coordinator.session().await;
    let run = run_of(&coordinator);
    let lint = planned(&coordinator, &mut session, &run, 1).await;
    session.assign(&lint).await;
    // A duplicate changes nothing.
    session.assign(&lint).await;
    processes::until_running(&mark, 2).await;
    session.revoke(&lint.key).await;
    until_gone(&mark).await;
    session.until_running(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_linter_that_hangs_is_told_from_one_that_works() {
    let idle = |beat: &pb::Beat, of: &AttemptRef| -> Option<Duration> {
        // The one that planned may still be told of.
        let attempt = beat.attempts.iter().find(|told| told.attempt == Some(of.to_proto()))?;
        Some(Duration::try_from(attempt.idle.expect("told")).expect("a span"))
    };
    for works in [false, true] {
        let (world, mark) = World::with_endless_ruff();
        if works {
            fs::write(&world.ruff, format!("#!/bin/sh\nsleep {mark} &\nwhile :; do :; done\n")).unwrap();
        }
        let mut coordinator = Coordinator::start().await;
        let (_node, _stop) = world.node(&coordinator);
        let mut session = coordinator.session().await;
        let run = run_of(&coordinator);
        let lint = planned(&coordinator, &mut session, &run, 1).await;
        session.assign(&lint).await;
        processes::until_running(&mark, if works { 1 } else { 2 }).await;
        let (mut beats, mut longest) = (0, Duration::ZERO);
        let told = async {
            // Long enough that a linter that works has used time, however little of a busy machine it gets.
            while longest < Duration::from_secs(2) && beats < 40 {
                let beat = session.beat().await;
                if let Some(idle) = idle(&beat, &lint.key) {
                    (beats, longest) = (beats + 1, longest.max(idle));
                }
            }
        };
        tokio::time::timeout(DEADLINE, told).await.expect("told in time");
        assert_eq!(longest < Duration::from_secs(2), works, "{longest:?} in {beats} beats");
        session.revoke(&lint.key).await;
        until_gone(&mark).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_outlives_a_lost_connection_and_results_are_sent_until_acknowledged() {
    let (world, mark) = World::with_endless_ruff();
    let mut coordinator = Coordinator::start().await;
    let (_node, _stop) = world.node(&coordinator);
    let mut session = coordinator.session().await;
    let run = run_of(&coordinator);
    let lint = planned(&coordinator, &mut session, &run, 1).await;
    session.assign(&lint).await;
    processes::until_running(&mark, 2).await;
    let plan = assignment(&run, 9, Stage::Plan);
    session.assign(&plan).await;
    let unacknowledged = session.result().await;
    session.end_with(Status::unavailable("going away")).await;

    let mut session = coordinator.session().await;
    assert_eq!(session.hello.last_epoch, 5);
    assert_eq!(session.hello.running, [lint.key.to_proto()]);
    assert_eq!(session.hello.unacknowledged, [plan.key.to_proto()]);
    assert_eq!(session.result().await, unacknowledged);
    processes::until_running(&mark, 2).await;
    session.acknowledge(&plan.key).await;
    session.revoke(&lint.key).await;
    until_gone(&mark).await;
    session.until_running(0).await;
    drop(session);
    let session = coordinator.session().await;
    assert_eq!((session.hello.running.len(), session.hello.unacknowledged.len()), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_from_the_coordinator_does_not_end_a_node() {
    let (mut coordinator, world) = (Coordinator::start().await, World::with_ruff());
    let (_node, _stop) = world.node(&coordinator);
    let mut session = coordinator.session().await;
    session.send(None).await;
    session.say_to("backend-dev", None).await;
    session.say_to("somebody-else", None).await;
    let nameless = pb::task_assignment::Kind::Assign(pb::Assign::default());
    session.say(Payload::TaskAssignment(pb::TaskAssignment { kind: Some(nameless) })).await;
    session.beat().await;
    // Over the limit of a message: this connection is lost, the next works.
    let huge = pb::fault_tolerance::Kind::Shutdown(pb::Shutdown { reason: "x".repeat(5 << 20) });
    session.say(Payload::FaultTolerance(pb::FaultTolerance { kind: Some(huge) })).await;
    let mut session = coordinator.session().await;
    let run = run_of(&coordinator);
    session.assign(&assignment(&run, 1, Stage::Plan)).await;
    output(&session.result().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_told_to_end_ends_in_order() {
    let (world, mark) = World::with_endless_ruff();
    let mut coordinator = Coordinator::start().await;
    let (node, _stop) = world.node(&coordinator);
    let mut session = coordinator.session().await;
    let run = run_of(&coordinator);
    let lint = planned(&coordinator, &mut session, &run, 1).await;
    session.assign(&lint).await;
    processes::until_running(&mark, 2).await;
    let kind = pb::fault_tolerance::Kind::Shutdown(pb::Shutdown { reason: "drained".into() });
    session.say(Payload::FaultTolerance(pb::FaultTolerance { kind: Some(kind) })).await;
    tokio::time::timeout(DEADLINE, node).await.expect("ends").unwrap().expect("in order");
    until_gone(&mark).await;
}
