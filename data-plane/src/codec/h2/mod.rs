//! HTTP/2 over the `h2` crate: its frames and flow control, our heads, bodies and deadlines.
//!
//! - `batch`: writes of a loop turn gathered into one
//! - `convert`: heads to and from the `http` crate's types
//! - `flow`: bodies over streams, both directions
//! - `turns`: when what a stream queued has left
//! - `server`: downstream connections
//! - `client`: upstream connections

mod batch;
mod client;
mod convert;
mod flow;
mod keepalive;
mod server;
#[cfg(test)]
mod tests;
mod turns;

pub use client::{Client, connect};
pub(super) use server::serve;
