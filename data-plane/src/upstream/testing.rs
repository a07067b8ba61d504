//! Configuration that tests of this module start from.

use crate::stats::Registry;
use data_plane_core::config::{
    Assignment, CircuitThresholds, Cluster, ConfigSource, Discovery, DnsFamily, DnsOptions, DnsResolver,
    Endpoint, EndpointAddress, EndpointHealth, Http1Options, Http2Options, LbPolicy, LocalityEndpoints,
    LocalityLb, UpstreamProtocol,
};
use std::net::SocketAddr;
use std::time::Duration;

/// Envoy's defaults.
pub(super) fn cluster(name: &str, discovery: Discovery) -> Cluster {
    Cluster {
        transport_socket: None,
        proxy_protocol: None,
        transport_socket_matches: Vec::new(),
        auto_sni: Default::default(),
        name: name.into(),
        stat_name: name.into(),
        discovery,
        lb: LbPolicy::ROUND_ROBIN,
        locality_lb: LocalityLb::Alike,
        subsets: None,
        fail_traffic_on_panic: false,
        connect_timeout: Duration::from_secs(5),
        protocol: UpstreamProtocol::Http1,
        http1: Http1Options { allow_absolute_url: true, ..Http1Options::default() },
        http2: Http2Options {
            max_concurrent_streams: 1024,
            initial_stream_window: 16 << 20,
            initial_connection_window: 24 << 20,
            header_table_size: 4096,
            keepalive_interval: None,
            keepalive_timeout: Duration::from_secs(10),
            allow_connect: false,
            max_reset_streams: 100,
        },
        idle_timeout: Some(Duration::from_secs(3600)),
        max_connection_duration: None,
        max_requests_per_connection: None,
        max_headers_count: 100,
        max_response_headers_kb: None,
        circuit_breakers: [CircuitThresholds::default(), CircuitThresholds::default()],
        max_connections_per_host: None,
        health_check: None,
        outlier_detection: None,
        breaker: None,
        ignore_health_on_host_removal: false,
        ignore_new_hosts_until_first_check: false,
        per_connection_buffer_limit_bytes: 1 << 20,
        tcp_keepalive: None,
        healthy_panic_threshold: 50,
        close_connections_on_host_change: false,
    }
}

pub(super) fn eds(name: &str) -> Cluster {
    let source = ConfigSource::Ads { initial_fetch_timeout: Some(Duration::from_secs(15)) };
    cluster(name, Discovery::Eds { service_name: name.into(), source })
}

pub(super) fn fixed(name: &str, addresses: &[SocketAddr]) -> Cluster {
    cluster(name, Discovery::Static(assignment(addresses)))
}

pub(super) fn dns_options() -> DnsOptions {
    DnsOptions {
        refresh_rate: Duration::from_secs(5),
        respect_ttl: false,
        family: DnsFamily::V4Only,
        failure_refresh: None,
        wait_for_warm: true,
        resolver: DnsResolver::default(),
    }
}

pub(super) fn endpoint(address: EndpointAddress) -> Endpoint {
    Endpoint {
        address,
        hostname: "".into(),
        weight: 1,
        health: EndpointHealth::Healthy,
        labels: Default::default(),
        transport_labels: Default::default(),
        check: None,
    }
}

pub(super) fn socket(address: SocketAddr) -> Endpoint {
    endpoint(EndpointAddress::Socket(address))
}

pub(super) fn group(endpoints: Vec<Endpoint>) -> Assignment {
    let localities = vec![LocalityEndpoints { endpoints, ..LocalityEndpoints::default() }];
    Assignment { name: "".into(), localities, overprovisioning_factor: 140, weighted_priority_health: false }
}

pub(super) fn assignment(addresses: &[SocketAddr]) -> Assignment {
    group(addresses.iter().copied().map(socket).collect())
}

/// The value of a counter or gauge by its full name; zero when there is none.
pub(super) fn value(registry: &Registry, name: &str) -> u64 {
    registry.value(name).unwrap_or(0)
}
