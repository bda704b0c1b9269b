//! Who is at the other end of a connection; the accept loop puts it into every request's extensions.

use std::net::SocketAddr;
use std::sync::Arc;

/// The other end of a connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Peer {
    /// Its address; absent where connections have none, such as in-memory pipes.
    pub addr: Option<SocketAddr>,
    /// What TLS told; absent on plaintext connections.
    pub tls: Option<Arc<PeerTls>>,
}

/// What the TLS handshake told about the other end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerTls {
    /// Its certificates in DER, leaf first; empty if it showed none.
    pub certificates: Vec<Vec<u8>>,
}
