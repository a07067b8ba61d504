//! TLS of connections (Envoy `extensions.transport_sockets.tls.v3`).

use super::{SdsReference, SecretSource, TicketKeys, TlsCertificate, ValidationContext};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// A TLS version that can be spoken; older ones are refused by translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// RFC 5246.
    V12,
    /// RFC 8446.
    V13,
}

/// A cipher suite of TLS 1.2, by its OpenSSL name. The suites of TLS 1.3 are not configurable, as in Envoy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CipherSuite {
    /// ECDHE-ECDSA-AES128-GCM-SHA256
    EcdsaAes128Gcm,
    /// ECDHE-ECDSA-AES256-GCM-SHA384
    EcdsaAes256Gcm,
    /// ECDHE-ECDSA-CHACHA20-POLY1305
    EcdsaChacha20,
    /// ECDHE-RSA-AES128-GCM-SHA256
    RsaAes128Gcm,
    /// ECDHE-RSA-AES256-GCM-SHA384
    RsaAes256Gcm,
    /// ECDHE-RSA-CHACHA20-POLY1305
    RsaChacha20,
}

/// A key exchange group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyGroup {
    /// X25519MLKEM768, the post-quantum hybrid.
    X25519MlKem768,
    /// X25519.
    X25519,
    /// P-256.
    P256,
    /// P-384.
    P384,
}

/// What is agreed upon in handshakes (Envoy `TlsParameters`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsParams {
    /// Lowest version. Default 1.2.
    pub min: TlsVersion,
    /// Highest version. Default 1.3 for servers, 1.2 for clients, as in Envoy.
    pub max: TlsVersion,
    /// Suites of TLS 1.2, preferred first; empty: all there are.
    pub suites: Vec<CipherSuite>,
    /// Key exchange groups, preferred first; empty: Envoy's default.
    pub groups: Vec<KeyGroup>,
}

/// How the peer's certificate is judged; without one it is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValidationSource {
    /// In place.
    Inline(Arc<ValidationContext>),
    /// From a secret.
    Sds(SdsReference),
    /// A secret merged into what is written in place, as protobuf merges.
    Combined {
        /// In place.
        default: Arc<ValidationContext>,
        /// The secret.
        sds: SdsReference,
    },
}

impl ValidationSource {
    /// The secret it needs.
    pub fn secret(&self) -> Option<&SdsReference> {
        match self {
            Self::Inline(_) => None,
            Self::Sds(sds) | Self::Combined { sds, .. } => Some(sds),
        }
    }
}

/// What both ends have (Envoy `CommonTlsContext`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommonTls {
    /// Versions, suites, groups.
    pub params: TlsParams,
    /// Own certificates. At least one of a server, at most one of a client.
    pub certificates: Vec<SecretSource<TlsCertificate>>,
    /// How the peer is judged.
    pub validation: Option<ValidationSource>,
    /// Protocols offered by ALPN, preferred first; empty: none.
    pub alpn: Vec<Box<str>>,
}

impl CommonTls {
    /// The secrets it needs.
    pub fn secrets(&self) -> impl Iterator<Item = &SdsReference> {
        let certificates = self.certificates.iter().filter_map(SecretSource::reference);
        certificates.chain(self.validation.as_ref().and_then(ValidationSource::secret))
    }
}

/// Session tickets of a server: resumption without a memory of sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionTickets {
    /// `disable_stateless_session_resumption`.
    Off,
    /// Keys made by the process and changed by it.
    Own,
    /// Keys shared with others.
    Keys(SecretSource<TicketKeys>),
}

/// What is done with OCSP responses of certificates (Envoy `OcspStaplePolicy`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OcspPolicy {
    /// Stapled if there.
    #[default]
    Lenient,
    /// Stapled if there; a certificate whose response expired is not used.
    Strict,
    /// A certificate without a valid response is not used.
    Must,
}

/// TLS of accepted connections (Envoy `DownstreamTlsContext`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DownstreamTls {
    /// What both ends have.
    pub common: CommonTls,
    /// Clients without a certificate are turned away. Default false.
    pub require_client_certificate: bool,
    /// Tickets. Default [`SessionTickets::Own`].
    pub tickets: SessionTickets,
    /// Remember sessions of TLS 1.2 (`disable_stateful_session_resumption` is off). Default true.
    pub remember_sessions: bool,
    /// How long a session may be resumed, whole seconds. Default: BoringSSL's 2 h for TLS 1.2.
    pub session_timeout: Option<Duration>,
    /// When no certificate has the client's SNI: try all by key type (true), or take the first (false, default).
    pub full_scan_on_sni_mismatch: bool,
    /// TLS 1.2: the client's order of suites counts, not ours. Default false.
    pub prefer_client_ciphers: bool,
    /// What is done with OCSP responses.
    pub ocsp: OcspPolicy,
}

impl DownstreamTls {
    /// The secrets it needs.
    pub fn secrets(&self) -> impl Iterator<Item = &SdsReference> {
        let keys = match &self.tickets {
            SessionTickets::Keys(keys) => keys.reference(),
            SessionTickets::Off | SessionTickets::Own => None,
        };
        self.common.secrets().chain(keys)
    }
}

/// TLS of connections to endpoints (Envoy `UpstreamTlsContext`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamTls {
    /// What both ends have.
    pub common: CommonTls,
    /// SNI; empty: none.
    pub sni: Box<str>,
    /// The endpoint's hostname is the SNI where it has one.
    pub auto_host_sni: bool,
    /// The server's certificate must name the SNI that was sent.
    pub auto_sni_san_validation: bool,
    /// Sessions kept for resumption; 0: none. Default 1.
    pub max_session_keys: u32,
}

/// TLS chosen by an endpoint's metadata (Envoy `Cluster.TransportSocketMatch`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransportSocketMatch {
    /// Name, in stats.
    pub name: Box<str>,
    /// What the endpoint's metadata `envoy.transport_socket_match` must hold; empty: every endpoint matches.
    pub labels: BTreeMap<String, Value>,
    /// `None`: plaintext.
    pub tls: Option<Arc<UpstreamTls>>,
    /// Of the header that connections begin with, before TLS; `None`: there is none.
    pub proxy_protocol: Option<ProxyProtocolVersion>,
}

/// A version of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyProtocolVersion {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// SNI and SAN from requests (Envoy `UpstreamHttpProtocolOptions`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AutoSni {
    /// The request's host is the SNI of a connection made for it.
    pub sni: bool,
    /// The server's certificate must name the request's host.
    pub san_validation: bool,
    /// The header taken instead of the host, where the request has it.
    pub header: Option<Box<str>>,
}
