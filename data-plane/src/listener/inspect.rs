//! The HTTP inspector: which HTTP a plaintext connection speaks, by its first bytes.

use super::peek::peek;
use super::stats::InspectorStats;
use std::io;
use tokio::net::TcpStream;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes looked at for a request line; a longer one counts as not HTTP. Envoy: 8 KiB.
const MAX_INSPECTED: usize = 8 * 1024;

/// What the first bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Http10,
    Http11,
    Http2,
    NotHttp,
}

impl Found {
    /// The name that filter chains match by (Envoy: `http/1.0`, `http/1.1`, `h2c`).
    pub(super) fn protocol(self) -> Option<&'static str> {
        match self {
            Self::Http10 => Some("http/1.0"),
            Self::Http11 => Some("http/1.1"),
            Self::Http2 => Some("h2c"),
            Self::NotHttp => None,
        }
    }
}

/// Looks at the first bytes without taking them. `None`: the peer closed before they said anything.
///
/// # Cancel safety
/// Cancel safe: nothing is taken.
pub(super) async fn inspect(stream: &TcpStream, stats: &InspectorStats) -> io::Result<Option<Found>> {
    let found = peek(stream, MAX_INSPECTED, |bytes| match classify(bytes) {
        None if bytes.len() == MAX_INSPECTED => Some(Found::NotHttp),
        other => other,
    })
    .await;
    match &found {
        Err(_) => stats.read_error.inc(),
        Ok(None) => {}
        Ok(Some(Found::Http10)) => stats.http10_found.inc(),
        Ok(Some(Found::Http11)) => stats.http11_found.inc(),
        Ok(Some(Found::Http2)) => stats.http2_found.inc(),
        Ok(Some(Found::NotHttp)) => stats.http_not_found.inc(),
    }
    found
}

/// What `bytes` are the beginning of; `None` while they can still be several things.
fn classify(bytes: &[u8]) -> Option<Found> {
    if bytes.len() >= PREFACE.len() && bytes.starts_with(PREFACE) {
        return Some(Found::Http2);
    }
    if PREFACE.starts_with(bytes) {
        return None;
    }
    // RFC 9112, section 2.2: an empty line before the request line is ignored.
    let bytes = bytes.strip_prefix(b"\r\n").unwrap_or(bytes);
    let is_token = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
    let method = bytes.iter().take_while(|b| is_token(b)).count();
    match bytes.get(method) {
        None => return None,
        Some(b' ') if method > 0 => {}
        Some(_) => return Some(Found::NotHttp),
    }
    let end = memchr::memchr(b'\n', bytes)?;
    let line = bytes[..end].strip_suffix(b"\r").unwrap_or(&bytes[..end]);
    Some(if line.ends_with(b" HTTP/1.1") {
        Found::Http11
    } else if line.ends_with(b" HTTP/1.0") {
        Found::Http10
    } else {
        Found::NotHttp
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Registry;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    #[test]
    fn first_bytes_are_classified_as_soon_as_they_decide() {
        for (bytes, expected) in [
            (&b""[..], None),
            (b"PRI * HT", None),
            (PREFACE, Some(Found::Http2)),
            (b"GET", None),
            (b"GET / HTTP/1.1", None),
            (b"GET / HTTP/1.1\r\n", Some(Found::Http11)),
            (b"\r\nGET / HTTP/1.1\r\n", Some(Found::Http11)),
            (b"PRINT / HTTP/1.0\r\nhost: a\r\n", Some(Found::Http10)),
            (b"GET / HTTP/3.0\r\n", Some(Found::NotHttp)),
            (b"GET /\r\n", Some(Found::NotHttp)),
            (b"\x16\x03\x01", Some(Found::NotHttp)),
            (b" GET / HTTP/1.1\r\n", Some(Found::NotHttp)),
        ] {
            assert_eq!(classify(bytes), expected, "{}", bytes.escape_ascii());
        }
    }

    #[tokio::test]
    async fn bytes_that_come_one_by_one_are_awaited_and_left_in_place() {
        let stats = InspectorStats::new(&Registry::new(1).scope("http_inspector.", "http_inspector.", &[]));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        client.set_nodelay(true).unwrap();
        let (server, _) = listener.accept().await.unwrap();
        let request = b"GET / HTTP/1.1\r\n";
        let write = async {
            for byte in request {
                client.write_all(&[*byte]).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        let (found, ()) = tokio::join!(inspect(&server, &stats), write);
        assert_eq!(found.unwrap(), Some(Found::Http11));
        let mut left = [0; 16];
        assert_eq!(server.peek(&mut left).await.unwrap(), request.len());
        assert_eq!(stats.http11_found.value(), 1);
    }

    #[tokio::test]
    async fn a_peer_that_closes_first_is_told_from_one_that_speaks() {
        let stats = InspectorStats::new(&Registry::new(1).scope("http_inspector.", "http_inspector.", &[]));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        drop(client);
        assert_eq!(inspect(&server, &stats).await.unwrap(), None);
    }
}
