//! The bootstrap: who this proxy is, what it serves from the start and where it learns the rest.

use super::{Cluster, ConfigSource, DnsResolver, GrpcSource, GrpcTarget, Listener, Secret};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Everything a proxy starts from (Envoy `config.bootstrap.v3.Bootstrap`).
#[derive(Clone, Debug, PartialEq)]
pub struct Bootstrap {
    /// This proxy, as told to control planes.
    pub node: Node,
    /// Static clusters, in order; names are unique.
    pub clusters: Vec<Arc<Cluster>>,
    /// Static listeners, in order; names and addresses are unique.
    pub listeners: Vec<Arc<Listener>>,
    /// Static secrets, in order; names are unique.
    pub secrets: Vec<Arc<Secret>>,
    /// Where the rest comes from.
    pub dynamic: Dynamic,
    /// The admin server; `None`: not served.
    pub admin: Option<Admin>,
    /// Stats knobs.
    pub stats: StatsOptions,
    /// Flattened static runtime layers: key to value as text, later layers win.
    pub runtime: Vec<(String, String)>,
    /// `/runtime_modify` may add a layer on top (Envoy's admin layer). Default true without `layered_runtime`.
    pub runtime_admin_layer: bool,
    /// How names are resolved where a cluster does not say.
    pub dns: DnsResolver,
    /// A file that ejections by outlier detection are appended to.
    pub outlier_log: Option<PathBuf>,
    /// Lines of the proxy's own log (`application_log_config`). `None`: as the command line says.
    pub log_format: Option<LogFormat>,
}

/// Lines of the proxy's own log, as a pattern in spdlog's language.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFormat {
    /// The pattern.
    pub pattern: Box<str>,
    /// It makes a JSON object.
    pub json: bool,
}

/// Dynamic sources.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dynamic {
    /// Listeners.
    pub lds: Option<ConfigSource>,
    /// Clusters.
    pub cds: Option<ConfigSource>,
    /// The aggregated stream that `ads: {}` sources mean.
    pub ads: Option<GrpcSource>,
}

/// The node identity sent to control planes (Envoy `config.core.v3.Node`).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Node {
    /// `--service-node` or `node.id`.
    pub id: String,
    /// `--service-cluster` or `node.cluster`.
    pub cluster: String,
    /// Where it runs; `--service-zone` sets the zone.
    pub locality: Locality,
    /// Anything the control plane wants to know: a JSON object.
    pub metadata: serde_json::Map<String, serde_json::Value>,
}

/// Where something runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Locality {
    /// Region.
    pub region: String,
    /// Zone.
    pub zone: String,
    /// Sub-zone.
    pub sub_zone: String,
}

/// The admin server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Where it listens.
    pub address: SocketAddr,
    /// `admin.access_log`: file access logs of admin requests.
    pub access_log: Vec<super::AccessLog>,
    /// Where to write the address once bound (`--admin-address-path`).
    pub address_path: Option<PathBuf>,
}

/// Stats knobs (Envoy `config.metrics.v3.StatsConfig`), as far as they are honoured, and where stats are sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatsOptions {
    /// Tags with a fixed value added to every metric.
    pub fixed_tags: Vec<(String, String)>,
    /// Intervals of histograms, and between two reports to sinks. Default 5 s (Envoy `stats_flush_interval`).
    pub flush_interval: Duration,
    /// Services that metrics are sent to.
    pub sinks: Vec<MetricsSink>,
}

impl Default for StatsOptions {
    fn default() -> Self {
        Self { fixed_tags: Vec::new(), flush_interval: Duration::from_secs(5), sinks: Vec::new() }
    }
}

/// A service that takes all metrics at every flush (Envoy `config.metrics.v3.MetricsServiceConfig`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricsSink {
    /// The service.
    pub target: GrpcTarget,
    /// Counters tell what came since the last report, not since the start.
    pub counters_as_deltas: bool,
    /// Tags go into labels, and not into names.
    pub tags_as_labels: bool,
    /// Histograms are sent as quantiles.
    pub summaries: bool,
    /// Histograms are sent as buckets.
    pub histograms: bool,
    /// Metrics in a message; 0: all in one.
    pub batch_size: u32,
}
