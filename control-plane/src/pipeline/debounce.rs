//! When to build: pure, with time as an argument.

use std::time::Duration;

use tokio::time::Instant;

/// Decides when waiting events are built.
#[derive(Debug)]
pub(super) struct Debounce {
    quiet: Duration,
    longest: Duration,
    /// Time of a build, smoothed.
    build: Duration,
    waiting: Option<Waiting>,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    first: Instant,
    last: Instant,
}

impl Debounce {
    pub(super) fn new(quiet: Duration, longest: Duration) -> Self {
        Self { quiet, longest, build: Duration::ZERO, waiting: None }
    }

    /// Something changed.
    pub(super) fn event(&mut self, now: Instant) {
        match &mut self.waiting {
            Some(w) => w.last = now,
            none => *none = Some(Waiting { first: now, last: now }),
        }
    }

    /// When the next build is due; `None` while nothing waits. Builds that take long wait for as long as they
    /// take, so that at most half of the time is spent on them.
    pub(super) fn due(&self) -> Option<Instant> {
        let w = self.waiting?;
        let quiet = w.last + self.quiet.max(self.build);
        Some(quiet.min(w.first + self.longest.max(self.build)))
    }

    /// What waited is being built.
    pub(super) fn build_started(&mut self) {
        self.waiting = None;
    }

    /// How long the build took.
    pub(super) fn build_took(&mut self, took: Duration) {
        self.build = (self.build * 3 + took) / 4;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: Duration = Duration::from_millis(10);
    const LONGEST: Duration = Duration::from_millis(100);

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn a_single_event_is_built_after_the_quiet_time() {
        let (mut d, start) = (Debounce::new(QUIET, LONGEST), Instant::now());
        assert_eq!(d.due(), None);
        d.event(start);
        assert_eq!(d.due(), Some(start + QUIET));
        d.build_started();
        assert_eq!(d.due(), None);
    }

    #[test]
    fn a_flood_of_events_cannot_put_a_build_off_for_longer_than_the_limit() {
        let (mut d, start) = (Debounce::new(QUIET, LONGEST), Instant::now());
        for i in 0..200 {
            d.event(start + ms(i));
        }
        assert_eq!(d.due(), Some(start + LONGEST));
    }

    #[test]
    fn slow_builds_make_for_longer_waits_and_quick_ones_bring_them_back() {
        let (mut d, start) = (Debounce::new(QUIET, LONGEST), Instant::now());
        for _ in 0..40 {
            d.build_took(ms(400));
        }
        d.event(start);
        assert!(d.due() > Some(start + ms(390)), "{:?}", d.due().map(|t| t - start));
        for _ in 0..40 {
            d.build_took(ms(1));
        }
        assert_eq!(d.due(), Some(start + QUIET));
    }
}
