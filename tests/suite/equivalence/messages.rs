//! Requests that are not as they should be: refused with the same words, or passed in the same form.

use super::simple;
use e2e::pair::Case;

/// Where ours refuses more, or with another status, and why.
const STRICTER: &[(&str, &str)] = &[
    ("empty host", "nobody is named: as without a host"),
    ("two hosts", "RFC 9112 3.2: more than one is refused; Envoy makes one of both"),
    ("same host twice", "RFC 9112 3.2: more than one is refused; Envoy makes one of both"),
    ("host with user", "RFC 9110 4.2.4: user information is refused"),
    ("version 0.9", "there is no such version to upgrade from"),
    ("version 1.2", "there is no such version to upgrade from"),
    ("version 2.0", "there is no such version to upgrade from"),
    ("two spaces", "RFC 9112 3: one space, so that nobody reads it otherwise"),
    ("space at the end", "RFC 9112 3: one space, so that nobody reads it otherwise"),
    ("folded", "RFC 9112 5.2: refused; Envoy unfolds"),
    ("bare return in value", "RFC 9112 2.2: refused; Envoy drops it"),
];

#[tokio::test]
async fn malformed_requests_are_refused_the_same() {
    let pair = simple("", &[]).await;
    let long = "x".repeat(61 * 1024);
    let many: String = (0..101).map(|i| format!("x-{i}: 1\r\n")).collect();
    let fits: String = (0..90).map(|i| format!("x-{i}: 1\r\n")).collect();
    let get = |headers: &str| format!("GET / HTTP/1.1\r\nhost: test\r\n{headers}\r\n");
    let post = |headers: &str, body: &str| {
        format!("POST / HTTP/1.1\r\nhost: test\r\nx-do: echo\r\n{headers}\r\n{body}")
    };
    let cases: Vec<Case> = [
        ("no host", "GET / HTTP/1.1\r\n\r\n".into()),
        ("empty host", "GET / HTTP/1.1\r\nhost:\r\n\r\n".into()),
        ("two hosts", "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n".into()),
        ("same host twice", "GET / HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n".into()),
        ("bad host", "GET / HTTP/1.1\r\nhost: a b\r\n\r\n".into()),
        ("host with path", "GET / HTTP/1.1\r\nhost: a/b\r\n\r\n".into()),
        ("host with user", "GET / HTTP/1.1\r\nhost: u@a\r\n\r\n".into()),
        ("version 1.0", "GET / HTTP/1.0\r\nhost: a\r\n\r\n".into()),
        ("version 1.0 without host", "GET / HTTP/1.0\r\n\r\n".into()),
        ("version 0.9", "GET /\r\n\r\n".into()),
        ("version 1.2", "GET / HTTP/1.2\r\nhost: a\r\n\r\n".into()),
        ("version 2.0", "GET / HTTP/2.0\r\nhost: a\r\n\r\n".into()),
        ("version in small letters", "GET / http/1.1\r\nhost: a\r\n\r\n".into()),
        ("words", "hello world\r\n\r\n".into()),
        ("TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\x7c\x03\x03\r\n\r\n".into()),
        ("no target", "GET HTTP/1.1\r\nhost: a\r\n\r\n".into()),
        ("two spaces", "GET  / HTTP/1.1\r\nhost: a\r\n\r\n".into()),
        ("space at the end", "GET / HTTP/1.1 \r\nhost: a\r\n\r\n".into()),
        ("space in target", "GET /a b HTTP/1.1\r\nhost: a\r\n\r\n".into()),
        ("relative target", "GET a HTTP/1.1\r\nhost: a\r\n\r\n".into()),
        ("method with odd characters", "G@T / HTTP/1.1\r\nhost: a\r\n\r\n".into()),
        ("control in target", "GET /\x01 HTTP/1.1\r\nhost: a\r\n\r\n".into()),
        ("bytes above 127 in target", "GET /\u{e9} HTTP/1.1\r\nhost: a\r\n\r\n".into()),
        ("bytes above 127 in value", get("x-a: \u{e9}\r\n")),
        ("header without colon", get("nocolon\r\n")),
        ("header without name", get(": value\r\n")),
        ("space before colon", get("x-a : 1\r\n")),
        ("space before name", get(" x-a: 1\r\n")),
        ("folded", get("x-a: 1\r\n 2\r\n")),
        ("odd name", get("x(a): 1\r\n")),
        ("zero in value", get("x-a: a\0b\r\n")),
        ("bare return in value", get("x-a: a\rb\r\n")),
        ("escape in value", get("x-a: a\x1bb\r\n")),
        ("tab in value", get("x-a: a\tb\r\n")),
        ("length and chunks", post("content-length: 3\r\ntransfer-encoding: chunked\r\n", "0\r\n\r\n")),
        ("chunks and length", post("transfer-encoding: chunked\r\ncontent-length: 3\r\n", "0\r\n\r\n")),
        ("two lengths", post("content-length: 3\r\ncontent-length: 4\r\n", "abc")),
        ("same length twice", post("content-length: 3\r\ncontent-length: 3\r\n", "abc")),
        ("list of lengths", post("content-length: 3, 3\r\n", "abc")),
        ("negative length", post("content-length: -1\r\n", "")),
        ("plus length", post("content-length: +3\r\n", "abc")),
        ("length of letters", post("content-length: 3a\r\n", "abc")),
        ("huge length", post("content-length: 99999999999999999999999\r\n", "")),
        ("empty length", post("content-length:\r\n", "")),
        ("gzip, chunked", post("transfer-encoding: gzip, chunked\r\n", "0\r\n\r\n")),
        ("chunked twice", post("transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n", "0\r\n\r\n")),
        ("identity", post("transfer-encoding: identity\r\n", "")),
        ("chunked in capitals", post("transfer-encoding: CHUNKED\r\n", "0\r\n\r\n")),
        ("xchunked", post("transfer-encoding: xchunked\r\n", "0\r\n\r\n")),
        ("chunked, gzip", post("transfer-encoding: chunked, gzip\r\n", "0\r\n\r\n")),
        ("long target", format!("GET /{long} HTTP/1.1\r\nhost: a\r\n\r\n")),
        ("long value", get(&format!("x-a: {long}\r\n"))),
        ("long name", get(&format!("{long}: a\r\n"))),
        ("101 headers", get(&many)),
        ("90 headers", get(&fits)),
    ]
    .into_iter()
    .map(|(name, bytes): (&str, String)| {
        let case = Case::new(name, bytes);
        match STRICTER.iter().find(|(stricter, _)| *stricter == name) {
            Some((_, reason)) => case.differs(reason),
            None => case,
        }
    })
    .collect();
    pair.compare(&cases).await;
}
