//! The turns of a connection's loop, for streams that want to know when what they queued has left.

use std::cell::{Cell, RefCell};
use std::task::{Context, Poll, Waker};

/// Counts turns at whose end nothing was left to write.
#[derive(Debug, Default)]
pub(super) struct Turns {
    clear: Cell<u64>,
    /// Of streams that break off; as many as there are at most.
    waiting: RefCell<Vec<Waker>>,
}

impl Turns {
    /// All that was queued before this turn has left.
    pub(super) fn cleared(&self) {
        self.clear.set(self.clear.get() + 1);
        for waker in self.waiting.take() {
            waker.wake();
        }
    }

    /// The turns so far.
    pub(super) fn now(&self) -> u64 {
        self.clear.get()
    }

    /// Waits until what was queued at `now` has left.
    pub(super) fn poll_past(&self, now: u64, cx: &mut Context<'_>) -> Poll<()> {
        if self.clear.get() > now {
            return Poll::Ready(());
        }
        let mut waiting = self.waiting.borrow_mut();
        if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            waiting.push(cx.waker().clone());
        }
        Poll::Pending
    }
}
