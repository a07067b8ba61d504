//! Retry policies of routes and virtual hosts, and what of a body is kept for them.

use super::field::{self, unsupported};
use super::{duration, edits, endpoint, extension, matcher};
use crate::config::{Avoid, BodyLimit, RateLimited, ResetHeader, RetryOn, RetryPolicy};
use crate::path::{Diagnostics, Path, Rejected};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use xds_types::envoy::config::route::v3 as proto;
use xds_types::envoy::config::route::v3::retry_policy::{
    RateLimitedRetryBackOff, ResetHeader as ProtoResetHeader, ResetHeaderFormat, RetryBackOff,
    RetryHostPredicate, RetryPriority, retry_host_predicate, retry_priority,
};
use xds_types::envoy::extensions::retry::host::omit_canary_hosts::v3::OmitCanaryHostsPredicate;
use xds_types::envoy::extensions::retry::host::omit_host_metadata::v3::OmitHostMetadataConfig;
use xds_types::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
use xds_types::envoy::extensions::retry::priority::previous_priorities::v3::PreviousPrioritiesConfig;
use xds_types::google::protobuf::{UInt32Value, UInt64Value};

/// Envoy's default of `rate_limited_retry_back_off.max_interval`.
const RATE_LIMITED_MAX: Duration = Duration::from_secs(300);
/// Times the base interval: Envoy's default of `retry_back_off.max_interval`.
const MAX_OVER_BASE: u32 = 10;

