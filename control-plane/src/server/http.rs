//! The HTTP server of our ports: HTTP/1.1 for REST and HTTP/2 for gRPC on the API's, HTTP/2 on the others.
//!
//! A connection and its requests are one task: what comes in one read is answered in one write, and no other thread is woken.
//! A connection has a place only while it is of use: one that asks for nothing in time, or has not for long, is closed, so that
//! silent clients cannot keep others out.

use super::tls::Conn;
use crate::ads::{Leaving, Peer};
use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, Stream, StreamExt};
use http::{Request, Response, StatusCode};
use http_body::{Frame, SizeHint};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use parking_lot::Mutex;
use std::convert::Infallible;
use std::error::Error;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::debug;

/// A request's head must arrive within this time; over HTTP/2, the first of a connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection on which nothing was asked for this long is closed.
const IDLE: Duration = Duration::from_secs(300);
/// What is under way when a connection is closed may end within this time.
const GRACE: Duration = Duration::from_secs(5);
/// A quiet HTTP/2 connection is probed after this long.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// An answer to a probe must arrive within this time.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes that an HTTP/2 stream may have waiting to be written. A client that takes its time holds this much, not all that
/// it is owed; more is asked for as it leaves.
const WAITING: usize = 64 << 10;

/// What a port serves.
#[derive(Clone, Copy, Debug)]
pub(super) struct Port {
    /// Connections at a time; more wait to be accepted.
    pub connections: u32,
    /// Requests under way on one HTTP/2 connection.
    pub streams: u32,
    /// HTTP/1.1 too.
    pub http1: bool,
    /// A request must be received, and its answer begin, within this time. `None`: answers may begin when requests end.
    pub call: Option<Duration>,
    /// A connection is asked to end at this age, 10 % more or less at random. `None`: never.
    pub age: Option<Duration>,
}

/// Answers the requests of one connection.
pub(super) trait Answers: Clone + Send + 'static {
    /// The body of an answer.
    type Body: http_body::Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>>
        + Send
        + Unpin
        + 'static;

    /// An answer; it is awaited on the task of the connection.
    fn answer(self, request: Request<Body>) -> impl Future<Output = Response<Self::Body>> + Send + 'static;

    /// What is answered when a request took too long.
    fn timed_out() -> Response<Self::Body>;
}

/// The calls of a router.
#[derive(Clone)]
pub(super) struct Routed {
    router: Router,
    peer: Peer,
    leaving: Leaving,
}

impl Routed {
    /// Of a connection from `peer`, which is asked to end when `leaving` is cancelled.
    pub(super) fn new(router: &Router, peer: &Peer, leaving: &CancellationToken) -> Self {
        Self { router: router.clone(), peer: peer.clone(), leaving: Leaving(leaving.clone()) }
    }
}

impl Answers for Routed {
    type Body = Body;

    fn answer(mut self, mut request: Request<Body>) -> impl Future<Output = Response<Body>> + Send + 'static {
        // Not as layers of the router, which would make it anew for each connection.
        request.extensions_mut().insert(self.peer);
        request.extensions_mut().insert(self.leaving);
        let answer = tower::Service::call(&mut self.router, request);
        async move {
            match answer.await {
                Ok(answer) => answer,
                Err(never) => match never {},
            }
        }
    }

    fn timed_out() -> Response<Body> {
        let mut answer = Response::new(Body::empty());
        *answer.status_mut() = StatusCode::REQUEST_TIMEOUT;
        answer
    }
}

/// Serves connections until stopped. `answers` makes what answers those of one.
pub(super) async fn serve<A: Answers>(
    mut accepted: mpsc::Receiver<Conn>,
    answers: impl Fn(&Peer, &CancellationToken) -> A,
    port: Port,
    stop: CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(usize::try_from(port.connections).unwrap_or(usize::MAX)));
    let mut connections = JoinSet::new();
    loop {
        let next = tokio::select! {
            next = async {
                let slot = Arc::clone(&slots).acquire_owned().await;
                (slot, accepted.recv().await)
            } => next,
            () = stop.cancelled() => break,
        };
        let (slot, Some(stream)) = next else { break };
        let leaving = CancellationToken::new();
        let answers = answers(&stream.peer, &leaving);
        connections.spawn(async move {
            one(stream, answers, port, leaving).await;
            drop(slot);
        });
        while connections.try_join_next().is_some() {}
    }
    connections.shutdown().await;
}

