//! The generic validator for `validate.rules`: the constraints that Envoy's protos carry on their fields.
//!
//! `descriptor options -> compiled rules (once for each message type) -> violations`. Called by translation
//! for each resource and by `lint`. Checks single messages only: whether a named cluster exists is for
//! translation to say.

mod check;
mod compile;
mod constraint;
mod string;

pub(crate) use compile::Compiled;

use prost::{Message, Name};
use prost_reflect::DynamicMessage;

/// Violations kept; further ones are only counted, in a last one with an empty path.
pub const MAX_VIOLATIONS: usize = 1000;

/// A broken constraint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Field path in proto names; steps into `Any` payloads as if they were fields.
    pub path: String,
    /// What is required, in plain words.
    pub message: String,
}

/// Every constraint that a message breaks, payloads of `Any` and `TypedStruct` included.
///
/// Payloads of unknown type are passed over: whether they are allowed is for translation to say.
pub fn check<M: Message + Name>(message: &M) -> Vec<Violation> {
    check_dynamic(&crate::descriptors::to_dynamic(message))
}

/// [`check`] for a dynamic message.
pub fn check_dynamic(message: &DynamicMessage) -> Vec<Violation> {
    check::Checker::default().run(message)
}

#[cfg(test)]
mod tests;
