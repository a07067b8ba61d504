//! What the codecs need out of the configuration, built once per manager or cluster.

use super::buffer::BufferLimit;
use data_plane_core::config::{Cluster, Hcm, Http1Options, Http2Options, Underscores};
use std::time::Duration;

/// Options of downstream connections.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Largest request head, bytes. Envoy's default is 60 KiB.
    pub max_head_bytes: usize,
    /// Most headers in a request. Envoy's default is 100.
    pub max_headers: usize,
    /// Header names with underscores.
    pub underscores: Underscores,
    /// Time without requests after which the connection closes.
    pub idle_timeout: Option<Duration>,
    /// A head must arrive within this, from its first byte.
    pub request_headers_timeout: Option<Duration>,
    /// A head that stops coming, and a peer that does not read its answer, are given up after this. Envoy's
    /// `stream_idle_timeout`; that of the requests themselves is the manager's.
    pub stream_idle_timeout: Option<Duration>,
    /// Longest life; then the connection drains.
    pub max_connection_duration: Option<Duration>,
    /// Requests before the connection closes.
    pub max_requests: Option<u64>,
    /// What a draining connection without requests is still given: HTTP/1, for a request that is on its way;
    /// HTTP/2, for the peer to take notice of GOAWAY.
    pub drain_timeout: Duration,
    /// Wait for the peer to close after the last answer; `None` closes at once.
    pub delayed_close: Option<Duration>,
    /// Leave `expect: 100-continue` to the upstream instead of answering it.
    pub proxy_100_continue: bool,
    /// HTTP/1 knobs.
    pub http1: Http1Options,
    /// HTTP/2 knobs.
    pub http2: Http2Options,
}

impl ServerOptions {
    /// The options of a connection manager.
    pub fn new(hcm: &Hcm) -> Self {
        Self {
            max_head_bytes: hcm.max_request_headers_kb as usize * 1024,
            max_headers: hcm.max_headers_count as usize,
            underscores: hcm.underscores,
            idle_timeout: hcm.idle_timeout,
            request_headers_timeout: hcm.request_headers_timeout,
            stream_idle_timeout: hcm.stream_idle_timeout,
            max_connection_duration: hcm.max_connection_duration,
            max_requests: hcm.max_requests_per_connection.map(u64::from),
            drain_timeout: hcm.drain_timeout,
            delayed_close: hcm.delayed_close_timeout,
            proxy_100_continue: hcm.proxy_100_continue,
            http1: hcm.http1.clone(),
            http2: hcm.http2.clone(),
        }
    }
}

/// Options of upstream connections.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// Largest response head over HTTP/1, bytes. Envoy's default is 80 KiB.
    pub max_head_bytes: usize,
    /// The same over HTTP/2. Envoy's default is 60 KiB.
    pub max_head_list_bytes: usize,
    /// Most headers in a response. Envoy's default is 100.
    pub max_headers: usize,
    /// What a connection may hold of what passes through it. Envoy's default is 1 MiB.
    pub buffer_limit: BufferLimit,
    /// HTTP/1 knobs.
    pub http1: Http1Options,
    /// HTTP/2 knobs.
    pub http2: Http2Options,
}

impl ClientOptions {
    /// The options of a cluster.
    pub fn new(cluster: &Cluster) -> Self {
        let head = |default| cluster.max_response_headers_kb.unwrap_or(default) as usize * 1024;
        Self {
            max_head_bytes: head(80),
            max_head_list_bytes: head(60),
            max_headers: cluster.max_headers_count as usize,
            buffer_limit: BufferLimit::of_bytes(cluster.per_connection_buffer_limit_bytes.into()),
            http1: cluster.http1.clone(),
            http2: cluster.http2.clone(),
        }
    }
}
