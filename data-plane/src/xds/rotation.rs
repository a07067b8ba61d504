//! Watches the files that delivered secrets were read from, and has them read again once something is moved into
//! their folders.
//!
//! Moves, not writes: as with files of resources, a half-written file must not be read. A swap of two files is two
//! moves; between them certificate and key do not fit, so a first refusal is kept quiet until the swap had time to
//! complete.

use super::Xds;
use super::file;
use super::secrets::Tell;
use super::sources::Owned;
use super::wanted::SourceKey;
use data_plane_core::config::SecretFiles;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::spawn_local;
use tokio::time::timeout;
use tracing::warn;

/// Time for the second half of a swap.
const SWAP: Duration = Duration::from_millis(300);

/// Every secret being watched.
#[derive(Debug, Default)]
pub(super) struct Rotations(Vec<Watched>);

#[derive(Debug)]
struct Watched {
    source: SourceKey,
    name: Box<str>,
    folders: BTreeSet<PathBuf>,
    _task: Owned,
}

impl Rotations {
    /// Watches the files of these secrets and of no others.
    pub(super) fn follow(&mut self, xds: &Xds, plan: Vec<(SourceKey, Box<str>, SecretFiles)>) {
        let plan: Vec<_> = plan.into_iter().map(|(s, n, files)| (s, n, folders(files))).collect();
        let is = |w: &Watched, (source, name, folders): &(SourceKey, Box<str>, BTreeSet<PathBuf>)| {
            w.source == *source && w.name == *name && w.folders == *folders
        };
        self.0.retain(|watched| plan.iter().any(|wanted| is(watched, wanted)));
        for wanted in plan {
            if self.0.iter().any(|watched| is(watched, &wanted)) {
                continue;
            }
            let (source, name, folders) = wanted;
            let task = spawn_local(run(xds.clone(), source.clone(), name.clone(), folders.clone()));
            self.0.push(Watched { source, name, folders, _task: Owned::new(task.abort_handle()) });
        }
    }

    /// Ends all of them.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

/// The folders whose moves matter.
fn folders(files: SecretFiles) -> BTreeSet<PathBuf> {
    if let Some(folder) = files.watched_directory {
        return BTreeSet::from([folder]);
    }
    let folder = |path: PathBuf| match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => ".".into(),
    };
    files.paths.into_iter().map(folder).collect()
}

async fn run(xds: Xds, source: SourceKey, name: Box<str>, folders: BTreeSet<PathBuf>) {
    // One slot: moves that come while one waits to be looked at are the same news.
    let (moved_tx, mut moved) = mpsc::channel(1);
    let mut watchers = Vec::with_capacity(folders.len());
    for folder in folders {
        match file::watch(&folder, Some(&folder), moved_tx.clone()) {
            Ok(watcher) => watchers.push(watcher),
            Err(error) => {
                warn!(folder = %folder.display(), name = &*name, %error, "moves here will not be noticed");
            }
        }
    }
    drop(moved_tx);
    // What moved between reading the secret and watching its folders is read now.
    let mut news = Some(());
    while news.is_some() {
        if xds.reread(&source, &name, Tell::Nobody).is_err() {
            // Either way it is read again: with news, or when the swap had time enough.
            if let Ok(None) = timeout(SWAP, moved.recv()).await {
                return;
            }
            // Refused again: told below, by the one place that tells.
            let _ = xds.reread(&source, &name, Tell::All);
        }
        news = moved.recv().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_named_folder_is_watched_or_else_those_of_the_files() {
        let paths = vec!["/a/x.pem".into(), "/a/x.key".into(), "/b/ca.pem".into(), "y.pem".into()];
        let by_files = SecretFiles { paths: paths.clone(), watched_directory: None };
        assert_eq!(folders(by_files), ["/a", "/b", "."].map(PathBuf::from).into());
        let named = SecretFiles { paths, watched_directory: Some("/c".into()) };
        assert_eq!(folders(named), [PathBuf::from("/c")].into());
    }
}
