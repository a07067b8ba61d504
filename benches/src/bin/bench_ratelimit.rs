//! The rate-limit service over gRPC: decisions a second, and how long each takes, in memory and with Redis.
//!
//! The control plane and Redis run as processes of their own; the client here shares the machine with them, so that
//! decisions a second are of all three together, and CPU is of the control plane alone. The client's end of gRPC is as
//! small as it can be, since it takes of the same cores. A decision is one descriptor of a call.

use anyhow::{Context, Result, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use clap::Parser;
use e2e::control::Control;
use e2e::eventually;
use e2e::redis::Redis;
use h2::client::SendRequest;
use prost::Message;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use xds_types::envoy::extensions::common::ratelimit::v3::{
    RateLimitDescriptor, rate_limit_descriptor::Entry,
};
use xds_types::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};

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
        "{:<10} {:<8} {:>5} {:>14} {:>9} {:>9} {:>9}",
        "backend", "kind", "desc", "decisions/s", "cpu us", "p50 ms", "p99 ms"
    );
    let mut memory = Control::start(&[]).await?;
    measure("memory", &mut memory, &args).await?;
    drop(memory);
    let redis = Redis::start(None).await?;
    let url = redis.url();
    let mut control =
        Control::start(&["--ratelimit-redis", &url, "--ratelimit-redis-timeout-ms", "2000"]).await?;
    eventually("Redis is up", async || {
        let text = control.call("GET", "/metrics", "").await.map_err(|e| e.to_string())?.text();
        if text.contains("ratelimit_redis_up 1") { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await;
    measure("redis", &mut control, &args).await
}

async fn measure(backend: &str, control: &mut Control, args: &Args) -> Result<()> {
    control.apply(DOMAIN).await?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    for (kind, descriptors) in [("fixed", 1), ("bucket", 1), ("sliding", 1), ("fixed", 4)] {
        let mut run = run(control, args, kind, descriptors).await?;
        run.took.sort_unstable();
        let at = |share: f64| {
            let index = ((run.took.len() as f64 * share) as usize).min(run.took.len().saturating_sub(1));
            run.took.get(index).map_or(0.0, |d| d.as_secs_f64() * 1000.0)
        };
        println!(
            "{backend:<10} {kind:<8} {descriptors:>5} {:>14.0} {:>9.2} {:>9.2} {:>9.2}",
            run.decisions as f64 / args.seconds as f64,
            run.cpu.as_secs_f64() * 1e6 / run.decisions as f64,
            at(0.5),
            at(0.99)
        );
    }
    Ok(())
}

/// Longest wait for calls under way at the end.
const PATIENCE: Duration = Duration::from_secs(10);

struct Run {
    decisions: u64,
    /// Of the control plane.
    cpu: Duration,
    /// How long each call took.
    took: Vec<Duration>,
}

async fn run(control: &mut Control, args: &Args, kind: &'static str, descriptors: u64) -> Result<Run> {
    let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut calls = JoinSet::new();
    // Dropped at the end, which ends the connections.
    let mut connections = JoinSet::new();
    for _ in 0..args.connections {
        let stream = TcpStream::connect(control.ratelimit).await?;
        stream.set_nodelay(true)?;
        let (send, connection) = h2::client::handshake(stream).await?;
        connections.spawn(connection);
        for _ in 0..args.calls {
            let (client, stop, count, keys) =
                (Client::new(control.ratelimit, send.clone())?, stop.clone(), count.clone(), args.keys);
            calls.spawn(async move {
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
                    let answer = client.call(&request).await?;
                    took.push(start.elapsed());
                    ensure!(answer.statuses.len() as u64 == descriptors, "not all were decided: {answer:?}");
                    count.fetch_add(descriptors, Relaxed);
                }
                Ok::<_, anyhow::Error>(took)
            });
        }
    }
    let (cpu, counted) = (control.process().cpu()?, count.load(Relaxed));
    tokio::time::sleep(Duration::from_secs(args.seconds)).await;
    let (cpu, decisions) = (control.process().cpu()?.saturating_sub(cpu), count.load(Relaxed) - counted);
    stop.store(true, Relaxed);
    let mut took = Vec::new();
    while let Some(done) = timeout(PATIENCE, calls.join_next()).await.context("a call without an answer")? {
        took.extend(done??);
    }
    Ok(Run { decisions, cpu, took })
}

/// One caller of the service on a connection that it shares with others.
struct Client {
    send: SendRequest<Bytes>,
    head: http::Request<()>,
}

impl Client {
    fn new(server: SocketAddr, send: SendRequest<Bytes>) -> Result<Self> {
        let head = http::Request::post(format!(
            "http://{server}/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
        ))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())?;
        Ok(Self { send, head })
    }

    async fn call(&self, request: &RateLimitRequest) -> Result<RateLimitResponse> {
        let mut send = self.send.clone().ready().await?;
        let (answer, mut body) = send.send_request(self.head.clone(), false)?;
        body.send_data(framed(request)?, true)?;
        let (head, mut body) = answer.await?.into_parts();
        let mut message = BytesMut::new();
        while let Some(data) = body.data().await {
            let data = data?;
            body.flow_control().release_capacity(data.len())?;
            message.extend_from_slice(&data);
        }
        let trailers = body.trailers().await?.unwrap_or(head.headers);
        let status = trailers.get("grpc-status").context("an answer without grpc-status")?;
        ensure!(status == "0", "refused: {trailers:?}");
        Ok(RateLimitResponse::decode(message.get(PREFIX..).context("an answer without a message")?)?)
    }
}

/// What gRPC puts before a message: whether it is compressed, and its length.
const PREFIX: usize = 5;

fn framed(message: &impl Message) -> Result<Bytes> {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(PREFIX + length);
    frame.put_u8(0);
    frame.put_u32(length.try_into()?);
    message.encode(&mut frame)?;
    Ok(frame.freeze())
}
