//! Heads and bodies onto the wire. Framing headers are written here and nowhere else, from what the body is.

use super::framing::{Length, forbidden_in_trailers};
use super::parse::{decimal, valid_authority};
use super::write::WriteBuf;
use crate::transport::Pipe;
use bytes::Bytes;
use data_plane_core::config::Http1Options;
use data_plane_core::headers::{HeaderId, HeaderList, HeaderPair, RequestHead, ResponseHead, Version};
use std::fmt::Write as _;

/// How header names are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NameCase {
    Lower,
    Preserve,
    Proper,
}

impl NameCase {
    pub(super) fn of(options: &Http1Options) -> Self {
        if options.preserve_case {
            Self::Preserve
        } else if options.proper_case {
            Self::Proper
        } else {
            Self::Lower
        }
    }
}

/// What an answer's framing depends on besides the answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answering {
    /// The request's version; HTTP/1.0 knows no chunks.
    pub(super) version: Version,
    /// To HEAD: the headers of a body, and none.
    pub(super) head: bool,
    /// To CONNECT or an upgrade.
    pub(super) tunnel: bool,
}

/// Writes an answer's head. Returns how its body is framed, and whether the connection ends with it.
///
/// `remaining` is what the body says of its length.
pub(super) fn response_head(
    out: &mut Vec<u8>,
    head: &ResponseHead,
    remaining: Option<u64>,
    to: Answering,
    mut close: bool,
    case: NameCase,
) -> (Encoder, bool) {
    let given = head.headers.get_id(HeaderId::ContentLength).and_then(decimal);
    let switching = to.tunnel && (head.status == 101 || (200..300).contains(&head.status));
    let (length, framing, stated) = if switching {
        (Length::Tunnel, Framing::Raw, None)
    } else if (100..200).contains(&head.status) || head.status == 204 {
        (Length::None, Framing::None, None)
    } else if to.head || head.status == 304 {
        let known = given.or(remaining.filter(|n| *n > 0));
        (Length::None, Framing::None, known)
    } else {
        match (remaining, given) {
            (Some(bytes), _) | (None, Some(bytes)) => (Length::of(bytes), Framing::Fixed(bytes), Some(bytes)),
            (None, None) if to.version == Version::Http10 => (Length::UntilClose, Framing::Raw, None),
            (None, None) => (Length::Chunked, Framing::Chunked, None),
        }
    };
    close |= matches!(length, Length::UntilClose | Length::Tunnel);
    status_line(out, head.status, to.version);
    let mut length_line = LengthLine::new(stated);
    fields(out, &head.headers, case, |header| match header.id {
        HeaderId::Connection
        | HeaderId::KeepAlive
        | HeaderId::ProxyConnection
        | HeaderId::TransferEncoding => false,
        HeaderId::Upgrade => length == Length::Tunnel,
        HeaderId::ContentLength => length_line.keeps(header.value),
        _ => true,
    });
    // Envoy's order: what the connection does, then what the codec adds about the body.
    if length == Length::Tunnel {
        if head.status == 101 {
            field(out, b"connection", b"upgrade", case);
        }
    } else if close {
        field(out, b"connection", b"close", case);
    } else if to.version == Version::Http10 {
        field(out, b"connection", b"keep-alive", case);
    }
    length_line.finish(out, case);
    // What GET would have got: a body of a length not known before.
    let unknown =
        to.head && stated.is_none() && head.status >= 200 && head.status != 204 && length != Length::Tunnel;
    if length == Length::Chunked || (unknown && to.version != Version::Http10) {
        field(out, b"transfer-encoding", b"chunked", case);
    }
    out.extend_from_slice(b"\r\n");
    (Encoder::new(framing), close)
}

