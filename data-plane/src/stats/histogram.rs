//! Log-linear histograms: two significant decimal digits, as Envoy's.
//!
//! A bucket is `m / 10 * 10^e` for `m` in 10..=99: 90 buckets a power of ten, so that whole numbers below 100 are
//! exact and larger ones are off by at most a tenth of their first digit's unit. Powers of ten are allocated when
//! first seen, per worker: a histogram of milliseconds costs about 3 KiB a worker that records.

use super::block::{Block, bump};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

/// Powers of ten in a `u64`.
const DECADES: usize = 20;
/// Buckets of a power of ten.
const PER_DECADE: usize = 90;

/// Distribution of a measured value.
#[derive(Clone, Debug)]
pub struct Histogram {
    pub(super) block: Arc<Block>,
    pub(super) index: usize,
}

impl Histogram {
    /// Records one value, in the unit of the metric's name.
    pub fn record(&self, value: u64) {
        self.block.histograms[self.index].record(self.block.own_shard(), value);
    }

    /// What was seen so far.
    pub fn snapshot(&self) -> HistogramSnapshot {
        self.block.histograms[self.index].snapshot()
    }
}

/// The values of one histogram, by worker.
#[derive(Debug)]
pub(super) struct Cell {
    workers: usize,
    shards: OnceLock<Box<[OnceLock<Box<Shard>>]>>,
    interval: Mutex<Option<Box<Interval>>>,
}

#[derive(Debug, Default)]
struct Shard {
    sum: AtomicU64,
    zeros: AtomicU64,
    decades: [OnceLock<Box<[AtomicU64; PER_DECADE]>>; DECADES],
}

/// What the last two flushes saw.
#[derive(Debug, Default)]
struct Interval {
    last: HistogramSnapshot,
    between: HistogramSnapshot,
}

impl Cell {
    pub(super) fn new(workers: usize) -> Self {
        Self { workers, shards: OnceLock::new(), interval: Mutex::new(None) }
    }

    #[inline]
    fn record(&self, worker: usize, value: u64) {
        let shards = self.shards.get_or_init(|| (0..self.workers).map(|_| OnceLock::new()).collect());
        let shard = shards[worker].get_or_init(Box::default);
        bump(&shard.sum, worker, value);
        let Some(decade) = value.checked_ilog10() else { return bump(&shard.zeros, worker, 1) };
        let digits = if decade == 0 { value * 10 } else { value / 10_u64.pow(decade - 1) };
        let slots = shard.decades[decade as usize]
            .get_or_init(|| Box::new([const { AtomicU64::new(0) }; PER_DECADE]));
        bump(&slots[digits as usize - 10], worker, 1);
    }

    pub(super) fn snapshot(&self) -> HistogramSnapshot {
        let mut out = HistogramSnapshot::default();
        for shard in self.shards.get().into_iter().flatten().filter_map(OnceLock::get) {
            out.sum = out.sum.wrapping_add(shard.sum.load(Relaxed));
            out.add(Bucket::ZERO, shard.zeros.load(Relaxed));
            for (exponent, slots) in shard.decades.iter().enumerate() {
                for (i, slot) in slots.get().into_iter().flat_map(|s| s.iter().enumerate()) {
                    out.add(Bucket { exponent: exponent as u8, digits: i as u8 + 10 }, slot.load(Relaxed));
                }
            }
        }
        out
    }

    /// Whether anything was ever recorded.
    pub(super) fn is_used(&self) -> bool {
        self.shards.get().is_some()
    }

    /// Values seen between the last two flushes.
    pub(super) fn interval(&self) -> HistogramSnapshot {
        self.interval.lock().as_ref().map(|i| i.between.clone()).unwrap_or_default()
    }

    /// Ends an interval and begins the next.
    pub(super) fn flush(&self) {
        if self.shards.get().is_none() {
            return;
        }
        let now = self.snapshot();
        let mut guard = self.interval.lock();
        let interval = guard.get_or_insert_default();
        interval.between = now.since(&interval.last);
        interval.last = now;
    }
}

/// A bucket: values from `digits / 10 * 10^exponent` up to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Bucket {
    exponent: u8,
    digits: u8,
}

impl Bucket {
    const ZERO: Self = Self { exponent: 0, digits: 0 };

