//! The API beyond loopback needs TLS and a token; tokens have roles; the command line speaks both.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Output;

use lintmesh::proto::v1::coordinator_service_client::CoordinatorServiceClient;
use lintmesh::proto::v1::*;
use lintmesh::types::Digest;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Status};

use super::support::calls::*;
use super::support::serve::{Serve, lintmesh, state_home};

/// A certificate for 127.0.0.1 that vouches for itself, and its key.
fn certificate(dir: &Path) -> (PathBuf, PathBuf) {
    let own = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
    let (cert, key) = (dir.join("cert.pem"), dir.join("key.pem"));
    std::fs::write(&cert, own.cert.pem()).expect("written");
    std::fs::write(&key, own.signing_key.serialize_pem()).expect("written");
    (cert, key)
}

fn tls_settings((cert, key): &(PathBuf, PathBuf)) -> String {
    format!("[server.tls]\ncert = {cert:?}\nkey = {key:?}\n")
}

fn tokens() -> String {
    let token = |role: &str| {
        let hash = Digest::of(format!("{role}-token").as_bytes());
        format!("[[auth.tokens]]\nname = \"{role}s\"\nrole = \"{role}\"\nsha256 = \"{hash}\"\n")
    };
    ["reader", "submitter", "operator"].map(token).concat()
}

fn bearing<T>(message: T, token: Option<&str>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(token) = token {
        let value: MetadataValue<Ascii> = format!("Bearer {token}").parse().expect("ASCII");
        request.metadata_mut().insert("authorization", value);
    }
    request
}

async fn secured(serve: &Serve, ca: &Path) -> CoordinatorServiceClient<Channel> {
    let ca = Certificate::from_pem(std::fs::read(ca).expect("there"));
    let endpoint = Endpoint::from_shared(format!("https://{}", serve.api)).expect("valid");
    let endpoint = endpoint.tls_config(ClientTlsConfig::new().ca_certificate(ca)).expect("valid");
    CoordinatorServiceClient::new(endpoint.connect().await.expect("it listens with TLS"))
}

#[tokio::test]
async fn beyond_loopback_the_server_does_not_start_without_tls_and_a_token() {
    let dir = tempfile::tempdir().expect("a folder");
    let certificate = certificate(dir.path());
    let file = dir.path().join("serve.toml");
    for (settings, flag) in [
        (String::new(), "--listen"),
        (tls_settings(&certificate), "--listen"),
        (tokens(), "--listen"),
        (tls_settings(&certificate) + &tokens(), "--node-listen"),
    ] {
        std::fs::write(&file, &settings).expect("written");
        let mut command = lintmesh();
        command.args(["serve", "--admin-listen", "127.0.0.1:0", flag, "0.0.0.0:0", "--config"]).arg(&file);
        let output = command.current_dir(dir.path()).output().expect("the binary is built");
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{settings}: {error}");
        let key = if flag == "--listen" { "server.listen" } else { "server.node_listen" };
        assert!(error.contains(key) && error.contains("server.tls"), "{error}");
    }
    // An address in use and a certificate that is none: one line each, and a hint.
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let taken = taken.local_addr().expect("bound").to_string();
    let nonsense = dir.path().join("nonsense.pem");
    std::fs::write(&nonsense, "nonsense").expect("written");
    let listener = TcpListener::bind(&taken);
    for (settings, listen, part) in [
        (String::new(), taken.as_str(), "server.listen"),
        (tls_settings(&(nonsense.clone(), nonsense.clone())), "127.0.0.1:0", "server.tls"),
    ] {
        std::fs::write(&file, &settings).expect("written");
        let mut command = lintmesh();
        command.args(["serve", "--launch", "external", "--admin-listen", "127.0.0.1:0", "--listen", listen]);
        command.env("XDG_STATE_HOME", state_home(dir.path()));
        let output = command.arg("--config").arg(&file).current_dir(dir.path()).output().expect("built");
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{error}");
        let mut lines = error.trim_end().lines();
        assert!(
            lines.next().is_some_and(|line| line.starts_with("error: ") && line.contains(part)),
            "{error}"
        );
        assert!(lines.all(|line| line.starts_with("  ")), "at most a hint beside it: {error}");
    }
    drop(listener);
}

#[tokio::test]
async fn roles_are_enforced_over_tls() {
    let dir = tempfile::tempdir().expect("a folder");
    let certificate = certificate(dir.path());
    let serve = Serve::launch(&(tls_settings(&certificate) + &tokens()), &["--launch", "external"]).await;
    let mut client = secured(&serve, &certificate.0).await;
    let codes = async |client: &mut CoordinatorServiceClient<Channel>, token: Option<&str>| {
        let code = |status: Option<Status>| {
            status.map(|status| {
                let reason = if status.code() == Code::Unauthenticated {
                    "CREDENTIALS_REFUSED"
                } else {
                    "ROLE_TOO_LOW"
                };
                if matches!(status.code(), Code::Unauthenticated | Code::PermissionDenied) {
                    assert_error(&status, status.code(), reason);
                }
                status.code()
            })
        };
        let read = client.list_runs(bearing(ListRunsRequest::default(), token)).await;
        let submit = client.start_run(bearing(StartRunRequest::default(), token)).await;
        let operate = client.handle_fault(bearing(HandleFaultRequest::default(), token)).await;
        [code(read.err()), code(submit.err()), code(operate.err())]
    };
    let (refused, denied) = (Some(Code::Unauthenticated), Some(Code::PermissionDenied));
    // Their requests are empty, so being let in means being told what is wrong with them.
    let let_in = Some(Code::InvalidArgument);
    for (token, expected) in [
        (None, [refused; 3]),
        (Some("guessed"), [refused; 3]),
        (Some("reader-token"), [None, denied, denied]),
        (Some("submitter-token"), [None, let_in, denied]),
        (Some("operator-token"), [None, let_in, let_in]),
    ] {
        assert_eq!(codes(&mut client, token).await, expected, "{token:?}");
    }
    // Plain text is not answered where TLS is on.
    serve.coordinator().list_runs(ListRunsRequest::default()).await.expect_err("plain text");
}

