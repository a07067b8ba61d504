//! Routes (Envoy `config.route.v3.RouteConfiguration`).

use super::{BodyLimit, FilterOverrides, HashPolicy, MetadataMatch, Mirror, RateLimit, RetryPolicy};
use crate::headers::Metadata;
use crate::headers::edit::HeaderEdits;
use crate::matcher::{HeaderMatcher, QueryMatcher, Regex, Runtime, Substitution};
use std::sync::Arc;
use std::time::Duration;

/// A route configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteConfig {
    /// RDS resource name.
    pub name: Box<str>,
    /// Virtual hosts; domains are unique over all of them.
    pub virtual_hosts: Vec<VirtualHost>,
    /// Edits of requests.
    pub request_edits: HeaderEdits,
    /// Edits of responses.
    pub response_edits: HeaderEdits,
    /// Header names removed from external requests.
    pub internal_only_headers: Vec<Box<str>>,
    /// Apply edits from the route up instead of from the route configuration down.
    pub most_specific_header_mutations_wins: bool,
    /// Ignore the port of `:authority` when choosing a virtual host.
    pub ignore_port_in_host_matching: bool,
    /// Ignore path parameters (`;a=b`) when matching.
    pub ignore_path_parameters: bool,
    /// Refuse routes to clusters that do not exist. Default true for static routes, else false.
    pub validate_clusters: bool,
    /// What it says of filters.
    pub overrides: FilterOverrides,
}

/// A virtual host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualHost {
    /// Unique name.
    pub name: Box<str>,
    /// `host`, `*.suffix`, `prefix.*` or `*`, lowercase; at least one.
    pub domains: Vec<Box<str>>,
    /// Routes; the first that matches is taken.
    pub routes: Vec<Route>,
    /// Answer plaintext requests with a redirect to https.
    pub require_tls: RequireTls,
    /// Edits of requests.
    pub request_edits: HeaderEdits,
    /// Edits of responses.
    pub response_edits: HeaderEdits,
    /// Send x-envoy-attempt-count upstream.
    pub include_request_attempt_count: bool,
    /// Answer with x-envoy-attempt-count.
    pub include_attempt_count_in_response: bool,
    /// What its requests are told apart by, for rate limits.
    pub rate_limits: Vec<RateLimit>,
    /// Tell upstreams of retries whether a timeout led to them, in x-envoy-is-timeout-retry.
    pub include_is_timeout_retry: bool,
    /// What it says of filters.
    pub overrides: FilterOverrides,
}

/// Which requests must use TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RequireTls {
    /// None.
    #[default]
    No,
    /// Those from outside.
    External,
    /// All.
    All,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Name, for logs; may be empty.
    pub name: Box<str>,
    /// Which requests it takes.
    pub matches: RouteMatch,
    /// What happens to them.
    pub action: Action,
    /// What it says of tracing; `None`: nothing.
    pub tracing: Option<Box<super::RouteTracing>>,
    /// Edits of requests.
    pub request_edits: HeaderEdits,
    /// Edits of responses.
    pub response_edits: HeaderEdits,
    /// What it says of filters.
    pub overrides: FilterOverrides,
    /// Data of its own, for those that read it.
    pub metadata: Metadata,
}

/// Which requests a route takes. All parts must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteMatch {
    /// Path, without the query.
    pub path: PathMatch,
    /// ASCII case matters in the path. Has no effect on regexes. Default true.
    pub case_sensitive: bool,
    /// A share of requests.
    pub fraction: Option<RuntimeFraction>,
    /// Headers.
    pub headers: Vec<HeaderMatcher>,
    /// Query parameters.
    pub query: Vec<QueryMatcher>,
    /// Only gRPC requests (content-type application/grpc).
    pub grpc: bool,
}

/// A path condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    /// Starts with.
    Prefix(Box<str>),
    /// Equal.
    Exact(Box<str>),
    /// Equal, or continues with `/` (`path_separated_prefix`).
    Separated(Box<str>),
    /// The whole path matches.
    Regex(Regex),
}

/// A share in millionths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fraction {
    /// `0..=1_000_000`.
    pub per_million: u32,
}

/// A share that runtime may override.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeFraction {
    /// Used when the key is absent.
    pub default: Fraction,
    /// Runtime key; may be empty.
    pub key: Box<str>,
}

impl RuntimeFraction {
    /// Whether a stream with this random number falls into the share.
    pub fn takes(&self, random: u64, runtime: Option<Runtime<'_>>) -> bool {
        let overridden = match runtime {
            Some(runtime) if !self.key.is_empty() => runtime(&self.key),
            _ => None,
        };
        random % 1_000_000 < u64::from(overridden.unwrap_or(self.default.per_million))
    }
}

/// What happens to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Sent to a cluster.
    Forward(Box<Forward>),
    /// Answered with a redirect.
    Redirect(Box<Redirect>),
    /// Answered as written.
    Direct(DirectResponse),
}

