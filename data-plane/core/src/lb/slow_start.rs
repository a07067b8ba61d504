//! Slow start: hosts that just became healthy get their share by and by.
//!
//! Envoy multiplies the weight of such a host by a factor below 1. Here the policy chooses as always, and a host
//! in its window is taken with that factor as its chance, else the policy chooses again: the same law, at no cost
//! once the windows are over.

use super::{HostIndex, PickCx, mix};
use crate::config::SlowStart;
use std::time::Duration;

/// Choices at most; after them the last one stands.
const MOST: u32 = 32;

/// The windows of one list of hosts.
#[derive(Debug)]
pub(super) struct Windows {
    config: SlowStart,
    /// Since when each host may be used.
    since: Box<[Duration]>,
    /// When the last window is over.
    end: Duration,
    /// The host that is furthest.
    first: Duration,
}

impl Windows {
    /// `None` without a host that has a window.
    pub(super) fn new(config: &SlowStart, since: impl Iterator<Item = Option<Duration>>) -> Option<Self> {
        let since: Box<[Duration]> = since.map(Option::unwrap_or_default).collect();
        let last = since.iter().max()?;
        Some(Self { config: *config, end: *last + config.window, first: *since.iter().min()?, since })
    }

    fn factor(&self, since: Duration, now: Duration) -> f64 {
        let age = now.saturating_sub(since);
        if age >= self.config.window {
            return 1.0;
        }
        let part = age.as_millis().max(1) as f64 / self.config.window.as_millis().max(1) as f64;
        let aggression = self.config.aggression.get();
        let part = if aggression == 1.0 { part } else { part.powf(1.0 / aggression) };
        part.max(self.config.min_weight_percent.get() / 100.0)
    }

    /// Chooses by `pick` until a host is taken.
    pub(super) fn pick(
        &self,
        cx: &PickCx<'_>,
        pick: impl Fn(&PickCx<'_>) -> Option<HostIndex>,
    ) -> Option<HostIndex> {
        let now = cx.facts.now();
        if now >= self.end {
            return pick(cx);
        }
        // Only how hosts compare matters: when all are new, they share alike.
        let most = self.factor(self.first, now);
        let mut state = cx.random;
        let mut chosen = pick(cx)?;
        for _ in 1..MOST {
            let chance = self.factor(self.since[chosen.0 as usize], now) / most;
            if (mix(&mut state) as f64) < chance * u64::MAX as f64 {
                break;
            }
            chosen = pick(&PickCx { random: mix(&mut state), ..*cx })?;
        }
        Some(chosen)
    }
}
