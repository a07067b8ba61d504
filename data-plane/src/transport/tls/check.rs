//! Reading secrets, and whether they can be used. What is wrong with one is told without its content.

use data_plane_core::certificate::Certificate;
use data_plane_core::config::{SecretKind, TlsCertificate, ValidationContext};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::CertifiedKey;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Whether a secret can be used: it can be read, its key is the certificate's, its certificate has not expired. A
/// certificate that is not valid yet is taken: clocks differ. Authorities may have expired: bundles hold such.
///
/// # Errors
/// Why not, in words that show no content.
pub fn check(kind: &SecretKind, now: SystemTime) -> Result<(), String> {
    match kind {
        SecretKind::Certificate(certificate) => {
            let key = certified_key(certificate)?;
            expired(&key.cert[0], now)
        }
        SecretKind::Validation(context) => check_validation(context),
        // Their lengths were checked.
        SecretKind::TicketKeys(_) | SecretKind::Generic(_) => Ok(()),
    }
}

/// A certificate with its chain, key and OCSP staple, ready for handshakes.
///
/// # Errors
/// What is wrong with it, in words that show no content.
pub fn certified_key(certificate: &TlsCertificate) -> Result<CertifiedKey, String> {
    let chain =
        certificates(&certificate.chain_pem).map_err(|problem| format!("certificate_chain: {problem}"))?;
    let key = PrivateKeyDer::from_pem_slice(certificate.key_pem.expose())
        .map_err(|_| "private_key: is not an unencrypted private key in PEM form".to_owned())?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let key = provider
        .key_provider
        .load_private_key(key)
        .map_err(|_| "private_key: is of no type that is supported (RSA, ECDSA, Ed25519)".to_owned())?;
    let mut certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
        Err(rustls::Error::InconsistentKeys(_)) => {
            return Err("private_key: does not belong to the certificate".into());
        }
        Err(error) => return Err(format!("certificate_chain: {error}")),
    }
    certified.ocsp = certificate.ocsp_staple.as_ref().map(|staple| staple.to_vec());
    Ok(certified)
}

/// The certificates of a PEM text, at least one.
///
/// # Errors
/// Which of them is none.
pub fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let mut out = Vec::new();
    for (index, der) in CertificateDer::pem_slice_iter(pem).enumerate() {
        let der = der.map_err(|_| "is not PEM".to_owned())?;
        Certificate::parse(&der).map_err(|_| format!("number {} is not a certificate", index + 1))?;
        out.push(der);
    }
    if out.is_empty() { Err("holds no certificate in PEM form".into()) } else { Ok(out) }
}

/// The revocation lists of a PEM text, at least one.
///
/// # Errors
/// That there is none.
pub fn revocation_lists(pem: &[u8]) -> Result<Vec<CertificateRevocationListDer<'static>>, String> {
    let lists: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(pem).collect();
    match lists {
        Ok(lists) if !lists.is_empty() => Ok(lists),
        Ok(_) => Err("holds no revocation list in PEM form".into()),
        Err(_) => Err("is not PEM".into()),
    }
}

fn check_validation(context: &ValidationContext) -> Result<(), String> {
    let mut roots = RootCertStore::empty();
    if let Some(pem) = &context.trusted_ca {
        for der in certificates(pem).map_err(|problem| format!("trusted_ca: {problem}"))? {
            roots
                .add(der)
                .map_err(|_| "trusted_ca: holds a certificate that cannot be an authority".to_owned())?;
        }
    }
    let Some(pem) = &context.crl else { return Ok(()) };
    let lists = revocation_lists(pem).map_err(|problem| format!("crl: {problem}"))?;
    if roots.is_empty() {
        return Ok(());
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let built =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).with_crls(lists).build();
    built.map(drop).map_err(|error| format!("crl: {error}"))
}

fn expired(der: &CertificateDer<'_>, now: SystemTime) -> Result<(), String> {
    let Ok(certificate) = Certificate::parse(der) else { return Ok(()) };
    let now = now.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64);
    if certificate.not_after >= now {
        return Ok(());
    }
    let end = OffsetDateTime::from_unix_timestamp(certificate.not_after);
    let end = end.ok().and_then(|end| end.format(&Rfc3339).ok()).unwrap_or_default();
    Err(format!("certificate_chain: the certificate expired at {end}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use data_plane_core::config::Sensitive;

    /// A self-signed certificate and its key.
    fn pair() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(["server.example.com".to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    fn certificate(chain: &str, key: &str) -> SecretKind {
        SecretKind::Certificate(Arc::new(TlsCertificate {
            chain_pem: chain.as_bytes().into(),
            chain_origin: "<inline>".into(),
            key_pem: Sensitive::new(key.as_bytes().into()),
            ocsp_staple: None,
        }))
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + std::time::Duration::from_secs(seconds)
    }

    /// Within the certificate's life.
    fn now() -> SystemTime {
        at(1_800_000_000)
    }

    #[test]
    fn a_certificate_with_its_key_is_taken_until_it_expires() {
        let (chain, key) = pair();
        let good = certificate(&chain, &key);
        assert_eq!(check(&good, now()), Ok(()));
        assert_eq!(check(&good, at(1)), Ok(()), "one that is not valid yet is taken");
        let late = check(&good, at(100_000_000_000)).unwrap_err();
        assert!(late.starts_with("certificate_chain: the certificate expired at 4"), "{late}");
    }

    #[test]
    fn what_cannot_be_used_is_refused_without_showing_it() {
        let ((chain, key), (_, other_key)) = (pair(), pair());
        let (chain, key, other_key) = (chain.as_str(), key.as_str(), other_key.as_str());
        let cut = &chain[..chain.len() / 2];
        for (chain, key, why) in [
            (chain, other_key, "private_key: does not belong to the certificate"),
            (chain, chain, "private_key: is not an unencrypted private key in PEM form"),
            (chain, "PLANTED", "private_key: is not an unencrypted private key in PEM form"),
            (key, key, "certificate_chain: holds no certificate in PEM form"),
            ("PLANTED", key, "certificate_chain: holds no certificate in PEM form"),
            (cut, key, "certificate_chain: is not PEM"),
            (
                "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
                key,
                "certificate_chain: number 1 is not a certificate",
            ),
        ] {
            assert_eq!(check(&certificate(chain, key), now()), Err(why.into()));
        }
    }

    #[test]
    fn authorities_and_revocation_lists_must_be_readable() {
        let (chain, _) = pair();
        let context = |ca: Option<&str>, crl: Option<&str>| {
            let bytes = |text: &str| Arc::<[u8]>::from(text.as_bytes());
            let context =
                ValidationContext { trusted_ca: ca.map(bytes), crl: crl.map(bytes), ..Default::default() };
            SecretKind::Validation(Arc::new(context))
        };
        assert_eq!(check(&context(Some(&chain), None), now()), Ok(()));
        let garbage = check(&context(Some("x"), None), now());
        assert_eq!(garbage, Err("trusted_ca: holds no certificate in PEM form".into()));
        let garbage = check(&context(Some(&chain), Some("x")), now());
        assert_eq!(garbage, Err("crl: holds no revocation list in PEM form".into()));
    }
}
