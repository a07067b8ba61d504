//! The configuration in force as Envoy's `admin.v3` messages, secrets redacted, in Envoy's order of sections.

mod secrets;

use crate::admin::{Ignored, Item, List, Section};
use crate::server::Boot;
use crate::upstream::{self, ClusterState};
use crate::xds::{Entry, Good, Kind, Refused, Xds};
use data_plane_core::path::Finding;
use prost::{Message, Name};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};
use xds_types::envoy::admin::v3 as admin;
use xds_types::envoy::config::listener::v3::{Filter, Listener, filter::ConfigType};
use xds_types::envoy::config::route::v3::RouteConfiguration;
use xds_types::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, http_connection_manager::RouteSpecifier,
};
use xds_types::google::protobuf::{Any, Timestamp};
use xds_types::{any, redact, text};

/// A bootstrap and when it was taken.
pub(super) struct Taken {
    pub(super) boot: Boot,
    pub(super) at: SystemTime,
}

type Entries = BTreeMap<Box<str>, Entry>;

/// All sections.
pub(super) fn sections(
    taken: &Rc<Taken>,
    xds: &Xds,
    upstream: &upstream::Manager,
    endpoints: bool,
) -> Vec<Section> {
    let clusters = xds.resources(Kind::Cluster);
    let listeners = xds.resources(Kind::Listener);
    let mut out = vec![bootstrap(taken), clusters_section(taken, xds, upstream, &clusters)];
    if endpoints {
        out.push(endpoints_section(taken, xds.resources(Kind::Endpoints)));
    }
    let routes = routes_section(taken, &listeners, xds.resources(Kind::Route));
    // There are none of these yet; Envoy shows the section all the same.
    let empty = |type_url| Section { type_url, fields: Vec::new(), lists: Vec::new() };
    out.extend([
        listeners_section(taken, xds, listeners),
        empty(admin::ScopedRoutesConfigDump::type_url()),
        routes,
        secrets::section(taken, xds),
    ]);
    out
}

/// Fields that were set and have no effect, of the bootstrap and of all resources.
pub(super) fn ignored(taken: &Taken, xds: &Xds) -> Vec<Ignored> {
    let of = |resource: &str, finding: &Finding| Ignored {
        resource: resource.into(),
        path: finding.path.clone(),
        message: finding.message.clone(),
    };
    let mut out: Vec<Ignored> = taken.boot.ignored.iter().map(|finding| of("bootstrap", finding)).collect();
    for kind in Kind::ALL {
        for (name, entry) in xds.resources(kind) {
            let resource = format!("{} {name}", kind.resource_type());
            out.extend(
                entry.good.iter().flat_map(|good| &good.ignored).map(|finding| of(&resource, finding)),
            );
        }
    }
    for secret in xds.secrets() {
        let resource = format!("{} {}", Kind::Secret.resource_type(), secret.name);
        let findings = secret.entry.good.iter().flat_map(|good| &good.ignored);
        out.extend(findings.map(|finding| of(&resource, finding)));
    }
    out
}

fn bootstrap(taken: &Taken) -> Section {
    let fields = vec![
        ("bootstrap", json(&*taken.boot.proto)),
        ("last_updated", json(&admin::BootstrapConfigDump { last_updated: stamp(taken.at), bootstrap: None })["last_updated"].clone()),
    ];
    Section { type_url: admin::BootstrapConfigDump::type_url(), fields, lists: Vec::new() }
}

