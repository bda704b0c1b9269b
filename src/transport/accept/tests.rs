use std::sync::atomic::{AtomicBool, Ordering};

use http_body_util::BodyExt as _;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::*;

/// A listener whose connections the test hands in.
struct Handed(mpsc::UnboundedReceiver<io::Result<DuplexStream>>);

impl Listener for Handed {
    type Io = DuplexStream;

    async fn accept(&mut self) -> io::Result<(DuplexStream, Option<std::net::SocketAddr>)> {
        match self.0.recv().await {
            Some(handed) => handed.map(|io| (io, None)),
            None => std::future::pending().await,
        }
    }
}

struct Server {
    connections: mpsc::UnboundedSender<io::Result<DuplexStream>>,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<Served>,
}

impl Server {
    fn start<S>(service: S, change: impl FnOnce(&mut ServeOptions)) -> Self
    where
        S: Service<Request<Body>, Response = http::Response<Body>, Error = Infallible>
            + Clone
            + Send
            + 'static,
        S::Future: Send + 'static,
    {
        let mut options = ServeOptions {
            tls: None,
            limits: ConnectionLimits { max_age: None, ..ConnectionLimits::default() },
            allow_http1: false,
            drain_timeout: Duration::from_secs(10),
            jitter: Arc::new(|| 0.0),
            refused: Reasons::default(),
        };
        change(&mut options);
        let (connections, handed) = mpsc::unbounded_channel();
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(serve(Handed(handed), service, options, shutdown.clone()));
        Self { connections, shutdown, task }
    }

    fn connect(&self) -> DuplexStream {
        let (client, server) = tokio::io::duplex(64 << 10);
        self.connections.send(Ok(server)).expect("the server runs");
        client
    }

    /// How it ended, and how long after the signal.
    async fn stop(self) -> (Served, Duration) {
        let start = Instant::now();
        self.shutdown.cancel();
        (self.task.await.expect("no panic"), start.elapsed())
    }
}

fn at_once()
-> impl Service<Request<Body>, Response = http::Response<Body>, Error = Infallible, Future: Send> + Clone {
    tower::service_fn(|_: Request<Body>| std::future::ready(Ok(tonic::Status::ok("").into_http())))
}

