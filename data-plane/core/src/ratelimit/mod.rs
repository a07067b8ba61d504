//! Rate limits: what requests are told apart by ([`Descriptor`]), and the buckets of local rate limits
//! ([`LocalLimiter`]). Asking a service is not here: that is I/O.

mod descriptor;
mod local;
mod lru;

pub use descriptor::{Context, Descriptor, Entry, LimitUnit, describe};
pub use local::{Decision, LocalLimiter};
