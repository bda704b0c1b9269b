//! Why a task is where it is.

use super::mesh::*;
use crate::coordinator::eligibility::Refused;
use crate::coordinator::explain::{Candidate, Explanation, Obstacle};
use crate::coordinator::run::TaskState;
use crate::coordinator::settings::Settings;
use crate::types::{FaultCause, NodeStatus, RunId, Stage, TaskId};

fn explain(mesh: &TestMesh, run: &RunId) -> Explanation {
    mesh.core.explain(mesh.now, run, None, TaskId(0), 100).expect("a run")
}

fn of<'a>(candidates: &'a [Candidate], name: &str) -> &'a Candidate {
    candidates.iter().find(|candidate| candidate.node == node(name)).expect("every node is told")
}

#[test]
fn a_task_waits_for_room_and_each_node_says_which() {
    let mut mesh = TestMesh::full();
    let run = mesh.planned(&["ruff"], 5);
    let told = explain(&mesh, &run);
    assert_eq!((told.is_open, told.unfinished, told.tasks.len(), told.has_more), (true, 5, 5, false));
    let (running, waiting): (Vec<_>, Vec<_>) =
        told.tasks.iter().partition(|task| matches!(task.state, TaskState::Running { .. }));
    assert_eq!((running.len(), waiting.len()), (2, 3), "the machine has two cores");
    assert!(running.iter().all(|task| task.candidates.is_empty() && task.time_left.is_some()));
    for task in waiting {
        assert_eq!(task.obstacle, Some(Obstacle::Room));
        assert_eq!(task.candidates.len(), 4);
        assert_eq!(task.candidates[0].node, node(BACKEND), "the best is told first, if refused too");
        for candidate in &task.candidates {
            assert_eq!(candidate.refused, [Refused::CoresTaken { in_use: 2, cores: 2, needed: 1 }]);
            assert_eq!(candidate.rank, None);
        }
    }
    let waits: Vec<_> = told.pending.iter().map(|stage| (stage.stage, stage.waits_for)).collect();
    assert_eq!(waits, [(Stage::Classify, 5), (Stage::Aggregate, 5)]);
    let second = mesh.start(&["ruff"]);
    let plan = explain(&mesh, &second);
    assert_eq!(plan.pending.len(), 3, "all later stages wait for PLAN");
}

#[test]
fn a_task_that_waits_for_the_cap_of_its_project_or_behind_other_runs_says_so() {
    let settings = Settings { max_tasks_per_project: Some(1), ..Settings::default() };
    let mut mesh = TestMesh::with(settings);
    for name in ALL {
        mesh.join(name);
    }
    let run = mesh.planned(&["ruff"], 2);
    let told = explain(&mesh, &run);
    let waiting = told.tasks.iter().find(|task| task.obstacle.is_some()).expect("one waits");
    assert_eq!(waiting.obstacle, Some(Obstacle::ProjectCap), "though a core is free");
    assert!(waiting.reason(mesh.now).ends_with("lets it: 1") && !waiting.remedy().is_empty());

    let mut mesh = TestMesh::full();
    mesh.planned(&["ruff"], 3);
    let second = mesh.planned(&["ruff"], 1);
    let told = explain(&mesh, &second);
    assert_eq!((told.tasks[0].obstacle, told.tasks[0].runs_ahead), (Some(Obstacle::Room), 1));
    let reason = told.tasks[0].reason(mesh.now);
    assert!(reason.ends_with("1 run is before its own in the queue"), "{reason}");
}

#[test]
fn an_open_breaker_is_named_with_the_moment_of_its_probe() {
    let mut mesh = TestMesh::with(Settings { circuit_breaker_threshold: 1, ..Settings::default() });
    mesh.join(BACKEND);
    let run = mesh.planned(&["ruff"], 1);
    let lint = mesh.running_of(&run, Stage::Lint)[0].clone();
    mesh.fails(&lint);
    let told = explain(&mesh, &run);
    assert_eq!(told.tasks[0].obstacle, Some(Obstacle::Breaker));
    let refused = &told.tasks[0].candidates[0].refused;
    let [Refused::Breaker { next_probe: Some(probe), .. }] = &refused[..] else { panic!("{refused:?}") };
    assert_eq!(probe.since(mesh.now), seconds(60));
    let text = refused[0].describe(mesh.now);
    assert!(text.contains("circuit breaker is open") && text.contains("in 60 s"), "{text}");
    mesh.pass_with(&[BACKEND], seconds(60));
    assert_eq!(mesh.running_of(&run, Stage::Lint).len(), 1, "the probe goes when it was said");
}

