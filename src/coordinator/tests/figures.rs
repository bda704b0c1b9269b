//! The figures of the mesh's health.

use super::mesh::*;
use crate::coordinator::breaker::State as Breaker;
use crate::coordinator::health::MeshHealth;
use crate::coordinator::input::Beat;
use crate::coordinator::input::{Facts, Input};
use crate::types::{Load, NodeStatus, Now, Stage, UnixMillis};

fn health(mesh: &TestMesh) -> MeshHealth {
    let now = Now { tick: mesh.now, wall: UnixMillis(7) };
    mesh.core.mesh_health(now, &[tool("bandit"), tool("ruff")])
}

fn same(left: f64, right: f64) -> bool {
    (left - right).abs() < 1e-12
}

#[test]
fn an_idle_mesh_is_whole_and_has_done_nothing() {
    let health = health(&TestMesh::full());
    assert_eq!((health.active_nodes, health.total_nodes, health.at), (4, 4, UnixMillis(7)));
    assert!(same(health.topology_health, 1.0));
    assert_eq!(health.integration_progress, [(tool("bandit"), 0.0), (tool("ruff"), 0.0)].into());
    assert_eq!((health.open_runs, health.queued_tasks, health.running_tasks), (0, 0, 0));
}

#[test]
fn health_is_the_share_of_active_nodes_and_says_why_of_the_others() {
    let mut mesh = TestMesh::full();
    mesh.input(failing("f", BACKEND));
    mesh.disconnect(DOCS);
    mesh.pass(std::time::Duration::from_millis(500));
    let health = health(&mesh);
    assert!(same(health.topology_health, 0.5));
    let failed = &health.nodes[&node(BACKEND)];
    assert_eq!((failed.status, failed.breaker), (NodeStatus::Failed, Breaker::Open));
    assert_eq!(health.nodes[&node(DOCS)].status, NodeStatus::Degraded);
    assert_eq!(health.nodes[&node(DOCS)].last_heartbeat_age, Some(std::time::Duration::from_millis(500)));
}

#[test]
fn load_is_the_manuals_formula_over_what_runs_and_what_was_measured() {
    let mut mesh = TestMesh::full();
    mesh.planned(&["ruff"], 1);
    let session = mesh.session(BACKEND);
    let load = Load { cpu: 0.5, memory: 0.25, ..Load::default() };
    mesh.input(Input::Beat { session, node: node(BACKEND), beat: Beat { load, ..Beat::default() } });
    let load = health(&mesh).nodes[&node(BACKEND)].load;
    assert!(same(load.tasks, 1.0 / 3.0) && same(load.capabilities, 1.0) && same(load.resources, 0.375));
    assert!(same(load.score, 0.4 / 3.0 + 0.3 + 0.3 * 0.375));
}

#[test]
fn progress_is_weighed_by_cost_over_open_runs() {
    let mut mesh = TestMesh::full();
    let run = mesh.planned(&["ruff"], 2);
    let first = mesh.running_of(&run, Stage::Lint)[0].clone();
    mesh.made(&first, Facts::Lint { error: None });
    let costs: Vec<f64> = mesh.tasks(&run, Stage::Lint).iter().map(|task| task.cost as f64).collect();
    let expected = costs[0] / (costs[0] + costs[1]);
    let measured = health(&mesh);
    assert!(same(measured.integration_progress[&tool("ruff")], expected));
    assert!(same(measured.node_progress[&node(BACKEND)][&tool("ruff")], expected), "backend-dev had both");
    assert_eq!((measured.open_runs, measured.queued_tasks, measured.running_tasks), (1, 0, 2));
    mesh.drain();
    assert!(same(health(&mesh).integration_progress[&tool("ruff")], 1.0), "the newest run, if none is open");
    assert!(same(health(&mesh).integration_progress[&tool("bandit")], 0.0));
}
