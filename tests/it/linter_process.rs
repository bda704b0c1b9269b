//! A linter process gets its input, keeps its limits, and leaves nothing behind, however anybody dies.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use lintmesh::linters::process::{Exceeded, Finished, ProcessError, ProcessSpec, run};
use lintmesh::node::shim::sandbox_status;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio_util::sync::CancellationToken;

mod world;

use world::{MIB, SHIM, World, eventually, finish, python, run_it, text};

/// Starts ten daemons that leave the group, the session and their parent, and says so.
const DAEMONS: &str = r#"
import os, sys, time
for n in range(10):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            open(os.environ["WORLD"] + f"/daemon{n}", "w").close()
            time.sleep(600)
        os._exit(0)
for n in range(10):
    while not os.path.exists(os.environ["WORLD"] + f"/daemon{n}"):
        time.sleep(0.001)
open(os.environ["WORLD"] + "/ready", "w").close()
"#;

#[tokio::test]
async fn output_status_and_garbage_bytes_come_through() {
    let world = World::new();
    let code = r#"
import os, sys
os.write(1, bytes(range(256)) * 1000)
os.write(2, b"\xff\xfe\n")
sys.exit(7)
"#;
    let finished = finish(world.python(code)).await;
    assert_eq!((finished.code, finished.signal, finished.exceeded), (Some(7), None, None));
    let all: Vec<u8> = (0..=255).collect();
    assert_eq!(finished.stdout, all.repeat(1000));
    assert_eq!(finished.stderr, b"\xff\xfe\n");
    assert!(finished.cpu > Duration::ZERO && finished.wall >= Duration::from_millis(1));
}

#[tokio::test]
async fn a_signal_is_told_from_a_status() {
    let world = World::new();
    let finished = finish(world.python("import os; os.kill(os.getpid(), 11)")).await;
    assert_eq!((finished.code, finished.signal, finished.exceeded), (None, Some(11), None));
}

#[tokio::test]
async fn the_environment_is_fixed_and_points_to_the_scratch_folder() {
    let world = World::new();
    let code = "import json, os; print(json.dumps(dict(os.environ))); open(os.environ['TMPDIR'] + '/x', 'w')";
    let finished = finish(world.python(code)).await;
    assert_eq!(finished.code, Some(0), "{}", text(&finished.stderr));
    let variables: std::collections::BTreeMap<String, String> =
        serde_json::from_slice(&finished.stdout).unwrap();
    assert_eq!(variables["PYTHONHASHSEED"], "0");
    assert_eq!(variables["LANG"], "C.UTF-8");
    for name in ["HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"] {
        assert!(Path::new(&variables[name]).starts_with(world.path()), "{name}={}", variables[name]);
    }
    for name in ["CARGO", "CARGO_MANIFEST_DIR", "USER", "PYTHONPATH"] {
        assert!(!variables.contains_key(name), "{name} leaked");
    }
}

#[tokio::test]
async fn a_megabyte_of_arguments_of_any_bytes_arrives() {
    let world = World::new();
    let mut arguments: Vec<OsString> = vec![
        "-c".into(),
        "import os, sys; a = [os.fsencode(x) for x in sys.argv[1:]]; \
         print(len(a), sum(map(len, a)), a[0] == b'-\\xff\\n', len(a[1]))"
            .into(),
        OsString::from_vec(b"-\xff\n".to_vec()),
        "y".repeat(130_000).into(),
    ];
    arguments.extend((0..12_000).map(|n| OsString::from(format!("{n:0>100}"))));
    let finished = finish(world.spec(&python(), arguments)).await;
    assert_eq!(text(&finished.stdout), "12002 1330003 True 130000\n", "{}", text(&finished.stderr));
}

