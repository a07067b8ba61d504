//! An upstream HTTP/1.1 connection: one exchange at a time.

use super::encode::{self, Encoder, NameCase};
use super::framing::{Decoded, Decoder, Length, Limits};
use super::link::is_closed;
use super::parse::{self, Parsed, ResponseParts};
use super::write::WriteBuf;
use crate::codec::buffer;
use crate::codec::{
    Body, BodyError, BodySource, ClientOptions, ExchangeError, ExchangeErrorKind, Frame, Io,
    ProtocolErrorKind,
};
use crate::transport::Pipe;
use crate::transport::pipe::is_unsupported;
use bytes::{Buf, Bytes, BytesMut};
use data_plane_core::headers::{HeaderId, RequestHead, ResponseHead};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::io::ReadBuf;

/// Interim responses to one request; a peer that sends more is broken.
const MAX_INTERIM: u32 = 32;
/// Response bodies up to this that are there whole are copied, so that connection and buffer are free at once, bytes.
const COPIED_BODY: u64 = 8 * 1024;
/// A response's body is carried within the kernel while so much is to come, bytes.
pub(super) const BULK: u64 = 64 * 1024;
/// How long a request that expects `100 Continue` waits for it (RFC 9110 10.1.1: not for ever).
const CONTINUE_PATIENCE: Duration = Duration::from_secs(1);

/// Where a connection goes once its exchange is over and it can take another.
pub trait Reuse<S> {
    /// Takes a connection that can carry another exchange.
    fn put(&self, conn: ClientConn<S>);

    /// Takes a connection whose exchange is over and that cannot be used again.
    fn discard(&self, conn: ClientConn<S>) {
        drop(conn);
    }
}

/// An upstream connection between exchanges. Holds no buffer while idle, and has no timers.
pub struct ClientConn<S> {
    io: S,
    options: Arc<ClientOptions>,
    exchanges: u64,
}

impl<S: Io> ClientConn<S> {
    /// A connection that has carried nothing yet.
    pub fn new(io: S, options: Arc<ClientOptions>) -> Self {
        Self { io, options, exchanges: 0 }
    }

    /// The byte stream beneath.
    pub fn io(&self) -> &S {
        &self.io
    }

    /// The byte stream beneath; whoever reads or writes it makes the connection useless.
    pub fn io_mut(&mut self) -> &mut S {
        &mut self.io
    }

    /// Exchanges begun on it.
    pub fn exchanges(&self) -> u64 {
        self.exchanges
    }

    /// Whether the peer has neither closed nor sent anything unasked. No system call in the common case.
    ///
    /// Replaces what [`Self::poll_dead`] registered.
    pub fn is_alive(&mut self) -> bool {
        self.poll_dead(&mut Context::from_waker(Waker::noop())).is_pending()
    }

    /// Waits, while idle, until the peer closes or sends something unasked: the connection is of no more use.
    pub fn poll_dead(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut byte = [0];
        Pin::new(&mut self.io).poll_read(cx, &mut ReadBuf::new(&mut byte)).map(|_| ())
    }

