//! One worker's accepting on one address, and the way of a connection until a filter chain has it.

use super::balance::{Balance, Passed, Seated};
use super::chain_select::Facts;
use super::client_hello::{self, Hello};
use super::inspect::{Found, inspect};
use super::log::Entry;
use super::proxy_protocol::{self, Taken};
use super::runtime::{Chain, Open, Runtime, Served, Shared, Stats};
use crate::http::{Connection, Worker};
use crate::stats::Gauge;
use crate::transport::{Counted, Io, local_interface_address, socket};
use arc_swap::ArcSwap;
use data_plane_core::config::{CodecType, ListenerFilter};
use smallvec::SmallVec;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

/// First and longest wait after an accept that failed for want of files or memory.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));
/// Time between two log lines about failing accepts.
const LOG_INTERVAL: Duration = Duration::from_secs(10);
/// How long a TLS handshake may take where the chain does not say. Envoy has no limit then, so that a silent client
/// holds its connection for ever.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(15);
/// Connections taken out of a socket's queue before it closes.
const MAX_LEFT_IN_QUEUE: usize = 1024;

/// What an accepting task works with.
pub(super) struct Acceptor {
    pub(super) worker: Rc<Worker>,
    /// From 0.
    pub(super) index: usize,
    pub(super) shared: Arc<Shared>,
    /// The listener's current version; replaced by updates that keep the address.
    pub(super) runtime: Arc<ArcSwap<Runtime>>,
    pub(super) tasks: TaskTracker,
    /// As bound.
    pub(super) address: SocketAddr,
    pub(super) balance: Arc<Balance>,
}

impl Acceptor {
    /// Accepts until `closed` resolves, then takes what is in the queue still: the kernel would reset it.
    pub(super) async fn run(self, listener: TcpListener, closed: impl Future<Output = ()>) {
        tokio::pin!(closed);
        let mut passed = self.balance.join(self.index);
        let mut backoff = BACKOFF.0;
        let mut logged: Option<Instant> = None;
        loop {
            // All are cancel safe: a connection is taken only when it is returned.
            let accepted = tokio::select! {
                biased;
                () = &mut closed => break,
                Some(passed) = passed.recv() => {
                    self.take(passed);
                    continue;
                }
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    backoff = BACKOFF.0;
                    self.place(stream, peer);
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    self.runtime.load().stats.listener.downstream_cx_accept_error.inc();
                    if logged.is_none_or(|at| at.elapsed() >= LOG_INTERVAL) {
                        logged = Some(Instant::now());
                        tracing::error!(address = %self.address, %error, "cannot accept; trying on");
                    }
                    tokio::select! {
                        () = &mut closed => break,
                        () = tokio::time::sleep(backoff) => {}
                    }
                    backoff = (backoff * 2).min(BACKOFF.1);
                }
            }
        }
        passed.close();
        while let Ok(passed) = passed.try_recv() {
            self.take(passed);
        }
        // Past the runtime, which knows of those only that came before it last looked.
        let Ok(listener) = listener.into_std() else { return };
        for _ in 0..MAX_LEFT_IN_QUEUE {
            match listener.accept() {
                Ok((stream, peer)) => {
                    let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
                    if let Ok(stream) = stream {
                        self.start(stream, peer, None);
                    }
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(_) => break,
            }
        }
    }

    /// Serves a connection here, or passes it to the worker that is to serve it.
    fn place(&self, stream: TcpStream, peer: SocketAddr) {
        if !self.runtime.load().exact_balance {
            return self.start(stream, peer, None);
        }
        let seated = self.balance.seat(self.index);
        if seated.worker() == self.index {
            return self.start(stream, peer, Some(seated));
        }
        // Fails only for a socket that is broken.
        let Ok(stream) = stream.into_std() else { return };
        if let Err(passed) = self.balance.pass(Passed { stream, peer, seated }) {
            self.take(passed);
        }
    }

    /// Serves a connection that was passed.
    fn take(&self, passed: Passed) {
        if let Ok(stream) = TcpStream::from_std(passed.stream) {
            self.start(stream, passed.peer, Some(passed.seated));
        }
    }