fn clusters_section(
    taken: &Rc<Taken>,
    xds: &Xds,
    upstream: &upstream::Manager,
    entries: &Entries,
) -> Section {
    use admin::clusters_config_dump::{DynamicCluster, StaticCluster};
    let statics = taken.boot.proto.static_resources.iter().flat_map(|s| &s.clusters);
    let statics = statics.map(|cluster| {
        let (raw, at) = (any::pack(cluster), taken.at);
        item(&cluster.name, move || {
            json(&StaticCluster { cluster: Some(raw.clone()), last_updated: stamp(at) })
        })
    });
    let statics = statics.collect();
    let infos = upstream.infos();
    let warming: BTreeSet<&str> =
        infos.iter().filter(|i| i.state == ClusterState::Warming).map(|i| &*i.cluster.config.name).collect();
    let (mut active_items, mut warming_items) = (Vec::new(), Vec::new());
    for (name, entry) in entries {
        let list = if warming.contains(&**name) { &mut warming_items } else { &mut active_items };
        let entry = entry.clone();
        list.push(item(name, move || {
            let (version_info, cluster, last_updated) = good(entry.good.as_ref());
            let error_state = entry.refused.as_ref().map(failure);
            json(&DynamicCluster {
                version_info,
                cluster,
                last_updated,
                error_state,
                ..DynamicCluster::default()
            })
        }));
    }
    Section {
        type_url: admin::ClustersConfigDump::type_url(),
        fields: version(xds.version(Kind::Cluster)),
        lists: vec![
            list::<StaticCluster>("static_clusters", statics),
            list::<DynamicCluster>("dynamic_active_clusters", active_items),
            list::<DynamicCluster>("dynamic_warming_clusters", warming_items),
        ],
    }
}

fn listeners_section(taken: &Rc<Taken>, xds: &Xds, entries: Entries) -> Section {
    use admin::listeners_config_dump::{DynamicListener, DynamicListenerState, StaticListener};
    let statics = taken.boot.proto.static_resources.iter().flat_map(|s| &s.listeners);
    let statics = statics.map(|listener| {
        let (raw, at) = (any::pack(listener), taken.at);
        item(&listener.name, move || {
            json(&StaticListener { listener: Some(raw.clone()), last_updated: stamp(at) })
        })
    });
    let statics = statics.collect();
    let dynamics = entries.into_iter().map(|(name, entry)| {
        let is_warming = xds.is_listener_waiting(&name);
        let label = name.to_string();
        item(&name, move || {
            let state = entry.good.as_ref().map(|_| {
                let (version_info, listener, last_updated) = good(entry.good.as_ref());
                DynamicListenerState { version_info, listener, last_updated }
            });
            let (warming_state, active_state) = if is_warming { (state, None) } else { (None, state) };
            let error_state = entry.refused.as_ref().map(failure);
            json(&DynamicListener {
                name: label.clone(),
                active_state,
                warming_state,
                error_state,
                ..DynamicListener::default()
            })
        })
    });
    let dynamics = dynamics.collect();
    Section {
        type_url: admin::ListenersConfigDump::type_url(),
        fields: version(xds.version(Kind::Listener)),
        lists: vec![
            list::<StaticListener>("static_listeners", statics),
            list::<DynamicListener>("dynamic_listeners", dynamics),
        ],
    }
}

fn routes_section(taken: &Rc<Taken>, listeners: &Entries, entries: Entries) -> Section {
    use admin::routes_config_dump::{DynamicRouteConfig, StaticRouteConfig};
    let mut statics = Vec::new();
    let mut inline = |listener: &Listener, at: SystemTime| {
        for routes in inline_routes(listener) {
            let raw = any::pack(&routes);
            statics.push(item(&routes.name, move || {
                json(&StaticRouteConfig { route_config: Some(raw.clone()), last_updated: stamp(at) })
            }));
        }
    };
    for listener in taken.boot.proto.static_resources.iter().flat_map(|s| &s.listeners) {
        inline(listener, taken.at);
    }
    for good in listeners.values().filter_map(|entry| entry.good.as_ref()) {
        if let Ok(listener) = any::unpack::<Listener>(&good.raw) {
            inline(&listener, good.updated);
        }
    }
    let dynamics = entries.into_iter().map(|(name, entry)| {
        item(&name, move || {
            let (version_info, route_config, last_updated) = good(entry.good.as_ref());
            let error_state = entry.refused.as_ref().map(failure);
            json(&DynamicRouteConfig {
                version_info,
                route_config,
                last_updated,
                error_state,
                ..DynamicRouteConfig::default()
            })
        })
    });
    let dynamics = dynamics.collect();
    Section {
        type_url: admin::RoutesConfigDump::type_url(),
        fields: Vec::new(),
        lists: vec![
            list::<StaticRouteConfig>("static_route_configs", statics),
            list::<DynamicRouteConfig>("dynamic_route_configs", dynamics),
        ],
    }
}

