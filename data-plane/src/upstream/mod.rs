//! Clusters, their hosts and the connections to them.
//!
//! [`Manager`] is the control side: it takes clusters and assignments, resolves names, warms a cluster before it
//! serves, and publishes [`Snapshot`]s into [`Clusters`]. Workers read one snapshot a request, ask the
//! [`Cluster`] for a [`Host`] and send through their own [`Local`] pools. Nothing here knows of routes, retries
//! by policy or the client's connection: the router does.

mod breaker;
mod cluster;
pub mod dns;
mod flags;
mod grpc;
mod guard;
mod health;
mod host;
mod host_set;
mod limits;
mod manager;
mod members;
mod outlier;
mod pick;
mod pool;
mod stats;
pub mod tls;

pub use breaker::{Breaker, CircuitStats};
pub use cluster::{Cluster, Clusters, Snapshot};
pub use flags::{HealthFlag, HealthState};
pub use grpc::{GrpcCall, GrpcError, unary};
pub use guard::{Admission, Outcome, Refused};
pub use host::{Host, HostStats};
pub use host_set::HostSet;
pub use limits::{Limit, Permit, Priority, Usage};
pub use manager::{Change, ClusterInfo, ClusterState, Manager, Origin};
pub use outlier::{Detection, Monitor, OutlierStats};
pub use pick::PickRequest;
pub use pool::{
    Exchange, Local, Progress, SendOptions, TcpConnection, TcpError, UpstreamError, UpstreamErrorKind,
};
pub use stats::{
    BreakerStats, CheckStats, ClusterMetrics, ClusterStats, Codes, ManagerStats, Membership, RateLimitStats,
    RemainingStats, Traffic,
};

#[cfg(test)]
mod testing;
