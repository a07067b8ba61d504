//! Checks of a Policy.

use std::collections::BTreeSet;

use super::{Checker, Zero, header_name};
use crate::model::{ObjectName, ServiceName};
use xds_types::portolan::config::v1::{
    ClientIp, DescriptorLimit, Limit, LimitKey, MetadataKey, Policy, RateLimit, RateLimitAlgorithm,
    RateLimitDescriptor, RateLimitDomain, RateLimitUnit, Target, limit::Scope, limit_key::By, policy,
    rate_limit::OnFailure, target::Of,
};

/// Limits of one policy, which are each a descriptor of every request.
const MAX_LIMITS: usize = 32;
/// Descriptors one below another.
const MAX_DEPTH: usize = 16;
/// The domain of the limits in RateLimit policies.
pub const OWN_DOMAIN: &str = "portolan";

pub(super) fn check(p: &Policy, at: &mut Checker<'_>) {
    let Policy { targets, policy } = p;
    match policy {
        None => at.error("spec", "must say what: rate_limit or rate_limit_domain"),
        Some(policy::Policy::RateLimit(limit)) => {
            if targets.is_empty() {
                at.error("spec.targets", "must hold at least one target");
            }
            rate_limit(limit, at);
        }
        Some(policy::Policy::RateLimitDomain(domain)) => {
            if !targets.is_empty() {
                at.error("spec.targets", "must be empty: the domain is named by whoever asks");
            }
            self::domain(domain, at);
        }
    }
    let is_service = |t: &Target| matches!(t.of, Some(Of::Service(_)));
    if targets.iter().any(is_service) && !targets.iter().all(is_service) {
        at.error(
            "spec.targets",
            "services must not stand beside gateways and routes: they are counted apart",
        );
    }
    let mut seen = BTreeSet::new();
    for (i, target) in targets.iter().enumerate() {
        let path = format!("spec.targets[{i}]");
        let Target { of, rule } = target;
        let name = match of {
            None => {
                at.error(&path, "must be a gateway, a route or a service");
                continue;
            }
            Some(Of::Gateway(name)) => (format!("{path}.gateway"), name, "Gateway"),
            Some(Of::Route(name)) => (format!("{path}.route"), name, "Route"),
            Some(Of::Service(name)) => (format!("{path}.service"), name, "Service"),
        };
        let (field, name, kind) = name;
        let fault = match kind {
            "Service" => ServiceName::new(name).err(),
            _ => ObjectName::new(name).err(),
        };
        if let Some(e) = fault {
            at.error(field, format!("`{name}` {e}"));
        } else if !seen.insert((kind, name, rule)) {
            at.error(field, format!("`{name}` is there twice"));
        }
        if !rule.is_empty() && kind != "Route" {
            at.error(format!("{path}.rule"), "needs a route");
        }
    }
}

fn rate_limit(r: &RateLimit, at: &mut Checker<'_>) {
    let RateLimit { limits, shadow: _, on_failure, timeout, status, headers: _ } = r;
    let path = "spec.rate_limit";
    if limits.is_empty() {
        at.error(format!("{path}.limits"), "must hold at least one limit");
    }
    if limits.len() > MAX_LIMITS {
        at.error(format!("{path}.limits"), format!("must hold at most {MAX_LIMITS} limits"));
    }
    if OnFailure::try_from(*on_failure).is_err() {
        at.error(format!("{path}.on_failure"), "must be ALLOW or DENY");
    }
    at.duration(&format!("{path}.timeout"), timeout.as_ref(), Zero::Refused);
    if !matches!(status, 0 | 400..=599) {
        at.error(format!("{path}.status"), "must be 400 to 599");
    }
    let mut names = BTreeSet::new();
    for (i, limit) in limits.iter().enumerate() {
        let path = format!("{path}.limits[{i}]");
        let name = limit_name(limit, i);
        if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)) {
            at.error(format!("{path}.name"), format!("`{name}` must have only letters, digits, `-` and `_`"));
        }
        if !names.insert(name.clone()) {
            at.error(format!("{path}.name"), format!("`{name}` is there twice"));
        }
        self::limit(&path, limit, at);
    }
}

/// The name of a limit, or its default.
pub fn limit_name(limit: &Limit, index: usize) -> String {
    if limit.name.is_empty() { index.to_string() } else { limit.name.clone() }
}

fn limit(path: &str, limit: &Limit, at: &mut Checker<'_>) {
    let Limit { name: _, per, requests, unit, algorithm, burst, scope } = limit;
    if requests.is_none() {
        at.error(format!("{path}.requests"), "is needed");
    }
    if RateLimitUnit::try_from(*unit).is_err() {
        at.error(format!("{path}.unit"), "is not a unit");
    }
    let algorithm = RateLimitAlgorithm::try_from(*algorithm);
    if algorithm.is_err() {
        at.error(format!("{path}.algorithm"), "is not an algorithm");
    }
    let scope = Scope::try_from(*scope);
    if scope.is_err() {
        at.error(format!("{path}.scope"), "must be GLOBAL or LOCAL");
    }
    use RateLimitAlgorithm::{Default as Unsaid, TokenBucket};
    let local = scope == Ok(Scope::Local);
    if local && !matches!(algorithm, Ok(Unsaid | TokenBucket)) {
        at.error(format!("{path}.algorithm"), "scope LOCAL has TOKEN_BUCKET alone");
    }
    if local && requests.as_ref().is_some_and(|n| n.value == 0) {
        at.error(format!("{path}.requests"), "must be at least 1 in scope LOCAL");
    }
    if burst.is_some() && !local && algorithm != Ok(TokenBucket) {
        at.error(format!("{path}.burst"), "needs TOKEN_BUCKET");
    }
    at.range(&format!("{path}.burst"), burst.as_ref().map(|b| b.value), 1..=u32::MAX);
    for (i, key) in per.iter().enumerate() {
        self::key(&format!("{path}.per[{i}]"), key, at);
    }
}

