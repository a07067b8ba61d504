//! Gathers the writes of a loop turn into one.
//!
//! The `h2` crate flushes after each large frame. A [`Batch`] takes its writes into a buffer and ignores its
//! flushes; whoever drives the connection flushes once it has nothing more to do. A full buffer exerts
//! back-pressure.

use crate::codec::Io;
use crate::codec::buffer::{self, BufferLimit};
use bytes::{Buf, BytesMut};
use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that may wait to be written; less where the connection's limit is lower.
const CAPACITY: usize = 64 * 1024;

struct Inner<S> {
    io: S,
    /// Read before the protocol was known.
    received: BytesMut,
    queued: Vec<u8>,
    at: usize,
    unflushed: bool,
    /// There was no room for all that `h2` has since the last flush.
    refused: bool,
    shut: bool,
    capacity: usize,
}

impl<S: Io> Inner<S> {
    /// Writes all that is queued.
    fn poll_write_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.at < self.queued.len() {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, &self.queued[self.at..]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.at += written;
            self.unflushed = true;
        }
        self.at = 0;
        if self.queued.capacity() > 0 {
            buffer::put_write(std::mem::take(&mut self.queued));
        }
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_out(cx))?;
        if self.unflushed {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn room(&self) -> usize {
        self.capacity.saturating_sub(self.queued.len() - self.at)
    }

    fn queue(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(self.room());
        if self.queued.capacity() == 0 {
            self.queued = buffer::take_write();
        }
        if self.at > 0 && self.queued.len() + taken > self.capacity {
            self.queued.drain(..self.at);
            self.at = 0;
        }
        self.queued.extend_from_slice(&bytes[..taken]);
        taken
    }
}

/// The stream as `h2` sees it; clones of the handle see what it has queued.
pub(super) struct Batch<S>(Rc<RefCell<Inner<S>>>);

/// Flushes what a [`Batch`] took.
pub(super) struct Flusher<S>(Rc<RefCell<Inner<S>>>);

/// Wraps a stream from which `received` has been read already.
pub(super) fn batch<S: Io>(io: S, received: BytesMut, limit: BufferLimit) -> (Batch<S>, Flusher<S>) {
    let inner = Inner {
        io,
        received,
        queued: Vec::new(),
        at: 0,
        unflushed: false,
        refused: false,
        shut: false,
        capacity: limit.at_most(CAPACITY),
    };
    let shared = Rc::new(RefCell::new(inner));
    (Batch(Rc::clone(&shared)), Flusher(shared))
}

impl<S: Io> Flusher<S> {
    /// Writes and flushes all that is queued.
    pub(super) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().poll_flush(cx)
    }

    /// Whether all that `h2` had to write has left, after a flush that is done. Asking forgets what was refused.
    pub(super) fn is_clear(&self) -> bool {
        !std::mem::take(&mut self.0.borrow_mut().refused)
    }

    /// Flushes, ends our side, then reads and drops until the peer ends its own; ready also when any of it fails.
    pub(super) fn poll_end(&self, cx: &mut Context<'_>) -> Poll<()> {
        let inner = &mut *self.0.borrow_mut();
        if ready!(inner.poll_flush(cx)).is_err() {
            return Poll::Ready(());
        }
        if !inner.shut {
            if ready!(Pin::new(&mut inner.io).poll_shutdown(cx)).is_err() {
                return Poll::Ready(());
            }
            inner.shut = true;
        }
        let mut dropped = [0; 1024];
        loop {
            let mut out = ReadBuf::new(&mut dropped);
            let read = ready!(Pin::new(&mut inner.io).poll_read(cx, &mut out));
            if read.is_err() || out.filled().is_empty() {
                return Poll::Ready(());
            }
        }
    }
}

impl<S: Io> AsyncRead for Batch<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let inner = &mut *self.0.borrow_mut();
        if inner.received.is_empty() {
            return Pin::new(&mut inner.io).poll_read(cx, out);
        }
        let n = inner.received.len().min(out.remaining());
        out.put_slice(&inner.received[..n]);
        inner.received.advance(n);
        if inner.received.is_empty() {
            buffer::put_read(&mut inner.received);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: Io> AsyncWrite for Batch<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let inner = &mut *self.0.borrow_mut();
        if inner.room() == 0 && inner.poll_write_out(cx)?.is_pending() {
            inner.refused = true;
            return Poll::Pending;
        }
        let mut taken = 0;
        for part in parts {
            let now = inner.queue(part);
            taken += now;
            if now < part.len() {
                break;
            }
        }
        Poll::Ready(Ok(taken))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let inner = &mut *self.0.borrow_mut();
        ready!(inner.poll_flush(cx))?;
        Pin::new(&mut inner.io).poll_shutdown(cx)
    }
}
