//! `envoy.filters.http.ratelimit`.

use super::super::field::{self, ignored, required};
use super::super::{duration, edits, ratelimit, source};
use super::local_ratelimit::{limited_status, share};
use crate::config::{
    Fraction, GlobalRateLimit, RateLimitPerRoute, RequestType, RuntimeFraction, VirtualHostLimits,
};
use crate::path::{Diagnostics, Path, Rejected};
use std::time::Duration;
use xds_types::envoy::config::ratelimit::v3::RateLimitServiceConfig;
use xds_types::envoy::extensions::filters::http::ratelimit::v3::rate_limit::XRateLimitHeadersRfcVersion;
use xds_types::envoy::extensions::filters::http::ratelimit::v3::rate_limit_per_route::{
    OverrideOptions, VhRateLimitsOptions,
};
use xds_types::envoy::extensions::filters::http::ratelimit::v3::{
    RateLimit as Proto, RateLimitPerRoute as PerRouteProto,
};
use xds_types::envoy::r#type::v3::HttpStatus;

/// Envoy's default of `timeout`.
const TIMEOUT: Duration = Duration::from_millis(20);

/// The filter's configuration.
pub(super) fn global(proto: Proto, at: &Path<'_>, d: &mut Diagnostics) -> Result<GlobalRateLimit, Rejected> {
    let Proto {
        domain,
        stage,
        request_type,
        timeout,
        failure_mode_deny,
        rate_limited_as_resource_exhausted,
        rate_limit_service,
        enable_x_ratelimit_headers,
        disable_x_envoy_ratelimited_header,
        rate_limited_status,
        response_headers_to_add,
        status_on_error,
        stat_prefix,
        filter_enabled,
        filter_enforced,
        failure_mode_deny_percent,
        rate_limits,
        metadata_namespace,
        enable_retry_after_header,
    } = proto;
    let x_at = at.field("enable_x_ratelimit_headers");
    let service_at = at.field("rate_limit_service");
    let service = required(rate_limit_service, &service_at, d)?;
    let deny = if failure_mode_deny { 1_000_000 } else { 0 };
    let fixed =
        |per_million, key: &str| RuntimeFraction { default: Fraction { per_million }, key: key.into() };
    let percent_at = at.field("failure_mode_deny_percent");
    if failure_mode_deny_percent.is_some() {
        ignored!(d, at, "failure_mode_deny_percent takes its place"; failure_mode_deny);
    }
    Ok(GlobalRateLimit {
        domain: domain.into(),
        stage,
        requests: match request_type.as_str() {
            "internal" => RequestType::Internal,
            "external" => RequestType::External,
            // The API's rules know no other.
            _ => RequestType::Both,
        },
        timeout: duration::limit(timeout, Some(TIMEOUT), &at.field("timeout"), d),
        failure_mode_deny: share(failure_mode_deny_percent, &percent_at, d)?
            .unwrap_or_else(|| fixed(deny, "")),
        resource_exhausted: rate_limited_as_resource_exhausted,
        service: service_of(service, &service_at, d)?,
        x_ratelimit: match field::variant(enable_x_ratelimit_headers, &x_at, d)? {
            XRateLimitHeadersRfcVersion::Off => false,
            XRateLimitHeadersRfcVersion::DraftVersion03 => true,
        },
        no_ratelimited_header: disable_x_envoy_ratelimited_header,
        status: limited_status(rate_limited_status),
        response_edits: edits::additions(response_headers_to_add, &at.field("response_headers_to_add"), d),
        status_on_error: error_status(status_on_error),
        stat_prefix: stat_prefix.into(),
        enabled: share(filter_enabled, &at.field("filter_enabled"), d)?
            .unwrap_or_else(|| fixed(1_000_000, "ratelimit.http_filter_enabled")),
        enforced: share(filter_enforced, &at.field("filter_enforced"), d)?
            .unwrap_or_else(|| fixed(1_000_000, "ratelimit.http_filter_enforcing")),
        rate_limits: ratelimit::limits(rate_limits, ratelimit::Reader::Global, &at.field("rate_limits"), d),
        metadata_namespace: if metadata_namespace.is_empty() {
            "envoy.filters.http.ratelimit".into()
        } else {
            metadata_namespace.into()
        },
        retry_after: enable_retry_after_header,
    })
}

fn error_status(proto: Option<HttpStatus>) -> u16 {
    let code = proto.map(|HttpStatus { code }| code).and_then(|code| u16::try_from(code).ok());
    code.filter(|code| *code >= 100).unwrap_or(500)
}

fn service_of(
    proto: RateLimitServiceConfig,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Result<crate::config::GrpcTarget, Rejected> {
    let RateLimitServiceConfig { grpc_service, transport_api_version } = proto;
    source::version(transport_api_version, source::Missing::Refused, &at.field("transport_api_version"), d);
    let at = at.field("grpc_service");
    source::grpc_service(required(grpc_service, &at, d)?, "a decision is asked for once", &at, d)
}

/// What a route says of the filter.
pub(super) fn per_route(
    proto: PerRouteProto,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Result<RateLimitPerRoute, Rejected> {
    let PerRouteProto { vh_rate_limits, override_option, rate_limits, domain } = proto;
    let by_host = match field::variant(vh_rate_limits, &at.field("vh_rate_limits"), d)? {
        VhRateLimitsOptions::Override => VirtualHostLimits::Override,
        VhRateLimitsOptions::Include => VirtualHostLimits::Include,
        VhRateLimitsOptions::Ignore => VirtualHostLimits::Ignore,
    };
    let option = field::variant(override_option, &at.field("override_option"), d)?;
    if option != OverrideOptions::Default {
        ignored!(d, at, "override_option takes its place"; vh_rate_limits);
    }
    let virtual_host_limits = match option {
        OverrideOptions::Default => by_host,
        OverrideOptions::OverridePolicy => VirtualHostLimits::Override,
        OverrideOptions::IncludePolicy => VirtualHostLimits::Include,
        OverrideOptions::IgnorePolicy => VirtualHostLimits::Ignore,
    };
    let rate_limits = ratelimit::limits(rate_limits, ratelimit::Reader::Global, &at.field("rate_limits"), d);
    Ok(RateLimitPerRoute { virtual_host_limits, rate_limits, domain: domain.into() })
}
