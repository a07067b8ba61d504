//! A stream that counts its bytes with few atomics.

use super::Socket;
use crate::stats::Counter;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Where a stream's byte counts go.
#[derive(Clone, Debug)]
pub struct ByteCounters {
    /// Bytes read.
    pub rx: Counter,
    /// Bytes written.
    pub tx: Counter,
}

/// Bytes of one stream, for whoever logs it.
#[derive(Debug, Default)]
pub struct Tally {
    rx: AtomicU64,
    tx: AtomicU64,
}

impl Tally {
    /// Bytes read; exact once the stream is dropped.
    pub fn received(&self) -> u64 {
        self.rx.load(Relaxed)
    }

    /// Bytes written; exact once the stream is dropped.
    pub fn sent(&self) -> u64 {
        self.tx.load(Relaxed)
    }
}

/// A stream that counts its bytes: locally while busy, into the counters whenever reading would block and when
/// it is dropped. Forwards vectored writes.
#[derive(Debug)]
pub struct Counted<S> {
    inner: S,
    rx: u64,
    tx: u64,
    counters: Option<ByteCounters>,
    tally: Option<Arc<Tally>>,
}

impl<S> Counted<S> {
    /// Counts into `counters`; into nothing when `None`.
    pub fn new(inner: S, counters: Option<ByteCounters>) -> Self {
        Self { inner, rx: 0, tx: 0, counters, tally: None }
    }

    /// Counts into `tally` as well, from now on.
    pub fn tally(&mut self, tally: Arc<Tally>) {
        self.flush_counts();
        self.tally = Some(tally);
    }

    /// The stream inside.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Sends what was counted so far to the old counters and goes on with `counters`.
    pub fn count_into(&mut self, counters: Option<ByteCounters>) {
        self.flush_counts();
        self.counters = counters;
    }

    fn flush_counts(&mut self) {
        let (rx, tx) = (std::mem::take(&mut self.rx), std::mem::take(&mut self.tx));
        if let Some(tally) = &self.tally {
            tally.rx.fetch_add(rx, Relaxed);
            tally.tx.fetch_add(tx, Relaxed);
        }
        let Some(counters) = &self.counters else { return };
        if rx > 0 {
            counters.rx.add(rx);
        }
        if tx > 0 {
            counters.tx.add(tx);
        }
    }
}

impl Socket for Counted<super::Io> {
    fn plain(&self) -> Option<&TcpStream> {
        match &self.inner {
            super::Io::Tcp(stream) => Some(stream),
            super::Io::Server(_) | super::Io::Client(_) => None,
        }
    }

    fn count(&mut self, received: usize, sent: usize) {
        self.rx += received as u64;
        self.tx += sent as u64;
        self.flush_counts();
    }
}

impl<S> Drop for Counted<S> {
    fn drop(&mut self) {
        self.flush_counts();
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        self.rx += (buf.filled().len() - before) as u64;
        if polled.is_pending() && (self.rx | self.tx) != 0 {
            self.flush_counts();
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, buf);
        if let Poll::Ready(Ok(n)) = polled {
            self.tx += n as u64;
        }
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        if let Poll::Ready(Ok(n)) = polled {
            self.tx += n as u64;
        }
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Registry;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn counters(registry: &Registry) -> ByteCounters {
        let scope = registry.scope("t.", "t.", &[]);
        ByteCounters { rx: scope.counter(&["rx"]), tx: scope.counter(&["tx"]) }
    }

    #[tokio::test]
    async fn bytes_reach_the_counters_when_reading_would_block_and_when_dropped() {
        let registry = Registry::new(0);
        let counters = counters(&registry);
        let (near, mut far) = tokio::io::duplex(64);
        let mut near = Counted::new(near, Some(counters.clone()));

        far.write_all(b"12345").await.unwrap();
        near.write_all(b"abc").await.unwrap();
        let mut got = [0; 5];
        near.read_exact(&mut got).await.unwrap();
        assert_eq!((counters.rx.value(), counters.tx.value()), (0, 0), "counted locally while busy");

        let mut one = [0; 1];
        let idle = std::future::poll_fn(|cx| {
            let mut buf = ReadBuf::new(&mut one);
            Poll::Ready(Pin::new(&mut near).poll_read(cx, &mut buf).is_pending())
        });
        assert!(idle.await, "nothing more to read");
        assert_eq!((counters.rx.value(), counters.tx.value()), (5, 3), "flushed when idle");

        near.write_all(b"xy").await.unwrap();
        drop(near);
        assert_eq!(counters.tx.value(), 5, "flushed when dropped");
    }
}
