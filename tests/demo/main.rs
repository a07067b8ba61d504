//! `make demo`: the main job, shown on one machine.
//!
//! Starts a control plane on the chosen store, a proxy, and two instances each of two services; registers them,
//! applies a gateway and routes, then moves traffic from one service to the other while it is under load.

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
use tokio::task::JoinSet;

/// Time each share of traffic is shown for.
const ACT: Duration = Duration::from_secs(3);
/// Concurrent clients of the load.
const CLIENTS: usize = 8;

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
    tokio::select! {
        shown = show(&options) => shown,
        interrupted = tokio::signal::ctrl_c() => {
            println!("\nstopping everything");
            Ok(interrupted?)
        }
    }
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
            let (process, addr) = echo(&format!("{service}-{n}"), &dir).await?;
            control.register(service, &format!("{service}-{n}"), addr, None).await?;
            println!("service        {service}, instance {service}-{n} on {addr}");
            services.push(process);
        }
    }
    control.apply(&gateway(options.port)).await?;
    control.apply(&route(100, 0)).await?;
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

    reroute(&control, web).await?;
    if options.once {
        return Ok(());
    }
    println!("\neverything keeps running; Ctrl-C stops it");
    std::future::pending().await
}

/// Changes the route under load and counts what every client saw.
async fn reroute(control: &Control, web: SocketAddr) -> Result<()> {
    println!("a route change under load ({CLIENTS} clients), no restart:");
    let load = Arc::new(Load::default());
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        clients.spawn(Arc::clone(&load).run(web));
    }
    for (blue, green) in [(100, 0), (50, 50), (0, 100)] {
        control.apply(&route(blue, green)).await?;
        let before = load.seen();
        tokio::time::sleep(ACT).await;
        let after = load.seen();
        let grown = |name: &str| after.get(name).unwrap_or(&0) - before.get(name).unwrap_or(&0);
        println!(
            "  blue {blue:>3} / green {green:>3}: {:>6} answers from blue, {:>6} from green, {} failures",
            grown("blue"),
            grown("green"),
            load.failed.load(Relaxed),
        );
    }
    load.stop.store(true, Relaxed);
    while clients.join_next().await.is_some() {}
    let failed = load.failed.load(Relaxed);
    println!("  in all: {} requests, {failed} failures", load.sent.load(Relaxed));
    ensure!(failed == 0, "requests failed: {}", load.reason.lock());
    Ok(())
}

#[derive(Default)]
struct Load {
    stop: AtomicBool,
    sent: AtomicU64,
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
async fn echo(name: &str, dir: &TempDir) -> Result<(Process, SocketAddr)> {
    let mut process = Process::spawn(name, &built("portolan-echo")?, [name], &[], dir.path())?;
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

fn route(blue: u32, green: u32) -> String {
    format!(
        "
kind: Route
name: shop
spec:
  gateways: [edge]
  rules:
  - matches: [{{exact: /fixed}}]
    respond: {{status: 200, body: \"an answer of the proxy itself\\n\"}}
  - backends:
    - {{service: blue, weight: {blue}}}
    - {{service: green, weight: {green}}}
"
    )
}
