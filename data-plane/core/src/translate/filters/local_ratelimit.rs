//! `envoy.filters.http.local_ratelimit`.

use super::super::field::{self, is_set, required, unsupported};
use super::super::{duration, edits, fraction, ratelimit};
use crate::config::{LocalDescriptor, LocalRateLimit, RuntimeFraction, VirtualHostLimits};
use crate::guard::Fill;
use crate::path::{Diagnostics, Path, Rejected};
use std::collections::HashMap;
use std::time::Duration;
use xds_types::envoy::config::core::v3::RuntimeFractionalPercent;
use xds_types::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::Entry;
use xds_types::envoy::extensions::common::ratelimit::v3::{
    LocalRateLimitDescriptor, VhRateLimitsOptions, XRateLimitHeadersRfcVersion,
};
use xds_types::envoy::extensions::filters::http::local_ratelimit::v3::LocalRateLimit as Proto;
use xds_types::envoy::r#type::v3::{HttpStatus, TokenBucket};

/// Envoy's: faster fills would be too much for its timers.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(50);

/// The filter's configuration. A route's must have a bucket.
pub(super) fn local_ratelimit(
    proto: Proto,
    of_route: bool,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Result<LocalRateLimit, Rejected> {
    let Proto {
        stat_prefix,
        status,
        token_bucket,
        filter_enabled,
        filter_enforced,
        request_headers_to_add_when_not_enforced,
        response_headers_to_add,
        descriptors,
        stage,
        local_rate_limit_per_downstream_connection,
        local_cluster_rate_limit,
        enable_x_ratelimit_headers,
        vh_rate_limits,
        always_consume_default_token_bucket,
        rate_limited_as_resource_exhausted,
        rate_limits,
        max_dynamic_descriptors,
        enable_retry_after_header,
    } = proto;
    unsupported!(d, at, "shares of a cluster are not supported"; local_cluster_rate_limit);
    let bucket_at = at.field("token_bucket");
    if of_route && !is_set!(token_bucket) {
        d.reject(&bucket_at, "is required in the configuration of a route");
    }
    let bucket = match token_bucket {
        Some(proto) => Some(fill(proto, &bucket_at, d)?),
        None => None,
    };
    let x_at = at.field("enable_x_ratelimit_headers");
    let vh_at = at.field("vh_rate_limits");
    let not_enforced_at = at.field("request_headers_to_add_when_not_enforced");
    Ok(LocalRateLimit {
        stat_prefix: stat_prefix.into(),
        status: limited_status(status),
        bucket,
        enabled: share(filter_enabled, &at.field("filter_enabled"), d)?,
        enforced: share(filter_enforced, &at.field("filter_enforced"), d)?,
        request_edits: edits::additions(request_headers_to_add_when_not_enforced, &not_enforced_at, d),
        response_edits: edits::additions(response_headers_to_add, &at.field("response_headers_to_add"), d)
            .into(),
        descriptors: local_descriptors(descriptors, &at.field("descriptors"), d),
        stage,
        per_connection: local_rate_limit_per_downstream_connection,
        x_ratelimit: match field::variant(enable_x_ratelimit_headers, &x_at, d)? {
            XRateLimitHeadersRfcVersion::Off => false,
            XRateLimitHeadersRfcVersion::DraftVersion03 => true,
        },
        virtual_host_limits: match field::variant(vh_rate_limits, &vh_at, d)? {
            VhRateLimitsOptions::Override => VirtualHostLimits::Override,
            VhRateLimitsOptions::Include => VirtualHostLimits::Include,
            VhRateLimitsOptions::Ignore => VirtualHostLimits::Ignore,
        },
        always_consume_default: always_consume_default_token_bucket.is_none_or(|v| v.value),
        resource_exhausted: rate_limited_as_resource_exhausted,
        rate_limits: ratelimit::limits(rate_limits, ratelimit::Reader::Local, &at.field("rate_limits"), d),
        max_dynamic_descriptors: max_dynamic_descriptors.map_or(20, |v| v.value),
        retry_after: enable_retry_after_header,
    })
}

/// Status of an answer to those limited: Envoy takes none below 400.
pub(super) fn limited_status(proto: Option<HttpStatus>) -> u16 {
    let code = proto.map(|HttpStatus { code }| code).and_then(|code| u16::try_from(code).ok());
    code.filter(|code| *code >= 400).unwrap_or(429)
}

/// A share, when one is given.
pub(super) fn share(
    proto: Option<RuntimeFractionalPercent>,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Result<Option<RuntimeFraction>, Rejected> {
    proto.map(|proto| fraction::runtime(proto, at, d)).transpose()
}

/// A token bucket.
pub(super) fn fill(proto: TokenBucket, at: &Path<'_>, d: &mut Diagnostics) -> Result<Fill, Rejected> {
    let TokenBucket { max_tokens, tokens_per_fill, fill_interval } = proto;
    let interval_at = at.field("fill_interval");
    let interval = required(duration::read(fill_interval, &interval_at, d), &interval_at, d)?;
    let shortest = if max_tokens == 0 { Duration::from_nanos(1) } else { SHORTEST_INTERVAL };
    if interval < shortest {
        return Err(d.reject(&interval_at, "must be at least 50 ms"));
    }
    Ok(Fill { max: max_tokens, per_fill: tokens_per_fill.map_or(1, |v| v.value), interval })
}

/// Keys and values.
type Entries = Vec<(Box<str>, Box<str>)>;

fn local_descriptors(
    list: Vec<LocalRateLimitDescriptor>,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Vec<LocalDescriptor> {
    let mut known: HashMap<Entries, usize> = HashMap::new();
    field::each(list.into_iter().enumerate(), at, d, |(index, proto), at, d| {
        let LocalRateLimitDescriptor { entries, token_bucket, shadow_mode } = proto;
        let bucket_at = at.field("token_bucket");
        let fill = fill(required(token_bucket, &bucket_at, d)?, &bucket_at, d)?;
        let entries: Entries =
            entries.into_iter().map(|Entry { key, value }| (key.into(), value.into())).collect();
        if let Some(first) = known.insert(entries.clone(), index) {
            return Err(d.reject(at, format_args!("has the entries of descriptors[{first}]")));
        }
        Ok(LocalDescriptor { entries, fill, shadow: shadow_mode })
    })
}
