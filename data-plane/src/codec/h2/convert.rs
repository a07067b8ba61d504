//! Heads to and from the `http` crate's types, which is what the `h2` crate speaks.

use crate::codec::h1::forbidden_in_trailers;
use crate::codec::{ProtocolError, ServerOptions};
use data_plane_core::config::Underscores;
use data_plane_core::headers::{self, HeaderId, HeaderList, RequestHead, ResponseHead, Scheme, Version};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::uri::PathAndQuery;

/// A request as it came, and whether it asks for a tunnel.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) head: RequestHead,
    pub(super) upgrade: bool,
    pub(super) head_bytes: usize,
}

/// Reads a request's head. Connection headers have been refused by `h2` (RFC 9113 8.2.2).
///
/// # Errors
/// What RFC 9113 or the options do not allow.
pub(super) fn request_in(
    parts: http::request::Parts,
    options: &ServerOptions,
) -> Result<Incoming, ProtocolError> {
    let http::request::Parts { method, uri, headers, extensions, .. } = parts;
    if headers.len() > options.max_headers {
        return Err(ProtocolError::too_large("http2.too_many_headers"));
    }
    let scheme = if uri.scheme_str() == Some("https") { Scheme::Https } else { Scheme::Http };
    let mut head = RequestHead {
        method: headers::method(method.as_str()),
        path: headers::text(uri.path_and_query().map_or("", PathAndQuery::as_str)),
        authority: headers::text(uri.authority().map_or("", |authority| authority.as_str())),
        scheme,
        version: Version::Http2,
        headers: HeaderList::default(),
    };
    let mut upgrade = method == http::Method::CONNECT;
    if let Some(protocol) = extensions.get::<h2::ext::Protocol>() {
        // RFC 8441, as Envoy presents it: an upgrade in the form of HTTP/1.1.
        head.method = "GET".into();
        head.headers.append_id(HeaderId::Connection, b"upgrade");
        head.headers.append_id(HeaderId::Upgrade, protocol.as_str().as_bytes());
    } else if upgrade {
        head.path.clear();
    }
    if head.authority.contains('@') {
        // RFC 9113 8.3.1: no user information.
        return Err(ProtocolError::malformed("http2.invalid.header.field"));
    }
    upgrade &= !head.authority.is_empty();
    let mut head_bytes = head.method.len() + head.path.len() + head.authority.len();
    let mut cookies: Vec<u8> = Vec::new();
    for (name, value) in &headers {
        head_bytes += name.as_str().len() + value.len();
        let name = name.as_str().as_bytes();
        if options.underscores != Underscores::Allow && name.contains(&b'_') {
            if options.underscores == Underscores::RejectRequest {
                return Err(ProtocolError::malformed("http2.unexpected_underscore"));
            }
            continue;
        }
        match HeaderId::of(name) {
            // RFC 9113 8.3.1: `:authority` stands for it.
            HeaderId::Host => {
                if head.authority.is_empty() {
                    head.authority = String::from_utf8_lossy(value.as_bytes()).into_owned();
                }
            }
            // RFC 9113 8.2.3: split for compression, one header for everyone else.
            HeaderId::Cookie => {
                if !cookies.is_empty() {
                    cookies.extend_from_slice(b"; ");
                }
                cookies.extend_from_slice(value.as_bytes());
            }
            _ => head.headers.append(name, value.as_bytes()),
        }
    }
    if !cookies.is_empty() {
        head.headers.append_id(HeaderId::Cookie, &cookies);
    }
    Ok(Incoming { head, upgrade, head_bytes })
}

/// Reads a response's head.
///
/// # Errors
/// More headers than allowed.
pub(super) fn response_in(
    parts: http::response::Parts,
    max_headers: usize,
) -> Result<ResponseHead, &'static str> {
    if parts.headers.len() > max_headers {
        return Err("too many headers");
    }
    let headers = trailers_or_headers_in(&parts.headers, |_| true);
    Ok(ResponseHead { status: parts.status.as_u16(), version: Version::Http2, headers })
}

