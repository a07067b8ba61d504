//! What is known of one stream: the source of every `%COMMAND%` and of every access-log filter.
//!
//! Filled by the connection manager at no cost worth naming: heads and names are borrowed, times are offsets
//! from the start of the request, and no text is made until a format asks for it.

use super::{HeaderList, Metadata, RequestHead, ResponseHead, Tls, Version};
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// One stream, or as much of it as has happened.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// The request as it is now.
    pub request: Option<&'a RequestHead>,
    /// The response as it is now.
    pub response: Option<&'a ResponseHead>,
    /// The response's trailers.
    pub trailers: Option<&'a HeaderList>,
    /// Protocol of the downstream connection; known even when the request was malformed.
    pub protocol: Option<Version>,
    /// Wall-clock time of the first byte of the request.
    pub start: SystemTime,
    /// Time from `start` to now, the moment of rendering.
    pub now: Duration,
    /// When things happened.
    pub timing: Timing,
    /// Status sent downstream; `None` when none was.
    pub status: Option<u16>,
    /// Why that status (`via_upstream`, `route_not_found`, ..).
    pub status_details: Option<&'a str>,
    /// Why the connection ended, if it did so early.
    pub termination_details: Option<&'a str>,
    /// What went wrong.
    pub flags: ResponseFlags,
    /// Bytes moved downstream.
    pub downstream_bytes: ByteCounts,
    /// Bytes moved upstream.
    pub upstream_bytes: ByteCounts,
    /// Body of a local reply.
    pub local_reply_body: Option<&'a [u8]>,
    /// The downstream connection.
    pub downstream: Option<&'a Downstream>,
    /// The upstream exchange, once a host is chosen.
    pub upstream: Option<&'a Upstream<'a>>,
    /// Cluster name, once chosen.
    pub cluster: Option<&'a str>,
    /// The cluster's name for observers (`alt_stat_name`); the plain name when not set.
    pub cluster_stat_name: Option<&'a str>,
    /// Requests sent upstream, retries included.
    pub attempts: u32,
    /// Route name; empty counts as missing.
    pub route: &'a str,
    /// Virtual host name; empty counts as missing.
    pub virtual_host: &'a str,
    /// Filter chain name; empty counts as missing.
    pub filter_chain: &'a str,
    /// 128 random bits of this stream: `%STREAM_ID%` when there is no request id, and `%UNIQUE_ID%`.
    pub stream_id: u128,
    /// When the log line is written.
    pub log_type: LogType,
    /// A health check request answered by the proxy.
    pub health_check: bool,
    /// The ids of the trace and of the span, when the request has a place in a trace.
    pub trace: Option<(u128, u64)>,
    /// It is to be recorded, as far as this proxy decides.
    pub traced: bool,
    /// Facts of this process.
    pub process: Option<&'a Process>,
    /// What filters said of the stream.
    pub metadata: Option<&'a Metadata>,
}

impl Record<'_> {
    /// A record of which nothing but the start is known.
    pub const fn new(start: SystemTime) -> Self {
        Self {
            request: None,
            response: None,
            trailers: None,
            protocol: None,
            start,
            now: Duration::ZERO,
            timing: Timing::NONE,
            status: None,
            status_details: None,
            termination_details: None,
            flags: ResponseFlags::NONE,
            downstream_bytes: ByteCounts::ZERO,
            upstream_bytes: ByteCounts::ZERO,
            local_reply_body: None,
            downstream: None,
            upstream: None,
            cluster: None,
            cluster_stat_name: None,
            attempts: 0,
            route: "",
            virtual_host: "",
            filter_chain: "",
            stream_id: 0,
            log_type: LogType::DownstreamEnd,
            health_check: false,
            trace: None,
            traced: false,
            process: None,
            metadata: None,
        }
    }
}

/// When things happened, from the start of the request. `None`: has not happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timing {
    /// Last byte of the request received.
    pub downstream_rx_end: Option<Duration>,
    /// Upstream connect began, if this request waited for one.
    pub upstream_connect_begin: Option<Duration>,
    /// Upstream connect done.
    pub upstream_connect_end: Option<Duration>,
    /// First byte sent upstream.
    pub upstream_tx_begin: Option<Duration>,
    /// Last byte sent upstream.
    pub upstream_tx_end: Option<Duration>,
    /// First byte of the response received.
    pub upstream_rx_begin: Option<Duration>,
    /// First byte of the response's body received.
    pub upstream_rx_body_begin: Option<Duration>,
    /// Last byte of the response received.
    pub upstream_rx_end: Option<Duration>,
    /// First byte sent downstream.
    pub downstream_tx_begin: Option<Duration>,
    /// Last byte sent downstream.
    pub downstream_tx_end: Option<Duration>,
    /// Last byte acknowledged by the client.
    pub downstream_ack: Option<Duration>,
    /// Whole stream.
    pub end: Option<Duration>,
}

