//! Listeners that carry bytes -> TCP proxies.

use std::collections::BTreeSet;
use std::sync::Arc;

use xds_types::envoy::config::accesslog::v3::AccessLog;
use xds_types::envoy::config::listener::v3::listener_filter::ConfigType;
use xds_types::envoy::config::listener::v3::{Filter, FilterChainMatch, ListenerFilter, filter};
use xds_types::envoy::extensions::filters::listener::proxy_protocol::v3::ProxyProtocol;
use xds_types::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use xds_types::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::{
    ClusterSpecifier, WeightedCluster, weighted_cluster::ClusterWeight,
};
use xds_types::envoy::r#type::v3::HashPolicy;
use xds_types::envoy::r#type::v3::hash_policy::{PolicySpecifier, SourceIp};
use xds_types::google::protobuf::Duration;
use xds_types::portolan::config::v1::listener::Protocol;
use xds_types::portolan::config::v1::{Gateway, GatewayLimits, Listener, Route};

use super::{hosts, names};
use crate::model::{ObjectKey, carries_bytes, check, is_for, listener_name};

/// What a listener carries bytes for.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Carried {
    /// Its name.
    pub listener: String,
    pub route: ObjectKey,
    /// Names that clients ask for by TLS; empty: whoever comes.
    pub server_names: Vec<String>,
    /// With their weights, of which none is zero.
    clusters: Vec<(Arc<str>, u32)>,
    idle_timeout: Option<Duration>,
    by_client: bool,
}

/// What the listeners of a gateway carry bytes for, of the routes attached to it in the order of their names: the
/// first that claims a listener, or a name on it, has it. A route that does not fit is left out.
pub(super) fn carried<'a>(
    gateway: &Gateway,
    routes: impl Iterator<Item = (&'a ObjectKey, &'a Route)> + Clone,
) -> Vec<Carried> {
    let mut all = Vec::new();
    for l in gateway.listeners.iter().filter(|l| carries_bytes(l)) {
        let mut taken = BTreeSet::new();
        for (key, route) in routes.clone().filter(|(_, route)| is_for(route, l)) {
            if !check::bytes(route, l).is_empty() {
                continue;
            }
            let mut server_names = effective(route, l);
            server_names.retain(|name| taken.insert(name.clone()));
            let Some(rule) = route.rules.first().filter(|_| !server_names.is_empty()) else { continue };
            if server_names.iter().any(|name| name == "*") {
                server_names.clear();
            }
            let weighted = rule.backends.iter().map(|b| {
                (names::cluster(&b.service, &b.subset), b.weight.as_ref().map_or(1, |weight| weight.value))
            });
            all.push(Carried {
                listener: listener_name(l),
                route: key.clone(),
                server_names,
                clusters: weighted.filter(|(_, weight)| *weight > 0).collect(),
                idle_timeout: rule.idle_timeout,
                by_client: !rule.hash.is_empty(),
            });
        }
    }
    all
}

/// The names that a route has on a listener that carries bytes; `*` stands for all.
pub(super) fn effective(route: &Route, l: &Listener) -> Vec<String> {
    match l.protocol == i32::from(Protocol::Tcp) {
        true => vec!["*".to_owned()],
        false => hosts::effective(&route.hosts, &l.hostnames),
    }
}

impl Carried {
    /// Clusters that it names.
    pub(super) fn clusters(&self) -> impl Iterator<Item = &Arc<str>> {
        self.clusters.iter().map(|(name, _)| name)
    }

    /// Which connections of TLS it is for.
    pub(super) fn matching(&self) -> FilterChainMatch {
        FilterChainMatch {
            server_names: self.server_names.clone(),
            transport_protocol: "tls".to_owned(),
            ..FilterChainMatch::default()
        }
    }

    /// The proxy of the bytes.
    pub(super) fn proxy(
        &self,
        gateway: &str,
        access_log: Vec<AccessLog>,
        limits: Option<&GatewayLimits>,
    ) -> TcpProxy {
        let cluster = match &self.clusters[..] {
            [(name, _)] => ClusterSpecifier::Cluster(name.to_string()),
            several => {
                let weight = |(name, weight): &(Arc<str>, u32)| ClusterWeight {
                    name: name.to_string(),
                    weight: *weight,
                    metadata_match: None,
                };
                ClusterSpecifier::WeightedClusters(WeightedCluster {
                    clusters: several.iter().map(weight).collect(),
                })
            }
        };
        let source_ip = || HashPolicy { policy_specifier: Some(PolicySpecifier::SourceIp(SourceIp {})) };
        TcpProxy {
            stat_prefix: names::stat_prefix(gateway, &self.listener),
            cluster_specifier: Some(cluster),
            access_log,
            idle_timeout: self.idle_timeout.or_else(|| limits.and_then(|l| l.idle_timeout)),
            max_downstream_connection_duration: limits.and_then(|l| l.max_connection_duration),
            hash_policy: if self.by_client { vec![source_ip()] } else { Vec::new() },
            ..TcpProxy::default()
        }
    }
}

/// The network filter of a proxy of bytes.
pub(super) fn filter(proxy: &TcpProxy) -> Filter {
    Filter {
        name: "envoy.filters.network.tcp_proxy".to_owned(),
        config_type: Some(filter::ConfigType::TypedConfig(xds_types::any::pack(proxy))),
    }
}

/// Takes the header of the PROXY protocol off connections.
pub(super) fn proxy_protocol() -> ListenerFilter {
    let config = xds_types::any::pack(&ProxyProtocol::default());
    ListenerFilter {
        name: "envoy.filters.listener.proxy_protocol".to_owned(),
        config_type: Some(ConfigType::TypedConfig(config)),
        ..ListenerFilter::default()
    }
}
