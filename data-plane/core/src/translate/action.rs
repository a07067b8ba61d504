//! Routes that forward: which cluster, rewrites, timeouts.

use super::edits::{self, Direction};
use super::field::{self, ignored, required, unsupported};
use super::route::{HEDGING, Scope};
use super::{duration, filters, hash, http, matcher, metadata, mirror, ratelimit, retry};
use crate::config::{
    BodyLimit, ClusterChoice, ClusterWeight, Forward, HostRewrite, MetadataMatch, PathRewrite,
    WeightedClusters,
};
use crate::path::{Diagnostics, Path, Rejected};
use std::sync::Arc;
use std::time::Duration;
use xds_types::envoy::config::core::v3::RoutingPriority;
use xds_types::envoy::config::route::v3 as proto;
use xds_types::envoy::config::route::v3::route_action::{
    ClusterNotFoundResponseCode, ClusterSpecifier, HostRewriteSpecifier, InternalRedirectAction,
    MaxStreamDuration, UpgradeConfig,
};
use xds_types::envoy::config::route::v3::weighted_cluster::cluster_weight::HostRewriteSpecifier as WeightHostRewrite;
use xds_types::envoy::config::route::v3::weighted_cluster::{
    ClusterWeight as ProtoWeight, RandomValueSpecifier,
};
use xds_types::envoy::r#type::matcher::v3::RegexMatchAndSubstitute;

/// Envoy's default of a route's `timeout`.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Sending to a cluster.
pub(super) fn forward(
    proto: proto::RouteAction,
    body_limit: Option<BodyLimit>,
    at: &Path<'_>,
    d: &mut Diagnostics,
    scope: Scope<'_>,
) -> Result<Forward, Rejected> {
    let proto::RouteAction {
        cluster_not_found_response_code,
        metadata_match,
        prefix_rewrite,
        regex_rewrite,
        path_rewrite_policy,
        path_rewrite,
        append_x_forwarded_host,
        timeout,
        idle_timeout,
        flush_timeout,
        early_data_policy,
        retry_policy,
        retry_policy_typed_config,
        request_mirror_policies,
        priority,
        rate_limits,
        include_vh_rate_limits,
        hash_policy,
        cors,
        max_grpc_timeout,
        grpc_timeout_offset,
        upgrade_configs,
        internal_redirect_policy,
        internal_redirect_action,
        max_internal_redirects,
        hedge_policy,
        max_stream_duration,
        cluster_specifier,
        host_rewrite_specifier,
    } = proto;
    unsupported!(d, at; retry_policy_typed_config);
    unsupported!(d, at, HEDGING; hedge_policy);
    let upgrades = upgrades(upgrade_configs, &at.field("upgrade_configs"), d);
    unsupported!(d, at, "internal redirects are not built yet"; internal_redirect_policy, max_internal_redirects);
    unsupported!(d, at; path_rewrite_policy, path_rewrite, cors);
    ignored!(d, at, "idle_timeout bounds flushing too"; flush_timeout);
    ignored!(d, at, "early data is never accepted"; early_data_policy);
    let redirects_at = at.field("internal_redirect_action");
    if let Ok(InternalRedirectAction::HandleInternalRedirect) =
        field::variant(internal_redirect_action, &redirects_at, d)
    {
        d.reject(&redirects_at, "internal redirects are not built yet");
    }
    let inherited = scope.inherited;
    let retry = match retry_policy {
        Some(proto) => retry::policy(proto, &at.field("retry_policy"), d).ok(),
        None => inherited.retry.clone(),
    };
    let mirrors = mirror::mirrors(request_mirror_policies, &inherited.mirrors, at, d);
    let metadata_match = metadata::of_hosts(metadata_match, &at.field("metadata_match"), d).map(Arc::new);
    let cluster = cluster_choice(cluster_specifier, metadata_match.as_ref(), at, d, scope);
    let path_rewrite = path_rewrite_of(prefix_rewrite, regex_rewrite, at, d);
    let host_rewrite = host_rewrite(host_rewrite_specifier, at, d);
    let idle_at = at.field("idle_timeout");
    let timeout = match max_stream_duration {
        None => duration::limit(timeout, Some(TIMEOUT), &at.field("timeout"), d),
        // Measured on Envoy 1.40: the message turns the timeout off, whatever it holds.
        Some(_) => {
            ignored!(d, at, "max_stream_duration takes its place"; timeout);
            None
        }
    };
    let stream = StreamDurations { max_stream_duration, max_grpc_timeout, grpc_timeout_offset }.read(at, d);
    Ok(Forward {
        upgrades,
        cluster_not_found_status: match field::variant(
            cluster_not_found_response_code,
            &at.field("cluster_not_found_response_code"),
            d,
        )? {
            ClusterNotFoundResponseCode::ServiceUnavailable => 503,
            ClusterNotFoundResponseCode::NotFound => 404,
            ClusterNotFoundResponseCode::InternalServerError => 500,
        },
        append_x_forwarded_host,
        timeout,
        idle_timeout: duration::read(idle_timeout, &idle_at, d).map(|t| Some(t).filter(|t| !t.is_zero())),
        max_stream_duration: stream.max,
        grpc_timeout_header_max: stream.grpc_max,
        grpc_timeout_header_offset: stream.grpc_offset,
        rate_limits: ratelimit::limits(rate_limits, ratelimit::Reader::Routes, &at.field("rate_limits"), d),
        include_vh_rate_limits: include_vh_rate_limits.is_some_and(|v| v.value),
        hash_policy: hash::policies(hash_policy, &at.field("hash_policy"), d),
        high_priority: priority_is_high(priority, &at.field("priority"), d)?,
        retry,
        body_limit: body_limit.unwrap_or(inherited.body_limit),
        mirrors,
        cluster: cluster?,
        metadata_match,
        path_rewrite: path_rewrite?,
        host_rewrite: host_rewrite?,
    })
}

