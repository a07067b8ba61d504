//! Load balancing policies: the enum with its configs, and the list of extensions.

mod common;
mod list;
mod subset;

use super::field;
use crate::config::{Hashing, LbPolicy, LeastRequest, LocalityLb, Maglev, RingHash, SubsetConfig};
use crate::path::{Diagnostics, Path, Rejected};
use std::sync::Arc;
use xds_types::envoy::config::cluster::v3 as proto;
use xds_types::envoy::config::cluster::v3::cluster::{
    LbConfig, LbPolicy as PolicyEnum, LbSubsetConfig, LeastRequestLbConfig, MaglevLbConfig, RingHashLbConfig,
    RoundRobinLbConfig, ring_hash_lb_config,
};

pub(super) use common::{Common, read as common};

/// How hosts are chosen.
pub(super) struct Balancing {
    pub(super) policy: LbPolicy,
    /// The policy chooses within a part of the hosts.
    pub(super) subsets: Option<Arc<SubsetConfig>>,
    pub(super) locality_lb: LocalityLb,
    pub(super) fail_traffic_on_panic: bool,
}

impl Balancing {
    fn of(policy: LbPolicy, common: &Common) -> Self {
        Self {
            policy,
            subsets: None,
            locality_lb: common.locality_lb,
            fail_traffic_on_panic: common.fail_traffic_on_panic,
        }
    }
}

/// What a cluster says of its policy.
pub(super) struct Fields {
    pub(super) lb_policy: i32,
    pub(super) lb_config: Option<LbConfig>,
    pub(super) load_balancing_policy: Option<proto::LoadBalancingPolicy>,
    pub(super) lb_subset_config: Option<LbSubsetConfig>,
}

impl Fields {
    /// The policy of a cluster: the first of the list that is known, else the enum's.
    pub(super) fn read(
        self,
        common: &Common,
        at: &Path<'_>,
        d: &mut Diagnostics,
    ) -> Result<Balancing, Rejected> {
        let Self { lb_policy, lb_config, load_balancing_policy, lb_subset_config } = self;
        let enum_at = at.field("lb_policy");
        let chosen = field::variant(lb_policy, &enum_at, d)?;
        let subset_at = at.field("lb_subset_config");
        let Some(list) = load_balancing_policy else {
            let subsets = subset::of_cluster(lb_subset_config, common.locality_lb, &subset_at, d);
            let balancing = by_enum(chosen, lb_config, common, at, d)?;
            return Ok(Balancing { subsets: subsets?, ..balancing });
        };
        if lb_subset_config.is_some() {
            return Err(d.reject(&subset_at, "excludes load_balancing_policy: list the policy subset there"));
        }
        const WHY: &str = "load_balancing_policy takes its place";
        if !matches!(chosen, PolicyEnum::RoundRobin | PolicyEnum::LoadBalancingPolicyConfig) {
            d.ignored(&enum_at, WHY);
        }
        if let Some(config) = lb_config {
            d.ignored(&at.field(config_field(&config)), WHY);
        }
        let common_at = at.field("common_lb_config");
        if common.hashing.is_some() {
            d.ignored(&common_at.field("consistent_hashing_lb_config"), WHY);
        }
        if let Some(field) = common.locality_field {
            d.ignored(&common_at.field(field), WHY);
        }
        list::by_list(list, &at.field("load_balancing_policy"), d)
    }
}

fn config_field(config: &LbConfig) -> &'static str {
    match config {
        LbConfig::RingHashLbConfig(_) => "ring_hash_lb_config",
        LbConfig::MaglevLbConfig(_) => "maglev_lb_config",
        LbConfig::OriginalDstLbConfig(_) => "original_dst_lb_config",
        LbConfig::LeastRequestLbConfig(_) => "least_request_lb_config",
        LbConfig::RoundRobinLbConfig(_) => "round_robin_lb_config",
    }
}

