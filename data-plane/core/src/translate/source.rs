//! Config sources: the ADS stream, gRPC streams of their own, files.

use super::duration;
use super::field::{self, ignored, required, unsupported};
use super::{Options, edits};
use crate::config::{ConfigSource, GrpcSource, GrpcTarget, TransportApi, f64Bits};
use crate::path::{Diagnostics, Path, Rejected};
use std::time::Duration;
use xds_types::envoy::config::core::v3::api_config_source::ApiType;
use xds_types::envoy::config::core::v3::config_source::ConfigSourceSpecifier as Specifier;
use xds_types::envoy::config::core::v3::grpc_service::{EnvoyGrpc, TargetSpecifier};
use xds_types::envoy::config::core::v3::{self as core_proto, ApiVersion};

/// Wait for the first update when nothing is said.
const INITIAL_FETCH_TIMEOUT: Duration = Duration::from_secs(15);

/// Where resources of one type come from.
pub(super) fn config_source(
    proto: core_proto::ConfigSource,
    at: &Path<'_>,
    d: &mut Diagnostics,
    o: &Options<'_>,
) -> Result<ConfigSource, Rejected> {
    let core_proto::ConfigSource {
        authorities,
        initial_fetch_timeout,
        resource_api_version,
        config_source_specifier,
    } = proto;
    unsupported!(d, at, "xdstp names are not supported"; authorities);
    version(resource_api_version, Missing::Allowed, &at.field("resource_api_version"), d);
    let timeout_at = at.field("initial_fetch_timeout");
    let initial_fetch_timeout_set = initial_fetch_timeout.is_some();
    let initial_fetch_timeout =
        duration::limit(initial_fetch_timeout, Some(INITIAL_FETCH_TIMEOUT), &timeout_at, d);
    let Some(specifier) = config_source_specifier else {
        return Err(d.reject(at, "one of ads, path_config_source, api_config_source is required"));
    };
    let source = match specifier {
        Specifier::Ads(core_proto::AggregatedConfigSource {}) => {
            if o.sources.is_some_and(|s| !s.ads) {
                d.reject(&at.field("ads"), "the bootstrap has no dynamic_resources.ads_config");
            }
            ConfigSource::Ads { initial_fetch_timeout }
        }
        Specifier::ApiConfigSource(api) => ConfigSource::Grpc {
            source: api_source(api, Use::OneType, &at.field("api_config_source"), d, o)?,
            initial_fetch_timeout,
        },
        Specifier::PathConfigSource(path) => path_source(path, &at.field("path_config_source"), d, o)?,
        Specifier::Path(path) => {
            path_source(core_proto::PathConfigSource { path, ..Default::default() }, at, d, o)?
        }
        Specifier::Self_(core_proto::SelfConfigSource { transport_api_version: _ }) => {
            return Err(d.reject(&at.field("self"), "not supported: name the source itself"));
        }
    };
    if initial_fetch_timeout_set && matches!(source, ConfigSource::Path { .. }) {
        d.ignored(&timeout_at, "files are read at once");
    }
    Ok(source)
}

/// What a gRPC stream carries.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// All types: the bootstrap's `ads_config`.
    Aggregated,
    /// One type.
    OneType,
}

/// A management server.
pub(super) fn api_source(
    proto: core_proto::ApiConfigSource,
    usage: Use,
    at: &Path<'_>,
    d: &mut Diagnostics,
    o: &Options<'_>,
) -> Result<GrpcSource, Rejected> {
    let core_proto::ApiConfigSource {
        api_type,
        transport_api_version,
        cluster_names,
        grpc_services,
        refresh_delay,
        request_timeout,
        rate_limit_settings,
        set_node_on_first_message_only,
        config_validators,
    } = proto;
    unsupported!(d, at, "is for REST only: gRPC servers are named by grpc_services"; cluster_names);
    unsupported!(d, at; config_validators);
    ignored!(d, at, "is for REST only"; refresh_delay, request_timeout);
    version(transport_api_version, Missing::Refused, &at.field("transport_api_version"), d);
    let api_at = at.field("api_type");
    let api = match (field::variant(api_type, &api_at, d)?, usage) {
        (ApiType::Grpc, _) | (ApiType::AggregatedGrpc, Use::Aggregated) => TransportApi::Sotw,
        (ApiType::DeltaGrpc, _) | (ApiType::AggregatedDeltaGrpc, Use::Aggregated) => TransportApi::Delta,
        (ApiType::AggregatedGrpc | ApiType::AggregatedDeltaGrpc, Use::OneType) => {
            return Err(d.reject(&api_at, "aggregated streams belong in ads_config: say `ads: {}` here"));
        }
        (ApiType::Rest, _) => return Err(d.reject(&api_at, "REST is not supported: GRPC or DELTA_GRPC are")),
        (ApiType::DeprecatedAndUnavailableDoNotUse, _) => return Err(d.reject(&api_at, "is required")),
    };
    let services_at = at.field("grpc_services");
    if grpc_services.is_empty() {
        return Err(d.reject(&services_at, "at least one is required"));
    }
    Ok(GrpcSource {
        api,
        targets: field::each(grpc_services, &services_at, d, |proto, at, d| target(proto, at, d, o)),
        node_on_first_message_only: set_node_on_first_message_only,
        rate_limit: rate_limit_settings.map(rate_limit),
    })
}

