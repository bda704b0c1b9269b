//! Where peers dial: the node's own listener.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::service::Routes;
use tower::ServiceBuilder;
use tower::util::BoxCloneSyncService;

use super::dial::MAX_MESSAGE_BYTES;
use super::service::Answering;
use super::{Peers, Shared};
use crate::middleware::error_details::ErrorDetailsLayer;
use crate::proto::peer::v1::peer_service_server::PeerServiceServer;
use crate::transport::accept::{ConnectionLimits, ServeOptions, Served, serve};
use crate::transport::listener::Bind;
use crate::transport::tls::{TlsConfigs, TlsError, server_config};

/// Connections at a time: two from each peer, and as many again that are on their way out.
const CONNECTIONS: usize = 256;
/// A connection carries one call.
const STREAMS: u32 = 4;
/// A peer that is silent for so long is still no reason to end its connection; see [`ConnectionLimits::for_nodes`].
const PATIENCE: Duration = Duration::from_secs(60);
/// How long calls get to end when the node ends. They end at once, since the node's end ends them.
const DRAIN: Duration = Duration::from_millis(500);

/// The certificate of a node's peer listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerTls {
    /// Certificate chain, PEM. Peers check it with the authority that vouches for the coordinator.
    pub cert: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
}

/// Why a node cannot be dialled by its peers. All are for the user to fix.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address cannot be listened on.
    #[error("cannot listen for peers on {address}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The reason.
        source: std::io::Error,
    },
    /// Links beyond this machine would be in plain text.
    #[error("peers would reach {0} in plain text; give a loopback address, or a certificate and its key")]
    Exposed(SocketAddr),
    /// A certificate or key cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// Certificate and key cannot be used.
    #[error("the certificate for peers: {0}")]
    Tls(#[from] TlsError),
}

/// A listener that runs until the node ends.
pub(in crate::node) struct Listening {
    /// What peers dial.
    pub(in crate::node) endpoint: String,
    pub(in crate::node) served: JoinHandle<Served>,
}

/// Listens for peers on a network. `advertise`, HOST:PORT, is what they are told to dial; by default the address itself.
pub(in crate::node) async fn listen(
    peers: &Peers,
    network: &impl Bind,
    address: SocketAddr,
    advertise: Option<&str>,
    tls: Option<&PeerTls>,
) -> Result<Listening, ListenError> {
    if tls.is_none() && !address.ip().to_canonical().is_loopback() {
        return Err(ListenError::Exposed(address));
    }
    let configs = match tls {
        Some(tls) => Some(configs(tls).await?),
        None => None,
    };
    let bound = |source| ListenError::Bind { address, source };
    let (listener, local) = network.bind(address).await.map_err(bound)?;
    let scheme = if configs.is_some() { "https" } else { "http" };
    let authority = advertise.map_or_else(|| local.to_string(), str::to_owned);
    let shared: Arc<Shared> = peers.shared.clone();
    let random = shared.own.random.clone();
    let options = ServeOptions {
        tls: configs,
        limits: ConnectionLimits {
            max_connections: CONNECTIONS,
            max_concurrent_streams: STREAMS,
            ..ConnectionLimits::for_nodes(PATIENCE)
        },
        allow_http1: false,
        drain_timeout: DRAIN,
        jitter: random,
        refused: Default::default(),
    };
    let stop = shared.own.stop.clone();
    let service = PeerServiceServer::new(Answering::new(shared)).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let stack = ServiceBuilder::new()
        // No error leaves without its reason.
        .layer(ErrorDetailsLayer::new(MAX_MESSAGE_BYTES as u64))
        .service(Routes::new(service).prepare());
    let served = tokio::spawn(serve(listener, BoxCloneSyncService::new(stack), options, stop));
    Ok(Listening { endpoint: format!("{scheme}://{authority}"), served })
}

async fn configs(tls: &PeerTls) -> Result<TlsConfigs, ListenError> {
    let read = async |path: &Path| {
        let failed = |source| ListenError::Certificate { path: path.to_owned(), source };
        tokio::fs::read(path).await.map_err(failed)
    };
    let config = server_config(&read(&tls.cert).await?, &read(&tls.key).await?, None)?;
    Ok(watch::channel(config).1)
}