#[test]
fn the_obstacle_is_the_least_over_the_nodes_and_all_refusals_of_a_node_are_told() {
    let mut mesh = TestMesh::with(Settings::default());
    let mut other = hello(BACKEND, 1);
    other.tools.insert(tool("ruff"), "2".into());
    mesh.connect(other);
    let mut narrow = hello(DOCS, 1);
    narrow.spec.fallback_capabilities.clear();
    narrow.tools.clear();
    mesh.connect(narrow);
    let run = mesh.planned(&["ruff"], 1);
    let told = explain(&mesh, &run);
    assert_eq!(told.tasks[0].obstacle, Some(Obstacle::Tool));
    let candidates = &told.tasks[0].candidates;
    let wanted = Some("1".to_owned());
    let version = Refused::Tool { tool: tool("ruff"), wanted: wanted.clone(), found: Some("2".into()) };
    assert_eq!(of(candidates, BACKEND).refused, [version]);
    let missing = Refused::Tool { tool: tool("ruff"), wanted, found: None };
    let lacks = Refused::CapabilitiesMissing(Settings::default().required.lint);
    assert_eq!(of(candidates, DOCS).refused, [lacks, missing]);

    mesh.join(ARCHITECT);
    mesh.input(failing("f", ARCHITECT));
    let told = explain(&mesh, &run);
    assert_eq!(told.tasks[0].obstacle, Some(Obstacle::Absence), "a node that comes back would do it");
    let gone = Refused::Status { status: NodeStatus::Failed, cause: Some(FaultCause::Operator) };
    assert_eq!(of(&told.tasks[0].candidates, ARCHITECT).refused[0], gone);
}

#[test]
fn without_a_node_that_says_so() {
    let mut mesh = TestMesh::with(Settings::default());
    let run = mesh.start(&["ruff"]);
    assert_eq!(explain(&mesh, &run).tasks[0].obstacle, Some(Obstacle::Empty));
}

#[test]
fn tasks_are_told_in_pages_and_what_is_over_only_when_asked_for() {
    let mut mesh = TestMesh::full();
    let run = mesh.planned(&["ruff"], 5);
    let page = mesh.core.explain(mesh.now, &run, None, TaskId(0), 2).expect("a run");
    let ids = |page: &Explanation| page.tasks.iter().map(|task| task.task.id.0).collect::<Vec<_>>();
    assert_eq!((ids(&page), page.has_more), (vec![2, 3], true), "PLAN is over");
    let page = mesh.core.explain(mesh.now, &run, None, TaskId(3), 3).expect("a run");
    assert_eq!((ids(&page), page.has_more), (vec![4, 5, 6], false));
    let plan = mesh.core.explain(mesh.now, &run, Some(TaskId(1)), TaskId(0), 1).expect("a task");
    assert!(matches!(plan.tasks[0].state, TaskState::Done { .. }));
    assert_eq!(mesh.core.explain(mesh.now, &run, Some(TaskId(7)), TaskId(0), 1), None);
    let unknown = RunId::new("run-x").expect("valid");
    assert_eq!(mesh.core.explain(mesh.now, &unknown, None, TaskId(0), 1), None);
    mesh.drain();
    let ended = explain(&mesh, &run);
    assert_eq!((ended.is_open, ended.unfinished, ended.tasks.len(), ended.pending.len()), (false, 0, 0, 0));
}

#[test]
fn the_first_candidate_is_the_node_that_gets_the_task() {
    let mut mesh = TestMesh::with(Settings::default());
    for name in ALL {
        let mut hello = hello(name, 1);
        hello.cpu_slots = 0;
        mesh.connect(hello);
    }
    let run = mesh.planned(&["ruff"], 3);
    loop {
        let running = mesh.running_of(&run, Stage::Lint);
        let Some(first) = running.first().cloned() else { break };
        let before = explain(&mesh, &run);
        let Some(waiting) = before.tasks.iter().find(|task| task.obstacle.is_some()) else { break };
        let (best, next) = (waiting.candidates[0].node.clone(), waiting.task.id);
        let candidates = &waiting.candidates;
        assert!(candidates.windows(2).all(|two| two[0].is_made_for >= two[1].is_made_for));
        mesh.finish(&first);
        let taken = mesh.running().into_iter().find(|assign| assign.task.id == next).expect("it runs now");
        assert_eq!(mesh.holder(&taken), Some(best.to_string()));
    }
}

#[test]
fn reason_and_remedy_name_nodes_tools_and_moments() {
    let words = |mesh: &TestMesh, run: &RunId| {
        let told = explain(mesh, run);
        let task = told.tasks.iter().find(|task| task.obstacle.is_some()).expect("one waits");
        (task.reason(mesh.now), task.remedy())
    };
    let mut mesh = TestMesh::with(Settings::default());
    let run = mesh.start(&["ruff"]);
    assert_eq!(words(&mesh, &run), ("the mesh has no node".into(), "start nodes".into()));
    let mut bare = hello(BACKEND, 1);
    bare.tools.clear();
    mesh.connect(bare);
    mesh.plan_done(&run, 1);
    let (reason, remedy) = words(&mesh, &run);
    assert!(reason.contains("none of 1 nodes has its tool") && reason.contains("pinned to 1"), "{reason}");
    assert!(remedy.contains("a node that has ruff 1"), "{remedy}");
    mesh.join(DOCS);
    let lint = mesh.running_of(&run, Stage::Lint)[0].clone();
    let other = mesh.planned(&["mypy", "ruff"], 3);
    let (reason, remedy) = words(&mesh, &other);
    assert!(reason.starts_with("it waits for room: "), "{reason}");
    assert!(remedy.contains("more nodes, slots or cores"), "{remedy}");
    let running = mesh.core.explain(mesh.now, &run, Some(lint.task.id), TaskId(0), 1).expect("a task");
    let reason = running.tasks[0].reason(mesh.now);
    assert!(reason.starts_with("api-docs runs it as attempt 1."), "{reason}");
}
