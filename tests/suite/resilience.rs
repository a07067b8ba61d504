//! What resource kinds say of failing well reaches real Envoy, our proxy and gRPC's own client, and works there.

use anyhow::{Result, bail, ensure};
use e2e::client::Client;
use e2e::control::Control;
use e2e::envoy::Envoy;
use e2e::grpc::GrpcClient;
use e2e::upstream::Upstream;
use e2e::{eventually, proxy};
use std::collections::BTreeSet;
use std::net::SocketAddr;

/// Everything that Services, Rules and Gateways may say of it.
const EVERYTHING: &str = r#"
kind: Service
name: all
spec:
  load_balancing: least_request
  health_check:
    http: {path: /status/200, expected: ["200-299"], headers: {x-check: "1"}}
    interval: 0.1s
    timeout: 1s
    no_traffic_interval: 0.1s
    healthy_threshold: 1
    unhealthy_threshold: 2
    jitter_percent: 5
  outlier_detection:
    consecutive_5xx: 3
    consecutive_gateway_failures: 3
    consecutive_local_failures: 3
    interval: 1s
    base_ejection: 5s
    max_ejection: 60s
    max_ejected_percent: 50
    success_rate: {factor: 1500, minimum_instances: 3, minimum_requests: 50}
    failure_percentage: {threshold: 60, minimum_instances: 3, minimum_requests: 20}
  circuit_breaker: {failure_percent: 90, minimum_requests: 1000, window: 5s, open_time: 1s}
  limits:
    connections: 100
    pending_requests: 100
    requests: 100
    retry_budget: {percent: 25, minimum: 5}
    connections_per_instance: 50
  slow_start: {window: 2s, aggression: 1.5, min_weight_percent: 20}
  zones: {order: [a, b], overprovisioning_percent: 150, panic_percent: 40}
  max_requests_per_connection: 1000
---
kind: Service
name: ring
spec:
  load_balancing: ring_hash
  hash_table: {min_size: 2048, max_size: 8192}
  health_check: {tcp: {}}
  limits: {retries: 10}
---
kind: Service
name: maglev
spec: {load_balancing: maglev, hash_table: {table_size: 251}}
---
kind: Service
name: grpc
spec: {protocol: HTTP2, health_check: {grpc: {service: x}, no_traffic_interval: 3600s}}
---
kind: Route
name: everything
spec:
  gateways: [edge]
  rules:
  - name: all
    matches: [{path_prefix: /all}]
    backends: [{service: all}]
    retry:
      on: [5xx, connect-failure, unavailable]
      attempts: 3
      per_try_timeout: 2s
      backoff: 0.01s
      max_backoff: 0.1s
      statuses: [409]
      headers: [x-again]
      other_instances: true
    mirrors: [{service: maglev, percent: 0.5}]
    timeout: 10s
    idle_timeout: 20s
  - {name: ring, matches: [{path_prefix: /ring}], backends: [{service: ring}], hash: [{header: x-user}, {query: user}]}
  - name: maglev
    matches: [{path_prefix: /maglev}]
    backends: [{service: maglev}]
    hash: [{cookie: {name: who, ttl: 60s}, terminal: true}, {client_ip: true}]
  - {name: grpc, matches: [{path_prefix: /grpc}], backends: [{service: grpc}]}
---
kind: Route
name: mesh
spec:
  mesh: true
  hosts: [all]
  rules: [{backends: [{service: all}], retry: {on: [unavailable], attempts: 2, backoff: 0.01s}, hash: [{header: x-user}]}]
"#;

fn gateway(port: u16) -> String {
    format!(
        "
kind: Gateway
name: edge
spec:
  group: edge
  listeners: [{{name: web, address: 127.0.0.1, port: {port}}}]
  limits:
    request_headers_timeout: 5s
    request_timeout: 30s
    stream_idle_timeout: 60s
    idle_timeout: 600s
    max_connection_duration: 3600s
    max_requests_per_connection: 100000
    max_request_headers_kib: 64
    max_request_headers: 120
    max_concurrent_streams: 200
    buffer_bytes: 65536
"
    )
}

struct Fleet {
    control: Control,
    _process: Envoy,
    web: SocketAddr,
    client: Client,
}

impl Fleet {
    async fn start(ours: bool) -> Self {
        let control = Control::start(&[]).await.unwrap();
        let port = e2e::process::free_port().unwrap();
        control.apply(&gateway(port)).await.unwrap();
        control.apply(EVERYTHING).await.unwrap();
        let bootstrap = control.bootstrap("edge", "proxy-1", true).await.unwrap();
        let process = match ours {
            false => Envoy::start(&bootstrap).await.unwrap(),
            true => proxy::start(&bootstrap).await.unwrap(),
        };
        let web =
            eventually("the gateway's listener is there", async || process.listener("edge/web").await).await;
        Self { control, _process: process, web, client: Client::h1() }
    }