#[tokio::test]
async fn what_cannot_be_started_is_told_from_a_broken_shim() {
    let world = World::new();
    let missing = run_it(world.spec("/no/such/linter", vec![])).await.unwrap_err();
    assert!(matches!(&missing, ProcessError::Start { source, .. } if source.raw_os_error() == Some(2)));
    assert!(missing.to_string().contains("/no/such/linter"), "{missing}");

    let forbidden = run_it(world.spec("/proc/version", vec![])).await.unwrap_err();
    assert!(matches!(&forbidden, ProcessError::Start { source, .. } if source.raw_os_error() == Some(13)));

    // The kernel takes no single argument of 128 KiB or more.
    let too_long = run_it(world.spec(&python(), vec!["x".repeat(128 << 10).into()])).await.unwrap_err();
    assert!(matches!(&too_long, ProcessError::Start { source, .. } if source.raw_os_error() == Some(7)));

    let zero = run_it(world.spec(&python(), vec!["a\0b".into()])).await.unwrap_err();
    assert!(matches!(zero, ProcessError::Start { .. }), "{zero}");

    let directory = ProcessSpec { directory: "/no/such/tree".into(), ..world.python("") };
    let error = run_it(directory).await.unwrap_err();
    assert!(matches!(error, ProcessError::Shim { .. }) && error.to_string().contains("/no/such/tree"));

    let never = CancellationToken::new();
    for shim in ["/no/such/lintmesh", "/bin/true", "/bin/false"] {
        let error = run(world.python(""), Path::new(shim), &never).await.unwrap_err();
        assert!(matches!(error, ProcessError::Shim { .. }), "{shim}: {error}");
    }
}

#[tokio::test]
async fn daemons_of_a_finished_linter_are_gone() {
    let world = World::new();
    let finished = finish(world.python(DAEMONS)).await;
    assert_eq!((finished.code, finished.exceeded), (Some(0), None), "{}", text(&finished.stderr));
    world.assert_nobody_left();
}

#[tokio::test]
async fn too_much_memory_ends_everything_even_spread_over_children() {
    let mut world = World::new();
    world.limits.memory_bytes = 300 * MIB;
    let code = r#"
import os, time
for _ in range(4):
    if os.fork() == 0:
        hog = b"x" * (100 << 20)
        time.sleep(600)
time.sleep(600)
"#;
    let finished = finish(world.python(code)).await;
    assert_eq!(finished.exceeded, Some(Exceeded::Memory));
    assert_eq!(finished.signal, Some(9));
    world.assert_nobody_left();
}

#[tokio::test]
async fn too_much_cpu_time_ends_it_even_if_it_ignores_the_signal() {
    for ignore in ["", "signal.signal(signal.SIGXCPU, signal.SIG_IGN)"] {
        let mut world = World::new();
        world.limits.cpu = Duration::from_secs(1);
        let finished = finish(world.python(&format!("import signal\n{ignore}\nwhile True: pass"))).await;
        assert_eq!(finished.exceeded, Some(Exceeded::Cpu), "{finished:?}");
        // The limit counts ticks, what is told is what was used: on a busy machine they differ.
        assert!(finished.cpu >= Duration::from_millis(500), "{:?}", finished.cpu);
    }
}

#[tokio::test]
async fn the_wall_limit_ends_a_sleeper_and_its_daemons() {
    let mut world = World::new();
    world.limits.wall = Duration::from_millis(500);
    let finished = finish(world.python(&format!("{DAEMONS}\ntime.sleep(600)"))).await;
    assert_eq!(finished.exceeded, Some(Exceeded::Wall));
    assert!(finished.wall >= world.limits.wall);
    world.assert_nobody_left();
}

#[tokio::test]
async fn a_file_does_not_grow_past_its_limit() {
    let mut world = World::new();
    world.limits.file_bytes = MIB;
    let python =
        "import os; f = open(os.environ['WORLD'] + '/big', 'wb', 0)\nwhile True: f.write(b'x' * 65536)";
    let shell = "exec dd if=/dev/zero of=$WORLD/big bs=65536 2>/dev/null";
    for spec in [world.python(python), world.spec("/bin/sh", vec!["-c".into(), shell.into()])] {
        let finished = finish(spec).await;
        assert_eq!(finished.exceeded, Some(Exceeded::FileSize), "{}", text(&finished.stderr));
        assert_eq!(fs::metadata(world.path().join("big")).unwrap().len(), MIB);
    }
}

