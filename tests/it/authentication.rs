//! Who may call what: tokens and roles for callers, enrolment secrets for nodes.

use std::sync::Arc;
use std::time::Duration;

use lintmesh::middleware::auth::{Role, Token};
use lintmesh::middleware::enrolment::{Enrolled, Enrolment};
use lintmesh::middleware::refusals::Reasons;
use lintmesh::server::stack::{self, InboundLimits};
use lintmesh::types::Digest;
use tonic::body::Body;
use tonic::{Code, Request, Status};
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt as _;
use tower::ServiceExt as _;

use crate::rig::{Caller, Server, fixed_bits, open_gate, options, request, routes};
use crate::support::captured_logs::logs_of;

fn bearing(token: Option<&str>) -> Request<tonic_health::pb::HealthCheckRequest> {
    let mut request = request();
    if let Some(token) = token {
        let value = format!("Bearer {token}").parse().expect("ASCII");
        request.metadata_mut().insert("authorization", value);
    }
    request
}

struct Secret;

impl Enrolment for Secret {
    fn check(&self, secret: &str) -> Option<Enrolled> {
        (secret == "s3cret").then_some(Enrolled { node: None })
    }
}

fn reason(status: &Status) -> String {
    status.get_error_details().error_info().expect("info").reason.clone()
}

#[tokio::test]
async fn callers_need_a_token_whose_role_allows_the_method() {
    let token =
        |name: &str, role, text: &str| Token { name: name.into(), role, sha256: Digest::of(text.as_bytes()) };
    let tokens = vec![token("viewer", Role::Reader, "read"), token("ops", Role::Operator, "operate")];
    let inbound = stack::api(routes(&open_gate()), tokens, InboundLimits::default(), fixed_bits());
    let server = Server::start(inbound, options()).await;
    let mut caller = Caller::new(server.channel().await);
    for (method, token, expected) in [
        ("GetRun", None, Some(Code::Unauthenticated)),
        ("GetRun", Some("wrong"), Some(Code::Unauthenticated)),
        ("GetRun", Some("read"), None),
        ("StartRun", Some("read"), Some(Code::PermissionDenied)),
        ("HandleFault", Some("read"), Some(Code::PermissionDenied)),
        ("HandleFault", Some("operate"), None),
    ] {
        let answered = caller.unary(method, bearing(token)).await;
        let code = answered.as_ref().err().map(Status::code);
        assert_eq!(code, expected, "{method} with {token:?}");
        match answered {
            Ok(response) => assert!(response.metadata().contains_key("x-request-id")),
            Err(status) if status.code() == Code::Unauthenticated => {
                assert_eq!(reason(&status), "CREDENTIALS_REFUSED");
            }
            Err(status) => assert_eq!(reason(&status), "ROLE_TOO_LOW"),
        }
    }
    let mut probe = HealthClient::new(server.channel().await);
    probe.check(request()).await.expect("health is open to probes");
}

#[tokio::test]
async fn nodes_need_their_secret_for_every_call() {
    let (routes, refused) = (routes(&open_gate()), Reasons::default());
    let limits = InboundLimits::default();
    let inbound = stack::peer(routes, Arc::new(Secret), refused.clone(), limits, fixed_bits());
    let server = Server::start(inbound, options()).await;
    let mut caller = Caller::new(server.channel().await);
    caller.unary("GetRun", bearing(Some("s3cret"))).await.expect("enrolled");
    for token in [None, Some("other")] {
        let status = caller.unary("GetRun", bearing(token)).await.expect_err("not enrolled");
        assert_eq!(status.code(), Code::Unauthenticated, "{token:?}");
    }
    let mut probe = HealthClient::new(server.channel().await);
    let status = probe.check(request()).await.expect_err("nothing is open on the node listener");
    assert_eq!(status.code(), Code::Unauthenticated);
    assert_eq!(refused.counts(), [("CREDENTIALS_REFUSED", 3)].into());
}

#[test]
fn strangers_who_try_secrets_are_all_counted_and_do_not_fill_the_log() {
    let refused = Reasons::default();
    let limits = InboundLimits::default();
    let inbound = stack::peer(routes(&open_gate()), Arc::new(Secret), refused.clone(), limits, fixed_bits());
    let tries = async || {
        for _ in 0..100 {
            let call = http::Request::builder().uri("/lintmesh.peer.v1.NodeService/Session");
            let call = call.body(Body::empty()).expect("a valid request");
            inbound.clone().oneshot(call).await.expect("an answer");
        }
    };
    let work = async {
        tries().await;
        tokio::time::advance(Duration::from_secs(3)).await;
        tries().await;
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let log = logs_of(|| runtime.expect("a runtime").block_on(work));
    let warned: Vec<_> = log.lines().filter(|line| line.contains("a call of a node was refused")).collect();
    assert_eq!(warned.len(), 10 + 3, "{log}");
    assert!(warned[10].contains("count=101"), "each says how many there were: {log}");
    assert_eq!(refused.counts(), [("CREDENTIALS_REFUSED", 200)].into());
}
