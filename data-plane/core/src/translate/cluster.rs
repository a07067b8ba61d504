//! Clusters.

use super::address;
use super::field::{ignored, unsupported};
use super::listener::BUFFER_LIMIT_BYTES;
use super::{
    Options, action, breaker, discovery, dns, duration, fraction, health, lb, outlier, tls, upstream_http,
};
use crate::config::{CircuitThresholds, Cluster, Discovery, RetryBudget, TcpKeepalive, UpstreamProtocol};
use crate::path::{Diagnostics, Path, Rejected};
use std::sync::Arc;
use std::time::Duration;
use xds_types::envoy::config::cluster::v3 as proto;
use xds_types::envoy::config::cluster::v3::circuit_breakers::Thresholds;
use xds_types::envoy::config::cluster::v3::circuit_breakers::thresholds::RetryBudget as ProtoBudget;
use xds_types::envoy::config::cluster::v3::cluster::CommonLbConfig;
use xds_types::envoy::r#type::v3::Percent;

/// Envoy's default of `connect_timeout`.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Envoy's default of `healthy_panic_threshold`.
const PANIC_THRESHOLD: u8 = 50;

/// A cluster.
pub(super) fn cluster(
    proto: proto::Cluster,
    at: &Path<'_>,
    d: &mut Diagnostics,
    o: &Options<'_>,
) -> Result<Cluster, Rejected> {
    let proto::Cluster {
        transport_socket_matches,
        transport_socket_matcher,
        name,
        alt_stat_name,
        stats_matcher,
        eds_cluster_config,
        connect_timeout,
        per_connection_buffer_limit_bytes,
        per_connection_buffer_high_watermark_timeout,
        lb_policy,
        load_assignment,
        health_checks,
        max_requests_per_connection,
        circuit_breakers,
        upstream_http_protocol_options,
        common_http_protocol_options,
        http_protocol_options,
        http2_protocol_options,
        typed_extension_protocol_options,
        dns_refresh_rate,
        dns_jitter,
        dns_failure_refresh_rate,
        respect_dns_ttl,
        dns_lookup_family,
        dns_resolvers,
        use_tcp_for_dns_lookups,
        dns_resolution_config,
        typed_dns_resolver_config,
        wait_for_warm_on_init,
        outlier_detection,
        cleanup_interval,
        upstream_bind_config,
        lb_subset_config,
        common_lb_config,
        transport_socket,
        metadata,
        protocol_selection,
        upstream_connection_options,
        close_connections_on_host_health_failure,
        ignore_health_on_host_removal,
        filters,
        load_balancing_policy,
        lrs_server,
        lrs_report_endpoint_metrics,
        track_timeout_budgets,
        upstream_config,
        track_cluster_stats,
        preconnect_policy,
        connection_pool_per_downstream_connection,
        queuing_policies,
        cluster_discovery_type,
        lb_config,
    } = proto;
    unsupported!(d, at, "only transport_socket_matches is"; transport_socket_matcher);
    unsupported!(d, at;
        upstream_bind_config,
        filters,
        upstream_config,
        connection_pool_per_downstream_connection,
        queuing_policies,
    );
    ignored!(d, at, "no stats are filtered"; stats_matcher);
    ignored!(d, at, "load is not reported"; lrs_server, lrs_report_endpoint_metrics);
    ignored!(d, at, "these stats are not kept"; track_timeout_budgets, track_cluster_stats);
    ignored!(d, at, "connections are opened on demand"; preconnect_policy);
    ignored!(d, at, "is for ORIGINAL_DST clusters"; cleanup_interval);
    ignored!(d, at, "connections are not closed for full buffers"; per_connection_buffer_high_watermark_timeout);
    ignored!(d, at, "connections to hosts that fail are left to end by themselves"; close_connections_on_host_health_failure);
    let transport_socket = tls::upstream(transport_socket, &at.field("transport_socket"), d, o);
    let matches_at = at.field("transport_socket_matches");
    let transport_socket_matches = tls::upstream_matches(transport_socket_matches, &matches_at, d, o);

    let dns = dns::Legacy {
        dns_refresh_rate,
        dns_jitter,
        dns_failure_refresh_rate,
        respect_dns_ttl,
        dns_lookup_family,
        dns_resolvers,
        use_tcp_for_dns_lookups,
        dns_resolution_config,
        typed_dns_resolver_config,
        wait_for_warm_on_init,
    };
    let places = discovery::Places { cluster: &name, eds_cluster_config, load_assignment, dns };
    let discovery = places.discovery(cluster_discovery_type, at, d, o);
    let http = upstream_http::Legacy {
        upstream_http_protocol_options,
        common_http_protocol_options,
        http_protocol_options,
        http2_protocol_options,
        protocol_selection,
        max_requests_per_connection,
    }
    .options(typed_extension_protocol_options, at, d);
    let health_check = health::checks(health_checks, http.protocol, &at.field("health_checks"), d);
    let outlier_at = at.field("outlier_detection");
    let outlier_detection = outlier_detection.map(|proto| outlier::detection(proto, &outlier_at, d));
    let metadata_at = at.field("metadata");
    let breaker = metadata.and_then(|proto| breaker::of_metadata(proto, &metadata_at, d));
    let common_lb = common_lb(common_lb_config, &at.field("common_lb_config"), d);
    let lb = lb::Fields { lb_policy, lb_config, load_balancing_policy, lb_subset_config }.read(
        &common_lb.balancing,
        at,
        d,
    );
    let tcp_keepalive =
        connection_options(upstream_connection_options, &at.field("upstream_connection_options"), d);
    let connect_timeout =
        duration::positive_or(connect_timeout, CONNECT_TIMEOUT, &at.field("connect_timeout"), d);
    let limits = thresholds(circuit_breakers, &at.field("circuit_breakers"), d);
    let stat_name = if alt_stat_name.is_empty() { &name } else { &alt_stat_name };
    if name.is_empty() {
        d.reject(&at.field("name"), "is required");
    }
    let lb = lb?;
    let tls::UpstreamSocket { tls: transport_socket, proxy_protocol } = transport_socket?;
    let by_tls = transport_socket.is_some() || transport_socket_matches.iter().any(|m| m.tls.is_some());
    if http.protocol == UpstreamProtocol::Auto && !by_tls {
        d.reject(&at.field("transport_socket"), "auto_config chooses by ALPN, which only TLS has");
    }
    if common_lb.balancing.hashes_names() && !matches!(discovery, Ok(Discovery::StrictDns(..))) {
        let at = at.field("common_lb_config");
        d.reject(
            &at.field("consistent_hashing_lb_config").field("use_hostname_for_hashing"),
            "is for STRICT_DNS clusters only",
        );
    }
    Ok(Cluster {
        transport_socket,
        proxy_protocol,
        transport_socket_matches,
        auto_sni: http.auto_sni,
        stat_name: stat_name.as_str().into(),
        connect_timeout,
        protocol: http.protocol,
        http1: http.http1,
        http2: http.http2,
        idle_timeout: http.common.idle_timeout,
        max_connection_duration: http.common.max_connection_duration,
        max_requests_per_connection: http.common.max_requests_per_connection,
        max_headers_count: http.common.max_headers_count,
        max_response_headers_kb: http.common.max_response_headers_kb,
        circuit_breakers: limits.priorities,
        max_connections_per_host: limits.per_host,
        health_check: health_check.map(Arc::new),
        outlier_detection: outlier_detection.map(Arc::new),
        breaker: breaker.map(Arc::new),
        ignore_health_on_host_removal,
        ignore_new_hosts_until_first_check: common_lb.ignore_new_hosts,
        per_connection_buffer_limit_bytes: per_connection_buffer_limit_bytes
            .map_or(BUFFER_LIMIT_BYTES, |v| v.value),
        tcp_keepalive,
        healthy_panic_threshold: common_lb.panic_threshold,
        close_connections_on_host_change: common_lb.close_connections,
        discovery: discovery?,
        lb: lb.policy,
        subsets: lb.subsets,
        locality_lb: lb.locality_lb,
        fail_traffic_on_panic: lb.fail_traffic_on_panic,
        name: name.into(),
    })
}

