//! A downstream HTTP/2 connection: all of its streams are polled by its own task, and answered in one write a turn.

use super::batch::{Batch, Flusher, batch};
use super::convert::{self, Incoming};
use super::flow::{Receiving, SendError, Sending, stated_length};
use super::keepalive::Keepalive;
use super::turns::Turns;
use crate::codec::h1::decimal;
use crate::codec::signals::Signals;
use crate::codec::timer::{Timer, earlier};
use crate::codec::{Body, BufferLimit, ConnectionEnd, EndReason, Handler, Io, Reply, Request, ServerOptions};
use crate::task::{Phase, Shutdown};
use bytes::{Bytes, BytesMut};
use data_plane_core::headers::{HeaderId, Version};
use futures_util::future::LocalBoxFuture;
use futures_util::stream::{FuturesUnordered, Stream};
use h2::server::{Connection, SendResponse};
use h2::{Reason, RecvStream};
use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use tokio::time::Instant;

/// Streams reset by the client before we accepted them (the rapid-reset attack, CVE-2023-44487), at most.
const MAX_PENDING_ACCEPT_RESETS: usize = 20;
/// Bytes of answers queued in a stream beyond the window, at most.
const MAX_SEND_BUFFER: usize = 256 * 1024;

/// Serves a connection from which `received` has been read already.
pub(in crate::codec) async fn serve<S: Io, H: Handler>(
    io: S,
    received: BytesMut,
    born: Instant,
    options: &ServerOptions,
    limit: BufferLimit,
    handler: Rc<H>,
    shutdown: Shutdown,
) -> ConnectionEnd {
    handler.started(Version::Http2);
    let (stream, flusher) = batch(io, received, limit);
    let mut signals = Signals::new(shutdown);
    let mut timer = Timer::default();
    let patience = options.request_headers_timeout.or(options.stream_idle_timeout);
    let give_up = patience.map(|d| born + d);
    let mut handshake = builder(options, limit).handshake::<_, Bytes>(stream);
    let shaken = poll_fn(|cx| {
        let shaken = Pin::new(&mut handshake).poll(cx);
        let _ = flusher.poll_flush(cx);
        match shaken {
            Poll::Ready(Ok(connection)) => Poll::Ready(Ok(connection)),
            Poll::Ready(Err(error)) => Poll::Ready(Err(ended(&error, false))),
            Poll::Pending if signals.poll(cx) == Phase::Stopped => Poll::Ready(Err(EndReason::Stopped)),
            Poll::Pending => timer.poll_until(give_up, cx).map(|()| Err(EndReason::HeadersTimeout)),
        }
    })
    .await;
    let mut connection = match shaken {
        Ok(connection) => connection,
        Err(reason) => return ConnectionEnd { reason, requests: 0 },
    };
    let keepalive = options.http2.keepalive_interval.and_then(|interval| {
        let ping = connection.ping_pong()?;
        Some(Keepalive::new(ping, interval, options.http2.keepalive_timeout))
    });
    let mut driver = Driver {
        connection,
        flusher,
        streams: FuturesUnordered::new(),
        options,
        handler,
        close: Rc::default(),
        turns: Rc::default(),
        signals,
        timer,
        keepalive,
        ping_timer: Timer::default(),
        last_birthday: options.max_connection_duration.map(|d| born + d),
        idle_since: Some(Instant::now()),
        requests: 0,
        ending: None,
    };
    let reason = poll_fn(|cx| driver.poll(cx)).await;
    let requests = driver.requests;
    if !reason.is_remote() && reason != EndReason::Stopped {
        // In a box, so that a connection that goes on has no room for it.
        Box::pin(driver.last_words()).await;
    }
    ConnectionEnd { reason, requests }
}

fn builder(options: &ServerOptions, limit: BufferLimit) -> h2::server::Builder {
    let http2 = &options.http2;
    let mut builder = h2::server::Builder::new();
    builder
        .max_concurrent_streams(http2.max_concurrent_streams)
        .initial_window_size(http2.initial_stream_window)
        .initial_connection_window_size(http2.initial_connection_window)
        .header_table_size(http2.header_table_size)
        .max_header_list_size(u32::try_from(options.max_head_bytes).unwrap_or(u32::MAX))
        .max_send_buffer_size(limit.at_most(MAX_SEND_BUFFER))
        .max_pending_accept_reset_streams(MAX_PENDING_ACCEPT_RESETS)
        .max_local_error_reset_streams(Some(http2.max_reset_streams));
    if http2.allow_connect {
        builder.enable_connect_protocol();
    }
    builder
}