    fn start(&self, stream: TcpStream, peer: SocketAddr, seated: Option<Seated>) {
        let runtime = self.runtime.load_full();
        socket::tune_accepted(&stream, runtime.keepalive);
        // The system is asked only where the socket takes connections for several addresses.
        let local = if self.address.ip().is_unspecified() {
            stream.local_addr().unwrap_or(self.address)
        } else {
            self.address
        };
        let since = Instant::now();
        let logs = runtime.logs.as_ref();
        let accepted = Accepted {
            stream,
            peer,
            direct_peer: peer,
            local,
            direct_local: local,
            since,
            log: logs.map(|logs| logs.begin(self.worker.index, peer, local, since)),
            open: self.shared.enter(),
            seated,
            index: self.index,
            detected: None,
            hello: None,
            runtime,
        };
        let worker = Rc::clone(&self.worker);
        let shared = Arc::clone(&self.shared);
        if !accepted.runtime.filters.is_empty() {
            self.tasks.spawn_local(async move {
                // In boxes, so that a connection does not hold the memory of what it came through.
                let filtered = Box::pin(accepted.filter(&shared)).await;
                let Some((chain, accepted)) = filtered.and_then(Accepted::choose) else { return };
                let id = shared.next_id();
                let connected = if chain.tls.is_some() {
                    Box::pin(accepted.secure(&chain, id)).await
                } else {
                    Some(accepted.connect(&chain, id))
                };
                let Some((connection, counted)) = connected else { return };
                let serving = chain.filter.serve(connection, worker);
                serving.await;
                drop(counted);
            });
            return;
        }
        let Some((chain, accepted)) = accepted.choose() else { return };
        if chain.tls.is_some() {
            let id = shared.next_id();
            self.tasks.spawn_local(async move {
                // In a box, as above.
                let secured = Box::pin(accepted.secure(&chain, id)).await;
                let Some((connection, counted)) = secured else { return };
                let serving = chain.filter.serve(connection, worker);
                serving.await;
                drop(counted);
            });
            return;
        }
        let (connection, counted) = accepted.connect(&chain, shared.next_id());
        let serving = chain.filter.serve(connection, worker);
        self.tasks.spawn_local(async move {
            serving.await;
            drop(counted);
        });
    }
}

/// Whether accepting failed for reasons of the one connection (accept(2)): others are not concerned.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::ConnectionAborted
            | Kind::ConnectionReset
            | Kind::ConnectionRefused
            | Kind::Interrupted
            | Kind::PermissionDenied
            | Kind::TimedOut
            | Kind::HostUnreachable
            | Kind::NetworkUnreachable
            | Kind::NetworkDown
    )
}

/// A connection that no chain has yet.
struct Accepted {
    stream: TcpStream,
    /// As told by a PROXY protocol header, else the socket's.
    peer: SocketAddr,
    direct_peer: SocketAddr,
    /// As `peer`.
    local: SocketAddr,
    direct_local: SocketAddr,
    since: Instant,
    open: Open,
    /// Where connections are balanced.
    seated: Option<Seated>,
    /// Which worker, from 0.
    index: usize,
    detected: Option<Found>,
    hello: Option<Hello>,
    /// The line about it, where its listener logs connections.
    log: Option<Box<Entry>>,
    runtime: Arc<Runtime>,
}

