//! A downstream HTTP/1 connection: one request after the other, each answered before the next is looked at.

use super::client::BULK;
use super::encode::{self, Answering, Encoder, NameCase};
use super::framing::{Decoded, Decoder, Length};
use super::link::{Link, RequestBody};
use super::parse::{self, Parsed, RequestParts, details};
use crate::codec::seat::Seated;
use crate::codec::signals::Signals;
use crate::codec::timer::{Timer, earlier};
use crate::codec::{
    Body, BufferLimit, ConnectionEnd, EndReason, Frame, Handler, Io, ProtocolError, ProtocolErrorKind, Reply,
    Request, ServerOptions, buffer,
};
use crate::task::{Phase, Shutdown};
use crate::transport::Pipe;
use crate::turn;
use bytes::BytesMut;
use data_plane_core::headers::Version;
use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::time::Instant;

/// Request bodies up to this that are there whole are copied, so that the buffer is free again, bytes.
const COPIED_BODY: u64 = 8 * 1024;
/// An unread request body with at most this to come is read and dropped to keep the connection, bytes.
const MAX_DRAINED: u64 = 64 * 1024;

/// Serves a connection from which `received` has been read already.
pub(in crate::codec) fn serve<S: Io, H: Handler>(
    io: S,
    received: BytesMut,
    born: Instant,
    options: &Arc<ServerOptions>,
    limit: BufferLimit,
    handler: Rc<H>,
    shutdown: Shutdown,
) -> impl Future<Output = ConnectionEnd> + use<S, H> {
    handler.started(Version::Http11);
    let connection = Box::new(Connection {
        link: Rc::new(RefCell::new(Link::new(io, received, options, limit))),
        options: Arc::clone(options),
        handler,
        signals: Signals::new(shutdown),
        timer: Timer::default(),
        last_birthday: options.max_connection_duration.map(|d| born + d),
        requests: 0,
        idle_since: born,
        draining_since: None,
    });
    async move {
        let (connection, reason) = connection.run().await;
        let mut link = connection.link.borrow_mut();
        buffer::put_read(&mut link.read);
        link.write.clear();
        ConnectionEnd { reason, requests: connection.requests }
    }
}

/// In a box, since it goes into the future of each exchange and comes back from it.
struct Connection<S, H> {
    link: Rc<RefCell<Link<S>>>,
    options: Arc<ServerOptions>,
    handler: Rc<H>,
    signals: Signals,
    timer: Timer,
    /// When its longest life is over.
    last_birthday: Option<Instant>,
    requests: u64,
    idle_since: Instant,
    draining_since: Option<Instant>,
}

/// What a peer may still send on a connection that ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rest {
    None,
    Any,
}

/// What came while waiting for a request.
enum Next {
    Request(RequestParts, usize),
    Refuse(ProtocolError),
    End(EndReason),
}

impl<S: Io, H: Handler> Connection<S, H> {
    async fn run(mut self: Box<Self>) -> (Box<Self>, EndReason) {
        loop {
            let (parts, size) = match self.next().await {
                Next::Request(parts, size) => (parts, size),
                Next::Refuse(error) => {
                    let reason = Box::pin(self.refuse(&error)).await;
                    return (self, reason);
                }
                Next::End(reason) => return (self, reason),
            };
            self.requests += 1;
            // An idle connection does not hold the memory of a busy one.
            let serving = Seated::new(|| self.exchange(parts, size));
            let (connection, over) = serving.await;
            self = connection;
            if let Some(reason) = over {
                return (self, reason);
            }
        }
    }