impl Timing {
    /// Nothing has happened.
    pub const NONE: Self = Self {
        downstream_rx_end: None,
        upstream_connect_begin: None,
        upstream_connect_end: None,
        upstream_tx_begin: None,
        upstream_tx_end: None,
        upstream_rx_begin: None,
        upstream_rx_body_begin: None,
        upstream_rx_end: None,
        downstream_tx_begin: None,
        downstream_tx_end: None,
        downstream_ack: None,
        end: None,
    };
}

/// Bytes moved on one side of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ByteCounts {
    /// Body bytes received.
    pub body_received: u64,
    /// Body bytes sent.
    pub body_sent: u64,
    /// Header bytes received, as on the wire.
    pub header_received: u64,
    /// Header bytes sent, as on the wire.
    pub header_sent: u64,
    /// All bytes received, framing included.
    pub wire_received: u64,
    /// All bytes sent, framing included.
    pub wire_sent: u64,
}

impl ByteCounts {
    /// None moved.
    pub const ZERO: Self = Self {
        body_received: 0,
        body_sent: 0,
        header_received: 0,
        header_sent: 0,
        wire_received: 0,
        wire_sent: 0,
    };
}

/// A downstream connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Downstream {
    /// The client as far as it can be trusted: the peer, or what x-forwarded-for says.
    pub remote: SocketAddr,
    /// The peer of the socket.
    pub direct_remote: SocketAddr,
    /// Where the client connected to, as restored by listener filters.
    pub local: SocketAddr,
    /// Our end of the socket.
    pub direct_local: SocketAddr,
    /// SNI.
    pub server_name: Option<Box<str>>,
    /// Connection id, unique in this process.
    pub connection_id: u64,
    /// From accept to the end of the TLS handshake.
    pub handshake: Option<Duration>,
    /// Why the TLS handshake failed.
    pub transport_failure: Option<Box<str>>,
    /// What TLS agreed upon; `None`: plaintext.
    pub tls: Option<Arc<Tls>>,
}

/// The upstream side of a stream.
#[derive(Clone, Copy, Debug)]
pub struct Upstream<'a> {
    /// The host chosen.
    pub address: SocketAddr,
    /// Its name; empty when it has none.
    pub hostname: &'a str,
    /// Our end of the connection, once there is one.
    pub local: Option<SocketAddr>,
    /// Protocol spoken.
    pub protocol: Option<Version>,
    /// Connection id, unique in this process.
    pub connection_id: Option<u64>,
    /// Time from the start of connecting to the connection being ready, when this request waited for it.
    pub connect: Option<Duration>,
    /// Why the connection could not be made.
    pub transport_failure: Option<&'a str>,
    /// What TLS agreed upon; `None`: plaintext, or no connection yet.
    pub tls: Option<&'a Tls>,
}

/// Facts of this process, gathered once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Host name.
    pub hostname: String,
    /// Environment variables.
    pub environment: BTreeMap<String, String>,
    /// Offset of local time.
    pub local_offset: time::UtcOffset,
}

impl Default for Process {
    fn default() -> Self {
        Self { hostname: String::new(), environment: BTreeMap::new(), local_offset: time::UtcOffset::UTC }
    }
}

/// A trace id in hex digits: 16 where they hold it, as Zipkin writes it, else 32.
pub fn trace_id_text(trace_id: u128) -> String {
    if trace_id >> 64 == 0 { format!("{trace_id:016x}") } else { format!("{trace_id:032x}") }
}

/// When a log line is written (Envoy `AccessLogType`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogType {
    /// The connection was accepted.
    TcpConnectionStart,
    /// The connection has a host.
    TcpUpstreamConnected,
    /// The connection goes on.
    TcpPeriodic,
    /// The connection ended.
    TcpConnectionEnd,
    /// The request's head is in.
    DownstreamStart,
    /// The stream goes on.
    DownstreamPeriodic,
    /// The stream ended.
    #[default]
    DownstreamEnd,
    /// A listener's log, which has no kinds of lines.
    NotSet,
}

impl LogType {
    /// Envoy's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TcpConnectionStart => "TcpConnectionStart",
            Self::TcpUpstreamConnected => "TcpUpstreamConnected",
            Self::TcpPeriodic => "TcpPeriodic",
            Self::TcpConnectionEnd => "TcpConnectionEnd",
            Self::DownstreamStart => "DownstreamStart",
            Self::DownstreamPeriodic => "DownstreamPeriodic",
            Self::DownstreamEnd => "DownstreamEnd",
            Self::NotSet => "NotSet",
        }
    }
}

macro_rules! response_flags {
    ($($flag:ident = $bit:literal, $short:literal, $long:literal;)*) => {
        /// What went wrong with a stream (Envoy `ResponseFlag`): a set.
        #[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
        pub struct ResponseFlags(u32);

        #[allow(missing_docs, reason = "each is the flag Envoy documents under its long name")]
        impl ResponseFlags {
            /// None.
            pub const NONE: Self = Self(0);
            $(pub const $flag: Self = Self(1 << $bit);)*

            const TABLE: &'static [(Self, &'static str, &'static str)] =
                &[$((Self::$flag, $short, $long),)*];
        }
    };
}