impl Accepted {
    /// Runs the listener filters; `None` when the connection ended in them.
    async fn filter(mut self, shared: &Shared) -> Option<Self> {
        let runtime = Arc::clone(&self.runtime);
        let stats = &runtime.stats.listener;
        let _waiting = Raised::new(&stats.downstream_pre_cx_active);
        let filters = async {
            for filter in &runtime.filters {
                match filter {
                    ListenerFilter::TlsInspector { max_client_hello_bytes, close_on_error } => {
                        let most = *max_client_hello_bytes as usize;
                        match client_hello::inspect(&self.stream, most, &shared.tls_inspector).await {
                            Ok(Some(client_hello::Found::Tls(hello))) => self.hello = Some(hello),
                            Ok(Some(client_hello::Found::NotTls)) if !close_on_error => {}
                            Ok(Some(client_hello::Found::Broken)) if !close_on_error => {}
                            Ok(Some(_)) => {
                                stats.downstream_listener_filter_error.inc();
                                return false;
                            }
                            Ok(None) => {
                                stats.downstream_listener_filter_remote_close.inc();
                                return false;
                            }
                            Err(_) => {
                                stats.downstream_listener_filter_error.inc();
                                return false;
                            }
                        }
                    }
                    ListenerFilter::ProxyProtocol(filter) => {
                        let Some(counts) = &runtime.proxy_protocol else { continue };
                        match proxy_protocol::take(&mut self.stream, filter, counts).await {
                            Ok(Taken::Passed(None)) => {}
                            Ok(Taken::Passed(Some(ends))) => {
                                (self.peer, self.local) = (ends.source, ends.destination);
                                if let Some(log) = &mut self.log {
                                    log.told_ends(self.peer, self.local);
                                }
                            }
                            Ok(Taken::Refused) => return false,
                            Ok(Taken::Closed) => {
                                stats.downstream_listener_filter_remote_close.inc();
                                return false;
                            }
                            Err(_) => {
                                stats.downstream_listener_filter_error.inc();
                                return false;
                            }
                        }
                    }
                    // What is encrypted shows no HTTP.
                    ListenerFilter::HttpInspector if self.hello.is_some() => {}
                    ListenerFilter::HttpInspector => match inspect(&self.stream, &shared.inspector).await {
                        Ok(Some(found)) => self.detected = Some(found),
                        Ok(None) => {
                            stats.downstream_listener_filter_remote_close.inc();
                            return false;
                        }
                        Err(_) => {
                            stats.downstream_listener_filter_error.inc();
                            return false;
                        }
                    },
                }
            }
            true
        };
        let passed = match runtime.filters_timeout {
            None => filters.await,
            Some(limit) => match tokio::time::timeout(limit, filters).await {
                Ok(passed) => passed,
                Err(_) => {
                    stats.downstream_pre_cx_timeout.inc();
                    runtime.continue_on_timeout
                }
            },
        };
        passed.then_some(self)
    }

    /// The chain that serves the connection; without one it ends.
    fn choose(mut self) -> Option<(Arc<Chain>, Self)> {
        let chain = self.chain();
        if chain.is_none()
            && let Some(log) = &mut self.log
        {
            log.found_no_chain();
        }
        Some((chain?, self))
    }

    fn chain(&self) -> Option<Arc<Chain>> {
        let detected = self.detected.and_then(Found::protocol);
        let offered = self.hello.iter().flat_map(|hello| &hello.protocols).map(|name| &**name);
        let protocols: SmallVec<[&str; 4]> = detected.into_iter().chain(offered).collect();
        let facts = Facts {
            local: self.local,
            server_name: self.hello.as_ref().and_then(|hello| hello.server_name.as_deref()).unwrap_or(""),
            transport_protocol: if self.hello.is_some() { "tls" } else { "raw_buffer" },
            application_protocols: &protocols,
            direct_peer: self.direct_peer.ip(),
            peer: self.peer,
        };
        let runtime = &self.runtime;
        let chosen = runtime.selector.select(&facts).map(|index| &runtime.chains[index]);
        let Some(chain) = chosen.or(runtime.default_chain.as_ref()) else {
            runtime.stats.listener.no_filter_chain_match.inc();
            return None;
        };
        Some(Arc::clone(chain))
    }

    /// The connection once its handshake is over; `None` when that failed.
    async fn secure(
        self,
        chain: &Arc<Chain>,
        id: u64,
    ) -> Option<(Connection<crate::transport::Stream>, Counts)> {
        let context = chain.tls.clone()?;
        let (facts, stream, mut counted) = self.part(chain, id);
        let limit = chain.config.transport_socket_connect_timeout.unwrap_or(HANDSHAKE_TIMEOUT);
        let accepted = match tokio::time::timeout(limit, context.accept(stream)).await {
            Ok(Ok(accepted)) => accepted,
            Ok(Err(error)) => {
                tracing::debug!(peer = %facts.peer, reason = %error.reason, "TLS handshake failed");
                if let Some(log) = &mut counted.log {
                    log.not_secured(&error.reason);
                }
                return None;
            }
            Err(_) => {
                counted.stats.listener.downstream_cx_transport_socket_connect_timeout.inc();
                if let Some(log) = &mut counted.log {
                    log.not_secured_in_time();
                }
                return None;
            }
        };
        let handshake = Some(counted.since.elapsed());
        // What ALPN agreed upon needs no looking at bytes.
        let detected = match accepted.stream.get_ref().1.alpn_protocol() {
            Some(b"h2") => Some(CodecType::Http2),
            Some(_) => Some(CodecType::Http1),
            None => None,
        };
        if let Some(log) = &mut counted.log {
            log.secured(&accepted.facts, handshake);
        }
        let mut connection = facts.connection(chain, Io::Server(accepted.stream), id, counted.log.as_deref());
        connection.detected = detected;
        connection.tls = Some(accepted.facts);
        connection.handshake = handshake;
        Some((connection, counted))
    }

