//! Tracing of connection managers and routes, and where spans go.

use super::field::{self, ignored, required, unsupported};
use super::{Options, duration, edits, extension, fraction, source};
use crate::config::{
    Collector, CustomTag, Decorator, HttpTarget, OpenTelemetry, RouteTracing, Sampler, Sampling, TagSource,
    TraceProvider, Tracing, Zipkin,
};
use crate::headers::format::{Format, Missing};
use crate::path::{Diagnostics, Path, Rejected};
use std::collections::BTreeMap;
use std::time::Duration;
use xds_types::envoy::config::core::v3::http_uri::HttpUpstreamType;
use xds_types::envoy::config::core::v3::{HeaderValueOption, HttpService, HttpUri, TypedExtensionConfig};
use xds_types::envoy::config::route::v3 as route_proto;
use xds_types::envoy::config::trace::v3::tracing::Http;
use xds_types::envoy::config::trace::v3::tracing::http::ConfigType;
use xds_types::envoy::config::trace::v3::zipkin_config::{CollectorEndpointVersion, TraceContextOption};
use xds_types::envoy::config::trace::v3::{OpenTelemetryConfig, ZipkinConfig};
use xds_types::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager as proto;
use xds_types::envoy::extensions::tracers::opentelemetry::resource_detectors::v3::{
    EnvironmentResourceDetectorConfig, StaticConfigResourceDetectorConfig,
};
use xds_types::envoy::extensions::tracers::opentelemetry::samplers::v3::{
    AlwaysOnSamplerConfig, ParentBasedSamplerConfig, TraceIdRatioBasedSamplerConfig,
};
use xds_types::envoy::r#type::tracing::v3::CustomTag as TagProto;
use xds_types::envoy::r#type::tracing::v3::custom_tag::{self, Type};
use xds_types::envoy::r#type::v3::{FractionalPercent, Percent};

const ALL: u32 = 1_000_000;
/// Envoy's default of `max_path_tag_length`.
const MAX_PATH_TAG_BYTES: u32 = 256;
/// Envoy's wait for a Zipkin collector named by cluster and endpoint.
const ZIPKIN_TIMEOUT: Duration = Duration::from_secs(5);
/// OpenTelemetry's name of a service that has none.
const UNKNOWN_SERVICE: &str = "unknown_service:portolan";

/// How request ids serve tracing (Envoy `UuidRequestIdConfig`).
#[derive(Clone, Copy)]
pub(super) struct RequestIds {
    pub(super) pack_reason: bool,
    pub(super) sample: bool,
}

impl Default for RequestIds {
    fn default() -> Self {
        Self { pack_reason: true, sample: true }
    }
}

/// A connection manager's tracing.
pub(super) fn manager(
    proto: proto::Tracing,
    ids: RequestIds,
    at: &Path<'_>,
    d: &mut Diagnostics,
    o: &Options<'_>,
) -> Result<Tracing, Rejected> {
    let proto::Tracing {
        client_sampling,
        random_sampling,
        overall_sampling,
        verbose,
        max_path_tag_length,
        custom_tags,
        provider,
        spawn_upstream_span,
        operation,
        upstream_operation,
        no_context_propagation,
    } = proto;
    let sampling = Sampling {
        client: percent(client_sampling),
        random: percent(random_sampling),
        overall: percent(overall_sampling),
    };
    let operation = format(operation, &at.field("operation"), d);
    let upstream_operation = format(upstream_operation, &at.field("upstream_operation"), d);
    let provider = provider.map(|proto| self::provider(proto, &at.field("provider"), d, o)).transpose();
    if let Ok(None) = provider {
        d.ignored(at, "without a provider no trace is begun; request ids say the reason all the same");
    }
    Ok(Tracing {
        sampling,
        verbose,
        max_path_tag_bytes: max_path_tag_length.map_or(MAX_PATH_TAG_BYTES, |v| v.value),
        custom_tags: tags(custom_tags, &at.field("custom_tags"), d, o),
        provider: provider?,
        spawn_upstream_span: spawn_upstream_span.is_some_and(|v| v.value),
        operation: operation?,
        upstream_operation: upstream_operation?,
        egress: o.outbound,
        propagate: !no_context_propagation,
        pack_reason: ids.pack_reason,
        sample_by_request_id: ids.sample,
    })
}

