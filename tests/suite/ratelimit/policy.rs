//! RateLimit policies, enforced by real Envoy and by our proxy over the control plane's service.

use anyhow::bail;
use e2e::client::Client;
use e2e::control::Control;
use e2e::envoy::Envoy;
use e2e::upstream::Upstream;
use e2e::{eventually, proxy};
use std::net::SocketAddr;

/// Real Envoy, or ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Proxy {
    Envoy,
    Ours,
}

struct Fleet {
    control: Control,
    _upstreams: Vec<Upstream>,
    process: Envoy,
    web: SocketAddr,
    client: Client,
}

impl Fleet {
    async fn start(proxy: Proxy, policies: &str) -> Self {
        Self::start_with(proxy, policies, "").await
    }

    /// With more in the Gateway.
    async fn start_with(proxy: Proxy, policies: &str, gateway: &str) -> Self {
        let control = Control::start(&[]).await.unwrap();
        let port = e2e::process::free_port().unwrap();
        let mut upstreams = Vec::new();
        for name in ["web", "cart"] {
            let upstream = Upstream::start(name).await.unwrap();
            control.register(name, name, upstream.addr, None).await.unwrap();
            upstreams.push(upstream);
        }
        let objects = format!(
            "
kind: Gateway
name: edge
spec: {{group: edge, listeners: [{{name: web, address: 127.0.0.1, port: {port}}}], {gateway}}}
---
kind: Route
name: shop
spec:
  gateways: [edge]
  rules:
  - {{name: cart, matches: [{{path_prefix: /cart}}], backends: [{{service: cart}}]}}
  - {{name: both, matches: [{{path_prefix: /both}}], backends: [{{service: cart, weight: 0}}, {{service: web}}]}}
  - {{name: web, backends: [{{service: web}}]}}
"
        );
        control.apply(&objects).await.unwrap();
        control.apply(policies).await.unwrap();
        let bootstrap = control.bootstrap("edge", "proxy-1", true).await.unwrap();
        let process = match proxy {
            Proxy::Envoy => Envoy::start(&bootstrap).await.unwrap(),
            Proxy::Ours => proxy::start(&bootstrap).await.unwrap(),
        };
        let web =
            eventually("the gateway's listener is there", async || process.listener("edge/web").await).await;
        let fleet = Self { control, _upstreams: upstreams, process, web, client: Client::h1() };
        eventually("requests are served", async || match fleet.ask("/ready", &[]).await {
            200 => Ok(()),
            status => Err(format!("{status}")),
        })
        .await;
        fleet
    }

    async fn ask(&self, path: &str, headers: &[(&str, &str)]) -> u16 {
        self.send("GET", path, headers).await
    }

    async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> u16 {
        let url = format!("http://{}{path}", self.web);
        self.client.send(method, &url, headers, "").await.map_or(0, |a| a.status)
    }

    async fn statuses(&self, path: &str, headers: &[(&str, &str)], calls: usize) -> Vec<u16> {
        let mut all = Vec::new();
        for _ in 0..calls {
            all.push(self.ask(path, headers).await);
        }
        all
    }

    /// No proxy has refused what it was sent.
    async fn is_accepted(&self) {
        let status = self.control.status().await.unwrap();
        let text = status.to_string();
        assert!(!text.contains("\"nack\":{"), "{text}\n{}", "a proxy refused its configuration");
    }
}

const LIMITS: &str = r#"
kind: Policy
name: users
spec:
  targets: [{gateway: edge}]
  rate_limit:
    limits: [{name: each, per: [{header: x-user}], requests: 3, unit: hour}]
---
kind: Policy
name: clients
spec:
  targets: [{route: shop, rule: web}]
  rate_limit:
    status: 431
    limits: [{per: [{client_ip: {}}, {path: true, value: /by-client}], requests: 2, unit: hour}]
---
kind: Policy
name: carts
spec:
  targets: [{service: cart}]
  rate_limit:
    limits: [{per: [{header: x-cart, value: "yes"}], requests: 2, unit: hour, algorithm: token_bucket}]
---
kind: Policy
name: dark
spec:
  targets: [{gateway: edge}]
  rate_limit:
    shadow: true
    limits: [{per: [{header: x-dark}], requests: 1, unit: hour}]
---
kind: Policy
name: near
spec:
  targets: [{route: shop}]
  rate_limit:
    limits: [{per: [{client_ip: {}}, {header: x-near}], requests: 2, unit: hour, scope: local}]
---
kind: Policy
name: whole
spec:
  targets: [{gateway: edge}]
  rate_limit:
    limits: [{per: [{query: whole, value: "1"}], requests: 1, unit: hour, scope: local}]
"#;

