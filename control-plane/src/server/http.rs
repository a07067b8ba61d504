//! The API's HTTP server: HTTP/1.1 for REST, HTTP/2 for gRPC, on one port.

use super::tls::Conn;
use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::debug;

/// Connections at a time; more wait to be accepted.
const MAX_CONNECTIONS: usize = 1024;
/// A request's head must arrive within this time.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// A quiet HTTP/2 connection is probed after this long.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Serves connections until stopped.
pub(super) async fn serve(mut accepted: mpsc::Receiver<Conn>, router: Router, stop: CancellationToken) {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(Some(KEEPALIVE));
    let builder = Arc::new(builder);
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
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
        let router = router.clone().layer(axum::Extension(stream.peer.clone()));
        let service = TowerToHyperService::new(router);
        let builder = Arc::clone(&builder);
        connections.spawn(async move {
            if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
                debug!(error, "API connection ended");
            }
            drop(slot);
        });
        while connections.try_join_next().is_some() {}
    }
    connections.shutdown().await;
}
