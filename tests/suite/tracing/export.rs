//! A collector that is slow, refuses, hangs or is gone: no request fails for it, memory stays within its bound, and
//! export goes on once it is back.

use super::OTLP_GRPC;
use anyhow::{Result, ensure};
use e2e::client::Client;
use e2e::collector::{Collector, Mood};
use e2e::envoy::Envoy;
use e2e::process::built;
use e2e::upstream::Upstream;
use e2e::{eventually, pair};
use serde_json::Value;
use std::path::Path;
use std::time::Duration;

/// Small, so that limits are met soon.
const MEMORY: u64 = 256 << 10;

struct Bench {
    proxy: Envoy,
    collector: Collector,
    url: String,
    client: Client,
    _upstream: Upstream,
}

impl Bench {
    async fn start(flush_ms: u64, knobs: &str) -> Result<Self> {
        let (upstream, collector) = (Upstream::start("one").await?, Collector::start().await?);
        let (up, to) = (upstream.addr.port().to_string(), collector.addr.port().to_string());
        let routes = pair::routes("{match: {prefix: /}, route: {cluster: up}}");
        let config = format!(
            "{{admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}}}, \
             layered_runtime: {{layers: [{{name: s, static_layer: {{telemetry.flush_interval_ms: {flush_ms}, \
             telemetry.timeout_ms: 300, telemetry.memory_bytes: {MEMORY}{knobs}}}}}]}}, \
             static_resources: {{listeners: [{}], clusters: [{}, {}]}}}}",
            pair::http_listener(
                "web",
                &format!("tracing: {{provider: {}}}", OTLP_GRPC.replace(", timeout: 1s", "")),
                &routes
            ),
            pair::cluster("up", &up, ""),
            pair::cluster("collector_grpc", &to, &format!("connect_timeout: 0.3s, {}", pair::SPEAKS_H2)),
        );
        let proxy = Envoy::launch("proxy", &built("portolan-proxy")?, &config, &[]).await?;
        let url = format!("http://{}/", proxy.listener("web").await?);
        Ok(Self { proxy, collector, url, client: Client::h1(), _upstream: upstream })
    }

    /// So many requests; all must be answered with 200.
    async fn load(&self, requests: usize) {
        for request in 0..requests {
            let answer = self.client.get(&self.url).await.unwrap();
            assert_eq!(answer.status, 200, "request {request}");
        }
    }

    async fn exporter(&self) -> Value {
        let page = self.proxy.admin("/telemetry").await.unwrap().json().unwrap();
        page["exporters"][0].clone()
    }

    /// Until all that was accepted is sent or dropped.
    async fn settled(&self) -> Value {
        eventually("nothing is queued", async || -> Result<Value> {
            let exporter = self.exporter().await;
            let number = |name: &str| exporter[name].as_u64().unwrap_or(u64::MAX);
            ensure!(
                number("accepted_items") <= number("sent_items") + number("dropped_items"),
                "{exporter:#}"
            );
            ensure!(number("held_bytes") == 0, "{exporter:#}");
            Ok(exporter)
        })
        .await
    }

    async fn within_memory(&self) {
        let exporter = self.exporter().await;
        assert!(exporter["held_bytes"].as_u64().unwrap() <= MEMORY, "{exporter:#}");
    }
}

