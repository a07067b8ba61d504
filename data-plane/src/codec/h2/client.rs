//! An upstream HTTP/2 connection: many exchanges at a time.

use super::batch::batch;
use super::convert;
use super::flow::{Receiving, SendError, Sending, body_error, stated_length};
use crate::codec::h1::decimal;
use crate::codec::timer::Timer;
use crate::codec::{Body, BodyError, BodySource, ClientOptions, ExchangeError, ExchangeErrorKind, Frame, Io};
use bytes::{Bytes, BytesMut};
use data_plane_core::headers::{HeaderId, RequestHead, ResponseHead};
use h2::Reason;
use h2::client::SendRequest;
use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

/// Bytes of requests queued in a stream beyond the window, at most.
const MAX_SEND_BUFFER: usize = 256 * 1024;

/// What the handles to a connection share with its driver.
struct Shared {
    active: Cell<usize>,
    /// No new exchanges.
    closed: Cell<bool>,
    options: Arc<ClientOptions>,
}

/// Counts an exchange until its response's body is gone.
struct Exchanging(Rc<Shared>);

impl Exchanging {
    fn new(shared: &Rc<Shared>) -> Self {
        shared.active.set(shared.active.get() + 1);
        Self(Rc::clone(shared))
    }
}

impl Drop for Exchanging {
    fn drop(&mut self) {
        self.0.active.set(self.0.active.get() - 1);
    }
}

/// A handle to an upstream HTTP/2 connection; clones share it.
#[derive(Clone)]
pub struct Client {
    requests: SendRequest<Bytes>,
    shared: Rc<Shared>,
}

