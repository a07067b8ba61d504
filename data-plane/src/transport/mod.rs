//! Sockets and counted streams: what connections are before anything is understood of their bytes.
//!
//! Called by `upstream` (connecting) and `listener` (binding, accepting). Never reads configuration by itself and
//! never knows what protocol runs on a stream.

mod address;
mod io;
pub mod socket;

pub use address::local_interface_address;
pub use io::{ByteCounters, Counted};

/// A TCP stream whose bytes are counted.
pub type Stream = Counted<tokio::net::TcpStream>;
