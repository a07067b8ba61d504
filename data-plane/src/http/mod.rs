//! One request's way: connection manager, filters, router, local replies, access logs.
//!
//! The listener calls [`serve`] with a connection; the codec calls back into [`hcm`] with each request; the
//! filter chain ends in the router, which chooses a cluster and a host and lets `upstream` exchange. Nothing here
//! reads or writes a socket, and nothing here changes configuration: routes come from a [`RouteSlot`], clusters
//! from a snapshot, one load of each per request.

mod access_log;
mod alarm;
mod clock;
mod connection;
mod hcm;
mod route_slot;
mod worker;

pub use access_log::{AccessLogs, FLUSH_INTERVAL, Sink};
pub use connection::Connection;
pub use hcm::{Hcm, serve};
pub use route_slot::{RouteSlot, RouteSlots};
pub use worker::Worker;

use crate::stats::Registry;

/// What building HTTP objects needs; one per proxy, cheap to clone.
#[derive(Clone)]
pub struct Deps {
    /// All stats.
    pub stats: Registry,
    /// Routes by RDS name.
    pub routes: RouteSlots,
    /// Access-log files.
    pub access_logs: AccessLogs,
}

/// Why a filter chain cannot be built. The configuration is valid in itself; its place is known to the caller.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A chain without filters.
    #[error("a filter chain needs at least one filter")]
    EmptyChain,
    /// No factory takes the configuration.
    #[error("no such filter is built in")]
    UnknownFilter,
    /// The last HTTP filter is not the router.
    #[error("the last HTTP filter must be the router")]
    NoRouter,
    /// An access-log file cannot be opened.
    #[error("cannot open access log {path}")]
    AccessLog {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}
