//! A way to a server that can be cut.

use std::net::SocketAddr;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Forwards connections, and breaks all of them at each word, and when it is dropped.
pub(crate) async fn forward(listener: TcpListener, to: SocketAddr, mut cuts: mpsc::Receiver<()>) {
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (mut near, _) = accepted.unwrap();
                open.spawn(async move {
                    if let Ok(mut far) = TcpStream::connect(to).await {
                        // Either side may end it.
                        let _ = copy_bidirectional(&mut near, &mut far).await;
                    }
                });
            }
            Some(()) = cuts.recv() => open.abort_all(),
        }
    }
}
