//! TLS on connections: secrets, contexts built from them, handshakes.
//!
//! A context is made once from the configuration of a filter chain or a cluster and shared by all workers. It reads
//! its delivered secrets out of [`slot`]s, and builds itself anew when one of them changed; what cannot be used never
//! replaces what serves. Called by `listener` and `upstream`; knows nothing of what runs on a connection.

mod check;
mod client;
mod material;
mod provider;
mod reason;
mod rebuilt;
mod secrets;
mod server;
pub mod slot;
mod stats;
mod tickets;
mod verify;

pub use check::{certificates, certified_key, check, revocation_lists};
pub use client::{ClientContext, Connected, Offer, Target};
pub use reason::HandshakeError;
pub use server::{Accepted, ServerContext};
pub use stats::{HandshakeStats, TlsStats};

use data_plane_core::headers::{CertificateFacts, Tls};
use rustls::{CommonState, HandshakeKind};
use std::sync::Arc;

/// What was agreed upon on a connection; counts it.
fn facts_of(connection: &CommonState, local: Option<Arc<CertificateFacts>>, stats: &TlsStats) -> Tls {
    let peer = connection.peer_certificates().unwrap_or_default();
    let counts = &stats.handshakes;
    counts.handshake.inc();
    if peer.is_empty() {
        counts.no_certificate.inc();
    }
    if connection.handshake_kind() == Some(HandshakeKind::Resumed) {
        counts.session_reused.inc();
    }
    let facts = Tls {
        version: connection.protocol_version().map_or("", stats::version_name),
        cipher: connection.negotiated_cipher_suite().map_or("", |suite| stats::cipher_name(suite.suite())),
        group: connection.negotiated_key_exchange_group().map_or("", |group| stats::group_name(group.name())),
        local,
        peer: peer.iter().filter_map(|der| material::facts(der)).collect(),
    };
    stats.agreed(facts.cipher, Some(facts.group).filter(|group| !group.is_empty()), facts.version);
    facts
}
