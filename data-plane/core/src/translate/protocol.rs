//! HTTP protocol options: common, HTTP/1 and HTTP/2, shared by connection managers and clusters.

use super::field::{self, ignored, unsupported};
use super::{duration, extension};
use crate::config::{Http1Options, Http2Options, Underscores};
use crate::path::{Diagnostics, Path, Rejected};
use std::time::Duration;
use xds_types::envoy::config::core::v3 as proto;
use xds_types::envoy::config::core::v3::http_protocol_options::HeadersWithUnderscoresAction;
use xds_types::envoy::config::core::v3::http1_protocol_options::HeaderKeyFormat;
use xds_types::envoy::config::core::v3::http1_protocol_options::header_key_format::{HeaderFormat, ProperCaseWords};
use xds_types::envoy::extensions::http::header_formatters::preserve_case::v3::PreserveCaseFormatterConfig;
use xds_types::envoy::extensions::http::header_formatters::preserve_case::v3::preserve_case_formatter_config::FormatterTypeOnEnvoyHeaders;

/// Envoy's default of `idle_timeout`.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

/// Envoy's default of `max_headers_count`.
const MAX_HEADERS_COUNT: u32 = 100;

/// What becomes of connections with malformed messages.
pub(super) const BAD_MESSAGES: &str = "a malformed message always ends its HTTP/1 connection";

/// `HttpProtocolOptions`, Envoy's defaults filled in.
pub(super) struct Common {
    pub(super) idle_timeout: Option<Duration>,
    pub(super) max_connection_duration: Option<Duration>,
    pub(super) max_stream_duration: Option<Duration>,
    pub(super) max_requests_per_connection: Option<u32>,
    pub(super) max_headers_count: u32,
    pub(super) max_response_headers_kb: Option<u32>,
    pub(super) underscores: Underscores,
}

impl Default for Common {
    fn default() -> Self {
        Self {
            idle_timeout: Some(IDLE_TIMEOUT),
            max_connection_duration: None,
            max_stream_duration: None,
            max_requests_per_connection: None,
            max_headers_count: MAX_HEADERS_COUNT,
            max_response_headers_kb: None,
            underscores: Underscores::Allow,
        }
    }
}

/// Which side of the proxy the options are for: some have a meaning on one side only.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Downstream,
    Upstream,
}

