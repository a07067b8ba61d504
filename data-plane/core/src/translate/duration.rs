//! Durations, and limits that zero turns off.

use crate::path::{Diagnostics, Path};
use std::time::Duration;
use xds_types::google::protobuf::Duration as Proto;

/// Longest duration that protobuf knows, seconds: about 10,000 years.
const MAX_SECONDS: i64 = 315_576_000_000;

/// A duration that is not negative; `None` when absent or refused.
pub(super) fn read(proto: Option<Proto>, at: &Path<'_>, d: &mut Diagnostics) -> Option<Duration> {
    let Proto { seconds, nanos } = proto?;
    match (u64::try_from(seconds), u32::try_from(nanos)) {
        (Ok(whole), Ok(part)) if seconds <= MAX_SECONDS && part < 1_000_000_000 => {
            Some(Duration::new(whole, part))
        }
        _ => {
            d.reject(at, "must not be negative nor longer than 10000 years");
            None
        }
    }
}

/// A duration with a default.
pub(super) fn or(proto: Option<Proto>, default: Duration, at: &Path<'_>, d: &mut Diagnostics) -> Duration {
    read(proto, at, d).unwrap_or(default)
}

/// A duration that must be longer than zero, with a default.
pub(super) fn positive_or(
    proto: Option<Proto>,
    default: Duration,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Duration {
    let duration = or(proto, default, at, d);
    if duration.is_zero() {
        d.reject(at, "must be longer than zero");
    }
    duration
}

/// A limit with a default; zero turns it off.
pub(super) fn limit(
    proto: Option<Proto>,
    default: Option<Duration>,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Option<Duration> {
    match read(proto, at, d) {
        Some(duration) => Some(duration).filter(|d| !d.is_zero()),
        None => default,
    }
}
