//! Behaviour of HTTP/2 connections: both sides against each other, and against the bare `h2` crate.

use super::{Client, connect};
use crate::codec::testing::{Fake, Served, client_options, limit, ok, options, read, request, served, text};
use crate::codec::{
    Body, BodyError, BodySource, ConnectionEnd, EndReason, ExchangeErrorKind, Frame, Reply, ServerOptions,
};
use crate::task::{Phase, ShutdownTrigger};
use bytes::Bytes;
use data_plane_core::config::{CodecType, Underscores};
use data_plane_core::headers::{HeaderList, ResponseHead, Version};
use std::cell::Cell;
use std::collections::VecDeque;
use std::future::{Future, pending, poll_fn};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::time::{Instant, sleep};

struct Frames(VecDeque<Frame>, Rc<Cell<usize>>);

impl BodySource for Frames {
    fn poll_frame(&mut self, _: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        self.1.set(self.1.get() + 1);
        Poll::Ready(self.0.pop_front().map(Ok))
    }
}

fn frames(frames: impl IntoIterator<Item = Frame>) -> Body {
    Body::Stream(Box::new(Frames(frames.into_iter().collect(), Rc::default())))
}

fn data(bytes: impl Into<Bytes>) -> Frame {
    Frame::Data(bytes.into())
}

/// Runs `talk` with a client of a server; both end with it.
async fn with_client<T, F: Future<Output = T>>(
    options: &ServerOptions,
    handler: Rc<Fake>,
    talk: impl FnOnce(Client, Rc<ShutdownTrigger>) -> F,
) -> (T, Option<ConnectionEnd>) {
    let Served { client, mut server, process } = served(options, CodecType::Auto, handler);
    let (client, driver) = connect(client, Arc::new(client_options())).await.unwrap();
    let mut driver = Box::pin(driver);
    // Kept here: a trigger that is dropped stops everything.
    let process = Rc::new(process);
    let mut talk = Box::pin(talk(client, Rc::clone(&process)));
    let mut end = None;
    let mut driving = true;
    let got = poll_fn(|cx| {
        driving = driving && driver.as_mut().poll(cx).is_pending();
        if end.is_none()
            && let Poll::Ready(reason) = server.as_mut().poll(cx)
        {
            end = Some(reason);
        }
        talk.as_mut().poll(cx)
    })
    .await;
    (got, end)
}

#[tokio::test(start_paused = true)]
async fn requests_and_answers_cross_with_headers_bodies_and_trailers() {
    let handler = Fake::new(|request| async move {
        let (body, trailers) = read(request.body).await.unwrap();
        assert_eq!(trailers.unwrap().get(b"x-sum"), Some(b"9".as_slice()));
        let mut head = ResponseHead::new(201);
        head.headers.append(b"X-Answer", b"yes");
        head.headers.append(b"connection", b"close");
        let mut trailers = HeaderList::default();
        trailers.append(b"grpc-status", b"0");
        Reply::new(head, frames([data(body), Frame::Trailers(trailers)]))
    });
    let seen = Rc::clone(&handler);
    let talk = |client: Client, _process| async move {
        let mut head = request("POST", "/p?q");
        head.headers.append(b"X-Ask", b"this");
        head.headers.append(b"Te", b"trailers");
        head.headers.append(b"connection", b"keep-alive");
        let mut trailers = HeaderList::default();
        trailers.append(b"x-sum", b"9");
        let body = frames([data("some "), data("bytes"), Frame::Trailers(trailers)]);
        let (head, body) = client.exchange(&head, body).await.unwrap();
        assert_eq!((head.status, head.version), (201, Version::Http2));
        assert_eq!(head.headers.get(b"x-answer"), Some(b"yes".as_slice()));
        assert_eq!(client.active(), 1);
        let (body, trailers) = read(body).await.unwrap();
        assert_eq!(client.active(), 0);
        (body, trailers.unwrap().get(b"grpc-status").map(<[u8]>::to_vec))
    };
    let (got, _) = with_client(&options(), handler, talk).await;
    assert_eq!(got, (b"some bytes".to_vec(), Some(b"0".to_vec())));
    let seen = seen.seen.borrow();
    assert_eq!((&*seen[0].method, &*seen[0].path, &*seen[0].authority), ("POST", "/p?q", "upstream.test"));
    assert_eq!(seen[0].headers.get(b"te"), Some(b"trailers".as_slice()));
    assert!(!seen[0].headers.contains(b"connection") && !seen[0].headers.contains(b"host"));
}

