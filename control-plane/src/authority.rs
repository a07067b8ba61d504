//! The built-in authority: one root for the fleet, kept as the Secret `portolan-ca`, and short-lived SPIFFE
//! certificates that it issues to proxies over SDS.
//!
//! | identity | name in the certificate |
//! |---|---|
//! | proxies that stand before a service | `spiffe://TRUST_DOMAIN/service/SERVICE` |
//! | other proxies of a group that a gateway names | `spiffe://TRUST_DOMAIN/group/GROUP` |
//! | proxies of groups that no gateway names | `spiffe://TRUST_DOMAIN/proxy` |
//!
//! Every control plane issues for the proxies that it serves, by the one root; what is issued is kept in memory alone.
//! Time and jitter are arguments.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use time::OffsetDateTime;
use xds_types::portolan::config::v1::{Certificate, Secret, secret::From};

/// Life of the root.
const ROOT_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Certificates count from this long before they are made, so that clocks that are slow take them.
const BACKDATED: Duration = Duration::from_secs(300);
/// Part of a certificate's half life by which its renewal is spread, each way.
const JITTER: f64 = 0.1;

/// For whom a certificate is issued.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Identity {
    /// Proxies that stand before a service.
    Service(Arc<str>),
    /// Proxies of a group.
    Group(Arc<str>),
    /// All others.
    Proxy,
}

impl Identity {
    /// The name in the certificate.
    pub fn uri(&self, trust_domain: &str) -> String {
        format!("spiffe://{trust_domain}/{self}")
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(name) => write!(f, "service/{name}"),
            Self::Group(name) => write!(f, "group/{name}"),
            Self::Proxy => f.write_str("proxy"),
        }
    }
}

/// How certificates are issued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Name of the fleet in identities.
    pub trust_domain: String,
    /// Life of an issued certificate. It is renewed at half of it.
    pub life: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { trust_domain: "portolan".to_owned(), life: Duration::from_secs(24 * 3600) }
    }
}

/// The authority cannot be made or read. Quotes nothing of it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct AuthorityError(String);

impl std::convert::From<rcgen::Error> for AuthorityError {
    fn from(error: rcgen::Error) -> Self {
        Self(match error {
            rcgen::Error::CouldNotParseKeyPair => "the key cannot sign certificates".to_owned(),
            other => other.to_string(),
        })
    }
}

/// A new root for a trust domain.
///
/// # Errors
/// The trust domain cannot be part of a name.
pub fn generate(trust_domain: &str, now: SystemTime) -> Result<Secret, AuthorityError> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, format!("Portolan {trust_domain}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.subject_alt_names = vec![uri(&format!("spiffe://{trust_domain}"))?];
    (params.not_before, params.not_after) = (at(now - BACKDATED), at(now + ROOT_LIFE));
    let chain = params.self_signed(&key)?.pem();
    Ok(Secret {
        from: Some(From::Certificate(Certificate { chain, key: key.serialize_pem() })),
        ..Secret::default()
    })
}

fn uri(text: &str) -> Result<SanType, AuthorityError> {
    Ok(SanType::URI(text.try_into()?))
}

fn at(time: SystemTime) -> OffsetDateTime {
    OffsetDateTime::from(time)
}

/// An issued certificate and its key.
#[derive(Clone, PartialEq, Eq)]
pub struct Issued {
    /// PEM.
    pub chain: String,
    /// PEM.
    pub key: String,
    /// When it ends.
    pub ends: SystemTime,
    /// When another one is to be issued.
    pub renew: SystemTime,
}

impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issued").field("ends", &self.ends).field("renew", &self.renew).finish_non_exhaustive()
    }
}

struct Root {
    /// The Secret's revision and source text, to notice another.
    secret: Secret,
    /// Every certificate of the Secret, PEM: what is trusted.
    bundle: String,
    issuer: Issuer<'static, KeyPair>,
    ends: SystemTime,
}

