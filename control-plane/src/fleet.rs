//! How proxies see the health of services: what they report of their clusters, real Envoys and ours alike.
//!
//! Proxies send their stats to Envoy's metrics service on the xDS port; what they say of the members of their clusters
//! is kept for a while, the rest is passed over. `status` shows it. Nothing here is configuration: a lost report loses
//! only a line in `status`.

pub mod report;
pub mod service;

pub use report::{Membership, Reporter, Reports};
pub use service::Fleet;
