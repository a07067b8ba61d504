//! What is asked of a management server, as state machines without I/O: one per type and stream.
//!
//! A machine is told of streams opening and closing, of interest changing, of responses coming and of what
//! became of them, and says which request to send. It holds to these rules by construction:
//!
//! - A response is answered once, after it was dealt with: [`Pending`] is made by the response and consumed by its
//!   answer, and does not outlive its stream.
//! - An ACK (no error) is sent only for what was applied in full.
//! - SotW: while a response waits for its answer no other request is sent, since the first request that carries a
//!   nonce counts as its answer.

mod delta;
mod sotw;

pub use delta::{Delta, DeltaOutcome, DeltaRequest};
pub use sotw::{Sotw, SotwRequest};

use std::collections::BTreeSet;

/// What a client wants of a type.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interest {
    /// All there is (clusters and listeners).
    pub wildcard: bool,
    /// By name.
    pub names: BTreeSet<Box<str>>,
}

impl Interest {
    /// All there is.
    pub fn everything() -> Self {
        Self { wildcard: true, names: BTreeSet::new() }
    }

    /// These names.
    pub fn of<N: Into<Box<str>>>(names: impl IntoIterator<Item = N>) -> Self {
        Self { wildcard: false, names: names.into_iter().map(Into::into).collect() }
    }

    /// Whether nothing is wanted.
    pub fn is_empty(&self) -> bool {
        !self.wildcard && self.names.is_empty()
    }

    /// Whether a resource of that name is wanted.
    pub fn covers(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }
}

/// A response that has not been answered. Dropping it unanswered is only right when its stream is gone.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "every response is answered"]
pub struct Pending {
    /// Counts streams of the machine.
    stream: u64,
    /// Counts responses of the machine.
    response: u64,
    nonce: String,
}

#[cfg(test)]
mod tests;
