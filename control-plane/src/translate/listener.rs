//! Gateway -> `Listener`s and their `RouteConfiguration`s.

use std::collections::HashMap;
use std::sync::Arc;

use xds_types::ResourceType;
use xds_types::envoy::config::core::v3::{Http2ProtocolOptions, HttpProtocolOptions};
use xds_types::envoy::config::listener::v3::{Filter, FilterChain, Listener as EnvoyListener, filter};
use xds_types::envoy::config::route::v3::redirect_action::SchemeRewriteSpecifier;
use xds_types::envoy::config::route::v3::route::Action;
use xds_types::envoy::config::route::v3::route_match::PathSpecifier;
use xds_types::envoy::config::route::v3::{
    RedirectAction, Route as EnvoyRoute, RouteConfiguration, RouteMatch, VirtualHost,
};
use xds_types::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::{
    CodecType, ForwardClientCertDetails, RouteSpecifier, SetCurrentClientCertDetails, UpgradeConfig,
};
use xds_types::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, Rds,
};
use xds_types::google::protobuf::{BoolValue, Struct};
use xds_types::portolan::config::v1::mutual_tls::Mode;
use xds_types::portolan::config::v1::{Gateway, GatewayLimits, Listener, Route, listener};

use super::bytes::{self, Carried};
use super::hosts::{self, Group};
use super::parts::{address, ads, check_rules, router, yes};
use super::patch::{self, Patches};
use super::policy::Policies;
use super::{names, observe, tls};
use crate::model::{ObjectKey, Problems, carries_bytes, is_for, listener_address, listener_name};
use crate::snapshot::{Reference, Resource};

const PATCHES: &[&str] = &["listener", "http_connection_manager", "route_configuration"];

/// The listeners of a gateway. Each names the route configuration of its own name.
///
/// `filters` come before the router, `carried` is what listeners of bytes serve; `service_mtls` is what the Service says that the gateway stands before.
pub(super) fn listeners(
    key: &ObjectKey,
    spec: &Gateway,
    service_mtls: Mode,
    filters: &[HttpFilter],
    carried: &[Carried],
    found: &mut Problems,
) -> Vec<Resource> {
    let Gateway {
        listeners,
        group: _,
        access_log: _, // these four are read where listeners are made
        tracing: _,
        metadata: _,
        local_replies: _,
        use_remote_address,
        limits,
        trusted_hops,
        service: _,
        patch,
    } = spec;
    let patches = Patches::new(key, patch);
    patches.check_keys(PATCHES, found);
    let remote = use_remote_address.as_ref().is_none_or(|b| b.value);
    let on_socket = |l: &Listener| (listener_address(l), l.port);
    let mut sockets: Vec<Vec<&Listener>> = Vec::new();
    for l in listeners {
        // Several on one socket are told apart by SNI.
        match sockets.iter_mut().find(|all| on_socket(all[0]) == on_socket(l)) {
            Some(all) => all.push(l),
            None => sockets.push(vec![l]),
        }
    }
    let all = All { remote, hops: *trusted_hops, limits: limits.as_ref(), filters, carried };
    let maker = Maker { key, spec, service_mtls, all, patches: &patches };
    sockets.iter().filter_map(|on_it| maker.listener(on_it, found)).collect()
}

/// What all listeners of a gateway have alike.
struct All<'a> {
    remote: bool,
    hops: u32,
    limits: Option<&'a GatewayLimits>,
    filters: &'a [HttpFilter],
    carried: &'a [Carried],
}

/// What the listeners of a gateway are made of.
struct Maker<'a> {
    key: &'a ObjectKey,
    spec: &'a Gateway,
    service_mtls: Mode,
    all: All<'a>,
    patches: &'a Patches<'a>,
}

/// Chains that carry bytes, the secrets they name, and the cluster that their logs go to.
struct Carriers {
    chains: Vec<FilterChain>,
    references: Vec<Reference>,
}

