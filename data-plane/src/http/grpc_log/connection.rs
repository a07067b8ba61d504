//! Entries about connections.

use super::Entry;
use super::common::common;
use data_plane_core::config::GrpcAccessLog;
use data_plane_core::headers::Record;
use xds_types::envoy::data::accesslog::v3::{ConnectionProperties, TcpAccessLogEntry};
use xds_types::envoy::service::accesslog::v3::stream_access_logs_message::{LogEntries, TcpAccessLogEntries};

impl Entry for TcpAccessLogEntry {
    type Config = GrpcAccessLog;

    fn common(config: &GrpcAccessLog) -> &GrpcAccessLog {
        config
    }

    fn new(record: &Record<'_>, config: &GrpcAccessLog) -> Self {
        Self {
            common_properties: Some(common(record, &config.custom_tags)),
            connection_properties: Some(ConnectionProperties {
                received_bytes: record.downstream_bytes.body_received,
                sent_bytes: record.downstream_bytes.body_sent,
            }),
        }
    }

    fn together(log_entry: Vec<Self>) -> LogEntries {
        LogEntries::TcpLogs(TcpAccessLogEntries { log_entry })
    }
}
