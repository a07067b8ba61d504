//! What people and tools ask of the control plane, over gRPC and REST.
//!
//! `calls` and `tokens` hold every call once, in the messages of `portolan.api.v1`; `guarded` asks who calls; [`grpc`] and [`rest`] only carry them.

mod calls;
mod convert;
mod error;
pub mod grpc;
mod guarded;
mod health;
pub mod rest;
mod tokens;

pub use calls::{Api, Stores};
pub use error::ApiError;
pub use guarded::Guarded;
