//! Nodes that fail are started again: by the launcher, or by the operator's command; and if that is in vain, it is said.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use lintmesh::proto::v1::*;
use lintmesh::types::Digest;
use nix::sys::signal::Signal;

use super::support::linters::GatedRuff;
use super::support::serve::{Serve, processes_in, signal, until};

const SECRET: &str = "shared by the nodes that others start";

/// The steps of a node's recovery, as they were logged.
fn steps(serve: &Serve, node: &str) -> Vec<String> {
    let lines = serve.logged("node recovery").into_iter();
    lines
        .filter(|line| line["node"] == node)
        .map(|line| line["step"].as_str().expect("text").into())
        .collect()
}

#[tokio::test]
async fn a_killed_node_is_back_and_so_is_one_that_is_stopped() {
    // The stopped one says nothing, and is FAILED by that.
    let serve = Serve::start("[mesh]\nheartbeat_interval = 0.5\nmessage_timeout = 3\n").await;
    for (node, name) in [("backend-dev", Signal::SIGKILL), ("api-docs", Signal::SIGSTOP)] {
        let before = serve.node(node).await;
        signal(before.process_id, name);
        let is_new =
            |node: &NodeInfo| node.status() == NodeStatus::Active && node.incarnation > before.incarnation;
        let after = serve.until_node(node, "is back as a new process", is_new).await;
        assert_ne!(after.process_id, before.process_id);
        assert_eq!((after.cause.as_str(), after.cause_detail.as_str()), ("", ""));
        let old = before.process_id.to_string();
        let gone = || !Path::new("/proc").join(&old).exists();
        until("what was left of it is gone", gone).await;
        until("its return is told", || steps(&serve, node).contains(&"REBALANCED".to_owned())).await;
        assert_eq!(steps(&serve, node)[..4], ["RESTARTING", "RESTARTED", "SYNCED", "REBALANCED"]);
    }
    assert!(serve.ready().await.ready);
}

#[tokio::test]
async fn a_node_that_cannot_start_stays_failed_with_the_reason_and_keeps_to_its_budget() {
    let dir = tempfile::tempdir().expect("a folder");
    let program = dir.path().join("lintmesh");
    let binary = Path::new(env!("CARGO_BIN_EXE_lintmesh"));
    if fs::hard_link(binary, &program).is_err() {
        fs::copy(binary, &program).expect("copied");
    }
    let serve = Serve::launch_as(&program, "[nodes]\nrestart_budget = 3\n", &[]).await;
    assert!(serve.ready().await.ready);
    fs::remove_file(&program).expect("there");
    let in_vain = |node: &NodeInfo| node.cause_detail.starts_with("started 3 times");
    for (node, said) in [("backend-dev", "cannot start"), ("api-docs", "exit status: 7")] {
        signal(serve.node(node).await.process_id, Signal::SIGKILL);
        let node = serve.until_node(node, "is given up", in_vain).await;
        assert_eq!((node.status(), node.cause.as_str()), (NodeStatus::Failed, "RESTART_FAILED"));
        assert!(node.cause_detail.contains(said), "{}", node.cause_detail);
        // For the other one there is a program, which ends at once.
        fs::write(&program, "#!/bin/sh\nexit 7\n").expect("written");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("changed");
    }
    for node in ["backend-dev", "api-docs"] {
        let asked = steps(&serve, node).into_iter().filter(|step| step == "RESTARTING").count();
        assert_eq!(asked, 3, "its budget, no more");
    }
    // The cause removed, an operator brings both back.
    fs::remove_file(&program).expect("there");
    if fs::hard_link(binary, &program).is_err() {
        fs::copy(binary, &program).expect("copied");
    }
    let all = HandleFaultRequest {
        action: FaultAction::Recover.into(),
        all_nodes: true,
        ..HandleFaultRequest::default()
    };
    let answer = serve.coordinator().handle_fault(all).await.expect("done").into_inner();
    assert_eq!(answer.nodes.len(), 4);
    assert!(serve.ready().await.ready);
}

/// Nodes that nobody launched: they must be ended by the test.
struct Strays(tempfile::TempDir);

impl Drop for Strays {
    fn drop(&mut self) {
        for (pid, _) in processes_in(self.0.path()) {
            // It may have ended meanwhile.
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

#[tokio::test]
async fn a_node_of_another_launcher_is_started_by_the_configured_command() {
    let ruff = GatedRuff::new();
    let strays = Strays(tempfile::tempdir().expect("a folder"));
    let folder = strays.0.path();
    let command = folder.join("start-node");
    let settings = format!(
        "{}[nodes]\nrestart_budget = 2\nrestart_command = [{command:?}, \"{{node_id}}\", \"{{cause}}\"]\n\
         [[nodes.secrets]]\nname = \"others\"\nsha256 = \"{}\"\n",
        ruff.settings(),
        Digest::of(SECRET.as_bytes())
    );
    let serve = Serve::launch(&settings, &["--launch", "external"]).await;
    fs::write(folder.join("secret"), SECRET).expect("written");
    fs::write(folder.join("node.toml"), ruff.settings()).expect("written");
    let script = format!(
        "#!/bin/sh\n\
         cd '{folder}' || exit 1\n\
         echo \"$1 $2\" >> calls\n\
         [ -e broken ] && {{ echo \"no such pod: $1\" >&2; exit 3; }}\n\
         '{binary}' node --coordinator http://{address} --node-id \"$1\" --secret-file secret \
         --config node.toml </dev/null >log 2>&1 &\n",
        folder = folder.display(),
        binary = env!("CARGO_BIN_EXE_lintmesh"),
        address = serve.node_listener,
    );
    fs::write(&command, script).expect("written");
    fs::set_permissions(&command, fs::Permissions::from_mode(0o755)).expect("changed");
    let first = std::process::Command::new(&command).args(["backend-dev", "first"]).status();
    assert!(first.expect("starts").success());
    let active = |node: &NodeInfo| node.status() == NodeStatus::Active;
    let before = serve.until_node("backend-dev", "joins", active).await;

    signal(before.process_id, Signal::SIGKILL);
    let is_new =
        |node: &NodeInfo| node.status() == NodeStatus::Active && node.incarnation > before.incarnation;
    let after = serve.until_node("backend-dev", "is started by the command", is_new).await;
    fs::write(folder.join("broken"), "").expect("written");
    signal(after.process_id, Signal::SIGKILL);
    let given_up =
        |node: &NodeInfo| node.cause == "RESTART_FAILED" && node.cause_detail.starts_with("started");
    let node = serve.until_node("backend-dev", "is given up", given_up).await;
    assert!(node.cause_detail.contains("exit status: 3: no such pod: backend-dev"), "{}", node.cause_detail);
    let calls = fs::read_to_string(folder.join("calls")).expect("written");
    let calls: Vec<&str> = calls.lines().collect();
    assert_eq!(calls, ["backend-dev first", "backend-dev SESSION_LOST", "backend-dev SESSION_LOST"]);
}
