//! What people and tools ask of the control plane, over gRPC and REST.
//!
//! `calls` holds every call once, in the messages of `portolan.api.v1`; [`grpc`] and [`rest`] only carry them.

mod calls;
mod convert;
mod error;
pub mod grpc;
pub mod rest;

pub use calls::{Api, Stores};
pub use error::ApiError;
