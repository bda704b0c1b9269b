//! Which node gets which task.

use super::mesh::*;
use crate::coordinator::placement::suitability;
use crate::coordinator::settings::{Settings, Strategy};
use crate::types::Stage;

#[test]
fn suitability_is_the_manuals_formula() {
    let need = Settings::default().required.lint;
    let mut spec = specialist(BACKEND);
    assert!((suitability(&need, &spec, 0.6) - 1.0 * 0.8 / 1.6).abs() < 1e-12);
    let dropped = spec.capabilities.pop_first().expect("has two");
    spec.fallback_capabilities.insert(dropped);
    assert!((suitability(&need, &spec, 0.0) - 0.5 * 0.8).abs() < 1e-12, "fallbacks do not count");
}

#[test]
fn each_stage_goes_to_the_node_made_for_it() {
    let mut mesh = TestMesh::full();
    let run = mesh.start(&["ruff"]);
    let mut holders = Vec::new();
    while let Some(assign) = mesh.running().pop() {
        holders.push((assign.task.stage, mesh.holder(&assign).expect("runs")));
        mesh.finish(&assign);
    }
    let expected = [
        (Stage::Plan, ARCHITECT),
        (Stage::Lint, BACKEND),
        (Stage::Classify, DOCS),
        (Stage::Aggregate, INTEGRATION),
    ];
    assert_eq!(holders, expected.map(|(stage, name)| (stage, name.to_owned())));
    assert!(mesh.outcome(&run).is_some());
}

#[test]
fn no_core_idles_while_work_waits_and_no_more_tasks_run_than_there_are_cores() {
    let mut mesh = TestMesh::with(Settings::default());
    for name in ALL {
        let mut hello = hello(name, 1);
        hello.cpu_slots = 7;
        mesh.connect(hello);
    }
    let run = mesh.planned(&["bandit", "flake8", "mypy", "pylint", "ruff"], 4);
    assert_eq!(mesh.running_of(&run, Stage::Lint).len(), 7, "as many as the machine has cores");
    assert_eq!(mesh.running_on(BACKEND).len(), 3, "first the node made for it, up to its slots");
    let mut most = 0;
    while let Some(assign) = mesh.running().first().cloned() {
        most = most.max(mesh.running_of(&run, Stage::Lint).len());
        mesh.finish(&assign);
        let waiting = mesh.tasks(&run, Stage::Lint).into_iter().filter(|task| is_queued(task)).count();
        let busy = mesh.running_of(&run, Stage::Lint).len();
        assert!(busy == 7 || waiting == 0, "{busy} of 7 cores are used and {waiting} tasks wait");
    }
    assert_eq!(most, 7);
}

#[test]
fn cores_are_counted_for_each_machine() {
    let mut mesh = TestMesh::with(Settings::default());
    for (name, host) in [(BACKEND, "one"), (DOCS, "one"), (INTEGRATION, "two")] {
        let mut hello = hello(name, 1);
        hello.host_id = host.into();
        hello.cpu_slots = 1;
        mesh.connect(hello);
    }
    let run = mesh.planned(&["ruff"], 5);
    let mut holders: Vec<_> =
        mesh.running_of(&run, Stage::Lint).iter().map(|assign| mesh.holder(assign)).collect();
    holders.sort();
    assert_eq!(holders, [Some(BACKEND.to_owned()), Some(INTEGRATION.to_owned())]);
}

#[test]
fn the_longest_task_starts_first_and_the_older_run_before_the_newer() {
    let mut mesh = TestMesh::full();
    let older = mesh.planned(&["ruff"], 4);
    let newer = mesh.planned(&["mypy"], 1);
    let shards: Vec<_> =
        mesh.running_of(&older, Stage::Lint).iter().map(|assign| assign.task.shard).collect();
    assert_eq!(shards, [0, 1], "the plan made them longest first");
    for _ in 0..2 {
        assert_eq!(mesh.running_of(&newer, Stage::Lint), []);
        let first = mesh.running_of(&older, Stage::Lint)[0].clone();
        mesh.finish(&first);
    }
    assert_eq!(mesh.running_of(&older, Stage::Lint).len(), 2);
    let first = mesh.running_of(&older, Stage::Lint)[0].clone();
    mesh.finish(&first);
    assert_eq!(mesh.running_of(&newer, Stage::Lint).len(), 1);
}

#[test]
fn a_node_with_another_version_of_the_tool_gets_no_task_of_it() {
    let mut mesh = TestMesh::with(Settings::default());
    let mut other = hello(BACKEND, 1);
    other.tools.insert(tool("ruff"), "2".into());
    mesh.connect(other);
    let run = mesh.planned(&["mypy", "ruff"], 1);
    let running = mesh.running_of(&run, Stage::Lint);
    assert_eq!(
        running.iter().map(|assign| assign.task.tool.clone()).collect::<Vec<_>>(),
        [Some(tool("mypy"))]
    );
    mesh.drain();
    assert_eq!(mesh.outcome(&run), None, "it waits for a node that has the version");
    mesh.join(DOCS);
    assert_eq!(mesh.running_on(DOCS).len(), 1);
    mesh.drain();
    assert!(mesh.outcome(&run).is_some());
}

#[test]
fn a_node_that_can_do_the_stage_neither_by_design_nor_by_fallback_gets_none() {
    let mut mesh = TestMesh::with(Settings::default());
    let mut narrow = hello(DOCS, 1);
    narrow.spec.fallback_capabilities.clear();
    mesh.connect(narrow);
    let run = mesh.start(&["ruff"]);
    assert_eq!(mesh.running(), []);
    mesh.join(ARCHITECT);
    assert_eq!(mesh.running_of(&run, Stage::Plan).len(), 1);
}

#[test]
fn the_other_strategies_choose_among_the_nodes_made_for_the_task() {
    for strategy in [Strategy::LeastLoaded, Strategy::RoundRobin] {
        let settings = Settings { load_balancing_strategy: strategy, ..Settings::default() };
        let mut mesh = TestMesh::with(settings);
        for name in ["lint-a", "lint-b", "lint-c"] {
            let mut hello = hello(name, 1);
            hello.spec = specialist(BACKEND);
            hello.spec.node_id = node(name);
            hello.spec.priority_weight = if name == "lint-a" { 1.0 } else { 0.1 };
            hello.cpu_slots = 8;
            mesh.connect(hello);
        }
        let run = mesh.planned(&["ruff"], 6);
        let counts = ["lint-a", "lint-b", "lint-c"].map(|name| mesh.running_on(name).len());
        assert_eq!(mesh.running_of(&run, Stage::Lint).len(), 6);
        assert_eq!(counts, [2, 2, 2], "{strategy:?} spreads whatever the weights");
    }
}

#[test]
fn a_machine_that_says_it_has_no_core_still_works_one_task_at_a_time() {
    let mut mesh = TestMesh::with(Settings::default());
    let mut hello = hello(BACKEND, 1);
    hello.cpu_slots = 0;
    mesh.connect(hello);
    let run = mesh.planned(&["ruff"], 3);
    assert_eq!(mesh.running_of(&run, Stage::Lint).len(), 1);
    mesh.drain();
    assert!(mesh.outcome(&run).is_some());
}
