//! The main job: a service registered in any store is reached through any client, gone when it is gone, and
//! rerouted under load without a failed request.

use anyhow::{Result, bail, ensure};
use e2e::client::Client;
use e2e::control::Control;
use e2e::envoy::Envoy;
use e2e::eventually;
use e2e::grpc::GrpcClient;
use e2e::proxy;
use e2e::store::{Consul, Etcd};
use e2e::upstream::Upstream;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

/// Who asks the control plane and carries traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peer {
    Ours { delta: bool },
    Envoy { delta: bool },
    Grpc,
}

/// A running client.
enum Traffic {
    Proxy { _process: Envoy, web: SocketAddr, client: Client },
    Grpc(GrpcClient),
}

impl Traffic {
    async fn start(peer: Peer, control: &Control) -> Result<Self> {
        let envoy = match peer {
            Peer::Ours { delta } => proxy::start(&control.bootstrap("edge", "proxy-1", delta).await?).await?,
            Peer::Envoy { delta } => {
                Envoy::start(&control.bootstrap("edge", "envoy-1", delta).await?).await?
            }
            Peer::Grpc => {
                return Ok(Self::Grpc(GrpcClient::start(control.xds, "mesh", "grpc-1", "xds:///web")?));
            }
        };
        let web = eventually("the gateway's listener is there", async || {
            let text = envoy.admin("/listeners").await?.text();
            let line = text.lines().find(|l| l.contains("web")).map(str::to_owned);
            let Some((_, addr)) = line.as_deref().and_then(|l| l.split_once("::")) else {
                bail!("only:\n{text}")
            };
            Ok(addr.parse::<SocketAddr>()?)
        })
        .await;
        Ok(Self::Proxy { _process: envoy, web, client: Client::h1() })
    }

    /// Which instance answers.
    async fn ask(&self) -> Result<String> {
        match self {
            Self::Grpc(client) => client.call().await,
            Self::Proxy { web, client, .. } => {
                let answer = client.get(&format!("http://{web}/hello")).await?;
                ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
                Ok(answer.header("x-instance").to_owned())
            }
        }
    }

    /// The instance that answers; a failed request fails the test.
    async fn never_fails(&self) -> String {
        self.ask().await.unwrap_or_else(|e| panic!("a request failed in a route change: {e:#}"))
    }

    async fn reaches(&self, instance: &str) {
        eventually(&format!("{instance} is reached"), async || {
            let answered = self.ask().await?;
            ensure!(answered == instance, "{answered} answered");
            Ok(())
        })
        .await;
    }

    async fn reaches_nothing(&self) {
        eventually("nothing is reached", async || match self.ask().await {
            Ok(instance) => bail!("{instance} answered"),
            Err(_) => Ok(()),
        })
        .await;
    }
}

fn objects(port: u16, first: u32, second: u32) -> String {
    format!(
        "
kind: Gateway
name: edge
spec:
  group: edge
  listeners: [{{name: web, address: 127.0.0.1, port: {port}}}]
---
kind: Route
name: web
spec:
  gateways: [edge]
  mesh: true
  rules:
  - backends: [{{service: web, weight: {first}}}, {{service: other, weight: {second}}}]
"
    )
}

/// Shortest life that every store grants.
const TTL: Duration = Duration::from_secs(2);

