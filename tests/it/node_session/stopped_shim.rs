//! A shim that does not react, because its linter stopped it, keeps nobody: the node kills it, and what it guards.

use std::fs;
use std::time::Duration;

use lintmesh::wire::peer::{Assignment, Ending};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::coordinator::{Coordinator, Session};
use super::processes::{marked, until_gone, until_running};
use super::world::{World, planned, run_of};

fn parent(pid: i32) -> i32 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("runs");
    let (_, rest) = stat.rsplit_once(") ").expect("a name");
    rest.split(' ').nth(1).expect("a parent").parse().expect("a number")
}

/// The shim above a process of a linter.
fn shim_of(mut pid: i32) -> i32 {
    loop {
        let line = fs::read(format!("/proc/{pid}/cmdline")).expect("runs");
        if line.split(|byte| *byte == 0).nth(1) == Some(b"exec") {
            return pid;
        }
        assert!(pid > 1, "no shim");
        pid = parent(pid);
    }
}

/// Has a node lint, and stops the shim. From outside: where the kernel has it, a linter cannot.
async fn stopped(world: &World, mark: &str, timeout: Duration) -> (Coordinator, Session, Assignment) {
    let mut coordinator = Coordinator::start().await;
    // Ended with the test's runtime.
    let _ = world.node(&coordinator);
    let mut session = coordinator.session().await;
    let run = run_of(&coordinator);
    let lint = Assignment { timeout, ..planned(&coordinator, &mut session, &run, 1).await };
    session.assign(&lint).await;
    until_running(mark, 2).await;
    kill(Pid::from_raw(shim_of(marked(mark)[0])), Signal::SIGSTOP).expect("stopped");
    (coordinator, session, lint)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_attempt_ends_its_linter_beneath_a_stopped_shim() {
    let (world, mark) = World::with_endless_ruff();
    let (_coordinator, mut session, lint) = stopped(&world, &mark, Duration::from_secs(600)).await;
    session.revoke(&lint.key).await;
    session.until_running(0).await;
    until_gone(&mark).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_time_limit_ends_a_linter_beneath_a_stopped_shim() {
    let (world, mark) = World::with_endless_ruff();
    let (_coordinator, mut session, lint) = stopped(&world, &mark, Duration::from_secs(8)).await;
    let result = session.result().await;
    assert!(result.key == lint.key && matches!(result.ending, Ending::Failure(_)), "{result:?}");
    until_gone(&mark).await;
}
