//! Delivered secrets: which are wanted from where, what came, and who waits for them.
//!
//! A secret is known by its source and name: equal names of different sources are different secrets. One that does
//! not translate, does not fit its key, is garbage or has expired is refused, and its predecessor serves on. Files
//! that a secret names are watched by [`super::rotation`], which has them read again here.

use super::StaticFailure;
use super::findings::Findings;
use super::inventory::{Entry, Good, Refused};
use super::kind::Kind;
use super::stats::SecretStats;
use super::subscription::Interest;
use super::update::{Item, Refusal, Update, Verdict, identify};
use super::wanted::{SourceKey, patience};
use crate::stats::Registry;
use crate::transport::tls::slot::{SecretSlot, SecretSlots};
use data_plane_core::config::{self, SdsReference, Secret, SecretFiles};
use data_plane_core::path::{Diagnostics, Finding, Path};
use data_plane_core::translate::{self, DataLoader, Resource};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;
use tokio::time::Instant;
use tracing::{debug, info, warn};
use xds_types::google::protobuf::Any;

/// Reads of a secret's files until two in a row agree: a swap may fall between two of them.
const READS: usize = 5;

/// All delivered secrets, and static ones.
pub(super) struct Secrets {
    slots: SecretSlots,
    registry: Registry,
    data: Arc<dyn DataLoader + Send + Sync>,
    findings: Rc<Findings>,
    sources: Vec<(SourceKey, BTreeMap<Box<str>, Held>)>,
    /// Static secrets stay in their slots while this holds them.
    statics: Vec<(Arc<Secret>, Arc<SecretSlot>)>,
}

/// A secret that is wanted.
struct Held {
    /// Where it is read: one slot for each way in which it is referred to, mostly one.
    slots: Vec<(SdsReference, Arc<SecretSlot>)>,
    /// It came, or is known not to exist, or was waited for long enough.
    fetched: bool,
    deadline: Option<Instant>,
    /// When it began to be wanted.
    since: SystemTime,
    entry: Entry,
    stats: SecretStats,
}

/// A secret as the admin interface shows it.
#[derive(Clone, Debug)]
pub struct SecretEntry {
    /// Its name.
    pub name: Box<str>,
    /// When it began to be wanted.
    pub since: SystemTime,
    /// What is in force, and what was refused.
    pub entry: Entry,
}

impl Secrets {
    pub(super) fn new(
        slots: SecretSlots,
        registry: Registry,
        data: Arc<dyn DataLoader + Send + Sync>,
        findings: Rc<Findings>,
    ) -> Self {
        Self { slots, registry, data, findings, sources: Vec::new(), statics: Vec::new() }
    }

    /// Takes the bootstrap's secrets; all of them, or none if one is bad. Returns those before.
    ///
    /// # Errors
    /// Names of bad ones and why.
    pub(super) fn set_static(
        &mut self,
        secrets: &[Arc<Secret>],
    ) -> Result<Vec<Arc<Secret>>, Vec<StaticFailure>> {
        let failure = |(index, secret): (usize, &Arc<Secret>)| {
            let name = secret.name.clone();
            check(secret).err().map(|reason| StaticFailure { kind: Kind::Secret, index, name, reason })
        };
        let bad: Vec<_> = secrets.iter().enumerate().filter_map(failure).collect();
        if !bad.is_empty() {
            return Err(bad);
        }
        let before = self.statics.iter().map(|(secret, _)| Arc::clone(secret)).collect();
        self.restore_static(secrets);
        Ok(before)
    }

    /// Takes secrets that were good before.
    pub(super) fn restore_static(&mut self, secrets: &[Arc<Secret>]) {
        let next = secrets.iter().map(|secret| {
            let reference = SdsReference { name: secret.name.clone(), wants: secret.kind.of(), source: None };
            let slot = self.slots.get(&reference);
            if slot.load().as_ref() != Some(secret) {
                slot.set(Some(Arc::clone(secret)));
            }
            (Arc::clone(secret), slot)
        });
        self.statics = next.collect();
        self.slots.prune();
    }

