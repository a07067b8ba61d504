//! The thread that all exporters share, and what is told of them.

use super::knobs::Knobs;
use super::pipeline::Pipeline;
use super::queue::Queue;
use super::send::{Protocol, Target};
use super::stats::Stats;
use super::{Encode, Item};
use crate::runtime::Runtime;
use crate::stats::Registry;
use crate::task::{Phase, Shutdown};
use crate::upstream::{Clusters, Local};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::SystemTime;
use tokio::runtime::LocalOptions;
use tokio::sync::mpsc;
use tokio::task::{JoinSet, spawn_local};

/// Exporters that are opened before the thread has taken them.
const OPENING: usize = 1024;

/// All exporters of a proxy; clones share them. The thread starts with the first.
#[derive(Clone)]
pub struct Exporters(Arc<Inner>);

struct Inner {
    stats: Registry,
    runtime: Runtime,
    clusters: Clusters,
    shutdown: Shutdown,
    workers: usize,
    /// Only what is configured is looked at.
    is_idle: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    thread: Option<(mpsc::Sender<Start>, JoinHandle<()>)>,
    exporters: BTreeMap<String, Weak<Status>>,
}

/// Starts an exporter, on the export thread.
type Start = Box<dyn FnOnce(&Rc<Local>, &mut JoinSet<()>) + Send>;

/// What is known of an exporter.
pub(super) struct Status {
    pub(super) name: String,
    pub(super) knobs: Knobs,
    pub(super) stats: Stats,
    target: Target,
    last: Mutex<Last>,
}

#[derive(Default)]
struct Last {
    error: Option<(SystemTime, String)>,
    success: Option<SystemTime>,
}

/// How an exporter does (`/telemetry`).
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Its name, as in `telemetry.<name>.` stats.
    pub name: String,
    /// The cluster it sends to.
    pub cluster: String,
    /// `grpc` or `http`.
    pub protocol: &'static str,
    /// `closed`, `half_open` or `open`.
    pub breaker: &'static str,
    /// Items that wait.
    pub depth: u64,
    /// Bytes held, and how many may be.
    pub memory: (u64, u64),
    /// Items taken, sent and lost.
    pub items: (u64, u64, u64),
    /// Batches taken by the collector, and failed tries.
    pub batches: (u64, u64),
    /// Bytes of dead letters.
    pub dead_letter_bytes: u64,
    /// The last batch that was taken.
    pub last_success: Option<SystemTime>,
    /// The last failure.
    pub last_error: Option<(SystemTime, String)>,
}

impl Status {
    /// How a request went.
    pub(super) fn result(&self, error: Option<&str>) {
        let mut last = self.last.lock();
        match error {
            Some(error) => last.error = Some((SystemTime::now(), error.into())),
            None => last.success = Some(SystemTime::now()),
        }
    }

    fn report(&self) -> Report {
        let stats = &self.stats;
        let last = self.last.lock();
        let lost = [
            &stats.dropped_overflow,
            &stats.dropped_memory,
            &stats.dropped_expired,
            &stats.dropped_rejected,
            &stats.dropped_at_end,
        ];
        Report {
            name: self.name.clone(),
            cluster: self.target.cluster.to_string(),
            protocol: if self.target.protocol == Protocol::Grpc { "grpc" } else { "http" },
            breaker: ["closed", "half_open", "open"][stats.breaker_state.value().min(2) as usize],
            depth: stats.queue_depth.value(),
            memory: (stats.queue_bytes.value(), self.knobs.memory_bytes as u64),
            items: (
                stats.items_accepted.value(),
                stats.items_sent.value(),
                lost.iter().map(|counter| counter.value()).sum(),
            ),
            batches: (stats.batches_sent.value(), stats.batches_failed.value()),
            dead_letter_bytes: stats.dead_letter_bytes.value(),
            last_success: last.success,
            last_error: last.error.clone(),
        }
    }
}

impl Exporters {
    /// None yet, for `workers` workers. They end with `shutdown`.
    pub fn new(
        stats: &Registry,
        runtime: &Runtime,
        clusters: Clusters,
        shutdown: Shutdown,
        workers: usize,
    ) -> Self {
        let (stats, runtime, state) = (stats.clone(), runtime.clone(), Mutex::default());
        Self(Arc::new(Inner { stats, runtime, clusters, shutdown, workers, is_idle: false, state }))
    }