impl Maker<'_> {
    /// The listener of all that share a socket, named by the first. `None`: nothing is served there.
    fn listener(&self, on_it: &[&Listener], found: &mut Problems) -> Option<Resource> {
        let (key, first) = (self.key, on_it[0]);
        let name = names::listener(key.name.as_str(), &listener_name(first));
        let (mut filter_chains, mut references) = (Vec::new(), Vec::new());
        let mut origin = vec![key.clone()];
        for l in on_it {
            let mtls = match Mode::try_from(l.mtls) {
                Ok(Mode::Default) | Err(_) if l.tls.is_none() => self.service_mtls,
                Ok(own) => own,
                Err(_) => Mode::Off,
            };
            if carries_bytes(l) {
                for carried in self.all.carried.iter().filter(|c| c.listener == listener_name(l)) {
                    origin.push(carried.route.clone());
                    references.extend(
                        carried.clusters().map(|name| Reference::new(ResourceType::Cluster, &**name)),
                    );
                    let inbound = self.carrier(l, carried, mtls, found);
                    references.extend(inbound.references);
                    filter_chains.extend(inbound.chains);
                }
                continue;
            }
            let inbound = tls::inbound(l, &self.spec.service, mtls);
            references.extend(inbound.references);
            for chain in inbound.chains {
                let (filter, routes) = self.manager(l, chain.knows_clients, found);
                references.extend(routes);
                filter_chains.push(FilterChain {
                    filters: vec![filter],
                    filter_chain_match: chain.matching,
                    transport_socket: chain.socket,
                    ..FilterChain::default()
                });
            }
        }
        if filter_chains.is_empty() {
            return None;
        }
        // A wrong address was reported by the checks of the object; it is never emitted.
        let ip = listener_address(first).map(|ip| ip.to_string()).unwrap_or_default();
        let chosen = filter_chains.iter().any(|chain| chain.filter_chain_match.is_some());
        let message = EnvoyListener {
            name: name.to_string(),
            address: Some(address(&ip, first.port)),
            filter_chains,
            per_connection_buffer_limit_bytes: self.all.limits.and_then(|l| l.buffer_bytes),
            // What the header hides is looked at once it is off.
            listener_filters: first
                .proxy_protocol
                .then(bytes::proxy_protocol)
                .into_iter()
                .chain(chosen.then(tls::inspector))
                .collect(),
            ..EnvoyListener::default()
        };
        let mut message = self.patches.apply("listener", message, found);
        if message.name != *name {
            found.error(key, "spec.patch[\"listener\"].name", "must not change the name");
            message.name = name.to_string();
        }
        check_rules(&message, key, "listener", found);
        references.extend(named_by(&self.spec.patch, "listener"));
        Some(Resource::encode(ResourceType::Listener, name, &message, references, origin))
    }

    /// The chains that carry bytes.
    fn carrier(&self, l: &Listener, carried: &Carried, mtls: Mode, found: &mut Problems) -> Carriers {
        let gateway = self.key.name.as_str();
        let log = self.spec.access_log.as_ref();
        let logs = log.map_or_else(Vec::new, |log| observe::connection_logs(gateway, log));
        let proxy = carried.proxy(gateway, logs, self.all.limits);
        check_rules(&proxy, self.key, "tcp_proxy", found);
        let log_service = log.map(|log| log.service.as_str()).filter(|service| !service.is_empty());
        let log_cluster = log_service.map(|service| names::cluster(service, ""));
        let mut references: Vec<Reference> =
            log_cluster.iter().map(|name| Reference::new(ResourceType::Cluster, &**name)).collect();
        let chain = |socket, filter_chain_match| FilterChain {
            filters: vec![bytes::filter(&proxy)],
            filter_chain_match,
            transport_socket: socket,
            ..FilterChain::default()
        };
        if l.protocol == i32::from(listener::Protocol::TlsPassthrough) {
            let chains = vec![chain(None, Some(carried.matching()))];
            return Carriers { chains, references };
        }
        let inbound = tls::inbound(l, &self.spec.service, mtls);
        let chains = inbound.chains.into_iter().map(|c| chain(c.socket, c.matching)).collect();
        references.extend(inbound.references);
        Carriers { chains, references }
    }

    /// The connection manager of a listener, and the routes and clusters that it names.
    fn manager(&self, l: &Listener, knows_clients: bool, found: &mut Problems) -> (Filter, Vec<Reference>) {
        let mut manager = manager(self.key, self.spec, l, &self.all);
        if knows_clients {
            // Whoever is behind us must not believe what a client says of itself.
            manager.forward_client_cert_details = ForwardClientCertDetails::SanitizeSet.into();
            manager.set_current_client_cert_details = Some(SetCurrentClientCertDetails {
                uri: true,
                dns: true,
                subject: yes(),
                ..Default::default()
            });
        }
        let manager = self.patches.apply("http_connection_manager", manager, found);
        check_rules(&manager, self.key, "http_connection_manager", found);
        let mut references: Vec<Reference> = observe::services(self.spec)
            .map(|(_, service)| Reference::new(ResourceType::Cluster, &*names::cluster(service, "")))
            .collect();
        references.extend(named_by(&self.spec.patch, "http_connection_manager"));
        if let Some(RouteSpecifier::Rds(rds)) = &manager.route_specifier {
            let name = rds.route_config_name.as_str();
            references.push(Reference::new(ResourceType::RouteConfiguration, name));
        }
        let filter = Filter {
            name: "envoy.filters.network.http_connection_manager".to_owned(),
            config_type: Some(filter::ConfigType::TypedConfig(xds_types::any::pack(&manager))),
        };
        (filter, references)
    }
}

