//! The folder of a coordinator's state: whose it is, what is told of it, and what is wrong with one that cannot be used.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use lintmesh::store::{EmbeddedOptions, EmbeddedStore, Record, Store as _};
use nix::sys::signal::Signal;
use nix::unistd::geteuid;
use redb::{Database, TableDefinition};
use tokio::time::Instant;

use super::support::linters::GatedRuff;
use super::support::serve::{DEADLINE, Serve, lintmesh, lintmesh_at, state_home, until};

/// Nobody: a user that owns nothing.
const NOBODY: u32 = 65534;

/// A start that must fail, without nodes.
fn refused(mut command: Command, dir: &Path) -> String {
    command.args([
        "serve",
        "--launch",
        "external",
        "--listen",
        "127.0.0.1:0",
        "--admin-listen",
        "127.0.0.1:0",
    ]);
    command.arg("--state-dir").arg(dir);
    let Output { status, stderr, .. } = output(command);
    let said = String::from_utf8_lossy(&stderr).into_owned();
    assert_eq!(status.code(), Some(2), "{said}");
    let errors: Vec<&str> = said.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(
        (errors.len(), errors.last().copied()),
        (1, said.lines().last()),
        "one line, the last: {said}"
    );
    errors.concat()
}

/// What a command says that ends in time. It must not be more than a pipe holds.
fn output(mut command: Command) -> Output {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the binary is built");
    if ended(&mut child).is_none() {
        child.kill().expect("it runs");
        panic!("it goes on: {:?}", child.wait_with_output());
    }
    child.wait_with_output().expect("it has ended")
}

fn ended(child: &mut Child) -> Option<ExitStatus> {
    let began = Instant::now();
    while began.elapsed() < DEADLINE {
        if let Some(status) = child.try_wait().expect("a child") {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    None
}

#[tokio::test]
async fn a_second_coordinator_is_refused_and_disturbs_nobody() {
    let ruff = GatedRuff::new();
    let mut serve = Serve::start(&ruff.settings()).await;
    let before = serve.processes();
    let folder = state_home(serve.dir.path()).join("lintmesh");
    let said = refused(lintmesh(), &folder);
    let file = folder.join("state.redb").display().to_string();
    assert!(
        said.starts_with(&format!("error: the state in {file} is in use by another process; ")),
        "{said}"
    );
    let mut after = serve.processes();
    after.retain(|process| before.contains(process));
    assert_eq!(after, before);
    assert!(serve.ready().await.ready);
    // Its nodes live, but nobody uses the state: that is what a successor finds.
    serve.crash().await;
    serve.again(&ruff.settings(), &[]).await;
}

#[tokio::test]
async fn it_is_private_and_told_at_the_start() {
    let serve = Serve::launch(
        "[runs]\nkeep = 7\nkeep_for = 43200\n[workspace]\nmax_store_bytes = 700000000\n",
        &["--launch", "external"],
    )
    .await;
    let folder = state_home(serve.dir.path()).join("lintmesh");
    let kept = serve.logged("the state is kept over restarts").pop().expect("told");
    let expected = serde_json::json!({
        "dir": folder, "keeps_runs": 7, "keeps_days": 0.5, "blobs": folder.join("blobs"), "blob_bytes": 700_000_000,
        "epoch": 1, "open_runs": 0, "finished_runs": 0,
    });
    for (key, value) in expected.as_object().expect("an object") {
        assert_eq!(&kept[key], value, "{key}");
    }
    assert_eq!(fs::metadata(&folder).expect("there").mode() & 0o777, 0o700);
    let held = || fs::metadata(folder.join("reserve")).map_or(0, |reserve| reserve.blocks() * 512);
    until("room is held back", || held() >= 32 << 20).await;
}

#[tokio::test]
async fn in_memory_nothing_is_kept() {
    let mut serve = Serve::launch("[state]\nstore = \"memory\"\n", &["--launch", "external"]).await;
    assert_eq!(serve.logged("runs and reports are kept in memory").len(), 1);
    serve.signal(Signal::SIGTERM);
    assert!(serve.ended().await.success());
    assert!(!state_home(serve.dir.path()).exists());
}

#[test]
fn what_is_no_state_or_a_later_release_s_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("state.redb");
    fs::write(&file, "a letter").expect("written");
    let said = refused(lintmesh(), dir.path());
    let start = format!("error: {} is not a state file of lintmesh: ", file.display());
    assert!(said.starts_with(&start), "{said}");
    assert_eq!(fs::read(&file).expect("there"), b"a letter", "it is left as it is");

    fs::remove_file(&file).expect("removed");
    const HEAD: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("lintmesh.head");
    let later = Database::create(&file).expect("made").begin_write().expect("begun");
    later.open_table(HEAD).expect("a table").insert("head", &2_u32.to_le_bytes()[..]).expect("written");
    later.commit().expect("written");
    let said = refused(lintmesh(), dir.path());
    let part = "has format 2, and this release knows formats up to 1; run the release that wrote it";
    assert!(said.starts_with("error: the state in ") && said.contains(part), "{said}");
}

#[test]
fn a_folder_that_cannot_be_made_read_or_written_is_named() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("file");
    fs::write(&file, "").expect("written");
    for impossible in [file.join("below"), "/proc/lintmesh".into()] {
        let said = refused(lintmesh(), &impossible);
        let start = format!("error: cannot make the state in {}: ", impossible.display());
        assert!(said.starts_with(&start) && said.contains("choose another state.dir"), "{said}");
    }

    // Whoever runs the tests may be allowed everything.
    let program = dir.path().join("lintmesh");
    fs::hard_link(env!("CARGO_BIN_EXE_lintmesh"), &program)
        .or_else(|_| fs::copy(env!("CARGO_BIN_EXE_lintmesh"), &program).map(drop))
        .expect("copied");
    let mode = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).expect("changed");
    mode(dir.path(), 0o755);
    let as_nobody = || {
        let mut command = lintmesh_at(&program);
        command.current_dir("/").env("HOME", "/").env("TMPDIR", "/tmp");
        if geteuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    };
    let folder = dir.path().join("state");
    fs::create_dir(&folder).expect("made");
    mode(&folder, 0o555);
    let said = refused(as_nobody(), &folder.join("deeper"));
    let start =
        format!("error: cannot make the state in {}: Permission denied", folder.join("deeper").display());
    assert!(said.starts_with(&start), "{said}");
    let said = refused(as_nobody(), &folder);
    assert!(
        said.contains("Permission denied") && said.contains("see to its owner, permissions and mount"),
        "{said}"
    );

    mode(&folder, 0o755);
    fs::write(folder.join("state.redb"), "").expect("written");
    mode(&folder.join("state.redb"), 0o444);
    mode(&folder, 0o555);
    let said = refused(as_nobody(), &folder);
    assert!(said.contains("Permission denied") && said.contains("state.redb"), "{said}");
    mode(&folder, 0o755);
}