    /// The connection as filters see it, and what counts it meanwhile.
    fn connect(self, chain: &Arc<Chain>, id: u64) -> (Connection<crate::transport::Stream>, Counts) {
        let (facts, stream, counts) = self.part(chain, id);
        (facts.connection(chain, Io::Tcp(stream), id, counts.log.as_deref()), counts)
    }

    /// What filters are told, the socket, and what counts the connection meanwhile.
    fn part(mut self, chain: &Arc<Chain>, id: u64) -> (Facade, TcpStream, Counts) {
        let mut counts =
            Counts::new(&self.runtime.stats, self.index, self.since, (self.open, chain.enter(), self.seated));
        let detected = self.detected.and_then(|found| match found {
            Found::Http10 | Found::Http11 => Some(CodecType::Http1),
            Found::Http2 => Some(CodecType::Http2),
            Found::NotHttp => None,
        });
        let listener = Arc::clone(&self.runtime.name);
        let server_name = self.hello.and_then(|hello| hello.server_name);
        counts.log = self.log.take();
        if let Some(log) = &mut counts.log {
            log.found_chain(&chain.name, server_name.as_deref(), id);
        }
        let Self { peer, direct_peer, local, direct_local, .. } = self;
        let buffer_limit = self.runtime.buffer_limit;
        let facade =
            Facade { peer, direct_peer, local, direct_local, detected, server_name, listener, buffer_limit };
        (facade, self.stream, counts)
    }
}

/// What filters are told of a connection.
struct Facade {
    peer: SocketAddr,
    direct_peer: SocketAddr,
    local: SocketAddr,
    direct_local: SocketAddr,
    detected: Option<CodecType>,
    server_name: Option<Box<str>>,
    listener: Arc<str>,
    buffer_limit: u64,
}

impl Facade {
    fn connection(
        self,
        chain: &Chain,
        io: Io,
        id: u64,
        log: Option<&Entry>,
    ) -> Connection<crate::transport::Stream> {
        let mut io = Counted::new(io, None);
        if let Some(log) = log {
            io.tally(Arc::clone(log.moved()));
        }
        Connection {
            io,
            id,
            peer: self.peer,
            direct_peer: self.direct_peer,
            local: self.local,
            direct_local: self.direct_local,
            interface: Some(local_interface_address()),
            buffer_limit: self.buffer_limit,
            listener: self.listener,
            filter_chain: Arc::clone(&chain.name),
            detected: self.detected,
            server_name: self.server_name,
            tls: None,
            handshake: None,
            told: log.map(|log| Arc::clone(log.told())),
            shutdown: chain.shutdown(fastrand::f32()),
        }
    }
}

/// A gauge that is one higher for a time.
struct Raised<'a>(&'a Gauge);

impl<'a> Raised<'a> {
    fn new(gauge: &'a Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Raised<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Counts of a connection that a chain serves, until dropped.
struct Counts {
    stats: Arc<Stats>,
    index: usize,
    since: Instant,
    /// Written when all else is over.
    log: Option<Box<Entry>>,
    _held: (Open, Served, Option<Seated>),
}

impl Counts {
    fn new(stats: &Arc<Stats>, index: usize, since: Instant, held: (Open, Served, Option<Seated>)) -> Self {
        stats.listener.downstream_cx_total.inc();
        stats.listener.downstream_cx_active.inc();
        if let Some(worker) = stats.workers.get(index) {
            worker.downstream_cx_total.inc();
            worker.downstream_cx_active.inc();
        }
        Self { stats: Arc::clone(stats), index, since, log: None, _held: held }
    }
}

impl Drop for Counts {
    fn drop(&mut self) {
        let stats = &self.stats;
        stats.listener.downstream_cx_destroy.inc();
        stats.listener.downstream_cx_active.dec();
        let lived = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        stats.listener.downstream_cx_length_ms.record(lived);
        if let Some(worker) = stats.workers.get(self.index) {
            worker.downstream_cx_active.dec();
        }
    }
}
