//! What certificates and keys say, and whether they fit.

use std::time::{Duration, SystemTime};

use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use xds_types::google::protobuf::Timestamp;
use xds_types::portolan::config::v1::{
    Authorities, Certificate, CertificateFacts, Secret, Value, secret::From,
};

use super::vault::hex;
use crate::model::{ObjectKey, Problems};

/// A certificate that ends within this time is warned of.
const SOON: Duration = Duration::from_secs(14 * 24 * 3600);
/// Certificates in one secret.
const MAX_CERTIFICATES: usize = 64;

/// Checks what a secret holds: it parses, keys fit, nothing has expired. Answers what may be shown.
pub fn check(
    key: &ObjectKey,
    secret: &Secret,
    now: SystemTime,
    found: &mut Problems,
) -> Vec<CertificateFacts> {
    match &secret.from {
        Some(From::Certificate(Certificate { chain, key: private })) => {
            let ders = certificates(key, "spec.certificate.chain", chain, found);
            let facts = all_facts(key, "spec.certificate.chain", &ders, found);
            if let Some(leaf) = facts.first() {
                check_time(key, "spec.certificate.chain", leaf, now, found);
            }
            if let Err(message) = fits(&ders, private) {
                found.error(key, "spec.certificate.key", message);
            }
            facts
        }
        Some(From::Authorities(Authorities { certificates: pem, revocation_lists })) => {
            let path = "spec.authorities.certificates";
            let ders = certificates(key, path, pem, found);
            let facts = all_facts(key, path, &ders, found);
            for one in &facts {
                check_time(key, path, one, now, found);
            }
            if !revocation_lists.trim().is_empty() {
                let lists: Result<Vec<_>, _> =
                    CertificateRevocationListDer::pem_slice_iter(revocation_lists.as_bytes()).collect();
                if !lists.is_ok_and(|l| !l.is_empty()) {
                    found.error(key, "spec.authorities.revocation_lists", "holds no revocation list in PEM");
                }
            }
            facts
        }
        Some(From::Value(Value { text })) => {
            if text.is_empty() {
                found.error(key, "spec.value.text", "must not be empty");
            }
            Vec::new()
        }
        Some(From::Sealed(_)) | None => Vec::new(),
    }
}

/// The certificates of a PEM text.
fn certificates(
    key: &ObjectKey,
    path: &str,
    pem: &str,
    found: &mut Problems,
) -> Vec<CertificateDer<'static>> {
    let ders: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match ders {
        Ok(ders) if ders.is_empty() => found.error(key, path, "holds no certificate in PEM"),
        Ok(ders) if ders.len() > MAX_CERTIFICATES => {
            found.error(key, path, format!("holds more than {MAX_CERTIFICATES} certificates"));
        }
        Ok(ders) => return ders,
        // The parser's own words may quote what it was given.
        Err(_) => found.error(key, path, "is not PEM"),
    }
    Vec::new()
}

fn all_facts(
    key: &ObjectKey,
    path: &str,
    ders: &[CertificateDer<'_>],
    found: &mut Problems,
) -> Vec<CertificateFacts> {
    let mut all = Vec::new();
    for (i, der) in ders.iter().enumerate() {
        match facts(der) {
            Some(facts) => all.push(facts),
            None => found.error(key, path, format!("certificate {i} is not one of X.509")),
        }
    }
    all
}

/// What may be shown of a certificate.
pub fn facts(der: &[u8]) -> Option<CertificateFacts> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let at = |seconds: i64| Some(Timestamp { seconds, nanos: 0 });
    let validity = certificate.validity();
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, der);
    Some(CertificateFacts {
        subject: certificate.subject().to_string(),
        names: names(&certificate),
        fingerprint: hex(hash.as_ref()),
        not_before: at(validity.not_before.timestamp()),
        not_after: at(validity.not_after.timestamp()),
    })
}

fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return Vec::new() };
    let one = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(dns) => Some(format!("DNS:{dns}")),
        GeneralName::URI(uri) => Some(format!("URI:{uri}")),
        GeneralName::IPAddress(bytes) => {
            let ip = match <[u8; 4]>::try_from(*bytes) {
                Ok(v4) => std::net::IpAddr::from(v4),
                Err(_) => std::net::IpAddr::from(<[u8; 16]>::try_from(*bytes).ok()?),
            };
            Some(format!("IP:{ip}"))
        }
        _ => None,
    };
    extension.value.general_names.iter().filter_map(one).collect()
}

/// The names in a certificate, as `DNS:`, `URI:` and `IP:`. Empty when it cannot be read.
pub fn names_of(der: &[u8]) -> Vec<String> {
    X509Certificate::from_der(der).map(|(_, c)| names(&c)).unwrap_or_default()
}

fn check_time(key: &ObjectKey, path: &str, facts: &CertificateFacts, now: SystemTime, found: &mut Problems) {
    let now = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64);
    let (from, until) =
        (facts.not_before.map_or(0, |t| t.seconds), facts.not_after.map_or(i64::MAX, |t| t.seconds));
    let subject = &facts.subject;
    if until <= now {
        let message = format!("certificate `{subject}` expired {} ago", days(now - until));
        found.error(key, path, message);
    } else if from > now {
        found.warn(key, path, format!("certificate `{subject}` is valid only in {}", days(from - now)));
    } else if until - now < SOON.as_secs() as i64 {
        found.warn(key, path, format!("certificate `{subject}` expires in {}", days(until - now)));
    }
}

fn days(seconds: i64) -> String {
    match seconds {
        0..3600 => format!("{seconds} s"),
        3600..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// Whether a private key in PEM is that of the first certificate. The reasons never quote it.
fn fits(chain: &[CertificateDer<'static>], private: &str) -> Result<(), &'static str> {
    if private.contains("ENCRYPTED") {
        return Err("is encrypted by a password: decrypt it first (`openssl pkey`); it is stored encrypted");
    }
    let der = PrivateKeyDer::from_pem_slice(private.as_bytes()).map_err(|_| "is not a private key in PEM")?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let key = provider
        .key_provider
        .load_private_key(der)
        .map_err(|_| "is of a kind that TLS does not use: RSA of 2048 bits or more, P-256, P-384, P-521 and Ed25519 are")?;
    if chain.is_empty() {
        return Ok(()); // said already
    }
    match rustls::sign::CertifiedKey::new(chain.to_vec(), key).keys_match() {
        Ok(()) => Ok(()),
        Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::KeyMismatch)) => {
            Err("does not belong to the first certificate of the chain")
        }
        Err(_) => Err("cannot be compared with the first certificate of the chain"),
    }
}

#[cfg(test)]
mod tests;
