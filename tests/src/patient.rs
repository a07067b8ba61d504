//! An upstream whose health a test decides, from one moment to the next: HTTP/1.1, HTTP/2 and gRPC health.
//!
//! Paths that begin with `/hz`, and `grpc.health.v1.Health/Check`, are checks; all others are work.

use anyhow::Result;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use parking_lot::Mutex;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// How it answers.
#[derive(Clone, Debug)]
pub struct Mood {
    /// Status of checks.
    pub check: u16,
    /// Headers of answers to checks.
    pub check_headers: Vec<(&'static str, &'static str)>,
    /// Body of answers to checks.
    pub check_body: &'static str,
    /// `HealthCheckResponse.status`: 1 is SERVING.
    pub serving: u8,
    /// Checks are never answered.
    pub silent: bool,
    /// Status of work.
    pub work: u16,
    /// Headers of answers to work.
    pub work_headers: Vec<(&'static str, &'static str)>,
    /// How long work takes.
    pub delay: Duration,
}

impl Default for Mood {
    fn default() -> Self {
        Self {
            check: 200,
            check_headers: Vec::new(),
            check_body: "ok",
            serving: 1,
            silent: false,
            work: 200,
            work_headers: Vec::new(),
            delay: Duration::ZERO,
        }
    }
}

/// What it has seen.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Checks.
    pub checks: u64,
    /// Work.
    pub work: u64,
    /// Head of the last check: `name: value` lines, sorted, the request line first.
    pub last_check: Vec<String>,
}

#[derive(Debug, Default)]
struct State {
    mood: Mood,
    seen: Seen,
}

/// A running upstream; stops, and closes its connections, when dropped.
#[derive(Debug)]
pub struct Patient {
    /// Where it listens.
    pub addr: SocketAddr,
    state: Arc<Mutex<State>>,
    accept: JoinSet<()>,
}

impl Patient {
    /// Starts one on a port of its own.
    ///
    /// # Errors
    /// No port is free.
    pub async fn start(mood: Mood) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let addr = listener.local_addr()?;
        let state = Arc::new(Mutex::new(State { mood, seen: Seen::default() }));
        let mut accept = JoinSet::new();
        accept.spawn(serve(listener, Arc::clone(&state)));
        Ok(Self { addr, state, accept })
    }

    /// Answers otherwise from now on.
    pub fn set(&self, change: impl FnOnce(&mut Mood)) {
        change(&mut self.state.lock().mood);
    }

    /// What it has seen since the last call.
    pub fn take(&self) -> Seen {
        std::mem::take(&mut self.state.lock().seen)
    }

    /// Stops listening and closes every connection.
    pub async fn down(&mut self) {
        self.accept.shutdown().await;
    }

    /// Listens again where it did.
    ///
    /// # Errors
    /// The port was taken meanwhile.
    pub async fn up(&mut self) -> Result<()> {
        let listener = TcpListener::bind(self.addr).await?;
        self.accept.spawn(serve(listener, Arc::clone(&self.state)));
        Ok(())
    }
}

async fn serve(listener: TcpListener, state: Arc<Mutex<State>>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let _ = stream.set_nodelay(true);
        let state = Arc::clone(&state);
        connections.spawn(async move {
            let service = service_fn(move |request| answer(Arc::clone(&state), request));
            // A connection that breaks is the proxy's doing, and shows elsewhere.
            let _ = auto::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
        while connections.try_join_next().is_some() {}
    }
}

type Answer = Response<BoxBody<Bytes, Infallible>>;

async fn answer(state: Arc<Mutex<State>>, request: Request<Incoming>) -> Result<Answer, Infallible> {
    let (head, body) = request.into_parts();
    let grpc = head.uri.path() == "/grpc.health.v1.Health/Check";
    let is_check = grpc || head.uri.path().starts_with("/hz");
    let received = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
    let mood = {
        let mut state = state.lock();
        if is_check {
            state.seen.checks += 1;
            let host = head.uri.authority().map(|a| format!("host: {a}"));
            let mut lines: Vec<String> = head
                .headers
                .iter()
                .map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())))
                .chain(host)
                .collect();
            lines.sort();
            lines.insert(
                0,
                format!("{} {} {}", head.method, head.uri.path(), String::from_utf8_lossy(&received)),
            );
            state.seen.last_check = lines;
        } else {
            state.seen.work += 1;
        }
        state.mood.clone()
    };
    if is_check && mood.silent {
        std::future::pending::<()>().await;
    }
    let (status, headers, text) = match is_check {
        true => (mood.check, &mood.check_headers, mood.check_body),
        false => {
            tokio::time::sleep(mood.delay).await;
            (mood.work, &mood.work_headers, "work")
        }
    };
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    if grpc {
        let message = Bytes::copy_from_slice(&[0, 0, 0, 0, 2, 8, mood.serving]);
        let status = (HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"));
        let trailers = HeaderMap::from_iter([status]);
        let body = Full::new(message).with_trailers(async move { Some(Ok(trailers)) });
        return Ok(response
            .header("content-type", "application/grpc")
            .body(body.boxed())
            .unwrap_or_default());
    }
    Ok(response.body(Full::new(Bytes::from_static(text.as_bytes())).boxed()).unwrap_or_default())
}