/// Writes a request's head. Returns how its body is framed.
///
/// # Errors
/// When method, path or authority would not be one token on the wire.
pub(super) fn request_head(
    out: &mut Vec<u8>,
    head: &RequestHead,
    remaining: Option<u64>,
    upgrade: bool,
    case: NameCase,
) -> Result<Encoder, &'static str> {
    let connect = &*head.method == "CONNECT";
    let target = if connect { &head.authority } else { &head.path };
    if target.is_empty() || !target.bytes().all(|b| b > b' ' && b != 0x7f) {
        return Err("request target is not valid");
    }
    if head.method.is_empty() || !head.method.bytes().all(is_token) {
        return Err("request method is not valid");
    }
    if !valid_authority(head.authority.as_bytes()) {
        return Err("request authority is not valid");
    }
    let given = head.headers.get_id(HeaderId::ContentLength).and_then(decimal);
    let (framing, stated) = if upgrade || connect {
        (Framing::Raw, None)
    } else {
        match (remaining, given) {
            // As Envoy: nothing is said of the length of what these do not carry.
            (Some(0), None) if matches!(&*head.method, "GET" | "HEAD" | "TRACE") => (Framing::None, None),
            (Some(bytes), _) | (None, Some(bytes)) => (Framing::Fixed(bytes), Some(bytes)),
            (None, None) => (Framing::Chunked, None),
        }
    };
    out.extend_from_slice(head.method.as_bytes());
    out.push(b' ');
    out.extend_from_slice(target.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    field(out, b"host", head.authority.as_bytes(), case);
    let mut length_line = LengthLine::new(stated);
    fields(out, &head.headers, case, |header| match header.id {
        HeaderId::Host
        | HeaderId::Connection
        | HeaderId::KeepAlive
        | HeaderId::ProxyConnection
        | HeaderId::Http2Settings
        | HeaderId::TransferEncoding => false,
        HeaderId::Upgrade => upgrade,
        HeaderId::Te => header.value.eq_ignore_ascii_case(b"trailers"),
        HeaderId::ContentLength => length_line.keeps(header.value),
        _ => true,
    });
    length_line.finish(out, case);
    if framing == Framing::Chunked {
        field(out, b"transfer-encoding", b"chunked", case);
    }
    if upgrade {
        field(out, b"connection", b"upgrade", case);
    } else if head.headers.get_id(HeaderId::Te).is_some_and(|v| v.eq_ignore_ascii_case(b"trailers")) {
        // RFC 9110 10.1.4: `te` is hop by hop and says so.
        field(out, b"connection", b"te", case);
    }
    out.extend_from_slice(b"\r\n");
    Ok(Encoder::new(framing))
}

