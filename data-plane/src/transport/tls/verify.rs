//! Judging peers' certificates as Envoy's default validator does: the chain, then names, then pins.

use super::material::{self, Authorities};
use super::stats::TlsStats;
use data_plane_core::certificate::{Certificate, DIGITAL_SIGNATURE, San, host_matches};
use data_plane_core::config::ValidationContext;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, ExtendedKeyUsageValidator, KeyPurposeId,
    KeyPurposeIdIter, KeyUsage, RequiredEkuNotFoundContext, RevocationCheckDepth, RevocationOptionsBuilder,
    UnknownStatusPolicy,
};

/// Who is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    Client,
    Server,
}

/// `id-kp-serverAuth`, `id-kp-clientAuth`, `anyExtendedKeyUsage`: contents of their OIDs.
const SERVER_AUTH: KeyPurposeId<'static> = KeyPurposeId::new(&[0x2b, 6, 1, 5, 5, 7, 3, 1]);
const CLIENT_AUTH: KeyPurposeId<'static> = KeyPurposeId::new(&[0x2b, 6, 1, 5, 5, 7, 3, 2]);
const ANY_USAGE: KeyPurposeId<'static> = KeyPurposeId::new(&[0x55, 0x1d, 0x25, 0]);

impl ExtendedKeyUsageValidator for Peer {
    fn validate(&self, present: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        let wanted = if *self == Self::Server { SERVER_AUTH } else { CLIENT_AUTH };
        let mut any = false;
        for usage in present {
            let usage = usage?;
            any = true;
            if usage == wanted || usage == ANY_USAGE {
                return Ok(());
            }
        }
        if !any {
            return Ok(());
        }
        let required = if *self == Self::Server { KeyUsage::server_auth() } else { KeyUsage::client_auth() };
        Err(webpki::Error::RequiredEkuNotFoundContext(RequiredEkuNotFoundContext {
            required,
            present: Vec::new(),
        }))
    }
}

/// What peers are judged by.
pub(super) struct Judge {
    peer: Peer,
    rules: Arc<ValidationContext>,
    /// `None`: chains are not verified.
    authorities: Option<Authorities>,
    crls: Vec<CertRevocationList<'static>>,
    algorithms: WebPkiSupportedAlgorithms,
    stats: TlsStats,
}

impl fmt::Debug for Judge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Judge").field("peer", &self.peer).finish_non_exhaustive()
    }
}

/// A reason in words.
#[derive(Debug)]
struct Because(String);

impl fmt::Display for Because {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Because {}

fn because(text: impl Into<String>) -> CertificateError {
    CertificateError::Other(OtherError(Arc::new(Because(text.into()))))
}

impl Judge {
    pub(super) fn new(
        peer: Peer,
        rules: Arc<ValidationContext>,
        algorithms: WebPkiSupportedAlgorithms,
        stats: TlsStats,
    ) -> Result<Self, String> {
        let authorities = material::authorities(&rules)?;
        let crls = rules.crl.as_deref().map(material::revocation_lists).transpose()?.unwrap_or_default();
        Ok(Self { peer, rules, authorities, crls, algorithms, stats })
    }

    /// Whether peers are judged at all: a context that says nothing asks for no certificate.
    pub(super) fn judges(&self) -> bool {
        let rules = &self.rules;
        self.authorities.is_some()
            || !(rules.sans.is_empty() && rules.hashes.is_empty() && rules.spki.is_empty())
    }

    /// Names of the authorities, for clients to choose a certificate by.
    fn hints(&self) -> Vec<DistinguishedName> {
        if self.rules.suppress_client_ca_list {
            return Vec::new();
        }
        let anchors = self.authorities.iter().flat_map(|a| &a.anchors);
        anchors.map(|anchor| DistinguishedName::in_sequence(&anchor.subject)).collect()
    }

    /// `names`: what one of the certificate's names must be, instead of what the rules say (`replace`) or besides.
    fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        host: Option<(&str, Names)>,
        now: UnixTime,
    ) -> Result<(), Error> {
        let verdict = self.verdict(leaf, rest, host, now);
        match verdict {
            Err(_) if self.rules.accept_untrusted => Ok(()),
            Err(error) => Err(Error::InvalidCertificate(error)),
            Ok(()) => Ok(()),
        }
    }

