//! Instances -> `ClusterLoadAssignment`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use xds_types::ResourceType;
use xds_types::envoy::config::core::v3::{HealthStatus, Locality};
use xds_types::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, cluster_load_assignment::Policy,
    endpoint::HealthCheckConfig, lb_endpoint::HostIdentifier,
};
use xds_types::portolan::config::v1::Service;

use super::parts::{address, uint};
use crate::model::{Health, Instance, ObjectKey};
use crate::snapshot::Resource;

/// One address of an assignment.
struct One<'a> {
    socket: SocketAddr,
    weight: u32,
    health: HealthStatus,
    zone: &'a str,
}

/// The endpoints of a cluster: those of these instances that take traffic, by zone.
///
/// An assignment without endpoints is sent too: it tells a client that there are none, where silence would make
/// it wait. Every locality has a weight, without which gRPC clients drop it (measured): the sum of its
/// instances' weights, so that every instance gets its share whatever its zone.
pub(super) fn assignment<'a>(
    cluster: Arc<str>,
    instances: impl Iterator<Item = &'a Instance>,
    spec: Option<&Service>,
    origin: Option<ObjectKey>,
) -> Resource {
    let order = spec.and_then(|s| s.zones.as_ref()).map_or(&[][..], |z| &z.order);
    let check = health_port(spec);
    let mut by_address: BTreeMap<SocketAddr, One<'a>> = BTreeMap::new();
    for i in instances {
        let health = match i.health {
            Health::Healthy => HealthStatus::Unknown, // the default: what a client does not check is healthy
            Health::Draining => HealthStatus::Draining,
            Health::Unhealthy => continue,
        };
        // Two registrations of one address would be one endpoint to a proxy: the heavier and healthier counts.
        let one = One { socket: i.socket(), weight: i.weight, health, zone: &i.zone };
        let rank = |o: &One<'_>| (o.health == HealthStatus::Unknown, o.weight);
        match by_address.get(&one.socket) {
            Some(other) if rank(other) >= rank(&one) => {}
            _ => drop(by_address.insert(one.socket, one)),
        }
    }
    let mut zones: BTreeMap<&str, Vec<One<'a>>> = BTreeMap::new();
    for one in by_address.into_values() {
        zones.entry(one.zone).or_default().push(one);
    }
    // Priorities must leave none out (gRPC clients refuse the assignment otherwise): those in use move up.
    let rank = |zone: &str| order.iter().position(|z| z == zone).unwrap_or(order.len());
    let mut used: Vec<usize> = zones.keys().map(|zone| rank(zone)).collect();
    used.sort_unstable();
    used.dedup();
    let endpoints = zones.into_iter().map(|(zone, all)| {
        let priority = used.iter().position(|r| *r == rank(zone)).unwrap_or_default();
        locality(zone, u32::try_from(priority).unwrap_or(u32::MAX), &all, check)
    });
    let factor = spec.and_then(|s| s.zones.as_ref()).and_then(|z| z.overprovisioning_percent);
    let message = ClusterLoadAssignment {
        cluster_name: cluster.to_string(),
        endpoints: endpoints.collect(),
        policy: factor.map(|n| Policy { overprovisioning_factor: Some(n), ..Policy::default() }),
        ..Default::default()
    };
    let origin = origin.into_iter().collect();
    Resource::encode(ResourceType::ClusterLoadAssignment, cluster, &message, Vec::new(), origin)
}

/// Port that health checks go to, when it is not the instances' own.
pub(super) fn health_port(spec: Option<&Service>) -> Option<u32> {
    spec.and_then(|s| s.health_check.as_ref()).map(|h| h.port).filter(|port| *port > 0)
}

/// Of an endpoint that is checked on this port.
pub(super) fn health_check_at(port: u32) -> HealthCheckConfig {
    HealthCheckConfig { port_value: port, ..HealthCheckConfig::default() }
}

fn locality(zone: &str, priority: u32, all: &[One<'_>], check: Option<u32>) -> LocalityLbEndpoints {
    let weight = all.iter().map(|o| o.weight).fold(0u32, u32::saturating_add);
    LocalityLbEndpoints {
        locality: Some(Locality { zone: zone.to_owned(), ..Locality::default() }),
        lb_endpoints: all.iter().map(|one| endpoint(one, check)).collect(),
        priority,
        load_balancing_weight: uint(weight),
        ..LocalityLbEndpoints::default()
    }
}

fn endpoint(one: &One<'_>, check: Option<u32>) -> LbEndpoint {
    let host = Endpoint {
        address: Some(address(&one.socket.ip().to_string(), one.socket.port().into())),
        health_check_config: check.map(health_check_at),
        ..Endpoint::default()
    };
    LbEndpoint {
        health_status: one.health.into(),
        load_balancing_weight: uint(one.weight),
        host_identifier: Some(HostIdentifier::Endpoint(host)),
        ..LbEndpoint::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ServiceName;

    fn instance(at: &str) -> Instance {
        Instance::at(ServiceName::new("cart").unwrap(), at.parse().unwrap()).unwrap()
    }

    fn message(instances: &[Instance]) -> ClusterLoadAssignment {
        assignment("cart".into(), instances.iter(), None, None).decode().unwrap()
    }

    #[test]
    fn every_locality_has_the_weight_of_its_instances() {
        let mut all = vec![instance("10.0.0.1:1"), instance("10.0.0.2:1"), instance("10.0.0.3:1")];
        all[0].zone = "b".into();
        all[1].zone = "a".into();
        all[1].weight = 5;
        all[2].zone = "a".into();
        let m = message(&all);
        let zones: Vec<_> = m
            .endpoints
            .iter()
            .map(|l| (l.locality.as_ref().unwrap().zone.as_str(), l.load_balancing_weight.unwrap().value))
            .collect();
        assert_eq!(zones, [("a", 6), ("b", 1)]);
    }

    #[test]
    fn unhealthy_instances_are_left_out_and_draining_ones_are_marked() {
        let mut all = vec![instance("10.0.0.1:1"), instance("10.0.0.2:1"), instance("10.0.0.3:1")];
        all[0].health = Health::Unhealthy;
        all[1].health = Health::Draining;
        let m = message(&all);
        let states: Vec<i32> = m.endpoints[0].lb_endpoints.iter().map(|e| e.health_status).collect();
        assert_eq!(states, [i32::from(HealthStatus::Draining), i32::from(HealthStatus::Unknown)]);
    }

    #[test]
    fn a_service_without_instances_has_an_empty_assignment() {
        assert_eq!(message(&[]).endpoints, []);
    }

    #[test]
    fn an_address_registered_twice_is_one_endpoint() {
        let (mut heavy, mut draining) = (instance("10.0.0.1:1"), instance("10.0.0.1:1"));
        heavy.weight = 3;
        draining.weight = 9;
        draining.health = Health::Draining;
        for order in [[heavy.clone(), draining.clone()], [draining, heavy]] {
            let m = message(&order);
            assert_eq!(m.endpoints[0].lb_endpoints.len(), 1);
            assert_eq!(m.endpoints[0].lb_endpoints[0].load_balancing_weight.unwrap().value, 3);
        }
    }

    #[test]
    fn equal_instances_in_any_order_give_equal_bytes() {
        let (a, b) = (instance("10.0.0.1:1"), instance("10.0.0.2:1"));
        let one = assignment("cart".into(), [&a, &b].into_iter(), None, None);
        let two = assignment("cart".into(), [&b, &a].into_iter(), None, None);
        assert_eq!(one.version, two.version);
    }
}
