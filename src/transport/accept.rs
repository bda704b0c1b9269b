//! The accept loop: takes connections, bounds them in every direction, and ends within a bound.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tower::Service;

use super::connection;
use super::listener::Listener;
use super::tls::TlsConfigs;
use crate::middleware::refusals::Reasons;

/// What a connection may do, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Connections at the same time; more are closed at once.
    pub max_connections: usize,
    /// For the TLS handshake.
    pub handshake_timeout: Duration,
    /// For the first bytes of HTTP, counted from the end of the TLS handshake.
    pub first_byte_timeout: Duration,
    /// HTTP/2 streams at the same time on one connection.
    pub max_concurrent_streams: u32,
    /// Silence after which an HTTP/2 ping is sent.
    pub keepalive_interval: Duration,
    /// For its answer; then the connection is closed.
    pub keepalive_timeout: Duration,
    /// Bytes that a peer may send on one stream before they are read.
    pub stream_window: u32,
    /// The same for a whole connection.
    pub connection_window: u32,
    /// Bytes of one request's headers.
    pub max_header_list: u32,
    /// Streams that a peer may reset faster than they are served, before it is sent away (HTTP/2 rapid reset).
    pub max_pending_reset_streams: usize,
    /// Age at which a connection is asked to end (GOAWAY), so that clients spread over servers anew: it takes no new
    /// calls, and those that are open go on for as long as they like, as with gRPC's own default. Runs and watches last
    /// for hours, and a cut stream tells its client nothing but that something broke. What bounds them is elsewhere:
    /// deadlines of unary calls, the number of streams of each caller, pings for clients that are gone, the drain time
    /// once the server stops. `None` for connections that belong to one server, such as those of nodes.
    pub max_age: Option<Duration>,
    /// Most that chance adds to `max_age`, so that connections opened together do not end together.
    pub max_age_jitter: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            max_connections: 1024,
            handshake_timeout: Duration::from_secs(5),
            first_byte_timeout: Duration::from_secs(5),
            max_concurrent_streams: 256,
            keepalive_interval: Duration::from_secs(20),
            keepalive_timeout: Duration::from_secs(10),
            stream_window: 1 << 20,
            connection_window: 4 << 20,
            max_header_list: 16 << 10,
            max_pending_reset_streams: 20,
            max_age: Some(Duration::from_secs(30 * 60)),
            max_age_jitter: Duration::from_secs(3 * 60),
        }
    }
}

impl ConnectionLimits {
    /// For listeners of nodes: their sessions and links belong to this process, so they do not age, and a fault
    /// cancels many calls at once, which must not look like an attack. A node that is silent for `patience` is the
    /// affair of whoever counts its heartbeats: the connection's own pings end it only after twice that, so that a
    /// process that was stopped for a while is not taken for one that is gone.
    pub fn for_nodes(patience: Duration) -> Self {
        Self {
            max_age: None,
            max_pending_reset_streams: 1024,
            keepalive_interval: patience,
            keepalive_timeout: patience,
            ..Self::default()
        }
    }
}

/// How one listener is served.
#[derive(Clone)]
pub struct ServeOptions {
    /// TLS settings; `None` for plaintext.
    pub tls: Option<TlsConfigs>,
    /// Bounds of the connections.
    pub limits: ConnectionLimits,
    /// Whether HTTP/1 is served too; else it is refused with a line of text, for gRPC needs HTTP/2.
    pub allow_http1: bool,
    /// From the shutdown signal: for calls in flight to end. Whatever is left then is aborted.
    pub drain_timeout: Duration,
    /// Random numbers from 0 to 1.
    pub jitter: Arc<dyn Fn() -> f64 + Send + Sync>,
    /// Counts the connections that were closed before their first request, by reason.
    pub refused: Reasons,
}

/// How a listener ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Served {
    /// Connections that were accepted and served.
    pub connections: u64,
    /// Connections that were closed at once because there were too many.
    pub refused: u64,
    /// Connections that had not ended when the drain time was over.
    pub aborted: usize,
}

/// After a failed accept: most often the process is out of file descriptors, and only time helps.
const FIRST_BACKOFF: Duration = Duration::from_millis(10);
const LONGEST_BACKOFF: Duration = Duration::from_secs(1);

/// Serves every connection of `listener` with clones of `service` until `shutdown`; then accepts no
/// more, asks all connections to end (GOAWAY), and aborts what is left after the drain time.
///
/// Handlers find the [`Peer`](crate::middleware::peer::Peer) in the request's extensions.
pub async fn serve<L, S>(
    mut listener: L,
    service: S,
    options: ServeOptions,
    shutdown: CancellationToken,
) -> Served
where
    L: Listener,
    S: Service<Request<Body>, Response = http::Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    let slots = Arc::new(Semaphore::new(options.limits.max_connections.min(Semaphore::MAX_PERMITS)));
    let mut connections = JoinSet::new();
    let mut served = Served { connections: 0, refused: 0, aborted: 0 };
    let mut backoff = FIRST_BACKOFF;
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = listener.accept() => accepted,
        };
        let (io, addr) = match accepted {
            Ok(accepted) => accepted,
            Err(error) if concerns_one_connection(&error) => continue,
            Err(error) => {
                tracing::warn!(%error, retry_seconds = backoff.as_secs_f64(), "accepting failed");
                tokio::select! {
                    () = shutdown.cancelled() => break,
                    () = tokio::time::sleep(backoff) => {}
                }
                backoff = (backoff * 2).min(LONGEST_BACKOFF);
                continue;
            }
        };
        backoff = FIRST_BACKOFF;
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
            served.refused += 1;
            options.refused.count("TOO_MANY_CONNECTIONS");
            tracing::debug!(?addr, limit = options.limits.max_connections, "too many connections; closed");
            continue;
        };
        served.connections += 1;
        let connection = connection::run(io, addr, service.clone(), options.clone(), shutdown.child_token());
        connections.spawn(async move {
            connection.await;
            drop(slot);
        });
    }
    // Dropping it closes the port: new clients are refused instead of left waiting.
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(options.drain_timeout, drained).await.is_err() {
        served.aborted = connections.len();
        tracing::warn!(connections = served.aborted, "the drain time is over; connections aborted");
        connections.shutdown().await;
    }
    served
}

/// Errors of the connection that was about to be accepted, not of the listener.
fn concerns_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests;
