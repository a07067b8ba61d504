//! Names of the resources that are emitted, in one place: proxies show them in stats and logs, and resources
//! find each other by them.
//!
//! | resource | name |
//! |---|---|
//! | cluster, and its endpoints | `SERVICE`, or `SERVICE/SUBSET` |
//! | listener of a gateway, and its route configuration | `GATEWAY/LISTENER` |
//! | listener for gRPC clients, and its route configuration | the name asked for: `SERVICE`, or `SERVICE:PORT` |
//! | route | `ROUTE/RULE` |
//! | secret | the object's name, or `mesh/...` for what the built-in authority issues |
//!
//! Names of services and objects have no `/` and no `:`, so none of these can be taken for another.

use std::sync::Arc;

/// The control plane itself, in every bootstrap that it makes.
pub(super) const CONTROL: &str = "portolan_control";

/// The cluster of a service's instances, or of a subset of them.
pub(super) fn cluster(service: &str, subset: &str) -> Arc<str> {
    if subset.is_empty() { service.into() } else { format!("{service}/{subset}").into() }
}

/// Service and subset of a cluster's name.
pub(super) fn service_and_subset(cluster: &str) -> (&str, &str) {
    cluster.split_once('/').unwrap_or((cluster, ""))
}

/// The certificate that a proxy shows: another one for each group.
pub(super) const OWN_IDENTITY: &str = "mesh/identity";

/// What the proxies of the fleet trust.
pub(super) const AUTHORITIES: &str = "mesh/authorities";

/// The certificate of a service, shown by the proxies that stand before it.
pub(super) fn service_identity(service: &str) -> Arc<str> {
    format!("mesh/service/{service}").into()
}

/// The service whose certificate a secret is.
pub(super) fn identity_service(secret: &str) -> Option<&str> {
    secret.strip_prefix("mesh/service/")
}

/// A listener of a gateway.
pub(super) fn listener(gateway: &str, listener: &str) -> Arc<str> {
    format!("{gateway}/{listener}").into()
}

/// Prefix of a listener's HTTP stats. A dot would split it into two stats elements.
pub(super) fn stat_prefix(gateway: &str, listener: &str) -> String {
    format!("{gateway}.{listener}").replace('.', "_")
}

/// A route.
pub(super) fn route(object: &str, rule: &str, index: usize) -> String {
    if rule.is_empty() { format!("{object}/{index}") } else { format!("{object}/{rule}") }
}

/// The service that a gRPC client means by the name it asks for: with or without a port, which is ignored,
/// because instances have ports of their own.
pub(super) fn grpc_service(asked: &str) -> &str {
    match asked.rsplit_once(':') {
        Some((service, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => service,
        _ => asked,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_name_leads_back_to_its_service_and_subset() {
        assert_eq!(service_and_subset(&cluster("cart", "v2")), ("cart", "v2"));
        assert_eq!(service_and_subset(&cluster("cart.prod", "")), ("cart.prod", ""));
    }

    #[test]
    fn grpc_clients_may_add_a_port() {
        for (asked, service) in [("cart", "cart"), ("cart:50051", "cart"), ("cart:", "cart:"), ("a:b", "a:b")]
        {
            assert_eq!(grpc_service(asked), service);
        }
    }
}
