//! Clusters and their endpoints (Envoy `config.cluster.v3.Cluster`, `config.endpoint.v3`).

use super::{
    AutoSni, CircuitBreaker, ConfigSource, EndpointCheck, HealthCheck, Http1Options, Http2Options, LbPolicy,
    Locality, LocalityLb, OutlierDetection, ProxyProtocolVersion, SubsetConfig, TransportSocketMatch,
    UpstreamTls,
};
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
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
    /// Hosts are divided by their metadata, and chosen among within a part; `None`: they are not.
    pub subsets: Option<Arc<SubsetConfig>>,
    /// Which localities get the requests.
    pub locality_lb: LocalityLb,
    /// In panic, answer that there is no healthy host rather than use unhealthy ones. Not in policies that hash.
    pub fail_traffic_on_panic: bool,
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
    /// Most connections to one host (`per_host_thresholds`); `None`: no limit.
    pub max_connections_per_host: Option<u32>,
    /// Active health check; `None`: hosts are not checked.
    pub health_check: Option<Arc<HealthCheck>>,
    /// Outlier detection; `None`: off.
    pub outlier_detection: Option<Arc<OutlierDetection>>,
    /// Our circuit breaker; `None`: off.
    pub breaker: Option<Arc<CircuitBreaker>>,
    /// A host that its source no longer names goes at once, even while its health checks pass. Default false.
    pub ignore_health_on_host_removal: bool,
    /// New hosts take no part in any sums before their first check. Default false.
    pub ignore_new_hosts_until_first_check: bool,
    /// Soft limit of bytes buffered per connection. Default 1 MiB.
    pub per_connection_buffer_limit_bytes: u32,
    /// Largest response head, KiB. Default 80 for HTTP/1, 60 for HTTP/2.
    pub max_response_headers_kb: Option<u32>,
    /// TLS to endpoints that no match chooses another for; `None`: plaintext.
    pub transport_socket: Option<Arc<UpstreamTls>>,
    /// Of the header that connections to those endpoints begin with, before TLS, to tell whose connection they
    /// serve; `None`: there is none.
    pub proxy_protocol: Option<ProxyProtocolVersion>,
    /// TLS by endpoint metadata: the first match counts.
    pub transport_socket_matches: Vec<TransportSocketMatch>,
    /// SNI and SAN out of requests.
    pub auto_sni: AutoSni,
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
    /// What ALPN yields (`auto_config`): HTTP/2, or HTTP/1.1.
    Auto,
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
    /// Limits retries in place of `max_retries`.
    pub retry_budget: Option<RetryBudget>,
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
            retry_budget: None,
            track_remaining: false,
        }
    }
}

/// Retries as a share of what is under way (Envoy `CircuitBreakers.Thresholds.RetryBudget`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryBudget {
    /// Of requests that are active or wait for a connection, in millionths. Default 20 %.
    pub per_million: u32,
    /// Retries that are allowed however few requests there are. Default 3.
    pub min_concurrency: u32,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self { per_million: 200_000, min_concurrency: 3 }
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
    /// The health of a priority is that of its weight, not of its number of hosts.
    pub weighted_priority_health: bool,
}

/// Endpoints of one locality at one priority.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalityEndpoints {
    /// Where.
    pub locality: Locality,
    /// 0 is the highest; one that no endpoints have is as one without hosts.
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
    /// Metadata `envoy.lb`, for subsets, hash keys and logs.
    pub labels: BTreeMap<String, Value>,
    /// Metadata `envoy.transport_socket_match`: chooses the transport socket.
    pub transport_labels: BTreeMap<String, Value>,
    /// Its own way of being checked.
    pub check: Option<Box<EndpointCheck>>,
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
