//! Name resolution: the seam, the resolver behind it, and when names are resolved again.
//!
//! Runs on the control thread. [`Resolve`] answers one question; `refresh` asks it for every name of a
//! cluster and decides when to ask again.

mod refresh;
mod system;

pub(super) use refresh::{Event, Names, refresh};
pub use system::SystemResolver;

use data_plane_core::config::DnsOptions;
use futures_util::future::BoxFuture;
use std::net::IpAddr;
use std::time::Duration;

/// Resolves names; the seam that tests script.
pub trait Resolve: Send + Sync {
    /// The addresses of `name` by the family rules and servers of `options`. A name that does not exist, or has
    /// no address, is an empty answer: the servers have spoken.
    fn resolve<'a>(
        &'a self,
        name: &'a str,
        options: &'a DnsOptions,
    ) -> BoxFuture<'a, Result<Answer, ResolveError>>;
}

/// What a name resolved to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Addresses, in the order of the answer; may be empty.
    pub addresses: Vec<IpAddr>,
    /// How long they hold; `None` when nobody said.
    pub ttl: Option<Duration>,
}

/// A name that could not be resolved.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// The name servers did not answer in time.
    #[error("no answer in time")]
    Timeout,
    /// It cannot be a name.
    #[error("not a name: {0}")]
    Name(String),
    /// The name servers cannot be reached, refuse, or there are none.
    #[error("{0}")]
    Failed(String),
}
