//! The last good world on disk, so that a control plane that restarts while its store is away still serves.
//!
//! Beside it, the instances that are held though their store has lost them: a restart must not let them go.
//! Written some time after each change, in one rename; read once at the start. What the embedded store holds is
//! on this disk anyway and is left out.

use crate::model::{Event, Held, Instance, Object, ServiceName, SourceId, Sync};
use crate::pipeline::{Handle, Hold, View};
use crate::source::Sender;
use crate::source::keys::{self, Key};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

/// Least time between two writes.
const INTERVAL: Duration = Duration::from_secs(1);

/// The file, by source name.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct File(BTreeMap<String, Kept>);

/// What one source held: keys as in a store, and their values.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Kept {
    objects: BTreeMap<String, (u64, String)>,
    instances: BTreeMap<String, String>,
}

/// Held services, by name.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Holds(BTreeMap<String, KeptHold>);

/// What is held of a service: since when, in seconds since 1970, how many are left, and the lost instances as in [`Kept`].
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct KeptHold {
    since: u64,
    live: usize,
    instances: BTreeMap<String, String>,
}

/// Where the last good world is kept.
#[derive(Clone, Debug)]
pub struct Keeper {
    path: PathBuf,
    holds: PathBuf,
    sources: Vec<SourceId>,
}

impl Keeper {
    /// Keeps what `sources` hold in `last-good.json` of a directory, and what is held in `held.json`.
    pub fn new(dir: &Path, sources: Vec<SourceId>) -> Self {
        Self { path: dir.join("last-good.json"), holds: dir.join("held.json"), sources }
    }

    /// What was held when the process before this one ended.
    pub fn holds(&self) -> BTreeMap<ServiceName, Hold> {
        let file: Holds = match read(&self.holds) {
            Ok(file) => file.unwrap_or_default(),
            Err(reason) => {
                warn!(file = %self.holds.display(), %reason, "held instances are unreadable; they are let go");
                return BTreeMap::new();
            }
        };
        let hold = |kept: KeptHold| Hold {
            since: SystemTime::UNIX_EPOCH + Duration::from_secs(kept.since),
            until: None,
            lost: read_instances(&kept.instances).map(Arc::new).collect(),
            live: kept.live,
        };
        file.0
            .into_iter()
            .filter_map(|(name, kept)| Some((ServiceName::new(&name).ok()?, hold(kept))))
            .collect()
    }

    /// Tells what was kept, before any source does.
    pub async fn restore(&self, events: &Sender) {
        let file: File = match read(&self.path) {
            Ok(Some(file)) => file,
            Ok(None) => return,
            Err(reason) => {
                return warn!(file = %self.path.display(), %reason, "last good state is unreadable; not used");
            }
        };
        for source in &self.sources {
            let Some(kept) = file.0.get(&*source.name) else { continue };
            let held = kept.held();
            info!(%source, objects = held.objects.len(), instances = held.instances.len(), "last good state found");
            let _ = events.send(Event::Restore { source: source.clone(), held }).await;
        }
    }

    /// Writes after changes until cancelled.
    pub async fn run(self, pipeline: Handle, stop: CancellationToken) {
        let mut views = pipeline.watch();
        let mut written = File::default();
        let mut written_holds = None;
        loop {
            let changed = tokio::select! {
                changed = views.changed() => changed.is_ok(),
                () = stop.cancelled() => false,
            };
            let view = views.borrow_and_update().clone();
            // What has not been heard from must not overwrite what was kept of it.
            if let Some(file) = self.snapshot(&view).filter(|f| *f != written) {
                written = keep(&self.path, file).await.unwrap_or(written);
            }
            let holds = Holds::of(&view);
            let same = match &written_holds {
                Some(written) => *written == holds,
                None => holds == Holds::default() && !self.holds.exists(),
            };
            if !same {
                written_holds = keep(&self.holds, holds).await.or(written_holds);
            }
            if !changed {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                () = stop.cancelled() => {}
            }
        }
    }

    fn snapshot(&self, view: &View) -> Option<File> {
        let mut file = File::default();
        for source in &self.sources {
            let held = view.world.sources().get(source)?;
            if held.sync == Sync::Waiting {
                return None;
            }
            let instances = write_instances(held.instances.values().flat_map(|all| all.values()));
            let mut kept = Kept { instances, ..Kept::default() };
            // What is in force, not what is newest: a quarantined object's last good outlives a restart.
            let states = view.objects.states().values().filter(|s| s.source == *source);
            for object in states.filter_map(|s| s.in_force.as_ref()) {
                if let Some(resource) = object.resource() {
                    let text = xds_types::resource::to_json(resource).to_string();
                    kept.objects.insert(keys::object_key(&object.key), (object.revision, text));
                }
            }
            file.0.insert(source.name.to_string(), kept);
        }
        Some(file)
    }
}

