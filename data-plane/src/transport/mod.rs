//! Sockets and counted streams: what connections are before anything is understood of their bytes.
//!
//! Called by `upstream` (connecting) and `listener` (binding, accepting). Never reads configuration by itself and
//! never knows what protocol runs on a stream.

mod address;
mod counted;
mod io;
pub mod pipe;
pub mod socket;
pub mod tls;

pub use address::local_interface_address;
pub use counted::{ByteCounters, Counted, Tally};
pub use io::Io;
pub use pipe::{Pipe, Socket};

/// A connection's stream whose bytes are counted.
pub type Stream = Counted<Io>;
