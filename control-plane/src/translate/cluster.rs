//! Service, or its defaults -> `Cluster`.

use std::sync::Arc;

use xds_types::ResourceType;
use xds_types::envoy::config::cluster::v3::Cluster;
use xds_types::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, DiscoveryType, EdsClusterConfig, LbPolicy,
};
use xds_types::envoy::config::core::v3::{
    Http1ProtocolOptions, Http2ProtocolOptions, HttpProtocolOptions as Common,
};
use xds_types::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use xds_types::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints,
};
use xds_types::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use xds_types::envoy::extensions::upstreams::http::v3::http_protocol_options::explicit_http_config::ProtocolConfig;
use xds_types::envoy::extensions::upstreams::http::v3::http_protocol_options::{
    ExplicitHttpConfig, UpstreamProtocolOptions,
};
use xds_types::portolan::config::v1::{DnsName, Service, discovery::From, service};

use super::Dialect;
use super::parts::{address, ads, check_rules, seconds, uint};
use super::patch::Patches;
use crate::model::{Object, ObjectKey, Problems};
use crate::snapshot::{Reference, Resource};

/// Key of the typed options that say which protocol a cluster speaks.
const PROTOCOL_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// What a service without an object is.
static DEFAULT: std::sync::LazyLock<Service> = std::sync::LazyLock::new(Service::default);

/// The cluster of a service or a subset, by name.
///
/// With the object's patch; when the patch does not fit, without it, and `found` says why.
pub(super) fn cluster(
    name: &Arc<str>,
    object: Option<&Object>,
    dialect: Dialect,
    found: &mut Problems,
) -> Resource {
    let spec = object.and_then(Object::service).unwrap_or(&DEFAULT);
    let mut message = build(name, spec, dialect);
    if let Some(object) = object {
        let patches = Patches::new(&object.key, &spec.patch);
        patches.check_keys(&["cluster"], found);
        message = patches.apply("cluster", message, found);
        if message.name != **name {
            found.error(&object.key, "spec.patch[\"cluster\"].name", "must not change the name");
            message.name = name.to_string();
        }
        check_rules(&message, &object.key, "cluster", found);
    }
    let eds = ResourceType::ClusterLoadAssignment;
    let references = if is_eds(&message) { vec![Reference::new(eds, name.clone())] } else { Vec::new() };
    let origin: Vec<ObjectKey> = object.map(|o| o.key.clone()).into_iter().collect();
    Resource::encode(ResourceType::Cluster, name.clone(), &message, references, origin)
}

fn is_eds(cluster: &Cluster) -> bool {
    let eds = i32::from(DiscoveryType::Eds);
    cluster.cluster_discovery_type == Some(ClusterDiscoveryType::Type(eds))
        && cluster.eds_cluster_config.as_ref().is_some_and(|c| c.service_name.is_empty())
}

fn build(name: &str, spec: &Service, dialect: Dialect) -> Cluster {
    let Service {
        protocol,
        load_balancing,
        connect_timeout,
        subsets: _, // each is a cluster of its own, with the endpoints that have its labels
        discovery,
        max_requests_per_connection,
        patch: _, // merged by the caller
    } = spec;
    let lb = match (service::LoadBalancing::try_from(*load_balancing), dialect) {
        (Ok(service::LoadBalancing::LeastRequest), _) => LbPolicy::LeastRequest,
        (Ok(service::LoadBalancing::Random), Dialect::Envoy) => LbPolicy::Random,
        // gRPC clients refuse RANDOM, and with it every cluster of the response.
        (Ok(service::LoadBalancing::Random), Dialect::Grpc) => LbPolicy::RoundRobin,
        (Ok(service::LoadBalancing::RoundRobin) | Err(_), _) => LbPolicy::RoundRobin,
    };
    let mut cluster = Cluster {
        name: name.to_owned(),
        connect_timeout: connect_timeout.or_else(|| seconds(5)),
        lb_policy: lb.into(),
        ..Cluster::default()
    };
    match discovery.as_ref().and_then(|d| d.from.as_ref()) {
        Some(From::Dns(dns)) => resolve_by_dns(&mut cluster, dns, dialect),
        // Fixed addresses go by EDS too: gRPC clients refuse STATIC clusters.
        Some(From::Static(_) | From::Service(_)) | None => {
            cluster.cluster_discovery_type = Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into()));
            cluster.eds_cluster_config =
                Some(EdsClusterConfig { eds_config: Some(ads()), service_name: String::new() });
        }
    }
    if dialect == Dialect::Envoy {
        let http2 = service::Protocol::try_from(*protocol) == Ok(service::Protocol::Http2);
        let most = max_requests_per_connection.as_ref().map(|n| n.value);
        if http2 || most.is_some() {
            let options = xds_types::any::pack(&protocol_options(http2, most));
            cluster.typed_extension_protocol_options.insert(PROTOCOL_OPTIONS.to_owned(), options);
        }
    }
    cluster
}

fn protocol_options(http2: bool, max_requests_per_connection: Option<u32>) -> HttpProtocolOptions {
    let protocol = if http2 {
        ProtocolConfig::Http2ProtocolOptions(Http2ProtocolOptions::default())
    } else {
        ProtocolConfig::HttpProtocolOptions(Http1ProtocolOptions::default())
    };
    HttpProtocolOptions {
        common_http_protocol_options: max_requests_per_connection
            .map(|n| Common { max_requests_per_connection: uint(n), ..Common::default() }),
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
            protocol_config: Some(protocol),
        })),
        ..HttpProtocolOptions::default()
    }
}

/// Envoy takes every address of the name as an endpoint; gRPC knows only the logical kind (gRFC A37).
fn resolve_by_dns(cluster: &mut Cluster, dns: &DnsName, dialect: Dialect) {
    let kind = match dialect {
        Dialect::Envoy => DiscoveryType::StrictDns,
        Dialect::Grpc => DiscoveryType::LogicalDns,
    };
    let host = Endpoint { address: Some(address(&dns.hostname, dns.port)), ..Endpoint::default() };
    let endpoint =
        LbEndpoint { host_identifier: Some(HostIdentifier::Endpoint(host)), ..LbEndpoint::default() };
    let locality = LocalityLbEndpoints {
        lb_endpoints: vec![endpoint],
        load_balancing_weight: uint(1),
        ..LocalityLbEndpoints::default()
    };
    cluster.cluster_discovery_type = Some(ClusterDiscoveryType::Type(kind.into()));
    cluster.load_assignment = Some(ClusterLoadAssignment {
        cluster_name: cluster.name.clone(),
        endpoints: vec![locality],
        ..ClusterLoadAssignment::default()
    });
}