/// Limits of a cluster.
#[derive(Default)]
struct Limits {
    priorities: [CircuitThresholds; 2],
    /// Connections of one host.
    per_host: Option<u32>,
}

fn thresholds(proto: Option<proto::CircuitBreakers>, at: &Path<'_>, d: &mut Diagnostics) -> Limits {
    let mut limits = Limits::default();
    let Some(proto::CircuitBreakers { thresholds, per_host_thresholds }) = proto else { return limits };
    limits.per_host = per_host(per_host_thresholds, &at.field("per_host_thresholds"), d);
    let at = at.field("thresholds");
    let mut seen = [false; 2];
    for (index, proto) in thresholds.into_iter().enumerate() {
        let at = at.index(index);
        let Ok(high) = action::priority_is_high(proto.priority, &at.field("priority"), d) else {
            continue;
        };
        let slot = usize::from(high);
        if std::mem::replace(&mut seen[slot], true) {
            d.ignored(&at, "the first thresholds of a priority count");
            continue;
        }
        limits.priorities[slot] = threshold(proto, &at, d);
    }
    limits
}

/// Envoy takes `max_connections` of the default priority, and refuses the rest.
fn per_host(list: Vec<Thresholds>, at: &Path<'_>, d: &mut Diagnostics) -> Option<u32> {
    let mut found = None;
    for (index, proto) in list.into_iter().enumerate() {
        let at = at.index(index);
        let Thresholds {
            priority,
            max_connections,
            max_pending_requests,
            max_requests,
            max_retries,
            retry_budget,
            track_remaining,
            max_connection_pools,
        } = proto;
        unsupported!(d, at, "of single hosts only max_connections is limited, as in Envoy";
            max_pending_requests, max_requests, max_retries, retry_budget, max_connection_pools);
        ignored!(d, at, "is for limits of the cluster"; track_remaining);
        match action::priority_is_high(priority, &at.field("priority"), d) {
            Ok(true) => {
                d.ignored(&at, "connections to hosts serve both priorities: the default's limit counts")
            }
            Ok(false) if found.is_none() => found = max_connections.map(|v| v.value),
            Ok(false) => d.ignored(&at, "the first thresholds of a priority count"),
            Err(Rejected) => {}
        }
    }
    found
}

