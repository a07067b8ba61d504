//! What makes a service fail well -> fields of its `Cluster`.
//!
//! gRPC clients take circuit breakers' `max_requests` (gRFC A32), outlier detection by success rate and failure
//! percentage (A50) and ring hash (A42); they are sent nothing else of it, since some of it makes them refuse the
//! cluster.

use xds_types::envoy::config::cluster::v3::circuit_breakers::{Thresholds, thresholds};
use xds_types::envoy::config::cluster::v3::cluster::{
    CommonLbConfig, LbConfig, LeastRequestLbConfig, MaglevLbConfig, RingHashLbConfig, RoundRobinLbConfig,
    SlowStartConfig, ring_hash_lb_config::HashFunction,
};
use xds_types::envoy::config::cluster::v3::{CircuitBreakers, Cluster, OutlierDetection as EnvoyOutlier};
use xds_types::envoy::config::core::v3::health_check::{
    GrpcHealthCheck, HealthChecker, HttpHealthCheck, Payload, TcpHealthCheck, payload,
};
use xds_types::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
use xds_types::envoy::config::core::v3::{
    HealthCheck as EnvoyCheck, Metadata, ProxyProtocolConfig, RequestMethod, RoutingPriority, RuntimeDouble,
    TransportSocket, proxy_protocol_config, transport_socket,
};
use xds_types::envoy::extensions::transport_sockets::proxy_protocol::v3::ProxyProtocolUpstreamTransport;
use xds_types::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use xds_types::envoy::r#type::v3::{CodecClientType, Int64Range, Percent};
use xds_types::google::protobuf::{DoubleValue, UInt32Value, UInt64Value};
use xds_types::portolan::config::v1::{
    FailurePercentage, HashTable, HealthCheck, OutlierDetection, RetryBudget, Service, ServiceLimits,
    SlowStart, SuccessRate, Zones, health_check::Check, service,
};
use xds_types::portolan::extensions::v1::CircuitBreaker;
use xds_types::typed_struct::TypedStruct;

use super::Dialect;
use super::parts::{seconds, uint, yes};
use super::patch::to_struct;
use crate::model::check;

/// Where our proxy looks for its breaker.
const BREAKER: &str = "portolan.circuit_breaker";

/// Adds what this service says to its cluster.
pub(super) fn apply(cluster: &mut Cluster, spec: &Service, dialect: Dialect) {
    if dialect == Dialect::Envoy {
        cluster.health_checks =
            spec.health_check.iter().map(|h| health_check(h, spec, &cluster.name)).collect();
        cluster.metadata = spec.circuit_breaker.as_ref().map(breaker);
    }
    cluster.outlier_detection = spec.outlier_detection.as_ref().map(|o| outlier(o, dialect));
    cluster.circuit_breakers = spec.limits.as_ref().map(|l| limits(l, dialect));
    let policy = service::LoadBalancing::try_from(spec.load_balancing).unwrap_or_default();
    cluster.lb_config = lb_config(policy, spec.hash_table.as_ref(), spec.slow_start.as_ref(), dialect);
    if let Some(Zones { panic_percent: Some(percent), .. }) = &spec.zones
        && dialect == Dialect::Envoy
    {
        cluster.common_lb_config = Some(CommonLbConfig {
            healthy_panic_threshold: Some(Percent { value: f64::from(percent.value) }),
            ..CommonLbConfig::default()
        });
    }
    if dialect == Dialect::Envoy {
        proxy_protocol(cluster, spec);
    }
}

fn health_check(h: &HealthCheck, spec: &Service, name: &str) -> EnvoyCheck {
    let HealthCheck {
        check,
        interval,
        timeout,
        unhealthy_threshold,
        healthy_threshold,
        jitter_percent,
        port: _, // a field of each endpoint
        no_traffic_interval,
    } = h;
    let service = super::names::service_and_subset(name).0;
    let checker = check.as_ref().map(|c| match c {
        Check::Http(http) => HealthChecker::HttpHealthCheck(HttpHealthCheck {
            host: if http.host.is_empty() { service.to_owned() } else { http.host.clone() },
            path: http.path.clone(),
            method: RequestMethod::from_str_name(&http.method).unwrap_or(RequestMethod::Get).into(),
            expected_statuses: http
                .expected
                .iter()
                .filter_map(|text| check::statuses(text))
                .map(|(first, last)| Int64Range { start: first.into(), end: i64::from(last) + 1 })
                .collect(),
            request_headers_to_add: to_send(&http.headers),
            codec_client_type: if spec.protocol == i32::from(service::Protocol::Http2) {
                CodecClientType::Http2.into()
            } else {
                CodecClientType::Http1.into()
            },
            ..HttpHealthCheck::default()
        }),
        Check::Tcp(tcp) => HealthChecker::TcpHealthCheck(TcpHealthCheck {
            send: (!tcp.send.is_empty()).then(|| hex(&tcp.send)),
            receive: tcp.receive.iter().map(|text| hex(text)).collect(),
            ..TcpHealthCheck::default()
        }),
        Check::Grpc(grpc) => HealthChecker::GrpcHealthCheck(GrpcHealthCheck {
            service_name: grpc.service.clone(),
            authority: if grpc.authority.is_empty() { service.to_owned() } else { grpc.authority.clone() },
            ..GrpcHealthCheck::default()
        }),
    });
    EnvoyCheck {
        timeout: timeout.or_else(|| seconds(1)),
        interval: interval.or_else(|| seconds(5)),
        interval_jitter_percent: jitter_percent.as_ref().map_or(10, |p| p.value),
        unhealthy_threshold: uint(unhealthy_threshold.as_ref().map_or(3, |n| n.value)),
        healthy_threshold: uint(healthy_threshold.as_ref().map_or(2, |n| n.value)),
        no_traffic_interval: *no_traffic_interval,
        health_checker: checker,
        ..EnvoyCheck::default()
    }
}

