//! What the service is asked.

use data_plane_core::ratelimit::Descriptor;
use xds_types::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use xds_types::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::{Entry, RateLimitOverride};
use xds_types::envoy::service::ratelimit::v3::RateLimitRequest;
use xds_types::google::protobuf::UInt64Value;

/// The question; `None` without descriptors.
pub(super) fn question(domain: &str, descriptors: &[Descriptor<'_>]) -> Option<RateLimitRequest> {
    let descriptors = descriptors.iter().map(|descriptor| RateLimitDescriptor {
        entries: descriptor
            .entries
            .iter()
            .map(|entry| Entry { key: entry.key.to_string(), value: entry.value.to_string() })
            .collect(),
        limit: descriptor
            .limit
            .map(|(requests_per_unit, unit)| RateLimitOverride { requests_per_unit, unit }),
        hits_addend: descriptor.hits.map(|value| UInt64Value { value }),
        is_negative_hits: descriptor.negative,
    });
    let descriptors: Vec<_> = descriptors.collect();
    let any = !descriptors.is_empty();
    any.then(|| RateLimitRequest { domain: domain.into(), descriptors, hits_addend: 0 })
}