#[tokio::test]
async fn the_command_line_lints_over_tls_with_its_token() {
    let dir = tempfile::tempdir().expect("a folder");
    let certificate = certificate(dir.path());
    // The token must be good for submitting; requests of one holder do not meet those of another.
    let serve = Serve::launch(&(tls_settings(&certificate) + &tokens()), &[]).await;
    let mut client = secured(&serve, &certificate.0).await;
    let wait = Some(prost_types::Duration { seconds: 50, nanos: 0 });
    let asked = InitializeMeshRequest { wait, ..Default::default() };
    let mesh = client.initialize_mesh(bearing(asked, Some("operator-token"))).await.expect("answers");
    assert!(mesh.into_inner().ready, "nodes of the same machine join beside TLS");

    let tree = dir.path().join("tree");
    std::fs::create_dir(&tree).expect("created");
    std::fs::write(tree.join("a.py"), "import os\n").expect("written");
    let url = format!("https://{}", serve.api);
    let lint = async |token: &'static str, ca: Option<&Path>| -> Output {
        let mut command = lintmesh();
        command.args(["lint", ".", "--select-tools", "ruff", "--format", "concise", "--server", &url]);
        command.args(["--token", token]).current_dir(&tree);
        if let Some(ca) = ca {
            command.arg("--ca").arg(ca);
        }
        tokio::task::spawn_blocking(move || command.output()).await.expect("no panic").expect("built")
    };
    let text = |output: &Output| {
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    };
    let good = lint("submitter-token", Some(&certificate.0)).await;
    assert_eq!(good.status.code(), Some(1), "{}", text(&good));
    assert!(text(&good).contains("F401"), "{}", text(&good));
    for (token, ca) in [
        ("reader-token", Some(certificate.0.as_path())),
        ("guessed", Some(&certificate.0)),
        ("submitter-token", None),
    ] {
        let bad = lint(token, ca).await;
        assert_eq!(bad.status.code(), Some(2), "{token}: {}", text(&bad));
        assert!(!text(&bad).contains(token), "a token is not shown: {}", text(&bad));
    }

    let run = |id: &str| CoordinateRequest {
        request_id: id.into(),
        ..request(inline(&[("a.py", "import os\n")]), &["ruff"])
    };
    let mut ids = Vec::new();
    for token in ["submitter-token", "operator-token", "submitter-token"] {
        let answer = client.start_run(bearing(start(run("same")), Some(token))).await.expect("started");
        ids.push(answer.into_inner().run.expect("a run").run_id);
    }
    assert_eq!(ids[0], ids[2]);
    assert_ne!(ids[0], ids[1], "request ids belong to their caller");
}

#[tokio::test]
async fn doctor_finds_nothing_wrong_with_a_healthy_server_that_speaks_tls() {
    let dir = tempfile::tempdir().expect("a folder");
    let certificate = certificate(dir.path());
    let security = tls_settings(&certificate) + &tokens();
    let serve = Serve::launch(&security, &[]).await;
    let mut client = secured(&serve, &certificate.0).await;
    let wait = Some(prost_types::Duration { seconds: 50, nanos: 0 });
    let asked = InitializeMeshRequest { wait, ..Default::default() };
    let mesh = client.initialize_mesh(bearing(asked, Some("operator-token"))).await.expect("answers");
    assert!(mesh.into_inner().ready);

    // Its settings, with the ports that it has.
    let (file, Serve { api, admin, node_listener, .. }) = (dir.path().join("lintmesh.toml"), &serve);
    let ports =
        format!("listen = \"{api}\"\nadmin_listen = \"{admin}\"\nnode_listen = \"{node_listener}\"\n");
    std::fs::write(&file, format!("[server]\n{ports}{security}")).expect("written");
    let doctor = async |arguments: &[&str]| {
        let mut command = lintmesh();
        command.args(["doctor", "--json", "--skip-toolchain"]).args(arguments).current_dir(dir.path());
        let output = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic");
        let output = output.expect("the binary is built");
        // Warnings may be about the machine: a kernel without Landlock, a disk that is nearly full.
        assert!(matches!(output.status.code(), Some(0 | 4)), "{output:?}");
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        report["sections"].as_array().expect("sections").clone()
    };
    let of = |sections: &[serde_json::Value], name: &str| {
        sections.iter().find(|section| section["section"] == name).expect("there").clone()
    };
    let url = format!("https://{api}");
    let ca = certificate.0.display().to_string();
    let told = doctor(&["--server", &url, "--ca", &ca, "--token", "operator-token"]).await;
    for section in ["ports", "server", "communication"] {
        let section = of(&told, section);
        assert_eq!(section["result"], "passed", "{section}");
    }
    // Nobody named it, and the system's authorities do not know it: no fault, and the remedy is not another server.
    let told = doctor(&[]).await;
    let connection = of(&told, "server");
    assert_eq!(connection["result"], "not_measured", "{connection}");
    let remedy = connection["checks"][0]["remedy"].as_str().expect("text");
    assert!(remedy.contains("--ca FILE"), "{connection}");
}
