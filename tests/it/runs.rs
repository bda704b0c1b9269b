//! A run by the API: its tree, its events, its report, its end.

mod endings;
mod events;
mod reports;

use lintmesh::proto::v1::run_event::Event;
use lintmesh::proto::v1::*;
use lintmesh::types::Digest;
use tonic::Code;
use tonic_types::StatusExt as _;

use super::support::calls::*;
use super::support::linters::GatedRuff;
use super::support::serve::{Serve, until};

const FILES: [(&str, &str); 3] = [
    ("pkg/a.py", "import os\nimport sys\n\n\ndef f(x):\n    return eval(x)\n"),
    ("pkg/b.py", "def g():\n    y = 1\n    return undefined\n"),
    ("pyproject.toml", "[tool.ruff]\nline-length = 100\n"),
];

#[tokio::test]
async fn the_same_tree_gives_the_same_result_inline_as_snapshot_and_by_path() {
    let root = tempfile::tempdir().expect("a folder");
    for (path, text) in FILES {
        let path = root.path().join(path);
        std::fs::create_dir_all(path.parent().expect("beneath")).expect("created");
        std::fs::write(path, text).expect("written");
    }
    let folder = root.path().canonicalize().expect("there");
    let folder = folder.to_str().expect("UTF-8");
    let serve = Serve::start(&format!("[workspace]\nallowed_roots = [{folder:?}]\n")).await;
    let mut client = serve.coordinator();

    let mut workspaces = vec![inline(&FILES), path(folder)];
    let bytes = FILES.map(|(path, text)| (path, text.as_bytes()));
    let (manifest, mut blobs) = manifest_of(&bytes);
    blobs.push(manifest.clone());
    let mut store = serve.workspace();
    let done = upload(&mut store, &blobs).await.expect("stored");
    assert_eq!(done.blobs, 4);
    assert!(missing(&mut store, &blobs).await.is_empty());
    workspaces.push(snapshot(&Digest::of(&manifest).to_string()));

    let mut results = Vec::new();
    for workspace in workspaces {
        let events = run(&mut client, request(workspace, &["ruff", "flake8", "bandit"])).await;
        let finished = finished(&events);
        assert_eq!(finished.outcome(), Outcome::Findings, "{finished:?}");
        let summary = finished.summary.expect("counts");
        assert_eq!(summary.files, 2);
        assert_eq!(summary.by_tool.keys().collect::<Vec<_>>(), ["bandit", "flake8", "ruff"]);
        let result = report(&mut client, &events[0].run_id, ReportFormat::Result).await.expect("a report");
        assert_eq!(Digest::of(&result).to_string(), finished.report_digest);
        results.push(String::from_utf8(result).expect("JSON"));
    }
    assert!(results[0].contains("F821"), "{}", results[0]);
    assert_eq!(results[0], results[1]);
    assert_eq!(results[0], results[2]);
}

#[tokio::test]
async fn a_request_id_starts_one_run() {
    let serve = Serve::start("").await;
    let mut client = serve.coordinator();
    let asked = CoordinateRequest {
        request_id: "build 7".into(),
        ..request(inline(&[("a.py", "import os\n")]), &["ruff"])
    };
    let first = run(&mut client, asked.clone()).await;
    let second = run(&mut client, asked.clone()).await;
    assert_eq!(recorded(&first), recorded(&second), "attached to the same run");
    let by_start = started(&mut client, asked.clone()).await;
    assert_eq!(by_start, first[0].run_id);
    let other = CoordinateRequest { project: "another".into(), ..asked.clone() };
    let refused = client.coordinate(other).await.expect_err("another body");
    assert_error(&refused, Code::InvalidArgument, "REQUEST_ID_REUSED");
    let anonymous = CoordinateRequest { request_id: String::new(), ..asked };
    let third = started(&mut client, anonymous.clone()).await;
    let fourth = started(&mut client, anonymous).await;
    assert!(third != fourth && third != by_start);
}

