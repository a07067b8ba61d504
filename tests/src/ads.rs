//! A foreign management server: every discovery service, in both dialects, that says only what a test tells it to.
//!
//! Streams are handed to the test as clients open them; the test reads each request and sends any response, right
//! or wrong.

use anyhow::{Context, Result, bail};
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, StreamExt};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::convert::Infallible;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::server::{Grpc, StreamingService};
use tonic::{Request as Call, Response as Answer, Status, Streaming};
use tonic_prost::ProstCodec;
use xds_types::ResourceType;
use xds_types::envoy::config::core::v3::{ControlPlane, Node};
use xds_types::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};
use xds_types::google::protobuf::Any;

/// Longest wait for a client to do something.
const DEADLINE: Duration = Duration::from_secs(30);

/// Requests and streams that wait for the test to look at them. Full: the client is held up.
const QUEUE: usize = 1024;

/// CDS.
pub const CDS: ResourceType = ResourceType::Cluster;
/// EDS.
pub const EDS: ResourceType = ResourceType::ClusterLoadAssignment;
/// LDS.
pub const LDS: ResourceType = ResourceType::Listener;
/// RDS.
pub const RDS: ResourceType = ResourceType::RouteConfiguration;

/// SDS.
pub const SDS: ResourceType = ResourceType::Secret;

/// The two dialects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// State of the world.
    Sotw,
    /// Incremental.
    Delta,
}

impl Dialect {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Sotw, Self::Delta];

    /// As `api_type` has it.
    pub fn api_type(self) -> &'static str {
        match self {
            Self::Sotw => "GRPC",
            Self::Delta => "DELTA_GRPC",
        }
    }
}

/// What both dialects' requests say.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// `type_url`.
    pub type_url: String,
    /// All names (SotW) or those subscribed (delta).
    pub names: BTreeSet<String>,
    /// Names unsubscribed (delta).
    pub dropped: BTreeSet<String>,
    /// `version_info` (SotW).
    pub version: String,
    /// `response_nonce`.
    pub nonce: String,
    /// Message of `error_detail`; with it the request is a NACK.
    pub error: Option<String>,
    /// `initial_resource_versions` (delta).
    pub held: BTreeMap<String, String>,
    /// Who asks.
    pub node: Option<Node>,
}

impl Request {
    /// Its type, when it is one of those named here.
    pub fn kind(&self) -> Option<ResourceType> {
        [CDS, EDS, LDS, RDS].into_iter().find(|kind| kind.type_url() == self.type_url)
    }
}

/// What both dialects' responses say.
#[derive(Clone, Debug, Default)]
pub struct Response {
    /// `type_url`.
    pub type_url: String,
    /// `version_info` or `system_version_info`, and in delta each resource's.
    pub version: String,
    /// Nonce.
    pub nonce: String,
    /// Resources by name; in SotW the names are not sent.
    pub resources: Vec<(String, Any)>,
    /// Names removed (delta).
    pub removed: Vec<String>,
}

impl Response {
    /// Resources of a kind; the nonce is the version's.
    pub fn new(kind: ResourceType, version: &str, resources: Vec<(String, Any)>) -> Self {
        let nonce = format!("{kind:?}-{version}");
        Self {
            type_url: kind.type_url().into(),
            version: version.into(),
            nonce,
            resources,
            removed: Vec::new(),
        }
    }

    /// With these names removed.
    pub fn removing(mut self, names: &[&str]) -> Self {
        self.removed = names.iter().map(|n| (*n).to_owned()).collect();
        self
    }

    fn control_plane() -> Option<ControlPlane> {
        Some(ControlPlane { identifier: "foreign".into() })
    }

    fn sotw(self) -> DiscoveryResponse {
        DiscoveryResponse {
            version_info: self.version,
            resources: self.resources.into_iter().map(|(_, any)| any).collect(),
            type_url: self.type_url,
            nonce: self.nonce,
            control_plane: Self::control_plane(),
            ..DiscoveryResponse::default()
        }
    }

    fn delta(self) -> DeltaDiscoveryResponse {
        let version = self.version.clone();
        let wrap = |(name, any)| Resource {
            name,
            version: version.clone(),
            resource: Some(any),
            ..Resource::default()
        };
        DeltaDiscoveryResponse {
            system_version_info: self.version.clone(),
            resources: self.resources.into_iter().map(wrap).collect(),
            type_url: self.type_url,
            removed_resources: self.removed,
            nonce: self.nonce,
            control_plane: Self::control_plane(),
            ..DeltaDiscoveryResponse::default()
        }
    }
}

