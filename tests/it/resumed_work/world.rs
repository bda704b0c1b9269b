//! Real nodes, whose only linter runs until the test ends it, at a coordinator that can be killed and started again.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lintmesh::config::Settings;
use lintmesh::coordinator::Coordinator as Core;
use lintmesh::node::agent::{self, NodeOptions, NodeSettings};
use lintmesh::node::link;
use lintmesh::server::MESH_ID;
use lintmesh::transport::listener::Tcp;
use lintmesh::types::{Digest, NodeSpec, NodeStatus};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::super::node_session::coordinator::SECRET;
use super::super::node_session::world::World;
use super::super::support::coordinator::Coordinator;
use super::super::support::serve::DEADLINE;

/// A coordinator, and the folders of its nodes.
pub(super) struct Place {
    pub(super) coordinator: Coordinator,
    tools: World,
    /// By this its linters are found among all processes.
    pub(super) mark: String,
}

/// A node, which ends as if its process did.
pub(super) struct Node {
    stop: CancellationToken,
    ended: JoinHandle<()>,
}

/// The settings of a coordinator that takes nodes which others start.
pub(super) fn settings() -> String {
    let digest = Digest::of(SECRET.as_bytes());
    format!("[nodes]\nlaunch = \"external\"\n[[nodes.secrets]]\nname = \"tests\"\nsha256 = \"{digest}\"\n")
}

impl Place {
    /// With a linter that runs until its `sleep` is ended, and then finds nothing.
    pub(super) async fn new() -> Self {
        let (tools, mark) = World::with_endless_ruff();
        std::fs::write(&tools.ruff, format!("#!/bin/sh\nsleep {mark}\necho '[]'\n")).unwrap();
        Self { coordinator: Coordinator::start(&settings()).await, tools, mark }
    }

    fn state_dir(&self) -> PathBuf {
        self.tools.dir.path().join("state")
    }

    /// Starts the default nodes.
    pub(super) fn nodes(&self) -> Vec<Node> {
        Settings::default().nodes.specs().into_iter().map(|spec| self.node(spec)).collect()
    }

    fn node(&self, spec: NodeSpec) -> Node {
        let stop = CancellationToken::new();
        let coordinator = format!("http://{}", self.coordinator.node_listener());
        let settings = NodeSettings {
            spec,
            mesh_id: MESH_ID.to_owned(),
            state_dir: Some(self.state_dir()),
            ..self.tools.settings_at(coordinator)
        };
        let options = NodeOptions {
            settings,
            network: Tcp,
            connector: link::tcp(),
            drain: CancellationToken::new(),
            orphaned: CancellationToken::new(),
            random: Arc::new(link::jitter),
        };
        let running = agent::run(options, stop.clone());
        Node { stop, ended: tokio::spawn(async move { running.await.expect("ends in order") }) }
    }

    /// The results that nodes keep on disk.
    pub(super) fn kept(&self) -> Vec<PathBuf> {
        let nodes = std::fs::read_dir(self.state_dir()).into_iter().flatten().flatten();
        let boxes = nodes.filter_map(|node| std::fs::read_dir(node.path().join("outbox")).ok());
        let files = boxes.flatten().flatten().map(|entry| entry.path());
        files.filter(|path| path.extension().is_some_and(|extension| extension == "result")).collect()
    }

    pub(super) async fn ask<T: Send + 'static>(&self, question: impl Fn(&Core) -> T + Send + 'static) -> T {
        let engine = self.coordinator.engines().borrow().clone().expect("there is a coordinator");
        engine.query(move |core, _| question(core)).await.expect("runs")
    }

    /// Waits until all nodes are connected and ACTIVE.
    pub(super) async fn until_joined(&self) {
        let waiting = async {
            while !self.ask(are_here).await {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(DEADLINE, waiting).await.expect("all join");
    }
}

fn are_here(core: &Core) -> bool {
    let connected: BTreeMap<_, _> =
        core.presences().iter().map(|(id, at)| (id, at.session.is_some())).collect();
    let members = &core.state().members;
    members.len() == 4
        && members
            .iter()
            .all(|(id, member)| member.status == NodeStatus::Active && connected.get(id) == Some(&true))
}

impl Node {
    /// Ends it, with whatever it runs.
    pub(super) async fn end(self) {
        self.stop.cancel();
        tokio::time::timeout(DEADLINE, self.ended).await.expect("ends").expect("no panic");
    }
}
