//! A group of metrics, sharded by worker.

use super::histogram::{Histogram, HistogramCell};
use std::cell::Cell;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

thread_local! {
    static WORKER: Cell<usize> = const { Cell::new(0) };
}

/// Tells this thread which shard is its own: 0 is shared by all threads that are not workers.
pub fn set_worker(index: usize) {
    WORKER.set(index);
}

pub(super) fn worker() -> usize {
    WORKER.get()
}

/// Metrics of one thing.
pub struct Block {
    pub(super) counter_names: &'static [&'static str],
    pub(super) gauge_names: &'static [&'static str],
    pub(super) histogram_names: &'static [&'static str],
    shards: Box<[Shard]>,
    histograms: Box<[Arc<HistogramCell>]>,
}

struct Shard {
    counters: Box<[AtomicU64]>,
    gauges: Box<[AtomicI64]>,
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Block").field("counters", &self.counter_names.len()).finish_non_exhaustive()
    }
}

impl Block {
    pub(super) fn new(
        shards: usize,
        counter_names: &'static [&'static str],
        gauge_names: &'static [&'static str],
        histogram_names: &'static [&'static str],
    ) -> Self {
        let shard = || Shard {
            counters: counter_names.iter().map(|_| AtomicU64::new(0)).collect(),
            gauges: gauge_names.iter().map(|_| AtomicI64::new(0)).collect(),
        };
        Self {
            counter_names,
            gauge_names,
            histogram_names,
            shards: (0..shards).map(|_| shard()).collect(),
            histograms: histogram_names.iter().map(|_| Arc::default()).collect(),
        }
    }

    /// A handle by position in the names given.
    pub fn counter(self: &Arc<Self>, index: usize) -> Counter {
        Counter { block: Arc::clone(self), index }
    }

    /// A handle by position in the names given.
    pub fn gauge(self: &Arc<Self>, index: usize) -> Gauge {
        Gauge { block: Arc::clone(self), index }
    }

    /// A handle by position in the names given.
    pub fn histogram(self: &Arc<Self>, index: usize) -> Histogram {
        Histogram(Arc::clone(&self.histograms[index]))
    }

    pub(super) fn reset_counters(&self) {
        for counter in self.shards.iter().flat_map(|s| s.counters.iter()) {
            counter.store(0, Relaxed);
        }
    }

    fn shard(&self) -> &Shard {
        self.shards.get(worker()).unwrap_or(&self.shards[0])
    }
}

/// A number that only grows.
#[derive(Clone, Debug)]
pub struct Counter {
    block: Arc<Block>,
    index: usize,
}

impl Counter {
    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.block.shard().counters[self.index].fetch_add(n, Relaxed);
    }

    /// The sum over workers.
    pub fn value(&self) -> u64 {
        self.block.shards.iter().map(|s| s.counters[self.index].load(Relaxed)).sum()
    }
}

/// A number that goes up and down.
#[derive(Clone, Debug)]
pub struct Gauge {
    block: Arc<Block>,
    index: usize,
}

impl Gauge {
    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Takes one away.
    pub fn dec(&self) {
        self.add(-1);
    }

    /// Adds `n`.
    pub fn add(&self, n: i64) {
        self.block.shard().gauges[self.index].fetch_add(n, Relaxed);
    }

    /// Sets the value. Not for gauges that are also added to.
    pub fn set(&self, value: u64) {
        self.block.shards[0].gauges[self.index].store(value as i64, Relaxed);
    }

    /// The sum over workers, never below zero.
    pub fn value(&self) -> u64 {
        let sum: i64 = self.block.shards.iter().map(|s| s.gauges[self.index].load(Relaxed)).sum();
        sum.max(0) as u64
    }
}
