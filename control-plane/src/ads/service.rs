//! The gRPC services: ADS, and one for each type (point 36), each in both dialects.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use futures_util::StreamExt;
use http::header::{self, HeaderValue};
use prost::Message;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::metadata::MetadataValue;
use tonic::service::Routes;
use tonic::{Status, Streaming};
use xds_types::ResourceType;
use xds_types::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use xds_types::google::rpc;

use super::metrics::Metrics;
use super::session::{Limits, Request};
use super::stream::{self, Context, Inbound};
use super::wire::{self, RequestDecoder};
use super::{Leaving, Mode, Peer, Registry, delta, sotw};
use crate::snapshot::Cache;

/// Largest request, bytes: room for some hundred thousand names.
const MAX_REQUEST: usize = 16 << 20;

/// Streams on one connection. A proxy has one; one with its own stream for each cluster, a few hundred (point 36).
pub const MAX_STREAMS: u32 = 4096;

/// How the services behave.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of this replica: `control_plane.identifier` (point 35).
    pub identifier: String,
    /// What one stream may ask for.
    pub limits: Limits,
    /// Ends every stream when cancelled.
    pub stop: CancellationToken,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            identifier: "portolan-control".to_owned(),
            limits: Limits::default(),
            stop: CancellationToken::new(),
        }
    }
}

/// Every discovery service.
#[derive(Clone, Debug)]
pub struct Service {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    cache: Arc<Cache>,
    registry: Arc<Registry>,
    options: Options,
    identifier: Arc<str>,
    metrics: Arc<Metrics>,
}

/// Service, type, and the names of its methods in both dialects.
#[rustfmt::skip]
const SERVICES: &[(&str, Option<ResourceType>, &str, &str)] = &[
    ("envoy.service.discovery.v3.AggregatedDiscoveryService", None, "StreamAggregatedResources", "DeltaAggregatedResources"),
    ("envoy.service.cluster.v3.ClusterDiscoveryService", Some(ResourceType::Cluster), "StreamClusters", "DeltaClusters"),
    ("envoy.service.endpoint.v3.EndpointDiscoveryService", Some(ResourceType::ClusterLoadAssignment), "StreamEndpoints", "DeltaEndpoints"),
    ("envoy.service.listener.v3.ListenerDiscoveryService", Some(ResourceType::Listener), "StreamListeners", "DeltaListeners"),
    ("envoy.service.secret.v3.SecretDiscoveryService", Some(ResourceType::Secret), "StreamSecrets", "DeltaSecrets"),
    ("envoy.service.route.v3.RouteDiscoveryService", Some(ResourceType::RouteConfiguration), "StreamRoutes", "DeltaRoutes"),
];

/// Every discovery service over what the pipeline publishes, to be served by tonic.
pub fn routes(cache: Arc<Cache>, registry: Arc<Registry>, options: Options) -> Routes {
    Service::new(cache, registry, options).routes()
}

impl Service {
    /// Services over what the pipeline publishes.
    pub fn new(cache: Arc<Cache>, registry: Arc<Registry>, options: Options) -> Self {
        let identifier = options.identifier.as_str().into();
        let metrics = Arc::new(Metrics::new());
        Self { shared: Arc::new(Shared { cache, registry, options, identifier, metrics }) }
    }

    /// The services, to be served by tonic.
    pub fn routes(&self) -> Routes {
        let mut router = axum::Router::new();
        for (name, ..) in SERVICES {
            router = router.route_service(&format!("/{name}/{{method}}"), self.clone());
        }
        router.into()
    }

    fn context(&self, mode: Mode, only: Option<ResourceType>, request: &http::Extensions) -> Context {
        let shared = &self.shared;
        Context {
            mode,
            only,
            limits: shared.options.limits,
            peer: peer(request),
            identifier: shared.identifier.clone(),
            cache: shared.cache.clone(),
            registry: shared.registry.clone(),
            metrics: shared.metrics.clone(),
            stop: request.get::<Leaving>().map_or_else(|| shared.options.stop.clone(), |l| l.0.clone()),
        }
    }
}

