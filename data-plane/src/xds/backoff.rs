//! Waits between attempts to reach a control plane.

use std::time::Duration;

/// First window. Envoy's.
const BASE: Duration = Duration::from_millis(500);
/// Last window. Envoy's.
const CAP: Duration = Duration::from_secs(30);

/// Full jitter: each wait is anywhere between nothing and a window that doubles.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backoff {
    window: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { window: BASE }
    }
}

impl Backoff {
    /// The next wait; `random` is uniform in `0.0..1.0`.
    pub(super) fn next(&mut self, random: f64) -> Duration {
        let wait = self.window.mul_f64(random.clamp(0.0, 1.0));
        self.window = (self.window * 2).min(CAP);
        wait
    }

    /// The server answered.
    pub(super) fn reset(&mut self) {
        self.window = BASE;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_cap_and_start_over_after_an_answer() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..9).map(|_| backoff.next(1.0).as_millis()).collect();
        assert_eq!(waits, [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]);
        backoff.reset();
        assert_eq!(backoff.next(1.0), BASE);
    }

    #[test]
    fn a_wait_may_be_anywhere_in_its_window() {
        assert_eq!(Backoff::default().next(0.0), Duration::ZERO);
        assert_eq!(Backoff::default().next(0.5), BASE / 2);
    }
}
