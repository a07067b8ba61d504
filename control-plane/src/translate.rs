//! The world, made into xDS resources for each node group.
//!
//! Pure. Called by the pipeline with what changed, and by the API to check what it is about to store: a write
//! past the API goes through the same checks here, and a bad object is set aside alone, its last good revision
//! in force. What did not change is not made again.

mod admission;
pub mod bootstrap;
mod bytes;
mod catalog;
mod cluster;
mod compile;
mod conduct;
mod endpoint;
mod grpc;
mod hosts;
mod listener;
mod names;
mod observe;
mod parts;
mod patch;
mod policy;
mod resilience;
mod route;
mod stage;
mod tls;

pub use admission::{Admission, ObjectState, Objects, admit, overlay, settle};
pub use compile::{Compiled, Compiler, GroupSets};
pub use stage::Staged;

use crate::authority;
use crate::secret::Vault;
use std::sync::Arc;

/// What secrets are opened with, and how identities are issued.
#[derive(Clone, Debug)]
pub struct Trust {
    /// Opens Secrets.
    pub vault: Arc<Vault>,
    /// Trust domain and life of identities.
    pub authority: authority::Options,
}

impl Default for Trust {
    /// Without a key that lasts: no Secret of a store is opened.
    fn default() -> Self {
        Self { vault: Arc::new(Vault::empty()), authority: authority::Options::default() }
    }
}

/// The service that a cluster of ours is of.
pub fn service_of(cluster: &str) -> &str {
    names::service_and_subset(cluster).0
}

/// Every domain of the rate-limit service, out of the policies in force.
pub fn rate_limit_domains(objects: &Objects) -> Vec<xds_types::portolan::config::v1::RateLimitDomain> {
    policy::domains(objects.in_force().map(|o| &**o))
}

/// For whom something is emitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Dialect {
    /// Envoy, our proxy, and whatever else takes all of Envoy's API.
    Envoy,
    /// gRPC libraries, which take a part of it.
    Grpc,
}