impl tower::Service<http::Request<axum::body::Body>> for Service {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<axum::body::Body>) -> Self::Future {
        let path = request.uri().path().trim_start_matches('/');
        let (service, method) = path.split_once('/').unwrap_or((path, ""));
        let found = SERVICES.iter().find(|(name, ..)| *name == service).and_then(|(_, only, sotw, delta)| {
            if method == *sotw {
                Some((*only, Mode::Sotw))
            } else if method == *delta {
                Some((*only, Mode::Delta))
            } else {
                None
            }
        });
        let this = self.clone();
        Box::pin(async move {
            let Some((only, mode)) = found else {
                // Fetch (REST) is not offered over gRPC.
                return Ok(Status::unimplemented("only streams are served").into_http());
            };
            let cx = this.context(mode, only, request.extensions());
            Ok(match mode {
                Mode::Sotw => serve::<DiscoveryRequest>(cx, request),
                Mode::Delta => serve::<DeltaDiscoveryRequest>(cx, request),
            })
        })
    }
}

/// What our own listener, or a plain one of tonic's, says of the client.
fn peer(request: &http::Extensions) -> Peer {
    use tonic::transport::server::TcpConnectInfo;
    if let Some(peer) = request.get::<Peer>() {
        return peer.clone();
    }
    Peer { address: request.get::<TcpConnectInfo>().and_then(TcpConnectInfo::remote_addr), names: None }
}

fn serve<M>(cx: Context, request: http::Request<axum::body::Body>) -> http::Response<Body>
where
    M: Message + Default + Into<Inbound> + 'static,
{
    if request.headers().get("grpc-encoding").is_some_and(|e| e != "identity") {
        let mut refusal = Status::unimplemented("compressed requests are not read");
        refusal.metadata_mut().insert("grpc-accept-encoding", MetadataValue::from_static("identity"));
        return refusal.into_http();
    }
    let decoder = RequestDecoder::<M>::default();
    let requests = Streaming::new_request(decoder, request.into_body(), None, Some(MAX_REQUEST));
    let requests = requests.map(|r| r.map(Into::into));
    let mut answer = http::Response::new(wire::body(stream::responses(Box::pin(requests), cx)));
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    answer
}

impl From<DiscoveryRequest> for Inbound {
    fn from(r: DiscoveryRequest) -> Self {
        let DiscoveryRequest {
            version_info: _, // what a client last accepted says nothing about what it has [24], [5]
            node,
            resource_names,
            resource_locators: _, // dynamic parameters [37]
            type_url,
            response_nonce,
            error_detail,
        } = r;
        let request = sotw::Request {
            type_url,
            names: resource_names,
            nonce: response_nonce,
            error: error_detail.map(reason),
        };
        Self { node, request: Request::Sotw(request) }
    }
}

impl From<DeltaDiscoveryRequest> for Inbound {
    fn from(r: DeltaDiscoveryRequest) -> Self {
        let DeltaDiscoveryRequest {
            node,
            type_url,
            resource_names_subscribe,
            resource_names_unsubscribe,
            resource_locators_subscribe: _,
            resource_locators_unsubscribe: _,
            initial_resource_versions,
            response_nonce,
            error_detail,
        } = r;
        let request = delta::Request {
            type_url,
            subscribe: resource_names_subscribe,
            unsubscribe: resource_names_unsubscribe,
            initial_versions: initial_resource_versions,
            nonce: response_nonce,
            error: error_detail.map(reason),
        };
        Self { node, request: Request::Delta(request) }
    }
}

/// The longest reason kept, bytes: it is shown in status and logs.
const MAX_REASON: usize = 4096;

fn reason(status: rpc::Status) -> String {
    let mut text = status.message;
    if text.is_empty() {
        text = format!("code {}", status.code);
    }
    if text.len() > MAX_REASON {
        let end = (0..=MAX_REASON).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
        text.truncate(end);
    }
    text
}