    /// Sends a request and waits for the response's head; the response's body goes on sending the request's body,
    /// and hands the connection to `reuse` once both are over, if it can be used again.
    ///
    /// # Errors
    /// Nothing of a response can be had. [`ExchangeError`] tells whether the request may be sent again.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    pub async fn exchange(
        mut self,
        head: &RequestHead,
        body: Body,
        reuse: Rc<dyn Reuse<S>>,
    ) -> Result<(ResponseHead, Body), ExchangeError> {
        self.exchanges += 1;
        let upgrade = asks_upgrade(head);
        let tunnel = upgrade || &*head.method == "CONNECT";
        let remaining = if tunnel { Some(0) } else { body.remaining() };
        let mut write = WriteBuf::new(self.options.buffer_limit);
        let case = NameCase::of(&self.options.http1);
        let encoder = match encode::request_head(write.head(), head, remaining, upgrade, case) {
            Ok(encoder) => encoder,
            Err(why) => {
                let kind = ExchangeErrorKind::RequestBody(BodyError::Protocol(why));
                return Err(ExchangeError { kind, response_started: false, unsent_body: Some(body) });
            }
        };
        let expects =
            head.headers.get_id(HeaderId::Expect).is_some_and(|v| v.eq_ignore_ascii_case(b"100-continue"));
        let mut patience =
            (expects && !encoder.is_none()).then(|| Box::pin(tokio::time::sleep(CONTINUE_PATIENCE)));
        let kept = if let Body::Full(bytes) = &body { Some(bytes.clone()) } else { None };
        let upload = Upload {
            over: encoder.is_none(),
            body,
            encoder,
            kept,
            touched: false,
            held: tunnel || patience.is_some(),
            failed: false,
            shut: false,
        };
        let mut flow =
            Flow { conn: self, read: BytesMut::new(), write, upload, decoder: Decoder::done(), full: false };
        let mut seen = 0;
        let mut interim = 0;
        let answered = poll_fn(|cx| {
            if let Some(sleep) = &mut patience
                && sleep.as_mut().poll(cx).is_ready()
            {
                patience = None;
                flow.upload.held = tunnel;
            }
            flow.poll_upload(cx).map_err(ExchangeErrorKind::RequestBody)?;
            let mut parts = match flow.poll_head(&head.method, &mut seen, cx) {
                Poll::Ready(parts) => parts?,
                Poll::Pending => return Poll::Pending,
            };
            while (100..200).contains(&parts.head.status) && parts.head.status != 101 {
                interim += 1;
                if interim > MAX_INTERIM {
                    return Poll::Ready(Err(ExchangeErrorKind::Protocol("too many interim responses")));
                }
                if parts.head.status == 100 && patience.take().is_some() {
                    flow.upload.held = tunnel;
                    flow.poll_upload(cx).map_err(ExchangeErrorKind::RequestBody)?;
                }
                seen = 0;
                parts = match flow.poll_head(&head.method, &mut seen, cx) {
                    Poll::Ready(parts) => parts?,
                    Poll::Pending => return Poll::Pending,
                };
            }
            Poll::Ready(Ok(parts))
        })
        .await;
        match answered {
            Ok(parts) if parts.head.status == 101 && !upgrade => {
                Err(flow.error(ExchangeErrorKind::Protocol("101 to a request without upgrade")))
            }
            Ok(parts) => Ok(flow.respond(parts, reuse)),
            Err(kind) => Err(flow.error(kind)),
        }
    }
}

