//! Clusters, their hosts and the connections to them.
//!
//! [`Manager`] is the control side: it takes clusters and assignments, resolves names, warms a cluster before it
//! serves, and publishes [`Snapshot`]s into [`Clusters`]. Workers read one snapshot a request, ask the
//! [`Cluster`] for a [`Host`] and send through their own [`Local`] pools. Nothing here knows of routes, retries
//! by policy or the client's connection: the router does.

mod cluster;
pub mod dns;
mod host;
mod limits;
mod manager;
mod members;
mod pool;
mod stats;

pub use cluster::{Cluster, Clusters, Snapshot};
pub use host::{Host, HostSet, HostStats};
pub use limits::{Limit, Permit, Usage};
pub use manager::{Change, ClusterInfo, ClusterState, Manager, Origin};
pub use pool::{Exchange, Local, UpstreamError, UpstreamErrorKind};
pub use stats::{
    BreakerStats, ClusterMetrics, ClusterStats, Codes, ManagerStats, Membership, RemainingStats, Traffic,
};

#[cfg(test)]
mod testing;
