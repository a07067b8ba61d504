//! Limits discovery requests (Envoy `rate_limit_settings`).

use std::time::Duration;
use tokio::time::Instant;

/// A token bucket.
#[derive(Debug)]
pub(super) struct Bucket {
    size: f64,
    fill_per_second: f64,
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    pub(super) fn new(size: u32, fill_per_second: f64, now: Instant) -> Self {
        let size = f64::from(size.max(1));
        Self { size, fill_per_second: fill_per_second.max(0.01), tokens: size, filled: now }
    }

    /// When the next request may be sent.
    pub(super) fn ready_at(&mut self, now: Instant) -> Instant {
        self.fill(now);
        let missing = (1.0 - self.tokens).max(0.0);
        now + Duration::from_secs_f64(missing / self.fill_per_second)
    }

    /// A request is sent.
    pub(super) fn take(&mut self, now: Instant) {
        self.fill(now);
        self.tokens -= 1.0;
    }

    fn fill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.tokens = (self.tokens + elapsed * self.fill_per_second).min(self.size);
        self.filled = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spent_bucket_makes_requests_wait_for_their_token() {
        let now = Instant::now();
        let mut bucket = Bucket::new(2, 10.0, now);
        bucket.take(now);
        assert_eq!(bucket.ready_at(now), now);
        bucket.take(now);
        let wait = bucket.ready_at(now) - now;
        assert!((wait.as_secs_f64() - 0.1).abs() < 1e-6, "{wait:?}");
        assert_eq!(bucket.ready_at(now + Duration::from_secs(1)), now + Duration::from_secs(1));
    }
}
