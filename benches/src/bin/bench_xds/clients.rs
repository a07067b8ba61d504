//! Simulated proxies: one TCP connection and one ADS stream each, all of them on one thread.
//!
//! They ask as Envoy does: clusters, then the endpoints of every cluster, and when those are there the
//! acknowledgement of the clusters, listeners, and routes. Everything is acknowledged. Resources are counted and
//! not decoded, so that the clients leave the machine to the control plane.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::{RecvStream, SendStream};
use prost::Message;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use xds_types::ResourceType;
use xds_types::envoy::config::core::v3::Node;
use xds_types::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};

/// Longest wait for all proxies.
const PATIENCE: Duration = Duration::from_secs(60);
/// HTTP/2 windows: room for a whole first response, so that none waits for window updates.
const WINDOW: u32 = 1 << 20;

/// The dialect that proxies speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Mode {
    /// Incremental.
    Delta,
    /// State of the world.
    Sotw,
}

/// What every proxy is to ask for.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    /// Node group.
    pub group: String,
    /// Clusters, which are named as their endpoints are.
    pub clusters: Vec<String>,
    /// Route configurations.
    pub routes: Vec<String>,
}

/// Many proxies. They disconnect when dropped.
pub(crate) struct Fleet {
    shared: Rc<Shared>,
    tasks: JoinSet<Result<()>>,
    connections: JoinSet<()>,
}

/// What the proxies share: what to send, and how far they are. All on one thread, hence cells.
struct Shared {
    count: usize,
    clusters: usize,
    requests: Requests,
    synced: Cell<usize>,
    round: Cell<u64>,
    acked: Cell<usize>,
    responses: Cell<u64>,
    bytes: Cell<u64>,
    /// The last proxy has done what was waited for.
    done: Notify,
}

impl Fleet {
    /// Connects so many proxies, all at once. Call on a `LocalSet`.
    pub(crate) async fn connect(to: SocketAddr, mode: Mode, count: usize, names: &Names) -> Result<Self> {
        let shared = Rc::new(Shared {
            count,
            clusters: names.clusters.len(),
            requests: Requests::new(mode, names),
            synced: Cell::new(0),
            round: Cell::new(0),
            acked: Cell::new(0),
            responses: Cell::new(0),
            bytes: Cell::new(0),
            done: Notify::new(),
        });
        let (mut tasks, mut connections) = (JoinSet::new(), JoinSet::new());
        for i in 0..count {
            let stream = TcpStream::connect(to).await.with_context(|| format!("proxy {i} connects"))?;
            stream.set_nodelay(true)?;
            let (sender, connection) = h2::client::Builder::new()
                .initial_window_size(WINDOW)
                .initial_connection_window_size(WINDOW)
                .handshake::<_, Bytes>(stream)
                .await?;
            connections.spawn_local(async move {
                let _ = connection.await; // its stream fails as well, and says why
            });
            let first = shared.requests.first(i, &names.group);
            let shared = Rc::clone(&shared);
            tasks.spawn_local(async move { proxy(sender, first, shared, to).await });
        }
        Ok(Self { shared, tasks, connections })
    }

    /// Waits until every proxy has all there is.
    pub(crate) async fn synced(&mut self) -> Result<()> {
        self.until("have synced", |s| s.synced.get()).await
    }

    /// From now on, the next response with endpoints that a proxy acknowledges counts.
    pub(crate) fn start_round(&self) {
        self.shared.round.set(self.shared.round.get() + 1);
        self.shared.acked.set(0);
    }

    /// Waits until every proxy has acknowledged endpoints in this round.
    pub(crate) async fn acked(&mut self) -> Result<()> {
        self.until("have acknowledged", |s| s.acked.get()).await
    }

    async fn until(&mut self, what: &str, progress: impl Fn(&Shared) -> usize) -> Result<()> {
        let (count, start) = (self.shared.count, Instant::now());
        while progress(&self.shared) < count {
            let left = PATIENCE.saturating_sub(start.elapsed());
            tokio::select! {
                () = self.shared.done.notified() => {}
                Some(ended) = self.tasks.join_next() => {
                    ended??;
                    bail!("a proxy's stream has ended");
                }
                () = tokio::time::sleep(left) => {
                    bail!("{} of {count} proxies {what} within {PATIENCE:?}", progress(&self.shared));
                }
            }
        }
        Ok(())
    }

