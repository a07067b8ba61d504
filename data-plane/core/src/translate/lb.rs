//! Load balancing policies: the enum with its configs, and the list of extensions.

use super::extension;
use super::field::{self, required, unsupported};
use crate::config::LbPolicy;
use crate::path::{Diagnostics, Path, Rejected};
use xds_types::envoy::config::cluster::v3 as proto;
use xds_types::envoy::config::cluster::v3::cluster::{
    LbConfig, LbPolicy as PolicyEnum, LeastRequestLbConfig, RoundRobinLbConfig,
};
use xds_types::envoy::config::cluster::v3::load_balancing_policy::Policy;
use xds_types::envoy::config::core::v3::TypedExtensionConfig;
use xds_types::envoy::extensions::load_balancing_policies::common::v3::LocalityLbConfig;
use xds_types::envoy::extensions::load_balancing_policies::common::v3::locality_lb_config::LocalityConfigSpecifier;
use xds_types::envoy::extensions::load_balancing_policies::least_request::v3::LeastRequest;
use xds_types::envoy::extensions::load_balancing_policies::least_request::v3::least_request::SelectionMethod;
use xds_types::envoy::extensions::load_balancing_policies::random::v3::Random;
use xds_types::envoy::extensions::load_balancing_policies::round_robin::v3::RoundRobin;
use xds_types::google::protobuf::UInt32Value;

pub(super) const NO_ZONES: &str = "hosts of all zones are used alike";
pub(super) const NO_LOCALITY_WEIGHTS: &str = "balancing by locality weight is not built yet";
const NO_SLOW_START: &str = "slow start is not built yet";

/// Envoy's default of `choice_count`.
const CHOICES: u32 = 2;