fn endpoints_section(taken: &Rc<Taken>, entries: Entries) -> Section {
    use admin::endpoints_config_dump::{DynamicEndpointConfig, StaticEndpointConfig};
    let clusters = taken.boot.proto.static_resources.iter().flat_map(|s| &s.clusters);
    let statics = clusters.filter_map(|cluster| {
        let mut assignment = cluster.load_assignment.clone()?;
        if assignment.cluster_name.is_empty() {
            assignment.cluster_name.clone_from(&cluster.name);
        }
        let (raw, at) = (any::pack(&assignment), taken.at);
        Some(item(&assignment.cluster_name, move || {
            json(&StaticEndpointConfig { endpoint_config: Some(raw.clone()), last_updated: stamp(at) })
        }))
    });
    let statics = statics.collect();
    let dynamics = entries.into_iter().map(|(name, entry)| {
        item(&name, move || {
            let (version_info, endpoint_config, last_updated) = good(entry.good.as_ref());
            let error_state = entry.refused.as_ref().map(failure);
            json(&DynamicEndpointConfig {
                version_info,
                endpoint_config,
                last_updated,
                error_state,
                ..DynamicEndpointConfig::default()
            })
        })
    });
    let dynamics = dynamics.collect();
    Section {
        type_url: admin::EndpointsConfigDump::type_url(),
        fields: Vec::new(),
        lists: vec![
            list::<StaticEndpointConfig>("static_endpoint_configs", statics),
            list::<DynamicEndpointConfig>("dynamic_endpoint_configs", dynamics),
        ],
    }
}

/// Route configurations written in place in a listener's connection managers.
fn inline_routes(listener: &Listener) -> Vec<RouteConfiguration> {
    let chains = listener.filter_chains.iter().chain(&listener.default_filter_chain);
    let managers =
        chains.flat_map(|chain| &chain.filters).filter_map(|filter: &Filter| match &filter.config_type {
            Some(ConfigType::TypedConfig(config)) => any::unpack::<HttpConnectionManager>(config).ok(),
            _ => None,
        });
    managers
        .filter_map(|manager| match manager.route_specifier {
            Some(RouteSpecifier::RouteConfig(routes)) => Some(routes),
            _ => None,
        })
        .collect()
}

fn good(good: Option<&Good>) -> (String, Option<Any>, Option<Timestamp>) {
    match good {
        Some(good) => (good.version.to_string(), Some(good.raw.clone()), stamp(good.updated)),
        None => (String::new(), None, None),
    }
}

fn failure(refused: &Refused) -> admin::UpdateFailureState {
    let known = !refused.raw.type_url.is_empty();
    admin::UpdateFailureState {
        failed_configuration: known.then(|| refused.raw.clone()),
        last_update_attempt: stamp(refused.at),
        details: refused.details.clone(),
        version_info: refused.version.to_string(),
    }
}

fn item(name: &str, render: impl Fn() -> Value + 'static) -> Item {
    Item { name: name.into(), render: Box::new(render) }
}

fn list<M: Name>(field: &'static str, items: Vec<Item>) -> List {
    List { field, item_type: M::type_url(), items }
}

fn version(version: String) -> Vec<(&'static str, Value)> {
    if version.is_empty() { Vec::new() } else { vec![("version_info", version.into())] }
}

fn json<M: Message + Name>(message: &M) -> Value {
    text::dynamic_to_json(&redact::redacted(message))
}

fn stamp(at: SystemTime) -> Option<Timestamp> {
    let since = at.duration_since(UNIX_EPOCH).ok()?;
    Some(Timestamp { seconds: since.as_secs() as i64, nanos: since.subsec_millis() as i32 * 1_000_000 })
}
