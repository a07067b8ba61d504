//! `lb_subset_config`, and the extension `envoy.load_balancing_policies.subset`.

use super::Balancing;
use crate::config::{LocalityLb, SelectorFallback, SubsetConfig, SubsetFallback, SubsetSelector};
use crate::path::{Diagnostics, Path, Rejected};
use crate::translate::field::{self, required};
use crate::translate::runtime::json_object;
use std::sync::Arc;
use xds_types::envoy::config::cluster::v3::LoadBalancingPolicy;
use xds_types::envoy::config::cluster::v3::cluster::LbSubsetConfig;
use xds_types::envoy::config::cluster::v3::cluster::lb_subset_config::lb_subset_selector::LbSubsetSelectorFallbackPolicy as SelectorPolicy;
use xds_types::envoy::config::cluster::v3::cluster::lb_subset_config::{
    LbSubsetFallbackPolicy, LbSubsetMetadataFallbackPolicy, LbSubsetSelector,
};
use xds_types::envoy::extensions::load_balancing_policies::subset::v3::Subset;
use xds_types::envoy::extensions::load_balancing_policies::subset::v3::subset as extension;

/// The field of a cluster; `None` without selectors, when it has no effect.
pub(in crate::translate) fn of_cluster(
    proto: Option<LbSubsetConfig>,
    locality_lb: LocalityLb,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Result<Option<Arc<SubsetConfig>>, Rejected> {
    let Some(proto) = proto else { return Ok(None) };
    let LbSubsetConfig {
        fallback_policy,
        default_subset,
        subset_selectors,
        locality_weight_aware,
        scale_locality_weight,
        panic_mode_any,
        list_as_any,
        metadata_fallback_policy,
    } = proto;
    if locality_weight_aware && locality_lb != LocalityLb::Weighted {
        let why = "requires common_lb_config.locality_weighted_lb_config";
        return Err(d.reject(&at.field("locality_weight_aware"), why));
    }
    if subset_selectors.is_empty() {
        // As in Envoy, and so is the rest of it.
        d.ignored(at, "there are no subsets without subset_selectors");
        return Ok(None);
    }
    let parts = Parts {
        fallback_policy,
        default_subset,
        subset_selectors: subset_selectors.into_iter().map(Into::into).collect(),
        allow_redundant_keys: false,
        locality_weight_aware,
        scale_locality_weight,
        panic_mode_any,
        list_as_any,
        metadata_fallback_policy,
    };
    Ok(Some(Arc::new(parts.read(at, d)?)))
}

/// The extension: subsets, with a policy of their own within.
pub(super) fn of_list(proto: Subset, at: &Path<'_>, d: &mut Diagnostics) -> Result<Balancing, Rejected> {
    let Subset {
        fallback_policy,
        default_subset,
        subset_selectors,
        allow_redundant_keys,
        locality_weight_aware,
        scale_locality_weight,
        panic_mode_any,
        list_as_any,
        metadata_fallback_policy,
        subset_lb_policy,
    } = proto;
    let parts = Parts {
        fallback_policy,
        default_subset,
        subset_selectors: subset_selectors.into_iter().map(Into::into).collect(),
        allow_redundant_keys,
        locality_weight_aware,
        scale_locality_weight,
        panic_mode_any,
        list_as_any,
        metadata_fallback_policy,
    };
    let config = parts.read(at, d);
    let within_at = at.field("subset_lb_policy");
    let within: LoadBalancingPolicy = required(subset_lb_policy, &within_at, d)?;
    let within = super::list::by_list(within, &within_at, d)?;
    if within.subsets.is_some() {
        return Err(d.reject(&within_at, "subsets are not divided again"));
    }
    Ok(Balancing { subsets: Some(Arc::new(config?)), ..within })
}

/// What both messages hold. Their enums have the same numbers.
struct Parts {
    fallback_policy: i32,
    default_subset: Option<xds_types::google::protobuf::Struct>,
    subset_selectors: Vec<SelectorParts>,
    allow_redundant_keys: bool,
    locality_weight_aware: bool,
    scale_locality_weight: bool,
    panic_mode_any: bool,
    list_as_any: bool,
    metadata_fallback_policy: i32,
}

struct SelectorParts {
    keys: Vec<String>,
    fallback_policy: i32,
    fallback_keys_subset: Vec<String>,
    single_host_per_subset: bool,
}

impl From<LbSubsetSelector> for SelectorParts {
    fn from(proto: LbSubsetSelector) -> Self {
        let LbSubsetSelector { keys, single_host_per_subset, fallback_policy, fallback_keys_subset } = proto;
        Self { keys, fallback_policy, fallback_keys_subset, single_host_per_subset }
    }
}

impl From<extension::LbSubsetSelector> for SelectorParts {
    fn from(proto: extension::LbSubsetSelector) -> Self {
        let extension::LbSubsetSelector {
            keys,
            single_host_per_subset,
            fallback_policy,
            fallback_keys_subset,
        } = proto;
        Self { keys, fallback_policy, fallback_keys_subset, single_host_per_subset }
    }
}

impl Parts {
    fn read(self, at: &Path<'_>, d: &mut Diagnostics) -> Result<SubsetConfig, Rejected> {
        let Self {
            fallback_policy,
            default_subset,
            subset_selectors,
            allow_redundant_keys,
            locality_weight_aware,
            scale_locality_weight,
            panic_mode_any,
            list_as_any,
            metadata_fallback_policy,
        } = self;
        let selectors = field::each(subset_selectors, &at.field("subset_selectors"), d, selector);
        // As Envoy: those without keys divide nothing.
        let mut selectors: Vec<SubsetSelector> = selectors.into_iter().flatten().collect();
        if allow_redundant_keys {
            selectors.sort_by_key(|selector| std::cmp::Reverse(selector.keys.len()));
        }
        if scale_locality_weight && !locality_weight_aware {
            d.ignored(&at.field("scale_locality_weight"), "is for locality_weight_aware");
        }
        let fallback = match field::variant(fallback_policy, &at.field("fallback_policy"), d)? {
            LbSubsetFallbackPolicy::NoFallback => SubsetFallback::Nobody,
            LbSubsetFallbackPolicy::AnyEndpoint => SubsetFallback::Any,
            LbSubsetFallbackPolicy::DefaultSubset => SubsetFallback::Default,
        };
        if panic_mode_any && fallback == SubsetFallback::Nobody {
            d.ignored(&at.field("panic_mode_any"), "there is no fallback_policy that could fail");
        }
        let in_turn: LbSubsetMetadataFallbackPolicy =
            field::variant(metadata_fallback_policy, &at.field("metadata_fallback_policy"), d)?;
        let default_subset = default_subset.map(json_object).unwrap_or_default();
        Ok(SubsetConfig {
            selectors,
            fallback,
            default_subset: default_subset.iter().collect(),
            allow_redundant_keys,
            locality_weight_aware,
            scale_locality_weight: scale_locality_weight && locality_weight_aware,
            panic_mode_any: panic_mode_any && fallback != SubsetFallback::Nobody,
            list_as_any,
            fallback_list: in_turn == LbSubsetMetadataFallbackPolicy::FallbackList,
        })
    }
}

/// `None` without keys.
fn selector(
    parts: SelectorParts,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Result<Option<SubsetSelector>, Rejected> {
    let SelectorParts { keys, fallback_policy, fallback_keys_subset, single_host_per_subset } = parts;
    let policy = field::variant(fallback_policy, &at.field("fallback_policy"), d)?;
    let fewer_at = at.field("fallback_keys_subset");
    let (keys, fewer) = (ordered(keys), ordered(fallback_keys_subset));
    if policy != SelectorPolicy::KeysSubset && !fewer.is_empty() {
        return Err(d.reject(&fewer_at, "is for fallback_policy KEYS_SUBSET"));
    }
    let fallback = match policy {
        SelectorPolicy::NotDefined => None,
        SelectorPolicy::NoFallback => Some(SelectorFallback::Nobody),
        SelectorPolicy::AnyEndpoint => Some(SelectorFallback::Any),
        SelectorPolicy::DefaultSubset => Some(SelectorFallback::Default),
        SelectorPolicy::KeysSubset if fewer.is_empty() => {
            return Err(d.reject(&fewer_at, "is required by fallback_policy KEYS_SUBSET"));
        }
        SelectorPolicy::KeysSubset if fewer.iter().any(|key| !keys.contains(key)) => {
            return Err(d.reject(&fewer_at, "must hold nothing but some of keys"));
        }
        SelectorPolicy::KeysSubset if fewer.len() == keys.len() => {
            return Err(d.reject(&fewer_at, "must not hold all of keys"));
        }
        SelectorPolicy::KeysSubset => Some(SelectorFallback::Keys(fewer)),
    };
    if keys.is_empty() {
        d.ignored(at, "has no keys to divide hosts by");
        return Ok(None);
    }
    Ok(Some(SubsetSelector { keys, single_host: single_host_per_subset, fallback }))
}

fn ordered(mut keys: Vec<String>) -> Box<[Box<str>]> {
    keys.sort_unstable();
    keys.dedup();
    keys.into_iter().map(String::into_boxed_str).collect()
}
