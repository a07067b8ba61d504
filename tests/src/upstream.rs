//! An upstream that says who it is and does what the request asks.
//!
//! | path | answer |
//! |---|---|
//! | `/status/503` | that status |
//! | `/bytes/1000` | that many bytes |
//! | `/delay/250/...` | the rest of the path, after 250 ms |
//! | any, with content-type application/grpc | one gRPC message: the instance; status OK |
//! | anything else | JSON: instance, method, path, headers, body length |

use anyhow::Result;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::{Map, Value, json};
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// A running upstream; stops, and closes its connections, when dropped.
#[derive(Debug)]
pub struct Upstream {
    /// Where it listens.
    pub addr: SocketAddr,
    requests: Arc<AtomicU64>,
    _accept: JoinSet<()>,
}

impl Upstream {
    /// Starts one on a port of its own.
    ///
    /// # Errors
    /// No port is free.
    pub async fn start(instance: &str) -> Result<Self> {
        Self::bind(instance, (Ipv4Addr::LOCALHOST, 0).into()).await
    }

    /// Starts one on `addr`.
    ///
    /// # Errors
    /// The address is taken.
    pub async fn bind(instance: &str, addr: SocketAddr) -> Result<Self> {
        Self::answering(instance, addr, StatusCode::OK).await
    }

    /// Starts one on `addr` that answers this status where the request asks for no other.
    ///
    /// # Errors
    /// The address is taken.
    pub async fn answering(instance: &str, addr: SocketAddr, status: StatusCode) -> Result<Self> {
        let listener = TcpListener::bind(addr).await?;
        let addr = listener.local_addr()?;
        let requests = Arc::new(AtomicU64::new(0));
        let mut accept = JoinSet::new();
        accept.spawn(serve(listener, instance.into(), status, Arc::clone(&requests)));
        Ok(Self { addr, requests, _accept: accept })
    }

    /// Requests answered so far.
    pub fn requests(&self) -> u64 {
        self.requests.load(Relaxed)
    }
}

async fn serve(listener: TcpListener, instance: Arc<str>, status: StatusCode, requests: Arc<AtomicU64>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let _ = stream.set_nodelay(true);
        let (instance, requests) = (Arc::clone(&instance), Arc::clone(&requests));
        connections.spawn(async move {
            let service = service_fn(move |request| {
                requests.fetch_add(1, Relaxed);
                answer(Arc::clone(&instance), status, request)
            });
            let _ = auto::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn answer(
    instance: Arc<str>,
    status: StatusCode,
    request: Request<Incoming>,
) -> Result<Response<BoxBody<Bytes, Infallible>>, Infallible> {
    let (head, body) = request.into_parts();
    let mut path = head.uri.path();
    if let Some((delay, rest)) = path.strip_prefix("/delay/").and_then(|p| p.split_once('/')) {
        tokio::time::sleep(Duration::from_millis(delay.parse().unwrap_or(0))).await;
        path = &path[path.len() - rest.len() - 1..];
    }
    let received = body.collect().await.map(|b| b.to_bytes().len()).unwrap_or(0);
    let mut answer = Response::builder().status(status).header("x-instance", &*instance);
    if head.headers.get("content-type").is_some_and(|t| t.as_bytes().starts_with(b"application/grpc")) {
        let mut message = vec![0; 5];
        message[4] = instance.len() as u8;
        message.extend_from_slice(instance.as_bytes());
        let trailers =
            HeaderMap::from_iter([("grpc-status".parse(), "0")].map(|(name, value)| {
                (name.unwrap_or(http::header::TRAILER), HeaderValue::from_static(value))
            }));
        let body = Full::new(Bytes::from(message)).with_trailers(async move { Some(Ok(trailers)) });
        return Ok(answer.header("content-type", "application/grpc").body(body.boxed()).unwrap_or_default());
    }
    let body = if let Some(status) = path.strip_prefix("/status/") {
        answer = answer.status(status.parse().unwrap_or(StatusCode::BAD_REQUEST));
        Bytes::new()
    } else if let Some(size) = path.strip_prefix("/bytes/") {
        Bytes::from(vec![b'x'; size.parse().unwrap_or(0)])
    } else {
        let mut headers = Map::new();
        for (name, value) in &head.headers {
            headers.insert(name.to_string(), Value::from(String::from_utf8_lossy(value.as_bytes())));
        }
        answer = answer.header("content-type", "application/json");
        let told = json!({
            "instance": &*instance, "method": head.method.as_str(), "path": head.uri.path_and_query().map(|p| p.as_str()),
            "authority": head.uri.authority().map(|a| a.as_str()), "version": format!("{:?}", head.version),
            "headers": headers, "received": received,
        });
        Bytes::from(format!("{told}\n"))
    };
    Ok(answer.body(Full::new(body).boxed()).unwrap_or_default())
}
