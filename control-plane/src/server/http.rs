//! The HTTP server of our ports: HTTP/1.1 for REST and HTTP/2 for gRPC on the API's, HTTP/2 on the others.
//!
//! A connection has a place only while it is of use: one that asks for nothing in time, or has not for long, is closed, so that
//! silent clients cannot keep others out.

use super::tls::Conn;
use crate::ads::Leaving;
use axum::Router;
use axum::body::Body;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
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

/// Serves connections until stopped.
pub(super) async fn serve(
    mut accepted: mpsc::Receiver<Conn>,
    router: Router,
    port: Port,
    stop: CancellationToken,
) {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Some(KEEPALIVE))
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .max_concurrent_streams(port.streams)
        .max_send_buf_size(WAITING);
    let builder = Arc::new(if port.http1 { builder } else { builder.http2_only() });
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
        let (router, builder) = (router.clone(), Arc::clone(&builder));
        connections.spawn(async move {
            one(&builder, stream, router, port).await;
            drop(slot);
        });
        while connections.try_join_next().is_some() {}
    }
    connections.shutdown().await;
}

/// Serves one connection until it ends, or is of no use.
async fn one(builder: &auto::Builder<TokioExecutor>, stream: Conn, router: Router, port: Port) {
    let (use_of, leaving) = (Use::default(), CancellationToken::new());
    let counted = {
        let (use_of, peer, leaving) = (use_of.clone(), stream.peer.clone(), Leaving(leaving.clone()));
        tower::service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
            let (mut router, asked) = (router.clone(), use_of.begin());
            // Not as layers of the router, which would make it anew for each connection.
            request.extensions_mut().insert(peer.clone());
            request.extensions_mut().insert(leaving.clone());
            async move {
                let answer = tower::Service::call(&mut router, request.map(Body::new));
                let answer = match port.call {
                    None => answer.await?,
                    Some(deadline) => match tokio::time::timeout(deadline, answer).await {
                        Ok(answer) => answer?,
                        Err(_) => StatusCode::REQUEST_TIMEOUT.into_response(),
                    },
                };
                Ok::<_, std::convert::Infallible>(answer.map(|body| Counted { body, _asked: asked }))
            }
        })
    };
    let served = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(counted));
    let mut served = pin!(served);
    let of_age = async {
        match port.age {
            Some(age) => tokio::time::sleep(age.mul_f64(0.9 + 0.2 * fastrand::f64())).await,
            None => std::future::pending().await,
        }
    };
    let ended = tokio::select! {
        ended = served.as_mut() => Some(ended),
        () = use_of.ends() => None,
        () = of_age => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            // First the client is told to begin nothing new here, then what would not end by itself ends.
            served.as_mut().graceful_shutdown();
            leaving.cancel();
            match tokio::time::timeout(GRACE, served).await {
                Ok(ended) => ended,
                Err(_) => return debug!("connection closed"),
            }
        }
    };
    if let Err(error) = ended {
        debug!(error, "connection ended");
    }
}

/// What a connection is in use for.
#[derive(Clone)]
struct Use(Arc<watch::Sender<State>>);

#[derive(Clone, Copy, Default)]
struct State {
    /// Requests under way, their answers included.
    open: usize,
    /// There was a request.
    ever: bool,
}

impl Default for Use {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(State::default())))
    }
}

impl Use {
    fn begin(&self) -> Asked {
        self.0.send_modify(|state| *state = State { open: state.open + 1, ever: true });
        Asked(self.clone())
    }

    /// Waits until nothing was asked for too long.
    async fn ends(&self) {
        let mut states = self.0.subscribe();
        loop {
            let State { open, ever } = *states.borrow_and_update();
            let patience = if ever { IDLE } else { HEAD_TIMEOUT };
            tokio::select! {
                // Every change begins the wait anew. `self` holds the sender: there is no end of changes.
                _ = states.changed() => {}
                () = tokio::time::sleep(patience), if open == 0 => return,
            }
        }
    }
}

/// A request under way.
struct Asked(Use);

impl Drop for Asked {
    fn drop(&mut self) {
        self.0.0.send_modify(|state| state.open -= 1);
    }
}

/// The body of an answer, under way until it is sent or given up.
struct Counted {
    body: Body,
    _asked: Asked,
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