impl From<DiscoveryRequest> for Request {
    fn from(request: DiscoveryRequest) -> Self {
        Self {
            type_url: request.type_url,
            names: request.resource_names.into_iter().collect(),
            version: request.version_info,
            nonce: request.response_nonce,
            error: request.error_detail.map(|e| e.message),
            node: request.node,
            ..Self::default()
        }
    }
}

impl From<DeltaDiscoveryRequest> for Request {
    fn from(request: DeltaDiscoveryRequest) -> Self {
        Self {
            type_url: request.type_url,
            names: request.resource_names_subscribe.into_iter().collect(),
            dropped: request.resource_names_unsubscribe.into_iter().collect(),
            nonce: request.response_nonce,
            error: request.error_detail.map(|e| e.message),
            held: request.initial_resource_versions.into_iter().collect(),
            node: request.node,
            ..Self::default()
        }
    }
}

/// A stream that a client opened. Dropping it ends the stream.
pub struct Stream {
    /// The gRPC method, such as `StreamClusters`.
    pub method: String,
    /// Which dialect.
    pub dialect: Dialect,
    requests: mpsc::Receiver<Request>,
    responses: mpsc::Sender<Response>,
    /// Read, but not yet asked for.
    waiting: VecDeque<Request>,
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("method", &self.method).finish_non_exhaustive()
    }
}

impl Stream {
    /// The next request, of any type.
    ///
    /// # Errors
    /// None comes.
    pub async fn next(&mut self) -> Result<Request> {
        if let Some(request) = self.waiting.pop_front() {
            return Ok(request);
        }
        self.read().await
    }

    async fn read(&mut self) -> Result<Request> {
        timeout(DEADLINE, self.requests.recv()).await.context("no request")?.context("the stream ended")
    }

    /// The next request of a type; others wait.
    ///
    /// # Errors
    /// None comes.
    pub async fn of(&mut self, kind: ResourceType) -> Result<Request> {
        if let Some(at) = self.waiting.iter().position(|r| r.type_url == kind.type_url()) {
            return self.waiting.remove(at).context("INVARIANT: just found");
        }
        loop {
            let request = self.read().await.with_context(|| format!("waiting for {kind:?}"))?;
            if request.type_url == kind.type_url() {
                return Ok(request);
            }
            self.waiting.push_back(request);
        }
    }

    /// The answer to the response of that nonce; requests of its type before it are dropped.
    ///
    /// # Errors
    /// None comes.
    pub async fn answer(&mut self, kind: ResourceType, version: &str) -> Result<Request> {
        let nonce = format!("{kind:?}-{version}");
        loop {
            let request = self.of(kind).await.with_context(|| format!("answer to {nonce}"))?;
            if request.nonce == nonce {
                return Ok(request);
            }
        }
    }

    /// Requests that came so far.
    pub fn so_far(&mut self) -> Vec<Request> {
        while let Some(Some(request)) = self.requests.recv().now_or_never() {
            self.waiting.push_back(request);
        }
        self.waiting.drain(..).collect()
    }

    /// Sends a response.
    ///
    /// # Errors
    /// The client is gone.
    pub async fn send(&mut self, response: Response) -> Result<()> {
        self.responses.send(response).await.context("the stream ended")
    }

    /// Sends a response and says what the client thinks of it: `Ok` the ACK, `Err` the NACK's message.
    ///
    /// # Errors
    /// No answer comes.
    pub async fn push(
        &mut self,
        kind: ResourceType,
        version: &str,
        resources: Vec<(String, Any)>,
    ) -> Result<Result<Request, String>> {
        self.send(Response::new(kind, version, resources)).await?;
        let answer = self.answer(kind, version).await?;
        Ok(match answer.error.clone() {
            Some(error) => Err(error),
            None => Ok(answer),
        })
    }
}

/// The server.
#[derive(Debug)]
pub struct AdsServer {
    /// Where it listens.
    pub addr: SocketAddr,
    streams: mpsc::Receiver<Stream>,
    _accept: JoinSet<()>,
}

impl AdsServer {
    /// Starts one on a port of its own.
    ///
    /// # Errors
    /// No port is free.
    pub async fn start() -> Result<Self> {
        Self::bind((Ipv4Addr::LOCALHOST, 0).into()).await
    }

