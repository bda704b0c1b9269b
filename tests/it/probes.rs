//! Probes are told the truth: readiness follows the nodes, liveness the process.

use std::net::SocketAddr;
use std::time::Duration;

use lintmesh::proto::v1::{FaultAction, HandleFaultRequest};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_stream::StreamExt as _;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::support::serve::{DEADLINE, Serve, channel};

const READINESS: [&str; 5] = [
    "",
    "readiness",
    "lintmesh.v1.CoordinatorService",
    "lintmesh.v1.WorkspaceService",
    "lintmesh.peer.v1.NodeService",
];

fn named(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.to_owned() }
}

async fn check(address: SocketAddr, service: &str) -> ServingStatus {
    // As the kubelet does: plaintext, no credentials, one second.
    let mut request = tonic::Request::new(named(service));
    request.set_timeout(Duration::from_secs(1));
    let answer = HealthClient::new(channel(address)).check(request).await.expect("an answer");
    answer.into_inner().status()
}

/// The status and the text of a page.
pub(crate) async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut http = tokio::net::TcpStream::connect(address).await.expect("it listens");
    let request = format!("GET {path} HTTP/1.1\r\nhost: probe\r\nconnection: close\r\n\r\n");
    http.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    http.read_to_string(&mut answer).await.expect("closed in order");
    let code = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status line");
    (code, answer.rsplit("\r\n\r\n").next().expect("a body").to_owned())
}

#[tokio::test]
async fn readiness_is_serving_while_enough_nodes_are_active() {
    let serve = Serve::start("").await;
    for address in [serve.api, serve.admin] {
        for name in READINESS.iter().chain(&["liveness"]) {
            assert_eq!(check(address, name).await, ServingStatus::Serving, "{name:?}");
        }
        let unknown = HealthClient::new(channel(address)).check(named("no.such.Service")).await;
        assert_eq!(unknown.expect_err("unknown").code(), Code::NotFound);
    }
    assert_eq!(get(serve.admin, "/livez").await, (200, "live\n".into()));
    assert_eq!(get(serve.admin, "/readyz").await, (200, "ready: 4 of 4 nodes are ACTIVE\n".into()));
    assert_eq!(get(serve.admin, "/no-such-page").await.0, 404);

    // Two of four gone is more than fault_tolerance_level allows; watchers are told at once, and again when one is back.
    let mut watches = Vec::new();
    for address in [serve.api, serve.admin] {
        let mut watch =
            HealthClient::new(channel(address)).watch(named("readiness")).await.expect("open").into_inner();
        let first = watch.message().await.expect("alive").expect("at once");
        assert_eq!(first.status(), ServingStatus::Serving);
        watches.push(watch);
    }
    let mut client = serve.coordinator();
    let mut steps = [
        ("api-docs", FaultAction::Fail, None),
        ("backend-dev", FaultAction::Fail, Some(ServingStatus::NotServing)),
        ("api-docs", FaultAction::Recover, Some(ServingStatus::Serving)),
    ]
    .into_iter();
    for (node, action, told) in steps.by_ref() {
        let fault = HandleFaultRequest { node_id: node.into(), action: action.into(), ..Default::default() };
        client.handle_fault(fault).await.expect("done");
        let Some(told) = told else { continue };
        for watch in &mut watches {
            let next = tokio::time::timeout(DEADLINE, watch.message()).await.expect("told");
            assert_eq!(next.expect("alive").expect("a status").status(), told, "{node}");
        }
        let (code, text) = get(serve.admin, "/readyz").await;
        let active = if told == ServingStatus::Serving { 3 } else { 2 };
        assert_eq!(code, if active == 3 { 200 } else { 503 }, "{text}");
        assert!(text.contains(&format!("{active} of 4")), "{text}");
        assert_eq!(check(serve.admin, "liveness").await, ServingStatus::Serving);
        assert_eq!(get(serve.admin, "/livez").await.0, 200);
    }
}

#[tokio::test]
async fn without_nodes_the_server_lives_but_is_not_ready() {
    let serve = Serve::launch("", &["--launch", "external"]).await;
    for address in [serve.api, serve.admin] {
        for name in READINESS {
            assert_eq!(check(address, name).await, ServingStatus::NotServing, "{name:?}");
        }
        assert_eq!(check(address, "liveness").await, ServingStatus::Serving);
    }
    assert_eq!(get(serve.admin, "/livez").await.0, 200);
    assert_eq!(get(serve.admin, "/readyz").await, (503, "not ready: 0 of 4 nodes are ACTIVE\n".into()));
}

#[tokio::test]
async fn reflection_lists_the_services_in_both_versions() {
    let serve = Serve::launch("", &["--launch", "external"]).await;
    let expected =
        ["grpc.health.v1.Health", "lintmesh.v1.CoordinatorService", "lintmesh.v1.WorkspaceService"];
    macro_rules! services {
        ($version:ident) => {{
            use pb::server_reflection_request::MessageRequest;
            use pb::server_reflection_response::MessageResponse;
            use tonic_reflection::pb::$version as pb;
            let mut client = pb::server_reflection_client::ServerReflectionClient::new(serve.channel());
            let ask =
                |message| pb::ServerReflectionRequest { host: String::new(), message_request: Some(message) };
            let symbol = "lintmesh.v1.CoordinatorService.Coordinate".to_owned();
            let asked = tokio_stream::iter([
                ask(MessageRequest::ListServices(String::new())),
                ask(MessageRequest::FileContainingSymbol(symbol)),
            ]);
            let stream = client.server_reflection_info(asked).await.expect("open").into_inner();
            let answers: Vec<_> =
                stream.map(|answer| answer.expect("no error").message_response).collect().await;
            let Some(MessageResponse::ListServicesResponse(list)) = &answers[0] else {
                panic!("{answers:?}")
            };
            let found = matches!(&answers[1], Some(MessageResponse::FileDescriptorResponse(_)));
            assert!(found, "a client can learn the request: {answers:?}");
            list.service.iter().map(|service| service.name.clone()).collect::<Vec<_>>()
        }};
    }
    for services in [services!(v1), services!(v1alpha)] {
        for name in expected {
            assert!(services.iter().any(|service| service == name), "{name} of {services:?}");
        }
    }
}
