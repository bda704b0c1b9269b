//! What clients see of restarts of the coordinator: every recorded event once, the same answers, no run twice.

mod answers;
mod commands;
mod events;
mod kept;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use lintmesh::cli::connect::{Connection, connect};
use lintmesh::cli::follow::{FollowError, Manner, Start, Watcher, follow};
use lintmesh::cli::interrupt::Interrupt;
use lintmesh::cli::run_view::RunView;
use lintmesh::proto::v1::*;
use tokio::task::JoinHandle;
use tonic::Code;

use super::support::calls::*;
use super::support::coordinator::Coordinator;
use super::support::played_nodes::PlayedNodes;
use super::support::serve::{DEADLINE, until};

/// Runs that are followed with a patience that no test exhausts.
const PATIENT: Manner = Manner { cancel: false, patience: DEADLINE };

/// Writes down what it is told.
#[derive(Clone, Default)]
struct Told {
    events: Arc<Mutex<Vec<RunEvent>>>,
    notices: Arc<Mutex<Vec<String>>>,
}

impl Watcher for Told {
    fn event(&mut self, event: &RunEvent, _: &RunView) {
        self.events.lock().unwrap().push(event.clone());
    }

    fn notice(&mut self, text: &str) {
        self.notices.lock().unwrap().push(text.to_owned());
    }
}

impl Told {
    fn recorded(&self) -> Vec<RunEvent> {
        recorded(&self.events.lock().unwrap())
    }

    fn newest(&self) -> u64 {
        self.recorded().last().map_or(0, |event| event.sequence)
    }

    fn noticed(&self, text: &str) -> usize {
        self.notices.lock().unwrap().iter().filter(|notice| notice.contains(text)).count()
    }

    fn all(&self) -> String {
        self.notices.lock().unwrap().join("\n")
    }
}

type Following = JoinHandle<Result<RunFinished, FollowError>>;

/// Follows as the commands do.
fn following(
    connection: &Connection,
    start: Start,
    interrupt: &Interrupt,
    manner: Manner,
) -> (Told, Following) {
    let told = Told::default();
    let (connection, interrupt, mut watcher) = (connection.clone(), interrupt.clone(), told.clone());
    let following = tokio::spawn(async move {
        let mut view = RunView::default();
        follow(&connection, start, manner, &interrupt, &mut watcher, &mut view).await
    });
    (told, following)
}

async fn ended(following: Following) -> RunFinished {
    let ended = tokio::time::timeout(DEADLINE, following).await.expect("it ends").expect("no panic");
    ended.expect("to the end of the run")
}

fn asked(request_id: &str) -> CoordinateRequest {
    CoordinateRequest {
        request_id: request_id.to_owned(),
        project: "ledger".to_owned(),
        ..request(inline(&[("a.py", "import os\n")]), &["ruff"])
    }
}

/// Starts a run as soon as there are nodes to take it.
async fn begun(coordinator: &Coordinator, request: CoordinateRequest) -> String {
    let wait = prost_types::Duration { seconds: 50, nanos: 0 };
    let mesh = InitializeMeshRequest { wait: Some(wait), ..Default::default() };
    coordinator.client().initialize_mesh(mesh).await.expect("answers");
    started(&mut coordinator.client(), request).await
}

fn watch(run_id: &str, after_sequence: u64) -> Start {
    Start::Existing(WatchRunRequest { run_id: run_id.to_owned(), after_sequence })
}

/// The ids of the runs that fit, by pages of one.
async fn list(coordinator: &Coordinator, filter: ListRunsRequest) -> Vec<String> {
    let (mut ids, mut page_token) = (Vec::new(), String::new());
    loop {
        let asked = ListRunsRequest { page_size: 1, page_token, ..filter.clone() };
        let page = coordinator.client().list_runs(asked).await.expect("a page").into_inner();
        ids.extend(page.runs.into_iter().map(|run| run.run_id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return ids;
        }
    }
}
