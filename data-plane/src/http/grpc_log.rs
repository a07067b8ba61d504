//! Access logs that go to a gRPC service (Envoy's ALS), by the way of `export`: a request waits for nothing.
//!
//! Each batch is a stream of its own with one message, so that the service's answer says that it was taken.

use super::{BuildError, Deps};
use crate::export::{Encode, Item, Queue, Target};
use bytes::Bytes;
use data_plane_core::accesslog::Filter;
use data_plane_core::config::{CustomTag, GrpcAccessLog};
use data_plane_core::headers::{
    HeaderId, HeaderList, LogType, Record, RequestHead, ResponseFlags as Flags, Version,
};
use data_plane_core::matcher::Runtime;
use data_plane_core::trace::custom_tags;
use prost::Message;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, UNIX_EPOCH};
use xds_types::envoy::config::core::v3 as core;
use xds_types::envoy::data::accesslog::v3::http_access_log_entry::HttpVersion;
use xds_types::envoy::data::accesslog::v3::response_flags::Unauthorized;
use xds_types::envoy::data::accesslog::v3::{
    AccessLogCommon, AccessLogType, HttpAccessLogEntry, HttpRequestProperties, HttpResponseProperties,
    ResponseFlags, TlsProperties,
};
use xds_types::envoy::service::accesslog::v3::StreamAccessLogsMessage;
use xds_types::envoy::service::accesslog::v3::stream_access_logs_message::{
    HttpAccessLogEntries, Identifier, LogEntries,
};
use xds_types::google::protobuf::{Duration as ProtoDuration, Timestamp, UInt32Value};

/// The method.
const PATH: &str = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs";

/// One such log of a connection manager.
pub(super) struct GrpcLog {
    filter: Option<Filter>,
    config: GrpcAccessLog,
    queue: Queue<Entry>,
}

impl GrpcLog {
    /// Opens it.
    pub(super) fn open(config: &GrpcAccessLog, deps: &Deps) -> Result<Self, BuildError> {
        let identifier =
            Identifier { node: Some((*deps.node).clone()), log_name: config.log_name.to_string() };
        let target = Target::grpc(&config.target, PATH);
        let queue = deps.exporters.open("access_log", target, Encoder { identifier }, |knobs| {
            knobs.flush_interval = config.flush_interval;
            knobs.batch_bytes = (config.batch_bytes as usize).max(1);
            // So many entries wait in one queue before they are sent ahead of the interval; about half a KiB each.
            knobs.batch_entries = knobs.batch_entries.min((config.batch_bytes as usize / 512).max(1));
        });
        Ok(Self {
            filter: config.filter.as_ref().map(Filter::new),
            config: config.clone(),
            queue: queue.map_err(BuildError::Export)?,
        })
    }

    /// Logs a request, from worker `worker`.
    pub(super) fn append(
        &self,
        worker: usize,
        record: &Record<'_>,
        random: u64,
        runtime: Option<Runtime<'_>>,
    ) {
        if self.filter.as_ref().is_none_or(|filter| filter.passes(record, random, runtime)) {
            self.queue.push(worker, Entry(Box::new(entry(record, &self.config))));
        }
    }
}

/// An entry that waits.
struct Entry(Box<HttpAccessLogEntry>);

impl Item for Entry {
    fn bytes(&self) -> usize {
        self.0.encoded_len() + size_of::<HttpAccessLogEntry>()
    }
}

struct Encoder {
    identifier: Identifier,
}

impl Encode<Entry> for Encoder {
    fn encode(&self, items: &[Entry]) -> Bytes {
        let log_entry = items.iter().map(|Entry(entry)| (**entry).clone()).collect();
        let entries = LogEntries::HttpLogs(HttpAccessLogEntries { log_entry });
        StreamAccessLogsMessage { identifier: Some(self.identifier.clone()), log_entries: Some(entries) }
            .encode_to_vec()
            .into()
    }
}

