//! Every block there is, under its prefix and tags.

use super::block::{Block, Counter, Gauge};
use super::histogram::{Cell, Histogram, HistogramSnapshot};
use super::names::Names;
use super::readout::{Cell as ReadoutCell, TextReadout};
use hashbrown::HashMap;
use parking_lot::Mutex;
use std::sync::{Arc, Weak};

/// All metrics of one proxy.
#[derive(Clone, Debug)]
pub struct Registry(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shards: usize,
    content: Mutex<Content>,
}

#[derive(Debug, Default)]
struct Content {
    blocks: HashMap<Key, Entry>,
    readouts: Vec<(Scope, Weak<ReadoutCell>)>,
    /// Entries at which dead ones are looked for.
    sweep_at: usize,
    fixed_tags: Arc<[(String, String)]>,
}

/// Who asks twice for the same metrics gets the same block: an updated listener goes on counting where the old
/// one was.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    prefix: Arc<str>,
    counters: Names,
    gauges: Names,
    histograms: Names,
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
    pub name: String,
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
    /// Text readout.
    Text(String),
}

/// Dead entries are swept when the registry has doubled, from this size on.
const FIRST_SWEEP: usize = 1024;

impl Registry {
    /// An empty registry for `workers` worker threads.
    pub fn new(workers: usize) -> Self {
        let content = Content { sweep_at: FIRST_SWEEP, ..Content::default() };
        Self(Arc::new(Inner { shards: workers + 1, content: Mutex::new(content) }))
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

    /// Tags that every metric carries for Prometheus, as `(name, value)`.
    pub fn set_fixed_tags(&self, tags: &[(String, String)]) {
        self.0.content.lock().fixed_tags = tags.into();
    }

    /// Those tags.
    pub fn fixed_tags(&self) -> Arc<[(String, String)]> {
        Arc::clone(&self.0.content.lock().fixed_tags)
    }

    /// Every live block, by prefix.
    pub(super) fn blocks(&self) -> Vec<(Scope, Arc<Block>)> {
        let mut content = self.0.content.lock();
        content.sweep();
        let live = content.blocks.values().filter_map(|e| Some((e.scope.clone(), e.block.upgrade()?)));
        let mut out: Vec<_> = live.collect();
        drop(content);
        out.sort_by(|a, b| a.0.prefix.cmp(&b.0.prefix));
        out
    }

    /// Every live text readout under its full name, by name.
    pub(super) fn readouts(&self) -> Vec<(String, String)> {
        let content = self.0.content.lock();
        let live = content.readouts.iter().filter_map(|(scope, cell)| {
            let cell = cell.upgrade()?;
            Some((format!("{}{}", scope.prefix, cell.name), cell.value()))
        });
        let mut out: Vec<_> = live.collect();
        out.sort();
        out
    }

    /// Every metric, by prefix. Costs memory for all of them: for tests and small registries.
    pub fn collect(&self) -> Vec<Metric> {
        let mut out = self.numbers(|cell| Some(cell.snapshot()));
        let readouts = self.0.content.lock().readouts.clone();
        for (scope, cell) in readouts {
            if let Some(cell) = cell.upgrade() {
                out.push(Metric { scope, name: cell.name.into(), value: MetricValue::Text(cell.value()) });
            }
        }
        out
    }

    /// Every counter and gauge, and of histograms that were ever recorded what the last interval saw. Costs memory for all
    /// of them.
    pub fn flushed(&self) -> Vec<Metric> {
        self.numbers(|cell| cell.is_used().then(|| cell.interval()))
    }

    fn numbers(&self, histogram: impl Fn(&Cell) -> Option<HistogramSnapshot>) -> Vec<Metric> {
        let mut out = Vec::new();
        for (scope, block) in self.blocks() {
            let mut push =
                |name: &str, value| out.push(Metric { scope: scope.clone(), name: name.into(), value });
            for (i, name) in block.counter_names.iter().enumerate() {
                push(name, MetricValue::Counter(block.counter_value(i)));
            }
            for (i, name) in block.gauge_names.iter().enumerate() {
                push(name, MetricValue::Gauge(block.gauge_value(i)));
            }
            for (i, name) in block.histogram_names.iter().enumerate() {
                if let Some(seen) = histogram(&block.histograms[i]) {
                    push(name, MetricValue::Histogram(seen));
                }
            }
        }
        out
    }

    /// The value of a counter or gauge by its full name; `None`: there is none of that name.
    pub fn value(&self, name: &str) -> Option<u64> {
        let mut sum = None;
        for (scope, block) in self.blocks() {
            let Some(rest) = name.strip_prefix(&*scope.prefix) else { continue };
            if let Some(i) = block.counter_names.iter().position(|n| n == rest) {
                *sum.get_or_insert(0) += block.counter_value(i);
            }
            if let Some(i) = block.gauge_names.iter().position(|n| n == rest) {
                *sum.get_or_insert(0) += block.gauge_value(i);
            }
        }
        sum
    }

    /// Sets every counter to zero.
    pub fn reset_counters(&self) {
        for (_, block) in self.blocks() {
            block.reset_counters();
        }
    }

    /// Ends the interval that histograms show next to their totals. Called every stats flush interval.
    pub fn flush(&self) {
        for (_, block) in self.blocks() {
            for cell in &block.histograms {
                cell.flush();
            }
        }
    }
}

impl Content {
    fn sweep(&mut self) {
        self.blocks.retain(|_, entry| entry.block.strong_count() > 0);
        self.readouts.retain(|(_, cell)| cell.strong_count() > 0);
        self.sweep_at = (self.blocks.len() * 2).max(FIRST_SWEEP);
    }
}

impl Scope {
    /// Registers a block of metrics; names are Envoy's, after the prefix. The same metrics of the same scope are
    /// the same block while anyone holds it.
    pub fn block(
        &self,
        counters: &'static [&'static str],
        gauges: &'static [&'static str],
        histograms: &'static [&'static str],
    ) -> Arc<Block> {
        self.register(Names::Static(counters), Names::Static(gauges), Names::Static(histograms))
    }

    /// One counter alone.
    pub fn counter(&self, name: &'static [&'static str; 1]) -> Counter {
        self.block(name, &[], &[]).counter(0)
    }

    /// One counter whose name is only known at run time. Names must come from configuration or from a bounded
    /// set, never freely from requests.
    pub fn named_counter(&self, name: &str) -> Counter {
        self.register(Names::One(name.into()), Names::NONE, Names::NONE).counter(0)
    }

    /// One gauge alone.
    pub fn gauge(&self, name: &'static [&'static str; 1]) -> Gauge {
        self.block(&[], name, &[]).gauge(0)
    }

    /// One histogram alone.
    pub fn histogram(&self, name: &'static [&'static str; 1]) -> Histogram {
        self.block(&[], &[], name).histogram(0)
    }

    /// A text.
    pub fn text(&self, name: &'static str) -> TextReadout {
        let readout = TextReadout::new(name);
        if let Some(registry) = self.registry.upgrade() {
            registry.content.lock().readouts.push((self.clone(), Arc::downgrade(&readout.0)));
        }
        readout
    }

    fn register(&self, counters: Names, gauges: Names, histograms: Names) -> Arc<Block> {
        let make = |c, g, h| Arc::new(Block::new(self.shards, c, g, h));
        let Some(registry) = self.registry.upgrade() else { return make(counters, gauges, histograms) };
        let mut content = registry.content.lock();
        let key = Key { prefix: Arc::clone(&self.prefix), counters, gauges, histograms };
        if let Some(block) = content.blocks.get(&key).and_then(|e| e.block.upgrade()) {
            return block;
        }
        let block = make(key.counters.clone(), key.gauges.clone(), key.histograms.clone());
        content.blocks.insert(key, Entry { scope: self.clone(), block: Arc::downgrade(&block) });
        if content.blocks.len() > content.sweep_at {
            content.sweep();
        }
        block
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_registered_again_go_on_from_where_they_were() {
        let registry = Registry::new(1);
        let old = registry.scope("http.a.", "http.", &[]).counter(&["rq"]);
        old.add(2);
        let new = registry.scope("http.a.", "http.", &[]).counter(&["rq"]);
        drop(old);
        new.inc();
        assert_eq!(registry.value("http.a.rq"), Some(3));
    }

    #[test]
    fn metrics_leave_with_their_last_handle() {
        let registry = Registry::new(1);
        drop(registry.scope("a.", "a.", &[]).counter(&["c"]));
        assert_eq!(registry.value("a.c"), None);
        assert!(registry.0.content.lock().blocks.is_empty());
    }

    #[test]
    fn churn_without_a_reader_does_not_grow_the_registry() {
        let registry = Registry::new(1);
        for i in 0..10_000 {
            drop(registry.scope(&format!("cluster.{i}."), "cluster.", &[]).counter(&["c"]));
        }
        assert!(registry.0.content.lock().blocks.len() <= FIRST_SWEEP + 1);
    }

    #[test]
    fn child_scope_appends_prefix_and_tags() {
        let registry = Registry::new(1);
        let scope =
            registry.scope("http.in.", "http.", &[("p", "in")]).child("rds.r.", "rds.", &[("r", "r")]);
        assert_eq!((&*scope.prefix, &*scope.tagless, scope.tags.len()), ("http.in.rds.r.", "http.rds.", 2));
    }
}
