//! The HTTP connection manager (Envoy `http_connection_manager.v3.HttpConnectionManager`).

use super::{AccessLog, AccessLogFilter, AccessLogFormat, ConfigSource, HttpFilter, RouteConfig};
use crate::headers::edit::HeaderEdits;
use crate::headers::{ClientCertDetails, ForwardClientCert};
use std::sync::Arc;
use std::time::Duration;

/// An HTTP connection manager.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hcm {
    /// Prefix of `http.<stat_prefix>.` stats.
    pub stat_prefix: Box<str>,
    /// What becomes of x-forwarded-client-cert. Default: removed.
    pub client_cert: ForwardClientCert,
    /// What is told of client certificates in it.
    pub client_cert_details: ClientCertDetails,
    /// Protocol on the connection.
    pub codec: CodecType,
    /// Where routes come from.
    pub routes: RouteSource,
    /// HTTP filters in order; the last is the router.
    pub filters: Vec<HttpFilter>,
    /// Access logs.
    pub access_log: Vec<AccessLog>,
    /// Access logs that go to a gRPC service.
    pub grpc_logs: Vec<super::HttpGrpcAccessLog>,
    /// Tracing; `None`: off.
    pub tracing: Option<Arc<super::Tracing>>,
    /// Log when the request starts too (`flush_access_log_on_new_request`).
    pub log_on_new_request: bool,
    /// `server` header value. Default `envoy`.
    pub server_name: Box<str>,
    /// What happens to an upstream's `server` header.
    pub server_header: ServerHeader,
    /// Appended to `via` when not empty.
    pub via: Box<str>,
    /// Peer address is the client's; edge mode.
    pub use_remote_address: bool,
    /// Trusted hops to skip in x-forwarded-for, from the right.
    pub xff_num_trusted_hops: u32,
    /// Leave x-forwarded-for alone.
    pub skip_xff_append: bool,
    /// Addresses that count as internal (`internal_address_config`). Envoy 1.40's default is none.
    pub internal_ranges: Vec<crate::matcher::Cidr>,
    /// Make x-request-id when missing. Default true.
    pub generate_request_id: bool,
    /// Keep an external client's x-request-id.
    pub preserve_external_request_id: bool,
    /// Answer with x-request-id too.
    pub always_set_request_id_in_response: bool,
    /// Overrides `:scheme` from the transport.
    pub scheme_override: Option<crate::headers::Scheme>,
    /// Idle connection. Default 1 h; `None`: never.
    pub idle_timeout: Option<Duration>,
    /// Longest life of a connection.
    pub max_connection_duration: Option<Duration>,
    /// Longest life of a stream.
    pub max_stream_duration: Option<Duration>,
    /// Idle stream. Default 5 min; `None`: never.
    pub stream_idle_timeout: Option<Duration>,
    /// Whole request must arrive within. Default none.
    pub request_timeout: Option<Duration>,
    /// Request head must arrive within. Default none.
    pub request_headers_timeout: Option<Duration>,
    /// GOAWAY grace when a connection drains. Default 5 s.
    pub drain_timeout: Duration,
    /// Wait for the peer to close after an error answer. Default 1 s.
    pub delayed_close_timeout: Option<Duration>,
    /// Requests before a connection is closed; `None`: no limit.
    pub max_requests_per_connection: Option<u32>,
    /// Most headers in a request. Default 100.
    pub max_headers_count: u32,
    /// Largest request head, KiB. Default 60.
    pub max_request_headers_kb: u32,
    /// Header names with underscores.
    pub underscores: Underscores,
    /// HTTP/1 knobs.
    pub http1: Http1Options,
    /// HTTP/2 knobs.
    pub http2: Http2Options,
    /// Path clean-up before routing.
    pub path: PathNormalization,
    /// Drop the port from `:authority` before routing.
    pub strip_port: StripPort,
    /// Drop a trailing dot of the host.
    pub strip_trailing_host_dot: bool,
    /// Answer-shape overrides.
    pub local_reply: LocalReplyConfig,
    /// Upgrade types accepted, lowercase (`websocket`); empty: none.
    pub upgrades: Vec<Box<str>>,
    /// `add_user_agent`: stats and x-envoy-downstream-service-* headers.
    pub add_user_agent: bool,
    /// Proxy `100-continue` instead of answering it.
    pub proxy_100_continue: bool,
    /// Append `x-forwarded-port`.
    pub append_x_forwarded_port: bool,
    /// `stream_error_on_invalid_http_message` of the manager.
    pub stream_error_on_invalid_http_message: bool,
}

/// Protocol on a downstream connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CodecType {
    /// By ALPN, else by the HTTP/2 preface.
    #[default]
    Auto,
    /// HTTP/1.1 only.
    Http1,
    /// HTTP/2 only, prior knowledge on plaintext.
    Http2,
}

/// Where a manager's routes come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteSource {
    /// Written in place.
    Static(Arc<RouteConfig>),
    /// RDS.
    Rds {
        /// Resource name.
        name: Box<str>,
        /// Where to ask.
        source: ConfigSource,
    },
}

