//! Most of a service lost at once is held: a dead network between servers and their store looks the same as dead servers.

use anyhow::{Result, ensure};
use e2e::client::Client;
use e2e::control::Control;
use e2e::envoy::Envoy;
use e2e::process::built;
use e2e::store::{Consul, Etcd};
use e2e::upstream::Upstream;
use e2e::{eventually, proxy};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

/// Shortest life that every store grants.
const TTL: Duration = Duration::from_secs(2);
/// A life that no test sees end.
const LONG: Duration = Duration::from_secs(600);
const NAMES: [&str; 4] = ["one", "two", "three", "four"];

const OBJECTS: &str = "
kind: Gateway
name: edge
spec: {group: edge, listeners: [{name: web, address: 127.0.0.1, port: PORT}]}
---
kind: Route
name: web
spec:
  gateways: [edge]
  rules: [{backends: [{service: web}]}]
";

/// Four instances behind a proxy.
struct Scene {
    upstreams: Vec<Upstream>,
    _proxy: Envoy,
    web: SocketAddr,
    client: Client,
}

impl Scene {
    /// Starts instances; `register` makes them known.
    async fn start(control: &Control, register: impl AsyncFn(&str, SocketAddr) -> Result<()>) -> Self {
        let mut upstreams = Vec::new();
        for name in NAMES {
            let upstream = Upstream::start(name).await.unwrap();
            register(name, upstream.addr).await.unwrap();
            upstreams.push(upstream);
        }
        let port = e2e::process::free_port().unwrap();
        control.apply(&OBJECTS.replace("PORT", &port.to_string())).await.unwrap();
        let proxy = proxy::start(&control.bootstrap("edge", "edge-1", true).await.unwrap()).await.unwrap();
        let web = SocketAddr::from(([127, 0, 0, 1], port));
        let scene = Self { upstreams, _proxy: proxy, web, client: Client::h1() };
        scene.reaches(&NAMES).await;
        scene
    }

    /// Who answers so many requests that everybody is asked.
    async fn answering(&self) -> BTreeSet<String> {
        let mut seen = BTreeSet::new();
        for _ in 0..24 {
            if let Ok(answer) = self.client.get(&format!("http://{}/", self.web)).await
                && answer.status == 200
            {
                seen.insert(answer.header("x-instance").to_owned());
            }
        }
        seen
    }

    async fn reaches(&self, names: &[&str]) {
        let expected: BTreeSet<String> = names.iter().map(|n| (*n).to_owned()).collect();
        eventually(&format!("{names:?} are reached"), async || {
            let seen = self.answering().await;
            ensure!(seen == expected, "{seen:?} answered");
            Ok(())
        })
        .await;
    }
}

async fn held(control: &Control, lost: &[&str]) {
    let mut expected: Vec<String> = lost.iter().map(|n| (*n).to_owned()).collect();
    expected.sort();
    eventually(&format!("{lost:?} are held"), async || {
        let status = control.status().await?;
        let ids = status["held"][0]["lost"].as_array().cloned().unwrap_or_default();
        let mut ids: Vec<_> = ids.iter().filter_map(|id| id.as_str()?.split('/').next_back()).collect();
        ids.sort_unstable();
        ensure!(ids == expected, "held: {:#}", status["held"]);
        Ok(())
    })
    .await;
}

async fn nothing_held(control: &Control) {
    eventually("nothing is held", async || {
        let status = control.status().await?;
        ensure!(status["held"].is_null(), "{:#}", status["held"]);
        Ok(())
    })
    .await;
}

async fn registered(control: &Control, count: usize) {
    eventually(&format!("{count} are registered"), async || {
        let answer = control.call("GET", "/api/v1/services/web/instances", "").await?.json()?;
        let found = answer["instances"].as_array().map_or(0, Vec::len);
        ensure!(found == count, "{answer:#}");
        Ok(())
    })
    .await;
}

