//! TLS of accepted connections.

use super::material::{self, Identity};
use super::provider;
use super::reason::HandshakeError;
use super::rebuilt::Rebuilt;
use super::secrets::Source;
use super::stats::TlsStats;
use super::tickets::{OwnKeys, SESSION_LIFE, Ticketer};
use super::verify::{ClientJudge, Judge, Peer};
use super::{facts_of, slot::SecretSlots};
use data_plane_core::certificate::{KeyKind, dns_matches};
use data_plane_core::config::{DownstreamTls, OcspPolicy, SessionTickets, TicketKeys, TlsVersion};
use data_plane_core::headers::Tls;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, ServerSessionMemoryCache};
use rustls::sign::CertifiedKey;
use rustls::{CipherSuite, NamedGroup, ServerConfig, SignatureScheme, SupportedCipherSuite};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::LazyConfigAcceptor;

/// Sessions of TLS 1.2 remembered by a listener's chain (BoringSSL's default is 20 Ki; tickets serve nearly all).
const SESSIONS: usize = 1024;

/// TLS of a filter chain: built from its configuration and secrets, and built anew when a secret changes.
pub struct ServerContext {
    config: Arc<DownstreamTls>,
    stats: TlsStats,
    built: Rebuilt<Built>,
}

impl std::fmt::Debug for ServerContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerContext").field("ready", &self.built.is_ready()).finish_non_exhaustive()
    }
}

struct Built {
    entries: Vec<Entry>,
    exact: HashMap<Box<str>, Vec<usize>>,
    wildcard: HashMap<Box<str>, Vec<usize>>,
}

/// One certificate.
struct Entry {
    identity: Identity,
    /// By [`Manner`].
    configs: [Arc<ServerConfig>; 4],
}

/// What rustls does by configuration, and a client's hello decides.
#[derive(Clone, Copy)]
struct Manner {
    /// The client offers a protocol of ours, or none: Envoy goes on without one, where rustls would refuse.
    alpn: bool,
    /// See [`wants_shorter_aes`].
    own_order: bool,
}

impl Manner {
    const ALL: [Self; 4] = [
        Self { alpn: false, own_order: false },
        Self { alpn: true, own_order: false },
        Self { alpn: false, own_order: true },
        Self { alpn: true, own_order: true },
    ];

    fn index(self) -> usize {
        usize::from(self.alpn) + 2 * usize::from(self.own_order)
    }
}

/// A connection past its handshake.
pub struct Accepted {
    /// Its bytes.
    pub stream: Box<tokio_rustls::server::TlsStream<TcpStream>>,
    /// What was agreed upon.
    pub facts: Arc<Tls>,
}

#[derive(Debug)]
struct Only(Arc<CertifiedKey>);

impl ResolvesServerCert for Only {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

impl ServerContext {
    /// Builds it, unless secrets are still to come.
    ///
    /// # Errors
    /// A certificate, key or authority written in place cannot be used.
    pub fn new(
        config: Arc<DownstreamTls>,
        slots: &SecretSlots,
        stats: TlsStats,
    ) -> Result<Arc<Self>, String> {
        let source = Source::new(config.secrets(), slots);
        let built = Rebuilt::new(source, |source| Self::build(&config, &stats, source))?;
        Ok(Arc::new(Self { config, stats, built }))
    }

    fn current(&self) -> Option<Arc<Built>> {
        self.built.current(|source| Self::build(&self.config, &self.stats, source))
    }

