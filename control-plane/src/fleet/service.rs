//! Envoy's `MetricsService`: a stream of all of a proxy's metrics, read without unpacking those of no interest.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, gauge};
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::Semaphore;
use tonic::server::{ClientStreamingService, Grpc};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;
use tracing::debug;
use xds_types::envoy::service::metrics::v3::StreamMetricsResponse;
use xds_types::envoy::service::metrics::v3::stream_metrics_message::Identifier;
use xds_types::io::prometheus::client::MetricFamily;

use super::report::{Membership, Reporter, Reports, Stat};
use crate::ads::{Node, Peer};

/// The method.
const PATH: &str = "/envoy.service.metrics.v3.MetricsService/StreamMetrics";
/// Largest message, bytes. The bootstrap that we print asks for smaller ones.
const MAX_MESSAGE: usize = 4 << 20;
/// Streams at a time; more are turned away.
const MAX_STREAMS: usize = 10_000;
/// A stream on which nothing comes for so long ends: twice the longest interval that Envoy takes.
const SILENCE: Duration = Duration::from_secs(600);

/// `StreamMetricsMessage`, its families left packed.
#[derive(Clone, PartialEq, Message)]
struct Packed {
    #[prost(message, optional, tag = "1")]
    identifier: Option<Identifier>,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    families: Vec<Bytes>,
}

/// `MetricFamily`, of which only the name is unpacked.
#[derive(Clone, PartialEq, Message)]
struct Named {
    #[prost(bytes = "bytes", optional, tag = "1")]
    name: Option<Bytes>,
}

/// What proxies report. Clones share it.
#[derive(Clone)]
pub struct Fleet {
    shared: Arc<Shared>,
}

struct Shared {
    reports: Mutex<Reports>,
    streams: Semaphore,
    messages: Counter,
    dropped: Counter,
    reporters: Gauge,
}

impl std::fmt::Debug for Fleet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fleet").finish_non_exhaustive()
    }
}

impl Default for Fleet {
    fn default() -> Self {
        Self::new()
    }
}

impl Fleet {
    /// Nobody has reported yet.
    pub fn new() -> Self {
        describe_counter!("fleet_report_messages_total", "Messages of metrics received from proxies.");
        describe_counter!(
            "fleet_report_dropped_total",
            "Numbers passed over because there was no room for them."
        );
        describe_gauge!("fleet_reporting_nodes", "Proxies whose reports count.");
        Self {
            shared: Arc::new(Shared {
                reports: Mutex::default(),
                streams: Semaphore::new(MAX_STREAMS),
                messages: counter!("fleet_report_messages_total"),
                dropped: counter!("fleet_report_dropped_total"),
                reporters: gauge!("fleet_reporting_nodes"),
            }),
        }
    }

    /// The service, to be served on the xDS port.
    pub fn router(&self) -> axum::Router {
        let serve = async |state: axum::extract::State<Self>, request: axum::extract::Request| {
            let codec = ProstCodec::<StreamMetricsResponse, Packed>::default();
            let mut grpc = Grpc::new(codec).apply_max_message_size_config(Some(MAX_MESSAGE), None);
            grpc.client_streaming(state.0, request).await
        };
        axum::Router::new().route(PATH, axum::routing::post(serve)).with_state(self.clone())
    }

    /// Every cluster and who sees it how, of one group or of all (empty).
    pub fn clusters(&self, group: &str) -> BTreeMap<Arc<str>, Vec<(Reporter, Membership)>> {
        self.shared.reports.lock().clusters(group, Instant::now())
    }

    async fn read(&self, peer: &Peer, mut stream: Streaming<Packed>) -> Result<(), Status> {
        let _slot = self
            .shared
            .streams
            .try_acquire()
            .map_err(|_| Status::resource_exhausted("too many proxies report to this control plane"))?;
        let mut reporter: Option<Reporter> = None;
        loop {
            let next = tokio::time::timeout(SILENCE, stream.next()).await;
            let message = match next {
                Ok(Some(Ok(message))) => message,
                Ok(None) => return Ok(()),
                // A proxy that ends, or whose connection does, cuts the stream; ours end them after each report.
                Ok(Some(Err(status))) => {
                    if let Some(reporter) = &reporter {
                        debug!(node = %reporter.id, %status, "a report was cut off");
                        self.shared.reports.lock().forget(reporter);
                    }
                    return Err(status);
                }
                Err(_) => return Err(Status::deadline_exceeded("nothing was reported for a long time")),
            };
            if let Some(identifier) = &message.identifier {
                reporter = Some(who(identifier, peer)?);
            }
            let Some(reporter) = &reporter else {
                return Err(Status::invalid_argument(
                    "the first message must say who reports (identifier.node)",
                ));
            };
            self.take(reporter, &message.families);
        }
    }