    /// Takes another set of references that are wanted. What stays keeps its state; what is new is waited for from
    /// now on. True if anything changed.
    pub(super) fn follow<'a>(
        &mut self,
        references: impl Iterator<Item = &'a SdsReference>,
        now: Instant,
    ) -> bool {
        let mut old = std::mem::take(&mut self.sources);
        let mut changed = false;
        for reference in references {
            let Some(source) = &reference.source else { continue };
            let key = SourceKey::new(source, Kind::Secret);
            let at = self.sources.iter().position(|(k, _)| *k == key).unwrap_or_else(|| {
                self.sources.push((key.clone(), BTreeMap::new()));
                self.sources.len() - 1
            });
            let held = &mut self.sources[at].1;
            if !held.contains_key(&reference.name) {
                let kept = old.iter_mut().find(|(k, _)| *k == key);
                let one = match kept.and_then(|(_, held)| held.remove(&reference.name)) {
                    Some(kept) => kept,
                    None => {
                        changed = true;
                        let deadline = patience(source).map(|limit| now + limit);
                        Held::new(&self.registry, &reference.name, deadline)
                    }
                };
                held.insert(reference.name.clone(), one);
            }
            let held = held.get_mut(&reference.name).expect("INVARIANT: inserted above");
            if !held.slots.iter().any(|(known, _)| known == reference) {
                let slot = self.slots.get(reference);
                // A second way to refer to it finds what came already.
                if let Some(secret) = held.secret().filter(|s| s.kind.of() == reference.wants) {
                    slot.set(Some(Arc::clone(secret)));
                }
                held.slots.push((reference.clone(), slot));
            }
        }
        changed |= old.iter().any(|(_, held)| !held.is_empty());
        drop(old);
        if changed {
            self.slots.prune();
        }
        changed
    }

    /// Whether nothing has to be waited for any more. Static secrets are there; what is not followed yet is not.
    pub(super) fn is_settled(&self, reference: &SdsReference) -> bool {
        let Some(source) = &reference.source else { return true };
        let key = SourceKey::new(source, Kind::Secret);
        let held =
            self.sources.iter().find(|(k, _)| *k == key).and_then(|(_, held)| held.get(&reference.name));
        held.is_some_and(|held| held.fetched)
    }

    /// The secret that a reference stands for now.
    pub(super) fn now(&self, reference: &SdsReference) -> Option<Arc<Secret>> {
        self.slots.get(reference).load()
    }

    /// What is wanted of each source.
    pub(super) fn by_source(&self) -> impl Iterator<Item = (&SourceKey, Interest)> {
        self.sources
            .iter()
            .map(|(key, held)| (key, Interest { names: held.keys().cloned().collect(), wildcard: false }))
    }

    /// What is still waited for.
    pub(super) fn unready(&self) -> impl Iterator<Item = &str> {
        let all = self.sources.iter().flat_map(|(_, held)| held);
        all.filter(|(_, held)| !held.fetched).map(|(name, _)| &**name)
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.sources.iter().flat_map(|(_, held)| held.values()).filter_map(|h| h.deadline).min()
    }

    /// Ends waits that took too long; true if there were any.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        let mut any = false;
        for (name, held) in self.sources.iter_mut().flat_map(|(_, held)| held) {
            if held.deadline.is_some_and(|deadline| deadline <= now) {
                warn!(kind = "SDS", name = &**name, "did not come in time; going on without");
                held.stats.metrics.init_fetch_timeout.inc();
                any |= held.settle();
            }
        }
        any
    }

    /// Applies what came from `from`. See [`super::apply`].
    pub(super) fn apply(&mut self, from: &SourceKey, update: Update, known: &translate::Sources) -> Verdict {
        let Update { version, resources, removed, whole: _ } = update;
        let mut verdict = Verdict::default();
        let began = Instant::now();
        let items = identify(Kind::Secret, resources, &removed, &mut verdict);
        let (data, findings) = (Arc::clone(&self.data), Rc::clone(&self.findings));
        let mut none = BTreeMap::new();
        let held = self.sources.iter_mut().find(|(k, _)| k == from).map_or(&mut none, |(_, held)| held);
        for name in removed {
            if let Some(held) = held.get_mut(&name) {
                held.settle();
            }
            verdict.removed.push(name);
        }
        for item in items {
            let Some(held) = held.get_mut(&item.name) else {
                debug!(kind = "SDS", name = &*item.name, "not asked for, ignored");
                verdict.applied.push((item.name, item.version));
                continue;
            };
            held.stats.metrics.update_attempt.inc();
            match held.take(&item, &*data, known, &findings) {
                Ok(()) => {
                    let elapsed = began.elapsed().as_millis() as u64;
                    held.stats.accepted(&version, super::apply::now_ms(), elapsed);
                    verdict.applied.push((item.name, item.version));
                }
                Err(refusal) => {
                    held.stats.metrics.update_rejected.inc();
                    let details = refusal.reason();
                    warn!(kind = "SDS", name = &*item.name, reason = details, "refused");
                    held.refused(item.body.unwrap_or_default(), item.version, details);
                    verdict.refused.push(refusal);
                }
            }
        }
        verdict
    }

    /// A source failed as a whole. `settle`: nothing more will come by itself.
    pub(super) fn failed(&mut self, from: &SourceKey, names: &[Box<str>], settle: bool) {
        for name in names {
            let Some(held) = self.held(from, name) else { continue };
            held.stats.metrics.update_failure.inc();
            held.stats.metrics.update_attempt.inc();
            if settle {
                held.settle();
            }
        }
    }

    /// A file lacks these: they are not waited for.
    pub(super) fn settle_absent(&mut self, from: &SourceKey, names: &[Box<str>]) {
        for name in names {
            if let Some(held) = self.held(from, name)
                && held.settle()
            {
                warn!(kind = "SDS", name = &**name, "the file does not hold it; going on without");
            }
        }
    }

    /// Secrets that were read from files, and which.
    pub(super) fn files(&self) -> impl Iterator<Item = (&SourceKey, &str, &SecretFiles)> {
        self.sources.iter().flat_map(|(key, held)| {
            held.iter().filter_map(move |(name, held)| {
                let files = &held.secret()?.files;
                (!files.paths.is_empty()).then_some((key, &**name, files))
            })
        })
    }

    /// Reads the files of a secret again.
    ///
    /// # Errors
    /// Why what they hold now is refused; with `tell`, it is also logged, counted and kept for dumps.
    pub(super) fn reread(
        &mut self,
        from: &SourceKey,
        name: &str,
        tell: Tell,
        known: &translate::Sources,
    ) -> Result<(), String> {
        let (data, findings) = (Arc::clone(&self.data), Rc::clone(&self.findings));
        let Some(held) = self.held(from, name) else { return Ok(()) };
        let Some(good) = &held.entry.good else { return Ok(()) };
        let (raw, version) = (good.raw.clone(), good.version.clone());
        let done = read_whole(name, &raw, &*data, known, &findings).and_then(|(resource, ignored)| {
            let Resource::Secret(secret) = &resource else { return Ok(()) };
            if held.secret() == Some(secret) {
                held.entry.refused = None;
                return Ok(());
            }
            held.publish(name, secret)?;
            info!(name, "files changed: rotated");
            held.accept(raw.clone(), version.clone(), resource, ignored);
            Ok(())
        });
        done.map_err(|refusal| {
            let details = refusal.reason();
            if tell == Tell::All {
                warn!(
                    kind = "SDS",
                    name,
                    reason = details,
                    "files changed and are refused; the old secret serves on"
                );
                held.stats.metrics.key_rotation_failed.inc();
                held.refused(raw, version, details.clone());
            }
            details
        })
    }

    /// Fields that were set and have no effect, of all that is in force.
    pub(super) fn ignored(&self) -> usize {
        let held = self.sources.iter().flat_map(|(_, held)| held.values());
        held.filter_map(|held| held.entry.good.as_ref()).map(|good| good.ignored.len()).sum()
    }

    /// Everything that is wanted, by name.
    pub(super) fn entries(&self) -> Vec<SecretEntry> {
        let all = self.sources.iter().flat_map(|(_, held)| held);
        let mut entries: Vec<_> = all
            .map(|(name, held)| SecretEntry {
                name: name.clone(),
                since: held.since,
                entry: held.entry.clone(),
            })
            .collect();
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        entries
    }

    fn held(&mut self, from: &SourceKey, name: &str) -> Option<&mut Held> {
        self.sources.iter_mut().find(|(key, _)| key == from)?.1.get_mut(name)
    }
}

