//! Requests that wait for a connection, in order.

use std::cell::RefCell;
use std::collections::VecDeque;
use tokio::sync::oneshot;

/// Waiters for a `T`. Bounded by the cluster's limit of pending requests, which every waiter holds one of.
pub(super) struct Queue<T>(RefCell<VecDeque<oneshot::Sender<T>>>);

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self(RefCell::default())
    }
}

impl<T> Queue<T> {
    /// Joins at the end. Dropping the receiver leaves.
    pub(super) fn join(&self) -> oneshot::Receiver<T> {
        let (tx, rx) = oneshot::channel();
        self.0.borrow_mut().push_back(tx);
        rx
    }

    /// Gives `value` to the first that still waits; back when none does.
    pub(super) fn give(&self, mut value: T) -> Option<T> {
        loop {
            // The borrow ends before the send, which may run code of the receiver's drop.
            let next = self.0.borrow_mut().pop_front();
            let Some(next) = next else { return Some(value) };
            match next.send(value) {
                Ok(()) => return None,
                Err(back) => value = back,
            }
        }
    }

    /// Gives every waiter a value.
    pub(super) fn give_all(&self, mut value: impl FnMut() -> T) -> usize {
        let all = std::mem::take(&mut *self.0.borrow_mut());
        all.into_iter().filter_map(|waiter| waiter.send(value()).ok()).count()
    }

    /// How many still wait.
    pub(super) fn len(&self) -> usize {
        let mut waiters = self.0.borrow_mut();
        waiters.retain(|waiter| !waiter.is_closed());
        waiters.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_go_to_the_first_that_still_waits() {
        let queue = Queue::default();
        let gone = queue.join();
        let mut first = queue.join();
        let mut second = queue.join();
        drop(gone);
        assert_eq!(queue.len(), 2);
        assert_eq!(queue.give(1), None);
        assert_eq!(queue.give(2), None);
        assert_eq!((first.try_recv(), second.try_recv()), (Ok(1), Ok(2)));
        assert_eq!(queue.give(3), Some(3), "nobody waits");
    }

    #[test]
    fn a_failure_reaches_everyone() {
        let queue = Queue::default();
        let mut waiters = [queue.join(), queue.join()];
        assert_eq!(queue.give_all(|| "failed"), 2);
        assert!(waiters.iter_mut().all(|w| w.try_recv() == Ok("failed")));
        assert_eq!(queue.len(), 0);
    }
}
