//! What connections to the hosts of a cluster carry before its own bytes: a PROXY protocol header, TLS.

use super::cluster::Cluster;
use super::host::Host;
use super::stats::ClusterStats;
use crate::transport::tls::slot::SecretSlots;
use crate::transport::tls::{ClientContext, Offer, Target, TlsStats};
use crate::transport::{Io, socket};
use data_plane_core::config::{self, ProxyProtocolVersion, UpstreamTls};
use data_plane_core::headers::{RequestHead, Tls};
use data_plane_core::proxy_protocol::{self, Ends};
use serde_json::Value;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// The contexts of a cluster.
#[derive(Debug)]
pub struct ClusterTls {
    default: Carrier,
    /// By what endpoints' metadata must hold; the first match counts.
    matches: Vec<(BTreeMap<String, Value>, Carrier)>,
}

/// How a connection begins.
#[derive(Clone, Debug)]
struct Carrier {
    /// Of its header.
    proxy_protocol: Option<ProxyProtocolVersion>,
    socket: Socket,
}

impl Carrier {
    fn is_same(&self, other: &Self) -> bool {
        self.proxy_protocol == other.proxy_protocol && self.socket.is_same(&other.socket)
    }
}

/// What carries the bytes.
#[derive(Clone, Debug)]
enum Socket {
    Plain,
    Tls(Arc<ClientContext>),
    /// Its context could not be built: no connection is made, least of all a plain one.
    Broken(Box<str>),
}

impl ClusterTls {
    /// The contexts of `config`; those of `old` go on where their configuration is the same, and with them the
    /// sessions they keep. `None`: all is plaintext.
    pub(super) fn follow(
        old: Option<&Arc<Self>>,
        config: &config::Cluster,
        secrets: &SecretSlots,
        stats: &ClusterStats,
    ) -> Option<Arc<Self>> {
        let begins_plain = |tls: &Option<Arc<UpstreamTls>>, header: Option<ProxyProtocolVersion>| {
            tls.is_none() && header.is_none()
        };
        let mut matches = config.transport_socket_matches.iter();
        if begins_plain(&config.transport_socket, config.proxy_protocol)
            && matches.all(|m| begins_plain(&m.tls, m.proxy_protocol))
        {
            return None;
        }
        let known = |tls: &Arc<UpstreamTls>| {
            let sockets = old.into_iter().flat_map(|old| {
                std::iter::once(&old.default).chain(old.matches.iter().map(|(_, carrier)| carrier))
            });
            let sockets = sockets.map(|carrier| &carrier.socket);
            sockets.filter_map(Socket::context).find(|context| context.config() == tls).cloned()
        };
        let socket = |tls: Option<&Arc<UpstreamTls>>| match tls {
            None => Socket::Plain,
            Some(tls) => match known(tls) {
                Some(context) => Socket::Tls(context),
                None => match ClientContext::new(Arc::clone(tls), secrets, TlsStats::new(stats.scope())) {
                    Ok(context) => Socket::Tls(context),
                    Err(reason) => {
                        tracing::error!(cluster = %config.name, %reason, "TLS to this cluster cannot be had");
                        Socket::Broken(reason.into())
                    }
                },
            },
        };
        let fresh = Self {
            default: Carrier {
                proxy_protocol: config.proxy_protocol,
                socket: socket(config.transport_socket.as_ref()),
            },
            matches: config
                .transport_socket_matches
                .iter()
                .map(|choice| {
                    let socket = socket(choice.tls.as_ref());
                    (choice.labels.clone(), Carrier { proxy_protocol: choice.proxy_protocol, socket })
                })
                .collect(),
        };
        // Pools tell by the pointer whether connections made before may be used on.
        Some(match old.filter(|old| old.is_same(&fresh)) {
            Some(old) => Arc::clone(old),
            None => Arc::new(fresh),
        })
    }

    fn is_same(&self, other: &Self) -> bool {
        let pairs = self.matches.iter().zip(&other.matches);
        self.default.is_same(&other.default)
            && self.matches.len() == other.matches.len()
            && pairs.into_iter().all(|((a, x), (b, y))| a == b && x.is_same(y))
    }

    /// Whether connections may begin with a header that tells whose they are.
    fn tells_clients(&self) -> bool {
        self.default.proxy_protocol.is_some()
            || self.matches.iter().any(|(_, carrier)| carrier.proxy_protocol.is_some())
    }

    /// How connections to a host begin.
    fn carrier(&self, host: Peer<'_>) -> &Carrier {
        let holds = |labels: &BTreeMap<String, Value>| {
            labels.iter().all(|(key, value)| host.labels.get(key) == Some(value))
        };
        self.matches.iter().find(|(labels, _)| holds(labels)).map_or(&self.default, |(_, carrier)| carrier)
    }
}

impl Socket {
    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Plain, Self::Plain) => true,
            (Self::Tls(a), Self::Tls(b)) => Arc::ptr_eq(a, b),
            (Self::Plain | Self::Tls(_) | Self::Broken(_), _) => false,
        }
    }

    fn context(&self) -> Option<&Arc<ClientContext>> {
        match self {
            Self::Tls(context) => Some(context),
            Self::Plain | Self::Broken(_) => None,
        }
    }
}