async fn policies_hold(proxy: Proxy) {
    let fleet = Fleet::start(proxy, LIMITS).await;
    fleet.is_accepted().await;
    let seen = async |what: &str, path: &str, headers: &[(&str, &str)], expected: &[u16]| {
        assert_eq!(fleet.statuses(path, headers, expected.len()).await, expected, "{proxy:?}: {what}");
    };
    // The service's limits reach it a moment after the proxy's configuration: warm with a value of its own.
    eventually("limits are in force", async || {
        match fleet.statuses("/", &[("x-user", "warm")], 5).await[4] {
            429 => Ok(()),
            other => Err(format!("{other}")),
        }
    })
    .await;
    seen("each user has a limit", "/", &[("x-user", "a")], &[200, 200, 200, 429]).await;
    seen("another user has another", "/cart", &[("x-user", "b")], &[200, 200, 200, 429]).await;
    seen("without the header nothing counts", "/", &[], &[200; 6]).await;
    // A forged x-forwarded-for buys no fresh bucket: nobody in front of the gateway is trusted.
    let mut forged = Vec::new();
    for i in 0..4 {
        let address = format!("198.51.100.{i}");
        forged.push(fleet.ask("/by-client", &[("x-forwarded-for", address.as_str())]).await);
    }
    assert_eq!(forged, [200, 200, 431, 431], "{proxy:?}");
    seen("a service's limit", "/cart", &[("x-cart", "yes")], &[200, 200, 429]).await;
    seen("is not another's", "/", &[("x-cart", "yes")], &[200; 4]).await;
    seen("and not that of a rule's other backend", "/both", &[("x-cart", "yes")], &[200; 4]).await;
    seen("shadow mode", "/", &[("x-dark", "a")], &[200; 4]).await;
    seen("a local limit", "/", &[("x-near", "a")], &[200, 200, 429]).await;
    seen("for each value", "/", &[("x-near", "b")], &[200, 200, 429]).await;
    seen("of all rules together", "/cart", &[("x-near", "b")], &[429]).await;
    seen("a local limit of the gateway", "/?whole=1", &[], &[200, 429]).await;
    let headers =
        fleet.client.send("GET", &format!("http://{}/", fleet.web), &[("x-user", "c")], "").await.unwrap();
    assert_eq!(headers.header("x-ratelimit-remaining"), "2", "{proxy:?}: {:?}", headers.headers);
    assert!(headers.header("x-ratelimit-limit").starts_with('3'), "{proxy:?}: {:?}", headers.headers);
    let reset: u64 = headers.header("x-ratelimit-reset").parse().unwrap();
    assert!((1..=3600).contains(&reset));

    // Deleted: nothing is limited any more, and what is named cannot be deleted.
    let refused = fleet.control.call("DELETE", "/api/v1/objects/route/shop", "").await.unwrap();
    assert!(refused.status >= 400 && refused.text().contains("Policy/"), "{}", refused.text());
    for name in ["users", "near", "whole"] {
        let answer =
            fleet.control.call("DELETE", &format!("/api/v1/objects/policy/{name}"), "").await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    eventually("the limits are gone", async || {
        for (path, headers) in [("/", ("x-user", "a")), ("/", ("x-near", "a")), ("/?whole=1", ("x-none", ""))]
        {
            let status = fleet.ask(path, &[headers]).await;
            if status != 200 {
                bail!("{path} {headers:?}: {status}");
            }
        }
        Ok(())
    })
    .await;
    fleet.is_accepted().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policies_hold_in_real_envoy() {
    policies_hold(Proxy::Envoy).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policies_hold_in_our_proxy() {
    policies_hold(Proxy::Ours).await;
}

/// What else requests are told apart by.
const KEYS: &str = r#"
kind: Policy
name: claims
spec:
  targets: [{gateway: edge}]
  rate_limit:
    limits: [{per: [{metadata: {namespace: claims, path: [sub]}}], requests: 2, unit: hour}]
---
kind: Policy
name: methods
spec:
  targets: [{route: shop, rule: web}]
  rate_limit:
    limits:
    - {name: deletes, per: [{method: true, value: DELETE}], requests: 1, unit: hour}
    - {name: each, per: [{method: true}, {header: x-each}], requests: 1, unit: hour, scope: local}
---
kind: Policy
name: routes
spec:
  targets: [{gateway: edge}]
  rate_limit:
    limits: [{per: [{route: true}, {header: x-route}], requests: 2, unit: hour}]
---
kind: Policy
name: services
spec:
  targets: [{gateway: edge}]
  rate_limit:
    limits: [{per: [{service: true}, {header: x-service}], requests: 2, unit: hour}]
---
kind: Policy
name: clients
spec:
  targets: [{gateway: edge}]
  rate_limit:
    limits: [{per: [{client_ip: {}}, {path: true, value: /by-client}], requests: 2, unit: hour}]
"#;

async fn keys_tell_requests_apart(proxy: Proxy) {
    let gateway = "trusted_hops: 1, metadata: [{header: x-sub, namespace: claims, key: sub, remove: true}]";
    let fleet = Fleet::start_with(proxy, KEYS, gateway).await;
    fleet.is_accepted().await;
    let seen = async |what: &str, method: &str, path: &str, headers: &[(&str, &str)], expected: &[u16]| {
        let mut all = Vec::new();
        for _ in expected {
            all.push(fleet.send(method, path, headers).await);
        }
        assert_eq!(all, expected, "{proxy:?}: {what}");
    };
    eventually("limits are in force", async || match fleet.statuses("/", &[("x-sub", "warm")], 4).await[3] {
        429 => Ok(()),
        other => Err(format!("{other}")),
    })
    .await;
    seen("metadata", "GET", "/", &[("x-sub", "a")], &[200, 200, 429]).await;
    seen("each value of it", "GET", "/cart", &[("x-sub", "b")], &[200, 200, 429]).await;
    seen("without it nothing counts", "GET", "/", &[], &[200; 4]).await;
    let url = format!("http://{}/", fleet.web);
    let told = fleet.client.send("GET", &url, &[("x-sub", "c")], "").await.unwrap().json().unwrap();
    assert!(told["headers"]["x-sub"].is_null(), "{proxy:?}: the header is not sent on: {told}");
    seen("a method", "DELETE", "/", &[], &[200, 429]).await;
    seen("not others", "GET", "/", &[], &[200; 3]).await;
    seen("each method", "GET", "/", &[("x-each", "a")], &[200, 429]).await;
    seen("apart from others", "PUT", "/", &[("x-each", "a")], &[200, 429]).await;
    seen("a route", "GET", "/cart", &[("x-route", "a")], &[200, 200, 429]).await;
    seen("apart from others", "GET", "/", &[("x-route", "a")], &[200, 200, 429]).await;
    seen("also to the same service", "GET", "/both", &[("x-route", "a")], &[200, 200, 429]).await;
    seen("a service", "GET", "/cart", &[("x-service", "a")], &[200, 200, 429]).await;
    seen("apart from others", "GET", "/", &[("x-service", "a")], &[200, 200, 429]).await;
    seen("whatever the route", "GET", "/both", &[("x-service", "a")], &[429]).await;
    // One proxy before the gateway is trusted: whom that saw is the client, and what the client itself says is not.
    let by = [("x-forwarded-for", "192.0.2.1")];
    seen("the trusted proxy's client", "GET", "/by-client", &by, &[200, 200, 429]).await;
    let other = [("x-forwarded-for", "192.0.2.2")];
    seen("another client of it", "GET", "/by-client", &other, &[200, 200, 429]).await;
    let forged = [("x-forwarded-for", "198.51.100.7, 192.0.2.2")];
    seen("what a client forged", "GET", "/by-client", &forged, &[429]).await;
    fleet.is_accepted().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_tell_requests_apart_in_real_envoy() {
    keys_tell_requests_apart(Proxy::Envoy).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_tell_requests_apart_in_our_proxy() {
    keys_tell_requests_apart(Proxy::Ours).await;
}

async fn failure_is_as_the_policy_says(proxy: Proxy) {
    const TWO: &str = "
kind: Policy
name: open
spec:
  targets: [{route: shop, rule: web}]
  rate_limit: {on_failure: ALLOW, timeout: 0.5s, limits: [{requests: 1000, unit: hour}]}
---
kind: Policy
name: closed
spec:
  targets: [{route: shop, rule: cart}]
  rate_limit: {on_failure: DENY, timeout: 0.5s, limits: [{requests: 1000, unit: hour}]}
";
    let mut fleet = Fleet::start(proxy, TWO).await;
    assert_eq!(fleet.statuses("/cart", &[], 2).await, [200; 2], "{proxy:?}");
    fleet.control.kill();
    eventually("the service is away", async || match fleet.ask("/cart", &[]).await {
        503 => Ok(()),
        other => Err(format!("{other}")),
    })
    .await;
    assert_eq!(fleet.statuses("/", &[], 3).await, [200; 3], "{proxy:?}: requests go on without the service");
    fleet.control.restart().await.unwrap();
    eventually("the service is back", async || match fleet.ask("/cart", &[]).await {
        200 => Ok(()),
        other => Err(format!("{other}")),
    })
    .await;
    fleet.process.process().check().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_service_is_treated_as_the_policy_says_by_real_envoy() {
    failure_is_as_the_policy_says(Proxy::Envoy).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_service_is_treated_as_the_policy_says_by_our_proxy() {
    failure_is_as_the_policy_says(Proxy::Ours).await;
}