#[tokio::test]
async fn a_collector_that_fails_in_any_way_fails_no_request_and_is_found_again() {
    let mut bench = Bench::start(100, "").await.unwrap();
    bench.load(20).await;
    assert_eq!(bench.settled().await["sent_items"], 20);
    assert_eq!(bench.collector.spans().len(), 20);

    for mood in [Mood::Slow(Duration::from_millis(200)), Mood::Unavailable, Mood::Hangs] {
        bench.collector.clear();
        bench.collector.set(mood);
        bench.load(100).await;
        if !matches!(mood, Mood::Slow(_)) {
            eventually("the breaker opens", async || -> Result<()> {
                let exporter = bench.exporter().await;
                ensure!(exporter["breaker"] != "closed", "{exporter:#}");
                Ok(())
            })
            .await;
            let page = bench.proxy.admin("/telemetry").await.unwrap().json().unwrap();
            assert_eq!(page["healthy"], false);
            assert!(page["exporters"][0]["last_error"].is_string(), "{page:#}");
        }
        bench.within_memory().await;
        bench.collector.set(Mood::Healthy);
        bench.settled().await;
        assert!(bench.collector.spans().len() >= 100, "{mood:?}: what waited is delivered");
        assert_eq!(bench.exporter().await["breaker"], "closed");
    }

    // Gone, and back on the same port.
    bench.collector.clear();
    bench.collector.stop().await;
    bench.load(100).await;
    bench.within_memory().await;
    bench.collector.resume().await.unwrap();
    bench.settled().await;
    assert_eq!(bench.collector.spans().len(), 100);
    let total = bench.exporter().await;
    assert_eq!(total["dropped_items"], 0, "{total:#}");
}

#[tokio::test]
async fn what_does_not_fit_is_dropped_and_counted() {
    let bench =
        Bench::start(100, ", telemetry.queue_entries: 10, telemetry.batch_entries: 10").await.unwrap();
    bench.collector.set(Mood::Hangs);
    bench.load(2000).await;
    bench.within_memory().await;
    let exporter = bench.exporter().await;
    assert!(exporter["dropped_items"].as_u64().unwrap() > 0, "{exporter:#}");
    bench.collector.set(Mood::Healthy);
    let exporter = bench.settled().await;
    assert_eq!(bench.collector.spans().len() as u64, exporter["sent_items"].as_u64().unwrap());
}

#[tokio::test]
async fn what_the_collector_refuses_is_not_sent_again() {
    let bench = Bench::start(100, "").await.unwrap();
    bench.collector.set(Mood::Refuses);
    bench.load(5).await;
    let exporter = bench.settled().await;
    assert_eq!(
        (&exporter["dropped_items"], &exporter["breaker"]),
        (&5.into(), &"closed".into()),
        "{exporter:#}"
    );
    let before = bench.collector.requests();
    bench.collector.set(Mood::Healthy);
    bench.load(1).await;
    bench.settled().await;
    assert_eq!(bench.collector.requests(), before + 1, "only the new span comes");
}

#[tokio::test]
async fn what_grows_too_old_goes_into_files_and_is_replayed() {
    let folder = tempfile::tempdir().unwrap();
    let letters =
        |of: &Path| std::fs::read_dir(of.join("opentelemetry.collector_grpc")).map_or(0, Iterator::count);
    let knobs =
        format!(", telemetry.ttl_ms: 300, telemetry.dead_letter_dir: \"{}\"", folder.path().display());
    let mut bench = Bench::start(100, &knobs).await.unwrap();
    bench.collector.stop().await;
    bench.load(20).await;
    eventually("dead letters are written", async || -> Result<()> {
        ensure!(letters(folder.path()) > 0, "none");
        let exporter = bench.exporter().await;
        ensure!(exporter["dropped_items"] == 20, "{exporter:#}");
        Ok(())
    })
    .await;
    bench.collector.resume().await.unwrap();
    eventually("dead letters are replayed", async || -> Result<()> {
        ensure!(letters(folder.path()) == 0, "{} letters", letters(folder.path()));
        ensure!(bench.collector.spans().len() == 20, "{} spans", bench.collector.spans().len());
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn what_is_queued_is_delivered_when_the_proxy_ends() {
    let mut bench = Bench::start(60_000, "").await.unwrap();
    bench.load(7).await;
    assert_eq!(bench.collector.spans().len(), 0, "it waits for its batch");
    bench.proxy.process().signal("TERM").unwrap();
    eventually("spans come at the end", async || -> Result<()> {
        ensure!(bench.collector.spans().len() == 7, "{}", bench.collector.spans().len());
        Ok(())
    })
    .await;
}
