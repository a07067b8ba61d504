//! Rate limits: what requests are told apart by, and the filters that limit them.

use super::{GrpcTarget, RuntimeFraction};
use crate::guard::Fill;
use crate::headers::MetadataKey;
use crate::headers::edit::HeaderEdits;
use crate::headers::format::Format;
use crate::matcher::{Cidr, HeaderMatcher, QueryMatcher};
use std::sync::Arc;
use std::time::Duration;

/// Makes a descriptor of a request (Envoy `config.route.v3.RateLimit`): the entries of its actions in order. An
/// action that has no entry to give makes that there is no descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Only filters of the same stage take it up.
    pub stage: u32,
    /// Runtime key `ratelimit.<key>.http_filter_enabled` turns it off; may be empty.
    pub disable_key: Box<str>,
    /// At least one.
    pub actions: Vec<RateLimitAction>,
    /// A limit in place of the service's own.
    pub limit: Option<LimitOverride>,
    /// Hits in place of one.
    pub hits: Option<Hits>,
    /// X-RateLimit headers in place of what the filter says.
    pub x_ratelimit: Option<bool>,
}

/// Adds an entry to a descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RateLimitAction {
    /// `source_cluster`: the cluster this proxy says it is of.
    SourceCluster,
    /// `destination_cluster`: the route's.
    DestinationCluster,
    /// A request header.
    Header(ValueAction),
    /// A query parameter.
    QueryParameter(ValueAction),
    /// `remote_address`: the client as far as it can be trusted.
    RemoteAddress,
    /// `masked_remote_address`: the client's network.
    MaskedRemoteAddress {
        /// Prefix length for IPv4, 0 to 32.
        v4: u8,
        /// Prefix length for IPv6, 0 to 128.
        v6: u8,
    },
    /// A fixed entry.
    Generic {
        /// Key. Default `generic_key`.
        key: Box<str>,
        /// Value.
        value: Box<str>,
    },
    /// A fixed entry where headers match, or do not.
    HeaderMatch(MatchAction<HeaderMatcher>),
    /// A fixed entry where query parameters match, or do not.
    QueryMatch(MatchAction<QueryMatcher>),
    /// A value of metadata.
    Metadata(MetadataAction),
    /// An entry where the client is of certain networks, or is not.
    RemoteAddressMatch {
        /// Key. Default `remote_address_match`.
        key: Box<str>,
        /// Value; formatted.
        value: Format,
        /// In place of an empty value; may be empty.
        default: Box<str>,
        /// Networks.
        ranges: Vec<Cidr>,
        /// Where the client is of none of them.
        invert: bool,
    },
}

/// An entry whose value is found by a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValueAction {
    /// Where the value is found. Header names are lowercase.
    pub name: Box<str>,
    /// Key of the entry.
    pub key: Box<str>,
    /// A missing value leaves out the entry, not the descriptor.
    pub skip_if_absent: bool,
}

/// A fixed entry under a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MatchAction<M> {
    /// Key of the entry.
    pub key: Box<str>,
    /// Value of the entry.
    pub value: Box<str>,
    /// Whether the matchers must match. Default true.
    pub expected: bool,
    /// All must match.
    pub matchers: Vec<M>,
}

/// An entry out of metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetadataAction {
    /// Key of the entry.
    pub key: Box<str>,
    /// Where the value is; only texts count.
    pub at: MetadataKey,
    /// In place of a missing value; may be empty.
    pub default: Box<str>,
    /// The route's own metadata instead of the stream's.
    pub of_route: bool,
    /// A missing value leaves out the entry, not the descriptor.
    pub skip_if_absent: bool,
}

/// A limit in place of the service's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LimitOverride {
    /// Out of dynamic metadata: an object with `requests_per_unit` and `unit`.
    Metadata(MetadataKey),
    /// As written: requests and the number of the unit (Envoy `RateLimitUnit`).
    Fixed(u32, i32),
}

/// How many hits a request is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hits {
    /// The number.
    pub number: HitsNumber,
    /// They are given back.
    pub negative: bool,
}

/// A number of hits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HitsNumber {
    /// As written; at most a thousand million.
    Fixed(u64),
    /// What a single command gives; anything but such a number makes that there is no descriptor.
    Format(Format),
}