/// Whether a refusal of files is told, or only returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tell {
    /// Returned: another move may be about to complete the swap.
    Nobody,
    /// Logged, counted, shown.
    All,
}

impl Held {
    fn new(registry: &Registry, name: &str, deadline: Option<Instant>) -> Self {
        Self {
            slots: Vec::new(),
            fetched: false,
            deadline,
            since: SystemTime::now(),
            entry: Entry::default(),
            stats: SecretStats::new(registry, name),
        }
    }

    /// What is in force.
    fn secret(&self) -> Option<&Arc<Secret>> {
        match &self.entry.good.as_ref()?.resource {
            Resource::Secret(secret) => Some(secret),
            _ => None,
        }
    }

    /// Ends the wait for it; true if there was one.
    fn settle(&mut self) -> bool {
        self.deadline = None;
        !std::mem::replace(&mut self.fetched, true)
    }

    fn take(
        &mut self,
        item: &Item,
        data: &dyn DataLoader,
        known: &translate::Sources,
        findings: &Findings,
    ) -> Result<(), Refusal> {
        let Some(raw) = &item.body else { return Ok(()) };
        if let Some(good) = self.entry.good.as_mut().filter(|good| good.raw == *raw) {
            good.version = item.version.clone();
            self.entry.refused = None;
            self.settle();
            return Ok(());
        }
        let placed = |refusal: Refusal| Refusal { index: Some(item.index), ..refusal };
        let (resource, ignored) = read_whole(&item.name, raw, data, known, findings).map_err(placed)?;
        if let Resource::Secret(secret) = &resource {
            self.publish(&item.name, secret).map_err(placed)?;
        }
        findings.ignored(Kind::Secret.noun(), &item.name, &ignored);
        self.accept(raw.clone(), item.version.clone(), resource, ignored);
        Ok(())
    }

