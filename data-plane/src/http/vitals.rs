//! What a stream's deadlines depend on, shared between the stream and the bodies that flow through it.

use crate::codec::{Body, BodyError, BodySource, Frame};
use crate::turn;
use crate::upstream::Progress;
use std::cell::{Cell, RefCell};
use std::ops::Deref;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Instant;

/// A deadline that passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expired {
    /// The route's timeout, counted from the end of the request.
    Route,
    /// Nothing moved in either direction.
    Idle,
    /// The stream's longest life.
    Duration,
    /// The request did not arrive in time.
    Request,
    /// A try had no response in time.
    Try,
    /// Nothing moved between this side and the upstream.
    TryIdle,
}

/// Progress and deadlines of one stream.
pub(super) struct Vitals {
    /// Moment of the last frame in either direction.
    pub(super) activity: Cell<Instant>,
    /// Moment the request's last byte came in.
    pub(super) complete: Cell<Option<Instant>>,
    /// Body bytes of the request so far.
    pub(super) received: Cell<u64>,
    /// Whether the client's side of the body failed.
    pub(super) failed: Cell<bool>,
    /// From `complete` to the end of the upstream's answer.
    pub(super) route: Cell<Option<Duration>>,
    /// From `activity`.
    pub(super) idle: Cell<Option<Duration>>,
    /// End of the stream's life.
    pub(super) end: Cell<Option<Instant>>,
    /// The request has to be complete by then.
    pub(super) request: Cell<Option<Instant>>,
    /// From `activity`, once a response has begun.
    pub(super) try_idle: Cell<Option<Duration>>,
    /// How far the attempt under way, or the last one, got.
    pub(super) progress: Progress,
}

impl Vitals {
    fn new(start: Instant) -> Self {
        Self {
            activity: Cell::new(start),
            complete: Cell::new(None),
            received: Cell::new(0),
            failed: Cell::new(false),
            route: Cell::new(None),
            idle: Cell::new(None),
            end: Cell::new(None),
            request: Cell::new(None),
            try_idle: Cell::new(None),
            progress: Progress::default(),
        }
    }

    /// The next deadline and what it is.
    pub(super) fn next(&self) -> Option<(Instant, Expired)> {
        let complete = self.complete.get();
        let route = complete.zip(self.route.get()).map(|(at, timeout)| (at + timeout, Expired::Route));
        let idle = self.idle.get().map(|timeout| (self.activity.get() + timeout, Expired::Idle));
        let end = self.end.get().map(|at| (at, Expired::Duration));
        let request = self.request.get().filter(|_| complete.is_none()).map(|at| (at, Expired::Request));
        let try_idle = self.try_idle.get().map(|timeout| (self.activity.get() + timeout, Expired::TryIdle));
        [route, idle, end, request, try_idle].into_iter().flatten().min_by_key(|(at, _)| *at)
    }
}

/// Most vitals whose memory a thread keeps for the next streams.
const KEPT: usize = 256;

thread_local! {
    static SPARE: RefCell<Vec<Rc<Vitals>>> = const { RefCell::new(Vec::new()) };
}

/// Vitals as all who look after the stream share them; their memory serves the thread's next stream.
#[derive(Clone)]
pub(super) struct SharedVitals(Rc<Vitals>);

impl SharedVitals {
    /// Of a stream that began at `start`.
    pub(super) fn new(start: Instant) -> Self {
        let mut spare = SPARE.with_borrow_mut(Vec::pop);
        match spare.as_mut().and_then(Rc::get_mut) {
            Some(vitals) => *vitals = Vitals::new(start),
            None => spare = None,
        }
        Self(spare.unwrap_or_else(|| Rc::new(Vitals::new(start))))
    }
}

impl Deref for SharedVitals {
    type Target = Vitals;

    fn deref(&self) -> &Vitals {
        &self.0
    }
}

impl Drop for SharedVitals {
    fn drop(&mut self) {
        if Rc::strong_count(&self.0) > 1 {
            return;
        }
        // A thread that ends has nothing to keep it for.
        let _ = SPARE.try_with(|spare| {
            let spare = &mut *spare.borrow_mut();
            if spare.len() < KEPT {
                spare.push(Rc::clone(&self.0));
            }
        });
    }
}

/// A request's body that leaves its marks on the vitals.
pub(super) struct WatchedBody {
    body: Body,
    vitals: SharedVitals,
}

impl WatchedBody {
    /// `body`, watched.
    pub(super) fn body(body: Body, vitals: SharedVitals) -> Body {
        Body::Stream(Box::new(Self { body, vitals }))
    }
}

impl BodySource for WatchedBody {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        let polled = self.body.poll_frame(cx);
        let Poll::Ready(frame) = &polled else { return polled };
        let now = turn::now();
        let vitals = &self.vitals;
        vitals.activity.set(now);
        let ended = match frame {
            Some(Ok(Frame::Data(data))) => {
                vitals.received.set(vitals.received.get() + data.len() as u64);
                // Whoever sends a body of known length may never ask for what follows its last byte.
                self.body.remaining() == Some(0)
            }
            Some(Ok(Frame::Trailers(_))) | None => true,
            Some(Err(_)) => {
                vitals.failed.set(true);
                false
            }
        };
        if ended && vitals.complete.get().is_none() {
            vitals.complete.set(Some(now));
        }
        polled
    }

    fn remaining(&self) -> Option<u64> {
        self.body.remaining()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[tokio::test(start_paused = true)]
    async fn the_route_timeout_counts_from_the_end_of_the_request() {
        let start = Instant::now();
        let vitals = SharedVitals::new(start);
        vitals.route.set(Some(Duration::from_secs(15)));
        vitals.idle.set(Some(Duration::from_secs(300)));
        assert_eq!(vitals.next(), Some((start + Duration::from_secs(300), Expired::Idle)));

        let mut body = WatchedBody::body(Body::Full(Bytes::from_static(b"abc")), vitals.clone());
        tokio::time::advance(Duration::from_secs(7)).await;
        assert!(matches!(body.frame().await, Some(Ok(Frame::Data(_)))));
        assert_eq!(vitals.received.get(), 3);
        assert_eq!(vitals.next(), Some((start + Duration::from_secs(22), Expired::Route)));
    }

    #[tokio::test(start_paused = true)]
    async fn memory_serves_the_next_stream_and_nothing_of_the_last_is_left_in_it() {
        let start = Instant::now();
        let vitals = SharedVitals::new(start);
        let memory = Rc::as_ptr(&vitals.0);
        vitals.idle.set(Some(Duration::from_secs(1)));
        let shared = vitals.clone();
        drop(vitals);
        let other = SharedVitals::new(start);
        assert_ne!(Rc::as_ptr(&other.0), memory, "still in use");
        drop(shared);
        let next = SharedVitals::new(start);
        assert_eq!((Rc::as_ptr(&next.0), next.next()), (memory, None));
    }

    #[tokio::test(start_paused = true)]
    async fn the_request_timeout_ends_with_the_request() {
        let start = Instant::now();
        let vitals = SharedVitals::new(start);
        vitals.request.set(Some(start + Duration::from_secs(1)));
        assert_eq!(vitals.next(), Some((start + Duration::from_secs(1), Expired::Request)));
        vitals.complete.set(Some(start));
        assert_eq!(vitals.next(), None);
    }
}
