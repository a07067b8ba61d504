//! What policies have in common: localities, slow start, hashing.

use crate::config::{Hashing, LeastRequest, LocalityLb, SlowStart, f64Bits};
use crate::path::{Diagnostics, Path};
use crate::translate::duration;
use crate::translate::field::{ignored, unsupported};
use xds_types::envoy::config::cluster::v3::cluster;
use xds_types::envoy::config::cluster::v3::cluster::common_lb_config as legacy;
use xds_types::envoy::config::core::v3::RuntimeDouble;
use xds_types::envoy::extensions::load_balancing_policies::common::v3 as proto;
use xds_types::envoy::extensions::load_balancing_policies::common::v3::locality_lb_config::{
    LocalityConfigSpecifier, LocalityWeightedLbConfig, ZoneAwareLbConfig,
};
use xds_types::envoy::r#type::v3::Percent;

/// Envoy's, without a local cluster to compare zones with, does the same.
const NO_ZONES: &str = "hosts of all zones are used alike: there is no local cluster to compare with";

/// What `common_lb_config` says of policies.
#[derive(Default)]
pub(in crate::translate) struct Common {
    pub(super) hashing: Option<Hashing>,
    pub(super) locality_lb: LocalityLb,
    pub(super) fail_traffic_on_panic: bool,
    /// Which of the locality configs is set.
    pub(super) locality_field: Option<&'static str>,
}

impl Common {
    /// Whether host names are hashed.
    pub(in crate::translate) fn hashes_names(&self) -> bool {
        self.hashing.as_ref().is_some_and(|hashing| hashing.use_hostname)
    }
}

/// The part of `common_lb_config` that policies read.
pub(in crate::translate) fn read(
    hashing: Option<legacy::ConsistentHashingLbConfig>,
    locality: Option<legacy::LocalityConfigSpecifier>,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Common {
    let hashing = hashing.map(|proto| {
        let legacy::ConsistentHashingLbConfig { use_hostname_for_hashing, hash_balance_factor } = proto;
        Hashing { use_hostname: use_hostname_for_hashing, balance_factor: balance(hash_balance_factor) }
    });
    let mut common = Common { hashing, ..Common::default() };
    match locality {
        Some(legacy::LocalityConfigSpecifier::LocalityWeightedLbConfig(proto)) => {
            let legacy::LocalityWeightedLbConfig {} = proto;
            common.locality_lb = LocalityLb::Weighted;
            common.locality_field = Some("locality_weighted_lb_config");
        }
        Some(legacy::LocalityConfigSpecifier::ZoneAwareLbConfig(proto)) => {
            let at = at.field("zone_aware_lb_config");
            let legacy::ZoneAwareLbConfig { routing_enabled, min_cluster_size, fail_traffic_on_panic } =
                proto;
            ignored!(d, at, NO_ZONES; routing_enabled, min_cluster_size);
            common.fail_traffic_on_panic = fail_traffic_on_panic;
            common.locality_field = Some("zone_aware_lb_config");
        }
        None => {}
    }
    common
}

/// Localities as an extension's configuration has them.
pub(super) fn locality(proto: Option<proto::LocalityLbConfig>, at: &Path<'_>, d: &mut Diagnostics) -> Common {
    let mut common = Common::default();
    let Some(proto::LocalityLbConfig { locality_config_specifier }) = proto else { return common };
    let at = at.field("locality_lb_config");
    match locality_config_specifier {
        Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(proto)) => {
            common.locality_lb = weighted(Some(proto));
        }
        Some(LocalityConfigSpecifier::ZoneAwareLbConfig(proto)) => {
            let at = at.field("zone_aware_lb_config");
            let ZoneAwareLbConfig {
                routing_enabled,
                min_cluster_size,
                fail_traffic_on_panic,
                force_locality_direct_routing,
                force_local_zone,
                locality_basis,
            } = proto;
            ignored!(d, at, NO_ZONES; routing_enabled, min_cluster_size, force_locality_direct_routing,
                force_local_zone, locality_basis);
            common.fail_traffic_on_panic = fail_traffic_on_panic;
        }
        None => {}
    }
    common
}

pub(super) fn weighted(proto: Option<LocalityWeightedLbConfig>) -> LocalityLb {
    match proto {
        Some(LocalityWeightedLbConfig {}) => LocalityLb::Weighted,
        None => LocalityLb::Alike,
    }
}

/// What policies that hash have in common.
pub(super) fn hashing(
    proto: proto::ConsistentHashingLbConfig,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Hashing {
    let proto::ConsistentHashingLbConfig { use_hostname_for_hashing, hash_balance_factor, hash_policy } =
        proto;
    unsupported!(d, at, "hash policies are taken from routes"; hash_policy);
    Hashing { use_hostname: use_hostname_for_hashing, balance_factor: balance(hash_balance_factor) }
}

/// Zero means no bound.
pub(super) fn balance(factor: Option<xds_types::google::protobuf::UInt32Value>) -> Option<u32> {
    factor.map(|v| v.value).filter(|factor| *factor > 0)
}

/// Either kind of slow-start message.
pub(super) struct SlowStartProto {
    window: Option<xds_types::google::protobuf::Duration>,
    aggression: Option<RuntimeDouble>,
    min_weight_percent: Option<Percent>,
}

impl From<proto::SlowStartConfig> for SlowStartProto {
    fn from(proto: proto::SlowStartConfig) -> Self {
        let proto::SlowStartConfig { slow_start_window, aggression, min_weight_percent } = proto;
        Self { window: slow_start_window, aggression, min_weight_percent }
    }
}

impl From<cluster::SlowStartConfig> for SlowStartProto {
    fn from(proto: cluster::SlowStartConfig) -> Self {
        let cluster::SlowStartConfig { slow_start_window, aggression, min_weight_percent } = proto;
        Self { window: slow_start_window, aggression, min_weight_percent }
    }
}

/// `None` without a window.
pub(super) fn slow_start(proto: SlowStartProto, at: &Path<'_>, d: &mut Diagnostics) -> Option<SlowStart> {
    let SlowStartProto { window, aggression, min_weight_percent } = proto;
    let window = duration::read(window, &at.field("slow_start_window"), d)?;
    let aggression_at = at.field("aggression");
    let aggression = runtime_double(aggression, 1.0, &aggression_at, d);
    if aggression <= 0.0 {
        d.reject(&aggression_at, "must be greater than 0");
    }
    let min_at = at.field("min_weight_percent");
    let min_weight_percent = min_weight_percent.map_or(10.0, |Percent { value }| value);
    if !(0.0..=100.0).contains(&min_weight_percent) {
        d.reject(&min_at, "must be 0 to 100");
    }
    (!window.is_zero()).then(|| SlowStart {
        window,
        aggression: f64Bits::new(aggression),
        min_weight_percent: f64Bits::new(min_weight_percent),
    })
}

/// `active_request_bias`.
pub(super) fn bias(proto: Option<RuntimeDouble>, at: &Path<'_>, d: &mut Diagnostics) -> f64Bits {
    let at = at.field("active_request_bias");
    let default = LeastRequest::default().active_request_bias.get();
    let bias = runtime_double(proto, default, &at, d);
    if bias.is_nan() || bias < 0.0 {
        d.reject(&at, "must be 0 or more");
    }
    f64Bits::new(bias)
}

fn runtime_double(proto: Option<RuntimeDouble>, default: f64, at: &Path<'_>, d: &mut Diagnostics) -> f64 {
    let Some(RuntimeDouble { default_value, runtime_key }) = proto else { return default };
    ignored!(d, at, "runtime does not override it"; runtime_key);
    default_value
}
