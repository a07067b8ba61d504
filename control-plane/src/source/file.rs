//! A directory of YAML and JSON files with objects, read again when it changes. Cannot be written.
//!
//! A file with an error keeps the objects it last held; the errors are logged with their places.

use super::retry::Retry;
use super::store::Store;
use super::{Event, Held, Sender, SourceId};
use crate::model::{Object, Problems};
use crate::secret::{self, Vault};
use futures_util::future::BoxFuture;
use notify::{RecursiveMode, Watcher};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use xds_types::text::Source;

/// Changes seen within this time are read together, since editors and deployments touch files several times.
const SETTLE: Duration = Duration::from_millis(50);
/// The directory is read again this often even when nothing was noticed (network file systems).
const RESCAN: Duration = Duration::from_secs(60);
/// Largest file read.
const MAX_FILE: u64 = 16 << 20;

/// A directory.
#[derive(Debug)]
pub struct File {
    id: SourceId,
    dir: PathBuf,
    vault: Arc<Vault>,
}

impl File {
    /// Takes a directory; read when watched.
    pub fn new(id: SourceId, dir: PathBuf, vault: Arc<Vault>) -> Self {
        Self { id, dir, vault }
    }
}

impl Store for File {
    fn id(&self) -> &SourceId {
        &self.id
    }

    fn watch<'a>(&'a self, events: Sender, stop: CancellationToken) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let mut known = BTreeMap::new();
            let mut told = None;
            let mut retry = Retry::default();
            loop {
                // One waiting mark is enough: whatever else changed is read with it.
                let (changed, mut changes) = mpsc::channel(1);
                let mark = move |_: Result<notify::Event, notify::Error>| {
                    let _ = changed.try_send(());
                };
                let watcher = notify::recommended_watcher(mark)
                    .and_then(|mut w| w.watch(&self.dir, RecursiveMode::Recursive).map(|()| w));
                let _watcher = match watcher {
                    Ok(watcher) => watcher,
                    Err(reason) => {
                        error!(source = %self.id, dir = %self.dir.display(), %reason, "directory cannot be watched");
                        if !retry.wait(&stop).await {
                            return;
                        }
                        continue;
                    }
                };
                retry.reset();
                loop {
                    let held = self.scan(&mut known);
                    if told.as_ref() != Some(&held) {
                        info!(source = %self.id, objects = held.objects.len(), "read");
                        told = Some(held.clone());
                        let resync = Event::Resync { source: self.id.clone(), held };
                        if events.send(resync).await.is_err() {
                            return;
                        }
                    }
                    tokio::select! {
                        seen = changes.recv() => if seen.is_none() { break },
                        () = tokio::time::sleep(RESCAN) => {}
                        () = stop.cancelled() => return,
                    }
                    tokio::time::sleep(SETTLE).await;
                    let _ = changes.try_recv();
                }
            }
        })
    }
}

/// Objects of a file, with the text they were read from.
type Known = BTreeMap<PathBuf, (String, Vec<Object>)>;

impl File {
    fn scan(&self, known: &mut Known) -> Held {
        let mut files = Vec::new();
        collect(&self.dir, &mut files);
        files.sort();
        known.retain(|path, _| files.contains(path));
        for path in &files {
            let text = match read(path) {
                Ok(text) => text,
                Err(reason) => {
                    error!(file = %path.display(), %reason, "cannot be read; what it last held stays");
                    continue;
                }
            };
            if known.get(path).is_some_and(|(before, _)| *before == text) {
                continue;
            }
            let name = path.strip_prefix(&self.dir).unwrap_or(path).display().to_string();
            match objects(&name, &text, &self.vault) {
                Ok(objects) => {
                    known.insert(path.clone(), (text, objects));
                }
                Err(reason) => {
                    error!(file = %path.display(), "refused; what it last held stays:\n{reason}");
                    // Remember the text, so that the same errors are told once.
                    let objects = known.remove(path).map(|(_, objects)| objects).unwrap_or_default();
                    known.insert(path.clone(), (text, objects));
                }
            }
        }
        let mut held = Held::default();
        let mut seen = BTreeMap::new();
        for (path, (_, objects)) in known.iter() {
            for object in objects {
                match seen.insert(object.key.clone(), path.display().to_string()) {
                    None => held.objects.push(object.clone()),
                    Some(first) => {
                        warn!(object = %object.key, %first, again = %path.display(), "written twice; the first counts");
                    }
                }
            }
        }
        held
    }
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(reason) => return error!(dir = %dir.display(), %reason, "cannot be listed"),
    };
    for entry in entries.flatten() {
        let path = entry.path();
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        if hidden {
            continue;
        } else if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json") {
            files.push(path);
        }
    }
}