#[tokio::test]
async fn a_flood_of_output_is_cut_at_the_limit() {
    let mut world = World::new();
    world.limits.output_bytes = MIB;
    let code = "import os\nwhile True:\n os.write(1, b'x' * 65536)\n os.write(2, b'y' * 65536)";
    let finished = finish(world.python(code)).await;
    assert_eq!(finished.exceeded, Some(Exceeded::Output));
    assert_eq!((finished.stdout.len() + finished.stderr.len()) as u64, MIB);
    world.assert_nobody_left();
}

#[tokio::test]
async fn a_fork_bomb_is_ended() {
    let mut world = World::new();
    world.limits.processes = 20;
    // Bounded, should the limit not work: 2^8 processes that wait.
    let code = "import os, time\nfor _ in range(8): os.fork()\ntime.sleep(600)";
    let finished = finish(world.python(code)).await;
    assert_eq!(finished.exceeded, Some(Exceeded::Processes));
    world.assert_nobody_left();
}

#[tokio::test]
async fn cancelling_ends_everything_first() {
    let world = World::new();
    let cancel = CancellationToken::new();
    let spec = world.python(&format!("{DAEMONS}\ntime.sleep(600)"));
    let cancelled = async {
        world.until_exists("ready").await;
        assert!(world.processes().len() >= 11);
        cancel.cancel();
    };
    let (result, ()) = tokio::join!(run(spec.clone(), Path::new(SHIM), &cancel), cancelled);
    assert!(matches!(result, Err(ProcessError::Cancelled)), "{result:?}");
    world.assert_nobody_left();
    let result = run(spec, Path::new(SHIM), &cancel).await;
    assert!(matches!(result, Err(ProcessError::Cancelled)), "a cancelled token starts nothing: {result:?}");
}

#[tokio::test]
async fn dropping_the_run_ends_everything_soon() {
    let world = World::new();
    let spec = world.python(&format!("{DAEMONS}\ntime.sleep(600)"));
    let task = tokio::spawn(run_it(spec));
    world.until_exists("ready").await;
    task.abort();
    eventually("all processes end", || world.processes().is_empty()).await;
}

/// Tells who the linter's shim is.
const WRITE_SHIM: &str = r#"
import os, time
with open(os.environ["WORLD"] + "/shim", "w") as file:
    file.write(f"{os.getppid()}\n")
"#;

async fn shim_of(world: &World) -> Pid {
    let path = world.until_exists("shim").await;
    let mut shim = String::new();
    eventually("the shim's number is written", || {
        shim = fs::read_to_string(&path).unwrap();
        shim.ends_with('\n')
    })
    .await;
    Pid::from_raw(shim.trim().parse().unwrap())
}

/// Runs daemons beneath a shim that gets `signal` once they are there.
async fn signal_the_shim(world: &World, signal: Signal) -> Result<Finished, ProcessError> {
    let linter = run_it(world.python(&format!("{DAEMONS}{WRITE_SHIM}\ntime.sleep(600)")));
    tokio::join!(linter, async { kill(shim_of(world).await, signal).unwrap() }).0
}

#[tokio::test]
async fn killing_the_shim_ends_the_linter_and_its_daemons() {
    let world = World::new();
    let error = signal_the_shim(&world, Signal::SIGKILL).await.unwrap_err();
    assert!(matches!(error, ProcessError::Shim { .. }), "{error}");
    world.assert_nobody_left();
}

#[tokio::test]
async fn terminating_the_shim_ends_the_linter_and_its_daemons() {
    let world = World::new();
    let finished = signal_the_shim(&world, Signal::SIGTERM).await.unwrap();
    assert_eq!((finished.code, finished.signal, finished.exceeded), (None, Some(9), None));
    world.assert_nobody_left();
}

/// Not a promise of its own but the node of the next tests: they start this binary again for this one.
#[tokio::test]
#[ignore = "started by other tests"]
async fn node_to_be_killed() {
    let world = World::new();
    let path = std::env::var_os("NODE_WORLD").expect("started by the other tests");
    let code = std::env::var("NODE_CODE").expect("started by the other tests");
    let environment = vec![("WORLD".into(), path.clone())];
    let _ = run_it(ProcessSpec { scratch: path.into(), environment, ..world.python(&code) }).await;
}

