//! Traces: contexts as they travel in headers, which requests are sampled, and what a span says of a request.
//!
//! Called by the connection manager and the router. Never exports anything: spans are given to `export`.

pub mod b3;
mod sampling;
mod span;
pub mod w3c;

pub use sampling::{Decision, Reason, decide, samples};
pub use span::{Kind, Span, Tag, Tags, client_tags, custom_tags, events, server_tags};

/// Where a span stands in a trace: what is told to the next hop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    /// Never 0. With the upper half 0, a 64-bit id (Zipkin).
    pub trace_id: u128,
    /// Never 0.
    pub span_id: u64,
    /// The span above; `None` for a root.
    pub parent: Option<u64>,
    /// The trace is recorded.
    pub sampled: bool,
    /// `tracestate`, unread; `None`: there is none.
    pub state: Option<Box<str>>,
}

/// What headers say of a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Extracted {
    /// Nothing: a new trace may begin here.
    Absent,
    /// Something that cannot be read: the request is not traced, and its headers are left alone.
    Malformed,
    /// The caller's span.
    Caller(Caller),
}

/// The span of a caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Never 0.
    pub trace_id: u128,
    /// Never 0.
    pub span_id: u64,
    /// The caller's own parent, where it tells (B3).
    pub parent: Option<u64>,
    /// Whether it records; `None`: it leaves that to us.
    pub sampled: Option<bool>,
    /// `tracestate`.
    pub state: Option<Box<str>>,
}

/// A number of exactly `2 * size_of` lowercase or uppercase hex digits.
fn hex(text: &[u8], digits: usize) -> Option<u128> {
    if text.len() != digits || !text.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u128::from_str_radix(std::str::from_utf8(text).ok()?, 16).ok()
}

/// A number of `digits` hex digits that is not 0.
fn id(text: &[u8], digits: usize) -> Option<u128> {
    hex(text, digits).filter(|&id| id != 0)
}

/// Random bits made an id, which is never 0.
pub fn new_id(random: u64) -> u64 {
    random.max(1)
}