/// What a route says; `None`: nothing.
pub(super) fn route(
    tracing: Option<route_proto::Tracing>,
    decorator: Option<route_proto::Decorator>,
    at: &Path<'_>,
    d: &mut Diagnostics,
    o: &Options<'_>,
) -> Result<Option<Box<RouteTracing>>, Rejected> {
    if tracing.is_none() && decorator.is_none() {
        return Ok(None);
    }
    let mut route = RouteTracing::default();
    if let Some(route_proto::Decorator { operation, propagate }) = decorator {
        if operation.is_empty() {
            d.reject(&at.field("decorator").field("operation"), "is required");
        }
        let propagate = propagate.is_none_or(|v| v.value);
        route.decorator = Some(Decorator { operation: operation.into(), propagate });
    }
    if let Some(proto) = tracing {
        let at = at.field("tracing");
        let route_proto::Tracing {
            client_sampling,
            random_sampling,
            overall_sampling,
            custom_tags,
            operation,
            upstream_operation,
        } = proto;
        unsupported!(d, at, "set it on the connection manager"; upstream_operation);
        let mut share = |share, name| fractional(share, &at.field(name), d);
        route.sampling = Some(Sampling {
            client: share(client_sampling, "client_sampling")?,
            random: share(random_sampling, "random_sampling")?,
            overall: share(overall_sampling, "overall_sampling")?,
        });
        route.custom_tags = tags(custom_tags, &at.field("custom_tags"), d, o);
        route.operation = format(operation, &at.field("operation"), d)?;
    }
    Ok(Some(Box::new(route)))
}

/// By name, each once: Envoy takes the first.
pub(super) fn tags(
    list: Vec<TagProto>,
    at: &Path<'_>,
    d: &mut Diagnostics,
    o: &Options<'_>,
) -> Vec<CustomTag> {
    let mut tags = BTreeMap::new();
    for (index, proto) in list.into_iter().enumerate() {
        let at = at.index(index);
        let Ok(Some(tag)) = tag(proto, &at, d, o) else { continue };
        if tags.contains_key(&tag.name) {
            d.reject(&at.field("tag"), format_args!("duplicate tag {:?}", tag.name));
        }
        tags.insert(tag.name.clone(), tag);
    }
    tags.into_values().collect()
}

