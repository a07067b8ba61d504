//! Shared by the codecs' tests: options, a scripted handler, and conversations over pipes.

use super::{
    Body, BufferLimit, ClientOptions, ConnectionEnd, Frame, Handler, ProtocolError, Reply, Request,
    ServerOptions, serve,
};
use crate::task::{Shutdown, ShutdownTrigger, shutdown};
use bytes::Bytes;
use data_plane_core::config::{CodecType, Http1Options, Http2Options, Underscores};
use data_plane_core::headers::{HeaderList, RequestHead, ResponseHead, Scheme, Version};
use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

pub(super) fn http1() -> Http1Options {
    Http1Options { allow_absolute_url: true, ..Http1Options::default() }
}

pub(super) fn http2() -> Http2Options {
    Http2Options {
        max_concurrent_streams: 100,
        initial_stream_window: 1 << 20,
        initial_connection_window: 1 << 21,
        header_table_size: 4096,
        keepalive_interval: None,
        keepalive_timeout: Duration::from_secs(20),
        allow_connect: false,
        max_reset_streams: 1024,
    }
}

/// Envoy's defaults.
pub(super) fn options() -> ServerOptions {
    ServerOptions {
        max_head_bytes: 60 * 1024,
        max_headers: 100,
        underscores: Underscores::Allow,
        idle_timeout: Some(Duration::from_secs(3600)),
        request_headers_timeout: None,
        stream_idle_timeout: Some(Duration::from_secs(300)),
        max_connection_duration: None,
        max_requests: None,
        drain_timeout: Duration::from_secs(5),
        delayed_close: Some(Duration::from_secs(1)),
        proxy_100_continue: false,
        http1: http1(),
        http2: http2(),
    }
}

pub(super) fn client_options() -> ClientOptions {
    ClientOptions {
        max_head_bytes: 60 * 1024,
        max_head_list_bytes: 60 * 1024,
        max_headers: 100,
        buffer_limit: limit(),
        http1: http1(),
        http2: http2(),
    }
}

pub(super) fn limit() -> BufferLimit {
    BufferLimit::of_bytes(1 << 20)
}

pub(super) fn request(method: &str, path: &str) -> RequestHead {
    RequestHead {
        method: method.to_owned().into(),
        path: path.to_owned(),
        authority: "upstream.test".to_owned(),
        scheme: Scheme::Http,
        version: Version::Http11,
        headers: HeaderList::default(),
    }
}

pub(super) fn ok(body: impl Into<Body>) -> Reply {
    Reply::new(ResponseHead::new(200), body.into())
}

pub(super) fn text(body: &'static str) -> Body {
    Body::from(Bytes::from_static(body.as_bytes()))
}

/// Reads a body to its end: its bytes, and its trailers if any.
pub(super) async fn read(mut body: Body) -> Result<(Vec<u8>, Option<HeaderList>), super::BodyError> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        match frame? {
            Frame::Data(data) => {
                assert!(!data.is_empty(), "data frames are never empty");
                bytes.extend_from_slice(&data);
            }
            Frame::Trailers(list) => return Ok((bytes, Some(list))),
        }
    }
    Ok((bytes, None))
}

pub(super) type Answer = Pin<Box<dyn Future<Output = Reply>>>;

/// A handler that asks a closure, and remembers what it saw and what was refused.
pub(super) struct Fake {
    answer: Box<dyn Fn(Request) -> Answer>,
    pub(super) seen: RefCell<Vec<RequestHead>>,
    pub(super) refused: RefCell<Vec<ProtocolError>>,
}

impl Fake {
    pub(super) fn new<F: Future<Output = Reply> + 'static>(
        answer: impl Fn(Request) -> F + 'static,
    ) -> Rc<Self> {
        Rc::new(Self {
            answer: Box::new(move |request| Box::pin(answer(request))),
            seen: RefCell::default(),
            refused: RefCell::default(),
        })
    }

    /// Answers `METHOD PATH|` and the body it read.
    pub(super) fn echo() -> Rc<Self> {
        Self::new(|request| async move {
            let prefix = format!("{} {}|", request.head.method, request.head.path);
            match read(request.body).await {
                Ok((body, _)) => ok(Bytes::from([prefix.as_bytes(), &body].concat())),
                Err(_) => Reply::new(ResponseHead::new(400), Body::Empty),
            }
        })
    }
}

impl Handler for Fake {
    fn handle(self: Rc<Self>, request: Request) -> impl Future<Output = Reply> + 'static {
        self.seen.borrow_mut().push(request.head.clone());
        (self.answer)(request)
    }

    fn refuse(&self, error: &ProtocolError) -> Option<Reply> {
        self.refused.borrow_mut().push(*error);
        Some(Reply::new(ResponseHead::new(error.status()), text(error.body())))
    }
}

/// A connection being served, its client end, and the switch of the process.
pub(super) struct Served {
    pub(super) client: DuplexStream,
    pub(super) server: Pin<Box<dyn Future<Output = ConnectionEnd>>>,
    pub(super) process: ShutdownTrigger,
}

pub(super) fn served(options: &ServerOptions, protocol: CodecType, handler: Rc<Fake>) -> Served {
    let (client, server) = duplex(64 * 1024);
    let (process, watch): (ShutdownTrigger, Shutdown) = shutdown();
    let options = Arc::new(options.clone());
    let server = Box::pin(async move { serve(server, protocol, &options, limit(), handler, watch).await });
    Served { client, server, process }
}

/// Sends `pieces` one by one, and reads to the connection's end.
pub(super) async fn converse(
    options: &ServerOptions,
    handler: &Rc<Fake>,
    pieces: &[&[u8]],
) -> (String, ConnectionEnd) {
    let Served { mut client, server, process: _process } =
        served(options, CodecType::Auto, Rc::clone(handler));
    let talk = async {
        for piece in pieces {
            client.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        drop(client);
        String::from_utf8(answer).unwrap()
    };
    let (answer, end) = tokio::join!(talk, server);
    (answer, end)
}
