//! The rate-limit service over gRPC: decisions a second, and how long each takes, in memory and with Redis.
//!
//! The control plane and Redis run as processes of their own; the client here shares the machine with them, so that
//! figures are of all three together. A decision is one descriptor of a call.

use anyhow::Result;
use clap::Parser;
use e2e::control::Control;
use e2e::eventually;
use e2e::redis::Redis;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tonic::transport::Channel;
use xds_types::envoy::extensions::common::ratelimit::v3::{
    RateLimitDescriptor, rate_limit_descriptor::Entry,
};
use xds_types::envoy::service::ratelimit::v3::RateLimitRequest;
use xds_types::envoy::service::ratelimit::v3::rate_limit_service_client::RateLimitServiceClient;

#[derive(Parser)]
struct Args {
    /// For each figure.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Connections, as of so many proxies.
    #[arg(long, default_value_t = 8)]
    connections: usize,
    /// Calls under way on each.
    #[arg(long, default_value_t = 32)]
    calls: usize,
    /// Clients that are told apart.
    #[arg(long, default_value_t = 100_000)]
    keys: u64,
}

const DOMAIN: &str = "
kind: Policy
name: bench
spec:
  rate_limit_domain:
    domain: bench
    descriptors:
    - {key: fixed, rate_limit: {unit: minute, requests_per_unit: 100}}
    - {key: bucket, rate_limit: {unit: minute, requests_per_unit: 100, algorithm: token_bucket}}
    - {key: sliding, rate_limit: {unit: minute, requests_per_unit: 100, algorithm: sliding_window}}
";

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    println!(
        "{:<10} {:<8} {:>5} {:>14} {:>9} {:>9}",
        "backend", "kind", "desc", "decisions/s", "p50 ms", "p99 ms"
    );
    let memory = Control::start(&[]).await?;
    measure("memory", &memory, &args).await?;
    drop(memory);
    let redis = Redis::start(None).await?;
    let url = redis.url();
    let control =
        Control::start(&["--ratelimit-redis", &url, "--ratelimit-redis-timeout-ms", "2000"]).await?;
    eventually("Redis is up", async || {
        let text = control.call("GET", "/metrics", "").await.map_err(|e| e.to_string())?.text();
        if text.contains("ratelimit_redis_up 1") { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await;
    measure("redis", &control, &args).await
}

async fn measure(backend: &str, control: &Control, args: &Args) -> Result<()> {
    control.apply(DOMAIN).await?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    for (kind, descriptors) in [("fixed", 1), ("bucket", 1), ("sliding", 1), ("fixed", 4)] {
        let (decisions, mut took) = run(control, args, kind, descriptors).await?;
        took.sort_unstable();
        let at = |share: f64| {
            let index = ((took.len() as f64 * share) as usize).min(took.len().saturating_sub(1));
            took.get(index).map_or(0.0, |d| d.as_secs_f64() * 1000.0)
        };
        println!(
            "{backend:<10} {kind:<8} {descriptors:>5} {:>14.0} {:>9.2} {:>9.2}",
            decisions as f64 / args.seconds as f64,
            at(0.5),
            at(0.99)
        );
    }
    Ok(())
}

async fn run(
    control: &Control,
    args: &Args,
    kind: &'static str,
    descriptors: u64,
) -> Result<(u64, Vec<Duration>)> {
    let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..args.connections {
        let channel = Channel::from_shared(format!("http://{}", control.ratelimit))?.connect().await?;
        for _ in 0..args.calls {
            let mut client = RateLimitServiceClient::new(channel.clone());
            let (stop, count, keys) = (stop.clone(), count.clone(), args.keys);
            tasks.spawn(async move {
                let mut took = Vec::new();
                while !stop.load(Relaxed) {
                    let one = |_| RateLimitDescriptor {
                        entries: vec![Entry {
                            key: kind.to_owned(),
                            value: fastrand::u64(..keys).to_string(),
                        }],
                        ..RateLimitDescriptor::default()
                    };
                    let request = RateLimitRequest {
                        domain: "bench".to_owned(),
                        descriptors: (0..descriptors).map(one).collect(),
                        hits_addend: 1,
                    };
                    let start = Instant::now();
                    client.should_rate_limit(request).await?;
                    took.push(start.elapsed());
                    count.fetch_add(descriptors, Relaxed);
                }
                Ok::<_, tonic::Status>(took)
            });
        }
    }
    tokio::time::sleep(Duration::from_secs(args.seconds)).await;
    let counted = count.load(Relaxed);
    stop.store(true, Relaxed);
    let mut all = Vec::new();
    while let Some(done) = tasks.join_next().await {
        all.extend(done??);
    }
    Ok((counted, all))
}
