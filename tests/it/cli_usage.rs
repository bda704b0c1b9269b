//! What the command line does without a mesh: its help, its refusals, its exit codes.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic_health::ServingStatus;

/// Runs the binary in `folder`, with nothing of the tester's environment that it would read.
fn lintmesh(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lintmesh"))
        .args(arguments)
        .current_dir(folder)
        .env_clear()
        .env("HOME", folder)
        .output()
        .unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("it exits by itself")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn help_explains_each_command_with_its_exit_codes() {
    let here = folder();
    let top = lintmesh(here.path(), &["--help"]);
    assert_eq!(code(&top), 0);
    for word in [
        "lint",
        "serve",
        "status",
        "doctor",
        "explain",
        "fault",
        "runs",
        "watch",
        "cancel",
        "report",
        "healthcheck",
    ] {
        assert!(stdout(&top).lines().any(|line| line.trim_start().starts_with(word)), "{word}");
        assert_eq!(code(&lintmesh(here.path(), &[word, "--help"])), 0, "{word}");
    }
    assert!(!stdout(&top).contains("exec"), "the shim is hidden");
    for command in ["watch", "status", "doctor", "explain", "fault", "healthcheck"] {
        let help = stdout(&lintmesh(here.path(), &[command, "--help"]));
        assert!(help.contains("Exit codes:"), "{command}: {help}");
    }
    let lint = stdout(&lintmesh(here.path(), &["lint", "--help"]));
    assert!(
        lint.contains("Exit codes:") && lint.contains("--fail-on") && lint.contains("Examples:"),
        "{lint}"
    );
}

#[test]
fn an_error_that_nobody_reads_keeps_its_exit_code() {
    let here = folder();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let status = Command::new(env!("CARGO_BIN_EXE_lintmesh"))
        .args(["lint", "no-such-folder"])
        .current_dir(here.path())
        .env_clear()
        .env("HOME", here.path())
        .stderr(writer)
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(2), "a panic would be 101");
}

