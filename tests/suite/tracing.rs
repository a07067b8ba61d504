//! Spans: what they say, held to the real Envoy's; and their export, which must never be in the way of a request.

mod connections;
mod export;
mod logs;
mod objects;

use anyhow::{Result, ensure};
use e2e::collector::{Collector, Span};
use e2e::control::Control;
use e2e::envoy::Envoy;
use e2e::eventually;
use e2e::pair;
use e2e::process::{built, installed};
use e2e::proxy;
use e2e::upstream::Upstream;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use xds_types::envoy::data::accesslog::v3::AccessLogCommon;

const OTLP_HTTP: &str = "{name: envoy.tracers.opentelemetry, typed_config: {\"@type\": \
    type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig, service_name: shop, \
    http_service: {http_uri: {uri: \"http://otel.test/v1/traces\", cluster: collector, timeout: 1s}}}}";
const OTLP_GRPC: &str = "{name: envoy.tracers.opentelemetry, typed_config: {\"@type\": \
    type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig, service_name: shop, \
    grpc_service: {envoy_grpc: {cluster_name: collector_grpc}, timeout: 1s}}}";
const ZIPKIN: &str = "{name: envoy.tracers.zipkin, typed_config: {\"@type\": \
    type.googleapis.com/envoy.config.trace.v3.ZipkinConfig, collector_cluster: collector, \
    collector_endpoint: /api/v2/spans, collector_endpoint_version: HTTP_JSON, FIELDS}}";

/// Tags of every manager here.
const TAGS: &str = "custom_tags: [{tag: lit, literal: {value: v}}, {tag: hdr, request_header: {name: x-h, \
    default_value: none}}, {tag: made, value: \"%REQ(:METHOD)% %RESPONSE_CODE%\"}]";

const ROUTES: &str = "virtual_hosts: [{name: all, domains: [\"*\"], routes: [\
    {match: {prefix: /named}, route: {cluster: up}, decorator: {operation: named}}, \
    {match: {prefix: /quiet}, route: {cluster: up}, decorator: {operation: quiet, propagate: false}}, \
    {match: {prefix: /tagged}, route: {cluster: up}, tracing: {custom_tags: [{tag: lit, literal: {value: route}}]}}, \
    {match: {prefix: /never}, route: {cluster: up}, tracing: {random_sampling: {numerator: 0}}}, \
    {match: {prefix: /refused}, route: {cluster: refused}}, \
    {match: {prefix: /direct}, direct_response: {status: 200}}, \
    {match: {prefix: /moved}, route: {cluster: up, prefix_rewrite: /new}}, \
    {match: {prefix: /}, route: {cluster: up}}]}]";

/// A proxy of the group `edge`, of either kind.
async fn start(control: &Control, ours: bool) -> Envoy {
    let bootstrap = control.bootstrap("edge", "proxy-1", true).await.unwrap();
    match ours {
        true => proxy::start(&bootstrap).await.unwrap(),
        false => Envoy::start(&bootstrap).await.unwrap(),
    }
}

/// Takes out of what entries have in common what differs from run to run: the client's ports, metadata, and moments, of which
/// is told which are there.
fn without_chance(common: &mut AccessLogCommon) -> String {
    let mut out = String::new();
    for (name, time) in [
        ("rx_end", &mut common.time_to_last_rx_byte),
        ("upstream_tx", &mut common.time_to_first_upstream_tx_byte),
        ("upstream_tx_end", &mut common.time_to_last_upstream_tx_byte),
        ("upstream_rx", &mut common.time_to_first_upstream_rx_byte),
        ("upstream_rx_end", &mut common.time_to_last_upstream_rx_byte),
        ("tx", &mut common.time_to_first_downstream_tx_byte),
        ("tx_end", &mut common.time_to_last_downstream_tx_byte),
        ("duration", &mut common.duration),
    ] {
        _ = writeln!(out, "{name} {}", time.take().is_some());
    }
    _ = writeln!(out, "start {}", common.start_time.take().is_some());
    common.downstream_remote_address = None;
    common.downstream_direct_remote_address = None;
    common.upstream_local_address = None;
    common.metadata = None;
    out
}

/// A proxy, its upstream and its collector.
struct Side {
    proxy: Envoy,
    upstream: Upstream,
    collector: Collector,
    web: SocketAddr,
}