    /// Responses that all proxies have received so far.
    pub(crate) fn responses(&self) -> u64 {
        self.shared.responses.get()
    }

    /// Bytes of the responses that all proxies have received so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.shared.bytes.get()
    }

    /// Disconnects them all.
    pub(crate) async fn disconnect(mut self) {
        self.tasks.shutdown().await;
        self.connections.shutdown().await;
    }
}

async fn proxy(
    sender: h2::client::SendRequest<Bytes>,
    first: Bytes,
    shared: Rc<Shared>,
    to: SocketAddr,
) -> Result<()> {
    let request = http::Request::post(format!("http://{to}{}", shared.requests.path()))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())?;
    let (answer, mut stream) = sender.ready().await?.send_request(request, false)?;
    stream.send_data(first, false)?;
    let answer = answer.await?;
    ensure!(answer.status() == 200, "the stream is refused: {:?}", answer.headers());
    let mut proxy = Proxy { shared, stream, clusters: Vec::new(), endpoints: 0, round: 0 };
    proxy.run(answer.into_body()).await
}

/// One proxy.
struct Proxy {
    shared: Rc<Shared>,
    stream: SendStream<Bytes>,
    /// Acknowledgements of clusters, held back until the clusters are warm.
    clusters: Vec<Bytes>,
    /// Assignments received, until all are there.
    endpoints: usize,
    /// The newest round in which it has acknowledged endpoints.
    round: u64,
}

impl Proxy {
    async fn run(&mut self, mut body: RecvStream) -> Result<()> {
        let mut buffer = BytesMut::new();
        while let Some(data) = body.data().await {
            let data = data?;
            body.flow_control().release_capacity(data.len())?;
            buffer.extend_from_slice(&data);
            while let Some(message) = take_message(&mut buffer)? {
                self.take(message)?;
            }
            if buffer.is_empty() {
                buffer = BytesMut::new(); // thousands of proxies are idle most of the time
            }
        }
        bail!("the control plane ended the stream: {:?}", body.trailers().await?)
    }

    fn take(&mut self, message: Bytes) -> Result<()> {
        let shared = Rc::clone(&self.shared);
        shared.responses.set(shared.responses.get() + 1);
        shared.bytes.set(shared.bytes.get() + message.len() as u64);
        let response = Skim::decode(message)?;
        let kind = ResourceType::from_type_url(&response.type_url).context("an unknown type")?;
        let ack = shared.requests.ack(kind, &response);
        match kind {
            ResourceType::Cluster => {
                if !self.is_warm() {
                    if self.clusters.is_empty() {
                        self.send(shared.requests.endpoints.clone())?;
                    }
                    self.clusters.push(ack);
                    return Ok(());
                }
                self.send(ack)
            }
            ResourceType::ClusterLoadAssignment => {
                self.send(ack)?;
                if !self.is_warm() {
                    self.endpoints += response.resources.len();
                    if self.is_warm() {
                        for ack in std::mem::take(&mut self.clusters) {
                            self.send(ack)?;
                        }
                        self.send(shared.requests.listeners.clone())?;
                    }
                } else if self.round < shared.round.get() {
                    self.round = shared.round.get();
                    shared.progress(&shared.acked);
                }
                Ok(())
            }
            ResourceType::Listener => {
                self.send(shared.requests.routes.clone())?;
                self.send(ack)
            }
            ResourceType::RouteConfiguration => {
                self.send(ack)?;
                shared.progress(&shared.synced);
                Ok(())
            }
            other => bail!("{other} was not asked for"),
        }
    }

    fn is_warm(&self) -> bool {
        self.endpoints >= self.shared.clusters
    }

    fn send(&mut self, request: Bytes) -> Result<()> {
        Ok(self.stream.send_data(request, false)?)
    }
}

impl Shared {
    fn progress(&self, of: &Cell<usize>) {
        of.set(of.get() + 1);
        if of.get() == self.count {
            self.done.notify_one();
        }
    }
}

/// Takes a whole gRPC message off the front.
fn take_message(buffer: &mut BytesMut) -> Result<Option<Bytes>> {
    let Some((head, _)) = buffer.split_first_chunk::<5>() else { return Ok(None) };
    ensure!(head[0] == 0, "a compressed message was not asked for");
    let len = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    if buffer.len() < 5 + len {
        return Ok(None);
    }
    buffer.advance(5);
    Ok(Some(buffer.split_to(len).freeze()))
}

