//! Bodies over HTTP/2 streams, both directions, under flow control.

use super::convert::{trailers_in, trailers_out};
use super::turns::Turns;
use crate::codec::timer::Timer;
use crate::codec::{Body, BodyError, BodySource, Frame};
use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::Instant;

/// A body being received. The window is given back as frames are taken, so what is not polled stays with the peer.
pub(super) struct Receiving<G> {
    stream: RecvStream,
    /// Bytes still to come, when `content-length` told; `h2` holds the peer to it.
    left: Option<u64>,
    data_over: bool,
    /// Kept until the body is dropped.
    _guard: G,
}

impl<G> Receiving<G> {
    pub(super) fn new(stream: RecvStream, length: Option<u64>, guard: G) -> Self {
        Self { stream, left: length, data_over: false, _guard: guard }
    }
}

/// `content-length`, if there is one that can be read.
pub(super) fn stated_length(headers: &http::HeaderMap) -> Option<u64> {
    headers.get(http::header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// What an `h2` error means for a body.
pub(super) fn body_error(error: &h2::Error) -> BodyError {
    if let Some(io) = error.get_io() {
        return match io.kind() {
            std::io::ErrorKind::ConnectionReset
            | std::io::ErrorKind::BrokenPipe
            | std::io::ErrorKind::UnexpectedEof => BodyError::Closed,
            kind => BodyError::Io(kind),
        };
    }
    if error.is_remote() || error.is_reset() {
        return error.reason().map_or(BodyError::Closed, |reason| BodyError::Reset(reason.into()));
    }
    BodyError::Protocol("http2 protocol error")
}

impl<G> BodySource for Receiving<G> {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        while !self.data_over {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(bytes)) => {
                    // An error here is the stream's, and comes again with the next poll.
                    let _ = self.stream.flow_control().release_capacity(bytes.len());
                    if bytes.is_empty() {
                        continue;
                    }
                    self.left = self.left.map(|left| left.saturating_sub(bytes.len() as u64));
                    return Poll::Ready(Some(Ok(Frame::Data(bytes))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(body_error(&error)))),
                None => self.data_over = true,
            }
        }
        match ready!(self.stream.poll_trailers(cx)) {
            Ok(Some(map)) => Poll::Ready(Some(Ok(Frame::Trailers(trailers_in(&map))))),
            Ok(None) => Poll::Ready(None),
            Err(error) => Poll::Ready(Some(Err(body_error(&error)))),
        }
    }

    fn remaining(&self) -> Option<u64> {
        if self.stream.is_end_stream() { Some(0) } else { self.left.filter(|left| *left > 0) }
    }
}

/// A body being sent.
pub(super) struct Sending {
    stream: SendStream<Bytes>,
    body: Body,
    /// Taken from the body, waiting for the window.
    waiting: Bytes,
    /// Bytes promised by `content-length` and not sent yet.
    owed: Option<u64>,
    over: bool,
    /// Something was taken from the body.
    pub(super) touched: bool,
    /// Since when the peer has given no window.
    stalled: Option<Instant>,
    patience: Option<Duration>,
    timer: Timer,
    /// Of the connection, where what went before a failure must still arrive.
    turns: Option<Rc<Turns>>,
    /// The body failed in that turn.
    broken: Option<(BodyError, u64)>,
}

/// Why a body was not sent whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SendError {
    /// The body failed; the stream has been reset.
    Body(BodyError),
    /// The peer gave no window for too long; the stream has been reset.
    Stalled,
    /// The peer reset the stream, or the connection is over.
    Stream(BodyError),
}

impl Sending {
    /// `owed`: bytes that the head promised. `patience`: how long the peer may give no window.
    pub(super) fn new(
        stream: SendStream<Bytes>,
        body: Body,
        owed: Option<u64>,
        over: bool,
        patience: Option<Duration>,
    ) -> Self {
        Self {
            stream,
            body: if over { Body::Empty } else { body },
            waiting: Bytes::new(),
            owed,
            over,
            touched: false,
            stalled: None,
            patience,
            timer: Timer::default(),
            turns: None,
            broken: None,
        }
    }

    /// Lets what was sent leave before the stream is reset because the body failed. Resetting drops what is queued.
    pub(super) fn breaking_after(mut self, turns: &Rc<Turns>) -> Self {
        self.turns = Some(Rc::clone(turns));
        self
    }

