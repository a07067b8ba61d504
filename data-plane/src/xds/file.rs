//! Resources read from a file: a `DiscoveryResponse` in YAML, JSON or (`.pb`) binary form.
//!
//! Read at the start, when more of its names are wanted, and when something is moved into its place: writing to
//! the file itself does nothing, as with Envoy, since a half-written file must not be read. A file that cannot be
//! read or is wrong leaves the last good configuration in force.

use super::Xds;
use super::kind::Kind;
use super::update::{Refusal, Update};
use super::wanted::{ALL, Interests, SourceKey};
use notify::event::{EventKind, ModifyKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use prost::Message;
use std::path::{Path, PathBuf};
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};
use xds_types::envoy::service::discovery::v3::DiscoveryResponse;
use xds_types::text::{self, Positions};

/// Reads `path` for as long as it is wanted.
pub(super) async fn run(
    xds: Xds,
    key: SourceKey,
    path: PathBuf,
    watched_directory: Option<PathBuf>,
    kind: Kind,
    mut interests: watch::Receiver<Interests>,
) {
    // One slot: moves that come while one waits to be looked at are the same news.
    let (moved_tx, mut moved) = mpsc::channel(1);
    // Watched before the first read, so that no move is missed between them.
    let _watcher = match watch(&path, watched_directory.as_deref(), moved_tx) {
        Ok(watcher) => Some(watcher),
        Err(error) => {
            warn!(path = %path.display(), %error, "moves of this file will not be noticed");
            None
        }
    };
    loop {
        let wanted = interests.borrow_and_update().get(&kind).cloned().unwrap_or_default();
        let mut names: Vec<Box<str>> = wanted.names.into_iter().collect();
        names.extend(wanted.wildcard.then(|| ALL.into()));
        match read(&path).await {
            Ok((response, positions)) => {
                apply(&xds, &key, &path, kind, response, &positions);
                xds.settle_absent(&key, kind, &names);
            }
            Err(reason) => {
                warn!(path = %path.display(), kind = %kind.resource_type(), "{reason}");
                xds.failed(&key, kind, &names, true);
            }
        }
        tokio::select! {
            // Both cancel safe: a value not taken stays.
            Some(()) = moved.recv() => {}
            changed = interests.changed() => if changed.is_err() { return },
        }
    }
}

fn apply(
    xds: &Xds,
    key: &SourceKey,
    path: &Path,
    kind: Kind,
    response: DiscoveryResponse,
    positions: &Positions,
) {
    let resources = response.resources.len();
    let verdict = xds.apply(key, kind, Update::sotw(response));
    for refusal in &verdict.refused {
        for place in places(refusal, positions) {
            warn!(kind = %kind.resource_type(), name = &*refusal.name, "{}:{place}", path.display());
        }
    }
    info!(path = %path.display(), kind = %kind.resource_type(), resources, refused = verdict.refused.len(), "read");
}

/// Every finding of a refusal as `line:column: field: message`.
fn places(refusal: &Refusal, positions: &Positions) -> Vec<String> {
    let line = |finding: &data_plane_core::path::Finding| {
        let at = refusal.index.map(|i| format!("resources[{i}].{}", finding.path));
        let place = at.and_then(|at| positions.locate(at.trim_end_matches('.')));
        let place = place.map(|p| format!("{}:{}: ", p.line, p.column)).unwrap_or_default();
        format!("{place}{finding}")
    };
    refusal.findings.iter().map(line).collect()
}

async fn read(path: &Path) -> Result<(DiscoveryResponse, Positions), String> {
    let bytes = tokio::fs::read(path).await.map_err(|e| format!("cannot read: {e}"))?;
    if path.extension().is_some_and(|e| e == "pb") {
        let response =
            DiscoveryResponse::decode(&*bytes).map_err(|e| format!("not a DiscoveryResponse: {e}"))?;
        return Ok((response, Positions::default()));
    }
    let text = std::str::from_utf8(&bytes).map_err(|e| format!("not UTF-8: {e}"))?;
    let name = path.to_string_lossy();
    let parsed = text::parse(text::Source { name: &name, text }).map_err(|e| e.to_string())?;
    Ok((parsed.message, parsed.positions))
}

/// Reports moves into the place of `path`, or any move within `watched_directory`.
pub(super) fn watch(
    path: &Path,
    watched_directory: Option<&Path>,
    moved: mpsc::Sender<()>,
) -> notify::Result<RecommendedWatcher> {
    let own = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = watched_directory.unwrap_or(own);
    let only = watched_directory.is_none().then(|| path.file_name().map(ToOwned::to_owned)).flatten();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let Ok(event) = event else { return };
        let is_move = matches!(event.kind, EventKind::Modify(ModifyKind::Name(_)));
        let is_ours =
            event.paths.iter().any(|p| only.as_deref().is_none_or(|name| p.file_name() == Some(name)));
        if is_move && is_ours {
            // Full: the reader is going to look anyway.
            let _ = moved.try_send(());
        }
    })?;
    watcher.watch(folder, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}