fn threshold(proto: Thresholds, at: &Path<'_>, d: &mut Diagnostics) -> CircuitThresholds {
    let Thresholds {
        priority: _, // read by the caller
        max_connections,
        max_pending_requests,
        max_requests,
        max_retries,
        retry_budget,
        track_remaining,
        max_connection_pools,
    } = proto;
    ignored!(d, at, "pools are not limited in number"; max_connection_pools);
    let defaults = CircuitThresholds::default();
    CircuitThresholds {
        max_connections: max_connections.map_or(defaults.max_connections, |v| v.value),
        max_pending_requests: max_pending_requests.map_or(defaults.max_pending_requests, |v| v.value),
        max_requests: max_requests.map_or(defaults.max_requests, |v| v.value),
        max_retries: max_retries.map_or(defaults.max_retries, |v| v.value),
        retry_budget: retry_budget.map(|proto| budget(proto, &at.field("retry_budget"), d)),
        track_remaining,
    }
}

/// A budget takes the place of `max_retries`, as in Envoy.
fn budget(proto: ProtoBudget, at: &Path<'_>, d: &mut Diagnostics) -> RetryBudget {
    let ProtoBudget { budget_percent, budget_interval, min_retry_concurrency } = proto;
    unsupported!(d, at, "the budget counts what is under way now"; budget_interval);
    let defaults = RetryBudget::default();
    let percent = match budget_percent {
        Some(Percent { value }) if (0.0..=100.0).contains(&value) => (value * 10_000.0).round() as u32,
        Some(Percent { value }) => {
            let message = format_args!("{value} is not a percentage, must be 0 to 100");
            d.reject(&at.field("budget_percent"), message);
            defaults.per_million
        }
        None => defaults.per_million,
    };
    RetryBudget {
        per_million: percent,
        min_concurrency: min_retry_concurrency.map_or(defaults.min_concurrency, |v| v.value),
    }
}

struct CommonLb {
    balancing: lb::Common,
    panic_threshold: u8,
    ignore_new_hosts: bool,
    close_connections: bool,
}

fn common_lb(proto: Option<CommonLbConfig>, at: &Path<'_>, d: &mut Diagnostics) -> CommonLb {
    let CommonLbConfig {
        healthy_panic_threshold,
        update_merge_window,
        ignore_new_hosts_until_first_hc,
        close_connections_on_host_set_change,
        consistent_hashing_lb_config,
        override_host_status,
        locality_config_specifier,
    } = proto.unwrap_or_default();
    ignored!(d, at, "updates take effect at once"; update_merge_window);
    ignored!(d, at, "no filter overrides the host"; override_host_status);
    CommonLb {
        balancing: lb::common(consistent_hashing_lb_config, locality_config_specifier, at, d),
        panic_threshold: match healthy_panic_threshold {
            Some(proto) => {
                fraction::percent(proto, &at.field("healthy_panic_threshold"), d).unwrap_or(PANIC_THRESHOLD)
            }
            None => PANIC_THRESHOLD,
        },
        close_connections: close_connections_on_host_set_change,
        ignore_new_hosts: ignore_new_hosts_until_first_hc,
    }
}

fn connection_options(
    proto: Option<proto::UpstreamConnectionOptions>,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Option<TcpKeepalive> {
    let proto::UpstreamConnectionOptions {
        tcp_keepalive,
        set_local_interface_name_on_upstream_connections,
        happy_eyeballs_config,
    } = proto?;
    ignored!(d, at, "has no reader"; set_local_interface_name_on_upstream_connections);
    ignored!(d, at, "each host is tried at its one address"; happy_eyeballs_config);
    tcp_keepalive.map(address::keepalive)
}
