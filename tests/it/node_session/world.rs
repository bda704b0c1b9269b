//! Nodes to test, trees to lint, and assignments to give.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use lintmesh::linters::process::Limits;
use lintmesh::linters::toolchain::{ToolBinary, Toolchain, ToolchainMode};
use lintmesh::node::agent::{self, AgentError, NodeOptions, NodeSettings, PeerSettings};
use lintmesh::node::link;
use lintmesh::node::secret::Secret;
use lintmesh::types::{
    AttemptId, AttemptRef, Digest, Epoch, Manifest, ManifestEntry, NodeId, NodeSpec, RunId, RunSpec, Stage,
    TaskId, ToolName, ToolRequest, TreePath,
};
use lintmesh::wire::peer::{Assignment, AttemptResult, Ending, StageInputs};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::coordinator::{Coordinator, DEADLINE, SECRET, Session};

pub(crate) const SOURCE: &[u8] = b"import os\n";
pub(crate) const MIB: u64 = 1 << 20;

/// What a run of one tree needs, at a coordinator.
pub(crate) struct Run {
    pub(crate) manifest: Digest,
    pub(crate) spec: Digest,
    pub(crate) sources: Vec<Digest>,
}

/// A folder for the node, a toolchain that consists of one `ruff`, and the node's settings.
pub(crate) struct World {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) ruff: PathBuf,
}