    /// Waits for a request's head.
    async fn next(&mut self) -> Next {
        // An incomplete head is looked at again once it has doubled or its end is there, so that one that comes
        // byte by byte costs no more than one that comes at once.
        let mut seen = 0;
        let mut began = None;
        poll_fn(|cx| {
            let link = &mut *self.link.borrow_mut();
            loop {
                let length = link.read.len();
                let due = length >= 2 * seen
                    || memchr::memmem::find(&link.read[seen.saturating_sub(3)..], b"\r\n\r\n").is_some();
                if length > seen && (due || length > self.options.max_head_bytes) {
                    seen = length;
                    match parse::request(&link.read, &self.options) {
                        Ok(Parsed::Complete(parts, size)) => {
                            bytes::Buf::advance(&mut link.read, size);
                            return Poll::Ready(Next::Request(parts, size));
                        }
                        Ok(Parsed::Partial) => {}
                        Err(error) => return Poll::Ready(Next::Refuse(error)),
                    }
                }
                if link.ended.is_some() {
                    return Poll::Ready(Next::End(EndReason::Remote));
                }
                if link.poll_fill(cx).is_pending() {
                    break;
                }
            }
            let idle = link.read.is_empty();
            match self.signals.poll(cx) {
                Phase::Stopped => return Poll::Ready(Next::End(EndReason::Stopped)),
                Phase::Draining if self.draining_since.is_none() => {
                    self.draining_since = Some(Instant::now())
                }
                _ => {}
            }
            // Closed at once, a client would lose the request that it may be sending right now: Envoy answers one
            // more with `connection: close`. But a connection without any must not hold the process up.
            let drained = self.draining_since.map(|d| d.max(self.idle_since) + self.options.drain_timeout);
            let deadline = if idle {
                let idle_until = self.options.idle_timeout.map(|d| self.idle_since + d);
                earlier(drained, earlier(idle_until, self.last_birthday))
            } else {
                let began = *began.get_or_insert_with(Instant::now);
                self.options.request_headers_timeout.or(self.options.stream_idle_timeout).map(|d| began + d)
            };
            if self.timer.poll_until(deadline, cx).is_pending() {
                return Poll::Pending;
            }
            Poll::Ready(if !idle {
                let kind = ProtocolErrorKind::HeadersTimeout;
                Next::Refuse(ProtocolError { kind, details: details::HEADER_TIMEOUT })
            } else if deadline == drained {
                Next::End(EndReason::Drained)
            } else if deadline == self.last_birthday {
                Next::End(EndReason::MaxDuration)
            } else {
                Next::End(EndReason::IdleTimeout)
            })
        })
        .await
    }

    /// Serves one request. Returns why the connection is over, if it is.
    async fn exchange(
        mut self: Box<Self>,
        parts: RequestParts,
        size: usize,
    ) -> (Box<Self>, Option<EndReason>) {
        let over = self.serve(parts, size).await;
        (self, over)
    }

    async fn serve(&mut self, parts: RequestParts, size: usize) -> Option<EndReason> {
        let RequestParts { head, length, keep_alive, expect_continue, upgrade } = parts;
        let to = Answering { version: head.version, head: &*head.method == "HEAD", tunnel: upgrade };
        let mut head = head;
        let owes_continue = expect_continue && !self.options.proxy_100_continue;
        if owes_continue {
            head.headers.remove_id(data_plane_core::headers::HeaderId::Expect);
        }
        let body = self.begin(length, upgrade, expect_continue);
        let request = Request { head, body, expect_continue, upgrade, head_bytes: size };
        let handled = {
            let mut handling = pin!(Rc::clone(&self.handler).handle(request));
            poll_fn(|cx| self.poll_handling(handling.as_mut(), cx)).await
        };
        let reply = match handled {
            Ok(reply) => reply,
            Err(reason) => return Some(reason),
        };
        if reply.reset {
            return Some(EndReason::Local);
        }
        let (close, why) = self.closes(&reply, keep_alive);
        let ended = self.answer(reply, to, close).await;
        let (tunnel, unfinished) = {
            let mut link = self.link.borrow_mut();
            drop_rest(&mut link);
            // A body that lives on must not read from the next request.
            link.sequence += 1;
            (link.tunnel, !link.decoder.is_done())
        };
        match ended {
            Err(reason) => Some(reason),
            Ok(_) if tunnel => Some(self.close(EndReason::Local, Rest::Any).await),
            // RFC 9112 9.6: a client that said `close` sends nothing after this request.
            Ok(true) if !keep_alive && !unfinished => Some(self.close(why, Rest::None).await),
            Ok(true) => Some(self.close(why, Rest::Any).await),
            Ok(false) if unfinished && !self.drain().await => {
                Some(self.close(EndReason::Local, Rest::Any).await)
            }
            Ok(false) => {
                let mut link = self.link.borrow_mut();
                link.decoder = Decoder::done();
                link.release();
                self.idle_since = turn::now();
                None
            }
        }
    }

