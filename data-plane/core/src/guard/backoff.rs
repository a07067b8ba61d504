//! Waiting before another try: exponential, with full jitter.

use std::time::Duration;

/// Waits that grow: the n-th is uniform in `0..min(cap, base * 2^n)`, as in Envoy's jittered backoff.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
    tries: u32,
}

impl Backoff {
    /// The first wait is below `base`, none is `cap` or more. Both at least 1 ms; `cap` at least `base`.
    pub fn new(base: Duration, cap: Duration) -> Self {
        let longest = Duration::from_nanos(u64::MAX);
        let base = base.clamp(Duration::from_millis(1), longest);
        Self { base, cap: cap.clamp(base, longest), tries: 0 }
    }

    /// The next wait, from 64 random bits.
    pub fn next(&mut self, random: u64) -> Duration {
        let bound = self.base.saturating_mul(1 << self.tries.min(31)).min(self.cap);
        if bound < self.cap {
            self.tries += 1;
        }
        let nanos = (bound.as_nanos() * u128::from(random)) >> 64;
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// Starts again from `base`; call after a success.
    pub fn reset(&mut self) {
        self.tries = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn bounds_double_up_to_the_cap() {
        let mut backoff = Backoff::new(MS(500), MS(30_000));
        let longest: Vec<_> = (0..9).map(|_| backoff.next(u64::MAX).as_millis()).collect();
        assert_eq!(longest, [499, 999, 1999, 3999, 7999, 15999, 29999, 29999, 29999]);
    }

    #[test]
    fn jitter_reaches_down_to_zero() {
        let mut backoff = Backoff::new(MS(500), MS(30_000));
        assert_eq!(backoff.next(0), Duration::ZERO);
        assert_eq!(backoff.next(1 << 63), MS(500), "the middle of the second bound");
    }

    #[test]
    fn reset_starts_again() {
        let mut backoff = Backoff::new(MS(10), MS(1000));
        for _ in 0..100 {
            backoff.next(7);
        }
        backoff.reset();
        assert!(backoff.next(u64::MAX) < MS(10));
    }

    #[test]
    fn senseless_bounds_are_mended() {
        let mut backoff = Backoff::new(Duration::ZERO, Duration::ZERO);
        assert!(backoff.next(u64::MAX) < MS(1));
        let mut huge = Backoff::new(Duration::MAX, Duration::MAX);
        huge.next(u64::MAX);
    }
}