/// Sorted by name, because a proto map has no order.
fn to_send(headers: &std::collections::HashMap<String, String>) -> Vec<HeaderValueOption> {
    let mut sorted: Vec<_> = headers.iter().collect();
    sorted.sort();
    let one = |(key, value): (&String, &String)| HeaderValueOption {
        header: Some(HeaderValue { key: key.clone(), value: value.clone(), ..HeaderValue::default() }),
        ..HeaderValueOption::default()
    };
    sorted.into_iter().map(one).collect()
}

/// Envoy takes these texts in hexadecimal.
fn hex(text: &str) -> Payload {
    let text = text.bytes().map(|b| format!("{b:02x}")).collect();
    Payload { payload: Some(payload::Payload::Text(text)) }
}

/// Enforced fully where it is looked at, and not at all where not.
fn outlier(o: &OutlierDetection, dialect: Dialect) -> EnvoyOutlier {
    let OutlierDetection {
        consecutive_5xx,
        consecutive_gateway_failures,
        consecutive_local_failures,
        interval,
        base_ejection,
        max_ejection,
        max_ejected_percent,
        success_rate,
        failure_percentage,
    } = o;
    let value = |n: &Option<UInt32Value>, default| n.as_ref().map_or(default, |n| n.value);
    let enforced = |on: bool| uint(if on { 100 } else { 0 });
    let mut out = EnvoyOutlier {
        interval: *interval,
        base_ejection_time: *base_ejection,
        max_ejection_time: *max_ejection,
        max_ejection_percent: max_ejected_percent.map(|n| UInt32Value { value: n.value }),
        enforcing_success_rate: enforced(success_rate.is_some()),
        enforcing_failure_percentage: enforced(failure_percentage.is_some()),
        ..EnvoyOutlier::default()
    };
    if let Some(SuccessRate { factor, minimum_instances, minimum_requests }) = success_rate {
        out.success_rate_stdev_factor = *factor;
        out.success_rate_minimum_hosts = *minimum_instances;
        out.success_rate_request_volume = *minimum_requests;
    }
    if let Some(FailurePercentage { threshold, minimum_instances, minimum_requests }) = failure_percentage {
        out.failure_percentage_threshold = *threshold;
        out.failure_percentage_minimum_hosts = *minimum_instances;
        out.failure_percentage_request_volume = *minimum_requests;
    }
    if dialect == Dialect::Grpc {
        return out; // gRFC A50: it has nothing consecutive
    }
    let (any, gateway) = (value(consecutive_5xx, 5), value(consecutive_gateway_failures, 0));
    let local = value(consecutive_local_failures, 0);
    // A number of 0 would be one that is reached at once: what is not enforced keeps the default.
    let limit = |n: u32| (n > 0).then_some(UInt32Value { value: n });
    out.consecutive_5xx = limit(any);
    out.enforcing_consecutive_5xx = enforced(any > 0);
    out.consecutive_gateway_failure = limit(gateway);
    out.enforcing_consecutive_gateway_failure = enforced(gateway > 0);
    out.split_external_local_origin_errors = local > 0;
    if local > 0 {
        out.consecutive_local_origin_failure = limit(local);
        out.enforcing_consecutive_local_origin_failure = enforced(true);
        out.enforcing_local_origin_success_rate = enforced(success_rate.is_some());
        out.enforcing_failure_percentage_local_origin = enforced(failure_percentage.is_some());
    }
    out.always_eject_one_host = yes();
    out
}

/// As a `TypedStruct`: Envoy, which has no such message, can then still show the cluster.
fn breaker(b: &CircuitBreaker) -> Metadata {
    let typed = TypedStruct {
        type_url: xds_types::any::pack(b).type_url,
        value: Some(to_struct(&xds_types::text::to_json(b))),
    };
    Metadata {
        typed_filter_metadata: [(BREAKER.to_owned(), xds_types::any::pack(&typed))].into(),
        ..Metadata::default()
    }
}

