//! Headers that concern one connection only, and are not passed on (RFC 9110 7.6.1).
//!
//! Called by the connection manager on what comes in, before anything else reads the head. Framing headers
//! (`content-length`, `transfer-encoding`) are the codecs' own on the wire; here they only stop being passed on.

use super::{HeaderId, HeaderIds, HeaderList, RequestHead, ResponseHead};

/// Never passed on, whatever `connection` says.
const ALWAYS: HeaderIds = HeaderIds::of(&[
    HeaderId::KeepAlive,
    HeaderId::ProxyConnection,
    HeaderId::TransferEncoding,
    HeaderId::Http2Settings,
]);

/// Passed on to upgrade only.
const UPGRADE: HeaderIds = HeaderIds::of(&[HeaderId::Connection, HeaderId::Upgrade]);

/// Headers that a `connection` header may not remove: it would cut end-to-end meaning or this proxy's trust.
const PROTECTED: &[HeaderId] = &[
    HeaderId::ContentLength,
    HeaderId::ContentType,
    HeaderId::Host,
    HeaderId::Authorization,
    HeaderId::Cookie,
    HeaderId::XForwardedFor,
    HeaderId::XForwardedHost,
    HeaderId::XForwardedProto,
    HeaderId::XForwardedPort,
    HeaderId::XForwardedClientCert,
    HeaderId::XRequestId,
    HeaderId::Te,
    HeaderId::Trailer,
];

/// Removes what a proxy must not pass on from a request. Keeps `te: trailers`, and `connection` with `upgrade`
/// when the request asks for an upgrade and `keeps_upgrade` says so.
pub fn strip_request(head: &mut RequestHead, keeps_upgrade: bool) {
    let headers = &mut head.headers;
    strip(headers, keeps_upgrade && upgrade_of(headers).is_some());
    if headers.contains_id(HeaderId::Te) {
        let is_trailers = |token: &[u8]| token.eq_ignore_ascii_case(b"trailers");
        if headers.get_all_id(HeaderId::Te).flat_map(tokens).any(is_trailers) {
            headers.set_id(HeaderId::Te, b"trailers");
        } else {
            headers.remove_id(HeaderId::Te);
        }
    }
}

/// Removes what a proxy must not pass on from a response. `upgraded`: it is a 101 that was asked for.
pub fn strip_response(head: &mut ResponseHead, upgraded: bool) {
    strip(&mut head.headers, upgraded);
}

/// The protocol a head asks to upgrade to: `upgrade` with `connection: upgrade`.
pub fn upgrade_of(headers: &HeaderList) -> Option<&[u8]> {
    let upgrade = headers.get_id(HeaderId::Upgrade)?;
    has_connection_token(headers, b"upgrade").then_some(upgrade)
}

/// Whether `connection` names `token`.
pub fn has_connection_token(headers: &HeaderList, token: &[u8]) -> bool {
    headers.get_all_id(HeaderId::Connection).flat_map(tokens).any(|found| found.eq_ignore_ascii_case(token))
}

/// Elements of a comma-separated list.
pub fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
}

fn strip(headers: &mut HeaderList, keeps_upgrade: bool) {
    // Most messages have none of these.
    if !headers.contains_any(ALWAYS.and(UPGRADE)) {
        return;
    }
    let nominated: smallvec::SmallVec<[Box<[u8]>; 4]> = headers
        .get_all_id(HeaderId::Connection)
        .flat_map(tokens)
        .filter(|token| {
            let plain = [&b"close"[..], b"keep-alive", b"upgrade"];
            !plain.iter().any(|known| token.eq_ignore_ascii_case(known))
                && !token.starts_with(b":")
                && !PROTECTED.contains(&HeaderId::of(token))
        })
        .map(Into::into)
        .collect();
    headers.retain(|header| match header.id {
        id if UPGRADE.contains(id) => keeps_upgrade,
        id if ALWAYS.contains(id) => false,
        _ => !nominated.iter().any(|name| name.eq_ignore_ascii_case(header.name)),
    });
    if keeps_upgrade {
        headers.set_id(HeaderId::Connection, b"upgrade");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::headers::{Scheme, Version};

    fn stripped(headers: &[(&str, &str)], keeps_upgrade: bool) -> Vec<(String, String)> {
        let mut head = RequestHead {
            method: "GET".into(),
            path: "/".into(),
            authority: "h".into(),
            scheme: Scheme::Http,
            version: Version::Http11,
            headers: HeaderList::default(),
        };
        for (name, value) in headers {
            head.headers.append(name.as_bytes(), value.as_bytes());
        }
        strip_request(&mut head, keeps_upgrade);
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        head.headers.iter().map(|header| (text(header.name), text(header.value))).collect()
    }

    fn names(headers: &[(&str, &str)]) -> Vec<String> {
        stripped(headers, false).into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn connection_headers_go_and_others_stay() {
        assert_eq!(
            names(&[
                ("A", "1"),
                ("Connection", "keep-alive"),
                ("Keep-Alive", "timeout=5"),
                ("Proxy-Connection", "close"),
                ("Transfer-Encoding", "chunked"),
                ("Upgrade", "h2c"),
                ("HTTP2-Settings", "x"),
                ("Content-Length", "3"),
                ("B", "2"),
            ]),
            ["A", "Content-Length", "B"]
        );
    }

    #[test]
    fn nominated_headers_go() {
        assert_eq!(
            names(&[
                ("Connection", "close, X-Hop"),
                ("connection", "x-two"),
                ("x-hop", "1"),
                ("X-TWO", "2"),
                ("x", "3")
            ]),
            ["x"]
        );
    }

    #[test]
    fn end_to_end_headers_cannot_be_nominated_away() {
        let attack = "host, authorization, cookie, x-forwarded-for, content-length, :path";
        assert_eq!(
            names(&[("connection", attack), ("authorization", "x"), ("x-forwarded-for", "1.2.3.4")]),
            ["authorization", "x-forwarded-for"]
        );
    }

    #[test]
    fn te_is_passed_on_as_trailers_or_not_at_all() {
        assert_eq!(stripped(&[("TE", "gzip, Trailers")], false), [("TE".into(), "trailers".into())]);
        assert_eq!(names(&[("te", "gzip")]), [""; 0]);
    }

    #[test]
    fn an_accepted_upgrade_keeps_its_two_headers() {
        let asked = [("Connection", "Keep-Alive, Upgrade"), ("Upgrade", "WebSocket"), ("keep-alive", "1")];
        assert_eq!(
            stripped(&asked, true),
            [("Connection".into(), "upgrade".into()), ("Upgrade".into(), "WebSocket".into())]
        );
        assert!(stripped(&asked, false).is_empty());
        assert!(stripped(&[("upgrade", "websocket")], true).is_empty(), "connection must say upgrade");
    }

    #[test]
    fn a_response_keeps_its_upgrade_only_when_upgraded() {
        for upgraded in [true, false] {
            let mut head = ResponseHead::new(101);
            head.headers.append(b"connection", b"upgrade");
            head.headers.append(b"upgrade", b"websocket");
            strip_response(&mut head, upgraded);
            assert_eq!(head.headers.len(), if upgraded { 2 } else { 0 });
        }
    }
}
