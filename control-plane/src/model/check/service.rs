//! Checks of a Service.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::{Checker, Zero, resilience};
use crate::model::{Instance, ObjectName, ServiceName};
use xds_types::portolan::config::v1::{Discovery, Service, Subset, discovery::From, service};

pub(super) fn check(s: &Service, at: &mut Checker<'_>) {
    let Service {
        protocol,
        load_balancing,
        connect_timeout,
        subsets,
        discovery,
        max_requests_per_connection,
        health_check,
        outlier_detection,
        circuit_breaker,
        limits,
        hash_table,
        slow_start,
        proxy_protocol,
        zones,
        mtls,
        tls,
        patch: _, // `translate` merges it and knows its keys
    } = s;
    if service::Protocol::try_from(*protocol).is_err() {
        at.error("spec.protocol", "is not a protocol");
    }
    if service::LoadBalancing::try_from(*load_balancing).is_err() {
        at.error("spec.load_balancing", "is not a load-balancing policy");
    }
    super::tls::service(*mtls, tls.as_ref(), at);
    at.duration("spec.connect_timeout", connect_timeout.as_ref(), Zero::Refused);
    if max_requests_per_connection.as_ref().is_some_and(|n| n.value == 0) {
        at.error("spec.max_requests_per_connection", "must be at least 1; leave it out for no limit");
    }
    if service::ProxyProtocol::try_from(*proxy_protocol).is_err() {
        at.error("spec.proxy_protocol", "is not a version");
    }
    resilience::service(s, health_check, outlier_detection, circuit_breaker, at);
    resilience::balancing(s, limits, hash_table, slow_start, zones, at);
    let mut names: Vec<_> = subsets.iter().collect();
    names.sort_by_key(|(name, _)| *name);
    for (name, Subset { labels }) in names {
        let path = format!("spec.subsets[\"{name}\"]");
        if let Err(e) = ObjectName::new(name) {
            at.error(&path, format!("the name {e}"));
        }
        if labels.is_empty() {
            at.error(path + ".labels", "must hold at least one label");
        }
    }
    if let Some(discovery) = discovery {
        check_discovery(discovery, at);
        if matches!(discovery.from, Some(From::Dns(_))) && !subsets.is_empty() {
            at.error("spec.subsets", "a service found by DNS has no subsets: its addresses have no labels");
        }
        if matches!(discovery.from, Some(From::Static(_))) && !subsets.is_empty() {
            at.error("spec.subsets", "a service of fixed addresses has no subsets: they have no labels");
        }
    }
}

fn check_discovery(d: &Discovery, at: &mut Checker<'_>) {
    match &d.from {
        None => at.error("spec.discovery", "must say where: static, dns or service"),
        Some(From::Static(fixed)) => {
            if fixed.addresses.is_empty() {
                at.error("spec.discovery.static.addresses", "must hold at least one address");
            }
            let mut seen = BTreeSet::new();
            for (i, text) in fixed.addresses.iter().enumerate() {
                let path = format!("spec.discovery.static.addresses[{i}]");
                let any = ServiceName::new("any").expect("INVARIANT: `any` is a name");
                match text.parse::<SocketAddr>() {
                    Err(_) => at.error(path, format!("`{text}` is not ADDRESS:PORT with an IP address")),
                    Ok(address) if !seen.insert(address) => {
                        at.error(path, format!("`{text}` is there twice"))
                    }
                    Ok(address) => {
                        if let Err(e) = Instance::at(any, address) {
                            at.error(path, e);
                        }
                    }
                }
            }
        }
        Some(From::Dns(dns)) => {
            if super::host(&dns.hostname, false).is_err() || dns.hostname.starts_with("*.") {
                at.error("spec.discovery.dns.hostname", format!("`{}` is not a host name", dns.hostname));
            }
            at.port("spec.discovery.dns.port", dns.port);
        }
        Some(From::Service(name)) => {
            if let Err(e) = ServiceName::new(name) {
                at.error("spec.discovery.service", format!("`{name}` {e}"));
            }
        }
    }
}
