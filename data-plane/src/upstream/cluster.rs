//! A cluster as workers see it, and the slot that all of them read.

use super::breaker::Breaker;
use super::host::Host;
use super::host_set::{HostSet, Pick};
use super::limits::Usage;
use super::outlier::Detection;
use super::pick::PickRequest;
use super::stats::{CheckStats, ClusterStats};
use super::tls::ClusterTls;
use arc_swap::ArcSwap;
use data_plane_core::config::{self, UpstreamProtocol};
use data_plane_core::headers::{HeaderId, ResponseHead, Version};
use data_plane_core::lb::Via;
use foldhash::fast::FixedState;
use hashbrown::HashMap;
use std::fmt;
use std::hash::BuildHasher;
use std::sync::Arc;
use tokio::sync::{Notify, watch};

/// A cluster that serves.
pub struct Cluster {
    /// Its configuration.
    pub config: Arc<config::Cluster>,
    /// Its metrics; shared with what it replaced.
    pub stats: Arc<ClusterStats>,
    /// What it uses of its limits; shared with what it replaced.
    pub usage: Arc<Usage>,
    pub(super) breaker: Option<Arc<Breaker>>,
    health: Health,
    tls: Option<Arc<ClusterTls>>,
    hosts: ArcSwap<HostSet>,
}

/// What looks after the health of a cluster's hosts.
#[derive(Default)]
pub(super) struct Health {
    pub(super) detection: Option<Arc<Detection>>,
    pub(super) stats: Option<CheckStats>,
    /// Wakes the task that watches it.
    pub(super) bell: Arc<Notify>,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("name", &self.config.name).finish_non_exhaustive()
    }
}

impl Cluster {
    /// A cluster without hosts.
    pub(super) fn new(
        config: Arc<config::Cluster>,
        stats: Arc<ClusterStats>,
        usage: Arc<Usage>,
        breaker: Option<Arc<Breaker>>,
        health: Health,
        tls: Option<Arc<ClusterTls>>,
    ) -> Arc<Self> {
        Arc::new(Self { config, stats, usage, breaker, health, tls, hosts: ArcSwap::default() })
    }

    /// TLS to its hosts, and headers before it; `None`: connections to all of them begin plain.
    pub fn tls(&self) -> Option<&Arc<ClusterTls>> {
        self.tls.as_ref()
    }

    /// Our circuit breaker, if it has one.
    pub fn breaker(&self) -> Option<&Arc<Breaker>> {
        self.breaker.as_ref()
    }

    /// Its outlier detection, if it has any.
    pub fn detection(&self) -> Option<&Arc<Detection>> {
        self.health.detection.as_ref()
    }

    pub(super) fn check_stats(&self) -> Option<&CheckStats> {
        self.health.stats.as_ref()
    }

    pub(super) fn bell(&self) -> &Arc<Notify> {
        &self.health.bell
    }

    /// Counts an answer whose sender's name was looked at.
    pub(super) fn count_verified(&self) {
        if let Some(stats) = self.check_stats() {
            stats.verify_cluster.inc();
        }
    }

    /// Takes notice of an answer of `host` that asks for it to be left out at once
    /// (`x-envoy-immediate-health-check-fail`). Costs a branch where hosts are not health checked.
    #[inline]
    pub fn heed(&self, host: &Host, head: &ResponseHead) {
        if self.health.stats.is_some() && head.headers.contains_id(HeaderId::XEnvoyImmediateHealthCheckFail) {
            host.complain();
            self.health.bell.notify_one();
        }
    }

    /// The hosts at this moment.
    pub fn hosts(&self) -> arc_swap::Guard<Arc<HostSet>> {
        self.hosts.load()
    }

