//! Resources read from a file: a `DiscoveryResponse` in YAML, JSON or (`.pb`) binary form.
//!
//! Read at the start, when more of its names are wanted, and when something is moved into its place: writing to
//! the file itself does nothing, as with Envoy, since a half-written file must not be read. A file that cannot be
//! read or is wrong leaves the last good configuration in force.
//!
//! Resources whose text has not changed since they were applied are not read again: one change among ten thousand
//! takes what one takes. [`text::elements`] tells them apart.

use super::Xds;
use super::findings::UnknownFields;
use super::kind::Kind;
use super::update::{Incoming, Refusal, Update, name_in};
use super::wanted::{ALL, Interests, SourceKey};
use data_plane_core::path::Finding;
use foldhash::quality::FixedState;
use hashbrown::HashMap;
use notify::event::{EventKind, ModifyKind, RenameMode};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use prost::Message;
use std::hash::BuildHasher;
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
    let mut known = Known::default();
    loop {
        let wanted = interests.borrow_and_update().get(&kind).cloned().unwrap_or_default();
        let mut names: Vec<Box<str>> = wanted.names.into_iter().collect();
        names.extend(wanted.wildcard.then(|| ALL.into()));
        match read(&path, &known, &xds).await {
            Ok(content) => {
                known = apply(&xds, &key, &path, kind, content);
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
            changed = interests.changed() => {
                if changed.is_err() {
                    return;
                }
                // What nobody asked for was not applied; now somebody may.
                known = Known::default();
            }
        }
    }
}

/// Resources that are in force as the file has them: names by their text's digest.
type Known = HashMap<u128, Box<str>>;

/// 128 bits tell the texts of a file apart; nobody gains by making two alike, who could write what he wants.
fn digest(text: &str) -> u128 {
    let half = |seed| u128::from(FixedState::with_seed(seed).hash_one(text));
    half(1) << 64 | half(2)
}

/// What a file holds.
struct Content {
    update: Update,
    /// Digests of the resources' texts, where they could be told apart.
    digests: Vec<u128>,
    positions: Positions,
    /// For each resource, which of those it is that `positions` knows; `None`: it was not read again.
    places: Vec<Option<usize>>,
}

impl Content {
    fn whole(response: DiscoveryResponse, positions: Positions, digests: Vec<u128>) -> Self {
        let places = (0..response.resources.len()).map(Some).collect();
        Self { update: Update::sotw(response), digests, positions, places }
    }
}

/// Returns what need not be read again.
fn apply(xds: &Xds, key: &SourceKey, path: &Path, kind: Kind, content: Content) -> Known {
    let Content { update, digests, positions, places } = content;
    let resources = update.resources.len();
    let name = |incoming: &Incoming| incoming.name.clone().or_else(|| name_in(incoming.body.as_ref()?));
    let mut known: Known = digests
        .iter()
        .zip(&update.resources)
        // Secrets have files of their own, which are read again for reasons of their own.
        .filter(|_| kind != Kind::Secret)
        .filter_map(|(digest, incoming)| Some((*digest, name(incoming)?)))
        .collect();
    let verdict = xds.apply(key, kind, update);
    for refusal in &verdict.refused {
        known.retain(|_, name| *name != refusal.name);
        for place in finding_places(refusal, &positions, &places) {
            warn!(kind = %kind.resource_type(), name = &*refusal.name, "{}:{place}", path.display());
        }
    }
    info!(path = %path.display(), kind = %kind.resource_type(), resources, refused = verdict.refused.len(), "read");
    known
}

/// Every finding of a refusal as `line:column: field: message`.
fn finding_places(refusal: &Refusal, positions: &Positions, places: &[Option<usize>]) -> Vec<String> {
    let line = |finding: &data_plane_core::path::Finding| {
        let index = refusal.index.and_then(|index| *places.get(index)?);
        let at = index.map(|i| format!("resources[{i}].{}", finding.path));
        let place = at.and_then(|at| positions.locate(at.trim_end_matches('.')));
        let place = place.map(|p| format!("{}:{}: ", p.line, p.column)).unwrap_or_default();
        format!("{place}{finding}")
    };
    refusal.findings.iter().map(line).collect()
}