async fn journey(control: &Control, peer: Peer) {
    let (one, two) = (Upstream::start("one").await.unwrap(), Upstream::start("two").await.unwrap());
    let other = Upstream::start("other").await.unwrap();
    let port = e2e::process::free_port().unwrap();
    control.register("web", "one", one.addr, None).await.unwrap();
    control.register("other", "other", other.addr, None).await.unwrap();
    control.apply(&objects(port, 100, 0)).await.unwrap();
    let traffic = Traffic::start(peer, control).await.unwrap();
    traffic.reaches("one").await;

    // Deregistered: unreachable. Registered again elsewhere: reachable.
    control.deregister("web", "one").await.unwrap();
    traffic.reaches_nothing().await;
    control.register("web", "two", two.addr, None).await.unwrap();
    traffic.reaches("two").await;
    // With a time to live, and not renewed: gone when that is over.
    control.register("web", "two", two.addr, Some(TTL)).await.unwrap();
    traffic.reaches_nothing().await;
    control.register("web", "one", one.addr, None).await.unwrap();
    traffic.reaches("one").await;

    // Rerouted under load: no request fails, on the way from one route to the next either.
    control.apply(&objects(port, 50, 50)).await.unwrap();
    let mut seen = BTreeSet::new();
    eventually("both are reached", async || {
        seen.insert(traffic.never_fails().await);
        ensure!(seen.len() == 2, "only {seen:?}");
        Ok(())
    })
    .await;
    for (first, second, expected) in [(0, 100, "other"), (100, 0, "one")] {
        control.apply(&objects(port, first, second)).await.unwrap();
        // One answer could still come from the route before; so many in a row do not.
        eventually(&format!("{expected} alone is reached"), async || {
            for _ in 0..30 {
                let answered = traffic.never_fails().await;
                ensure!(answered == expected, "{answered} answered");
            }
            Ok(())
        })
        .await;
    }
}

async fn on_embedded(peer: Peer) {
    let control = Control::start(&[]).await.unwrap();
    journey(&control, peer).await;
}

async fn on_etcd(peer: Peer) {
    let etcd = Etcd::start().await.unwrap();
    let control = Control::start(&["--store", &format!("etcd://{}", etcd.endpoint())]).await.unwrap();
    journey(&control, peer).await;
}

async fn on_consul(peer: Peer) {
    let consul = Consul::start().await.unwrap();
    let control = Control::start(&["--store", &format!("consul://{}", consul.endpoint())]).await.unwrap();
    journey(&control, peer).await;
}

macro_rules! journeys {
    ($($store:ident { $($name:ident: $peer:expr,)* })*) => {
        $(mod $store {
            use super::Peer;

            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$store($peer).await;
            })*
        })*
    };
}

