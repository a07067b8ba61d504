//! Secrets, and references to them. No message of this module shows content: only paths and names.

use super::field::{self, ignored, is_set, required, unsupported};
use super::{Options, data, matcher, source};
use crate::config::{
    GenericSecret, SanKind, SanMatcher, SdsReference, Secret, SecretFiles, SecretKind, SecretType, Sensitive,
    TicketKeys, TlsCertificate, ValidationContext,
};
use crate::matcher::StringMatcher;
use crate::path::{Diagnostics, Path, Rejected};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use xds_types::envoy::config::core::v3::data_source::Specifier;
use xds_types::envoy::config::core::v3::{DataSource, WatchedDirectory};
use xds_types::envoy::extensions::transport_sockets::tls::v3 as proto;
use xds_types::envoy::extensions::transport_sockets::tls::v3::certificate_validation_context::{
    SystemRootCerts, TrustChainVerification,
};
use xds_types::envoy::extensions::transport_sockets::tls::v3::secret::Type;
use xds_types::envoy::extensions::transport_sockets::tls::v3::subject_alt_name_matcher::SanType;

/// Bytes of a session ticket key.
const TICKET_KEY: usize = 80;

/// Why files of contexts that are not delivered are not watched.
const STATIC: &str = "only files of secrets delivered by SDS are watched";

/// A secret under its name.
pub(super) fn secret(
    proto: proto::Secret,
    at: &Path<'_>,
    d: &mut Diagnostics,
    o: &Options<'_>,
) -> Result<Secret, Rejected> {
    let proto::Secret { name, r#type } = proto;
    let Some(content) = r#type else {
        const TYPES: &str = "tls_certificate, session_ticket_keys, validation_context, generic_secret";
        return Err(d.reject(at, format_args!("one of {TYPES} is required")));
    };
    let (kind, files) = match content {
        Type::TlsCertificate(proto) => {
            let (certificate, files) = certificate_and_files(proto, &at.field("tls_certificate"), d, o)?;
            (SecretKind::Certificate(Arc::new(certificate)), files)
        }
        Type::SessionTicketKeys(proto) => {
            let files = SecretFiles { paths: paths(&proto.keys), watched_directory: None };
            let keys = ticket_keys(proto, &at.field("session_ticket_keys"), d, o)?;
            (SecretKind::TicketKeys(Arc::new(keys)), files)
        }
        Type::ValidationContext(proto) => {
            let (context, files) = validation_and_files(proto, &at.field("validation_context"), d, o)?;
            (SecretKind::Validation(Arc::new(context)), files)
        }
        Type::GenericSecret(proto) => {
            let proto::GenericSecret { secret, secrets } = &proto;
            let files =
                SecretFiles { paths: paths(secret.iter().chain(secrets.values())), watched_directory: None };
            (SecretKind::Generic(Arc::new(generic(proto, &at.field("generic_secret"), d, o)?)), files)
        }
    };
    Ok(Secret { name: name.into(), kind, files })
}

