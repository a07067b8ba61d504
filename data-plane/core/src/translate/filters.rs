//! HTTP filters and what routes say of them.

use super::extension;
use super::field::{ignored, unsupported};
use crate::config::{HttpFilter, HttpFilterKind};
use crate::path::{Diagnostics, Path, Rejected};
use std::collections::HashMap;
use xds_types::envoy::config::route::v3::FilterConfig;
use xds_types::envoy::extensions::filters::http::router::v3::Router;
use xds_types::envoy::extensions::filters::http::router::v3::router::UpstreamAccessLogOptions;
use xds_types::envoy::extensions::filters::network::http_connection_manager::v3 as proto;
use xds_types::envoy::extensions::filters::network::http_connection_manager::v3::http_filter::ConfigType;
use xds_types::google::protobuf::Any;

/// The filter chain: exactly one router, and it is last.
pub(super) fn http_filters(
    list: Vec<proto::HttpFilter>,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Vec<HttpFilter> {
    let last = list.len().checked_sub(1);
    let before = d.rejections();
    let mut filters = Vec::with_capacity(list.len());
    for (index, proto) in list.into_iter().enumerate() {
        let at = at.index(index);
        let Ok(Some(filter)) = http_filter(proto, &at, d) else { continue };
        if matches!(filter.kind, HttpFilterKind::Router { .. }) && Some(index) != last {
            d.reject(&at, "the router must be the last filter");
        }
        filters.push(filter);
    }
    let ends_well = filters.last().is_some_and(|f| matches!(f.kind, HttpFilterKind::Router { .. }));
    if !ends_well && d.rejections() == before {
        d.reject(at, "must end with the router filter (envoy.filters.http.router)");
    }
    filters
}

/// A filter; `None` for an optional one that is not known here.
fn http_filter(
    proto: proto::HttpFilter,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Result<Option<HttpFilter>, Rejected> {
    let proto::HttpFilter { name, is_optional, disabled, config_type } = proto;
    let packed = match config_type {
        Some(ConfigType::TypedConfig(packed)) => Some(packed),
        Some(ConfigType::ConfigDiscovery(source)) => return Err(extension::discovered(source, at, d)),
        None => None,
    };
    let packed = extension::packed(packed.as_ref(), at, d)?;
    let config_at = at.field("typed_config");
    if extension::is::<Router>(packed) {
        unsupported!(d, at, "the router cannot be disabled"; disabled);
        ignored!(d, at, "the filter is known here"; is_optional);
        let kind = router(extension::open(packed, &config_at, d)?, &config_at, d);
        return Ok(Some(HttpFilter { name: name.into(), kind, disabled }));
    }
    if is_optional {
        d.ignored(&config_at, format_args!("optional HTTP filter {name:?} is not supported and left out"));
        return Ok(None);
    }
    Err(extension::unknown("HTTP filter", &name, packed, &config_at, d))
}

fn router(proto: Router, at: &Path<'_>, d: &mut Diagnostics) -> HttpFilterKind {
    let Router {
        dynamic_stats,
        start_child_span,
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
    ignored!(d, at, "nothing is traced"; start_child_span);
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

/// `typed_per_filter_config`: no filter built so far has any, so each must be marked optional.
pub(super) fn per_route(config: HashMap<String, Any>, at: &Path<'_>, d: &mut Diagnostics) {
    let at = at.field("typed_per_filter_config");
    let mut config: Vec<_> = config.into_iter().collect();
    config.sort_by(|(a, _), (b, _)| a.cmp(b));
    for (name, packed) in config {
        let at = at.key(&name);
        if !extension::is::<FilterConfig>(&packed) {
            extension::unknown("configuration of HTTP filter", &name, &packed, &at, d);
            continue;
        }
        let Ok(FilterConfig { config, is_optional, disabled }) = extension::open(&packed, &at, d) else {
            continue;
        };
        if is_optional {
            d.ignored(&at, "of an optional HTTP filter that is not supported");
            continue;
        }
        unsupported!(d, at, "there is no filter that it could disable"; disabled);
        match config {
            Some(config) => {
                _ = extension::unknown("configuration of HTTP filter", &name, &config, &at.field("config"), d)
            }
            None if !disabled => _ = d.reject(&at.field("config"), "is required"),
            None => {}
        }
    }
}
