//! A connection manager over real pools and loopback upstreams, for tests.

use super::chain::Link;
use super::filter::HttpFilterConfig;
use super::{AccessLogs, Connection, Deps, Hcm, RouteSlots, Worker, serve};
use crate::export::Exporters;
use crate::runtime::Runtime;
use crate::stats::{MetricValue, Registry};
use crate::task::{Shutdown, ShutdownTrigger, shutdown};
use crate::trace::Tracers;
use crate::upstream::{Local, Manager, Origin};
use data_plane_core::config;
use data_plane_core::path::{Diagnostics, Path};
use data_plane_core::translate::{self, NoData, Options};
use std::cell::RefCell;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::{TcpListener, TcpStream};
use xds_types::envoy::config::bootstrap::v3::Bootstrap;

/// Runs a test on a runtime like a worker's.
pub(super) fn run<T>(test: impl Future<Output = T>) -> T {
    runtime(false).block_on(test)
}

/// [`run`] with time that moves on only when nothing else can.
pub(super) fn run_paused<T>(test: impl Future<Output = T>) -> T {
    runtime(true).block_on(test)
}

fn runtime(paused: bool) -> tokio::runtime::LocalRuntime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().start_paused(paused);
    builder.build_local(tokio::runtime::LocalOptions::default()).unwrap()
}

/// A connection manager with its clusters.
pub(super) struct Proxy {
    pub(super) hcm: Arc<Hcm>,
    pub(super) deps: Deps,
    worker: Rc<Worker>,
    shutdown: (ShutdownTrigger, Shutdown),
    folder: tempfile::TempDir,
    _manager: Manager,
}

/// What a test proxy is made of, in Envoy's YAML.
#[derive(Clone, Copy, Default)]
pub(super) struct Setup<'a> {
    /// Fields of the connection manager; `LOG` stands for the access log's path.
    pub(super) manager: &'a str,
    /// The routes of its one virtual host.
    pub(super) routes: &'a str,
    /// Further fields of the virtual host and of the route configuration.
    pub(super) host: &'a str,
    pub(super) table: &'a str,
    /// Clusters by name.
    pub(super) clusters: &'a [(&'a str, &'a [SocketAddr])],
    /// Fields of every cluster.
    pub(super) cluster: &'a str,
    /// Fields of the router.
    pub(super) router: &'a str,
}

impl Setup<'_> {
    fn yaml(&self, log: &str) -> String {
        let indent = |text: &str, by: usize| -> String {
            text.lines().map(|line| format!("{:by$}{line}\n", "")).collect()
        };
        let mut yaml = format!(
            r#"
static_resources:
  listeners:
  - name: test
    address: {{ socket_address: {{ address: 127.0.0.1, port_value: 8080 }} }}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: test
          http_filters:
          - name: envoy.filters.http.router
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
{router}{manager}
          route_config:
            name: routes
            validate_clusters: false
{table}            virtual_hosts:
            - name: all
              domains: ["*"]
{host}              routes:
{routes}  clusters:
"#,
            router = indent(self.router, 14),
            manager = indent(&self.manager.replace("LOG", log), 10),
            table = indent(self.table, 12),
            host = indent(self.host, 14),
            routes = indent(self.routes, 14),
        );
        for (name, hosts) in self.clusters {
            yaml += &format!("  - name: {name}\n    type: STATIC\n{}", indent(self.cluster, 4));
            yaml += &format!("    load_assignment:\n      cluster_name: {name}\n      endpoints:\n");
            yaml += "      - lb_endpoints:\n";
            for host in *hosts {
                yaml += &format!(
                    "        - endpoint: {{ address: {{ socket_address: {{ address: {}, port_value: {} }} }} }}\n",
                    host.ip(),
                    host.port()
                );
            }
            if hosts.is_empty() {
                yaml.truncate(yaml.len() - "      - lb_endpoints:\n".len());
                yaml.truncate(yaml.trim_end().len());
                yaml += " []\n";
            }
        }
        if self.clusters.is_empty() {
            yaml.truncate(yaml.trim_end().len());
            yaml += " []\n";
        }
        yaml
    }

    pub(super) fn start(self) -> Proxy {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("access.log");
        let yaml = self.yaml(&log.display().to_string());
        let proto: Bootstrap = xds_types::text::from_yaml(&yaml).unwrap_or_else(|e| panic!("{e}\n{yaml}"));
        let mut diagnostics = Diagnostics::default();
        let bootstrap =
            translate::bootstrap(proto, &Path::root(""), &mut diagnostics, &Options::new(&NoData));
        let Ok(bootstrap) = bootstrap else { panic!("{diagnostics:?}\n{yaml}") };

        let stats = Registry::new(1);
        let manager = Manager::new(&stats, Arc::new(crate::upstream::dns::SystemResolver::default()));
        for cluster in &bootstrap.clusters {
            manager.set_cluster(Arc::clone(cluster), Origin::Static);
        }
        let shutdown = shutdown();
        let runtime = Runtime::default();
        let exporters = Exporters::new(&stats, &runtime, manager.clusters(), shutdown.1.clone(), 1);
        let tracers = Tracers::new(exporters.clone(), runtime, stats.clone(), Default::default());
        let deps = Deps {
            exporters: exporters.clone(),
            node: Arc::default(),
            secrets: Default::default(),
            tracers,
            access_logs: AccessLogs::new(&stats, 1, Duration::from_secs(3600)),
            routes: RouteSlots::default(),
            process: Arc::default(),
            agent: Arc::default(),
            fails_health_checks: Arc::default(),
            runtime: Runtime::default(),
            stats,
        };
        let config::NetworkFilter::Http(hcm) = &bootstrap.listeners[0].filter_chains[0].filters[0] else {
            panic!("the listener speaks HTTP");
        };
        let listener = deps.stats.scope("listener.127.0.0.1_8080.", "listener.", &[]);
        let hcm = Hcm::build(Arc::clone(hcm), &deps, &listener).unwrap();
        let local = Rc::new(Local::new(manager.clusters()));
        let worker = Worker::new(1, local, manager.clusters(), shutdown.1.clone());
        Proxy { hcm, deps, worker, shutdown, folder, _manager: manager }
    }
}

