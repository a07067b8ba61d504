//! The control side of clusters: which exist, which are warm, where their hosts come from.

mod warming;

use super::breaker::Breaker;
use super::cluster::{self, Cluster, Clusters};
use super::dns::{self, Resolve};
use super::health;
use super::host_set::HostSet;
use super::limits::Usage;
use super::members::{self, Kind};
use super::outlier::Detection;
use super::stats::{ClusterStats, ManagerStats};
use super::tls::ClusterTls;
use crate::stats::Registry;
use crate::transport::tls::slot::SecretSlots;
use data_plane_core::config::{self, Assignment, Discovery};
use data_plane_core::lb::Subsets;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::SystemTime;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::DropGuard;
use tokio_util::task::AbortOnDropHandle;

/// DNS questions under way at a time, over all clusters; further ones wait their turn.
const MAX_DNS_QUERIES: usize = 64;

/// Where a cluster comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The bootstrap.
    Static,
    /// A control plane or file.
    Dynamic {
        /// The version it came with.
        version: Box<str>,
    },
}

/// What [`Manager::set_cluster`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The same configuration was there.
    Unchanged,
    /// A new cluster.
    Added,
    /// Another configuration was there; it serves until the new one is warm.
    Updated,
}

/// Whether a cluster serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterState {
    /// Waits for its first hosts.
    Warming,
    /// Serves.
    Active,
}

/// A cluster as the admin interface shows it. A cluster that is being replaced shows twice.
#[derive(Clone, Debug)]
pub struct ClusterInfo {
    /// The cluster.
    pub cluster: Arc<Cluster>,
    /// Where it comes from.
    pub origin: Origin,
    /// Whether it serves.
    pub state: ClusterState,
    /// When it came.
    pub updated: SystemTime,
}

/// The control side of clusters: clones share it. Used on the control thread only, inside its runtime: resolution
/// of names runs there.
#[derive(Clone)]
pub struct Manager(Arc<Inner>);

impl std::fmt::Debug for Manager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("upstream::Manager").finish_non_exhaustive()
    }
}

struct Inner {
    me: Weak<Self>,
    registry: Registry,
    clusters: Clusters,
    stats: ManagerStats,
    warming: watch::Sender<usize>,
    resolver: Arc<dyn Resolve>,
    secrets: SecretSlots,
    dns_queries: Arc<Semaphore>,
    next_host: AtomicU64,
    health: health::Health,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    entries: BTreeMap<Box<str>, Entry>,
    /// By EDS name. Kept while a cluster asks for the name.
    services: BTreeMap<Box<str>, Service>,
    next_discovery: u64,
    next_slot: u64,
    /// Where ejections are logged.
    outlier_log: Option<PathBuf>,
    /// Entries with a slot of that kind.
    active: usize,
    warming: usize,
}

/// All there is under one cluster name.
struct Entry {
    stats: Arc<ClusterStats>,
    usage: Arc<Usage>,
    breaker: Option<Arc<Breaker>>,
    active: Option<Slot>,
    warming: Option<Slot>,
    /// EDS names that the slots ask for.
    asked: Vec<Box<str>>,
}

/// One configuration of a cluster and its hosts.
struct Slot {
    id: u64,
    cluster: Arc<Cluster>,
    origin: Origin,
    updated: SystemTime,
    /// What the hosts were made of last; `None` before the first.
    assignment: Option<Arc<Assignment>>,
    source: Source,
    /// Ends the task that watches its hosts; `None`: there is none.
    watch: Option<DropGuard>,
    /// Set while the slot must not warm up: what it is to warm up with.
    held: Option<Offer>,
}

/// What came for a slot that is held.
enum Offer {
    /// Nothing yet.
    Nothing,
    /// Its hosts, or that there are none.
    Hosts(Option<Arc<Assignment>>),
}