/// The policy of a cluster: the first of the list that is known, else the enum's.
pub(super) fn policy(
    lb_policy: i32,
    lb_config: Option<LbConfig>,
    list: Option<proto::LoadBalancingPolicy>,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Result<LbPolicy, Rejected> {
    let enum_at = at.field("lb_policy");
    let chosen = field::variant(lb_policy, &enum_at, d)?;
    let Some(list) = list else { return by_enum(chosen, lb_config, at, d) };
    if !matches!(chosen, PolicyEnum::RoundRobin | PolicyEnum::LoadBalancingPolicyConfig) {
        d.ignored(&enum_at, "load_balancing_policy takes its place");
    }
    if let Some(config) = lb_config {
        d.ignored(&at.field(config_field(&config)), "load_balancing_policy takes its place");
    }
    by_list(list, &at.field("load_balancing_policy"), d)
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
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Result<LbPolicy, Rejected> {
    let enum_at = at.field("lb_policy");
    match (chosen, config) {
        (
            PolicyEnum::RoundRobin,
            Some(LbConfig::RoundRobinLbConfig(RoundRobinLbConfig { slow_start_config })),
        ) => {
            let at = at.field("round_robin_lb_config");
            unsupported!(d, at, NO_SLOW_START; slow_start_config);
            Ok(LbPolicy::RoundRobin)
        }
        (PolicyEnum::LeastRequest, Some(LbConfig::LeastRequestLbConfig(proto))) => {
            let LeastRequestLbConfig { choice_count, active_request_bias, slow_start_config } = proto;
            let at = at.field("least_request_lb_config");
            unsupported!(d, at; active_request_bias);
            unsupported!(d, at, NO_SLOW_START; slow_start_config);
            Ok(least_request(choice_count))
        }
        (PolicyEnum::RoundRobin | PolicyEnum::LeastRequest | PolicyEnum::Random, Some(config)) => {
            Err(d.reject(&at.field(config_field(&config)), "is for another lb_policy"))
        }
        (PolicyEnum::RoundRobin, None) => Ok(LbPolicy::RoundRobin),
        (PolicyEnum::LeastRequest, None) => Ok(least_request(None)),
        (PolicyEnum::Random, None) => Ok(LbPolicy::Random),
        (PolicyEnum::LoadBalancingPolicyConfig, _) => Err(d.reject(
            &at.field("load_balancing_policy"),
            "is required by lb_policy LOAD_BALANCING_POLICY_CONFIG",
        )),
        (PolicyEnum::RingHash | PolicyEnum::Maglev | PolicyEnum::ClusterProvided, _) => {
            let name = chosen.as_str_name();
            Err(d.reject(
                &enum_at,
                format_args!("{name} is not built yet: ROUND_ROBIN, LEAST_REQUEST and RANDOM are"),
            ))
        }
    }
}

fn least_request(choices: Option<UInt32Value>) -> LbPolicy {
    LbPolicy::LeastRequest { choices: choices.map_or(CHOICES, |v| v.value) }
}

fn by_list(
    proto: proto::LoadBalancingPolicy,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Result<LbPolicy, Rejected> {
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
    Yes(LbPolicy),
    No(String),
}

fn extension_policy(proto: Policy, at: &Path<'_>, d: &mut Diagnostics) -> Result<Known, Rejected> {
    let Policy { typed_extension_config } = proto;
    let at = at.field("typed_extension_config");
    let TypedExtensionConfig { name, typed_config } = required(typed_extension_config, &at, d)?;
    let packed = extension::packed(typed_config.as_ref(), &at, d)?;
    let at = at.field("typed_config");
    if extension::is::<RoundRobin>(packed) {
        Ok(Known::Yes(round_robin(extension::open(packed, &at, d)?, &at, d)))
    } else if extension::is::<LeastRequest>(packed) {
        Ok(Known::Yes(least_request_extension(extension::open(packed, &at, d)?, &at, d)?))
    } else if extension::is::<Random>(packed) {
        Ok(Known::Yes(random(extension::open(packed, &at, d)?, &at, d)))
    } else {
        d.ignored(&at, format_args!("policy {name:?} is not supported: the next one is tried"));
        Ok(Known::No(name))
    }
}

fn round_robin(proto: RoundRobin, at: &Path<'_>, d: &mut Diagnostics) -> LbPolicy {
    let RoundRobin { slow_start_config, locality_lb_config } = proto;
    unsupported!(d, at, NO_SLOW_START; slow_start_config);
    locality(locality_lb_config, at, d);
    LbPolicy::RoundRobin
}

fn least_request_extension(
    proto: LeastRequest,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Result<LbPolicy, Rejected> {
    let LeastRequest {
        choice_count,
        active_request_bias,
        slow_start_config,
        locality_lb_config,
        enable_full_scan,
        selection_method,
    } = proto;
    unsupported!(d, at, NO_SLOW_START; slow_start_config);
    unsupported!(d, at; active_request_bias, enable_full_scan = false);
    locality(locality_lb_config, at, d);
    match field::variant(selection_method, &at.field("selection_method"), d)? {
        SelectionMethod::NChoices => Ok(least_request(choice_count)),
        SelectionMethod::FullScan => {
            Err(d.reject(&at.field("selection_method"), "FULL_SCAN is not supported"))
        }
    }
}

fn random(proto: Random, at: &Path<'_>, d: &mut Diagnostics) -> LbPolicy {
    let Random { locality_lb_config } = proto;
    locality(locality_lb_config, at, d);
    LbPolicy::Random
}

fn locality(proto: Option<LocalityLbConfig>, at: &Path<'_>, d: &mut Diagnostics) {
    let Some(LocalityLbConfig { locality_config_specifier }) = proto else { return };
    let at = at.field("locality_lb_config");
    match locality_config_specifier {
        Some(LocalityConfigSpecifier::ZoneAwareLbConfig(_)) => {
            d.ignored(&at.field("zone_aware_lb_config"), NO_ZONES);
        }
        Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(_)) => {
            d.reject(&at.field("locality_weighted_lb_config"), NO_LOCALITY_WEIGHTS);
        }
        None => {}
    }
}