    /// Starts one on `addr`.
    ///
    /// # Errors
    /// The address is taken.
    pub async fn bind(addr: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(addr).await?;
        let addr = listener.local_addr()?;
        let (tell, streams) = mpsc::channel(QUEUE);
        let mut accept = JoinSet::new();
        accept.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                let tell = tell.clone();
                connections.spawn(async move {
                    let service = service_fn(move |request| serve(request, tell.clone()));
                    let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    // A client that goes away is no failure here.
                    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { addr, streams, _accept: accept })
    }

    /// The next stream that a client opens.
    ///
    /// # Errors
    /// None opens one.
    pub async fn stream(&mut self) -> Result<Stream> {
        timeout(DEADLINE, self.streams.recv()).await.context("no stream opened")?.context("the server ended")
    }

    /// The next stream of a method; earlier ones of others are kept from nobody: they end.
    ///
    /// # Errors
    /// None opens one.
    pub async fn streams(&mut self, count: usize) -> Result<BTreeMap<String, Stream>> {
        let mut all = BTreeMap::new();
        while all.len() < count {
            let stream = self.stream().await?;
            if all.insert(stream.method.clone(), stream).is_some() {
                bail!("one method twice");
            }
        }
        Ok(all)
    }
}

/// Carries one stream between the client and the test.
struct Carry {
    tell: mpsc::Sender<Stream>,
    method: String,
    dialect: Dialect,
}

impl Carry {
    /// Hands the stream over; the responses to be, in either dialect.
    async fn hand_over<Q>(self, mut inbound: Streaming<Q>) -> Result<ReceiverStream<Response>, Status>
    where
        Q: Into<Request> + Send + 'static,
    {
        let (requests_tx, requests) = mpsc::channel(QUEUE);
        let (responses, responses_rx) = mpsc::channel(QUEUE);
        let stream = Stream {
            method: self.method,
            dialect: self.dialect,
            requests,
            responses,
            waiting: VecDeque::new(),
        };
        self.tell.send(stream).await.map_err(|_| Status::unavailable("the test is over"))?;
        tokio::spawn(async move {
            // Ends with the stream, or with the test's interest in it.
            while let Ok(Some(request)) = inbound.message().await {
                if requests_tx.send(request.into()).await.is_err() {
                    return;
                }
            }
        });
        Ok(ReceiverStream::new(responses_rx))
    }
}

struct Sotw(Option<Carry>);
struct Delta(Option<Carry>);

type Answering<R> = std::pin::Pin<
    Box<dyn Future<Output = Result<Answer<BoxStream<'static, Result<R, Status>>>, Status>> + Send>,
>;

impl StreamingService<DiscoveryRequest> for Sotw {
    type Response = DiscoveryResponse;
    type ResponseStream = BoxStream<'static, Result<DiscoveryResponse, Status>>;
    type Future = Answering<DiscoveryResponse>;

    fn call(&mut self, call: Call<Streaming<DiscoveryRequest>>) -> Self::Future {
        let carry = self.0.take();
        Box::pin(async move {
            let carry = carry.ok_or_else(|| Status::internal("called twice"))?;
            let responses = carry.hand_over(call.into_inner()).await?;
            Ok(Answer::new(responses.map(|r| Ok(r.sotw())).boxed()))
        })
    }
}

impl StreamingService<DeltaDiscoveryRequest> for Delta {
    type Response = DeltaDiscoveryResponse;
    type ResponseStream = BoxStream<'static, Result<DeltaDiscoveryResponse, Status>>;
    type Future = Answering<DeltaDiscoveryResponse>;

    fn call(&mut self, call: Call<Streaming<DeltaDiscoveryRequest>>) -> Self::Future {
        let carry = self.0.take();
        Box::pin(async move {
            let carry = carry.ok_or_else(|| Status::internal("called twice"))?;
            let responses = carry.hand_over(call.into_inner()).await?;
            Ok(Answer::new(responses.map(|r| Ok(r.delta())).boxed()))
        })
    }
}

async fn serve(
    request: http::Request<Incoming>,
    tell: mpsc::Sender<Stream>,
) -> Result<http::Response<tonic::body::Body>, Infallible> {
    let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
    let dialect = if method.starts_with("Delta") { Dialect::Delta } else { Dialect::Sotw };
    let carry = Some(Carry { tell, method, dialect });
    Ok(match dialect {
        Dialect::Sotw => Grpc::new(ProstCodec::default()).streaming(Sotw(carry), request).await,
        Dialect::Delta => Grpc::new(ProstCodec::default()).streaming(Delta(carry), request).await,
    })
}