/// Issues certificates, and keeps what was issued until it is to be renewed.
#[derive(Default)]
pub struct Authority {
    options: Options,
    root: Option<Root>,
    issued: BTreeMap<Identity, Issued>,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("options", &self.options)
            .field("issued", &self.issued)
            .finish_non_exhaustive()
    }
}

impl Authority {
    /// An authority without a root yet.
    pub fn new(options: Options) -> Self {
        Self { options, ..Self::default() }
    }

    /// Takes the root, or another one: everything is issued anew. Without one, nothing is issued, and what was stays.
    ///
    /// # Errors
    /// The Secret is not a certificate that may issue others, with its key. What was there before stays.
    pub fn set_root(&mut self, secret: &Secret) -> Result<(), AuthorityError> {
        if self.root.as_ref().is_some_and(|root| root.secret == *secret) {
            return Ok(());
        }
        let Some(From::Certificate(Certificate { chain, key })) = &secret.from else {
            return Err(AuthorityError(
                "must hold a certificate that may issue others, and its key".to_owned(),
            ));
        };
        let key = KeyPair::from_pem(key)?;
        let (_, pem) = x509_parser::pem::parse_x509_pem(chain.as_bytes())
            .map_err(|_| AuthorityError("holds no certificate in PEM".to_owned()))?;
        let certificate =
            pem.parse_x509().map_err(|_| AuthorityError("certificate is not one of X.509".to_owned()))?;
        if !certificate.is_ca() {
            return Err(AuthorityError("certificate may not issue others (CA:TRUE is missing)".to_owned()));
        }
        let ends = certificate.validity().not_after.timestamp();
        let ends = SystemTime::UNIX_EPOCH + Duration::from_secs(ends.max(0) as u64);
        let issuer = Issuer::from_ca_cert_pem(chain, key)?;
        self.root = Some(Root { secret: secret.clone(), bundle: chain.clone(), issuer, ends });
        self.issued.clear();
        Ok(())
    }

    /// What is trusted, PEM; none without a root.
    pub fn bundle(&self) -> Option<&str> {
        self.root.as_ref().map(|root| root.bundle.as_str())
    }

    /// Name of the fleet in identities.
    pub fn trust_domain(&self) -> &str {
        &self.options.trust_domain
    }

    /// The certificate of an identity, issued when there is none yet or it is to be renewed; `jitter` from 0 to 1 says
    /// when the new one is to be. None without a root.
    pub fn certificate(&mut self, identity: &Identity, now: SystemTime, jitter: f64) -> Option<&Issued> {
        let root = self.root.as_ref()?;
        let due = self.issued.get(identity).is_none_or(|issued| issued.renew <= now);
        if due {
            match issue(root, &self.options, identity, now, jitter) {
                Ok(issued) => drop(self.issued.insert(identity.clone(), issued)),
                // Cannot happen with a root that was read; what was issued before serves on.
                Err(error) => tracing::error!(%identity, %error, "no certificate issued"),
            }
        }
        self.issued.get(identity)
    }

    /// When the next certificate is to be renewed.
    pub fn next_renewal(&self) -> Option<SystemTime> {
        self.issued.values().map(|issued| issued.renew).min()
    }

    /// Forgets what is issued to others than these.
    pub fn retain(&mut self, identities: &BTreeSet<Identity>) {
        self.issued.retain(|identity, _| identities.contains(identity));
    }
}

