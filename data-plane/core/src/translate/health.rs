//! Active health checks (`config.core.v3.HealthCheck`).

use super::edits::{self, Direction};
use super::field::{self, ignored, unsupported};
use super::{address, duration, extension, matcher};
use crate::config::{EndpointCheck, GrpcProbe, HealthCheck, HttpProbe, Probe, TcpProbe, UpstreamProtocol};
use crate::guard::health::Pace;
use crate::path::{Diagnostics, Path, Rejected};
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;
use xds_types::envoy::config::core::v3 as proto;
use xds_types::envoy::config::core::v3::health_check as check_proto;
use xds_types::envoy::config::core::v3::health_check::HealthChecker;
use xds_types::envoy::config::core::v3::health_check::payload::Payload as Bytes;
use xds_types::envoy::config::core::v3::{RequestMethod, TypedExtensionConfig};
use xds_types::envoy::config::endpoint::v3::endpoint::HealthCheckConfig;
use xds_types::envoy::extensions::health_check::event_sinks::file::v3::HealthCheckEventFileSink;
use xds_types::envoy::r#type::v3::{CodecClientType, Int64Range};

/// Envoy's default of `no_traffic_interval`.
const NO_TRAFFIC_INTERVAL: Duration = Duration::from_secs(60);
/// Envoy's default of `response_buffer_size`.
const RESPONSE_BUFFER: usize = 1024;

