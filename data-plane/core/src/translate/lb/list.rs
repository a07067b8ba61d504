//! `load_balancing_policy`: the first policy that is known counts.

use super::{Balancing, common, maglev, ring, subset};
use crate::config::{HashFunction, Hashing, LbPolicy, LeastRequest, LocalityLb, RingHash};
use crate::path::{Diagnostics, Path, Rejected};
use crate::translate::extension;
use crate::translate::field::{self, ignored, required, unsupported};
use xds_types::envoy::config::cluster::v3 as proto;
use xds_types::envoy::config::cluster::v3::load_balancing_policy::Policy;
use xds_types::envoy::config::core::v3::TypedExtensionConfig;
use xds_types::envoy::extensions::load_balancing_policies::least_request::v3 as least;
use xds_types::envoy::extensions::load_balancing_policies::maglev::v3::Maglev as MaglevProto;
use xds_types::envoy::extensions::load_balancing_policies::random::v3::Random;
use xds_types::envoy::extensions::load_balancing_policies::ring_hash::v3 as ring_hash;
use xds_types::envoy::extensions::load_balancing_policies::round_robin::v3::RoundRobin;
use xds_types::envoy::extensions::load_balancing_policies::subset::v3::Subset;
use xds_types::envoy::extensions::load_balancing_policies::wrr_locality::v3::WrrLocality;

