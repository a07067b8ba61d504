//! TLS to the hosts of a cluster: which context a host gets.

use super::cluster::Cluster;
use super::host::Host;
use super::stats::ClusterStats;
use crate::transport::tls::slot::SecretSlots;
use crate::transport::tls::{ClientContext, Offer, Target, TlsStats};
use crate::transport::{Io, socket};
use data_plane_core::config::{self, UpstreamTls};
use data_plane_core::headers::{RequestHead, Tls};
use serde_json::Value;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use tokio::net::TcpStream;

/// The contexts of a cluster.
#[derive(Debug)]
pub struct ClusterTls {
    default: Socket,
    /// By what endpoints' metadata must hold; the first match counts.
    matches: Vec<(BTreeMap<String, Value>, Socket)>,
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
        if config.transport_socket.is_none()
            && config.transport_socket_matches.iter().all(|m| m.tls.is_none())
        {
            return None;
        }
        let known = |tls: &Arc<UpstreamTls>| {
            let sockets = old.into_iter().flat_map(|old| {
                std::iter::once(&old.default).chain(old.matches.iter().map(|(_, socket)| socket))
            });
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
            default: socket(config.transport_socket.as_ref()),
            matches: config
                .transport_socket_matches
                .iter()
                .map(|choice| (choice.labels.clone(), socket(choice.tls.as_ref())))
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

    /// What carries the bytes to a host.
    fn socket(&self, host: Peer<'_>) -> &Socket {
        let holds = |labels: &BTreeMap<String, Value>| {
            labels.iter().all(|(key, value)| host.labels.get(key) == Some(value))
        };
        self.matches.iter().find(|(labels, _)| holds(labels)).map_or(&self.default, |(_, socket)| socket)
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

/// Names out of a request that a connection is made for (`auto_sni`, `auto_san_validation`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Names {
    pub(super) sni: Option<Box<str>>,
    pub(super) san: Option<Box<str>>,
}

impl Names {
    /// What a request asks for; `None` where the cluster takes nothing from requests.
    pub(super) fn of(cluster: &Cluster, head: &RequestHead) -> Option<Self> {
        cluster.tls()?;
        let config::AutoSni { sni, san_validation, header } = &cluster.config.auto_sni;
        if !sni && !san_validation {
            return None;
        }
        let value = header.as_deref().and_then(|name| head.header(name.as_bytes())).filter(|v| !v.is_empty());
        let value = value.as_deref().map_or(Cow::Borrowed(&*head.authority), String::from_utf8_lossy);
        let host = without_port(&value);
        if host.is_empty() {
            return None;
        }
        // Addresses are not sent as SNI.
        let named = *sni && host.parse::<IpAddr>().is_err();
        Some(Self { sni: named.then(|| host.into()), san: san_validation.then(|| host.into()) })
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
    stream: TcpStream,
    offer: Offer,
    names: Option<&Names>,
) -> Result<(Io, Option<Arc<Tls>>), Box<str>> {
    let context = match cluster.tls().map(|tls| tls.socket(host)) {
        None | Some(Socket::Plain) => return Ok((Io::Tcp(stream), None)),
        Some(Socket::Broken(reason)) => return Err(reason.clone()),
        Some(Socket::Tls(context)) => Arc::clone(context),
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
