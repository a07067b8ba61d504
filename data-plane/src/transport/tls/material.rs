//! Certificates, keys and authorities out of PEM, checked before anything is built from them.

use super::check;
use data_plane_core::certificate::Certificate;
use data_plane_core::config::{CommonTls, SecretSource, TlsCertificate, ValidationContext, ValidationSource};
use data_plane_core::headers::CertificateFacts;
use rustls::pki_types::{CertificateDer, TrustAnchor};
use rustls::sign::CertifiedKey;
use std::sync::Arc;
use webpki::{CertRevocationList, OwnedCertRevocationList};

/// An own certificate with its key.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    pub(super) key: Arc<CertifiedKey>,
    pub(super) facts: Arc<CertificateFacts>,
}

/// What is known of one certificate.
pub(super) fn facts(der: &[u8]) -> Option<CertificateFacts> {
    use ::aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
    let certificate = Certificate::parse(der).ok()?;
    let hex = |bytes: &[u8]| data_plane_core::certificate::hex(bytes).into_boxed_str();
    Some(CertificateFacts {
        sha256: hex(digest(&SHA256, der).as_ref()),
        sha1: hex(digest(&SHA1_FOR_LEGACY_USE_ONLY, der).as_ref()),
        certificate,
        der: der.into(),
    })
}

/// SHA-256.
pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(::aws_lc_rs::digest::digest(&::aws_lc_rs::digest::SHA256, bytes).as_ref());
    out
}

/// The certificate and its key, if they belong together.
pub(super) fn identity(config: &TlsCertificate) -> Result<Identity, String> {
    let certified = check::certified_key(config)?;
    let leaf = certified.cert.first().and_then(|leaf| facts(leaf));
    let facts = leaf.ok_or("certificate_chain: the first certificate cannot be read")?;
    Ok(Identity { key: Arc::new(certified), facts: Arc::new(facts) })
}

/// An authority: as verification takes it, and as it is.
#[derive(Debug)]
pub(super) struct Authority {
    pub(super) der: CertificateDer<'static>,
    pub(super) not_before: i64,
    pub(super) not_after: i64,
}

/// What peers' chains must end in.
#[derive(Debug, Default)]
pub(super) struct Authorities {
    pub(super) anchors: Vec<TrustAnchor<'static>>,
    /// In the order of `anchors`.
    pub(super) certificates: Vec<Authority>,
}

/// The authorities of a context; `None` when chains are not verified.
pub(super) fn authorities(config: &ValidationContext) -> Result<Option<Authorities>, String> {
    let mut found = Authorities::default();
    if let Some(pem) = &config.trusted_ca {
        for der in check::certificates(pem).map_err(|e| format!("trusted_ca: {e}"))? {
            found.add(der).ok_or("trusted_ca: holds something that is not a certificate")?;
        }
    } else if config.system_roots {
        for der in rustls_native_certs::load_native_certs().certs {
            // The system's list may hold what we cannot use.
            found.add(der);
        }
        if found.anchors.is_empty() {
            return Err("system_root_certs: the system has none".into());
        }
    } else {
        return Ok(None);
    }
    Ok(Some(found))
}

impl Authorities {
    fn add(&mut self, der: CertificateDer<'static>) -> Option<()> {
        let read = Certificate::parse(&der).ok()?;
        self.anchors.push(webpki::anchor_from_trusted_cert(&der).ok()?.to_owned());
        self.certificates.push(Authority { not_before: read.not_before, not_after: read.not_after, der });
        Some(())
    }
}

/// Revocation lists, ready to be looked up.
pub(super) fn revocation_lists(pem: &[u8]) -> Result<Vec<CertRevocationList<'static>>, String> {
    check::revocation_lists(pem)
        .map_err(|e| format!("crl: {e}"))?
        .iter()
        .map(|der| OwnedCertRevocationList::from_der(der).map(CertRevocationList::Owned))
        .collect::<Result<_, _>>()
        .map_err(|error| format!("crl: {error}"))
}

/// Whether what a context has in place can be used.
pub(super) fn check_inline(common: &CommonTls) -> Result<(), String> {
    for source in &common.certificates {
        if let SecretSource::Inline(certificate) = source {
            identity(certificate)?;
        }
    }
    match &common.validation {
        Some(ValidationSource::Inline(context) | ValidationSource::Combined { default: context, .. }) => {
            authorities(context)?;
            context.crl.as_deref().map(revocation_lists).transpose().map(drop)
        }
        Some(ValidationSource::Sds(_)) | None => Ok(()),
    }
}
