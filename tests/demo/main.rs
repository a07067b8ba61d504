//! `make demo`: the main job, shown on one machine.
//!
//! Starts a control plane on the chosen store, a proxy, and two instances each of two services; registers them,
//! applies a gateway and routes. Then, under load: traffic moves from one service to the other, a broken canary is
//! taken back, a good one takes over, and all traffic moves at once and back. No request fails.

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use e2e::client::Client;
use e2e::control::Control;
use e2e::eventually;
use e2e::process::{Process, built};
use e2e::proxy;
use e2e::store::{Consul, Etcd};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

/// Concurrent clients of the load.
const CLIENTS: usize = 8;
/// Answers 500 that make a canary bad.
const ENOUGH: u64 = 10;

#[derive(Parser)]
struct Options {
    /// Where services and routes are kept
    #[arg(long, value_enum, default_value = "embedded")]
    store: Store,
    /// Where the proxy listens
    #[arg(long, default_value_t = 10000)]
    port: u16,
    /// End after the show instead of waiting for Ctrl-C
    #[arg(long)]
    once: bool,
    /// Time that each share of traffic is shown for
    #[arg(long, default_value_t = 2000, value_name = "MS")]
    act_ms: u64,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Store {
    Embedded,
    Etcd,
    Consul,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let options = Options::parse();
    let mut terminated = signal(SignalKind::terminate())?;
    // What was started ends with the show, whose end drops it.
    tokio::select! {
        shown = show(&options) => return shown,
        interrupted = tokio::signal::ctrl_c() => interrupted?,
        _ = terminated.recv() => {}
    }
    println!("\nstopping everything");
    Ok(())
}

async fn show(options: &Options) -> Result<()> {
    let start = Instant::now();
    let mut etcd = None;
    let mut consul = None;
    let store = match options.store {
        Store::Embedded => "embedded".to_owned(),
        Store::Etcd => format!("etcd://{}", etcd.insert(Etcd::start().await?).endpoint()),
        Store::Consul => format!("consul://{}", consul.insert(Consul::start().await?).endpoint()),
    };
    let control = Control::start(&["--store", &store]).await?;
    println!("control plane  on {store}: API http://{}, xDS {}", control.api, control.xds);

    let dir = TempDir::new()?;
    let mut services = Vec::new();
    for service in ["blue", "green"] {
        for n in 1..=2 {
            let (process, addr) = echo(&format!("{service}-{n}"), 200, &dir).await?;
            control.register(service, &format!("{service}-{n}"), addr, None).await?;
            println!("service        {service}, instance {service}-{n} on {addr}");
            services.push(process);
        }
    }
    control.apply(&gateway(options.port)).await?;
    control.apply(&route(&[("blue", 100), ("green", 0)])).await?;
    let proxy = proxy::start(&control.bootstrap("edge", "edge-1", true).await?).await?;
    let web = SocketAddr::from(([127, 0, 0, 1], options.port));
    println!("proxy          on http://{web}, admin http://{}", proxy.admin);

    let client = Client::h1();
    eventually("the first request is answered", async || {
        let answer = client.get(&format!("http://{web}/hello")).await?;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
        Ok(())
    })
    .await;
    println!("first proxied request {:.1} s after the start\n", start.elapsed().as_secs_f64());

    let portolan = built("portolan")?;
    let portolan = portolan.strip_prefix(std::env::current_dir()?).unwrap_or(&portolan).display();
    println!("try:");
    println!("  curl -s http://{web}/hello");
    println!("  curl -s http://{web}/fixed");
    println!("  curl -s http://{}/api/v1/status", control.api);
    println!("  curl -s http://{}/stats?filter=upstream_rq_total", proxy.admin);
    println!("  {portolan} --api http://{} get", control.api);
    println!("  {portolan} --api http://{} status", control.api);
    println!("  {portolan} --api http://{} bootstrap --group edge   # for a real Envoy\n", control.api);

    services.extend(acts(&control, &dir, web, Duration::from_millis(options.act_ms)).await?);
    if options.once {
        return Ok(());
    }
    println!("\neverything keeps running; Ctrl-C stops it");
    std::future::pending().await
}

/// What is told and shown on, under load from the first act to the last.
struct Stage<'a> {
    control: &'a Control,
    dir: &'a TempDir,
    load: Arc<Load>,
    /// Time each share of traffic is shown for.
    act: Duration,
}

