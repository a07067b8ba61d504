//! The API's HTTP server: HTTP/1.1 for REST, HTTP/2 for gRPC, on one port.

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// Connections at a time; more wait to be accepted.
const MAX_CONNECTIONS: usize = 1024;
/// A request's head must arrive within this time.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// A quiet HTTP/2 connection is probed after this long.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// Wait after a failed accept, which running out of files makes fail again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until stopped.
pub(super) async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(Some(KEEPALIVE));
    let builder = Arc::new(builder);
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = async {
                let slot = Arc::clone(&slots).acquire_owned().await;
                (slot, listener.accept().await)
            } => accepted,
            () = stop.cancelled() => break,
        };
        let (slot, stream) = match accepted {
            (slot, Ok((stream, _))) => (slot, stream),
            (_, Err(error)) => {
                warn!(%error, "API connection not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let service = TowerToHyperService::new(router.clone());
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
