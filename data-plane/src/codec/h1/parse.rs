//! Message heads off the wire: `httparse` for the syntax, and everything RFC 9112 leaves to be checked.
//!
//! A head is taken only when it cannot be read in two ways: bare LF, folded lines, space before the colon,
//! two lengths, two hosts and unknown transfer codings are all refused.

use super::framing::Length;
use crate::codec::{ClientOptions, ProtocolError, ProtocolErrorKind, ServerOptions};
use data_plane_core::config::Underscores;
use data_plane_core::headers::{
    self, HeaderId, HeaderList, HeaderPair, RequestHead, ResponseHead, Scheme, Version,
};
use std::mem::MaybeUninit;

/// Envoy's response code details for HTTP/1.
pub(super) mod details {
    pub(crate) const CODEC_ERROR: &str = "http1.codec_error";
    pub(crate) const HEADERS_TOO_LARGE: &str = "http1.headers_too_large";
    pub(crate) const TOO_MANY_HEADERS: &str = "http1.too_many_headers";
    pub(crate) const INVALID_URL: &str = "http1.invalid_url";
    pub(crate) const INVALID_TRANSFER_ENCODING: &str = "http1.invalid_transfer_encoding";
    pub(crate) const TRANSFER_ENCODING_NOT_ALLOWED: &str = "http1.transfer_encoding_not_allowed";
    pub(crate) const CONTENT_LENGTH_NOT_ALLOWED: &str = "http1.content_length_not_allowed";
    pub(crate) const LENGTH_AND_CHUNKED: &str = "http1.content_length_and_chunked_not_allowed";
    pub(crate) const BODY_DISALLOWED: &str = "http1.body_disallowed";
    pub(crate) const UNDERSCORE: &str = "http1.unexpected_underscore";
    pub(crate) const LOW_VERSION: &str = "low_version";
    pub(crate) const HEADER_TIMEOUT: &str = "request_header_timeout";
}

/// What parsing found.
#[derive(Debug)]
pub(super) enum Parsed<T> {
    /// More bytes are needed.
    Partial,
    /// A head, and its bytes on the wire.
    Complete(T, usize),
}

/// A request's head and what it says of the rest.
#[derive(Debug)]
pub(super) struct RequestParts {
    pub(super) head: RequestHead,
    pub(super) length: Length,
    /// The client lets the connection go on.
    pub(super) keep_alive: bool,
    pub(super) expect_continue: bool,
    /// CONNECT or an upgrade.
    pub(super) upgrade: bool,
}

/// A response's head and what it says of the rest.
#[derive(Debug)]
pub(super) struct ResponseParts {
    pub(super) head: ResponseHead,
    pub(super) length: Length,
    /// The server lets the connection go on.
    pub(super) keep_alive: bool,
}

/// Headers read without allocating for them; more are read through a vector, up to the limit.
const INLINE_HEADERS: usize = 128;

