//! Waiting between attempts to reach a store.

use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// First window of the wait.
const BASE: Duration = Duration::from_millis(100);
/// Largest window of the wait.
const CAP: Duration = Duration::from_secs(10);

/// Full-jitter exponential backoff: a random time in a window that doubles from 100 ms to 10 s, so that a fleet
/// of control planes does not return to a store in step.
#[derive(Debug, Default)]
pub struct Retry {
    attempts: u32,
}

impl Retry {
    /// It worked: the next wait is a short one again.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }

    /// The next wait, by a random number.
    pub fn next(&mut self, random: f64) -> Duration {
        let window = BASE.saturating_mul(1 << self.attempts.min(10)).min(CAP);
        self.attempts = self.attempts.saturating_add(1);
        window.mul_f64(random.clamp(0.0, 1.0))
    }

    /// Waits. Answers whether to go on: `false` when cancelled.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn wait(&mut self, stop: &CancellationToken) -> bool {
        let pause = self.next(fastrand::f64());
        tokio::select! {
            () = tokio::time::sleep(pause) => true,
            () = stop.cancelled() => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_doubles_up_to_its_cap_and_starts_over_after_success() {
        let mut retry = Retry::default();
        let windows: Vec<u64> = (0..9).map(|_| retry.next(1.0).as_millis() as u64).collect();
        assert_eq!(windows, [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        assert_eq!(retry.next(0.0), Duration::ZERO, "jitter takes any part of the window");
        retry.reset();
        assert_eq!(retry.next(1.0), BASE);
    }
}
