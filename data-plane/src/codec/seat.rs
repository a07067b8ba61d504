//! Boxes for futures whose memory serves the next future of the same kind on the same thread.
//!
//! What a request takes while it is served is some kilobytes, which a connection shall not hold while it is idle, and
//! which nobody shall ask the allocator for at each request.

use std::any::Any;
use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

/// Most seats of a kind that a thread keeps. With more taken at a time the rest are allocated and freed.
const KEPT: usize = 64;

type Seat<F> = Pin<Box<Option<F>>>;

thread_local! {
    /// A `Vec<Seat<F>>` for each `F`. There are two or three: one for each kind of transport and handler.
    static SPARE: RefCell<Vec<Box<dyn Any>>> = const { RefCell::new(Vec::new()) };
}

/// A future in a box; as `Box::pin`, but for where the memory comes from.
pub(super) struct Seated<F: Future + 'static> {
    /// `None` once dropped.
    seat: Option<Seat<F>>,
}

impl<F: Future + 'static> Seated<F> {
    /// Seats the future that `make` makes. Given by value it would be moved once more, and it is some kilobytes.
    #[inline]
    pub(super) fn new(make: impl FnOnce() -> F) -> Self {
        let mut seat = Self::free();
        seat.set(Some(make()));
        Self { seat: Some(seat) }
    }

    /// An empty seat.
    fn free() -> Seat<F> {
        SPARE.with_borrow_mut(|all| kind(all)?.pop()).unwrap_or_else(|| Box::pin(None))
    }
}

/// The seats of a kind.
fn kind<F: 'static>(all: &mut [Box<dyn Any>]) -> Option<&mut Vec<Seat<F>>> {
    all.iter_mut().find_map(|seats| seats.downcast_mut())
}

impl<F: Future + 'static> Future for Seated<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let future = self.seat.as_mut().and_then(|seat| seat.as_mut().as_pin_mut());
        future.map_or(Poll::Pending, |future| future.poll(cx))
    }
}

impl<F: Future + 'static> Drop for Seated<F> {
    fn drop(&mut self) {
        let Some(mut seat) = self.seat.take() else { return };
        // Before the seats are borrowed: whatever the future holds may take or leave some of its own.
        seat.set(None);
        // A thread that ends has nothing to keep it for.
        let _ = SPARE.try_with(|all| {
            let all = &mut *all.borrow_mut();
            match kind(all) {
                Some(seats) if seats.len() >= KEPT => {}
                Some(seats) => seats.push(seat),
                None => {
                    let mut seats = Vec::with_capacity(KEPT);
                    seats.push(seat);
                    all.push(Box::new(seats));
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::rc::Rc;

    /// Counts how many of it are alive, and tells where it was polled.
    struct Guest(Rc<Cell<usize>>);

    impl Guest {
        fn new(alive: &Rc<Cell<usize>>) -> Self {
            alive.set(alive.get() + 1);
            Self(Rc::clone(alive))
        }
    }

    impl Drop for Guest {
        fn drop(&mut self) {
            self.0.set(self.0.get() - 1);
        }
    }

    impl Future for Guest {
        type Output = usize;

        fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<usize> {
            Poll::Ready(std::ptr::from_ref(&*self).addr())
        }
    }

    #[tokio::test]
    async fn a_seat_serves_the_next_future_of_its_kind() {
        let alive = Rc::default();
        let first = Seated::new(|| Guest::new(&alive)).await;
        assert_eq!(alive.get(), 0, "what was served is dropped, and its seat kept");
        let mut held = Seated::new(|| Guest::new(&alive));
        assert_eq!((&mut held).await, first);
        assert_eq!(Seated::new(|| async { 7 }).await, 7, "another kind has other seats");
        assert_ne!(Seated::new(|| Guest::new(&alive)).await, first, "the first is taken");
        drop(held);
        assert_eq!(alive.get(), 0);
    }

    #[test]
    fn seats_are_kept_up_to_a_number() {
        let alive = Rc::default();
        drop((0..2 * KEPT).map(|_| Seated::new(|| Guest::new(&alive))).collect::<Vec<_>>());
        assert_eq!(alive.get(), 0);
        let kept = SPARE.with_borrow_mut(|all| kind::<Guest>(all).map(|seats| seats.len()));
        assert_eq!(kept, Some(KEPT));
    }
}