impl Kept {
    fn held(&self) -> Held {
        let mut held = Held::default();
        for (key, (revision, text)) in &self.objects {
            if let Ok(Key::Object(key)) = Key::parse(key) {
                held.objects.push(Object::stored(key, *revision, text));
            }
        }
        held.instances.extend(read_instances(&self.instances));
        held
    }
}

impl Holds {
    fn of(view: &View) -> Self {
        let kept = |hold: &Hold| KeptHold {
            since: hold.since.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs(),
            live: hold.live,
            instances: write_instances(&hold.lost),
        };
        Self(view.holds.iter().map(|(service, hold)| (service.to_string(), kept(hold))).collect())
    }
}

fn write_instances<'a>(instances: impl IntoIterator<Item = &'a Arc<Instance>>) -> BTreeMap<String, String> {
    let one = |i: &Arc<Instance>| (keys::instance_key(&i.service, &i.id), keys::write_instance(i));
    instances.into_iter().map(one).collect()
}

fn read_instances(kept: &BTreeMap<String, String>) -> impl Iterator<Item = Instance> + '_ {
    kept.iter().filter_map(|(key, value)| match Key::parse(key) {
        Ok(Key::Instance(service, id)) => keys::read_instance(service, id, value.as_bytes()).ok(),
        _ => None,
    })
}

/// Writes off the runtime's threads. Answers what was written.
async fn keep<T: Serialize + Send + 'static>(path: &Path, file: T) -> Option<T> {
    let to = path.to_owned();
    let outcome = tokio::task::spawn_blocking(move || write(&to, &file).map(|()| file)).await;
    match outcome {
        Ok(Ok(file)) => return Some(file),
        Ok(Err(reason)) => error!(file = %path.display(), %reason, "last good state not kept"),
        Err(reason) => error!(%reason, "last good state not kept"),
    }
    None
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, std::io::Error> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// The file is on disk before it takes the place of the one before, and the rename when this returns: after a loss of power
/// one of both is there, whole.
fn write<T: Serialize>(path: &Path, file: &T) -> Result<(), std::io::Error> {
    let new = path.with_extension("new");
    let mut out = std::fs::File::create(&new)?;
    out.write_all(&serde_json::to_vec(file)?)?;
    out.sync_all()?;
    std::fs::rename(&new, path)?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Kind, ObjectKey, ObjectName};
    use crate::pipeline::{Options, Pipeline};
    use tempfile::TempDir;

    fn held() -> Held {
        let key = ObjectKey::new(Kind::Service, ObjectName::new("web").unwrap());
        let text = r#"{"kind": "Service", "name": "web", "spec": {"protocol": "HTTP2"}}"#;
        let service = ServiceName::new("web").unwrap();
        Held {
            objects: vec![Object::stored(key, 7, text)],
            instances: vec![Instance::at(service, "10.0.0.1:80".parse().unwrap()).unwrap()],
        }
    }

    #[tokio::test]
    async fn what_a_source_held_is_told_again_after_a_restart() {
        let dir = TempDir::new().unwrap();
        let source = SourceId::new(0, "etcd");
        let keeper = Keeper::new(dir.path(), vec![source.clone()]);

        let (events, receiver) = crate::source::channel();
        keeper.restore(&events).await; // nothing was kept yet
        let options = Options { sources: vec![source.clone()], ..Options::default() };
        let (pipeline, handle) = Pipeline::new(options, receiver);
        let stop = CancellationToken::new();
        let mut views = handle.watch();
        let running = tokio::spawn(pipeline.run(stop.clone()));
        let keeping = tokio::spawn(keeper.clone().run(handle, stop.clone()));
        events.send(Event::Resync { source: source.clone(), held: held() }).await.unwrap();
        views.wait_for(|v| v.world.is_synced()).await.unwrap();
        stop.cancel();
        keeping.await.unwrap();
        running.await.unwrap();

        let (events, mut receiver) = crate::source::channel();
        keeper.restore(&events).await;
        let told = receiver.try_recv().unwrap();
        assert_eq!(told, Event::Restore { source, held: held() });
    }

    #[tokio::test]
    async fn a_damaged_file_is_not_used() {
        let dir = TempDir::new().unwrap();
        for name in ["last-good.json", "held.json"] {
            std::fs::write(dir.path().join(name), "{").unwrap();
        }
        let (events, mut receiver) = crate::source::channel();
        let keeper = Keeper::new(dir.path(), vec![SourceId::new(0, "etcd")]);
        keeper.restore(&events).await;
        assert!(keeper.holds().is_empty());
        assert!(receiver.try_recv().is_err());
    }
}
