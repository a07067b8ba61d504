//! A control plane in this process, and clients of it that speak as real ones do.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use control_plane::ads::{Options, Registry, Service};
use control_plane::model::{Event, Held, Instance, Object, ObjectKey, ServiceName, SourceId};
use control_plane::pipeline::{self, Handle, Pipeline};
use control_plane::source;
use prost::{Message, Name};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::Streaming;
use tonic::transport::{Channel, Server};
use xds_types::ResourceType;
use xds_types::envoy::config::core::v3::{ControlPlane, Node};
use xds_types::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use xds_types::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use xds_types::google::protobuf::Any;
use xds_types::google::rpc::Status;

/// How long anything may take that must happen.
const SOON: Duration = Duration::from_secs(10);
/// How long nothing must happen.
const QUIET: Duration = Duration::from_millis(150);

/// A running control plane without stores.
pub(super) struct Control {
    pub(super) events: source::Sender,
    pub(super) handle: Handle,
    pub(super) registry: Arc<Registry>,
    pub(super) address: String,
    stop: CancellationToken,
    revision: u64,
}

impl Drop for Control {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub(super) fn the_source() -> SourceId {
    SourceId::new(0, "test")
}

pub(super) fn instance(service: &str, port: u16) -> Instance {
    Instance::at(ServiceName::new(service).unwrap(), ([127, 0, 0, 1], port).into()).unwrap()
}

impl Control {
    /// With these objects, as `[kind, name, spec]`, and instances.
    pub(super) async fn start(objects: &[Value], instances: Vec<Instance>) -> Self {
        Self::start_with(objects, instances, Duration::from_millis(10)).await
    }

    pub(super) async fn start_with(objects: &[Value], instances: Vec<Instance>, quiet: Duration) -> Self {
        let stop = CancellationToken::new();
        let (events, receiver) = source::channel();
        let options = pipeline::Options { sources: vec![the_source()], quiet, ..Default::default() };
        let (pipeline, handle) = Pipeline::new(options, receiver);
        tokio::spawn(pipeline.run(stop.clone()));
        let registry = Arc::new(Registry::new());
        let options = Options { identifier: "replica-1".into(), stop: stop.clone(), ..Options::default() };
        let service = Service::new(handle.cache().clone(), registry.clone(), options);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let server = Server::builder().add_routes(service.routes());
        let stopped = stop.clone();
        tokio::spawn(async move {
            server
                .serve_with_incoming_shutdown(TcpListenerStream::new(listener), stopped.cancelled_owned())
                .await
                .unwrap();
        });
        let mut control = Self { events, handle, registry, address, stop, revision: 0 };
        let objects = objects.iter().map(|o| control.object(o)).collect();
        control.send(Event::Resync { source: the_source(), held: Held { instances, objects } }).await;
        control
    }

    fn object(&mut self, o: &Value) -> Object {
        self.revision += 1;
        let text = json!({"kind": o[0], "name": o[1], "spec": o[2]}).to_string();
        let key =
            ObjectKey::new(o[0].as_str().unwrap().parse().unwrap(), o[1].as_str().unwrap().parse().unwrap());
        Object::stored(key, self.revision, &text)
    }

    pub(super) async fn send(&self, event: Event) {
        self.events.send(event).await.unwrap();
    }

    pub(super) async fn put(&mut self, o: Value) {
        let object = self.object(&o);
        self.send(Event::UpsertObject { source: the_source(), object }).await;
    }

    pub(super) async fn register(&self, instance: Instance) {
        self.send(Event::UpsertInstance { source: the_source(), instance }).await;
    }