#[tokio::test(start_paused = true)]
async fn streams_are_answered_as_they_are_ready() {
    let handler = Fake::new(|request| async move {
        let wait = request.head.path[1..].parse().unwrap();
        sleep(Duration::from_secs(wait)).await;
        ok(Body::Empty)
    });
    let start = Instant::now();
    let talk = |client: Client, _process| async move {
        let ask = |path: &'static str| {
            let client = client.clone();
            async move {
                client.exchange(&request("GET", path), Body::Empty).await.unwrap();
                start.elapsed().as_secs()
            }
        };
        tokio::join!(ask("/3"), ask("/1"), ask("/2"))
    };
    let (times, _) = with_client(&options(), handler, talk).await;
    assert_eq!(times, (3, 1, 2));
}

#[tokio::test(start_paused = true)]
async fn large_bodies_pass_both_ways_under_flow_control() {
    let mut narrow = options();
    narrow.http2.initial_stream_window = 65_535;
    narrow.http2.initial_connection_window = 65_535;
    let handler = Fake::new(|request| async move { ok(request.body) });
    let sent: Vec<u8> = (0..3_000_000u32).map(|i| (i % 251) as u8).collect();
    let whole = sent.clone();
    let talk = |client: Client, _process| async move {
        let pieces: Vec<_> = sent.chunks(40_000).map(|c| data(c.to_vec())).collect();
        let (_, body) = client.exchange(&request("POST", "/"), frames(pieces)).await.unwrap();
        read(body).await.unwrap().0
    };
    let (got, _) = with_client(&narrow, handler, talk).await;
    assert!(got == whole);
}

#[tokio::test(start_paused = true)]
async fn a_body_nobody_reads_is_not_taken_in() {
    let mut narrow = options();
    narrow.http2.initial_stream_window = 65_535;
    let handler = Fake::new(|request| async move {
        let _kept = request.body;
        sleep(Duration::from_secs(10)).await;
        ok(Body::Empty)
    });
    let taken = Rc::new(Cell::new(0));
    let counter = Rc::clone(&taken);
    let talk = |client: Client, _process| async move {
        let pieces = (0..10_000).map(|_| data(vec![0; 10_000])).collect();
        let body = Body::Stream(Box::new(Frames(pieces, counter)));
        client.exchange(&request("POST", "/"), body).await.unwrap().0.status
    };
    let (status, _) = with_client(&narrow, handler, talk).await;
    assert_eq!(status, 200);
    assert!(taken.get() < 60, "frames taken: {}", taken.get());
}

#[tokio::test(start_paused = true)]
async fn an_exchange_given_up_cancels_the_request() {
    struct Told(Rc<Cell<bool>>);
    impl Drop for Told {
        fn drop(&mut self) {
            self.0.set(true);
        }
    }
    let dropped = Rc::new(Cell::new(false));
    let flag = Rc::clone(&dropped);
    let handler = Fake::new(move |_| {
        let told = Told(Rc::clone(&flag));
        async move {
            let _told = told;
            pending().await
        }
    });
    let talk = |client: Client, _process| async move {
        let head = request("GET", "/");
        let exchange = client.exchange(&head, Body::Empty);
        assert!(tokio::time::timeout(Duration::from_secs(1), exchange).await.is_err());
        sleep(Duration::from_millis(1)).await;
        assert_eq!(client.active(), 0);
    };
    with_client(&options(), handler, talk).await;
    assert!(dropped.get());
}