/// Where a slot's hosts come from; shared by a cluster and what replaces it when that discovers in the same way.
#[derive(Clone)]
struct Source {
    id: u64,
    /// Resolves names until the last slot that uses it is gone.
    _task: Option<Arc<AbortOnDropHandle<()>>>,
}

/// What an EDS name stands for.
#[derive(Default)]
struct Service {
    clusters: Vec<Box<str>>,
    /// The source has spoken, were it only to say that there is nothing.
    answered: bool,
    assignment: Option<Arc<Assignment>>,
}

impl Manager {
    /// No clusters. `resolver` serves DNS clusters.
    pub fn new(registry: &Registry, resolver: Arc<dyn Resolve>) -> Self {
        Self::with_secrets(registry, resolver, SecretSlots::default())
    }

    /// No clusters; their TLS contexts read delivered secrets out of `secrets`.
    pub fn with_secrets(registry: &Registry, resolver: Arc<dyn Resolve>, secrets: SecretSlots) -> Self {
        Self(Arc::new_cyclic(|me| Inner {
            me: Weak::clone(me),
            registry: registry.clone(),
            clusters: Clusters::default(),
            stats: ManagerStats::new(&registry.scope("cluster_manager.", "cluster_manager.", &[])),
            warming: watch::Sender::new(0),
            resolver,
            secrets,
            dns_queries: Arc::new(Semaphore::new(MAX_DNS_QUERIES)),
            next_host: AtomicU64::new(0),
            health: health::Health::new(),
            state: Mutex::default(),
        }))
    }

    /// Takes a cluster. A new one serves once it is warm; one that replaces another lets the old one serve until
    /// then.
    ///
    /// # Panics
    /// Outside a tokio runtime, for clusters discovered by DNS.
    pub fn set_cluster(&self, config: Arc<config::Cluster>, origin: Origin) -> Change {
        self.take_cluster(config, origin, None)
    }

    /// As [`Self::set_cluster`]; the cluster does not warm up before [`Self::release`]. What is known already is
    /// not held.
    ///
    /// # Panics
    /// Outside a tokio runtime, for clusters discovered by DNS.
    pub fn hold_cluster(&self, config: Arc<config::Cluster>, origin: Origin) -> Change {
        self.take_cluster(config, origin, Some(Offer::Nothing))
    }

    /// Lets a cluster that is held warm up.
    pub fn release(&self, name: &str) {
        let inner = &*self.0;
        let state = &mut *inner.state.lock();
        let warming = state.entries.get_mut(name).and_then(|entry| entry.warming.as_mut());
        if let Some(Offer::Hosts(hosts)) = warming.and_then(|slot| slot.held.take()) {
            inner.warm_up(state, name, hosts.as_ref());
            inner.link_services(state, name);
            inner.publish_counts(state);
        }
    }

    fn take_cluster(&self, config: Arc<config::Cluster>, origin: Origin, held: Option<Offer>) -> Change {
        let inner = &*self.0;
        let state = &mut *inner.state.lock();
        let name = config.name.clone();
        let mut change = Change::Updated;
        match state.entries.get_mut(&name) {
            None => change = Change::Added,
            Some(entry) => {
                let newest = entry.warming.as_ref().or(entry.active.as_ref());
                if newest.is_some_and(|slot| *slot.cluster.config == *config) {
                    return Change::Unchanged;
                }
                if entry.active.as_ref().is_some_and(|slot| *slot.cluster.config == *config) {
                    // Back to what still serves: what was to replace it is forgotten.
                    entry.warming = None;
                    entry.stats.membership.warming_state.set(0);
                    entry.usage.set(&config.circuit_breakers);
                    entry.breaker = entry.active.as_ref().and_then(|slot| slot.cluster.breaker().cloned());
                    state.warming -= 1;
                    inner.stats.cluster_modified.inc();
                    inner.link_services(state, &name);
                    inner.publish_counts(state);
                    return Change::Updated;
                }
            }
        }
        match change {
            Change::Added => inner.stats.cluster_added.inc(),
            _ => inner.stats.cluster_modified.inc(),
        }
        inner.place(state, &self.0, config, origin);
        if let Some(slot) = state.entries.get_mut(&name).and_then(|entry| entry.warming.as_mut()) {
            slot.held = held;
        }
        inner.link_services(state, &name);
        inner.seed(state, &name);
        // The old slot may have asked for another name than the one that took its place at once.
        inner.link_services(state, &name);
        inner.publish_counts(state);
        change
    }

