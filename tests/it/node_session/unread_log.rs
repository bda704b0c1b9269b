//! A launched node shares its launcher's standard error. When the launcher is gone, nobody may read that any more.

use std::io::{ErrorKind, PipeWriter, Write as _};
use std::process::{Command, Stdio};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::coordinator::{Coordinator, DEADLINE};
use super::world::{World, planned, run_of};

/// So that the next write would wait for a reader.
fn fill(mut pipe: &PipeWriter) {
    fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).expect("a pipe");
    loop {
        match pipe.write(&[b'\n'; 4096]) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
    }
    // Shared with whoever gets it.
    fcntl(pipe, FcntlArg::F_SETFL(OFlag::empty())).expect("a pipe");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_launched_node_works_and_ends_whether_or_not_somebody_reads_its_log() {
    for is_full in [false, true] {
        let world = World::with_ruff();
        let mut coordinator = Coordinator::start().await;
        let (reader, log) = std::io::pipe().expect("a pipe");
        let reader = is_full.then(|| {
            fill(&log);
            reader
        });
        let mut node = Command::new(env!("CARGO_BIN_EXE_lintmesh"))
            .args(["node", "--launched"])
            // Thousands of lines.
            .env("MESH_LOG_LEVEL", "trace,h2=trace")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the binary is built");
        let mut input = node.stdin.take().expect("piped");
        let settings = serde_json::to_string(&world.settings(&coordinator)).expect("JSON");
        input.write_all(format!("{settings}\n").as_bytes()).expect("read");
        let mut session = coordinator.session().await;
        let run = run_of(&coordinator);
        planned(&coordinator, &mut session, &run, 1).await;
        input.write_all(b"stop\n").expect("read");
        let ended = tokio::task::spawn_blocking(move || node.wait().expect("a child"));
        let status = tokio::time::timeout(DEADLINE, ended).await.expect("it ends").expect("waited for");
        assert!(status.success(), "full: {is_full}: {status}");
        drop(reader);
    }
}
