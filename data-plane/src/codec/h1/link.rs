//! What a downstream connection and the body of its current request share: the stream, its buffers, and where in
//! the request reading has got.

use super::framing::{Decoded, Decoder, Limits};
use super::write::WriteBuf;
use crate::codec::buffer::{self, BufferLimit};
use crate::codec::{BodyError, BodySource, Frame, Io, ServerOptions};
use bytes::BytesMut;
use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

/// The shared part of a downstream connection.
pub(super) struct Link<S> {
    pub(super) io: S,
    pub(super) read: BytesMut,
    /// The peer sends no more: it closed, or reading failed.
    pub(super) ended: Option<Ended>,
    pub(super) write: WriteBuf,
    /// Bytes written so far; for telling a slow peer from one that does not read.
    pub(super) written: u64,
    /// The body of the request under way.
    pub(super) decoder: Decoder,
    /// The request became a tunnel: raw bytes both ways, each direction with its own end.
    pub(super) tunnel: bool,
    /// Counts requests, so that a body that outlives its own reads nothing of the next.
    pub(super) sequence: u64,
    /// Someone waits for more of the body.
    reader: Option<Waker>,
    /// `100 Continue` is to be written before the body is waited for.
    pub(super) owes_continue: bool,
    buffer_limit: BufferLimit,
    limits: Limits,
}

/// How reading ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Closed,
    Failed(io::ErrorKind),
}

impl<S: Io> Link<S> {
    pub(super) fn new(io: S, read: BytesMut, options: &ServerOptions, buffer_limit: BufferLimit) -> Self {
        Self {
            io,
            read,
            ended: None,
            write: WriteBuf::new(buffer_limit),
            written: 0,
            decoder: Decoder::done(),
            tunnel: false,
            sequence: 0,
            reader: None,
            owes_continue: false,
            buffer_limit,
            limits: Limits {
                trailers: options.http1.enable_trailers,
                max_trailer_bytes: options.max_head_bytes,
                max_trailers: options.max_headers,
            },
        }
    }

    /// Reads once into `read`; pending forever once ended. Ready when there is news.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.ended.is_some() {
            return Poll::Pending;
        }
        let size = self.buffer_limit.reads(self.decoder.remaining().unwrap_or(0));
        match ready!(buffer::poll_fill(&mut self.io, &mut self.read, size, cx)) {
            Ok(0) => self.ended = Some(Ended::Closed),
            Ok(_) => {}
            Err(error) => self.ended = Some(Ended::Failed(error.kind())),
        }
        Poll::Ready(())
    }

    /// Watches a peer while its request is being served, reading ahead at most a buffer. Ready when it has gone.
    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.ended.is_some() {
                // The end of a tunnel's one direction leaves the other.
                return if self.tunnel { Poll::Pending } else { Poll::Ready(()) };
            }
            if self.read.len() >= buffer::SMALL / 2 {
                return Poll::Pending;
            }
            ready!(self.poll_fill(cx));
            if let Some(reader) = self.reader.take() {
                reader.wake();
            }
        }
    }

    /// Writes what is queued.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write.poll_flush(&mut self.io, &mut self.written, cx)
    }

    /// Decodes the next piece of the body out of what has been read.
    pub(super) fn decode(&mut self) -> Result<Decoded, &'static str> {
        self.decoder.decode(&mut self.read, &self.limits)
    }

    /// Settles whether the request became a tunnel.
    pub(super) fn decide(&mut self, accepted: bool) {
        self.decoder.decide(accepted);
        self.tunnel = accepted;
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    /// Gives the read buffer back if it holds nothing.
    pub(super) fn release(&mut self) {
        if self.read.is_empty() {
            buffer::put_read(&mut self.read);
        }
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        if std::mem::take(&mut self.owes_continue) && self.write.has_room() {
            self.write.head().extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
            // An error shows again where the answer is written.
            let _ = self.poll_flush(cx);
        }
        loop {
            match self.decode() {
                Ok(Decoded::Data(bytes)) => return Poll::Ready(Some(Ok(Frame::Data(bytes)))),
                Ok(Decoded::Trailers(list)) => return Poll::Ready(Some(Ok(Frame::Trailers(list)))),
                Ok(Decoded::End) => return Poll::Ready(None),
                Err(why) => return Poll::Ready(Some(Err(BodyError::Protocol(why)))),
                Ok(Decoded::More) => {}
            }
            match self.ended {
                Some(_) if !self.decoder.is_undecided() && self.decoder.end_of_stream() => {
                    return Poll::Ready(None);
                }
                Some(Ended::Closed) => return Poll::Ready(Some(Err(BodyError::Closed))),
                Some(Ended::Failed(kind)) => return Poll::Ready(Some(Err(BodyError::Io(kind)))),
                None => {}
            }
            let full = self.decoder.is_undecided() && self.read.len() >= buffer::SMALL / 2;
            if full || self.poll_fill(cx).is_pending() {
                if !self.reader.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
                    self.reader = Some(cx.waker().clone());
                }
                return Poll::Pending;
            }
        }
    }
}

/// The body of a request, read from the connection as it is polled.
pub(super) struct RequestBody<S> {
    pub(super) link: Rc<RefCell<Link<S>>>,
    pub(super) sequence: u64,
}

impl<S: Io> BodySource for RequestBody<S> {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        let mut link = self.link.borrow_mut();
        if link.sequence != self.sequence {
            return Poll::Ready(Some(Err(BodyError::Closed)));
        }
        link.poll_body(cx)
    }

    fn remaining(&self) -> Option<u64> {
        let link = self.link.borrow();
        if link.sequence == self.sequence { link.decoder.remaining() } else { None }
    }
}

/// Whether an error only says that the peer has gone.
pub(super) fn is_closed(kind: io::ErrorKind) -> bool {
    matches!(
        kind,
        io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof
    )
}
