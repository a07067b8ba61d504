//! Where a body ends: content-length, chunked, or the connection's end; decoding with strict checks.

use super::parse::details;
use bytes::{Buf, Bytes, BytesMut};
use data_plane_core::headers::{HeaderId, HeaderList};

/// How a message says its body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Length {
    /// There is none.
    None,
    /// So many bytes, at least one.
    Fixed(u64),
    /// `transfer-encoding: chunked`.
    Chunked,
    /// At the connection's end; responses only.
    UntilClose,
    /// Not a body: raw bytes both ways after 101 or CONNECT.
    Tunnel,
}

impl Length {
    pub(super) fn of(bytes: u64) -> Self {
        if bytes == 0 { Self::None } else { Self::Fixed(bytes) }
    }
}

/// Bounds on what comes with a body.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Trailers are handed on, else checked and dropped.
    pub(super) trailers: bool,
    pub(super) max_trailer_bytes: usize,
    pub(super) max_trailers: usize,
}

/// Bytes of chunk extensions in a body; they carry nothing, so more is abuse.
const MAX_EXTENSION_BYTES: usize = 16 * 1024;
/// Longest chunk-size line, its extensions included.
const MAX_SIZE_LINE: usize = 4 * 1024;
/// Digits of a chunk size; more than fits a u64 is refused anyway.
const MAX_SIZE_DIGITS: usize = 16;

/// Decodes one body.
#[derive(Debug)]
pub(super) struct Decoder {
    state: State,
    extension_bytes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Fixed(u64),
    Size,
    Chunk(u64),
    /// CRLF after a chunk's data.
    ChunkEnd,
    Trailers,
    UntilClose,
    Tunnel,
    /// A tunnel that the answer has not accepted yet.
    Undecided,
    Done,
    Failed(&'static str),
}

/// A step of decoding.
#[derive(Debug)]
pub(super) enum Decoded {
    Data(Bytes),
    Trailers(HeaderList),
    /// The body is complete.
    End,
    /// Nothing without more bytes.
    More,
}

impl Decoder {
    pub(super) const fn done() -> Self {
        Self { state: State::Done, extension_bytes: 0 }
    }

    pub(super) fn new(length: Length) -> Self {
        let state = match length {
            Length::None => State::Done,
            Length::Fixed(bytes) => State::Fixed(bytes),
            Length::Chunked => State::Size,
            Length::UntilClose => State::UntilClose,
            Length::Tunnel => State::Tunnel,
        };
        Self { state, extension_bytes: 0 }
    }

    /// A body that carries raw bytes once [`Self::decide`] says so.
    pub(super) const fn undecided() -> Self {
        Self { state: State::Undecided, extension_bytes: 0 }
    }

    /// Whether the answer accepted the tunnel.
    pub(super) fn decide(&mut self, accepted: bool) {
        if self.state == State::Undecided {
            self.state = if accepted { State::Tunnel } else { State::Done };
        }
    }

    pub(super) fn is_undecided(&self) -> bool {
        self.state == State::Undecided
    }

    pub(super) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    pub(super) fn has_failed(&self) -> bool {
        matches!(self.state, State::Failed(_))
    }

    /// Bytes still to come, when the framing says.
    pub(super) fn remaining(&self) -> Option<u64> {
        match self.state {
            State::Fixed(bytes) => Some(bytes),
            State::Done => Some(0),
            _ => None,
        }
    }

    /// Bytes still to come that are the body's as they are, without framing between them.
    pub(super) fn raw(&self) -> u64 {
        match self.state {
            State::Fixed(bytes) => bytes,
            _ => 0,
        }
    }

    /// `bytes` of [`Self::raw`] went another way.
    pub(super) fn skip(&mut self, bytes: u64) {
        if let State::Fixed(left) = self.state {
            let left = left.saturating_sub(bytes);
            self.state = if left == 0 { State::Done } else { State::Fixed(left) };
        }
    }

    /// The peer sends no more: `true` when the body may end so.
    pub(super) fn end_of_stream(&mut self) -> bool {
        match self.state {
            State::UntilClose | State::Tunnel => {
                self.state = State::Done;
                true
            }
            State::Done => true,
            _ => false,
        }
    }

    /// The next piece out of `buffer`.
    ///
    /// # Errors
    /// What is wrong with the framing; the same again ever after.
    pub(super) fn decode(&mut self, buffer: &mut BytesMut, limits: &Limits) -> Result<Decoded, &'static str> {
        loop {
            match self.state {
                State::Done => return Ok(Decoded::End),
                State::Failed(why) => return Err(why),
                State::Undecided => return Ok(Decoded::More),
                State::UntilClose | State::Tunnel => {
                    return Ok(if buffer.is_empty() {
                        Decoded::More
                    } else {
                        Decoded::Data(buffer.split().freeze())
                    });
                }
                State::Fixed(left) => {
                    let Some((data, left)) = take(buffer, left) else { return Ok(Decoded::More) };
                    self.state = if left == 0 { State::Done } else { State::Fixed(left) };
                    return Ok(Decoded::Data(data));
                }
                State::Chunk(left) => {
                    let Some((data, left)) = take(buffer, left) else { return Ok(Decoded::More) };
                    self.state = if left == 0 { State::ChunkEnd } else { State::Chunk(left) };
                    return Ok(Decoded::Data(data));
                }
                State::ChunkEnd => match buffer.as_ref() {
                    [b'\r', b'\n', ..] => {
                        buffer.advance(2);
                        self.state = State::Size;
                    }
                    [] | [b'\r'] => return Ok(Decoded::More),
                    _ => return self.fail(details::CODEC_ERROR),
                },
                State::Size => match size_line(buffer) {
                    Ok(None) => return Ok(Decoded::More),
                    Ok(Some(line)) => {
                        buffer.advance(line.bytes);
                        self.extension_bytes += line.extension;
                        if self.extension_bytes > MAX_EXTENSION_BYTES {
                            return self.fail(details::CODEC_ERROR);
                        }
                        self.state = if line.size == 0 { State::Trailers } else { State::Chunk(line.size) };
                    }
                    Err(why) => return self.fail(why),
                },
                State::Trailers => match trailers(buffer, limits) {
                    Ok(None) => return Ok(Decoded::More),
                    Ok(Some((list, bytes))) => {
                        buffer.advance(bytes);
                        self.state = State::Done;
                        if !list.is_empty() {
                            return Ok(Decoded::Trailers(list));
                        }
                    }
                    Err(why) => return self.fail(why),
                },
            }
        }
    }

