//! The rate-limit service: limits out of policies, counted in memory or in Redis.
//!
//! The server sets [`Limiter`]'s limits from what is in force; proxies ask it by gRPC. Holds nothing that must be
//! kept: a restart begins new windows in memory, and goes on with those in Redis.

pub mod algorithm;
pub mod limits;
pub mod memory;
pub mod options;
pub mod redis;
pub mod service;
mod stats;

pub use limits::Limits;
pub use options::{Failure, Options};
pub use service::{Backend, Limiter};