fn key(path: &str, key: &LimitKey, at: &mut Checker<'_>) {
    let LimitKey { by, value } = key;
    let flag = |at: &mut Checker<'_>, field: &str, set: bool| {
        if !set {
            at.error(format!("{path}.{field}"), "must be true");
        }
    };
    let no_value = |at: &mut Checker<'_>, field: &str| {
        if !value.is_empty() {
            at.error(format!("{path}.value"), format!("cannot be chosen of {field}"));
        }
    };
    match by {
        None => {
            at.error(
                path,
                "must say by what: client_ip, header, query, metadata, method, path, route, service",
            );
        }
        Some(By::ClientIp(ClientIp { v4_bits, v6_bits })) => {
            no_value(at, "client_ip");
            at.range(&format!("{path}.client_ip.v4_bits"), v4_bits.as_ref().map(|n| n.value), 1..=32);
            at.range(&format!("{path}.client_ip.v6_bits"), v6_bits.as_ref().map(|n| n.value), 1..=128);
        }
        Some(By::Header(name)) => {
            if let Err(message) = header_name(name) {
                at.error(format!("{path}.header"), format!("`{name}` {message}"));
            }
        }
        Some(By::Query(name)) => {
            if name.is_empty() {
                at.error(format!("{path}.query"), "must not be empty");
            }
        }
        Some(By::Metadata(MetadataKey { namespace, path: keys })) => {
            no_value(at, "metadata");
            if namespace.is_empty() {
                at.error(format!("{path}.metadata.namespace"), "must not be empty");
            }
            if keys.is_empty() || keys.iter().any(String::is_empty) {
                at.error(format!("{path}.metadata.path"), "must hold at least one key, none of them empty");
            }
        }
        Some(By::Method(set)) => flag(at, "method", *set),
        Some(By::Path(set)) => flag(at, "path", *set),
        Some(By::Route(set)) => {
            no_value(at, "route");
            flag(at, "route", *set);
        }
        Some(By::Service(set)) => {
            no_value(at, "service");
            flag(at, "service", *set);
        }
    }
}

fn domain(d: &RateLimitDomain, at: &mut Checker<'_>) {
    let RateLimitDomain { domain, descriptors } = d;
    let path = "spec.rate_limit_domain";
    if domain.is_empty() {
        at.error(format!("{path}.domain"), "must not be empty");
    } else if domain == OWN_DOMAIN {
        at.error(format!("{path}.domain"), format!("`{OWN_DOMAIN}` holds the limits of other policies"));
    }
    level(&format!("{path}.descriptors"), descriptors, 0, at);
}

fn level(path: &str, descriptors: &[RateLimitDescriptor], depth: usize, at: &mut Checker<'_>) {
    if depth >= MAX_DEPTH {
        at.error(path, format!("must be at most {MAX_DEPTH} deep"));
        return;
    }
    let mut seen = BTreeSet::new();
    for (i, one) in descriptors.iter().enumerate() {
        let path = format!("{path}[{i}]");
        let RateLimitDescriptor {
            key,
            value,
            rate_limit,
            shadow_mode: _,
            detailed_metric: _,
            descriptors,
            share_threshold,
        } = one;
        if key.is_empty() {
            at.error(format!("{path}.key"), "must not be empty");
        }
        if !seen.insert((key, value)) {
            at.error(&path, format!("`{key}` with the value `{value}` is there twice"));
        }
        let stars = value.matches('*').count();
        if stars > 1 || (stars == 1 && !value.ends_with('*')) {
            at.error(format!("{path}.value"), format!("`{value}` may have `*` only at its end"));
        }
        if *share_threshold && stars == 0 {
            at.error(format!("{path}.share_threshold"), "needs a value that ends in `*`");
        }
        if let Some(limit) = rate_limit {
            descriptor_limit(&format!("{path}.rate_limit"), limit, at);
        }
        level(&format!("{path}.descriptors"), descriptors, depth + 1, at);
    }
}

fn descriptor_limit(path: &str, limit: &DescriptorLimit, at: &mut Checker<'_>) {
    let DescriptorLimit { unit, requests_per_unit, unlimited, name, replaces, algorithm, burst } = limit;
    match RateLimitUnit::try_from(*unit) {
        Ok(RateLimitUnit::Unknown) if !unlimited => {
            at.error(format!("{path}.unit"), "is needed: second, minute, hour, day, week, month or year");
        }
        Err(_) => at.error(format!("{path}.unit"), "is not a unit"),
        Ok(_) if *unlimited && (*unit != 0 || *requests_per_unit != 0) => {
            at.error(format!("{path}.unlimited"), "must not stand beside unit or requests_per_unit");
        }
        Ok(_) => {}
    }
    let algorithm = RateLimitAlgorithm::try_from(*algorithm);
    if algorithm.is_err() {
        at.error(format!("{path}.algorithm"), "is not an algorithm");
    }
    if *burst > 0 && algorithm != Ok(RateLimitAlgorithm::TokenBucket) {
        at.error(format!("{path}.burst"), "needs TOKEN_BUCKET");
    }
    for (i, replaced) in replaces.iter().enumerate() {
        if replaced.name.is_empty() {
            at.error(format!("{path}.replaces[{i}].name"), "must not be empty");
        } else if replaced.name == *name {
            at.error(format!("{path}.replaces[{i}].name"), "must not be that of the limit itself");
        }
    }
}