/// What an error of the connection says about its end.
fn ended(error: &h2::Error, active: bool) -> EndReason {
    if error.is_io() || error.is_remote() {
        if active { EndReason::RemoteActive } else { EndReason::Remote }
    } else {
        EndReason::Protocol("http2.protocol_error")
    }
}

struct Driver<'a, S: Io, H> {
    connection: Connection<Batch<S>, Bytes>,
    flusher: Flusher<S>,
    streams: FuturesUnordered<LocalBoxFuture<'a, ()>>,
    options: &'a ServerOptions,
    handler: Rc<H>,
    /// An answer asked for the connection's end.
    close: Rc<Cell<Option<EndReason>>>,
    turns: Rc<Turns>,
    signals: Signals,
    timer: Timer,
    keepalive: Option<Keepalive>,
    ping_timer: Timer,
    last_birthday: Option<Instant>,
    /// `None` while streams are open.
    idle_since: Option<Instant>,
    requests: u64,
    /// GOAWAY is out: why, and until when a peer without streams may linger.
    ending: Option<(EndReason, Instant)>,
}

impl<S: Io, H: Handler> Driver<'_, S, H> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<EndReason> {
        match self.signals.poll(cx) {
            Phase::Stopped => return Poll::Ready(EndReason::Stopped),
            Phase::Draining => self.end(EndReason::Drained),
            Phase::Running => {}
        }
        loop {
            // Streams first, so that what they queue leaves with this turn.
            while let Poll::Ready(Some(())) = Pin::new(&mut self.streams).poll_next(cx) {}
            if let Some(reason) = self.close.get() {
                self.end(reason);
            }
            match self.accept(cx) {
                Ok(0) => break,
                Ok(_) => {}
                Err(reason) => return Poll::Ready(self.ending.map_or(reason, |(reason, _)| reason)),
            }
        }
        match self.flusher.poll_flush(cx) {
            Poll::Ready(Err(_)) => {
                let active = !self.streams.is_empty();
                return Poll::Ready(if active { EndReason::RemoteActive } else { EndReason::Remote });
            }
            Poll::Ready(Ok(())) if self.flusher.is_clear() => self.turns.cleared(),
            _ => {}
        }
        if let Some(keepalive) = &mut self.keepalive
            && keepalive.poll(&mut self.ping_timer, cx).is_ready()
        {
            return Poll::Ready(EndReason::KeepaliveTimeout);
        }
        self.poll_deadlines(cx)
    }

    /// Drives the connection. Returns how many requests came.
    fn accept(&mut self, cx: &mut Context<'_>) -> Result<usize, EndReason> {
        let mut accepted = 0;
        loop {
            match self.connection.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    accepted += 1;
                    self.requests += 1;
                    let handler = Rc::clone(&self.handler);
                    let shared = (Rc::clone(&self.close), Rc::clone(&self.turns));
                    self.streams.push(Box::pin(stream(request, respond, handler, self.options, shared)));
                    if self.options.max_requests.is_some_and(|max| self.requests >= max) {
                        self.end(EndReason::MaxRequests);
                    }
                }
                Poll::Ready(Some(Err(error))) => return Err(ended(&error, !self.streams.is_empty())),
                Poll::Ready(None) => return Err(EndReason::Remote),
                Poll::Pending => return Ok(accepted),
            }
        }
    }

    fn poll_deadlines(&mut self, cx: &mut Context<'_>) -> Poll<EndReason> {
        loop {
            if !self.streams.is_empty() {
                self.idle_since = None;
            } else if self.idle_since.is_none() {
                self.idle_since = Some(Instant::now());
            }
            let idle_until = match (&self.ending, self.idle_since) {
                (Some((_, until)), Some(_)) => Some(*until),
                (None, Some(since)) => self.options.idle_timeout.map(|d| since + d),
                (_, None) => None,
            };
            let old_at = self.last_birthday.filter(|_| self.ending.is_none());
            if self.timer.poll_until(earlier(idle_until, old_at), cx).is_pending() {
                return Poll::Pending;
            }
            match self.ending {
                Some((reason, _)) => return Poll::Ready(reason),
                None if old_at.is_some_and(|at| at <= Instant::now()) => self.end(EndReason::MaxDuration),
                None => self.end(EndReason::IdleTimeout),
            }
            // GOAWAY is queued; the next turn lets it out.
            cx.waker().wake_by_ref();
        }
    }

    /// Tells the peer that no new streams will be served; once its streams are over the connection is.
    fn end(&mut self, reason: EndReason) {
        if self.ending.is_none() {
            // `h2` sends a first GOAWAY that refuses nothing, and the final one a PING's round trip later.
            self.connection.graceful_shutdown();
            self.ending = Some((reason, Instant::now() + self.options.drain_timeout));
        }
    }

    /// Lets out what is queued, GOAWAY at least, and gives the peer a moment to close first.
    async fn last_words(self) {
        let Self { connection, flusher, streams, options, mut timer, .. } = self;
        drop(streams);
        drop(connection);
        let Some(patience) = options.delayed_close else { return };
        let deadline = Some(Instant::now() + patience);
        poll_fn(|cx| {
            if flusher.poll_end(cx).is_ready() { Poll::Ready(()) } else { timer.poll_until(deadline, cx) }
        })
        .await;
    }
}

