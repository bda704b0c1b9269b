//! Where connections come from: a seam, so that tests and simulations can bring their own.

use std::future::Future;
use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};

/// A source of connections.
pub trait Listener: Send {
    /// One connection's bytes.
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection, and the address of its other end if it has one. Cancel safe: a call that is
    /// dropped loses no connection.
    fn accept(&mut self) -> impl Future<Output = io::Result<(Self::Io, Option<SocketAddr>)>> + Send;
}

/// A network to listen on.
pub trait Bind: Send + Sync {
    /// What listens.
    type Listener: Listener + 'static;

    /// Listens on an address; answers the listener and the address with the port that was really taken.
    fn bind(
        &self,
        address: SocketAddr,
    ) -> impl Future<Output = io::Result<(Self::Listener, SocketAddr)>> + Send;
}

/// The machine's own network.
#[derive(Debug, Clone, Copy)]
pub struct Tcp;

impl Bind for Tcp {
    type Listener = TcpListener;

    async fn bind(&self, address: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
        let listener = TcpListener::bind(address).await?;
        let taken = listener.local_addr()?;
        Ok((listener, taken))
    }
}

impl Listener for TcpListener {
    type Io = TcpStream;

    async fn accept(&mut self) -> io::Result<(TcpStream, Option<SocketAddr>)> {
        let (stream, addr) = TcpListener::accept(self).await?;
        // Small messages are the rule here; without this each may wait for the ack of the one before.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%addr, %error, "TCP_NODELAY could not be set");
        }
        Ok((stream, Some(addr)))
    }
}
