//! The HTTP connection manager.

use super::field::{self, ignored, required, unsupported};
use super::protocol::{self, Side};
use super::{
    Options, accesslog, address, data, duration, edits, extension, filters, format, grpc_log, route, source,
    tracing,
};
use crate::config::{
    self, CodecType, EscapedSlashes, Hcm, LocalReplyConfig, PathNormalization, ResponseMapper, RouteSource,
    ServerHeader, StripPort,
};
use crate::headers::{ClientCertDetails, ForwardClientCert, Scheme};
use crate::matcher::Cidr;
use crate::path::{Diagnostics, Path, Rejected};
use std::sync::Arc;
use std::time::Duration;
use xds_types::envoy::config::core::v3::SchemeHeaderTransformation;
use xds_types::envoy::config::core::v3::scheme_header_transformation::Transformation;
use xds_types::envoy::extensions::filters::network::http_connection_manager::v3 as proto;
use xds_types::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::{
    CodecType as Codec, ForwardClientCertDetails, HcmAccessLogOptions, InternalAddressConfig,
    PathWithEscapedSlashesAction, RouteSpecifier, ServerHeaderTransformation, SetCurrentClientCertDetails,
    StripPortMode, UpgradeConfig,
};
use xds_types::envoy::extensions::request_id::uuid::v3::UuidRequestIdConfig;

/// Envoy's defaults.
const STREAM_IDLE_TIMEOUT: Duration = Duration::from_secs(300);
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
const DELAYED_CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
const MAX_REQUEST_HEADERS_KB: u32 = 60;