fn tag(
    proto: TagProto,
    at: &Path<'_>,
    d: &mut Diagnostics,
    o: &Options<'_>,
) -> Result<Option<CustomTag>, Rejected> {
    let TagProto { tag, r#type } = proto;
    let source = match required(r#type, at, d)? {
        Type::Literal(custom_tag::Literal { value }) => TagSource::Literal(value.into()),
        Type::Environment(custom_tag::Environment { name, default_value }) => {
            let value = o.data.variable(&name).unwrap_or(default_value);
            if value.is_empty() {
                return Ok(None);
            }
            TagSource::Literal(value.into())
        }
        Type::RequestHeader(custom_tag::Header { name, default_value }) => {
            TagSource::Header { name: name.into(), default: default_value.into() }
        }
        Type::Metadata(_) => {
            return Err(d.reject(&at.field("metadata"), "not supported: use value with %DYNAMIC_METADATA()%"));
        }
        Type::Value(text) => TagSource::Format(
            Format::compile(&text, Missing::Empty).map_err(|e| d.reject(&at.field("value"), e))?,
        ),
    };
    Ok(Some(CustomTag { name: tag.into(), source }))
}

fn format(text: String, at: &Path<'_>, d: &mut Diagnostics) -> Result<Option<Format>, Rejected> {
    if text.is_empty() {
        return Ok(None);
    }
    Format::compile(&text, Missing::Empty).map(Some).map_err(|e| d.reject(at, e))
}

/// A share of the manager's; all when not set.
fn percent(proto: Option<Percent>) -> u32 {
    // Envoy keeps two digits.
    proto.map_or(ALL, |Percent { value }| (value * 100.0).round() as u32 * 100)
}

/// A share of a route's; all when not set.
fn fractional(proto: Option<FractionalPercent>, at: &Path<'_>, d: &mut Diagnostics) -> Result<u32, Rejected> {
    match proto {
        Some(proto) => Ok(fraction::fractional(proto, at, d)?.per_million),
        None => Ok(ALL),
    }
}

fn provider(
    proto: Http,
    at: &Path<'_>,
    d: &mut Diagnostics,
    o: &Options<'_>,
) -> Result<TraceProvider, Rejected> {
    let Http { name, config_type } = proto;
    let packed = config_type.map(|ConfigType::TypedConfig(packed)| packed);
    let packed = extension::packed(packed.as_ref(), at, d)?;
    let at = at.field("typed_config");
    if extension::is::<OpenTelemetryConfig>(packed) {
        let proto = extension::open(packed, &at, d)?;
        return Ok(TraceProvider::OpenTelemetry(open_telemetry(proto, &at, d, o)?));
    }
    if extension::is::<ZipkinConfig>(packed) {
        return Ok(TraceProvider::Zipkin(zipkin(extension::open(packed, &at, d)?, &at, d)?));
    }
    Err(extension::unknown("tracer", &name, packed, &at, d))
}

fn open_telemetry(
    proto: OpenTelemetryConfig,
    at: &Path<'_>,
    d: &mut Diagnostics,
    o: &Options<'_>,
) -> Result<OpenTelemetry, Rejected> {
    let OpenTelemetryConfig {
        grpc_service,
        http_service,
        exporter,
        service_name,
        resource_detectors,
        sampler,
        max_cache_size,
        set_telemetry_sdk_resource_attributes,
        set_service_name_resource_attribute,
        set_instrumentation_scope,
    } = proto;
    unsupported!(d, at, "grpc_service and http_service are supported"; exporter);
    let collector = match (grpc_service, http_service) {
        (Some(grpc), None) => {
            source::grpc_service(grpc, "batches are sent again with backoff", &at.field("grpc_service"), d)
                .map(Collector::Grpc)
        }
        (None, Some(http)) => self::http_service(http, &at.field("http_service"), d).map(Collector::Http),
        (Some(_), Some(_)) => {
            Err(d.reject(&at.field("http_service"), "grpc_service and http_service exclude each other"))
        }
        (None, None) => Err(d.reject(at, "one of grpc_service, http_service is required")),
    };
    let service = if service_name.is_empty() { UNKNOWN_SERVICE.into() } else { service_name };
    let mut resource: BTreeMap<String, String> = BTreeMap::new();
    if set_telemetry_sdk_resource_attributes.is_none_or(|v| v.value) {
        resource.insert("telemetry.sdk.language".into(), "rust".into());
        resource.insert("telemetry.sdk.name".into(), "portolan".into());
        resource.insert("telemetry.sdk.version".into(), env!("CARGO_PKG_VERSION").into());
    }
    if set_service_name_resource_attribute.is_none_or(|v| v.value) {
        resource.insert("service.name".into(), service);
    }
    let detectors_at = at.field("resource_detectors");
    for (index, proto) in resource_detectors.into_iter().enumerate() {
        // What is wrong is told; the others are looked at still.
        _ = detector(proto, &mut resource, &detectors_at.index(index), d, o);
    }
    let sampler = sampler.map(|proto| self::sampler(proto, &at.field("sampler"), d)).transpose();
    Ok(OpenTelemetry {
        collector: collector?,
        resource: resource.into_iter().map(|(k, v)| (k.into(), v.into())).collect(),
        sampler: sampler?,
        scope: set_instrumentation_scope.is_none_or(|v| v.value),
        max_cache_size: max_cache_size.map(|v| v.value).filter(|&size| size > 0),
    })
}

fn detector(
    proto: TypedExtensionConfig,
    resource: &mut BTreeMap<String, String>,
    at: &Path<'_>,
    d: &mut Diagnostics,
    o: &Options<'_>,
) -> Result<(), Rejected> {
    let TypedExtensionConfig { name, typed_config } = proto;
    let packed = extension::packed(typed_config.as_ref(), at, d)?;
    let at = at.field("typed_config");
    if extension::is::<StaticConfigResourceDetectorConfig>(packed) {
        let StaticConfigResourceDetectorConfig { attributes } = extension::open(packed, &at, d)?;
        resource.extend(attributes);
        return Ok(());
    }
    if extension::is::<EnvironmentResourceDetectorConfig>(packed) {
        let EnvironmentResourceDetectorConfig {} = extension::open(packed, &at, d)?;
        // Absent is empty, as in Envoy.
        let list = o.data.variable("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
        for pair in list.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
            let Some((key, value)) = pair.split_once('=') else {
                return Err(d.reject(&at, "OTEL_RESOURCE_ATTRIBUTES is not a list of key=value"));
            };
            resource.insert(key.trim().into(), value.trim().into());
        }
        return Ok(());
    }
    Err(extension::unknown("resource detector", &name, packed, &at, d))
}

fn sampler(proto: TypedExtensionConfig, at: &Path<'_>, d: &mut Diagnostics) -> Result<Sampler, Rejected> {
    let TypedExtensionConfig { name, typed_config } = proto;
    let packed = extension::packed(typed_config.as_ref(), at, d)?;
    let at = at.field("typed_config");
    if extension::is::<AlwaysOnSamplerConfig>(packed) {
        let AlwaysOnSamplerConfig {} = extension::open(packed, &at, d)?;
        return Ok(Sampler::AlwaysOn);
    }
    if extension::is::<TraceIdRatioBasedSamplerConfig>(packed) {
        let TraceIdRatioBasedSamplerConfig { sampling_percentage } = extension::open(packed, &at, d)?;
        let share = fraction::fractional(
            sampling_percentage.unwrap_or_default(),
            &at.field("sampling_percentage"),
            d,
        )?;
        return Ok(Sampler::TraceIdRatio(share.per_million));
    }
    if extension::is::<ParentBasedSamplerConfig>(packed) {
        let ParentBasedSamplerConfig { wrapped_sampler } = extension::open(packed, &at, d)?;
        let at = at.field("wrapped_sampler");
        let root = sampler(required(wrapped_sampler, &at, d)?, &at, d)?;
        return Ok(Sampler::ParentBased(Box::new(root)));
    }
    Err(extension::unknown("sampler", &name, packed, &at, d))
}

fn zipkin(proto: ZipkinConfig, at: &Path<'_>, d: &mut Diagnostics) -> Result<Zipkin, Rejected> {
    let ZipkinConfig {
        collector_cluster,
        collector_endpoint,
        trace_id_128bit,
        shared_span_context,
        collector_endpoint_version,
        collector_hostname,
        split_spans_for_request,
        trace_context_option,
        collector_service,
        timestamp_trace_ids,
    } = proto;
    unsupported!(d, at; timestamp_trace_ids);
    unsupported!(d, at, "deprecated: use spawn_upstream_span of the manager's tracing"; split_spans_for_request);
    let version_at = at.field("collector_endpoint_version");
    match field::variant(collector_endpoint_version, &version_at, d)? {
        CollectorEndpointVersion::HttpJson => {}
        CollectorEndpointVersion::HttpProto | CollectorEndpointVersion::Grpc => {
            d.reject(&version_at, "only HTTP_JSON is supported");
        }
        CollectorEndpointVersion::DeprecatedAndUnavailableDoNotUse => {
            d.reject(&version_at, "the v1 API is gone: HTTP_JSON is required");
        }
    }
    let with_w3c = match field::variant(trace_context_option, &at.field("trace_context_option"), d)? {
        TraceContextOption::UseB3 => false,
        TraceContextOption::UseB3WithW3cPropagation => true,
    };
    let collector = match collector_service {
        Some(service) => {
            ignored!(d, at, "collector_service says it"; collector_cluster, collector_endpoint, collector_hostname);
            http_service(service, &at.field("collector_service"), d)?
        }
        None => {
            let cluster_at = at.field("collector_cluster");
            if collector_cluster.is_empty() {
                return Err(d.reject(&cluster_at, "is required where there is no collector_service"));
            }
            if !collector_endpoint.starts_with('/') {
                d.reject(&at.field("collector_endpoint"), "must begin with /");
            }
            let host = if collector_hostname.is_empty() { &collector_cluster } else { &collector_hostname };
            HttpTarget {
                authority: host.as_str().into(),
                cluster: collector_cluster.into(),
                path: collector_endpoint.into(),
                timeout: ZIPKIN_TIMEOUT,
                headers: Vec::new(),
            }
        }
    };
    Ok(Zipkin {
        collector,
        long_ids: trace_id_128bit,
        shared_span_context: shared_span_context.is_none_or(|v| v.value),
        with_w3c,
    })
}

/// An HTTP service; its path and authority come from the URI, which may be a path alone.
fn http_service(proto: HttpService, at: &Path<'_>, d: &mut Diagnostics) -> Result<HttpTarget, Rejected> {
    let HttpService { http_uri, request_headers_to_add, formatters } = proto;
    unsupported!(d, at, "formatter extensions are not supported"; formatters);
    let headers = field::each(request_headers_to_add, &at.field("request_headers_to_add"), d, fixed_header);
    let at = at.field("http_uri");
    let HttpUri { uri, timeout, http_upstream_type } = required(http_uri, &at, d)?;
    let uri_at = at.field("uri");
    let timeout = duration::or(timeout, ZIPKIN_TIMEOUT, &at.field("timeout"), d);
    let Some(HttpUpstreamType::Cluster(cluster)) = http_upstream_type else {
        return Err(d.reject(&at.field("cluster"), "is required"));
    };
    let rest = uri.split_once("://").map(|(_, rest)| rest);
    let (authority, path) = match rest {
        Some(rest) => {
            let end = rest.find('/').unwrap_or(rest.len());
            (&rest[..end], if end == rest.len() { "/" } else { &rest[end..] })
        }
        None if uri.starts_with('/') => (cluster.as_str(), uri.as_str()),
        None => return Err(d.reject(&uri_at, format_args!("{uri:?} is neither a URI nor a path"))),
    };
    if authority.is_empty() {
        return Err(d.reject(&uri_at, "names no host"));
    }
    Ok(HttpTarget {
        authority: authority.into(),
        path: path.into(),
        cluster: cluster.into(),
        timeout,
        headers,
    })
}

/// A header with a value that does not depend on a request.
fn fixed_header(
    proto: HeaderValueOption,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Result<(Box<str>, Box<str>), Rejected> {
    let HeaderValueOption { header, append, append_action, keep_empty_value } = proto;
    ignored!(d, at, "the request has no other headers"; append, append_action, keep_empty_value);
    let at = at.field("header");
    let (key, value) = edits::pair(required(header, &at, d)?, &at, d)?;
    if value.contains('%') {
        return Err(d.reject(&at.field("value"), "formats are not supported here"));
    }
    Ok((key.to_ascii_lowercase().into(), value.into()))
}