fn manager(key: &ObjectKey, gateway: &Gateway, spec: &Listener, all: &All<'_>) -> HttpConnectionManager {
    let short = listener_name(spec);
    let name = names::listener(key.name.as_str(), &short);
    let mut manager = HttpConnectionManager {
        codec_type: CodecType::Auto.into(),
        stat_prefix: names::stat_prefix(key.name.as_str(), &short),
        http_filters: observe::header_metadata(&gateway.metadata)
            .into_iter()
            .chain(all.filters.iter().cloned())
            .chain([router()])
            .collect(),
        access_log: gateway
            .access_log
            .as_ref()
            .map_or_else(Vec::new, |log| observe::request_logs(key.name.as_str(), log)),
        local_reply_config: gateway.local_replies.as_ref().map(observe::local_replies),
        tracing: gateway.tracing.as_ref().map(|tracing| observe::tracing(key.name.as_str(), tracing)),
        use_remote_address: Some(BoolValue { value: all.remote }),
        xff_num_trusted_hops: all.hops,
        // Paths are matched by prefix: `/a/../b` and `//b` must not get past a rule.
        normalize_path: yes(),
        merge_slashes: true,
        // As users of the Gateway API expect; a route's timeout does not count while the client's side is open.
        upgrade_configs: vec![UpgradeConfig {
            upgrade_type: "websocket".to_owned(),
            ..UpgradeConfig::default()
        }],
        route_specifier: Some(RouteSpecifier::Rds(Rds {
            config_source: Some(ads()),
            route_config_name: name.to_string(),
        })),
        ..HttpConnectionManager::default()
    };
    all.limits.into_iter().for_each(|l| limit(&mut manager, l));
    manager
}

/// Limits that are fields of the HTTP connection manager.
fn limit(manager: &mut HttpConnectionManager, limits: &GatewayLimits) {
    let GatewayLimits {
        request_headers_timeout,
        request_timeout,
        stream_idle_timeout,
        idle_timeout,
        max_connection_duration,
        max_requests_per_connection,
        max_request_headers_kib,
        max_request_headers,
        max_concurrent_streams,
        buffer_bytes: _, // of the listener
    } = limits;
    manager.request_headers_timeout = *request_headers_timeout;
    manager.request_timeout = *request_timeout;
    manager.stream_idle_timeout = *stream_idle_timeout;
    manager.max_request_headers_kb = *max_request_headers_kib;
    manager.common_http_protocol_options = Some(HttpProtocolOptions {
        idle_timeout: *idle_timeout,
        max_connection_duration: *max_connection_duration,
        max_requests_per_connection: *max_requests_per_connection,
        max_headers_count: *max_request_headers,
        ..HttpProtocolOptions::default()
    });
    manager.http2_protocol_options = max_concurrent_streams
        .map(|n| Http2ProtocolOptions { max_concurrent_streams: Some(n), ..Http2ProtocolOptions::default() });
}

/// A Route attached to a gateway: what it serves, and what it was made of.
pub(super) struct Attached<'a> {
    pub key: &'a ObjectKey,
    pub spec: &'a Route,
    pub routes: &'a [EnvoyRoute],
    /// The rule that each of them is of.
    pub rules: &'a [usize],
    /// Clusters that the routes name.
    pub clusters: &'a [Arc<str>],
}

