//! Listeners (Envoy `config.listener.v3.Listener`).

use super::{ConnectionLogs, DownstreamTls, Hcm, TcpKeepalive, TcpProxy};
use crate::matcher::Cidr;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// A listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Unique name; made from the address when none was given.
    pub name: Box<str>,
    /// The first is `address`, the rest `additional_addresses`.
    pub addresses: Vec<SocketAddr>,
    /// Chains in order; the match tree picks the most specific.
    pub filter_chains: Vec<Arc<FilterChain>>,
    /// Serves what no chain matches.
    pub default_filter_chain: Option<Arc<FilterChain>>,
    /// Filters that look at a connection before a chain is chosen.
    pub listener_filters: Vec<ListenerFilter>,
    /// How long listener filters may take. Default 15 s; `None`: no limit.
    pub listener_filters_timeout: Option<Duration>,
    /// Go on with the default data when they time out.
    pub continue_on_listener_filters_timeout: bool,
    /// Soft limit of bytes buffered per connection and direction. Default 1 MiB.
    pub per_connection_buffer_limit_bytes: u32,
    /// Listen backlog. Default: the system's maximum.
    pub tcp_backlog_size: Option<u32>,
    /// SO_REUSEPORT: one socket a worker. Default true.
    pub reuse_port: bool,
    /// A connection goes to the worker that has the fewest. Default false: to the one that the kernel chose.
    pub exact_balance: bool,
    /// TCP keepalive on accepted sockets; `None`: off.
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// Replaces the address in `listener.<address>.` stats.
    pub stat_prefix: Option<Box<str>>,
    /// Logs each connection when it ends, those that found no chain too.
    pub access_log: ConnectionLogs,
    /// Its traffic comes in (`traffic_direction: INBOUND`): it may be drained alone.
    pub inbound: bool,
}

/// A filter chain (Envoy `FilterChain`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterChain {
    /// Name; may be empty.
    pub name: Box<str>,
    /// Which connections it serves.
    pub matches: FilterChainMatch,
    /// TLS of its connections; `None`: plaintext.
    pub transport_socket: Option<Arc<DownstreamTls>>,
    /// How long a TLS handshake may take; `None`: the proxy's own limit of 15 s (Envoy: none).
    pub transport_socket_connect_timeout: Option<Duration>,
    /// The network filters; the last is terminal.
    pub filters: Vec<NetworkFilter>,
}

/// Which connections a chain serves (Envoy `FilterChainMatch`). Empty fields match all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FilterChainMatch {
    /// Destination port, of use with several addresses.
    pub destination_port: Option<u16>,
    /// Destination address ranges.
    pub prefix_ranges: Vec<Cidr>,
    /// Source address ranges.
    pub source_prefix_ranges: Vec<Cidr>,
    /// Source ports.
    pub source_ports: Vec<u16>,
    /// Address ranges of the directly connected peer.
    pub direct_source_prefix_ranges: Vec<Cidr>,
    /// SNI: exact, `*.suffix`; `None` matches all.
    pub server_names: Vec<Box<str>>,
    /// `raw_buffer` or `tls`; empty matches all.
    pub transport_protocol: Box<str>,
    /// ALPN.
    pub application_protocols: Vec<Box<str>>,
}

/// A listener filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenerFilter {
    /// `envoy.filters.listener.http_inspector`: detects HTTP/1 and HTTP/2 by the first bytes.
    HttpInspector,
    /// `envoy.filters.listener.tls_inspector`: reads SNI and ALPN out of the ClientHello.
    TlsInspector {
        /// Longest ClientHello, bytes. Default 16 KiB.
        max_client_hello_bytes: u32,
        /// Close connections whose ClientHello cannot be read, instead of taking them for plaintext. Default false.
        close_on_error: bool,
    },
    /// `envoy.filters.listener.proxy_protocol`: takes the client's address out of a PROXY protocol header.
    ProxyProtocol(ProxyProtocolFilter),
}

/// What headers of the PROXY protocol are taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyProtocolFilter {
    /// Connections without a header are served too, as what they are. Default false: they are closed.
    pub optional: bool,
    /// Version 1 is not taken.
    pub disallow_v1: bool,
    /// Version 2 is not taken.
    pub disallow_v2: bool,
    /// Between `proxy_proto.` and its stats; may be empty.
    pub stat_prefix: Box<str>,
}

/// A network filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetworkFilter {
    /// `envoy.filters.network.http_connection_manager`.
    Http(Arc<Hcm>),
    /// `envoy.filters.network.tcp_proxy`.
    Tcp(Arc<TcpProxy>),
    /// `envoy.filters.network.direct_response`: these bytes.
    DirectResponse(Arc<[u8]>),
    /// `envoy.filters.network.echo`: what the client sent.
    Echo,
    /// `envoy.filters.network.connection_limit`.
    ConnectionLimit(ConnectionLimit),
}

impl NetworkFilter {
    /// Whether it serves connections, and so must be the last of its chain.
    pub fn is_terminal(&self) -> bool {
        !matches!(self, Self::ConnectionLimit(_))
    }
}

/// A limit of connections at a time, over all workers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionLimit {
    /// Of its stats: `connection_limit.<prefix>.`.
    pub stat_prefix: Box<str>,
    /// At least 1.
    pub max_connections: u64,
    /// How long a connection over the limit is left open. Default 0.
    pub delay: Duration,
    /// Default true.
    pub enabled: bool,
}
