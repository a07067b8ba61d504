//! The health thread: active checks of hosts, rulings of outlier detection, files of events.
//!
//! One thread of its own, started with the first cluster that needs it, so that neither requests nor a large
//! configuration hold checks up. A task a cluster ([`watch`]) keeps what is known of its hosts, writes what changed
//! into their flags and asks the manager to build the host set anew.

mod events;
mod grpc;
mod http;
mod probe;
mod tcp;
mod watch;

pub(super) use events::{EventLog, now_rfc3339};
pub(super) use watch::{Job, Told};

use parking_lot::Mutex;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::{JoinSet, LocalSet};

/// Checks under way at a time, over all clusters; further ones wait their turn.
const MAX_PROBES: usize = 512;

/// The health thread; started on first use, ended when dropped.
pub(super) struct Health {
    shared: Arc<Shared>,
    log: EventLog,
    state: Mutex<State>,
}

struct Shared {
    /// Clusters to take up; no more than there are slots.
    jobs: Mutex<Vec<Job>>,
    bell: Notify,
    closed: AtomicBool,
}

struct State {
    /// Taken by the thread.
    events: Option<mpsc::Receiver<events::Entry>>,
    thread: Option<JoinHandle<()>>,
}

impl Health {
    pub(super) fn new() -> Self {
        let (log, events) = EventLog::new();
        let shared = Shared { jobs: Mutex::default(), bell: Notify::new(), closed: AtomicBool::new(false) };
        Self {
            shared: Arc::new(shared),
            log,
            state: Mutex::new(State { events: Some(events), thread: None }),
        }
    }

    /// Files of events. Starts the thread, which writes them.
    pub(super) fn log(&self) -> EventLog {
        self.start();
        self.log.clone()
    }

    /// Watches a cluster until the job's `stop` is dropped.
    pub(super) fn watch(&self, job: Job) {
        self.start();
        self.shared.jobs.lock().push(job);
        self.shared.bell.notify_one();
    }

    fn start(&self) {
        let mut state = self.state.lock();
        let Some(events) = state.events.take() else { return };
        let shared = Arc::clone(&self.shared);
        let work = move || run(&shared, events);
        match std::thread::Builder::new().name("health".into()).spawn(work) {
            Ok(thread) => state.thread = Some(thread),
            Err(error) => tracing::error!(%error, "cannot start the health thread: hosts are not checked"),
        }
    }
}

impl Drop for Health {
    fn drop(&mut self) {
        self.shared.closed.store(true, Relaxed);
        self.shared.bell.notify_one();
        let Some(thread) = self.state.lock().thread.take() else { return };
        // Its own tasks may hold the last handle for a moment.
        if thread.thread().id() != std::thread::current().id() {
            // A panic was reported when it happened.
            let _ = thread.join();
        }
    }
}

fn run(shared: &Arc<Shared>, events: mpsc::Receiver<events::Entry>) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return tracing::error!(%error, "no runtime for the health thread"),
    };
    LocalSet::new().block_on(&runtime, async {
        let room = Rc::new(Semaphore::new(MAX_PROBES));
        let mut writer = events::Writer::new(events);
        let mut clusters = JoinSet::new();
        while !shared.closed.load(Relaxed) {
            // All cancel safe.
            tokio::select! {
                () = shared.bell.notified() => {}
                Some(ended) = clusters.join_next() => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "the health of a cluster is no longer watched");
                    }
                }
                () = writer.write_next() => {}
            }
            for job in std::mem::take(&mut *shared.jobs.lock()) {
                clusters.spawn_local(watch::run(job, Rc::clone(&room)));
            }
        }
        writer.flush();
    });
}

#[cfg(test)]
mod tests;
