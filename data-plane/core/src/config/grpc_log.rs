//! Access logs that go to a gRPC service (Envoy `extensions.access_loggers.grpc.v3`), and all logs of connections.

use super::{AccessLog, AccessLogFilter, CustomTag, GrpcTarget};
use std::time::Duration;

/// One such log: all there is to one of connections (`TcpGrpcAccessLogConfig`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrpcAccessLog {
    /// Told with every batch.
    pub log_name: Box<str>,
    /// The service.
    pub target: GrpcTarget,
    /// Longest wait of an entry for its batch. Default 1 s.
    pub flush_interval: Duration,
    /// Entries are sent once they take so many bytes. Default 16 KiB; 0 sends each by itself.
    pub batch_bytes: u32,
    /// Tags told.
    pub custom_tags: Vec<CustomTag>,
    /// What is logged; `None`: everything.
    pub filter: Option<AccessLogFilter>,
}

/// One of requests (`HttpGrpcAccessLogConfig`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpGrpcAccessLog {
    /// What logs of connections have too.
    pub common: GrpcAccessLog,
    /// Request headers told beside those of the entry itself.
    pub request_headers: Vec<Box<str>>,
    /// Response headers told.
    pub response_headers: Vec<Box<str>>,
    /// Response trailers told.
    pub response_trailers: Vec<Box<str>>,
}

/// The access logs of connections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionLogs {
    /// Lines.
    pub lines: Vec<AccessLog>,
    /// Entries for gRPC services.
    pub entries: Vec<GrpcAccessLog>,
}
