//! Bounded state machines fed with `now` and random numbers: when to try again, when to stop, whom to trust.

mod backoff;
pub mod circuit;
pub mod health;
pub mod outlier;
pub mod retry;
mod token_bucket;

pub use backoff::Backoff;
pub use token_bucket::{Fill, TokenBucket};
