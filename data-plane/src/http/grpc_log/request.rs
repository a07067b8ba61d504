//! Entries about requests.

use super::Entry;
use super::common::{common, text};
use data_plane_core::config::{GrpcAccessLog, HttpGrpcAccessLog};
use data_plane_core::headers::{HeaderId, HeaderList, Record, RequestHead, Version};
use std::collections::HashMap;
use xds_types::envoy::config::core::v3 as core;
use xds_types::envoy::data::accesslog::v3::http_access_log_entry::HttpVersion;
use xds_types::envoy::data::accesslog::v3::{
    HttpAccessLogEntry, HttpRequestProperties, HttpResponseProperties,
};
use xds_types::envoy::service::accesslog::v3::stream_access_logs_message::{
    HttpAccessLogEntries, LogEntries,
};
use xds_types::google::protobuf::UInt32Value;

impl Entry for HttpAccessLogEntry {
    type Config = HttpGrpcAccessLog;

    fn common(config: &HttpGrpcAccessLog) -> &GrpcAccessLog {
        &config.common
    }

    fn new(record: &Record<'_>, config: &HttpGrpcAccessLog) -> Self {
        Self {
            common_properties: Some(common(record, &config.common.custom_tags)),
            protocol_version: match record.protocol {
                Some(Version::Http10) => HttpVersion::Http10,
                Some(Version::Http11) => HttpVersion::Http11,
                Some(Version::Http2) => HttpVersion::Http2,
                None => HttpVersion::ProtocolUnspecified,
            }
            .into(),
            request: record.request.map(|head| request(head, record, &config.request_headers)),
            response: Some(response(record, config)),
        }
    }

    fn together(log_entry: Vec<Self>) -> LogEntries {
        LogEntries::HttpLogs(HttpAccessLogEntries { log_entry })
    }
}

fn request(head: &RequestHead, record: &Record<'_>, named: &[Box<str>]) -> HttpRequestProperties {
    let header = |id| head.headers.get_id(id).map_or_else(String::new, lossy);
    let bytes = &record.downstream_bytes;
    HttpRequestProperties {
        request_method: core::RequestMethod::from_str_name(&head.method).unwrap_or_default().into(),
        scheme: head.scheme.as_str().to_owned(),
        authority: head.authority.to_string(),
        path: head.path.to_string(),
        user_agent: header(HeaderId::UserAgent),
        referer: header(HeaderId::Referer),
        forwarded_for: header(HeaderId::XForwardedFor),
        request_id: header(HeaderId::XRequestId),
        original_path: header(HeaderId::XEnvoyOriginalPath),
        request_headers_bytes: head.headers.byte_size() as u64,
        request_body_bytes: bytes.body_received,
        request_headers: named
            .iter()
            .filter_map(|name| Some((name.to_string(), lossy(&head.header(name.as_bytes())?))))
            .collect(),
        upstream_header_bytes_sent: record.upstream_bytes.header_sent,
        downstream_header_bytes_received: bytes.header_received,
        ..HttpRequestProperties::default()
    }
}

fn response(record: &Record<'_>, config: &HttpGrpcAccessLog) -> HttpResponseProperties {
    let headers = record.response.map(|head| &head.headers);
    HttpResponseProperties {
        response_code: record.status.map(|status| UInt32Value { value: status.into() }),
        response_headers_bytes: headers.map_or(0, |headers| headers.byte_size() as u64),
        response_body_bytes: record.downstream_bytes.body_sent,
        response_headers: named(headers, &config.response_headers),
        response_trailers: named(record.trailers, &config.response_trailers),
        response_code_details: text(record.status_details),
        upstream_header_bytes_received: record.upstream_bytes.header_received,
        downstream_header_bytes_sent: record.downstream_bytes.header_sent,
    }
}

fn named(headers: Option<&HeaderList>, names: &[Box<str>]) -> HashMap<String, String> {
    let Some(headers) = headers else { return HashMap::new() };
    names
        .iter()
        .filter_map(|name| Some((name.to_string(), lossy(&headers.joined(name.as_bytes())?))))
        .collect()
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
