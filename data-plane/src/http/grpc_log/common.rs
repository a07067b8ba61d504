//! What entries of all kinds say.

use data_plane_core::certificate::San;
use data_plane_core::config::CustomTag;
use data_plane_core::headers::forwarded;
use data_plane_core::headers::{CertificateFacts, HeaderId, LogType, Record, ResponseFlags as Flags, Tls};
use data_plane_core::trace::custom_tags;
use std::net::SocketAddr;
use std::time::{Duration, UNIX_EPOCH};
use xds_types::envoy::config::core::v3 as core;
use xds_types::envoy::data::accesslog::v3::response_flags::Unauthorized;
use xds_types::envoy::data::accesslog::v3::tls_properties::certificate_properties::SubjectAltName;
use xds_types::envoy::data::accesslog::v3::tls_properties::certificate_properties::subject_alt_name::San as Name;
use xds_types::envoy::data::accesslog::v3::tls_properties::{CertificateProperties, TlsVersion};
use xds_types::envoy::data::accesslog::v3::{AccessLogCommon, AccessLogType, ResponseFlags, TlsProperties};
use xds_types::google::protobuf::{Duration as ProtoDuration, Timestamp, UInt32Value};

pub(super) fn common(record: &Record<'_>, tags: &[CustomTag]) -> AccessLogCommon {
    let timing = &record.timing;
    let since = record.start.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (downstream, upstream) = (record.downstream, record.upstream);
    AccessLogCommon {
        downstream_remote_address: downstream.map(|d| address(d.remote)),
        downstream_local_address: downstream.map(|d| address(d.local)),
        downstream_direct_remote_address: downstream.map(|d| address(d.direct_remote)),
        tls_properties: downstream.and_then(|d| Some(tls(d.tls.as_deref()?, d.server_name.as_deref()))),
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
        stream_id: stream_id(record),
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

/// The id of a request; a connection has one of its own.
fn stream_id(record: &Record<'_>) -> String {
    let given = record.request.and_then(|head| head.headers.get_id(HeaderId::XRequestId));
    match given {
        Some(id) => String::from_utf8_lossy(id).into_owned(),
        None if record.request.is_some() || record.stream_id == 0 => String::new(),
        None => {
            let mut text = [0; 36];
            forwarded::uuid(record.stream_id, &mut text).to_owned()
        }
    }
}

/// What TLS agreed upon with the client.
fn tls(tls: &Tls, server_name: Option<&str>) -> TlsProperties {
    TlsProperties {
        tls_version: match tls.version {
            "TLSv1.2" => TlsVersion::TlSv12,
            "TLSv1.3" => TlsVersion::TlSv13,
            _ => TlsVersion::VersionUnspecified,
        }
        .into(),
        tls_cipher_suite: suite(tls.cipher).map(|value| UInt32Value { value }),
        tls_sni_hostname: text(server_name),
        local_certificate_properties: Some(certificate(tls.local.as_deref())),
        peer_certificate_properties: Some(CertificateProperties {
            issuer: tls.peer.first().map_or_else(String::new, |peer| peer.certificate.issuer.clone()),
            ..certificate(tls.peer.first())
        }),
        ..TlsProperties::default()
    }
}

/// What Envoy tells of a certificate: of its names the URIs alone.
fn certificate(facts: Option<&CertificateFacts>) -> CertificateProperties {
    let Some(CertificateFacts { certificate, .. }) = facts else { return CertificateProperties::default() };
    let uri = |san: &San| match san {
        San::Uri(uri) => Some(SubjectAltName { san: Some(Name::Uri(uri.to_string())) }),
        _ => None,
    };
    CertificateProperties {
        subject_alt_name: certificate.sans.iter().filter_map(uri).collect(),
        subject: certificate.subject.clone(),
        ..CertificateProperties::default()
    }
}

/// A suite's number (IANA), by the name that OpenSSL has for it: those that rustls speaks.
fn suite(name: &str) -> Option<u32> {
    Some(match name {
        "TLS_AES_128_GCM_SHA256" => 0x1301,
        "TLS_AES_256_GCM_SHA384" => 0x1302,
        "TLS_CHACHA20_POLY1305_SHA256" => 0x1303,
        "ECDHE-ECDSA-AES128-GCM-SHA256" => 0xc02b,
        "ECDHE-ECDSA-AES256-GCM-SHA384" => 0xc02c,
        "ECDHE-RSA-AES128-GCM-SHA256" => 0xc02f,
        "ECDHE-RSA-AES256-GCM-SHA384" => 0xc030,
        "ECDHE-RSA-CHACHA20-POLY1305" => 0xcca8,
        "ECDHE-ECDSA-CHACHA20-POLY1305" => 0xcca9,
        _ => return None,
    })
}

pub(super) fn text(text: Option<&str>) -> String {
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