impl Proxy {
    /// The manager with its configuration changed.
    pub(super) fn rebuild(&mut self, change: impl FnOnce(&mut config::Hcm)) {
        let mut config = (*self.hcm.config).clone();
        change(&mut config);
        let listener = self.deps.stats.scope("listener.127.0.0.1_8080.", "listener.", &[]);
        self.hcm = Hcm::build(Arc::new(config), &self.deps, &listener).unwrap();
    }

    /// The manager with filters before its router, named by their place.
    pub(super) fn with_filters(&mut self, filters: Vec<Arc<dyn HttpFilterConfig>>) {
        self.rebuild(|_| ());
        let link = |(at, filter): (usize, _)| Link { name: at.to_string().into(), disabled: false, filter };
        Arc::get_mut(&mut self.hcm).unwrap().chain.filters =
            filters.into_iter().enumerate().map(link).collect();
    }

    /// A client's end of a new connection.
    pub(super) fn connect(&self) -> DuplexStream {
        self.connect_from("127.0.0.1:5555")
    }

    pub(super) fn connect_from(&self, peer: &str) -> DuplexStream {
        let (near, far) = tokio::io::duplex(1 << 16);
        let peer = peer.parse().unwrap();
        let local = "127.0.0.1:8080".parse().unwrap();
        let connection = Connection {
            io: far,
            id: 7,
            peer,
            direct_peer: peer,
            local,
            direct_local: local,
            buffer_limit: 1 << 20,
            interface: Some("192.0.2.2".parse().unwrap()),
            listener: "test".into(),
            filter_chain: "".into(),
            detected: None,
            server_name: None,
            tls: None,
            handshake: None,
            told: None,
            shutdown: self.shutdown.1.clone(),
        };
        tokio::task::spawn_local(serve(Arc::clone(&self.hcm), connection, Rc::clone(&self.worker)));
        near
    }

    /// What a new connection answers to `request`, once; the date as `DATE`.
    pub(super) async fn ask(&self, request: &str) -> String {
        let mut client = self.connect();
        client.write_all(request.as_bytes()).await.unwrap();
        answer(&mut client).await
    }

