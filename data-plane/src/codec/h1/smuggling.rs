//! Messages that two parsers could read in two ways, or that are built to make them: each with its verdict.
//!
//! Requests are followed by a second, hidden one; a refused message must never let it through.

use super::parse::{self, Parsed};
use super::{ClientConn, Reuse};
use crate::codec::testing::{Fake, client_options, converse, options, read, request};
use crate::codec::{Body, ExchangeErrorKind};
use bytes::BytesMut;
use data_plane_core::config::Underscores;
use proptest::prelude::*;
use std::rc::Rc;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

pub(super) const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nHost: h\r\n\r\n";

/// A refused request: what it is, the message, status and details.
pub(super) const REFUSED: &[(&str, &str, u16, &str)] = &[
    // Lengths.
    (
        "length and chunked",
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
        "http1.content_length_and_chunked_not_allowed",
    ),
    (
        "chunked and length",
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        400,
        "http1.content_length_and_chunked_not_allowed",
    ),
    (
        "chunked and zero length",
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n0\r\n\r\n",
        400,
        "http1.content_length_and_chunked_not_allowed",
    ),
    (
        "two lengths",
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        400,
        "http1.codec_error",
    ),
    (
        "the same length twice",
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\ncontent-length: 5\r\n\r\nhello",
        400,
        "http1.codec_error",
    ),
    (
        "list of lengths",
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5, 5\r\n\r\nhello",
        400,
        "http1.codec_error",
    ),
    (
        "negative length",
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: -5\r\n\r\nhello",
        400,
        "http1.codec_error",
    ),
    (
        "signed length",
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: +5\r\n\r\nhello",
        400,
        "http1.codec_error",
    ),
    (
        "hexadecimal length",
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0x5\r\n\r\nhello",
        400,
        "http1.codec_error",
    ),
    (
        "fractional length",
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5.0\r\n\r\nhello",
        400,
        "http1.codec_error",
    ),
    ("empty length", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length:\r\n\r\nhello", 400, "http1.codec_error"),
    (
        "length with a space inside",
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1 0\r\n\r\nhello",
        400,
        "http1.codec_error",
    ),
    (
        "length that overflows",
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 18446744073709551621\r\n\r\nhello",
        400,
        "http1.codec_error",
    ),
    (
        "length in other digits",
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: \u{665}\r\n\r\nhello",
        400,
        "http1.codec_error",
    ),
    // Transfer codings.
    (
        "unknown coding",
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip\r\n\r\n",
        501,
        "http1.invalid_transfer_encoding",
    ),
    (
        "identity",
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: identity\r\n\r\n",
        501,
        "http1.invalid_transfer_encoding",
    ),
    (
        "chunked not last",
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked, gzip\r\n\r\n",
        501,
        "http1.invalid_transfer_encoding",
    ),
    (
        "chunked after another",
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        501,
        "http1.invalid_transfer_encoding",
    ),
    (
        "chunked twice in a list",
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        501,
        "http1.invalid_transfer_encoding",
    ),
    (
        "chunked twice",
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        501,
        "http1.invalid_transfer_encoding",
    ),
    (
        "chunked, then another line",
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n",
        501,
        "http1.invalid_transfer_encoding",
    ),
    (
        "almost chunked",
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        501,
        "http1.invalid_transfer_encoding",
    ),
    (
        "quoted chunked",
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n",
        501,
        "http1.invalid_transfer_encoding",
    ),
    (
        "chunked with a parameter",
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n",
        501,
        "http1.invalid_transfer_encoding",
    ),
    (
        "empty coding",
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding:\r\n\r\n0\r\n\r\n",
        501,
        "http1.invalid_transfer_encoding",
    ),
    (
        "vertical tab before chunked",
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
        400,
        "http1.codec_error",
    ),
    // Lines.
    (
        "space before the colon",
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        400,
        "http1.codec_error",
    ),
    (
        "tab before the colon",
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length\t: 5\r\n\r\nhello",
        400,
        "http1.codec_error",
    ),
    ("space before the first header", "GET / HTTP/1.1\r\n Host: h\r\n\r\n", 400, "http1.codec_error"),
    ("folded line", "GET / HTTP/1.1\r\nHost: h\r\nX: a\r\n b\r\n\r\n", 400, "http1.codec_error"),
    (
        "folded with a tab",
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding:\r\n\tchunked\r\n\r\n0\r\n\r\n",
        400,
        "http1.codec_error",
    ),
    ("no colon", "GET / HTTP/1.1\r\nHost: h\r\nX\r\n\r\n", 400, "http1.codec_error"),
    ("no name", "GET / HTTP/1.1\r\nHost: h\r\n: x\r\n\r\n", 400, "http1.codec_error"),
    ("control in a name", "GET / HTTP/1.1\r\nHost: h\r\nX\x01: a\r\n\r\n", 400, "http1.codec_error"),
    ("NUL in a value", "GET / HTTP/1.1\r\nHost: h\r\nX: a\0b\r\n\r\n", 400, "http1.codec_error"),
    ("CR in a value", "GET / HTTP/1.1\r\nHost: h\r\nX: a\rY: b\r\n\r\n", 400, "http1.codec_error"),
    ("DEL in a value", "GET / HTTP/1.1\r\nHost: h\r\nX: a\x7fb\r\n\r\n", 400, "http1.codec_error"),
    ("LF alone after the request line", "GET / HTTP/1.1\nHost: h\r\n\r\n", 400, "http1.codec_error"),
    (
        "LF alone after a header",
        "GET / HTTP/1.1\r\nHost: h\r\nX: a\nTransfer-Encoding: chunked\r\n\r\n",
        400,
        "http1.codec_error",
    ),
    ("LF alone at the end", "GET / HTTP/1.1\r\nHost: h\r\n\n", 400, "http1.codec_error"),
    ("LF alone before the message", "\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", 400, "http1.codec_error"),
    ("CR alone", "GET / HTTP/1.1\rHost: h\r\n\r\n", 400, "http1.codec_error"),
    // Request lines.
    ("two spaces", "GET  / HTTP/1.1\r\nHost: h\r\n\r\n", 400, "http1.codec_error"),
    ("space in the target", "GET /a b HTTP/1.1\r\nHost: h\r\n\r\n", 400, "http1.codec_error"),
    ("tab for a space", "GET\t/ HTTP/1.1\r\nHost: h\r\n\r\n", 400, "http1.codec_error"),
    ("space before the method", " GET / HTTP/1.1\r\nHost: h\r\n\r\n", 400, "http1.codec_error"),
    ("method that is no token", "G(T / HTTP/1.1\r\nHost: h\r\n\r\n", 400, "http1.codec_error"),
    ("HTTP/0.9", "GET /\r\n\r\n", 400, "http1.codec_error"),
    ("another version", "GET / HTTP/1.2\r\nHost: h\r\n\r\n", 400, "http1.codec_error"),
    ("HTTP/2 without its preface", "GET / HTTP/2.0\r\nHost: h\r\n\r\n", 400, "http1.codec_error"),
    ("lowercase version", "GET / http/1.1\r\nHost: h\r\n\r\n", 400, "http1.codec_error"),
    ("not ASCII in the target", "GET /\u{e9} HTTP/1.1\r\nHost: h\r\n\r\n", 400, "http1.invalid_url"),
    ("relative target", "GET a/b HTTP/1.1\r\nHost: h\r\n\r\n", 400, "http1.invalid_url"),
    ("asterisk for GET", "GET * HTTP/1.1\r\nHost: h\r\n\r\n", 400, "http1.invalid_url"),
    ("another scheme", "GET ftp://h/ HTTP/1.1\r\nHost: h\r\n\r\n", 400, "http1.invalid_url"),
    ("no host in the target", "GET http:///x HTTP/1.1\r\nHost: h\r\n\r\n", 400, "http1.invalid_url"),
    ("user in the target", "GET http://evil@h/ HTTP/1.1\r\nHost: h\r\n\r\n", 400, "http1.invalid_url"),
    ("CONNECT without a port", "CONNECT h HTTP/1.1\r\nHost: h\r\n\r\n", 400, "http1.invalid_url"),
    ("CONNECT to a path", "CONNECT /x HTTP/1.1\r\nHost: h\r\n\r\n", 400, "http1.invalid_url"),
    (
        "CONNECT with a body",
        "CONNECT h:1 HTTP/1.1\r\nHost: h:1\r\nContent-Length: 5\r\n\r\nhello",
        400,
        "http1.body_disallowed",
    ),
    // Hosts.
    ("two hosts", "GET / HTTP/1.1\r\nHost: h\r\nHost: other\r\n\r\n", 400, "http1.codec_error"),
    ("the same host twice", "GET / HTTP/1.1\r\nHost: h\r\nhost: h\r\n\r\n", 400, "http1.codec_error"),
    ("path in the host", "GET / HTTP/1.1\r\nHost: h/x\r\n\r\n", 400, "http1.codec_error"),
    ("user in the host", "GET / HTTP/1.1\r\nHost: evil@h\r\n\r\n", 400, "http1.codec_error"),
    ("space in the host", "GET / HTTP/1.1\r\nHost: h other\r\n\r\n", 400, "http1.codec_error"),
    (
        "bad host behind a good target",
        "GET http://h/ HTTP/1.1\r\nHost: a/b\r\n\r\n",
        400,
        "http1.codec_error",
    ),
];

/// A request whose head is fine and whose chunked body is not.
const BAD_CHUNKS: &[(&str, &str)] = &[
    ("size with 0x", "0x5\r\nhello\r\n0\r\n\r\n"),
    ("signed size", "+5\r\nhello\r\n0\r\n\r\n"),
    ("negative size", "-1\r\n\r\n"),
    ("no size", "\r\nhello\r\n0\r\n\r\n"),
    ("space before the size", " 5\r\nhello\r\n0\r\n\r\n"),
    ("space after the size", "5 \r\nhello\r\n0\r\n\r\n"),
    ("size that overflows", "10000000000000005\r\nhello\r\n0\r\n\r\n"),
    ("size with a g", "5g\r\nhello\r\n0\r\n\r\n"),
    ("underscore in the size", "1_0\r\nhello\r\n0\r\n\r\n"),
    ("LF after the size", "5\nhello\r\n0\r\n\r\n"),
    ("CR after the size", "5\rhello\r\n0\r\n\r\n"),
    ("LF in the extension", "5;a\nb\r\nhello\r\n0\r\n\r\n"),
    ("CR in the extension", "5;a\rb\r\nhello\r\n0\r\n\r\n"),
    ("NUL in the extension", "5;a\0\r\nhello\r\n0\r\n\r\n"),
    ("longer than its size", "4\r\nhello\r\n0\r\n\r\n"),
    ("shorter than its size", "6\r\nhello\r\n0\r\n\r\n"),
    ("LF after the data", "5\r\nhello\n0\r\n\r\n"),
    ("LF after the last size", "5\r\nhello\r\n0\n\r\n"),
    ("LF as the end", "5\r\nhello\r\n0\r\n\n"),
    ("LF in the trailers", "5\r\nhello\r\n0\r\nX: a\nY: b\r\n\r\n"),
    ("no trailer name", "5\r\nhello\r\n0\r\n: a\r\n\r\n"),
    ("space before the colon of a trailer", "5\r\nhello\r\n0\r\nX : a\r\n\r\n"),
    ("folded trailer", "5\r\nhello\r\n0\r\n X: a\r\n\r\n"),
];

/// Refused responses to GET, and why.
const BAD_RESPONSES: &[(&str, &str)] = &[
    ("length and chunked", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"),
    ("two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n"),
    ("list of lengths", "HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\n"),
    ("negative length", "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"),
    ("unknown coding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n"),
    ("chunked twice", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n"),
    ("chunked from HTTP/1.0", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("204 with a length", "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello"),
    ("204 that is chunked", "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("interim with a length", "HTTP/1.1 103 Hints\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\n\r\n"),
    ("folded line", "HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n"),
    ("space before the colon", "HTTP/1.1 200 OK\r\nContent-Length : 5\r\n\r\nhello"),
    ("LF alone", "HTTP/1.1 200 OK\nContent-Length: 5\n\nhello"),
    ("NUL in a value", "HTTP/1.1 200 OK\r\nX: \0\r\n\r\n"),
    ("two-digit status", "HTTP/1.1 20 OK\r\n\r\n"),
    ("status below 100", "HTTP/1.1 099 No\r\n\r\n"),
    ("another version", "HTTP/2 200\r\n\r\n"),
    ("not HTTP", "220 mail.test ESMTP\r\n\r\n"),
];

#[tokio::test(start_paused = true)]
async fn ambiguous_requests_are_refused_and_hide_nothing() {
    for (what, message, status, details) in REFUSED {
        let handler = Fake::echo();
        let sent = format!("{message}{HIDDEN}");
        let (answer, end) = converse(&options(), &handler, &[sent.as_bytes()]).await;
        assert!(handler.seen.borrow().is_empty(), "{what}: let through: {:?}", handler.seen.borrow());
        let refused = handler.refused.borrow();
        assert_eq!(refused.len(), 1, "{what}");
        assert_eq!((refused[0].status(), refused[0].details), (*status, *details), "{what}");
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{what}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{what}: {answer}");
        assert!(answer.contains("connection: close\r\n"), "{what}: {answer}");
        assert!(matches!(end.reason, crate::codec::EndReason::Protocol(_)), "{what}: {end:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn bad_chunks_fail_the_body_and_hide_nothing() {
    for (what, chunks) in BAD_CHUNKS {
        let handler = Fake::echo();
        let sent =
            format!("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}{HIDDEN}");
        let (answer, end) = converse(&options(), &handler, &[sent.as_bytes()]).await;
        assert_eq!(handler.seen.borrow().len(), 1, "{what}: a hidden request was served");
        assert!(
            answer.starts_with("HTTP/1.1 400 ") && answer.contains("connection: close"),
            "{what}: {answer}"
        );
        assert_eq!(end.requests, 1, "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn ambiguous_responses_are_refused() {
    struct Nowhere;
    impl Reuse<DuplexStream> for Nowhere {
        fn put(&self, _: ClientConn<DuplexStream>) {
            panic!("a connection that broke the protocol was reused");
        }
    }
    for (what, message) in BAD_RESPONSES {
        let (near, mut far) = duplex(64 * 1024);
        let conn = ClientConn::new(near, Arc::new(client_options()));
        let head = request("GET", "/");
        let peer = async {
            let _ = far.read(&mut [0; 1024]).await.unwrap();
            far.write_all(message.as_bytes()).await.unwrap();
        };
        let (answer, ()) = tokio::join!(conn.exchange(&head, Body::Empty, Rc::new(Nowhere)), peer);
        let error = answer.err().unwrap_or_else(|| panic!("{what}: taken"));
        assert!(matches!(error.kind, ExchangeErrorKind::Protocol(_)), "{what}: {error:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn unusual_but_unambiguous_requests_are_served() {
    for (what, message, answer) in [
        ("empty line before", "\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", "GET /|"),
        ("no space after the colon", "POST / HTTP/1.1\r\nHost:h\r\nContent-Length:2\r\n\r\nok", "POST /|ok"),
        (
            "spaces around the value",
            "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: \t2 \r\n\r\nok",
            "POST /|ok",
        ),
        ("leading zeros", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 002\r\n\r\nok", "POST /|ok"),
        (
            "chunked in another case",
            "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: ChUnKeD\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            "POST /|ok",
        ),
        (
            "zeros before a size",
            "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0002\r\nok\r\n000\r\n\r\n",
            "POST /|ok",
        ),
        (
            "extensions",
            "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2;a=\"b\";c\r\nok\r\n0;d\r\n\r\n",
            "POST /|ok",
        ),
        ("GET with a body", "GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nok", "GET /|ok"),
        ("a method of one's own", "PURGE-1 / HTTP/1.1\r\nHost: h\r\n\r\n", "PURGE-1 /|"),
        ("text beyond ASCII in a value", "GET / HTTP/1.1\r\nHost: h\r\nX: \u{e9}\r\n\r\n", "GET /|"),
        ("empty value", "GET / HTTP/1.1\r\nHost: h\r\nX:\r\n\r\n", "GET /|"),
    ] {
        let handler = Fake::echo();
        let (got, end) = converse(&options(), &handler, &[message.as_bytes()]).await;
        assert!(got.ends_with(answer), "{what}: {got} {:?}", handler.refused.borrow());
        assert_eq!(end.requests, 1, "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_without_a_host_is_the_managers_to_refuse() {
    let handler = Fake::echo();
    converse(&options(), &handler, &[b"GET / HTTP/1.1\r\n\r\n"]).await;
    assert_eq!(handler.seen.borrow()[0].authority, "");
}

#[tokio::test(start_paused = true)]
async fn heads_beyond_the_limits_are_431() {
    let mut small = options();
    small.max_head_bytes = 1024;
    let long = format!("GET / HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n", "a".repeat(1024));
    let endless = format!("GET /{}", "a".repeat(2000));
    for message in [&long, &endless] {
        let handler = Fake::echo();
        let (answer, _) = converse(&small, &handler, &[message.as_bytes()]).await;
        assert!(
            answer.starts_with("HTTP/1.1 431 ") && answer.ends_with("Request Header Fields Too Large"),
            "{answer}"
        );
        assert_eq!(handler.refused.borrow()[0].details, "http1.headers_too_large");
    }
    for (count, refused) in [(99, false), (100, true)] {
        let handler = Fake::echo();
        let many = format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", "a: b\r\n".repeat(count));
        converse(&options(), &handler, &[many.as_bytes()]).await;
        assert_eq!(!handler.refused.borrow().is_empty(), refused, "{count} headers and the host");
    }
    let mut wide = options();
    wide.max_headers = 500;
    let handler = Fake::echo();
    let many = format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", "a: b\r\n".repeat(400));
    converse(&wide, &handler, &[many.as_bytes()]).await;
    assert_eq!(handler.seen.borrow()[0].headers.len(), 400);
}

#[tokio::test(start_paused = true)]
async fn chunk_extensions_and_trailers_are_bounded() {
    let head = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
    let long = format!("{head}1;{}\r\nx\r\n0\r\n\r\n", "e".repeat(5000));
    let many = format!("{head}{}0\r\n\r\n", format!("1;{}\r\nx\r\n", "e".repeat(1000)).repeat(20));
    let trailers = format!("{head}0\r\n{}\r\n", "a: b\r\n".repeat(101));
    let large = format!("{head}0\r\nx: {}\r\n\r\n", "a".repeat(62 * 1024));
    for message in [long, many, trailers, large] {
        let (answer, end) = converse(&options(), &Fake::echo(), &[message.as_bytes()]).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        assert_eq!(end.requests, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn names_with_underscores_follow_the_policy() {
    let message = b"GET / HTTP/1.1\r\nHost: h\r\nx_a: 1\r\nx-b: 2\r\nconnection: close\r\n\r\n";
    let mut options = options();
    for (policy, seen) in [
        (Underscores::Allow, Some(true)),
        (Underscores::DropHeader, Some(false)),
        (Underscores::RejectRequest, None),
    ] {
        options.underscores = policy;
        let handler = Fake::echo();
        converse(&options, &handler, &[message]).await;
        assert_eq!(handler.seen.borrow().first().map(|h| h.headers.contains(b"x_a")), seen, "{policy:?}");
    }
}

/// Bytes that are likely to reach deep into the parsers.
fn noise() -> impl Strategy<Value = Vec<u8>> {
    let token = prop_oneof![
        Just(b"GET / HTTP/1.1\r\nHost: h\r\n".to_vec()),
        Just(b"HTTP/1.1 200 OK\r\n".to_vec()),
        Just(b"Transfer-Encoding: chunked\r\n".to_vec()),
        Just(b"Content-Length: 5\r\n".to_vec()),
        Just(b"\r\n".to_vec()),
        Just(b"0\r\n\r\n".to_vec()),
        Just(b"5;x\r\nhello\r\n".to_vec()),
        proptest::collection::vec(any::<u8>(), 0..12),
        "[ -~]{0,12}".prop_map(String::into_bytes),
    ];
    proptest::collection::vec(token, 0..12).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_make_a_parser_panic(bytes in noise()) {
        let _ = parse::request(&bytes, &options());
        let _ = parse::response(&bytes, "GET", &client_options());
    }

    #[test]
    fn a_prefix_of_a_taken_head_is_partial_and_more_bytes_change_nothing(bytes in noise(), more in noise()) {
        if let Ok(Parsed::Complete(parts, size)) = parse::request(&bytes, &options()) {
            prop_assert!(size <= bytes.len());
            let longer = [&bytes[..], &more].concat();
            let Ok(Parsed::Complete(again, same)) = parse::request(&longer, &options()) else {
                return Err(TestCaseError::fail("more bytes changed the verdict"));
            };
            prop_assert_eq!((same, again.length), (size, parts.length));
            prop_assert!(matches!(parse::request(&bytes[..size - 1], &options()), Ok(Parsed::Partial)));
        }
    }

    #[test]
    fn chunks_decode_the_same_however_they_are_cut(bytes in noise(), cut in 1usize..7) {
        use super::framing::{Decoded, Decoder, Length, Limits};
        let limits = Limits { trailers: true, max_trailer_bytes: 1000, max_trailers: 10 };
        let run = |cut: usize| {
            let mut decoder = Decoder::new(Length::Chunked);
            let mut buffer = BytesMut::new();
            let mut data = Vec::new();
            for piece in bytes.chunks(cut) {
                buffer.extend_from_slice(piece);
                loop {
                    match decoder.decode(&mut buffer, &limits) {
                        Ok(Decoded::Data(bytes)) => data.extend_from_slice(&bytes),
                        Ok(Decoded::Trailers(_)) => {}
                        Ok(Decoded::End) => return (data, "end"),
                        Err(_) => return (data, "error"),
                        Ok(Decoded::More) => break,
                    }
                }
            }
            (data, "more")
        };
        prop_assert_eq!(run(cut), run(bytes.len().max(1)));
    }

    #[test]
    fn what_the_client_writes_the_server_reads(
        method in "[A-Z]{1,8}",
        path in "/[!-~]{0,40}",
        headers in proptest::collection::vec(("x-[a-zA-Z0-9-]{1,12}", "[!-~][ -~]{0,20}[!-~]"), 0..12),
        body in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..3000), 0..12),
        known in any::<bool>(),
    ) {
        prop_assume!(method != "CONNECT" && method != "HEAD");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(round_trip(method, path, headers, body, known))?;
    }
}

/// Sends a message through client and server, which echoes it, and compares both ways.
async fn round_trip(
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Vec<Vec<u8>>,
    known: bool,
) -> Result<(), TestCaseError> {
    use crate::codec::{Frame, Reply, testing};
    use data_plane_core::headers::ResponseHead;
    struct Kept(std::cell::Cell<bool>);
    impl Reuse<DuplexStream> for Kept {
        fn put(&self, _: ClientConn<DuplexStream>) {
            self.0.set(true);
        }
    }
    struct Pieces(std::collections::VecDeque<Frame>);
    impl crate::codec::BodySource for Pieces {
        fn poll_frame(
            &mut self,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<Frame, crate::codec::BodyError>>> {
            std::task::Poll::Ready(self.0.pop_front().map(Ok))
        }
    }
    let handler = Fake::new(|request| async move {
        let mut head = ResponseHead::new(200);
        head.headers = request.head.headers.clone();
        Reply::new(head, request.body)
    });
    let served = testing::served(&options(), data_plane_core::config::CodecType::Auto, Rc::clone(&handler));
    let conn = ClientConn::new(served.client, Arc::new(client_options()));
    let mut head = request(&method, &path);
    for (name, value) in &headers {
        head.headers.append(name.as_bytes(), value.as_bytes());
    }
    let whole = body.concat();
    let frames: std::collections::VecDeque<_> = body.into_iter().map(|b| Frame::Data(b.into())).collect();
    let body = if known { Body::Frames(frames) } else { Body::Stream(Box::new(Pieces(frames))) };
    let kept = Rc::new(Kept(std::cell::Cell::new(false)));
    let process = served.process;
    let talk = async {
        let (answer, body) = conn.exchange(&head, body, kept.clone()).await.unwrap();
        let got = read(body).await.unwrap().0;
        process.advance(crate::task::Phase::Stopped);
        (answer, got)
    };
    let ((answer, got), _) = tokio::join!(talk, served.server);
    prop_assert_eq!(answer.status, 200);
    prop_assert!(got == whole, "the body changed on the way");
    prop_assert!(kept.0.get(), "the connection must be reusable");
    let seen = handler.seen.borrow();
    prop_assert_eq!(
        (&*seen[0].method, &*seen[0].path, &*seen[0].authority),
        (&*method, &*path, "upstream.test")
    );
    let pairs = |list: &data_plane_core::headers::HeaderList| {
        list.iter()
            .filter(|h| h.name.starts_with(b"x-"))
            .map(|h| {
                (String::from_utf8(h.name.to_vec()).unwrap(), String::from_utf8(h.value.to_vec()).unwrap())
            })
            .collect::<Vec<_>>()
    };
    let expected: Vec<_> = headers.into_iter().map(|(n, v)| (n.to_ascii_lowercase(), v)).collect();
    prop_assert_eq!(pairs(&seen[0].headers), expected.clone());
    prop_assert_eq!(pairs(&answer.headers), expected);
    Ok(())
}