    fn build(tls: &DownstreamTls, stats: &TlsStats, source: &Source) -> Result<Built, String> {
        let provider = provider::provider(&tls.common.params);
        let identities = tls
            .common
            .certificates
            .iter()
            .map(|certificate| material::identity(&*source.certificate(certificate)?))
            .collect::<Result<Vec<_>, _>>()?;
        let rules = source.validation(tls.common.validation.as_ref())?;
        let algorithms = provider.signature_verification_algorithms;
        let bound_to = digest(tls, &identities, rules.as_deref());
        let judge = match rules {
            Some(rules) => Some(Judge::new(Peer::Client, rules, algorithms, stats.clone())?),
            None => None,
        };
        let judge = judge.filter(|judge| judge.judges() || tls.require_client_certificate);
        if judge.is_none() && tls.require_client_certificate {
            return Err("require_client_certificate needs a validation_context".into());
        }
        let judge = judge.map(|judge| Arc::new(ClientJudge::new(judge, tls.require_client_certificate)));
        let life = tls.session_timeout.unwrap_or(SESSION_LIFE);
        let ticketer = match &tls.tickets {
            SessionTickets::Off => None,
            // With new secrets come new keys, as with a new context of Envoy's: no session outlives its certificate.
            SessionTickets::Own => Some(Ticketer::own(Arc::new(OwnKeys::new()), life, bound_to)),
            SessionTickets::Keys(keys) => {
                let keys: Arc<TicketKeys> = source.ticket_keys(keys)?;
                Some(Ticketer::shared(&keys, life, bound_to)?)
            }
        };
        let ticketer = ticketer.map(Arc::new);
        let mut base = {
            let builder = ServerConfig::builder_with_provider(provider)
                .with_protocol_versions(&provider::versions(&tls.common.params))
                .map_err(|error| format!("tls_params: {error}"))?;
            let builder = match judge {
                Some(judge) => builder.with_client_cert_verifier(judge),
                None => builder.with_no_client_auth(),
            };
            let first = identities.first().ok_or("a server needs a certificate")?;
            builder.with_cert_resolver(Arc::new(Only(Arc::clone(&first.key))))
        };
        base.alpn_protocols = tls.common.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        // Only suites that were put in an order ask for the server's to count. TLS 1.3: see `wants_shorter_aes`.
        base.ignore_client_order = !tls.prefer_client_ciphers
            && !tls.common.params.suites.is_empty()
            && tls.common.params.max == TlsVersion::V12;
        match ticketer {
            Some(ticketer) => base.ticketer = ticketer,
            None => base.send_tls13_tickets = 0,
        }
        base.session_storage = if tls.remember_sessions {
            ServerSessionMemoryCache::new(SESSIONS)
        } else {
            Arc::new(NoServerSessionStorage {})
        };
        let mut built = Built { entries: Vec::new(), exact: HashMap::new(), wildcard: HashMap::new() };
        for (index, identity) in identities.into_iter().enumerate() {
            if tls.ocsp == OcspPolicy::Must && identity.key.ocsp.is_none() {
                return Err("ocsp_staple_policy: MUST_STAPLE, and a certificate has no ocsp_staple".into());
            }
            built.index(index, &identity);
            let configs = Manner::ALL.map(|manner| {
                let mut config = base.clone();
                config.cert_resolver = Arc::new(Only(Arc::clone(&identity.key)));
                if !manner.alpn {
                    config.alpn_protocols.clear();
                }
                config.ignore_client_order |= manner.own_order;
                Arc::new(config)
            });
            built.entries.push(Entry { identity, configs });
        }
        Ok(built)
    }

    /// Whether connections can be accepted.
    pub fn is_ready(&self) -> bool {
        self.current().is_some()
    }

    /// The server's side of a handshake. No deadline: the caller owns it.
    ///
    /// # Errors
    /// It failed; the failure is counted.
    pub async fn accept(&self, stream: TcpStream) -> Result<Accepted, HandshakeError> {
        let Some(built) = self.current() else {
            return Err(HandshakeError::plain("TLS_error:_secret_is_not_supplied"));
        };
        let handshake = async {
            let start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream).await?;
            let (entry, manner) = {
                let hello = start.client_hello();
                let entry = built.choose(&hello, &self.config);
                let ours = &self.config.common.alpn;
                let alpn = hello.alpn().is_none_or(|mut offered| {
                    offered.any(|name| ours.iter().any(|own| own.as_bytes() == name))
                });
                let own_order =
                    !self.config.prefer_client_ciphers && wants_shorter_aes(hello.cipher_suites());
                (entry, Manner { alpn, own_order })
            };
            let stream = start.into_stream(Arc::clone(entry.config(manner))).await?;
            Ok::<_, std::io::Error>((stream, &entry.identity.facts))
        };
        let (stream, local) = match handshake.await {
            Ok(done) => done,
            Err(error) => {
                let error = HandshakeError::new(&error);
                let counts = &self.stats.handshakes;
                if error.no_certificate {
                    counts.fail_verify_no_cert.inc();
                } else if !error.counted && !error.closed {
                    counts.connection_error.inc();
                }
                return Err(error);
            }
        };
        let connection = stream.get_ref().1;
        let facts = Arc::new(facts_of(connection, Some(Arc::clone(local)), &self.stats));
        Ok(Accepted { stream: Box::new(stream), facts })
    }
}

/// What sessions depend on: a session given under other rules is not resumed.
fn digest(
    tls: &DownstreamTls,
    identities: &[Identity],
    rules: Option<&data_plane_core::config::ValidationContext>,
) -> [u8; 32] {
    let mut text = format!("{:?} {rules:?}", tls.require_client_certificate);
    for identity in identities {
        let certificate = &identity.facts.certificate;
        text.push_str(&format!(" {} {:?}", certificate.subject, certificate.sans));
    }
    material::sha256(text.as_bytes())
}

impl Built {
    /// Envoy: DNS names, or without any the common name.
    fn index(&mut self, at: usize, identity: &Identity) {
        let certificate = &identity.facts.certificate;
        let mut names: Vec<String> = certificate.dns_names().map(str::to_ascii_lowercase).collect();
        if names.is_empty() {
            names.extend(certificate.common_name.as_deref().map(str::to_ascii_lowercase));
        }
        for name in names {
            let (map, key) = match name.strip_prefix('*') {
                Some(suffix) => (&mut self.wildcard, suffix),
                None => (&mut self.exact, name.as_str()),
            };
            map.entry(key.into()).or_default().push(at);
        }
    }