/// Adds a record to the state that nothing is wrong with as far as the store can tell.
fn add(file: &Path, record: Record) {
    let mut store = EmbeddedStore::open(file, EmbeddedOptions::default()).expect("nobody has it");
    let epoch = store.open_epoch().expect("opens");
    let end = store.position(epoch).expect("it is ours");
    store.append(epoch, end, &[record]).expect("appends");
}

fn copies(folder: &Path) -> usize {
    let names = fs::read_dir(folder).expect("there").map(|entry| entry.expect("there").file_name());
    names.filter(|name| name.to_string_lossy().starts_with("state.redb.damaged-")).count()
}

#[tokio::test]
async fn what_is_damaged_is_left_out_once_somebody_says_so_and_kept() {
    let external = ["--launch", "external"];
    let mut serve = Serve::launch("", &external).await;
    let folder = state_home(serve.dir.path()).join("lintmesh");
    let file = folder.join("state.redb");
    serve.signal(Signal::SIGTERM);
    assert!(serve.ended().await.success());
    add(&file, Record { version: 1, bytes: b"no fact".to_vec() });
    let said = refused(lintmesh(), &folder);
    assert!(said.contains("damaged record") && said.contains("start once with --salvage"), "{said}");
    assert_eq!(copies(&folder), 0, "nothing is done yet");

    serve.again("", &["--launch", "external", "--salvage"]).await;
    assert_eq!(serve.logged("a record was left out").len(), 1);
    assert_eq!(serve.logged("the state is kept as it was").len(), 1);
    serve.signal(Signal::SIGTERM);
    assert!(serve.ended().await.success());
    assert_eq!(copies(&folder), 1);

    serve.again("", &external).await;
    serve.signal(Signal::SIGTERM);
    assert!(serve.ended().await.success());
    assert_eq!(copies(&folder), 1);

    // What a later release wrote is not damaged.
    add(&file, Record { version: 2, bytes: b"a fact of tomorrow".to_vec() });
    let salvaging = || {
        let mut command = lintmesh();
        command.args(["serve", "--salvage", "--launch", "external", "--state-dir"]).arg(&folder);
        command.args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
        String::from_utf8(output(command).stderr).expect("text")
    };
    for said in [refused(lintmesh(), &folder), salvaging()] {
        let told =
            said.contains("record version 2 is not known") && said.contains("the release that wrote it");
        assert!(told && !said.contains("--salvage"), "{said}");
    }
    assert_eq!(copies(&folder), 1, "nothing is done");
}
