//! The way of telemetry out of the proxy: spans and log entries, never in the way of a request.
//!
//! A worker puts an item into a queue of its own and goes on: nothing there waits, and what does not fit is dropped
//! and counted. One thread for all exporters takes the items, makes batches of them and sends those through pools
//! of its own, with retries, a breaker that stops sending to a collector that fails, an age limit, and files for
//! what could not be delivered. Used by `trace` and by access logs; knows neither.

mod knobs;
mod letters;
mod pipeline;
mod queue;
mod send;
mod stats;
mod thread;

pub use knobs::{Knobs, Overflow};
pub use queue::Queue;
pub use send::{Protocol, Target};
pub use thread::{Exporters, Report};

use bytes::Bytes;

/// Something to export.
pub trait Item: Send + 'static {
    /// What it takes in memory, about.
    fn bytes(&self) -> usize;
}

/// Makes the body of a request of items. Called on the export thread.
pub trait Encode<T>: Send + 'static {
    /// The body, for at least one item.
    fn encode(&self, items: &[T]) -> Bytes;
}