    fn verdict(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        host: Option<(&str, Names)>,
        now: UnixTime,
    ) -> Result<(), CertificateError> {
        let counts = &self.stats.handshakes;
        let certificate = Certificate::parse(leaf).map_err(|_| {
            counts.fail_verify_error.inc();
            CertificateError::BadEncoding
        })?;
        if certificate.key_usage.is_some_and(|usage| usage & DIGITAL_SIGNATURE == 0) {
            counts.fail_verify_error.inc();
            return Err(because("the certificate's key usage does not allow signing"));
        }
        if let Some(authorities) = &self.authorities {
            self.chain(authorities, leaf, rest, now).inspect_err(|_| counts.fail_verify_error.inc())?;
        }
        let by_host = host.map(|(name, _)| name);
        let rules_count = !matches!(host, Some((_, Names::Instead)));
        let sans = if rules_count { self.rules.sans.as_slice() } else { &[] };
        let named = by_host.is_none_or(|host| names_host(&certificate, host));
        if !named || !(sans.is_empty() || sans.iter().any(|san| san.matches(&certificate))) {
            counts.fail_verify_san.inc();
            let names: Vec<_> = certificate.sans.iter().map(San::text).collect();
            return Err(because(format!("SAN matcher, certificate SANs are [{}]", names.join(", "))));
        }
        let (hashes, spki) = (&self.rules.hashes, &self.rules.spki);
        let pinned = hashes.is_empty() && spki.is_empty()
            || hashes.contains(&material::sha256(leaf))
            || spki.contains(&material::sha256(certificate.spki(leaf)));
        if !pinned {
            counts.fail_verify_cert_hash.inc();
            return Err(because("certificate hash list"));
        }
        // Without authorities something else must vouch for the peer (Envoy): anybody can write the host's name.
        let vouched = !sans.is_empty() || !hashes.is_empty() || !spki.is_empty();
        if self.authorities.is_none() && !vouched {
            counts.fail_verify_error.inc();
            return Err(because("nothing vouches for the certificate"));
        }
        Ok(())
    }

    fn chain(
        &self,
        authorities: &Authorities,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), CertificateError> {
        let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let in_time = |not_before: i64, not_after: i64| {
            if self.rules.allow_expired {
                Ok(())
            } else if seconds < not_before {
                Err(CertificateError::NotValidYet)
            } else if seconds > not_after {
                Err(CertificateError::Expired)
            } else {
                Ok(())
            }
        };
        // A certificate that is itself trusted needs no chain.
        if let Some(own) = authorities.certificates.iter().find(|a| a.der == *leaf) {
            return in_time(own.not_before, own.not_after);
        }
        let end = EndEntityCert::try_from(leaf).map_err(translated)?;
        let time = if self.rules.allow_expired { valid_time(leaf, rest).unwrap_or(now) } else { now };
        let lists: Vec<&CertRevocationList<'_>> = self.crls.iter().collect();
        let revocation = RevocationOptionsBuilder::new(&lists).ok().map(|builder| {
            let depth = if self.rules.only_verify_leaf_crl {
                RevocationCheckDepth::EndEntity
            } else {
                RevocationCheckDepth::Chain
            };
            let builder = builder.with_depth(depth).with_status_policy(UnknownStatusPolicy::Deny);
            if self.rules.allow_expired {
                builder.build()
            } else {
                builder.with_expiration_policy(ExpirationPolicy::Enforce).build()
            }
        });
        let algorithms = self.algorithms.all;
        let path = end
            .verify_for_usage(algorithms, &authorities.anchors, rest, time, self.peer, revocation, None)
            .map_err(translated)?;
        // The anchor counts (Envoy), but a chain without intermediates is never too long.
        let above = path.intermediate_certificates().count() + 1;
        if self.rules.max_verify_depth.is_some_and(|most| above > most.max(1) as usize) {
            return Err(because(
                "X509_verify_cert: certificate verification error at depth 0: certificate chain too long",
            ));
        }
        // The library takes authorities to be valid for ever; BoringSSL looks at their dates too.
        let anchor = path.anchor();
        let same = authorities.anchors.iter().zip(&authorities.certificates).filter(|(a, _)| {
            a.subject == anchor.subject && a.subject_public_key_info == anchor.subject_public_key_info
        });
        let mut last = Ok(());
        for (_, own) in same {
            last = in_time(own.not_before, own.not_after);
            if last.is_ok() {
                break;
            }
        }
        last
    }