/// Sending to a cluster (Envoy `RouteAction`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// Upgrade types that are accepted or not whatever the connection manager says, lowercase.
    pub upgrades: Vec<(Box<str>, bool)>,
    /// Which cluster.
    pub cluster: ClusterChoice,
    /// What its requests ask of a host's metadata, in clusters that are divided into subsets; `None`: nothing.
    pub metadata_match: Option<Arc<MetadataMatch>>,
    /// Status when it does not exist. Default 503.
    pub cluster_not_found_status: u16,
    /// Path rewrite.
    pub path_rewrite: Option<PathRewrite>,
    /// Host rewrite.
    pub host_rewrite: Option<HostRewrite>,
    /// Keep the old host in x-forwarded-host when it is rewritten.
    pub append_x_forwarded_host: bool,
    /// Whole upstream answer, from the end of the request. Default 15 s; `None`: no limit.
    pub timeout: Option<Duration>,
    /// Stream idle timeout in place of the manager's; `Some(None)`: none.
    pub idle_timeout: Option<Option<Duration>>,
    /// Longest life of a stream in place of the manager's; `Some(0)`: no bound.
    pub max_stream_duration: Option<Duration>,
    /// Upper bound taken from `grpc-timeout`; `None`: header not looked at. `Some(0)`: no bound.
    pub grpc_timeout_header_max: Option<Duration>,
    /// Subtracted from `grpc-timeout`.
    pub grpc_timeout_header_offset: Duration,
    /// What its requests are told apart by, for rate limits.
    pub rate_limits: Vec<RateLimit>,
    /// Use the virtual host's rate limits too.
    pub include_vh_rate_limits: bool,
    /// What policies that hash go by, in order.
    pub hash_policy: Vec<HashPolicy>,
    /// High priority: the second set of circuit breaker thresholds.
    pub high_priority: bool,
    /// Further tries, by the route or its virtual host.
    pub retry: Option<Arc<RetryPolicy>>,
    /// What of a body is kept for retries and mirrors, by the route or its virtual host.
    pub body_limit: BodyLimit,
    /// Copies, by the route, its virtual host or its route configuration.
    pub mirrors: Arc<[Mirror]>,
}

/// Which cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClusterChoice {
    /// By name.
    Named(Box<str>),
    /// The value of a request header.
    Header(Box<str>),
    /// By weight.
    Weighted(WeightedClusters),
}

/// A choice by weight (Envoy `WeightedCluster`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightedClusters {
    /// The clusters.
    pub clusters: Vec<ClusterWeight>,
    /// Sum of the weights, `1..=u32::MAX`.
    pub total: u32,
    /// A request header holding the random value.
    pub random_value_header: Option<Box<str>>,
    /// The random value is the request's hash by the route's `hash_policy`, where it has one.
    pub use_hash_policy: bool,
}

/// A cluster with its weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterWeight {
    /// Cluster name.
    pub name: Box<str>,
    /// Weight; zero is never chosen.
    pub weight: u32,
    /// What its requests ask of a host's metadata, the route's words taken in; `None`: nothing.
    pub metadata_match: Option<Arc<MetadataMatch>>,
    /// Edits of requests.
    pub request_edits: HeaderEdits,
    /// Edits of responses.
    pub response_edits: HeaderEdits,
    /// Literal host rewrite.
    pub host_rewrite: Option<Box<str>>,
    /// What it says of filters.
    pub overrides: FilterOverrides,
}

/// A path rewrite. `x-envoy-original-path` keeps the old one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathRewrite {
    /// Replaces the matched prefix or path (`prefix_rewrite`).
    Prefix(Box<str>),
    /// Replaces every match in the path without query (`regex_rewrite`).
    Regex(Regex, Substitution),
}

/// A host rewrite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostRewrite {
    /// This host.
    Literal(Box<str>),
    /// The chosen endpoint's host name (STRICT_DNS, LOGICAL_DNS, EDS with hostname).
    Auto,
    /// The value of a request header.
    Header(Box<str>),
    /// Regex over the path.
    PathRegex(Regex, Substitution),
}

/// A redirect (Envoy `RedirectAction`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// New scheme; `None` keeps it.
    pub scheme: Option<Box<str>>,
    /// New host; `None` keeps it.
    pub host: Option<Box<str>>,
    /// New port; `None` keeps it, or drops the default one on a change of scheme.
    pub port: Option<u16>,
    /// New path.
    pub path: Option<RedirectPath>,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
    /// Drop the query.
    pub strip_query: bool,
}

/// A redirect's path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedirectPath {
    /// All of it; may hold a query.
    Full(Box<str>),
    /// In place of the matched prefix.
    Prefix(Box<str>),
    /// Every match replaced.
    Regex(Regex, Substitution),
}

/// An answer as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectResponse {
    /// `200..=599`.
    pub status: u16,
    /// Body; at most 4 KiB unless the route configuration raises it.
    pub body: bytes::Bytes,
    /// A formatted body instead.
    pub body_format: Option<super::BodyFormat>,
}
