//! Name resolution.

use data_plane_core::config::DnsFamily;
use futures_util::future::BoxFuture;
use std::net::IpAddr;
use std::time::Duration;

/// Resolves names; the seam that tests script.
pub trait Resolve: Send + Sync {
    /// All addresses of `name`, of the families that `family` allows.
    fn resolve<'a>(&'a self, name: &'a str, family: DnsFamily)
    -> BoxFuture<'a, Result<Answer, ResolveError>>;
}

/// What a name resolved to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Addresses, in the order of the answer; may be empty.
    pub addresses: Vec<IpAddr>,
    /// How long they hold.
    pub ttl: Option<Duration>,
}

/// A name that could not be resolved.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// The name servers did not answer in time.
    #[error("no answer in time")]
    Timeout,
    /// The name servers cannot be reached or refuse.
    #[error("{0}")]
    Failed(String),
}
