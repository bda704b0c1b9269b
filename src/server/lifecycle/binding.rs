//! Where a server listens.

use std::net::SocketAddr;

use super::StartError;
use crate::transport::listener::Bind;

/// Listens on an address.
pub(super) async fn bind<B: Bind>(
    network: &B,
    address: SocketAddr,
    setting: &'static str,
) -> Result<(B::Listener, SocketAddr), StartError> {
    network.bind(address).await.map_err(|source| StartError::Bind { address, setting, source })
}

/// The node listener: on the port where nodes already look for it, if any would do.
pub(super) async fn bind_again<B: Bind>(
    network: &B,
    address: SocketAddr,
    port: Option<u16>,
) -> Result<(B::Listener, SocketAddr), StartError> {
    let setting = "server.node_listen";
    let Some(port) = port.filter(|_| address.port() == 0) else {
        return bind(network, address, setting).await;
    };
    match bind(network, SocketAddr::new(address.ip(), port), setting).await {
        Ok(bound) => Ok(bound),
        Err(error) => {
            tracing::warn!(%error, "nodes must look elsewhere for this coordinator than for the one before");
            bind(network, address, setting).await
        }
    }
}
