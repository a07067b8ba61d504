//! Header lists and message heads: what the codecs parse into, filters edit and codecs write out.
//!
//! A [`HeaderList`] keeps order and case. Its bytes live in one buffer that is reused with the list, so a
//! message in steady state allocates nothing. Names are compared without regard to case; well-known ones by id.

use std::borrow::Cow;

mod client_cert;
pub mod edit;
pub mod format;
pub mod forwarded;
pub(crate) mod hex;
pub mod hop_by_hop;
mod list;
mod metadata;
mod name;
mod query;
mod record;
mod text;
mod tls;

pub use client_cert::{ClientCertDetails, ForwardClientCert, forward_client_cert};
pub use list::{HeaderList, HeaderPair};
pub use metadata::{Fields, Metadata, MetadataKey, PathSegment};
pub use name::{HeaderId, HeaderIds};
pub use query::{parameters, percent_decoded};
pub use record::{
    ByteCounts, Downstream, LogType, Process, Record, ResponseFlags, Timing, Upstream, trace_id_text,
};
pub use text::text;
pub use tls::{CertificateFacts, Tls};

/// The protocol a message arrived by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    Http11,
    /// HTTP/2
    Http2,
}

impl Version {
    /// As Envoy's `%PROTOCOL%` prints it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
        }
    }
}

impl RequestHead {
    /// The value of a pseudo-header or of `host`, perhaps empty; `None` for other names.
    pub fn pseudo(&self, name: &[u8]) -> Option<&str> {
        match name {
            b":method" => Some(&self.method),
            b":path" => Some(&self.path),
            b":authority" => Some(&self.authority),
            b":scheme" => Some(self.scheme.as_str()),
            name if name.eq_ignore_ascii_case(b"host") => Some(&self.authority),
            _ => None,
        }
    }

    /// A header's value; pseudo-headers and `host` too. Repeated headers are joined with commas.
    pub fn header(&self, name: &[u8]) -> Option<Cow<'_, [u8]>> {
        match self.pseudo(name) {
            Some(value) => (!value.is_empty()).then_some(Cow::Borrowed(value.as_bytes())),
            None => self.headers.joined(name),
        }
    }
}

impl ResponseHead {
    /// A header's value; `:status` too. Repeated headers are joined with commas.
    pub fn header(&self, name: &[u8]) -> Option<Cow<'_, [u8]>> {
        match name {
            b":status" => Some(Cow::Owned(itoa::Buffer::new().format(self.status).as_bytes().to_vec())),
            name => self.headers.joined(name),
        }
    }
}

/// A request without its body. Pseudo-headers are fields; `headers` holds no `host` and no pseudo-header.
///
/// The memory of its strings serves the next one of the same thread, see [`text`](fn@text).
#[derive(Clone, Debug)]
pub struct RequestHead {
    /// `:method`, as received.
    pub method: Cow<'static, str>,
    /// `:path`: path and query, as received or rewritten. `*` for `OPTIONS *`; empty for CONNECT.
    pub path: String,
    /// `:authority` or `host`. Empty when the client sent none.
    pub authority: String,
    /// `:scheme`. Set by the connection manager for HTTP/1.
    pub scheme: Scheme,
    /// Protocol it arrived by.
    pub version: Version,
    /// All other headers.
    pub headers: HeaderList,
}

impl Drop for RequestHead {
    fn drop(&mut self) {
        text::put(&mut self.path);
        text::put(&mut self.authority);
    }
}

/// A method as [`RequestHead`] holds it: usual ones take no memory.
pub fn method(name: &str) -> Cow<'static, str> {
    const USUAL: [&str; 9] = ["GET", "POST", "PUT", "DELETE", "HEAD", "PATCH", "OPTIONS", "CONNECT", "TRACE"];
    match USUAL.into_iter().find(|usual| *usual == name) {
        Some(usual) => Cow::Borrowed(usual),
        None => Cow::Owned(name.to_owned()),
    }
}

/// A response without its body.
#[derive(Clone, Debug)]
pub struct ResponseHead {
    /// `:status`.
    pub status: u16,
    /// Protocol it arrived by.
    pub version: Version,
    /// All headers.
    pub headers: HeaderList,
}

impl ResponseHead {
    /// An empty HTTP/1.1 response.
    pub fn new(status: u16) -> Self {
        Self { status, version: Version::Http11, headers: HeaderList::default() }
    }
}

/// `:scheme`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// http
    Http,
    /// https
    Https,
}

impl Scheme {
    /// Lowercase text.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}
