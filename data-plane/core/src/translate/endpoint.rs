//! Endpoints: `ClusterLoadAssignment`, from clusters and from EDS.

use super::field::{self, ignored, required, unsupported};
use super::runtime::json_object;
use super::{address, bootstrap, health};
use crate::config::{Assignment, Endpoint, EndpointAddress, EndpointHealth, LocalityEndpoints};
use crate::path::{Diagnostics, Path, Rejected};
use serde_json::Value;
use std::collections::{BTreeMap, HashSet};
use xds_types::envoy::config::core::v3::{HealthStatus, Metadata};
use xds_types::envoy::config::endpoint::v3 as proto;
use xds_types::envoy::config::endpoint::v3::cluster_load_assignment::Policy;
use xds_types::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use xds_types::envoy::config::endpoint::v3::locality_lb_endpoints::{LbConfig, LbEndpointList};
use xds_types::google::protobuf::Struct;

/// Envoy's default of `overprovisioning_factor`, percent.
const OVERPROVISIONING_FACTOR: u32 = 140;

/// The metadata that is read.
pub(super) const LABELS: &str = "envoy.lb";

/// The metadata that chooses transport sockets.
const TRANSPORT_LABELS: &str = "envoy.transport_socket_match";

/// What a host may be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Hosts {
    /// IP addresses only: STATIC and EDS.
    Addresses,
    /// Names too: the DNS types.
    Names,
}