/// The check of a cluster: Envoy takes one.
pub(super) fn checks(
    list: Vec<proto::HealthCheck>,
    protocol: UpstreamProtocol,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Option<HealthCheck> {
    if list.len() > 1 {
        d.reject(&at.index(1), "one health check per cluster is supported, as in Envoy");
    }
    field::each(list, at, d, |proto, at, d| check(proto, protocol, at, d)).into_iter().next()
}

fn check(
    proto: proto::HealthCheck,
    protocol: UpstreamProtocol,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Result<HealthCheck, Rejected> {
    let proto::HealthCheck {
        timeout,
        interval,
        initial_jitter,
        interval_jitter,
        interval_jitter_percent,
        unhealthy_threshold,
        healthy_threshold,
        alt_port,
        reuse_connection,
        no_traffic_interval,
        no_traffic_healthy_interval,
        unhealthy_interval,
        unhealthy_edge_interval,
        healthy_edge_interval,
        event_log_path,
        event_logger,
        event_service,
        always_log_health_check_failures,
        always_log_health_check_success,
        tls_options,
        transport_socket_match_criteria,
        health_checker,
    } = proto;
    unsupported!(d, at; tls_options, transport_socket_match_criteria);
    ignored!(d, at, "events are written to files only"; event_service);
    let second = Duration::from_secs(1);
    let mut wait = |proto, default, name| duration::positive_or(proto, default, &at.field(name), d);
    // The API's rules say that both must be there.
    let timeout = wait(timeout, second, "timeout");
    let interval = wait(interval, second, "interval");
    let no_traffic_interval = wait(no_traffic_interval, NO_TRAFFIC_INTERVAL, "no_traffic_interval");
    let unhealthy_interval = wait(unhealthy_interval, interval, "unhealthy_interval");
    let pace = Pace {
        interval,
        no_traffic_interval,
        no_traffic_healthy_interval: wait(
            no_traffic_healthy_interval,
            no_traffic_interval,
            "no_traffic_healthy_interval",
        ),
        unhealthy_interval,
        unhealthy_edge_interval: wait(unhealthy_edge_interval, unhealthy_interval, "unhealthy_edge_interval"),
        healthy_edge_interval: wait(healthy_edge_interval, interval, "healthy_edge_interval"),
        initial_jitter: duration::or(initial_jitter, Duration::ZERO, &at.field("initial_jitter"), d),
        interval_jitter: duration::or(interval_jitter, Duration::ZERO, &at.field("interval_jitter"), d),
        interval_jitter_percent,
        unhealthy_threshold: unhealthy_threshold.map_or(1, |v| v.value),
        healthy_threshold: healthy_threshold.map_or(1, |v| v.value),
    };
    let mut event_logs = field::each(event_logger, &at.field("event_logger"), d, sink);
    if !event_log_path.is_empty() {
        event_logs.push(event_log_path.into());
    }
    let alt_port = match alt_port {
        Some(port) => field::port(port.value, 1, &at.field("alt_port"), d).ok(),
        None => None,
    };
    let probe = match health_checker {
        Some(HealthChecker::HttpHealthCheck(proto)) => {
            Probe::Http(Box::new(http(proto, &at.field("http_health_check"), d)?))
        }
        Some(HealthChecker::TcpHealthCheck(proto)) => {
            Probe::Tcp(tcp(proto, &at.field("tcp_health_check"), d)?)
        }
        Some(HealthChecker::GrpcHealthCheck(proto)) => {
            let at = at.field("grpc_health_check");
            if protocol == UpstreamProtocol::Http1 {
                d.reject(&at, "the cluster must speak HTTP/2 for gRPC health checks");
            }
            Probe::Grpc(grpc(proto, &at, d))
        }
        Some(HealthChecker::CustomHealthCheck(check_proto::CustomHealthCheck { name, config_type: _ })) => {
            let message = format!("health checker {name:?} is not supported: http, tcp and grpc are");
            return Err(d.reject(&at.field("custom_health_check"), message));
        }
        None => {
            let message = "one of http_health_check, tcp_health_check, grpc_health_check is required";
            return Err(d.reject(at, message));
        }
    };
    Ok(HealthCheck {
        pace,
        timeout,
        alt_port,
        reuse_connection: reuse_connection.is_none_or(|v| v.value),
        probe,
        event_logs,
        log_failures: always_log_health_check_failures,
        log_successes: always_log_health_check_success,
    })
}

/// A file that events are written to.
fn sink(proto: TypedExtensionConfig, at: &Path<'_>, d: &mut Diagnostics) -> Result<PathBuf, Rejected> {
    let TypedExtensionConfig { name, typed_config } = proto;
    let packed = extension::packed(typed_config.as_ref(), at, d)?;
    let at = at.field("typed_config");
    if !extension::is::<HealthCheckEventFileSink>(packed) {
        return Err(extension::unknown("health check event sink", &name, packed, &at, d));
    }
    let HealthCheckEventFileSink { event_log_path } = extension::open(packed, &at, d)?;
    if event_log_path.is_empty() {
        return Err(d.reject(&at.field("event_log_path"), "is required"));
    }
    Ok(event_log_path.into())
}

fn http(
    proto: check_proto::HttpHealthCheck,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Result<HttpProbe, Rejected> {
    let check_proto::HttpHealthCheck {
        host,
        path,
        send,
        receive,
        response_buffer_size,
        request_headers_to_add,
        request_headers_to_remove,
        expected_statuses,
        retriable_statuses,
        codec_client_type,
        service_name_matcher,
        method,
    } = proto;
    let method_at = at.field("method");
    let method = match field::variant(method, &method_at, d)? {
        RequestMethod::MethodUnspecified => RequestMethod::Get,
        RequestMethod::Connect => return Err(d.reject(&method_at, "CONNECT checks no health")),
        method => method,
    };
    let send = match send {
        Some(proto) => payload(proto, &at.field("send"), d)?,
        None => Box::default(),
    };
    use RequestMethod as M;
    if !send.is_empty() && !matches!(method, M::Post | M::Put | M::Patch | M::Options) {
        let message =
            format!("{} requests have no body: POST, PUT, PATCH and OPTIONS do", method.as_str_name());
        d.reject(&at.field("send"), message);
    }
    let codec_at = at.field("codec_client_type");
    let http2 = match field::variant(codec_client_type, &codec_at, d)? {
        CodecClientType::Http1 => false,
        CodecClientType::Http2 => true,
        CodecClientType::Http3 => return Err(d.reject(&codec_at, "HTTP/3 is not supported")),
    };
    let mut expected = statuses(expected_statuses, &at.field("expected_statuses"), d);
    if expected.is_empty() {
        expected.push(200..201);
    }
    let receive = field::each(receive, &at.field("receive"), d, payload);
    let response_buffer = match response_buffer_size.map(|v| v.value) {
        None => Some(RESPONSE_BUFFER),
        Some(0) => None,
        Some(size) => Some(usize::try_from(size).unwrap_or(usize::MAX)),
    };
    let expected_length: usize = receive.iter().map(|part| part.len()).sum();
    if let Some(size) = response_buffer.filter(|size| *size < expected_length) {
        let message = format!("{size} bytes do not hold the {expected_length} that are expected");
        d.reject(&at.field("response_buffer_size"), message);
    }
    Ok(HttpProbe {
        host: host.into(),
        path: path.into(),
        method: method.as_str_name().into(),
        send,
        receive,
        response_buffer,
        edits: edits::edits(Direction::Request, request_headers_to_add, request_headers_to_remove, at, d),
        expected,
        retriable: statuses(retriable_statuses, &at.field("retriable_statuses"), d),
        http2,
        service_name: match service_name_matcher {
            Some(proto) => Some(matcher::string(proto, &at.field("service_name_matcher"), d)?),
            None => None,
        },
    })
}

/// Half-open ranges of statuses.
fn statuses(list: Vec<Int64Range>, at: &Path<'_>, d: &mut Diagnostics) -> Vec<Range<u16>> {
    field::each(list, at, d, |Int64Range { start, end }, at, d| {
        match (u16::try_from(start), u16::try_from(end)) {
            (Ok(low), Ok(high)) if low >= 100 && high <= 600 && low < high => Ok(low..high),
            _ => Err(d.reject(at, format_args!("{start}..{end} is not a range of statuses within 100..600"))),
        }
    })
}

/// Bytes, as they are or in hexadecimal.
fn payload(proto: check_proto::Payload, at: &Path<'_>, d: &mut Diagnostics) -> Result<Box<[u8]>, Rejected> {
    let check_proto::Payload { payload } = proto;
    match payload {
        Some(Bytes::Binary(bytes)) => Ok(bytes.into()),
        Some(Bytes::Text(text)) => hex(&text).ok_or_else(|| {
            d.reject(&at.field("text"), format_args!("{text:?} is not hexadecimal: 00 to ff, byte by byte"))
        }),
        None => Err(d.reject(at, "one of text, binary is required")),
    }
}

fn hex(text: &str) -> Option<Box<[u8]>> {
    let digits: Option<Vec<u32>> = text.chars().map(|c| c.to_digit(16)).collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0)?;
    Some(digits.chunks_exact(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect())
}

fn tcp(proto: check_proto::TcpHealthCheck, at: &Path<'_>, d: &mut Diagnostics) -> Result<TcpProbe, Rejected> {
    let check_proto::TcpHealthCheck { send, receive, proxy_protocol_config } = proto;
    unsupported!(d, at; proxy_protocol_config);
    let send = match send {
        Some(proto) => payload(proto, &at.field("send"), d)?,
        None => Box::default(),
    };
    Ok(TcpProbe { send, receive: field::each(receive, &at.field("receive"), d, payload) })
}

fn grpc(proto: check_proto::GrpcHealthCheck, at: &Path<'_>, d: &mut Diagnostics) -> GrpcProbe {
    let check_proto::GrpcHealthCheck { service_name, authority, initial_metadata } = proto;
    GrpcProbe {
        service_name: service_name.into(),
        authority: authority.into(),
        edits: edits::additions(initial_metadata, &at.field("initial_metadata"), d),
    }
}

/// What an endpoint says of its checks; `None`: nothing.
pub(super) fn endpoint(
    proto: HealthCheckConfig,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Option<Box<EndpointCheck>> {
    let HealthCheckConfig { port_value, hostname, address, disable_active_health_check } = proto;
    let check_address = match address {
        Some(proto) => address::socket(proto, &at.field("address"), d).ok(),
        None => None,
    };
    let port = match port_value {
        0 => None,
        port => field::port(port, 1, &at.field("port_value"), d).ok(),
    };
    let check = EndpointCheck {
        port,
        hostname: hostname.into(),
        check_address,
        disabled: disable_active_health_check,
    };
    (check != EndpointCheck::default()).then(|| Box::new(check))
}
