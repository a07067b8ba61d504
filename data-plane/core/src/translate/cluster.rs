//! Clusters.

use super::address;
use super::field::{ignored, unsupported};
use super::listener::BUFFER_LIMIT_BYTES;
use super::{Options, action, discovery, dns, duration, extension, fraction, lb, upstream_http};
use crate::config::{CircuitThresholds, Cluster, TcpKeepalive};
use crate::path::{Diagnostics, Path, Rejected};
use std::time::Duration;
use xds_types::envoy::config::cluster::v3 as proto;
use xds_types::envoy::config::cluster::v3::circuit_breakers::Thresholds;
use xds_types::envoy::config::cluster::v3::cluster::CommonLbConfig;
use xds_types::envoy::config::cluster::v3::cluster::common_lb_config::LocalityConfigSpecifier;

/// Envoy's default of `connect_timeout`.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// What becomes of the high priority.
pub(super) const PRIORITY: &str = "requests of both priorities count against the default thresholds";

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
    unsupported!(d, at, "health checking is not built yet"; health_checks);
    unsupported!(d, at, "outlier detection is not built yet"; outlier_detection);
    unsupported!(d, at, "TLS is not built yet"; transport_socket_matches, transport_socket_matcher);
    unsupported!(d, at, "subset balancing is not built yet"; lb_subset_config);
    unsupported!(d, at;
        upstream_bind_config,
        filters,
        upstream_config,
        connection_pool_per_downstream_connection,
        queuing_policies,
    );
    ignored!(d, at, "no stats are filtered"; stats_matcher);
    ignored!(d, at, "has no reader"; metadata);
    ignored!(d, at, "load is not reported"; lrs_server, lrs_report_endpoint_metrics);
    ignored!(d, at, "these stats are not kept"; track_timeout_budgets, track_cluster_stats);
    ignored!(d, at, "connections are opened on demand"; preconnect_policy);
    ignored!(d, at, "is for ORIGINAL_DST clusters"; cleanup_interval);
    ignored!(d, at, "connections are not closed for full buffers"; per_connection_buffer_high_watermark_timeout);
    ignored!(d, at, "hosts are not health checked"; close_connections_on_host_health_failure,
        ignore_health_on_host_removal);
    ignored!(d, at, "buffers are bounded by the codecs"; per_connection_buffer_limit_bytes);
    extension::plaintext_only(transport_socket, &at.field("transport_socket"), d);

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
    let lb = lb::policy(lb_policy, lb_config, load_balancing_policy, at, d);
    let common_lb = common_lb(common_lb_config, &at.field("common_lb_config"), d);
    let tcp_keepalive =
        connection_options(upstream_connection_options, &at.field("upstream_connection_options"), d);
    let connect_timeout =
        duration::positive_or(connect_timeout, CONNECT_TIMEOUT, &at.field("connect_timeout"), d);
    let stat_name = if alt_stat_name.is_empty() { &name } else { &alt_stat_name };
    if name.is_empty() {
        d.reject(&at.field("name"), "is required");
    }
    Ok(Cluster {
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
        circuit_breakers: thresholds(circuit_breakers, &at.field("circuit_breakers"), d),
        per_connection_buffer_limit_bytes: per_connection_buffer_limit_bytes
            .map_or(BUFFER_LIMIT_BYTES, |v| v.value),
        tcp_keepalive,
        healthy_panic_threshold: common_lb.panic_threshold,
        close_connections_on_host_change: common_lb.close_connections,
        discovery: discovery?,
        lb: lb?,
        name: name.into(),
    })
}

/// Limits of both priorities.
fn thresholds(
    proto: Option<proto::CircuitBreakers>,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> [CircuitThresholds; 2] {
    let mut limits = [CircuitThresholds::default(), CircuitThresholds::default()];
    let Some(proto::CircuitBreakers { thresholds, per_host_thresholds }) = proto else { return limits };
    unsupported!(d, at, "limits of single hosts are not supported"; per_host_thresholds);
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
        limits[slot] = threshold(proto, &at, d);
        if high {
            d.ignored(&at, PRIORITY);
        }
    }
    limits
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
    ignored!(d, at, "retries are limited by max_retries"; retry_budget);
    ignored!(d, at, "pools are not limited in number"; max_connection_pools);
    let defaults = CircuitThresholds::default();
    CircuitThresholds {
        max_connections: max_connections.map_or(defaults.max_connections, |v| v.value),
        max_pending_requests: max_pending_requests.map_or(defaults.max_pending_requests, |v| v.value),
        max_requests: max_requests.map_or(defaults.max_requests, |v| v.value),
        max_retries: max_retries.map_or(defaults.max_retries, |v| v.value),
        track_remaining,
    }
}

struct CommonLb {
    panic_threshold: u8,
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
    unsupported!(d, at, "no balancer that hashes is built yet"; consistent_hashing_lb_config);
    ignored!(d, at, "updates take effect at once"; update_merge_window);
    ignored!(d, at, "hosts are not health checked"; ignore_new_hosts_until_first_hc);
    ignored!(d, at, "no filter overrides the host"; override_host_status);
    match locality_config_specifier {
        Some(LocalityConfigSpecifier::ZoneAwareLbConfig(_)) => {
            d.ignored(&at.field("zone_aware_lb_config"), lb::NO_ZONES);
        }
        Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(_)) => {
            d.reject(&at.field("locality_weighted_lb_config"), lb::NO_LOCALITY_WEIGHTS);
        }
        None => {}
    }
    CommonLb {
        panic_threshold: match healthy_panic_threshold {
            Some(proto) => {
                fraction::percent(proto, &at.field("healthy_panic_threshold"), d).unwrap_or(PANIC_THRESHOLD)
            }
            None => PANIC_THRESHOLD,
        },
        close_connections: close_connections_on_host_set_change,
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
