//! The router.

use crate::config::HttpFilterKind;
use crate::path::{Diagnostics, Path};
use crate::translate::field::{ignored, unsupported};
use xds_types::envoy::extensions::filters::http::router::v3::Router;
use xds_types::envoy::extensions::filters::http::router::v3::router::UpstreamAccessLogOptions;

pub(super) fn router(proto: Router, at: &Path<'_>, d: &mut Diagnostics) -> HttpFilterKind {
    let Router {
        dynamic_stats,
        // Of the manager's tracing: see [`super::starts_child_span`].
        start_child_span: _,
        upstream_log,
        upstream_log_options,
        suppress_envoy_headers,
        strict_check_headers,
        respect_expected_rq_timeout,
        suppress_grpc_request_failure_code_stats,
        upstream_http_filters,
        reject_connect_request_early_data,
    } = proto;
    unsupported!(d, at; strict_check_headers, upstream_http_filters, reject_connect_request_early_data = false);
    ignored!(d, at, "requests are logged downstream only"; upstream_log);
    ignored!(d, at, "codes are counted by HTTP status"; suppress_grpc_request_failure_code_stats);
    if let Some(options) = upstream_log_options {
        let at = at.field("upstream_log_options");
        let UpstreamAccessLogOptions { flush_upstream_log_on_upstream_stream, upstream_log_flush_interval } =
            options;
        ignored!(d, at, "requests are logged downstream only";
            flush_upstream_log_on_upstream_stream, upstream_log_flush_interval);
    }
    HttpFilterKind::Router {
        suppress_envoy_headers,
        dynamic_stats: dynamic_stats.is_none_or(|v| v.value),
        respect_expected_rq_timeout,
    }
}
