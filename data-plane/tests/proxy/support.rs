//! What these tests run a proxy with: an upstream, a client, a scripted control plane, configuration texts.

use data_plane::server::{Boot, Handle, Options, Proxy};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};
use xds_types::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use xds_types::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};
use xds_types::google::protobuf::Any;
use xds_types::text;

/// Nothing here takes this long unless it is broken.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// Tries until `probe` gives something.
pub(crate) async fn eventually<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + LIMIT;
    loop {
        if let Some(value) = probe().await {
            return value;
        }
        assert!(Instant::now() < end, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A proxy from a bootstrap in YAML.
pub(crate) fn start(yaml: &str) -> Handle {
    start_with(Boot::from_yaml(yaml).unwrap_or_else(|e| panic!("{e}\n{yaml}")), Options::default())
}

pub(crate) fn start_with(boot: Boot, options: Options) -> Handle {
    Proxy::start(boot, options).unwrap_or_else(|e| panic!("{}", e.describe()))
}

/// Waits until the proxy serves, without blocking the runtime.
pub(crate) async fn ready(handle: Handle) -> Handle {
    let (handle, is_ready) = tokio::task::spawn_blocking(move || {
        let is_ready = handle.ready(LIMIT);
        (handle, is_ready)
    })
    .await
    .unwrap();
    assert!(is_ready, "the proxy is live");
    handle
}

/// Where a listener is bound, once it is active.
pub(crate) async fn bound(handle: &Handle, listener: &str) -> SocketAddr {
    eventually(&format!("listener {listener} is active"), async || handle.listener_addr(listener)).await
}

/// An upstream that answers every request with its name.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Upstream {
    pub(crate) async fn start(name: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let name = name.to_owned();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, name.clone()));
            }
        });
        Self { address, task }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(mut stream: TcpStream, name: String) {
    let (mut seen, mut chunk) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut chunk).await {
            Ok(0) | Err(_) => return,
            Ok(n) => seen.extend_from_slice(&chunk[..n]),
        }
        while let Some(end) = seen.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&seen[..end]).into_owned();
            seen.drain(..end + 4);
            if head.contains("/slow") {
                tokio::time::sleep(Duration::from_millis(400)).await;
            }
            let response = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{name}", name.len());
            if stream.write_all(response.as_bytes()).await.is_err() {
                return;
            }
        }
    }
}

/// An HTTP answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

pub(crate) async fn get(address: SocketAddr, path: &str) -> Answer {
    request(address, "GET", path).await.unwrap_or_else(|e| panic!("GET {path}: {e}"))
}

pub(crate) async fn post(address: SocketAddr, path: &str) -> Answer {
    request(address, "POST", path).await.unwrap_or_else(|e| panic!("POST {path}: {e}"))
}

/// One request on a connection of its own.
pub(crate) async fn request(address: SocketAddr, method: &str, path: &str) -> std::io::Result<Answer> {
    let mut stream = TcpStream::connect(address).await?;
    let text =
        format!("{method} {path} HTTP/1.1\r\nhost: test\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    stream.write_all(text.as_bytes()).await?;
    let mut bytes = Vec::new();
    tokio::time::timeout(LIMIT, stream.read_to_end(&mut bytes)).await??;
    let text = String::from_utf8_lossy(&bytes);
    let (head, body) = text.split_once("\r\n\r\n").ok_or(std::io::ErrorKind::UnexpectedEof)?;
    let status =
        head.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or(std::io::ErrorKind::InvalidData)?;
    let head = head.to_ascii_lowercase();
    let body = if head.contains("transfer-encoding: chunked") { unchunk(body) } else { body.to_owned() };
    Ok(Answer { status, head, body })
}

fn unchunk(mut text: &str) -> String {
    let mut out = String::new();
    while let Some((size, rest)) = text.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            break;
        }
        out.push_str(&rest[..size]);
        text = &rest[size + 2..];
    }
    out
}

pub(crate) const ADMIN: &str = "admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}\n";

/// A listener on a free port, with these routes in place or by RDS (flow YAML for the manager).
pub(crate) fn listener(name: &str, routes: &str) -> String {
    format!(
        r#"{{name: {name}, address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}, filter_chains: [{{filters: [{{name: hcm, typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, stat_prefix: {name}, {routes}, http_filters: [{{name: router, typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}}}]}}}}]}}]}}"#
    )
}

