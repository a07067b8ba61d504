//! What resource kinds say of failing well reaches real Envoy, our proxy and gRPC's own client, and works there.

use anyhow::{Result, bail, ensure};
use e2e::client::Client;
use e2e::control::Control;
use e2e::envoy::Envoy;
use e2e::grpc::GrpcClient;
use e2e::upstream::Upstream;
use e2e::wire::{Role, Wire};
use e2e::{eventually, proxy};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

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

/// What is small enough to be seen to hold.
const SMALL: &str = r#"
kind: Service
name: narrow
spec: {limits: {requests: 1}}
---
kind: Service
name: thrifty
spec: {limits: {retry_budget: {percent: 0.01, minimum: 0}}}
---
kind: Service
name: breaking
spec: {circuit_breaker: {failure_percent: 50, minimum_requests: 5, window: 10s, open_time: 60s}}
---
kind: Route
name: small
spec:
  gateways: [edge]
  rules:
  - {name: narrow, matches: [{path_prefix: /narrow}], rewrite: {prefix: /}, backends: [{service: narrow}]}
  - name: urgent
    matches: [{path_prefix: /urgent}]
    rewrite: {prefix: /}
    backends: [{service: narrow}]
    priority: HIGH
  - name: thrifty
    matches: [{path_prefix: /thrifty}]
    rewrite: {prefix: /}
    backends: [{service: thrifty}]
    retry: {on: [5xx], attempts: 3, backoff: 0.001s}
  - name: lavish
    matches: [{path_prefix: /lavish}]
    rewrite: {prefix: /}
    backends: [{service: lavish}]
    retry: {on: [5xx], attempts: 3, backoff: 0.001s}
  - name: each-try
    matches: [{path_prefix: /each-try}]
    rewrite: {prefix: /}
    backends: [{service: patient}]
    retry: {on: [5xx], attempts: 1, per_try_timeout: 0.2s, backoff: 0.001s}
  - name: in-all
    matches: [{path_prefix: /in-all}]
    rewrite: {prefix: /}
    backends: [{service: patient}]
    timeout: 0.3s
  - name: seen
    matches: [{path_prefix: /seen}]
    rewrite: {prefix: /}
    backends: [{service: web}]
    mirrors: [{service: shadow}]
  - {name: breaking, matches: [{path_prefix: /breaking}], rewrite: {prefix: /}, backends: [{service: breaking}]}
  - {name: web, backends: [{service: web}]}
"#;

fn small_gateway(port: u16) -> String {
    format!(
        "
kind: Gateway
name: edge
spec:
  group: edge
  listeners: [{{name: web, address: 127.0.0.1, port: {port}}}]
  limits:
    request_headers_timeout: 1s
    stream_idle_timeout: 60s
    idle_timeout: 2s
    max_requests_per_connection: 3
    max_request_headers_kib: 4
    max_request_headers: 20
"
    )
}