/// A set of endpoints.
pub(super) fn assignment(
    proto: proto::ClusterLoadAssignment,
    hosts: Hosts,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Result<Assignment, Rejected> {
    let proto::ClusterLoadAssignment { cluster_name, endpoints, named_endpoints, policy } = proto;
    unsupported!(d, at, "endpoints are written in place"; named_endpoints);
    let (overprovisioning_factor, weighted_priority_health) = match policy {
        Some(proto) => load_policy(proto, &at.field("policy"), d),
        None => (OVERPROVISIONING_FACTOR, false),
    };
    let endpoints_at = at.field("endpoints");
    let mut seen = Seen::default();
    let localities =
        field::each(endpoints, &endpoints_at, d, |proto, at, d| locality(proto, hosts, &mut seen, at, d));
    Ok(Assignment {
        name: cluster_name.into(),
        localities,
        overprovisioning_factor,
        weighted_priority_health,
    })
}

/// The overprovisioning factor, and whether weights make the health of priorities.
fn load_policy(proto: Policy, at: &Path<'_>, d: &mut Diagnostics) -> (u32, bool) {
    let Policy { drop_overloads, overprovisioning_factor, endpoint_stale_after, weighted_priority_health } =
        proto;
    unsupported!(d, at; drop_overloads, endpoint_stale_after);
    (overprovisioning_factor.map_or(OVERPROVISIONING_FACTOR, |v| v.value), weighted_priority_health)
}

/// What an assignment holds once only.
#[derive(Default)]
struct Seen {
    localities: HashSet<(u32, crate::config::Locality)>,
    hosts: HashSet<(u32, EndpointAddress)>,
}

fn locality(
    proto: proto::LocalityLbEndpoints,
    hosts: Hosts,
    seen: &mut Seen,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Result<LocalityEndpoints, Rejected> {
    let proto::LocalityLbEndpoints {
        locality,
        metadata,
        lb_endpoints,
        load_balancing_weight,
        priority,
        proximity,
        lb_config,
    } = proto;
    ignored!(d, at, "has no reader"; metadata, proximity);
    if locality.is_none() {
        // As measured on Envoy 1.40.
        ignored!(d, at, "only what has a locality has a weight"; load_balancing_weight);
    }
    let load_balancing_weight = load_balancing_weight.filter(|_| locality.is_some());
    let locality = locality.map(bootstrap::locality).unwrap_or_default();
    if !seen.localities.insert((priority, locality.clone())) {
        let message = format!("duplicate locality at priority {priority}");
        d.reject(&at.field("locality"), message);
    }
    let mut kept = Vec::with_capacity(lb_endpoints.len());
    hosts_of(lb_endpoints, priority, hosts, seen, &mut kept, &at.field("lb_endpoints"), d);
    match lb_config {
        Some(LbConfig::LoadBalancerEndpoints(LbEndpointList { lb_endpoints })) => {
            let at = at.field("load_balancer_endpoints");
            hosts_of(lb_endpoints, priority, hosts, seen, &mut kept, &at.field("lb_endpoints"), d);
        }
        Some(LbConfig::LedsClusterLocalityConfig(_)) => {
            d.reject(&at.field("leds_cluster_locality_config"), "LEDS is not supported");
        }
        None => {}
    }
    let sum: u64 = kept.iter().map(|e| u64::from(e.weight)).sum();
    if sum > u64::from(u32::MAX) {
        d.reject(&at.field("lb_endpoints"), format_args!("the sum of weights {sum} exceeds {}", u32::MAX));
    }
    Ok(LocalityEndpoints {
        locality,
        priority,
        weight: load_balancing_weight.map(|v| v.value),
        endpoints: kept,
    })
}

fn hosts_of(
    list: Vec<proto::LbEndpoint>,
    priority: u32,
    hosts: Hosts,
    seen: &mut Seen,
    kept: &mut Vec<Endpoint>,
    at: &Path<'_>,
    d: &mut Diagnostics,
) {
    for (index, proto) in list.into_iter().enumerate() {
        let at = at.index(index);
        let Ok(endpoint) = lb_endpoint(proto, hosts, &at, d) else { continue };
        // Names may repeat: they are told apart once resolved.
        let repeated = matches!(endpoint.address, EndpointAddress::Socket(_))
            && !seen.hosts.insert((priority, endpoint.address.clone()));
        if repeated {
            d.ignored(&at, "duplicate address: the first one counts");
        } else {
            kept.push(endpoint);
        }
    }
}

fn lb_endpoint(
    proto: proto::LbEndpoint,
    hosts: Hosts,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Result<Endpoint, Rejected> {
    let proto::LbEndpoint { health_status, metadata, load_balancing_weight, host_identifier } = proto;
    let health = match field::variant(health_status, &at.field("health_status"), d)? {
        HealthStatus::Unknown | HealthStatus::Healthy => EndpointHealth::Healthy,
        HealthStatus::Degraded => EndpointHealth::Degraded,
        HealthStatus::Unhealthy | HealthStatus::Timeout => EndpointHealth::Unhealthy,
        HealthStatus::Draining => EndpointHealth::Draining,
    };
    let (labels, transport_labels) = match metadata {
        Some(proto) => labels(proto, &at.field("metadata"), d),
        None => Default::default(),
    };
    let weight = load_balancing_weight.map_or(1, |v| v.value);
    if weight == 0 {
        d.reject(&at.field("load_balancing_weight"), "must be greater than 0");
    }
    let proto = match host_identifier {
        Some(HostIdentifier::Endpoint(proto)) => proto,
        Some(HostIdentifier::EndpointName(_)) => {
            return Err(d.reject(&at.field("endpoint_name"), "not supported: write the endpoint in place"));
        }
        None => return Err(d.reject(&at.field("endpoint"), "is required")),
    };
    let at = at.field("endpoint");
    let proto::Endpoint {
        address: place,
        health_check_config,
        hostname,
        additional_addresses,
        observability_name,
    } = proto;
    let check =
        health_check_config.and_then(|proto| health::endpoint(proto, &at.field("health_check_config"), d));
    ignored!(d, at, "only the first address is used"; additional_addresses);
    ignored!(d, at, "hosts are known by their address"; observability_name);
    let address_at = at.field("address");
    let place = required(place, &address_at, d)?;
    let address = match hosts {
        Hosts::Addresses => EndpointAddress::Socket(address::socket(place, &address_at, d)?),
        Hosts::Names => address::endpoint(place, &address_at, d)?,
    };
    Ok(Endpoint { address, hostname: hostname.into(), weight, health, labels, transport_labels, check })
}

type Labels = BTreeMap<String, Value>;

/// The metadata of `envoy.lb` and of `envoy.transport_socket_match`.
pub(super) fn labels(proto: Metadata, at: &Path<'_>, d: &mut Diagnostics) -> (Labels, Labels) {
    let Metadata { filter_metadata, typed_filter_metadata } = proto;
    ignored!(d, at, "has no reader"; typed_filter_metadata);
    let at = at.field("filter_metadata");
    let (mut labels, mut transport) = (Labels::new(), Labels::new());
    let mut namespaces: Vec<_> = filter_metadata.into_iter().collect();
    namespaces.sort_by(|(a, _), (b, _)| a.cmp(b));
    for (namespace, Struct { fields }) in namespaces {
        let at = at.key(&namespace);
        match namespace.as_str() {
            LABELS => labels.extend(json_object(Struct { fields })),
            TRANSPORT_LABELS => transport.extend(json_object(Struct { fields })),
            _ => d.ignored(&at, "has no reader: only envoy.lb and envoy.transport_socket_match have"),
        }
    }
    (labels, transport)
}
