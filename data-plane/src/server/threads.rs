//! Worker threads: each a runtime of its own, with its sockets and its pools.

use crate::http::Worker;
use crate::listener::WorkerSide;
use crate::stats;
use crate::task::{Phase, Shutdown};
use crate::upstream::{Clusters, Local};
use std::io;
use std::rc::Rc;
use std::sync::mpsc::sync_channel;
use std::thread::{Builder, JoinHandle};
use tokio::runtime::{self, LocalRuntime};
use tokio::task::spawn_local;

/// Events handled before timers and sockets are looked at again; tokio's default is 61.
const EVENT_INTERVAL: u32 = 61;

/// A runtime for one thread.
pub(super) fn runtime() -> io::Result<LocalRuntime> {
    runtime::Builder::new_current_thread()
        .enable_all()
        .event_interval(EVENT_INTERVAL)
        .build_local(runtime::LocalOptions::default())
}

/// What a worker is made of.
pub(super) struct Parts {
    pub(super) side: WorkerSide,
    pub(super) clusters: Clusters,
    pub(super) shutdown: Shutdown,
}

/// Starts a worker; it ends once the proxy is stopped.
pub(super) fn spawn(parts: Parts) -> io::Result<JoinHandle<()>> {
    let (made, answer) = sync_channel(1);
    // Envoy's thread names.
    let thread = Builder::new().name(format!("wrk:worker_{}", parts.side.index())).spawn(move || {
        stats::set_worker(parts.side.index() + 1);
        // The runtime stays in its thread. Whoever spawns waits for the answer.
        match runtime() {
            Ok(runtime) => {
                let _ = made.send(Ok(()));
                runtime.block_on(work(parts));
            }
            Err(error) => {
                let _ = made.send(Err(error));
            }
        }
    })?;
    answer.recv().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))?;
    Ok(thread)
}

async fn work(parts: Parts) {
    let Parts { side, clusters, mut shutdown } = parts;
    let local = Rc::new(Local::new(clusters.clone()));
    let worker = Worker::new(side.index() + 1, Rc::clone(&local), clusters, shutdown.clone());
    let maintenance = spawn_local(async move { local.maintain().await });
    tokio::select! {
        // What is left of connections is dropped with the runtime.
        () = shutdown.reached(Phase::Stopped) => {}
        () = side.run(worker) => shutdown.reached(Phase::Stopped).await,
    }
    maintenance.abort();
}