fn upgrades(list: Vec<UpgradeConfig>, at: &Path<'_>, d: &mut Diagnostics) -> Vec<(Box<str>, bool)> {
    let mut known = Vec::new();
    field::each(list, at, d, |proto, at, d| {
        let UpgradeConfig { upgrade_type, enabled, connect_config } = proto;
        unsupported!(d, at, "CONNECT is not supported"; connect_config);
        let kind = http::upgrade(upgrade_type, &mut known, &at.field("upgrade_type"), d)?;
        Ok((kind, enabled.is_none_or(|v| v.value)))
    })
}

/// Whether a priority is the high one of the two.
pub(super) fn priority_is_high(value: i32, at: &Path<'_>, d: &mut Diagnostics) -> Result<bool, Rejected> {
    Ok(match field::variant(value, at, d)? {
        RoutingPriority::Default => false,
        RoutingPriority::High => true,
    })
}

/// `max_stream_duration` and the two deprecated fields it took over.
struct StreamDurations {
    max_stream_duration: Option<MaxStreamDuration>,
    max_grpc_timeout: Option<xds_types::google::protobuf::Duration>,
    grpc_timeout_offset: Option<xds_types::google::protobuf::Duration>,
}

#[derive(Default)]
struct StreamLimits {
    max: Option<Duration>,
    grpc_max: Option<Duration>,
    grpc_offset: Duration,
}

