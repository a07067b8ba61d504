//! A cluster as workers see it, and the slot that all of them read.

use super::host::{Host, HostSet};
use super::limits::Usage;
use super::stats::ClusterStats;
use arc_swap::ArcSwap;
use data_plane_core::config::{self, UpstreamProtocol};
use data_plane_core::headers::Version;
use foldhash::fast::FixedState;
use hashbrown::HashMap;
use std::fmt;
use std::hash::BuildHasher;
use std::sync::Arc;
use tokio::sync::watch;

/// A cluster that serves.
pub struct Cluster {
    /// Its configuration.
    pub config: Arc<config::Cluster>,
    /// Its metrics; shared with what it replaced.
    pub stats: Arc<ClusterStats>,
    /// What it uses of its limits; shared with what it replaced.
    pub usage: Arc<Usage>,
    hosts: ArcSwap<HostSet>,
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
    ) -> Arc<Self> {
        Arc::new(Self { config, stats, usage, hosts: ArcSwap::default() })
    }

    /// The hosts at this moment.
    pub fn hosts(&self) -> arc_swap::Guard<Arc<HostSet>> {
        self.hosts.load()
    }

    /// A host for one request; `None` when there is none to send to. Charges `upstream_cx_none_healthy` and
    /// `lb_healthy_panic`.
    ///
    /// `random` is fresh for each call; `hash` is the request's, for policies that keep requests together.
    pub fn pick(&self, random: u64, hash: Option<u64>) -> Option<Arc<Host>> {
        let hosts = self.hosts.load();
        let picked = hosts.pick(random, hash);
        match &picked {
            None => {
                self.stats.upstream_cx_none_healthy.inc();
                // As Envoy: nobody at all is a panic too.
                self.stats.lb_healthy_panic.inc();
            }
            Some(_) if hosts.in_panic() => self.stats.lb_healthy_panic.inc(),
            Some(_) => {}
        }
        picked
    }

    /// What is spoken with its hosts for a request that came in `downstream`.
    pub fn version_for(&self, downstream: Version) -> Version {
        match self.config.protocol {
            UpstreamProtocol::Http1 => Version::Http11,
            UpstreamProtocol::Http2 => Version::Http2,
            UpstreamProtocol::Downstream if downstream == Version::Http2 => Version::Http2,
            UpstreamProtocol::Downstream => Version::Http11,
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
