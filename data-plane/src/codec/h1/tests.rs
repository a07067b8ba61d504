//! Behaviour of HTTP/1 connections, both sides.

use super::{ClientConn, Reuse};
use crate::codec::testing::{
    Fake, Served, client_options, converse, limit, ok, options, read, request, served, text,
};
use crate::codec::{Body, BodyError, EndReason, ExchangeErrorKind, Frame, Reply};
use crate::task::Phase;
use bytes::Bytes;
use data_plane_core::config::CodecType;
use data_plane_core::headers::{ResponseHead, Version};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::{pending, poll_fn};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::{Instant, sleep};

const GET: &[u8] = b"GET /a?b HTTP/1.1\r\nhost: h\r\n\r\n";

/// A body whose frames come one a poll, of unknown length.
struct Trickle(VecDeque<Frame>);

impl crate::codec::BodySource for Trickle {
    fn poll_frame(&mut self, _: &mut std::task::Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        Poll::Ready(self.0.pop_front().map(Ok))
    }
}

fn trickle(pieces: &[&'static str]) -> Body {
    let frames = pieces.iter().map(|p| Frame::Data(Bytes::from_static(p.as_bytes()))).collect();
    Body::Stream(Box::new(Trickle(frames)))
}

#[tokio::test(start_paused = true)]
async fn answers_a_request_and_keeps_the_connection_until_idle() {
    let handler = Fake::echo();
    let start = Instant::now();
    let (answer, end) = converse(&options(), &handler, &[GET]).await;
    assert_eq!(answer, "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nGET /a?b|");
    assert_eq!((end.reason, end.requests), (EndReason::IdleTimeout, 1));
    assert_eq!(start.elapsed().as_secs(), 3600);
    let seen = handler.seen.borrow();
    assert_eq!((&*seen[0].authority, seen[0].version), ("h", Version::Http11));
    assert!(!seen[0].headers.contains(b"host"));
}

#[tokio::test(start_paused = true)]
async fn pipelined_requests_are_answered_in_order() {
    let handler = Fake::echo();
    let two = b"POST /1 HTTP/1.1\r\nhost: h\r\ncontent-length: 3\r\n\r\nabcGET /2 HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n";
    let (answer, end) = converse(&options(), &handler, &[two]).await;
    assert_eq!(
        answer,
        "HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\nPOST /1|abc\
         HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 7\r\n\r\nGET /2|"
    );
    assert_eq!((end.reason, end.requests), (EndReason::Local, 2));
}

#[tokio::test(start_paused = true)]
async fn split_anywhere_a_message_reads_the_same() {
    let message: &[u8] = b"POST /p HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nX: y\r\n\r\n\
        5;ext=\"v\"\r\nhello\r\n0A\r\n, chunked!\r\n0\r\nx-t: 1\r\n\r\n\
        POST /q HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nConnection: close\r\n\r\nlast";
    let whole = converse(&options(), &Fake::echo(), &[message]).await;
    assert!(whole.0.contains("POST /p|hello, chunked!") && whole.0.ends_with("POST /q|last"), "{}", whole.0);
    for at in 1..message.len() {
        let parts = converse(&options(), &Fake::echo(), &[&message[..at], &message[at..]]).await;
        assert_eq!(parts, whole, "split at {at}");
    }
    let bytes: Vec<&[u8]> = message.chunks(1).collect();
    assert_eq!(converse(&options(), &Fake::echo(), &bytes).await, whole, "byte by byte");
}

#[tokio::test(start_paused = true)]
async fn a_body_of_unknown_length_is_chunked_and_for_http_10_ends_with_the_connection() {
    let handler = Fake::new(|_| async { ok(trickle(&["ab", "cde"])) });
    let mut options = options();
    options.http1.accept_http_10 = true;
    let (answer, _) =
        converse(&options, &handler, &[b"GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n"]).await;
    assert_eq!(
        answer,
        "HTTP/1.1 200 OK\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n"
    );
    let (answer, end) =
        converse(&options, &handler, &[b"GET / HTTP/1.0\r\nhost: h\r\nconnection: keep-alive\r\n\r\n"]).await;
    assert_eq!(answer, "HTTP/1.0 200 OK\r\nconnection: close\r\n\r\nabcde");
    assert_eq!(end.reason, EndReason::Local);
}

#[tokio::test(start_paused = true)]
async fn http_10_is_refused_unless_accepted_and_keeps_alive_only_when_asked() {
    let (answer, end) = converse(&options(), &Fake::echo(), &[b"GET / HTTP/1.0\r\nhost: h\r\n\r\n"]).await;
    assert_eq!(
        answer,
        "HTTP/1.1 426 Upgrade Required\r\nconnection: close\r\ncontent-length: 16\r\n\r\nUpgrade Required"
    );
    assert_eq!(end.reason, EndReason::Protocol("low_version"));
    let mut options = options();
    options.http1.accept_http_10 = true;
    let (answer, _) = converse(&options, &Fake::echo(), &[b"GET / HTTP/1.0\r\nhost: h\r\n\r\n"]).await;
    assert_eq!(answer, "HTTP/1.0 200 OK\r\nconnection: close\r\ncontent-length: 6\r\n\r\nGET /|");
    let twice =
        b"GET / HTTP/1.0\r\nhost: h\r\nconnection: keep-alive\r\n\r\nGET / HTTP/1.0\r\nhost: h\r\n\r\n";
    let (answer, end) = converse(&options, &Fake::echo(), &[twice]).await;
    assert!(
        answer.starts_with("HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 6\r\n\r\n"),
        "{answer}"
    );
    assert_eq!(end.requests, 2);
    options.http1.default_host_for_http_10 = "fallback".into();
    let handler = Fake::echo();
    converse(&options, &handler, &[b"GET / HTTP/1.0\r\n\r\n"]).await;
    assert_eq!(handler.seen.borrow()[0].authority, "fallback");
}

#[tokio::test(start_paused = true)]
async fn bodiless_answers_have_no_body_and_keep_the_length_they_speak_of() {
    let handler = Fake::new(|request| async move {
        let status = request.head.path[1..].parse().unwrap();
        let mut head = ResponseHead::new(status);
        head.headers.append(b"Content-Length", b"5");
        Reply::new(head, if status == 200 { Body::Empty } else { text("12345") })
    });
    for (line, expected) in [
        ("HEAD /200", "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"),
        ("GET /304", "HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n"),
        ("GET /204", "HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET /299", "HTTP/1.1 299 Unknown\r\ncontent-length: 5\r\n\r\n12345"),
        ("GET /200", "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"),
    ] {
        let request = format!("{line} HTTP/1.1\r\nhost: h\r\n\r\n");
        let (answer, end) = converse(&options(), &handler, &[request.as_bytes()]).await;
        assert_eq!((&*answer, end.reason), (expected, EndReason::IdleTimeout), "{line}");
    }
}

#[tokio::test(start_paused = true)]
async fn framing_headers_of_an_answer_are_the_codecs_own() {
    let handler = Fake::new(|_| async {
        let mut head = ResponseHead::new(200);
        for (name, value) in [
            ("Transfer-Encoding", "gzip"),
            ("content-length", "77"),
            ("X-A", "1"),
            ("content-length", "78"),
            ("Connection", "x-b"),
            ("keep-alive", "9"),
            ("upgrade", "h3"),
            ("x-evil", "1\r\nset-cookie: a"),
        ] {
            head.headers.append(name.as_bytes(), value.as_bytes());
        }
        Reply::new(head, text("body"))
    });
    let (answer, _) = converse(&options(), &handler, &[GET]).await;
    assert_eq!(answer, "HTTP/1.1 200 OK\r\nx-a: 1\r\ncontent-length: 4\r\n\r\nbody");
}

#[tokio::test(start_paused = true)]
async fn header_names_are_written_as_configured() {
    let handler = Fake::new(|_| async {
        let mut head = ResponseHead::new(200);
        head.headers.append(b"x-FoO-bar", b"v");
        Reply::new(head, Body::Empty)
    });
    let mut options = options();
    options.http1.preserve_case = true;
    let (answer, _) = converse(&options, &handler, &[GET]).await;
    assert!(answer.contains("\r\nx-FoO-bar: v\r\n"), "{answer}");
    options.http1.preserve_case = false;
    options.http1.proper_case = true;
    let (answer, _) = converse(&options, &handler, &[GET]).await;
    assert!(answer.contains("\r\nX-Foo-Bar: v\r\nContent-Length: 0\r\n"), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn continue_is_said_when_the_body_is_first_asked_for() {
    let Served { mut client, mut server, process: _p } = served(&options(), CodecType::Http1, Fake::echo());
    let talk = async {
        client.write_all(b"POST / HTTP/1.1\r\nhost: h\r\nexpect: 100-continue\r\ncontent-length: 2\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut line = [0; 25];
        client.read_exact(&mut line).await.unwrap();
        assert_eq!(&line, b"HTTP/1.1 100 Continue\r\n\r\n");
        client.write_all(b"ok").await.unwrap();
        let mut rest = String::new();
        client.read_to_string(&mut rest).await.unwrap();
        assert!(rest.ends_with("POST /|ok"), "{rest}");
        drop(client);
    };
    tokio::join!(talk, &mut server);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_comes_before_continue_closes_the_connection() {
    let handler = Fake::new(|_| async { Reply::new(ResponseHead::new(417), Body::Empty) });
    let head = b"POST / HTTP/1.1\r\nhost: h\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n";
    let (answer, end) = converse(&options(), &handler, &[head]).await;
    assert_eq!(answer, "HTTP/1.1 417 Expectation Failed\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
    assert_eq!(end.reason, EndReason::Local);
}

#[tokio::test(start_paused = true)]
async fn an_answer_before_the_end_of_the_request_closes_the_connection_after_it() {
    let handler = Fake::new(|_| async { Reply::new(ResponseHead::new(404), Body::Empty) });
    let start = Instant::now();
    let head = b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 999999\r\n\r\nsome";
    let (answer, end) = converse(&options(), &handler, &[head]).await;
    assert_eq!(answer, "HTTP/1.1 404 Not Found\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
    assert_eq!((end.reason, start.elapsed().as_secs()), (EndReason::Local, 0), "the client closed in answer");
}

#[tokio::test(start_paused = true)]
async fn a_body_left_unread_but_already_here_does_not_cost_the_connection() {
    let handler = Fake::new(|_| async { Reply::new(ResponseHead::new(404), Body::Empty) });
    let two = b"POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nGET / HTTP/1.1\r\nhost: h\r\n\r\n";
    let (answer, end) = converse(&options(), &handler, &[two]).await;
    assert_eq!((answer.matches("404").count(), end.requests, end.reason), (2, 2, EndReason::IdleTimeout));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_keeps_sending_after_the_last_answer_is_cut_off() {
    let handler = Fake::new(|_| async { Reply::new(ResponseHead::new(404), Body::Empty) });
    let Served { mut client, server, process: _p } = served(&options(), CodecType::Http1, handler);
    let talk = async {
        client.write_all(b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 99999999\r\n\r\n").await.unwrap();
        let mut sent = 0u64;
        while client.write_all(&[b'x'; 1000]).await.is_ok() {
            sent += 1000;
            sleep(Duration::from_millis(10)).await;
        }
        sent
    };
    let start = Instant::now();
    let (sent, end) = tokio::join!(talk, server);
    assert_eq!(end.reason, EndReason::Local);
    assert!(sent > 50_000 && start.elapsed() < Duration::from_secs(2), "{sent} {:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_cancels_its_request() {
    struct Told(Rc<RefCell<bool>>);
    impl Drop for Told {
        fn drop(&mut self) {
            *self.0.borrow_mut() = true;
        }
    }
    let dropped = Rc::new(RefCell::new(false));
    let flag = Rc::clone(&dropped);
    let handler = Fake::new(move |_| {
        let told = Told(Rc::clone(&flag));
        async move {
            let _told = told;
            pending().await
        }
    });
    let Served { mut client, server, process: _p } = served(&options(), CodecType::Http1, handler);
    let talk = async {
        client.write_all(GET).await.unwrap();
        sleep(Duration::from_secs(1)).await;
        drop(client);
    };
    let ((), end) = tokio::join!(talk, server);
    assert_eq!(end.reason, EndReason::RemoteActive);
    assert!(*dropped.borrow());
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_read_is_given_up_and_pins_little() {
    struct Endless(Rc<RefCell<u64>>);
    impl crate::codec::BodySource for Endless {
        fn poll_frame(&mut self, _: &mut std::task::Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
            *self.0.borrow_mut() += 10_000;
            Poll::Ready(Some(Ok(Frame::Data(Bytes::from(vec![0; 10_000])))))
        }
    }
    let produced = Rc::new(RefCell::new(0));
    let counter = Rc::clone(&produced);
    let handler = Fake::new(move |_| {
        let body = Body::Stream(Box::new(Endless(Rc::clone(&counter))));
        async move { ok(body) }
    });
    let Served { mut client, server, process: _p } = served(&options(), CodecType::Http1, handler);
    client.write_all(GET).await.unwrap();
    let start = Instant::now();
    let end = server.await;
    assert_eq!((end.reason, start.elapsed().as_secs()), (EndReason::WriteStalled, 300));
    assert!(*produced.borrow() < 64 * 1024 + 64 * 1024, "taken from the body: {}", produced.borrow());
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_fails_midway_does_not_look_complete() {
    struct Fails(bool);
    impl crate::codec::BodySource for Fails {
        fn poll_frame(&mut self, _: &mut std::task::Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
            let first = std::mem::take(&mut self.0);
            let data = || Ok(Frame::Data(Bytes::from_static(b"x")));
            Poll::Ready(Some(if first { data() } else { Err(BodyError::Closed) }))
        }
    }
    let handler = Fake::new(|_| async { ok(Body::Stream(Box::new(Fails(true)))) });
    let (answer, end) = converse(&options(), &handler, &[GET]).await;
    assert!(
        answer.ends_with("\r\n\r\n1\r\nx\r\n"),
        "head and what there is go out, the end does not: {answer}"
    );
    assert_eq!(end.reason, EndReason::Local);
    let short = Fake::new(|_| async {
        let mut head = ResponseHead::new(200);
        head.headers.append(b"content-length", b"9");
        Reply::new(head, trickle(&["only"]))
    });
    let (_, end) = converse(&options(), &short, &[GET]).await;
    assert_eq!((end.reason, end.requests), (EndReason::Local, 1), "a short body must cost the connection");
}

#[tokio::test(start_paused = true)]
async fn a_head_that_dribbles_is_timed_out_with_an_answer() {
    let mut options = options();
    options.request_headers_timeout = Some(Duration::from_secs(10));
    let handler = Fake::echo();
    let start = Instant::now();
    let (answer, end) = converse(&options, &handler, &[b"GET / HT"]).await;
    assert!(
        answer.starts_with("HTTP/1.1 408 Request Timeout\r\n") && answer.ends_with("request header timeout"),
        "{answer}"
    );
    assert_eq!((end.reason, start.elapsed().as_secs()), (EndReason::HeadersTimeout, 10));
    let (answer, end) = converse(&options, &handler, &[b"PRI * HT"]).await;
    assert_eq!((&*answer, end.reason), ("", EndReason::HeadersTimeout));
}

#[tokio::test(start_paused = true)]
async fn limits_on_requests_and_age_end_a_connection_politely() {
    let mut limited = options();
    limited.max_requests = Some(2);
    let thrice = [GET, GET, GET].concat();
    let (answer, end) = converse(&limited, &Fake::echo(), &[&thrice]).await;
    assert_eq!((answer.matches("200 OK").count(), answer.matches("connection: close").count()), (2, 1));
    assert_eq!(end.reason, EndReason::MaxRequests);
    let mut aged = options();
    aged.max_connection_duration = Some(Duration::from_secs(60));
    let start = Instant::now();
    let (_, end) = converse(&aged, &Fake::echo(), &[GET]).await;
    assert_eq!((end.reason, start.elapsed().as_secs()), (EndReason::MaxDuration, 60));
    let slow = Fake::new(|_| async {
        sleep(Duration::from_secs(90)).await;
        ok(Body::Empty)
    });
    let (answer, end) = converse(&aged, &slow, &[GET]).await;
    assert!(answer.contains("connection: close"), "{answer}");
    assert_eq!(end.reason, EndReason::MaxDuration);
}

#[tokio::test(start_paused = true)]
async fn draining_gives_idle_connections_a_moment_and_closes_busy_ones_after_their_answer() {
    for protocol in [CodecType::Http1, CodecType::Auto] {
        let start = Instant::now();
        let Served { client: _idle, server, process } = served(&options(), protocol, Fake::echo());
        let (end, ()) = tokio::join!(server, async { process.advance(Phase::Draining) });
        assert_eq!((end.reason, start.elapsed().as_secs()), (EndReason::Drained, 5), "{protocol:?}");
    }
    let Served { mut client, server, process } = served(&options(), CodecType::Http1, Fake::echo());
    let talk = async {
        process.advance(Phase::Draining);
        sleep(Duration::from_secs(4)).await;
        client.write_all(GET).await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        drop(client);
        answer
    };
    let (end, answer) = tokio::join!(server, talk);
    assert!(answer.contains("200 OK") && answer.contains("connection: close"), "{answer}");
    assert_eq!((end.reason, end.requests), (EndReason::Drained, 1), "a request on its way is not lost");

    let slow = Fake::new(|_| async {
        sleep(Duration::from_secs(5)).await;
        ok(Body::Empty)
    });
    let Served { mut client, server, process } = served(&options(), CodecType::Http1, Rc::clone(&slow));
    client.write_all(GET).await.unwrap();
    let talk = async {
        sleep(Duration::from_secs(1)).await;
        process.advance(Phase::Draining);
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        drop(client);
        answer
    };
    let (end, answer) = tokio::join!(server, talk);
    assert!(answer.contains("200 OK") && answer.contains("connection: close"), "{answer}");
    assert_eq!(end.reason, EndReason::Drained);

    let Served { mut client, server, process } = served(&options(), CodecType::Http1, slow);
    client.write_all(GET).await.unwrap();
    let (end, ()) = tokio::join!(server, async {
        sleep(Duration::from_secs(1)).await;
        process.advance(Phase::Stopped);
    });
    assert_eq!(end.reason, EndReason::Stopped);
}

#[tokio::test(start_paused = true)]
async fn trailers_pass_when_enabled_and_are_dropped_else() {
    let handler = Fake::new(|request| async move {
        let (body, trailers) = read(request.body).await.unwrap();
        let mut frames = VecDeque::from([Frame::Data(Bytes::from(body))]);
        frames.extend(trailers.map(Frame::Trailers));
        ok(Body::Stream(Box::new(Trickle(frames))))
    });
    let message = b"POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n1\r\na\r\n0\r\nX-Sum: 7\r\ncontent-length: 9\r\n\r\n";
    let (answer, _) = converse(&options(), &handler, &[message]).await;
    assert!(answer.ends_with("1\r\na\r\n0\r\n\r\n"), "{answer}");
    let mut enabled = options();
    enabled.http1.enable_trailers = true;
    let (answer, _) = converse(&enabled, &handler, &[message]).await;
    assert!(answer.ends_with("1\r\na\r\n0\r\nx-sum: 7\r\n\r\n"), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn a_request_body_can_be_its_own_answer() {
    let handler = Fake::new(|request| async move { ok(request.body) });
    let message = [
        b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 20000\r\nconnection: close\r\n\r\n".as_slice(),
        &[b'z'; 20000],
    ]
    .concat();
    let (answer, _) = converse(&options(), &handler, &[&message[..9000], &message[9000..]]).await;
    assert!(answer.contains("content-length: 20000\r\n") && answer.ends_with(&"z".repeat(20000)));
}

#[tokio::test(start_paused = true)]
async fn targets_and_hosts_are_taken_apart() {
    for (line, host, authority, path) in [
        ("GET http://Other:81/x?y", "h", "Other:81", "/x?y"),
        ("GET http://o?q", "h", "o", "/?q"),
        ("GET https://o", "h", "o", "/"),
        ("OPTIONS *", "h", "h", "*"),
        ("OPTIONS http://o", "h", "o", "*"),
        ("CONNECT up:443", "up:443", "up:443", ""),
        ("GET //a/../b", "[::1]:8080", "[::1]:8080", "//a/../b"),
    ] {
        let handler = Fake::new(|_| async { Reply { close: Some(EndReason::Local), ..ok(Body::Empty) } });
        let message = format!("{line} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        converse(&options(), &handler, &[message.as_bytes()]).await;
        let seen = handler.seen.borrow();
        let head =
            seen.first().unwrap_or_else(|| panic!("{line} was refused: {:?}", handler.refused.borrow()));
        assert_eq!((&*head.authority, &*head.path), (authority, path), "{line}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_upgrade_carries_raw_bytes_both_ways() {
    let options = options();
    let handler = Fake::new(|request| async move {
        assert!(request.upgrade);
        let mut head = ResponseHead::new(101);
        head.headers.append(b"upgrade", b"websocket");
        Reply::new(head, request.body)
    });
    let Served { mut client, server, process: _p } = served(&options, CodecType::Http1, handler);
    let talk = async {
        client
            .write_all(b"GET / HTTP/1.1\r\nhost: h\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\nearly")
            .await
            .unwrap();
        let expected =
            b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\nearly";
        let mut answer = vec![0; expected.len()];
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, expected);
        client.write_all(b"more").await.unwrap();
        client.shutdown().await.unwrap();
        let mut rest = String::new();
        client.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "more", "the client's end must not cut the other direction");
    };
    tokio::join!(talk, server);
}

#[tokio::test(start_paused = true)]
async fn an_upgrade_that_is_not_granted_leaves_an_ordinary_connection() {
    let twice = b"GET /1 HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nGET /2 HTTP/1.1\r\nhost: h\r\n\r\n";
    let handler = Fake::new(|_| async { Reply::new(ResponseHead::new(403), Body::Empty) });
    let (answer, end) = converse(&options(), &handler, &[twice]).await;
    assert_eq!((answer.matches("403").count(), end.requests, end.reason), (2, 2, EndReason::IdleTimeout));
    let handler = Fake::echo();
    let h2c = b"GET /1 HTTP/1.1\r\nhost: h\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: x\r\n\r\n";
    converse(&options(), &handler, &[h2c]).await;
    assert!(!handler.seen.borrow()[0].headers.contains(b"upgrade"), "h2c is not offered");
}

#[tokio::test(start_paused = true)]
async fn a_body_read_by_another_task_wakes_it() {
    let local = tokio::task::LocalSet::new();
    let handler = Fake::new(|request| async move {
        let reading = tokio::task::spawn_local(read(request.body));
        ok(Bytes::from(reading.await.unwrap().unwrap().0))
    });
    let pieces: [&[u8]; 4] =
        [b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 4\r\nconnection: close\r\n\r\n", b"a", b"bc", b"d"];
    let (answer, _) = local.run_until(converse(&options(), &handler, &pieces)).await;
    assert!(answer.ends_with("\r\n\r\nabcd"), "{answer}");
}

#[tokio::test]
async fn a_waiting_connection_is_a_small_future() {
    let (_client, server) = duplex(1024);
    let (_process, watch) = crate::task::shutdown();
    let options = Arc::new(options());
    let future = crate::codec::serve(server, CodecType::Auto, &options, limit(), Fake::echo(), watch);
    assert!(std::mem::size_of_val(&future) <= 448, "{} bytes", std::mem::size_of_val(&future));
}

// The client side.

type Pool = RefCell<Vec<ClientConn<DuplexStream>>>;

struct Kept(Pool);

impl Reuse<DuplexStream> for Kept {
    fn put(&self, conn: ClientConn<DuplexStream>) {
        self.0.borrow_mut().push(conn);
    }
}

fn upstream() -> (ClientConn<DuplexStream>, DuplexStream, Rc<Kept>) {
    let (near, far) = duplex(64 * 1024);
    (ClientConn::new(near, Arc::new(client_options())), far, Rc::new(Kept(RefCell::default())))
}

/// Reads what has come so far, at least a byte.
async fn heard(far: &mut DuplexStream) -> String {
    let mut bytes = vec![0; 4096];
    let n = far.read(&mut bytes).await.unwrap();
    String::from_utf8(bytes[..n].to_vec()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn head_and_body_leave_in_one_write_and_the_connection_comes_back() {
    let (conn, mut far, kept) = upstream();
    let mut head = request("POST", "/p");
    head.headers.append(b"Te", b"gzip");
    head.headers.append(b"connection", b"keep-alive");
    head.headers.append(b"X-A", b"b");
    let peer = async {
        assert_eq!(
            heard(&mut far).await,
            "POST /p HTTP/1.1\r\nhost: upstream.test\r\nx-a: b\r\ncontent-length: 4\r\n\r\nbody"
        );
        far.write_all(b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\nx-b: c\r\n\r\nok").await.unwrap();
    };
    let (answer, ()) = tokio::join!(conn.exchange(&head, text("body"), kept.clone()), peer);
    let (head, body) = answer.unwrap();
    assert_eq!((head.status, head.headers.get(b"X-B")), (201, Some(b"c".as_slice())));
    assert_eq!(kept.0.borrow().len(), 1, "free before the body is read: it is all here");
    assert_eq!(read(body).await.unwrap().0, b"ok");
    let mut conn = kept.0.borrow_mut().pop().unwrap();
    assert!(conn.is_alive());
    drop(far);
    assert!(!conn.is_alive());
}

#[tokio::test(start_paused = true)]
async fn responses_split_anywhere_read_the_same() {
    let response: &[u8] = b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nabcd\r\n3;x\r\nefg\r\n0\r\n\r\n";
    for at in 0..response.len() {
        let (conn, mut far, kept) = upstream();
        let head = request("GET", "/");
        let peer = async {
            heard(&mut far).await;
            far.write_all(&response[..at]).await.unwrap();
            tokio::task::yield_now().await;
            far.write_all(&response[at..]).await.unwrap();
        };
        let exchange = async {
            let (head, body) = conn.exchange(&head, Body::Empty, kept.clone()).await.unwrap();
            (head.status, read(body).await.unwrap().0)
        };
        let (got, ()) = tokio::join!(exchange, peer);
        assert_eq!(got, (200, b"abcdefg".to_vec()), "split at {at}");
        assert_eq!(kept.0.borrow().len(), 1, "split at {at}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_reused_only_when_nothing_is_in_doubt() {
    for (response, reused) in [
        ("HTTP/1.1 204 No Content\r\n\r\n", true),
        ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc", true),
        ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabcX", false),
        ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: close\r\n\r\nabc", false),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", true),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", false),
        ("HTTP/1.0 200 OK\r\ncontent-length: 3\r\n\r\nabc", false),
        ("HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 3\r\n\r\nabc", true),
    ] {
        let (conn, mut far, kept) = upstream();
        let head = request("GET", "/");
        let peer = async {
            heard(&mut far).await;
            far.write_all(response.as_bytes()).await.unwrap();
        };
        let (answer, ()) = tokio::join!(conn.exchange(&head, Body::Empty, kept.clone()), peer);
        read(answer.unwrap().1).await.unwrap();
        assert_eq!(kept.0.borrow().len() == 1, reused, "{response}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_early_answer_arrives_while_the_request_is_still_being_sent() {
    let (conn, mut far, kept) = upstream();
    let head = request("POST", "/");
    struct Fed(Rc<RefCell<tokio::sync::mpsc::Receiver<&'static str>>>);
    impl crate::codec::BodySource for Fed {
        fn poll_frame(&mut self, cx: &mut std::task::Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
            self.0
                .borrow_mut()
                .poll_recv(cx)
                .map(|p| p.map(|p| Ok(Frame::Data(Bytes::from_static(p.as_bytes())))))
        }
    }
    let (feed, fed) = tokio::sync::mpsc::channel::<&'static str>(1);
    let body = Body::Stream(Box::new(Fed(Rc::new(RefCell::new(fed)))));
    let peer = async {
        assert!(heard(&mut far).await.contains("transfer-encoding: chunked"));
        far.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n").await.unwrap();
        feed.send("late").await.unwrap();
        assert_eq!(heard(&mut far).await, "4\r\nlate\r\n");
        drop(feed);
        assert_eq!(heard(&mut far).await, "0\r\n\r\n");
        far.write_all(b"0\r\n\r\n").await.unwrap();
    };
    let exchange = async {
        let (head, body) = conn.exchange(&head, body, kept.clone()).await.unwrap();
        (head.status, read(body).await.unwrap().0)
    };
    let (got, ()) = tokio::join!(exchange, peer);
    assert_eq!(got, (200, b"a".to_vec()));
    assert_eq!(kept.0.borrow().len(), 1, "both directions ended cleanly");
}

#[tokio::test(start_paused = true)]
async fn an_answer_before_the_request_is_all_sent_costs_the_connection() {
    let (conn, mut far, kept) = upstream();
    let mut head = request("POST", "/");
    head.headers.append(b"content-length", b"1000");
    struct Never;
    impl crate::codec::BodySource for Never {
        fn poll_frame(&mut self, _: &mut std::task::Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
            Poll::Pending
        }
    }
    let peer = async {
        heard(&mut far).await;
        far.write_all(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    };
    let (answer, ()) = tokio::join!(conn.exchange(&head, Body::Stream(Box::new(Never)), kept.clone()), peer);
    assert_eq!(answer.unwrap().0.status, 413);
    assert!(kept.0.borrow().is_empty());
}

#[tokio::test(start_paused = true)]
async fn failures_say_whether_the_request_may_be_sent_again() {
    let head = request("POST", "/");
    let (conn, far, kept) = upstream();
    drop(far);
    let error = conn.exchange(&head, text("body"), kept.clone()).await.err().unwrap();
    assert_eq!((error.kind, error.response_started), (ExchangeErrorKind::Closed, false));
    assert_eq!(read(error.unsent_body.unwrap()).await.unwrap().0, b"body");

    let (conn, far, kept) = upstream();
    drop(far);
    let error = conn.exchange(&head, trickle(&["gone"]), kept.clone()).await.err().unwrap();
    assert!(error.unsent_body.is_none(), "a part of it was taken");

    for (sent, kind) in [
        ("HTTP/1.1 20", ExchangeErrorKind::Protocol("closed within a response's head")),
        ("SSH-2.0-x\r\n\r\n", ExchangeErrorKind::Protocol("http1.codec_error")),
        (
            "HTTP/1.1 101 Switching\r\nupgrade: x\r\n\r\n",
            ExchangeErrorKind::Protocol("101 to a request without upgrade"),
        ),
    ] {
        let (conn, mut far, kept) = upstream();
        let peer = async {
            heard(&mut far).await;
            far.write_all(sent.as_bytes()).await.unwrap();
            drop(far);
        };
        let (answer, ()) = tokio::join!(conn.exchange(&head, text("body"), kept), peer);
        let error = answer.err().unwrap();
        assert_eq!((error.kind, error.response_started), (kind, true), "{sent}");
    }
    let (conn, mut far, kept) = upstream();
    let peer = async {
        heard(&mut far).await;
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(101));
        far.write_all(many.as_bytes()).await.unwrap();
    };
    let (answer, ()) = tokio::join!(conn.exchange(&head, Body::Empty, kept), peer);
    assert_eq!(answer.err().unwrap().kind, ExchangeErrorKind::HeadersTooLarge);
}

#[tokio::test(start_paused = true)]
async fn a_response_cut_short_is_an_error_and_one_that_ends_by_closing_is_not() {
    for (sent, whole) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 30000\r\n\r\nabc", false),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n", false),
        ("HTTP/1.1 200 OK\r\n\r\nabc", true),
    ] {
        let (conn, mut far, kept) = upstream();
        let head = request("GET", "/");
        let peer = async {
            heard(&mut far).await;
            far.write_all(sent.as_bytes()).await.unwrap();
            drop(far);
        };
        let (answer, ()) = tokio::join!(conn.exchange(&head, Body::Empty, kept.clone()), peer);
        let body = read(answer.unwrap().1).await;
        assert_eq!(body.is_ok(), whole, "{sent}");
        assert!(kept.0.borrow().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_expects_continue_holds_its_body_back() {
    let mut head = request("POST", "/");
    head.headers.append(b"expect", b"100-continue");
    let (conn, mut far, kept) = upstream();
    let peer = async {
        assert!(heard(&mut far).await.ends_with("\r\n\r\n"));
        far.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
        assert_eq!(heard(&mut far).await, "body");
        far.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    };
    let (answer, ()) = tokio::join!(conn.exchange(&head, text("body"), kept.clone()), peer);
    assert_eq!((answer.unwrap().0.status, kept.0.borrow().len()), (200, 1));

    let (conn, mut far, kept) = upstream();
    let peer = async {
        heard(&mut far).await;
        far.write_all(b"HTTP/1.1 417 No\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    };
    let (answer, ()) = tokio::join!(conn.exchange(&head, text("body"), kept.clone()), peer);
    assert_eq!(
        (answer.unwrap().0.status, kept.0.borrow().len()),
        (417, 0),
        "the body was promised and not sent"
    );

    let (conn, mut far, kept) = upstream();
    let start = Instant::now();
    let peer = async {
        heard(&mut far).await;
        assert_eq!(heard(&mut far).await, "body", "silence for a second means go on");
        far.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    };
    let (answer, ()) = tokio::join!(conn.exchange(&head, text("body"), kept.clone()), peer);
    assert!(answer.is_ok() && start.elapsed() >= Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_tells_when_it_is_of_no_more_use() {
    let (mut conn, mut far, _) = upstream();
    let watch = poll_fn(|cx| conn.poll_dead(cx));
    let peer = async {
        sleep(Duration::from_secs(5)).await;
        far.write_all(b"HTTP/1.1 408 Request Timeout\r\n\r\n").await.unwrap();
    };
    let start = Instant::now();
    tokio::join!(watch, peer);
    assert_eq!(start.elapsed().as_secs(), 5);
}

#[tokio::test(start_paused = true)]
async fn upstream_upgrades_carry_raw_bytes_both_ways() {
    let (conn, mut far, kept) = upstream();
    let mut head = request("GET", "/ws");
    head.headers.append(b"connection", b"Upgrade");
    head.headers.append(b"upgrade", b"websocket");
    let peer = async {
        let asked = heard(&mut far).await;
        assert_eq!(
            asked,
            "GET /ws HTTP/1.1\r\nhost: upstream.test\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n"
        );
        far.write_all(
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nhi",
        )
        .await
        .unwrap();
        assert_eq!(heard(&mut far).await, "raw");
        let mut end = [0];
        assert_eq!(far.read(&mut end).await.unwrap(), 0, "the end of the upload is told");
        far.write_all(b"bye").await.unwrap();
        drop(far);
    };
    let exchange = async {
        let (head, body) = conn.exchange(&head, trickle(&["raw"]), kept.clone()).await.unwrap();
        assert_eq!(head.status, 101);
        read(body).await.unwrap().0
    };
    let (got, ()) = tokio::join!(exchange, peer);
    assert_eq!(got, b"hibye");
    assert!(kept.0.borrow().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_request_that_would_not_be_one_line_is_not_sent() {
    for (method, path) in [("GET", "/a b"), ("GET", "/\r\nx: y"), ("G ET", "/"), ("GET", "")] {
        let (conn, _far, kept) = upstream();
        let error = conn.exchange(&request(method, path), Body::Empty, kept).await.err().unwrap();
        assert!(matches!(error.kind, ExchangeErrorKind::RequestBody(_)), "{method} {path:?}");
    }
}