/// RFC 9110 5.6.2.
fn is_token(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

fn status_line(out: &mut Vec<u8>, status: u16, version: Version) {
    if status == 200 && version != Version::Http10 {
        return out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
    }
    out.extend_from_slice(if version == Version::Http10 { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
    out.extend_from_slice(itoa::Buffer::new().format(status).as_bytes());
    out.push(b' ');
    out.extend_from_slice(reason(status).as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// The reason phrase, as Envoy words it.
fn reason(status: u16) -> &'static str {
    match status {
        203 => "Non-Authoritative Information",
        418 | 451 => "Unknown",
        599 => "Last Unassigned Server Error Code",
        _ => http::StatusCode::from_u16(status).ok().and_then(|s| s.canonical_reason()).unwrap_or("Unknown"),
    }
}

/// The `content-length` to write: where the head has it, or else at the end.
struct LengthLine {
    stated: Option<u64>,
    text: itoa::Buffer,
}

impl LengthLine {
    fn new(stated: Option<u64>) -> Self {
        Self { stated, text: itoa::Buffer::new() }
    }

    /// Whether a `content-length` of the head stays: the first that says it, in the way in which it is said.
    fn keeps(&mut self, value: &[u8]) -> bool {
        let says_it = self.stated.is_some_and(|bytes| self.text.format(bytes).as_bytes() == value);
        if says_it {
            self.stated = None;
        }
        says_it
    }

    fn finish(mut self, out: &mut Vec<u8>, case: NameCase) {
        if let Some(bytes) = self.stated {
            field(out, b"content-length", self.text.format(bytes).as_bytes(), case);
        }
    }
}

/// Writes the headers that `keep` wants.
fn fields(
    out: &mut Vec<u8>,
    headers: &HeaderList,
    case: NameCase,
    mut keep: impl FnMut(HeaderPair<'_>) -> bool,
) {
    let as_they_are = match case {
        NameCase::Lower => !headers.has_mixed_case(),
        NameCase::Preserve => true,
        NameCase::Proper => false,
    };
    if as_they_are {
        return headers.write_lines(out, keep);
    }
    for header in headers.iter().filter(|header| keep(*header)) {
        field(out, header.name, header.value, case);
    }
}

/// Writes a header line. Lists hold nothing that would be more than one.
fn field(out: &mut Vec<u8>, name: &[u8], value: &[u8], case: NameCase) {
    let at = out.len();
    out.extend_from_slice(name);
    match case {
        NameCase::Lower => out[at..].make_ascii_lowercase(),
        NameCase::Preserve => {}
        NameCase::Proper => proper(&mut out[at..]),
    }
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Envoy `proper_case_words`: upper case at the start and after anything that is not alphanumeric.
fn proper(name: &mut [u8]) {
    let mut start = true;
    for b in name {
        if start {
            b.make_ascii_uppercase();
        } else {
            b.make_ascii_lowercase();
        }
        start = !b.is_ascii_alphanumeric();
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    None,
    /// Bytes still owed.
    Fixed(u64),
    Chunked,
    /// As they are: a tunnel, or a body that ends with the connection.
    Raw,
}

/// Encodes one body.
#[derive(Debug)]
pub(super) struct Encoder {
    framing: Framing,
}

/// A body is not as long as the head said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mismatch;

impl Encoder {
    fn new(framing: Framing) -> Self {
        Self { framing }
    }

    /// Whether there is nothing to send, so that the body need not be read.
    pub(super) fn is_none(&self) -> bool {
        matches!(self.framing, Framing::None | Framing::Fixed(0))
    }

    pub(super) fn is_raw(&self) -> bool {
        self.framing == Framing::Raw
    }

    /// Bytes still to be sent that need no framing.
    pub(super) fn raw(&self) -> u64 {
        match self.framing {
            Framing::Fixed(left) => left,
            _ => 0,
        }
    }

    /// Queues what a pipe holds of the body.
    pub(super) fn piped(&mut self, out: &mut WriteBuf, pipe: Pipe) -> Result<(), Mismatch> {
        let Framing::Fixed(left) = &mut self.framing else { return Err(Mismatch) };
        *left = left.checked_sub(pipe.held() as u64).ok_or(Mismatch)?;
        out.push_pipe(pipe);
        Ok(())
    }

    /// Queues a piece of the body.
    pub(super) fn data(&mut self, out: &mut WriteBuf, data: Bytes) -> Result<(), Mismatch> {
        match &mut self.framing {
            Framing::None => {}
            Framing::Raw => out.push(data, b""),
            Framing::Fixed(left) => {
                *left = left.checked_sub(data.len() as u64).ok_or(Mismatch)?;
                out.push(data, b"");
            }
            Framing::Chunked => {
                let mut line = Line::default();
                // INVARIANT: 16 digits and CRLF fit.
                let _ = write!(line, "{:x}\r\n", data.len());
                out.head().extend_from_slice(&line.bytes[..line.len]);
                out.push(data, b"\r\n");
            }
        }
        Ok(())
    }

    /// Ends the body.
    pub(super) fn end(
        &mut self,
        out: &mut WriteBuf,
        trailers: Option<&HeaderList>,
        case: NameCase,
    ) -> Result<(), Mismatch> {
        match self.framing {
            Framing::Fixed(left) if left > 0 => return Err(Mismatch),
            Framing::Chunked => {
                let out = out.head();
                out.extend_from_slice(b"0\r\n");
                if let Some(trailers) = trailers {
                    fields(out, trailers, case, |header| !forbidden_in_trailers(header.name));
                }
                out.extend_from_slice(b"\r\n");
            }
            _ => {}
        }
        if !self.is_raw() {
            self.framing = Framing::None;
        }
        Ok(())
    }
}

/// A chunk-size line being formatted.
#[derive(Default)]
struct Line {
    bytes: [u8; 18],
    len: usize,
}

impl std::fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let end = self.len + text.len();
        self.bytes.get_mut(self.len..end).ok_or(std::fmt::Error)?.copy_from_slice(text.as_bytes());
        self.len = end;
        Ok(())
    }
}