journeys! {
    on_embedded {
        our_proxy_sotw: Peer::Ours { delta: false },
        our_proxy_delta: Peer::Ours { delta: true },
        envoy_sotw: Peer::Envoy { delta: false },
        envoy_delta: Peer::Envoy { delta: true },
        grpc: Peer::Grpc,
    }
    on_etcd {
        our_proxy_sotw: Peer::Ours { delta: false },
        our_proxy_delta: Peer::Ours { delta: true },
        envoy_sotw: Peer::Envoy { delta: false },
        envoy_delta: Peer::Envoy { delta: true },
        grpc: Peer::Grpc,
    }
    on_consul {
        our_proxy_sotw: Peer::Ours { delta: false },
        our_proxy_delta: Peer::Ours { delta: true },
        envoy_sotw: Peer::Envoy { delta: false },
        envoy_delta: Peer::Envoy { delta: true },
        grpc: Peer::Grpc,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_consul_check_takes_an_instance_out_and_its_recovery_brings_it_back() {
    for peer in [Peer::Ours { delta: true }, Peer::Envoy { delta: true }] {
        let consul = Consul::start().await.unwrap();
        let control = Control::start(&["--store", &format!("consul://{}", consul.endpoint())]).await.unwrap();
        let one = Upstream::start("one").await.unwrap();
        consul.register("web", "web-1", one.addr.port(), Duration::from_secs(600)).await.unwrap();
        control.apply(&objects(e2e::process::free_port().unwrap(), 100, 0)).await.unwrap();
        let traffic = Traffic::start(peer, &control).await.unwrap();
        traffic.reaches("one").await;
        consul.check("web-1", "fail").await.unwrap();
        traffic.reaches_nothing().await;
        consul.check("web-1", "pass").await.unwrap();
        traffic.reaches("one").await;
    }
}

/// Blue-green: each time the route names a cluster that the client does not have yet, and no longer the one it has. The
/// services' instances take their time for a health check, before which they get no requests.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_when_all_traffic_moves_to_a_service_that_is_new_to_the_client() {
    let route = |port: u16, service: &str| {
        format!(
            "
kind: Gateway
name: edge
spec: {{group: edge, listeners: [{{name: web, address: 127.0.0.1, port: {port}}}]}}
---
kind: Route
name: web
spec: {{gateways: [edge], rules: [{{backends: [{{service: {service}}}]}}]}}
---
kind: Service
name: blue
spec: {{health_check: {{http: {{path: /}}}}}}
---
kind: Service
name: green
spec: {{health_check: {{http: {{path: /}}}}}}
"
        )
    };
    for (peer, delta) in [(true, true), (true, false), (false, true), (false, false)] {
        let peer = if peer { Peer::Ours { delta } } else { Peer::Envoy { delta } };
        let control = Control::start(&[]).await.unwrap();
        let (blue, green) = (Upstream::start("blue").await.unwrap(), Upstream::start("green").await.unwrap());
        control.register("blue", "blue", blue.addr, None).await.unwrap();
        control.register("green", "green", green.addr, None).await.unwrap();
        let port = e2e::process::free_port().unwrap();
        control.apply(&route(port, "blue")).await.unwrap();
        let traffic = Traffic::start(peer, &control).await.unwrap();
        traffic.reaches("blue").await;
        for expected in ["green", "blue", "green"] {
            control.apply(&route(port, expected)).await.unwrap();
            eventually(&format!("{expected} is reached by {peer:?}"), async || {
                let answered = traffic.never_fails().await;
                ensure!(answered == expected, "{answered} answered");
                Ok(())
            })
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_come_from_consul_while_configuration_is_in_etcd() {
    let (etcd, consul) = (Etcd::start().await.unwrap(), Consul::start().await.unwrap());
    let (config, services) =
        (format!("etcd://{}", etcd.endpoint()), format!("consul://{}", consul.endpoint()));
    let control = Control::start(&["--store", &config, "--service-store", &services]).await.unwrap();
    let one = Upstream::start("one").await.unwrap();
    consul.register("web", "web-1", one.addr.port(), Duration::from_secs(600)).await.unwrap();
    control.apply(&objects(e2e::process::free_port().unwrap(), 100, 0)).await.unwrap();
    Traffic::start(Peer::Ours { delta: true }, &control).await.unwrap().reaches("one").await;
}

/// The store away, then the control plane away: traffic goes on, and what changed meanwhile arrives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn traffic_survives_the_loss_of_the_store_and_of_the_control_plane() {
    for peer in [Peer::Ours { delta: true }, Peer::Ours { delta: false }, Peer::Envoy { delta: true }] {
        let mut etcd = Etcd::start().await.unwrap();
        let mut control = Control::start(&["--store", &format!("etcd://{}", etcd.endpoint())]).await.unwrap();
        let (one, two) = (Upstream::start("one").await.unwrap(), Upstream::start("two").await.unwrap());
        control.register("web", "one", one.addr, None).await.unwrap();
        control.register("other", "other", two.addr, None).await.unwrap();
        let port = e2e::process::free_port().unwrap();
        control.apply(&objects(port, 100, 0)).await.unwrap();
        let traffic = Traffic::start(peer, &control).await.unwrap();
        traffic.reaches("one").await;
        eventually("the last good state is on disk", async || {
            let text = std::fs::read_to_string(control.dir().join("data/last-good.json"))?;
            ensure!(text.contains("/web/one") && text.contains("/route/web"), "{text}");
            Ok(())
        })
        .await;

        etcd.kill();
        assert_eq!(traffic.ask().await.unwrap(), "one", "the store is away, traffic goes on");
        control.kill();
        assert_eq!(traffic.ask().await.unwrap(), "one", "the control plane is away, traffic goes on");
        control.restart().await.unwrap();
        eventually("the control plane serves its last good state without the store", async || {
            let answer = control.call("GET", "/readyz", "").await?;
            ensure!(answer.status == 200, "{}", answer.text());
            Ok(())
        })
        .await;
        eventually("the proxy has come back", async || {
            let status = control.status().await?;
            ensure!(status["nodes"][0]["group"] == "edge", "{status}");
            Ok(())
        })
        .await;
        assert_eq!(
            traffic.ask().await.unwrap(),
            "one",
            "what a restarted control plane says changes nothing"
        );

        etcd.restart().await.unwrap();
        eventually("writes work again", async || control.apply(&objects(port, 0, 100)).await).await;
        traffic.reaches("two").await;
    }
}
