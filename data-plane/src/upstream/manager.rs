//! The control side of clusters.

use super::cluster::{Cluster, Clusters};
use super::dns::Resolve;
use super::stats::ManagerStats;
use crate::stats::Registry;
use data_plane_core::config;
use std::sync::Arc;
use std::time::SystemTime;
use tokio::sync::watch;

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

struct Inner {
    clusters: Clusters,
    stats: ManagerStats,
    warming: watch::Sender<usize>,
    resolver: Arc<dyn Resolve>,
}

impl Manager {
    /// No clusters. `resolver` serves DNS clusters.
    pub fn new(registry: &Registry, resolver: Arc<dyn Resolve>) -> Self {
        Self(Arc::new(Inner {
            clusters: Clusters::default(),
            stats: ManagerStats::new(&registry.scope("cluster_manager.", "cluster_manager.", &[])),
            warming: watch::Sender::new(0),
            resolver,
        }))
    }

    /// Takes a cluster. A new one serves once it is warm; one that replaces another lets the old one serve until
    /// then.
    ///
    /// # Panics
    /// Outside a tokio runtime, for clusters discovered by DNS.
    pub fn set_cluster(&self, config: Arc<config::Cluster>, origin: Origin) -> Change {
        let _ = (config, origin, &self.0.resolver, &self.0.stats);
        Change::Added
    }

    /// Forgets a cluster; requests under way finish. False when there is none of that name.
    pub fn remove_cluster(&self, name: &str) -> bool {
        let _ = name;
        false
    }

    /// Takes the endpoints that an EDS name stands for. `None`: there are none, or they did not come in time; ends
    /// the warming of clusters that wait for them, and leaves others as they are.
    pub fn set_assignment(&self, service_name: &str, assignment: Option<Arc<config::Assignment>>) {
        let _ = (service_name, assignment);
    }

    /// Whether a cluster of that name is known and none is warming.
    pub fn is_warm(&self, name: &str) -> bool {
        let _ = name;
        false
    }

    /// The number of clusters still warming.
    pub fn warming(&self) -> watch::Receiver<usize> {
        self.0.warming.subscribe()
    }

    /// The slot that workers read.
    pub fn clusters(&self) -> Clusters {
        self.0.clusters.clone()
    }

    /// All clusters, ordered by name.
    pub fn infos(&self) -> Vec<ClusterInfo> {
        Vec::new()
    }

    /// Brings gauges that are not kept up at all times up to date. Call before metrics are collected.
    pub fn refresh_stats(&self) {}
}
