//! TLS contexts of transport sockets.

use super::field::{self, ignored, required, unsupported};
use super::runtime::json_object;
use super::{Options, duration, extension, proxy_protocol, secret};
use crate::config::{
    CipherSuite, CommonTls, DownstreamTls, KeyGroup, OcspPolicy, ProxyProtocolVersion, SecretSource,
    SecretType, SessionTickets, TlsParams, TlsVersion, TransportSocketMatch, UpstreamTls, ValidationContext,
    ValidationSource,
};
use crate::path::{Diagnostics, Path, Rejected};
use std::sync::Arc;
use xds_types::envoy::config::cluster::v3::cluster::TransportSocketMatch as MatchProto;
use xds_types::envoy::config::core::v3::{TransportSocket, transport_socket};
use xds_types::envoy::extensions::transport_sockets::proxy_protocol::v3::ProxyProtocolUpstreamTransport;
use xds_types::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use xds_types::envoy::extensions::transport_sockets::tls::v3 as proto;
use xds_types::envoy::extensions::transport_sockets::tls::v3::common_tls_context::{
    CombinedCertificateValidationContext, ValidationContextType,
};
use xds_types::envoy::extensions::transport_sockets::tls::v3::downstream_tls_context::{
    OcspStaplePolicy, SessionTicketKeysType,
};
use xds_types::envoy::extensions::transport_sockets::tls::v3::tls_parameters::TlsProtocol;
use xds_types::google::protobuf::Any;

/// Sessions that a client context keeps unless told.
const MAX_SESSION_KEYS: u32 = 1;

/// Which end of connections a context is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Server,
    Client,
}

/// The transport socket of a filter chain; `None`: plaintext.
pub(super) fn downstream(
    socket: Option<TransportSocket>,
    at: &Path<'_>,
    d: &mut Diagnostics,
    o: &Options<'_>,
) -> Result<Option<Arc<DownstreamTls>>, Rejected> {
    let Some((name, packed)) = packed(socket, at, d)? else { return Ok(None) };
    let at = at.field("typed_config");
    if extension::is::<RawBuffer>(&packed) {
        let RawBuffer {} = extension::open(&packed, &at, d)?;
        Ok(None)
    } else if extension::is::<proto::DownstreamTlsContext>(&packed) {
        let proto = extension::open(&packed, &at, d)?;
        server(proto, &at, d, o).map(|tls| Some(Arc::new(tls)))
    } else {
        Err(extension::unknown("transport socket", &name, &packed, &at, d))
    }
}

/// A transport socket of a cluster.
#[derive(Default)]
pub(super) struct UpstreamSocket {
    /// `None`: plaintext.
    pub(super) tls: Option<Arc<UpstreamTls>>,
    pub(super) proxy_protocol: Option<ProxyProtocolVersion>,
}

/// The transport socket of a cluster.
pub(super) fn upstream(
    socket: Option<TransportSocket>,
    at: &Path<'_>,
    d: &mut Diagnostics,
    o: &Options<'_>,
) -> Result<UpstreamSocket, Rejected> {
    let Some((name, packed)) = packed(socket, at, d)? else { return Ok(UpstreamSocket::default()) };
    let at = at.field("typed_config");
    if extension::is::<RawBuffer>(&packed) {
        let RawBuffer {} = extension::open(&packed, &at, d)?;
        Ok(UpstreamSocket::default())
    } else if extension::is::<proto::UpstreamTlsContext>(&packed) {
        let proto = extension::open(&packed, &at, d)?;
        let tls = client(proto, &at, d, o)?;
        Ok(UpstreamSocket { tls: Some(Arc::new(tls)), proxy_protocol: None })
    } else if extension::is::<ProxyProtocolUpstreamTransport>(&packed) {
        let ProxyProtocolUpstreamTransport {
            config,
            transport_socket,
            allow_unspecified_address,
            tlv_as_pool_key,
        } = extension::open(&packed, &at, d)?;
        unsupported!(d, at; allow_unspecified_address);
        unsupported!(d, at, "TLVs are not sent"; tlv_as_pool_key);
        let version = proxy_protocol::version(config, &at.field("config"), d);
        let socket_at = at.field("transport_socket");
        let inner = upstream(Some(required(transport_socket, &socket_at, d)?), &socket_at, d, o)?;
        if inner.proxy_protocol.is_some() {
            return Err(d.reject(&socket_at, "a connection begins with one PROXY protocol header only"));
        }
        Ok(UpstreamSocket { proxy_protocol: Some(version?), ..inner })
    } else {
        Err(extension::unknown("transport socket", &name, &packed, &at, d))
    }
}