    /// `GET path` from host `a`.
    pub(super) async fn get(&self, path: &str) -> String {
        self.ask(&format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n")).await
    }

    /// The lines of the access log so far.
    pub(super) fn log(&self) -> String {
        self.deps.access_logs.flush();
        std::fs::read_to_string(self.folder.path().join("access.log")).unwrap()
    }

    /// A counter or gauge by its full name; zero when there is none.
    pub(super) fn stat(&self, name: &str) -> u64 {
        let found = self
            .deps
            .stats
            .collect()
            .into_iter()
            .find(|m| name.strip_prefix(&*m.scope.prefix) == Some(&*m.name));
        match found.map(|m| m.value) {
            Some(MetricValue::Counter(value) | MetricValue::Gauge(value)) => value,
            Some(MetricValue::Histogram(histogram)) => histogram.count,
            _ => 0,
        }
    }
}

/// Reads one answer: its head and as much body as it promises, or to the end of the connection (`<end>`).
pub(super) async fn answer(client: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let chunked = head.contains("transfer-encoding: chunked");
            let want = length.map_or(0, |length| length.parse().unwrap());
            if chunked && body.ends_with("0\r\n\r\n") || !chunked && body.len() >= want {
                return plain(&text);
            }
        }
        let mut buffer = [0; 4096];
        match client.read(&mut buffer).await {
            Ok(0) | Err(_) => return plain(&text) + "<end>",
            Ok(n) => bytes.extend_from_slice(&buffer[..n]),
        }
    }
}

/// Line feeds only, the date as `DATE`, service times as `MS`.
fn plain(text: &str) -> String {
    let line = |line: &str| match line.split_once(": ") {
        Some(("date", _)) => "date: DATE".to_owned(),
        Some((name @ "x-envoy-upstream-service-time", ms)) if ms.parse::<u64>().is_ok() => {
            format!("{name}: MS")
        }
        _ => line.to_owned(),
    };
    let lines: Vec<_> = text.split("\r\n").map(line).collect();
    lines.join("\n")
}

/// What a scripted upstream does with a request.
#[derive(Clone, Debug)]
pub(super) enum Act {
    /// Sends this and keeps the connection.
    Send(String),
    /// Sends this and closes.
    SendAndClose(String),
    /// Sends this, then everything it gets.
    Echo(String),
    /// Resets the connection.
    Reset,
    /// Says nothing.
    Silence,
}

/// 200 with a body.
pub(super) fn ok(body: &str) -> Act {
    Act::Send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()))
}

/// A loopback server that answers by a script and keeps what it was asked.
pub(super) struct Upstream {
    pub(super) address: SocketAddr,
    seen: Rc<RefCell<Vec<String>>>,
}

impl Upstream {
    /// `script` is given each request's head with its line ends as line feeds.
    pub(super) async fn start(script: impl Fn(&str) -> Act + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Rc::<RefCell<Vec<String>>>::default();
        let (script, log) = (Rc::new(script), Rc::clone(&seen));
        tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::task::spawn_local(converse(stream, Rc::clone(&script), Rc::clone(&log)));
            }
        });
        Self { address, seen }
    }

    /// The heads it was asked so far, request ids as `ID`.
    pub(super) fn seen(&self) -> Vec<String> {
        self.seen.borrow().clone()
    }
}

async fn converse(mut stream: TcpStream, script: Rc<impl Fn(&str) -> Act>, log: Rc<RefCell<Vec<String>>>) {
    let mut bytes = Vec::new();
    loop {
        while !bytes.windows(4).any(|w| w == b"\r\n\r\n") {
            let mut buffer = [0; 4096];
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(n) => bytes.extend_from_slice(&buffer[..n]),
            }
        }
        let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
        let head: String = String::from_utf8_lossy(&bytes[..end - 4]).replace("\r\n", "\n");
        bytes.drain(..end);
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let mut owed = length.map_or(0, |length| length.parse::<usize>().unwrap());
        let lines = head
            .lines()
            .map(|line| if line.starts_with("x-request-id: ") { "x-request-id: ID" } else { line });
        log.borrow_mut().push(lines.collect::<Vec<_>>().join("\n"));
        let act = script(&head);
        // An early answer does not wait for the body.
        if !head.contains("/early") {
            while owed > bytes.len() {
                let mut buffer = [0; 4096];
                match stream.read(&mut buffer).await {
                    Ok(0) | Err(_) => return,
                    Ok(n) => bytes.extend_from_slice(&buffer[..n]),
                }
            }
            bytes.drain(..owed);
            owed = 0;
        }
        let _ = owed;
        match act {
            Act::Send(text) => stream.write_all(text.as_bytes()).await.unwrap(),
            Act::SendAndClose(text) => return stream.write_all(text.as_bytes()).await.unwrap(),
            Act::Echo(text) => {
                stream.write_all(text.as_bytes()).await.unwrap();
                let (mut read, mut write) = stream.split();
                // Ends when the other side does, one way or another.
                let _ = tokio::io::copy(&mut read, &mut write).await;
                return;
            }
            Act::Reset => {
                socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
                return;
            }
            Act::Silence => std::future::pending().await,
        }
    }
}

/// An address that refuses connections.
pub(super) async fn refusing() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    listener.local_addr().unwrap()
}