    fn fail(&mut self, why: &'static str) -> Result<Decoded, &'static str> {
        self.state = State::Failed(why);
        Err(why)
    }
}

/// At most `left` bytes, and what is left then.
fn take(buffer: &mut BytesMut, left: u64) -> Option<(Bytes, u64)> {
    if buffer.is_empty() {
        return None;
    }
    let now = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
    Some((buffer.split_to(now).freeze(), left - now as u64))
}

struct SizeLine {
    size: u64,
    /// Bytes of the line with its end.
    bytes: usize,
    /// Bytes of its extensions.
    extension: usize,
}

/// `chunk-size [ ";" ... ] CRLF`. Nothing but hexadecimal digits before the extension: spaces, signs and `0x` have
/// all been used to smuggle requests.
fn size_line(buffer: &[u8]) -> Result<Option<SizeLine>, &'static str> {
    let digits = buffer.iter().take(MAX_SIZE_DIGITS + 1).take_while(|b| b.is_ascii_hexdigit()).count();
    if digits > MAX_SIZE_DIGITS {
        return Err(details::CODEC_ERROR);
    }
    let rest = &buffer[digits..];
    match rest.first() {
        None => return Ok(None),
        Some(b'\r' | b';') if digits > 0 => {}
        _ => return Err(details::CODEC_ERROR),
    }
    // The end of the line: the first CR or LF there is must be CRLF.
    let Some(end) = memchr::memchr2(b'\r', b'\n', rest) else {
        return if buffer.len() > MAX_SIZE_LINE { Err(details::CODEC_ERROR) } else { Ok(None) };
    };
    if digits + end > MAX_SIZE_LINE {
        return Err(details::CODEC_ERROR);
    }
    match rest[end..] {
        [b'\r', b'\n', ..] => {}
        [b'\r'] => return Ok(None),
        _ => return Err(details::CODEC_ERROR),
    }
    if rest[..end].iter().any(|b| (*b < b' ' && *b != b'\t') || *b == 0x7f) {
        return Err(details::CODEC_ERROR);
    }
    let size = buffer[..digits].iter().fold(0u64, |sum, b| (sum << 4) | u64::from(hex(*b)));
    Ok(Some(SizeLine { size, bytes: digits + end + 2, extension: end }))
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => digit - b'A' + 10,
    }
}

/// The trailer section: header lines and an empty line.
fn trailers(buffer: &[u8], limits: &Limits) -> Result<Option<(HeaderList, usize)>, &'static str> {
    if buffer.starts_with(b"\r\n") {
        return Ok(Some((HeaderList::default(), 2)));
    }
    let Some(end) = memchr::memmem::find(buffer, b"\r\n\r\n").map(|at| at + 4) else {
        // A first line that cannot become a header is refused now, not when the peer gives up.
        let hopeless = matches!(buffer, [b'\n', ..] | [b'\r', _, ..] | [b' ' | b'\t', ..]);
        return if hopeless {
            Err(details::CODEC_ERROR)
        } else if buffer.len() > limits.max_trailer_bytes {
            Err("http1.trailers_too_large")
        } else {
            Ok(None)
        };
    };
    if end > limits.max_trailer_bytes {
        return Err("http1.trailers_too_large");
    }
    let section = &buffer[..end];
    for at in memchr::memchr_iter(b'\n', section) {
        if at == 0 || section[at - 1] != b'\r' {
            return Err(details::CODEC_ERROR);
        }
    }
    let mut headers = vec![httparse::EMPTY_HEADER; limits.max_trailers];
    match httparse::parse_headers(section, &mut headers) {
        Ok(httparse::Status::Complete((bytes, parsed))) if bytes == end => {
            let mut list = HeaderList::default();
            if limits.trailers {
                for header in parsed {
                    if !forbidden_in_trailers(header.name.as_bytes()) {
                        list.append(header.name.as_bytes(), header.value);
                    }
                }
            }
            Ok(Some((list, end)))
        }
        Err(httparse::Error::TooManyHeaders) => Err("http1.too_many_trailers"),
        _ => Err(details::CODEC_ERROR),
    }
}

/// RFC 9110 6.5.1: what frames, routes or authenticates a message must be known before its body.
pub(in crate::codec) fn forbidden_in_trailers(name: &[u8]) -> bool {
    matches!(
        HeaderId::of(name),
        HeaderId::ContentLength
            | HeaderId::TransferEncoding
            | HeaderId::Host
            | HeaderId::Connection
            | HeaderId::KeepAlive
            | HeaderId::ProxyConnection
            | HeaderId::Te
            | HeaderId::Trailer
            | HeaderId::Upgrade
            | HeaderId::Expect
            | HeaderId::Authorization
            | HeaderId::ContentEncoding
            | HeaderId::ContentType
            | HeaderId::Cookie
    )
}
