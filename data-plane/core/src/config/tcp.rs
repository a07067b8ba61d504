//! TCP proxying (Envoy `extensions.filters.network.tcp_proxy.v3.TcpProxy`).

use super::AccessLog;
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
    pub access_log: Vec<AccessLog>,
    /// When they are written besides at the end.
    pub log_options: TcpLogOptions,
    /// A connection is closed after the next bytes once its listener drains. Default false: at the end of draining.
    pub check_drain_close: bool,
}

/// Where connections go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TcpClusters {
    /// To this cluster.
    Named(Box<str>),
    /// To one of these, each by its share of the sum of weights, which is not zero.
    Weighted(Vec<(Box<str>, u32)>),
}

impl TcpClusters {
    /// The cluster of one connection. `random` is fresh.
    pub fn pick(&self, random: u64) -> &str {
        match self {
            Self::Named(name) => name,
            Self::Weighted(clusters) => {
                let total: u64 = clusters.iter().map(|(_, weight)| u64::from(*weight)).sum();
                let mut left = random % total.max(1);
                let chosen = clusters.iter().find(|(_, weight)| {
                    let weight = u64::from(*weight);
                    let here = left < weight;
                    left = left.saturating_sub(weight);
                    here
                });
                chosen.map_or("", |(name, _)| name)
            }
        }
    }

    /// All that may be picked.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let (named, weighted) = match self {
            Self::Named(name) => (Some(&**name), &[][..]),
            Self::Weighted(clusters) => (None, &clusters[..]),
        };
        named.into_iter().chain(weighted.iter().map(|(name, _)| &**name))
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
        let weighted = TcpClusters::Weighted(vec![("a".into(), 3), ("never".into(), 0), ("b".into(), 1)]);
        let picked: Vec<&str> = (0..8).map(|random| weighted.pick(random)).collect();
        assert_eq!(picked, ["a", "a", "a", "b", "a", "a", "a", "b"]);
        assert_eq!(TcpClusters::Named("c".into()).pick(7), "c");
    }
}
