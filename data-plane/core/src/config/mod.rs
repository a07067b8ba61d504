//! The validated, immutable model that the proxy is built from: no protos, no I/O, comparable with `==`.
//!
//! Built only by [`crate::translate`]; runtime objects are built from it and never parse again. All durations
//! are finite; an `Option` is `None` where Envoy says "disabled".

mod bootstrap;
mod cluster;
mod http;
mod listener;
mod log;
mod route;
mod source;

pub use bootstrap::{Admin, Bootstrap, Dynamic, Locality, Node, StatsOptions};
pub use cluster::{
    Assignment, CircuitThresholds, Cluster, Discovery, DnsFamily, DnsOptions, DnsResolver, Endpoint,
    EndpointAddress, EndpointHealth, LbPolicy, LocalityEndpoints, TcpKeepalive, UpstreamProtocol,
};
pub use http::{
    CodecType, EscapedSlashes, Hcm, Http1Options, Http2Options, HttpFilter, HttpFilterKind, LocalReplyConfig,
    PathNormalization, RouteSource, ServerHeader, StripPort, Underscores,
};
pub use listener::{FilterChain, FilterChainMatch, Listener, ListenerFilter, NetworkFilter};
pub use log::{AccessLog, AccessLogFilter, AccessLogFormat, AccessLogSink, Comparison, JsonFormat};
pub use route::{
    Action, ClusterChoice, ClusterWeight, DirectResponse, Forward, Fraction, HostRewrite, PathMatch,
    PathRewrite, Redirect, RedirectPath, RequireTls, Route, RouteConfig, RouteMatch, RuntimeFraction,
    VirtualHost, WeightedClusters,
};
pub use source::{ConfigSource, GrpcSource, GrpcTarget, TransportApi, f64Bits};
