//! Sockets that accept, the choice of a filter chain, and draining.
//!
//! [`Manager`] is the control side: it builds and binds a listener, lets it accept, replaces and removes it. What
//! should accept is state, so workers follow it by a watch; each [`WorkerSide`] accepts on sockets of its own and
//! owns the connections. Nothing here reads what a connection says, but for the first bytes that listener filters
//! look at.

mod accept;
mod addresses;
mod balance;
mod chain_select;
mod client_hello;
mod drain;
mod inspect;
mod log;
mod manager;
mod peek;
mod proxy_protocol;
mod runtime;
mod sockets;
mod stats;
mod worker;

pub use addresses::{Leaving, Ports};
pub use drain::{Afterwards, Direction};
pub use manager::{Error, Info, Manager, Options, Prepared, State};
pub use stats::{
    InspectorStats, ListenerStats, ManagerStats, ProxyProtocolStats, TlsInspectorStats, WorkerStats,
};
pub use worker::WorkerSide;
