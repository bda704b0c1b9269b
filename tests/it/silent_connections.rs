//! Connections that say nothing cost nothing for long, and never hold up a shutdown.

use std::time::Duration;

use lintmesh::server::stack::{self, InboundLimits};
use lintmesh::transport::tls;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};
use tonic_health::pb::health_client::HealthClient;

use crate::rig::{Server, fixed_bits, open_gate, options, request, routes};

/// Far more than a shutdown may take here, far less than for ever.
const LONG: Duration = Duration::from_secs(20);

fn inbound() -> stack::Inbound {
    stack::api(routes(&open_gate()), Vec::new(), InboundLimits::default(), fixed_bits())
}

#[tokio::test]
async fn a_silent_connection_is_closed_by_the_server() {
    let mut options = options();
    options.limits.first_byte_timeout = Duration::from_millis(100);
    let server = Server::start(inbound(), options).await;
    let mut silent = TcpStream::connect(server.addr).await.expect("the server listens");
    let read = tokio::time::timeout(LONG, silent.read(&mut [0; 1])).await.expect("closed");
    assert_eq!(read.expect("closed in order"), 0);
}

#[tokio::test]
async fn neither_silent_connections_nor_open_watches_hold_up_the_shutdown() {
    let server = Server::start(inbound(), options()).await;
    let silent = TcpStream::connect(server.addr).await.expect("the server listens");
    let mut client = HealthClient::new(server.channel().await);
    let mut watch = client.watch(request()).await.expect("open").into_inner();
    watch.message().await.expect("alive").expect("the first status");

    server.shutdown.cancel();
    let served = tokio::time::timeout(LONG, server.served).await.expect("ends").expect("no panic");
    assert_eq!(served.aborted, 1, "the watch never ends by itself; the silent one does not count");
    assert!(watch.message().await.is_err(), "its client is told");
    drop(silent);
}

#[tokio::test]
async fn the_admin_listener_answers_plain_http_probes_and_grpc_ones() {
    let routes = tonic::service::Routes::from(
        routes(&open_gate()).into_axum_router().route("/livez", axum::routing::get(|| async { "alive" })),
    );
    let mut options = options();
    options.allow_http1 = true;
    let server = Server::start(stack::admin(routes, 8, fixed_bits()), options).await;
    let mut http = TcpStream::connect(server.addr).await.expect("the server listens");
    let get = b"GET /livez HTTP/1.1\r\nhost: probe\r\nconnection: close\r\n\r\n";
    http.write_all(get).await.expect("sent");
    let mut answer = String::new();
    http.read_to_string(&mut answer).await.expect("closed in order");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("alive"), "{answer}");
    HealthClient::new(server.channel().await).check(request()).await.expect("serving");
}

#[tokio::test]
async fn tls_serves_grpc_and_takes_new_certificates_without_a_restart() {
    let make = || rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let config = |own: &rcgen::CertifiedKey<rcgen::KeyPair>| {
        let (chain, key) = (own.cert.pem(), own.signing_key.serialize_pem());
        tls::server_config(chain.as_bytes(), key.as_bytes(), None).expect("a valid certificate")
    };
    let (old, new) = (make(), make());
    let (configs, watched) = watch::channel(config(&old));
    let mut options = options();
    options.tls = Some(watched);
    let server = Server::start(inbound(), options).await;
    let connect = |trusted: String| {
        let tls =
            ClientTlsConfig::new().ca_certificate(Certificate::from_pem(trusted)).domain_name("localhost");
        let url = format!("https://{}", server.addr);
        Endpoint::from_shared(url).expect("a valid address").tls_config(tls).expect("a valid authority")
    };
    let channel = connect(old.cert.pem()).connect().await.expect("the old one is trusted");
    HealthClient::new(channel).check(request()).await.expect("serving");

    configs.send(config(&new)).expect("the server listens");
    connect(old.cert.pem()).connect().await.expect_err("the old one is no longer shown");
    let channel = connect(new.cert.pem()).connect().await.expect("the new one is shown");
    HealthClient::new(channel).check(request()).await.expect("serving");
}