    /// Forgets a cluster; requests under way finish. False when there is none of that name.
    pub fn remove_cluster(&self, name: &str) -> bool {
        let inner = &*self.0;
        let state = &mut *inner.state.lock();
        let Some(entry) = state.entries.remove(name) else { return false };
        inner.clusters.publish(name, None);
        state.active -= usize::from(entry.active.is_some());
        state.warming -= usize::from(entry.warming.is_some());
        if let Some(slot) = &entry.active {
            retire(&slot.cluster.hosts());
        }
        inner.clusters.announce_departures();
        inner.stats.cluster_removed.inc();
        state.unlink_services(name, &entry.asked);
        inner.publish_counts(state);
        true
    }

    /// Takes the endpoints that an EDS name stands for. `None`: there are none, or they did not come in time; ends
    /// the warming of clusters that wait for them, and leaves others as they are. A name that no cluster asks for
    /// is ignored.
    pub fn set_assignment(&self, service_name: &str, assignment: Option<Arc<Assignment>>) {
        let inner = &*self.0;
        let state = &mut *inner.state.lock();
        let Some(service) = state.services.get_mut(service_name) else { return };
        service.answered = true;
        if let Some(assignment) = &assignment {
            service.assignment = Some(Arc::clone(assignment));
        }
        let known = service.assignment.clone();
        for name in service.clusters.clone() {
            let Some(entry) = state.entries.get_mut(&name) else { continue };
            let asks = |slot: &Slot| match &slot.cluster.config.discovery {
                Discovery::Eds { service_name: asked, .. } => **asked == *service_name,
                _ => false,
            };
            if let Some(slot) = entry.active.as_mut().filter(|slot| asks(slot))
                && let Some(assignment) = &assignment
            {
                inner.assign(slot, assignment);
            }
            if entry.warming.as_ref().is_some_and(asks) {
                inner.warm_up(state, &name, known.as_ref());
                inner.link_services(state, &name);
            }
        }
        inner.publish_counts(state);
    }

    /// Whether a cluster of that name is known and none is warming.
    pub fn is_warm(&self, name: &str) -> bool {
        self.0.state.lock().entries.get(name).is_some_and(|entry| entry.warming.is_none())
    }

    /// The number of clusters still warming.
    pub fn warming(&self) -> watch::Receiver<usize> {
        self.0.warming.subscribe()
    }

    /// The slot that workers read.
    pub fn clusters(&self) -> Clusters {
        self.0.clusters.clone()
    }

    /// The stats of a cluster, warm or not.
    pub fn cluster_stats(&self, name: &str) -> Option<Arc<ClusterStats>> {
        self.0.state.lock().entries.get(name).map(|entry| Arc::clone(&entry.stats))
    }

    /// All clusters, ordered by name.
    pub fn infos(&self) -> Vec<ClusterInfo> {
        let state = self.0.state.lock();
        let info = |slot: &Slot, state| ClusterInfo {
            cluster: Arc::clone(&slot.cluster),
            origin: slot.origin.clone(),
            state,
            updated: slot.updated,
        };
        let both = state.entries.values().flat_map(|entry| {
            let active = entry.active.iter().map(|slot| info(slot, ClusterState::Active));
            active.chain(entry.warming.iter().map(|slot| info(slot, ClusterState::Warming)))
        });
        both.collect()
    }

