//! HTTP filters and what routes say of them.
//!
//! To add a filter: a file here that translates its configuration, and its lines in [`kind`] and, when routes may
//! configure it, in [`override_kind`].

mod health_check;
mod local_ratelimit;
mod metadata;
mod ratelimit;
mod router;

use super::field::{ignored, unsupported};
use super::{Options, extension};
use crate::config::{Built, FilterOverride, FilterOverrideKind, FilterOverrides, HttpFilter, HttpFilterKind};
use crate::path::{Diagnostics, Path, Rejected};
use prost::{Message, Name};
use std::collections::HashMap;
use std::sync::Arc;
use xds_types::any;
use xds_types::envoy::config::route::v3::FilterConfig;
use xds_types::envoy::extensions::filters::http::header_to_metadata::v3::Config as HeaderToMetadata;
use xds_types::envoy::extensions::filters::http::health_check::v3::HealthCheck;
use xds_types::envoy::extensions::filters::http::local_ratelimit::v3::LocalRateLimit;
use xds_types::envoy::extensions::filters::http::ratelimit::v3::{RateLimit, RateLimitPerRoute};
use xds_types::envoy::extensions::filters::http::router::v3::Router;
use xds_types::envoy::extensions::filters::http::set_metadata::v3::Config as SetMetadata;
use xds_types::envoy::extensions::filters::network::http_connection_manager::v3 as proto;
use xds_types::envoy::extensions::filters::network::http_connection_manager::v3::http_filter::ConfigType;
use xds_types::google::protobuf::Any;

/// The configuration of a filter that is known here; `None` for others.
fn kind(
    packed: &Any,
    at: &Path<'_>,
    d: &mut Diagnostics,
    _o: &Options<'_>,
) -> Option<Result<HttpFilterKind, Rejected>> {
    if extension::is::<Router>(packed) {
        return Some(open(packed, at, d, |proto, at, d| Ok(router::router(proto, at, d))));
    }
    if extension::is::<HealthCheck>(packed) {
        return Some(
            open(packed, at, d, health_check::filter).map(|c| HttpFilterKind::HealthCheck(Arc::new(c))),
        );
    }
    if extension::is::<LocalRateLimit>(packed) {
        let kind = open(packed, at, d, |proto, at, d| local_ratelimit::local_ratelimit(proto, false, at, d));
        return Some(kind.map(|config| HttpFilterKind::LocalRateLimit(Arc::new(config))));
    }
    if extension::is::<RateLimit>(packed) {
        return Some(open(packed, at, d, ratelimit::global).map(|c| HttpFilterKind::RateLimit(Arc::new(c))));
    }
    if extension::is::<HeaderToMetadata>(packed) {
        let kind = open(packed, at, d, metadata::header_to_metadata);
        return Some(kind.map(|config| HttpFilterKind::HeaderToMetadata(Arc::new(config))));
    }
    if extension::is::<SetMetadata>(packed) {
        let kind = open(packed, at, d, metadata::set_metadata);
        return Some(kind.map(|entries| HttpFilterKind::SetMetadata(entries.into())));
    }
    None
}

