//! The TCP proxy.

use super::field::{self, ignored, required, unsupported};
use super::{Options, duration, grpc_log, metadata};
use crate::config::{MetadataMatch, TcpClusters, TcpLogOptions, TcpProxy, TcpTarget};
use crate::path::{Diagnostics, Path, Rejected};
use std::sync::Arc;
use std::time::Duration;
use xds_types::envoy::extensions::filters::network::tcp_proxy::v3 as proto;
use xds_types::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::{
    ClusterSpecifier, TcpAccessLogOptions, WeightedCluster, weighted_cluster,
};
use xds_types::envoy::r#type::v3::hash_policy::{FilterState, PolicySpecifier, SourceIp};
use xds_types::envoy::r#type::v3::{HashPolicy, Percent};

/// Envoy's default of `idle_timeout`.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

/// A TCP proxy.
pub(super) fn proxy(
    proto: proto::TcpProxy,
    at: &Path<'_>,
    d: &mut Diagnostics,
    o: &Options<'_>,
) -> Result<TcpProxy, Rejected> {
    let proto::TcpProxy {
        stat_prefix,
        on_demand,
        metadata_match,
        idle_timeout,
        downstream_idle_timeout,
        upstream_idle_timeout,
        access_log,
        max_connect_attempts,
        backoff_options,
        hash_policy,
        tunneling_config,
        max_downstream_connection_duration,
        max_downstream_connection_duration_jitter_percentage,
        access_log_flush_interval,
        flush_access_log_on_connected,
        access_log_options,
        proxy_protocol_tlvs,
        proxy_protocol_tlv_merge_policy,
        upstream_connect_mode,
        max_early_data_bytes,
        check_drain_close,
        cluster_specifier,
    } = proto;
    unsupported!(d, at; on_demand, downstream_idle_timeout, upstream_idle_timeout, tunneling_config);
    unsupported!(d, at, "the next host is tried at once"; backoff_options);
    unsupported!(d, at, "hosts are connected as soon as a connection is accepted"; upstream_connect_mode);
    unsupported!(d, at, "TLVs are not sent"; proxy_protocol_tlvs, proxy_protocol_tlv_merge_policy);
    ignored!(d, at, "what a client sends first waits in its socket"; max_early_data_bytes);
    let jitter_at = at.field("max_downstream_connection_duration_jitter_percentage");
    if max_downstream_connection_duration.is_none() {
        ignored!(d, at, "there is no duration to lengthen"; max_downstream_connection_duration_jitter_percentage);
    }
    let jitter = match max_downstream_connection_duration_jitter_percentage {
        Some(Percent { value }) if (0.0..=100.0).contains(&value) => (value * 10_000.0).round() as u32,
        Some(Percent { value }) => {
            return Err(d.reject(&jitter_at, format_args!("{value} is not a percentage, must be 0 to 100")));
        }
        None => 0,
    };
    let old_logs_at = at.field("access_log_flush_interval");
    let log_options = match access_log_options {
        Some(options) => {
            const TWICE: &str = "access_log_options says the same";
            unsupported!(d, at, TWICE; access_log_flush_interval, flush_access_log_on_connected);
            log_options(options, &at.field("access_log_options"), d)
        }
        None => TcpLogOptions {
            on_start: false,
            on_connected: flush_access_log_on_connected,
            interval: interval(access_log_flush_interval, &old_logs_at, d),
        },
    };
    let access_log = grpc_log::connection_logs(access_log, &at.field("access_log"), d, o);
    let max_duration = duration::read(
        max_downstream_connection_duration,
        &at.field("max_downstream_connection_duration"),
        d,
    );
    let idle_timeout = duration::limit(idle_timeout, Some(IDLE_TIMEOUT), &at.field("idle_timeout"), d);
    let wanted = metadata::of_hosts(metadata_match, &at.field("metadata_match"), d).map(Arc::new);
    let hashes = field::each(hash_policy, &at.field("hash_policy"), d, hash);
    Ok(TcpProxy {
        clusters: clusters(cluster_specifier, wanted, at, d)?,
        stat_prefix: stat_prefix.into(),
        idle_timeout,
        max_connect_attempts: max_connect_attempts.map_or(1, |v| v.value),
        max_duration: max_duration.filter(|limit| !limit.is_zero()),
        max_duration_jitter_per_million: jitter,
        hash_source_ip: !hashes.is_empty(),
        access_log,
        log_options,
        check_drain_close: check_drain_close.is_some_and(|v| v.value),
    })
}

fn clusters(
    proto: Option<ClusterSpecifier>,
    wanted: Option<Arc<MetadataMatch>>,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Result<TcpClusters, Rejected> {
    match proto {
        Some(ClusterSpecifier::Cluster(name)) if name.is_empty() => {
            Err(d.reject(&at.field("cluster"), "is required"))
        }
        Some(ClusterSpecifier::Cluster(name)) => {
            Ok(TcpClusters::Named(TcpTarget { name: name.into(), metadata_match: wanted }))
        }
        Some(ClusterSpecifier::WeightedClusters(WeightedCluster { clusters })) => {
            let at = at.field("weighted_clusters");
            let at = at.field("clusters");
            let clusters = field::each(clusters, &at, d, |proto, at, d| {
                let weighted_cluster::ClusterWeight { name, weight, metadata_match } = proto;
                let own = metadata::of_hosts(metadata_match, &at.field("metadata_match"), d);
                let metadata_match = match (&wanted, own) {
                    (Some(all), Some(own)) => Some(Arc::new(all.merged(&own))),
                    (None, Some(own)) => Some(Arc::new(own)),
                    (all, None) => all.clone(),
                };
                Ok((TcpTarget { name: name.into(), metadata_match }, weight))
            });
            if clusters.iter().all(|(_, weight)| *weight == 0) {
                return Err(d.reject(&at, "the sum of weights must be greater than 0"));
            }
            Ok(TcpClusters::Weighted(clusters))
        }
        None => Err(d.reject(at, "one of cluster, weighted_clusters is required")),
    }
}

fn hash(proto: HashPolicy, at: &Path<'_>, d: &mut Diagnostics) -> Result<(), Rejected> {
    let HashPolicy { policy_specifier } = proto;
    match required(policy_specifier, &at.field("policy_specifier"), d)? {
        PolicySpecifier::SourceIp(SourceIp {}) => Ok(()),
        PolicySpecifier::FilterState(FilterState { key: _ }) => {
            Err(d.reject(&at.field("filter_state"), "no filter keeps state to hash"))
        }
    }
}

fn log_options(proto: TcpAccessLogOptions, at: &Path<'_>, d: &mut Diagnostics) -> TcpLogOptions {
    let TcpAccessLogOptions {
        access_log_flush_interval,
        flush_access_log_on_connected,
        flush_access_log_on_start,
    } = proto;
    TcpLogOptions {
        on_start: flush_access_log_on_start,
        on_connected: flush_access_log_on_connected,
        interval: interval(access_log_flush_interval, &at.field("access_log_flush_interval"), d),
    }
}

fn interval(
    proto: Option<xds_types::google::protobuf::Duration>,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Option<Duration> {
    duration::read(proto, at, d).inspect(|interval| {
        if *interval < Duration::from_millis(1) {
            d.reject(at, "must be at least 1 ms");
        }
    })
}