    /// A host for one request; `None` when there is none to send to. Charges `upstream_cx_none_healthy`,
    /// `lb_healthy_panic` and `lb_subsets_*`.
    pub fn pick(&self, request: &PickRequest<'_>) -> Option<Arc<Host>> {
        let hosts = self.hosts.load();
        let Pick { host, in_panic, via } = hosts.pick(request, &self.stats);
        if host.is_none() {
            self.stats.upstream_cx_none_healthy.inc();
        }
        match via {
            None | Some(Via::Other) => {}
            Some(Via::Subset) => self.stats.lb_subsets_selected.inc(),
            Some(Via::Fallback) => self.stats.lb_subsets_fallback.inc(),
            Some(Via::Panic) => self.stats.lb_subsets_fallback_panic.inc(),
        }
        // As Envoy: nobody at all is a panic too.
        if in_panic || (hosts.is_empty() && self.config.healthy_panic_threshold > 0) {
            self.stats.lb_healthy_panic.inc();
        }
        host
    }

    /// Whether connections made under `other` are of the same kind.
    pub(super) fn has_tls_of(&self, other: &Self) -> bool {
        match (&self.tls, &other.tls) {
            (None, None) => true,
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }

    /// What is spoken with its hosts for a request that came in `downstream`.
    pub fn version_for(&self, downstream: Version) -> Version {
        match self.config.protocol {
            UpstreamProtocol::Http1 => Version::Http11,
            UpstreamProtocol::Http2 => Version::Http2,
            UpstreamProtocol::Downstream if downstream == Version::Http2 => Version::Http2,
            // ALPN decides, connection by connection; pools find out.
            UpstreamProtocol::Downstream | UpstreamProtocol::Auto => Version::Http11,
        }
    }

    pub(super) fn set_hosts(&self, hosts: Arc<HostSet>) {
        self.hosts.store(hosts);
    }
}

/// Shards of a snapshot: publishing a change to one cluster copies one shard and this many pointers.
const SHARDS: usize = 128;

type Shard = HashMap<Box<str>, Arc<Cluster>, FixedState>;

/// All clusters that serve, at one moment.
#[derive(Clone)]
pub struct Snapshot {
    shards: Box<[Arc<Shard>]>,
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().map(|c| &c.config.name)).finish()
    }
}

impl Default for Snapshot {
    fn default() -> Self {
        let empty = Arc::new(Shard::with_hasher(FixedState::default()));
        Self { shards: vec![empty; SHARDS].into() }
    }
}

impl Snapshot {
    /// The cluster of that name.
    pub fn get(&self, name: &str) -> Option<&Arc<Cluster>> {
        self.shards[shard_of(name)].get(name)
    }

    /// All clusters, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Cluster>> {
        self.shards.iter().flat_map(|shard| shard.values())
    }

    /// Number of clusters.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.len()).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.shards.iter().all(|shard| shard.is_empty())
    }

    /// The same with `cluster` under `name`, or without it.
    fn with(&self, name: &str, cluster: Option<Arc<Cluster>>) -> Self {
        let mut next = self.clone();
        let shard = Arc::make_mut(&mut next.shards[shard_of(name)]);
        match cluster {
            Some(cluster) => drop(shard.insert(name.into(), cluster)),
            None => drop(shard.remove(name)),
        }
        next
    }
}

fn shard_of(name: &str) -> usize {
    // Another seed than the shard's own hasher, whose buckets would otherwise all share their low bits.
    FixedState::with_seed(0x5eed).hash_one(name) as usize % SHARDS
}

/// The slot of the current [`Snapshot`]; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Clusters(Arc<Slot>);

#[derive(Debug, Default)]
struct Slot {
    snapshot: ArcSwap<Snapshot>,
    /// Changes whenever hosts were retired.
    departures: watch::Sender<()>,
}

impl Clusters {
    /// The snapshot at this moment: load it once a request.
    pub fn load(&self) -> arc_swap::Guard<Arc<Snapshot>> {
        self.0.snapshot.load()
    }

    /// Only the manager writes, and it serialises its writes.
    pub(super) fn publish(&self, name: &str, cluster: Option<Arc<Cluster>>) {
        let next = self.load().with(name, cluster);
        self.0.snapshot.store(Arc::new(next));
    }

    /// Lets pools look for hosts that were retired.
    pub(super) fn announce_departures(&self) {
        self.0.departures.send_replace(());
    }

    /// Changes whenever hosts were retired.
    pub(super) fn departures(&self) -> watch::Receiver<()> {
        self.0.departures.subscribe()
    }
}