/// A connection manager.
pub(super) fn manager(
    proto: proto::HttpConnectionManager,
    at: &Path<'_>,
    d: &mut Diagnostics,
    o: &Options<'_>,
) -> Result<Hcm, Rejected> {
    let proto::HttpConnectionManager {
        codec_type,
        stat_prefix,
        http_filters,
        add_user_agent,
        tracing,
        common_http_protocol_options,
        http1_safe_max_connection_duration,
        http_protocol_options,
        http2_protocol_options,
        http3_protocol_options,
        server_name,
        server_header_transformation,
        scheme_header_transformation,
        max_request_headers_kb,
        stream_idle_timeout,
        stream_flush_timeout,
        request_timeout,
        request_headers_timeout,
        drain_timeout,
        drain_timeout_jitter,
        delayed_close_timeout,
        access_log,
        access_log_flush_interval,
        flush_access_log_on_new_request,
        access_log_options,
        use_remote_address,
        xff_num_trusted_hops,
        original_ip_detection_extensions,
        early_header_mutation_extensions,
        internal_address_config,
        skip_xff_append,
        via,
        generate_request_id,
        preserve_external_request_id,
        always_set_request_id_in_response,
        forward_client_cert_details,
        set_current_client_cert_details,
        forward_client_cert_matcher,
        proxy_100_continue,
        represent_ipv4_remote_address_as_ipv4_mapped_ipv6,
        upgrade_configs,
        normalize_path,
        merge_slashes,
        path_with_escaped_slashes_action,
        request_id_extension,
        local_reply_config,
        strip_matching_host_port,
        stream_error_on_invalid_http_message,
        path_normalization_options,
        strip_trailing_host_dot,
        proxy_status_config,
        typed_header_validation_config,
        append_x_forwarded_port,
        append_local_overload,
        add_proxy_protocol_connection_state,
        forward_proto_config,
        route_specifier,
        strip_port_mode,
    } = proto;
    unsupported!(d, at, "HTTP/3 is not built yet"; http3_protocol_options);
    unsupported!(d, at; forward_client_cert_matcher);
    unsupported!(d, at;
        original_ip_detection_extensions,
        early_header_mutation_extensions,
        represent_ipv4_remote_address_as_ipv4_mapped_ipv6,
        path_normalization_options,
        proxy_status_config,
        typed_header_validation_config,
        append_local_overload,
        forward_proto_config,
    );
    ignored!(d, at, "always so: a last response carries connection: close"; http1_safe_max_connection_duration);
    ignored!(d, at, "stream_idle_timeout bounds flushing too"; stream_flush_timeout);
    ignored!(d, at, "connections drain after drain_timeout itself"; drain_timeout_jitter);
    ignored!(d, at, "filter state has no reader"; add_proxy_protocol_connection_state = true);
    ignored!(d, at, protocol::BAD_MESSAGES; stream_error_on_invalid_http_message = false);
    let client_cert =
        client_certificate(forward_client_cert_details, &at.field("forward_client_cert_details"), d);
    let details_at = at.field("set_current_client_cert_details");
    let client_cert_details =
        client_certificate_details(set_current_client_cert_details, client_cert, &details_at, d);
    let local_reply = local_reply(local_reply_config, &at.field("local_reply_config"), d, o);
    let ids = match request_id_extension {
        Some(extension) => request_id(extension, tracing.is_some(), &at.field("request_id_extension"), d),
        None => tracing::RequestIds::default(),
    };
    let child_span = filters::starts_child_span(&http_filters);
    let tracing = tracing
        .map(|proto| {
            let tracing = tracing::manager(proto, ids, &at.field("tracing"), d, o)?;
            let spawn_upstream_span = tracing.spawn_upstream_span || child_span.is_some();
            Ok(Arc::new(config::Tracing { spawn_upstream_span, ..tracing }))
        })
        .transpose();
    if let (Some(index), Ok(None)) = (child_span, &tracing) {
        let filters = at.field("http_filters");
        let router = filters.index(index);
        d.ignored(&router.field("typed_config").field("start_child_span"), "nothing is traced here");
    }
    let log_on_new_request = LogOptions { access_log_flush_interval, flush_access_log_on_new_request }.merge(
        access_log_options,
        at,
        d,
    );

    let stream_error = stream_error_on_invalid_http_message.is_some_and(|v| v.value);
    let common_at = at.field("common_http_protocol_options");
    let common = protocol::common(common_http_protocol_options, Side::Downstream, &common_at, d);
    let routes = routes(route_specifier, at, d, o);
    let (access_log, grpc_logs) = grpc_log::http_logs(access_log, &at.field("access_log"), d, o);
    let filters = filters::http_filters(http_filters, &at.field("http_filters"), d, o);
    Ok(Hcm {
        client_cert,
        client_cert_details,
        stat_prefix: stat_prefix.into(),
        codec: codec(codec_type, &at.field("codec_type"), d),
        access_log,
        grpc_logs,
        tracing: tracing?,
        log_on_new_request,
        server_name: if server_name.is_empty() { "envoy".into() } else { server_name.into() },
        server_header: server_header(
            server_header_transformation,
            &at.field("server_header_transformation"),
            d,
        ),
        via: via.into(),
        use_remote_address: use_remote_address.is_some_and(|v| v.value),
        xff_num_trusted_hops,
        skip_xff_append,
        internal_ranges: internal_ranges(internal_address_config, &at.field("internal_address_config"), d),
        generate_request_id: generate_request_id.is_none_or(|v| v.value),
        preserve_external_request_id,
        always_set_request_id_in_response,
        scheme_override: scheme(scheme_header_transformation, &at.field("scheme_header_transformation"), d),
        idle_timeout: common.idle_timeout,
        max_connection_duration: common.max_connection_duration,
        max_stream_duration: common.max_stream_duration,
        stream_idle_timeout: duration::limit(
            stream_idle_timeout,
            Some(STREAM_IDLE_TIMEOUT),
            &at.field("stream_idle_timeout"),
            d,
        ),
        request_timeout: duration::limit(request_timeout, None, &at.field("request_timeout"), d),
        request_headers_timeout: duration::limit(
            request_headers_timeout,
            None,
            &at.field("request_headers_timeout"),
            d,
        ),
        drain_timeout: duration::or(drain_timeout, DRAIN_TIMEOUT, &at.field("drain_timeout"), d),
        delayed_close_timeout: duration::limit(
            delayed_close_timeout,
            Some(DELAYED_CLOSE_TIMEOUT),
            &at.field("delayed_close_timeout"),
            d,
        ),
        max_requests_per_connection: common.max_requests_per_connection,
        max_headers_count: common.max_headers_count,
        max_request_headers_kb: max_request_headers_kb.map_or(MAX_REQUEST_HEADERS_KB, |v| v.value),
        underscores: common.underscores,
        http1: protocol::http1(http_protocol_options, stream_error, &at.field("http_protocol_options"), d),
        http2: protocol::http2(http2_protocol_options, &at.field("http2_protocol_options"), d),
        path: PathNormalization {
            normalize: normalize_path.is_some_and(|v| v.value),
            merge_slashes,
            escaped_slashes: escaped_slashes(
                path_with_escaped_slashes_action,
                &at.field("path_with_escaped_slashes_action"),
                d,
            ),
        },
        strip_port: strip_port(strip_matching_host_port, strip_port_mode, at, d),
        strip_trailing_host_dot,
        local_reply: local_reply?,
        upgrades: upgrades(upgrade_configs, &at.field("upgrade_configs"), d),
        add_user_agent: add_user_agent.is_some_and(|v| v.value),
        proxy_100_continue,
        append_x_forwarded_port,
        stream_error_on_invalid_http_message: stream_error,
        routes: routes?,
        filters,
    })
}