/// Sets its flag when its call is dropped or ends.
struct Gone(Arc<AtomicBool>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

type Sender = hyper::client::conn::http2::SendRequest<Body>;

async fn http2(io: DuplexStream) -> (Sender, tokio::task::JoinHandle<()>) {
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await.expect("HTTP/2");
    let driver = tokio::spawn(async move {
        let _ = connection.await;
    });
    (sender, driver)
}

fn call() -> Request<Body> {
    Request::builder().uri("http://mesh/x.Y/Z").body(Body::empty()).expect("a valid request")
}

#[tokio::test(start_paused = true)]
async fn a_silent_connection_is_closed_after_the_first_byte_timeout() {
    let server = Server::start(at_once(), |_| {});
    let mut silent = server.connect();
    let mut half = server.connect();
    half.write_all(b"PRI * HTTP/2.0\r\n").await.expect("room");
    let start = Instant::now();
    for io in [&mut silent, &mut half] {
        assert_eq!(io.read(&mut [0; 1]).await.expect("closed in order"), 0);
    }
    assert_eq!(start.elapsed().as_secs(), 5);
    assert_eq!(server.stop().await.0.aborted, 0);
}

#[tokio::test(start_paused = true)]
async fn a_silent_connection_does_not_delay_the_shutdown() {
    let server = Server::start(at_once(), |_| {});
    let silent = server.connect();
    tokio::task::yield_now().await;
    let (served, took) = server.stop().await;
    assert_eq!((served.connections, served.aborted), (1, 0));
    assert_eq!(took, Duration::ZERO);
    drop(silent);
}

#[tokio::test(start_paused = true)]
async fn a_stalled_tls_handshake_is_closed() {
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let config = super::super::tls::server_config(
        own.cert.pem().as_bytes(),
        own.signing_key.serialize_pem().as_bytes(),
        None,
    )
    .expect("a valid certificate");
    let (_configs, watched) = tokio::sync::watch::channel(config);
    let server = Server::start(at_once(), |options| {
        options.tls = Some(watched);
        options.limits.handshake_timeout = Duration::from_secs(3);
    });
    let mut stalled = server.connect();
    // The start of a TLS record that never ends.
    stalled.write_all(&[0x16, 0x03, 0x01]).await.expect("room");
    let start = Instant::now();
    assert_eq!(stalled.read(&mut [0; 1]).await.expect("closed in order"), 0);
    assert_eq!(start.elapsed().as_secs(), 3);
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn http1_is_refused_unless_allowed() {
    for (allow, expected) in [(false, false), (true, true)] {
        let server = Server::start(at_once(), |options| options.allow_http1 = allow);
        let mut io = server.connect();
        io.write_all(b"GET /livez HTTP/1.1\r\nhost: mesh\r\nconnection: close\r\n\r\n").await.expect("room");
        let mut answer = String::new();
        io.read_to_string(&mut answer).await.expect("closed in order");
        assert_eq!(answer.starts_with("HTTP/1.1 200"), expected, "{allow}");
        if !allow {
            let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
            assert!(head.starts_with("HTTP/1.1 505 "), "{head}");
            assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{answer}");
        }
        drop(io);
        server.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_speaks_http1_without_end_is_closed_after_the_first_byte_timeout() {
    let server = Server::start(at_once(), |_| {});
    let mut io = server.connect();
    io.write_all(b"POST /x HTTP/1.1\r\n\r\n").await.expect("room");
    let start = Instant::now();
    let mut answer = Vec::new();
    io.read_to_end(&mut answer).await.expect("answered");
    while io.write_all(b"more").await.is_ok() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(start.elapsed().as_secs(), 5);
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn connections_beyond_the_cap_are_closed_and_a_closed_one_makes_room() {
    let server = Server::start(at_once(), |options| options.limits.max_connections = 1);
    let (mut first, driver) = http2(server.connect()).await;
    first.send_request(call()).await.expect("served");
    let mut second = server.connect();
    assert_eq!(second.read(&mut [0; 1]).await.expect("closed in order"), 0);
    drop(first);
    driver.await.expect("no panic");
    // The server notices the end of the first in its own task; paused time passes once all are idle.
    tokio::time::sleep(Duration::from_millis(1)).await;
    let (mut third, _driver) = http2(server.connect()).await;
    third.send_request(call()).await.expect("there is room again");
    assert_eq!(server.stop().await.0.refused, 1);
}

#[tokio::test(start_paused = true)]
async fn a_failing_accept_is_tried_again_later() {
    let server = Server::start(at_once(), |_| {});
    for _ in 0..3 {
        let error = io::Error::other("too many open files");
        server.connections.send(Err(error)).expect("the server runs");
    }
    let start = Instant::now();
    let (mut sender, _driver) = http2(server.connect()).await;
    sender.send_request(call()).await.expect("served in the end");
    assert_eq!(start.elapsed(), Duration::from_millis(10 + 20 + 40));
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn shutdown_lets_calls_end_and_aborts_what_does_not() {
    let gone = Arc::new(AtomicBool::new(false));
    let handler_gone = Arc::clone(&gone);
    let service = tower::service_fn(move |_: Request<Body>| {
        let gone = Gone(Arc::clone(&handler_gone));
        async move {
            let _gone = gone;
            std::future::pending::<Result<http::Response<Body>, Infallible>>().await
        }
    });
    let server = Server::start(service, |_| {});
    let (mut sender, _driver) = http2(server.connect()).await;
    let stuck = tokio::spawn(async move { sender.send_request(call()).await.map(drop) });
    tokio::time::sleep(Duration::from_millis(1)).await;
    let (served, took) = server.stop().await;
    assert_eq!((served.aborted, took), (1, Duration::from_secs(10)));
    assert!(stuck.await.expect("no panic").is_err());
    tokio::task::yield_now().await;
    assert!(gone.load(Ordering::Acquire), "no handler outlives its connection");

    let slow = tower::service_fn(|_: Request<Body>| async {
        tokio::time::sleep(Duration::from_secs(4)).await;
        Ok::<_, Infallible>(tonic::Status::ok("").into_http())
    });
    let server = Server::start(slow, |_| {});
    let (mut sender, _driver) = http2(server.connect()).await;
    let ending = tokio::spawn(async move { sender.send_request(call()).await.map(drop) });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (served, took) = server.stop().await;
    assert_eq!((served.aborted, took.as_secs()), (0, 3));
    ending.await.expect("no panic").expect("answered");
}

#[tokio::test(start_paused = true)]
async fn an_old_connection_takes_no_new_calls_and_lets_open_streams_end_with_their_status() {
    let (feeds, mut opened) = mpsc::unbounded_channel();
    let streaming = tower::service_fn(move |_: Request<Body>| {
        let (sender, frames) = mpsc::unbounded_channel::<Result<http_body::Frame<_>, Infallible>>();
        feeds.send(sender).expect("the test listens");
        let frames = tokio_stream::wrappers::UnboundedReceiverStream::new(frames);
        let body = Body::new(http_body_util::StreamBody::new(frames));
        std::future::ready(Ok::<_, Infallible>(http::Response::<Body>::new(body)))
    });
    let server =
        Server::start(streaming, |options| options.limits.max_age = ConnectionLimits::default().max_age);
    let (mut sender, driver) = http2(server.connect()).await;
    let mut body = sender.send_request(call()).await.expect("a head").into_body();
    let feed = opened.recv().await.expect("a stream");
    tokio::time::sleep(Duration::from_secs(31 * 60)).await;
    assert!(sender.send_request(call()).await.is_err(), "no new calls after GOAWAY");
    // A run of two hours.
    tokio::time::sleep(Duration::from_secs(90 * 60)).await;
    feed.send(Ok(http_body::Frame::data(tonic::codegen::Bytes::from_static(b"event")))).expect("open");
    assert_eq!(body.frame().await.expect("open").expect("whole").into_data().expect("data"), "event");
    let mut status = http::HeaderMap::new();
    tonic::Status::ok("").add_header(&mut status).expect("valid");
    feed.send(Ok(http_body::Frame::trailers(status))).expect("open");
    let trailers = body.frame().await.expect("an end").expect("in order").into_trailers().expect("trailers");
    assert_eq!(trailers["grpc-status"], "0");
    assert!(body.frame().await.is_none());
    // Nothing holds it any more.
    driver.await.expect("no panic");
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_old_connection_ends() {
    let server = Server::start(at_once(), |options| options.limits.max_age = Some(Duration::from_secs(60)));
    let (mut sender, driver) = http2(server.connect()).await;
    sender.send_request(call()).await.expect("served");
    let start = Instant::now();
    driver.await.expect("no panic");
    assert_eq!(start.elapsed().as_secs(), 60);
    server.stop().await;
}
