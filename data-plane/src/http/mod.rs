//! One request's way: connection manager, filters, router, local replies, access logs.
//!
//! The listener calls [`serve`] with a connection; the codec calls back into `hcm` with each request; the
//! filter chain ends in the router, which chooses a cluster and a host and lets `upstream` exchange. Nothing here
//! reads or writes a socket, and nothing here changes configuration: routes come from a [`RouteSlot`], clusters
//! from a snapshot, one load of each per request.

mod access_log;
mod alarm;
mod chain;
mod clock;
mod conduct;
mod connection;
mod connection_logs;
pub mod filter;
mod grpc_log;
mod hcm;
mod line_log;
mod local_reply;
mod normalize;
mod reply_map;
mod route_slot;
mod stats;
mod stream;
mod tail;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod timeouts;
mod tracing;
mod vitals;
mod worker;

pub use access_log::{AccessLogs, FLUSH_INTERVAL, Sink};
pub use connection::{Connection, Told};
pub use connection_logs::ConnectionLogs;
pub use hcm::{Hcm, serve};
use line_log::LineLog;
pub use local_reply::{Added, LocalReply};
pub use route_slot::{RouteSlot, RouteSlots};
pub use stream::StreamCx;
pub use worker::Worker;

use crate::export::Exporters;
use crate::runtime::Runtime;
use crate::stats::Registry;
use crate::trace::Tracers;
use crate::transport::tls::slot::SecretSlots;
use data_plane_core::headers::Process;
use data_plane_core::headers::forwarded::UserAgent;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use xds_types::envoy::config::core::v3::Node;

/// What building HTTP objects needs; one per proxy, cheap to clone.
#[derive(Clone)]
pub struct Deps {
    /// All stats.
    pub stats: Registry,
    /// Routes by RDS name.
    pub routes: RouteSlots,
    /// Access-log files.
    pub access_logs: AccessLogs,
    /// Facts that access logs and header values may name.
    pub process: Arc<Process>,
    /// Who this proxy says it is, where it is asked to (`add_user_agent`).
    pub agent: Arc<UserAgent>,
    /// Exporters of access logs.
    pub exporters: Exporters,
    /// This proxy, as told to log services.
    pub node: Arc<Node>,
    /// Delivered secrets, where TLS contexts read them.
    pub secrets: SecretSlots,
    /// Makes tracers of connection managers.
    pub tracers: Tracers,
    /// Overrides of shares.
    pub runtime: Runtime,
    /// This proxy fails health checks, and tells clients to leave: it was told to, or it is ending.
    pub fails_health_checks: Arc<AtomicBool>,
}

/// Why a filter chain cannot be built. The configuration is valid in itself; its place is known to the caller.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A chain without filters.
    #[error("a filter chain needs at least one filter")]
    EmptyChain,
    /// The last filter serves nothing.
    #[error("the last network filter must be a terminal one")]
    NoTerminal,
    /// A filter after one that serves.
    #[error("a terminal network filter must be the last one")]
    TerminalNotLast,
    /// No factory takes the configuration.
    #[error("no such filter is built in")]
    UnknownFilter,
    /// The last HTTP filter is not the router.
    #[error("the last HTTP filter must be the router")]
    NoRouter,
    /// A router before the last HTTP filter.
    #[error("the router must be the last HTTP filter")]
    RouterNotLast,
    /// There is no thread to export telemetry.
    #[error("cannot export telemetry")]
    Export(#[source] std::io::Error),
    /// A TLS context cannot be built.
    #[error("TLS: {0}")]
    Tls(Box<str>),
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