/// Serves one stream.
async fn stream<H: Handler>(
    request: http::Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    handler: Rc<H>,
    options: &ServerOptions,
    (close, turns): (Rc<Cell<Option<EndReason>>>, Rc<Turns>),
) {
    let (parts, body) = request.into_parts();
    let length = stated_length(&parts.headers);
    let head = parts.method == http::Method::HEAD;
    let reply = match convert::request_in(parts, options) {
        Ok(incoming) => {
            let body = if body.is_end_stream() {
                Body::Empty
            } else {
                Body::Stream(Box::new(Receiving::new(body, length, ())))
            };
            match handle(incoming, body, &mut respond, handler, options).await {
                Some(reply) => reply,
                None => return,
            }
        }
        Err(error) => match handler.refuse(&error) {
            Some(reply) => reply,
            None => return respond.send_reset(Reason::PROTOCOL_ERROR),
        },
    };
    if reply.reset {
        return respond.send_reset(Reason::INTERNAL_ERROR);
    }
    if reply.close.is_some() {
        close.set(reply.close);
    }
    let (length, over) = framing(&reply, head);
    let response = convert::response_out(&reply.head, length);
    let Ok(out) = respond.send_response(response, over) else { return };
    let owed = length.filter(|_| !over);
    let mut sending =
        Sending::new(out, reply.body, owed, over, options.stream_idle_timeout).breaking_after(&turns);
    drop(reply.head);
    // Whatever fails has reset the stream.
    let _: Result<(), SendError> = poll_fn(|cx| sending.poll(cx)).await;
}

/// Has a request answered; `None` when the client reset the stream first.
async fn handle<H: Handler>(
    incoming: Incoming,
    body: Body,
    respond: &mut SendResponse<Bytes>,
    handler: Rc<H>,
    options: &ServerOptions,
) -> Option<Reply> {
    let Incoming { mut head, upgrade, head_bytes } = incoming;
    let expects =
        head.headers.get_id(HeaderId::Expect).is_some_and(|v| v.eq_ignore_ascii_case(b"100-continue"));
    if expects && !options.proxy_100_continue && matches!(body, Body::Stream(_)) {
        head.headers.remove_id(HeaderId::Expect);
        let mut go_on = http::Response::new(());
        *go_on.status_mut() = http::StatusCode::CONTINUE;
        // An error is the stream's, and shows where it is answered.
        let _ = respond.send_informational(go_on);
    }
    let request = Request { head, body, expect_continue: expects, upgrade, head_bytes };
    let mut handling = pin!(handler.handle(request));
    poll_fn(|cx| match handling.as_mut().poll(cx) {
        Poll::Ready(reply) => Poll::Ready(Some(reply)),
        Poll::Pending => respond.poll_reset(cx).map(|_| None),
    })
    .await
}

/// The `content-length` to state, and whether the answer ends with its head.
fn framing(reply: &Reply, to_head: bool) -> (Option<u64>, bool) {
    let remaining = reply.body.remaining();
    let given = reply.head.headers.get_id(HeaderId::ContentLength).and_then(decimal);
    match reply.head.status {
        204 => (None, true),
        304 => (given, true),
        _ if to_head => (given.or(remaining.filter(|n| *n > 0)), true),
        // A tunnel, or a length that is not known.
        101 => (None, false),
        _ => (remaining.or(given), remaining == Some(0)),
    }
}
