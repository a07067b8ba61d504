//! One accepted downstream connection, as a listener hands it to a filter chain.

use crate::task::Shutdown;
use data_plane_core::config::CodecType;
use data_plane_core::headers::Tls;
use std::net::SocketAddr;
use std::sync::Arc;
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
    /// Of the filter chain: draining or stopped when the chain, its listener or the process is.
    pub shutdown: Shutdown,
}
