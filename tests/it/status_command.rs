//! `lintmesh status` for people and scripts: it waits for a mesh, and follows one over broken connections.

use std::io::{BufRead as _, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use lintmesh::proto::v1::{FaultAction, HandleFaultRequest};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::support::forward::forward;
use super::support::serve::{Serve, lintmesh, until};

fn status(address: SocketAddr, arguments: &[&str]) -> Command {
    let mut command = lintmesh();
    command.args(["status", "--server", &format!("http://{address}")]).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A command that goes on, and the lines it has written.
struct Running {
    child: Child,
    stdout: Arc<Mutex<Vec<String>>>,
    stderr: Arc<Mutex<Vec<String>>>,
}

impl Running {
    fn start(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let stdout = lines(child.stdout.take().unwrap());
        let stderr = lines(child.stderr.take().unwrap());
        Self { child, stdout, stderr }
    }

    fn said(&self, text: &str) -> bool {
        self.stderr.lock().unwrap().iter().any(|line| line.contains(text))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines(pipe: impl Read + Send + 'static) -> Arc<Mutex<Vec<String>>> {
    let read = Arc::new(Mutex::new(Vec::new()));
    let written = Arc::clone(&read);
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            written.lock().unwrap().push(line);
        }
    });
    read
}

#[tokio::test]
async fn watch_tells_each_change_and_survives_a_broken_connection() {
    let serve = Serve::start("").await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (cut, cuts) = mpsc::channel(1);
    tokio::spawn(forward(listener, serve.api, cuts));
    let json = Running::start(status(address, &["--watch", "--json"]));
    let text = Running::start(status(address, &["--watch"]));
    let statuses = || -> Vec<serde_json::Value> {
        let lines = json.stdout.lock().unwrap();
        lines.iter().map(|line| serde_json::from_str(line).expect("one JSON value a line")).collect()
    };
    until("the first state", || statuses().iter().any(|status| status["ready"] == true)).await;
    until("the first screen", || !text.stdout.lock().unwrap().is_empty()).await;

    cut.send(()).await.unwrap();
    until("the break is told", || json.said("connection to the server broke")).await;
    until("the return is told", || json.said("connected again")).await;
    let request = HandleFaultRequest {
        action: FaultAction::Fail.into(),
        node_id: "backend-dev".into(),
        ..Default::default()
    };
    serve.coordinator().handle_fault(request).await.expect("done");
    let failed = |status: &serde_json::Value| status["nodes"]["backend-dev"]["status"] == "FAILED";
    until("the change after the break", || statuses().iter().any(failed)).await;
    until("the same on the screen", || {
        text.stdout.lock().unwrap().iter().any(|line| line.contains("backend-dev") && line.contains("FAILED"))
    })
    .await;
    let shown = text.stdout.lock().unwrap().join("\n");
    assert!(!shown.contains('\u{1b}'), "no control characters where no terminal is");
}

#[tokio::test]
async fn wait_is_for_scripts_it_waits_for_a_server_that_is_not_there_yet_and_tells_by_its_exit_code() {
    // A port that nobody has, until the forwarder takes it.
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let absent = status(address, &["--wait=ready", "--timeout", "500ms"]).output().unwrap();
    assert_eq!(absent.status.code(), Some(1), "{absent:?}");
    let said = String::from_utf8_lossy(&absent.stderr);
    assert!(said.starts_with("error: not ready within 0.5 s: cannot connect to "), "{said}");
    assert!(said.contains("connection refused"), "{said}");
    let wrong = status(address, &["--wait=ready", "--ca", "none.pem"]).output().unwrap();
    assert_eq!(wrong.status.code(), Some(2), "what will not pass is an error: {wrong:?}");

    let mut early = Running::start(status(address, &["--wait=ready", "--timeout", "60s", "--json"]));
    let serve = Serve::start("").await;
    assert!(early.child.try_wait().unwrap().is_none(), "it waits");
    let listener = TcpListener::bind(address).await.unwrap();
    let (_cut, cuts) = mpsc::channel(1);
    tokio::spawn(forward(listener, serve.api, cuts));
    until("it has seen enough", || early.child.try_wait().unwrap().is_some()).await;
    assert_eq!(early.child.wait().unwrap().code(), Some(0), "{:?}", early.stderr.lock().unwrap());

    let request = HandleFaultRequest {
        action: FaultAction::Fail.into(),
        node_id: "backend-dev".into(),
        ..Default::default()
    };
    serve.coordinator().handle_fault(request).await.expect("done");
    let command = status(serve.api, &["--wait=ready", "--timeout", "600ms"]);
    let late = tokio::task::spawn_blocking(move || {
        let mut command = command;
        command.output().unwrap()
    })
    .await
    .unwrap();
    assert_eq!(late.status.code(), Some(1), "{late:?}");
    assert!(String::from_utf8_lossy(&late.stdout).contains("FAILED"), "the last state is shown: {late:?}");
}