/// Serves one connection until it ends, or is of no use.
async fn one<A: Answers>(stream: Conn, answers: A, port: Port, leaving: CancellationToken) {
    let streams = Streams::default();
    let mut builder = auto::Builder::new(streams.clone());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Some(KEEPALIVE))
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .max_concurrent_streams(port.streams)
        .max_send_buf_size(WAITING);
    let builder = if port.http1 { builder } else { builder.http2_only() };
    let use_of = Use::default();
    let counted = {
        let use_of = use_of.clone();
        tower::service_fn(move |request: Request<hyper::body::Incoming>| {
            let (answer, asked) = (answers.clone().answer(request.map(Body::new)), use_of.begin());
            async move {
                let answer = match port.call {
                    None => answer.await,
                    Some(deadline) => {
                        tokio::time::timeout(deadline, answer).await.unwrap_or_else(|_| A::timed_out())
                    }
                };
                Ok::<_, Infallible>(answer.map(|body| Counted { body, _asked: asked }))
            }
        })
    };
    let mut served =
        Box::pin(builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(counted)));
    let mut open = FuturesUnordered::new();
    let mut serving = |cx: &mut Context<'_>, served: Pin<&mut _>| streams.drive(served, &mut open, cx);
    let of_age = async {
        match port.age {
            Some(age) => tokio::time::sleep(age.mul_f64(0.9 + 0.2 * fastrand::f64())).await,
            None => std::future::pending().await,
        }
    };
    let ended = tokio::select! {
        ended = poll_fn(|cx| serving(cx, served.as_mut())) => Some(ended),
        () = use_of.ends() => None,
        () = of_age => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            // First the client is told to begin nothing new here, then what would not end by itself ends.
            served.as_mut().graceful_shutdown();
            leaving.cancel();
            let rest = poll_fn(|cx| serving(cx, served.as_mut()));
            match tokio::time::timeout(GRACE, rest).await {
                Ok(ended) => ended,
                Err(_) => {
                    debug!("connection closed");
                    Ok(())
                }
            }
        }
    };
    if let Err(error) = ended {
        debug!(error, "connection ended");
    }
    // What still waits learns that the connection is gone, and does what it does then.
    drop(served);
    streams.rest(open).await;
}

/// Streams of an HTTP/2 connection that its task has not polled yet.
#[derive(Clone, Default)]
struct Streams(Arc<Mutex<Vec<BoxFuture<'static, ()>>>>);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Streams {
    fn execute(&self, stream: F) {
        self.0.lock().push(Box::pin(stream));
    }
}

impl Streams {
    /// Polls a connection and its streams until none of them has anything more to do now. `open` are those that wait.
    fn drive<C: Future>(
        &self,
        mut connection: Pin<&mut C>,
        open: &mut FuturesUnordered<BoxFuture<'static, ()>>,
        cx: &mut Context<'_>,
    ) -> Poll<C::Output> {
        loop {
            if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                return Poll::Ready(ended);
            }
            let mut moved = false;
            let fresh = std::mem::take(&mut *self.0.lock());
            for mut stream in fresh {
                moved = true;
                // Most are answered at once.
                if stream.as_mut().poll(cx).is_pending() {
                    open.push(stream);
                }
            }
            while let Poll::Ready(Some(())) = Pin::new(&mut *open).poll_next(cx) {
                moved = true;
            }
            if !moved {
                return Poll::Pending;
            }
        }
    }

    /// Lets those of a connection that is gone end.
    async fn rest(&self, mut open: FuturesUnordered<BoxFuture<'static, ()>>) {
        open.extend(std::mem::take(&mut *self.0.lock()));
        let ended = async { while open.next().await.is_some() {} };
        if tokio::time::timeout(GRACE, ended).await.is_err() {
            debug!("requests of a connection that is gone were given up");
        }
    }
}

/// What a connection is in use for.
#[derive(Clone)]
struct Use(Arc<State>);

struct State {
    since: Instant,
    /// Requests under way, their answers included.
    open: AtomicUsize,
    /// When the last of them ended, in milliseconds after `since`; 0: there was none.
    ended_ms: AtomicU64,
}

impl Default for Use {
    fn default() -> Self {
        let since = Instant::now();
        Self(Arc::new(State { since, open: AtomicUsize::new(0), ended_ms: AtomicU64::new(0) }))
    }
}

impl Use {
    fn begin(&self) -> Asked {
        self.0.open.fetch_add(1, Relaxed);
        Asked(self.clone())
    }

    /// Waits until nothing was asked for too long.
    async fn ends(&self) {
        let State { since, open, ended_ms } = &*self.0;
        loop {
            let patience = match (open.load(Relaxed), ended_ms.load(Relaxed)) {
                (0, 0) => *since + HEAD_TIMEOUT,
                (0, ended) => *since + Duration::from_millis(ended) + IDLE,
                // Looked at again when they may have ended long ago at the earliest.
                _ => Instant::now() + IDLE,
            };
            if patience <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(patience).await;
        }
    }
}

/// A request under way.
struct Asked(Use);

impl Drop for Asked {
    fn drop(&mut self) {
        let State { since, open, ended_ms } = &*self.0.0;
        let ended = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
        ended_ms.store(ended.max(1), Relaxed);
        open.fetch_sub(1, Relaxed);
    }
}

/// The body of an answer, under way until it is sent or given up.
struct Counted<B> {
    body: B,
    _asked: Asked,
}

impl<B: http_body::Body + Unpin> http_body::Body for Counted<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
