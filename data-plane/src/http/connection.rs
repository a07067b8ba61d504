//! One accepted downstream connection, as a listener hands it to a filter chain.

use crate::task::Shutdown;
use data_plane_core::config::CodecType;
use data_plane_core::headers::{Tls, Version};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// A connection whose listener filters have run and whose filter chain is chosen.
pub struct Connection<S> {
    /// Its bytes, in both directions.
    pub io: S,
    /// Unique in the process (`%CONNECTION_ID%`).
    pub id: u64,
    /// Where the client is: the peer, or what a listener filter found out.
    pub peer: SocketAddr,
    /// The directly connected peer.
    pub direct_peer: SocketAddr,
    /// Where the client connected to: our end, or the original destination.
    pub local: SocketAddr,
    /// Our end of the socket.
    pub direct_local: SocketAddr,
    /// The address of this machine that stands in x-forwarded-for for a loopback peer.
    pub interface: Option<std::net::IpAddr>,
    /// The listener's `per_connection_buffer_limit_bytes`.
    pub buffer_limit: u64,
    /// Name of its listener.
    pub listener: Arc<str>,
    /// Name of its filter chain; may be empty.
    pub filter_chain: Arc<str>,
    /// What a listener filter found the protocol to be.
    pub detected: Option<CodecType>,
    /// SNI.
    pub server_name: Option<Box<str>>,
    /// What TLS agreed upon; `None`: plaintext.
    pub tls: Option<Arc<Tls>>,
    /// From accept to the end of the TLS handshake.
    pub handshake: Option<Duration>,
    /// Where what is found out of it is told to whoever logs it.
    pub told: Option<Arc<Told>>,
    /// Of the filter chain: draining or stopped when the chain, its listener or the process is.
    pub shutdown: Shutdown,
}

/// What a filter chain found out of a connection, for whoever logs it.
#[derive(Debug, Default)]
pub struct Told {
    version: OnceLock<Version>,
    broken: AtomicBool,
}

impl Told {
    /// A request came in this protocol; what is said later does not count.
    pub fn speaks(&self, version: Version) {
        let _ = self.version.set(version);
    }

    /// The client broke the protocol.
    pub fn breaks_protocol(&self) {
        self.broken.store(true, Relaxed);
    }

    /// The protocol, once it is known.
    pub fn version(&self) -> Option<Version> {
        self.version.get().copied()
    }

    /// Whether the client broke the protocol.
    pub fn is_broken(&self) -> bool {
        self.broken.load(Relaxed)
    }
}
