//! A token bucket over one atomic, shared exactly: however many threads take from it, no token is given twice.
//!
//! Envoy's: tokens flow in continuously at `per_fill / interval`, never above `max`. What is kept is the moment at
//! which the bucket was empty, as seconds since the bucket's own epoch: what is in it follows from `now`.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Rounding, in tokens: a bucket that should hold a whole token is not refused for the last bit of a float.
const EPSILON: f64 = 1e-6;

/// How a bucket fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fill {
    /// Most tokens it holds, and those it begins with.
    pub max: u32,
    /// Tokens in an interval.
    pub per_fill: u32,
    /// The interval; longer than zero.
    pub interval: Duration,
}

impl Fill {
    /// Tokens a second.
    pub fn rate(self) -> f64 {
        f64::from(self.per_fill) / self.interval.as_secs_f64()
    }
}

/// A token bucket. Times are counted from one epoch that its owner keeps.
#[derive(Debug)]
pub struct TokenBucket {
    max: f64,
    rate: f64,
    /// `f64` bits: when it was, or will be, empty.
    empty_at: AtomicU64,
}

impl TokenBucket {
    /// A full bucket.
    pub fn new(fill: Fill, now: Duration) -> Self {
        let (max, rate) = (f64::from(fill.max), fill.rate());
        let empty_at = now.as_secs_f64() - max / rate;
        Self { max, rate, empty_at: AtomicU64::new(empty_at.to_bits()) }
    }

    /// Most tokens it holds.
    pub fn max(&self) -> u64 {
        self.max as u64
    }

    /// Tokens a second.
    pub fn rate(&self) -> f64 {
        self.rate
    }

    /// Takes `tokens`, or nothing when there are fewer.
    pub fn take(&self, tokens: u64, now: Duration) -> bool {
        let tokens = tokens as f64;
        self.update(now, |held| (held + EPSILON >= tokens).then_some(held - tokens))
    }

    /// Puts `tokens` back, up to the most it holds.
    pub fn refill(&self, tokens: u64, now: Duration) {
        let (tokens, max) = (tokens as f64, self.max);
        self.update(now, |held| Some((held + tokens).min(max)));
    }

    /// Whole tokens in it.
    pub fn remaining(&self, now: Duration) -> u64 {
        (self.held(self.empty_at.load(Relaxed), now.as_secs_f64()) + EPSILON).max(0.0) as u64
    }

    /// How long until it holds a whole token; zero when it does. Envoy's guess: the time that a token takes.
    pub fn next_token(&self, now: Duration) -> Duration {
        if self.remaining(now) >= 1 { Duration::ZERO } else { Duration::from_secs_f64(1.0 / self.rate) }
    }

    fn held(&self, empty_at: u64, now: f64) -> f64 {
        ((now - f64::from_bits(empty_at)) * self.rate).min(self.max)
    }

    /// Sets what is in it to what `change` makes of it; whether it did.
    fn update(&self, now: Duration, change: impl Fn(f64) -> Option<f64>) -> bool {
        let now = now.as_secs_f64();
        self.empty_at
            .try_update(Relaxed, Relaxed, |empty_at| {
                let left = change(self.held(empty_at, now))?;
                Some((now - left / self.rate).to_bits())
            })
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::atomic::AtomicUsize;

    fn fill(max: u32, per_fill: u32, ms: u64) -> Fill {
        Fill { max, per_fill, interval: Duration::from_millis(ms) }
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn it_begins_full_and_fills_continuously() {
        let bucket = TokenBucket::new(fill(2, 1, 1000), ms(500));
        assert_eq!(bucket.remaining(ms(500)), 2);
        assert!(bucket.take(1, ms(500)) && bucket.take(1, ms(500)));
        assert!(!bucket.take(1, ms(500)));
        assert_eq!(bucket.next_token(ms(500)), ms(1000));
        assert!(!bucket.take(1, ms(1499)), "not yet a whole token");
        assert!(bucket.take(1, ms(1500)));
        assert_eq!(bucket.remaining(ms(60_000)), 2, "never above its most");
    }

    #[test]
    fn a_refused_take_takes_nothing() {
        let bucket = TokenBucket::new(fill(3, 1, 1000), ms(0));
        assert!(!bucket.take(4, ms(0)));
        assert!(bucket.take(3, ms(0)));
    }

    #[test]
    fn an_empty_bucket_refuses_always() {
        let bucket = TokenBucket::new(fill(0, 5, 1000), ms(0));
        assert!(!bucket.take(1, ms(0)) && !bucket.take(1, ms(100_000)));
    }

    #[test]
    fn what_is_put_back_can_be_taken_again() {
        let bucket = TokenBucket::new(fill(3, 1, 1000), ms(0));
        assert!(bucket.take(3, ms(0)));
        bucket.refill(2, ms(0));
        assert_eq!(bucket.remaining(ms(0)), 2);
        bucket.refill(9, ms(0));
        assert_eq!(bucket.remaining(ms(0)), 3);
    }

    #[test]
    fn threads_never_get_a_token_twice() {
        let bucket = TokenBucket::new(fill(10_000, 1, 3_600_000), ms(0));
        let taken = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let got = (0..5000).filter(|_| bucket.take(1, ms(0))).count();
                    taken.fetch_add(got, Relaxed);
                });
            }
        });
        assert_eq!(taken.into_inner(), 10_000);
    }

    proptest! {
        /// Whenever it is asked, it gives what it began with and what flowed in since, but for rounding; and an
        /// asker who asks often enough gets all of that.
        #[test]
        fn gives_no_more_and_no_less_than_flows_in(
            max in 1_u32..50, per_fill in 1_u32..200, interval in 50_u64..5_000,
            steps in prop::collection::vec(0_u64..400, 1..300),
        ) {
            let config = fill(max, per_fill, interval);
            let bucket = TokenBucket::new(config, ms(7));
            let (mut now, mut taken) = (7, 0_u64);
            // The model: what a bucket of real numbers would hold.
            let mut held = f64::from(max);
            for step in steps {
                now += step;
                held = (held + config.rate() * step as f64 / 1000.0).min(f64::from(max));
                while bucket.take(1, ms(now)) {
                    taken += 1;
                    held -= 1.0;
                    prop_assert!(held > -1e-5, "more than there was");
                }
                prop_assert!(held < 1.0 + 1e-5, "a token was left: {held}");
                let most = f64::from(max) + config.rate() * (now - 7) as f64 / 1000.0;
                prop_assert!(taken as f64 <= most + 1e-5);
            }
        }
    }
}
