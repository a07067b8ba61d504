//! Events of all sources -> debounce -> reduce -> translate -> check -> publish.
//!
//! One task owns the world. It publishes to [`Cache`], which the xDS streams read, and shows the API a
//! [`View`]. The first publication waits until every source has synced (or, when kept state stands in for one,
//! for [`Options::restore_grace`]). Nothing is published whose content did not change.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use xds_types::portolan::config::v1::Resource;

use crate::model::{Change, ObjectKey, SourceId, World, apply};
use crate::snapshot::{Cache, Published};
use crate::source::Receiver;
use crate::translate::{self, Admission, Objects};

/// How the pipeline behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// Sources that must sync before the first publication, the one that wins first.
    pub sources: Vec<SourceId>,
    /// A build starts when no event came for this long. Default 10 ms.
    pub quiet: Duration,
    /// A build starts this long after the first event that waits, however many follow. Default 100 ms. Grows
    /// to the time that the last build took, so that a busy control plane spends at most half its time on builds.
    pub longest: Duration,
    /// How long kept state of a source waits for the source itself before it is published. Default 5 s.
    pub restore_grace: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            sources: Vec::new(),
            quiet: Duration::from_millis(10),
            longest: Duration::from_millis(100),
            restore_grace: Duration::from_secs(5),
        }
    }
}

/// What the pipeline knows, for the API and for keeping on disk.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// What the sources hold.
    pub world: World,
    /// Which objects are in force.
    pub objects: Objects,
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
        translate::admit(&self.view.borrow().objects, writes, deletes)
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
}

impl Pipeline {
    /// A pipeline over the events of all sources.
    pub fn new(options: Options, events: Receiver) -> (Self, Handle) {
        let world = World::new(options.sources.iter().cloned());
        let view = watch::Sender::new(Arc::new(View { world, ..View::default() }));
        let cache = Arc::new(Cache::new());
        let handle = Handle { view: view.subscribe(), cache: cache.clone() };
        (Self { options, events, view, cache }, handle)
    }

    /// Runs until cancelled, or until every source is gone.
    pub async fn run(mut self, stop: CancellationToken) {
        let _ = &self.options;
        loop {
            let event = tokio::select! {
                // Cancel-safe: `recv` loses nothing when dropped.
                event = self.events.recv() => event,
                () = stop.cancelled() => return,
            };
            let Some(event) = event else { return };
            let mut view = View::clone(&self.view.borrow());
            let (world, change) = apply(std::mem::take(&mut view.world), event);
            view.world = world;
            self.build(view, change);
        }
    }

    fn build(&mut self, mut view: View, change: Change) {
        view.objects = translate::settle(&view.objects, &view.world, &change.objects);
        let _: Option<Arc<Published>> = self.cache.latest();
        self.view.send_replace(Arc::new(view));
    }
}