    /// Sets the connection up for reading the body, and makes the body.
    fn begin(&self, length: Length, upgrade: bool, expect_continue: bool) -> Body {
        let mut link = self.link.borrow_mut();
        link.owes_continue = expect_continue;
        match length {
            Length::None if !upgrade => {
                link.decoder = Decoder::done();
                link.release();
                return Body::Empty;
            }
            Length::Fixed(bytes) if bytes <= COPIED_BODY && link.read.len() as u64 >= bytes => {
                let body = buffer::copy(&link.read[..bytes as usize]);
                bytes::Buf::advance(&mut link.read, bytes as usize);
                link.decoder = Decoder::done();
                link.owes_continue = false;
                link.release();
                return Body::Full(body);
            }
            _ if upgrade => link.decoder = Decoder::undecided(),
            length => link.decoder = Decoder::new(length),
        }
        Body::Stream(Box::new(RequestBody { link: Rc::clone(&self.link), sequence: link.sequence }))
    }

    /// Drives the handler, and watches the client meanwhile.
    fn poll_handling(
        &mut self,
        handling: Pin<&mut impl Future<Output = Reply>>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Reply, EndReason>> {
        if let Poll::Ready(reply) = handling.poll(cx) {
            return Poll::Ready(Ok(reply));
        }
        let link = &mut *self.link.borrow_mut();
        // `100 Continue` may be on its way.
        if let Poll::Ready(Err(_)) = link.poll_flush(cx) {
            return Poll::Ready(Err(EndReason::RemoteActive));
        }
        if link.poll_gone(cx).is_ready() {
            return Poll::Ready(Err(EndReason::RemoteActive));
        }
        if self.signals.poll(cx) == Phase::Stopped {
            return Poll::Ready(Err(EndReason::Stopped));
        }
        Poll::Pending
    }

    /// Whether the connection ends with this answer, and why.
    fn closes(&self, reply: &Reply, keep_alive: bool) -> (bool, EndReason) {
        let mut link = self.link.borrow_mut();
        // An answer that is all there ends before a request body that nobody will read.
        let abandoned = !matches!(reply.body, Body::Stream(_)) && !link.decoder.is_undecided();
        if abandoned {
            drop_rest(&mut link);
        }
        let early = abandoned && !link.decoder.is_done();
        if link.decoder.has_failed() {
            (true, EndReason::Protocol(details::CODEC_ERROR))
        } else if self.options.max_requests.is_some_and(|max| self.requests >= max) {
            (true, EndReason::MaxRequests)
        } else if self.signals.phase() >= Phase::Draining {
            (true, EndReason::Drained)
        } else if self.last_birthday.is_some_and(|at| at <= turn::now()) {
            (true, EndReason::MaxDuration)
        } else {
            (reply.close.is_some() || !keep_alive || early, reply.close.unwrap_or(EndReason::Local))
        }
    }

    /// Writes an answer. Returns whether the connection ends with it.
    async fn answer(&mut self, reply: Reply, to: Answering, close: bool) -> Result<bool, EndReason> {
        let Reply { head, mut body, close: _, reset: _ } = reply;
        let case = NameCase::of(&self.options.http1);
        // Asked before the link is borrowed: the body may be the request's own.
        let remaining = body.remaining();
        let (mut encoder, close) = {
            let mut link = self.link.borrow_mut();
            let out = link.write.head();
            let (encoder, close) = encode::response_head(out, &head, remaining, to, close, case);
            link.decide(to.tunnel && encoder.is_raw());
            link.owes_continue = false;
            (encoder, close)
        };
        drop(head);
        let mut over = encoder.is_none();
        if over {
            body = Body::Empty;
        }
        let mut stalled: Option<(u64, Instant)> = None;
        let mut outcome = Ok(close);
        poll_fn(|cx| {
            loop {
                let waiting = match self.poll_body_out(&mut body, &mut encoder, &mut over, case, cx) {
                    Ok(waiting) => waiting,
                    // What there is of the answer still goes out; its end, by which it would look whole, does not.
                    Err(reason) => {
                        outcome = Err(reason);
                        over = true;
                        false
                    }
                };
                let link = &mut *self.link.borrow_mut();
                match link.poll_flush(cx) {
                    Poll::Ready(Err(_)) => return Poll::Ready(Err(EndReason::RemoteActive)),
                    Poll::Ready(Ok(())) if over => return Poll::Ready(outcome),
                    Poll::Ready(Ok(())) if !waiting => continue,
                    Poll::Ready(Ok(())) => stalled = None,
                    Poll::Pending => {
                        let since = match stalled {
                            Some((written, since)) if written == link.written => since,
                            _ => stalled.insert((link.written, Instant::now())).1,
                        };
                        let deadline = self.options.stream_idle_timeout.map(|d| since + d);
                        if self.timer.poll_until(deadline, cx).is_ready() {
                            return Poll::Ready(Err(EndReason::WriteStalled));
                        }
                    }
                }
                if link.poll_gone(cx).is_ready() {
                    return Poll::Ready(Err(EndReason::RemoteActive));
                }
                if self.signals.poll(cx) == Phase::Stopped {
                    return Poll::Ready(Err(EndReason::Stopped));
                }
                return Poll::Pending;
            }
        })
        .await
    }

    /// Queues what the body has ready and there is room for. Returns whether the body is waited for.
    fn poll_body_out(
        &self,
        body: &mut Body,
        encoder: &mut Encoder,
        over: &mut bool,
        case: NameCase,
        cx: &mut Context<'_>,
    ) -> Result<bool, EndReason> {
        while !*over && self.link.borrow().write.has_room() {
            if encoder.raw() >= BULK && self.link.borrow().io.plain().is_some() {
                match pipe_body(body, encoder, &self.link, cx) {
                    None => {}
                    Some(Poll::Pending) => return Ok(true),
                    Some(Poll::Ready(queued)) => {
                        queued?;
                        continue;
                    }
                }
            }
            // No borrow while the body is polled: driving an upload, it reads the request from the same link.
            let frame = match body.poll_frame(cx) {
                Poll::Pending => return Ok(true),
                Poll::Ready(frame) => frame,
            };
            *over = !matches!(frame, Some(Ok(Frame::Data(_))));
            if *over {
                *body = Body::Empty;
            }
            let out = &mut self.link.borrow_mut().write;
            let queued = match frame {
                Some(Ok(Frame::Data(bytes))) => encoder.data(out, bytes),
                Some(Ok(Frame::Trailers(list))) => {
                    encoder.end(out, Some(&list).filter(|_| self.options.http1.enable_trailers), case)
                }
                None => encoder.end(out, None, case),
                // The answer cannot be completed, and must not look complete.
                Some(Err(_)) => return Err(EndReason::Local),
            };
            if queued.is_err() {
                return Err(EndReason::Local);
            }
        }
        Ok(false)
    }

    /// Reads and drops what is left of a request whose answer is out, if it is little. Returns whether the
    /// connection can go on.
    async fn drain(&mut self) -> bool {
        let mut left = MAX_DRAINED;
        let give_up = self.options.delayed_close.map(|d| Instant::now() + d);
        if give_up.is_none() || self.link.borrow().decoder.remaining().is_some_and(|n| n > left) {
            return false;
        }
        poll_fn(|cx| {
            let link = &mut *self.link.borrow_mut();
            loop {
                match link.decode() {
                    Ok(Decoded::End) => return Poll::Ready(true),
                    Ok(Decoded::Data(bytes)) if bytes.len() as u64 <= left => left -= bytes.len() as u64,
                    Ok(Decoded::Trailers(_)) => {}
                    Ok(Decoded::Data(_)) | Err(_) => return Poll::Ready(false),
                    Ok(Decoded::More) if link.ended.is_some() => return Poll::Ready(false),
                    Ok(Decoded::More) => {
                        if link.poll_fill(cx).is_pending() {
                            break;
                        }
                    }
                }
            }
            if self.timer.poll_until(give_up, cx).is_ready() || self.signals.poll(cx) == Phase::Stopped {
                return Poll::Ready(false);
            }
            Poll::Pending
        })
        .await
    }

    /// Answers a message that was refused, and ends the connection.
    async fn refuse(&mut self, error: &ProtocolError) -> EndReason {
        let reason = match error.kind {
            ProtocolErrorKind::HeadersTimeout => EndReason::HeadersTimeout,
            _ => EndReason::Protocol(error.details),
        };
        let Some(reply) = self.handler.refuse(error) else { return reason };
        let to = Answering { version: Version::Http11, head: false, tunnel: false };
        match self.answer(reply, to, true).await {
            Ok(_) => self.close(reason, Rest::Any).await,
            Err(_) => reason,
        }
    }

    /// Ends our side, then reads and drops the rest that the peer may still send, for closing with bytes unread would
    /// reset the connection and could take the answer with it (RFC 9112 9.6).
    async fn close(&mut self, reason: EndReason, rest: Rest) -> EndReason {
        let Some(patience) = self.options.delayed_close else { return reason };
        let deadline = Some(Instant::now() + patience);
        let mut shut = false;
        poll_fn(|cx| {
            let link = &mut *self.link.borrow_mut();
            if !shut {
                match Pin::new(&mut link.io).poll_shutdown(cx) {
                    Poll::Ready(Ok(())) => shut = true,
                    Poll::Ready(Err(_)) => return Poll::Ready(()),
                    Poll::Pending => {}
                }
            }
            if shut && rest == Rest::None && link.read.is_empty() {
                return Poll::Ready(());
            }
            link.decoder = Decoder::done();
            while link.ended.is_none() {
                link.read.clear();
                if link.poll_fill(cx).is_pending() {
                    break;
                }
            }
            let gone = link.ended.is_some() && shut;
            if gone
                || self.timer.poll_until(deadline, cx).is_ready()
                || self.signals.poll(cx) == Phase::Stopped
            {
                return Poll::Ready(());
            }
            Poll::Pending
        })
        .await;
        reason
    }
}

/// Queues bytes of an answer's body without taking them into this process, where that can be.
fn pipe_body<S: Io>(
    body: &mut Body,
    encoder: &mut Encoder,
    link: &RefCell<Link<S>>,
    cx: &mut Context<'_>,
) -> Option<Poll<Result<(), EndReason>>> {
    let mut pipe = Pipe::take()?;
    let polled = body.poll_pipe(cx, &mut pipe);
    match polled {
        Some(Poll::Ready(Ok(_))) => {
            let queued = encoder.piped(&mut link.borrow_mut().write, pipe);
            return Some(Poll::Ready(queued.map_err(|_| EndReason::Local)));
        }
        Some(Poll::Ready(Err(_))) => return Some(Poll::Ready(Err(EndReason::Local))),
        _ => {}
    }
    pipe.put();
    polled.map(|_| Poll::Pending)
}

/// Takes what is at hand of a request body that nobody will read any more.
fn drop_rest<S: Io>(link: &mut Link<S>) {
    while !link.decoder.is_done() {
        match link.decode() {
            Ok(Decoded::Data(_) | Decoded::Trailers(_)) => {}
            _ => break,
        }
    }
}
