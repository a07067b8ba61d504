//! What one side does not read is not taken from the other, beyond the limit of a connection.

use super::testing::{Fake, client_options, options, request};
use super::{Body, BufferLimit, ClientOptions, Reply, h1, h2, serve};
use data_plane_core::config::CodecType;
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

/// What a pipe of these tests holds itself, bytes.
const PIPE: usize = 1024;
const LONG: usize = 64 << 20;

struct Dropped;

impl h1::Reuse<DuplexStream> for Dropped {
    fn put(&self, _: h1::ClientConn<DuplexStream>) {}
}

/// Writes for as long as anyone reads.
async fn pour(mut into: DuplexStream, poured: Rc<Cell<usize>>) {
    let piece = [b'x'; PIPE];
    while into.write_all(&piece).await.is_ok() {
        poured.set(poured.get() + piece.len());
    }
}

/// Bytes that are taken from an upstream that has a long answer, by a proxy whose client reads nothing of it.
async fn taken_of_an_answer(protocol: CodecType, limit: u64) -> usize {
    let limit = BufferLimit::of_bytes(limit);
    let poured = Rc::new(Cell::new(0));
    let (near, mut far) = duplex(PIPE);
    let (client, server) = duplex(PIPE);
    let (_process, watch) = crate::task::shutdown();
    let conn = ClientOptions { buffer_limit: limit, ..client_options() };
    let conn = Rc::new(Cell::new(Some(h1::ClientConn::new(near, Arc::new(conn)))));
    let handler = Fake::new(move |asked| {
        let conn = conn.take().expect("one request");
        async move {
            let (head, body) = conn.exchange(&asked.head, Body::Empty, Rc::new(Dropped)).await.unwrap();
            Reply::new(head, body)
        }
    });
    let options = Arc::new(options());
    let serving = serve(server, protocol, &options, limit, handler, watch);
    let pouring = async {
        let mut asked = [0; 4096];
        assert!(far.read(&mut asked).await.unwrap() > 0);
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {LONG}\r\n\r\n");
        far.write_all(head.as_bytes()).await.unwrap();
        pour(far, Rc::clone(&poured)).await;
    };
    let asking = async {
        if protocol == CodecType::Http2 {
            let (client, driver) = h2::connect(client, Arc::new(client_options())).await.unwrap();
            let asked = async {
                let answer = client.exchange(&request("GET", "/"), Body::Empty).await.unwrap();
                // Longer than anything takes that is not held up; the window is 1 MiB.
                tokio::time::sleep(Duration::from_secs(60)).await;
                drop(answer);
            };
            tokio::select! {
                () = driver => {}
                () = asked => {}
            }
        } else {
            let mut client = client;
            client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
            tokio::time::sleep(Duration::from_secs(60)).await;
            drop(client);
        }
    };
    tokio::select! {
        _ = serving => {}
        () = pouring => {}
        () = asking => {}
    }
    poured.get()
}

/// Bytes that are taken from a client with a long request, by a proxy whose upstream reads nothing of it.
async fn taken_of_a_request(limit: u64) -> usize {
    let limit = BufferLimit::of_bytes(limit);
    let poured = Rc::new(Cell::new(0));
    let (near, _far) = duplex(PIPE);
    let (mut client, server) = duplex(PIPE);
    let (_process, watch) = crate::task::shutdown();
    let conn = ClientOptions { buffer_limit: limit, ..client_options() };
    let conn = Rc::new(Cell::new(Some(h1::ClientConn::new(near, Arc::new(conn)))));
    let handler = Fake::new(move |asked| {
        let conn = conn.take().expect("one request");
        async move {
            let (head, body) = conn.exchange(&asked.head, asked.body, Rc::new(Dropped)).await.unwrap();
            Reply::new(head, body)
        }
    });
    let options = Arc::new(options());
    let serving = serve(server, CodecType::Http1, &options, limit, handler, watch);
    let pouring = async {
        let head = format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {LONG}\r\n\r\n");
        client.write_all(head.as_bytes()).await.unwrap();
        pour(client, Rc::clone(&poured)).await;
    };
    tokio::select! {
        _ = serving => {}
        () = pouring => {}
        () = tokio::time::sleep(Duration::from_secs(60)) => {}
    }
    poured.get()
}

/// Pipes, a read and a frame, which are taken whole.
const SLACK: usize = 2 * PIPE + 2 * super::buffer::SMALL;

#[tokio::test(start_paused = true)]
async fn no_more_of_an_answer_is_taken_than_the_limit_while_the_client_does_not_read() {
    for limit in [16 << 10, 64 << 10, 1 << 20] {
        let taken = taken_of_an_answer(CodecType::Http1, limit).await;
        assert!(taken <= limit as usize + SLACK, "{taken} of {limit}");
        assert!(taken >= 16 << 10, "{taken} of {limit}");
    }
}

#[tokio::test(start_paused = true)]
async fn no_more_of_a_request_is_taken_than_the_limit_while_the_upstream_does_not_read() {
    for limit in [16 << 10, 64 << 10, 1 << 20] {
        let taken = taken_of_a_request(limit).await;
        assert!(taken <= limit as usize + SLACK, "{taken} of {limit}");
        assert!(taken >= 16 << 10, "{taken} of {limit}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_and_its_connection_hold_a_limit_each_beyond_what_the_window_lets_go() {
    /// [`testing::http2`](super::testing::http2).
    const WINDOW: usize = 1 << 20;
    for limit in [16 << 10, 64 << 10] {
        let taken = taken_of_an_answer(CodecType::Http2, limit).await;
        assert!(taken <= WINDOW + 2 * limit as usize + SLACK, "{taken} of {limit}");
    }
}