fn routes(
    proto: Option<RouteSpecifier>,
    at: &Path<'_>,
    d: &mut Diagnostics,
    o: &Options<'_>,
) -> Result<RouteSource, Rejected> {
    match proto {
        Some(RouteSpecifier::RouteConfig(proto)) => {
            let at = at.field("route_config");
            let config = route::config(proto, route::ValidateClusters::ByDefault, &at, d, o)?;
            Ok(RouteSource::Static(Arc::new(config)))
        }
        Some(RouteSpecifier::Rds(proto::Rds { config_source, route_config_name })) => {
            let at = at.field("rds");
            if route_config_name.is_empty() {
                d.reject(&at.field("route_config_name"), "is required");
            }
            let source_at = at.field("config_source");
            let source = source::config_source(required(config_source, &source_at, d)?, &source_at, d, o)?;
            Ok(RouteSource::Rds { name: route_config_name.into(), source })
        }
        Some(RouteSpecifier::ScopedRoutes(_)) => {
            Err(d.reject(&at.field("scoped_routes"), "scoped routes are not supported"))
        }
        None => Err(d.reject(at, "one of route_config, rds is required")),
    }
}

fn codec(value: i32, at: &Path<'_>, d: &mut Diagnostics) -> CodecType {
    match field::variant(value, at, d) {
        Ok(Codec::Auto) | Err(Rejected) => CodecType::Auto,
        Ok(Codec::Http1) => CodecType::Http1,
        Ok(Codec::Http2) => CodecType::Http2,
        Ok(Codec::Http3) => {
            d.reject(at, "HTTP/3 is not built yet");
            CodecType::Auto
        }
    }
}

fn server_header(value: i32, at: &Path<'_>, d: &mut Diagnostics) -> ServerHeader {
    match field::variant(value, at, d) {
        Ok(ServerHeaderTransformation::Overwrite) | Err(Rejected) => ServerHeader::Overwrite,
        Ok(ServerHeaderTransformation::AppendIfAbsent) => ServerHeader::AppendIfAbsent,
        Ok(ServerHeaderTransformation::PassThrough) => ServerHeader::PassThrough,
    }
}

fn escaped_slashes(value: i32, at: &Path<'_>, d: &mut Diagnostics) -> EscapedSlashes {
    use PathWithEscapedSlashesAction as Action;
    match field::variant(value, at, d) {
        Ok(Action::ImplementationSpecificDefault | Action::KeepUnchanged) | Err(Rejected) => {
            EscapedSlashes::Keep
        }
        Ok(Action::RejectRequest) => EscapedSlashes::Reject,
        Ok(Action::UnescapeAndRedirect) => EscapedSlashes::UnescapeAndRedirect,
        Ok(Action::UnescapeAndForward) => EscapedSlashes::UnescapeAndForward,
    }
}

fn scheme(proto: Option<SchemeHeaderTransformation>, at: &Path<'_>, d: &mut Diagnostics) -> Option<Scheme> {
    let SchemeHeaderTransformation { match_upstream, transformation } = proto?;
    unsupported!(d, at; match_upstream);
    let Transformation::SchemeToOverwrite(scheme) = transformation?;
    match scheme.as_str() {
        "http" => Some(Scheme::Http),
        "https" => Some(Scheme::Https),
        other => {
            d.reject(&at.field("scheme_to_overwrite"), format_args!("{other:?} is neither http nor https"));
            None
        }
    }
}