/// Parses a request head at the beginning of `bytes`.
pub(super) fn request(bytes: &[u8], options: &ServerOptions) -> Result<Parsed<RequestParts>, ProtocolError> {
    let mut inline = [const { MaybeUninit::<httparse::Header<'_>>::uninit() }; INLINE_HEADERS];
    let mut spilled = Vec::new();
    let headers = room(&mut inline, &mut spilled, options.max_headers);
    let mut request = httparse::Request::new(&mut []);
    let size = match request.parse_with_uninit_headers(bytes, headers) {
        Ok(httparse::Status::Complete(size)) => size,
        Ok(httparse::Status::Partial) if bytes.len() > options.max_head_bytes => {
            return Err(ProtocolError::too_large(details::HEADERS_TOO_LARGE));
        }
        Ok(httparse::Status::Partial) => return Ok(Parsed::Partial),
        Err(error) => return Err(syntax(error)),
    };
    if size > options.max_head_bytes {
        return Err(ProtocolError::too_large(details::HEADERS_TOO_LARGE));
    }
    check_lines(&bytes[..size])?;
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version) else {
        return Err(ProtocolError::malformed(details::CODEC_ERROR));
    };
    let version = if minor == 0 { Version::Http10 } else { Version::Http11 };
    let mut fields = Fields::new(request.headers, &bytes[..size], options.http1.preserve_case);
    let mut host = None;
    for header in request.headers.iter() {
        let name = header.name.as_bytes();
        if options.underscores != Underscores::Allow && name.contains(&b'_') {
            if options.underscores == Underscores::RejectRequest {
                return Err(ProtocolError::malformed(details::UNDERSCORE));
            }
            continue;
        }
        let id = HeaderId::of(name);
        if id == HeaderId::Host {
            // RFC 9112 3.2: a request with more than one host is refused.
            if host.replace(header.value).is_some() {
                return Err(ProtocolError::malformed(details::CODEC_ERROR));
            }
            continue;
        }
        fields.add(id, name, header.value)?;
    }
    if version == Version::Http10 && !options.http1.accept_http_10 {
        return Err(ProtocolError { kind: ProtocolErrorKind::VersionTooOld, details: details::LOW_VERSION });
    }
    let connect = method == "CONNECT";
    let (authority, path) = target_of(method, target, options)?;
    let authority = match (authority, host) {
        // RFC 9112 3.2.2: the host in the target wins over the header, which must still be legal.
        (Some(authority), host) => {
            if host.is_some_and(|h| !valid_authority(h)) {
                return Err(ProtocolError::malformed(details::CODEC_ERROR));
            }
            headers::text(authority)
        }
        (None, Some(host)) if !host.is_empty() => {
            let text = std::str::from_utf8(host).ok().filter(|h| valid_authority(h.as_bytes()));
            headers::text(text.ok_or(ProtocolError::malformed(details::CODEC_ERROR))?)
        }
        (None, _) if version == Version::Http10 && !options.http1.default_host_for_http_10.is_empty() => {
            options.http1.default_host_for_http_10.to_string()
        }
        // What to answer without a host is the manager's to say.
        (None, _) => String::new(),
    };
    let length = request_length(&fields, version)?;
    if connect && length != Length::None {
        return Err(ProtocolError::malformed(details::BODY_DISALLOWED));
    }
    let keep_alive = fields.keep_alive(version);
    let upgrade = connect || wants_upgrade(&mut fields, version, length);
    let expect_continue = version == Version::Http11 && fields.expect_continue && length != Length::None;
    let head = RequestHead {
        method: headers::method(method),
        path: headers::text(&path),
        authority,
        scheme: Scheme::Http,
        version,
        headers: fields.list,
    };
    let parts = RequestParts { head, length, keep_alive, expect_continue, upgrade };
    Ok(Parsed::Complete(parts, size))
}

/// Parses a response head at the beginning of `bytes`, the answer to a `method` request.
pub(super) fn response(
    bytes: &[u8],
    method: &str,
    options: &ClientOptions,
) -> Result<Parsed<ResponseParts>, ProtocolError> {
    let mut inline = [const { MaybeUninit::<httparse::Header<'_>>::uninit() }; INLINE_HEADERS];
    let mut spilled = Vec::new();
    let headers = room(&mut inline, &mut spilled, options.max_headers);
    let mut response = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let size = match config.parse_response_with_uninit_headers(&mut response, bytes, headers) {
        Ok(httparse::Status::Complete(size)) => size,
        Ok(httparse::Status::Partial) if bytes.len() > options.max_head_bytes => {
            return Err(ProtocolError::too_large(details::HEADERS_TOO_LARGE));
        }
        Ok(httparse::Status::Partial) => return Ok(Parsed::Partial),
        Err(error) => return Err(syntax(error)),
    };
    if size > options.max_head_bytes {
        return Err(ProtocolError::too_large(details::HEADERS_TOO_LARGE));
    }
    check_lines(&bytes[..size])?;
    let (Some(status), Some(minor)) = (response.code, response.version) else {
        return Err(ProtocolError::malformed(details::CODEC_ERROR));
    };
    if !(100..1000).contains(&status) {
        return Err(ProtocolError::malformed(details::CODEC_ERROR));
    }
    let version = if minor == 0 { Version::Http10 } else { Version::Http11 };
    let mut fields = Fields::new(response.headers, &bytes[..size], options.http1.preserve_case);
    for header in response.headers.iter() {
        let name = header.name.as_bytes();
        fields.add(HeaderId::of(name), name, header.value)?;
    }
    let length = response_length(&fields, method, status, version)?;
    let keep_alive = length != Length::UntilClose && fields.keep_alive(version);
    let head = ResponseHead { status, version, headers: fields.list };
    Ok(Parsed::Complete(ResponseParts { head, length, keep_alive }, size))
}

/// Room for `max` headers.
fn room<'s, 'b>(
    inline: &'s mut [MaybeUninit<httparse::Header<'b>>; INLINE_HEADERS],
    spilled: &'s mut Vec<MaybeUninit<httparse::Header<'b>>>,
    max: usize,
) -> &'s mut [MaybeUninit<httparse::Header<'b>>] {
    if max <= INLINE_HEADERS {
        return &mut inline[..max];
    }
    spilled.resize_with(max, MaybeUninit::uninit);
    spilled
}

fn syntax(error: httparse::Error) -> ProtocolError {
    match error {
        httparse::Error::TooManyHeaders => ProtocolError::too_large(details::TOO_MANY_HEADERS),
        _ => ProtocolError::malformed(details::CODEC_ERROR),
    }
}

/// `httparse` takes LF alone as the end of a line, as RFC 9112 2.2 permits. Peers that do not would see other
/// lines than we do, so it is refused.
fn check_lines(head: &[u8]) -> Result<(), ProtocolError> {
    for at in memchr::memchr_iter(b'\n', head) {
        if at == 0 || head[at - 1] != b'\r' {
            return Err(ProtocolError::malformed(details::CODEC_ERROR));
        }
    }
    Ok(())
}

/// Headers as they are read, and what the framing ones say.
struct Fields<'b> {
    /// The lines of all headers, in which they lie.
    block: &'b [u8],
    keep_case: bool,
    list: HeaderList,
    content_length: Option<u64>,
    /// Any `transfer-encoding`.
    coded: bool,
    /// It is exactly `chunked`.
    chunked: bool,
    close: bool,
    persist: bool,
    /// `connection: upgrade`.
    upgrade: bool,
    expect_continue: bool,
}

