//! Worker threads: each a runtime of its own, with its sockets and its pools.

use crate::http::Worker;
use crate::listener::WorkerSide;
use crate::stats;
use crate::task::{Phase, Shutdown};
use crate::transport::Pipe;
use crate::turn;
use crate::upstream::{Clusters, Local};
use std::io;
use std::rc::Rc;
use std::sync::mpsc::sync_channel;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;
use tokio::runtime::{self, LocalRuntime};
use tokio::task::spawn_local;
use tokio::time::MissedTickBehavior;
use tokio_util::task::TaskTracker;

/// Events handled before timers and sockets are looked at again; tokio's default is 61.
const EVENT_INTERVAL: u32 = 61;

/// A runtime for one thread.
pub(super) fn runtime() -> io::Result<LocalRuntime> {
    runtime::Builder::new_current_thread()
        .enable_all()
        .event_interval(EVENT_INTERVAL)
        .on_thread_unpark(turn::begin)
        .build_local(runtime::LocalOptions::default())
}

/// What a worker is made of.
pub(super) struct Parts {
    pub(super) side: WorkerSide,
    pub(super) clusters: Clusters,
    pub(super) shutdown: Shutdown,
    /// See [`super::Options::give_back`].
    pub(super) give_back: fn(),
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
    let Parts { side, clusters, mut shutdown, give_back } = parts;
    let local = Rc::new(Local::new(clusters.clone()));
    let worker = Worker::new(side.index() + 1, Rc::clone(&local), clusters, shutdown.clone());
    let maintenance = spawn_local(async move { local.maintain().await });
    let connections = TaskTracker::new();
    let tide = spawn_local(watch_tide(connections.clone(), give_back));
    tokio::select! {
        // What is left of connections is dropped with the runtime.
        () = shutdown.reached(Phase::Stopped) => {}
        () = side.run(worker, connections) => shutdown.reached(Phase::Stopped).await,
    }
    maintenance.abort();
    tide.abort();
}

/// Time between two looks at how many connections there are.
const TIDE_INTERVAL: Duration = Duration::from_secs(1);

/// Gives memory back when most of many connections have gone, and closes pipes that nobody uses. Never ends.
async fn watch_tide(connections: TaskTracker, give_back: fn()) {
    let mut tide = Tide::default();
    let mut ticks = tokio::time::interval(TIDE_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        Pipe::close_unused();
        if tide.has_ebbed(connections.len()) {
            give_back();
        }
    }
}

/// How many connections there were at most since memory was last given back.
#[derive(Debug, Default)]
struct Tide {
    high: usize,
}

impl Tide {
    /// Fewer are not worth it: what they took serves the next ones.
    const MANY: usize = 256;

    /// Whether three of four have gone, with `now` there still.
    fn has_ebbed(&mut self, now: usize) -> bool {
        self.high = self.high.max(now);
        let ebbed = self.high >= Self::MANY && now <= self.high / 4;
        if ebbed {
            self.high = now;
        }
        ebbed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_given_back_when_most_of_many_connections_have_gone() {
        let mut tide = Tide::default();
        let seen = [0, 200, 0, 255, 0, 1_000, 600, 250, 260, 250, 100, 70, 62, 0, 300, 75];
        let ebbs: Vec<_> = seen.into_iter().filter(|now| tide.has_ebbed(*now)).collect();
        assert_eq!(ebbs, [250, 62, 75]);
    }
}