fn start_node(world: &World, code: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "linter_process::node_to_be_killed"])
        .env("NODE_WORLD", world.path())
        .env("NODE_CODE", code)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[tokio::test]
async fn killing_the_node_ends_everything() {
    let world = World::new();
    let mut node = start_node(&world, &format!("{DAEMONS}\ntime.sleep(600)"));
    world.until_exists("ready").await;
    assert!(world.processes().len() >= 11);
    node.kill().unwrap();
    node.wait().unwrap();
    eventually("all processes end", || world.processes().is_empty()).await;
}

#[tokio::test]
async fn killing_node_and_shim_at_once_ends_the_linter() {
    let world = World::new();
    let code = format!("{WRITE_SHIM}\ntime.sleep(600)");
    let mut node = start_node(&world, &code);
    let shim = shim_of(&world).await;
    // Stopped, so that it cannot see its node die before it dies itself.
    kill(shim, Signal::SIGSTOP).unwrap();
    node.kill().unwrap();
    node.wait().unwrap();
    assert_eq!(world.processes().len(), 1, "the linter lives as long as its shim");
    kill(shim, Signal::SIGKILL).unwrap();
    eventually("the linter ends", || world.processes().is_empty()).await;
}

#[tokio::test]
async fn the_sandbox_refuses_writes_outside_and_tcp() {
    let status = sandbox_status();
    let (world, outside) = (World::new(), tempfile::tempdir().unwrap());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let code = format!(
        r#"
import os, socket
def attempt(name, what):
    try:
        what()
        print(name, "done")
    except OSError as error:
        print(name, error.errno)
outside = {:?}
attempt("inside", lambda: open(os.environ["WORLD"] + "/x", "w").close())
attempt("move inside", lambda: os.rename(os.environ["WORLD"] + "/x", os.environ["TMPDIR"] + "/y"))
attempt("null", lambda: open("/dev/null", "w").close())
attempt("write", lambda: open(outside + "/x", "w").close())
attempt("truncate", lambda: os.truncate(outside + "/old", 0))
attempt("remove", lambda: os.remove(outside + "/old"))
attempt("folder", lambda: os.mkdir(outside + "/d"))
attempt("connect", lambda: socket.create_connection(("127.0.0.1", {})))
attempt("bind", lambda: socket.socket().bind(("127.0.0.1", 0)))
attempt("signal", lambda: os.kill({}, 0))
attempt("signal shim", lambda: os.kill(os.getppid(), 0))
"#,
        outside.path().to_str().unwrap(),
        listener.local_addr().unwrap().port(),
        std::process::id(),
    );
    fs::write(outside.path().join("old"), "kept").unwrap();
    let finished = finish(world.python(&code)).await;
    let said = text(&finished.stdout);
    assert_eq!(finished.code, Some(0), "{}", text(&finished.stderr));
    for allowed in ["inside done", "move inside done", "null done"] {
        assert!(said.lines().any(|line| line == allowed), "{allowed}: {said}");
    }
    // EACCES for files and sockets, EPERM for signals; on a kernel without Landlock there is nothing to assert.
    let refused = |names: &[&str], errno| {
        for name in names {
            assert!(said.lines().any(|line| line == format!("{name} {errno}")), "{name}: {said}");
        }
    };
    if status.writes {
        refused(&["write", "remove", "folder"], 13);
        assert!(outside.path().join("old").exists());
    }
    if status.abi >= 3 {
        refused(&["truncate"], 13);
        assert_eq!(fs::read_to_string(outside.path().join("old")).unwrap(), "kept");
    }
    if status.network {
        refused(&["connect", "bind"], 13);
    }
    if status.scopes {
        refused(&["signal", "signal shim"], 1);
    }
}

#[test]
fn a_person_who_types_the_hidden_command_is_told() {
    let output = Command::new(SHIM).arg("exec").stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("only a lintmesh node"), "{}", text(&output.stderr));
}
