//! TLS of connections to hosts.

use super::material;
use super::provider;
use super::reason::HandshakeError;
use super::rebuilt::Rebuilt;
use super::secrets::Source;
use super::stats::TlsStats;
use super::verify::{Judge, Peer, ServerJudge};
use super::{facts_of, slot::SecretSlots};
use data_plane_core::config::{UpstreamTls, ValidationContext};
use data_plane_core::headers::{CertificateFacts, Tls};
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use std::net::IpAddr;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// TLS to the hosts of a cluster: built from its configuration and secrets, and built anew when a secret changes.
pub struct ClientContext {
    config: Arc<UpstreamTls>,
    stats: TlsStats,
    built: Rebuilt<Built>,
}

impl std::fmt::Debug for ClientContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientContext").field("ready", &self.built.is_ready()).finish_non_exhaustive()
    }
}

struct Built {
    /// By what is offered where the configuration names no protocols.
    by_offer: [Arc<ClientConfig>; 4],
    judge: Arc<Judge>,
    local: Option<Arc<CertificateFacts>>,
}

/// What is offered by ALPN unless the configuration says: what the pool speaks (Envoy's ALPN fallback).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// `http/1.1`
    Http1,
    /// `h2`
    Http2,
    /// Both.
    Either,
    /// Neither: no HTTP is spoken.
    Nothing,
}

impl Offer {
    fn protocols(self) -> Vec<Vec<u8>> {
        match self {
            Self::Http1 => vec![b"http/1.1".to_vec()],
            Self::Http2 => vec![b"h2".to_vec()],
            Self::Either => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            Self::Nothing => Vec::new(),
        }
    }
}

/// To whom a connection is made.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// Its address.
    pub address: IpAddr,
    /// Its hostname; may be empty.
    pub hostname: &'a str,
    /// SNI out of the request.
    pub sni: Option<&'a str>,
    /// What its certificate must name, out of the request.
    pub san: Option<&'a str>,
}

/// A connection past its handshake.
pub struct Connected {
    /// Its bytes.
    pub stream: Box<tokio_rustls::client::TlsStream<TcpStream>>,
    /// What was agreed upon.
    pub facts: Arc<Tls>,
}

impl ClientContext {
    /// Builds it, unless secrets are still to come.
    ///
    /// # Errors
    /// A certificate, key or authority written in place cannot be used.
    pub fn new(config: Arc<UpstreamTls>, slots: &SecretSlots, stats: TlsStats) -> Result<Arc<Self>, String> {
        let source = Source::new(config.common.secrets(), slots);
        let built = Rebuilt::new(source, |source| Self::build(&config, &stats, source))?;
        Ok(Arc::new(Self { config, stats, built }))
    }

    /// Whether what is written in place can be used.
    ///
    /// # Errors
    /// What cannot.
    pub fn check(tls: &UpstreamTls) -> Result<(), String> {
        if !tls.sni.is_empty() {
            server_name(&tls.sni).map_err(|()| format!("sni: {:?} is not a DNS name", tls.sni))?;
        }
        material::check_inline(&tls.common)
    }

    /// Its configuration.
    pub fn config(&self) -> &Arc<UpstreamTls> {
        &self.config
    }

    /// Whether connections can be made.
    pub fn is_ready(&self) -> bool {
        self.current().is_some()
    }

    fn current(&self) -> Option<Arc<Built>> {
        self.built.current(|source| Self::build(&self.config, &self.stats, source))
    }

    fn build(tls: &UpstreamTls, stats: &TlsStats, source: &Source) -> Result<Built, String> {
        let provider = provider::provider(&tls.common.params);
        let algorithms = provider.signature_verification_algorithms;
        let rules = source.validation(tls.common.validation.as_ref())?;
        let rules = rules.unwrap_or_else(|| Arc::new(ValidationContext::default()));
        let judge = Arc::new(Judge::new(Peer::Server, rules, algorithms, stats.clone())?);
        let verifier =
            ServerJudge { judge: Arc::clone(&judge), by_sni: tls.auto_sni_san_validation, host: None };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&provider::versions(&tls.common.params))
            .map_err(|error| format!("tls_params: {error}"))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut local = None;
        let mut base = match tls.common.certificates.first() {
            Some(certificate) => {
                let identity = material::identity(&*source.certificate(certificate)?)?;
                local = Some(identity.facts);
                builder
                    .with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(identity.key)))
            }
            None => builder.with_no_client_auth(),
        };
        base.resumption = match tls.max_session_keys {
            0 => Resumption::disabled(),
            keys => Resumption::in_memory_sessions(keys as usize),
        };
        if !tls.sni.is_empty() {
            server_name(&tls.sni).map_err(|()| format!("sni: {:?} is not a DNS name", tls.sni))?;
        }
        let offering = |offer: Offer| {
            let mut config = base.clone();
            config.alpn_protocols = if tls.common.alpn.is_empty() {
                offer.protocols()
            } else {
                tls.common.alpn.iter().map(|name| name.as_bytes().to_vec()).collect()
            };
            Arc::new(config)
        };
        let by_offer = [Offer::Http1, Offer::Http2, Offer::Either, Offer::Nothing].map(offering);
        Ok(Built { by_offer, judge, local })
    }

    /// The client's side of a handshake. No deadline: the caller owns it.
    ///
    /// # Errors
    /// It failed; the failure is counted.
    pub async fn connect(
        &self,
        stream: TcpStream,
        target: Target<'_>,
        offer: Offer,
    ) -> Result<Connected, HandshakeError> {
        let Some(built) = self.current() else {
            return Err(HandshakeError::plain("TLS_error:_secret_is_not_supplied"));
        };
        let tls = &*self.config;
        let sni = match target.sni {
            Some(sni) => sni,
            None if tls.auto_host_sni && !target.hostname.is_empty() => target.hostname,
            None => &tls.sni,
        };
        // Without a name the address tells sessions apart; it is not sent.
        let name = match server_name(sni) {
            Ok(name) => name,
            Err(()) => ServerName::IpAddress(target.address.into()),
        };
        let mut config = Arc::clone(&built.by_offer[offer as usize]);
        if let Some(host) = target.san {
            let mut own = ClientConfig::clone(&config);
            let judge = Arc::clone(&built.judge);
            let verifier = ServerJudge { judge, by_sni: false, host: Some(host.into()) };
            own.dangerous().set_certificate_verifier(Arc::new(verifier));
            // A session resumed would not be judged by this name.
            own.resumption = Resumption::disabled();
            config = Arc::new(own);
        }
        let stream = match TlsConnector::from(config).connect(name, stream).await {
            Ok(stream) => stream,
            Err(error) => {
                let error = HandshakeError::new(&error);
                if !error.counted && !error.closed {
                    self.stats.handshakes.connection_error.inc();
                }
                return Err(error);
            }
        };
        let facts = Arc::new(facts_of(stream.get_ref().1, built.local.clone(), &self.stats));
        Ok(Connected { stream: Box::new(stream), facts })
    }
}

/// A name that can be sent; IP addresses are not (RFC 6066, section 3).
fn server_name(name: &str) -> Result<ServerName<'static>, ()> {
    match ServerName::try_from(name.to_owned()) {
        Ok(name @ ServerName::DnsName(_)) => Ok(name),
        _ => Err(()),
    }
}
