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
        // Another row of numbers than the policy's own, which starts at `random`.
        let mut state = !cx.random;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{LbPolicy, LeastRequest, f64Bits};
    use crate::lb::{Candidate, Facts, build};

    const WINDOW: Duration = Duration::from_secs(100);

    /// Nothing but the time.
    struct At(Duration);

    impl Facts for At {
        fn active(&self, _: HostIndex) -> u32 {
            0
        }

        fn total_active(&self) -> u32 {
            0
        }

        fn now(&self) -> Duration {
            self.0
        }
    }

    fn config(aggression: f64, min_weight_percent: f64) -> SlowStart {
        SlowStart {
            window: WINDOW,
            aggression: f64Bits::new(aggression),
            min_weight_percent: f64Bits::new(min_weight_percent),
        }
    }

    /// Shares of hosts of these weights and ages.
    fn shares(policy: &LbPolicy, config: &SlowStart, hosts: &[(u32, Duration)]) -> Vec<f64> {
        const PICKS: usize = 200_000;
        let now = WINDOW * 10;
        let balancer = build(policy, &Candidate::list(hosts.iter().map(|(weight, _)| (*weight, ""))), 1);
        let windows = Windows::new(config, hosts.iter().map(|(_, age)| Some(now - *age))).unwrap();
        let (facts, mut state) = (At(now), 7);
        let mut counts = vec![0_u32; hosts.len()];
        for _ in 0..PICKS {
            let random = mix(&mut state);
            let cx = PickCx { random, hash: None, attempt: 0, tried_priorities: &[], facts: &facts };
            counts[windows.pick(&cx, |cx| balancer.pick(cx)).unwrap().0 as usize] += 1;
        }
        counts.iter().map(|count| f64::from(*count) / PICKS as f64).collect()
    }

    #[test]
    fn hosts_get_their_share_by_the_law_of_their_age() {
        let (new, half, grown) = (Duration::ZERO, WINDOW / 2, WINDOW);
        let least = LbPolicy::LeastRequest(LeastRequest { choices: Some(2), ..LeastRequest::default() });
        for policy in [LbPolicy::ROUND_ROBIN, LbPolicy::Random, least] {
            for (aggression, minimum, ages, weights) in [
                // Linear, and never below the minimum.
                (1.0, 10.0, [grown, half, new], [1.0, 0.5, 0.1]),
                (1.0, 0.0, [grown, half, new], [1.0, 0.5, 0.0]),
                (1.0, 60.0, [grown, half, new], [1.0, 0.6, 0.6]),
                // Above 1 faster at first, below 1 slower.
                (2.0, 10.0, [grown, half, new], [1.0, 0.5_f64.sqrt(), 0.1]),
                (0.5, 10.0, [grown, half, new], [1.0, 0.25, 0.1]),
                // The window ends sharply.
                (1.0, 10.0, [grown, WINDOW * 99 / 100, WINDOW * 5], [1.0, 0.99, 1.0]),
                // Those that are new together share alike.
                (1.0, 10.0, [new, new, new], [1.0, 1.0, 1.0]),
                (1.0, 10.0, [half, half, new], [0.5, 0.5, 0.1]),
            ] {
                let got = shares(&policy, &config(aggression, minimum), &ages.map(|age| (1, age)));
                let total: f64 = weights.iter().sum();
                for (at, (got, weight)) in got.iter().zip(weights).enumerate() {
                    let want = weight / total;
                    assert!(
                        (got - want).abs() < 0.01,
                        "{policy:?}, aggression {aggression}, least {minimum} %, {ages:?}: host {at} got {got:.3}, not {want:.3}"
                    );
                }
            }
        }
    }

    #[test]
    fn weights_are_multiplied() {
        let ages = [(1, WINDOW), (8, WINDOW / 2)];
        let got = shares(&LbPolicy::ROUND_ROBIN, &config(1.0, 10.0), &ages);
        assert!((got[1] - 0.8).abs() < 0.01, "4 of 5, not {:.3}", got[1]);
    }
}