/// Unpacks and translates.
fn open<M: Message + Name + Default, T>(
    packed: &Any,
    at: &Path<'_>,
    d: &mut Diagnostics,
    translate: impl FnOnce(M, &Path<'_>, &mut Diagnostics) -> Result<T, Rejected>,
) -> Result<T, Rejected> {
    translate(extension::open(packed, at, d)?, at, d)
}

/// A route's configuration of a filter that takes such; `None` for others.
fn override_kind(
    packed: &Any,
    at: &Path<'_>,
    d: &mut Diagnostics,
    _o: &Options<'_>,
) -> Option<Result<FilterOverrideKind, Rejected>> {
    if extension::is::<LocalRateLimit>(packed) {
        let kind = open(packed, at, d, |proto, at, d| local_ratelimit::local_ratelimit(proto, true, at, d));
        return Some(kind.map(|config| FilterOverrideKind::LocalRateLimit(Arc::new(config))));
    }
    if extension::is::<RateLimitPerRoute>(packed) {
        let kind = open(packed, at, d, ratelimit::per_route);
        return Some(kind.map(|config| FilterOverrideKind::RateLimit(Arc::new(config))));
    }
    if extension::is::<HeaderToMetadata>(packed) {
        let kind = open(packed, at, d, metadata::header_to_metadata);
        return Some(kind.map(|config| FilterOverrideKind::HeaderToMetadata(Arc::new(config))));
    }
    None
}

/// Which filter says `start_child_span`, the older name of `tracing.spawn_upstream_span` of the manager.
pub(super) fn starts_child_span(list: &[proto::HttpFilter]) -> Option<usize> {
    list.iter().position(|filter| match &filter.config_type {
        Some(ConfigType::TypedConfig(packed)) => {
            extension::is::<Router>(packed) && any::unpack::<Router>(packed).is_ok_and(|r| r.start_child_span)
        }
        _ => false,
    })
}

/// The filter chain: exactly one router, and it is last.
pub(super) fn http_filters(
    list: Vec<proto::HttpFilter>,
    at: &Path<'_>,
    d: &mut Diagnostics,
    o: &Options<'_>,
) -> Vec<HttpFilter> {
    let last = list.len().checked_sub(1);
    let before = d.rejections();
    let mut filters = Vec::with_capacity(list.len());
    for (index, proto) in list.into_iter().enumerate() {
        let at = at.index(index);
        let Ok(Some(filter)) = http_filter(proto, &at, d, o) else { continue };
        if matches!(filter.kind, HttpFilterKind::Router { .. }) && Some(index) != last {
            d.reject(&at, "the router must be the last filter");
        }
        filters.push(filter);
    }
    let ends_well = filters.last().is_some_and(|f| matches!(f.kind, HttpFilterKind::Router { .. }));
    if !ends_well && d.rejections() == before {
        d.reject(at, "must end with the router filter (envoy.filters.http.router)");
    }
    filters
}

/// A filter; `None` for an optional one that is not known here.
fn http_filter(
    proto: proto::HttpFilter,
    at: &Path<'_>,
    d: &mut Diagnostics,
    o: &Options<'_>,
) -> Result<Option<HttpFilter>, Rejected> {
    let proto::HttpFilter { name, is_optional, disabled, config_type } = proto;
    let packed = match config_type {
        Some(ConfigType::TypedConfig(packed)) => Some(packed),
        Some(ConfigType::ConfigDiscovery(source)) => return Err(extension::discovered(source, at, d)),
        None => None,
    };
    let packed = extension::packed(packed.as_ref(), at, d)?;
    let config_at = at.field("typed_config");
    match kind(packed, &config_at, d, o) {
        Some(kind) => {
            if extension::is::<Router>(packed) {
                unsupported!(d, at, "the router cannot be disabled"; disabled);
            }
            ignored!(d, at, "the filter is known here"; is_optional);
            Ok(Some(HttpFilter { name: name.into(), kind: kind?, disabled }))
        }
        None if is_optional => {
            let message = format!("optional HTTP filter {name:?} is not supported and left out");
            d.ignored(&config_at, message);
            Ok(None)
        }
        None => Err(extension::unknown("HTTP filter", &name, packed, &config_at, d)),
    }
}

/// `typed_per_filter_config` of one level.
pub(super) fn per_route(
    config: HashMap<String, Any>,
    at: &Path<'_>,
    d: &mut Diagnostics,
    o: &Options<'_>,
) -> FilterOverrides {
    let at = at.field("typed_per_filter_config");
    let mut config: Vec<_> = config.into_iter().collect();
    config.sort_by(|(a, _), (b, _)| a.cmp(b));
    let entries = config.into_iter().filter_map(|(name, packed)| {
        let entry = filter_override(&name, &packed, &at.key(&name), d, o).ok()??;
        Some((name.into(), entry))
    });
    entries.collect()
}

/// What a level says of a filter; `None` of an optional one that is not known here.
fn filter_override(
    name: &str,
    packed: &Any,
    at: &Path<'_>,
    d: &mut Diagnostics,
    o: &Options<'_>,
) -> Result<Option<FilterOverride>, Rejected> {
    let found = |disabled, config| Ok(Some(FilterOverride { disabled, config, built: Built::default() }));
    let unknown = "configuration of HTTP filter";
    if !extension::is::<FilterConfig>(packed) {
        return match override_kind(packed, at, d, o) {
            Some(kind) => found(false, Some(kind?)),
            None => Err(extension::unknown(unknown, name, packed, at, d)),
        };
    }
    let FilterConfig { config, is_optional, disabled } = extension::open(packed, at, d)?;
    let config_at = at.field("config");
    match config {
        Some(config) => match override_kind(&config, &config_at, d, o) {
            Some(kind) => {
                let kind = kind?;
                ignored!(d, at, "the filter is known here"; is_optional);
                if disabled {
                    d.ignored(&config_at, "of a filter that is disabled here");
                }
                found(disabled, (!disabled).then_some(kind))
            }
            None if is_optional => {
                d.ignored(at, "of an optional HTTP filter that is not supported");
                Ok(None)
            }
            None => Err(extension::unknown(unknown, name, &config, &config_at, d)),
        },
        None if is_optional && !disabled => {
            d.ignored(at, "of an optional HTTP filter that is not supported");
            Ok(None)
        }
        None if disabled => {
            ignored!(d, at, "there is no configuration"; is_optional);
            found(true, None)
        }
        None => Err(d.reject(&config_at, "is required")),
    }
}
