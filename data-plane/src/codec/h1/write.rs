//! What waits to be written: small pieces copied together, so that a head leaves with the first of its body in one
//! system call; large ones kept apart and written from where they are.

use crate::codec::buffer::{self, BufferLimit};
use crate::transport::{Pipe, Socket};
use bytes::{Buf, Bytes};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::AsyncWrite;

/// Pieces up to this are copied, bytes.
const COPIED: usize = 16 * 1024;
/// Copied bytes that may wait, beyond which no more of a body is asked for; less where the connection's limit is lower.
const HIGH_WATER: usize = 32 * 1024;

/// Bytes queued for a connection. Bounded: [`WriteBuf::has_room`] tells when to ask for more.
#[derive(Debug)]
pub(super) struct WriteBuf {
    /// Written first, from `at` on.
    copied: Vec<u8>,
    at: usize,
    /// Written next.
    large: Bytes,
    /// Written last; moves to `copied` once those are out.
    tail: &'static [u8],
    /// Written after all that: what it holds never comes into this process.
    pipe: Option<Pipe>,
    /// Something was written that the stream may hold back until it is flushed.
    unflushed: bool,
    high_water: usize,
}

impl WriteBuf {
    pub(super) fn new(limit: BufferLimit) -> Self {
        Self {
            copied: Vec::new(),
            at: 0,
            large: Bytes::new(),
            tail: b"",
            pipe: None,
            unflushed: false,
            high_water: limit.at_most(HIGH_WATER),
        }
    }

    /// Where to write a head or a line. Only while there is room.
    pub(super) fn head(&mut self) -> &mut Vec<u8> {
        debug_assert!(self.large.is_empty(), "a large piece is still to be written");
        if self.copied.capacity() == 0 {
            self.copied = buffer::take_write();
        }
        &mut self.copied
    }

    /// Queues `data`, then `tail`. Only while there is room.
    pub(super) fn push(&mut self, data: Bytes, tail: &'static [u8]) {
        if data.len() <= COPIED {
            let copied = self.head();
            copied.extend_from_slice(&data);
            copied.extend_from_slice(tail);
        } else {
            debug_assert!(self.large.is_empty(), "a large piece is still to be written");
            self.large = data;
            self.tail = tail;
        }
    }

    /// Queues what `pipe` holds. Only while there is room, and for a stream that is a socket.
    pub(super) fn push_pipe(&mut self, pipe: Pipe) {
        self.pipe = Some(pipe);
    }

    /// Whether another piece may be queued.
    pub(super) fn has_room(&self) -> bool {
        self.large.is_empty() && self.pipe.is_none() && self.copied.len() - self.at < self.high_water
    }

    /// Whether all is written and flushed.
    pub(super) fn is_empty(&self) -> bool {
        !self.is_queued() && self.pipe.is_none() && !self.unflushed
    }

    fn is_queued(&self) -> bool {
        self.copied.len() != self.at || !self.large.is_empty() || !self.tail.is_empty()
    }

    /// Forgets all that is queued.
    pub(super) fn clear(&mut self) {
        self.large = Bytes::new();
        self.tail = b"";
        self.pipe = None;
        self.at = 0;
        self.unflushed = false;
        buffer::put_write(std::mem::take(&mut self.copied));
    }

    /// Writes until nothing is queued, adding the bytes written to `progress`, also while pending.
    pub(super) fn poll_flush<S: AsyncWrite + Socket + Unpin>(
        &mut self,
        io: &mut S,
        progress: &mut u64,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_empty() {
            return Poll::Ready(Ok(()));
        }
        while self.is_queued() {
            let head = &self.copied[self.at..];
            let written = if self.large.is_empty() {
                ready!(Pin::new(&mut *io).poll_write(cx, head))?
            } else {
                let parts = [IoSlice::new(head), IoSlice::new(&self.large), IoSlice::new(self.tail)];
                let skip = usize::from(head.is_empty());
                ready!(Pin::new(&mut *io).poll_write_vectored(cx, &parts[skip..]))?
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            *progress += written as u64;
            self.unflushed = true;
            self.advance(written);
        }
        buffer::put_write(std::mem::take(&mut self.copied));
        self.at = 0;
        while let Some(pipe) = &mut self.pipe {
            let socket = io.plain().ok_or(io::ErrorKind::Unsupported)?;
            let sent = ready!(pipe.poll_drain(cx, socket)).inspect_err(|_| io.broke())?;
            io.count(0, sent);
            *progress += sent as u64;
            if pipe.held() == 0
                && let Some(pipe) = self.pipe.take()
            {
                pipe.put();
            }
        }
        // TLS and buffered streams keep what they took until flushed; TCP has nothing to do.
        ready!(Pin::new(io).poll_flush(cx))?;
        self.unflushed = false;
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, written: usize) {
        let head = written.min(self.copied.len() - self.at);
        self.at += head;
        let large = (written - head).min(self.large.len());
        self.large.advance(large);
        let tail = written - head - large;
        self.tail = &self.tail[tail..];
        if self.at == self.copied.len() {
            self.copied.clear();
            self.at = 0;
        }
        if self.large.is_empty() {
            // Free the memory of the piece now, not with the next.
            self.large = Bytes::new();
            if !self.tail.is_empty() {
                let tail = std::mem::take(&mut self.tail);
                self.copied.extend_from_slice(tail);
            }
        }
    }
}