impl World {
    /// With a shell script in place of ruff.
    pub(crate) fn with_script(script: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ruff = dir.path().join("ruff");
        fs::write(&ruff, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&ruff, fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(dir.path().join("work")).unwrap();
        Self { dir, ruff }
    }

    /// With the real ruff if `PATH` has one, else with what ruff says of the tree.
    pub(crate) fn with_ruff() -> Self {
        let says = r#"echo '[{"cell":null,"code":"F401","end_location":{"column":10,"row":1},"filename":"a.py","fix":null,"location":{"column":8,"row":1},"message":"`os` imported but unused","name":"unused-import","noqa_row":1,"severity":"error","url":"https://docs.astral.sh/ruff/rules/unused-import"}]'; exit 1"#;
        let mut world = Self::with_script(says);
        let path = std::env::var_os("PATH").unwrap_or_default();
        if let Some(real) =
            std::env::split_paths(&path).map(|dir| dir.join("ruff")).find(|ruff| ruff.is_file())
        {
            world.ruff = real;
        }
        world
    }

    /// With a ruff that runs for ever, marked so that its processes can be found.
    pub(crate) fn with_endless_ruff() -> (Self, String) {
        let world = Self::with_script("");
        let mark = format!("{}", 100_000_000 + u64::from(std::process::id()) * 1000 + unique());
        fs::write(&world.ruff, format!("#!/bin/sh\nsleep {mark} & sleep {mark}\n")).unwrap();
        (world, mark)
    }

    pub(crate) fn work_dir(&self) -> PathBuf {
        self.dir.path().join("work")
    }

    pub(crate) fn settings(&self, coordinator: &Coordinator) -> NodeSettings {
        NodeSettings {
            coordinator: coordinator.uri.clone(),
            tls_ca: None,
            spec: spec(),
            mesh_id: "default".into(),
            secret: Secret::new(SECRET),
            host_id: "host".into(),
            failure_domain: "rack".into(),
            environment_class: "cpython-3.11 linux x86_64".into(),
            toolchain: toolchain(&self.ruff),
            limits: limits(),
            drain_timeout: super::coordinator::DEADLINE,
            orphan_grace: Duration::ZERO,
            state_dir: None,
            work_dir: self.work_dir(),
            cpu_slots: 2,
            shim: env!("CARGO_BIN_EXE_lintmesh").into(),
            peers: PeerSettings::default(),
        }
    }

    /// Starts a node in this process.
    pub(crate) fn node(
        &self,
        coordinator: &Coordinator,
    ) -> (JoinHandle<Result<(), AgentError>>, CancellationToken) {
        let stop = CancellationToken::new();
        let options = NodeOptions {
            network: lintmesh::transport::listener::Tcp,
            settings: self.settings(coordinator),
            connector: link::tcp(),
            drain: CancellationToken::new(),
            orphaned: CancellationToken::new(),
            random: Arc::new(link::jitter),
        };
        (tokio::spawn(agent::run(options, stop.clone())), stop)
    }
}

pub(crate) fn toolchain(ruff: &Path) -> Toolchain {
    let ruff = ToolBinary::Present { version: "1.0".into(), program: ruff.into(), prefix: vec![] };
    Toolchain {
        id: Digest::of(b"toolchain"),
        mode: ToolchainMode::System,
        tools: BTreeMap::from([(tool(), ruff)]),
    }
}

pub(crate) fn unique() -> u64 {
    static COUNT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

pub(crate) fn limits() -> Limits {
    Limits {
        wall: DEADLINE,
        cpu: DEADLINE,
        memory_bytes: 1024 * MIB,
        file_bytes: 64 * MIB,
        output_bytes: 16 * MIB,
        processes: 64,
    }
}

pub(crate) fn tool() -> ToolName {
    ToolName::new("ruff").unwrap()
}

pub(crate) fn spec() -> NodeSpec {
    NodeSpec {
        node_id: NodeId::new("backend-dev").unwrap(),
        agent_type: "backend-dev".into(),
        capabilities: ["linting".to_owned()].into(),
        fallback_capabilities: Default::default(),
        tools_focus: vec!["ruff".into()],
        priority_weight: 0.8,
        max_concurrent_tasks: 2,
    }
}

/// Puts a tree with one flawed file and its configuration at the coordinator.
pub(crate) fn run_of(coordinator: &Coordinator) -> Run {
    let files: [(&str, &[u8]); 2] =
        [("a.py", SOURCE), ("pyproject.toml", b"[tool.ruff]\nline-length = 100\n")];
    let sources: Vec<Digest> = files.iter().map(|(_, bytes)| coordinator.put(bytes)).collect();
    let entries = files.iter().map(|(path, bytes)| ManifestEntry {
        path: TreePath::new(path).unwrap(),
        digest: Digest::of(bytes),
        size: bytes.len() as u64,
        lint: path.ends_with(".py"),
    });
    let manifest = Manifest::new(entries.collect()).unwrap();
    let spec = RunSpec {
        tools: vec![ToolRequest { tool: tool(), options: BTreeMap::new() }],
        versions: BTreeMap::from([(tool(), "1.0".to_owned())]),
        allow_tree_code: false,
        python: None,
        severity_overrides: BTreeMap::new(),
        max_shards: 1,
        unreadable: vec![],
    };
    Run {
        manifest: coordinator.put(&manifest.canonical_bytes()),
        spec: coordinator.put(&serde_json::to_vec(&spec).unwrap()),
        sources,
    }
}

pub(crate) fn assignment(run: &Run, number: u64, stage: Stage) -> Assignment {
    Assignment {
        key: AttemptRef {
            run: RunId::new("run").unwrap(),
            task: TaskId(number),
            attempt: AttemptId { epoch: Epoch(5), number },
        },
        stage,
        tool: matches!(stage, Stage::Lint | Stage::Classify).then(tool),
        shard: 0,
        timeout: DEADLINE,
        inputs: StageInputs { manifest: Some(run.manifest), spec: Some(run.spec), ..StageInputs::default() },
        tree_root: None,
        cpu_slots: 1,
        capabilities: ["linting".to_owned()].into(),
    }
}

pub(crate) fn output(result: &AttemptResult) -> (Digest, Vec<u8>) {
    match &result.ending {
        Ending::Output { output, data: Some(data) } => (output.digest, data.clone()),
        ending => panic!("no inline output: {ending:?}"),
    }
}

/// Has the node make the plan and answers an assignment of its LINT task.
pub(crate) async fn planned(
    coordinator: &Coordinator,
    session: &mut Session,
    run: &Run,
    number: u64,
) -> Assignment {
    session.assign(&assignment(run, number, Stage::Plan)).await;
    let result = session.result().await;
    session.acknowledge(&result.key).await;
    let (_, plan) = output(&result);
    let mut lint = assignment(run, number + 1, Stage::Lint);
    lint.inputs.plan = Some(coordinator.put(&plan));
    lint
}
