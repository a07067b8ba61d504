//! Our stats sink sends what Envoy's does.

use anyhow::{Result, ensure};
use e2e::client::Client;
use e2e::envoy::Envoy;
use e2e::upstream::Upstream;
use e2e::{eventually, proxy};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};
use xds_types::envoy::service::metrics::v3::metrics_service_server::{MetricsService, MetricsServiceServer};
use xds_types::envoy::service::metrics::v3::{StreamMetricsMessage, StreamMetricsResponse};
use xds_types::io::prometheus::client::{MetricFamily, MetricType};

/// A metrics service that keeps the newest of every metric, and the largest message, by node.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<BTreeMap<String, Seen>>>);

#[derive(Clone, Default)]
struct Seen {
    families: BTreeMap<(String, i32), MetricFamily>,
    /// Sums of counters: what deltas must come to.
    sums: BTreeMap<String, f64>,
    most: usize,
}

#[tonic::async_trait]
impl MetricsService for Kept {
    async fn stream_metrics(
        &self,
        request: Request<Streaming<StreamMetricsMessage>>,
    ) -> Result<Response<StreamMetricsResponse>, Status> {
        let mut stream = request.into_inner();
        let mut node = String::new();
        while let Some(message) = stream.message().await? {
            if let Some(told) = message.identifier.and_then(|i| i.node) {
                node = told.id;
            }
            let mut kept = self.0.lock();
            let seen = kept.entry(node.clone()).or_default();
            seen.most = seen.most.max(message.envoy_metrics.len());
            for family in message.envoy_metrics {
                let counter = family.metric.first().and_then(|m| m.counter.as_ref()?.value);
                *seen.sums.entry(family.name().to_owned()).or_default() += counter.unwrap_or_default();
                seen.families.insert((family.name().to_owned(), family.r#type().into()), family);
            }
        }
        Ok(Response::new(StreamMetricsResponse {}))
    }
}

struct Collector {
    addr: SocketAddr,
    kept: Kept,
    _server: JoinSet<()>,
}

impl Collector {
    async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let (addr, kept) = (listener.local_addr().unwrap(), Kept::default());
        let service = MetricsServiceServer::new(kept.clone());
        let mut server = JoinSet::new();
        server.spawn(async move {
            let incoming = TcpListenerStream::new(listener);
            let _ = Server::builder().add_service(service).serve_with_incoming(incoming).await;
        });
        Self { addr, kept, _server: server }
    }

    fn seen(&self, node: &str) -> Seen {
        self.kept.0.lock().get(node).cloned().unwrap_or_default()
    }
}

fn bootstrap(node: &str, collector: SocketAddr, upstream: SocketAddr, options: &str) -> String {
    format!(
        "
node: {{id: {node}, cluster: edge}}
admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}}}
stats_flush_interval: 0.3s
stats_sinks:
- name: envoy.stat_sinks.metrics_service
  typed_config:
    '@type': type.googleapis.com/envoy.config.metrics.v3.MetricsServiceConfig
    transport_api_version: V3
    grpc_service: {{envoy_grpc: {{cluster_name: collector}}}}
    {options}
static_resources:
  clusters:
  - name: web
    connect_timeout: 1s
    load_assignment: {{cluster_name: web, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}}}}}]}}]}}
  - name: collector
    connect_timeout: 1s
    {}
    load_assignment: {{cluster_name: collector, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}}}}}]}}]}}
  listeners:
  - name: web
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: front
          route_config: {{virtual_hosts: [{{name: all, domains: ['*'], routes: [{{match: {{prefix: /}}, route: {{cluster: web}}}}]}}]}}
          http_filters: [{{name: router, typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}}}]
",
        upstream.port(),
        e2e::pair::SPEAKS_H2,
        collector.port()
    )
}