    fn signature_12(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let valid = rustls::crypto::verify_tls12_signature(message, certificate, signed, &self.algorithms)?;
        self.stats.signed(signed.scheme);
        Ok(valid)
    }

    fn signature_13(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let valid = rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.algorithms)?;
        self.stats.signed(signed.scheme);
        Ok(valid)
    }
}

/// One of the names is the host's, whatever its kind.
fn names_host(certificate: &Certificate, host: &str) -> bool {
    host_matches(certificate, host) || certificate.sans.iter().any(|san| san.text() == host)
}

/// A time at which all presented certificates are valid.
fn valid_time(leaf: &CertificateDer<'_>, rest: &[CertificateDer<'_>]) -> Option<UnixTime> {
    let starts =
        std::iter::once(leaf).chain(rest).filter_map(|der| Some(Certificate::parse(der).ok()?.not_before));
    Some(UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(starts.max()?).ok()?)))
}

fn translated(error: webpki::Error) -> CertificateError {
    use webpki::Error as E;
    match error {
        E::BadDer | E::BadDerTime => CertificateError::BadEncoding,
        E::CertExpired { .. } | E::InvalidCertValidity => CertificateError::Expired,
        E::CertNotValidYet { .. } => CertificateError::NotValidYet,
        E::CertRevoked => CertificateError::Revoked,
        E::UnknownIssuer => CertificateError::UnknownIssuer,
        E::UnknownRevocationStatus => CertificateError::UnknownRevocationStatus,
        E::CrlExpired { .. } => CertificateError::ExpiredRevocationList,
        E::InvalidSignatureForPublicKey | E::InvalidCrlSignatureForPublicKey => {
            CertificateError::BadSignature
        }
        E::RequiredEkuNotFoundContext(_) => CertificateError::InvalidPurpose,
        other => because(format!("X509_verify_cert: certificate verification error at depth 0: {other}")),
    }
}

/// How a host's name is taken into account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Names {
    /// Besides the rules' own matchers.
    Besides,
    /// In their place.
    Instead,
}

/// What both kinds of verifiers say of signatures: their [`Judge`] sees to them.
macro_rules! judged_signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            self.judge.signature_12(message, certificate, signed)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            self.judge.signature_13(message, certificate, signed)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.judge.algorithms.supported_schemes()
        }
    };
}

/// Judges clients.
#[derive(Debug)]
pub(super) struct ClientJudge {
    judge: Judge,
    required: bool,
    hints: Vec<DistinguishedName>,
}

impl ClientJudge {
    pub(super) fn new(judge: Judge, required: bool) -> Self {
        let hints = judge.hints();
        Self { judge, required, hints }
    }
}

impl ClientCertVerifier for ClientJudge {
    fn client_auth_mandatory(&self) -> bool {
        self.required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.judge.judge(leaf, rest, None, now).map(|()| ClientCertVerified::assertion())
    }

    judged_signatures!();
}

/// Judges servers.
#[derive(Debug)]
pub(super) struct ServerJudge {
    pub(super) judge: Arc<Judge>,
    /// The certificate must name the SNI that was sent.
    pub(super) by_sni: bool,
    /// The certificate must name this host.
    pub(super) host: Option<Box<str>>,
}

impl ServerCertVerifier for ServerJudge {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if !self.judge.judges() && self.host.is_none() {
            // Envoy: nothing says how to judge, so nobody does.
            return Ok(ServerCertVerified::assertion());
        }
        let host = match (&self.host, server_name) {
            (Some(host), _) => Some((&**host, Names::Besides)),
            (None, ServerName::DnsName(sni)) if self.by_sni => Some((sni.as_ref(), Names::Instead)),
            _ => None,
        };
        self.judge.judge(leaf, rest, host, now).map(|()| ServerCertVerified::assertion())
    }

    judged_signatures!();
}