async fn read(path: &Path, known: &Known, xds: &Xds) -> Result<Content, String> {
    let bytes = tokio::fs::read(path).await.map_err(|e| format!("cannot read: {e}"))?;
    if path.extension().is_some_and(|e| e == "pb") {
        let response =
            DiscoveryResponse::decode(&*bytes).map_err(|e| format!("not a DiscoveryResponse: {e}"))?;
        return Ok(Content::whole(response, Positions::default(), Vec::new()));
    }
    let text = std::str::from_utf8(&bytes).map_err(|e| format!("not UTF-8: {e}"))?;
    let name = path.to_string_lossy();
    let elements = text::elements(text, "resources");
    let digests: Vec<u128> =
        elements.iter().flat_map(|e| &e.ranges).map(|range| digest(&text[range.clone()])).collect();
    if let Some(elements) = elements.filter(|_| digests.iter().any(|digest| known.contains_key(digest))) {
        let changed = elements.keep(text, |index| !known.contains_key(&digests[index]));
        // What is wrong with it is told by reading all.
        if let Ok(parsed) = parse(&name, &changed, xds)
            && let Some(content) = merge(parsed.message, parsed.positions, &digests, known)
        {
            return Ok(content);
        }
    }
    let parsed = parse(&name, text, xds)?;
    Ok(Content::whole(parsed.message, parsed.positions, digests))
}

/// Reads a text, and tells of fields that are not known, or refuses it for them.
fn parse(name: &str, text: &str, xds: &Xds) -> Result<text::Parsed<DiscoveryResponse>, String> {
    let findings = xds.findings();
    let unknown_fields = match findings.policy() {
        UnknownFields::Refuse => text::UnknownFields::Refuse,
        UnknownFields::Warn | UnknownFields::Ignore => text::UnknownFields::Report,
    };
    let options = text::Options { unknown_fields };
    let mut parsed = text::parse_with(text::Source { name, text }, options).map_err(|e| e.to_string())?;
    let unknown = std::mem::take(&mut parsed.ignored.list).into_iter().map(|e| {
        let place = e.place.map(|place| format!(" ({name}:{}:{})", place.line, place.column));
        Finding { path: e.path + &place.unwrap_or_default(), message: e.message }
    });
    // Of the whole file: which resource it is, the path says.
    _ = findings.unknown("file", name, &unknown.collect::<Vec<_>>());
    Ok(parsed)
}

/// What was read, and what is known of the rest.
fn merge(read: DiscoveryResponse, positions: Positions, digests: &[u128], known: &Known) -> Option<Content> {
    let Update { version, resources, removed, whole } = Update::sotw(read);
    let mut read = resources.into_iter().enumerate();
    let mut places = Vec::with_capacity(digests.len());
    let mut resources = Vec::with_capacity(digests.len());
    for digest in digests {
        match known.get(digest) {
            Some(name) => {
                places.push(None);
                let version = version.as_str().into();
                resources.push(Incoming { name: Some(name.clone()), version, body: None });
            }
            None => {
                let (place, incoming) = read.next()?;
                places.push(Some(place));
                resources.push(incoming);
            }
        }
    }
    // What was not told apart as it reads is read whole.
    if read.next().is_some() {
        return None;
    }
    let update = Update { version, resources, removed, whole };
    Some(Content { update, digests: digests.to_vec(), positions, places })
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
        // `Both` tells once more of what `To` has told: the file would be read twice.
        let is_move =
            matches!(event.kind, EventKind::Modify(ModifyKind::Name(mode)) if mode != RenameMode::Both);
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
