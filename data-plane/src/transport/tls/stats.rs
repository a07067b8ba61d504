//! Counts of handshakes, `listener.<address>.ssl.` and `cluster.<name>.ssl.`, under Envoy's names.

use crate::stat_block;
use crate::stats::{Counter, Scope};
use parking_lot::Mutex;
use rustls::{NamedGroup, ProtocolVersion, SignatureScheme};
use std::collections::BTreeMap;
use std::sync::Arc;

stat_block! {
    /// Metrics of handshakes of one listener or cluster.
    pub struct HandshakeStats {
        counters: connection_error, fail_verify_cert_hash, fail_verify_error, fail_verify_no_cert, fail_verify_san,
            handshake, no_certificate, ocsp_staple_failed, ocsp_staple_omitted, ocsp_staple_requests,
            ocsp_staple_responses, session_reused;
        gauges: ;
        histograms: ;
    }
}

/// Handshakes of one listener or cluster.
#[derive(Clone)]
pub struct TlsStats {
    /// Its counts.
    pub handshakes: HandshakeStats,
    scope: Scope,
    /// Counters of names as they came up: held, or they would be forgotten.
    named: Arc<Mutex<BTreeMap<String, Counter>>>,
}

impl std::fmt::Debug for TlsStats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsStats").field("scope", &self.scope.prefix).finish_non_exhaustive()
    }
}

impl TlsStats {
    /// Below the scope of a listener or a cluster.
    pub fn new(parent: &Scope) -> Self {
        let scope = parent.child("ssl.", "ssl.", &[]);
        Self { handshakes: HandshakeStats::new(&scope), scope, named: Arc::default() }
    }

    /// What was agreed upon. The names come from what we can speak, so they are few.
    pub(super) fn agreed(&self, cipher: &str, group: Option<&str>, version: &str) {
        self.named("ciphers", cipher).inc();
        if let Some(group) = group {
            self.named("curves", group).inc();
        }
        self.named("versions", version).inc();
    }

    /// The peer signed with it.
    pub(super) fn signed(&self, scheme: SignatureScheme) {
        if let Some(name) = signature_name(scheme) {
            self.named("sigalgs", name).inc();
        }
    }

    fn named(&self, kind: &str, name: &str) -> Counter {
        let name = format!("{kind}.{name}");
        let mut named = self.named.lock();
        if let Some(counter) = named.get(&name) {
            return counter.clone();
        }
        let counter = self.scope.named_counter(&name);
        named.insert(name, counter.clone());
        counter
    }
}

/// BoringSSL's name of a suite.
pub(super) fn cipher_name(suite: rustls::CipherSuite) -> &'static str {
    use rustls::CipherSuite as Suite;
    match suite {
        Suite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        Suite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        Suite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        Suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 => "ECDHE-ECDSA-AES128-GCM-SHA256",
        Suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 => "ECDHE-ECDSA-AES256-GCM-SHA384",
        Suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-ECDSA-CHACHA20-POLY1305",
        Suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => "ECDHE-RSA-AES128-GCM-SHA256",
        Suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => "ECDHE-RSA-AES256-GCM-SHA384",
        Suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-RSA-CHACHA20-POLY1305",
        _ => "unknown",
    }
}

/// BoringSSL's name of a version.
pub(super) fn version_name(version: ProtocolVersion) -> &'static str {
    match version {
        ProtocolVersion::TLSv1_2 => "TLSv1.2",
        ProtocolVersion::TLSv1_3 => "TLSv1.3",
        _ => "unknown",
    }
}

/// BoringSSL's name of a group.
pub(super) fn group_name(group: NamedGroup) -> &'static str {
    match group {
        NamedGroup::X25519 => "X25519",
        NamedGroup::secp256r1 => "P-256",
        NamedGroup::secp384r1 => "P-384",
        NamedGroup::X25519MLKEM768 => "X25519MLKEM768",
        _ => "unknown",
    }
}

fn signature_name(scheme: SignatureScheme) -> Option<&'static str> {
    Some(match scheme {
        SignatureScheme::ECDSA_NISTP256_SHA256 => "ecdsa_secp256r1_sha256",
        SignatureScheme::ECDSA_NISTP384_SHA384 => "ecdsa_secp384r1_sha384",
        SignatureScheme::ECDSA_NISTP521_SHA512 => "ecdsa_secp521r1_sha512",
        SignatureScheme::RSA_PSS_SHA256 => "rsa_pss_rsae_sha256",
        SignatureScheme::RSA_PSS_SHA384 => "rsa_pss_rsae_sha384",
        SignatureScheme::RSA_PSS_SHA512 => "rsa_pss_rsae_sha512",
        SignatureScheme::RSA_PKCS1_SHA256 => "rsa_pkcs1_sha256",
        SignatureScheme::RSA_PKCS1_SHA384 => "rsa_pkcs1_sha384",
        SignatureScheme::RSA_PKCS1_SHA512 => "rsa_pkcs1_sha512",
        SignatureScheme::ED25519 => "ed25519",
        _ => return None,
    })
}