impl Side {
    async fn start(
        name: &str,
        program: PathBuf,
        args: &[&str],
        tracing: &str,
        direction: &str,
    ) -> Result<Self> {
        let (upstream, collector) = (Upstream::start("one").await?, Collector::start().await?);
        let port = collector.addr.port().to_string();
        let listener = pair::http_listener("web", &format!("tracing: {{{tracing}}}"), ROUTES);
        let listener =
            listener.replacen("{name: web,", &format!("{{name: web, traffic_direction: {direction},"), 1);
        let config = format!(
            "{{admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}}}, \
             node: {{id: node-1, cluster: fleet, locality: {{zone: z1}}}}, \
             layered_runtime: {{layers: [{{name: s, static_layer: {{tracing.opentelemetry.min_flush_spans: 1, \
             tracing.zipkin.min_flush_spans: 1, telemetry.flush_interval_ms: 100}}}}]}}, \
             static_resources: {{listeners: [{listener}], clusters: [{}, {}, {}, {}]}}}}",
            pair::cluster("up", &upstream.addr.port().to_string(), ""),
            pair::cluster("refused", &e2e::process::free_port()?.to_string(), ""),
            pair::cluster("collector", &port, ""),
            pair::cluster("collector_grpc", &port, pair::SPEAKS_H2),
        );
        let proxy = Envoy::launch(name, &program, &config, args).await?;
        let web = proxy.listener("web").await?;
        Ok(Self { proxy, upstream, collector, web })
    }

    /// Asks, and waits for the spans that it makes.
    async fn ask(&self, path: &str, headers: &[(&str, &str)], spans: usize) -> Result<Seen> {
        self.collector.clear();
        let answer =
            e2e::client::Client::h1().send("GET", &format!("http://{}{path}", self.web), headers, "").await?;
        let found = eventually(&format!("{spans} spans of {path}"), async || -> Result<Vec<Span>> {
            let found = self.collector.spans();
            ensure!(found.len() == spans, "{} spans: {found:#?}", found.len());
            Ok(found)
        })
        .await;
        let upstream = answer.json().ok().map(|json| json["headers"].clone());
        Ok(Seen {
            spans: found,
            upstream,
            operation: answer.header("x-envoy-decorator-operation").to_owned(),
        })
    }

    /// What was seen, with what differs from run to run named by its part.
    fn normal(&self, seen: &Seen) -> String {
        let mut ids: BTreeMap<String, String> = BTreeMap::new();
        let mut spans = seen.spans.clone();
        spans.sort_by(|a, b| a.kind.cmp(&b.kind));
        let mut out = String::new();
        let known = [
            "0af7651916cd43dd8448eb211c80319c",
            "b7ad6b7169203331",
            "80f198ee56343ba864fe8b2a57d3eff7",
            "e457b5a2e4d86bd1",
            "",
        ];
        let mut id = |text: &str, part: &str| {
            if known.contains(&text) {
                return text.to_owned();
            }
            ids.entry(text.to_owned()).or_insert_with(|| part.to_owned()).clone()
        };
        for span in &spans {
            let Span {
                trace_id,
                span_id,
                parent_id,
                name,
                kind,
                tags,
                events,
                error,
                resource,
                shared,
                state,
            } = span;
            let (trace, this) = (id(trace_id, "TRACE"), id(span_id, kind));
            let parent = id(parent_id, "SERVER");
            _ = writeln!(
                out,
                "{kind} {name:?} {trace}/{this} below {parent:?} error {error} shared {shared} state {state:?}"
            );
            _ = writeln!(out, "  service {:?}", resource.get("service.name"));
            // The upstream tells its request back, which has an empty tracestate of Envoy's.
            for (name, value) in tags.iter().filter(|(name, _)| *name != "response_size") {
                let value = if name == "guid:x-request-id" { &value[14..15] } else { value };
                _ = writeln!(out, "  {name} = {value}");
            }
            _ = writeln!(out, "  events {events:?}");
        }
        for name in [
            "traceparent",
            "tracestate",
            "baggage",
            "x-b3-traceid",
            "x-b3-spanid",
            "x-b3-parentspanid",
            "x-b3-sampled",
            "b3",
            "x-envoy-decorator-operation",
        ] {
            let Some(value) = seen.upstream.as_ref().and_then(|headers| headers[name].as_str()) else {
                continue;
            };
            // Envoy sends an empty tracestate along; we do not.
            if name == "tracestate" && value.is_empty() {
                continue;
            }
            let parts: Vec<_> =
                value.split('-').map(|part| id(part, if part.len() == 2 { part } else { "NEW" })).collect();
            _ = writeln!(out, "-> {name}: {}", parts.join("-"));
        }
        if !seen.operation.is_empty() {
            _ = writeln!(out, "<- {}", seen.operation);
        }
        out.replace(&self.web.to_string(), "WEB").replace(&self.upstream.addr.to_string(), "UPSTREAM")
    }
}

/// A path, headers, and how many spans they make.
type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], usize);

/// What one request left behind.
struct Seen {
    spans: Vec<Span>,
    /// Headers that reached the upstream.
    upstream: Option<serde_json::Value>,
    operation: String,
}

