//! Gateway -> `Listener`s and their `RouteConfiguration`s.

use std::sync::Arc;

use xds_types::ResourceType;
use xds_types::envoy::config::accesslog::v3::{AccessLog, access_log};
use xds_types::envoy::config::core::v3::substitution_format_string::Format;
use xds_types::envoy::config::core::v3::{DataSource, SubstitutionFormatString, data_source::Specifier};
use xds_types::envoy::config::listener::v3::{Filter, FilterChain, Listener as EnvoyListener, filter};
use xds_types::envoy::config::route::v3::{Route as EnvoyRoute, RouteConfiguration, VirtualHost};
use xds_types::envoy::extensions::access_loggers::file::v3::{
    FileAccessLog, file_access_log::AccessLogFormat,
};
use xds_types::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::{
    CodecType, RouteSpecifier,
};
use xds_types::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, Rds,
};
use xds_types::google::protobuf::BoolValue;
use xds_types::portolan::config::v1::{AccessLog as Log, Gateway, Listener};

use super::hosts::{self, Group};
use super::names;
use super::parts::{address, ads, check_rules, router, yes};
use super::patch::Patches;
use crate::model::{ObjectKey, Problems, listener_address, listener_name};
use crate::snapshot::{Reference, Resource};

const PATCHES: &[&str] = &["listener", "http_connection_manager", "route_configuration"];

/// The listeners of a gateway. Each names the route configuration of its own name.
pub(super) fn listeners(key: &ObjectKey, spec: &Gateway, found: &mut Problems) -> Vec<Resource> {
    let Gateway { listeners, group: _, access_log, use_remote_address, patch } = spec;
    let patches = Patches::new(key, patch);
    patches.check_keys(PATCHES, found);
    let remote = use_remote_address.as_ref().is_none_or(|b| b.value);
    listeners.iter().map(|l| listener(key, l, access_log.as_ref(), remote, &patches, found)).collect()
}

fn listener(
    key: &ObjectKey,
    spec: &Listener,
    log: Option<&Log>,
    use_remote_address: bool,
    patches: &Patches<'_>,
    found: &mut Problems,
) -> Resource {
    let short = listener_name(spec);
    let name = names::listener(key.name.as_str(), &short);
    let manager = HttpConnectionManager {
        codec_type: CodecType::Auto.into(),
        stat_prefix: names::stat_prefix(key.name.as_str(), &short),
        http_filters: vec![router()],
        access_log: log.map(access_log).into_iter().collect(),
        use_remote_address: Some(BoolValue { value: use_remote_address }),
        // Paths are matched by prefix: `/a/../b` and `//b` must not get past a rule.
        normalize_path: yes(),
        merge_slashes: true,
        route_specifier: Some(RouteSpecifier::Rds(Rds {
            config_source: Some(ads()),
            route_config_name: name.to_string(),
        })),
        ..HttpConnectionManager::default()
    };
    let manager = patches.apply("http_connection_manager", manager, found);
    check_rules(&manager, key, "http_connection_manager", found);
    let references = match &manager.route_specifier {
        Some(RouteSpecifier::Rds(rds)) => {
            vec![Reference::new(ResourceType::RouteConfiguration, rds.route_config_name.as_str())]
        }
        _ => Vec::new(),
    };
    let filter = Filter {
        name: "envoy.filters.network.http_connection_manager".to_owned(),
        config_type: Some(filter::ConfigType::TypedConfig(xds_types::any::pack(&manager))),
    };
    // A wrong address was reported by the checks of the object; it is never emitted.
    let ip = listener_address(spec).map(|ip| ip.to_string()).unwrap_or_default();
    let message = EnvoyListener {
        name: name.to_string(),
        address: Some(address(&ip, spec.port)),
        filter_chains: vec![FilterChain { filters: vec![filter], ..FilterChain::default() }],
        ..EnvoyListener::default()
    };
    let mut message = patches.apply("listener", message, found);
    if message.name != *name {
        found.error(key, "spec.patch[\"listener\"].name", "must not change the name");
        message.name = name.to_string();
    }
    check_rules(&message, key, "listener", found);
    Resource::encode(ResourceType::Listener, name, &message, references, vec![key.clone()])
}

fn access_log(log: &Log) -> AccessLog {
    let Log { path, format, json } = log;
    let format = match (json, format.is_empty()) {
        (Some(json), _) => Some(Format::JsonFormat(json.clone())),
        (None, false) => {
            // Envoy's formats end their own lines.
            let line = if format.ends_with('\n') { format.clone() } else { format!("{format}\n") };
            let specifier = Some(Specifier::InlineString(line));
            Some(Format::TextFormatSource(DataSource { specifier, ..DataSource::default() }))
        }
        (None, true) => None,
    };
    let format = format.map(|f| {
        AccessLogFormat::LogFormat(SubstitutionFormatString { format: Some(f), ..Default::default() })
    });
    let file = FileAccessLog { path: path.clone(), access_log_format: format };
    AccessLog {
        name: "envoy.access_loggers.file".to_owned(),
        config_type: Some(access_log::ConfigType::TypedConfig(xds_types::any::pack(&file))),
        ..AccessLog::default()
    }
}

/// A Route attached to a gateway: what it serves, and what it was made of.
pub(super) struct Attached<'a> {
    pub key: &'a ObjectKey,
    pub hosts: &'a [String],
    pub routes: &'a [EnvoyRoute],
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
    found: &mut Problems,
) -> Resource {
    let name = names::listener(key.name.as_str(), &listener_name(listener));
    let by_host =
        attached.iter().enumerate().map(|(i, a)| (i, hosts::effective(a.hosts, &listener.hostnames)));
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
    let virtual_hosts = groups.into_iter().map(|g| virtual_host(g, attached)).collect();
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
    if gateway.patch.contains_key("route_configuration") {
        check_rules(&message, key, "route_configuration", found);
    }
    Resource::encode(ResourceType::RouteConfiguration, name, &message, references, origin)
}

fn virtual_host(group: Group<usize>, attached: &[Attached<'_>]) -> VirtualHost {
    VirtualHost {
        // Sorted domains, of no two groups: the first is a name that no other has.
        name: group.domains.first().cloned().unwrap_or_default(),
        domains: group.domains,
        routes: group.routes.into_iter().flat_map(|i| attached[i].routes).cloned().collect(),
        ..VirtualHost::default()
    }
}
