//! Runs of several projects wait for the same cores: who is served when, who is refused, who is told what.

use std::time::Duration;

use lintmesh::proto::v1::coordinator_service_client::CoordinatorServiceClient;
use lintmesh::proto::v1::run_event::Event;
use lintmesh::proto::v1::*;
use tonic::transport::Channel;
use tonic::{Code, Streaming};
use tonic_types::StatusExt as _;

use super::support::calls::*;
use super::support::linters::GatedRuff;
use super::support::serve::{DEADLINE, Serve, lintmesh, until};

type Client = CoordinatorServiceClient<Channel>;

/// A run of a project with one LINT task.
fn of_project(project: &str) -> CoordinateRequest {
    CoordinateRequest { project: project.into(), ..request(inline(&[("a.py", "")]), &["ruff"]) }
}

async fn get(client: &mut Client, run_id: &str) -> Run {
    let asked = GetRunRequest { run_id: run_id.to_owned() };
    client.get_run(asked).await.expect("known").into_inner().run.expect("a run")
}

/// Starts a run and waits until its LINT task runs or waits; answers its id and whether it runs.
async fn planned(client: &mut Client, asked: CoordinateRequest) -> (String, bool) {
    let run_id = started(client, asked).await;
    let seen = async {
        loop {
            let progress = get(client, &run_id).await.progress.expect("progress");
            if let Some(ruff) = progress.tools.get("ruff").filter(|ruff| ruff.queued + ruff.running > 0) {
                return ruff.running > 0;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let runs = tokio::time::timeout(DEADLINE, seen).await.expect("it is planned");
    (run_id, runs)
}

/// Fills every core with runs that do not end until the gate is opened; answers their ids.
async fn fill(client: &mut Client) -> Vec<String> {
    let mut running = Vec::new();
    loop {
        let (run_id, runs) = planned(client, of_project("filler")).await;
        if runs {
            running.push(run_id);
            continue;
        }
        client.cancel_run(CancelRunRequest { run_id }).await.expect("no error");
        return running;
    }
}

/// The number of the attempt at the LINT task of a run that has ended: attempts are numbered as they are made.
async fn lint_attempt(client: &mut Client, run_id: &str) -> u64 {
    let events = watched(client, run_id, 0).await;
    assert_eq!(finished(&events).outcome(), Outcome::Clean);
    let lint = events.iter().find_map(|event| match &event.event {
        Some(Event::TaskAssigned(assigned)) if assigned.task.as_ref()?.stage() == Stage::Lint => {
            assigned.attempt.split_once('.')?.1.parse().ok()
        }
        _ => None,
    });
    lint.expect("it was assigned")
}

/// The next progress that is as wanted, and the newest recorded event before it.
async fn progress_until(
    stream: &mut Streaming<WatchRunResponse>,
    wanted: impl Fn(&RunProgress) -> bool,
    newest: &mut u64,
) -> RunProgress {
    let told = async {
        loop {
            let event =
                stream.message().await.expect("no error").expect("not ended").event.expect("an event");
            *newest = event.sequence.max(*newest);
            if let Some(Event::Progress(progress)) = event.event
                && wanted(&progress)
            {
                return progress;
            }
        }
    };
    tokio::time::timeout(DEADLINE, told).await.expect("it is told")
}

#[tokio::test]
async fn a_project_with_few_runs_does_not_wait_for_all_runs_of_another() {
    let ruff = GatedRuff::busy();
    let serve = Serve::start(&ruff.settings()).await;
    let mut client = serve.coordinator();
    fill(&mut client).await;
    let (mut many, mut few) = (Vec::new(), Vec::new());
    for _ in 0..8 {
        many.push(planned(&mut client, of_project("many")).await.0);
    }
    for _ in 0..2 {
        few.push(planned(&mut client, of_project("few")).await.0);
    }
    ruff.open();
    let mut order = Vec::new();
    for (project, runs) in [("many", &many), ("few", &few)] {
        for run in runs {
            order.push((lint_attempt(&mut client, run).await, project));
        }
    }
    order.sort_unstable();
    let order: Vec<&str> = order.into_iter().map(|(_, project)| project).collect();
    let place = |number: usize| order.iter().enumerate().filter(|(_, it)| **it == "few").nth(number);
    // They came last. The first is served with the first of the others; the second then, to one task, or two where a
    // measurement is off.
    assert!(place(0).is_some_and(|(at, _)| at <= 1), "{order:?}");
    assert!(place(1).is_some_and(|(at, _)| at <= 6), "{order:?}");
}

#[tokio::test]
async fn the_more_urgent_run_of_a_project_is_served_first_and_says_what_it_was_given() {
    let ruff = GatedRuff::new();
    let serve = Serve::start(&ruff.settings()).await;
    let mut client = serve.coordinator();
    fill(&mut client).await;
    let (usual, _) = planned(&mut client, of_project("p")).await;
    let asked = CoordinateRequest { priority: 4, supersede_key: "refs/heads/main".into(), ..of_project("p") };
    let (urgent, _) = planned(&mut client, asked).await;
    let told = get(&mut client, &urgent).await;
    assert_eq!((told.priority, told.supersede_key.as_str()), (4, "refs/heads/main"));
    assert_eq!(told.progress.expect("progress").runs_ahead, 0);
    let told = get(&mut client, &usual).await;
    assert_eq!((told.priority, told.supersede_key.as_str()), (0, ""));
    assert_eq!(told.progress.expect("progress").runs_ahead, 1);
    ruff.open();
    assert!(lint_attempt(&mut client, &urgent).await < lint_attempt(&mut client, &usual).await);
}

#[tokio::test]
async fn a_waiting_run_is_told_its_position_as_it_changes() {
    let ruff = GatedRuff::new();
    let serve = Serve::start(&ruff.settings()).await;
    let mut client = serve.coordinator();
    fill(&mut client).await;
    let (first, _) = planned(&mut client, of_project("p")).await;
    let (second, _) = planned(&mut client, of_project("p")).await;
    let asked = WatchRunRequest { run_id: second.clone(), after_sequence: 0 };
    let mut stream = serve.coordinator().watch_run(asked).await.expect("a stream").into_inner();
    let mut newest = 0;
    let told = progress_until(&mut stream, |told| told.runs_ahead == 1, &mut newest).await;
    assert_eq!((told.waiting_tasks, told.running_tasks), (1, 0));

    let url = serve.url();
    let said = |arguments: &'static [&str]| {
        let mut command = lintmesh();
        command.args(arguments).args(["--server", &url]);
        tokio::task::spawn_blocking(move || command.output().expect("it runs"))
    };
    let listed = said(&["runs"]).await.expect("no panic");
    let listed = String::from_utf8(listed.stdout).expect("UTF-8");
    let line = |run: &str| listed.lines().find(|line| line.starts_with(run)).expect("listed").to_owned();
    assert!(line(&second).contains("OPEN: waiting, 1 run ahead"), "{listed}");
    assert!(line(&first).contains("OPEN: waiting, next in the queue"), "{listed}");

    let before = newest;
    client.cancel_run(CancelRunRequest { run_id: first }).await.expect("no error");
    let told = progress_until(&mut stream, |told| told.runs_ahead == 0, &mut newest).await;
    assert_eq!((told.waiting_tasks, told.running_tasks), (1, 0));
    assert_eq!(newest, before, "nothing happened in the run itself");
    ruff.open();
    progress_until(&mut stream, |told| told.running_tasks == 1, &mut newest).await;
    assert_eq!(finished(&watched(&mut client, &second, 0).await).outcome(), Outcome::Clean);
}

#[tokio::test]
async fn a_newer_run_with_the_same_key_cancels_the_older() {
    let ruff = GatedRuff::new();
    let serve = Serve::start(&ruff.settings()).await;
    let mut client = serve.coordinator();
    let keyed = |project| CoordinateRequest { supersede_key: "pull/7".into(), ..of_project(project) };
    let older = started(&mut client, keyed("p")).await;
    until("ruff and its child run", || ruff.running() == 2).await;
    let other = started(&mut client, keyed("q")).await;
    let newer = started(&mut client, keyed("p")).await;
    let ending = finished(&watched(&mut client, &older, 0).await);
    assert_eq!(ending.outcome(), Outcome::Cancelled);
    assert!(ending.detail.contains(&newer) && ending.detail.contains("pull/7"), "{}", ending.detail);
    assert_eq!(get(&mut client, &other).await.state(), RunState::Open, "another project");
    until("the older linter is gone, the two others run", || ruff.running() == 4).await;
    ruff.open();
    for run in [&other, &newer] {
        assert_eq!(finished(&watched(&mut client, run, 0).await).outcome(), Outcome::Clean);
    }
}

#[tokio::test]
async fn a_project_has_so_many_runs_and_tasks_and_no_more() {
    let ruff = GatedRuff::new();
    let settings = "[queue]\nmax_tasks_per_project = 1\nmax_runs_per_project = 2\n";
    let serve = Serve::start(&format!("{}{settings}", ruff.settings())).await;
    let mut client = serve.coordinator();
    let (_, runs) = planned(&mut client, of_project("p")).await;
    assert!(runs);
    let second = started(&mut client, of_project("p")).await;
    let refused = client.start_run(start(of_project("p"))).await.expect_err("the third");
    assert_error(&refused, Code::ResourceExhausted, "LIMIT_REACHED");
    assert!(refused.message().contains("queue.max_runs_per_project"), "{refused:?}");
    let details = refused.get_error_details();
    assert_eq!(details.error_info().expect("info").metadata["limit"], "2");
    assert!(details.retry_info().expect("retry info").retry_delay.is_some());
    let (other, runs) = planned(&mut client, of_project("q")).await;
    assert!(runs, "the core that the first project may not have");
    let waits = get(&mut client, &second).await.progress.expect("progress");
    assert_eq!((waits.waiting_tasks, waits.running_tasks), (1, 0), "the project's one task runs");
    ruff.open();
    for run in [&second, &other] {
        assert_eq!(finished(&watched(&mut client, run, 0).await).outcome(), Outcome::Clean);
    }
}
