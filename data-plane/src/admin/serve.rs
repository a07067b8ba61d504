//! The admin server: HTTP/1.1 on the control thread, few connections, short patience.

use super::access_log::Logs;
use super::commands;
use super::page::{Page, Pieces};
use super::proxy::Proxy;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, SERVER};
use http::{HeaderName, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

/// Connections at a time; further ones are closed at once.
const MAX_CONNECTIONS: usize = 100;
/// A request's head must arrive within.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// A request's body must arrive within. Bodies are read and dropped.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest request body, bytes.
const MAX_BODY: usize = 64 * 1024;
/// Largest request head, bytes.
const MAX_HEAD: usize = 64 * 1024;
/// After this a connection ends with the answer under way.
const CONNECTION_LIFE: Duration = Duration::from_secs(600);
/// After that it ends whatever it is doing.
const LAST_ANSWER: Duration = Duration::from_secs(60);
/// Wait after a failed accept, such as for want of descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Answers on `listener`; never ends. Connections end with the future.
pub async fn serve(listener: TcpListener, proxy: Rc<dyn Proxy>, logs: Logs) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            // Both cancel safe.
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((stream, peer)) => {
                let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
                    warn!(%peer, "too many admin connections, closed");
                    continue;
                };
                let (proxy, logs) = (Rc::clone(&proxy), logs.clone());
                connections.spawn_local(async move {
                    let _slot = slot;
                    connection(stream, peer, proxy, logs).await;
                });
            }
            Err(error) => {
                warn!(%error, "admin accept failed");
                sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, peer: SocketAddr, proxy: Rc<dyn Proxy>, logs: Logs) {
    let local = stream.local_addr().unwrap_or(peer);
    let service = service_fn(move |request: Request<Incoming>| {
        let (proxy, logs) = (Rc::clone(&proxy), logs.clone());
        async move {
            let (head, body) = request.into_parts();
            let mut entry = logs.begin(&head, peer, local);
            let mut response = respond(&*proxy, &head, body).await;
            if let Some(entry) = &mut entry {
                entry.answered(response.status().as_u16());
            }
            response.body_mut().entry = entry;
            Ok::<_, Infallible>(response)
        }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    let mut serving = pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = sleep(CONNECTION_LIFE) => {
            serving.as_mut().graceful_shutdown();
            timeout(LAST_ANSWER, serving).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        debug!(%error, "admin connection ended");
    }
}

async fn respond(proxy: &dyn Proxy, head: &http::request::Parts, body: Incoming) -> Response<Pieces> {
    let read = timeout(BODY_TIMEOUT, Limited::new(body, MAX_BODY).collect()).await;
    let page = match read {
        Ok(Ok(_)) => {
            commands::answer(proxy, &head.method, head.uri.path(), head.uri.query().unwrap_or_default())
        }
        _ => Page::error(StatusCode::PAYLOAD_TOO_LARGE, "request body is too large or too slow\n"),
    };
    let mut response = Response::new(page.body);
    *response.status_mut() = page.status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(page.content.mime()));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, max-age=0"));
    headers.insert(HeaderName::from_static("x-content-type-options"), HeaderValue::from_static("nosniff"));
    headers.insert(SERVER, HeaderValue::from_static("envoy"));
    response
}