    /// Exporters that take everything and send nothing, to check a configuration with.
    pub fn idle(stats: &Registry, runtime: &Runtime) -> Self {
        let (_, shutdown) = crate::task::shutdown();
        let (stats, runtime, clusters) = (stats.clone(), runtime.clone(), Clusters::default());
        let state = Mutex::default();
        Self(Arc::new(Inner { stats, runtime, clusters, shutdown, workers: 0, is_idle: true, state }))
    }

    /// Opens an exporter. `kind` names it, with its cluster and a number where there are several; `tune` changes what
    /// runtime says of its knobs.
    ///
    /// # Errors
    /// The thread cannot be started, or has ended.
    pub fn open<T: Item>(
        &self,
        kind: &str,
        target: Target,
        encoder: impl Encode<T>,
        tune: impl FnOnce(&mut Knobs),
    ) -> io::Result<Queue<T>> {
        let inner = &*self.0;
        let mut state = inner.state.lock();
        state.exporters.retain(|_, status| status.strong_count() > 0);
        let base = format!("{kind}.{}", target.cluster.replace(['/', '.'], "_"));
        let taken = |name: &String| state.exporters.contains_key(name);
        let names = std::iter::once(base.clone()).chain((2..).map(|n| format!("{base}_{n}")));
        let name = names.into_iter().find(|name| !taken(name)).unwrap_or(base);
        let mut knobs = Knobs::read(&inner.runtime);
        tune(&mut knobs);
        let scope =
            inner.stats.scope(&format!("telemetry.{name}."), "telemetry.", &[("portolan_exporter", &name)]);
        let status = Arc::new(Status {
            name: name.clone(),
            knobs,
            stats: Stats::new(&scope),
            target: target.clone(),
            last: Mutex::default(),
        });
        let queue = Queue::new(inner.workers, Arc::clone(&status));
        if inner.is_idle {
            return Ok(queue);
        }
        let (shared, clusters) = (Arc::clone(queue.shared()), inner.clusters.clone());
        let shutdown = inner.shutdown.clone();
        let start: Start = Box::new(move |pools, tasks| {
            let pools = Rc::clone(pools);
            let encoder = Box::new(encoder);
            tasks.spawn_local(Pipeline { shared, target, encoder, clusters, pools, shutdown }.run());
        });
        if state.thread.is_none() {
            let (sender, starts) = mpsc::channel(OPENING);
            let (clusters, shutdown) = (inner.clusters.clone(), inner.shutdown.clone());
            let thread = std::thread::Builder::new()
                .name("export".into())
                .spawn(move || run(starts, clusters, shutdown))?;
            state.thread = Some((sender, thread));
        }
        let (sender, _) = state.thread.as_ref().expect("INVARIANT: made above");
        sender.try_send(start).map_err(|_| io::Error::other("the export thread does not take exporters"))?;
        state.exporters.insert(name, Arc::downgrade(&status));
        Ok(queue)
    }

    /// How all of them do.
    pub fn reports(&self) -> Vec<Report> {
        let state = self.0.state.lock();
        state.exporters.values().filter_map(Weak::upgrade).map(|status| status.report()).collect()
    }

    /// Waits until what is left is sent or given up, a few seconds at most; `shutdown` has been stopped. Blocks: not
    /// for workers.
    pub fn join(&self) {
        let thread = self.0.state.lock().thread.take();
        if let Some((sender, thread)) = thread {
            drop(sender);
            // A thread that panicked has nothing more to send.
            _ = thread.join();
        }
    }
}

fn run(mut starts: mpsc::Receiver<Start>, clusters: Clusters, mut shutdown: Shutdown) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return tracing::error!(%error, "nothing is exported: there is no runtime to be had"),
    };
    runtime.block_on(async move {
        let pools = Rc::new(Local::new(clusters));
        let kept = Rc::clone(&pools);
        let maintenance = spawn_local(async move { kept.maintain().await });
        let mut tasks = JoinSet::new();
        loop {
            // All are cancel safe.
            tokio::select! {
                () = shutdown.reached(Phase::Stopped) => break,
                start = starts.recv() => match start {
                    Some(start) => start(&pools, &mut tasks),
                    None => break,
                },
                Some(ended) = tasks.join_next(), if !tasks.is_empty() => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "an exporter has failed");
                    }
                }
            }
        }
        while tasks.join_next().await.is_some() {}
        maintenance.abort();
    });
}