fn portolan(control: &Control, args: &[&str]) -> String {
    let api = format!("http://{}", control.api);
    let ran =
        std::process::Command::new(built("portolan").unwrap()).args(["--api", &api]).args(args).output();
    let ran = ran.unwrap();
    let told = String::from_utf8_lossy(&ran.stdout).into_owned();
    assert!(ran.status.success(), "{args:?}: {told}{}", String::from_utf8_lossy(&ran.stderr));
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_that_end_at_once_are_held_over_a_restart_until_enough_are_back() {
    let etcd = Etcd::start().await.unwrap();
    let stores = [format!("etcd://{}", etcd.endpoint()), "embedded".to_owned()];
    for store in &stores {
        let mut control = Control::start(&["--store", store]).await.unwrap();
        let scene =
            Scene::start(&control, async |name, addr| control.register("web", name, addr, None).await).await;
        for (name, upstream) in NAMES.iter().zip(&scene.upstreams) {
            control.register("web", name, upstream.addr, Some(TTL)).await.unwrap();
        }
        held(&control, &NAMES).await;
        registered(&control, 0).await;
        scene.reaches(&NAMES).await;
        let told = portolan(&control, &["status"]);
        assert!(told.contains("HELD: web has lost 4 of 4"), "{told}");
        let metrics = control.call("GET", "/metrics", "").await.unwrap().text();
        for line in ["mass_loss_held_services 1", "mass_loss_held_instances 4", "mass_loss_holds_total 1"] {
            assert!(metrics.contains(line), "{line} is not in {metrics}");
        }

        eventually("what is held is on disk", async || {
            let text = std::fs::read_to_string(control.dir().join("data/held.json"))?;
            ensure!(text.contains("/web/one"), "{text}");
            Ok(())
        })
        .await;
        control.restart().await.unwrap();
        held(&control, &NAMES).await;
        scene.reaches(&NAMES).await;

        control.register("web", "one", scene.upstreams[0].addr, None).await.unwrap();
        held(&control, &NAMES[1..]).await;
        control.register("web", "two", scene.upstreams[1].addr, None).await.unwrap();
        nothing_held(&control).await;
        scene.reaches(&NAMES[..2]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_that_are_deregistered_or_whose_keys_are_deleted_go_at_once() {
    let etcd = Etcd::start().await.unwrap();
    let mut raw = etcd_client::Client::connect([etcd.endpoint()], None).await.unwrap();
    let store = format!("etcd://{}", etcd.endpoint());
    let control = Control::start(&["--store", &store]).await.unwrap();
    // Another control plane sees of a deregistration only what etcd tells.
    let other = Control::start(&["--store", &store]).await.unwrap();
    let scene =
        Scene::start(&other, async |name, addr| control.register("web", name, addr, Some(LONG)).await).await;
    control.deregister("web", "one").await.unwrap();
    control.deregister("web", "two").await.unwrap();
    scene.reaches(&NAMES[2..]).await;
    raw.delete("/portolan/v1/instances/web/three", None).await.unwrap();
    scene.reaches(&NAMES[3..]).await;
    raw.delete("/portolan/v1/instances/web/four", None).await.unwrap();
    scene.reaches(&[]).await;
    nothing_held(&other).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_ends_after_its_longest_time() {
    let control = Control::start(&["--mass-loss-hold", "4"]).await.unwrap();
    let scene =
        Scene::start(&control, async |name, addr| control.register("web", name, addr, None).await).await;
    for (name, upstream) in NAMES.iter().zip(&scene.upstreams) {
        control.register("web", name, upstream.addr, Some(Duration::from_secs(1))).await.unwrap();
    }
    held(&control, &NAMES).await;
    nothing_held(&control).await;
    scene.reaches(&[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_checks_of_most_of_a_consul_service_are_held_until_the_loss_is_accepted() {
    let consul = Consul::start().await.unwrap();
    let control = Control::start(&["--store", &format!("consul://{}", consul.endpoint())]).await.unwrap();
    let scene =
        Scene::start(&control, async |name, addr| consul.register("web", name, addr.port(), LONG).await)
            .await;
    for name in &NAMES[..3] {
        consul.check(name, "fail").await.unwrap();
    }
    held(&control, &NAMES[..3]).await;
    scene.reaches(&NAMES).await;
    consul.check("one", "pass").await.unwrap();
    nothing_held(&control).await;
    scene.reaches(&["one", "four"]).await;

    consul.check("one", "fail").await.unwrap();
    held(&control, &NAMES[..3]).await;
    scene.reaches(&NAMES).await;
    let told = portolan(&control, &["accept-loss", "web"]);
    assert!(told.contains("one let go"), "{told}");
    nothing_held(&control).await;
    scene.reaches(&["four"]).await;
    let again = control.call("POST", "/api/v1/services/web/accept-loss", "").await.unwrap();
    assert_eq!(again.status, 404, "{}", again.text());

    for name in &NAMES[..3] {
        consul.check(name, "pass").await.unwrap();
    }
    scene.reaches(&NAMES).await;
    for name in NAMES {
        consul.deregister(name).await.unwrap();
    }
    scene.reaches(&[]).await;
    nothing_held(&control).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consul_that_comes_back_empty_takes_no_service_away() {
    let mut consul = Consul::start().await.unwrap();
    // Only services are in it: configuration that Consul loses is lost.
    let services = format!("consul://{}", consul.endpoint());
    let control = Control::start(&["--service-store", &services]).await.unwrap();
    let scene =
        Scene::start(&control, async |name, addr| consul.register("web", name, addr.port(), LONG).await)
            .await;
    consul.restart().await.unwrap();
    held(&control, &NAMES).await;
    scene.reaches(&NAMES).await;
    for (name, upstream) in NAMES.iter().zip(&scene.upstreams) {
        consul.register("web", name, upstream.addr.port(), LONG).await.unwrap();
    }
    nothing_held(&control).await;
    scene.reaches(&NAMES).await;
}
