//! Events of all sources -> debounce -> reduce -> translate -> check -> publish.
//!
//! One task owns the world. It publishes to [`Cache`], which the xDS streams read, and shows the API a
//! [`View`]. The first publication waits until every source has synced or, when kept state stands in for those
//! that have not, for [`Options::restore_grace`]. Nothing is published whose content did not change.

mod debounce;
mod loss;
mod stages;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use metrics::{
    Counter, Gauge, Histogram, counter, describe_counter, describe_gauge, describe_histogram, gauge,
    histogram,
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};
use xds_types::portolan::config::v1::Resource;

use self::debounce::Debounce;
pub use self::loss::Hold;
use self::loss::{Accept, Losses};
use self::stages::Stages;
use crate::model::{Change, Event, InstanceId, ObjectKey, ServiceName, SourceId, World, apply, guard};
use crate::snapshot::Cache;
use crate::source::Receiver;
use crate::translate::{self, Admission, Compiler, Objects, Trust};

pub use self::stages::StageView;

/// How the pipeline behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// Sources that must sync before the first publication, the one that wins first.
    pub sources: Vec<SourceId>,
    /// A build starts when no event came for this long. Default 10 ms.
    pub quiet: Duration,
    /// A build starts at the latest this long after the first event that waits. Default 100 ms. Grows with the
    /// time that builds take, so that a busy control plane spends at most half of its time on them.
    pub longest: Duration,
    /// How long kept state of a source waits for the source itself before it is published. Default 5 s.
    pub restore_grace: Duration,
    /// Opens secrets and issues identities. Default: opens nothing that is stored.
    pub trust: Trust,
    /// When lost instances are held.
    pub guard: guard::Options,
    /// What the process before this one held.
    pub holds: BTreeMap<ServiceName, Hold>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            sources: Vec::new(),
            quiet: Duration::from_millis(10),
            longest: Duration::from_millis(100),
            restore_grace: Duration::from_secs(5),
            trust: Trust::default(),
            guard: guard::Options::default(),
            holds: BTreeMap::new(),
        }
    }
}

/// What the pipeline knows, for the API and for keeping on disk.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// What the sources hold; its merged view has the held instances too.
    pub world: World,
    /// Services most of whose instances are lost, and held.
    pub holds: BTreeMap<ServiceName, Hold>,
    /// Which objects are in force.
    pub objects: Objects,
    /// Changes that are in force for one node group, by group.
    pub stages: BTreeMap<Arc<str>, StageView>,
    /// Something in force needs the built-in authority, and there is none.
    pub wants_root: bool,
    /// Publications so far.
    pub publications: u64,
    /// When the newest was made.
    pub last_published: Option<SystemTime>,
}

/// The face of a running pipeline. Clones are handles to the same one.
#[derive(Clone, Debug)]
pub struct Handle {
    view: watch::Receiver<Arc<View>>,
    cache: Arc<Cache>,
    trust: Trust,
    accepts: mpsc::Sender<Accept>,
}

impl Handle {
    /// What the pipeline knew at its last build.
    pub fn view(&self) -> Arc<View> {
        self.view.borrow().clone()
    }

    /// Tells of each new view.
    pub fn watch(&self) -> watch::Receiver<Arc<View>> {
        self.view.clone()
    }

    /// Where it publishes.
    pub fn cache(&self) -> &Arc<Cache> {
        &self.cache
    }

    /// What admission says of writing and deleting these objects. Takes as long as compiling them.
    pub fn admit(&self, writes: &[Resource], deletes: &[ObjectKey]) -> Admission {
        translate::admit(&self.view().objects, writes, deletes, &self.trust)
    }

    /// What secrets are sealed and opened with.
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// Lets go what is held of a service. Answers which instances; `None` when nothing is held.
    pub async fn accept_loss(&self, service: ServiceName) -> Option<Vec<InstanceId>> {
        let (reply, answer) = oneshot::channel();
        self.accepts.send(Accept { service, reply }).await.ok()?;
        answer.await.ok()?
    }

    /// Whether something was published: `readyz`.
    pub fn is_ready(&self) -> bool {
        self.cache.latest().is_some()
    }
}

