//! The node's connection to its coordinator, and the stack that every call on it passes.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use http::header::AUTHORIZATION;
use tonic::body::Body;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tower::ServiceBuilder;
use tower::util::BoxCloneSyncService;

use super::agent::AgentError;
use super::backoff::Random;
use super::outbound::{OutboundSettings, guard};
use super::secret::Secret;
use crate::middleware::breaker::PeerBreaker;

/// A client's way to the coordinator.
pub type Link = BoxCloneSyncService<http::Request<Body>, http::Response<Body>, LinkError>;

/// A call that came to no answer. tonic finds the reason in its sources and makes a status of it.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct LinkError(tower::BoxError);

/// Makes the channel of an endpoint; tests and simulations put their own transport here.
pub type Connector = Arc<dyn Fn(Endpoint) -> Channel + Send + Sync>;

/// Connects over TCP when the first call is made, and again whenever the connection is lost.
pub fn tcp() -> Connector {
    Arc::new(|endpoint| endpoint.connect_lazy())
}

/// How long a connection attempt may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection for blobs whose coordinator is gone without a trace is noticed after this and the next. The session
/// has none: it counts what it hears.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// How long it may take to answer a keep-alive ping.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(30);
/// Flow control windows: a blob may be as large as the connection's, so that small ones pass it.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;
/// The most that one transfer of blobs may take.
const TRANSFER_DEADLINE: Duration = Duration::from_secs(120);

/// Makes a new connection. One that was given up as silent may look alive for minutes: TCP sends again, at ever longer
/// pauses, and whatever comes next would wait for that too.
pub(super) type MakeLink = Arc<dyn Fn() -> Link + Send + Sync>;

/// Two connections, so that blobs in bulk never delay a heartbeat.
pub(super) struct Links {
    /// Makes one for each session: it lives as long as it lives, its silence is told by what it hears, and the session
    /// loop paces its own attempts.
    pub(super) session: MakeLink,
    /// For blobs.
    pub(super) blobs: Link,
    /// The breaker of the blobs' way.
    pub(super) breaker: Arc<PeerBreaker>,
}

/// Prepares the connections; nothing is sent yet.
pub(super) fn links(
    uri: &str,
    tls_ca: Option<&[u8]>,
    secret: &Secret,
    connector: &Connector,
    random: &Random,
) -> Result<Links, AgentError> {
    let refused = |reason: String| AgentError::Coordinator { uri: uri.to_owned(), reason };
    let mut endpoint = Endpoint::from_shared(uri.to_owned())
        .map_err(|error| refused(error.to_string()))?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    match (endpoint.uri().scheme_str(), tls_ca) {
        (Some("https"), ca) => {
            // The bound of the endpoint ends with the TCP connection: a machine that hangs accepts that and answers nothing.
            let mut tls = ClientTlsConfig::new().timeout(CONNECT_TIMEOUT);
            if let Some(pem) = ca {
                tls = tls.ca_certificate(Certificate::from_pem(pem));
            }
            endpoint = endpoint.tls_config(tls).map_err(|error| refused(error.to_string()))?;
        }
        (Some("http"), None) => {}
        (Some("http"), Some(_)) => {
            return Err(refused("has a TLS certificate authority but is not https".to_owned()));
        }
        _ => return Err(refused("needs the form http://HOST:PORT or https://HOST:PORT".to_owned())),
    }
    let mut bearer =
        HeaderValue::try_from(format!("Bearer {}", secret.expose())).map_err(|_| AgentError::Secret)?;
    bearer.set_sensitive(true);
    let bulk = connector(
        endpoint
            .clone()
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true),
    );

    let enrol = move |mut request: http::Request<Body>| {
        request.headers_mut().insert(AUTHORIZATION, bearer.clone());
        request
    };
    let breaker = PeerBreaker::new("the coordinator", Default::default(), random.clone());
    let guarded = guard(
        ServiceBuilder::new().map_request(enrol.clone()).service(bulk),
        Arc::clone(&breaker),
        OutboundSettings { stream_deadline: Some(TRANSFER_DEADLINE), ..OutboundSettings::default() },
    );
    let blobs = ServiceBuilder::new().map_err(LinkError).service(guarded);
    let connector = Arc::clone(connector);
    let session: MakeLink = Arc::new(move || {
        let alone = ServiceBuilder::new()
            .map_err(|error| LinkError(Box::new(error)))
            .map_request(enrol.clone())
            .service(connector(endpoint.clone()));
        BoxCloneSyncService::new(alone)
    });
    Ok(Links { session, blobs: BoxCloneSyncService::new(blobs), breaker })
}

/// A random number from 0 to 1 from the system's generator; the middle if that has none.
pub fn jitter() -> f64 {
    getrandom::u32().map_or(0.5, |number| f64::from(number) / f64::from(u32::MAX))
}
