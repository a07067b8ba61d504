//! HTTP/1.1 and HTTP/2 on the wire, both sides, and the bodies that run between them.
//!
//! [`serve`] reads the requests of a downstream connection and asks a [`Handler`] for the answers; pools speak to
//! upstreams through [`h1::ClientConn`] and [`h2::Client`]. Head and body types are ours, so that what is
//! beneath can change without touching a filter. Framing is strict (RFC 9112, RFC 9113) and always our own:
//! what a peer said about lengths is checked on the way in and written anew on the way out.
//!
//! Everything of a connection, the upstream exchange included, is polled by the one task that owns it; nothing
//! here is `Send`. Codecs know nothing of routes, filters, clusters or statistics.

#[cfg(test)]
mod backpressure;
pub mod body;
mod buffer;
mod detect;
mod error;
pub mod h1;
pub mod h2;
mod options;
mod seat;
mod signals;
#[cfg(test)]
mod testing;
mod timer;

pub use body::{Body, BodyError, BodySource, Frame};
pub use buffer::BufferLimit;
pub use error::{
    ConnectionEnd, EndReason, ExchangeError, ExchangeErrorKind, ProtocolError, ProtocolErrorKind,
};
pub use options::{ClientOptions, ServerOptions};

use crate::task::Shutdown;
use crate::transport::Socket;
use data_plane_core::config::CodecType;
use data_plane_core::headers::{RequestHead, ResponseHead, Version};
use detect::{Detected, detect};
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

/// A byte stream a codec can run on: plain TCP, TLS, or a pipe in tests.
pub trait Io: AsyncRead + AsyncWrite + Socket + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Socket + Unpin + 'static> Io for T {}

/// What serves the requests of one downstream connection.
pub trait Handler: 'static {
    /// The connection's protocol is known and requests will follow. Called once, before the first request.
    fn started(&self, version: Version) {
        let _ = version;
    }

    /// Answers one request.
    ///
    /// # Cancel safety
    /// The future is dropped when the client goes away or resets before the head of the answer is written; after
    /// that, the same happens to the answer's body.
    fn handle(self: Rc<Self>, request: Request) -> impl Future<Output = Reply> + 'static;

    /// The codec refused a message. Returns what to answer before the connection (HTTP/1) or the stream (HTTP/2)
    /// ends; `None` ends it without a word. Called exactly once for each refusal, so also the place to count it.
    fn refuse(&self, error: &ProtocolError) -> Option<Reply>;
}

/// A request as a codec hands it over.
pub struct Request {
    /// All but the body.
    pub head: RequestHead,
    /// Never read further than it is polled.
    pub body: Body,
    /// The client waits for `100 Continue`. The codec writes it when the body is first polled, unless the answer
    /// comes first; `expect` is still among the headers.
    pub expect_continue: bool,
    /// CONNECT, or an HTTP/1.1 upgrade whose `connection` and `upgrade` headers are still among the headers.
    /// `body` stays silent until the answer accepts (101, or 2xx to CONNECT), then carries raw bytes.
    pub upgrade: bool,
    /// Bytes of the head on the wire (HTTP/1) or of its names and values (HTTP/2).
    pub head_bytes: usize,
}

/// An answer. The codec writes the framing headers: `connection`, `transfer-encoding`, and `content-length` where
/// missing or wrong; it leaves a right `content-length` in its place.
pub struct Reply {
    /// All but the body.
    pub head: ResponseHead,
    /// An error of the body closes the connection (HTTP/1) or resets the stream (HTTP/2) without ending the answer.
    pub body: Body,
    /// Close the connection after the answer, and say so: what its end is told as.
    pub close: Option<EndReason>,
    /// Do not answer: drop the connection (HTTP/1) or reset the stream (HTTP/2).
    pub reset: bool,
}

impl Reply {
    /// An answer after which the connection goes on.
    pub fn new(head: ResponseHead, body: Body) -> Self {
        Self { head, body, close: None, reset: false }
    }
}

/// Serves a downstream connection until it ends, detecting the protocol where `protocol` leaves it open. `limit` bounds
/// what it holds of what passes through.
///
/// Draining lets requests in flight finish and tells the client; HTTP/1 connections without any get the drain
/// timeout for one more, HTTP/2 connections a GOAWAY. When the shutdown is stopped the connection is dropped.
///
/// # Cancel safety
/// Dropping the future closes the connection and cancels its requests.
pub fn serve<S: Io, H: Handler>(
    io: S,
    protocol: CodecType,
    options: &Arc<ServerOptions>,
    limit: BufferLimit,
    handler: Rc<H>,
    shutdown: Shutdown,
) -> impl Future<Output = ConnectionEnd> + use<S, H> {
    let born = Instant::now();
    let options = Arc::clone(options);
    // What an HTTP/1 connection at rest does not need is in boxes; a future also has room for all that it was given, which is
    // why this one is given little.
    let detecting = Box::pin(detect(io, protocol, born, Arc::clone(&options), shutdown.clone()));
    async move {
        let Detected { io, received, http2 } = match detecting.await {
            Ok(detected) => detected,
            Err(reason) => return ConnectionEnd { reason, requests: 0 },
        };
        if http2 {
            Box::pin(h2::serve(io, received, born, &options, limit, handler, shutdown)).await
        } else {
            h1::serve(io, received, born, &options, limit, handler, shutdown).await
        }
    }
}