/// The pipeline, not yet running.
#[derive(Debug)]
pub struct Pipeline {
    options: Options,
    events: Receiver,
    view: watch::Sender<Arc<View>>,
    cache: Arc<Cache>,
    compiler: Compiler,
    losses: Losses,
    accepts: mpsc::Receiver<Accept>,
    stages: Stages,
    metrics: Metrics,
}

impl Pipeline {
    /// A pipeline over the events of all sources.
    pub fn new(options: Options, events: Receiver) -> (Self, Handle) {
        let world = World::new(options.sources.iter().cloned());
        let losses = Losses::new(options.guard.clone(), &options.holds);
        let view = View { world, holds: losses.holds(), ..View::default() };
        let view = watch::Sender::new(Arc::new(view));
        let cache = Arc::new(Cache::new());
        let trust = options.trust.clone();
        let (accept, accepts) = mpsc::channel(loss::ACCEPT_QUEUE);
        let handle =
            Handle { view: view.subscribe(), cache: cache.clone(), trust: trust.clone(), accepts: accept };
        let (compiler, stages, metrics) = (Compiler::new(trust.clone()), Stages::new(trust), Metrics::new());
        (Self { options, events, view, cache, compiler, losses, accepts, stages, metrics }, handle)
    }

    /// Runs until cancelled, or until every source has let go of its sender and all events are published.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut world = World::clone(&self.view.borrow().world);
        let mut waiting = Change::default();
        let mut debounce = Debounce::new(self.options.quiet, self.options.longest);
        let mut restored_at: Option<Instant> = None;
        loop {
            let now = Instant::now();
            let grace = restored_at.map(|at| at + self.options.restore_grace).filter(|at| *at > now);
            let renewal = self.renewal(now);
            let next = [debounce.due(), grace, renewal, self.losses.next()].into_iter().flatten().min();
            tokio::select! {
                // Cancel-safe: `recv` loses nothing when dropped, and sleeping has no effect.
                event = self.events.recv() => {
                    let Some(event) = event else {
                        self.build(&world, &mut waiting, &mut debounce, restored_at);
                        return;
                    };
                    world = self.reduce(world, event, &mut waiting);
                    // What has come by now belongs to the same build; bounded, so that a flood cannot hold it up.
                    for _ in 0..crate::source::EVENT_QUEUE {
                        let Ok(event) = self.events.try_recv() else { break };
                        world = self.reduce(world, event, &mut waiting);
                    }
                    if !waiting.is_empty() {
                        debounce.event(Instant::now());
                    }
                    if restored_at.is_none() && world.is_restored() {
                        restored_at = Some(Instant::now());
                    }
                }
                Some(accept) = self.accepts.recv() => self.losses.accept(accept, &mut waiting),
                () = sleep_until(next.unwrap_or(now)), if next.is_some() => {}
                () = stop.cancelled() => return,
            }
            let now = Instant::now();
            self.losses.tick(now, &mut waiting);
            if !waiting.is_empty() && debounce.due().is_none() {
                debounce.event(now);
            }
            let first_due =
                !self.has_published() && restored_at.is_some_and(|at| at + self.options.restore_grace <= now);
            let renew = renewal.is_some_and(|at| at <= now);
            if debounce.due().is_some_and(|due| due <= now) || first_due || renew {
                self.build(&world, &mut waiting, &mut debounce, restored_at);
            }
        }
    }

    /// When certificates are to be renewed, at the least a second from now: a failure is not tried over and over.
    fn renewal(&self, now: Instant) -> Option<Instant> {
        let renewals = [self.compiler.next_renewal(), self.stages.next_renewal()];
        let wait =
            renewals.into_iter().flatten().min()?.duration_since(SystemTime::now()).unwrap_or_default();
        Some(now + wait.max(Duration::from_secs(1)))
    }

    fn has_published(&self) -> bool {
        self.view.borrow().publications > 0
    }

    fn reduce(&mut self, world: World, event: Event, waiting: &mut Change) -> World {
        let resync = matches!(event, Event::Resync { .. });
        let source = event.source().clone();
        let (world, change) = apply(world, event);
        self.metrics.events.increment(1);
        if resync {
            let (services, objects) = (change.services.len(), change.objects.len());
            info!(%source, services, objects, "source listed everything");
        }
        self.losses.see(&world, &change, Instant::now());
        waiting.merge(change);
        world
    }

    /// One build. Before the first publication may be made, only the view is renewed.
    fn build(
        &mut self,
        world: &World,
        waiting: &mut Change,
        debounce: &mut Debounce,
        restored: Option<Instant>,
    ) {
        let started = Instant::now();
        let change = std::mem::take(waiting);
        debounce.build_started();
        let mut view = View::clone(&self.view.borrow());
        view.world = world.clone();
        view.holds = self.losses.holds();
        for (service, hold) in &view.holds {
            view.world.hold(service, hold.lost.clone());
        }
        let ready =
            world.is_synced() || restored.is_some_and(|at| at + self.options.restore_grace <= started);
        // A bug in a translator must not end the control plane: what was published stays in force.
        let built = catch_unwind(AssertUnwindSafe(|| {
            view.objects =
                translate::settle(&view.objects, &view.world, &change.objects, &self.options.trust);
            if !ready && view.publications == 0 {
                return None;
            }
            let now = SystemTime::now();
            self.compiler.stage(self.stages.follow(&view.world, &view.objects, &change, now));
            self.compiler.compile(&view.world, &view.objects, &change.services, now)
        }));
        match built {
            Err(_) => {
                error!("a build failed by a bug; what was published before stays in force");
                self.metrics.failures.increment(1);
                self.compiler = Compiler::new(self.options.trust.clone());
                self.stages = Stages::new(self.options.trust.clone());
            }
            Ok(None) => {}
            Ok(Some(compiled)) => {
                for d in &compiled.dangling {
                    warn!(%d, "dangling reference");
                }
                view.publications += 1;
                view.last_published = Some(compiled.published.at);
                debug!(sequence = compiled.published.sequence, services = change.services.len(), "published");
                self.cache.publish(compiled.published);
                self.metrics.publications.increment(1);
            }
        }
        for key in &change.objects {
            if let Some(state) = view.objects.states().get(key).filter(|s| s.is_quarantined()) {
                for problem in &state.problems {
                    warn!(object = %key, revision = state.newest.revision, %problem, "set aside");
                }
            }
        }
        let aside = view.objects.states().values().filter(|s| s.is_quarantined()).count();
        self.metrics.quarantined.set(aside as f64);
        self.metrics.services.set(view.world.services().len() as f64);
        view.wants_root = self.compiler.wants_root() || self.stages.wants_root();
        view.stages = self.stages.views(&self.compiler);
        self.view.send_replace(Arc::new(view));
        let took = started.elapsed();
        debounce.build_took(took);
        self.metrics.build_seconds.record(took.as_secs_f64());
    }
}

/// What the pipeline counts.
#[derive(Clone)]
struct Metrics {
    events: Counter,
    publications: Counter,
    failures: Counter,
    quarantined: Gauge,
    services: Gauge,
    build_seconds: Histogram,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    fn new() -> Self {
        describe_counter!("pipeline_events_total", "Events received from sources.");
        describe_counter!("pipeline_publications_total", "Publications made: builds whose content differed.");
        describe_counter!("pipeline_build_failures_total", "Builds that a bug ended.");
        describe_gauge!("pipeline_quarantined_objects", "Objects whose newest revision is set aside.");
        describe_gauge!("pipeline_services", "Services with at least one registered instance.");
        describe_histogram!("pipeline_build_seconds", "Time of a build, from reducing to publishing.");
        Self {
            events: counter!("pipeline_events_total"),
            publications: counter!("pipeline_publications_total"),
            failures: counter!("pipeline_build_failures_total"),
            quarantined: gauge!("pipeline_quarantined_objects"),
            services: gauge!("pipeline_services"),
            build_seconds: histogram!("pipeline_build_seconds"),
        }
    }
}

#[cfg(test)]
mod tests;
