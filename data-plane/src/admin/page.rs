//! Requests and answers of the admin interface.

use super::access_log::Entry;
use bytes::Bytes;
use http::StatusCode;
use hyper::body::{Body, Frame};
use serde_json::Value;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

/// Query parameters, decoded, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Params(Vec<(String, String)>);

impl Params {
    pub(super) fn parse(query: &str) -> Self {
        let pairs = query.split('&').filter(|part| !part.is_empty());
        Self(
            pairs
                .map(|part| {
                    let (key, value) = part.split_once('=').unwrap_or((part, ""));
                    (decode(key), decode(value))
                })
                .collect(),
        )
    }

    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    pub(super) fn pairs(&self) -> &[(String, String)] {
        &self.0
    }
}

fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let hex = |at: usize| bytes.get(at).and_then(|b| char::from(*b).to_digit(16));
        match (bytes[i], hex(i + 1), hex(i + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                i += 2;
            }
            (b'+', _, _) => out.push(b' '),
            (byte, _, _) => out.push(byte),
        }
        i += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// What a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    Text,
    Json,
    Html,
}

impl Content {
    pub(super) fn mime(self) -> &'static str {
        match self {
            Self::Text => "text/plain; charset=UTF-8",
            Self::Json => "application/json",
            Self::Html => "text/html; charset=UTF-8",
        }
    }
}

/// An answer.
pub(super) struct Page {
    pub(super) status: StatusCode,
    pub(super) content: Content,
    pub(super) body: Pieces,
}

impl Page {
    pub(super) fn text(text: impl Into<Bytes>) -> Self {
        Self::new(StatusCode::OK, Content::Text, Pieces::one(text))
    }

    pub(super) fn json(value: &Value) -> Self {
        Self::new(StatusCode::OK, Content::Json, Pieces::one(pretty(value)))
    }

    pub(super) fn pieces(content: Content, pieces: impl Iterator<Item = Bytes> + 'static) -> Self {
        Self::new(StatusCode::OK, content, Pieces::new(pieces))
    }

    pub(super) fn bad(text: impl Into<Bytes>) -> Self {
        Self::error(StatusCode::BAD_REQUEST, text)
    }

    pub(super) fn error(status: StatusCode, text: impl Into<Bytes>) -> Self {
        Self::new(status, Content::Text, Pieces::one(text))
    }

    pub(super) fn new(status: StatusCode, content: Content, body: Pieces) -> Self {
        Self { status, content, body }
    }

    /// Envoy's answer to flags that need no words.
    pub(super) fn ok() -> Self {
        Self::text("OK\n")
    }
}

/// JSON as Envoy writes it: one space a level.
pub(super) fn pretty(value: &Value) -> String {
    let mut out = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b" ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, formatter);
    // Writing a value to memory does not fail.
    let _ = serde::Serialize::serialize(value, &mut serializer);
    String::from_utf8_lossy(&out).into_owned()
}

/// A body of pieces, each made when the connection has room for it. Its length is not told, so that answers are
/// chunked as Envoy's.
pub(super) struct Pieces {
    pieces: Box<dyn Iterator<Item = Bytes>>,
    /// Others on the control thread had their turn since the last piece.
    yielded: bool,
    /// Written once the body is done with.
    pub(super) entry: Option<Entry>,
}

impl Pieces {
    pub(super) fn new(pieces: impl Iterator<Item = Bytes> + 'static) -> Self {
        Self { pieces: Box::new(pieces), yielded: true, entry: None }
    }

    pub(super) fn one(piece: impl Into<Bytes>) -> Self {
        Self::new(std::iter::once(piece.into()).filter(|p| !p.is_empty()))
    }

    #[cfg(test)]
    pub(super) fn text(self) -> String {
        String::from_utf8(self.pieces.flatten().collect()).unwrap()
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if !std::mem::replace(&mut self.yielded, true) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.yielded = false;
        let piece = self.pieces.next();
        if let (Some(entry), Some(piece)) = (&mut self.entry, &piece) {
            entry.sent(piece.len());
        }
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded_and_may_lack_a_value() {
        let params = Params::parse("usedonly&filter=a%2Eb%20c+d&bad=%zz");
        assert!(params.has("usedonly"));
        assert_eq!(params.get("filter"), Some("a.b c d"));
        assert_eq!(params.get("bad"), Some("%zz"));
        assert_eq!(params.get("absent"), None);
    }

    #[test]
    fn json_is_indented_by_one_space() {
        assert_eq!(pretty(&serde_json::json!({ "a": [1] })), "{\n \"a\": [\n  1\n ]\n}");
    }
}