fn read(path: &Path) -> std::io::Result<String> {
    let size = std::fs::metadata(path)?.len();
    if size > MAX_FILE {
        return Err(std::io::Error::other(format!("{size} bytes is more than {MAX_FILE}")));
    }
    std::fs::read_to_string(path)
}

fn objects(name: &str, text: &str, vault: &Vault) -> Result<Vec<Object>, String> {
    let parsed = xds_types::resource::parse(Source { name, text }).map_err(|e| e.to_string())?;
    // Files have no revisions; their content stands in, so that a change is seen.
    let revision = xxhash_rust::xxh64::xxh64(text.as_bytes(), 0);
    let mut objects = Vec::new();
    let mut problems = Vec::new();
    for one in parsed {
        let mut resource = one.resource;
        let mut found = Problems::default();
        if let Ok(key) = Object::key_of(&resource) {
            secret::seal_for_now(vault, &key, &mut resource, SystemTime::now(), &mut found);
        }
        problems.extend(found.errors().map(|p| format!("{name}: {p}")));
        match Object::new(resource, revision.max(1)) {
            Ok(object) => objects.push(object),
            Err(problem) => problems.push(format!("{name}: {problem}")),
        }
    }
    if problems.is_empty() { Ok(objects) } else { Err(problems.join("\n")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    async fn resync(events: &mut super::super::Receiver) -> Vec<String> {
        let next = tokio::time::timeout(Duration::from_secs(20), events.recv()).await;
        match next.expect("a change is noticed").unwrap() {
            Event::Resync { held, .. } => held.objects.iter().map(|o| o.key.to_string()).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn files_are_followed_and_a_bad_one_keeps_what_it_last_held() {
        let dir = TempDir::new().unwrap();
        let write = |name: &str, text: &str| {
            let hidden = dir.path().join(format!(".{name}"));
            std::fs::write(&hidden, text).unwrap();
            std::fs::rename(hidden, dir.path().join(name)).unwrap();
        };
        write("a.yaml", "kind: Service\nname: web\nspec: {}\n---\nkind: Service\nname: api\nspec: {}\n");
        let vault = Arc::new(Vault::empty());
        let source = File::new(SourceId::new(0, "file"), dir.path().to_owned(), vault);
        let (tx, mut events) = super::super::channel();
        let stop = CancellationToken::new();
        let task = tokio::spawn({
            let stop = stop.clone();
            async move { source.watch(tx, stop).await }
        });
        assert_eq!(resync(&mut events).await, ["Service/web", "Service/api"]);
        write("b.json", r#"{"kind": "Service", "name": "db", "spec": {}}"#);
        assert_eq!(resync(&mut events).await, ["Service/web", "Service/api", "Service/db"]);
        // The bad file changes nothing; the removal that follows is the next thing told.
        write("a.yaml", "kind: Service\nname: web\nspec: {protcol: HTTP2}\n");
        std::fs::remove_file(dir.path().join("b.json")).unwrap();
        assert_eq!(resync(&mut events).await, ["Service/web", "Service/api"]);
        stop.cancel();
        task.await.unwrap();
    }
}