/// A retry policy.
pub(super) fn policy(
    proto: proto::RetryPolicy,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Result<Arc<RetryPolicy>, Rejected> {
    let proto::RetryPolicy {
        retry_on,
        num_retries,
        per_try_timeout,
        per_try_idle_timeout,
        retry_priority,
        retry_host_predicate,
        retry_options_predicates,
        host_selection_retry_max_attempts,
        retriable_status_codes,
        retry_back_off,
        rate_limited_retry_back_off,
        retriable_headers,
        retriable_request_headers,
        refresh_cluster_on_retry,
    } = proto;
    unsupported!(d, at; retry_options_predicates, refresh_cluster_on_retry);
    let defaults = RetryPolicy::default();
    let (base_interval, max_interval) = back_off(retry_back_off, &at.field("retry_back_off"), d);
    let limited_at = at.field("rate_limited_retry_back_off");
    let codes_at = at.field("retriable_status_codes");
    let predicates_at = at.field("retry_host_predicate");
    let attempts_at = at.field("host_selection_retry_max_attempts");
    Ok(Arc::new(RetryPolicy {
        on: conditions(&retry_on, &at.field("retry_on"), d),
        retries: num_retries.map_or(defaults.retries, |UInt32Value { value }| value),
        per_try_timeout: duration::limit(per_try_timeout, None, &at.field("per_try_timeout"), d),
        per_try_idle_timeout: duration::limit(
            per_try_idle_timeout,
            None,
            &at.field("per_try_idle_timeout"),
            d,
        ),
        base_interval,
        max_interval,
        rate_limited: rate_limited_retry_back_off.map(|proto| rate_limited(proto, &limited_at, d)),
        status_codes: field::each(retriable_status_codes, &codes_at, d, |code, at, d| {
            u16::try_from(code).map_err(|_| d.reject(at, format_args!("{code} is not a status code")))
        }),
        headers: field::each(retriable_headers, &at.field("retriable_headers"), d, matcher::header),
        request_headers: field::each(
            retriable_request_headers,
            &at.field("retriable_request_headers"),
            d,
            matcher::header,
        ),
        avoid: field::each(retry_host_predicate, &predicates_at, d, host_predicate),
        host_attempts: match host_selection_retry_max_attempts {
            0 => defaults.host_attempts,
            attempts => u32::try_from(attempts).unwrap_or_else(|_| {
                d.reject(&attempts_at, format_args!("{attempts} is not a number of attempts"));
                defaults.host_attempts
            }),
        },
        previous_priorities: match retry_priority {
            Some(proto) => priority(proto, &at.field("retry_priority"), d).ok(),
            None => None,
        },
    }))
}

/// `retry_on`: comma-separated. Envoy passes over names that it does not know; each is reported.
fn conditions(names: &str, at: &Path<'_>, d: &mut Diagnostics) -> RetryOn {
    let names = names.split(',').map(str::trim).filter(|name| !name.is_empty());
    names.fold(RetryOn::NONE, |all, name| match RetryOn::named(name) {
        Some(RetryOn::HTTP3_POST_CONNECT) => {
            d.ignored(at, format_args!("{name:?}: HTTP/3 is not spoken with upstreams"));
            all
        }
        Some(on) => all.with(on),
        None => {
            d.ignored(at, format_args!("{name:?} is not a retry condition, as in Envoy"));
            all
        }
    })
}

fn back_off(proto: Option<RetryBackOff>, at: &Path<'_>, d: &mut Diagnostics) -> (Duration, Duration) {
    let defaults = RetryPolicy::default();
    let Some(RetryBackOff { base_interval, max_interval }) = proto else {
        return (defaults.base_interval, defaults.max_interval);
    };
    if base_interval.is_none() {
        d.reject(&at.field("base_interval"), "is required");
    }
    let base = duration::positive_or(base_interval, defaults.base_interval, &at.field("base_interval"), d);
    // Envoy counts in whole milliseconds, at least one.
    let base = base.max(Duration::from_millis(1));
    let max_at = at.field("max_interval");
    let max = duration::positive_or(max_interval, base.saturating_mul(MAX_OVER_BASE), &max_at, d);
    let max = max.max(Duration::from_millis(1));
    if max < base {
        d.reject(&max_at, "must not be shorter than base_interval");
    }
    (base, max)
}

fn rate_limited(proto: RateLimitedRetryBackOff, at: &Path<'_>, d: &mut Diagnostics) -> RateLimited {
    let RateLimitedRetryBackOff { reset_headers, max_interval } = proto;
    let headers_at = at.field("reset_headers");
    if reset_headers.is_empty() {
        d.reject(&headers_at, "at least one is required");
    }
    RateLimited {
        headers: field::each(reset_headers, &headers_at, d, |proto, at, d| {
            let ProtoResetHeader { name, format } = proto;
            edits::name(&name, &at.field("name"), d)?;
            let format = field::variant(format, &at.field("format"), d)?;
            let is_timestamp = matches!(format, ResetHeaderFormat::UnixTimestamp);
            Ok(ResetHeader { name: name.to_ascii_lowercase().into(), is_timestamp })
        }),
        max_interval: duration::positive_or(max_interval, RATE_LIMITED_MAX, &at.field("max_interval"), d),
    }
}

fn host_predicate(proto: RetryHostPredicate, at: &Path<'_>, d: &mut Diagnostics) -> Result<Avoid, Rejected> {
    let RetryHostPredicate { name, config_type } = proto;
    let config = config_type.map(|retry_host_predicate::ConfigType::TypedConfig(packed)| packed);
    let packed = extension::packed(config.as_ref(), at, d)?;
    let at = at.field("typed_config");
    if extension::is::<PreviousHostsPredicate>(packed) {
        let PreviousHostsPredicate {} = extension::open(packed, &at, d)?;
        return Ok(Avoid::Previous);
    }
    if extension::is::<OmitCanaryHostsPredicate>(packed) {
        let OmitCanaryHostsPredicate {} = extension::open(packed, &at, d)?;
        return Ok(Avoid::Canary);
    }
    if extension::is::<OmitHostMetadataConfig>(packed) {
        let OmitHostMetadataConfig { metadata_match } = extension::open(packed, &at, d)?;
        let at = at.field("metadata_match");
        let Some(proto) = metadata_match else { return Ok(Avoid::Metadata(BTreeMap::new())) };
        let (labels, others) = endpoint::labels(proto, &at, d);
        if !others.is_empty() {
            d.ignored(&at.field("filter_metadata"), "hosts are matched by envoy.lb");
        }
        return Ok(Avoid::Metadata(labels));
    }
    Err(extension::unknown("retry host predicate", &name, packed, &at, d))
}

fn priority(proto: RetryPriority, at: &Path<'_>, d: &mut Diagnostics) -> Result<u32, Rejected> {
    let RetryPriority { name, config_type } = proto;
    let config = config_type.map(|retry_priority::ConfigType::TypedConfig(packed)| packed);
    let packed = extension::packed(config.as_ref(), at, d)?;
    let at = at.field("typed_config");
    if !extension::is::<PreviousPrioritiesConfig>(packed) {
        return Err(extension::unknown("retry priority", &name, packed, &at, d));
    }
    let PreviousPrioritiesConfig { update_frequency } = extension::open(packed, &at, d)?;
    match u32::try_from(update_frequency) {
        Ok(frequency) if frequency > 0 => Ok(frequency),
        _ => Err(d.reject(&at.field("update_frequency"), "must be greater than 0")),
    }
}

/// Most bytes of a request's body that are kept for retries and mirrors, by the message at `at`.
pub(super) fn body_limit(
    per_request: Option<UInt32Value>,
    body: Option<UInt64Value>,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Option<BodyLimit> {
    match (per_request, body) {
        (Some(_), Some(_)) => {
            let both = "excludes per_request_buffer_limit_bytes";
            d.reject(&at.field("request_body_buffer_limit"), both);
            None
        }
        (Some(UInt32Value { value }), None) => Some(BodyLimit::AtMost(value.into())),
        (None, Some(UInt64Value { value })) => Some(BodyLimit::Exactly(value)),
        (None, None) => None,
    }
}
