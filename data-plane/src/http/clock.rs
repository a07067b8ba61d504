//! Wall-clock time out of the monotonic clock, and the `date` header, at one clock read a request.

use std::cell::{Cell, RefCell};
use std::time::{Duration, SystemTime};
use tokio::time::Instant;

/// How long a wall-clock reading is extrapolated before it is taken anew, so that steps of the system's clock
/// are followed.
const REBASE: Duration = Duration::from_secs(1);

/// Length of `Sun, 06 Nov 1994 08:49:37 GMT`.
const DATE_LEN: usize = 29;

/// A worker's clock.
pub(super) struct Clock {
    /// A moment by both clocks.
    base: Cell<(Instant, SystemTime)>,
    date: RefCell<Date>,
}

struct Date {
    /// Seconds since the epoch that `text` stands for.
    second: u64,
    text: [u8; DATE_LEN],
}

impl Default for Clock {
    fn default() -> Self {
        Self {
            base: Cell::new((Instant::now(), SystemTime::now())),
            date: RefCell::new(Date { second: u64::MAX, text: [b' '; DATE_LEN] }),
        }
    }
}

impl Clock {
    /// Wall-clock time at `now`.
    pub(super) fn wall(&self, now: Instant) -> SystemTime {
        let (instant, wall) = self.base.get();
        let since = now.saturating_duration_since(instant);
        if since < REBASE {
            return wall + since;
        }
        let wall = SystemTime::now();
        self.base.set((now, wall));
        wall
    }

    /// Calls `f` with the `date` header's value at `wall` (RFC 9110 5.6.7). Formats once a second.
    pub(super) fn with_date<T>(&self, wall: SystemTime, f: impl FnOnce(&[u8]) -> T) -> T {
        let second = wall.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let mut date = self.date.borrow_mut();
        if date.second != second {
            let text = httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(second));
            date.text.copy_from_slice(text.as_bytes());
            date.second = second;
        }
        f(&date.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn date_follows_the_second() {
        let clock = Clock::default();
        let at = |s| SystemTime::UNIX_EPOCH + Duration::from_secs(s);
        let text = |s| clock.with_date(at(s), |d| String::from_utf8(d.to_vec()).unwrap());
        assert_eq!(text(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(text(784_111_778), "Sun, 06 Nov 1994 08:49:38 GMT");
        assert_eq!(text(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT", "also when time steps back");
    }
}