/// Whether the head asks for an upgrade: the headers that say so must both be there.
fn asks_upgrade(head: &RequestHead) -> bool {
    head.headers.contains_id(HeaderId::Upgrade)
        && head.headers.get_all_id(HeaderId::Connection).any(|value| {
            value.split(|b| *b == b',').any(|token| token.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
        })
}

/// The sending half of an exchange.
struct Upload {
    body: Body,
    encoder: Encoder,
    /// A full body, for sending it again.
    kept: Option<Bytes>,
    /// Something was taken from `body`.
    touched: bool,
    /// The body waits for `100 Continue`, or for the answer that makes a tunnel.
    held: bool,
    /// The end of the body is queued.
    over: bool,
    /// Writing failed; a response may still be there to be read.
    failed: bool,
    /// The write side of a tunnel is shut down.
    shut: bool,
}

/// An exchange under way.
struct Flow<S> {
    conn: ClientConn<S>,
    read: BytesMut,
    write: WriteBuf,
    upload: Upload,
    decoder: Decoder,
    /// The last read filled the buffer.
    full: bool,
}

impl<S: Io> Flow<S> {
    /// Sends as much of the request as can be sent. A failure to write is not one of the exchange: a peer may
    /// answer and close without reading all.
    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Result<(), BodyError> {
        let case = NameCase::of(&self.conn.options.http1);
        let trailers = self.conn.options.http1.enable_trailers;
        let Self { conn, write, upload, .. } = self;
        if upload.failed {
            return Ok(());
        }
        loop {
            let mut waiting = upload.held;
            while !upload.over && !waiting && write.has_room() {
                let Poll::Ready(frame) = upload.body.poll_frame(cx) else {
                    waiting = true;
                    break;
                };
                let queued = match frame {
                    Some(Ok(Frame::Data(bytes))) => {
                        upload.touched = true;
                        upload.encoder.data(write, bytes)
                    }
                    Some(Ok(Frame::Trailers(list))) => {
                        upload.touched = true;
                        upload.over = true;
                        upload.encoder.end(write, Some(&list).filter(|_| trailers), case)
                    }
                    None => {
                        upload.over = true;
                        upload.encoder.end(write, None, case)
                    }
                    Some(Err(error)) => return Err(error),
                };
                if queued.is_err() {
                    return Err(BodyError::Protocol("request body differs from its content-length"));
                }
            }
            if upload.over {
                upload.body = Body::Empty;
            }
            match write.poll_flush(&mut conn.io, &mut 0, cx) {
                Poll::Ready(Err(_)) => {
                    write.clear();
                    upload.failed = true;
                }
                Poll::Ready(Ok(())) if upload.over && upload.encoder.is_raw() && !upload.shut => {
                    upload.shut = Pin::new(&mut conn.io).poll_shutdown(cx).is_ready();
                    return Ok(());
                }
                Poll::Ready(Ok(())) if !upload.over && !waiting => continue,
                _ => {}
            }
            return Ok(());
        }
    }

    /// Reads once. Ready with whether the connection goes on.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        // Of unknown length: much, where the last read found much.
        let coming = if self.full { u64::MAX } else { self.decoder.remaining().unwrap_or(0) };
        let size = self.conn.options.buffer_limit.reads(coming);
        let polled = buffer::poll_fill(&mut self.conn.io, &mut self.read, size, cx);
        if polled.is_ready() {
            self.full = self.read.len() == self.read.capacity();
        }
        polled.map_ok(|n| n > 0)
    }

    /// Reads a response's head.
    fn poll_head(
        &mut self,
        method: &str,
        seen: &mut usize,
        cx: &mut Context<'_>,
    ) -> Poll<Result<ResponseParts, ExchangeErrorKind>> {
        loop {
            let length = self.read.len();
            // See the server's: heads that come byte by byte are not parsed at each.
            let due = length >= 2 * *seen
                || memchr::memmem::find(&self.read[seen.saturating_sub(3)..], b"\r\n\r\n").is_some();
            if length > *seen && (due || length > self.conn.options.max_head_bytes) {
                *seen = length;
                match parse::response(&self.read, method, &self.conn.options) {
                    Ok(Parsed::Complete(parts, size)) => {
                        self.read.advance(size);
                        return Poll::Ready(Ok(parts));
                    }
                    Ok(Parsed::Partial) => {}
                    Err(error) if error.kind == ProtocolErrorKind::HeadersTooLarge => {
                        return Poll::Ready(Err(ExchangeErrorKind::HeadersTooLarge));
                    }
                    Err(error) => return Poll::Ready(Err(ExchangeErrorKind::Protocol(error.details))),
                }
            }
            match self.poll_fill(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(true)) => {}
                // However it ended: half a head is no HTTP.
                Poll::Ready(_) if !self.read.is_empty() => {
                    return Poll::Ready(Err(ExchangeErrorKind::Protocol("closed within a response's head")));
                }
                Poll::Ready(Ok(false)) => return Poll::Ready(Err(ExchangeErrorKind::Closed)),
                Poll::Ready(Err(error)) => {
                    return Poll::Ready(Err(if is_closed(error.kind()) {
                        ExchangeErrorKind::Closed
                    } else {
                        ExchangeErrorKind::Io(error.kind())
                    }));
                }
            }
        }
    }

    fn error(mut self, kind: ExchangeErrorKind) -> ExchangeError {
        let response_started = !self.read.is_empty()
            || matches!(kind, ExchangeErrorKind::Protocol(_) | ExchangeErrorKind::HeadersTooLarge);
        let Upload { body, kept, touched, .. } = &mut self.upload;
        let unsent_body = match kept.take() {
            Some(bytes) => Some(Body::Full(bytes)),
            None => (!*touched).then(|| std::mem::take(body)),
        };
        buffer::put_read(&mut self.read);
        self.write.clear();
        ExchangeError { kind, response_started, unsent_body }
    }

    /// Makes the response of its head and what follows.
    fn respond(mut self, parts: ResponseParts, reuse: Rc<dyn Reuse<S>>) -> (ResponseHead, Body) {
        let ResponseParts { head, length, keep_alive } = parts;
        if self.upload.encoder.is_raw() {
            self.upload.held = false;
            if length != Length::Tunnel {
                // Refused: the request had no body, and is over.
                self.upload.over = true;
                self.upload.body = Body::Empty;
            }
        } else if self.upload.held {
            // Answered without `100 Continue`: the body is not wanted, and the framing promised it.
            self.upload.failed = true;
            self.upload.over = true;
            self.upload.body = Body::Empty;
        }
        match length {
            Length::None => {
                self.finish(keep_alive, reuse.as_ref());
                (head, Body::Empty)
            }
            Length::Fixed(bytes) if bytes <= COPIED_BODY && self.read.len() as u64 >= bytes => {
                let body = buffer::copy(&self.read[..bytes as usize]);
                self.read.advance(bytes as usize);
                self.finish(keep_alive, reuse.as_ref());
                (head, Body::Full(body))
            }
            length => {
                self.decoder = Decoder::new(length);
                let options = &self.conn.options;
                let limits = Limits {
                    trailers: options.http1.enable_trailers,
                    max_trailer_bytes: options.max_head_bytes,
                    max_trailers: options.max_headers,
                };
                let body = ResponseBody { flow: Some(self), reuse, keep_alive, limits };
                (head, Body::Stream(Box::new(body)))
            }
        }
    }

    /// The response is complete. The connection is used again only if the request is too, and nothing is left over:
    /// bytes after a response would be taken for the answer to someone else's request.
    fn finish(mut self, keep_alive: bool, reuse: &dyn Reuse<S>) {
        let sent = self.upload.over && !self.upload.failed && self.write.is_empty();
        let clean = keep_alive && sent && self.read.is_empty() && !self.upload.encoder.is_raw();
        buffer::put_read(&mut self.read);
        self.write.clear();
        if clean {
            reuse.put(self.conn);
        } else {
            reuse.discard(self.conn);
        }
    }
}

