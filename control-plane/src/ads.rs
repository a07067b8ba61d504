//! The xDS server: streams of discovery requests and responses, SotW and delta.
//!
//! [`session`] is a pure state machine for one stream; `sotw` and `delta` are its two dialects; `service` is
//! the thin glue to tonic. Sees immutable snapshots only: never imports `translate`.

mod registry;

pub use registry::{Mode, Nack, NodeStatus, Registry, StreamId, TypeStatus};