fn by_enum(
    chosen: PolicyEnum,
    config: Option<LbConfig>,
    common: &Common,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Result<Balancing, Rejected> {
    let config_at = at.field(config.as_ref().map_or("", config_field));
    let hashing = || common.hashing.clone().unwrap_or_default();
    let policy = match (chosen, config) {
        (PolicyEnum::RoundRobin, None) => LbPolicy::ROUND_ROBIN,
        (PolicyEnum::RoundRobin, Some(LbConfig::RoundRobinLbConfig(proto))) => {
            let RoundRobinLbConfig { slow_start_config } = proto;
            let slow_start = slow_start_config
                .and_then(|s| common::slow_start(s.into(), &config_at.field("slow_start_config"), d));
            LbPolicy::RoundRobin { slow_start }
        }
        (PolicyEnum::LeastRequest, None) => LbPolicy::LeastRequest(LeastRequest::default()),
        (PolicyEnum::LeastRequest, Some(LbConfig::LeastRequestLbConfig(proto))) => {
            let LeastRequestLbConfig { choice_count, active_request_bias, slow_start_config } = proto;
            let defaults = LeastRequest::default();
            LbPolicy::LeastRequest(LeastRequest {
                choices: choice_count.map_or(defaults.choices, |v| Some(v.value)),
                active_request_bias: common::bias(active_request_bias, &config_at, d),
                slow_start: slow_start_config
                    .and_then(|s| common::slow_start(s.into(), &config_at.field("slow_start_config"), d)),
            })
        }
        (PolicyEnum::Random, None) => LbPolicy::Random,
        (PolicyEnum::RingHash, None) => ring(RingHash { hashing: hashing(), ..RingHash::default() }, at, d)?,
        (PolicyEnum::RingHash, Some(LbConfig::RingHashLbConfig(proto))) => {
            ring(ring_hash(proto, hashing(), &config_at, d)?, &config_at, d)?
        }
        (PolicyEnum::Maglev, None) => maglev(None, hashing(), at, d)?,
        (PolicyEnum::Maglev, Some(LbConfig::MaglevLbConfig(MaglevLbConfig { table_size }))) => {
            maglev(table_size.map(|v| v.value), hashing(), &config_at, d)?
        }
        (PolicyEnum::LoadBalancingPolicyConfig, _) => {
            return Err(d.reject(
                &at.field("load_balancing_policy"),
                "is required by lb_policy LOAD_BALANCING_POLICY_CONFIG",
            ));
        }
        (PolicyEnum::ClusterProvided, _) => {
            return Err(d.reject(&at.field("lb_policy"), "CLUSTER_PROVIDED is not supported"));
        }
        (_, Some(_)) => return Err(d.reject(&config_at, "is for another lb_policy")),
    };
    if common.hashing.is_some() && !policy.hashes() {
        let common_at = at.field("common_lb_config");
        d.ignored(&common_at.field("consistent_hashing_lb_config"), "this lb_policy does not hash");
    }
    Ok(Balancing::of(policy, common))
}

fn ring_hash(
    proto: RingHashLbConfig,
    hashing: Hashing,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Result<RingHash, Rejected> {
    let RingHashLbConfig { minimum_ring_size, hash_function, maximum_ring_size } = proto;
    let defaults = RingHash::default();
    Ok(RingHash {
        minimum_ring_size: minimum_ring_size.map_or(defaults.minimum_ring_size, |v| v.value),
        maximum_ring_size: maximum_ring_size.map_or(defaults.maximum_ring_size, |v| v.value),
        hash_function: match field::variant(hash_function, &at.field("hash_function"), d)? {
            ring_hash_lb_config::HashFunction::XxHash => crate::config::HashFunction::XxHash,
            ring_hash_lb_config::HashFunction::MurmurHash2 => crate::config::HashFunction::Murmur2,
        },
        hashing,
    })
}

/// A ring whose sizes are in order.
fn ring(ring: RingHash, at: &Path<'_>, d: &mut Diagnostics) -> Result<LbPolicy, Rejected> {
    let most = RingHash::default().maximum_ring_size;
    let RingHash { minimum_ring_size, maximum_ring_size, .. } = ring;
    if maximum_ring_size > most {
        return Err(d.reject(&at.field("maximum_ring_size"), format_args!("must be at most {most}")));
    }
    if minimum_ring_size > maximum_ring_size {
        let why = format_args!("{minimum_ring_size} is above maximum_ring_size {maximum_ring_size}");
        return Err(d.reject(&at.field("minimum_ring_size"), why));
    }
    Ok(LbPolicy::RingHash(ring))
}

fn maglev(
    table_size: Option<u64>,
    hashing: Hashing,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Result<LbPolicy, Rejected> {
    /// Envoy's bound.
    const MOST: u64 = 5_000_011;
    let Some(size) = table_size else {
        return Ok(LbPolicy::Maglev(Maglev { hashing, ..Maglev::default() }));
    };
    match u32::try_from(size) {
        Ok(table_size) if size <= MOST && is_prime(size) => {
            Ok(LbPolicy::Maglev(Maglev { table_size, hashing }))
        }
        _ => {
            Err(d.reject(&at.field("table_size"), format_args!("{size} is not a prime number up to {MOST}")))
        }
    }
}

fn is_prime(number: u64) -> bool {
    number >= 2
        && (2..)
            .take_while(|divisor| divisor * divisor <= number)
            .all(|divisor| !number.is_multiple_of(divisor))
}