const W3C: (&str, &str) = ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
const W3C_OFF: (&str, &str) = ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00");
const B3: [(&str, &str); 2] =
    [("x-b3-traceid", "80f198ee56343ba864fe8b2a57d3eff7"), ("x-b3-spanid", "e457b5a2e4d86bd1")];

/// Both proxies with the same tracing, asked the same.
async fn compare(tracing: &str, direction: &str, cases: &[Case<'_>]) {
    let (envoy, ours) = tokio::try_join!(
        Side::start("envoy", installed("envoy"), &["--disable-hot-restart"], tracing, direction),
        Side::start("proxy", built("portolan-proxy").unwrap(), &[], tracing, direction),
    )
    .unwrap();
    let mut wrong = String::new();
    for (path, headers, spans) in cases {
        let theirs = envoy.normal(&envoy.ask(path, headers, *spans).await.unwrap());
        let own = ours.normal(&ours.ask(path, headers, *spans).await.unwrap());
        if theirs != own {
            _ = writeln!(wrong, "=== {path} {headers:?}\n{}", pair::difference(&theirs, &own));
        }
    }
    for stat in ["client_enabled", "not_traceable", "random_sampling", "service_forced"] {
        let name = format!("http.web.tracing.{stat}");
        let (a, b) = (envoy.proxy.stats().await.unwrap(), ours.proxy.stats().await.unwrap());
        if a.get(&name) != b.get(&name) {
            _ = writeln!(wrong, "=== {name}: Envoy {:?}, ours {:?}", a.get(&name), b.get(&name));
        }
    }
    assert!(wrong.is_empty(), "ours must trace as Envoy does (- Envoy, + ours):\n{wrong}");
}

const PLAIN: &[Case<'static>] = &[
    ("/plain", &[("x-h", "hv")], 1),
    ("/plain", &[W3C, ("tracestate", "a=b"), ("baggage", "k=v")], 1),
    ("/plain", &[W3C_OFF], 0),
    ("/named/x", &[], 1),
    ("/quiet/x", &[], 1),
    ("/named/x", &[("x-envoy-decorator-operation", "asked")], 1),
    ("/tagged", &[], 1),
    ("/never", &[], 0),
    ("/never", &[("x-client-trace-id", "c1")], 1),
    ("/refused", &[], 1),
    ("/direct", &[], 1),
    ("/moved/x?q=1", &[], 1),
    ("/status/500", &[], 1),
    ("/status/404", &[], 1),
];

#[tokio::test]
async fn spans_over_otlp_http_are_told_as_envoy_tells_them() {
    compare(&format!("{TAGS}, provider: {OTLP_HTTP}"), "INBOUND", PLAIN).await;
}

#[tokio::test]
async fn upstream_spans_and_moments_are_told_as_envoy_tells_them() {
    let cases: &[Case<'_>] = &[
        ("/plain", &[("x-h", "hv")], 2),
        ("/plain", &[W3C], 2),
        ("/named/x", &[], 2),
        ("/direct", &[], 1),
        ("/status/503", &[], 2),
    ];
    let tracing = format!("{TAGS}, spawn_upstream_span: true, provider: {OTLP_GRPC}");
    compare(&tracing, "OUTBOUND", cases).await;
}

#[tokio::test]
async fn outbound_spans_are_told_as_envoy_tells_them() {
    compare(&format!("{TAGS}, provider: {OTLP_GRPC}"), "OUTBOUND", &PLAIN[..6]).await;
}

#[tokio::test]
async fn spans_of_zipkin_are_told_as_envoy_tells_them() {
    let cases: &[Case<'_>] = &[
        ("/plain", &[("x-h", "hv")], 1),
        ("/plain", &[B3[0], B3[1], ("x-b3-sampled", "1")], 1),
        ("/plain", &[B3[0], B3[1]], 1),
        ("/plain", &[B3[0], B3[1], ("x-b3-sampled", "0")], 0),
        ("/plain", &[("b3", "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1")], 1),
        ("/plain", &[("b3", "0")], 0),
        ("/named/x", &[], 1),
        ("/status/500", &[], 1),
    ];
    for fields in ["shared_span_context: true", "shared_span_context: false"] {
        let provider = ZIPKIN.replace("FIELDS", fields);
        compare(&format!("{TAGS}, provider: {provider}"), "INBOUND", cases).await;
    }
    let provider = ZIPKIN.replace("FIELDS", "trace_context_option: USE_B3_WITH_W3C_PROPAGATION");
    let cases: &[Case<'_>] = &[("/plain", &[W3C], 1), ("/plain", &[B3[0], B3[1]], 1)];
    compare(&format!("{TAGS}, provider: {provider}"), "INBOUND", cases).await;
}