// Envoy prints them in the order in which they were set: what is said of retries comes before what the last try
// ended with.
response_flags! {
    UPSTREAM_RETRY_LIMIT_EXCEEDED = 15, "URX", "UpstreamRetryLimitExceeded";
    UPSTREAM_OVERFLOW = 7, "UO", "UpstreamOverflow";
    FAILED_LOCAL_HEALTH_CHECK = 0, "LH", "FailedLocalHealthCheck";
    NO_HEALTHY_UPSTREAM = 1, "UH", "NoHealthyUpstream";
    UPSTREAM_REQUEST_TIMEOUT = 2, "UT", "UpstreamRequestTimeout";
    LOCAL_RESET = 3, "LR", "LocalReset";
    UPSTREAM_REMOTE_RESET = 4, "UR", "UpstreamRemoteReset";
    UPSTREAM_CONNECTION_FAILURE = 5, "UF", "UpstreamConnectionFailure";
    UPSTREAM_CONNECTION_TERMINATION = 6, "UC", "UpstreamConnectionTermination";
    NO_ROUTE_FOUND = 8, "NR", "NoRouteFound";
    DELAY_INJECTED = 9, "DI", "DelayInjected";
    FAULT_INJECTED = 10, "FI", "FaultInjected";
    RATE_LIMITED = 11, "RL", "RateLimited";
    UNAUTHORIZED_EXTERNAL_SERVICE = 12, "UAEX", "UnauthorizedExternalService";
    RATE_LIMIT_SERVICE_ERROR = 13, "RLSE", "RateLimitServiceError";
    DOWNSTREAM_CONNECTION_TERMINATION = 14, "DC", "DownstreamConnectionTermination";
    STREAM_IDLE_TIMEOUT = 16, "SI", "StreamIdleTimeout";
    INVALID_ENVOY_REQUEST_HEADERS = 17, "IH", "InvalidEnvoyRequestHeaders";
    DOWNSTREAM_PROTOCOL_ERROR = 18, "DPE", "DownstreamProtocolError";
    UPSTREAM_MAX_STREAM_DURATION_REACHED = 19, "UMSDR", "UpstreamMaxStreamDurationReached";
    RESPONSE_FROM_CACHE_FILTER = 20, "RFCF", "ResponseFromCacheFilter";
    NO_FILTER_CONFIG_FOUND = 21, "NFCF", "NoFilterConfigFound";
    DURATION_TIMEOUT = 22, "DT", "DurationTimeout";
    UPSTREAM_PROTOCOL_ERROR = 23, "UPE", "UpstreamProtocolError";
    NO_CLUSTER_FOUND = 24, "NC", "NoClusterFound";
    OVERLOAD_MANAGER = 25, "OM", "OverloadManagerTerminated";
    DNS_RESOLUTION_FAILED = 26, "DF", "DnsResolutionFailed";
    DROP_OVERLOAD = 27, "DO", "DropOverload";
    DOWNSTREAM_REMOTE_RESET = 28, "DR", "DownstreamRemoteReset";
    UNCONDITIONAL_DROP_OVERLOAD = 29, "UDO", "UnconditionalDropOverload";
}

impl ResponseFlags {
    /// Whether no flag is set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether all flags of `other` are set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether a flag of `other` is set.
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Sets the flags of `other`.
    pub const fn insert(&mut self, other: Self) {
        self.0 |= other.0;
    }

    /// Both sets.
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The flag of a short name (`UF`).
    pub fn from_short(name: &str) -> Option<Self> {
        Self::TABLE.iter().find(|(_, short, _)| *short == name).map(|(flag, ..)| *flag)
    }

    /// Short names of the flags set, in Envoy's order.
    pub fn short_names(self) -> impl Iterator<Item = &'static str> {
        Self::TABLE.iter().filter(move |(flag, ..)| self.contains(*flag)).map(|(_, short, _)| *short)
    }

    /// Long names of the flags set, in Envoy's order.
    pub fn long_names(self) -> impl Iterator<Item = &'static str> {
        Self::TABLE.iter().filter(move |(flag, ..)| self.contains(*flag)).map(|(.., long)| *long)
    }
}

impl std::ops::BitOr for ResponseFlags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        self.union(other)
    }
}

impl std::ops::BitOrAssign for ResponseFlags {
    fn bitor_assign(&mut self, other: Self) {
        self.insert(other);
    }
}

impl fmt::Display for ResponseFlags {
    /// As `%RESPONSE_FLAGS%`: short names joined by commas, `-` when there are none.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("-");
        }
        for (i, name) in self.short_names().enumerate() {
            write!(f, "{}{name}", if i > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}

impl fmt::Debug for ResponseFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ResponseFlags({self})")
    }
}
