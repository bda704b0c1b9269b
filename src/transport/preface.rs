//! Waits for a connection's first bytes before HTTP sees it.
//!
//! hyper has no bound on the wait for the HTTP/2 client preface, and a connection in that state does
//! not take part in graceful shutdown. So the preface is read here, under a timeout, and replayed.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

/// RFC 9113, section 3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A connection some of whose bytes were read already.
pub(super) struct Replayed<I> {
    inner: I,
    first: Vec<u8>,
    replayed: usize,
}

/// Reads up to the end of the preface, or to the first byte that is not part of it. Answers the
/// connection as if nothing had been read, and whether it begins with the preface.
pub(super) async fn read_preface<I: AsyncRead + Unpin>(mut io: I) -> io::Result<(Replayed<I>, bool)> {
    let mut first = Vec::with_capacity(PREFACE.len());
    while first.len() < PREFACE.len() && PREFACE.starts_with(&first) {
        // Never more than the preface: the rest belongs to HTTP.
        let missing = (PREFACE.len() - first.len()) as u64;
        if (&mut io).take(missing).read_buf(&mut first).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let is_http2 = first == PREFACE;
    Ok((Replayed { inner: io, first, replayed: 0 }, is_http2))
}

impl<I: AsyncRead + Unpin> AsyncRead for Replayed<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let rest = &this.first[this.replayed..];
        if rest.is_empty() {
            return Pin::new(&mut this.inner).poll_read(cx, buf);
        }
        let count = rest.len().min(buf.remaining());
        buf.put_slice(&rest[..count]);
        this.replayed += count;
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Replayed<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt as _;

    #[tokio::test]
    async fn what_was_read_is_read_again() {
        for (sent, expected) in [
            (&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n and more"[..], true),
            (&b"GET /livez HTTP/1.1\r\n\r\n"[..], false),
            (&b"PRI * HTTP/1.1\r\n\r\n and so on and on"[..], false),
        ] {
            let (mut client, server) = tokio::io::duplex(7);
            let bytes = sent.to_vec();
            let sending = tokio::spawn(async move { client.write_all(&bytes).await });
            let (mut io, is_http2) = read_preface(server).await.expect("enough bytes");
            assert_eq!(is_http2, expected);
            let mut all = Vec::new();
            io.read_to_end(&mut all).await.expect("all bytes");
            assert_eq!(all, sent);
            sending.await.expect("task").expect("sent");
        }
    }

    #[tokio::test]
    async fn a_connection_that_closes_early_is_an_error() {
        let (mut client, server) = tokio::io::duplex(64);
        client.write_all(b"PRI *").await.expect("room");
        drop(client);
        assert!(read_preface(server).await.is_err());
    }
}
