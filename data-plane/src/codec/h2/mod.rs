//! HTTP/2 over the `h2` crate.

mod client;

pub use client::{Client, connect};