/// A response's body, which drives what is left of the request's.
struct ResponseBody<S> {
    /// `None` once over.
    flow: Option<Flow<S>>,
    reuse: Rc<dyn Reuse<S>>,
    keep_alive: bool,
    limits: Limits,
}

impl<S: Io> ResponseBody<S> {
    fn finish(&mut self) {
        if let Some(flow) = self.flow.take() {
            flow.finish(self.keep_alive, self.reuse.as_ref());
        }
    }
}

impl<S: Io> BodySource for ResponseBody<S> {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        let Some(flow) = &mut self.flow else { return Poll::Ready(None) };
        if let Err(error) = flow.poll_upload(cx) {
            return Poll::Ready(Some(Err(error)));
        }
        loop {
            match flow.decoder.decode(&mut flow.read, &self.limits) {
                Ok(Decoded::Data(bytes)) => {
                    // The connection is free as soon as the last byte is here, not when that is asked for.
                    if flow.decoder.is_done() {
                        self.finish();
                    }
                    return Poll::Ready(Some(Ok(Frame::Data(bytes))));
                }
                Ok(Decoded::Trailers(list)) => {
                    self.finish();
                    return Poll::Ready(Some(Ok(Frame::Trailers(list))));
                }
                Ok(Decoded::End) => {
                    self.finish();
                    return Poll::Ready(None);
                }
                Err(why) => return Poll::Ready(Some(Err(BodyError::Protocol(why)))),
                Ok(Decoded::More) => {}
            }
            match flow.poll_fill(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(true)) => {}
                Poll::Ready(Ok(false)) if flow.decoder.end_of_stream() => {
                    self.keep_alive = false;
                    self.finish();
                    return Poll::Ready(None);
                }
                Poll::Ready(Ok(false)) => return Poll::Ready(Some(Err(BodyError::Closed))),
                Poll::Ready(Err(error)) => {
                    return Poll::Ready(Some(Err(if is_closed(error.kind()) {
                        BodyError::Closed
                    } else {
                        BodyError::Io(error.kind())
                    })));
                }
            }
        }
    }

    fn poll_pipe(&mut self, cx: &mut Context<'_>, pipe: &mut Pipe) -> Option<Poll<Result<usize, BodyError>>> {
        let flow = self.flow.as_mut()?;
        let bytes = flow.decoder.raw();
        if bytes < BULK || !flow.read.is_empty() || !flow.upload.over || !flow.write.is_empty() {
            return None;
        }
        let most = flow.conn.options.buffer_limit.at_most(usize::try_from(bytes).unwrap_or(usize::MAX));
        let io = &mut flow.conn.io;
        match pipe.poll_fill(cx, io.plain()?, most) {
            Poll::Pending => Some(Poll::Pending),
            Poll::Ready(Ok(0)) => Some(Poll::Ready(Err(BodyError::Closed))),
            Poll::Ready(Ok(filled)) => {
                io.count(filled, 0);
                flow.decoder.skip(filled as u64);
                if flow.decoder.is_done() {
                    self.finish();
                }
                Some(Poll::Ready(Ok(filled)))
            }
            Poll::Ready(Err(error)) if is_unsupported(&error) => None,
            Poll::Ready(Err(error)) => {
                io.broke();
                Some(Poll::Ready(Err(BodyError::Io(error.kind()))))
            }
        }
    }

    fn remaining(&self) -> Option<u64> {
        self.flow.as_ref().map_or(Some(0), |flow| flow.decoder.remaining())
    }
}
