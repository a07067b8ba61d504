//! HTTP/1.0 and HTTP/1.1: our own codec over `httparse`.

mod client;

pub use client::{ClientConn, Reuse};
