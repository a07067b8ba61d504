//! Every block there is, under its prefix and tags.

use super::block::{Block, Counter, Gauge};
use super::histogram::{Histogram, HistogramSnapshot};
use parking_lot::Mutex;
use std::sync::{Arc, Weak};

/// All metrics of one proxy.
#[derive(Clone, Debug)]
pub struct Registry(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shards: usize,
    blocks: Mutex<Vec<Entry>>,
}

#[derive(Debug)]
struct Entry {
    scope: Scope,
    block: Weak<Block>,
}

/// A prefix and the tags that Prometheus shows in its place.
#[derive(Clone, Debug)]
pub struct Scope {
    registry: Weak<Inner>,
    shards: usize,
    /// Text prefix with its final dot: `cluster.web.`.
    pub prefix: Arc<str>,
    /// The same without tag values: `cluster.`.
    pub tagless: Arc<str>,
    /// Tag names and values: `envoy_cluster_name` = `web`.
    pub tags: Arc<[(String, String)]>,
}

/// One metric at one moment.
#[derive(Clone, Debug)]
pub struct Metric {
    /// Where it is registered.
    pub scope: Scope,
    /// Name after the prefix.
    pub name: &'static str,
    /// Its value.
    pub value: MetricValue,
}

/// A metric's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetricValue {
    /// Counter.
    Counter(u64),
    /// Gauge.
    Gauge(u64),
    /// Histogram.
    Histogram(HistogramSnapshot),
}

impl Registry {
    /// An empty registry for `workers` worker threads.
    pub fn new(workers: usize) -> Self {
        Self(Arc::new(Inner { shards: workers + 1, blocks: Mutex::new(Vec::new()) }))
    }

    /// A scope: `scope("cluster.web.", "cluster.", [("envoy_cluster_name", "web")])`.
    pub fn scope(&self, prefix: &str, tagless: &str, tags: &[(&str, &str)]) -> Scope {
        Scope {
            registry: Arc::downgrade(&self.0),
            shards: self.0.shards,
            prefix: prefix.into(),
            tagless: tagless.into(),
            tags: tags.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
        }
    }

    /// Every metric, in no particular order.
    pub fn collect(&self) -> Vec<Metric> {
        let mut entries = self.0.blocks.lock();
        entries.retain(|e| e.block.strong_count() > 0);
        let mut out = Vec::new();
        for entry in entries.iter() {
            let Some(block) = entry.block.upgrade() else { continue };
            let mut push = |name, value| out.push(Metric { scope: entry.scope.clone(), name, value });
            for (i, name) in block.counter_names.iter().enumerate() {
                push(name, MetricValue::Counter(block.counter(i).value()));
            }
            for (i, name) in block.gauge_names.iter().enumerate() {
                push(name, MetricValue::Gauge(block.gauge(i).value()));
            }
            for (i, name) in block.histogram_names.iter().enumerate() {
                push(name, MetricValue::Histogram(block.histogram(i).snapshot()));
            }
        }
        out
    }

    /// Sets every counter to zero.
    pub fn reset_counters(&self) {
        for entry in self.0.blocks.lock().iter() {
            if let Some(block) = entry.block.upgrade() {
                block.reset_counters();
            }
        }
    }
}

impl Scope {
    /// Registers a block of metrics; names are Envoy's, after the prefix.
    pub fn block(
        &self,
        counters: &'static [&'static str],
        gauges: &'static [&'static str],
        histograms: &'static [&'static str],
    ) -> Arc<Block> {
        let block = Arc::new(Block::new(self.shards, counters, gauges, histograms));
        if let Some(registry) = self.registry.upgrade() {
            registry.blocks.lock().push(Entry { scope: self.clone(), block: Arc::downgrade(&block) });
        }
        block
    }

    /// One counter alone.
    pub fn counter(&self, name: &'static [&'static str; 1]) -> Counter {
        self.block(name, &[], &[]).counter(0)
    }

    /// One gauge alone.
    pub fn gauge(&self, name: &'static [&'static str; 1]) -> Gauge {
        self.block(&[], name, &[]).gauge(0)
    }

    /// One histogram alone.
    pub fn histogram(&self, name: &'static [&'static str; 1]) -> Histogram {
        self.block(&[], &[], name).histogram(0)
    }

    /// A scope below this one.
    pub fn child(&self, prefix: &str, tagless: &str, tags: &[(&str, &str)]) -> Scope {
        Scope {
            registry: Weak::clone(&self.registry),
            shards: self.shards,
            prefix: format!("{}{prefix}", self.prefix).into(),
            tagless: format!("{}{tagless}", self.tagless).into(),
            tags: self
                .tags
                .iter()
                .cloned()
                .chain(tags.iter().map(|(k, v)| (k.to_string(), v.to_string())))
                .collect(),
        }
    }
}