fn limits(l: &ServiceLimits, dialect: Dialect) -> CircuitBreakers {
    let ServiceLimits {
        connections,
        pending_requests,
        requests,
        retries,
        retry_budget,
        connections_per_instance,
    } = l;
    if dialect == Dialect::Grpc {
        let only = Thresholds { max_requests: *requests, ..Thresholds::default() };
        return CircuitBreakers { thresholds: vec![only], ..CircuitBreakers::default() };
    }
    let all = Thresholds {
        max_connections: *connections,
        max_pending_requests: *pending_requests,
        max_requests: *requests,
        max_retries: *retries,
        retry_budget: retry_budget.as_ref().map(|RetryBudget { percent, minimum }| thresholds::RetryBudget {
            budget_percent: Some(Percent { value: percent.as_ref().map_or(20.0, |p| p.value) }),
            min_retry_concurrency: uint(minimum.as_ref().map_or(3, |n| n.value)),
            ..Default::default()
        }),
        // So that stats show how near a limit is.
        track_remaining: true,
        ..Thresholds::default()
    };
    let each = connections_per_instance
        .as_ref()
        .map(|n| Thresholds { max_connections: uint(n.value), ..Thresholds::default() });
    // The same for each priority, counted apart.
    let high = Thresholds { priority: RoutingPriority::High.into(), ..all };
    CircuitBreakers { thresholds: vec![all, high], per_host_thresholds: each.into_iter().collect() }
}

fn lb_config(
    policy: service::LoadBalancing,
    table: Option<&HashTable>,
    slow: Option<&SlowStart>,
    dialect: Dialect,
) -> Option<LbConfig> {
    use service::LoadBalancing::{LeastRequest, Maglev, Random, RingHash, RoundRobin};
    let size = |n: Option<UInt32Value>| n.map(|n| UInt64Value { value: n.value.into() });
    let ring = |min: Option<UInt32Value>, max: Option<UInt32Value>| {
        LbConfig::RingHashLbConfig(RingHashLbConfig {
            minimum_ring_size: size(min),
            maximum_ring_size: size(max),
            hash_function: HashFunction::XxHash.into(),
        })
    };
    match (policy, dialect) {
        (RingHash, _) => table.map(|t| ring(t.min_size, t.max_size)),
        (Maglev, Dialect::Envoy) => {
            let table_size = size(table.and_then(|t| t.table_size));
            table_size.is_some().then_some(LbConfig::MaglevLbConfig(MaglevLbConfig { table_size }))
        }
        (RoundRobin, Dialect::Envoy) => slow.map(|s| {
            let slow_start_config = Some(slow_start(s));
            LbConfig::RoundRobinLbConfig(RoundRobinLbConfig { slow_start_config })
        }),
        (LeastRequest, Dialect::Envoy) => slow.map(|s| {
            let slow_start_config = Some(slow_start(s));
            LbConfig::LeastRequestLbConfig(LeastRequestLbConfig { slow_start_config, ..Default::default() })
        }),
        (Random, _) | (_, Dialect::Grpc) => None,
    }
}

fn slow_start(s: &SlowStart) -> SlowStartConfig {
    let SlowStart { window, aggression, min_weight_percent } = s;
    SlowStartConfig {
        slow_start_window: *window,
        aggression: aggression.as_ref().map(|a| RuntimeDouble {
            default_value: a.value,
            // Envoy wants a key; nobody sets it.
            runtime_key: "portolan.slow_start_aggression".to_owned(),
        }),
        min_weight_percent: min_weight_percent
            .as_ref()
            .map(|DoubleValue { value }| Percent { value: *value }),
    }
}

/// Around whatever else wraps the connection, since the header comes first.
fn proxy_protocol(cluster: &mut Cluster, spec: &Service) {
    use service::ProxyProtocol::{None as No, V1, V2};
    let version = match service::ProxyProtocol::try_from(spec.proxy_protocol).unwrap_or_default() {
        No => return,
        V1 => proxy_protocol_config::Version::V1,
        V2 => proxy_protocol_config::Version::V2,
    };
    let inner = cluster.transport_socket.take().unwrap_or_else(|| TransportSocket {
        name: "envoy.transport_sockets.raw_buffer".to_owned(),
        config_type: Some(transport_socket::ConfigType::TypedConfig(xds_types::any::pack(
            &RawBuffer::default(),
        ))),
    });
    let outer = ProxyProtocolUpstreamTransport {
        config: Some(ProxyProtocolConfig { version: version.into(), ..ProxyProtocolConfig::default() }),
        transport_socket: Some(inner),
        ..ProxyProtocolUpstreamTransport::default()
    };
    cluster.transport_socket = Some(TransportSocket {
        name: "envoy.transport_sockets.upstream_proxy_protocol".to_owned(),
        config_type: Some(transport_socket::ConfigType::TypedConfig(xds_types::any::pack(&outer))),
    });
}
