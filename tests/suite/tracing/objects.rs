//! Spans and log entries by our own objects: a collector that a Gateway names is reached by real Envoy and by ours.

use super::start;
use anyhow::{Result, ensure};
use e2e::client::Client;
use e2e::collector::Collector;
use e2e::control::Control;
use e2e::eventually;
use e2e::process::free_port;
use e2e::upstream::Upstream;
use prost::Message;
use xds_types::envoy::service::accesslog::v3::StreamAccessLogsMessage;
use xds_types::envoy::service::accesslog::v3::stream_access_logs_message::LogEntries;

async fn a_gateway_tells(ours: bool) {
    let control = Control::start(&[]).await.unwrap();
    let (collector, upstream) = (Collector::start().await.unwrap(), Upstream::start("one").await.unwrap());
    control.register("otel", "one", collector.addr, None).await.unwrap();
    control.register("web", "one", upstream.addr, None).await.unwrap();
    let port = free_port().unwrap();
    let objects = format!(
        "
kind: Gateway
name: edge
spec:
  group: edge
  listeners: [{{name: web, address: 127.0.0.1, port: {port}}}]
  metadata: [{{header: x-tenant, namespace: who, key: tenant, default: nobody}}]
  access_log: {{service: otel, log_name: shop-log}}
  local_replies: {{json: {{status: \"%RESPONSE_CODE%\", said: \"%LOCAL_REPLY_BODY%\", tenant: \"%DYNAMIC_METADATA(who:tenant)%\"}}}}
  tracing:
    service: otel
    service_name: shop
    sampling_percent: 100
    tags: {{tenant: \"%DYNAMIC_METADATA(who:tenant)%\", method: \"%REQ(:METHOD)%\", team: shop}}
---
kind: Service
name: otel
spec: {{protocol: HTTP2}}
---
kind: Route
name: web
spec:
  gateways: [edge]
  rules:
  - {{matches: [{{exact: /gone}}], backends: [{{service: nobody}}]}}
  - backends: [{{service: web}}]
"
    );
    control.apply(&objects).await.unwrap();
    let process = start(&control, ours).await;
    let web =
        eventually("the gateway's listener is there", async || process.listener("edge/web").await).await;
    let url = format!("http://{web}/hello");
    let client = Client::h1();
    eventually("it serves", async || {
        let answer = client.get(&url).await?;
        ensure!(answer.status == 200, "{}", answer.status);
        Ok(())
    })
    .await;
    let status = control.status().await.unwrap().to_string();
    assert!(!status.contains("\"nack\":{"), "{status}");
    for _ in 0..6 {
        client.send("GET", &url, &[("x-tenant", "acme")], "").await.unwrap();
    }
    let span = eventually("spans arrive", async || -> Result<_> {
        let spans = collector.spans();
        let found = spans.iter().find(|s| s.tags.get("tenant").is_some_and(|t| t == "acme"));
        found.cloned().ok_or_else(|| anyhow::anyhow!("{spans:#?}"))
    })
    .await;
    assert_eq!(span.resource.get("service.name").map(String::as_str), Some("shop"), "{span:#?}");
    for (tag, value) in [("method", "GET"), ("team", "shop")] {
        assert_eq!(span.tags.get(tag).map(String::as_str), Some(value), "{span:#?}");
    }
    let answer = client.get(&format!("http://{web}/gone")).await.unwrap();
    assert_eq!((answer.status, answer.header("content-type")), (503, "application/json"));
    let said = answer.json().unwrap();
    assert_eq!((&said["status"], &said["tenant"]), (&503.into(), &"nobody".into()), "{said}");
    assert!(said["said"].as_str().is_some_and(|text| text.contains("no healthy upstream")), "{said}");
    let known = upstream_saw_a_trace(&client, &url).await;
    assert!(known, "the trace goes on to the service");
    eventually("log entries arrive", async || {
        let mut paths = Vec::new();
        let mut name = String::new();
        for (_, message) in collector.messages() {
            let message = StreamAccessLogsMessage::decode(message)?;
            if let Some(identifier) = &message.identifier {
                name.clone_from(&identifier.log_name);
            }
            if let Some(LogEntries::HttpLogs(all)) = message.log_entries {
                let path =
                    |e: xds_types::envoy::data::accesslog::v3::HttpAccessLogEntry| e.request.map(|r| r.path);
                paths.extend(all.log_entry.into_iter().filter_map(path));
            }
        }
        ensure!(
            name == "shop-log" && paths.iter().filter(|p| *p == "/hello").count() >= 6,
            "{name}: {paths:?}"
        );
        Ok(())
    })
    .await;
    // Without them again: nothing more is told, and the cluster goes.
    control
        .apply(&format!(
            "{{kind: Gateway, name: edge, spec: {{group: edge, listeners: [{{name: web, address: 127.0.0.1, port: {port}}}]}}}}"
        ))
        .await
        .unwrap();
    eventually("the collector's cluster is gone", async || {
        let clusters = process.admin("/clusters").await?.text();
        ensure!(!clusters.contains("otel::"), "{clusters}");
        Ok(())
    })
    .await;
}

/// A collector that nothing but a fragment of Envoy's own API names is sent to the proxies of the gateway.
async fn a_patch_names_the_collector(ours: bool) {
    let control = Control::start(&[]).await.unwrap();
    let (collector, upstream) = (Collector::start().await.unwrap(), Upstream::start("one").await.unwrap());
    control.register("otel", "one", collector.addr, None).await.unwrap();
    control.register("web", "one", upstream.addr, None).await.unwrap();
    let port = free_port().unwrap();
    let gateway = |patch: &str| {
        format!(
            "{{kind: Gateway, name: edge, spec: {{group: edge, listeners: [{{name: web, address: 127.0.0.1, port: {port}}}], patch: {patch}}}}}\n"
        )
    };
    let envoy_grpc = "grpc_service: {envoy_grpc: {cluster_name: otel}}";
    let patch = format!(
        "{{http_connection_manager: {{access_log: [{{name: collector, typed_config: {{'@type': \
         type.googleapis.com/envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig, common_config: {{log_name: patched, \
         transport_api_version: V3, buffer_flush_interval: 0.1s, {envoy_grpc}}}}}}}], \
         tracing: {{random_sampling: {{value: 100}}, provider: {{name: otel, typed_config: {{'@type': \
         type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig, service_name: shop, {envoy_grpc}}}}}}}}}}}"
    );
    let others = "---\n{kind: Service, name: otel, spec: {protocol: HTTP2}}\n\
                  ---\n{kind: Route, name: web, spec: {gateways: [edge], rules: [{backends: [{service: web}]}]}}\n";
    control.apply(&(gateway(&patch) + others)).await.unwrap();
    let process = start(&control, ours).await;
    let web =
        eventually("the gateway's listener is there", async || process.listener("edge/web").await).await;
    let client = Client::h1();
    eventually("spans and log entries arrive", async || {
        let answer = client.get(&format!("http://{web}/hello")).await?;
        ensure!(answer.status == 200, "{}", answer.status);
        ensure!(!collector.spans().is_empty(), "no spans");
        let logged = collector.messages().into_iter().any(|(_, message)| {
            let decoded = StreamAccessLogsMessage::decode(message).unwrap_or_default();
            decoded.identifier.is_some_and(|i| i.log_name == "patched")
        });
        ensure!(logged, "no entries");
        Ok(())
    })
    .await;
    control.apply(&gateway("{}")).await.unwrap();
    eventually("the collector's cluster is gone", async || {
        let clusters = process.admin("/clusters").await?.text();
        ensure!(!clusters.contains("otel::"), "{clusters}");
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_a_patch_names_is_told_by_real_envoy() {
    a_patch_names_the_collector(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_a_patch_names_is_told_by_our_proxy() {
    a_patch_names_the_collector(true).await;
}

async fn upstream_saw_a_trace(client: &Client, url: &str) -> bool {
    let answer = client.get(url).await.unwrap().json().unwrap();
    answer["headers"]["traceparent"].is_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_tells_spans_and_entries_through_real_envoy() {
    a_gateway_tells(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_tells_spans_and_entries_through_our_proxy() {
    a_gateway_tells(true).await;
}
