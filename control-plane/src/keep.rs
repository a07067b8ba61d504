//! The last good world on disk, so that a control plane that restarts while its store is away still serves.
//!
//! Written some time after each change, in one rename; read once at the start. What the embedded store holds is
//! on this disk anyway and is left out.

use crate::model::{Event, Held, Object, SourceId, Sync};
use crate::pipeline::{Handle, View};
use crate::source::Sender;
use crate::source::keys::{self, Key};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
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

/// Where the last good world is kept.
#[derive(Clone, Debug)]
pub struct Keeper {
    path: PathBuf,
    sources: Vec<SourceId>,
}

impl Keeper {
    /// Keeps what `sources` hold in `path`.
    pub fn new(path: PathBuf, sources: Vec<SourceId>) -> Self {
        Self { path, sources }
    }

    /// Tells what was kept, before any source does.
    pub async fn restore(&self, events: &Sender) {
        let file = match read(&self.path) {
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
        loop {
            let changed = tokio::select! {
                changed = views.changed() => changed.is_ok(),
                () = stop.cancelled() => false,
            };
            let file = self.snapshot(&views.borrow_and_update().clone());
            // What has not been heard from must not overwrite what was kept of it.
            if let Some(file) = file.filter(|f| *f != written) {
                let path = self.path.clone();
                let outcome = tokio::task::spawn_blocking(move || write(&path, &file).map(|()| file)).await;
                match outcome {
                    Ok(Ok(file)) => written = file,
                    Ok(Err(reason)) => {
                        error!(file = %self.path.display(), %reason, "last good state not kept")
                    }
                    Err(reason) => error!(%reason, "last good state not kept"),
                }
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
            let mut kept = Kept::default();
            for instance in held.instances.values().flat_map(|all| all.values()) {
                let key = keys::instance_key(&instance.service, &instance.id);
                kept.instances.insert(key, keys::write_instance(instance));
            }
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
        for (key, value) in &self.instances {
            if let Ok(Key::Instance(service, id)) = Key::parse(key) {
                held.instances.extend(keys::read_instance(service, id, value.as_bytes()).ok());
            }
        }
        held
    }
}

fn read(path: &Path) -> Result<Option<File>, std::io::Error> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

fn write(path: &Path, file: &File) -> Result<(), std::io::Error> {
    let new = path.with_extension("new");
    std::fs::write(&new, serde_json::to_vec(file)?)?;
    std::fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Instance, Kind, ObjectKey, ObjectName, ServiceName};
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
        let keeper = Keeper::new(dir.path().join("world.json"), vec![source.clone()]);

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
        let path = dir.path().join("world.json");
        std::fs::write(&path, "{").unwrap();
        let (events, mut receiver) = crate::source::channel();
        Keeper::new(path, vec![SourceId::new(0, "etcd")]).restore(&events).await;
        assert!(receiver.try_recv().is_err());
    }
}
