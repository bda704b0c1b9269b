//! TLS where there should be none, none where there should be, and certificates that do not hold: told in words that help.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Output;

use lintmesh::transport::tls;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;

use super::support::serve::lintmesh;

/// A certificate for the names; `change` makes it a bad one. Its file, and a server that shows it.
async fn server(
    dir: &Path,
    names: &[&str],
    change: impl FnOnce(&mut CertificateParams),
) -> (SocketAddr, PathBuf) {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("names");
    change(&mut params);
    let key = KeyPair::generate().expect("a key");
    let own = params.self_signed(&key).expect("a certificate");
    let config = tls::server_config(own.pem().as_bytes(), key.serialize_pem().as_bytes(), None);
    let acceptor = tokio_rustls::TlsAcceptor::from(config.expect("they belong together"));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let file = dir.join(format!("{}.pem", address.port()));
    std::fs::write(&file, own.pem()).expect("written");
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            // Nobody gets beyond the handshake.
            tokio::spawn(async move { acceptor.accept(tcp).await.map(drop) });
        }
    });
    (address, file)
}

async fn run(folder: &Path, arguments: &[&str], ca: Option<&Path>) -> Output {
    let mut command = lintmesh();
    command.args(arguments).current_dir(folder);
    if let Some(ca) = ca {
        command.arg("--ca").arg(ca);
    }
    tokio::task::spawn_blocking(move || command.output()).await.expect("no panic").expect("built")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn plain_text_to_a_server_that_wants_tls_is_told_at_once() {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(dir.path().join("a.py"), "").expect("written");
    let (address, _) = server(dir.path(), &["127.0.0.1"], |_| {}).await;
    let url = format!("http://{address}");
    for command in [&["lint"][..], &["runs"], &["watch", "run-1"], &["report", "run-1"]] {
        let output = run(dir.path(), &[command, &["--server", &url]].concat(), None).await;
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{command:?}: {text}");
        assert!(text.contains("does the server want https://?"), "{command:?}: {text}");
        assert!(!text.contains("trying again") && !text.contains("h2"), "{command:?}: {text}");
    }
}

#[tokio::test]
async fn a_server_that_only_goes_away_is_waited_for() {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(dir.path().join("a.py"), "").expect("written");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let _ = tcp.read(&mut [0; 1024]).await;
        }
    });
    let output = run(dir.path(), &["lint", "--server", &url, "--reconnect", "1s"], None).await;
    let text = stderr(&output);
    assert!(text.contains("trying again for 1 s") && !text.contains("https://"), "{text}");
}

#[tokio::test]
async fn a_certificate_that_does_not_hold_is_told_with_its_remedy() {
    let dir = tempfile::tempdir().expect("a folder");
    let (fine, own) = server(dir.path(), &["127.0.0.1"], |_| {}).await;
    let (other, other_own) = server(dir.path(), &["lint.example.org"], |_| {}).await;
    let authority = |params: &mut CertificateParams| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let (authority, authority_own) = server(dir.path(), &["127.0.0.1"], authority).await;
    let expired = |params: &mut CertificateParams| {
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(2002, 1, 1);
    };
    let (expired, expired_own) = server(dir.path(), &["127.0.0.1"], expired).await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let plain = tonic::transport::Server::builder().add_service(tonic_health::server::health_reporter().1);
    listener.set_nonblocking(true).expect("set");
    let plain_address = listener.local_addr().expect("bound");
    let incoming = TcpListener::from_std(listener).expect("registered");
    tokio::spawn(plain.serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(incoming)));

    for (address, ca, reason, remedy) in [
        (fine, &other_own, "no authority that is known here", "--ca FILE"),
        (other, &other_own, "for another name", "subject alternative names"),
        (authority, &authority_own, "CA:TRUE", "CA:FALSE"),
        (expired, &expired_own, "has expired", "clock"),
        (plain_address, &own, "does not speak TLS", "use http://"),
    ] {
        let url = format!("https://{address}");
        let output = run(dir.path(), &["runs", "--server", &url], Some(ca)).await;
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.starts_with(&format!("error: cannot connect to {url}/: ")), "{text}");
        let first = text.lines().next().expect("a line");
        assert!(first.contains(reason) && text.lines().count() == 2 && text.contains(remedy), "{text}");
        assert!(!text.contains("is the server running there"), "{text}");
    }
}
