//! What routes say of further tries and of copies of requests.

use super::RuntimeFraction;

pub use crate::guard::retry::{Avoid, RateLimited, ResetHeader, RetryOn, RetryPolicy};

/// Most bytes of a request's body that are kept for retries and mirrors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BodyLimit {
    /// The listener's `per_connection_buffer_limit_bytes`.
    #[default]
    Connection,
    /// The smaller of this and the listener's (`per_request_buffer_limit_bytes`).
    AtMost(u64),
    /// This (`request_body_buffer_limit`).
    Exactly(u64),
}

impl BodyLimit {
    /// In bytes, with the listener's limit.
    pub fn bytes(self, connection: u64) -> u64 {
        match self {
            Self::Connection => connection,
            Self::AtMost(limit) => limit.min(connection),
            Self::Exactly(limit) => limit,
        }
    }
}

/// Copies of requests to another cluster, whose answers nobody reads (Envoy `RequestMirrorPolicy`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Where to.
    pub cluster: MirrorCluster,
    /// Which share of requests. Default all.
    pub fraction: Option<RuntimeFraction>,
    /// Append `-shadow` to the host. Default true.
    pub mark_host: bool,
    /// This host instead; not marked.
    pub host: Option<Box<str>>,
}

/// Where copies go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MirrorCluster {
    /// By name.
    Named(Box<str>),
    /// The value of a request header; without it there is no copy.
    Header(Box<str>),
}