/// Routes in place: everything to one cluster.
pub(crate) fn to_cluster(cluster: &str) -> String {
    format!("route_config: {}", route_config("local", cluster))
}

/// Routes by RDS over ADS.
pub(crate) fn by_rds(name: &str) -> String {
    format!("rds: {{route_config_name: {name}, config_source: {{ads: {{}}, resource_api_version: V3}}}}")
}

pub(crate) fn route_config(name: &str, cluster: &str) -> String {
    format!(
        "{{name: {name}, virtual_hosts: [{{name: all, domains: ['*'], routes: [{{match: {{prefix: /}}, route: {{cluster: {cluster}}}}}]}}]}}"
    )
}

pub(crate) fn assignment(name: &str, address: SocketAddr) -> String {
    format!(
        "{{cluster_name: {name}, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: {}, port_value: {}}}}}}}}}]}}]}}",
        address.ip(),
        address.port()
    )
}

pub(crate) fn static_cluster(name: &str, address: SocketAddr) -> String {
    format!("{{name: {name}, connect_timeout: 1s, load_assignment: {}}}", assignment(name, address))
}

/// A cluster whose TLS trusts something that is no certificate.
pub(crate) fn broken_tls_cluster(name: &str, address: SocketAddr) -> String {
    let cluster = static_cluster(name, address);
    format!(
        r#"{}, transport_socket: {{name: tls, typed_config: {{"@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext, common_tls_context: {{validation_context: {{trusted_ca: {{inline_string: garbage}}}}}}}}}}}}"#,
        cluster.strip_suffix('}').unwrap()
    )
}

/// `listener` on a port of its own choosing, which the caller has found free.
pub(crate) fn at_port(listener: &str, port: u16) -> String {
    listener.replace("port_value: 0", &format!("port_value: {port}"))
}

/// A port that nobody has.
pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

pub(crate) fn eds_cluster(name: &str) -> String {
    format!(
        "{{name: {name}, type: EDS, connect_timeout: 1s, eds_cluster_config: {{eds_config: {{ads: {{}}, resource_api_version: V3}}}}}}"
    )
}

/// A bootstrap that learns everything from a control plane.
pub(crate) fn dynamic_bootstrap(control_plane: SocketAddr, api_type: &str) -> String {
    let http2 = r#"typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {"@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {http2_protocol_options: {}}}}"#;
    let cluster = static_cluster("xds", control_plane);
    let cluster = format!("{}, {http2}}}", cluster.strip_suffix('}').unwrap());
    format!(
        "{ADMIN}node: {{id: test-node, cluster: test}}\n\
         dynamic_resources:\n\
         \x20 ads_config: {{api_type: {api_type}, transport_api_version: V3, grpc_services: [{{envoy_grpc: {{cluster_name: xds}}}}]}}\n\
         \x20 cds_config: {{ads: {{}}, resource_api_version: V3}}\n\
         \x20 lds_config: {{ads: {{}}, resource_api_version: V3}}\n\
         static_resources: {{clusters: [{cluster}]}}\n"
    )
}

pub(crate) const CDS: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
pub(crate) const EDS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
pub(crate) const LDS: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
pub(crate) const RDS: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";

/// A resource out of flow YAML.
pub(crate) fn resource(type_url: &str, yaml: &str) -> Any {
    let name = type_url.rsplit('/').next().unwrap();
    let descriptor = xds_types::descriptors::message(name).unwrap();
    let source = text::Source { name: "test", text: yaml };
    let parsed = text::parse_dynamic(source, &descriptor, text::Options::default())
        .unwrap_or_else(|e| panic!("{e}\n{yaml}"));
    xds_types::any::pack_dynamic(&parsed.message)
}

/// A control plane whose every step a test takes.
pub(crate) struct ControlPlane {
    pub(crate) address: SocketAddr,
    sotw: mpsc::Receiver<SotwStream>,
    delta: mpsc::Receiver<DeltaStream>,
    task: tokio::task::JoinHandle<()>,
}