/// What becomes of a virtual host's rate limits where the route has its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VirtualHostLimits {
    /// Used where the route has none.
    #[default]
    Override,
    /// Used too.
    Include,
    /// Never used.
    Ignore,
}

/// `envoy.filters.http.local_ratelimit`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalRateLimit {
    /// Stats are under `<prefix>.http_local_rate_limit.`.
    pub stat_prefix: Box<str>,
    /// Status of those limited. Default 429.
    pub status: u16,
    /// For requests without a descriptor of their own, or for all; `None`: those are not limited.
    pub bucket: Option<Fill>,
    /// Requests looked at. Default none.
    pub enabled: Option<RuntimeFraction>,
    /// Requests of those that are answered when limited. Default none.
    pub enforced: Option<RuntimeFraction>,
    /// Edits of requests that are limited and go on.
    pub request_edits: HeaderEdits,
    /// Edits of answers to those limited.
    pub response_edits: Arc<HeaderEdits>,
    /// Buckets of descriptors.
    pub descriptors: Vec<LocalDescriptor>,
    /// Which rate limits of routes count.
    pub stage: u32,
    /// Buckets of its own for every connection.
    pub per_connection: bool,
    /// Answer with X-RateLimit headers.
    pub x_ratelimit: bool,
    /// Rate limits of virtual hosts.
    pub virtual_host_limits: VirtualHostLimits,
    /// Take from `bucket` also for requests with a descriptor of their own. Default true.
    pub always_consume_default: bool,
    /// gRPC clients learn RESOURCE_EXHAUSTED instead of UNAVAILABLE.
    pub resource_exhausted: bool,
    /// In place of those of routes and virtual hosts when not empty.
    pub rate_limits: Vec<RateLimit>,
    /// Most buckets kept of each descriptor with open values. Default 20.
    pub max_dynamic_descriptors: u32,
    /// Answer with retry-after when the status is 429.
    pub retry_after: bool,
}

/// The bucket of a descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalDescriptor {
    /// Keys and values. An empty value stands for any: each has a bucket of its own.
    pub entries: Vec<(Box<str>, Box<str>)>,
    /// How it fills.
    pub fill: Fill,
    /// Never limits.
    pub shadow: bool,
}

/// `envoy.filters.http.ratelimit`: asks a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GlobalRateLimit {
    /// Domain of the descriptors.
    pub domain: Box<str>,
    /// Which rate limits of routes count.
    pub stage: u32,
    /// Which requests are limited.
    pub requests: RequestType,
    /// The whole call. Default 20 ms; `None`: no deadline.
    pub timeout: Option<Duration>,
    /// Share of requests denied when the service fails.
    pub failure_mode_deny: RuntimeFraction,
    /// gRPC clients learn RESOURCE_EXHAUSTED instead of UNAVAILABLE.
    pub resource_exhausted: bool,
    /// The service.
    pub service: GrpcTarget,
    /// Answer with X-RateLimit headers.
    pub x_ratelimit: bool,
    /// Answer those limited without x-envoy-ratelimited.
    pub no_ratelimited_header: bool,
    /// Status of those limited. Default 429.
    pub status: u16,
    /// Edits of answers to those limited.
    pub response_edits: HeaderEdits,
    /// Status when the service fails and that denies. Default 500.
    pub status_on_error: u16,
    /// Stats are under `cluster.<c>.ratelimit.<prefix>.`; may be empty.
    pub stat_prefix: Box<str>,
    /// Requests looked at.
    pub enabled: RuntimeFraction,
    /// Requests of those that are answered when limited.
    pub enforced: RuntimeFraction,
    /// In place of those of routes and virtual hosts when not empty.
    pub rate_limits: Vec<RateLimit>,
    /// Where metadata of the service's answers goes.
    pub metadata_namespace: Box<str>,
    /// Answer with retry-after when the status is 429.
    pub retry_after: bool,
}

/// Which requests are limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RequestType {
    /// All.
    #[default]
    Both,
    /// Those from inside (`x-envoy-internal: true`).
    Internal,
    /// The others.
    External,
}

/// What a route says of [`GlobalRateLimit`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimitPerRoute {
    /// Rate limits of virtual hosts.
    pub virtual_host_limits: VirtualHostLimits,
    /// In place of all others when not empty.
    pub rate_limits: Vec<RateLimit>,
    /// Domain in place of the filter's; may be empty.
    pub domain: Box<str>,
}
