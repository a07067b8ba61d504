//! The xDS server: streams of discovery requests and responses, SotW and delta.
//!
//! [`session`] is a pure state machine for one stream, with [`sotw`] and [`delta`] as its two dialects;
//! `service` is the thin glue to tonic, `wire` writes responses out of shared bytes. Sees immutable snapshots
//! only: never imports `translate`.
//!
//! Points, as in `[13]` or (point 13), are those of the table "Protocol points implementations get wrong" in the
//! documentation; each has a test that names it.

pub mod delta;
mod metrics;
mod node;
mod registry;
pub mod service;
pub mod session;
pub mod sotw;
mod stream;
mod subscription;
mod wire;

pub use node::{Leaving, Node, Peer};
pub use registry::{Mode, Nack, NodeStatus, Refusal, Registry, StreamId, TypeStatus};
pub use service::{MAX_STREAMS, Options, Service, routes};
