//! What proxyless gRPC clients see: made by name, when a client first asks.
//!
//! A client asks for the listener of a service's name. It gets an api listener, whose routes are those of the
//! Routes attached to the mesh for that name, and behind them the service itself. All of it keeps to what gRPC
//! libraries accept (xds.md, "What proxyless gRPC needs").

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;
use xds_types::ResourceType;
use xds_types::envoy::config::listener::v3::{ApiListener, Listener};
use xds_types::envoy::config::route::v3::route::Action;
use xds_types::envoy::config::route::v3::route_action::ClusterSpecifier;
use xds_types::envoy::config::route::v3::route_match::PathSpecifier;
use xds_types::envoy::config::route::v3::{
    Route as EnvoyRoute, RouteAction, RouteConfiguration, RouteMatch, VirtualHost,
};
use xds_types::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
use xds_types::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, Rds,
};

use super::Dialect;
use super::catalog::Catalog;
use super::hosts::exactness;
use super::parts::{ads, router};
use super::{cluster, names, route};
use crate::model::{Kind, Object, Problems};
use crate::snapshot::{Reference, Resolve, Resource};

/// Answers that are remembered, at most. Full: further names are answered and not remembered.
const REMEMBERED: usize = 100_000;

type Answers = HashMap<(ResourceType, Arc<str>), Option<Arc<Resource>>>;

/// Resources for gRPC clients over one catalog.
#[derive(Debug)]
pub(super) struct Resolver {
    catalog: Arc<Catalog>,
    /// Routes attached to the mesh, in the order in which they are asked.
    mesh: Arc<[Arc<Object>]>,
    answers: Mutex<Answers>,
}

impl Resolver {
    pub(super) fn new(catalog: Arc<Catalog>) -> Self {
        let on_mesh = |o: &&Arc<Object>| o.route().is_some_and(|r| r.mesh);
        let mesh = catalog.objects().values().filter(on_mesh).cloned().collect();
        Self { catalog, mesh, answers: Mutex::default() }
    }

    /// A resolver over a newer catalog in which only these services' instances differ: it remembers the rest.
    pub(super) fn follow(&self, catalog: Arc<Catalog>, changed: impl Fn(&str) -> bool) -> Self {
        let kept = |(kind, name): &(ResourceType, Arc<str>)| match kind {
            ResourceType::ClusterLoadAssignment | ResourceType::Cluster => {
                let (service, _) = names::service_and_subset(name);
                !changed(catalog.registered_as(service))
            }
            // Whether a name is known at all depends on the service's being registered.
            _ => !changed(catalog.registered_as(names::grpc_service(name))),
        };
        let answers = self.answers.lock();
        let answers =
            answers.iter().filter(|(key, _)| kept(key)).map(|(k, v)| (k.clone(), v.clone())).collect();
        Self { catalog: catalog.clone(), mesh: self.mesh.clone(), answers: Mutex::new(answers) }
    }

    fn make(&self, kind: ResourceType, name: &str) -> Option<Resource> {
        match kind {
            ResourceType::Listener => self.is_known(names::grpc_service(name)).then(|| listener(name)),
            ResourceType::RouteConfiguration => {
                self.is_known(names::grpc_service(name)).then(|| self.route_configuration(name))
            }
            ResourceType::Cluster => {
                let (service, subset) = names::service_and_subset(name);
                let object = self.catalog.service(service).map(|o| &**o);
                let known = subset.is_empty() || self.catalog.has_subset(service, subset);
                known.then(|| {
                    cluster::cluster(&name.into(), object, Dialect::Grpc, "", &mut Problems::default())
                })
            }
            ResourceType::ClusterLoadAssignment => self.catalog.assignment(name),
            _ => None,
        }
    }

    /// A service that is registered, or has an object, or that a Route of the mesh names as a host.
    fn is_known(&self, service: &str) -> bool {
        let named = |o: &Arc<Object>| {
            o.route().is_some_and(|r| exactness(&r.hosts, service).is_some_and(|e| e == usize::MAX))
        };
        self.catalog.is_registered(service)
            || self.catalog.service(service).is_some()
            || self.mesh.iter().any(named)
    }

    /// The routes of the mesh that mean this service most exactly, then the service itself.
    fn route_configuration(&self, asked: &str) -> Resource {
        let service = names::grpc_service(asked);
        let mut by_exactness: BTreeMap<usize, Vec<&Arc<Object>>> = BTreeMap::new();
        for object in self.mesh.iter() {
            if let Some(e) = object.route().and_then(|r| exactness(&r.hosts, service)) {
                by_exactness.entry(e).or_default().push(object);
            }
        }
        let chosen = by_exactness.into_iter().next_back().map(|(_, objects)| objects).unwrap_or_default();
        let (mut routes, mut origin, mut clusters) =
            (Vec::new(), Vec::new(), vec![names::cluster(service, "")]);
        for object in chosen {
            let Some(spec) = object.route() else { continue };
            routes.extend(route::routes(&object.key, spec, Dialect::Grpc, &mut Problems::default()));
            clusters.extend(route::clusters(spec));
            origin.push(object.key.clone());
        }
        routes.push(to_service(service));
        let host = VirtualHost {
            name: asked.to_owned(),
            // Whatever authority the client was given, it asked for this service.
            domains: vec!["*".to_owned()],
            routes,
            ..VirtualHost::default()
        };
        let message =
            RouteConfiguration { name: asked.to_owned(), virtual_hosts: vec![host], ..Default::default() };
        let references = clusters.into_iter().map(|name| Reference { kind: ResourceType::Cluster, name });
        Resource::encode(ResourceType::RouteConfiguration, asked, &message, references.collect(), origin)
    }
}

impl Resolve for Resolver {
    fn resolve(&self, kind: ResourceType, name: &str) -> Option<Arc<Resource>> {
        let key = (kind, Arc::<str>::from(name));
        if let Some(answer) = self.answers.lock().get(&key) {
            return answer.clone();
        }
        // Made outside the lock: two streams may make it at once, and make the same.
        let answer = self.make(kind, name).map(Arc::new);
        let mut answers = self.answers.lock();
        if answers.len() < REMEMBERED {
            answers.insert(key, answer.clone());
        }
        answer
    }
}

fn listener(asked: &str) -> Resource {
    let manager = HttpConnectionManager {
        stat_prefix: asked.to_owned(), // no use to gRPC, but the protos want one
        http_filters: vec![router()],
        route_specifier: Some(RouteSpecifier::Rds(Rds {
            config_source: Some(ads()),
            route_config_name: asked.to_owned(),
        })),
        ..HttpConnectionManager::default()
    };
    let message = Listener {
        name: asked.to_owned(),
        api_listener: Some(ApiListener { api_listener: Some(xds_types::any::pack(&manager)) }),
        ..Listener::default()
    };
    let references = vec![Reference::new(ResourceType::RouteConfiguration, asked)];
    let origin = names::grpc_service(asked).parse().ok();
    let origin = origin.map(|name| crate::model::ObjectKey::new(Kind::Service, name));
    Resource::encode(ResourceType::Listener, asked, &message, references, origin.into_iter().collect())
}

fn to_service(service: &str) -> EnvoyRoute {
    EnvoyRoute {
        r#match: Some(RouteMatch {
            path_specifier: Some(PathSpecifier::Prefix(String::new())),
            ..RouteMatch::default()
        }),
        action: Some(Action::Route(RouteAction {
            cluster_specifier: Some(ClusterSpecifier::Cluster(names::cluster(service, "").to_string())),
            ..RouteAction::default()
        })),
        ..EnvoyRoute::default()
    }
}