    async fn ask(&self, path: &str, headers: &[(&str, &str)]) -> Result<(u16, String)> {
        let answer = self.client.send("GET", &format!("http://{}{path}", self.web), headers, "").await?;
        Ok((answer.status, answer.header("x-instance").to_owned()))
    }

    async fn instances(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        calls: usize,
    ) -> Result<BTreeSet<String>> {
        let mut all = BTreeSet::new();
        for _ in 0..calls {
            let (status, instance) = self.ask(path, headers).await?;
            ensure!(status == 200, "{status}");
            all.insert(instance);
        }
        Ok(all)
    }

    async fn accepted(&self) {
        let status = self.control.status().await.unwrap().to_string();
        assert!(!status.contains("\"nack\":{"), "{status}");
    }
}

async fn it_works(ours: bool) {
    let fleet = Fleet::start(ours).await;
    let (one, two) = (Upstream::start("one").await.unwrap(), Upstream::start("two").await.unwrap());
    for service in ["all", "ring", "maglev"] {
        fleet.control.register(service, "one", one.addr, None).await.unwrap();
        fleet.control.register(service, "two", two.addr, None).await.unwrap();
    }
    eventually("both serve", async || {
        let seen = fleet.instances("/all/x", &[], 20).await?;
        ensure!(seen.len() == 2, "only {seen:?}");
        Ok(())
    })
    .await;
    fleet.accepted().await;
    // The same key, the same instance; many keys, both.
    for (path, name) in [("/ring", "x-user"), ("/ring?user=1", "x-none")] {
        eventually("one key goes to one instance", async || {
            let seen = fleet.instances(path, &[(name, "joe")], 10).await?;
            ensure!(seen.len() == 1, "{path}: {seen:?}");
            Ok(())
        })
        .await;
    }
    eventually("many keys reach both", async || {
        let mut seen = BTreeSet::new();
        for i in 0..64 {
            seen.insert(fleet.ask("/ring", &[("x-user", i.to_string().as_str())]).await?.1);
        }
        ensure!(seen.len() == 2, "only {seen:?}");
        Ok(())
    })
    .await;
    let answer = fleet.client.get(&format!("http://{}/maglev", fleet.web)).await.unwrap();
    let cookie = answer.header("set-cookie").split(';').next().unwrap_or_default().to_owned();
    assert!(cookie.starts_with("who="), "{:?}", answer.headers);
    let seen = fleet.instances("/maglev", &[("cookie", &cookie)], 10).await.unwrap();
    assert_eq!(seen.into_iter().next().unwrap(), answer.header("x-instance"));
    // An instance that dies is left out by the check, and nobody notices, because others are asked instead.
    drop(two);
    for _ in 0..30 {
        assert_eq!(fleet.ask("/all/x", &[]).await.unwrap().0, 200, "a retry must find the other");
    }
    eventually("only one serves", async || match fleet.instances("/all/x", &[], 20).await {
        Ok(seen) if seen.len() == 1 => Ok(()),
        other => bail!("{other:?}"),
    })
    .await;
    fleet.accepted().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resilience_of_resource_kinds_works_in_real_envoy() {
    it_works(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resilience_of_resource_kinds_works_in_our_proxy() {
    it_works(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_clients_take_what_they_are_sent_of_it() {
    let control = Control::start(&[]).await.unwrap();
    control.apply(&gateway(e2e::process::free_port().unwrap())).await.unwrap();
    control.apply(EVERYTHING).await.unwrap();
    let one = Upstream::start("one").await.unwrap();
    for service in ["all", "ring", "maglev"] {
        control.register(service, "one", one.addr, None).await.unwrap();
        let target = format!("xds:///{service}");
        let client = GrpcClient::start(control.xds, "mesh", &format!("grpc-{service}"), &target).unwrap();
        eventually("the call is answered", async || client.call().await).await;
    }
    let status = control.status().await.unwrap().to_string();
    assert!(!status.contains("\"nack\":{"), "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn zones_are_preferred_in_their_order_by_real_envoy_and_our_proxy() {
    for ours in [false, true] {
        let fleet = Fleet::start(ours).await;
        let (near, far) = (Upstream::start("near").await.unwrap(), Upstream::start("far").await.unwrap());
        for (id, zone, upstream) in [("near", "a", &near), ("far", "b", &far)] {
            let (address, port) = (upstream.addr.ip(), upstream.addr.port());
            let body = serde_json::json!({"address": address, "port": port, "zone": zone}).to_string();
            let path = format!("/api/v1/services/all/instances/{id}");
            let answer = fleet.control.call("PUT", &path, body).await.unwrap();
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
        eventually("the first zone alone serves", async || {
            let seen = fleet.instances("/all/x", &[], 20).await?;
            ensure!(seen.len() == 1 && seen.contains("near"), "{seen:?}");
            Ok(())
        })
        .await;
        drop(near);
        eventually("the second serves once the first is ill", async || {
            let seen = fleet.instances("/all/x", &[], 20).await?;
            ensure!(seen.len() == 1 && seen.contains("far"), "{seen:?}");
            Ok(())
        })
        .await;
    }
}
