//! Stats sinks: services that are sent every metric at each flush, Envoy's `MetricsService`.
//!
//! By the way of `export`, so that a service which is away or slow holds up nothing: a report that does not get through
//! before the next ones is dropped. Each message is a stream of its own, so that the answer says that it was taken.

use crate::export::{Encode, Exporters, Item, Overflow, Queue, Target};
use crate::stats::{BUCKETS, HistogramSnapshot, Metric, MetricValue, QUANTILES, Registry};
use bytes::Bytes;
use data_plane_core::config::{MetricsSink, StatsOptions};
use prost::Message;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use xds_types::envoy::config::core::v3::Node;
use xds_types::envoy::service::metrics::v3::StreamMetricsMessage;
use xds_types::envoy::service::metrics::v3::stream_metrics_message::Identifier;
use xds_types::io::prometheus::client::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric as ProtoMetric, MetricFamily, MetricType, Quantile,
    Summary,
};

/// The method.
const PATH: &str = "/envoy.service.metrics.v3.MetricsService/StreamMetrics";
/// Reports older than so many intervals are not sent any more.
const STALE: u32 = 3;

/// All sinks of a proxy.
pub(super) struct Sinks(Vec<Sink>);

struct Sink {
    config: MetricsSink,
    identifier: Identifier,
    queue: Queue<Report>,
    /// Counters at the last report, where what came since then is sent.
    before: HashMap<String, u64>,
}

/// An encoded message.
struct Report(Bytes);

impl Item for Report {
    fn bytes(&self) -> usize {
        self.0.len()
    }
}

struct Encoder;

impl Encode<Report> for Encoder {
    fn encode(&self, items: &[Report]) -> Bytes {
        // One at a time, as `open` tells the exporter.
        items.iter().next().map(|report| report.0.clone()).unwrap_or_default()
    }
}

impl Sinks {
    /// Opens what is configured.
    pub(super) fn open(config: &StatsOptions, node: &Arc<Node>, exporters: &Exporters) -> io::Result<Self> {
        let open = |sink: &MetricsSink| {
            let target = Target::grpc(&sink.target, PATH);
            let queue = exporters.open("stats", target, Encoder, |knobs| {
                knobs.batch_entries = 1;
                knobs.flush_interval = config.flush_interval;
                knobs.ttl = (config.flush_interval * STALE).max(Duration::from_secs(1));
                knobs.overflow = Overflow::DropOldest;
                knobs.dead_letter_dir = None;
            })?;
            let identifier = Identifier { node: Some((**node).clone()) };
            Ok(Sink { config: sink.clone(), identifier, queue, before: HashMap::new() })
        };
        Ok(Self(config.sinks.iter().map(open).collect::<io::Result<_>>()?))
    }

    /// Sends every metric to every sink. Histograms tell what the interval that has just ended saw.
    pub(super) fn flush(&mut self, registry: &Registry) {
        if self.0.is_empty() {
            return;
        }
        let metrics = registry.flushed();
        let fixed = registry.fixed_tags();
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as i64;
        for sink in &mut self.0 {
            let families = sink.families(&metrics, &fixed, now_ms);
            let size = if sink.config.batch_size == 0 { usize::MAX } else { sink.config.batch_size as usize };
            let mut families = families.into_iter().peekable();
            while families.peek().is_some() {
                let envoy_metrics = families.by_ref().take(size).collect();
                let identifier = Some(sink.identifier.clone());
                let message = StreamMetricsMessage { identifier, envoy_metrics };
                sink.queue.push(0, Report(message.encode_to_vec().into()));
            }
        }
    }
}

