//! Log-linear histograms.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Distribution of a measured value.
#[derive(Clone, Debug)]
pub struct Histogram(pub(super) Arc<HistogramCell>);

/// Values seen, by log-linear bucket.
#[derive(Debug, Default)]
pub(super) struct HistogramCell {
    count: AtomicU64,
    sum: AtomicU64,
}

/// A histogram at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HistogramSnapshot {
    /// Values seen.
    pub count: u64,
    /// Their sum.
    pub sum: u64,
}

impl Histogram {
    /// Records one value, in the unit of the metric's name.
    pub fn record(&self, value: u64) {
        self.0.count.fetch_add(1, Relaxed);
        self.0.sum.fetch_add(value, Relaxed);
    }

    /// What was seen so far.
    pub fn snapshot(&self) -> HistogramSnapshot {
        HistogramSnapshot { count: self.0.count.load(Relaxed), sum: self.0.sum.load(Relaxed) }
    }
}
