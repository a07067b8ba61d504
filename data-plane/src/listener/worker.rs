//! One worker's side of all listeners.

use super::accept::Acceptor;
use super::runtime::{Runtime, Shared};
use super::sockets::Sockets;
use super::stats::ManagerStats;
use crate::http::Worker;
use crate::task::Phase;
use crate::transport::socket;
use arc_swap::ArcSwap;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::{oneshot, watch};
use tokio_util::task::TaskTracker;

/// An address that should be accepted on.
#[derive(Clone)]
pub(super) struct Bound {
    pub(super) id: u64,
    pub(super) sockets: Arc<Sockets>,
    pub(super) runtime: Arc<ArcSwap<Runtime>>,
}

/// All addresses that should be accepted on: state, so that no worker can miss a step.
pub(super) type Desired = Arc<Vec<Bound>>;

/// Workers that have begun.
pub(super) struct Started {
    pub(super) expected: usize,
    pub(super) count: AtomicUsize,
    pub(super) stats: ManagerStats,
}

/// One worker's side: send it to the worker's thread and run it there.
pub struct WorkerSide {
    pub(super) index: usize,
    pub(super) desired: watch::Receiver<Desired>,
    pub(super) shared: Arc<Shared>,
    pub(super) started: Arc<Started>,
}

impl std::fmt::Debug for WorkerSide {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkerSide").field("index", &self.index).finish_non_exhaustive()
    }
}

impl WorkerSide {
    /// Which worker, from 0.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Accepts and serves until `worker.shutdown` is stopped, or the manager is gone and no connection is left.
    /// Connections still open then end with the runtime. `tasks` holds them, and what accepts them.
    pub async fn run(mut self, worker: Rc<Worker>, tasks: TaskTracker) {
        let mut shutdown = worker.shutdown.clone();
        // Dropping a sender closes its address.
        let mut accepting: HashMap<u64, oneshot::Sender<()>> = HashMap::new();
        if self.started.count.fetch_add(1, Ordering::AcqRel) + 1 == self.started.expected {
            self.started.stats.workers_started.set(1);
        }
        loop {
            let desired = Arc::clone(&self.desired.borrow_and_update());
            accepting.retain(|id, _| desired.iter().any(|bound| bound.id == *id));
            for bound in desired.iter() {
                if accepting.contains_key(&bound.id) {
                    continue;
                }
                if let Some(close) = self.accept(bound, &worker, &tasks) {
                    accepting.insert(bound.id, close);
                }
            }
            // Both are cancel safe: they wait for a state.
            tokio::select! {
                () = shutdown.reached(Phase::Stopped) => return,
                changed = self.desired.changed() => if changed.is_err() { break },
            }
        }
        drop(accepting);
        tasks.close();
        tokio::select! {
            () = shutdown.reached(Phase::Stopped) => {}
            () = tasks.wait() => {}
        }
    }

    fn accept(&self, bound: &Bound, worker: &Rc<Worker>, tasks: &TaskTracker) -> Option<oneshot::Sender<()>> {
        let listener = match bound.sockets.take(self.index).map(socket::into_listener) {
            Some(Ok(listener)) => listener,
            failed => {
                let error = failed.and_then(Result::err);
                tracing::error!(address = %bound.sockets.address, ?error, "this worker cannot accept");
                self.started.stats.listener_create_failure.inc();
                return None;
            }
        };
        self.started.stats.listener_create_success.inc();
        let acceptor = Acceptor {
            worker: Rc::clone(worker),
            index: self.index,
            shared: Arc::clone(&self.shared),
            runtime: Arc::clone(&bound.runtime),
            tasks: tasks.clone(),
            address: bound.sockets.address,
            balance: Arc::clone(&bound.sockets.balance),
        };
        let (close, closed) = oneshot::channel::<()>();
        tasks.spawn_local(async move {
            // Errs when the sender is dropped, which is what closes.
            acceptor.run(listener, async { drop(closed.await) }).await;
        });
        Some(close)
    }
}