impl Sink {
    fn families(&mut self, metrics: &[Metric], fixed: &[(String, String)], now_ms: i64) -> Vec<MetricFamily> {
        // Workers and updated resources may count under one name in several places.
        let mut merged: BTreeMap<String, (&Metric, MetricValue)> = BTreeMap::new();
        for metric in metrics {
            let full = format!("{}{}", metric.scope.prefix, metric.name);
            match merged.get_mut(&full) {
                Some((_, value)) => add(value, &metric.value),
                None => drop(merged.insert(full, (metric, metric.value.clone()))),
            }
        }
        let mut before = std::mem::take(&mut self.before);
        let mut families = Vec::with_capacity(merged.len());
        for (full, (metric, value)) in merged {
            let (name, labels) = if self.config.tags_as_labels {
                let tags = metric.scope.tags.iter().chain(fixed).map(label).collect();
                (format!("{}{}", metric.scope.tagless, metric.name), tags)
            } else {
                (full.clone(), Vec::new())
            };
            let one = ProtoMetric { label: labels, timestamp_ms: Some(now_ms), ..ProtoMetric::default() };
            let mut push = |kind: MetricType, metric| {
                families.push(MetricFamily {
                    name: Some(name.clone()),
                    r#type: Some(kind.into()),
                    metric: vec![metric],
                    ..MetricFamily::default()
                });
            };
            match value {
                // Never counted: Envoy sends only what is used.
                MetricValue::Counter(0) => {}
                MetricValue::Counter(total) => {
                    let told = if self.config.counters_as_deltas {
                        self.before.insert(full.clone(), total);
                        total.saturating_sub(before.remove(&full).unwrap_or(0))
                    } else {
                        total
                    };
                    let counter = Counter { value: Some(told as f64), ..Counter::default() };
                    push(MetricType::Counter, ProtoMetric { counter: Some(counter), ..one });
                }
                MetricValue::Gauge(value) => {
                    let gauge = Gauge { value: Some(value as f64) };
                    push(MetricType::Gauge, ProtoMetric { gauge: Some(gauge), ..one });
                }
                MetricValue::Histogram(seen) => {
                    if self.config.summaries {
                        push(
                            MetricType::Summary,
                            ProtoMetric { summary: Some(summary(&seen)), ..one.clone() },
                        );
                    }
                    if self.config.histograms {
                        push(MetricType::Histogram, ProtoMetric { histogram: Some(histogram(&seen)), ..one });
                    }
                }
                MetricValue::Text(_) => {}
            }
        }
        families
    }
}

fn add(value: &mut MetricValue, more: &MetricValue) {
    match (value, more) {
        (MetricValue::Counter(sum), MetricValue::Counter(n))
        | (MetricValue::Gauge(sum), MetricValue::Gauge(n)) => {
            *sum = sum.wrapping_add(*n);
        }
        (MetricValue::Histogram(sum), MetricValue::Histogram(seen)) => sum.merge(seen),
        _ => {}
    }
}

/// Envoy's own name of a tag: `envoy.cluster_name`, which Prometheus is shown as `envoy_cluster_name`.
fn label((name, value): &(String, String)) -> LabelPair {
    let name = match name.strip_prefix("envoy_") {
        Some(rest) => format!("envoy.{rest}"),
        None => name.clone(),
    };
    LabelPair { name: Some(name), value: Some(value.clone()) }
}

fn summary(seen: &HistogramSnapshot) -> Summary {
    let quantile = |q: &f64| Quantile { quantile: Some(*q), value: Some(seen.quantile(*q)) };
    Summary {
        sample_count: Some(seen.count),
        sample_sum: Some(seen.sum as f64),
        quantile: QUANTILES.iter().map(quantile).collect(),
        ..Summary::default()
    }
}

fn histogram(seen: &HistogramSnapshot) -> Histogram {
    let bucket = |limit: &f64| Bucket {
        upper_bound: Some(*limit),
        cumulative_count: Some(seen.count_below(*limit)),
        ..Bucket::default()
    };
    Histogram {
        sample_count: Some(seen.count),
        sample_sum: Some(seen.sum as f64),
        bucket: BUCKETS.iter().map(bucket).collect(),
        ..Histogram::default()
    }
}
