//! Secrets (Envoy `extensions.transport_sockets.tls.v3.Secret`): certificates and keys, what peers are checked
//! against, keys of session tickets.

use super::ConfigSource;
use crate::certificate::{Certificate, San, dns_matches};
use crate::matcher::{StringMatcher, StringPattern};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// Content that no log, dump or error may show: `Debug` prints a placeholder, there is no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Sensitive<T>(T);

impl<T> Sensitive<T> {
    /// Wraps.
    pub fn new(content: T) -> Self {
        Self(content)
    }

    /// The content. Callers never print it.
    pub fn expose(&self) -> &T {
        &self.0
    }
}

impl<T> fmt::Debug for Sensitive<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// A secret written in place, or the name of one that is delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource<T> {
    /// Written in place.
    Inline(Arc<T>),
    /// Delivered.
    Sds(SdsReference),
}

/// The name of a secret and where it is delivered from (Envoy `SdsSecretConfig`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SdsReference {
    /// Its name.
    pub name: Box<str>,
    /// What it must be.
    pub wants: SecretType,
    /// Where to ask; `None`: one of the bootstrap's `static_resources.secrets`.
    pub source: Option<ConfigSource>,
}

/// A secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secret {
    /// The name it is referred to by.
    pub name: Box<str>,
    /// What it is.
    pub kind: SecretKind,
    /// The files it was read from.
    pub files: SecretFiles,
}

/// What a secret is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretKind {
    /// A certificate with its key.
    Certificate(Arc<TlsCertificate>),
    /// What certificates of peers are checked against.
    Validation(Arc<ValidationContext>),
    /// Keys of session tickets.
    TicketKeys(Arc<TicketKeys>),
    /// Anything else; for filters.
    Generic(Arc<GenericSecret>),
}

/// The type of a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SecretType {
    /// [`SecretKind::Certificate`].
    Certificate,
    /// [`SecretKind::Validation`].
    Validation,
    /// [`SecretKind::TicketKeys`].
    TicketKeys,
    /// [`SecretKind::Generic`].
    Generic,
}

/// The files that a secret was read from. Those of delivered secrets are watched: once something is moved into
/// their place, the secret is read again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecretFiles {
    /// All of them, without those that hold what is read only once (passwords, OCSP staples).
    pub paths: Vec<PathBuf>,
    /// The folder whose moves trigger a read; `None`: the folders of the files.
    pub watched_directory: Option<PathBuf>,
}

/// A certificate with its key (Envoy `TlsCertificate`). Nothing is parsed yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsCertificate {
    /// PEM: the certificate, then its intermediates.
    pub chain_pem: Arc<[u8]>,
    /// Where the chain was read, for `/certs`: a path, `<inline>`, or a variable's name.
    pub chain_origin: Box<str>,
    /// PEM: the private key.
    pub key_pem: Sensitive<Arc<[u8]>>,
    /// DER: the OCSP response stapled to handshakes.
    pub ocsp_staple: Option<Arc<[u8]>>,
}

/// What certificates of peers are checked against (Envoy `CertificateValidationContext`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ValidationContext {
    /// PEM: authorities; `None`: chains are not verified.
    pub trusted_ca: Option<Arc<[u8]>>,
    /// Where the authorities were read, for `/certs`: a path, `<inline>`, or a variable's name.
    pub ca_origin: Box<str>,
    /// The system's authorities, when there is no `trusted_ca`.
    pub system_roots: bool,
    /// PEM: revocation lists.
    pub crl: Option<Arc<[u8]>>,
    /// One of them must match one subject alternative name; empty: all pass.
    pub sans: Vec<SanMatcher>,
    /// SHA-256 of accepted certificates, DER. With `spki`, a match in either is enough; both empty: all pass.
    pub hashes: Vec<[u8; 32]>,
    /// SHA-256 of accepted public keys (SubjectPublicKeyInfo, DER).
    pub spki: Vec<[u8; 32]>,
    /// Only the leaf is looked up in revocation lists. Default: the whole chain is.
    pub only_verify_leaf_crl: bool,
    /// Chains that do not verify are accepted (`trust_chain_verification: ACCEPT_UNTRUSTED`).
    pub accept_untrusted: bool,
    /// Expired certificates are accepted.
    pub allow_expired: bool,
    /// Certificates in a chain above the leaf, trust anchor included; `None`: as the library allows.
    pub max_verify_depth: Option<u32>,
    /// A server does not tell clients the names of its authorities.
    pub suppress_client_ca_list: bool,
}

