//! Our proxy under a management server that is not ours: what it asks, what it acknowledges, what it refuses, and that
//! whatever a server does, what was good goes on serving.

mod files;
mod streams;
mod updates;

use anyhow::Result;
use e2e::ads::{AdsServer, CDS, Dialect, EDS, LDS, RDS, Stream};
use e2e::client::{Answer, Client};
use e2e::envoy::Envoy;
use e2e::eventually;
use e2e::upstream::Upstream;
use std::net::SocketAddr;
use xds_types::envoy::config::cluster::v3::Cluster;
use xds_types::envoy::config::endpoint::v3::ClusterLoadAssignment;
use xds_types::envoy::config::listener::v3::Listener;
use xds_types::envoy::config::route::v3::RouteConfiguration;
use xds_types::google::protobuf::Any;
use xds_types::{any, text};

/// A resource with its name.
type Named = (String, Any);

fn cluster_with(name: &str, fields: &str) -> Named {
    let yaml = format!("{{name: {name}, connect_timeout: 1s, {fields}}}");
    (name.into(), any::pack(&text::from_yaml::<Cluster>(&yaml).unwrap()))
}

/// A cluster whose endpoints come over the same stream.
fn eds_cluster(name: &str) -> Named {
    cluster_with(name, "type: EDS, eds_cluster_config: {eds_config: {resource_api_version: V3, ads: {}}}")
}

/// A cluster with one endpoint of its own.
fn static_cluster(name: &str, endpoint: SocketAddr) -> Named {
    let assignment = assignment_yaml(name, &[endpoint]);
    cluster_with(name, &format!("type: STATIC, load_assignment: {assignment}"))
}

fn assignment_yaml(name: &str, endpoints: &[SocketAddr]) -> String {
    let one = |a: &SocketAddr| {
        format!(
            "{{endpoint: {{address: {{socket_address: {{address: {}, port_value: {}}}}}}}}}",
            a.ip(),
            a.port()
        )
    };
    let all: Vec<_> = endpoints.iter().map(one).collect();
    format!("{{cluster_name: {name}, endpoints: [{{lb_endpoints: [{}]}}]}}", all.join(", "))
}

fn assignment(name: &str, endpoints: &[SocketAddr]) -> Named {
    let yaml = assignment_yaml(name, endpoints);
    (name.into(), any::pack(&text::from_yaml::<ClusterLoadAssignment>(&yaml).unwrap()))
}

fn hcm(route_part: &str) -> String {
    format!(
        "[{{filters: [{{name: http, typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, \
         stat_prefix: web, {route_part}, http_filters: [{{name: router, typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}}}]}}}}]}}]"
    )
}

fn listener_at(name: &str, port: u16, route_part: &str) -> Named {
    let yaml = format!(
        "{{name: {name}, address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}, filter_chains: {}}}",
        hcm(route_part)
    );
    (name.into(), any::pack(&text::from_yaml::<Listener>(&yaml).unwrap()))
}

/// A listener whose routes come over the same stream.
fn rds_listener(name: &str, routes: &str) -> Named {
    listener_at(
        name,
        0,
        &format!(
            "rds: {{route_config_name: {routes}, config_source: {{resource_api_version: V3, ads: {{}}}}}}"
        ),
    )
}

fn routes_yaml(name: &str, cluster: &str) -> String {
    format!(
        "{{name: {name}, virtual_hosts: [{{name: all, domains: ['*'], routes: [{{match: {{prefix: /}}, route: {{cluster: {cluster}}}}}]}}]}}"
    )
}

/// Everything to one cluster.
fn routes(name: &str, cluster: &str) -> Named {
    (name.into(), any::pack(&text::from_yaml::<RouteConfiguration>(&routes_yaml(name, cluster)).unwrap()))
}

/// A cluster that the proxy must refuse.
fn bad_cluster(name: &str) -> Named {
    cluster_with(name, "type: STATIC, lb_policy: CLUSTER_PROVIDED")
}

/// A bootstrap that asks `addr` for everything over one stream.
fn ads_bootstrap(addr: SocketAddr, dialect: Dialect) -> String {
    format!(
        "{{node: {{id: node-1, cluster: fleet}}, admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}}}, \
         dynamic_resources: {{ads_config: {{api_type: {}, transport_api_version: V3, grpc_services: [{{envoy_grpc: {{cluster_name: control}}}}]}}, \
         cds_config: {{resource_api_version: V3, ads: {{}}}}, lds_config: {{resource_api_version: V3, ads: {{}}}}}}, \
         static_resources: {{clusters: [{}]}}}}",
        dialect.api_type(),
        control_cluster(addr)
    )
}

fn control_cluster(addr: SocketAddr) -> String {
    format!(
        "{{name: control, connect_timeout: 1s, load_assignment: {}, {}}}",
        assignment_yaml("control", &[addr]),
        e2e::pair::SPEAKS_H2
    )
}

/// A proxy that may not be ready yet, and the stream it opened.
struct World {
    server: AdsServer,
    stream: Stream,
    proxy: Envoy,
    client: Client,
}

impl World {
    async fn start(dialect: Dialect) -> Self {
        let mut server = AdsServer::start().await.unwrap();
        let proxy = e2e::proxy::start_unready(&ads_bootstrap(server.addr, dialect)).await.unwrap();
        let stream = server.stream().await.unwrap();
        assert_eq!(stream.dialect, dialect);
        Self { server, stream, proxy, client: Client::h1() }
    }

    /// Brings it up with cluster `up` (EDS) at `endpoint`, listener `web` and routes `all`, each at version 1.
    async fn up(dialect: Dialect, endpoint: SocketAddr) -> Self {
        let mut world = Self::start(dialect).await;
        let stream = &mut world.stream;
        stream.push(CDS, "1", vec![eds_cluster("up")]).await.unwrap().unwrap();
        stream.push(EDS, "1", vec![assignment("up", &[endpoint])]).await.unwrap().unwrap();
        stream.of(LDS).await.unwrap();
        stream.push(LDS, "1", vec![rds_listener("web", "all")]).await.unwrap().unwrap();
        stream.push(RDS, "1", vec![routes("all", "up")]).await.unwrap().unwrap();
        world.ready().await;
        world
    }

    async fn ready(&self) {
        eventually("the proxy is ready", async || -> Result<()> {
            let answer = self.proxy.admin("/ready").await?;
            anyhow::ensure!(answer.status == 200, "{}", answer.text());
            Ok(())
        })
        .await;
    }

    async fn get(&self, listener: &str) -> Result<Answer> {
        let addr = self.proxy.listener(listener).await?;
        self.client.get(&format!("http://{addr}/")).await
    }

    /// Waits until the listener answers so.
    async fn answers(&self, listener: &str, status: u16, instance: &str) {
        eventually(&format!("{listener} answers {status} {instance}"), async || -> Result<()> {
            let answer = self.get(listener).await?;
            let from = answer.header("x-instance");
            anyhow::ensure!(
                answer.status == status && from == instance,
                "{} {from:?} {}",
                answer.status,
                answer.text()
            );
            Ok(())
        })
        .await;
    }

    /// Waits until a stat has at least this value.
    async fn stat(&self, name: &str, at_least: u64) {
        eventually(&format!("{name} >= {at_least}"), async || -> Result<()> {
            let value = self.proxy.stats().await?.get(name).copied().unwrap_or_default();
            anyhow::ensure!(value >= at_least, "is {value}");
            Ok(())
        })
        .await;
    }
}

async fn upstream(name: &str) -> Upstream {
    Upstream::start(name).await.unwrap()
}
