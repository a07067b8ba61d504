//! Our circuit breaker, which clusters carry in their metadata (`portolan.extensions.v1.CircuitBreaker`).

use super::field::ignored;
use super::{duration, extension};
use crate::config::CircuitBreaker;
use crate::guard::circuit::{Options, Slow};
use crate::path::{Diagnostics, Path, Rejected};
use std::time::Duration;
use xds_types::envoy::config::core::v3::Metadata;
use xds_types::google::protobuf::UInt32Value;
use xds_types::portolan::extensions::v1 as proto;

/// Where in the typed metadata it is.
const KEY: &str = "portolan.circuit_breaker";

const WINDOW: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(3600));

/// What a cluster's metadata says that is read here.
pub(super) fn of_metadata(proto: Metadata, at: &Path<'_>, d: &mut Diagnostics) -> Option<CircuitBreaker> {
    let Metadata { filter_metadata, typed_filter_metadata } = proto;
    ignored!(d, at, "has no reader"; filter_metadata);
    let at = at.field("typed_filter_metadata");
    let mut found = None;
    let mut entries: Vec<_> = typed_filter_metadata.into_iter().collect();
    entries.sort_by(|(a, _), (b, _)| a.cmp(b));
    for (key, packed) in entries {
        let at = at.key(&key);
        if key != KEY {
            d.ignored(&at, "has no reader: only portolan.circuit_breaker has");
            continue;
        }
        found = extension::open(&packed, &at, d).and_then(|proto| breaker(proto, &at, d)).ok();
    }
    found
}

fn breaker(
    proto: proto::CircuitBreaker,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Result<CircuitBreaker, Rejected> {
    let proto::CircuitBreaker {
        failure_percent,
        consecutive_failures,
        slow_percent,
        slow_duration,
        window,
        minimum_requests,
        open_time,
        max_open_time,
        jitter_percent,
        probes,
        event_log_path,
    } = proto;
    let default = Options::default();
    let before = d.rejections();
    let mut percent = |value: u32, name| {
        if value > 100 {
            d.reject(&at.field(name), format_args!("{value} is not a percentage, must be 0 to 100"));
        }
        Some(value).filter(|value| *value > 0)
    };
    let failure_percent = percent(failure_percent, "failure_percent");
    let slow_percent = percent(slow_percent, "slow_percent");
    let jitter_percent =
        jitter_percent.map_or(default.jitter_percent, |v| percent(v.value, "jitter_percent").unwrap_or(0));
    let slow_at = at.field("slow_duration");
    let slow = match (slow_percent, duration::read(slow_duration, &slow_at, d)) {
        (Some(percent), Some(duration)) if !duration.is_zero() => Some(Slow { duration, percent }),
        (Some(_), _) => {
            d.reject(&slow_at, "must be longer than zero where slow_percent is set");
            None
        }
        (None, Some(_)) => {
            d.reject(&slow_at, "says nothing without slow_percent");
            None
        }
        (None, None) => None,
    };
    let consecutive_failures = Some(consecutive_failures).filter(|count| *count > 0);
    if failure_percent.is_none() && consecutive_failures.is_none() && slow_percent.is_none() {
        d.reject(at, "one of failure_percent, consecutive_failures, slow_percent must open it");
    }
    let window = duration::or(window, default.window, &at.field("window"), d);
    if window < WINDOW.0 || window > WINDOW.1 {
        d.reject(&at.field("window"), "must be 10ms to 1h");
    }
    let open_time = duration::positive_or(open_time, default.open_time, &at.field("open_time"), d);
    let longest = default.max_open_time.max(open_time);
    let max_open_time = duration::or(max_open_time, longest, &at.field("max_open_time"), d);
    if max_open_time < open_time {
        d.reject(&at.field("max_open_time"), "must be at least open_time");
    }
    let mut at_least_one = |value: Option<UInt32Value>, default: u32, name| match value {
        Some(UInt32Value { value: 0 }) => {
            d.reject(&at.field(name), "must be at least 1");
            default
        }
        value => value.map_or(default, |v| v.value),
    };
    let options = Options {
        failure_percent,
        consecutive_failures,
        slow,
        window,
        minimum_calls: at_least_one(minimum_requests, default.minimum_calls, "minimum_requests"),
        open_time,
        max_open_time,
        jitter_percent,
        probes: at_least_one(probes, default.probes, "probes"),
    };
    let event_log = Some(event_log_path).filter(|path| !path.is_empty()).map(Into::into);
    if d.rejections() > before { Err(Rejected) } else { Ok(CircuitBreaker { options, event_log }) }
}