/// Options common to all versions.
pub(super) fn common(
    proto: Option<proto::HttpProtocolOptions>,
    side: Side,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Common {
    let Some(proto) = proto else { return Common::default() };
    let proto::HttpProtocolOptions {
        idle_timeout,
        max_connection_duration,
        max_connection_duration_jitter,
        max_headers_count,
        max_response_headers_kb,
        max_stream_duration,
        headers_with_underscores_action,
        max_requests_per_connection,
    } = proto;
    ignored!(d, at, "connections live for the duration itself"; max_connection_duration_jitter);
    let underscores_at = at.field("headers_with_underscores_action");
    let underscores = match field::variant(headers_with_underscores_action, &underscores_at, d) {
        Ok(HeadersWithUnderscoresAction::Allow) | Err(Rejected) => Underscores::Allow,
        Ok(HeadersWithUnderscoresAction::RejectRequest) => Underscores::RejectRequest,
        Ok(HeadersWithUnderscoresAction::DropHeader) => Underscores::DropHeader,
    };
    match side {
        Side::Downstream => {
            ignored!(d, at, "clusters limit the responses they receive"; max_response_headers_kb);
        }
        Side::Upstream => {
            unsupported!(d, at, "not supported on clusters: set it on the route"; max_stream_duration);
            if underscores != Underscores::Allow {
                d.ignored(&underscores_at, "responses are not affected");
            }
        }
    }
    Common {
        idle_timeout: duration::limit(idle_timeout, Some(IDLE_TIMEOUT), &at.field("idle_timeout"), d),
        max_connection_duration: duration::limit(
            max_connection_duration,
            None,
            &at.field("max_connection_duration"),
            d,
        ),
        max_stream_duration: duration::limit(max_stream_duration, None, &at.field("max_stream_duration"), d),
        max_requests_per_connection: max_requests_per_connection.map(|v| v.value).filter(|&most| most > 0),
        max_headers_count: max_headers_count.map_or(MAX_HEADERS_COUNT, |v| v.value),
        max_response_headers_kb: max_response_headers_kb.map(|v| v.value),
        underscores,
    }
}

/// HTTP/1 options. `stream_error` is the manager's own setting, which these may override.
pub(super) fn http1(
    proto: Option<proto::Http1ProtocolOptions>,
    stream_error: bool,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Http1Options {
    let defaults = Http1Options { stream_error_on_invalid_http_message: stream_error, ..Default::default() };
    let Some(proto) = proto else { return defaults };
    let proto::Http1ProtocolOptions {
        allow_absolute_url,
        accept_http_10,
        default_host_for_http_10,
        header_key_format,
        enable_trailers,
        allow_chunked_length,
        override_stream_error_on_invalid_http_message,
        send_fully_qualified_url,
        use_balsa_parser,
        allow_custom_methods,
        ignore_http_11_upgrade,
    } = proto;
    unsupported!(d, at, "both framings in one message are refused: request smuggling"; allow_chunked_length);
    unsupported!(d, at; send_fully_qualified_url, ignore_http_11_upgrade);
    ignored!(d, at, BAD_MESSAGES; override_stream_error_on_invalid_http_message = false);
    ignored!(d, at, "there is one parser"; use_balsa_parser);
    ignored!(d, at, "methods of any name are passed on"; allow_custom_methods);
    let (preserve_case, proper_case) = match header_key_format {
        Some(proto) => header_case(proto, &at.field("header_key_format"), d),
        None => (false, false),
    };
    Http1Options {
        allow_absolute_url: allow_absolute_url.is_none_or(|v| v.value),
        accept_http_10,
        default_host_for_http_10: default_host_for_http_10.into(),
        enable_trailers,
        preserve_case,
        proper_case,
        stream_error_on_invalid_http_message: override_stream_error_on_invalid_http_message
            .map_or(stream_error, |v| v.value),
    }
}

/// Whether header names keep their case, and whether they are written in proper case.
fn header_case(proto: HeaderKeyFormat, at: &Path<'_>, d: &mut Diagnostics) -> (bool, bool) {
    let HeaderKeyFormat { header_format } = proto;
    match header_format {
        Some(HeaderFormat::ProperCaseWords(ProperCaseWords {})) => (false, true),
        Some(HeaderFormat::StatefulFormatter(formatter)) => {
            let at = at.field("stateful_formatter");
            (preserve_case(formatter, &at, d).is_ok(), false)
        }
        None => {
            d.reject(at, "one of proper_case_words, stateful_formatter is required");
            (false, false)
        }
    }
}

fn preserve_case(
    proto: proto::TypedExtensionConfig,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Result<(), Rejected> {
    let proto::TypedExtensionConfig { name, typed_config } = proto;
    let packed = extension::packed(typed_config.as_ref(), at, d)?;
    let at = at.field("typed_config");
    if !extension::is::<PreserveCaseFormatterConfig>(packed) {
        return Err(extension::unknown("header formatter", &name, packed, &at, d));
    }
    let PreserveCaseFormatterConfig { forward_reason_phrase, formatter_type_on_envoy_headers } =
        extension::open(packed, &at, d)?;
    ignored!(d, at, "reason phrases are the standard ones"; forward_reason_phrase);
    let kind_at = at.field("formatter_type_on_envoy_headers");
    match field::variant(formatter_type_on_envoy_headers, &kind_at, d)? {
        FormatterTypeOnEnvoyHeaders::Default => {}
        FormatterTypeOnEnvoyHeaders::ProperCase => {
            d.ignored(&kind_at, "headers the proxy adds are lowercase")
        }
    }
    Ok(())
}

/// HTTP/2 options.
pub(super) fn http2(
    proto: Option<proto::Http2ProtocolOptions>,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Http2Options {
    let defaults = Http2Options::default();
    let Some(proto) = proto else { return defaults };
    let proto::Http2ProtocolOptions {
        hpack_table_size,
        max_concurrent_streams,
        initial_stream_window_size,
        initial_connection_window_size,
        allow_connect,
        allow_metadata,
        max_outbound_frames,
        max_outbound_control_frames,
        max_consecutive_inbound_frames_with_empty_payload,
        max_inbound_priority_frames_per_stream,
        max_inbound_window_update_frames_per_data_frame_sent,
        stream_error_on_invalid_http_messaging,
        override_stream_error_on_invalid_http_message,
        custom_settings_parameters,
        connection_keepalive,
        use_oghttp2_codec,
        max_metadata_size,
        enable_huffman_encoding,
        max_header_field_size_kb,
        disallow_obs_text,
        stream_reset_burst,
        stream_reset_rate,
    } = proto;
    unsupported!(d, at; allow_metadata, custom_settings_parameters, disallow_obs_text = false);
    ignored!(d, at, "the codec has flood limits of its own, always on";
        max_outbound_frames,
        max_outbound_control_frames,
        max_consecutive_inbound_frames_with_empty_payload,
        max_inbound_priority_frames_per_stream,
        max_inbound_window_update_frames_per_data_frame_sent,
        stream_reset_rate,
    );
    ignored!(d, at, "a malformed message always resets its stream only";
        stream_error_on_invalid_http_messaging, override_stream_error_on_invalid_http_message);
    ignored!(d, at, "there is one codec"; use_oghttp2_codec, enable_huffman_encoding);
    ignored!(d, at, "METADATA frames are dropped"; max_metadata_size);
    ignored!(d, at, "the head is limited as a whole"; max_header_field_size_kb);
    let (keepalive_interval, keepalive_timeout) = match connection_keepalive {
        Some(proto) => keepalive(proto, &at.field("connection_keepalive"), d),
        None => (defaults.keepalive_interval, defaults.keepalive_timeout),
    };
    Http2Options {
        max_concurrent_streams: max_concurrent_streams.map_or(defaults.max_concurrent_streams, |v| v.value),
        initial_stream_window: initial_stream_window_size.map_or(defaults.initial_stream_window, |v| v.value),
        initial_connection_window: initial_connection_window_size
            .map_or(defaults.initial_connection_window, |v| v.value),
        header_table_size: hpack_table_size.map_or(defaults.header_table_size, |v| v.value),
        keepalive_interval,
        keepalive_timeout,
        allow_connect,
        max_reset_streams: stream_reset_burst
            .map_or(defaults.max_reset_streams, |v| usize::try_from(v.value).unwrap_or(usize::MAX)),
    }
}

fn keepalive(
    proto: proto::KeepaliveSettings,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> (Option<Duration>, Duration) {
    let proto::KeepaliveSettings { interval, timeout, interval_jitter, connection_idle_interval } = proto;
    ignored!(d, at, "probes are sent at the interval itself"; interval_jitter);
    ignored!(d, at, "probes are sent at the interval only"; connection_idle_interval);
    let timeout_at = at.field("timeout");
    let default = Http2Options::default().keepalive_timeout;
    let timeout = duration::positive_or(timeout, default, &timeout_at, d);
    (duration::limit(interval, None, &at.field("interval"), d), timeout)
}