/// What a proxy needs of a response; the same fields in both dialects.
#[derive(Clone, PartialEq, Message)]
struct Skim {
    /// SotW: version of the response.
    #[prost(string, tag = "1")]
    version: String,
    /// Resources, undecoded.
    #[prost(bytes = "bytes", repeated, tag = "2")]
    resources: Vec<Bytes>,
    #[prost(string, tag = "4")]
    type_url: String,
    #[prost(string, tag = "5")]
    nonce: String,
}

/// Requests, encoded once for all proxies.
struct Requests {
    mode: Mode,
    endpoints: Bytes,
    listeners: Bytes,
    routes: Bytes,
    /// Names that every SotW acknowledgement repeats, encoded.
    endpoint_names: Bytes,
    route_names: Bytes,
}

impl Requests {
    fn new(mode: Mode, names: &Names) -> Self {
        let subscribe = |kind: ResourceType, names: &[String]| match mode {
            Mode::Delta => frame(
                &DeltaDiscoveryRequest {
                    type_url: kind.type_url().to_owned(),
                    resource_names_subscribe: names.to_vec(),
                    ..Default::default()
                },
                &[],
            ),
            Mode::Sotw => frame(
                &DiscoveryRequest {
                    type_url: kind.type_url().to_owned(),
                    resource_names: names.to_vec(),
                    ..Default::default()
                },
                &[],
            ),
        };
        let repeated = |names: &[String]| -> Bytes {
            match mode {
                Mode::Delta => Bytes::new(),
                Mode::Sotw => DiscoveryRequest { resource_names: names.to_vec(), ..Default::default() }
                    .encode_to_vec()
                    .into(),
            }
        };
        Self {
            mode,
            endpoints: subscribe(ResourceType::ClusterLoadAssignment, &names.clusters),
            listeners: subscribe(ResourceType::Listener, &[]),
            routes: subscribe(ResourceType::RouteConfiguration, &names.routes),
            endpoint_names: repeated(&names.clusters),
            route_names: repeated(&names.routes),
        }
    }

    fn path(&self) -> &'static str {
        match self.mode {
            Mode::Delta => "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources",
            Mode::Sotw => "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources",
        }
    }

    /// The first request of a proxy: who it is, and all clusters.
    fn first(&self, index: usize, group: &str) -> Bytes {
        let node = Some(Node {
            id: format!("bench-{index}"),
            cluster: group.to_owned(),
            user_agent_name: "envoy".to_owned(),
            ..Default::default()
        });
        let type_url = ResourceType::Cluster.type_url().to_owned();
        match self.mode {
            Mode::Delta => frame(&DeltaDiscoveryRequest { node, type_url, ..Default::default() }, &[]),
            Mode::Sotw => frame(&DiscoveryRequest { node, type_url, ..Default::default() }, &[]),
        }
    }

    fn ack(&self, kind: ResourceType, response: &Skim) -> Bytes {
        let (type_url, response_nonce) = (response.type_url.clone(), response.nonce.clone());
        match self.mode {
            Mode::Delta => {
                frame(&DeltaDiscoveryRequest { type_url, response_nonce, ..Default::default() }, &[])
            }
            Mode::Sotw => {
                let names: &[u8] = match kind {
                    ResourceType::ClusterLoadAssignment => &self.endpoint_names,
                    ResourceType::RouteConfiguration => &self.route_names,
                    _ => &[],
                };
                let version_info = response.version.clone();
                let ack = DiscoveryRequest { type_url, response_nonce, version_info, ..Default::default() };
                frame(&ack, names)
            }
        }
    }
}

/// A gRPC message: this, and encoded fields after it, which protobuf reads as one message.
fn frame(message: &impl Message, more: &[u8]) -> Bytes {
    let len = message.encoded_len() + more.len();
    let mut out = BytesMut::with_capacity(5 + len);
    out.put_u8(0);
    out.put_u32(u32::try_from(len).expect("INVARIANT: requests are far below 4 GiB"));
    message.encode(&mut out).expect("INVARIANT: the buffer grows");
    out.extend_from_slice(more);
    out.freeze()
}
