//! One connection, from its first byte to its end.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::transport::server::TcpConnectInfo;
use tower::{Service, ServiceExt as _};

use super::accept::{ConnectionLimits, ServeOptions};
use super::preface::{Replayed, read_preface};
use crate::middleware::peer::{Peer, PeerTls};

/// Serves `io` until it ends, ages out, breaks a limit, or has drained after `shutdown`.
pub(super) async fn run<I, S>(
    io: I,
    addr: Option<SocketAddr>,
    service: S,
    options: ServeOptions,
    shutdown: CancellationToken,
) where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<Body>, Response = http::Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    match options.tls.clone() {
        None => {
            let peer = Peer { addr, tls: None };
            serve_http(io, peer, service, &options, shutdown).await;
        }
        Some(configs) => {
            let acceptor = TlsAcceptor::from(Arc::clone(&configs.borrow()));
            let handshake = timeout(options.limits.handshake_timeout, acceptor.accept(io));
            // Nothing has begun, so a shutdown need not wait for it.
            let io = match shutdown.run_until_cancelled(handshake).await {
                Some(Ok(Ok(io))) => io,
                Some(Ok(Err(error))) => {
                    options.refused.count("TLS_HANDSHAKE_FAILED");
                    return tracing::debug!(?addr, %error, "TLS handshake failed");
                }
                Some(Err(_)) => {
                    options.refused.count("TLS_HANDSHAKE_TIMEOUT");
                    return tracing::debug!(?addr, "TLS handshake took too long");
                }
                None => return,
            };
            let certificates =
                io.get_ref().1.peer_certificates().unwrap_or_default().iter().map(|c| c.to_vec()).collect();
            let peer = Peer { addr, tls: Some(Arc::new(PeerTls { certificates })) };
            serve_http(io, peer, service, &options, shutdown).await;
        }
    }
}

async fn serve_http<I, S>(io: I, peer: Peer, service: S, options: &ServeOptions, shutdown: CancellationToken)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<Body>, Response = http::Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    let addr = peer.addr;
    let first_bytes = timeout(options.limits.first_byte_timeout, read_preface(io));
    let io = match shutdown.run_until_cancelled(first_bytes).await {
        Some(Ok(Ok((io, is_http2)))) if is_http2 || options.allow_http1 => io,
        Some(Ok(Ok((io, _)))) => {
            options.refused.count("NOT_HTTP2");
            tracing::debug!(?addr, "not HTTP/2; closed");
            // As long as a silent one may stay; it may have gone away already.
            let told = timeout(options.limits.first_byte_timeout, refuse_http1(io));
            let _ = shutdown.run_until_cancelled(told).await;
            return;
        }
        Some(Ok(Err(error))) => return tracing::debug!(?addr, %error, "closed before the first request"),
        Some(Err(_)) => {
            options.refused.count("SILENT");
            return tracing::debug!(?addr, "silent connection; closed");
        }
        None => return,
    };
    let builder = http_builder(&options.limits);
    let service = TowerToHyperService::new(service.map_request(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(TcpConnectInfo { local_addr: None, remote_addr: peer.addr });
        request.extensions_mut().insert(peer.clone());
        request
    }));
    let connection = builder.serve_connection(TokioIo::<Replayed<I>>::new(io), service);
    let mut connection = std::pin::pin!(connection);
    let age = age_limit(&options.limits, (options.jitter)());
    tokio::select! {
        ended = connection.as_mut() => return log_end(addr, ended),
        () = shutdown.cancelled() => {}
        () = sleep_or_forever(age) => {}
    }
    connection.as_mut().graceful_shutdown();
    // After a shutdown the accept loop bounds the wait; an aged connection lasts as long as its calls.
    log_end(addr, connection.await);
}

/// What a caller that does not speak HTTP/2 is told, whatever it asked for.
const NOT_HTTP2: &[u8] = b"HTTP/1.1 505 HTTP Version Not Supported\r\ncontent-type: text/plain\r\n\
    content-length: 44\r\nconnection: close\r\n\r\nThis port speaks gRPC, which needs HTTP/2.\r\n";
/// Bytes of a refused request that are read and thrown away.
const THROWN_AWAY: u64 = 64 << 10;

/// Answers and closes. A socket that is closed with bytes unread takes the answer back, so some are read first.
async fn refuse_http1<I: AsyncRead + AsyncWrite + Unpin>(mut io: I) -> io::Result<()> {
    io.write_all(NOT_HTTP2).await?;
    io.shutdown().await?;
    tokio::io::copy(&mut io.take(THROWN_AWAY), &mut tokio::io::sink()).await.map(drop)
}

fn http_builder(limits: &ConnectionLimits) -> auto::Builder<TokioExecutor> {
    // HTTP/2 handlers run as tasks of their own; hyper ends them when their connection is dropped.
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(limits.first_byte_timeout);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.max_concurrent_streams)
        .keep_alive_interval(limits.keepalive_interval)
        .keep_alive_timeout(limits.keepalive_timeout)
        .initial_stream_window_size(limits.stream_window)
        .initial_connection_window_size(limits.connection_window)
        .max_header_list_size(limits.max_header_list)
        .max_pending_accept_reset_streams(limits.max_pending_reset_streams);
    builder
}

fn age_limit(limits: &ConnectionLimits, jitter: f64) -> Option<Duration> {
    // NaN would make the multiplication panic.
    let share = if jitter.is_nan() { 0.0 } else { jitter.clamp(0.0, 1.0) };
    let extra = limits.max_age_jitter.mul_f64(share);
    limits.max_age.map(|age| age.saturating_add(extra))
}

async fn sleep_or_forever(duration: Option<Duration>) {
    match duration {
        Some(duration) => tokio::time::sleep(duration).await,
        None => std::future::pending().await,
    }
}

fn log_end(addr: Option<SocketAddr>, ended: Result<(), Box<dyn std::error::Error + Send + Sync>>) {
    if let Err(error) = ended {
        tracing::debug!(?addr, %error, "connection ended with an error");
    }
}