#[test]
fn wrong_usage_is_exit_2_and_names_the_argument() {
    let here = folder();
    for (arguments, named) in [
        (&["frobnicate"][..], "frobnicate"),
        (&["lint", "--formt", "json"], "--formt"),
        (&["lint", "--format", "xml"], "use full, concise, json"),
        (&["lint", "--fail-on", "severe"], "critical"),
        (&["lint", "--output", "report.json"], "FORMAT=FILE"),
        (&["lint", "--output", "json=a", "--output", "sarif=a"], "a twice"),
        (&["lint", "--option", "max-line-length=100"], "TOOL.NAME=VALUE"),
        (&["lint", "--timeout", "soon"], "30s"),
        (&["lint", "--select-tools", "Flake 8"], "--select-tools"),
        (&["lint", "--config", "none.toml"], "none.toml"),
        (&["fault", "explode", "backend-dev"], "explode"),
        (&["status", "--server", "ftp://x"], "http://HOST:PORT"),
    ] {
        let output = lintmesh(here.path(), arguments);
        assert_eq!(code(&output), 2, "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(named), "{arguments:?}: {}", stderr(&output));
        assert!(stdout(&output).is_empty(), "{arguments:?}");
    }
}

#[test]
fn a_bad_log_filter_is_one_clear_line() {
    let here = folder();
    let output = Command::new(env!("CARGO_BIN_EXE_lintmesh"))
        .args(["lint"])
        .current_dir(here.path())
        .env("MESH_LOG_LEVEL", "loud")
        .output()
        .unwrap();
    assert_eq!(code(&output), 2);
    let text = stderr(&output);
    assert!(text.starts_with("error: MESH_LOG_LEVEL `loud`") && text.lines().count() == 1, "{text}");
    // To a probe 2 means that there is no connection.
    let mut probe = Command::new(env!("CARGO_BIN_EXE_lintmesh"));
    let output = probe.arg("healthcheck").env("MESH_LOG_LEVEL", "loud").output().unwrap();
    assert_eq!(code(&output), 1, "{}", stderr(&output));
}

#[test]
fn paths_that_do_not_exist_are_named_together() {
    let here = folder();
    std::fs::write(here.path().join("a.py"), "x = 1\n").unwrap();
    let output = lintmesh(here.path(), &["lint", "a.py", "none.py", "gone/deeper", "--", "-odd.py"]);
    assert_eq!(code(&output), 2);
    let text = stderr(&output);
    for path in ["none.py", "gone/deeper", "-odd.py"] {
        assert!(text.contains(path), "{text}");
    }
    assert!(text.contains("do not exist") && !text.contains("a.py,"), "{text}");
}

#[test]
fn nothing_to_lint_is_success_and_says_so() {
    let here = folder();
    std::fs::write(here.path().join("README.md"), "# no Python\n").unwrap();
    std::fs::create_dir(here.path().join("sub")).unwrap();
    std::fs::write(here.path().join("sub/generated.py"), "x = 1\n").unwrap();
    let output = lintmesh(here.path(), &["lint", "--exclude", "generated.py", "sub", "."]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert_eq!(stderr(&output), "nothing to lint: no Python file in sub, .\n");
    assert!(stdout(&output).is_empty());
    let quiet = lintmesh(here.path(), &["lint", "--quiet", "README.md", "--exclude", "*"]);
    assert!(stdout(&quiet).is_empty());
}

#[test]
fn a_named_file_that_is_excluded_is_left_out_if_that_is_forced() {
    let here = folder();
    std::fs::write(here.path().join("lintmesh.toml"), "[lint]\nexclude = [\"generated.py\"]\n").unwrap();
    std::fs::write(here.path().join("generated.py"), "x = 1\n").unwrap();
    let output = lintmesh(here.path(), &["lint", "--force-exclude", "generated.py"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert_eq!(stderr(&output), "nothing to lint: no Python file in generated.py\n");
}

#[test]
fn settings_that_are_wrong_are_refused_all_at_once() {
    let here = folder();
    std::fs::write(here.path().join("a.py"), "x = 1\n").unwrap();
    let toml = "[lint]\nformat = \"xml\"\nfail_onn = \"HIGH\"\n";
    std::fs::write(here.path().join("lintmesh.toml"), toml).unwrap();
    let output = lintmesh(here.path(), &["lint"]);
    assert_eq!(code(&output), 2);
    let text = stderr(&output);
    for part in ["lintmesh.toml", "lint.format = \"xml\"", "lint.fail_onn"] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn the_schema_is_json() {
    let here = folder();
    let output = lintmesh(here.path(), &["schema"]);
    assert_eq!(code(&output), 0);
    let schema: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(schema["properties"]["result"].is_object(), "{schema}");
}

#[test]
fn a_closed_standard_output_ends_quietly() {
    let here = folder();
    let shell = format!("'{}' schema | true", env!("CARGO_BIN_EXE_lintmesh"));
    let output = Command::new("sh").args(["-c", &shell]).current_dir(here.path()).output().unwrap();
    assert_eq!(stderr(&output), "");
}

#[test]
fn no_server_is_told_with_its_url_and_a_remedy() {
    let here = folder();
    let url = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    std::fs::write(here.path().join("a.py"), "x = 1\n").unwrap();
    for arguments in
        [&["status"][..], &["runs"], &["cancel", "r"], &["report", "r"], &["watch", "r"], &["lint"]]
    {
        let output = lintmesh(here.path(), &[arguments, &["--server", &url]].concat());
        assert_eq!(code(&output), 2, "{arguments:?}");
        let text = stderr(&output);
        assert!(text.contains(&url) && text.contains("connection refused"), "{text}");
        assert!(text.contains("lintmesh serve"), "{text}");
    }
}

#[test]
fn doctor_says_all_that_is_wrong_as_text_and_as_json() {
    let here = folder();
    std::fs::write(
        here.path().join("lintmesh.toml"),
        "[server]\nlisten = \"nowhere\"\n[mesh]\nheartbeat_intervall = 1\n",
    )
    .unwrap();
    let output = lintmesh(here.path(), &["doctor", "--json", "--skip-toolchain"]);
    assert_eq!(code(&output), 1, "{}", stderr(&output));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["ok"], &report["result"]), (&false.into(), &"failed".into()));
    let sections = report["sections"].as_array().unwrap();
    let of = |name: &str| sections.iter().find(|section| section["section"] == name).unwrap();
    let problems = of("configuration")["checks"].as_array().unwrap();
    let named: Vec<_> = problems.iter().map(|check| check["name"].as_str().unwrap()).collect();
    assert!(named.contains(&"server.listen") && named.contains(&"mesh.heartbeat_intervall"), "{named:?}");
    assert!(problems.iter().all(|check| check["remedy"] != ""), "{problems:?}");
    assert!(!of("sandbox")["checks"].as_array().unwrap().is_empty());
}

#[test]
fn doctor_finds_nothing_wrong_where_nothing_is_and_names_who_has_a_port() {
    let here = folder();
    let settings = |listen: &str| {
        let text = format!("[server]\nlisten = \"{listen}\"\nadmin_listen = \"127.0.0.1:0\"\n");
        std::fs::write(here.path().join("lintmesh.toml"), text).unwrap();
    };
    settings("127.0.0.1:0");
    // Warnings are about the machine: a kernel without Landlock, a disk that is nearly full.
    let fine = |output: &Output| matches!(code(output), 0 | 4);
    let output = lintmesh(here.path(), &["doctor", "--skip-toolchain"]);
    let text = stdout(&output);
    assert!(fine(&output), "{text}");
    assert!(text.contains("valid: ") && text.contains("any free port"), "{text}");
    assert!(text.lines().all(|line| !line.contains('\u{1b}')), "{text:?}");
    let state = here.path().join("elsewhere").display().to_string();
    let output = lintmesh(here.path(), &["doctor", "--skip-toolchain", "--state-dir", &state]);
    assert!(fine(&output) && stdout(&output).contains(&state), "{}", stdout(&output));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    settings(&listener.local_addr().unwrap().to_string());
    let output = lintmesh(here.path(), &["doctor", "--skip-toolchain", "--json"]);
    assert_eq!(code(&output), 4, "{}", stdout(&output));
    let own = format!("process {}", std::process::id());
    assert!(stdout(&output).contains(&own), "{}", stdout(&output));
}

#[test]
fn doctor_fails_if_a_server_that_is_needed_is_not_there() {
    let here = folder();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let output = lintmesh(here.path(), &["doctor", "--skip-toolchain", "--server", &url]);
    assert_eq!(code(&output), 1, "{}", stdout(&output));
    assert!(stdout(&output).contains("connection refused"), "{}", stdout(&output));
    let settings = format!("[server]\nlisten = \"{}\"\n", url.trim_start_matches("http://"));
    std::fs::write(here.path().join("lintmesh.toml"), settings).unwrap();
    let output = lintmesh(here.path(), &["doctor", "--skip-toolchain", "--node", "backend-dev"]);
    assert_eq!(code(&output), 1, "a node is asked about: {}", stdout(&output));
}

/// A health service that knows `good`, `bad` and nothing else.
async fn health_server() -> SocketAddr {
    let (reporter, service) = tonic_health::server::health_reporter();
    reporter.set_service_status("readiness", ServingStatus::Serving).await;
    reporter.set_service_status("bad", ServingStatus::NotServing).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let incoming = TcpListenerStream::new(listener);
    tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
    address
}

async fn probe(arguments: Vec<String>) -> i32 {
    tokio::task::spawn_blocking(move || {
        let here = folder();
        let mut all = vec!["healthcheck"];
        all.extend(arguments.iter().map(String::as_str));
        code(&lintmesh(here.path(), &all))
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn healthcheck_has_the_exit_codes_of_grpc_health_probe() {
    let address = health_server().await.to_string();
    let at = |more: &[&str]| {
        let all = ["--addr", &address, "--timeout", "10s"].into_iter().chain(more.iter().copied());
        all.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(probe(at(&[])).await, 0, "serving");
    assert_eq!(probe(at(&["--service", "bad"])).await, 4, "not serving");
    assert_eq!(probe(at(&["--service", "unknown"])).await, 3, "NOT_FOUND");
    assert_eq!(probe(at(&["--sevice", "readiness"])).await, 1, "bad flag");
    assert_eq!(probe(vec!["--addr".into(), "not a url".into()]).await, 1, "bad address");
    assert_eq!(probe(vec!["--addr".into(), "127.0.0.1:1".into()]).await, 2, "nobody listens");
}

#[tokio::test]
async fn healthcheck_does_not_wait_for_a_server_that_never_answers() {
    // Connections are taken by the system, and nobody ever reads from them.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let ended = tokio::time::timeout(
        Duration::from_secs(60),
        probe(vec!["--addr".into(), address, "--timeout".into(), "200ms".into()]),
    );
    assert!(matches!(ended.await.unwrap(), 2 | 3));
}

#[tokio::test]
async fn healthcheck_asks_the_admin_listener_of_the_settings() {
    let address = health_server().await;
    let exit = tokio::task::spawn_blocking(move || {
        let here = folder();
        let toml = format!("[server]\nadmin_listen = \"0.0.0.0:{}\"\n", address.port());
        std::fs::write(here.path().join("lintmesh.toml"), toml).unwrap();
        code(&lintmesh(here.path(), &["healthcheck", "--timeout", "10s"]))
    });
    assert_eq!(exit.await.unwrap(), 0);
}
