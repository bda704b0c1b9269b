//! A page in a browser on the server's machine can send HTTP/1 to its ports; it reaches nobody.

use std::net::SocketAddr;

use lintmesh::proto::v1::{FaultAction, HandleFaultRequest};
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::metrics::scrape;
use super::support::serve::{DEADLINE, Serve};

/// What a page sends that calls `fetch` with a gRPC message as body; answers all that comes back.
async fn fetched(address: SocketAddr, path: &str, message: &[u8]) -> String {
    let mut body = vec![0];
    body.extend(u32::try_from(message.len()).expect("short").to_be_bytes());
    body.extend(message);
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: {address}\r\norigin: http://page.example\r\ncontent-type: text/plain\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    let mut socket = TcpStream::connect(address).await.expect("it listens");
    socket.write_all(&[head.as_bytes(), &body].concat()).await.expect("sent");
    let mut answer = String::new();
    let read = tokio::time::timeout(DEADLINE, socket.read_to_string(&mut answer)).await.expect("closed");
    read.expect("closed in order");
    answer
}

#[tokio::test]
async fn calls_over_http1_are_refused_and_counted_and_have_no_effect() {
    let serve = Serve::launch("", &["--launch", "external"]).await;
    let node = "backend-dev";
    let before = serve.node(node).await.status;
    let fault =
        HandleFaultRequest { action: FaultAction::Fail.into(), node_id: node.into(), ..Default::default() };
    let path = "/lintmesh.v1.CoordinatorService/HandleFault";
    for address in [serve.api, serve.node_listener] {
        let answer = fetched(address, path, &fault.encode_to_vec()).await;
        assert!(answer.starts_with("HTTP/1.1 505 ") && answer.contains("gRPC"), "{answer}");
        // Nothing that would let the page read it.
        assert!(!answer.to_ascii_lowercase().contains("access-control"), "{answer}");
    }
    assert_eq!(serve.node(node).await.status, before, "it was not failed");
    let counted = "lintmesh_refused_connections_total{reason=\"NOT_HTTP2\"} 2";
    let lines = scrape(&serve).await;
    assert!(lines.iter().any(|line| line == counted), "{lines:?}");
    serve.coordinator().handle_fault(fault).await.expect("over HTTP/2 it is done");
    assert_ne!(serve.node(node).await.status, before);
}
