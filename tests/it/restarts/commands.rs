//! What people see at their terminals when the coordinator is restarted.

use std::io::{BufRead as _, BufReader, Read};
use std::process::{Child, Command, Output, Stdio};

use super::*;
use crate::support::serve::lintmesh;

fn command(coordinator: &Coordinator, arguments: &[&str]) -> Command {
    let mut command = lintmesh();
    command.args(arguments).args(["--server", &coordinator.url()]).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

async fn output(coordinator: &Coordinator, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = command(coordinator, arguments);
    let done = tokio::task::spawn_blocking(move || command.output().expect("it runs")).await;
    let Output { status, stdout, stderr } = done.expect("no panic");
    (status.code(), text(stdout), text(stderr))
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("UTF-8")
}

/// Collects lines while they are written.
fn lines(source: impl Read + Send + 'static) -> Arc<Mutex<Vec<String>>> {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let written = lines.clone();
    std::thread::spawn(move || {
        BufReader::new(source)
            .lines()
            .map_while(Result::ok)
            .for_each(|line| written.lock().unwrap().push(line));
    });
    lines
}

/// The lines of recorded events, by their numbers.
fn numbered(lines: &[String]) -> Vec<(u64, String)> {
    let number = |line: &String| line.split_whitespace().nth(2)?.parse().ok();
    lines.iter().filter_map(|line| Some((number(line)?, line.clone()))).collect()
}

async fn exit(mut child: Child) -> Option<i32> {
    let waited = tokio::task::spawn_blocking(move || child.wait().expect("a child").code());
    tokio::time::timeout(DEADLINE, waited).await.expect("it ends").expect("no panic")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watch_goes_on_after_a_restart_and_says_so() {
    let mut coordinator = Coordinator::start("").await;
    let nodes = PlayedNodes::at(&coordinator, 5);
    let run_id = begun(&coordinator, asked("watched")).await;
    let mut child = command(&coordinator, &["watch", &run_id]).spawn().expect("it runs");
    let (told, said) =
        (lines(child.stdout.take().expect("piped")), lines(child.stderr.take().expect("piped")));
    nodes.permits.add_permits(3);
    until("events are shown", || told.lock().unwrap().len() > 5).await;
    coordinator.kill();
    let said_so = |text: &str| said.lock().unwrap().iter().any(|line| line.contains(text));
    until("the break is told", || said_so("the connection to the server broke")).await;
    coordinator.begin().await;
    until("the return is told", || said_so("the coordinator was restarted; connected again after")).await;
    assert!(said_so("going on after event"), "{:?}", said.lock().unwrap());
    nodes.permits.add_permits(100);
    assert_eq!(exit(child).await, Some(1), "as the run ends: with findings");
    until("the last line is read", || {
        told.lock().unwrap().iter().any(|line| line.contains("finished: FINDINGS"))
    })
    .await;
    let shown = numbered(&told.lock().unwrap());
    assert!(shown.is_sorted_by(|one, next| one.0 < next.0), "no line twice: {shown:?}");

    // What it showed can be asked for again, from anywhere, and of the runs of today.
    let from = &shown[2].0.to_string();
    let (code, stdout, _) = output(&coordinator, &["watch", &run_id, "--after", from]).await;
    let again: Vec<String> = stdout.lines().map(str::to_owned).collect();
    assert_eq!((code, numbered(&again)), (Some(1), shown[3..].to_vec()));
    for (arguments, is_listed) in [
        (&["runs", "--since", "1h", "--state", "finished", "--project", "ledger"][..], true),
        (&["runs", "--since", "2020-01-01", "--until", "2020-01-02"], false),
        (&["runs", "--state", "open"], false),
        (&["runs", "--until", "1h"], false),
    ] {
        let (code, stdout, stderr) = output(&coordinator, arguments).await;
        assert_eq!((code, stdout.contains(&run_id)), (Some(0), is_listed), "{arguments:?}: {stdout}{stderr}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mistakes_are_told_with_their_remedy() {
    let coordinator = Coordinator::start("").await;
    let _nodes = PlayedNodes::at(&coordinator, 1);
    let open = begun(&coordinator, asked("open")).await;
    for (arguments, code, parts) in [
        (&["watch", "run-none"][..], 2, &["run `run-none` does not exist"][..]),
        (&["watch", "no such/id"], 2, &["run `no such/id` does not exist"]),
        (&["watch", &open, "--after", "99"], 2, &["has ", "events; after_sequence is 99"]),
        (&["report", "run-none"], 2, &["run `run-none` does not exist"]),
        (&["report", &open], 2, &["it has not ended; watch it"]),
        (&["report", &open, "--format", "pdf"], 2, &["pdf", "sarif"]),
        (&["runs", "--since", "yesterday"], 2, &["--since", "2h", "2026-11-20T12:00:00Z"]),
        (
            &["runs", "--since", "1h", "--until", "2h"],
            2,
            &["started_before: must be later than started_after"],
        ),
        (&["runs", "--state", "ended"], 2, &["open", "finished"]),
        (&["runs", "--open", "--state", "open"], 2, &["cannot be used with"]),
    ] {
        let (exit, stdout, stderr) = output(&coordinator, arguments).await;
        assert_eq!((exit, stdout.as_str()), (Some(code), ""), "{arguments:?}: {stderr}");
        for part in parts {
            assert!(stderr.contains(part), "{arguments:?} lacks {part}: {stderr}");
        }
    }
}
