//! Envoy, and so portolan-proxy: one text for both.

use crate::config::{Extra, Listener, Proxy, Routes};
use serde_json::{Value, json};
use std::path::PathBuf;

const TYPES: &str = "type.googleapis.com/envoy.extensions";

fn address(host: &str, port: u16) -> Value {
    json!({"socket_address": {"address": host, "port_value": port}})
}

/// Where the file of clusters is, when there are any.
pub(crate) fn clusters_file(proxy: &Proxy, name: &str) -> PathBuf {
    proxy.dir.join(format!("{name}.clusters.json"))
}

/// Where the file of routes is, when there is one.
pub(crate) fn routes_file(proxy: &Proxy, name: &str) -> PathBuf {
    proxy.dir.join(format!("{name}.routes.json"))
}

/// Which backend a route leads to, where routes come from a file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Target {
    Main,
    /// Answers `changed`.
    Other,
    /// The first cluster of the file.
    First,
}

/// The rule that leads to the first cluster where clusters come from a file, so that a change of it shows.
pub(crate) const WATCHED: usize = 1;

impl Target {
    /// Where a rule leads as long as nothing has changed.
    pub(crate) fn usual(proxy: &Proxy, rule: usize) -> Self {
        if proxy.clusters > 0 && rule == WATCHED { Self::First } else { Self::Main }
    }
}

/// The bootstrap. `name` tells the files of both proxies apart.
pub(crate) fn bootstrap(proxy: &Proxy, name: &str) -> Value {
    let listeners: Vec<Value> =
        proxy.listeners.iter().enumerate().map(|(at, l)| listener(at, l, proxy, name)).collect();
    let mut bootstrap = json!({
        "node": {"id": "bench", "cluster": "bench"},
        "admin": {"address": address("127.0.0.1", proxy.admin)},
        "static_resources": {
            "listeners": listeners,
            "clusters": [
                cluster("up", &[("127.0.0.1".to_owned(), proxy.backend)]),
                cluster("other", &[("127.0.0.1".to_owned(), proxy.other)]),
                cluster("collector", &[("127.0.0.1".to_owned(), proxy.collector)]),
            ],
        },
    });
    if proxy.clusters > 0 {
        let path = clusters_file(proxy, name);
        bootstrap["dynamic_resources"] = json!({
            "cds_config": {"resource_api_version": "V3", "path_config_source": {"path": path}}
        });
    }
    bootstrap
}

/// The file of clusters; `port` tells where each leads.
pub(crate) fn clusters(proxy: &Proxy, version: usize, port: impl Fn(usize) -> u16) -> Value {
    let all: Vec<Value> = (0..proxy.clusters)
        .map(|i| {
            let hosts: Vec<_> = proxy.addresses(i).map(|address| (address, port(i))).collect();
            let mut cluster = cluster(&format!("c{i}"), &hosts);
            cluster["@type"] = "type.googleapis.com/envoy.config.cluster.v3.Cluster".into();
            cluster
        })
        .collect();
    json!({"version_info": version.to_string(), "resources": all})
}

/// The file of the first listener's routes; `target` tells where each leads.
pub(crate) fn routes(proxy: &Proxy, version: usize, target: impl Fn(usize) -> Target) -> Value {
    let mut table = table(0, &proxy.listeners[0], proxy, &target);
    table["@type"] = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration".into();
    json!({"version_info": version.to_string(), "resources": [table]})
}

/// A listener's routes.
fn table(at: usize, listener: &Listener, proxy: &Proxy, target: &dyn Fn(usize) -> Target) -> Value {
    json!({
        "name": format!("routes{at}"),
        // Clusters come from the file, later.
        "validate_clusters": proxy.clusters == 0,
        "virtual_hosts": virtual_hosts(listener, proxy, target),
    })
}

fn cluster(name: &str, hosts: &[(String, u16)]) -> Value {
    let endpoints: Vec<Value> =
        hosts.iter().map(|(host, port)| json!({"endpoint": {"address": address(host, *port)}})).collect();
    json!({
        "name": name,
        "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [
            {"max_connections": 20_000, "max_pending_requests": 20_000, "max_requests": 20_000}
        ]},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
    })
}

