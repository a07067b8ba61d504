//! The real servers start, answer and come back: what every other test relies on.

use e2e::client::Client;
use e2e::envoy::Envoy;
use e2e::store::{Consul, Etcd};
use e2e::upstream::Upstream;
use std::time::Duration;

#[tokio::test]
async fn etcd_keeps_its_data_over_a_restart() {
    for version in ["etcd-3.4", "etcd"] {
        let mut etcd = Etcd::start_version(version).await.unwrap();
        let mut client = etcd_client::Client::connect([etcd.endpoint()], None).await.unwrap();
        client.put("k", "v", None).await.unwrap();
        etcd.restart().await.unwrap();
        let mut client = etcd_client::Client::connect([etcd.endpoint()], None).await.unwrap();
        let answer = client.get("k", None).await.unwrap();
        assert_eq!(answer.kvs()[0].value(), b"v", "{version} must keep its data");
    }
}

#[tokio::test]
async fn consul_takes_registrations() {
    let consul = Consul::start().await.unwrap();
    consul.register("web", "web-1", 1, Duration::from_secs(60)).await.unwrap();
    let url = format!("http://{}/v1/health/service/web?passing", consul.endpoint());
    let answer = Client::h1().get(&url).await.unwrap();
    assert_eq!(answer.json().unwrap().as_array().unwrap().len(), 1, "{}", answer.text());
    consul.deregister("web-1").await.unwrap();
    let answer = Client::h1().get(&url).await.unwrap();
    assert_eq!(answer.text().trim(), "[]");
}

#[tokio::test]
async fn envoy_forwards_to_the_upstream() {
    let upstream = Upstream::start("one").await.unwrap();
    let bootstrap = format!(
        r#"
admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}}}
static_resources:
  listeners:
  - name: web
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: web
          route_config: {{virtual_hosts: [{{name: all, domains: ["*"], routes: [{{match: {{prefix: /}}, route: {{cluster: up}}}}]}}]}}
          http_filters:
          - name: router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
  clusters:
  - name: up
    load_assignment: {{cluster_name: up, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}}}]}}]}}
"#,
        port = upstream.addr.port()
    );
    let envoy = Envoy::start(&bootstrap).await.unwrap();
    let web = envoy.listener("web").await.unwrap();
    let answer = Client::h1().get(&format!("http://{web}/hello")).await.unwrap();
    assert_eq!(answer.json().unwrap()["instance"], "one");
    assert_eq!(envoy.stats().await.unwrap()["cluster.up.upstream_rq_total"], 1);
}
