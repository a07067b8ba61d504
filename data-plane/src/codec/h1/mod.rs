//! HTTP/1.0 and HTTP/1.1: our own codec over `httparse`, strict by RFC 9112.
//!
//! - `parse`: heads off the wire
//! - `framing`: where bodies end
//! - `encode`: heads and bodies onto the wire
//! - `write`: what waits to be written
//! - `link`: what a downstream connection shares with the body of its current request
//! - `server`: downstream connections
//! - `client`: upstream connections

#[cfg(test)]
mod bulk;
mod client;
mod encode;
mod framing;
#[cfg(test)]
mod fuzz;
mod link;
mod parse;
mod server;
#[cfg(test)]
mod smuggling;
#[cfg(test)]
mod tests;
mod write;

pub use client::{ClientConn, Reuse};
pub(super) use framing::forbidden_in_trailers;
pub(super) use parse::decimal;
pub(super) use server::serve;