#[tokio::test]
async fn concurrent_requests_with_one_id_start_one_run() {
    let serve = Serve::start("").await;
    let asked = CoordinateRequest {
        request_id: "once".into(),
        ..request(inline(&[("a.py", "import os\n")]), &["ruff"])
    };
    let calls = (0..16).map(|_| {
        let (mut client, asked) = (serve.coordinator(), asked.clone());
        tokio::spawn(async move { started(&mut client, asked).await })
    });
    let mut ids = Vec::new();
    for call in calls.collect::<Vec<_>>() {
        ids.push(call.await.expect("no panic"));
    }
    ids.dedup();
    assert_eq!(ids.len(), 1, "{ids:?}");
    let listed = serve.coordinator().list_runs(ListRunsRequest::default()).await.expect("listed");
    assert_eq!(listed.into_inner().runs.len(), 1);
}

#[tokio::test]
async fn tools_and_their_options_are_the_requests_to_choose() {
    let serve = Serve::start("").await;
    let mut client = serve.coordinator();
    let long = format!("X = '{}'\n", "x".repeat(90));
    let tree = inline(&[("a.py", &long)]);
    let mut asked = request(tree.clone(), &["flake8"]);
    let events = run(&mut client, asked.clone()).await;
    let codes = |events: &[RunEvent]| -> Vec<String> {
        let batches = events.iter().filter_map(|event| match &event.event {
            Some(Event::Diagnostics(batch)) => Some(batch.diagnostics.iter()),
            _ => None,
        });
        batches.flatten().map(|diagnostic| diagnostic.code.clone()).collect()
    };
    assert_eq!(codes(&events), ["E501"]);
    asked.tools[0].options.insert("max-line-length".into(), "120".into());
    let events = run(&mut client, asked).await;
    assert_eq!(finished(&events).outcome(), Outcome::Clean);
    assert!(codes(&events).is_empty());
    // None named means all five.
    let all = run(&mut client, request(tree, &[])).await;
    let Some(Event::Started(begun)) = &all[0].event else { panic!("{:?}", all[0]) };
    assert_eq!(begun.tools, ["bandit", "flake8", "mypy", "pylint", "ruff"]);
    assert_eq!(finished(&all).summary.expect("counts").tool_errors, Default::default());
}

#[tokio::test]
async fn runs_are_listed_newest_first_in_pages_and_by_filter() {
    let ruff = GatedRuff::new();
    let serve = Serve::start(&ruff.settings()).await;
    // At the same time, so that many start within one millisecond.
    let calls: Vec<_> = (0..12)
        .map(|number| {
            let mut client = serve.coordinator();
            let project = if number % 2 == 0 { "even" } else { "odd" }.to_owned();
            let asked = CoordinateRequest { project, ..request(inline(&[("a.py", "")]), &["ruff"]) };
            tokio::spawn(async move { started(&mut client, asked).await })
        })
        .collect();
    let mut ids = Vec::new();
    for call in calls {
        ids.push(call.await.expect("no panic"));
    }
    ids.sort();
    let mut client = serve.coordinator();
    let mut pages = async |filter: ListRunsRequest| {
        let (mut seen, mut token) = (Vec::new(), String::new());
        loop {
            let asked = ListRunsRequest { page_token: token, ..filter.clone() };
            let page = client.list_runs(asked).await.expect("a page").into_inner();
            let size = if filter.page_size == 0 { 50 } else { filter.page_size as usize };
            assert!(page.runs.len() <= size);
            seen.extend(page.runs);
            token = page.next_page_token;
            if token.is_empty() {
                return seen;
            }
        }
    };
    let whole: Vec<_> = pages(ListRunsRequest::default()).await.into_iter().map(|run| run.run_id).collect();
    let mut sorted = whole.clone();
    sorted.sort();
    assert_eq!(sorted, ids, "each once");
    for page_size in [1, 5, 12, 600] {
        let listed = pages(ListRunsRequest { page_size, ..Default::default() }).await;
        let listed: Vec<_> = listed.into_iter().map(|run| run.run_id).collect();
        assert_eq!(listed, whole, "pages of {page_size}");
    }
    let even = pages(ListRunsRequest { project: "even".into(), page_size: 4, ..Default::default() }).await;
    assert_eq!(even.len(), 6);
    assert!(even.iter().all(|run| run.project == "even"));
    let finished = |state: RunState| ListRunsRequest { state: state.into(), ..Default::default() };
    assert_eq!(pages(finished(RunState::Open)).await.len(), 12);
    assert_eq!(pages(finished(RunState::Finished)).await.len(), 0);
    ruff.open();
    let mut other = serve.coordinator();
    for id in &ids {
        watched(&mut other, id, 0).await;
    }
    assert_eq!(pages(finished(RunState::Open)).await.len(), 0);
    let ended = pages(finished(RunState::Finished)).await;
    assert_eq!(ended.len(), 12);
    assert!(ended.iter().all(|run| run.end_time.is_some() && run.outcome() == Outcome::Clean));
}