pub(crate) struct SotwStream {
    requests: Streaming<DiscoveryRequest>,
    responses: mpsc::Sender<Result<DiscoveryResponse, Status>>,
}

pub(crate) struct DeltaStream {
    requests: Streaming<DeltaDiscoveryRequest>,
    responses: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
}

struct Service {
    sotw: mpsc::Sender<SotwStream>,
    delta: mpsc::Sender<DeltaStream>,
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Service {
    type StreamAggregatedResourcesStream = ReceiverStream<Result<DiscoveryResponse, Status>>;
    type DeltaAggregatedResourcesStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        let (responses, outbound) = mpsc::channel(16);
        let stream = SotwStream { requests: request.into_inner(), responses };
        self.sotw.send(stream).await.map_err(|_| Status::unavailable("over"))?;
        Ok(Response::new(ReceiverStream::new(outbound)))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let (responses, outbound) = mpsc::channel(16);
        let stream = DeltaStream { requests: request.into_inner(), responses };
        self.delta.send(stream).await.map_err(|_| Status::unavailable("over"))?;
        Ok(Response::new(ReceiverStream::new(outbound)))
    }
}

impl ControlPlane {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let ((sotw_tx, sotw), (delta_tx, delta)) = (mpsc::channel(4), mpsc::channel(4));
        let service = AggregatedDiscoveryServiceServer::new(Service { sotw: sotw_tx, delta: delta_tx });
        let serving = tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(TcpListenerStream::new(listener));
        let task = tokio::spawn(async move { serving.await.unwrap() });
        Self { address, sotw, delta, task }
    }

    pub(crate) async fn sotw(&mut self) -> SotwStream {
        tokio::time::timeout(LIMIT, self.sotw.recv()).await.expect("a SotW stream opens").unwrap()
    }

    pub(crate) async fn delta(&mut self) -> DeltaStream {
        tokio::time::timeout(LIMIT, self.delta.recv()).await.expect("a delta stream opens").unwrap()
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl SotwStream {
    pub(crate) async fn request(&mut self) -> DiscoveryRequest {
        let next = tokio::time::timeout(LIMIT, self.requests.message());
        next.await.expect("a request comes").unwrap().expect("the stream is open")
    }

    /// The next request, which must be of this type.
    pub(crate) async fn request_of(&mut self, type_url: &str) -> DiscoveryRequest {
        let request = self.request().await;
        assert_eq!(request.type_url, type_url, "{request:?}");
        request
    }

    /// Whether no request comes for a while.
    pub(crate) async fn is_quiet(&mut self) -> bool {
        tokio::time::timeout(Duration::from_millis(200), self.requests.message()).await.is_err()
    }

    pub(crate) async fn respond(&self, type_url: &str, version: &str, nonce: &str, resources: Vec<Any>) {
        let response = DiscoveryResponse {
            version_info: version.into(),
            resources,
            type_url: type_url.into(),
            nonce: nonce.into(),
            ..DiscoveryResponse::default()
        };
        self.responses.send(Ok(response)).await.unwrap();
    }
}

impl DeltaStream {
    pub(crate) async fn request(&mut self) -> DeltaDiscoveryRequest {
        let next = tokio::time::timeout(LIMIT, self.requests.message());
        next.await.expect("a request comes").unwrap().expect("the stream is open")
    }

    pub(crate) async fn request_of(&mut self, type_url: &str) -> DeltaDiscoveryRequest {
        let request = self.request().await;
        assert_eq!(request.type_url, type_url, "{request:?}");
        request
    }

    /// Resources as `(name, version, body)`.
    pub(crate) async fn respond(
        &self,
        type_url: &str,
        nonce: &str,
        resources: Vec<(&str, &str, Any)>,
        removed: &[&str],
    ) {
        let wrap = |(name, version, body): (&str, &str, Any)| Resource {
            name: name.into(),
            version: version.into(),
            resource: Some(body),
            ..Resource::default()
        };
        let response = DeltaDiscoveryResponse {
            resources: resources.into_iter().map(wrap).collect(),
            type_url: type_url.into(),
            removed_resources: removed.iter().map(|r| r.to_string()).collect(),
            nonce: nonce.into(),
            ..DeltaDiscoveryResponse::default()
        };
        self.responses.send(Ok(response)).await.unwrap();
    }
}
