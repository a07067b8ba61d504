//! Long answers between sockets, which the kernel carries.

use super::client::{BULK, ClientConn, Reuse};
use crate::codec::testing::{Fake, client_options, limit, options};
use crate::codec::{Body, BodyError, BodySource, Frame, Reply, serve};
use crate::stats::Registry;
use crate::transport::{ByteCounters, Counted, Io, Pipe, Stream};
use data_plane_core::config::CodecType;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Not a multiple of anything.
const LONG: usize = (5 << 20) + 12_345;

/// Both ends of a connection.
async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (near, listener.accept().await.unwrap().0)
}

#[derive(Default)]
struct Kept {
    put: Cell<u32>,
    discarded: Cell<u32>,
}

impl Reuse<Stream> for Kept {
    fn put(&self, _: ClientConn<Stream>) {
        self.put.set(self.put.get() + 1);
    }

    fn discard(&self, _: ClientConn<Stream>) {
        self.discarded.set(self.discarded.get() + 1);
    }
}

/// What came of a body, and which way.
#[derive(Default)]
struct Seen {
    piped: usize,
    framed: usize,
    error: Option<BodyError>,
}

struct Watched(Body, Rc<RefCell<Seen>>);

impl BodySource for Watched {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        let polled = self.0.poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(Frame::Data(data)))) => self.1.borrow_mut().framed += data.len(),
            Poll::Ready(Some(Err(error))) => self.1.borrow_mut().error = Some(error.clone()),
            _ => {}
        }
        polled
    }

    fn poll_pipe(&mut self, cx: &mut Context<'_>, pipe: &mut Pipe) -> Option<Poll<Result<usize, BodyError>>> {
        let polled = self.0.poll_pipe(cx, pipe);
        match &polled {
            Some(Poll::Ready(Ok(bytes))) => self.1.borrow_mut().piped += bytes,
            Some(Poll::Ready(Err(error))) => self.1.borrow_mut().error = Some(error.clone()),
            _ => {}
        }
        polled
    }

    fn remaining(&self) -> Option<u64> {
        self.0.remaining()
    }
}

/// What the client received, and what was seen on the way.
struct Told {
    received: Vec<u8>,
    seen: Rc<RefCell<Seen>>,
    kept: Rc<Kept>,
    /// Of the upstream's connection.
    rx: u64,
}

/// One request to an upstream that answers with `answer` and then ends its connection.
async fn ask(answer: Vec<u8>) -> Told {
    let registry = Registry::new(0);
    let scope = registry.scope("t.", "t.", &[]);
    let counters = ByteCounters { rx: scope.counter(&["rx"]), tx: scope.counter(&["tx"]) };
    let (near, mut far) = sockets().await;
    let (mut client, server) = sockets().await;
    let conn =
        ClientConn::new(Counted::new(Io::Tcp(near), Some(counters.clone())), Arc::new(client_options()));
    let conn = Cell::new(Some(conn));
    let (seen, kept) = (Rc::<RefCell<Seen>>::default(), Rc::<Kept>::default());
    let handler = {
        let (seen, kept) = (Rc::clone(&seen), Rc::clone(&kept));
        Fake::new(move |asked| {
            let conn = conn.take().expect("one request");
            let (seen, kept) = (Rc::clone(&seen), Rc::clone(&kept));
            async move {
                let (head, body) = conn.exchange(&asked.head, Body::Empty, kept).await.unwrap();
                Reply::new(head, Body::Stream(Box::new(Watched(body, seen))))
            }
        })
    };
    let (_process, watch) = crate::task::shutdown();
    let options = Arc::new(options());
    let serving =
        serve(Counted::new(Io::Tcp(server), None), CodecType::Http1, &options, limit(), handler, watch);
    let answering = async {
        assert!(far.read(&mut [0; 4096]).await.unwrap() > 0);
        far.write_all(&answer).await.unwrap();
        far.shutdown().await.unwrap();
    };
    let asking = async {
        client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut received = Vec::new();
        client.read_to_end(&mut received).await.unwrap();
        drop(client);
        received
    };
    let (_, (), received) = tokio::join!(serving, answering, asking);
    Told { received, seen, kept, rx: counters.rx.value() }
}

fn body(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 31 / 7) as u8).collect()
}

fn answer(head: &str, body: &[u8]) -> Vec<u8> {
    [format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n").as_bytes(), body].concat()
}

fn body_of(received: &[u8]) -> &[u8] {
    let end = received.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
    &received[end + 4..]
}

#[tokio::test]
async fn a_long_answer_of_known_length_is_carried_by_the_kernel() {
    let sent = answer(&format!("content-length: {LONG}"), &body(LONG));
    let told = ask(sent.clone()).await;
    assert!(body_of(&told.received) == body(LONG), "{} bytes", told.received.len());
    let seen = told.seen.borrow();
    assert_eq!(seen.piped + seen.framed, LONG);
    assert!(seen.piped > LONG - 3 * BULK as usize, "{} in frames", seen.framed);
    assert_eq!(
        (told.kept.put.get(), told.rx),
        (1, sent.len() as u64),
        "the connection is free, its bytes counted"
    );
}

#[tokio::test]
async fn what_is_short_or_framed_comes_in_frames() {
    let chunk = [format!("{LONG:x}\r\n").as_bytes(), &body(LONG), b"\r\n0\r\n\r\n"].concat();
    for (sent, length) in [
        (answer("content-length: 20000", &body(20_000)), 20_000),
        (answer("transfer-encoding: chunked", &chunk), LONG),
        (answer("connection: close", &body(LONG)), LONG),
    ] {
        let told = ask(sent).await;
        let seen = told.seen.borrow();
        assert_eq!((seen.piped, seen.framed, &seen.error), (0, length, &None));
    }
}

#[tokio::test]
async fn an_upstream_that_ends_too_early_breaks_the_answer() {
    let told = ask(answer(&format!("content-length: {LONG}"), &body(LONG / 2))).await;
    let received = body_of(&told.received);
    assert!(received == body(LONG / 2), "what there was is passed on: {} bytes", received.len());
    assert_eq!(told.seen.borrow().error, Some(BodyError::Closed));
    assert_eq!((told.kept.put.get(), told.kept.discarded.get()), (0, 0), "the connection is of no use");
}
