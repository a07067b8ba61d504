//! Outlier detection (`config.cluster.v3.OutlierDetection`).

use super::duration;
use super::field::unsupported;
use crate::config::OutlierDetection;
use crate::path::{Diagnostics, Path};
use std::time::Duration;
use xds_types::envoy::config::cluster::v3 as proto;
use xds_types::google::protobuf::UInt32Value;

/// Knobs with Envoy's defaults.
pub(super) fn detection(
    proto: proto::OutlierDetection,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> OutlierDetection {
    let proto::OutlierDetection {
        consecutive_5xx,
        interval,
        base_ejection_time,
        max_ejection_percent,
        enforcing_consecutive_5xx,
        enforcing_success_rate,
        success_rate_minimum_hosts,
        success_rate_request_volume,
        success_rate_stdev_factor,
        consecutive_gateway_failure,
        enforcing_consecutive_gateway_failure,
        split_external_local_origin_errors,
        consecutive_local_origin_failure,
        enforcing_consecutive_local_origin_failure,
        enforcing_local_origin_success_rate,
        failure_percentage_threshold,
        enforcing_failure_percentage,
        enforcing_failure_percentage_local_origin,
        failure_percentage_minimum_hosts,
        failure_percentage_request_volume,
        max_ejection_time,
        max_ejection_time_jitter,
        successful_active_health_check_uneject_host,
        monitors,
        always_eject_one_host,
        detect_degraded_hosts,
    } = proto;
    unsupported!(d, at, "the built-in detectors are supported only"; monitors);
    unsupported!(d, at; detect_degraded_hosts = false);
    let default = OutlierDetection::default();
    let number = |value: Option<UInt32Value>, default: u32| value.map_or(default, |v| v.value);
    let base = duration::positive_or(
        base_ejection_time,
        default.base_ejection_time,
        &at.field("base_ejection_time"),
        d,
    );
    let longest = default.max_ejection_time.max(base);
    OutlierDetection {
        consecutive_5xx: number(consecutive_5xx, default.consecutive_5xx),
        consecutive_gateway_failure: number(consecutive_gateway_failure, default.consecutive_gateway_failure),
        consecutive_local_origin_failure: number(
            consecutive_local_origin_failure,
            default.consecutive_local_origin_failure,
        ),
        interval: duration::positive_or(interval, default.interval, &at.field("interval"), d),
        base_ejection_time: base,
        max_ejection_time: duration::positive_or(
            max_ejection_time,
            longest,
            &at.field("max_ejection_time"),
            d,
        ),
        max_ejection_time_jitter: duration::or(
            max_ejection_time_jitter,
            Duration::ZERO,
            &at.field("max_ejection_time_jitter"),
            d,
        ),
        max_ejection_percent: number(max_ejection_percent, default.max_ejection_percent),
        always_eject_one_host: always_eject_one_host.is_some_and(|v| v.value),
        enforcing_consecutive_5xx: number(enforcing_consecutive_5xx, default.enforcing_consecutive_5xx),
        enforcing_consecutive_gateway_failure: number(
            enforcing_consecutive_gateway_failure,
            default.enforcing_consecutive_gateway_failure,
        ),
        enforcing_consecutive_local_origin_failure: number(
            enforcing_consecutive_local_origin_failure,
            default.enforcing_consecutive_local_origin_failure,
        ),
        enforcing_success_rate: number(enforcing_success_rate, default.enforcing_success_rate),
        enforcing_local_origin_success_rate: number(
            enforcing_local_origin_success_rate,
            default.enforcing_local_origin_success_rate,
        ),
        enforcing_failure_percentage: number(
            enforcing_failure_percentage,
            default.enforcing_failure_percentage,
        ),
        enforcing_failure_percentage_local_origin: number(
            enforcing_failure_percentage_local_origin,
            default.enforcing_failure_percentage_local_origin,
        ),
        success_rate_minimum_hosts: number(success_rate_minimum_hosts, default.success_rate_minimum_hosts),
        success_rate_request_volume: number(success_rate_request_volume, default.success_rate_request_volume),
        success_rate_stdev_factor: number(success_rate_stdev_factor, default.success_rate_stdev_factor),
        failure_percentage_threshold: number(
            failure_percentage_threshold,
            default.failure_percentage_threshold,
        ),
        failure_percentage_minimum_hosts: number(
            failure_percentage_minimum_hosts,
            default.failure_percentage_minimum_hosts,
        ),
        failure_percentage_request_volume: number(
            failure_percentage_request_volume,
            default.failure_percentage_request_volume,
        ),
        split_external_local_origin_errors,
        successful_active_health_check_uneject_host: successful_active_health_check_uneject_host
            .is_none_or(|v| v.value),
    }
}
