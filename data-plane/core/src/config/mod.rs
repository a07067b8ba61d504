//! The validated, immutable model that the proxy is built from: no protos, no I/O, comparable with `==`.
//!
//! Built only by [`crate::translate`]; runtime objects are built from it and never parse again. All durations
//! are finite; an `Option` is `None` where Envoy says "disabled".

mod balance;
mod bootstrap;
mod cluster;
mod filter;
mod grpc_log;
mod health;
mod http;
mod listener;
mod log;
mod metadata;
mod ratelimit;
mod retry;
mod route;
mod secret;
mod source;
mod subset;
mod tcp;
mod tls;
mod tracing;

pub use balance::{
    HashCookie, HashFunction, HashPolicy, HashSource, Hashing, LbPolicy, LeastRequest, LocalityLb, Maglev,
    RingHash, SlowStart,
};
pub use bootstrap::{Admin, Bootstrap, Dynamic, Locality, LogFormat, MetricsSink, Node, StatsOptions};
pub use cluster::{
    Assignment, CircuitThresholds, Cluster, Discovery, DnsFamily, DnsOptions, DnsResolver, Endpoint,
    EndpointAddress, EndpointHealth, LocalityEndpoints, RetryBudget, TcpKeepalive, UpstreamProtocol,
};
pub use filter::{Built, FilterOverride, FilterOverrideKind, FilterOverrides, HttpFilter, HttpFilterKind};
pub use grpc_log::{ConnectionLogs, GrpcAccessLog, HttpGrpcAccessLog};
pub use health::{
    CircuitBreaker, EndpointCheck, GrpcProbe, HealthCheck, HealthCheckFilter, HttpProbe, OutlierDetection,
    Probe, TcpProbe,
};
pub use http::{
    BodyFormat, CodecType, EscapedSlashes, Hcm, Http1Options, Http2Options, LocalReplyConfig,
    PathNormalization, ResponseMapper, RouteSource, ServerHeader, StripPort, Underscores,
};
pub use listener::{
    ConnectionLimit, FilterChain, FilterChainMatch, Listener, ListenerFilter, NetworkFilter,
    ProxyProtocolFilter,
};
pub use log::{AccessLog, AccessLogFilter, AccessLogFormat, AccessLogSink, Comparison, JsonFormat};
pub use metadata::{HeaderRule, HeaderSource, HeaderToMetadata, MetadataValue, SetMetadata};
pub use ratelimit::{
    GlobalRateLimit, Hits, HitsNumber, LimitOverride, LocalDescriptor, LocalRateLimit, MatchAction,
    MetadataAction, RateLimit, RateLimitAction, RateLimitPerRoute, RequestType, ValueAction,
    VirtualHostLimits,
};
pub use retry::{Avoid, BodyLimit, Mirror, MirrorCluster, RateLimited, ResetHeader, RetryOn, RetryPolicy};
pub use route::{
    Action, ClusterChoice, ClusterWeight, DirectResponse, Forward, Fraction, HostRewrite, PathMatch,
    PathRewrite, Redirect, RedirectPath, RequireTls, Route, RouteConfig, RouteMatch, RuntimeFraction,
    VirtualHost, WeightedClusters,
};
pub use secret::{
    GenericSecret, SanKind, SanMatcher, SdsReference, Secret, SecretFiles, SecretKind, SecretSource,
    SecretType, Sensitive, TicketKeys, TlsCertificate, ValidationContext,
};
pub use source::{ConfigSource, GrpcSource, GrpcTarget, TransportApi, f64Bits};
pub use subset::{
    FALLBACK_LIST, MetadataMatch, SelectorFallback, SubsetConfig, SubsetFallback, SubsetSelector, encode,
};
pub use tcp::{TcpClusters, TcpLogOptions, TcpProxy, TcpTarget};
pub use tls::{
    AutoSni, CipherSuite, CommonTls, DownstreamTls, KeyGroup, OcspPolicy, ProxyProtocolVersion,
    SessionTickets, TlsParams, TlsVersion, TransportSocketMatch, UpstreamTls, ValidationSource,
};
pub use tracing::{
    Collector, CustomTag, Decorator, HttpTarget, OpenTelemetry, RouteTracing, Sampler, Sampling, TagSource,
    TraceProvider, Tracing, Zipkin,
};