/// A matcher of one kind of subject alternative name (Envoy `SubjectAltNameMatcher`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SanMatcher {
    /// The kind of names looked at.
    pub kind: SanKind,
    /// What the name must look like.
    pub matcher: StringMatcher,
}

/// A kind of subject alternative name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SanKind {
    /// rfc822Name.
    Email,
    /// dNSName.
    Dns,
    /// uniformResourceIdentifier.
    Uri,
    /// iPAddress.
    Ip,
}

/// Keys of session tickets (Envoy `TlsSessionTicketKeys`), 80 bytes each. The first encrypts, all decrypt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TicketKeys(pub Vec<Sensitive<Arc<[u8]>>>);

/// Any other secret (Envoy `GenericSecret`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GenericSecret {
    /// The secret.
    pub secret: Option<Sensitive<Arc<[u8]>>>,
    /// Secrets that belong together, by name.
    pub secrets: BTreeMap<Box<str>, Sensitive<Arc<[u8]>>>,
}

impl<T> SecretSource<T> {
    /// The name of a delivered one.
    pub fn reference(&self) -> Option<&SdsReference> {
        match self {
            Self::Inline(_) => None,
            Self::Sds(reference) => Some(reference),
        }
    }
}

impl SanMatcher {
    /// Whether one of the certificate's names matches. An exact DNS name is matched by a certificate's wildcard too.
    pub fn matches(&self, certificate: &Certificate) -> bool {
        let Self { kind, matcher } = self;
        certificate.sans.iter().any(|san| match (kind, san) {
            (SanKind::Dns, San::Dns(name)) => match &matcher.pattern {
                // Envoy: exact means the name that the certificate is asked for, unless its case is ignored.
                StringPattern::Exact(wanted) if !matcher.ignore_case => dns_matches(wanted, name),
                _ => matcher.matches(name.as_bytes()),
            },
            (SanKind::Uri, San::Uri(text)) | (SanKind::Email, San::Email(text)) => {
                matcher.matches(text.as_bytes())
            }
            (SanKind::Ip, San::Ip(address)) => matcher.matches(address.to_string().as_bytes()),
            _ => false,
        })
    }
}

impl SecretKind {
    /// Its type.
    pub fn of(&self) -> SecretType {
        match self {
            Self::Certificate(_) => SecretType::Certificate,
            Self::Validation(_) => SecretType::Validation,
            Self::TicketKeys(_) => SecretType::TicketKeys,
            Self::Generic(_) => SecretType::Generic,
        }
    }
}

impl fmt::Display for SecretType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Certificate => "tls_certificate",
            Self::Validation => "validation_context",
            Self::TicketKeys => "session_ticket_keys",
            Self::Generic => "generic_secret",
        })
    }
}

