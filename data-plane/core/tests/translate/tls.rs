//! TLS contexts: what they become, what is refused, what is reported.

use super::accepted::{accepted, as_cluster};
use super::*;
use data_plane_core::config::{CipherSuite, KeyGroup, TlsParams, TlsVersion, UpstreamTls};
use std::sync::Arc;

const CONTEXT: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
const AT: &str = "transport_socket.typed_config";

fn upstream(fields: &str) -> Yaml {
    cluster(&format!("transport_socket: {{name: tls, typed_config: {{\"@type\": {CONTEXT}, {fields}}}}}"))
}

fn params(fields: &str) -> Yaml {
    upstream(&format!("common_tls_context: {{tls_params: {{{fields}}}}}"))
}

fn tls(yaml: &Yaml) -> (Arc<UpstreamTls>, Vec<String>) {
    let (config, ignored) = accepted(yaml);
    (as_cluster(config).transport_socket.expect("TLS"), ignored)
}

#[test]
fn a_bare_upstream_context_has_envoys_defaults() {
    let (tls, ignored) = tls(&upstream("common_tls_context: {}"));
    assert!(ignored.is_empty());
    let TlsParams { min, max, suites, groups } = &tls.common.params;
    assert_eq!((*min, *max), (TlsVersion::V12, TlsVersion::V12), "clients speak 1.2 unless told");
    assert!(suites.is_empty() && groups.is_empty() && tls.common.alpn.is_empty());
    assert!(tls.common.validation.is_none() && tls.common.certificates.is_empty());
    assert_eq!((tls.max_session_keys, &*tls.sni), (1, ""));
}

#[test]
fn suites_are_taken_by_openssls_names_alone_in_groups_and_in_one_string() {
    use CipherSuite::{EcdsaAes128Gcm, EcdsaChacha20, RsaAes256Gcm};
    let list = "cipher_suites: [\"[ECDHE-ECDSA-AES128-GCM-SHA256|ECDHE-ECDSA-CHACHA20-POLY1305]\", \
                \"ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-AES128-GCM-SHA256\"]";
    let (found, ignored) = tls(&params(list));
    assert_eq!(found.common.params.suites, [EcdsaAes128Gcm, EcdsaChacha20, RsaAes256Gcm]);
    assert!(ignored.is_empty());
    let (found, _) = tls(&params("ecdh_curves: [X25519MLKEM768, \"P-256\", secp384r1]"));
    assert_eq!(found.common.params.groups, [KeyGroup::X25519MlKem768, KeyGroup::P256, KeyGroup::P384]);
}

#[test]
fn what_is_not_spoken_is_reported_where_something_is_left() {
    let at = format!("{AT}.common_tls_context.tls_params");
    for (fields, want) in [
        (
            "cipher_suites: [AES128-SHA, ECDHE-RSA-AES128-GCM-SHA256]",
            format!("{at}.cipher_suites[0]: AES128-SHA has no forward secrecy or no AEAD: it is not spoken"),
        ),
        ("ecdh_curves: [P-521, X25519]", format!("{at}.ecdh_curves[0]: P-521 is not spoken")),
        (
            "tls_minimum_protocol_version: TLSv1_0",
            format!("{at}.tls_minimum_protocol_version: TLS 1.2 is the lowest version spoken"),
        ),
    ] {
        assert_eq!(tls(&params(fields)).1, [want]);
    }
}

#[test]
fn what_cannot_be_spoken_is_refused_by_name() {
    let at = format!("{AT}.common_tls_context.tls_params");
    for (yaml, want) in [
        (
            params("cipher_suites: [NONSENSE, ECDHE-RSA-AES128-GCM-SHA256]"),
            format!("{at}.cipher_suites[0]: \"NONSENSE\" is not a cipher suite"),
        ),
        (
            params("cipher_suites: [AES128-SHA]"),
            format!(
                "{at}.cipher_suites: holds no suite that is spoken: ECDHE with AES-GCM or ChaCha20-Poly1305"
            ),
        ),
        (
            params("tls_maximum_protocol_version: TLSv1_1"),
            format!("{at}.tls_maximum_protocol_version: TLS 1.0 and 1.1 are not spoken"),
        ),
        (
            params("tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_2"),
            format!("{at}.tls_minimum_protocol_version: is above tls_maximum_protocol_version"),
        ),
        (params("signature_algorithms: [ed25519]"), format!("{at}.signature_algorithms: not supported")),
        (params("compliance_policies: [FIPS_202205]"), format!("{at}.compliance_policies: not supported")),
        (
            upstream("allow_renegotiation: true"),
            format!("{AT}.allow_renegotiation: renegotiation is not spoken"),
        ),
        (
            upstream("auto_sni_san_validation: true"),
            format!("{AT}.auto_sni_san_validation: needs a validation context with trusted_ca"),
        ),
    ] {
        let (_, d) = translate(&yaml);
        let refused: Vec<_> = d.rejected.iter().map(ToString::to_string).collect();
        assert_eq!(refused, [want]);
    }
}