/// Transport sockets chosen by endpoints' metadata.
pub(super) fn upstream_matches(
    list: Vec<MatchProto>,
    at: &Path<'_>,
    d: &mut Diagnostics,
    o: &Options<'_>,
) -> Vec<TransportSocketMatch> {
    field::each(list, at, d, |proto, at, d| {
        let MatchProto { name, r#match, transport_socket } = proto;
        let labels = json_object(r#match.unwrap_or_default()).into_iter().collect();
        let UpstreamSocket { tls, proxy_protocol } =
            upstream(transport_socket, &at.field("transport_socket"), d, o)?;
        Ok(TransportSocketMatch { name: name.into(), labels, tls, proxy_protocol })
    })
}

fn packed(
    socket: Option<TransportSocket>,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Result<Option<(String, Any)>, Rejected> {
    let Some(TransportSocket { name, config_type }) = socket else { return Ok(None) };
    match config_type {
        Some(transport_socket::ConfigType::TypedConfig(packed)) => Ok(Some((name, packed))),
        // Without a type the name decides, as Envoy once did.
        None if name == "envoy.transport_sockets.raw_buffer" => Ok(None),
        None => Err(d.reject(&at.field("typed_config"), "is required")),
    }
}

fn server(
    proto: proto::DownstreamTlsContext,
    at: &Path<'_>,
    d: &mut Diagnostics,
    o: &Options<'_>,
) -> Result<DownstreamTls, Rejected> {
    let proto::DownstreamTlsContext {
        common_tls_context,
        require_client_certificate,
        require_sni,
        disable_stateful_session_resumption,
        session_timeout,
        ocsp_staple_policy,
        full_scan_certs_on_sni_mismatch,
        prefer_client_ciphers,
        session_ticket_keys_type,
    } = proto;
    unsupported!(d, at; require_sni = false);
    let common_at = at.field("common_tls_context");
    let common = common(common_tls_context.unwrap_or_default(), End::Server, &common_at, d, o);
    let tickets = match session_ticket_keys_type {
        None | Some(SessionTicketKeysType::DisableStatelessSessionResumption(false)) => SessionTickets::Own,
        Some(SessionTicketKeysType::DisableStatelessSessionResumption(true)) => SessionTickets::Off,
        Some(SessionTicketKeysType::SessionTicketKeys(proto)) => {
            let keys = secret::ticket_keys(proto, &at.field("session_ticket_keys"), d, o)?;
            SessionTickets::Keys(SecretSource::Inline(Arc::new(keys)))
        }
        Some(SessionTicketKeysType::SessionTicketKeysSdsSecretConfig(proto)) => {
            let at = at.field("session_ticket_keys_sds_secret_config");
            SessionTickets::Keys(SecretSource::Sds(secret::reference(
                proto,
                SecretType::TicketKeys,
                &at,
                d,
                o,
            )?))
        }
    };
    let ocsp = match field::variant(ocsp_staple_policy, &at.field("ocsp_staple_policy"), d)? {
        OcspStaplePolicy::LenientStapling => OcspPolicy::Lenient,
        OcspStaplePolicy::StrictStapling => OcspPolicy::Strict,
        OcspStaplePolicy::MustStaple => OcspPolicy::Must,
    };
    let session_timeout =
        duration::limit(session_timeout, None, &at.field("session_timeout"), d).map(|limit| {
            // Only whole seconds are considered (Envoy).
            std::time::Duration::from_secs(limit.as_secs())
        });
    Ok(DownstreamTls {
        common: common?,
        require_client_certificate: require_client_certificate.is_some_and(|v| v.value),
        tickets,
        remember_sessions: !disable_stateful_session_resumption,
        session_timeout,
        full_scan_on_sni_mismatch: full_scan_certs_on_sni_mismatch.is_some_and(|v| v.value),
        prefer_client_ciphers,
        ocsp,
    })
}

fn client(
    proto: proto::UpstreamTlsContext,
    at: &Path<'_>,
    d: &mut Diagnostics,
    o: &Options<'_>,
) -> Result<UpstreamTls, Rejected> {
    let proto::UpstreamTlsContext {
        common_tls_context,
        sni,
        auto_host_sni,
        auto_sni_san_validation,
        allow_renegotiation,
        max_session_keys,
        enforce_rsa_key_usage,
    } = proto;
    unsupported!(d, at, "renegotiation is not spoken"; allow_renegotiation);
    ignored!(d, at, "deprecated: the key usage of certificates is always enforced"; enforce_rsa_key_usage);
    let common_at = at.field("common_tls_context");
    let common = common(common_tls_context.unwrap_or_default(), End::Client, &common_at, d, o)?;
    if auto_sni_san_validation && !verifies_chains(common.validation.as_ref()) {
        d.reject(&at.field("auto_sni_san_validation"), "needs a validation context with trusted_ca");
    }
    Ok(UpstreamTls {
        common,
        sni: sni.into(),
        auto_host_sni,
        auto_sni_san_validation,
        max_session_keys: max_session_keys.map_or(MAX_SESSION_KEYS, |v| v.value),
    })
}

/// Whether peers' chains are verified, as far as is known before secrets come.
fn verifies_chains(source: Option<&ValidationSource>) -> bool {
    let by_authority = |context: &ValidationContext| context.trusted_ca.is_some() || context.system_roots;
    match source {
        None => false,
        Some(ValidationSource::Inline(context)) => by_authority(context),
        Some(ValidationSource::Sds(_) | ValidationSource::Combined { .. }) => true,
    }
}

fn common(
    proto: proto::CommonTlsContext,
    end: End,
    at: &Path<'_>,
    d: &mut Diagnostics,
    o: &Options<'_>,
) -> Result<CommonTls, Rejected> {
    let proto::CommonTlsContext {
        tls_params,
        tls_certificates,
        tls_certificate_sds_secret_configs,
        tls_certificate_provider_instance,
        custom_tls_certificate_selector,
        tls_certificate_certificate_provider,
        tls_certificate_certificate_provider_instance,
        alpn_protocols,
        custom_handshaker,
        key_log,
        validation_context_type,
    } = proto;
    unsupported!(d, at;
        tls_certificate_provider_instance,
        custom_tls_certificate_selector,
        tls_certificate_certificate_provider,
        tls_certificate_certificate_provider_instance,
        custom_handshaker,
    );
    ignored!(d, at, "keys of connections are never written"; key_log);
    let params = params(tls_params.unwrap_or_default(), end, &at.field("tls_params"), d);
    let inline_at = at.field("tls_certificates");
    let sds_at = at.field("tls_certificate_sds_secret_configs");
    let certificates = if tls_certificates.is_empty() {
        field::each(tls_certificate_sds_secret_configs, &sds_at, d, |proto, at, d| {
            secret::reference(proto, SecretType::Certificate, at, d, o).map(SecretSource::Sds)
        })
    } else {
        if !tls_certificate_sds_secret_configs.is_empty() {
            d.ignored(&sds_at, "tls_certificates takes its place");
        }
        field::each(tls_certificates, &inline_at, d, |proto, at, d| {
            let certificate = secret::certificate(proto, at, d, o)?;
            Ok(SecretSource::Inline(Arc::new(certificate)))
        })
    };
    match (end, certificates.len()) {
        (End::Server, 0) => _ = d.reject(&inline_at, "a server needs a certificate"),
        (End::Client, 2..) => _ = d.reject(&inline_at, "a client has one certificate only"),
        _ => {}
    }
    let validation = match validation_context_type {
        None => None,
        Some(ValidationContextType::ValidationContext(proto)) => {
            let context = secret::validation(proto, &at.field("validation_context"), d, o)?;
            Some(ValidationSource::Inline(Arc::new(context)))
        }
        Some(ValidationContextType::ValidationContextSdsSecretConfig(proto)) => {
            let at = at.field("validation_context_sds_secret_config");
            Some(ValidationSource::Sds(secret::reference(proto, SecretType::Validation, &at, d, o)?))
        }
        Some(ValidationContextType::CombinedValidationContext(proto)) => {
            Some(combined(proto, &at.field("combined_validation_context"), d, o)?)
        }
        Some(ValidationContextType::ValidationContextCertificateProvider(_)) => {
            let at = at.field("validation_context_certificate_provider");
            return Err(d.reject(&at, "certificate providers are not supported"));
        }
        Some(ValidationContextType::ValidationContextCertificateProviderInstance(_)) => {
            let at = at.field("validation_context_certificate_provider_instance");
            return Err(d.reject(&at, "certificate providers are not supported"));
        }
    };
    let alpn_at = at.field("alpn_protocols");
    let alpn = field::each(alpn_protocols, &alpn_at, d, |name, at, d| match name.len() {
        1..=255 => Ok(name.into_boxed_str()),
        _ => Err(d.reject(at, "must have 1 to 255 bytes")),
    });
    Ok(CommonTls { params, certificates, validation, alpn })
}

fn combined(
    proto: CombinedCertificateValidationContext,
    at: &Path<'_>,
    d: &mut Diagnostics,
    o: &Options<'_>,
) -> Result<ValidationSource, Rejected> {
    let CombinedCertificateValidationContext {
        default_validation_context,
        validation_context_sds_secret_config,
        validation_context_certificate_provider,
        validation_context_certificate_provider_instance,
    } = proto;
    unsupported!(d, at; validation_context_certificate_provider,
        validation_context_certificate_provider_instance);
    let default_at = at.field("default_validation_context");
    let default = required(default_validation_context, &default_at, d)
        .and_then(|proto| secret::validation(proto, &default_at, d, o));
    let sds_at = at.field("validation_context_sds_secret_config");
    let sds = required(validation_context_sds_secret_config, &sds_at, d)
        .and_then(|proto| secret::reference(proto, SecretType::Validation, &sds_at, d, o));
    Ok(ValidationSource::Combined { default: Arc::new(default?), sds: sds? })
}

fn params(proto: proto::TlsParameters, end: End, at: &Path<'_>, d: &mut Diagnostics) -> TlsParams {
    let proto::TlsParameters {
        tls_minimum_protocol_version,
        tls_maximum_protocol_version,
        cipher_suites,
        ecdh_curves,
        signature_algorithms,
        compliance_policies,
    } = proto;
    unsupported!(d, at; signature_algorithms, compliance_policies);
    let (min_at, max_at) =
        (at.field("tls_minimum_protocol_version"), at.field("tls_maximum_protocol_version"));
    let min = match field::variant(tls_minimum_protocol_version, &min_at, d) {
        Ok(TlsProtocol::TlSv10 | TlsProtocol::TlSv11) => {
            d.ignored(&min_at, "TLS 1.2 is the lowest version spoken");
            TlsVersion::V12
        }
        Ok(TlsProtocol::TlSv13) => TlsVersion::V13,
        Ok(TlsProtocol::TlsAuto | TlsProtocol::TlSv12) | Err(Rejected) => TlsVersion::V12,
    };
    let max = match field::variant(tls_maximum_protocol_version, &max_at, d) {
        Ok(TlsProtocol::TlSv10 | TlsProtocol::TlSv11) => {
            d.reject(&max_at, "TLS 1.0 and 1.1 are not spoken");
            TlsVersion::V12
        }
        Ok(TlsProtocol::TlSv12) => TlsVersion::V12,
        Ok(TlsProtocol::TlSv13) => TlsVersion::V13,
        // Envoy: servers speak 1.3 by default, clients 1.2.
        Ok(TlsProtocol::TlsAuto) | Err(Rejected) if end == End::Client => TlsVersion::V12.max(min),
        Ok(TlsProtocol::TlsAuto) | Err(Rejected) => TlsVersion::V13,
    };
    if min > max {
        d.reject(&min_at, "is above tls_maximum_protocol_version");
    }
    let suites = suites(cipher_suites, &at.field("cipher_suites"), d);
    let groups = groups(ecdh_curves, &at.field("ecdh_curves"), d);
    TlsParams { min, max, suites, groups }
}

/// Suites by their OpenSSL or IANA names; `[A|B]` are equal in preference. Those that cannot be spoken are reported:
/// leaving them out of an offer makes it narrower, never weaker.
fn suites(list: Vec<String>, at: &Path<'_>, d: &mut Diagnostics) -> Vec<CipherSuite> {
    let mut found = Vec::new();
    for (index, entry) in list.iter().enumerate() {
        let at = at.index(index);
        // BoringSSL takes a whole list in one entry, too.
        for name in entry.split(':').flat_map(|part| part.trim_matches(['[', ']']).split('|')) {
            match suite(name) {
                Some(suite) if found.contains(&suite) => {}
                Some(suite) => found.push(suite),
                None if is_tls13_suite(name) => {
                    d.ignored(&at, format_args!("{name}: the suites of TLS 1.3 are not configurable"));
                }
                None if is_old_suite(name) => {
                    d.ignored(
                        &at,
                        format_args!("{name} has no forward secrecy or no AEAD: it is not spoken"),
                    );
                }
                None => _ = d.reject(&at, format_args!("{name:?} is not a cipher suite")),
            }
        }
    }
    if !list.is_empty() && found.is_empty() {
        d.reject(at, "holds no suite that is spoken: ECDHE with AES-GCM or ChaCha20-Poly1305");
    }
    found
}

fn suite(name: &str) -> Option<CipherSuite> {
    Some(match name {
        "ECDHE-ECDSA-AES128-GCM-SHA256" | "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256" => {
            CipherSuite::EcdsaAes128Gcm
        }
        "ECDHE-ECDSA-AES256-GCM-SHA384" | "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384" => {
            CipherSuite::EcdsaAes256Gcm
        }
        "ECDHE-ECDSA-CHACHA20-POLY1305" | "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256" => {
            CipherSuite::EcdsaChacha20
        }
        "ECDHE-RSA-AES128-GCM-SHA256" | "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256" => CipherSuite::RsaAes128Gcm,
        "ECDHE-RSA-AES256-GCM-SHA384" | "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384" => CipherSuite::RsaAes256Gcm,
        "ECDHE-RSA-CHACHA20-POLY1305" | "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256" => {
            CipherSuite::RsaChacha20
        }
        _ => return None,
    })
}

fn is_tls13_suite(name: &str) -> bool {
    matches!(name, "TLS_AES_128_GCM_SHA256" | "TLS_AES_256_GCM_SHA384" | "TLS_CHACHA20_POLY1305_SHA256")
}

/// Suites that BoringSSL knows and that are not spoken here.
fn is_old_suite(name: &str) -> bool {
    const OLD: &[&str] = &[
        "ECDHE-ECDSA-AES128-SHA",
        "ECDHE-ECDSA-AES128-SHA256",
        "ECDHE-ECDSA-AES256-SHA",
        "ECDHE-ECDSA-AES256-SHA384",
        "ECDHE-RSA-AES128-SHA",
        "ECDHE-RSA-AES128-SHA256",
        "ECDHE-RSA-AES256-SHA",
        "ECDHE-RSA-AES256-SHA384",
        "ECDHE-PSK-AES128-CBC-SHA",
        "ECDHE-PSK-AES256-CBC-SHA",
        "ECDHE-PSK-CHACHA20-POLY1305",
        "AES128-GCM-SHA256",
        "AES256-GCM-SHA384",
        "AES128-SHA",
        "AES128-SHA256",
        "AES256-SHA",
        "AES256-SHA256",
        "PSK-AES128-CBC-SHA",
        "PSK-AES256-CBC-SHA",
        "DES-CBC3-SHA",
    ];
    OLD.contains(&name)
}

fn groups(list: Vec<String>, at: &Path<'_>, d: &mut Diagnostics) -> Vec<KeyGroup> {
    let mut found = Vec::new();
    for (index, entry) in list.iter().enumerate() {
        let at = at.index(index);
        for name in entry.split(':') {
            let group = match name {
                "X25519MLKEM768" => KeyGroup::X25519MlKem768,
                "X25519" => KeyGroup::X25519,
                "P-256" | "prime256v1" | "secp256r1" => KeyGroup::P256,
                "P-384" | "secp384r1" => KeyGroup::P384,
                "P-521" | "secp521r1" | "P-224" | "X25519Kyber768Draft00" => {
                    d.ignored(&at, format_args!("{name} is not spoken"));
                    continue;
                }
                _ => {
                    d.reject(&at, format_args!("{name:?} is not a key exchange group"));
                    continue;
                }
            };
            if !found.contains(&group) {
                found.push(group);
            }
        }
    }
    if !list.is_empty() && found.is_empty() {
        d.reject(at, "holds no group that is spoken: X25519MLKEM768, X25519, P-256, P-384");
    }
    found
}