/// The route configuration of one listener of a gateway, from the routes attached to it in the order of their
/// names. A listener without routes has one too, without virtual hosts: every request is answered 404.
pub(super) fn route_configuration(
    key: &ObjectKey,
    gateway: &Gateway,
    listener: &Listener,
    attached: &[Attached<'_>],
    policies: &Policies<'_>,
    found: &mut Problems,
) -> Resource {
    let name = names::listener(key.name.as_str(), &listener_name(listener));
    let by_host = attached
        .iter()
        .enumerate()
        .filter(|(_, a)| is_for(a.spec, listener))
        .map(|(i, a)| (i, hosts::effective(&a.spec.hosts, &listener.hostnames)));
    let groups = hosts::group(by_host);
    let mut origin = vec![key.clone()];
    let mut references = Vec::new();
    let mut used: Vec<usize> = groups.iter().flat_map(|g| g.routes.iter().copied()).collect();
    used.sort_unstable();
    used.dedup();
    for i in used {
        origin.push(attached[i].key.clone());
        let clusters = attached[i].clusters.iter().cloned();
        references.extend(clusters.map(|name| Reference { kind: ResourceType::Cluster, name }));
    }
    let virtual_hosts = match listener.redirect_to_https {
        0 => groups.into_iter().map(|g| virtual_host(key, g, attached, policies)).collect(),
        port => {
            (origin, references) = (vec![key.clone()], Vec::new());
            vec![to_https(&listener.hostnames, port)]
        }
    };
    let message = RouteConfiguration {
        name: name.to_string(),
        virtual_hosts,
        // Listeners are not on the ports that clients name: `curl host:10000` means `host`.
        ignore_port_in_host_matching: true,
        ..RouteConfiguration::default()
    };
    let mut message = Patches::new(key, &gateway.patch).apply("route_configuration", message, found);
    if message.name != *name {
        found.error(key, "spec.patch[\"route_configuration\"].name", "must not change the name");
        message.name = name.to_string();
    }
    references.extend(named_by(&gateway.patch, "route_configuration"));
    if gateway.patch.contains_key("route_configuration") {
        check_rules(&message, key, "route_configuration", found);
    }
    Resource::encode(ResourceType::RouteConfiguration, name, &message, references, origin)
}

/// The clusters that the fragment of a type names.
fn named_by(by_type: &HashMap<String, Struct>, kind: &str) -> impl Iterator<Item = Reference> {
    patch::clusters(by_type, kind).into_iter().map(|name| Reference { kind: ResourceType::Cluster, name })
}

/// Sends every request to https. The default port is left out of the location.
fn to_https(hostnames: &[String], port: u32) -> VirtualHost {
    let action = RedirectAction {
        scheme_rewrite_specifier: Some(SchemeRewriteSpecifier::HttpsRedirect(true)),
        port_redirect: port,
        ..RedirectAction::default()
    };
    let every =
        RouteMatch { path_specifier: Some(PathSpecifier::Prefix("/".to_owned())), ..RouteMatch::default() };
    let mut domains: Vec<String> = hostnames.iter().map(|h| h.to_ascii_lowercase()).collect();
    if domains.is_empty() {
        domains.push("*".to_owned());
    }
    let route =
        EnvoyRoute { r#match: Some(every), action: Some(Action::Redirect(action)), ..EnvoyRoute::default() };
    VirtualHost { name: "to-https".to_owned(), domains, routes: vec![route], ..VirtualHost::default() }
}

fn virtual_host(
    gateway: &ObjectKey,
    group: Group<usize>,
    attached: &[Attached<'_>],
    policies: &Policies<'_>,
) -> VirtualHost {
    let of = |a: &Attached<'_>| -> Vec<EnvoyRoute> {
        let one = |(route, index): (&EnvoyRoute, &usize)| {
            let mut route = route.clone();
            if let Some(rule) = a.spec.rules.get(*index) {
                policies.apply(gateway.name.as_str(), a.key.name.as_str(), *index, rule, &mut route);
            }
            route
        };
        a.routes.iter().zip(a.rules).map(one).collect()
    };
    VirtualHost {
        // Sorted domains, of no two groups: the first is a name that no other has.
        name: group.domains.first().cloned().unwrap_or_default(),
        domains: group.domains,
        routes: group.routes.into_iter().flat_map(|i| of(&attached[i])).collect(),
        ..VirtualHost::default()
    }
}
