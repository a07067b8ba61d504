//! Service, or its defaults -> `Cluster`.

use std::sync::Arc;

use prost::{Message, Name};
use xds_types::ResourceType;
use xds_types::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, DiscoveryType, EdsClusterConfig, LbPolicy,
};
use xds_types::envoy::config::cluster::v3::load_balancing_policy::Policy;
use xds_types::envoy::config::cluster::v3::{Cluster, LoadBalancingPolicy};
use xds_types::envoy::config::core::v3::{
    Http1ProtocolOptions, Http2ProtocolOptions, HttpProtocolOptions as Common, TypedExtensionConfig,
};
use xds_types::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use xds_types::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints,
};
use xds_types::envoy::extensions::load_balancing_policies::least_request::v3::LeastRequest;
use xds_types::envoy::extensions::load_balancing_policies::round_robin::v3::RoundRobin;
use xds_types::envoy::extensions::load_balancing_policies::wrr_locality::v3::WrrLocality;
use xds_types::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use xds_types::envoy::extensions::upstreams::http::v3::http_protocol_options::explicit_http_config::ProtocolConfig;
use xds_types::envoy::extensions::upstreams::http::v3::http_protocol_options::{
    ExplicitHttpConfig, UpstreamProtocolOptions,
};
use xds_types::portolan::config::v1::{DnsName, Service, discovery::From, service};

use super::parts::{address, ads, check_rules, seconds, uint};
use super::patch::Patches;
use super::{Dialect, endpoint, names, resilience, tls};
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
    trust_domain: &str,
    found: &mut Problems,
) -> Resource {
    let spec = object.and_then(Object::service).unwrap_or(&DEFAULT);
    let mut message = build(name, spec, dialect);
    let mut references = Vec::new();
    // gRPC clients take their TLS from their own bootstrap.
    if dialect == Dialect::Envoy {
        references = secure(name, spec, trust_domain, &mut message);
    }
    resilience::apply(&mut message, spec, dialect);
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
    if is_eds(&message) {
        references.push(Reference::new(eds, name.clone()));
    }
    let origin: Vec<ObjectKey> = object.map(|o| o.key.clone()).into_iter().collect();
    Resource::encode(ResourceType::Cluster, name.clone(), &message, references, origin)
}

/// Sets up TLS towards a service. Answers the secrets that are named.
fn secure(name: &str, spec: &Service, trust_domain: &str, cluster: &mut Cluster) -> Vec<Reference> {
    let (service, _) = names::service_and_subset(name);
    let tls::Outbound { socket, by_host, references } = tls::outbound(service, spec, trust_domain);
    cluster.transport_socket = socket;
    if let Some(by_host) = by_host {
        let http2 = service::Protocol::try_from(spec.protocol) == Ok(service::Protocol::Http2);
        let most = spec.max_requests_per_connection.as_ref().map(|n| n.value);
        let options = HttpProtocolOptions {
            upstream_http_protocol_options: Some(by_host),
            ..protocol_options(http2, most)
        };
        let options = xds_types::any::pack(&options);
        cluster.typed_extension_protocol_options.insert(PROTOCOL_OPTIONS.to_owned(), options);
    }
    references
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
        health_check: _, // these are added by `resilience`
        outlier_detection: _,
        circuit_breaker: _,
        limits: _,
        hash_table: _,
        slow_start: _,
        proxy_protocol: _,
        zones: _, // by `resilience`, and in the endpoints
        mtls: _,  // `secure`
        tls: _,
        patch: _, // merged by the caller
    } = spec;
    let policy = service::LoadBalancing::try_from(*load_balancing).unwrap_or_default();
    let lb = match (policy, dialect) {
        (service::LoadBalancing::LeastRequest, Dialect::Envoy) => LbPolicy::LeastRequest,
        (service::LoadBalancing::Random, Dialect::Envoy) => LbPolicy::Random,
        (service::LoadBalancing::Maglev, Dialect::Envoy) => LbPolicy::Maglev,
        (service::LoadBalancing::RingHash | service::LoadBalancing::Maglev, _) => LbPolicy::RingHash,
        (service::LoadBalancing::RoundRobin, Dialect::Envoy) | (_, Dialect::Grpc) => LbPolicy::RoundRobin,
    };
    let mut cluster = Cluster {
        name: name.to_owned(),
        connect_timeout: connect_timeout.or_else(|| seconds(5)),
        lb_policy: lb.into(),
        ..Cluster::default()
    };
    match discovery.as_ref().and_then(|d| d.from.as_ref()) {
        Some(From::Dns(dns)) => {
            resolve_by_dns(&mut cluster, dns, endpoint::health_port(Some(spec)), dialect);
        }
        // Fixed addresses go by EDS too: gRPC clients refuse STATIC clusters.
        Some(From::Static(_) | From::Service(_)) | None => {
            cluster.cluster_discovery_type = Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into()));
            cluster.eds_cluster_config =
                Some(EdsClusterConfig { eds_config: Some(ads()), service_name: String::new() });
        }
    }
    if dialect == Dialect::Grpc && policy == service::LoadBalancing::LeastRequest {
        cluster.load_balancing_policy = Some(least_request_if_known());
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

/// gRPC libraries differ: C-core refuses a cluster whose `lb_policy` is LEAST_REQUEST (measured), others take it.
/// From this list each takes the first that it knows (gRFC A52); libraries older than the list look at
/// `lb_policy` alone.
fn least_request_if_known() -> LoadBalancingPolicy {
    let choices = vec![
        policy("least_request", &LeastRequest::default()),
        policy("round_robin", &RoundRobin::default()),
    ];
    let by_locality =
        WrrLocality { endpoint_picking_policy: Some(LoadBalancingPolicy { policies: choices }) };
    LoadBalancingPolicy { policies: vec![policy("wrr_locality", &by_locality)] }
}

fn policy<M: Message + Name>(name: &str, message: &M) -> Policy {
    let config = TypedExtensionConfig {
        name: format!("envoy.load_balancing_policies.{name}"),
        typed_config: Some(xds_types::any::pack(message)),
    };
    Policy { typed_extension_config: Some(config) }
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
fn resolve_by_dns(cluster: &mut Cluster, dns: &DnsName, health_port: Option<u32>, dialect: Dialect) {
    let kind = match dialect {
        Dialect::Envoy => DiscoveryType::StrictDns,
        Dialect::Grpc => DiscoveryType::LogicalDns,
    };
    let host = Endpoint {
        address: Some(address(&dns.hostname, dns.port)),
        health_check_config: (dialect == Dialect::Envoy)
            .then(|| health_port.map(endpoint::health_check_at))
            .flatten(),
        ..Endpoint::default()
    };
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