fn rate_limit(proto: core_proto::RateLimitSettings) -> (u32, f64Bits) {
    let core_proto::RateLimitSettings { max_tokens, fill_rate } = proto;
    // Envoy's defaults once limits are asked for at all: a bucket of 100, 10 a second.
    (max_tokens.map_or(100, |v| v.value), f64Bits::new(fill_rate.map_or(10.0, |v| v.value)))
}

/// A management server: its cluster must be there from the start.
fn target(
    proto: core_proto::GrpcService,
    at: &Path<'_>,
    d: &mut Diagnostics,
    o: &Options<'_>,
) -> Result<GrpcTarget, Rejected> {
    let target = grpc_service(proto, "reconnects back off from 500 ms to 30 s with full jitter", at, d)?;
    if o.sources.is_some_and(|s| !s.clusters.contains(&target.cluster)) {
        let message = format!(
            "{:?} is not a static cluster of the bootstrap, or gets its endpoints by EDS",
            target.cluster
        );
        d.reject(&at.field("envoy_grpc").field("cluster_name"), message);
    }
    Ok(target)
}

/// A gRPC service and how it is called. `retries`: why retry policies have no effect.
pub(super) fn grpc_service(
    proto: core_proto::GrpcService,
    retries: &str,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Result<GrpcTarget, Rejected> {
    let core_proto::GrpcService { timeout, initial_metadata, retry_policy, target_specifier } = proto;
    ignored!(d, at, retries; retry_policy);
    let timeout = duration::limit(timeout, None, &at.field("timeout"), d);
    let metadata = field::each(initial_metadata, &at.field("initial_metadata"), d, |proto, at, d| {
        let (key, value) = edits::pair(proto, at, d)?;
        Ok((key.to_ascii_lowercase().into(), value.into()))
    });
    let envoy = match required(target_specifier, at, d)? {
        TargetSpecifier::EnvoyGrpc(envoy) => envoy,
        TargetSpecifier::GoogleGrpc(_) => {
            return Err(
                d.reject(&at.field("google_grpc"), "not supported: use envoy_grpc with a static cluster")
            );
        }
    };
    let at = at.field("envoy_grpc");
    let EnvoyGrpc { cluster_name, authority, retry_policy, max_receive_message_length, skip_envoy_headers } =
        envoy;
    ignored!(d, at, retries; retry_policy);
    ignored!(d, at, "no x-envoy-* headers are sent"; skip_envoy_headers);
    Ok(GrpcTarget {
        cluster: cluster_name.into(),
        authority: Some(authority).filter(|a| !a.is_empty()).map(Into::into),
        timeout,
        max_receive_message_bytes: max_receive_message_length.map(|v| v.value).filter(|&bytes| bytes > 0),
        metadata,
    })
}

fn path_source(
    proto: core_proto::PathConfigSource,
    at: &Path<'_>,
    d: &mut Diagnostics,
    o: &Options<'_>,
) -> Result<ConfigSource, Rejected> {
    let core_proto::PathConfigSource { path, watched_directory, poll_interval } = proto;
    ignored!(d, at, "moves are watched, nothing is polled"; poll_interval);
    if path.is_empty() {
        return Err(d.reject(&at.field("path"), "is required"));
    }
    // As Envoy; later it may go and come.
    if !o.data.exists(path.as_ref()) {
        d.reject(&at.field("path"), format_args!("{path} does not exist"));
    }
    let watched_directory = watched_directory.map(|proto| {
        let core_proto::WatchedDirectory { path, watch_modify } = proto;
        let at = at.field("watched_directory");
        ignored!(d, at, "only moves trigger a read"; watch_modify);
        if path.is_empty() {
            d.reject(&at.field("path"), "is required");
        }
        path.into()
    });
    Ok(ConfigSource::Path { path: path.into(), watched_directory })
}

/// Whether an API version may be left out.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    Allowed,
    Refused,
}

/// An API version: 3 is the only one.
pub(super) fn version(value: i32, missing: Missing, at: &Path<'_>, d: &mut Diagnostics) {
    match field::variant(value, at, d) {
        Ok(ApiVersion::V3) | Err(Rejected) => {}
        Ok(ApiVersion::Auto) if missing == Missing::Allowed => {}
        Ok(ApiVersion::Auto) => _ = d.reject(at, "V3 is required"),
        Ok(ApiVersion::V2) => _ = d.reject(at, "the v2 API is gone: V3 is required"),
    }
}