/// What is compared of a family: name, kind, labels, and what its value must be alike.
fn shown(seen: &Seen, name: &str, deltas: bool) -> Vec<String> {
    let of = seen.families.iter().filter(|((n, _), _)| n == name);
    of.map(|((_, kind), family)| {
        let kind = MetricType::try_from(*kind).unwrap();
        let metric = &family.metric[0];
        let labels: Vec<_> = metric.label.iter().map(|l| format!("{}={}", l.name(), l.value())).collect();
        let value = match kind {
            MetricType::Counter if deltas => format!("{} in all", seen.sums[name]),
            MetricType::Counter => format!("{}", metric.counter.as_ref().unwrap().value()),
            MetricType::Gauge => format!("{}", metric.gauge.as_ref().unwrap().value()),
            MetricType::Summary => {
                let all: Vec<_> =
                    metric.summary.as_ref().unwrap().quantile.iter().map(|q| q.quantile()).collect();
                format!("{all:?}")
            }
            MetricType::Histogram => {
                let all: Vec<_> =
                    metric.histogram.as_ref().unwrap().bucket.iter().map(|b| b.upper_bound()).collect();
                format!("{all:?}")
            }
            other => format!("{other:?}"),
        };
        let timed = metric.timestamp_ms.is_some();
        format!("{name} {kind:?} {labels:?} {value} timed {timed}")
    })
    .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_are_sent_as_envoy_sends_them() {
    const REQUESTS: usize = 3;
    let plain =
        ["cluster.web.upstream_rq_total", "cluster.web.membership_total", "cluster.web.membership_healthy"];
    let histogram = "cluster.web.upstream_rq_time";
    let labelled = ["cluster.upstream_rq_total", "cluster.membership_healthy", "http.downstream_rq_total"];
    for (options, names) in [
        ("", [&plain[..], &[histogram]].concat()),
        ("histogram_emit_mode: SUMMARY", [&plain[..], &[histogram]].concat()),
        ("{histogram_emit_mode: HISTOGRAM}", [&plain[..], &[histogram]].concat()),
        ("{report_counters_as_deltas: true, batch_size: 7}", plain.to_vec()),
        ("{emit_tags_as_labels: true}", labelled.to_vec()),
    ] {
        let options = options.trim_matches(['{', '}']).replace(", ", "\n    ");
        let (collector, upstream) = (Collector::start().await, Upstream::start("web").await.unwrap());
        let envoy = Envoy::start(&bootstrap("envoy", collector.addr, upstream.addr, &options)).await.unwrap();
        let ours = proxy::start(&bootstrap("ours", collector.addr, upstream.addr, &options)).await.unwrap();
        let client = Client::h1();
        for proxy in [&envoy, &ours] {
            let web = proxy.listener("web").await.unwrap();
            for _ in 0..REQUESTS {
                assert_eq!(client.get(&format!("http://{web}/")).await.unwrap().status, 200);
            }
        }
        // In labels mode several clusters and listeners share one name: the last one is kept, whichever that is.
        let comparable = |seen: &Seen| -> Vec<String> {
            let deltas = options.contains("deltas");
            let mut all: Vec<String> = names.iter().flat_map(|name| shown(seen, name, deltas)).collect();
            if options.contains("labels") {
                let keys = |line: &String| {
                    let words = line.split(['[', ']']).collect::<Vec<_>>();
                    let labels: Vec<_> = words[1].split(", ").filter_map(|l| l.split('=').next()).collect();
                    format!("{}{labels:?}", words[0])
                };
                all = all.iter().map(keys).collect();
            }
            all
        };
        eventually(&format!("both tell the same with {options:?}"), async || -> Result<()> {
            let (envoy, ours) = (collector.seen("envoy"), collector.seen("ours"));
            let (theirs, own) = (comparable(&envoy), comparable(&ours));
            ensure!(theirs.len() >= names.len() && theirs == own, "Envoy: {theirs:#?}\nours: {own:#?}");
            if options.contains("batch_size") {
                ensure!((envoy.most, ours.most) == (7, 7), "{} and {} in a message", envoy.most, ours.most);
            }
            Ok(())
        })
        .await;
    }
}