/// Each field does what it says, seen from outside.
async fn small_things_hold(ours: bool) {
    let control = Control::start(&[]).await.unwrap();
    let port = e2e::process::free_port().unwrap();
    control.apply(&small_gateway(port)).await.unwrap();
    control.apply(SMALL).await.unwrap();
    let mut upstreams = std::collections::BTreeMap::new();
    for name in ["narrow", "thrifty", "lavish", "patient", "web", "shadow", "breaking"] {
        let upstream = Upstream::start(name).await.unwrap();
        control.register(name, name, upstream.addr, None).await.unwrap();
        upstreams.insert(name, upstream);
    }
    let bootstrap = control.bootstrap("edge", "proxy-1", true).await.unwrap();
    let process = match ours {
        false => Envoy::start(&bootstrap).await.unwrap(),
        true => proxy::start(&bootstrap).await.unwrap(),
    };
    let web =
        eventually("the gateway's listener is there", async || process.listener("edge/web").await).await;
    let ask = async |path: &str| Client::h1().get(&format!("http://{web}{path}")).await.unwrap();
    let asked = |name: &str| upstreams[name].requests();
    for name in ["narrow", "thrifty", "lavish", "web", "breaking"] {
        eventually("it serves", async || {
            let status = ask(&format!("/{name}/ready")).await.status;
            ensure!(status == 200, "{name}: {status}");
            Ok(())
        })
        .await;
    }

    // `limits.requests`: a second request at a time is answered at once, by the proxy.
    let before = asked("narrow");
    let slow = tokio::spawn({
        let url = format!("http://{web}/narrow/delay/1500/x");
        async move { Client::h1().get(&url).await.unwrap().status }
    });
    eventually("the first request is under way", async || {
        ensure!(asked("narrow") > before, "not yet");
        Ok(())
    })
    .await;
    let answer = ask("/narrow/x").await;
    assert_eq!((answer.status, answer.header("x-envoy-overloaded")), (503, "true"), "ours {ours}");
    assert_eq!(ask("/urgent/x").await.status, 200, "ours {ours}: `priority: HIGH` has limits of its own");
    assert_eq!(slow.await.unwrap(), 200);
    // `retry_budget`: of no requests there are no retries, where others are tried four times.
    for (name, tries) in [("thrifty", 1), ("lavish", 4)] {
        let before = asked(name);
        assert_eq!(ask(&format!("/{name}/status/503")).await.status, 503);
        assert_eq!(asked(name) - before, tries, "ours {ours}: {name}");
    }
    // `per_try_timeout` and `timeout`.
    for (path, tries) in [("/each-try/delay/8000/x", 2), ("/in-all/delay/8000/x", 1)] {
        let (before, start) = (asked("patient"), std::time::Instant::now());
        assert_eq!(ask(path).await.status, 504, "ours {ours}: {path}");
        assert!(start.elapsed() < Duration::from_secs(4), "ours {ours}: {path}: {:?}", start.elapsed());
        assert_eq!(asked("patient") - before, tries, "ours {ours}: {path}");
    }
    // `mirrors`: the copy arrives, the answer is the service's.
    let before = asked("shadow");
    assert_eq!(ask("/seen/x").await.header("x-instance"), "web");
    eventually("the copy arrives", async || {
        ensure!(asked("shadow") == before + 1, "{}", asked("shadow"));
        Ok(())
    })
    .await;
    // `circuit_breaker`, which Envoy passes over: then nothing more reaches the service.
    for _ in 0..20 {
        assert_eq!(ask("/breaking/status/500").await.status / 100, 5);
    }
    let before = asked("breaking");
    let status = ask("/breaking/x").await.status;
    assert_eq!((status, asked("breaking") - before), if ours { (503, 0) } else { (200, 1) }, "ours {ours}");

    // What clients may ask of the gateway.
    let long = "x".repeat(5000);
    for (headers, expected) in [(vec![("x-long", long.as_str())], 431), (vec![("x-many", "1"); 30], 431)] {
        let answer = Client::h1().send("GET", &format!("http://{web}/"), &headers, "").await.unwrap();
        assert_eq!(answer.status, expected, "ours {ours}: {:?}", headers[0].0);
    }
    let mut wire = Wire::connect(web).await.unwrap();
    for last in [false, false, true] {
        wire.send(b"GET /bytes/1 HTTP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
        let answer = wire.message(Role::Response).await.unwrap().unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(
            answer.header("connection") == Some("close"),
            last,
            "ours {ours}: max_requests_per_connection"
        );
    }
    assert!(wire.ends().await.unwrap(), "ours {ours}: it is closed then");
    let (mut idle, mut slow) = (Wire::connect(web).await.unwrap(), Wire::connect(web).await.unwrap());
    let start = std::time::Instant::now();
    slow.send(b"GET / HTTP/1.1\r\nhost: te").await.unwrap();
    let (idle, slow) = tokio::join!(idle.rest(), slow.rest());
    let said = String::from_utf8_lossy(&slow.unwrap()).into_owned();
    assert!(
        said.is_empty() || said.starts_with("HTTP/1.1 408"),
        "ours {ours}: request_headers_timeout: {said}"
    );
    assert_eq!(idle.unwrap(), b"", "ours {ours}: idle_timeout");
    assert!(start.elapsed() < Duration::from_secs(10), "ours {ours}: {:?}", start.elapsed());
    let status = control.status().await.unwrap().to_string();
    assert!(!status.contains("\"nack\":{"), "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_limit_of_resource_kinds_holds_in_real_envoy() {
    small_things_hold(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_limit_of_resource_kinds_holds_in_our_proxy() {
    small_things_hold(true).await;
}
