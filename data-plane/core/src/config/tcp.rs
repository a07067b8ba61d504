//! TCP proxying (Envoy `extensions.filters.network.tcp_proxy.v3.TcpProxy`).

use super::{ConnectionLogs, MetadataMatch};
use std::sync::Arc;
use std::time::Duration;

/// A filter that carries the bytes of a connection to a host and back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpProxy {
    /// Of its stats: `tcp.<prefix>.`.
    pub stat_prefix: Box<str>,
    /// Where connections go.
    pub clusters: TcpClusters,
    /// Ends a connection on which nothing moved either way for so long. Default 1 h; `None`: never.
    pub idle_timeout: Option<Duration>,
    /// Hosts tried before a connection is given up. Default 1.
    pub max_connect_attempts: u32,
    /// Longest life of a connection; `None`: no limit.
    pub max_duration: Option<Duration>,
    /// Lengthens `max_duration` by up to this share of it, drawn for each connection. Default 0.
    pub max_duration_jitter_per_million: u32,
    /// Policies that hash are given the client's address.
    pub hash_source_ip: bool,
    /// Logs of connections.
    pub access_log: ConnectionLogs,
    /// When they are written besides at the end.
    pub log_options: TcpLogOptions,
    /// A connection is closed after the next bytes once its listener drains. Default false: at the end of draining.
    pub check_drain_close: bool,
}

/// Where connections go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TcpClusters {
    /// To this one.
    Named(TcpTarget),
    /// To one of these, each by its share of the sum of weights, which is not zero.
    Weighted(Vec<(TcpTarget, u32)>),
}

/// A cluster, and what is asked of its hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpTarget {
    /// The cluster.
    pub name: Box<str>,
    /// What their metadata must hold, in clusters that are divided into subsets.
    pub metadata_match: Option<Arc<MetadataMatch>>,
}

impl TcpClusters {
    /// The cluster of one connection. `random` is fresh.
    pub fn pick(&self, random: u64) -> Option<&TcpTarget> {
        match self {
            Self::Named(target) => Some(target),
            Self::Weighted(clusters) => {
                let total: u64 = clusters.iter().map(|(_, weight)| u64::from(*weight)).sum();
                let mut left = random % total.max(1);
                let chosen = clusters.iter().find(|(_, weight)| {
                    let weight = u64::from(*weight);
                    let here = left < weight;
                    left = left.saturating_sub(weight);
                    here
                });
                chosen.map(|(target, _)| target)
            }
        }
    }

    /// All that may be picked.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let (named, weighted) = match self {
            Self::Named(target) => (Some(&*target.name), &[][..]),
            Self::Weighted(clusters) => (None, &clusters[..]),
        };
        named.into_iter().chain(weighted.iter().map(|(target, _)| &*target.name))
    }
}

/// When logs of connections are written besides at their end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpLogOptions {
    /// When the connection is accepted.
    pub on_start: bool,
    /// When a host is connected.
    pub on_connected: bool,
    /// Every so often.
    pub interval: Option<Duration>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_are_picked_by_their_shares() {
        let target = |name: &str| TcpTarget { name: name.into(), metadata_match: None };
        let weighted = TcpClusters::Weighted(vec![(target("a"), 3), (target("never"), 0), (target("b"), 1)]);
        let picked: Vec<&str> =
            (0..8).filter_map(|random| weighted.pick(random)).map(|target| &*target.name).collect();
        assert_eq!(picked, ["a", "a", "a", "b", "a", "a", "a", "b"]);
        assert_eq!(TcpClusters::Named(target("c")).pick(7), Some(&target("c")));
    }
}
