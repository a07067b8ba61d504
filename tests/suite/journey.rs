//! The main job: a service registered in any store is reached through any client, gone when it is gone, and
//! rerouted under load without a failed request.

use anyhow::{Result, bail, ensure};
use e2e::client::Client;
use e2e::control::Control;
use e2e::envoy::Envoy;
use e2e::eventually;
use e2e::eventually::PATIENCE;
use e2e::grpc::GrpcClient;
use e2e::process::{Process, built};
use e2e::proxy;
use e2e::store::{Consul, Etcd};
use e2e::upstream::Upstream;
use futures_util::future::join_all;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Who asks the control plane and carries traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peer {
    Ours { delta: bool },
    Envoy { delta: bool },
    Grpc,
}

const EVERY_PEER: [Peer; 5] = [
    Peer::Ours { delta: true },
    Peer::Ours { delta: false },
    Peer::Envoy { delta: true },
    Peer::Envoy { delta: false },
    Peer::Grpc,
];

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
    for peer in EVERY_PEER {
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

/// A store that goes away and comes back.
enum Remote {
    Etcd(Etcd),
    Consul(Consul),
}

impl Remote {
    fn url(&self) -> String {
        match self {
            Self::Etcd(etcd) => format!("etcd://{}", etcd.endpoint()),
            Self::Consul(consul) => format!("consul://{}", consul.endpoint()),
        }
    }

    fn kill(&mut self) {
        match self {
            Self::Etcd(etcd) => etcd.kill(),
            Self::Consul(consul) => consul.kill(),
        }
    }

    async fn restart(&mut self) -> Result<()> {
        match self {
            Self::Etcd(etcd) => etcd.restart().await,
            Self::Consul(consul) => consul.restart().await,
        }
    }
}

/// The store away, then the control plane away: traffic goes on, and what changed meanwhile arrives.
async fn survives_losses(mut store: Remote, peer: Peer) {
    let mut control = Control::start(&["--store", &store.url()]).await.unwrap();
    let (one, two) = (Upstream::start("one").await.unwrap(), Upstream::start("two").await.unwrap());
    control.register("web", "one", one.addr, None).await.unwrap();
    control.register("other", "other", two.addr, None).await.unwrap();
    let port = e2e::process::free_port().unwrap();
    control.apply(&objects(port, 100, 0)).await.unwrap();
    let traffic = Traffic::start(peer, &control).await.unwrap();
    traffic.reaches("one").await;
    eventually("the last good state is on disk", async || {
        let text = std::fs::read_to_string(control.dir().join("data/last-good.json"))?;
        ensure!(text.contains("/web/one") || text.contains("/web/t/one"), "{text}");
        ensure!(text.contains("/route/web"), "{text}");
        Ok(())
    })
    .await;

    store.kill();
    assert_eq!(traffic.ask().await.unwrap(), "one", "{peer:?}: the store is away, traffic goes on");
    control.kill();
    assert_eq!(traffic.ask().await.unwrap(), "one", "{peer:?}: the control plane is away, traffic goes on");
    control.restart().await.unwrap();
    eventually("the control plane serves its last good state without the store", async || {
        let answer = control.call("GET", "/readyz", "").await?;
        ensure!(answer.status == 200, "{}", answer.text());
        Ok(())
    })
    .await;
    let group = if peer == Peer::Grpc { "mesh" } else { "edge" };
    eventually("the client has come back", async || {
        let status = control.status().await?;
        ensure!(status["nodes"][0]["group"] == group, "{status}");
        Ok(())
    })
    .await;
    let answered = traffic.ask().await.unwrap();
    assert_eq!(answered, "one", "{peer:?}: what a restarted control plane says changes nothing");

    store.restart().await.unwrap();
    eventually("writes work again", async || control.apply(&objects(port, 0, 100)).await).await;
    if matches!(store, Remote::Consul(_)) {
        // It has forgotten its instances.
        for (service, upstream) in [("web", &one), ("other", &two)] {
            let id = if service == "web" { "one" } else { "other" };
            eventually("registrations work again", async || {
                control.register(service, id, upstream.addr, None).await
            })
            .await;
        }
    }
    traffic.reaches("two").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn traffic_survives_the_loss_of_etcd_and_of_the_control_plane() {
    let each = EVERY_PEER
        .map(|peer| async move { survives_losses(Remote::Etcd(Etcd::start().await.unwrap()), peer).await });
    join_all(each).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn traffic_survives_the_loss_of_consul_and_of_the_control_plane() {
    let each = EVERY_PEER.map(|peer| async move {
        survives_losses(Remote::Consul(Consul::start().await.unwrap()), peer).await
    });
    join_all(each).await;
}

/// Connections end at their age, and their clients come back, perhaps to another replica, without a failed request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_end_at_their_age_and_nobody_notices() {
    let one = async |peer: Peer| {
        let control = Control::start(&["--xds-max-age=1"]).await.unwrap();
        let upstream = Upstream::start("one").await.unwrap();
        control.register("web", "one", upstream.addr, None).await.unwrap();
        control.apply(&objects(e2e::process::free_port().unwrap(), 100, 0)).await.unwrap();
        let traffic = Traffic::start(peer, &control).await.unwrap();
        traffic.reaches("one").await;
        let mut connected = BTreeSet::new();
        eventually("it has connected three times", async || {
            assert_eq!(traffic.never_fails().await, "one");
            let status = control.status().await?;
            connected.extend(status["nodes"][0]["peer"].as_str().map(str::to_owned));
            ensure!(connected.len() >= 3, "{peer:?} from {connected:?}");
            Ok(())
        })
        .await;
    };
    join_all(EVERY_PEER.map(one)).await;
}

/// What the tool registers and keeps stays as long as the tool does.
async fn kept_by_the_tool(control: Control) {
    let listed = async || -> Result<bool> {
        let answer = control.call("GET", "/api/v1/services/web/instances", "").await?;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
        let found = answer.json()?["instances"].as_array().cloned().unwrap_or_default();
        let is_it = |i: &serde_json::Value| {
            i["id"].as_str().is_some_and(|id| id.ends_with("one")) && i["health"] != "UNHEALTHY"
        };
        Ok(found.iter().any(|i| is_it(&i["instance"])))
    };
    let until = async |there: bool, what: &str| {
        eventually(what, async || {
            ensure!(listed().await? == there, "not yet");
            Ok(())
        })
        .await;
    };
    let dir = tempfile::TempDir::new().unwrap();
    let tool = || {
        let api = format!("http://{}", control.api);
        let args = ["--api", &api, "register", "web", "127.0.0.1:80", "--id=one", "--ttl=2", "--keep"];
        Process::spawn("tool", &built("portolan").unwrap(), args, &[], dir.path()).unwrap()
    };
    let mut first = tool();
    until(true, "it is registered").await;
    let start = Instant::now();
    while start.elapsed() < 3 * TTL {
        assert!(listed().await.unwrap(), "after {:?}: {}", start.elapsed(), first.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    first.kill();
    until(false, "it expires when nobody renews it").await;
    let mut second = tool();
    until(true, "it is registered again").await;
    second.signal("INT").unwrap();
    let (ended, log) =
        tokio::task::spawn_blocking(move || (second.wait(PATIENCE), second.log())).await.unwrap();
    assert!(ended.unwrap().success(), "{log}");
    let ended = Instant::now();
    until(false, "it deregisters when it ends").await;
    assert!(ended.elapsed() < TTL / 2, "{:?}: it did not expire", ended.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tool_keeps_an_instance_registered_on_every_store() {
    let (etcd, consul) = (Etcd::start().await.unwrap(), Consul::start().await.unwrap());
    let (etcd_url, consul_url) =
        (format!("etcd://{}", etcd.endpoint()), format!("consul://{}", consul.endpoint()));
    let on = async |store: &str| {
        let control = Control::start(&["--store", store]).await.unwrap();
        eventually("the store is there", async || {
            ensure!(control.call("GET", "/readyz", "").await?.status == 200, "not yet");
            Ok(())
        })
        .await;
        kept_by_the_tool(control).await;
    };
    tokio::join!(on("embedded"), on(&etcd_url), on(&consul_url));
}

/// What `make demo` shows, in a hurry.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_demo_ends_without_a_failed_request() {
    let dir = tempfile::TempDir::new().unwrap();
    let port = e2e::process::free_port().unwrap();
    let args = ["--once".to_owned(), format!("--port={port}"), "--act-ms=300".to_owned()];
    let mut demo = Process::spawn("demo", &built("portolan-demo").unwrap(), args, &[], dir.path()).unwrap();
    let waited = tokio::task::spawn_blocking(move || (demo.wait(3 * PATIENCE), demo.log())).await.unwrap();
    let (ended, log) = waited;
    assert!(ended.unwrap().success(), "{log}");
    let told = log.lines().rfind(|l| l.starts_with("in all:")).unwrap_or_default();
    assert!(told.ends_with(" 0 failures"), "{log}");
    for act in ["blue  50 / green  50", "found bad after", "green   0 / canary 100", "  canary 100"] {
        assert!(log.contains(act), "{act}:\n{log}");
    }
}
