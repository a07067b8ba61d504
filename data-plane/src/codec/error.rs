//! How messages, exchanges and connections fail, as values that callers act on.

use super::body::{Body, BodyError};
use std::io;

/// A message from downstream that the codec refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind}: {details}")]
pub struct ProtocolError {
    /// What it calls for.
    pub kind: ProtocolErrorKind,
    /// Envoy's response code details (`%RESPONSE_CODE_DETAILS%`).
    pub details: &'static str,
}

/// What a refused message calls for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolErrorKind {
    /// Not HTTP, or framing that cannot be trusted.
    #[error("malformed message")]
    Malformed,
    /// The head is larger than allowed, or has too many headers.
    #[error("header fields too large")]
    HeadersTooLarge,
    /// The head did not arrive in time.
    #[error("header timeout")]
    HeadersTimeout,
    /// HTTP/1.0 while it is not accepted.
    #[error("version too old")]
    VersionTooOld,
    /// A transfer coding other than chunked.
    #[error("unsupported transfer coding")]
    TransferCoding,
}

impl ProtocolError {
    pub(crate) const fn malformed(details: &'static str) -> Self {
        Self { kind: ProtocolErrorKind::Malformed, details }
    }

    pub(crate) const fn too_large(details: &'static str) -> Self {
        Self { kind: ProtocolErrorKind::HeadersTooLarge, details }
    }

    /// Status of the answer.
    pub fn status(&self) -> u16 {
        match self.kind {
            ProtocolErrorKind::Malformed => 400,
            ProtocolErrorKind::HeadersTooLarge => 431,
            ProtocolErrorKind::HeadersTimeout => 408,
            ProtocolErrorKind::VersionTooOld => 426,
            ProtocolErrorKind::TransferCoding => 501,
        }
    }

    /// Body of the answer, as Envoy words it; empty for none.
    pub fn body(&self) -> &'static str {
        match self.kind {
            ProtocolErrorKind::Malformed => "Bad Request",
            ProtocolErrorKind::HeadersTooLarge => "Request Header Fields Too Large",
            ProtocolErrorKind::HeadersTimeout => "request header timeout",
            ProtocolErrorKind::VersionTooOld => "Upgrade Required",
            ProtocolErrorKind::TransferCoding => "Not Implemented",
        }
    }
}

/// How a downstream connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionEnd {
    /// Why.
    pub reason: EndReason,
    /// Requests handed to the handler.
    pub requests: u64,
}

/// Why a downstream connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// The peer closed between requests.
    Remote,
    /// The peer closed, or the connection failed, during a request.
    RemoteActive,
    /// An answer said so, or a body was left unread, or its end is the connection's.
    Local,
    /// Nothing happened for the idle timeout.
    IdleTimeout,
    /// A request's head did not arrive in time.
    HeadersTimeout,
    /// Its longest life is over.
    MaxDuration,
    /// It served as many requests as it may.
    MaxRequests,
    /// The peer broke the protocol.
    Protocol(&'static str),
    /// The peer did not read its answer for the stream idle timeout.
    WriteStalled,
    /// The peer did not answer a keepalive ping.
    KeepaliveTimeout,
    /// Drained.
    Drained,
    /// Everything stopped.
    Stopped,
}

impl EndReason {
    /// Whether the peer ended it.
    pub fn is_remote(self) -> bool {
        matches!(self, Self::Remote | Self::RemoteActive)
    }
}

/// A request that got no response head from upstream.
#[derive(thiserror::Error)]
#[error("{kind}")]
pub struct ExchangeError {
    /// What happened.
    pub kind: ExchangeErrorKind,
    /// Whether any byte of a response had arrived.
    pub response_started: bool,
    /// The whole request body, if not a byte of it was taken.
    pub unsent_body: Option<Body>,
}

impl std::fmt::Debug for ExchangeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExchangeError")
            .field("kind", &self.kind)
            .field("response_started", &self.response_started)
            .field("unsent_body", &self.unsent_body.is_some())
            .finish()
    }
}

/// Why an exchange failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExchangeErrorKind {
    /// Upstream closed the connection.
    #[error("connection closed")]
    Closed,
    /// Upstream reset the stream with this HTTP/2 error code.
    #[error("stream reset with code {0}")]
    Reset(u32),
    /// Upstream did not process the request (REFUSED_STREAM, or above GOAWAY's last stream): safe to send again.
    #[error("stream refused")]
    Refused,
    /// Upstream broke the protocol.
    #[error("{0}")]
    Protocol(&'static str),
    /// The response head is larger than allowed, or has too many headers.
    #[error("response head too large")]
    HeadersTooLarge,
    /// Reading or writing failed.
    #[error("i/o failed: {0:?}")]
    Io(io::ErrorKind),
    /// The request body ended early.
    #[error("request body failed")]
    RequestBody(#[source] BodyError),
}