fn entry(record: &Record<'_>, config: &GrpcAccessLog) -> HttpAccessLogEntry {
    HttpAccessLogEntry {
        common_properties: Some(common(record, &config.custom_tags)),
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

fn common(record: &Record<'_>, tags: &[CustomTag]) -> AccessLogCommon {
    let timing = &record.timing;
    let since = record.start.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (downstream, upstream) = (record.downstream, record.upstream);
    AccessLogCommon {
        downstream_remote_address: downstream.map(|d| address(d.remote)),
        downstream_local_address: downstream.map(|d| address(d.local)),
        downstream_direct_remote_address: downstream.map(|d| address(d.direct_remote)),
        tls_properties: downstream.and_then(|d| {
            let tls_sni_hostname = d.server_name.as_deref()?.to_owned();
            Some(TlsProperties { tls_sni_hostname, ..TlsProperties::default() })
        }),
        start_time: Some(Timestamp { seconds: since.as_secs() as i64, nanos: since.subsec_nanos() as i32 }),
        time_to_last_rx_byte: timing.downstream_rx_end.map(duration),
        time_to_first_upstream_tx_byte: timing.upstream_tx_begin.map(duration),
        time_to_last_upstream_tx_byte: timing.upstream_tx_end.map(duration),
        time_to_first_upstream_rx_byte: timing.upstream_rx_begin.map(duration),
        time_to_last_upstream_rx_byte: timing.upstream_rx_end.map(duration),
        time_to_first_downstream_tx_byte: timing.downstream_tx_begin.map(duration),
        time_to_last_downstream_tx_byte: timing.downstream_tx_end.map(duration),
        upstream_remote_address: upstream.map(|u| address(u.address)),
        upstream_local_address: upstream.and_then(|u| u.local).map(address),
        upstream_cluster: record.cluster_stat_name.or(record.cluster).unwrap_or_default().to_owned(),
        response_flags: (!record.flags.is_empty()).then(|| flags(record.flags)),
        upstream_transport_failure_reason: text(upstream.and_then(|u| u.transport_failure)),
        downstream_transport_failure_reason: text(downstream.and_then(|d| d.transport_failure.as_deref())),
        route_name: record.route.to_owned(),
        custom_tags: custom_tags(record, tags).collect(),
        duration: Some(duration(record.now)),
        upstream_request_attempt_count: record.attempts,
        connection_termination_details: text(record.termination_details),
        stream_id: record
            .request
            .and_then(|head| head.headers.get_id(HeaderId::XRequestId))
            .map_or_else(String::new, |id| String::from_utf8_lossy(id).into_owned()),
        downstream_wire_bytes_sent: record.downstream_bytes.wire_sent,
        downstream_wire_bytes_received: record.downstream_bytes.wire_received,
        upstream_wire_bytes_sent: record.upstream_bytes.wire_sent,
        upstream_wire_bytes_received: record.upstream_bytes.wire_received,
        access_log_type: match record.log_type {
            LogType::TcpConnectionStart => AccessLogType::TcpConnectionStart,
            LogType::TcpUpstreamConnected => AccessLogType::TcpUpstreamConnected,
            LogType::TcpPeriodic => AccessLogType::TcpPeriodic,
            LogType::TcpConnectionEnd => AccessLogType::TcpConnectionEnd,
            LogType::DownstreamStart => AccessLogType::DownstreamStart,
            LogType::DownstreamPeriodic => AccessLogType::DownstreamPeriodic,
            LogType::DownstreamEnd => AccessLogType::DownstreamEnd,
            LogType::NotSet => AccessLogType::NotSet,
        }
        .into(),
        ..AccessLogCommon::default()
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

fn response(record: &Record<'_>, config: &GrpcAccessLog) -> HttpResponseProperties {
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

fn text(text: Option<&str>) -> String {
    text.unwrap_or_default().to_owned()
}

fn duration(duration: Duration) -> ProtoDuration {
    ProtoDuration { seconds: duration.as_secs() as i64, nanos: duration.subsec_nanos() as i32 }
}

fn address(address: SocketAddr) -> core::Address {
    use core::address::Address;
    use core::socket_address::PortSpecifier;
    let socket = core::SocketAddress {
        address: address.ip().to_canonical().to_string(),
        port_specifier: Some(PortSpecifier::PortValue(address.port().into())),
        ..core::SocketAddress::default()
    };
    core::Address { address: Some(Address::SocketAddress(socket)) }
}

fn flags(flags: Flags) -> ResponseFlags {
    let has = |flag| flags.contains(flag);
    ResponseFlags {
        failed_local_healthcheck: has(Flags::FAILED_LOCAL_HEALTH_CHECK),
        no_healthy_upstream: has(Flags::NO_HEALTHY_UPSTREAM),
        upstream_request_timeout: has(Flags::UPSTREAM_REQUEST_TIMEOUT),
        local_reset: has(Flags::LOCAL_RESET),
        upstream_remote_reset: has(Flags::UPSTREAM_REMOTE_RESET),
        upstream_connection_failure: has(Flags::UPSTREAM_CONNECTION_FAILURE),
        upstream_connection_termination: has(Flags::UPSTREAM_CONNECTION_TERMINATION),
        upstream_overflow: has(Flags::UPSTREAM_OVERFLOW),
        no_route_found: has(Flags::NO_ROUTE_FOUND),
        delay_injected: has(Flags::DELAY_INJECTED),
        fault_injected: has(Flags::FAULT_INJECTED),
        rate_limited: has(Flags::RATE_LIMITED),
        unauthorized_details: has(Flags::UNAUTHORIZED_EXTERNAL_SERVICE).then_some(Unauthorized { reason: 1 }),
        rate_limit_service_error: has(Flags::RATE_LIMIT_SERVICE_ERROR),
        downstream_connection_termination: has(Flags::DOWNSTREAM_CONNECTION_TERMINATION),
        upstream_retry_limit_exceeded: has(Flags::UPSTREAM_RETRY_LIMIT_EXCEEDED),
        stream_idle_timeout: has(Flags::STREAM_IDLE_TIMEOUT),
        invalid_envoy_request_headers: has(Flags::INVALID_ENVOY_REQUEST_HEADERS),
        downstream_protocol_error: has(Flags::DOWNSTREAM_PROTOCOL_ERROR),
        upstream_max_stream_duration_reached: has(Flags::UPSTREAM_MAX_STREAM_DURATION_REACHED),
        response_from_cache_filter: has(Flags::RESPONSE_FROM_CACHE_FILTER),
        no_filter_config_found: has(Flags::NO_FILTER_CONFIG_FOUND),
        duration_timeout: has(Flags::DURATION_TIMEOUT),
        upstream_protocol_error: has(Flags::UPSTREAM_PROTOCOL_ERROR),
        no_cluster_found: has(Flags::NO_CLUSTER_FOUND),
        overload_manager: has(Flags::OVERLOAD_MANAGER),
        dns_resolution_failure: has(Flags::DNS_RESOLUTION_FAILED),
        downstream_remote_reset: has(Flags::DOWNSTREAM_REMOTE_RESET),
    }
}
