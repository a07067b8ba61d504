//! Tracing (Envoy `HttpConnectionManager.Tracing`, `config.trace.v3`).

use super::GrpcTarget;
use crate::headers::format::Format;
use std::time::Duration;

/// How a connection manager traces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tracing {
    /// Which requests.
    pub sampling: Sampling,
    /// Tell moments of the request too.
    pub verbose: bool,
    /// Longest path in `http.url`, bytes. Default 256.
    pub max_path_tag_bytes: u32,
    /// Further tags, by name.
    pub custom_tags: Vec<CustomTag>,
    /// Where spans go; `None`: nowhere, and no trace is begun.
    pub provider: Option<TraceProvider>,
    /// A span for each request upstream.
    pub spawn_upstream_span: bool,
    /// Name of spans; `None`: `ingress`, or `egress` and the host.
    pub operation: Option<Format>,
    /// Name of upstream spans; `None`: `router <cluster> egress`.
    pub upstream_operation: Option<Format>,
    /// The listener's traffic goes out (`traffic_direction: OUTBOUND`).
    pub egress: bool,
    /// Tell the next hop of the trace (`no_context_propagation` does not). Default true.
    pub propagate: bool,
    /// Write the reason into request ids (`UuidRequestIdConfig.pack_trace_reason`). Default true.
    pub pack_reason: bool,
    /// Take shares by request ids (`use_request_id_for_trace_sampling`). Default true.
    pub sample_by_request_id: bool,
}

/// Shares of requests in millionths; all by default.
///
/// Runtime overrides them: `tracing.client_enabled`, `tracing.random_sampling`, `tracing.global_enabled`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampling {
    /// Of those with `x-client-trace-id`.
    pub client: u32,
    /// Of all.
    pub random: u32,
    /// Of those that would be traced.
    pub overall: u32,
}

/// A tag that the configuration adds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CustomTag {
    /// Its name.
    pub name: Box<str>,
    /// Its value.
    pub source: TagSource,
}

/// Where a tag's value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TagSource {
    /// As written.
    Literal(Box<str>),
    /// A request header.
    Header {
        /// Which.
        name: Box<str>,
        /// When there is none; empty: no tag.
        default: Box<str>,
    },
    /// A format; empty: no tag.
    Format(Format),
}

/// Where spans go, and how contexts travel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TraceProvider {
    /// OTLP and W3C Trace Context.
    OpenTelemetry(OpenTelemetry),
    /// Zipkin's collector and B3.
    Zipkin(Zipkin),
}

/// Envoy `config.trace.v3.OpenTelemetryConfig`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenTelemetry {
    /// The collector.
    pub collector: Collector,
    /// Attributes of the resource: `service.name` and what detectors found, in order.
    pub resource: Vec<(Box<str>, Box<str>)>,
    /// Decides in place of the manager's shares.
    pub sampler: Option<Sampler>,
    /// Name the instrumentation scope (`set_instrumentation_scope`). Default true.
    pub scope: bool,
    /// Spans held for export (`max_cache_size`); `None`: by runtime `telemetry.queue_entries`.
    pub max_cache_size: Option<u32>,
}

/// How a tracer decides by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sampler {
    /// All.
    AlwaysOn,
    /// A share of traces, the same in every proxy, in millionths of trace ids.
    TraceIdRatio(u32),
    /// As the caller; the other one where there is none.
    ParentBased(Box<Sampler>),
}

/// A collector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Collector {
    /// OTLP over gRPC.
    Grpc(GrpcTarget),
    /// POST over HTTP.
    Http(HttpTarget),
}

/// Where an HTTP service is (Envoy `config.core.v3.HttpService`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpTarget {
    /// The cluster to reach it by.
    pub cluster: Box<str>,
    /// `:authority`.
    pub authority: Box<str>,
    /// `:path`.
    pub path: Box<str>,
    /// For one request.
    pub timeout: Duration,
    /// Sent with every request.
    pub headers: Vec<(Box<str>, Box<str>)>,
}

/// Envoy `config.trace.v3.ZipkinConfig`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zipkin {
    /// The collector, which takes JSON (v2).
    pub collector: HttpTarget,
    /// New traces get ids of 128 bits.
    pub long_ids: bool,
    /// A span that came in has its caller's id. Default true.
    pub shared_span_context: bool,
    /// Read W3C Trace Context where there is no B3, and write both.
    pub with_w3c: bool,
}

/// What a route says of tracing (Envoy `config.route.v3.Tracing` and `Decorator`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteTracing {
    /// In place of the manager's shares.
    pub sampling: Option<Sampling>,
    /// Added to the manager's, and before them.
    pub custom_tags: Vec<CustomTag>,
    /// Name of spans.
    pub operation: Option<Format>,
    /// Name of spans, and told to the next hop.
    pub decorator: Option<Decorator>,
}

/// A name for the operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decorator {
    /// The name.
    pub operation: Box<str>,
    /// Told in `x-envoy-decorator-operation`.
    pub propagate: bool,
}