    /// Where ejections by outlier detection are logged, in clusters that come from now on
    /// (`cluster_manager.outlier_detection.event_log_path`).
    pub fn set_outlier_log(&self, path: Option<PathBuf>) {
        self.0.state.lock().outlier_log = path;
    }

    /// Lets a cluster that serves take up what its hosts' health is now. Costs a pass over its hosts: those who
    /// change many hosts call it once.
    pub fn refresh_health(&self, name: &str) {
        let state = self.0.state.lock();
        if let Some(slot) = state.entries.get(name).and_then(|entry| entry.active.as_ref()) {
            self.0.refresh_slot(slot);
        }
    }

    /// Brings the gauges of circuit breakers up to date: they are not kept at all times, which spares requests two
    /// shared writes. Call it before metrics are collected.
    pub fn refresh_stats(&self) {
        for entry in self.0.state.lock().entries.values() {
            if entry.stats.is_used() {
                entry.usage.publish(&entry.stats);
            }
            if let Some(breaker) = &entry.breaker {
                breaker.publish();
            }
        }
    }
}

impl State {
    fn unlink_services(&mut self, cluster: &str, service_names: &[Box<str>]) {
        for service_name in service_names {
            if let Some(service) = self.services.get_mut(service_name) {
                service.clusters.retain(|c| **c != *cluster);
                if service.clusters.is_empty() {
                    self.services.remove(service_name);
                }
            }
        }
    }
}

impl Inner {
    /// Puts a new configuration into the warming slot, and starts what finds its hosts.
    fn place(&self, state: &mut State, shared: &Arc<Self>, config: Arc<config::Cluster>, origin: Origin) {
        let name = config.name.clone();
        let next_discovery = &mut state.next_discovery;
        state.next_slot += 1;
        let id = state.next_slot;
        let entry = state.entries.entry(name.clone()).or_insert_with(|| Entry {
            stats: Arc::new(ClusterStats::new(&self.registry, &config.stat_name)),
            usage: Usage::new(&config.circuit_breakers),
            breaker: None,
            active: None,
            warming: None,
            asked: Vec::new(),
        });
        entry.usage.set(&config.circuit_breakers);
        if entry.active.as_ref().is_some_and(|old| old.cluster.config.stat_name != config.stat_name) {
            entry.stats = Arc::new(ClusterStats::new(&self.registry, &config.stat_name));
        }
        let breaker = self.breaker(entry, &config);
        entry.breaker.clone_from(&breaker);
        let health = watched(&config, &entry.stats);
        let (stats, usage) = (Arc::clone(&entry.stats), Arc::clone(&entry.usage));
        let newest = entry.warming.as_ref().or(entry.active.as_ref()).map(|slot| &slot.cluster);
        let tls = ClusterTls::follow(newest.and_then(|old| old.tls()), &config, &self.secrets, &stats);
        let cluster = Cluster::new(Arc::clone(&config), stats, usage, breaker, health, tls);
        let dropped = entry.warming.take();
        let old = entry.active.as_ref();
        let same_source = [old, dropped.as_ref()]
            .into_iter()
            .flatten()
            .find(|slot| slot.cluster.config.discovery == config.discovery);
        let (source, assignment) = match same_source {
            Some(slot) => (slot.source.clone(), slot.assignment.clone()),
            None => {
                *next_discovery += 1;
                (self.discover(*next_discovery, shared, &config), None)
            }
        };
        entry.stats.membership.warming_state.set(1);
        let updated = SystemTime::now();
        entry.warming =
            Some(Slot { id, cluster, origin, updated, assignment, source, watch: None, held: None });
        state.warming += usize::from(dropped.is_none());
    }