#[tokio::test(start_paused = true)]
async fn an_answer_reset_or_failing_midway_resets_the_stream_only_after_what_went_before() {
    struct Fails(u8);
    impl BodySource for Fails {
        fn poll_frame(&mut self, _: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
            self.0 += 1;
            Poll::Ready(Some(if self.0 == 1 { Ok(data("part")) } else { Err(BodyError::Closed) }))
        }
    }
    let handler = Fake::new(|request| async move {
        match &*request.head.path {
            "/reset" => Reply { reset: true, ..ok(Body::Empty) },
            "/fail" => ok(Body::Stream(Box::new(Fails(0)))),
            "/short" => {
                let mut head = ResponseHead::new(200);
                head.headers.append(b"content-length", b"9");
                Reply::new(head, frames([data("only")]))
            }
            _ => ok(text("fine")),
        }
    });
    let talk = |client: Client, _process| async move {
        let error = client.exchange(&request("GET", "/reset"), Body::Empty).await.err().unwrap();
        assert_eq!(error.kind, ExchangeErrorKind::Reset(2));
        for (path, before) in [("/fail", "part"), ("/short", "only")] {
            let (_, mut body) = client.exchange(&request("GET", path), Body::Empty).await.unwrap();
            let Some(Ok(Frame::Data(got))) = body.frame().await else { panic!("{path}: no data") };
            assert_eq!(got, before, "{path}");
            assert!(matches!(body.frame().await, Some(Err(BodyError::Reset(2)))), "{path}");
        }
        let (_, body) = client.exchange(&request("GET", "/"), Body::Empty).await.unwrap();
        assert_eq!(read(body).await.unwrap().0, b"fine");
    };
    with_client(&options(), handler, talk).await;
}

#[tokio::test(start_paused = true)]
async fn heads_are_put_into_the_form_of_http_1() {
    let handler = Fake::echo();
    let fake = Rc::clone(&handler);
    let Served { client, mut server, process: _p } = served(&options(), CodecType::Http2, handler);
    let talk = async {
        let (mut requests, mut connection) = h2::client::handshake(client).await.unwrap();
        let ask = http::Request::get("https://a.test/x")
            .header("cookie", "a=1")
            .header("host", "other.test")
            .header("cookie", "b=2")
            .body(())
            .unwrap();
        let (response, _) = requests.send_request(ask, true).unwrap();
        let mut response = Box::pin(response);
        let answer = poll_fn(|cx| {
            let _ = std::pin::Pin::new(&mut connection).poll(cx);
            response.as_mut().poll(cx)
        })
        .await
        .unwrap();
        assert_eq!(
            (answer.status(), answer.headers()["content-length"].as_bytes()),
            (http::StatusCode::OK, b"7".as_slice())
        );
    };
    tokio::select! { () = talk => {}, _ = &mut server => panic!("the server ended") }
    let seen = fake.seen.borrow();
    assert_eq!(&*seen[0].authority, "a.test");
    assert_eq!(seen[0].headers.get(b"cookie"), Some(b"a=1; b=2".as_slice()));
    assert!(!seen[0].headers.contains(b"host"));
}

#[tokio::test(start_paused = true)]
async fn refused_heads_are_answered() {
    let mut strict = options();
    strict.underscores = Underscores::RejectRequest;
    strict.max_headers = 3;
    let handler = Fake::echo();
    let fake = Rc::clone(&handler);
    let talk = |client: Client, _process| async move {
        let mut head = request("GET", "/");
        for _ in 0..4 {
            head.headers.append(b"x", b"y");
        }
        let many = client.exchange(&head, Body::Empty).await.unwrap().0.status;
        let mut head = request("GET", "/");
        head.headers.append(b"a_b", b"y");
        (many, client.exchange(&head, Body::Empty).await.unwrap().0.status)
    };
    let (got, _) = with_client(&strict, handler, talk).await;
    assert_eq!(got, (431, 400));
    let details: Vec<_> = fake.refused.borrow().iter().map(|e| e.details).collect();
    assert_eq!(details, ["http2.too_many_headers", "http2.unexpected_underscore"]);
}