fn issue(
    root: &Root,
    options: &Options,
    identity: &Identity,
    now: SystemTime,
    jitter: f64,
) -> Result<Issued, AuthorityError> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Portolan");
    params.subject_alt_names = vec![uri(&identity.uri(&options.trust_domain))?];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    let ends = (now + options.life).min(root.ends);
    (params.not_before, params.not_after) = (at(now - BACKDATED), at(ends));
    let chain = params.signed_by(&key, &root.issuer)?.pem();
    let half = ends.duration_since(now).unwrap_or_default() / 2;
    let renew = now + half.mul_f64(1.0 + JITTER * (2.0 * jitter.clamp(0.0, 1.0) - 1.0));
    Ok(Issued { chain, key: key.serialize_pem(), ends, renew })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls_pki_types::pem::PemObject as _;
    use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    fn web() -> Identity {
        Identity::Service("web".into())
    }

    fn authority() -> Authority {
        let mut authority = Authority::new(Options { life: Duration::from_secs(3600), ..Options::default() });
        authority.set_root(&generate("portolan", now()).unwrap()).unwrap();
        authority
    }

    #[test]
    fn what_is_issued_is_trusted_by_the_bundle_for_both_ends() {
        let mut authority = authority();
        let issued = authority.certificate(&web(), now(), 0.5).unwrap().clone();
        let leaf = CertificateDer::from_pem_slice(issued.chain.as_bytes()).unwrap();
        let names = crate::secret::certificate::names_of(&leaf);
        assert_eq!(names, ["URI:spiffe://portolan/service/web"], "one name, as SPIFFE wants it");
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.bundle().unwrap().as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let time = UnixTime::since_unix_epoch(now().duration_since(SystemTime::UNIX_EPOCH).unwrap());
        let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
            Arc::new(roots.clone()),
            provider.clone(),
        )
        .build()
        .unwrap();
        verifier.verify_client_cert(&leaf, &[], time).unwrap();
        let server = rustls::client::WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .unwrap();
        use rustls::client::danger::ServerCertVerifier as _;
        let told = server.verify_server_cert(&leaf, &[], &ServerName::try_from("x").unwrap(), &[], time);
        let error = told.unwrap_err().to_string();
        assert!(error.contains("not valid for name"), "only the name is not that of a host: {error}");
    }

    #[test]
    fn certificates_are_renewed_at_half_of_their_life_with_jitter() {
        let mut authority = authority();
        let first = authority.certificate(&web(), now(), 0.0).unwrap().clone();
        assert_eq!(first.renew, now() + Duration::from_secs(1620));
        assert_eq!(authority.certificate(&web(), first.renew - Duration::from_secs(1), 0.0), Some(&first));
        let second = authority.certificate(&web(), first.renew, 1.0).unwrap().clone();
        assert_ne!(first.chain, second.chain);
        assert_eq!(second.renew, first.renew + Duration::from_secs(1980));
        assert_eq!(authority.next_renewal(), Some(second.renew));
    }

    #[test]
    fn another_root_issues_everything_anew_and_the_same_one_nothing() {
        let mut authority = authority();
        let first = authority.certificate(&web(), now(), 0.5).unwrap().clone();
        let same = authority.root.as_ref().unwrap().secret.clone();
        authority.set_root(&same).unwrap();
        assert_eq!(authority.certificate(&web(), now(), 0.5), Some(&first));
        authority.set_root(&generate("portolan", now()).unwrap()).unwrap();
        assert_ne!(authority.certificate(&web(), now(), 0.5), Some(&first));
    }

    #[test]
    fn a_certificate_that_may_not_issue_is_no_root() {
        let mut authority = authority();
        let issued = authority.certificate(&web(), now(), 0.5).unwrap().clone();
        let leaf = Secret {
            from: Some(From::Certificate(Certificate { chain: issued.chain, key: issued.key })),
            ..Secret::default()
        };
        assert!(authority.set_root(&leaf).unwrap_err().to_string().contains("CA:TRUE"));
        assert!(authority.bundle().is_some(), "the one before stays");
    }

    #[test]
    fn no_certificate_outlives_the_root() {
        let mut authority = authority();
        let late = now() + ROOT_LIFE - Duration::from_secs(60);
        assert_eq!(authority.certificate(&web(), late, 0.5).unwrap().ends, now() + ROOT_LIFE);
    }

    #[test]
    fn keys_never_show() {
        let mut authority = authority();
        authority.certificate(&web(), now(), 0.5);
        assert!(!format!("{authority:?}").contains("PRIVATE"));
    }
}
