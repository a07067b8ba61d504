//! Access logs over gRPC: the entries are those of the real Envoy.

use anyhow::{Result, ensure};
use e2e::client::Client;
use e2e::collector::{Collector, Mood};
use e2e::envoy::Envoy;
use e2e::process::{built, free_port, installed};
use e2e::upstream::Upstream;
use e2e::{eventually, pair};
use prost::Message;
use std::fmt::Write as _;
use std::path::PathBuf;
use xds_types::envoy::data::accesslog::v3::HttpAccessLogEntry;
use xds_types::envoy::service::accesslog::v3::StreamAccessLogsMessage;
use xds_types::envoy::service::accesslog::v3::stream_access_logs_message::LogEntries;

const LOG: &str = "access_log: [{name: collector, typed_config: {\"@type\": \
    type.googleapis.com/envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig, \
    common_config: {log_name: web, grpc_service: {envoy_grpc: {cluster_name: collector}}, \
    transport_api_version: V3, buffer_flush_interval: 0.1s, \
    custom_tags: [{tag: lit, literal: {value: v}}, {tag: hdr, request_header: {name: x-a}}]}, \
    additional_request_headers_to_log: [x-a], additional_response_headers_to_log: [x-instance]}}]";

struct Side {
    proxy: Envoy,
    upstream: Upstream,
    collector: Collector,
    url: String,
    /// A port at which nobody listens.
    refused: u16,
}

impl Side {
    async fn start(name: &str, program: PathBuf, args: &[&str]) -> Result<Self> {
        let (upstream, collector) = (Upstream::start("one").await?, Collector::start().await?);
        let refused = free_port()?;
        let routes = pair::routes(
            "{match: {prefix: /refused}, route: {cluster: refused}}, \
             {match: {prefix: /moved}, name: moved, route: {cluster: up, prefix_rewrite: /new}}, \
             {match: {prefix: /status}, route: {cluster: up}}, {match: {prefix: /plain}, route: {cluster: up}}",
        );
        let config = format!(
            "{{admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}}}, \
             node: {{id: node-1, cluster: fleet}}, \
             static_resources: {{listeners: [{}], clusters: [{}, {}, {}]}}}}",
            pair::http_listener("web", LOG, &routes),
            pair::cluster("up", &upstream.addr.port().to_string(), ""),
            pair::cluster("refused", &refused.to_string(), ""),
            pair::cluster("collector", &collector.addr.port().to_string(), pair::SPEAKS_H2),
        );
        let proxy = Envoy::launch(name, &program, &config, args).await?;
        let url = format!("http://{}", proxy.listener("web").await?);
        Ok(Self { proxy, upstream, collector, url, refused })
    }

    async fn entry(&self, path: &str, headers: &[(&str, &str)]) -> String {
        self.collector.clear();
        Client::h1().send("GET", &format!("{}{path}", self.url), headers, "").await.unwrap();
        let entry = eventually("an entry comes", async || -> Result<HttpAccessLogEntry> {
            let mut all = Vec::new();
            for (_, message) in self.collector.messages() {
                let message = StreamAccessLogsMessage::decode(message)?;
                if let Some(LogEntries::HttpLogs(entries)) = message.log_entries {
                    all.extend(entries.log_entry);
                }
            }
            ensure!(all.len() == 1, "{} entries", all.len());
            Ok(all.remove(0))
        })
        .await;
        self.normal(entry)
    }

    /// Without what differs from run to run; what was measured is told as there or not.
    fn normal(&self, mut entry: HttpAccessLogEntry) -> String {
        let (Some(common), Some(request), Some(response)) =
            (&mut entry.common_properties, &mut entry.request, &mut entry.response)
        else {
            return format!("{entry:?}");
        };
        let mut out = super::without_chance(common);
        _ = writeln!(out, "id {}", request.request_id == common.stream_id);
        (request.request_id, common.stream_id) = (String::new(), String::new());
        // Counts of bytes, which other tests hold.
        (common.downstream_wire_bytes_sent, common.downstream_wire_bytes_received) = (0, 0);
        (common.upstream_wire_bytes_sent, common.upstream_wire_bytes_received) = (0, 0);
        (request.request_headers_bytes, response.response_headers_bytes) = (0, 0);
        (request.upstream_header_bytes_sent, request.downstream_header_bytes_received) = (0, 0);
        (response.upstream_header_bytes_received, response.downstream_header_bytes_sent) = (0, 0);
        let mut tags: Vec<_> = std::mem::take(&mut common.custom_tags).into_iter().collect();
        tags.sort();
        _ = writeln!(out, "tags {tags:?}");
        _ = writeln!(out, "{entry:#?}");
        let web = self.url.rsplit(':').next().unwrap_or_default();
        out.replace(web, "WEB")
            .replace(&self.upstream.addr.port().to_string(), "UPSTREAM")
            .replace(&self.refused.to_string(), "REFUSED")
    }
}

#[tokio::test]
async fn entries_are_those_of_envoy() {
    let (envoy, ours) = tokio::try_join!(
        Side::start("envoy", installed("envoy"), &["--disable-hot-restart"]),
        Side::start("proxy", built("portolan-proxy").unwrap(), &[]),
    )
    .unwrap();
    let mut wrong = String::new();
    for (path, headers) in [
        ("/plain", &[("x-a", "av"), ("referer", "r"), ("user-agent", "ua")][..]),
        ("/moved/x", &[]),
        ("/status/503", &[]),
        ("/refused", &[]),
        ("/nowhere", &[]),
    ] {
        let (theirs, own) = (envoy.entry(path, headers).await, ours.entry(path, headers).await);
        if theirs != own {
            _ = writeln!(wrong, "=== {path}\n{}", pair::difference(&theirs, &own));
        }
    }
    assert!(wrong.is_empty(), "ours must log as Envoy does (- Envoy, + ours):\n{wrong}");
}

#[tokio::test]
async fn a_service_that_hangs_holds_up_no_request() {
    let ours = Side::start("proxy", built("portolan-proxy").unwrap(), &[]).await.unwrap();
    ours.collector.set(Mood::Hangs);
    for _ in 0..100 {
        assert_eq!(Client::h1().get(&format!("{}/plain", ours.url)).await.unwrap().status, 200);
    }
    let page = ours.proxy.admin("/telemetry").await.unwrap().json().unwrap();
    assert_eq!(page["exporters"][0]["name"], "access_log.collector", "{page:#}");
}
