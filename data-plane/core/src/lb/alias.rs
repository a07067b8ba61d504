//! Weighted random choice in constant time (Walker's alias method).

use super::{Candidate, scale};
use std::hint::select_unpredictable;

/// Indexes with weights.
#[derive(Debug)]
pub(super) struct AliasTable {
    /// For each column: below this threshold (of 2^32) the column itself, else its alias.
    columns: Box<[(u32, u32)]>,
}

impl AliasTable {
    /// Zero weights count as one.
    pub(super) fn new(hosts: &[Candidate<'_>]) -> Self {
        let n = hosts.len() as u64;
        let weight = |at: usize| u64::from(hosts[at].weight.max(1));
        let total: u64 = (0..hosts.len()).map(weight).sum();
        // A column holds `total`; index `i` brings `weight * n`, so that the columns come out even.
        let mut left: Vec<u128> = (0..hosts.len()).map(|at| u128::from(weight(at)) * u128::from(n)).collect();
        let full = u128::from(total);
        let (mut small, mut large): (Vec<usize>, Vec<usize>) =
            (0..hosts.len()).partition(|at| left[*at] < full);
        let mut columns: Box<[(u32, u32)]> = (0..hosts.len()).map(|at| (u32::MAX, at as u32)).collect();
        while let (Some(low), Some(high)) = (small.pop(), large.pop()) {
            let threshold = (left[low] << 32) / full.max(1);
            columns[low] = (u32::try_from(threshold).unwrap_or(u32::MAX), high as u32);
            left[high] -= full - left[low];
            if left[high] < full { &mut small } else { &mut large }.push(high);
        }
        Self { columns }
    }

    /// The index that 64 random bits fall on; `None` when there is none.
    pub(super) fn pick(&self, random: u64) -> Option<u32> {
        let column = scale(random, self.columns.len() as u64) as usize;
        let (threshold, alias) = *self.columns.get(column)?;
        // The low half is as good as independent of the column, which the high bits decide.
        let below = (random as u32) < threshold;
        // No branch: it would be foreseen wrongly half of the time.
        Some(select_unpredictable(below, column as u32, alias))
    }
}
