//! A real `lintmesh serve` with its node processes, on free ports, in a folder of its own.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lintmesh::proto::v1::coordinator_service_client::CoordinatorServiceClient;
use lintmesh::proto::v1::workspace_service_client::WorkspaceServiceClient;
use lintmesh::proto::v1::{GetMeshStatusRequest, InitializeMeshRequest, InitializeMeshResponse, NodeInfo};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tonic::transport::{Channel, Endpoint};

use super::toolchain::toolchain;

/// Far more than anything here takes, far less than for ever.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// One server. Dropped, it is killed, and its nodes with it.
pub(crate) struct Serve {
    child: Child,
    program: PathBuf,
    /// Its working folder, its temporary folder, its state, its settings: all its processes run in here.
    pub(crate) dir: tempfile::TempDir,
    log: Arc<Mutex<Vec<serde_json::Value>>>,
    pub(crate) api: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) node_listener: SocketAddr,
}

impl Serve {
    /// With settings (TOML), its four nodes ACTIVE.
    pub(crate) async fn start(settings: &str) -> Self {
        let serve = Self::launch(settings, &[]).await;
        assert!(serve.ready().await.ready, "all nodes join");
        serve
    }

    /// With arguments beside the settings; does not wait for nodes.
    pub(crate) async fn launch(settings: &str, arguments: &[&str]) -> Self {
        Self::launch_as(Path::new(env!("CARGO_BIN_EXE_lintmesh")), settings, arguments).await
    }

    /// The same, as the program at a path of its own.
    pub(crate) async fn launch_as(program: &Path, settings: &str, arguments: &[&str]) -> Self {
        // On a fresh machine this installs the linters, which takes longer than a start may.
        tokio::task::spawn_blocking(toolchain).await.expect("provided");
        let dir = tempfile::tempdir().expect("a folder");
        let log = Arc::default();
        let child = spawn(program, dir.path(), settings, arguments, &log);
        let nowhere = SocketAddr::from(([0; 4], 0));
        let program = program.to_owned();
        let mut serve =
            Self { child, program, dir, log, api: nowhere, admin: nowhere, node_listener: nowhere };
        serve.serving().await;
        serve
    }

    /// Kills it, as nothing else would: its nodes are not told.
    pub(crate) async fn crash(&mut self) {
        self.signal(Signal::SIGKILL);
        self.ended().await;
    }

    /// Starts it again after its end, in the same folder. Does not wait for nodes.
    pub(crate) async fn again(&mut self, settings: &str, arguments: &[&str]) {
        self.log.lock().unwrap().clear();
        self.child = spawn(&self.program, self.dir.path(), settings, arguments, &self.log);
        self.serving().await;
    }

