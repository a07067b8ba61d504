//! Clusters and their endpoints (Envoy `config.cluster.v3.Cluster`, `config.endpoint.v3`).

use super::{ConfigSource, Http1Options, Http2Options, Locality};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

/// A cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Unique name.
    pub name: Box<str>,
    /// Name in stats and `/clusters`; the cluster's own when not set (`alt_stat_name`).
    pub stat_name: Box<str>,
    /// Where endpoints come from.
    pub discovery: Discovery,
    /// Host choice.
    pub lb: LbPolicy,
    /// Default 5 s.
    pub connect_timeout: Duration,
    /// Protocol to the endpoints. Default HTTP/1.1.
    pub protocol: UpstreamProtocol,
    /// HTTP/1 knobs.
    pub http1: Http1Options,
    /// HTTP/2 knobs.
    pub http2: Http2Options,
    /// Idle pooled connection. Default 1 h; `None`: never closed.
    pub idle_timeout: Option<Duration>,
    /// Longest life of a pooled connection.
    pub max_connection_duration: Option<Duration>,
    /// Requests before a pooled connection is retired; `None`: no limit.
    pub max_requests_per_connection: Option<u32>,
    /// Most headers in a response. Default 100.
    pub max_headers_count: u32,
    /// Limits for default priority, then high.
    pub circuit_breakers: [CircuitThresholds; 2],
    /// Soft limit of bytes buffered per connection. Default 1 MiB.
    pub per_connection_buffer_limit_bytes: u32,
    /// Largest response head, KiB. Default 60.
    pub max_response_headers_kb: u32,
    /// TCP keepalive on upstream sockets; `None`: off.
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// Panic threshold in percent. Default 50; 0 never panics.
    pub healthy_panic_threshold: u8,
    /// Close connections to hosts that left (`close_connections_on_host_set_change`), else they drain.
    pub close_connections_on_host_change: bool,
}

/// Where endpoints come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Discovery {
    /// Written in place; IP addresses only.
    Static(Assignment),
    /// Every address of every name is a host.
    StrictDns(Assignment, DnsOptions),
    /// One name, one host at a time: the first address at connect time.
    LogicalDns(Assignment, DnsOptions),
    /// Assigned by name.
    Eds {
        /// Resource name; the cluster's when not set.
        service_name: Box<str>,
        /// Where to ask.
        source: ConfigSource,
    },
}

/// DNS knobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsOptions {
    /// Time between resolutions. Default 5 s.
    pub refresh_rate: Duration,
    /// Use the answer's TTL instead.
    pub respect_ttl: bool,
    /// Address family. Envoy's default (AUTO): IPv6, then IPv4 if that yields nothing.
    pub family: DnsFamily,
    /// Base and cap of the jittered backoff after failures; `None`: the refresh rate.
    pub failure_refresh: Option<(Duration, Duration)>,
    /// Take part in warming. Default true.
    pub wait_for_warm: bool,
    /// Which servers are asked, and how.
    pub resolver: DnsResolver,
}

/// How names are resolved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsResolver {
    /// Servers to ask; empty: the system's.
    pub servers: Vec<SocketAddr>,
    /// Ask by TCP only.
    pub use_tcp: bool,
    /// Do not append the system's search domains.
    pub no_search_domains: bool,
}

/// TCP keepalive of a socket; what is `None` is the system's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpKeepalive {
    /// Probes without an answer before the connection is dead.
    pub probes: Option<u32>,
    /// Idle time before the first probe, whole seconds.
    pub idle: Option<Duration>,
    /// Time between probes, whole seconds.
    pub interval: Option<Duration>,
}

/// Address family looked up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DnsFamily {
    /// IPv6, then IPv4.
    #[default]
    Auto,
    /// IPv4 only.
    V4Only,
    /// IPv6 only.
    V6Only,
    /// IPv4, then IPv6.
    V4Preferred,
    /// Both.
    All,
}

/// Host choice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LbPolicy {
    /// Weighted round robin.
    RoundRobin,
    /// Fewest active requests of `choices` random hosts; with unequal weights, weight over active requests.
    LeastRequest {
        /// Default 2.
        choices: u32,
    },
    /// Uniform by weight.
    Random,
}

/// Protocol to the endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UpstreamProtocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2, prior knowledge on plaintext.
    Http2,
    /// What the client used (`use_downstream_protocol_config`).
    Downstream,
}

/// Limits of one priority (Envoy `CircuitBreakers.Thresholds`), over all workers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CircuitThresholds {
    /// Connections. Default 1024.
    pub max_connections: u32,
    /// Requests waiting for a connection. Default 1024.
    pub max_pending_requests: u32,
    /// Requests at a time. Default 1024.
    pub max_requests: u32,
    /// Retries at a time. Default 3.
    pub max_retries: u32,
    /// Publish `remaining_*` gauges.
    pub track_remaining: bool,
}

impl Default for CircuitThresholds {
    fn default() -> Self {
        Self {
            max_connections: 1024,
            max_pending_requests: 1024,
            max_requests: 1024,
            max_retries: 3,
            track_remaining: false,
        }
    }
}

/// A set of endpoints (Envoy `ClusterLoadAssignment`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assignment {
    /// Cluster or service name.
    pub name: Box<str>,
    /// Endpoints by locality and priority, in order.
    pub localities: Vec<LocalityEndpoints>,
    /// In percent. Default 140.
    pub overprovisioning_factor: u32,
}

/// Endpoints of one locality at one priority.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalityEndpoints {
    /// Where.
    pub locality: Locality,
    /// 0 is the highest; priorities have no gaps.
    pub priority: u32,
    /// Locality weight; `None`: not set.
    pub weight: Option<u32>,
    /// The endpoints.
    pub endpoints: Vec<Endpoint>,
}

/// One endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where it listens.
    pub address: EndpointAddress,
    /// For host rewrites and DNS; may be empty.
    pub hostname: Box<str>,
    /// `1..`; default 1.
    pub weight: u32,
    /// Health told by the control plane.
    pub health: EndpointHealth,
    /// Metadata `envoy.lb` as text values, for subsets and logs.
    pub labels: BTreeMap<String, String>,
}

/// Where an endpoint listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum EndpointAddress {
    /// An IP address.
    Socket(SocketAddr),
    /// A name to resolve, in STRICT_DNS and LOGICAL_DNS clusters only.
    Name(Box<str>, u16),
}

/// Health told by the control plane (Envoy `HealthStatus`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EndpointHealth {
    /// UNKNOWN or HEALTHY.
    #[default]
    Healthy,
    /// DEGRADED.
    Degraded,
    /// UNHEALTHY, TIMEOUT.
    Unhealthy,
    /// DRAINING: no new requests, established ones go on.
    Draining,
}