#[tokio::test]
async fn get_run_tells_how_far_it_is() {
    let ruff = GatedRuff::new();
    let serve = Serve::start(&ruff.settings()).await;
    let mut client = serve.coordinator();
    let asked = CoordinateRequest { project: "p".into(), ..request(inline(&[("a.py", "")]), &["ruff"]) };
    let run_id = started(&mut client, asked).await;
    until("ruff runs", || ruff.running() == 2).await;
    let get = GetRunRequest { run_id: run_id.clone() };
    let open = client.get_run(get.clone()).await.expect("known").into_inner().run.expect("a run");
    assert_eq!((open.state(), open.outcome()), (RunState::Open, Outcome::Unspecified));
    assert!(open.start_time.is_some() && open.end_time.is_none() && open.summary.is_none());
    let ruff_so_far = open.progress.expect("progress").tools["ruff"];
    assert_eq!((ruff_so_far.queued, ruff_so_far.running, ruff_so_far.done), (0, 1, 0));
    ruff.open();
    let events = watched(&mut client, &run_id, 0).await;
    let ended = client.get_run(get).await.expect("known").into_inner().run.expect("a run");
    assert_eq!((ended.state(), ended.outcome()), (RunState::Finished, Outcome::Clean));
    assert_eq!(ended.last_sequence, events.last().expect("some").sequence);
    assert_eq!(ended.report_digest, finished(&events).report_digest);
    assert_eq!(ended.summary, finished(&events).summary);
    assert_eq!(ended.progress.expect("progress").tools["ruff"].progress, 1.0);
}

#[tokio::test]
async fn a_request_can_set_severities_and_bad_ones_are_named() {
    let server = Serve::start("").await;
    let mut client = server.coordinator();
    let files = inline(&[("a.py", "import os\n")]);
    let asked = CoordinateRequest {
        severities: [("ruff:F401".to_owned(), Severity::Critical.into())].into(),
        ..request(files.clone(), &["ruff"])
    };
    let events = run(&mut client, asked).await;
    let severities: Vec<Severity> = events
        .iter()
        .filter_map(|event| match &event.event {
            Some(Event::Diagnostics(batch)) => Some(&batch.diagnostics),
            _ => None,
        })
        .flatten()
        .filter(|diagnostic| diagnostic.code == "F401")
        .map(Diagnostic::severity)
        .collect();
    assert_eq!(severities, [Severity::Critical]);

    let wrong = CoordinateRequest {
        severities: [("F401".to_owned(), Severity::High.into()), ("ruff:F401".to_owned(), 77)].into(),
        ..request(files, &["ruff"])
    };
    let status = client.coordinate(wrong).await.expect_err("two bad entries");
    let fields = status.get_error_details().bad_request().expect("details").field_violations.clone();
    let fields: Vec<_> = fields.into_iter().map(|violation| violation.field).collect();
    assert_eq!(fields, ["severities[F401]", "severities[ruff:F401]"]);
}