fn listener(at: usize, listener: &Listener, proxy: &Proxy, name: &str) -> Value {
    let mut filters = Vec::new();
    if listener.extra == Extra::RateLimit {
        let all = json!({"default_value": {"numerator": 100}});
        filters.push(json!({"name": "limit", "typed_config": {
            "@type": format!("{TYPES}.filters.http.local_ratelimit.v3.LocalRateLimit"),
            "stat_prefix": "bench",
            "token_bucket": {"max_tokens": 1_000_000_000, "tokens_per_fill": 1_000_000_000, "fill_interval": "1s"},
            "filter_enabled": all, "filter_enforced": all,
        }}));
    }
    filters.push(json!({"name": "envoy.filters.http.router", "typed_config": {
        "@type": format!("{TYPES}.filters.http.router.v3.Router")
    }}));
    let mut manager = json!({
        "@type": format!("{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": format!("bench{at}"),
        "http_filters": filters,
    });
    if proxy.routes_file && at == 0 {
        let source = json!({
            "resource_api_version": "V3", "path_config_source": {"path": routes_file(proxy, name)}
        });
        manager["rds"] = json!({"route_config_name": "routes0", "config_source": source});
    } else {
        manager["route_config"] = table(at, listener, proxy, &|_| Target::Main);
    }
    match listener.extra {
        Extra::AccessLog => {
            manager["access_log"] = json!([{"name": "file", "typed_config": {
                "@type": format!("{TYPES}.access_loggers.file.v3.FileAccessLog"),
                "path": proxy.dir.join(format!("{name}.access.log")),
            }}]);
        }
        Extra::Tracing => {
            manager["tracing"] = json!({
                "random_sampling": {"value": 1},
                "provider": {"name": "envoy.tracers.opentelemetry", "typed_config": {
                    "@type": "type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig",
                    "service_name": "bench",
                    "http_service": {"http_uri": {
                        "uri": "http://collector/v1/traces", "cluster": "collector", "timeout": "1s"
                    }},
                }},
            });
        }
        Extra::None | Extra::Tls | Extra::Http2 | Extra::RateLimit => {}
    }
    let mut chain = json!({"filters": [
        {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
    ]});
    if listener.extra == Extra::Tls {
        let file = |name: &str| json!({"filename": proxy.dir.join(name)});
        chain["transport_socket"] = json!({"name": "tls", "typed_config": {
            "@type": format!("{TYPES}.transport_sockets.tls.v3.DownstreamTlsContext"),
            "common_tls_context": {"tls_certificates": [
                {"certificate_chain": file("cert.pem"), "private_key": file("key.pem")}
            ]},
        }});
    }
    json!({
        "name": format!("bench{at}"),
        "address": address("127.0.0.1", listener.port),
        "tcp_backlog_size": 8192,
        "filter_chains": [chain],
    })
}

fn virtual_hosts(listener: &Listener, proxy: &Proxy, target: &dyn Fn(usize) -> Target) -> Vec<Value> {
    let main = if proxy.clusters > 0 { format!("c{}", proxy.clusters - 1) } else { "up".to_owned() };
    let route = |i: usize, matcher: Value| {
        let to = match target(i) {
            Target::Main => main.as_str(),
            Target::Other => "other",
            Target::First => "c0",
        };
        json!({"match": matcher, "route": {"cluster": to}})
    };
    let routes = listener.routes;
    let host = |name: String, domain: String, routes: Vec<Value>| json!({"name": name, "domains": [domain], "routes": routes});
    let all = |routes: Vec<Value>| vec![host("all".to_owned(), "*".to_owned(), routes)];
    match routes {
        Routes::Prefixes(n) => all((0..n).map(|i| route(i, json!({"prefix": routes.path(i)}))).collect()),
        Routes::Regexes(n) => {
            all((0..n).map(|i| route(i, json!({"safe_regex": {"regex": Routes::regex(i)}}))).collect())
        }
        Routes::Hosts(n) => (0..n)
            .map(|i| host(format!("host{i}"), routes.host(i), vec![route(i, json!({"prefix": "/"}))]))
            .collect(),
    }
}