#[tokio::test(start_paused = true)]
async fn draining_lets_streams_end_and_refuses_new_ones() {
    let handler = Fake::new(|_| async {
        sleep(Duration::from_secs(5)).await;
        ok(text("late"))
    });
    let talk = |client: Client, process: Rc<ShutdownTrigger>| async move {
        let head = request("GET", "/");
        let slow = async {
            let (_, body) = client.exchange(&head, Body::Empty).await.unwrap();
            read(body).await.unwrap().0
        };
        let drain = async {
            sleep(Duration::from_secs(1)).await;
            process.advance(Phase::Draining);
            sleep(Duration::from_secs(1)).await;
            assert!(!client.is_usable(), "GOAWAY must show");
            let error = client.exchange(&head, text("x")).await.err().unwrap();
            assert_eq!(error.kind, ExchangeErrorKind::Refused);
            assert!(error.unsent_body.is_some());
        };
        let (body, ()) = tokio::join!(slow, drain);
        drop(client);
        sleep(Duration::from_secs(2)).await;
        body
    };
    let (body, end) = with_client(&options(), handler, talk).await;
    assert_eq!(body, b"late");
    assert_eq!(end.map(|e| (e.reason, e.requests)), Some((EndReason::Drained, 1)));
}

#[tokio::test(start_paused = true)]
async fn idleness_age_and_request_limits_end_a_connection_with_goaway() {
    let mut idle = options();
    idle.idle_timeout = Some(Duration::from_secs(60));
    let mut aged = options();
    aged.max_connection_duration = Some(Duration::from_secs(60));
    let mut counted = options();
    counted.max_requests = Some(1);
    for (options, reason) in
        [(idle, EndReason::IdleTimeout), (aged, EndReason::MaxDuration), (counted, EndReason::MaxRequests)]
    {
        let talk = |client: Client, _process| async move {
            assert!(client.exchange(&request("GET", "/"), Body::Empty).await.is_ok());
            sleep(Duration::from_secs(70)).await;
            assert!(!client.is_usable());
        };
        let ((), end) = with_client(&options, Fake::echo(), talk).await;
        assert_eq!(end.map(|e| e.reason), Some(reason));
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_peer_is_found_by_ping() {
    let mut pinging = options();
    pinging.http2.keepalive_interval = Some(Duration::from_secs(30));
    let Served { mut client, server, process: _p } = served(&pinging, CodecType::Auto, Fake::echo());
    client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let start = Instant::now();
    let end = server.await;
    assert_eq!(
        (end.reason, start.elapsed().as_secs()),
        (EndReason::KeepaliveTimeout, 51),
        "30 + 20, and a second to close"
    );
}

#[tokio::test(start_paused = true)]
async fn a_live_peer_answers_pings() {
    let mut pinging = options();
    pinging.http2.keepalive_interval = Some(Duration::from_secs(30));
    let talk = |client: Client, _process| async move {
        sleep(Duration::from_secs(600)).await;
        client.exchange(&request("GET", "/"), Body::Empty).await.unwrap().0.status
    };
    let (status, _) = with_client(&pinging, Fake::echo(), talk).await;
    assert_eq!(status, 200);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_gives_no_window_is_given_up() {
    let handler = Fake::new(|_| async { ok(Bytes::from(vec![0; 1 << 20])) });
    let Served { client, mut server, process: _p } = served(&options(), CodecType::Http2, handler);
    let start = Instant::now();
    let talk = async {
        let (mut requests, mut connection) = h2::client::handshake(client).await.unwrap();
        let (response, _) =
            requests.send_request(http::Request::get("http://a/").body(()).unwrap(), true).unwrap();
        let mut response = Box::pin(response);
        let mut body = None;
        poll_fn(|cx| {
            let _ = std::pin::Pin::new(&mut connection).poll(cx);
            if body.is_none()
                && let Poll::Ready(answer) = response.as_mut().poll(cx)
            {
                body = Some(answer.unwrap().into_body());
            }
            // Data is received and never released.
            match &mut body {
                Some(body) => match body.poll_data(cx) {
                    Poll::Ready(Some(Err(error))) => Poll::Ready(error.reason()),
                    Poll::Ready(_) => {
                        cx.waker().wake_by_ref();
                        Poll::Pending
                    }
                    Poll::Pending => Poll::Pending,
                },
                None => Poll::Pending,
            }
        })
        .await
    };
    let reason = tokio::select! { reason = talk => reason, end = &mut server => panic!("{end:?}") };
    assert_eq!((reason, start.elapsed().as_secs()), (Some(h2::Reason::CANCEL), 300));
}

#[tokio::test(start_paused = true)]
async fn answers_of_a_turn_leave_in_few_writes() {
    struct Counted(tokio::io::DuplexStream, Rc<Cell<usize>>);
    impl crate::transport::Socket for Counted {}
    impl tokio::io::AsyncRead for Counted {
        fn poll_read(
            mut self: std::pin::Pin<&mut Self>,
            cx: &mut Context<'_>,
            out: &mut tokio::io::ReadBuf<'_>,
        ) -> Poll<std::io::Result<()>> {
            std::pin::Pin::new(&mut self.0).poll_read(cx, out)
        }
    }
    impl tokio::io::AsyncWrite for Counted {
        fn poll_write(
            mut self: std::pin::Pin<&mut Self>,
            cx: &mut Context<'_>,
            b: &[u8],
        ) -> Poll<std::io::Result<usize>> {
            self.1.set(self.1.get() + 1);
            std::pin::Pin::new(&mut self.0).poll_write(cx, b)
        }
        fn poll_flush(mut self: std::pin::Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
            std::pin::Pin::new(&mut self.0).poll_flush(cx)
        }
        fn poll_shutdown(
            mut self: std::pin::Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<std::io::Result<()>> {
            std::pin::Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }
    let writes = Rc::new(Cell::new(0));
    let (near, far) = duplex(1 << 20);
    let (_process, watch) = crate::task::shutdown();
    let handler = Fake::new(|_| async { ok(Bytes::from(vec![0; 1000])) });
    let options = Arc::new(options());
    let mut server = Box::pin(crate::codec::serve(
        Counted(far, Rc::clone(&writes)),
        CodecType::Auto,
        &options,
        limit(),
        handler,
        watch,
    ));
    let talk = async {
        let (client, driver) = connect(near, Arc::new(client_options())).await.unwrap();
        let mut driver = Box::pin(driver);
        let mut asks: futures_util::stream::FuturesUnordered<_> = (0..32)
            .map(|_| {
                let client = client.clone();
                async move {
                    let (_, body) = client.exchange(&request("GET", "/"), Body::Empty).await.unwrap();
                    read(body).await.unwrap().0.len()
                }
            })
            .collect();
        let mut total = 0;
        poll_fn(|cx| {
            while let Poll::Ready(Some(n)) =
                futures_util::Stream::poll_next(std::pin::Pin::new(&mut asks), cx)
            {
                total += n;
            }
            let _ = driver.as_mut().poll(cx);
            if asks.is_empty() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        total
    };
    let total = tokio::select! { total = talk => total, _ = &mut server => panic!("the server ended") };
    assert_eq!(total, 32_000);
    assert!(writes.get() <= 6, "{} writes for 32 answers", writes.get());
}

#[tokio::test(start_paused = true)]
async fn the_preface_is_recognised_byte_by_byte() {
    let Served { mut client, mut server, process: _p } = served(&options(), CodecType::Auto, Fake::echo());
    let talk = async {
        for byte in b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0" {
            client.write_all(&[*byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        let mut head = [0; 9];
        client.read_exact(&mut head).await.unwrap();
        assert_eq!(head[3], 4, "SETTINGS come first");
    };
    tokio::select! { () = talk => {}, _ = &mut server => panic!("the server ended") }
}

#[tokio::test(start_paused = true)]
async fn garbage_ends_the_connection() {
    let Served { mut client, server, process: _p } = served(&options(), CodecType::Http2, Fake::echo());
    let talk = async {
        client.write_all(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n").await.unwrap();
        let mut rest = Vec::new();
        let _ = client.read_to_end(&mut rest).await;
        drop(client);
    };
    let ((), end) = tokio::join!(talk, server);
    assert!(matches!(end.reason, EndReason::Protocol(_)), "{end:?}");
}
