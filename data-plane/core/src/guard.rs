//! Bounded state machines fed with `now` and random numbers: when to try again, when to stop.

mod backoff;

pub use backoff::Backoff;