fn strip_port(matching: bool, mode: Option<StripPortMode>, at: &Path<'_>, d: &mut Diagnostics) -> StripPort {
    match (matching, mode) {
        (true, Some(StripPortMode::StripAnyHostPort(true))) => {
            let message = "strip_any_host_port and strip_matching_host_port exclude each other";
            d.reject(&at.field("strip_any_host_port"), message);
            StripPort::Any
        }
        (false, Some(StripPortMode::StripAnyHostPort(true))) => StripPort::Any,
        (true, _) => StripPort::Matching,
        (false, _) => StripPort::No,
    }
}

fn internal_ranges(proto: Option<InternalAddressConfig>, at: &Path<'_>, d: &mut Diagnostics) -> Vec<Cidr> {
    let InternalAddressConfig { unix_sockets, cidr_ranges } = proto.unwrap_or_default();
    ignored!(d, at, "there are no unix sockets"; unix_sockets);
    field::each(cidr_ranges, &at.field("cidr_ranges"), d, address::range)
}

/// The upgrade types that are enabled.
fn upgrades(list: Vec<UpgradeConfig>, at: &Path<'_>, d: &mut Diagnostics) -> Vec<Box<str>> {
    let mut known = Vec::new();
    let upgrades = field::each(list, at, d, |proto, at, d| {
        let UpgradeConfig { upgrade_type, filters, enabled } = proto;
        unsupported!(d, at, "the filters of the connection manager are used"; filters);
        let kind = upgrade(upgrade_type, &mut known, &at.field("upgrade_type"), d)?;
        Ok(enabled.is_none_or(|v| v.value).then_some(kind))
    });
    upgrades.into_iter().flatten().collect()
}