    /// The certificate for a client: by name, then by the kinds of keys that it knows (Envoy
    /// `DefaultTlsCertificateSelector`).
    fn choose(&self, hello: &ClientHello<'_>, tls: &DownstreamTls) -> &Entry {
        let first = &self.entries[0];
        if self.entries.len() == 1 {
            return first;
        }
        let speaks_13 = tls.common.params.max == TlsVersion::V13;
        let pick = |candidates: &mut dyn Iterator<Item = usize>| -> Option<usize> {
            let mut found: Option<(usize, bool)> = None;
            for at in candidates.filter(|at| self.entries[*at].serves(hello, speaks_13)) {
                let ecdsa = self.entries[at].identity.facts.certificate.key == KeyKind::Ecdsa;
                if found.is_none_or(|(_, known)| ecdsa && !known) {
                    found = Some((at, ecdsa));
                }
            }
            found.map(|(at, _)| at)
        };
        let mut scans = true;
        // Names have no case (RFC 6066, section 3; Envoy compares them as they came).
        if let Some(name) = hello.server_name().map(str::to_ascii_lowercase) {
            let suffix = name.find('.').map(|at| &name[at..]);
            let by_name =
                [self.exact.get(name.as_str()), suffix.and_then(|suffix| self.wildcard.get(suffix))];
            let mut named = None;
            for candidates in by_name.into_iter().flatten() {
                named = named.or(candidates.first().copied());
                if let Some(at) = pick(&mut candidates.iter().copied()) {
                    return &self.entries[at];
                }
            }
            if let Some(at) = named {
                return &self.entries[at];
            }
            debug_assert!(!self.exact.keys().any(|pattern| dns_matches(&name, pattern)));
            scans = tls.full_scan_on_sni_mismatch;
        }
        let scanned = if scans { pick(&mut (0..self.entries.len())) } else { None };
        scanned.map_or(first, |at| &self.entries[at])
    }
}

/// Whether the shorter AES of TLS 1.3 is taken though the client names the longer first, as OpenSSL's do by habit: it
/// is as safe for all that is known, and with it comes the hash that processors have instructions for, which saves an
/// eighth of a handshake. Who names ChaCha20 first has no AES in hardware, and gets that.
fn wants_shorter_aes(offered: &[CipherSuite]) -> bool {
    const LONGER: CipherSuite = CipherSuite::TLS13_AES_256_GCM_SHA384;
    const SHORTER: CipherSuite = CipherSuite::TLS13_AES_128_GCM_SHA256;
    let named = [LONGER, SHORTER, CipherSuite::TLS13_CHACHA20_POLY1305_SHA256];
    offered.iter().find(|suite| named.contains(suite)) == Some(&LONGER) && offered.contains(&SHORTER)
}

impl Entry {
    fn config(&self, manner: Manner) -> &Arc<ServerConfig> {
        &self.configs[manner.index()]
    }

    /// Whether a client can do with its key, as far as its hello tells. In TLS 1.2 an ECDSA key needs a suite and its
    /// curve besides a way of signing.
    fn serves(&self, hello: &ClientHello<'_>, speaks_13: bool) -> bool {
        let Some(signer) = self.identity.key.key.choose_scheme(hello.signature_schemes()) else {
            return false;
        };
        let curve = match signer.scheme() {
            SignatureScheme::ECDSA_NISTP256_SHA256 => NamedGroup::secp256r1,
            SignatureScheme::ECDSA_NISTP384_SHA384 => NamedGroup::secp384r1,
            SignatureScheme::ECDSA_NISTP521_SHA512 => NamedGroup::secp521r1,
            _ => return true,
        };
        let ours = &self.configs[0].crypto_provider().cipher_suites;
        let mut shared = ours.iter().filter(|suite| hello.cipher_suites().contains(&suite.suite()));
        if speaks_13 && shared.clone().any(|suite| suite.tls13().is_some()) {
            return true;
        }
        let signs = |suite: &SupportedCipherSuite| match suite {
            SupportedCipherSuite::Tls12(suite) => suite.sign.contains(&signer.scheme()),
            SupportedCipherSuite::Tls13(_) => false,
        };
        shared.any(signs) && hello.named_groups().is_none_or(|groups| groups.contains(&curve))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use CipherSuite as Suite;

    #[test]
    fn the_shorter_aes_is_taken_from_clients_that_name_the_longer_first() {
        let (longer, shorter) = (Suite::TLS13_AES_256_GCM_SHA384, Suite::TLS13_AES_128_GCM_SHA256);
        let chacha = Suite::TLS13_CHACHA20_POLY1305_SHA256;
        let old = Suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384;
        for (offered, expected) in [
            (&[longer, chacha, shorter][..], true),
            (&[old, longer, shorter], true),
            (&[shorter, longer], false),
            (&[chacha, longer, shorter], false),
            (&[longer, chacha], false),
            (&[old], false),
            (&[], false),
        ] {
            assert_eq!(wants_shorter_aes(offered), expected, "{offered:?}");
        }
    }

    #[test]
    fn manners_are_found_where_they_are() {
        for (at, manner) in Manner::ALL.into_iter().enumerate() {
            assert_eq!(manner.index(), at);
        }
    }
}
