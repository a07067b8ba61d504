//! Deadlines of streams that cost no timer registration each.
//!
//! Nearly every request ends long before its timeout. An [`Alarm`] borrows a timer from the worker's stock and
//! leaves it armed for whatever earlier moment it was armed for last: it then wakes its stream for nothing about
//! once per timeout, not once per request, and is armed anew only then.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use tokio::time::{Instant, Sleep};

/// Timers kept for later; more are dropped.
const STOCK: usize = 4096;

/// A worker's stock of timers.
#[derive(Default)]
pub(super) struct Alarms(RefCell<Vec<Pin<Box<Sleep>>>>);

/// A deadline that may be moved at no cost. Holds a timer from the first poll to its end.
pub(super) struct Alarm {
    stock: Rc<Alarms>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Alarm {
    /// An alarm without a timer yet.
    pub(super) fn new(stock: &Rc<Alarms>) -> Self {
        Self { stock: Rc::clone(stock), timer: None }
    }

    /// Ready once `deadline` has passed, with the time then. Pending never wakes for `None`.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, deadline: Option<Instant>) -> Poll<Instant> {
        let Some(deadline) = deadline else { return Poll::Pending };
        let timer = self.timer.get_or_insert_with(|| {
            let kept = self.stock.0.borrow_mut().pop();
            kept.unwrap_or_else(|| Box::pin(tokio::time::sleep_until(deadline)))
        });
        if timer.deadline() > deadline {
            timer.as_mut().reset(deadline);
        }
        while timer.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            if now >= deadline {
                return Poll::Ready(now);
            }
            timer.as_mut().reset(deadline);
        }
        Poll::Pending
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        let Some(timer) = self.timer.take() else { return };
        let mut stock = self.stock.0.borrow_mut();
        if stock.len() < STOCK {
            stock.push(timer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn fires_at_its_deadline_whatever_its_timer_was_armed_for_before() {
        let stock = Rc::<Alarms>::default();
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);

        let mut first = Alarm::new(&stock);
        let early = poll_fn(|cx| Poll::Ready(first.poll(cx, Some(at(100))).is_pending()));
        assert!(early.await, "the deadline is ahead");
        drop(first);
        assert_eq!(stock.0.borrow().len(), 1, "the timer is kept");

        let mut later = Alarm::new(&stock);
        assert!(poll_fn(|cx| later.poll(cx, Some(at(5_000)))).await >= at(5_000));
        drop(later);

        let mut sooner = Alarm::new(&stock);
        let deadline = Instant::now() + Duration::from_millis(7);
        let fired = poll_fn(|cx| sooner.poll(cx, Some(deadline))).await;
        assert!(fired >= deadline && fired < deadline + Duration::from_millis(5), "not later than asked");
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_moved_away_does_not_fire_early() {
        let stock = Rc::<Alarms>::default();
        let start = Instant::now();
        let mut alarm = Alarm::new(&stock);
        let first = Some(start + Duration::from_millis(10));
        assert!(poll_fn(|cx| Poll::Ready(alarm.poll(cx, first).is_pending())).await);
        let moved = start + Duration::from_millis(500);
        assert!(poll_fn(|cx| alarm.poll(cx, Some(moved))).await >= moved);
    }
}