/// Reads trailers; those that may not be are left out.
pub(super) fn trailers_in(map: &HeaderMap) -> HeaderList {
    trailers_or_headers_in(map, |name| !forbidden_in_trailers(name))
}

fn trailers_or_headers_in(map: &HeaderMap, keep: impl Fn(&[u8]) -> bool) -> HeaderList {
    let mut list = HeaderList::default();
    for (name, value) in map {
        if keep(name.as_str().as_bytes()) {
            list.append(name.as_str().as_bytes(), value.as_bytes());
        }
    }
    list
}

/// A request for the wire.
///
/// # Errors
/// When method, authority or path cannot be written.
pub(super) fn request_out(
    head: &RequestHead,
    length: Option<u64>,
) -> Result<http::Request<()>, &'static str> {
    let mut uri = http::uri::Parts::default();
    let connect = &*head.method == "CONNECT";
    if !connect {
        uri.scheme = Some(match head.scheme {
            Scheme::Http => http::uri::Scheme::HTTP,
            Scheme::Https => http::uri::Scheme::HTTPS,
        });
        uri.path_and_query =
            Some(PathAndQuery::try_from(head.path.as_str()).map_err(|_| "request target is not valid")?);
    }
    uri.authority = Some(head.authority.parse().map_err(|_| "request authority is not valid")?);
    let mut request = http::Request::new(());
    *request.uri_mut() = http::Uri::from_parts(uri).map_err(|_| "request target is not valid")?;
    *request.method_mut() =
        http::Method::from_bytes(head.method.as_bytes()).map_err(|_| "request method is not valid")?;
    *request.version_mut() = http::Version::HTTP_2;
    headers_out(&head.headers, request.headers_mut(), length);
    Ok(request)
}

/// A response for the wire.
pub(super) fn response_out(head: &ResponseHead, length: Option<u64>) -> http::Response<()> {
    let mut response = http::Response::new(());
    // An accepted upgrade is an accepted extended CONNECT (RFC 8441 5).
    let status = if head.status == 101 { 200 } else { head.status };
    *response.status_mut() =
        http::StatusCode::from_u16(status).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    *response.version_mut() = http::Version::HTTP_2;
    headers_out(&head.headers, response.headers_mut(), length);
    response
}

/// Trailers for the wire.
pub(super) fn trailers_out(list: &HeaderList) -> HeaderMap {
    let mut map = HeaderMap::with_capacity(list.len());
    for header in list.iter().filter(|h| !forbidden_in_trailers(h.name)) {
        append(&mut map, header.name, header.value);
    }
    map
}

/// Writes headers; `length` replaces what they say of it, in its place or at the end.
fn headers_out(list: &HeaderList, map: &mut HeaderMap, length: Option<u64>) {
    map.reserve(list.len() + 1);
    let mut stated = false;
    for header in list.iter() {
        match header.id {
            HeaderId::Connection
            | HeaderId::Host
            | HeaderId::Http2Settings
            | HeaderId::KeepAlive
            | HeaderId::ProxyConnection
            | HeaderId::TransferEncoding
            | HeaderId::Upgrade => {}
            HeaderId::Te if !header.value.eq_ignore_ascii_case(b"trailers") => {}
            HeaderId::ContentLength => {
                if let Some(bytes) = length.filter(|_| !stated) {
                    stated = true;
                    map.append(http::header::CONTENT_LENGTH, bytes.into());
                }
            }
            _ => append(map, header.name, header.value),
        }
    }
    // That there is nothing is said by the end of the stream.
    if let Some(bytes) = length.filter(|bytes| !stated && *bytes > 0) {
        map.append(http::header::CONTENT_LENGTH, bytes.into());
    }
}

/// Adds a header; one that would not be legal is left out, whoever made it.
fn append(map: &mut HeaderMap, name: &[u8], value: &[u8]) {
    if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
        map.append(name, value);
    }
}