impl<'b> Fields<'b> {
    /// For `headers` of `head`.
    fn new(headers: &[httparse::Header<'_>], head: &'b [u8], keep_case: bool) -> Self {
        let mut list = HeaderList::default();
        let mut block = &head[..0];
        if let Some(first) = headers.first() {
            let at = first.name.as_ptr().addr().wrapping_sub(head.as_ptr().addr());
            block = head.get(at..).unwrap_or_default();
            list.receive(block);
        }
        Self {
            block,
            keep_case,
            list,
            content_length: None,
            coded: false,
            chunked: false,
            close: false,
            persist: false,
            upgrade: false,
            expect_continue: false,
        }
    }

    fn add(&mut self, id: HeaderId, name: &[u8], value: &[u8]) -> Result<(), ProtocolError> {
        match id {
            HeaderId::ContentLength => {
                // RFC 9112 6.3 lets equal duplicates pass; as Envoy does, they do not.
                let length = decimal(value).ok_or(ProtocolError::malformed(details::CODEC_ERROR))?;
                if self.content_length.replace(length).is_some() {
                    return Err(ProtocolError::malformed(details::CODEC_ERROR));
                }
            }
            HeaderId::TransferEncoding => {
                self.chunked = !self.coded && value.eq_ignore_ascii_case(b"chunked");
                self.coded = true;
            }
            HeaderId::Connection => {
                for token in value.split(|b| *b == b',').map(<[u8]>::trim_ascii) {
                    self.close |= token.eq_ignore_ascii_case(b"close");
                    self.persist |= token.eq_ignore_ascii_case(b"keep-alive");
                    self.upgrade |= token.eq_ignore_ascii_case(b"upgrade");
                }
            }
            HeaderId::Expect => self.expect_continue |= value.eq_ignore_ascii_case(b"100-continue"),
            _ => {}
        }
        self.list.append_received(self.block, HeaderPair { id, name, value }, self.keep_case);
        Ok(())
    }

    fn keep_alive(&self, version: Version) -> bool {
        !self.close && (version != Version::Http10 || self.persist)
    }

    /// Length by the framing headers; `None` when they are absent.
    fn framed(&self, version: Version) -> Result<Option<Length>, ProtocolError> {
        if self.coded {
            if self.content_length.is_some() {
                return Err(ProtocolError::malformed(details::LENGTH_AND_CHUNKED));
            }
            // RFC 9112 6.1: HTTP/1.0 has no transfer codings, so its framing is in doubt.
            if !self.chunked || version == Version::Http10 {
                return Err(ProtocolError {
                    kind: ProtocolErrorKind::TransferCoding,
                    details: details::INVALID_TRANSFER_ENCODING,
                });
            }
            return Ok(Some(Length::Chunked));
        }
        Ok(self.content_length.map(Length::of))
    }
}

fn request_length(fields: &Fields<'_>, version: Version) -> Result<Length, ProtocolError> {
    Ok(fields.framed(version)?.unwrap_or(Length::None))
}

/// RFC 9112 6.3.
fn response_length(
    fields: &Fields<'_>,
    method: &str,
    status: u16,
    version: Version,
) -> Result<Length, ProtocolError> {
    let tunnel = status == 101 || (method == "CONNECT" && (200..300).contains(&status));
    if (100..200).contains(&status) || status == 204 || tunnel {
        // As Envoy: these cannot have a length, and a peer that gives one is not to be trusted with the next.
        if fields.coded {
            return Err(ProtocolError::malformed(details::TRANSFER_ENCODING_NOT_ALLOWED));
        }
        if fields.content_length.is_some_and(|n| n != 0) {
            return Err(ProtocolError::malformed(details::CONTENT_LENGTH_NOT_ALLOWED));
        }
        return Ok(if tunnel { Length::Tunnel } else { Length::None });
    }
    let framed = fields.framed(version)?;
    if method == "HEAD" || status == 304 {
        return Ok(Length::None);
    }
    Ok(framed.unwrap_or(Length::UntilClose))
}

/// RFC 9110 8.6: digits only.
pub(in crate::codec) fn decimal(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 19 {
        return None;
    }
    value.iter().try_fold(0u64, |sum, b| b.is_ascii_digit().then(|| sum * 10 + u64::from(b - b'0')))
}

/// Whether the request asks for an upgrade that may be granted. `h2c` is not one: its headers are dropped, as Envoy
/// does, and the request is served in HTTP/1.1.
fn wants_upgrade(fields: &mut Fields<'_>, version: Version, length: Length) -> bool {
    if !fields.upgrade || version != Version::Http11 {
        return false;
    }
    let h2c = fields.list.get_id(HeaderId::Upgrade).is_some_and(|v| v.eq_ignore_ascii_case(b"h2c"));
    let ask = fields.list.contains_id(HeaderId::Upgrade);
    if h2c || !ask || length != Length::None {
        fields.list.remove_id(HeaderId::Upgrade);
        fields.list.remove_id(HeaderId::Http2Settings);
        return false;
    }
    true
}

/// Splits the request target into authority, if it has one, and path (RFC 9112 3.2).
fn target_of<'a>(
    method: &str,
    target: &'a str,
    options: &ServerOptions,
) -> Result<(Option<&'a str>, std::borrow::Cow<'a, str>), ProtocolError> {
    use std::borrow::Cow;
    const BAD: ProtocolError = ProtocolError::malformed(details::INVALID_URL);
    if !target.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(BAD);
    }
    if method == "CONNECT" {
        let port = target.rsplit_once(':').is_some_and(|(h, p)| !h.is_empty() && p.parse::<u16>().is_ok());
        return if port && valid_authority(target.as_bytes()) {
            Ok((Some(target), Cow::Borrowed("")))
        } else {
            Err(BAD)
        };
    }
    if target.starts_with('/') {
        return Ok((None, Cow::Borrowed(target)));
    }
    if target == "*" {
        return if method == "OPTIONS" { Ok((None, Cow::Borrowed("*"))) } else { Err(BAD) };
    }
    let (scheme, rest) = target.split_once("://").ok_or(BAD)?;
    let known = scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
    if !known || !options.http1.allow_absolute_url {
        return Err(BAD);
    }
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    if authority.is_empty() || !valid_authority(authority.as_bytes()) {
        return Err(BAD);
    }
    let path = match path.as_bytes().first() {
        Some(b'/') => Cow::Borrowed(path),
        Some(_) => Cow::Owned(format!("/{path}")),
        // RFC 9112 3.2.4
        None if method == "OPTIONS" => Cow::Borrowed("*"),
        None => Cow::Borrowed("/"),
    };
    Ok((Some(authority), path))
}

/// Host and port characters of RFC 3986; no user information, which RFC 9110 4.2.4 calls an error.
pub(super) fn valid_authority(authority: &[u8]) -> bool {
    authority.iter().all(|b| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:[]%".contains(b))
}