impl Stage<'_> {
    /// Applies a route and counts who answers while it is in force.
    async fn share(&self, backends: &[(&str, u32)]) -> Result<()> {
        self.control.apply(&route(backends)).await?;
        let before = self.load.seen();
        tokio::time::sleep(self.act).await;
        let after = self.load.seen();
        let grown = |name: &str| after.get(name).unwrap_or(&0) - before.get(name).unwrap_or(&0);
        let shares: Vec<_> = backends.iter().map(|(name, weight)| format!("{name} {weight:>3}")).collect();
        let answers: Vec<_> =
            backends.iter().map(|(name, _)| format!("{:>6} answers from {name}", grown(name))).collect();
        println!(
            "  {:<25} {}, {} failures",
            shares.join(" / "),
            answers.join(", "),
            self.load.failed.load(Relaxed)
        );
        Ok(())
    }

    /// Starts an instance of a service that answers a status, and registers it.
    async fn instance(&self, service: &str, n: u32, status: u16) -> Result<Process> {
        let id = format!("{service}-{n}");
        let (process, addr) = echo(&id, status, self.dir).await?;
        self.control.register(service, &id, addr, None).await?;
        Ok(process)
    }

    /// A canary that answers 500: the demo's counts find it, and the weights are put back.
    async fn bad_canary(&self) -> Result<()> {
        println!("\na canary that is broken, taken back by what the demo counts:");
        let broken = self.instance("canary", 1, 500).await?;
        let start = Instant::now();
        let sent = self.load.sent.load(Relaxed);
        self.control.apply(&route(&[("green", 95), ("canary", 5)])).await?;
        eventually("the canary's answers are counted", async || {
            let bad = self.load.broken.load(Relaxed);
            ensure!(bad >= ENOUGH, "{bad} of them");
            Ok(())
        })
        .await;
        let found = start.elapsed();
        self.control.apply(&route(&[("green", 100)])).await?;
        eventually("the canary answers no more", async || {
            let before = self.load.broken.load(Relaxed);
            tokio::time::sleep(self.act / 4).await;
            let more = self.load.broken.load(Relaxed) - before;
            ensure!(more == 0, "{more} more answers");
            Ok(())
        })
        .await;
        println!(
            "  green  95 / canary   5    found bad after {} ms, weights put back: {} of {} requests saw its 500, {} failures",
            found.as_millis(),
            self.load.broken.load(Relaxed),
            self.load.sent.load(Relaxed) - sent,
            self.load.failed.load(Relaxed),
        );
        self.control.deregister("canary", "canary-1").await?;
        drop(broken);
        Ok(())
    }
}

/// Changes routes under load and counts what every client saw. Answers the instances that it started.
async fn acts(control: &Control, dir: &TempDir, web: SocketAddr, act: Duration) -> Result<Vec<Process>> {
    let load = Arc::new(Load::default());
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        clients.spawn(Arc::clone(&load).run(web));
    }
    let stage = Stage { control, dir, load, act };

    println!("a route change under load ({CLIENTS} clients), no restart:");
    for backends in
        [[("blue", 100), ("green", 0)], [("blue", 50), ("green", 50)], [("blue", 0), ("green", 100)]]
    {
        stage.share(&backends).await?;
    }
    stage.bad_canary().await?;
    println!("\nthe canary, mended, takes over step by step:");
    let canary = vec![stage.instance("canary", 2, 200).await?, stage.instance("canary", 3, 200).await?];
    for (green, canary) in [(95, 5), (50, 50), (0, 100)] {
        stage.share(&[("green", green), ("canary", canary)]).await?;
    }
    println!("\nblue-green: all traffic moves at once, by one Route, and back:");
    for service in ["blue", "canary"] {
        stage.share(&[(service, 100)]).await?;
    }

    let load = stage.load;
    load.stop.store(true, Relaxed);
    while clients.join_next().await.is_some() {}
    let failed = load.failed.load(Relaxed);
    println!("\nin all: {} requests, {failed} failures", load.sent.load(Relaxed));
    ensure!(failed == 0, "requests failed: {}", load.reason.lock());
    Ok(canary)
}

#[derive(Default)]
struct Load {
    stop: AtomicBool,
    sent: AtomicU64,
    /// 500s of the broken canary's own.
    broken: AtomicU64,
    failed: AtomicU64,
    by_service: parking_lot::Mutex<BTreeMap<String, u64>>,
    reason: parking_lot::Mutex<String>,
}

impl Load {
    fn seen(&self) -> BTreeMap<String, u64> {
        self.by_service.lock().clone()
    }

    async fn run(self: Arc<Self>, web: SocketAddr) {
        let client = Client::h1();
        while !self.stop.load(Relaxed) {
            self.sent.fetch_add(1, Relaxed);
            match client.get(&format!("http://{web}/hello")).await {
                Ok(answer) if answer.status == 200 => {
                    let service =
                        answer.header("x-instance").split('-').next().unwrap_or_default().to_owned();
                    *self.by_service.lock().entry(service).or_default() += 1;
                }
                Ok(answer) if answer.status == 500 && answer.header("x-instance") == "canary-1" => {
                    self.broken.fetch_add(1, Relaxed);
                }
                Ok(answer) => self.fail(format!("{} {}", answer.status, answer.text())),
                Err(error) => self.fail(format!("{error:#}")),
            }
        }
    }

    fn fail(&self, reason: String) {
        self.failed.fetch_add(1, Relaxed);
        *self.reason.lock() = reason;
    }
}

/// Starts an example service and waits for the address that it prints.
async fn echo(name: &str, status: u16, dir: &TempDir) -> Result<(Process, SocketAddr)> {
    let args = [name.to_owned(), "127.0.0.1:0".to_owned(), status.to_string()];
    let mut process = Process::spawn(name, &built("portolan-echo")?, args, &[], dir.path())?;
    let addr = eventually("the example service listens", async || -> Result<SocketAddr> {
        process.check()?;
        process.log().trim().parse().context("its address")
    })
    .await;
    Ok((process, addr))
}

fn gateway(port: u16) -> String {
    format!(
        "
kind: Gateway
name: edge
spec:
  group: edge
  listeners:
  - {{name: web, address: 127.0.0.1, port: {port}}}
"
    )
}

fn route(backends: &[(&str, u32)]) -> String {
    let backends: Vec<_> = backends
        .iter()
        .map(|(service, weight)| format!("{{service: {service}, weight: {weight}}}"))
        .collect();
    format!(
        "
kind: Route
name: shop
spec:
  gateways: [edge]
  rules:
  - matches: [{{exact: /fixed}}]
    respond: {{status: 200, body: \"an answer of the proxy itself\\n\"}}
  - backends: [{}]
",
        backends.join(", ")
    )
}