    /// Waits until it says where it listens.
    async fn serving(&mut self) {
        let told = Arc::clone(&self.log);
        let serving = move || {
            let line = told.lock().unwrap().iter().find(|line| line.get("api").is_some()).cloned();
            let address = |line: &serde_json::Value, key: &str| line[key].as_str()?.parse().ok();
            line.and_then(|line| {
                Some((address(&line, "api")?, address(&line, "admin")?, address(&line, "nodes")?))
            })
        };
        let waited = async {
            loop {
                if let Some(addresses) = serving() {
                    return addresses;
                }
                if let Some(status) = self.child.try_wait().expect("a child") {
                    panic!("serve ended with {status}: {:?}", self.log.lock().unwrap());
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        (self.api, self.admin, self.node_listener) =
            tokio::time::timeout(DEADLINE, waited).await.expect("it serves");
    }

    /// Waits for all nodes.
    pub(crate) async fn ready(&self) -> InitializeMeshResponse {
        let wait = prost_types::Duration { seconds: 50, nanos: 0 };
        let request = InitializeMeshRequest { wait: Some(wait), ..Default::default() };
        self.coordinator().initialize_mesh(request).await.expect("always answers").into_inner()
    }

    pub(crate) fn channel(&self) -> Channel {
        channel(self.api)
    }

    pub(crate) fn coordinator(&self) -> CoordinatorServiceClient<Channel> {
        CoordinatorServiceClient::new(self.channel())
    }

    pub(crate) fn workspace(&self) -> WorkspaceServiceClient<Channel> {
        WorkspaceServiceClient::new(self.channel())
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.api)
    }

    /// Waits until a node is as it should be, and answers how it is then.
    pub(crate) async fn until_node(
        &self,
        name: &str,
        what: &str,
        done: impl Fn(&NodeInfo) -> bool,
    ) -> NodeInfo {
        let waited = async {
            loop {
                let node = self.node(name).await;
                if done(&node) {
                    return node;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        match tokio::time::timeout(DEADLINE, waited).await {
            Ok(node) => node,
            Err(_) => panic!("in vain: {name} {what}; it is {:?}", self.node(name).await),
        }
    }

    /// The node that runs the only task: waited for, since a busy machine makes nodes late, and late nodes are helped.
    pub(crate) async fn holder(&self) -> String {
        let waited = async {
            loop {
                let status = self.coordinator().get_mesh_status(GetMeshStatusRequest {}).await;
                let health = status.expect("answers").into_inner().metrics.expect("metrics").node_health;
                let holders: Vec<_> = health.into_iter().filter(|(_, node)| node.running_tasks > 0).collect();
                if let [(holder, _)] = &holders[..] {
                    return holder.clone();
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(DEADLINE, waited).await.expect("one node has work")
    }

    pub(crate) async fn node(&self, node: &str) -> NodeInfo {
        let status = self.coordinator().get_mesh_status(GetMeshStatusRequest {}).await.expect("answers");
        status.into_inner().node_statuses.remove(node).expect("a node of the mesh")
    }

    /// Log lines whose message starts so.
    pub(crate) fn logged(&self, start: &str) -> Vec<serde_json::Value> {
        let log = self.log.lock().unwrap();
        let has =
            |line: &&serde_json::Value| line["message"].as_str().is_some_and(|text| text.starts_with(start));
        log.iter().filter(has).cloned().collect()
    }

    /// Its living processes and those of its nodes and their linters: pid and command line. Recognised by their
    /// working folder, which survives the death of a parent.
    pub(crate) fn processes(&self) -> Vec<(i32, String)> {
        processes_in(self.dir.path())
    }

    pub(crate) fn signal(&self, name: Signal) {
        signal(self.child.id(), name);
    }

    /// Waits for its end.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let child = &mut self.child;
        let ended = async {
            loop {
                if let Some(status) = child.try_wait().expect("a child") {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(DEADLINE, ended).await.expect("serve ends")
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        // It may have ended already; then there is nobody to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Its nodes would wait for another one.
        for _ in 0..1000 {
            let left = processes_in(self.dir.path());
            if left.is_empty() {
                return;
            }
            for (pid, _) in left {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn spawn(
    program: &Path,
    dir: &Path,
    settings: &str,
    arguments: &[&str],
    log: &Arc<Mutex<Vec<serde_json::Value>>>,
) -> Child {
    let temporary = dir.join("tmp");
    fs::create_dir_all(&temporary).expect("created");
    let file = dir.join("serve.toml");
    fs::write(&file, settings).expect("written");
    let mut command = lintmesh_at(program);
    command
        .args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--config"])
        .arg(&file)
        .args(arguments)
        .current_dir(dir)
        .env("TMPDIR", &temporary)
        .env("XDG_STATE_HOME", state_home(dir))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("the binary is built");
    let lines = BufReader::new(child.stderr.take().expect("piped")).lines();
    let written = Arc::clone(log);
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            let line = serde_json::from_str(&line).unwrap_or_else(|_| serde_json::json!({ "message": line }));
            written.lock().unwrap().push(line);
        }
    });
    child
}

/// The user's folder for state, as far as a server in `dir` is concerned.
pub(crate) fn state_home(dir: &Path) -> PathBuf {
    dir.join("state")
}

/// The binary, with the settings of whoever runs the tests out of its way.
pub(crate) fn lintmesh() -> Command {
    lintmesh_at(Path::new(env!("CARGO_BIN_EXE_lintmesh")))
}

fn lintmesh_at(program: &Path) -> Command {
    let mut command = Command::new(program);
    let inherited = std::env::vars_os().map(|(name, _)| name);
    for name in inherited.filter(|name| {
        let name = name.to_string_lossy();
        name.starts_with("LINTMESH") || name.starts_with("MESH_")
    }) {
        command.env_remove(name);
    }
    command
}

pub(crate) fn channel(address: SocketAddr) -> Channel {
    Endpoint::from_shared(format!("http://{address}")).expect("valid").connect_lazy()
}

pub(crate) fn signal(pid: u32, name: Signal) {
    kill(Pid::from_raw(i32::try_from(pid).expect("a pid")), name).expect("the process is there");
}

/// The processes whose working folder is `dir` or beneath it. Zombies have none.
pub(crate) fn processes_in(dir: &Path) -> Vec<(i32, String)> {
    let entries = fs::read_dir("/proc").expect("procfs").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(|pid| {
        let folder: PathBuf = fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
        // A folder that was removed meanwhile is shown with a suffix, still beneath `dir`.
        if !folder.starts_with(dir) {
            return None;
        }
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        Some((pid, String::from_utf8_lossy(&line).replace('\0', " ")))
    })
    .collect()
}

/// Waits until `done`, and fails with `what` if that takes too long.
pub(crate) async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let waited = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(DEADLINE, waited).await.unwrap_or_else(|_| panic!("in vain: {what}"));
}
