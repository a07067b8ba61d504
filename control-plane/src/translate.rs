//! The world, made into xDS resources for each node group.
//!
//! Pure. Called by the pipeline with what changed, and by the API to check what it is about to store: a write
//! past the API goes through the same checks here, and a bad object is set aside alone, its last good revision
//! in force. What did not change is not made again.

mod admission;
pub mod bootstrap;
mod catalog;
mod cluster;
mod compile;
mod endpoint;
mod grpc;
mod hosts;
mod listener;
mod names;
mod parts;
mod patch;
mod route;

pub use admission::{Admission, ObjectState, Objects, admit, settle};
pub use compile::{Compiled, Compiler};

/// For whom something is emitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Dialect {
    /// Envoy, our proxy, and whatever else takes all of Envoy's API.
    Envoy,
    /// gRPC libraries, which take a part of it.
    Grpc,
}