    fn take(&self, reporter: &Reporter, families: &[Bytes]) {
        let shared = &*self.shared;
        shared.messages.increment(1);
        let found: Vec<MetricFamily> = families.iter().filter_map(of_interest).collect();
        let now = Instant::now();
        let mut reports = shared.reports.lock();
        reports.sweep(now);
        let mut dropped = 0;
        for family in &found {
            let Some(stat) = Stat::named(family.name()) else { continue };
            let gauges = family.metric.iter().filter_map(|m| m.gauge.as_ref()?.value);
            for value in gauges {
                dropped += u64::from(!reports.take(reporter, stat, value.max(0.0) as u64, now));
            }
        }
        shared.dropped.increment(dropped);
        shared.reporters.set(reports.len() as f64);
    }
}

impl ClientStreamingService<Packed> for Fleet {
    type Response = StreamMetricsResponse;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Self::Response>, Status>> + Send>>;

    fn call(&mut self, request: Request<Streaming<Packed>>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            let peer = request.extensions().get::<Peer>().cloned().unwrap_or_default();
            this.read(&peer, request.into_inner()).await?;
            Ok(Response::new(StreamMetricsResponse {}))
        })
    }
}

/// A proxy may only report as one of the group that its certificate names, as for xDS.
fn who(identifier: &Identifier, peer: &Peer) -> Result<Reporter, Status> {
    let node = Node::read(identifier.node.as_ref());
    if node.id.is_empty() {
        return Err(Status::invalid_argument("a proxy without node.id cannot report"));
    }
    if !peer.may_be_of(&node.group) {
        let told = format!("the certificate does not name group {:?}", node.group);
        return Err(Status::permission_denied(told));
    }
    Ok(Reporter { id: node.id.into(), group: node.group, address: peer.address.map(|a| a.ip()) })
}

/// Unpacks a family if its name tells of members of a cluster.
fn of_interest(packed: &Bytes) -> Option<MetricFamily> {
    let name = Named::decode(packed.clone()).ok()?.name?;
    Stat::named(std::str::from_utf8(&name).ok()?)?;
    MetricFamily::decode(packed.clone()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use xds_types::envoy::config::core::v3::Node as ProtoNode;
    use xds_types::envoy::service::metrics::v3::StreamMetricsMessage;
    use xds_types::io::prometheus::client::{Gauge, Metric};

    fn family(name: &str, value: f64) -> MetricFamily {
        let metric = Metric { gauge: Some(Gauge { value: Some(value) }), ..Metric::default() };
        MetricFamily { name: Some(name.into()), metric: vec![metric], ..MetricFamily::default() }
    }

    #[test]
    fn what_is_of_interest_is_unpacked_from_a_whole_message() {
        let message = StreamMetricsMessage {
            identifier: Some(Identifier { node: Some(ProtoNode { id: "a".into(), ..ProtoNode::default() }) }),
            envoy_metrics: vec![family("cluster.web.membership_total", 3.0), family("server.uptime", 1.0)],
        };
        let packed = Packed::decode(Bytes::from(message.encode_to_vec())).unwrap();
        let reporter = who(packed.identifier.as_ref().unwrap(), &Peer::default()).unwrap();
        let fleet = Fleet::new();
        fleet.take(&reporter, &packed.families);
        fleet.take(&reporter, &[Bytes::from_static(b"\xff\xff")]);
        let seen = fleet.clusters("");
        assert_eq!(seen.len(), 1);
        assert_eq!(seen["web"][0].1.total, 3);
    }

    #[test]
    fn a_proxy_reports_only_as_what_its_certificate_says() {
        let node = |id: &str, group: &str| Identifier {
            node: Some(ProtoNode { id: id.into(), cluster: group.into(), ..ProtoNode::default() }),
        };
        let peer = Peer { names: Some(Arc::new(["DNS:edge".to_owned()])), ..Peer::default() };
        assert!(who(&node("a", "edge"), &peer).is_ok());
        let denied = who(&node("a", "pay"), &peer).unwrap_err();
        assert_eq!(denied.code(), tonic::Code::PermissionDenied);
        let nobody = who(&node("", "edge"), &peer).unwrap_err();
        assert_eq!(nobody.code(), tonic::Code::InvalidArgument);
    }
}