/// What happens to an upstream's `server` header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServerHeader {
    /// Replaced.
    #[default]
    Overwrite,
    /// Set when absent.
    AppendIfAbsent,
    /// Left alone, and not set.
    PassThrough,
}

/// Header names with underscores (Envoy `HeadersWithUnderscoresAction`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Underscores {
    /// Kept.
    #[default]
    Allow,
    /// The request is refused with 400 (HTTP/1) or a reset (HTTP/2).
    RejectRequest,
    /// The header is dropped.
    DropHeader,
}

/// Dropping a port from `:authority`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StripPort {
    /// Never.
    #[default]
    No,
    /// When it is the listener's own (`strip_matching_host_port`).
    Matching,
    /// Always (`strip_any_host_port`).
    Any,
}

/// Path clean-up before routing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathNormalization {
    /// RFC 3986 dot segments and percent-encoding (`normalize_path`). Default false.
    pub normalize: bool,
    /// `//` to `/` (`merge_slashes`).
    pub merge_slashes: bool,
    /// `%2F` and `%5C`.
    pub escaped_slashes: EscapedSlashes,
}

/// What is done with `%2F` and `%5C` (Envoy `PathWithEscapedSlashesAction`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EscapedSlashes {
    /// Kept.
    #[default]
    Keep,
    /// 400.
    Reject,
    /// Unescaped, and the client redirected (307; gRPC: rejected).
    UnescapeAndRedirect,
    /// Unescaped, and forwarded.
    UnescapeAndForward,
}

/// HTTP/1 knobs (Envoy `Http1ProtocolOptions`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http1Options {
    /// Take `GET http://host/path` on any listener. Envoy's default is true.
    pub allow_absolute_url: bool,
    /// Serve HTTP/1.0; else 426.
    pub accept_http_10: bool,
    /// Host for HTTP/1.0 requests without one.
    pub default_host_for_http_10: Box<str>,
    /// Read and write trailers; else they are dropped.
    pub enable_trailers: bool,
    /// Keep header names' case.
    pub preserve_case: bool,
    /// `Proper-Case` header names on the way out.
    pub proper_case: bool,
    /// Keep the connection after a malformed message when framing is still sure.
    pub stream_error_on_invalid_http_message: bool,
}

impl Default for Http1Options {
    fn default() -> Self {
        Self {
            allow_absolute_url: true,
            accept_http_10: false,
            default_host_for_http_10: "".into(),
            enable_trailers: false,
            preserve_case: false,
            proper_case: false,
            stream_error_on_invalid_http_message: false,
        }
    }
}

/// HTTP/2 knobs (Envoy `Http2ProtocolOptions`), Envoy's defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http2Options {
    /// Streams at a time. Envoy 1.40's default is 1024.
    pub max_concurrent_streams: u32,
    /// Stream window, bytes. Envoy 1.40's default is 16 MiB.
    pub initial_stream_window: u32,
    /// Connection window, bytes. Envoy 1.40's default is 24 MiB.
    pub initial_connection_window: u32,
    /// HPACK table, bytes. Default 4096.
    pub header_table_size: u32,
    /// PING after this long idle; `None`: off.
    pub keepalive_interval: Option<Duration>,
    /// Wait for the PING's answer.
    pub keepalive_timeout: Duration,
    /// RFC 8441 extended CONNECT.
    pub allow_connect: bool,
    /// Resets that a client may send in a burst before its connection is closed (`stream_reset_burst`).
    /// Envoy 1.40's default is 1000.
    pub max_reset_streams: usize,
}

impl Default for Http2Options {
    fn default() -> Self {
        Self {
            max_concurrent_streams: 1024,
            initial_stream_window: 16 << 20,
            initial_connection_window: 24 << 20,
            header_table_size: 4096,
            keepalive_interval: None,
            keepalive_timeout: Duration::from_secs(20),
            allow_connect: false,
            max_reset_streams: 1000,
        }
    }
}

/// What becomes of answers of the proxy itself (Envoy `LocalReplyConfig`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalReplyConfig {
    /// The first whose filter passes applies.
    pub mappers: Vec<ResponseMapper>,
    /// Of answers whose mapper has none of its own. `None`: the text itself, `text/plain`.
    pub body_format: Option<BodyFormat>,
}

/// Changes some answers of the proxy itself (Envoy `ResponseMapper`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseMapper {
    /// Which.
    pub filter: AccessLogFilter,
    /// The status in place of theirs, `200..=599`.
    pub status: Option<u16>,
    /// The text in place of theirs, before it is formatted.
    pub body: Option<bytes::Bytes>,
    /// How the body is made.
    pub body_format: Option<BodyFormat>,
    /// Headers added.
    pub headers: HeaderEdits,
}

/// How a body is made of what is known of a request (Envoy `SubstitutionFormatString`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BodyFormat {
    /// Text, or a JSON object.
    pub format: AccessLogFormat,
    /// Default `text/plain`, or `application/json`.
    pub content_type: Box<str>,
}
