//! `envoy.filters.http.health_check`.

use crate::config::HealthCheckFilter;
use crate::path::{Diagnostics, Path, Rejected};
use crate::translate::{duration, field, fraction, matcher};
use xds_types::envoy::extensions::filters::http::health_check::v3::HealthCheck;

/// The filter.
pub(super) fn filter(
    proto: HealthCheck,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Result<HealthCheckFilter, Rejected> {
    let HealthCheck { pass_through_mode, cache_time, cluster_min_healthy_percentages, headers } = proto;
    let pass_through = pass_through_mode.is_some_and(|v| v.value);
    let cache_at = at.field("cache_time");
    let cache_time = duration::limit(cache_time, None, &cache_at, d);
    if cache_time.is_some() && !pass_through {
        d.reject(&cache_at, "must not be set when pass_through_mode is disabled");
    }
    let least_at = at.field("cluster_min_healthy_percentages");
    let mut entries: Vec<_> = cluster_min_healthy_percentages.into_iter().collect();
    entries.sort_by(|(a, _), (b, _)| a.cmp(b));
    let mut cluster_min_healthy = Vec::with_capacity(entries.len());
    for (name, percent) in entries {
        if let Ok(percent) = fraction::percent(percent, &least_at.key(&name), d) {
            cluster_min_healthy.push((name.into(), percent));
        }
    }
    if pass_through && !cluster_min_healthy.is_empty() {
        d.ignored(&least_at, "checks are passed on: nobody asks");
    }
    let headers = field::each(headers, &at.field("headers"), d, matcher::header);
    Ok(HealthCheckFilter { pass_through, cache_time, cluster_min_healthy, headers })
}