/// Names and types of static secrets, before they are translated; those without a type are left out.
pub(super) fn types(list: &[proto::Secret]) -> BTreeSet<(Box<str>, SecretType)> {
    list.iter().filter_map(|s| Some((s.name.as_str().into(), type_of(s.r#type.as_ref()?)))).collect()
}

fn type_of(content: &Type) -> SecretType {
    match content {
        Type::TlsCertificate(_) => SecretType::Certificate,
        Type::SessionTicketKeys(_) => SecretType::TicketKeys,
        Type::ValidationContext(_) => SecretType::Validation,
        Type::GenericSecret(_) => SecretType::Generic,
    }
}

/// The bootstrap's secrets.
pub(super) fn statics(
    list: Vec<proto::Secret>,
    at: &Path<'_>,
    d: &mut Diagnostics,
    o: &Options<'_>,
) -> Vec<Arc<Secret>> {
    let mut names = HashMap::new();
    field::each(list.into_iter().enumerate(), at, d, |(index, proto), at, d| {
        // Secrets of different types may share a name.
        let key = (proto.name.clone(), proto.r#type.as_ref().map(type_of));
        if let Some(first) = names.insert(key, index) {
            let message = format_args!("{:?} is already the name of secrets[{first}]", proto.name);
            d.reject(&at.field("name"), message);
        }
        let watched = match &proto.r#type {
            Some(Type::TlsCertificate(of)) if of.watched_directory.is_some() => Some("tls_certificate"),
            Some(Type::ValidationContext(of)) if of.watched_directory.is_some() => Some("validation_context"),
            _ => None,
        };
        if let Some(field) = watched {
            d.ignored(&at.field(field).field("watched_directory"), STATIC);
        }
        secret(proto, at, d, o).map(Arc::new)
    })
}

/// The name of a secret that is to be of type `wants`, and where it is delivered from.
pub(super) fn reference(
    proto: proto::SdsSecretConfig,
    wants: SecretType,
    at: &Path<'_>,
    d: &mut Diagnostics,
    o: &Options<'_>,
) -> Result<SdsReference, Rejected> {
    let proto::SdsSecretConfig { name, sds_config } = proto;
    let source = match sds_config {
        Some(proto) => Some(source::config_source(proto, &at.field("sds_config"), d, o)?),
        None => {
            let key = (name.as_str().into(), wants);
            if o.sources.is_some_and(|sources| !sources.secrets.contains(&key)) {
                let message = format_args!(
                    "{name:?} is not a static {wants} of the bootstrap, and there is no sds_config"
                );
                return Err(d.reject(&at.field("name"), message));
            }
            None
        }
    };
    Ok(SdsReference { name: name.into(), wants, source })
}

/// A certificate written in place.
pub(super) fn certificate(
    proto: proto::TlsCertificate,
    at: &Path<'_>,
    d: &mut Diagnostics,
    o: &Options<'_>,
) -> Result<TlsCertificate, Rejected> {
    if proto.watched_directory.is_some() {
        d.ignored(&at.field("watched_directory"), STATIC);
    }
    certificate_and_files(proto, at, d, o).map(|(certificate, _)| certificate)
}

/// What peers are checked against, written in place.
pub(super) fn validation(
    proto: proto::CertificateValidationContext,
    at: &Path<'_>,
    d: &mut Diagnostics,
    o: &Options<'_>,
) -> Result<ValidationContext, Rejected> {
    if proto.watched_directory.is_some() {
        d.ignored(&at.field("watched_directory"), STATIC);
    }
    validation_and_files(proto, at, d, o).map(|(context, _)| context)
}

/// Keys of session tickets.
pub(super) fn ticket_keys(
    proto: proto::TlsSessionTicketKeys,
    at: &Path<'_>,
    d: &mut Diagnostics,
    o: &Options<'_>,
) -> Result<TicketKeys, Rejected> {
    let proto::TlsSessionTicketKeys { keys } = proto;
    let keys = field::each(keys, &at.field("keys"), d, |proto, at, d| {
        let key = data::bytes(proto, at, d, o)?;
        if key.len() != TICKET_KEY {
            return Err(d.reject(at, format_args!("has {} bytes, must have {TICKET_KEY}", key.len())));
        }
        Ok(Sensitive::new(key.into()))
    });
    Ok(TicketKeys(keys))
}

fn generic(
    proto: proto::GenericSecret,
    at: &Path<'_>,
    d: &mut Diagnostics,
    o: &Options<'_>,
) -> Result<GenericSecret, Rejected> {
    let proto::GenericSecret { secret, secrets } = proto;
    let at_secrets = at.field("secrets");
    let secret = match secret {
        Some(proto) => Some(Sensitive::new(data::bytes(proto, &at.field("secret"), d, o)?.into())),
        None => None,
    };
    let mut sorted: Vec<_> = secrets.into_iter().collect();
    sorted.sort_by(|(a, _), (b, _)| a.cmp(b));
    let mut out = BTreeMap::new();
    for (name, proto) in sorted {
        if let Ok(bytes) = data::bytes(proto, &at_secrets.key(&name), d, o) {
            out.insert(name.into(), Sensitive::new(bytes.into()));
        }
    }
    Ok(GenericSecret { secret, secrets: out })
}

fn certificate_and_files(
    proto: proto::TlsCertificate,
    at: &Path<'_>,
    d: &mut Diagnostics,
    o: &Options<'_>,
) -> Result<(TlsCertificate, SecretFiles), Rejected> {
    let proto::TlsCertificate {
        certificate_chain,
        private_key,
        pkcs12,
        watched_directory,
        private_key_provider,
        password,
        ocsp_staple,
        signed_certificate_timestamp,
        tls_params,
    } = proto;
    unsupported!(d, at, "not supported: give certificate_chain and private_key in PEM form"; pkcs12);
    unsupported!(d, at, "not supported: give the private_key itself"; private_key_provider);
    unsupported!(d, at, "encrypted private keys are not supported: decrypt it first"; password);
    unsupported!(d, at, "not supported: parameters are those of the whole context"; tls_params);
    ignored!(d, at, "has no reader, in Envoy neither"; signed_certificate_timestamp);
    let elsewhere = is_set!(pkcs12) || is_set!(private_key_provider);
    let watched_directory = directory(watched_directory, &at.field("watched_directory"), d);
    let files = SecretFiles {
        paths: paths(certificate_chain.iter().chain(&private_key).chain(&ocsp_staple)),
        watched_directory,
    };
    let (chain_at, key_at) = (at.field("certificate_chain"), at.field("private_key"));
    let chain_origin = certificate_chain.as_ref().map(origin);
    let chain = required(certificate_chain, &chain_at, d).and_then(|proto| filled(proto, &chain_at, d, o));
    let key = match private_key {
        Some(proto) => filled(proto, &key_at, d, o),
        None if elsewhere => Err(Rejected),
        None => Err(d.reject(&key_at, "is required")),
    };
    let ocsp_staple = match ocsp_staple {
        Some(proto) => Some(staple(proto, &at.field("ocsp_staple"), d, o)?),
        None => None,
    };
    let certificate = TlsCertificate {
        chain_pem: chain?,
        chain_origin: chain_origin.unwrap_or_default(),
        key_pem: Sensitive::new(key?),
        ocsp_staple,
    };
    Ok((certificate, files))
}

/// Envoy takes no text here: DER is not text.
fn staple(
    proto: DataSource,
    at: &Path<'_>,
    d: &mut Diagnostics,
    o: &Options<'_>,
) -> Result<Arc<[u8]>, Rejected> {
    if matches!(proto.specifier, Some(Specifier::InlineString(_))) {
        return Err(d.reject(at, "must be DER: inline_bytes or filename"));
    }
    filled(proto, at, d, o)
}

fn validation_and_files(
    proto: proto::CertificateValidationContext,
    at: &Path<'_>,
    d: &mut Diagnostics,
    o: &Options<'_>,
) -> Result<(ValidationContext, SecretFiles), Rejected> {
    let proto::CertificateValidationContext {
        trusted_ca,
        ca_certificate_provider_instance,
        system_root_certs,
        watched_directory,
        verify_certificate_spki,
        verify_certificate_hash,
        match_typed_subject_alt_names,
        match_subject_alt_names,
        require_signed_certificate_timestamp,
        crl,
        allow_expired_certificate,
        trust_chain_verification,
        custom_validator_config,
        only_verify_leaf_cert_crl,
        max_verify_depth,
        suppress_client_ca_list,
    } = proto;
    unsupported!(d, at, "not supported: give trusted_ca"; ca_certificate_provider_instance);
    unsupported!(d, at, "certificate timestamps are not verified"; require_signed_certificate_timestamp = false);
    unsupported!(d, at, "custom validators are not supported"; custom_validator_config);
    let system_roots = system_root_certs.is_some_and(|SystemRootCerts {}| true);
    let watched_directory = directory(watched_directory, &at.field("watched_directory"), d);
    let files = SecretFiles { paths: paths(trusted_ca.iter().chain(&crl)), watched_directory };
    let ca_origin = trusted_ca.as_ref().map(origin).unwrap_or_default();
    let mut read = |proto: Option<DataSource>, name: &'static str| -> Result<Option<Arc<[u8]>>, Rejected> {
        proto.map(|proto| filled(proto, &at.field(name), d, o)).transpose()
    };
    let (ca, crl) = (read(trusted_ca, "trusted_ca"), read(crl, "crl"));
    let typed = !match_typed_subject_alt_names.is_empty();
    let typed_at = at.field("match_typed_subject_alt_names");
    let mut sans = field::each(match_typed_subject_alt_names, &typed_at, d, san);
    let old_at = at.field("match_subject_alt_names");
    if typed && !match_subject_alt_names.is_empty() {
        d.ignored(&old_at, "match_typed_subject_alt_names says it");
    } else {
        // Without a type it looks at names of every type.
        const KINDS: [SanKind; 4] = [SanKind::Dns, SanKind::Uri, SanKind::Email, SanKind::Ip];
        let any = field::each(match_subject_alt_names, &old_at, d, matcher::string);
        let every =
            |m: StringMatcher| KINDS.into_iter().map(move |kind| SanMatcher { kind, matcher: m.clone() });
        sans.extend(any.into_iter().flat_map(every));
    }
    let (ca, crl) = (ca?, crl?);
    let mode: TrustChainVerification =
        field::variant(trust_chain_verification, &at.field("trust_chain_verification"), d)?;
    let context = ValidationContext {
        system_roots,
        ca_origin,
        sans,
        hashes: field::each(verify_certificate_hash, &at.field("verify_certificate_hash"), d, hash),
        spki: field::each(verify_certificate_spki, &at.field("verify_certificate_spki"), d, spki),
        only_verify_leaf_crl: only_verify_leaf_cert_crl,
        accept_untrusted: mode == TrustChainVerification::AcceptUntrusted,
        allow_expired: allow_expired_certificate,
        max_verify_depth: max_verify_depth.map(|v| v.value),
        suppress_client_ca_list,
        trusted_ca: ca,
        crl,
    };
    Ok((context, files))
}

fn san(
    proto: proto::SubjectAltNameMatcher,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Result<SanMatcher, Rejected> {
    let proto::SubjectAltNameMatcher { san_type, matcher, oid } = proto;
    let type_at = at.field("san_type");
    let kind = match field::variant(san_type, &type_at, d)? {
        SanType::Email => SanKind::Email,
        SanType::Dns => SanKind::Dns,
        SanType::Uri => SanKind::Uri,
        SanType::IpAddress => SanKind::Ip,
        SanType::OtherName => {
            return Err(d.reject(&type_at, "OTHER_NAME is not supported: EMAIL, DNS, URI, IP_ADDRESS are"));
        }
        SanType::Unspecified => return Err(d.reject(&type_at, "is required")),
    };
    ignored!(d, at, "only OTHER_NAME has one"; oid);
    let matcher_at = at.field("matcher");
    let matcher = matcher::string(required(matcher, &matcher_at, d)?, &matcher_at, d)?;
    Ok(SanMatcher { kind, matcher })
}

/// SHA-256 in hexadecimal, with or without colons.
fn hash(text: String, at: &Path<'_>, d: &mut Diagnostics) -> Result<[u8; 32], Rejected> {
    let wrong = || "is not a SHA-256 in hexadecimal: 64 digits, or 32 pairs with colons between them";
    let digits: Vec<u8> = match text.len() {
        64 => text.into_bytes(),
        95 if text.bytes().skip(2).step_by(3).all(|b| b == b':') => {
            text.bytes().enumerate().filter(|(i, _)| i % 3 != 2).map(|(_, b)| b).collect()
        }
        _ => return Err(d.reject(at, wrong())),
    };
    let mut out = [0; 32];
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        let nibble = |digit: u8| char::from(digit).to_digit(16);
        match (nibble(pair[0]), nibble(pair[1])) {
            (Some(high), Some(low)) => *byte = (high << 4 | low) as u8,
            _ => return Err(d.reject(at, wrong())),
        }
    }
    Ok(out)
}

/// SHA-256 in base64.
fn spki(text: String, at: &Path<'_>, d: &mut Diagnostics) -> Result<[u8; 32], Rejected> {
    let bytes = BASE64.decode(text).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
    bytes.ok_or_else(|| d.reject(at, "is not a SHA-256 in base64"))
}

fn filled(
    proto: DataSource,
    at: &Path<'_>,
    d: &mut Diagnostics,
    o: &Options<'_>,
) -> Result<Arc<[u8]>, Rejected> {
    let bytes = data::bytes(proto, at, d, o)?;
    if bytes.is_empty() { Err(d.reject(at, "is empty")) } else { Ok(bytes.into()) }
}

/// Where content is, without the content.
fn origin(proto: &DataSource) -> Box<str> {
    match &proto.specifier {
        Some(Specifier::Filename(path)) => path.as_str().into(),
        Some(Specifier::EnvironmentVariable(name)) => name.as_str().into(),
        Some(Specifier::InlineBytes(_) | Specifier::InlineString(_)) => "<inline>".into(),
        None => "".into(),
    }
}

/// Files among data sources.
fn paths<'a>(sources: impl IntoIterator<Item = &'a DataSource>) -> Vec<PathBuf> {
    let path = |source: &DataSource| match &source.specifier {
        Some(Specifier::Filename(path)) => Some(path.into()),
        _ => None,
    };
    sources.into_iter().filter_map(path).collect()
}

fn directory(proto: Option<WatchedDirectory>, at: &Path<'_>, d: &mut Diagnostics) -> Option<PathBuf> {
    let WatchedDirectory { path, watch_modify } = proto?;
    ignored!(d, at, "only moves trigger a read"; watch_modify);
    if path.is_empty() {
        d.reject(&at.field("path"), "is required");
    }
    Some(path.into())
}
