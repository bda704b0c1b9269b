//! The channel below the calls. One in plain text finds out whether it is TLS that the server wants: to that question in
//! plain text there is no answer, only a connection that breaks, like one of a server that is restarted.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tonic::body::Body;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};
use tower::{BoxError, Service};

use super::trouble::{Trouble, is_answer_in_tls};
use crate::cli::error::ConnectError;

/// How long the server may take to answer in TLS.
const PROBE_BOUND: Duration = Duration::from_secs(3);

/// A channel, and what is known of one in plain text.
#[derive(Debug, Clone)]
pub struct Wire {
    channel: Channel,
    plain: Option<Arc<Plain>>,
}

/// A server that is spoken to in plain text.
#[derive(Debug)]
struct Plain {
    /// With host and port.
    authority: String,
    /// Whether it ever answered.
    understands: AtomicBool,
}

impl Wire {
    /// A channel to what the endpoint describes.
    pub(super) fn new(channel: Channel, endpoint: &Endpoint) -> Self {
        Self { channel, plain: Plain::of(endpoint).map(Arc::new) }
    }
}

/// What to say of a server to which no connection came about: a plain one may break so early.
pub(super) async fn wants_tls(endpoint: &Endpoint) -> Option<ConnectError> {
    let plain = Plain::of(endpoint)?;
    plain.wants_tls().await.then(|| plain.refusal())
}

impl Service<http::Request<Body>> for Wire {
    type Response = http::Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.channel.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let (answer, plain) = (self.channel.call(request), self.plain.clone());
        Box::pin(async move {
            let answer = answer.await;
            let Some(plain) = plain else { return answer.map_err(Into::into) };
            match answer {
                Ok(answer) => {
                    plain.understands.store(true, Ordering::Relaxed);
                    Ok(answer)
                }
                Err(_) if plain.wants_tls().await => Err(plain.refusal().into()),
                Err(broken) => Err(broken.into()),
            }
        })
    }
}

impl Plain {
    /// None if it is spoken to in TLS.
    fn of(endpoint: &Endpoint) -> Option<Self> {
        let is_plain = endpoint.uri().scheme_str() == Some("http");
        let authority = endpoint.uri().authority().filter(|_| is_plain)?.to_string();
        Some(Self { authority, understands: AtomicBool::new(false) })
    }

    /// Whether the server answers a TLS client. Its certificate does not matter: no authority is trusted, and so nothing
    /// is ever sent.
    async fn wants_tls(&self) -> bool {
        if self.understands.load(Ordering::Relaxed) {
            return false;
        }
        let endpoint = Endpoint::from_shared(format!("https://{}", self.authority))
            .and_then(|endpoint| endpoint.tls_config(ClientTlsConfig::new()));
        let Ok(endpoint) = endpoint else { return false };
        match tokio::time::timeout(PROBE_BOUND, endpoint.connect()).await {
            Ok(Ok(_)) => true,
            Ok(Err(error)) => is_answer_in_tls(&error),
            Err(_) => false,
        }
    }

    fn refusal(&self) -> ConnectError {
        ConnectError {
            url: format!("http://{}/", self.authority),
            trouble: Trouble {
                reason: "it speaks TLS, not plain text".to_owned(),
                remedy: "does the server want https://? Use that in --server or LINTMESH_SERVER",
            },
        }
    }
}