/// An upgrade type, lowercase, that is not among `known`.
pub(super) fn upgrade(
    name: String,
    known: &mut Vec<Box<str>>,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Result<Box<str>, Rejected> {
    let kind: Box<str> = name.to_ascii_lowercase().into();
    if kind.is_empty() {
        return Err(d.reject(at, "is required"));
    }
    if kind.starts_with("connect") {
        return Err(d.reject(at, format_args!("{name} is not supported")));
    }
    if known.contains(&kind) {
        return Err(d.reject(at, format_args!("duplicate upgrade type {kind:?}")));
    }
    known.push(kind.clone());
    Ok(kind)
}

fn client_certificate(value: i32, at: &Path<'_>, d: &mut Diagnostics) -> ForwardClientCert {
    match field::variant(value, at, d) {
        Ok(ForwardClientCertDetails::ForwardOnly) => ForwardClientCert::ForwardOnly,
        Ok(ForwardClientCertDetails::AppendForward) => ForwardClientCert::AppendForward,
        Ok(ForwardClientCertDetails::SanitizeSet) => ForwardClientCert::SanitizeSet,
        Ok(ForwardClientCertDetails::AlwaysForwardOnly) => ForwardClientCert::AlwaysForwardOnly,
        Ok(ForwardClientCertDetails::Sanitize) | Err(Rejected) => ForwardClientCert::Sanitize,
    }
}

fn client_certificate_details(
    proto: Option<SetCurrentClientCertDetails>,
    mode: ForwardClientCert,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> ClientCertDetails {
    let given = proto.is_some();
    let SetCurrentClientCertDetails { subject, cert, chain, dns, uri, issuer, format } =
        proto.unwrap_or_default();
    unsupported!(d, at; issuer, format);
    if given && !matches!(mode, ForwardClientCert::AppendForward | ForwardClientCert::SanitizeSet) {
        d.ignored(at, "is for APPEND_FORWARD and SANITIZE_SET");
    }
    ClientCertDetails { subject: subject.is_some_and(|v| v.value), cert, chain, dns, uri }
}

/// What becomes of local replies.
fn local_reply(
    proto: Option<proto::LocalReplyConfig>,
    at: &Path<'_>,
    d: &mut Diagnostics,
    o: &Options<'_>,
) -> Result<LocalReplyConfig, Rejected> {
    let Some(proto::LocalReplyConfig { mappers, body_format }) = proto else {
        return Ok(LocalReplyConfig::default());
    };
    let mappers =
        field::each(mappers, &at.field("mappers"), d, |proto, at, d| response_mapper(proto, at, d, o));
    let format_at = at.field("body_format");
    let body_format = body_format.map(|proto| format::of_body(proto, &format_at, d, o)).transpose()?;
    Ok(LocalReplyConfig { mappers, body_format })
}

fn response_mapper(
    proto: proto::ResponseMapper,
    at: &Path<'_>,
    d: &mut Diagnostics,
    o: &Options<'_>,
) -> Result<ResponseMapper, Rejected> {
    let proto::ResponseMapper { filter, status_code, body, body_format_override, headers_to_add } = proto;
    let filter_at = at.field("filter");
    let filter = required(filter, &filter_at, d).and_then(|proto| accesslog::filter(proto, &filter_at, d));
    let status = match status_code.map(|v| u16::try_from(v.value)) {
        None => None,
        Some(Ok(status @ 200..=599)) => Some(status),
        Some(_) => return Err(d.reject(&at.field("status_code"), "must be 200 to 599")),
    };
    let body = body.map(|source| data::bytes(source, &at.field("body"), d, o)).transpose();
    let format_at = at.field("body_format_override");
    let body_format = body_format_override.map(|proto| format::of_body(proto, &format_at, d, o)).transpose();
    let headers = edits::additions(headers_to_add, &at.field("headers_to_add"), d);
    Ok(ResponseMapper {
        filter: filter?,
        status,
        body: body?.map(Into::into),
        body_format: body_format?,
        headers,
    })
}

/// Only the UUID extension that Envoy uses by default.
fn request_id(
    proto: proto::RequestIdExtension,
    is_traced: bool,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> tracing::RequestIds {
    let proto::RequestIdExtension { typed_config } = proto;
    let Ok(packed) = extension::packed(typed_config.as_ref(), at, d) else { return Default::default() };
    let at = at.field("typed_config");
    if !extension::is::<UuidRequestIdConfig>(packed) {
        extension::unknown("request id extension", "", packed, &at, d);
        return Default::default();
    }
    let Ok(UuidRequestIdConfig { pack_trace_reason, use_request_id_for_trace_sampling }) =
        extension::open(packed, &at, d)
    else {
        return Default::default();
    };
    if !is_traced {
        const WHY: &str = "nothing is traced here";
        ignored!(d, at, WHY; pack_trace_reason = true, use_request_id_for_trace_sampling = true);
    }
    tracing::RequestIds {
        pack_reason: pack_trace_reason.is_none_or(|v| v.value),
        sample: use_request_id_for_trace_sampling.is_none_or(|v| v.value),
    }
}

/// The deprecated pair of access log settings.
struct LogOptions {
    access_log_flush_interval: Option<xds_types::google::protobuf::Duration>,
    flush_access_log_on_new_request: bool,
}

impl LogOptions {
    /// Whether to log when a request starts; the new message and the deprecated pair exclude each other.
    fn merge(self, options: Option<HcmAccessLogOptions>, at: &Path<'_>, d: &mut Diagnostics) -> bool {
        const ONCE: &str = "a request is logged when it starts (if asked) and when it ends";
        let Self { access_log_flush_interval, flush_access_log_on_new_request } = self;
        ignored!(d, at, ONCE; access_log_flush_interval);
        let Some(options) = options else { return flush_access_log_on_new_request };
        let at = at.field("access_log_options");
        if access_log_flush_interval.is_some() || flush_access_log_on_new_request {
            d.reject(
                &at,
                "excludes the deprecated access_log_flush_interval and flush_access_log_on_new_request",
            );
        }
        let HcmAccessLogOptions {
            access_log_flush_interval,
            flush_access_log_on_new_request,
            flush_log_on_tunnel_successfully_established,
        } = options;
        ignored!(d, at, ONCE; access_log_flush_interval, flush_log_on_tunnel_successfully_established);
        flush_access_log_on_new_request
    }
}
