//! A group of metrics, sharded by worker.
//!
//! A shard is allocated when its worker first touches the block, by that worker: a cluster without traffic costs
//! its names' addresses and little more, and no two workers write to one cache line.

use super::histogram::{Cell as HistogramCell, Histogram};
use super::names::Names;
use std::cell::Cell;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

/// Sums above this are numbers below zero.
const NEGATIVE: u64 = u64::MAX - (1 << 40);

thread_local! {
    static WORKER: Cell<usize> = const { Cell::new(0) };
}

/// Tells this thread which shard is its own: 0 is shared by all threads that are not workers.
///
/// INVARIANT: within one proxy no two threads use the same index above 0, so that such a shard has one writer and
/// an increment needs no locked instruction.
pub fn set_worker(index: usize) {
    WORKER.set(index);
}

pub(super) fn worker() -> usize {
    WORKER.get()
}

/// Adds to a slot of the shard `shard`; wraps, so that gauges may go below zero in one shard.
#[inline]
pub(super) fn bump(slot: &AtomicU64, shard: usize, n: u64) {
    if shard == 0 {
        slot.fetch_add(n, Relaxed);
    } else {
        slot.store(slot.load(Relaxed).wrapping_add(n), Relaxed);
    }
}

/// Metrics of one thing.
pub struct Block {
    pub(super) counter_names: Names,
    pub(super) gauge_names: Names,
    pub(super) histogram_names: Names,
    /// One per worker and one shared; counters, then gauges.
    shards: Box<[OnceLock<Box<[AtomicU64]>>]>,
    /// Subtracted from counters since `/reset_counters`.
    baseline: OnceLock<Box<[AtomicU64]>>,
    pub(super) histograms: Box<[HistogramCell]>,
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Block").field("counters", &self.counter_names).finish_non_exhaustive()
    }
}

impl Block {
    pub(super) fn new(
        shards: usize,
        counter_names: Names,
        gauge_names: Names,
        histogram_names: Names,
    ) -> Self {
        Self {
            shards: (0..shards).map(|_| OnceLock::new()).collect(),
            baseline: OnceLock::new(),
            histograms: (0..histogram_names.len()).map(|_| HistogramCell::new(shards)).collect(),
            counter_names,
            gauge_names,
            histogram_names,
        }
    }

    /// A handle by position in the names given.
    pub fn counter(self: &Arc<Self>, index: usize) -> Counter {
        Counter { block: Arc::clone(self), index }
    }

    /// A handle by position in the names given.
    pub fn gauge(self: &Arc<Self>, index: usize) -> Gauge {
        Gauge { block: Arc::clone(self), index: self.counter_names.len() + index }
    }

    /// A handle by position in the names given.
    pub fn histogram(self: &Arc<Self>, index: usize) -> Histogram {
        Histogram { block: Arc::clone(self), index }
    }

    pub(super) fn reset_counters(&self) {
        let sums: Vec<u64> = (0..self.counter_names.len()).map(|i| self.sum(i)).collect();
        if sums.iter().all(|sum| *sum == 0) {
            return;
        }
        let baseline = self.baseline.get_or_init(|| sums.iter().map(|_| AtomicU64::new(0)).collect());
        for (slot, sum) in baseline.iter().zip(sums) {
            slot.store(sum, Relaxed);
        }
    }

    pub(super) fn counter_value(&self, index: usize) -> u64 {
        let baseline = self.baseline.get().map_or(0, |b| b[index].load(Relaxed));
        self.sum(index).wrapping_sub(baseline)
    }

    pub(super) fn gauge_value(&self, index: usize) -> u64 {
        self.gauge_slot(self.counter_names.len() + index)
    }

    fn gauge_slot(&self, slot: usize) -> u64 {
        let sum = self.sum(slot);
        // A little below zero is a race between shards; far below is a large number that was set, such as a hash.
        if sum > NEGATIVE { 0 } else { sum }
    }

    fn sum(&self, slot: usize) -> u64 {
        self.shards.iter().filter_map(OnceLock::get).fold(0, |sum, s| sum.wrapping_add(s[slot].load(Relaxed)))
    }

    fn shard(&self, index: usize) -> &[AtomicU64] {
        self.shards[index].get_or_init(|| {
            let slots = self.counter_names.len() + self.gauge_names.len();
            (0..slots).map(|_| AtomicU64::new(0)).collect()
        })
    }

    #[inline]
    fn add(&self, slot: usize, n: u64) {
        let shard = self.own_shard();
        bump(&self.shard(shard)[slot], shard, n);
    }

    #[inline]
    pub(super) fn own_shard(&self) -> usize {
        let worker = worker();
        if worker < self.shards.len() { worker } else { 0 }
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
        self.block.add(self.index, n);
    }

    /// The sum over workers since the last reset.
    pub fn value(&self) -> u64 {
        self.block.counter_value(self.index)
    }
}

/// A number that goes up and down.
#[derive(Clone, Debug)]
pub struct Gauge {
    block: Arc<Block>,
    /// Slot in a shard, past the counters.
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
        self.block.add(self.index, n.cast_unsigned());
    }

    /// Sets the value. Not for gauges that are also added to.
    pub fn set(&self, value: u64) {
        self.block.shard(0)[self.index].store(value, Relaxed);
    }

    /// The sum over workers, never below zero.
    pub fn value(&self) -> u64 {
        self.block.gauge_slot(self.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Registry;

    fn block() -> Arc<Block> {
        Registry::new(2).scope("a.", "a.", &[]).block(&["c"], &["g"], &["h"])
    }

    #[test]
    fn counter_sums_over_workers() {
        let block = block();
        block.counter(0).add(3);
        let counter = block.counter(0);
        std::thread::spawn(move || {
            set_worker(2);
            counter.inc();
        })
        .join()
        .unwrap();
        assert_eq!(block.counter(0).value(), 4);
    }

    #[test]
    fn gauge_raised_by_one_worker_and_lowered_by_another_is_zero() {
        let block = block();
        block.gauge(0).inc();
        let gauge = block.gauge(0);
        std::thread::spawn(move || {
            set_worker(1);
            gauge.dec();
        })
        .join()
        .unwrap();
        assert_eq!(block.gauge(0).value(), 0);
    }

    #[test]
    fn gauge_never_shows_a_value_below_zero() {
        let block = block();
        block.gauge(0).dec();
        assert_eq!(block.gauge(0).value(), 0);
    }

    #[test]
    fn gauge_shows_any_value_that_was_set() {
        let block = block();
        block.gauge(0).set(0xfedc_ba98_7654_3210);
        assert_eq!(block.gauge(0).value(), 0xfedc_ba98_7654_3210);
    }

    #[test]
    fn reset_counts_from_zero_and_leaves_gauges() {
        let block = block();
        block.counter(0).add(7);
        block.gauge(0).set(5);
        block.reset_counters();
        assert_eq!(block.counter(0).value(), 0);
        block.counter(0).inc();
        assert_eq!((block.counter(0).value(), block.gauge(0).value()), (1, 5));
    }

    #[test]
    fn thread_with_an_index_past_the_workers_uses_the_shared_shard() {
        let block = block();
        let counter = block.counter(0);
        std::thread::spawn(move || {
            set_worker(9);
            counter.inc();
        })
        .join()
        .unwrap();
        assert_eq!(block.counter(0).value(), 1);
    }

    #[test]
    fn untouched_block_has_no_shards() {
        assert!(block().shards.iter().all(|s| s.get().is_none()));
    }
}