    fn low(self) -> f64 {
        f64::from(self.digits) * self.width()
    }

    fn width(self) -> f64 {
        if self == Self::ZERO { 0.0 } else { 10_f64.powi(i32::from(self.exponent) - 1) }
    }
}

/// A histogram at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HistogramSnapshot {
    /// Values seen.
    pub count: u64,
    /// Their sum.
    pub sum: u64,
    buckets: BTreeMap<Bucket, u64>,
}

impl HistogramSnapshot {
    fn add(&mut self, bucket: Bucket, n: u64) {
        if n > 0 {
            *self.buckets.entry(bucket).or_default() += n;
            self.count += n;
        }
    }

    fn since(&self, earlier: &Self) -> Self {
        let mut out = Self { sum: self.sum.wrapping_sub(earlier.sum), ..Self::default() };
        for (bucket, n) in &self.buckets {
            out.add(*bucket, n.saturating_sub(earlier.buckets.get(bucket).copied().unwrap_or(0)));
        }
        out
    }

    /// Adds what another one saw.
    pub fn merge(&mut self, other: &Self) {
        self.sum = self.sum.wrapping_add(other.sum);
        for (bucket, n) in &other.buckets {
            self.add(*bucket, *n);
        }
    }

    /// Values not above `limit`, to the histogram's precision.
    pub fn count_below(&self, limit: f64) -> u64 {
        self.buckets.iter().take_while(|(bucket, _)| bucket.low() <= limit).map(|(_, n)| n).sum()
    }

    /// The value below which the share `q` (`0.0..=1.0`) of all values lies, interpolated within its bucket; NaN
    /// when nothing was seen.
    pub fn quantile(&self, q: f64) -> f64 {
        let wanted = q * self.count as f64;
        let mut below = 0.0;
        let mut edge = f64::NAN;
        for (bucket, n) in &self.buckets {
            let n = *n as f64;
            if wanted <= below + n {
                return bucket.low() + bucket.width() * (wanted - below) / n;
            }
            below += n;
            edge = bucket.low() + bucket.width();
        }
        edge
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Registry;
    use proptest::prelude::*;

    fn histogram() -> Histogram {
        Registry::new(1).scope("a.", "a.", &[]).histogram(&["h"])
    }

    #[test]
    fn whole_numbers_below_a_hundred_are_exact() {
        let h = histogram();
        for value in 0..100 {
            h.record(value);
        }
        for value in 0..100_u32 {
            assert_eq!(h.snapshot().count_below(f64::from(value)), u64::from(value) + 1, "{value}");
        }
    }

    #[test]
    fn a_single_value_spans_its_bucket_from_p0_to_p100() {
        let h = histogram();
        h.record(2);
        let seen = h.snapshot();
        assert_eq!((seen.quantile(0.0), seen.quantile(0.5), seen.quantile(1.0)), (2.0, 2.05, 2.1));
    }

    #[test]
    fn an_empty_histogram_has_no_quantiles() {
        assert!(histogram().snapshot().quantile(0.5).is_nan());
    }

    #[test]
    fn interval_holds_only_what_came_between_two_flushes() {
        let h = histogram();
        let cell = &h.block.histograms[0];
        h.record(1);
        cell.flush();
        assert_eq!(cell.interval().count, 1);
        h.record(5);
        h.record(5);
        cell.flush();
        assert_eq!((cell.interval().count, cell.interval().sum, cell.snapshot().count), (2, 10, 3));
        cell.flush();
        assert_eq!(cell.interval().count, 0);
    }

    #[test]
    fn extremes_are_recorded() {
        let h = histogram();
        h.record(u64::MAX);
        h.record(0);
        assert_eq!(h.snapshot().count, 2);
        assert_eq!(h.snapshot().count_below(0.0), 1);
    }

    proptest! {
        #[test]
        fn a_value_lies_in_its_bucket(value in 1_u64..1_000_000_000_000) {
            let h = histogram();
            h.record(value);
            let seen = h.snapshot();
            let (low, high) = (seen.quantile(0.0), seen.quantile(1.0));
            prop_assert!(low <= value as f64 && (value as f64) < high, "{low} {value} {high}");
            prop_assert!(high - low <= 0.1 * low + 1e-9);
        }
    }
}
