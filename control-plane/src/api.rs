//! What people and tools ask of the control plane, over gRPC and REST.
//!
//! `calls`, `write`, `releases`, `stages` and `tokens` hold every call once, `commit` how changes are written, in the messages of `portolan.api.v1`; `guarded` asks who calls; [`grpc`] and [`rest`] only carry them.

mod calls;
mod commit;
mod convert;
mod error;
pub mod grpc;
mod guarded;
mod health;
mod releases;
pub mod rest;
mod stages;
mod tokens;
mod write;

pub use calls::{Api, Stores};
pub use error::ApiError;
pub use guarded::Guarded;
pub use stages::Withdrawn;