/// What a connection is made for, out of a request or a client's connection: it serves nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Names {
    /// `auto_sni`.
    pub(super) sni: Option<Box<str>>,
    /// `auto_san_validation`.
    pub(super) san: Option<Box<str>>,
    /// The client's connection, where hosts are told.
    pub(super) client: Option<Ends>,
}

impl Names {
    /// What a request of the connection `client` asks for; `None` where the cluster takes nothing from requests.
    pub(super) fn of(cluster: &Cluster, head: &RequestHead, client: Option<Ends>) -> Option<Self> {
        cluster.tls()?;
        let named = Self::of_client(cluster, client);
        let config::AutoSni { sni, san_validation, header } = &cluster.config.auto_sni;
        if !sni && !san_validation {
            return named;
        }
        let value = header.as_deref().and_then(|name| head.header(name.as_bytes())).filter(|v| !v.is_empty());
        let value = value.as_deref().map_or(Cow::Borrowed(&*head.authority), String::from_utf8_lossy);
        let host = without_port(&value);
        if host.is_empty() {
            return named;
        }
        // Addresses are not sent as SNI.
        let sent = *sni && host.parse::<IpAddr>().is_err();
        Some(Self {
            sni: sent.then(|| host.into()),
            san: san_validation.then(|| host.into()),
            client: named.and_then(|named| named.client),
        })
    }

    /// What the connection `client` asks for.
    pub(super) fn of_client(cluster: &Cluster, client: Option<Ends>) -> Option<Self> {
        let client = client.filter(|_| cluster.tls().is_some_and(|tls| tls.tells_clients()))?;
        Some(Self { client: Some(client), ..Self::default() })
    }
}

fn without_port(authority: &str) -> &str {
    if let Some(rest) = authority.strip_prefix('[') {
        return rest.split(']').next().unwrap_or(rest);
    }
    authority.split_once(':').map_or(authority, |(host, _)| host)
}

/// To whom a connection was made.
#[derive(Clone, Copy)]
pub(super) struct Peer<'a> {
    pub(super) address: IpAddr,
    /// May be empty.
    pub(super) hostname: &'a str,
    /// Its metadata `envoy.transport_socket_match`.
    pub(super) labels: &'a BTreeMap<String, Value>,
}

impl<'a> From<&'a Host> for Peer<'a> {
    fn from(host: &'a Host) -> Self {
        Self { address: host.address.ip(), hostname: &host.hostname, labels: &host.transport_labels }
    }
}

/// Makes of a TCP connection to a host what its cluster wants. No deadline: the caller owns it.
pub(super) async fn secure(
    cluster: &Cluster,
    host: Peer<'_>,
    mut stream: TcpStream,
    offer: Offer,
    names: Option<&Names>,
) -> Result<(Io, Option<Arc<Tls>>), Box<str>> {
    let Some(Carrier { proxy_protocol, socket }) = cluster.tls().map(|tls| tls.carrier(host)) else {
        return Ok((Io::Tcp(stream), None));
    };
    if let Some(version) = proxy_protocol {
        let client = names.and_then(|names| names.client);
        announce(&mut stream, *version, client).await.map_err(|error| error.to_string())?;
    }
    let context = match socket {
        Socket::Plain => return Ok((Io::Tcp(stream), None)),
        Socket::Broken(reason) => return Err(reason.clone()),
        Socket::Tls(context) => Arc::clone(context),
    };
    let target = Target {
        address: host.address,
        hostname: host.hostname,
        sni: names.and_then(|names| names.sni.as_deref()),
        san: names.and_then(|names| names.san.as_deref()),
    };
    // In a box, so that plaintext connections do not hold a handshake's memory.
    match Box::pin(context.connect(stream, target, offer)).await {
        Ok(connected) => Ok((Io::Client(connected.stream), Some(connected.facts))),
        Err(error) => Err(error.reason),
    }
}

/// Tells a host whose connection it is; without a client it is our own.
async fn announce(
    stream: &mut TcpStream,
    version: ProxyProtocolVersion,
    client: Option<Ends>,
) -> io::Result<()> {
    let own = Ends { source: stream.local_addr()?, destination: stream.peer_addr()? };
    let mut header = Vec::new();
    proxy_protocol::write(version, client, own, &mut header);
    stream.write_all(&header).await
}

/// A connection to a host as its cluster wants it, for clients that speak HTTP/2 on it by themselves. No deadline: the
/// caller owns it.
///
/// # Errors
/// The system's reason, or why the TLS handshake failed.
pub async fn connect(cluster: &Cluster, host: &Host) -> io::Result<Io> {
    let stream = socket::connect(host.address, cluster.config.tcp_keepalive).await?;
    match secure(cluster, host.into(), stream, Offer::Http2, None).await {
        Ok((io, _)) => Ok(io),
        Err(reason) => Err(io::Error::other(reason.into_string())),
    }
}

/// Whether what a cluster says of TLS in place can be used.
///
/// # Errors
/// What cannot.
pub fn check(config: &config::Cluster) -> Result<(), String> {
    let all = config.transport_socket_matches.iter().filter_map(|choice| choice.tls.as_ref());
    for tls in config.transport_socket.iter().chain(all) {
        ClientContext::check(tls)?;
    }
    Ok(())
}
