//! An authority of the tests, and the certificates that it issues.

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use time::OffsetDateTime;

/// An authority.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its certificate, PEM.
    pub pem: String,
}

/// A certificate and its key, PEM.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The certificate.
    pub chain: String,
    /// The key.
    pub key: String,
}

impl Authority {
    /// A new one.
    ///
    /// # Errors
    /// The name cannot be one.
    pub fn new(name: &str) -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let pem = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), pem })
    }

    /// A certificate for these names, of a day: host names, IP addresses, URIs.
    ///
    /// # Errors
    /// A name cannot be one.
    pub fn issue(&self, names: &[&str]) -> Result<Pair> {
        let now = SystemTime::now();
        self.issue_until(names, now + Duration::from_secs(86_400))
    }

    /// The same, with another end.
    ///
    /// # Errors
    /// A name cannot be one.
    pub fn issue_until(&self, names: &[&str], ends: SystemTime) -> Result<Pair> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, names[0]);
        for name in names {
            params.subject_alt_names.push(match name.parse() {
                Ok(ip) => SanType::IpAddress(ip),
                Err(_) if name.contains("://") => SanType::URI((*name).try_into()?),
                Err(_) => SanType::DnsName((*name).try_into()?),
            });
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.not_before = OffsetDateTime::now_utc() - time::Duration::days(2);
        params.not_after = ends.into();
        let chain = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Pair { chain, key: key.serialize_pem() })
    }

    /// Writes the authority to `DIR/ca.pem`.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, dir: &Path) -> Result<PathBuf> {
        let path = dir.join("ca.pem");
        std::fs::write(&path, &self.pem)?;
        Ok(path)
    }
}

impl Pair {
    /// Writes it to `DIR/NAME.pem` and `DIR/NAME.key`.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, dir: &Path, name: &str) -> Result<(PathBuf, PathBuf)> {
        let (chain, key) = (dir.join(format!("{name}.pem")), dir.join(format!("{name}.key")));
        std::fs::write(&chain, &self.chain)?;
        std::fs::write(&key, &self.key)?;
        Ok((chain, key))
    }

    /// As lines of YAML, `indent` deep.
    pub fn yaml(&self, indent: usize) -> String {
        let block = |name: &str, pem: &str| {
            let pad = " ".repeat(indent);
            let lines: String = pem.lines().map(|l| format!("{pad}  {l}\n")).collect();
            format!("{pad}{name}: |\n{lines}")
        };
        block("chain", &self.chain) + &block("key", &self.key)
    }
}