    pub(super) async fn channel(&self) -> Channel {
        Channel::from_shared(self.address.clone()).unwrap().connect().await.unwrap()
    }
}

/// Waits until something holds.
pub(super) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = tokio::time::Instant::now() + SOON;
    while !holds() {
        assert!(tokio::time::Instant::now() < end, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(super) fn node(id: &str, group: &str, agent: &str) -> Node {
    Node { id: id.into(), cluster: group.into(), user_agent_name: agent.into(), ..Node::default() }
}

/// What both dialects have in a response.
#[derive(Clone, Debug)]
pub(super) struct Got {
    pub(super) kind: ResourceType,
    pub(super) version: String,
    pub(super) nonce: String,
    pub(super) resources: BTreeMap<String, Any>,
    pub(super) removed: Vec<String>,
    pub(super) control_plane: Option<ControlPlane>,
}

impl Got {
    pub(super) fn names(&self) -> Vec<&str> {
        self.resources.keys().map(String::as_str).collect()
    }

    pub(super) fn message<M: Message + Name + Default>(&self, name: &str) -> M {
        xds_types::any::unpack(&self.resources[name]).unwrap()
    }
}

fn name_of(any: &Any) -> String {
    use xds_types::envoy::config::cluster::v3::Cluster;
    use xds_types::envoy::config::endpoint::v3::ClusterLoadAssignment;
    use xds_types::envoy::config::listener::v3::Listener;
    use xds_types::envoy::config::route::v3::RouteConfiguration;
    match ResourceType::from_type_url(&any.type_url).unwrap() {
        ResourceType::Cluster => Cluster::decode(&*any.value).unwrap().name,
        ResourceType::ClusterLoadAssignment => {
            ClusterLoadAssignment::decode(&*any.value).unwrap().cluster_name
        }
        ResourceType::Listener => Listener::decode(&*any.value).unwrap().name,
        ResourceType::RouteConfiguration => RouteConfiguration::decode(&*any.value).unwrap().name,
        other => panic!("unexpected {other}"),
    }
}

/// An ADS client.
pub(super) enum Client {
    Sotw(mpsc::Sender<DiscoveryRequest>, Streaming<DiscoveryResponse>, Node, VecDeque<Got>),
    Delta(mpsc::Sender<DeltaDiscoveryRequest>, Streaming<DeltaDiscoveryResponse>, Node, VecDeque<Got>),
}

impl Client {
    pub(super) async fn sotw(channel: Channel, node: Node) -> Self {
        let (tx, rx) = mpsc::channel(64);
        let mut client = AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(64 << 20);
        let stream = client.stream_aggregated_resources(ReceiverStream::new(rx)).await.unwrap().into_inner();
        Self::Sotw(tx, stream, node, VecDeque::new())
    }

    pub(super) async fn delta(channel: Channel, node: Node) -> Self {
        let (tx, rx) = mpsc::channel(64);
        let mut client = AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(64 << 20);
        let stream = client.delta_aggregated_resources(ReceiverStream::new(rx)).await.unwrap().into_inner();
        Self::Delta(tx, stream, node, VecDeque::new())
    }

    /// The first request of a type, or, in delta, further names.
    pub(super) async fn ask(&mut self, kind: ResourceType, names: &[&str]) {
        let names = names.iter().map(ToString::to_string).collect();
        let type_url = kind.type_url().to_owned();
        match self {
            Self::Sotw(tx, _, node, _) => {
                let node = Some(std::mem::take(node)).filter(|n| *n != Node::default());
                let r = DiscoveryRequest { node, type_url, resource_names: names, ..Default::default() };
                tx.send(r).await.unwrap();
            }
            Self::Delta(tx, _, node, _) => {
                let node = Some(std::mem::take(node)).filter(|n| *n != Node::default());
                let r = DeltaDiscoveryRequest {
                    node,
                    type_url,
                    resource_names_subscribe: names,
                    ..Default::default()
                };
                tx.send(r).await.unwrap();
            }
        }
    }

    pub(super) async fn answer(&mut self, got: &Got, names: &[&str], error: Option<&str>) {
        let type_url = got.kind.type_url().to_owned();
        let error_detail = error.map(|e| Status { code: 13, message: e.into(), ..Status::default() });
        let response_nonce = got.nonce.clone();
        match self {
            Self::Sotw(tx, ..) => {
                let resource_names = names.iter().map(ToString::to_string).collect();
                let version_info = if error.is_some() { String::new() } else { got.version.clone() };
                let r = DiscoveryRequest {
                    type_url,
                    resource_names,
                    response_nonce,
                    error_detail,
                    version_info,
                    ..Default::default()
                };
                tx.send(r).await.unwrap();
            }
            Self::Delta(tx, ..) => {
                let r =
                    DeltaDiscoveryRequest { type_url, response_nonce, error_detail, ..Default::default() };
                tx.send(r).await.unwrap();
            }
        }
    }

    /// Subscribes one more name, and in SotW says the others again.
    pub(super) async fn ask_more(&mut self, last: &Got, name: &str, all: &[&str]) {
        match self {
            Self::Sotw(..) => self.answer(last, all, None).await,
            Self::Delta(..) => self.ask(last.kind, &[name]).await,
        }
    }

    /// The next response of this type; those of others wait.
    pub(super) async fn next(&mut self, kind: ResourceType) -> Got {
        let waiting = match self {
            Self::Sotw(.., waiting) | Self::Delta(.., waiting) => waiting,
        };
        if let Some(at) = waiting.iter().position(|g| g.kind == kind) {
            return waiting.remove(at).unwrap();
        }
        loop {
            let got = timeout(SOON, self.receive()).await.unwrap_or_else(|_| panic!("no {kind} came"));
            if got.kind == kind {
                return got;
            }
            match self {
                Self::Sotw(.., waiting) | Self::Delta(.., waiting) => waiting.push_back(got),
            }
        }
    }

    /// The next response, accepted.
    pub(super) async fn accept(&mut self, kind: ResourceType, names: &[&str]) -> Got {
        let got = self.next(kind).await;
        self.answer(&got, names, None).await;
        got
    }

    /// Nothing comes.
    pub(super) async fn nothing(&mut self) {
        match self {
            Self::Sotw(.., waiting) | Self::Delta(.., waiting) => assert!(waiting.is_empty(), "{waiting:?}"),
        }
        if let Ok(got) = timeout(QUIET, self.receive()).await {
            panic!("unexpected {got:?}");
        }
    }

    async fn receive(&mut self) -> Got {
        match self {
            Self::Sotw(_, stream, ..) => {
                let r = stream.message().await.unwrap().expect("the stream goes on");
                Got {
                    kind: ResourceType::from_type_url(&r.type_url).unwrap(),
                    version: r.version_info,
                    nonce: r.nonce,
                    resources: r.resources.into_iter().map(|any| (name_of(&any), any)).collect(),
                    removed: Vec::new(),
                    control_plane: r.control_plane,
                }
            }
            Self::Delta(_, stream, ..) => {
                let r = stream.message().await.unwrap().expect("the stream goes on");
                Got {
                    kind: ResourceType::from_type_url(&r.type_url).unwrap(),
                    version: r.system_version_info,
                    nonce: r.nonce,
                    resources: r.resources.into_iter().map(|r| (r.name, r.resource.unwrap())).collect(),
                    removed: r.removed_resources,
                    control_plane: r.control_plane,
                }
            }
        }
    }
}