    /// Checks a secret and lets those use it who refer to one of its type.
    fn publish(&self, name: &str, secret: &Arc<Secret>) -> Result<(), Refusal> {
        let found = secret.kind.of();
        let mut fits = self.slots.iter().filter(|(reference, _)| reference.wants == found).peekable();
        if fits.peek().is_none() {
            let wants: Vec<String> = self.slots.iter().map(|(r, _)| r.wants.to_string()).collect();
            let reason = format!("is a {found}; wanted is a {}", wants.join(", a "));
            return Err(Refusal::because(name, None, reason));
        }
        check(secret).map_err(|reason| {
            let finding = Finding { path: found.to_string(), message: reason };
            Refusal { name: name.into(), index: None, findings: vec![finding], omitted: 0 }
        })?;
        for (_, slot) in fits {
            slot.set(Some(Arc::clone(secret)));
        }
        Ok(())
    }

    fn accept(&mut self, raw: Any, version: Box<str>, resource: Resource, ignored: Vec<Finding>) {
        let good = Good { raw, version, updated: SystemTime::now(), resource, ignored };
        self.entry = Entry { good: Some(good), refused: None };
        self.settle();
    }

    fn refused(&mut self, raw: Any, version: Box<str>, details: String) {
        self.entry.refused = Some(Refused { raw, version, at: SystemTime::now(), details });
    }
}

/// Translates a secret. One that names files is read until two readings agree, so that no certificate is paired
/// with the key of another.
fn read_whole(
    name: &str,
    raw: &Any,
    data: &dyn DataLoader,
    known: &translate::Sources,
    findings: &Findings,
) -> Result<(Resource, Vec<Finding>), Refusal> {
    let mut last = read(name, raw, data, known, findings)?;
    for _ in 1..READS {
        let Resource::Secret(secret) = &last.0 else { break };
        if secret.files.paths.is_empty() {
            break;
        }
        let again = read(name, raw, data, known, findings)?;
        if again.0 == last.0 {
            return Ok(again);
        }
        last = again;
    }
    match &last.0 {
        Resource::Secret(secret) if !secret.files.paths.is_empty() => {
            Err(Refusal::because(name, None, format!("its files changed {READS} times while they were read")))
        }
        _ => Ok(last),
    }
}

fn read(
    name: &str,
    raw: &Any,
    data: &dyn DataLoader,
    known: &translate::Sources,
    findings: &Findings,
) -> Result<(Resource, Vec<Finding>), Refusal> {
    let options = translate::Options { sources: Some(known), ..translate::Options::new(data) };
    let mut d = Diagnostics::default();
    let done = translate::resource(Kind::Secret.resource_type(), raw, &Path::root(""), &mut d, &options);
    let Diagnostics { rejected, ignored, unknown, omitted, ignored_omitted: _ } = d;
    match done {
        Ok(resource) => findings.unknown(Kind::Secret.noun(), name, &unknown).map(|()| (resource, ignored)),
        Err(_) => Err(Refusal { name: name.into(), index: None, findings: rejected, omitted }),
    }
}

/// Whether a secret can be used: it parses, the key is the certificate's, nothing has expired.
fn check(secret: &Secret) -> Result<(), String> {
    crate::transport::tls::check(&secret.kind, SystemTime::now())
}

/// The secrets that a listener refers to.
pub(super) fn of_listener(listener: &config::Listener) -> impl Iterator<Item = &SdsReference> {
    let chains = listener.filter_chains.iter().chain(&listener.default_filter_chain);
    chains.filter_map(|chain| chain.transport_socket.as_ref()).flat_map(|tls| tls.secrets())
}

/// The secrets that a cluster refers to.
pub(super) fn of_cluster(cluster: &config::Cluster) -> impl Iterator<Item = &SdsReference> {
    let matched = cluster.transport_socket_matches.iter().filter_map(|m| m.tls.as_ref());
    cluster.transport_socket.iter().chain(matched).flat_map(|tls| tls.common.secrets())
}
