//! Health of hosts: active checks, outlier detection, our circuit breaker.

use crate::guard::{circuit, health::Pace, outlier};
use crate::headers::edit::HeaderEdits;
use crate::matcher::{HeaderMatcher, StringMatcher};
use std::borrow::Cow;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

/// The active health check of a cluster (Envoy `config.core.v3.HealthCheck`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// When hosts are checked, and how many verdicts it takes.
    pub pace: Pace,
    /// Longest wait for a verdict, connecting included.
    pub timeout: Duration,
    /// Port in place of the hosts' own.
    pub alt_port: Option<u16>,
    /// Keep the connection for the next check. Default true.
    pub reuse_connection: bool,
    /// What is asked.
    pub probe: Probe,
    /// Files that events are appended to.
    pub event_logs: Vec<PathBuf>,
    /// Log every failure, not only the first.
    pub log_failures: bool,
    /// Log every success.
    pub log_successes: bool,
}

/// What a check asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// A request.
    Http(Box<HttpProbe>),
    /// A connection, perhaps with a few bytes both ways.
    Tcp(TcpProbe),
    /// `grpc.health.v1.Health/Check`.
    Grpc(GrpcProbe),
}

/// A request (Envoy `HttpHealthCheck`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpProbe {
    /// `host` header; empty: the cluster's name. An endpoint's own goes before.
    pub host: Box<str>,
    /// Path and query.
    pub path: Box<str>,
    /// Default `GET`.
    pub method: Cow<'static, str>,
    /// Body.
    pub send: Box<[u8]>,
    /// What the body of the response must hold, in this order.
    pub receive: Vec<Box<[u8]>>,
    /// Bytes of the response that are looked at. Default 1024; `None`: all (up to a limit of ours).
    pub response_buffer: Option<usize>,
    /// Edits of the request.
    pub edits: HeaderEdits,
    /// Statuses that pass. Default 200.
    pub expected: Vec<Range<u16>>,
    /// Statuses that fail and count against the threshold only.
    pub retriable: Vec<Range<u16>>,
    /// Speak HTTP/2.
    pub http2: bool,
    /// What `x-envoy-upstream-healthchecked-cluster` of the response must be.
    pub service_name: Option<StringMatcher>,
}

/// Bytes (Envoy `TcpHealthCheck`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TcpProbe {
    /// What is sent; empty: nothing.
    pub send: Box<[u8]>,
    /// What must come, in this order, perhaps with other bytes between; empty: connecting is enough.
    pub receive: Vec<Box<[u8]>>,
}

/// A call (Envoy `GrpcHealthCheck`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrpcProbe {
    /// The service asked for; empty: the server as a whole.
    pub service_name: Box<str>,
    /// `:authority`; empty: the cluster's name. An endpoint's own goes before.
    pub authority: Box<str>,
    /// Edits of the request.
    pub edits: HeaderEdits,
}

/// What an endpoint says of its active checks (Envoy `Endpoint.HealthCheckConfig`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct EndpointCheck {
    /// Port in place of its own.
    pub port: Option<u16>,
    /// `host` header of its checks.
    pub hostname: Box<str>,
    /// Where it is checked; its own address when not set.
    pub check_address: Option<SocketAddr>,
    /// It is not checked, and healthy as far as checks go.
    pub disabled: bool,
}

/// Answers health checks of this proxy (Envoy `envoy.filters.http.health_check`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheckFilter {
    /// Checks go on upstream; else they are answered here.
    pub pass_through: bool,
    /// How long an upstream's answer stands for those after it; with `pass_through` only.
    pub cache_time: Option<Duration>,
    /// Clusters and the percentage of their hosts that must be healthy; without `pass_through`.
    pub cluster_min_healthy: Vec<(Box<str>, u8)>,
    /// What makes a request a check: all of them.
    pub headers: Vec<HeaderMatcher>,
}

/// Outlier detection of a cluster.
pub use outlier::Options as OutlierDetection;

/// Our circuit breaker of a cluster (`portolan.extensions.v1.CircuitBreaker`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CircuitBreaker {
    /// When it opens and closes.
    pub options: circuit::Options,
    /// A file that changes of state are appended to.
    pub event_log: Option<PathBuf>,
}