    /// The body, for sending it again; whole only if not [`Self::touched`].
    pub(super) fn take_body(&mut self) -> Body {
        std::mem::take(&mut self.body)
    }

    /// Sends what can be sent. Ready once the end is queued.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        if self.broken.is_some() {
            return self.poll_break(cx);
        }
        while !self.over {
            if !self.waiting.is_empty() {
                ready!(self.poll_data(cx))?;
                continue;
            }
            match self.body.poll_frame(cx) {
                Poll::Pending => {
                    // Nothing to send: the only news can be that nobody wants it any more.
                    return match self.stream.poll_reset(cx) {
                        Poll::Ready(Ok(reason)) => {
                            Poll::Ready(Err(SendError::Stream(BodyError::Reset(reason.into()))))
                        }
                        Poll::Ready(Err(error)) => Poll::Ready(Err(SendError::Stream(body_error(&error)))),
                        Poll::Pending => Poll::Pending,
                    };
                }
                Poll::Ready(Some(Ok(Frame::Data(bytes)))) => {
                    self.touched = true;
                    if let Some(owed) = &mut self.owed {
                        match owed.checked_sub(bytes.len() as u64) {
                            Some(left) => *owed = left,
                            None => return self.mismatch(cx),
                        }
                    }
                    self.waiting = bytes;
                }
                Poll::Ready(None | Some(Ok(Frame::Trailers(_)))) if self.owed.is_some_and(|n| n > 0) => {
                    return self.mismatch(cx);
                }
                Poll::Ready(Some(Ok(Frame::Trailers(list)))) => {
                    self.touched = true;
                    self.over = true;
                    self.body = Body::Empty;
                    self.stream.send_trailers(trailers_out(&list)).map_err(lost)?;
                }
                Poll::Ready(None) => {
                    self.over = true;
                    self.stream.send_data(Bytes::new(), true).map_err(lost)?;
                }
                Poll::Ready(Some(Err(error))) => {
                    return self.breaks(error, cx);
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    fn breaks(&mut self, error: BodyError, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        self.body = Body::Empty;
        self.broken = Some((error, self.turns.as_ref().map_or(0, |turns| turns.now())));
        self.poll_break(cx)
    }

    /// Resets the stream once all that went before has left, or the peer has read nothing for too long.
    fn poll_break(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        if let Some((_, at)) = &self.broken
            && let Some(turns) = &self.turns
            && turns.poll_past(*at, cx).is_pending()
        {
            let since = *self.stalled.get_or_insert_with(Instant::now);
            let gone = self.stream.poll_reset(cx).is_ready();
            if !gone && self.timer.poll_until(self.patience.map(|d| since + d), cx).is_pending() {
                return Poll::Pending;
            }
        }
        self.stream.send_reset(Reason::INTERNAL_ERROR);
        let error = self.broken.take().map_or(BodyError::Closed, |(error, _)| error);
        Poll::Ready(Err(SendError::Body(error)))
    }

    /// The body is not as long as the head said; the message must not look whole.
    fn mismatch(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        self.breaks(BodyError::Protocol("body differs from its content-length"), cx)
    }

    /// Sends what waits, as far as the window goes.
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        self.stream.reserve_capacity(self.waiting.len());
        let mut capacity = self.stream.capacity();
        if capacity == 0 {
            match self.stream.poll_capacity(cx) {
                Poll::Ready(Some(Ok(bytes))) => capacity = bytes,
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(lost(error))),
                Poll::Ready(None) => return Poll::Ready(Err(SendError::Stream(BodyError::Closed))),
                Poll::Pending => {
                    let since = *self.stalled.get_or_insert_with(Instant::now);
                    ready!(self.timer.poll_until(self.patience.map(|d| since + d), cx));
                    self.stream.send_reset(Reason::CANCEL);
                    return Poll::Ready(Err(SendError::Stalled));
                }
            }
        }
        if capacity == 0 {
            // A wake-up without a window; the next one is registered for.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.stalled = None;
        let data = self.waiting.split_to(capacity.min(self.waiting.len()));
        if self.waiting.is_empty() {
            // The end goes with the last of the data when it is known to be that.
            self.over = self.body.remaining() == Some(0) && self.owed.is_none_or(|n| n == 0);
        }
        self.stream.send_data(data, self.over).map_err(lost)?;
        if self.over {
            self.body = Body::Empty;
        }
        Poll::Ready(Ok(()))
    }
}

fn lost(error: h2::Error) -> SendError {
    SendError::Stream(body_error(&error))
}