    /// Starts what finds the hosts of a cluster.
    fn discover(&self, id: u64, shared: &Arc<Self>, config: &config::Cluster) -> Source {
        let (assignment, options, names) = match &config.discovery {
            Discovery::Static(_) | Discovery::Eds { .. } => return Source { id, _task: None },
            Discovery::StrictDns(assignment, options) => (assignment, options, dns::Names::All),
            Discovery::LogicalDns(assignment, options) => (assignment, options, dns::Names::First),
        };
        let (shared, name) = (Arc::downgrade(shared), config.name.clone());
        let task = dns::refresh(
            Arc::new(assignment.clone()),
            options.clone(),
            names,
            Arc::clone(&self.resolver),
            Arc::clone(&self.dns_queries),
            move |event| Self::resolved(&shared, &name, id, event),
        );
        Source { id, _task: Some(Arc::new(AbortOnDropHandle::new(tokio::spawn(task)))) }
    }

    /// Takes a step of a cluster's name resolution.
    fn resolved(shared: &Weak<Self>, name: &str, source: u64, event: dns::Event) {
        let Some(inner) = shared.upgrade() else { return };
        let state = &mut *inner.state.lock();
        let Some(entry) = state.entries.get_mut(name) else { return };
        let membership = &entry.stats.membership;
        match event {
            dns::Event::Attempt => membership.update_attempt.inc(),
            dns::Event::Success => membership.update_success.inc(),
            dns::Event::Empty => {
                membership.update_success.inc();
                membership.update_empty.inc();
            }
            dns::Event::Failure { name: dns_name, error, before } => {
                if before == 0 {
                    tracing::warn!(cluster = name, name = %dns_name, %error, "name not resolved; keeping known hosts");
                } else {
                    tracing::debug!(cluster = name, name = %dns_name, %error, before, "name still not resolved");
                }
                membership.update_failure.inc();
            }
            dns::Event::Endpoints(assignment) => {
                let assignment = Arc::new(assignment);
                if let Some(slot) = entry.active.as_mut().filter(|slot| slot.source.id == source) {
                    inner.assign(slot, &assignment);
                }
                if entry.warming.as_ref().is_some_and(|slot| slot.source.id == source) {
                    inner.warm_up(state, name, Some(&assignment));
                    inner.link_services(state, name);
                }
                inner.publish_counts(state);
            }
        }
    }

    /// The breaker of a configuration: the one that is there where it is the same.
    fn breaker(&self, entry: &Entry, config: &config::Cluster) -> Option<Arc<Breaker>> {
        let wanted = config.breaker.as_ref()?;
        if let Some(same) = entry.breaker.as_ref().filter(|breaker| breaker.is_of(wanted)) {
            return Some(Arc::clone(same));
        }
        let log = if wanted.event_log.is_some() { self.health.log() } else { health::EventLog::default() };
        Some(Breaker::new(&config.name, Arc::clone(wanted), entry.stats.scope(), log))
    }

    /// Updates a slot's hosts in place.
    fn assign(&self, slot: &mut Slot, assignment: &Arc<Assignment>) {
        let cluster = &slot.cluster;
        let membership = &cluster.stats.membership;
        if slot.assignment.as_deref() == Some(&**assignment) {
            membership.update_no_rebuild.inc();
            return;
        }
        let kind = match &cluster.config.discovery {
            Discovery::Static(_) => Kind::Static,
            Discovery::Eds { .. } | Discovery::StrictDns(..) => Kind::Unique,
            Discovery::LogicalDns(..) => Kind::Logical,
        };
        let first = slot.assignment.replace(Arc::clone(assignment)).is_none();
        let new_id = || self.next_host.fetch_add(1, Relaxed);
        let old = Arc::clone(&cluster.hosts());
        let mut update = members::update(&old, assignment, kind, cluster, new_id);
        if update.membership_changed && !first && cluster.config.close_connections_on_host_change {
            // All hosts begin anew, and with them their pools.
            update = members::update(&HostSet::default(), assignment, kind, cluster, new_id);
            update.left = old.iter().map(|host| Arc::clone(host.identity())).collect();
        }
        if !update.changed && !first {
            membership.update_no_rebuild.inc();
            return;
        }
        publish_counts(cluster, &update.hosts);
        cluster.set_hosts(update.hosts);
        for identity in &update.left {
            identity.retire();
        }
        if !update.left.is_empty() {
            self.clusters.announce_departures();
        }
        if update.membership_changed {
            membership.membership_change.inc();
        }
        self.stats.cluster_updated.inc();
        slot.cluster.bell().notify_one();
    }