pub(super) fn by_list(
    proto: proto::LoadBalancingPolicy,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Result<Balancing, Rejected> {
    let proto::LoadBalancingPolicy { policies } = proto;
    let at = at.field("policies");
    let mut taken = None;
    let mut names = Vec::new();
    for (index, policy) in policies.into_iter().enumerate() {
        let at = at.index(index);
        // As in Envoy: what follows the first policy known is for other clients.
        if taken.is_some() {
            d.ignored(&at, "a policy before it is taken");
            continue;
        }
        match extension_policy(policy, &at, d)? {
            Known::Yes(policy) => taken = Some(policy),
            Known::No(name) => names.push(name),
        }
    }
    taken.ok_or_else(|| {
        d.reject(&at, format_args!("none of these policies is supported: {}", names.join(", ")))
    })
}

/// A policy, or the name of one that is not supported.
enum Known {
    Yes(Balancing),
    No(String),
}

fn extension_policy(proto: Policy, at: &Path<'_>, d: &mut Diagnostics) -> Result<Known, Rejected> {
    let Policy { typed_extension_config } = proto;
    let at = at.field("typed_extension_config");
    let TypedExtensionConfig { name, typed_config } = required(typed_extension_config, &at, d)?;
    let packed = extension::packed(typed_config.as_ref(), &at, d)?;
    let at = at.field("typed_config");
    Ok(Known::Yes(if extension::is::<RoundRobin>(packed) {
        round_robin(extension::open(packed, &at, d)?, &at, d)
    } else if extension::is::<least::LeastRequest>(packed) {
        least_request(extension::open(packed, &at, d)?, &at, d)?
    } else if extension::is::<Random>(packed) {
        let Random { locality_lb_config } = extension::open(packed, &at, d)?;
        Balancing::of(LbPolicy::Random, &common::locality(locality_lb_config, &at, d))
    } else if extension::is::<ring_hash::RingHash>(packed) {
        ring_hash_policy(extension::open(packed, &at, d)?, &at, d)?
    } else if extension::is::<MaglevProto>(packed) {
        let MaglevProto { table_size, consistent_hashing_lb_config, locality_weighted_lb_config } =
            extension::open(packed, &at, d)?;
        let hashing_at = at.field("consistent_hashing_lb_config");
        let hashing = consistent_hashing_lb_config.map(|proto| common::hashing(proto, &hashing_at, d));
        let policy = maglev(table_size.map(|v| v.value), hashing.unwrap_or_default(), &at, d)?;
        hashed(policy, common::weighted(locality_weighted_lb_config))
    } else if extension::is::<WrrLocality>(packed) {
        let WrrLocality { endpoint_picking_policy } = extension::open(packed, &at, d)?;
        let at = at.field("endpoint_picking_policy");
        let picking = by_list(required(endpoint_picking_policy, &at, d)?, &at, d)?;
        if picking.subsets.is_some() {
            return Err(d.reject(&at, "subsets are not made within localities"));
        }
        Balancing { locality_lb: LocalityLb::Weighted, ..picking }
    } else if extension::is::<Subset>(packed) {
        subset::of_list(extension::open(packed, &at, d)?, &at, d)?
    } else {
        d.ignored(&at, format_args!("policy {name:?} is not supported: the next one is tried"));
        return Ok(Known::No(name));
    }))
}

fn hashed(policy: LbPolicy, locality_lb: LocalityLb) -> Balancing {
    Balancing { policy, subsets: None, locality_lb, fail_traffic_on_panic: false }
}

fn round_robin(proto: RoundRobin, at: &Path<'_>, d: &mut Diagnostics) -> Balancing {
    let RoundRobin { slow_start_config, locality_lb_config } = proto;
    let slow_start =
        slow_start_config.and_then(|s| common::slow_start(s.into(), &at.field("slow_start_config"), d));
    Balancing::of(LbPolicy::RoundRobin { slow_start }, &common::locality(locality_lb_config, at, d))
}

fn least_request(
    proto: least::LeastRequest,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Result<Balancing, Rejected> {
    let least::LeastRequest {
        choice_count,
        active_request_bias,
        slow_start_config,
        locality_lb_config,
        enable_full_scan,
        selection_method,
    } = proto;
    unsupported!(d, at, "deprecated: use selection_method FULL_SCAN"; enable_full_scan = false);
    let method = field::variant(selection_method, &at.field("selection_method"), d)?;
    let defaults = LeastRequest::default();
    let policy = LbPolicy::LeastRequest(LeastRequest {
        choices: match method {
            least::least_request::SelectionMethod::NChoices => {
                choice_count.map_or(defaults.choices, |v| Some(v.value))
            }
            least::least_request::SelectionMethod::FullScan => {
                ignored!(d, at, "FULL_SCAN looks at all hosts"; choice_count);
                None
            }
        },
        active_request_bias: common::bias(active_request_bias, at, d),
        slow_start: slow_start_config
            .and_then(|s| common::slow_start(s.into(), &at.field("slow_start_config"), d)),
    });
    Ok(Balancing::of(policy, &common::locality(locality_lb_config, at, d)))
}

fn ring_hash_policy(
    proto: ring_hash::RingHash,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Result<Balancing, Rejected> {
    let ring_hash::RingHash {
        hash_function,
        minimum_ring_size,
        maximum_ring_size,
        use_hostname_for_hashing,
        hash_balance_factor,
        consistent_hashing_lb_config,
        locality_weighted_lb_config,
    } = proto;
    let hashing = match consistent_hashing_lb_config {
        Some(proto) => {
            const WHY: &str = "consistent_hashing_lb_config takes its place";
            ignored!(d, at, WHY; use_hostname_for_hashing, hash_balance_factor);
            common::hashing(proto, &at.field("consistent_hashing_lb_config"), d)
        }
        None => Hashing {
            use_hostname: use_hostname_for_hashing,
            balance_factor: common::balance(hash_balance_factor),
        },
    };
    let defaults = RingHash::default();
    let sizes = RingHash {
        minimum_ring_size: minimum_ring_size.map_or(defaults.minimum_ring_size, |v| v.value),
        maximum_ring_size: maximum_ring_size.map_or(defaults.maximum_ring_size, |v| v.value),
        hash_function: match field::variant(hash_function, &at.field("hash_function"), d)? {
            ring_hash::ring_hash::HashFunction::MurmurHash2 => HashFunction::Murmur2,
            ring_hash::ring_hash::HashFunction::DefaultHash | ring_hash::ring_hash::HashFunction::XxHash => {
                HashFunction::XxHash
            }
        },
        hashing,
    };
    Ok(hashed(ring(sizes, at, d)?, common::weighted(locality_weighted_lb_config)))
}
