//! Translation from YAML to the model: what is refused, with which words; what is accepted, and what it becomes.

mod accepted;
mod health;
mod refused;
mod secret;
mod tls;

use data_plane_core::config;
use data_plane_core::path::{Diagnostics, Path};
use data_plane_core::translate::{self, DataLoader, Options};

const HCM: &str =
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const ROUTER: &str = "{name: router, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}";

/// One file and one variable.
struct Data;

impl DataLoader for Data {
    fn file(&self, path: &std::path::Path) -> Result<Vec<u8>, String> {
        match path.to_str() {
            Some("/body.txt") => Ok(b"from a file".to_vec()),
            _ => Err("no such file".into()),
        }
    }

    fn exists(&self, path: &std::path::Path) -> bool {
        path != std::path::Path::new("/nowhere")
    }

    fn variable(&self, name: &str) -> Result<String, String> {
        match name {
            "BODY" => Ok("from a variable".into()),
            _ => Err("not set".into()),
        }
    }
}

/// A resource as YAML in flow style.
#[derive(Clone, Debug)]
enum Yaml {
    Bootstrap(String),
    Listener(String),
    Routes(String),
    Cluster(String),
    Endpoints(String),
    Secret(String),
}

#[derive(Debug, PartialEq)]
enum Config {
    Bootstrap(config::Bootstrap),
    Listener(config::Listener),
    Routes(config::RouteConfig),
    Cluster(config::Cluster),
    Assignment(config::Assignment),
    Secret(config::Secret),
}

fn parse<M: prost::Message + prost::Name + Default>(text: &str) -> M {
    xds_types::text::from_yaml(text).unwrap_or_else(|e| panic!("{text}\n{e}"))
}

fn translate(yaml: &Yaml) -> (Option<Config>, Diagnostics) {
    let mut d = Diagnostics::default();
    let (at, o) = (Path::root(""), Options::new(&Data));
    let config = match yaml {
        Yaml::Bootstrap(text) => translate::bootstrap(parse(text), &at, &mut d, &o).map(Config::Bootstrap),
        Yaml::Listener(text) => translate::listener(parse(text), &at, &mut d, &o).map(Config::Listener),
        Yaml::Routes(text) => translate::route_config(parse(text), &at, &mut d, &o).map(Config::Routes),
        Yaml::Cluster(text) => translate::cluster(parse(text), &at, &mut d, &o).map(Config::Cluster),
        Yaml::Endpoints(text) => translate::assignment(parse(text), &at, &mut d).map(Config::Assignment),
        Yaml::Secret(text) => translate::secret(parse(text), &at, &mut d, &o).map(Config::Secret),
    };
    (config.ok(), d)
}

fn bootstrap(fields: &str) -> Yaml {
    Yaml::Bootstrap(format!("{{{fields}}}"))
}

/// A listener with a complete chain besides `fields`.
fn listener(fields: &str) -> Yaml {
    Yaml::Listener(format!("{{name: web, filter_chains: [{}], {fields}}}", chain("")))
}

/// A listener at an address with these chains and nothing else.
fn chains(chains: &[String]) -> Yaml {
    Yaml::Listener(format!("{{name: web, {ADDRESS}, filter_chains: [{}]}}", chains.join(", ")))
}

const ADDRESS: &str = "address: {socket_address: {address: 127.0.0.1, port_value: 80}}";

fn chain(fields: &str) -> String {
    format!("{{filters: [{}], {fields}}}", manager("route_config: {name: r}", ""))
}

fn manager(routes: &str, fields: &str) -> String {
    format!(
        "{{name: http, typed_config: {{\"@type\": {HCM}, stat_prefix: web, http_filters: [{ROUTER}], {routes}, {fields}}}}}"
    )
}

/// A listener whose connection manager has `fields` besides routes and the router.
fn hcm(fields: &str) -> Yaml {
    Yaml::Listener(format!(
        "{{name: web, {ADDRESS}, filter_chains: [{{filters: [{}]}}]}}",
        manager("route_config: {name: r}", fields)
    ))
}

/// A listener whose connection manager has exactly `fields` besides a name.
fn bare_hcm(fields: &str) -> Yaml {
    let hcm = format!("{{name: http, typed_config: {{\"@type\": {HCM}, stat_prefix: web, {fields}}}}}");
    Yaml::Listener(format!("{{name: web, {ADDRESS}, filter_chains: [{{filters: [{hcm}]}}]}}"))
}

/// A listener with one access log.
fn access_log(fields: &str) -> Yaml {
    listener(&format!("{ADDRESS}, access_log: [{{name: log, {fields}}}]"))
}

const STDOUT: &str = "typed_config: {\"@type\": type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog}";

fn routes(fields: &str) -> Yaml {
    Yaml::Routes(format!("{{name: r, {fields}}}"))
}

fn host(fields: &str) -> Yaml {
    routes(&format!("virtual_hosts: [{{name: v, domains: [a], {fields}}}]"))
}

fn route(fields: &str) -> Yaml {
    host(&format!("routes: [{{{fields}}}]"))
}

/// A route to a cluster with `fields` besides.
fn forward(fields: &str) -> Yaml {
    route(&format!("match: {{prefix: /}}, route: {{cluster: c, {fields}}}"))
}

fn cluster(fields: &str) -> Yaml {
    Yaml::Cluster(format!("{{name: c, {fields}}}"))
}

fn endpoint(address: &str, port: u16) -> String {
    format!("{{endpoint: {{address: {{socket_address: {{address: {address}, port_value: {port}}}}}}}}}")
}

fn endpoints(localities: &str) -> Yaml {
    Yaml::Endpoints(format!("{{cluster_name: c, endpoints: [{localities}]}}"))
}