    /// Lets a slot that serves take up what its hosts' flags say now.
    fn refresh_slot(&self, slot: &Slot) {
        let cluster = &slot.cluster;
        let (hosts, left) = members::refreshed(&cluster.hosts(), cluster);
        publish_counts(cluster, &hosts);
        cluster.set_hosts(Arc::new(hosts));
        if left.is_empty() {
            return;
        }
        left.iter().for_each(|identity| identity.retire());
        cluster.stats.membership.membership_change.inc();
        self.clusters.announce_departures();
        cluster.bell().notify_one();
    }

    /// Makes `services` name the cluster exactly where one of its slots asks.
    fn link_services(&self, state: &mut State, name: &str) {
        let Some(entry) = state.entries.get_mut(name) else { return };
        let mut asks: Vec<Box<str>> = Vec::new();
        for slot in [&entry.active, &entry.warming].into_iter().flatten() {
            if let Discovery::Eds { service_name, .. } = &slot.cluster.config.discovery
                && !asks.contains(service_name)
            {
                asks.push(service_name.clone());
            }
        }
        let mut gone = std::mem::replace(&mut entry.asked, asks.clone());
        gone.retain(|service_name| !asks.contains(service_name));
        for service_name in asks {
            let service = state.services.entry(service_name).or_default();
            if !service.clusters.iter().any(|c| **c == *name) {
                service.clusters.push(name.into());
            }
        }
        state.unlink_services(name, &gone);
    }

    /// Brings the gauges of the manager up to date.
    fn publish_counts(&self, state: &State) {
        self.stats.warming_clusters.set(state.warming as u64);
        self.stats.active_clusters.set(state.active as u64);
        self.warming.send_if_modified(|now| std::mem::replace(now, state.warming) != state.warming);
    }
}

/// What looks after the health of a cluster's hosts.
fn watched(config: &config::Cluster, stats: &ClusterStats) -> cluster::Health {
    let mut health = cluster::Health::default();
    let bell = Arc::clone(&health.bell);
    health.detection = config
        .outlier_detection
        .as_ref()
        .map(|options| Detection::new(Arc::clone(options), stats.scope(), bell));
    health.stats = config.health_check.as_ref().map(|_| stats.checks());
    health
}

/// Brings the gauges of a cluster's membership up to date, with `hosts` about to take the place of those it has.
fn publish_counts(cluster: &Cluster, hosts: &HostSet) {
    let membership = &cluster.stats.membership;
    let members::Counts { total, healthy, degraded, excluded, max_weight } = members::counts(hosts);
    membership.membership_total.set(total);
    membership.membership_healthy.set(healthy);
    membership.membership_degraded.set(degraded);
    membership.membership_excluded.set(excluded);
    membership.max_host_weight.set(max_weight);
    let old = cluster.hosts();
    let (old, new) = (old.subsets(), hosts.subsets());
    if old.is_none() && new.is_none() {
        return;
    }
    membership.lb_subsets_active.set(new.map_or(0, Subsets::len) as u64);
    membership.lb_subsets_created.add(new.map_or(0, |new| new.more_than(old)) as u64);
    membership.lb_subsets_removed.add(old.map_or(0, |old| old.more_than(new)) as u64);
    cluster.stats.subset_duplicates().set(new.map_or(0, Subsets::duplicates));
}

/// Tells pools that these hosts take no new requests.
fn retire(hosts: &HostSet) {
    for host in hosts.iter() {
        host.identity().retire();
    }
}

#[cfg(test)]
mod tests;