impl StreamDurations {
    fn read(self, at: &Path<'_>, d: &mut Diagnostics) -> StreamLimits {
        let Self { max_stream_duration, max_grpc_timeout, grpc_timeout_offset } = self;
        let old_max = duration::read(max_grpc_timeout, &at.field("max_grpc_timeout"), d);
        let old_offset =
            duration::or(grpc_timeout_offset, Duration::ZERO, &at.field("grpc_timeout_offset"), d);
        let Some(proto) = max_stream_duration else {
            return StreamLimits { max: None, grpc_max: old_max, grpc_offset: old_offset };
        };
        ignored!(d, at, "max_stream_duration takes its place"; max_grpc_timeout, grpc_timeout_offset);
        let MaxStreamDuration { max_stream_duration, grpc_timeout_header_max, grpc_timeout_header_offset } =
            proto;
        let at = at.field("max_stream_duration");
        StreamLimits {
            max: duration::read(max_stream_duration, &at.field("max_stream_duration"), d),
            grpc_max: duration::read(grpc_timeout_header_max, &at.field("grpc_timeout_header_max"), d),
            grpc_offset: duration::or(
                grpc_timeout_header_offset,
                Duration::ZERO,
                &at.field("grpc_timeout_header_offset"),
                d,
            ),
        }
    }
}

fn cluster_choice(
    proto: Option<ClusterSpecifier>,
    metadata_match: Option<&Arc<MetadataMatch>>,
    at: &Path<'_>,
    d: &mut Diagnostics,
    scope: Scope<'_>,
) -> Result<ClusterChoice, Rejected> {
    match proto {
        Some(ClusterSpecifier::Cluster(name)) => {
            Ok(ClusterChoice::Named(cluster_name(name, &at.field("cluster"), d, scope)))
        }
        Some(ClusterSpecifier::ClusterHeader(name)) => {
            let at = at.field("cluster_header");
            edits::name(&name, &at, d)?;
            Ok(ClusterChoice::Header(name.to_ascii_lowercase().into()))
        }
        Some(ClusterSpecifier::WeightedClusters(proto)) => {
            let at = at.field("weighted_clusters");
            Ok(ClusterChoice::Weighted(weighted(proto, metadata_match, &at, d, scope)?))
        }
        Some(ClusterSpecifier::ClusterSpecifierPlugin(_)) => {
            Err(d.reject(&at.field("cluster_specifier_plugin"), "not supported"))
        }
        Some(ClusterSpecifier::InlineClusterSpecifierPlugin(_)) => {
            Err(d.reject(&at.field("inline_cluster_specifier_plugin"), "not supported"))
        }
        None => Err(d.reject(at, "one of cluster, cluster_header, weighted_clusters is required")),
    }
}

/// A cluster's name, checked where the route configuration wants that.
fn cluster_name(name: String, at: &Path<'_>, d: &mut Diagnostics, scope: Scope<'_>) -> Box<str> {
    if name.is_empty() {
        d.reject(at, "is required");
    } else if scope.validate_clusters && scope.options.clusters.is_some_and(|exists| !exists(&name)) {
        d.reject(at, format_args!("unknown cluster {name:?}"));
    }
    name.into()
}

fn weighted(
    proto: proto::WeightedCluster,
    metadata_match: Option<&Arc<MetadataMatch>>,
    at: &Path<'_>,
    d: &mut Diagnostics,
    scope: Scope<'_>,
) -> Result<WeightedClusters, Rejected> {
    let proto::WeightedCluster { clusters, total_weight, runtime_key_prefix, random_value_specifier } = proto;
    unsupported!(d, at, "runtime does not override weights"; runtime_key_prefix);
    let mut use_hash_policy = false;
    let random_value_header = match random_value_specifier {
        Some(RandomValueSpecifier::HeaderName(name)) => {
            edits::name(&name, &at.field("header_name"), d)?;
            Some(name.to_ascii_lowercase().into())
        }
        Some(RandomValueSpecifier::UseHashPolicy(used)) => {
            use_hash_policy = used.value;
            None
        }
        None => None,
    };
    let clusters_at = at.field("clusters");
    let before = d.rejections();
    let clusters = field::each(clusters, &clusters_at, d, |proto, at, d| {
        cluster_weight(proto, metadata_match, at, d, scope)
    });
    let sum: u64 = clusters.iter().map(|c| u64::from(c.weight)).sum();
    let total = match u32::try_from(sum) {
        Ok(0) if d.rejections() == before => {
            return Err(d.reject(&clusters_at, "the sum of weights must be greater than 0"));
        }
        Ok(total) => total,
        Err(_) => {
            return Err(d.reject(&clusters_at, format_args!("the sum of weights {sum} exceeds {}", u32::MAX)));
        }
    };
    ignored!(d, at, "deprecated: the weights' own sum is used"; total_weight = total);
    Ok(WeightedClusters { clusters, total, random_value_header, use_hash_policy })
}

