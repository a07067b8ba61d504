//! Where stats are sent: `stats_sinks`.

use super::field::{self, required};
use super::{Sources, extension, source};
use crate::config::MetricsSink;
use crate::path::{Diagnostics, Path, Rejected};
use xds_types::envoy::config::metrics::v3::stats_sink::ConfigType;
use xds_types::envoy::config::metrics::v3::{HistogramEmitMode, MetricsServiceConfig, StatsSink};

/// The sinks that are built; others are reported, since they only observe.
pub(super) fn sinks(
    list: Vec<StatsSink>,
    at: &Path<'_>,
    d: &mut Diagnostics,
    sources: &Sources,
) -> Vec<MetricsSink> {
    let found = field::each(list, at, d, |proto, at, d| {
        let StatsSink { name: _, config_type } = proto;
        let Some(ConfigType::TypedConfig(packed)) = config_type else {
            d.ignored(at, "has no typed_config");
            return Ok(None);
        };
        let packed = extension::packed(Some(&packed), at, d)?;
        let at = at.field("typed_config");
        if !extension::is::<MetricsServiceConfig>(packed) {
            d.ignored(
                &at,
                "only envoy.stat_sinks.metrics_service is built; stats are scraped from the admin server",
            );
            return Ok(None);
        }
        metrics_service(extension::open(packed, &at, d)?, &at, d, sources).map(Some)
    });
    found.into_iter().flatten().collect()
}

fn metrics_service(
    proto: MetricsServiceConfig,
    at: &Path<'_>,
    d: &mut Diagnostics,
    sources: &Sources,
) -> Result<MetricsSink, Rejected> {
    let MetricsServiceConfig {
        grpc_service,
        transport_api_version,
        report_counters_as_deltas,
        emit_tags_as_labels,
        histogram_emit_mode,
        batch_size,
    } = proto;
    source::version(transport_api_version, source::Missing::Allowed, &at.field("transport_api_version"), d);
    let mode: Result<HistogramEmitMode, _> =
        field::variant(histogram_emit_mode, &at.field("histogram_emit_mode"), d);
    let service_at = at.field("grpc_service");
    let target = required(grpc_service, &service_at, d).and_then(|proto| {
        source::grpc_service(proto, "reports are sent again with backoff", &service_at, d)
    })?;
    if !sources.clusters.contains(&target.cluster) {
        let told = format!(
            "{:?} is not a static cluster of the bootstrap, or gets its endpoints by EDS",
            target.cluster
        );
        return Err(d.reject(&service_at.field("envoy_grpc").field("cluster_name"), told));
    }
    let mode = mode?;
    Ok(MetricsSink {
        target,
        counters_as_deltas: report_counters_as_deltas.is_some_and(|v| v.value),
        tags_as_labels: emit_tags_as_labels,
        summaries: mode != HistogramEmitMode::Histogram,
        histograms: mode != HistogramEmitMode::Summary,
        batch_size,
    })
}