impl ValidationContext {
    /// This context with a delivered one laid over it (Envoy `CombinedCertificateValidationContext`, protobuf's
    /// `MergeFrom`): what the delivered one sets replaces, lists are joined.
    pub fn overlaid(&self, delivered: &Self) -> Self {
        let Self {
            trusted_ca,
            ca_origin,
            system_roots,
            crl,
            sans,
            hashes,
            spki,
            only_verify_leaf_crl,
            accept_untrusted,
            allow_expired,
            max_verify_depth,
            suppress_client_ca_list,
        } = delivered;
        let (trusted_ca, ca_origin) =
            if trusted_ca.is_some() { (trusted_ca, ca_origin) } else { (&self.trusted_ca, &self.ca_origin) };
        Self {
            trusted_ca: trusted_ca.clone(),
            ca_origin: ca_origin.clone(),
            system_roots: self.system_roots || *system_roots,
            crl: crl.clone().or_else(|| self.crl.clone()),
            sans: [self.sans.as_slice(), sans].concat(),
            hashes: [self.hashes.as_slice(), hashes].concat(),
            spki: [self.spki.as_slice(), spki].concat(),
            only_verify_leaf_crl: self.only_verify_leaf_crl || *only_verify_leaf_crl,
            accept_untrusted: self.accept_untrusted || *accept_untrusted,
            allow_expired: self.allow_expired || *allow_expired,
            max_verify_depth: max_verify_depth.or(self.max_verify_depth),
            suppress_client_ca_list: self.suppress_client_ca_list || *suppress_client_ca_list,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matcher::{StringMatcher, StringPattern};

    #[test]
    fn no_debug_form_shows_a_key() {
        let key: Arc<[u8]> = b"PLANTED".as_slice().into();
        let certificate = TlsCertificate {
            chain_pem: b"chain".as_slice().into(),
            chain_origin: "<inline>".into(),
            key_pem: Sensitive::new(Arc::clone(&key)),
            ocsp_staple: None,
        };
        let generic = GenericSecret {
            secret: Some(Sensitive::new(Arc::clone(&key))),
            secrets: BTreeMap::from([("a".into(), Sensitive::new(Arc::clone(&key)))]),
        };
        let bytes = format!("{key:?}");
        for kind in [
            SecretKind::Certificate(Arc::new(certificate)),
            SecretKind::TicketKeys(Arc::new(TicketKeys(vec![Sensitive::new(key)]))),
            SecretKind::Generic(Arc::new(generic)),
        ] {
            let text = format!("{kind:?} {kind:#?}");
            assert!(!text.contains(bytes.trim_matches(['[', ']'])) && text.contains("[redacted]"), "{text}");
        }
    }

    #[test]
    fn a_delivered_context_replaces_what_it_sets_and_joins_lists() {
        let ca = |text: &str| Some(Arc::<[u8]>::from(text.as_bytes()));
        let base = ValidationContext {
            trusted_ca: ca("base"),
            ca_origin: "base.pem".into(),
            hashes: vec![[1; 32]],
            max_verify_depth: Some(3),
            ..Default::default()
        };
        let empty = ValidationContext::default();
        assert_eq!(base.overlaid(&empty), base);
        assert_eq!(empty.overlaid(&base), base);
        let over = ValidationContext {
            trusted_ca: ca("over"),
            ca_origin: "over.pem".into(),
            hashes: vec![[2; 32]],
            accept_untrusted: true,
            ..Default::default()
        };
        let merged = base.overlaid(&over);
        assert_eq!((&merged.trusted_ca, &*merged.ca_origin), (&ca("over"), "over.pem"));
        assert_eq!(merged.hashes, [[1; 32], [2; 32]]);
        assert!(merged.accept_untrusted && merged.max_verify_depth == Some(3));
    }

    #[test]
    fn names_are_matched_by_their_kind() {
        let (_, read) = crate::certificate::tests::client();
        let exact = |kind, text: &str| SanMatcher {
            kind,
            matcher: StringMatcher { pattern: StringPattern::Exact(text.into()), ignore_case: false },
        };
        for (kind, text, want) in [
            (SanKind::Uri, "spiffe://lab/two", true),
            (SanKind::Dns, "spiffe://lab/two", false),
            (SanKind::Dns, "cli.example.com", true),
            (SanKind::Dns, "x.example.com", false),
            (SanKind::Ip, "10.0.0.1", true),
            (SanKind::Email, "me@x.y", true),
            (SanKind::Email, "x@y.z", false),
        ] {
            assert_eq!(exact(kind, text).matches(&read), want, "{kind:?} {text}");
        }
        let prefix = SanMatcher {
            kind: SanKind::Uri,
            matcher: StringMatcher {
                pattern: StringPattern::Prefix("spiffe://lab/".into()),
                ignore_case: false,
            },
        };
        assert!(prefix.matches(&read));
    }
}