/// `inherited` is the route's: what the weighted cluster asks for goes over it.
fn cluster_weight(
    proto: ProtoWeight,
    inherited: Option<&Arc<MetadataMatch>>,
    at: &Path<'_>,
    d: &mut Diagnostics,
    scope: Scope<'_>,
) -> Result<ClusterWeight, Rejected> {
    let ProtoWeight {
        name,
        cluster_header,
        weight,
        metadata_match,
        request_headers_to_add,
        request_headers_to_remove,
        response_headers_to_add,
        response_headers_to_remove,
        typed_per_filter_config,
        host_rewrite_specifier,
    } = proto;
    unsupported!(d, at, "not supported in weighted clusters"; cluster_header);
    let metadata_match = metadata::of_hosts(metadata_match, &at.field("metadata_match"), d);
    let metadata_match = match (inherited, metadata_match) {
        (Some(route), Some(own)) => Some(Arc::new(route.merged(&own))),
        (None, Some(own)) => Some(Arc::new(own)),
        (route, None) => route.cloned(),
    };
    let overrides = filters::per_route(typed_per_filter_config, at, d, scope.options);
    let host_rewrite = host_rewrite_specifier.map(|WeightHostRewrite::HostRewriteLiteral(host)| host.into());
    Ok(ClusterWeight {
        name: cluster_name(name, &at.field("name"), d, scope),
        weight: required(weight, &at.field("weight"), d)?.value,
        metadata_match,
        request_edits: edits::edits(
            Direction::Request,
            request_headers_to_add,
            request_headers_to_remove,
            at,
            d,
        ),
        response_edits: edits::edits(
            Direction::Response,
            response_headers_to_add,
            response_headers_to_remove,
            at,
            d,
        ),
        host_rewrite,
        overrides,
    })
}

fn path_rewrite_of(
    prefix: String,
    regex: Option<RegexMatchAndSubstitute>,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Result<Option<PathRewrite>, Rejected> {
    let regex_at = at.field("regex_rewrite");
    match (prefix.is_empty(), regex) {
        (true, None) => Ok(None),
        (false, None) => Ok(Some(PathRewrite::Prefix(prefix.into()))),
        (true, Some(proto)) => {
            let (regex, substitution) = matcher::substitution(proto, &regex_at, d)?;
            Ok(Some(PathRewrite::Regex(regex, substitution)))
        }
        (false, Some(_)) => Err(d.reject(&regex_at, "prefix_rewrite and regex_rewrite exclude each other")),
    }
}

fn host_rewrite(
    proto: Option<HostRewriteSpecifier>,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Result<Option<HostRewrite>, Rejected> {
    Ok(match proto {
        Some(HostRewriteSpecifier::HostRewriteLiteral(host)) => Some(HostRewrite::Literal(host.into())),
        Some(HostRewriteSpecifier::AutoHostRewrite(auto)) => auto.value.then_some(HostRewrite::Auto),
        Some(HostRewriteSpecifier::HostRewriteHeader(name)) => {
            edits::name(&name, &at.field("host_rewrite_header"), d)?;
            Some(HostRewrite::Header(name.to_ascii_lowercase().into()))
        }
        Some(HostRewriteSpecifier::HostRewritePathRegex(proto)) => {
            let (regex, substitution) =
                matcher::substitution(proto, &at.field("host_rewrite_path_regex"), d)?;
            Some(HostRewrite::PathRegex(regex, substitution))
        }
        Some(HostRewriteSpecifier::HostRewrite(_)) => {
            return Err(d.reject(
                &at.field("host_rewrite"),
                "formatted hosts are not supported: use host_rewrite_literal",
            ));
        }
        None => None,
    })
}