/// Starts HTTP/2 on a fresh connection. The second value drives the connection and ends with it: spawn it.
/// It also ends, after its streams, once all handles are dropped.
///
/// # Errors
/// When the connection fails before the preface is written.
pub async fn connect<S: Io>(
    io: S,
    options: Arc<ClientOptions>,
) -> Result<(Client, impl Future<Output = ()> + 'static), ExchangeError> {
    let http2 = options.http2.clone();
    let (stream, flusher) = batch(io, BytesMut::new(), options.buffer_limit);
    let handshake = h2::client::Builder::new()
        .enable_push(false)
        .initial_window_size(http2.initial_stream_window)
        .initial_connection_window_size(http2.initial_connection_window)
        .header_table_size(http2.header_table_size)
        .max_header_list_size(u32::try_from(options.max_head_list_bytes).unwrap_or(u32::MAX))
        .max_send_buffer_size(options.buffer_limit.at_most(MAX_SEND_BUFFER))
        .max_local_error_reset_streams(Some(http2.max_reset_streams))
        .handshake::<_, Bytes>(stream);
    let (requests, mut connection) = handshake.await.map_err(|error| ExchangeError {
        kind: exchange_error(&error),
        response_started: false,
        unsent_body: None,
    })?;
    let shared = Rc::new(Shared { active: Cell::new(0), closed: Cell::new(false), options });
    let client = Client { requests, shared: Rc::clone(&shared) };
    let mut keepalive = http2.keepalive_interval.and_then(|interval| {
        let ping = connection.ping_pong()?;
        Some(super::keepalive::Keepalive::new(ping, interval, http2.keepalive_timeout))
    });
    let mut timer = Timer::default();
    let driver = async move {
        let _closed = CloseOnDrop(shared);
        let mut over = false;
        poll_fn(|cx| {
            over = over || Pin::new(&mut connection).poll(cx).is_ready();
            let flushed = flusher.poll_flush(cx);
            let dead = keepalive.as_mut().is_some_and(|k| k.poll(&mut timer, cx).is_ready());
            let failed = matches!(flushed, Poll::Ready(Err(_)));
            if failed || dead || (over && flushed.is_ready()) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    };
    Ok((client, driver))
}

/// Marks the connection as closed however its driver ends.
struct CloseOnDrop(Rc<Shared>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.closed.set(true);
    }
}

fn exchange_error(error: &h2::Error) -> ExchangeErrorKind {
    // A stream above GOAWAY's last was not processed, whatever GOAWAY's reason, and neither was one refused
    // (RFC 9113 6.8, 8.7). `h2` gives the peer's GOAWAY to no other stream.
    let unprocessed = error.is_go_away() && error.is_remote();
    if error.reason() == Some(Reason::REFUSED_STREAM) || unprocessed {
        return ExchangeErrorKind::Refused;
    }
    match body_error(error) {
        BodyError::Closed => ExchangeErrorKind::Closed,
        BodyError::Reset(code) => ExchangeErrorKind::Reset(code),
        BodyError::Io(kind) => ExchangeErrorKind::Io(kind),
        BodyError::Protocol(why) => ExchangeErrorKind::Protocol(why),
        BodyError::Timeout => ExchangeErrorKind::Closed,
    }
}

impl Client {
    /// Sends a request and waits for the response's head; the response's body goes on sending the request's body.
    ///
    /// # Errors
    /// Nothing of a response can be had. [`ExchangeError`] tells whether the request may be sent again.
    ///
    /// # Cancel safety
    /// Dropping the future, or the response's body before its end, resets the stream.
    pub async fn exchange(
        &self,
        head: &RequestHead,
        body: Body,
    ) -> Result<(ResponseHead, Body), ExchangeError> {
        let failed = |kind, unsent_body| ExchangeError { kind, response_started: false, unsent_body };
        if !self.is_usable() {
            return Err(failed(ExchangeErrorKind::Refused, Some(body)));
        }
        let exchanging = Exchanging::new(&self.shared);
        let remaining = body.remaining();
        let given = head.headers.get_id(HeaderId::ContentLength).and_then(decimal);
        let connect = &*head.method == "CONNECT";
        // Nothing is said of the length of what GET and HEAD do not carry, and of tunnels.
        let silent = remaining == Some(0) && given.is_none() && matches!(&*head.method, "GET" | "HEAD");
        let length = remaining.or(given).filter(|_| !silent && !connect);
        let request = match convert::request_out(head, length) {
            Ok(request) => request,
            Err(why) => {
                return Err(failed(ExchangeErrorKind::RequestBody(BodyError::Protocol(why)), Some(body)));
            }
        };
        let over = remaining == Some(0) && !connect;
        let kept = if let Body::Full(bytes) = &body { Some(bytes.clone()) } else { None };
        let mut requests = self.requests.clone();
        let (response, stream) = match requests.send_request(request, over) {
            Ok(sent) => sent,
            // Nothing was sent: what went wrong is the connection's, and it is of no more use.
            Err(error) => {
                let kind = match exchange_error(&error) {
                    ExchangeErrorKind::Protocol(why) => ExchangeErrorKind::Protocol(why),
                    _ => ExchangeErrorKind::Refused,
                };
                return Err(failed(kind, Some(body)));
            }
        };
        drop(requests);
        let owed = length.filter(|_| !over);
        let mut upload = Some(Sending::new(stream, body, owed, over, None)).filter(|_| !over);
        let mut response = pin!(response);
        let answered = poll_fn(|cx| {
            let sent = upload.as_mut().map_or(Poll::Ready(Ok(())), |u| u.poll(cx));
            if let Poll::Ready(Err(SendError::Body(error))) = &sent {
                return Poll::Ready(Err(ExchangeErrorKind::RequestBody(error.clone())));
            }
            // A peer may answer and stop reading: what the stream says of itself comes with the response.
            response.as_mut().poll(cx).map_err(|error| exchange_error(&error))
        })
        .await;
        let retained = |upload: Option<Sending>| match (kept, upload) {
            (Some(bytes), _) => Some(Body::Full(bytes)),
            (None, None) => Some(Body::Empty),
            (None, Some(mut upload)) => (!upload.touched).then(|| upload.take_body()),
        };
        let response = match answered {
            Ok(response) => response,
            Err(kind) => return Err(failed(kind, retained(upload))),
        };
        let (parts, stream) = response.into_parts();
        let length = stated_length(&parts.headers);
        let head = match convert::response_in(parts, self.shared.options.max_headers) {
            Ok(head) => head,
            Err(_) => {
                let mut error = failed(ExchangeErrorKind::HeadersTooLarge, None);
                error.response_started = true;
                return Err(error);
            }
        };
        if stream.is_end_stream() {
            return Ok((head, Body::Empty));
        }
        let body = ResponseBody { receiving: Receiving::new(stream, length, exchanging), upload };
        Ok((head, Body::Stream(Box::new(body))))
    }

    /// Exchanges under way.
    pub fn active(&self) -> usize {
        self.shared.active.get()
    }

    /// Whether a new exchange may be started: neither closed nor going away. Says nothing of
    /// [`Self::max_concurrent`].
    pub fn is_usable(&self) -> bool {
        // GOAWAY and errors of the connection show here; never pending on a handle that waits for nothing.
        let mut cx = Context::from_waker(Waker::noop());
        !self.shared.closed.get() && !matches!(self.requests.clone().poll_ready(&mut cx), Poll::Ready(Err(_)))
    }

    /// Exchanges the peer and the configuration allow at a time.
    pub fn max_concurrent(&self) -> usize {
        let configured = self.shared.options.http2.max_concurrent_streams as usize;
        self.requests.current_max_send_streams().min(configured)
    }

    /// No new exchanges; the connection ends after those under way, once all handles are dropped.
    pub fn close(&self) {
        self.shared.closed.set(true);
    }
}

/// A response's body, which drives what is left of the request's.
struct ResponseBody {
    receiving: Receiving<Exchanging>,
    upload: Option<Sending>,
}

impl BodySource for ResponseBody {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        if let Some(upload) = &mut self.upload {
            match upload.poll(cx) {
                Poll::Pending => {}
                Poll::Ready(Err(SendError::Body(error))) => return Poll::Ready(Some(Err(error))),
                // Not wanted any more, or all sent.
                Poll::Ready(_) => self.upload = None,
            }
        }
        self.receiving.poll_frame(cx)
    }

    fn remaining(&self) -> Option<u64> {
        self.receiving.remaining()
    }
}
