//! What handshakes may agree upon, as rustls takes it.

use data_plane_core::config::{CipherSuite, KeyGroup, TlsParams, TlsVersion};
use rustls::crypto::aws_lc_rs::{self, cipher_suite as suite, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::{SupportedCipherSuite, SupportedProtocolVersion, version};
use std::sync::Arc;

/// Envoy's default order.
const SUITES: [CipherSuite; 6] = [
    CipherSuite::EcdsaAes128Gcm,
    CipherSuite::EcdsaChacha20,
    CipherSuite::RsaAes128Gcm,
    CipherSuite::RsaChacha20,
    CipherSuite::EcdsaAes256Gcm,
    CipherSuite::RsaAes256Gcm,
];

/// Envoy's default.
const GROUPS: [KeyGroup; 3] = [KeyGroup::X25519MlKem768, KeyGroup::X25519, KeyGroup::P256];

/// The algorithms of a context.
pub(super) fn provider(params: &TlsParams) -> Arc<CryptoProvider> {
    let mut cipher_suites = Vec::new();
    if params.max >= TlsVersion::V13 {
        cipher_suites.extend([
            suite::TLS13_AES_128_GCM_SHA256,
            suite::TLS13_AES_256_GCM_SHA384,
            suite::TLS13_CHACHA20_POLY1305_SHA256,
        ]);
    }
    if params.min <= TlsVersion::V12 {
        let chosen = if params.suites.is_empty() { SUITES.as_slice() } else { &params.suites };
        cipher_suites.extend(chosen.iter().map(|suite| of_suite(*suite)));
    }
    let groups = if params.groups.is_empty() { GROUPS.as_slice() } else { &params.groups };
    Arc::new(CryptoProvider {
        cipher_suites,
        kx_groups: groups.iter().map(|group| of_group(*group)).collect(),
        ..aws_lc_rs::default_provider()
    })
}

/// The versions of a context.
pub(super) fn versions(params: &TlsParams) -> Vec<&'static SupportedProtocolVersion> {
    let mut versions = Vec::new();
    if params.max >= TlsVersion::V13 {
        versions.push(&version::TLS13);
    }
    if params.min <= TlsVersion::V12 {
        versions.push(&version::TLS12);
    }
    versions
}

fn of_suite(configured: CipherSuite) -> SupportedCipherSuite {
    match configured {
        CipherSuite::EcdsaAes128Gcm => suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        CipherSuite::EcdsaAes256Gcm => suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        CipherSuite::EcdsaChacha20 => suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        CipherSuite::RsaAes128Gcm => suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        CipherSuite::RsaAes256Gcm => suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        CipherSuite::RsaChacha20 => suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    }
}

fn of_group(configured: KeyGroup) -> &'static dyn SupportedKxGroup {
    match configured {
        KeyGroup::X25519MlKem768 => kx_group::X25519MLKEM768,
        KeyGroup::X25519 => kx_group::X25519,
        KeyGroup::P256 => kx_group::SECP256R1,
        KeyGroup::P384 => kx_group::SECP384R1,
    }
}
