//! Connections to hosts, pooled by each worker for itself.
//!
//! [`Local`] finds the pool of a host and sends through it: [`h1`] keeps a stack of idle connections, [`h2`]
//! shares connections between requests. [`link`] keeps the books of a connection and [`request`] those of a
//! request: both count by being dropped, so that no way of failing is forgotten. [`tcp`] connects for whoever
//! wants bytes alone; such connections serve once. Limits are shared by all
//! workers, connections are not.

mod h1;
mod h2;
mod link;
mod queue;
mod request;
mod tcp;
#[cfg(test)]
mod tests;

use super::cluster::{Cluster, Clusters};
use super::host::Host;
use super::limits::Priority;
use super::tls::Names;
use crate::codec::{Body, BodyError, ExchangeError, ExchangeErrorKind};
use crate::turn;
use data_plane_core::config::UpstreamProtocol;
use data_plane_core::headers::{RequestHead, ResponseHead, Tls, Version};
use data_plane_core::proxy_protocol::Ends;
use foldhash::fast::FixedState;
use hashbrown::{HashMap, HashSet};
use std::cell::{Cell, RefCell};
use std::hash::Hash;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
pub use tcp::{TcpConnection, TcpError};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

/// Time between two looks at idle connections: idle timeouts and the closing of dead connections are this exact.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// One worker's pools. Clones share them.
#[derive(Clone)]
pub struct Local(Rc<Pools>);

impl std::fmt::Debug for Local {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("upstream::Local").field("h1", &self.0.h1.borrow().len()).finish_non_exhaustive()
    }
}

/// Pools by [`Host::id`] and priority: connections of one never serve the other, as in Envoy.
type Table<P> = RefCell<HashMap<u64, Rc<P>, FixedState>>;

/// Pools by host and what requests to it are named after: a connection serves only requests of its own name.
type NamedTable<P> = RefCell<HashMap<(u64, Rc<Names>), Rc<P>, FixedState>>;

struct Pools {
    shared: Rc<Shared>,
    h1: Table<h1::Pool>,
    h2: Table<h2::Pool>,
    h1_named: NamedTable<h1::Pool>,
    h2_named: NamedTable<h2::Pool>,
    departures: watch::Receiver<()>,
}

/// What the pools of a worker share.
struct Shared {
    /// Connections being made, and drivers of HTTP/2 connections.
    tasks: RefCell<JoinSet<()>>,
    /// Sweeps so far: a clock that costs nothing to read.
    tick: Cell<u64>,
    /// What ALPN last yielded with a host, for clusters that leave the protocol to it.
    agreed: RefCell<HashMap<u64, Version, FixedState>>,
}

impl Shared {
    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.tasks.borrow_mut().spawn_local(task);
    }

    /// Takes note of what ALPN yielded; `None` where the cluster decides by itself.
    fn agreed(&self, cluster: &Cluster, host: u64, http2: bool) -> Option<Version> {
        if cluster.config.protocol != UpstreamProtocol::Auto {
            return None;
        }
        let agreed = if http2 { Version::Http2 } else { Version::Http11 };
        self.agreed.borrow_mut().insert(host, agreed);
        Some(agreed)
    }

    fn tick(&self) -> u64 {
        self.tick.get()
    }
}

impl Pools {
    /// What ALPN yielded is forgotten with the last pool of a host: hosts come and go.
    fn forget_agreements(&self) {
        let mut agreed = self.shared.agreed.borrow_mut();
        if agreed.is_empty() {
            return;
        }
        let host_of = |key: &u64| key >> 1;
        let mut pooled: HashSet<u64, FixedState> = HashSet::default();
        pooled.extend(self.h1.borrow().keys().map(host_of));
        pooled.extend(self.h2.borrow().keys().map(host_of));
        pooled.extend(self.h1_named.borrow().keys().map(|(key, _)| host_of(key)));
        pooled.extend(self.h2_named.borrow().keys().map(|(key, _)| host_of(key)));
        agreed.retain(|host, _| pooled.contains(host));
    }
}

impl Drop for Pools {
    fn drop(&mut self) {
        // Tasks hold their pools, and pools the tasks: this opens the circle.
        self.shared.tasks.borrow_mut().abort_all();
    }
}

/// A response under way.
pub struct Exchange {
    /// The response's head.
    pub head: ResponseHead,
    /// Its body. Dropping it before its end closes the connection (HTTP/1) or resets the stream (HTTP/2); the
    /// request counts as active until then.
    pub body: Body,
    /// Our side of the connection.
    pub upstream_local_address: Option<SocketAddr>,
    /// Protocol spoken.
    pub protocol: Version,
    /// What TLS agreed upon; `None`: plaintext.
    pub tls: Option<Arc<Tls>>,
}

/// How a request is sent.
#[derive(Clone, Copy, Debug, Default)]
pub struct SendOptions<'a> {
    /// Whose limits count.
    pub priority: Priority,
    /// Where to note how far it got.
    pub progress: Option<&'a Progress>,
    /// The client's connection, for clusters that tell their hosts.
    pub client: Option<Ends>,
    /// Whoever sends it tries again what a host refuses.
    pub retries: bool,
}

/// How far one attempt got, noted as it goes, so that it is known also when the attempt is given up.
#[derive(Debug, Default)]
pub struct Progress {
    ready: Cell<Option<Ready>>,
}

/// A connection was there for the request.
#[derive(Clone, Copy, Debug)]
pub struct Ready {
    /// When.
    pub at: Instant,
    /// What is spoken on it.
    pub protocol: Version,
    /// Our side of it.
    pub local_address: Option<SocketAddr>,
}

impl Progress {
    /// Whether, and when, there was a connection for the request.
    pub fn is_ready(&self) -> Option<Ready> {
        self.ready.get()
    }

    /// Forgets the attempt before.
    pub fn reset(&self) {
        self.ready.set(None);
    }

    fn ready(&self, protocol: Version, local_address: Option<SocketAddr>) {
        self.ready.set(Some(Ready { at: turn::now(), protocol, local_address }));
    }
}

/// A request that got no response.
#[derive(thiserror::Error)]
#[error("{kind}")]
pub struct UpstreamError {
    /// What happened.
    pub kind: UpstreamErrorKind,
    /// The request's body, given back whole so that it can be sent elsewhere.
    pub body: Option<Body>,
    /// What the system said when connecting failed: `delayed connect error: Connection refused`.
    pub transport_failure: Option<Box<str>>,
}

impl std::fmt::Debug for UpstreamError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UpstreamError")
            .field("kind", &self.kind)
            .field("body", &self.body.is_some())
            .field("transport_failure", &self.transport_failure)
            .finish()
    }
}

/// Why a request got no response.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamErrorKind {
    /// The host refused the connection or cannot be reached. Nothing was sent.
    #[error("connection failure")]
    ConnectFailure,
    /// The host did not accept the connection in time. Nothing was sent.
    #[error("connection timeout")]
    ConnectTimeout,
    /// The connection ended before a response.
    #[error("connection termination")]
    Terminated,
    /// The host reset the stream with this HTTP/2 error code.
    #[error("stream reset with code {0}")]
    Reset(u32),
    /// The host did not process the request (REFUSED_STREAM or GOAWAY): safe to send again, whatever it is.
    #[error("stream refused")]
    Refused,
    /// The host broke the protocol.
    #[error("{0}")]
    Protocol(&'static str),
    /// A circuit breaker is open. Nothing was sent.
    #[error("overflow")]
    Overflow,
    /// The request's body failed.
    #[error("request body failed")]
    RequestBody(#[source] BodyError),
}

/// A connection that could not be had; the request is untouched.
#[derive(Clone, Debug)]
struct Failure {
    kind: UpstreamErrorKind,
    transport: Option<Box<str>>,
}

impl Failure {
    /// ALPN yielded the other protocol: whoever waits asks the other pool.
    const OTHER_PROTOCOL: Self = Self { kind: UpstreamErrorKind::ConnectFailure, transport: None };
    const OVERFLOW: Self = Self { kind: UpstreamErrorKind::Overflow, transport: None };

    fn connect(error: &io::Error) -> Self {
        let text = error.to_string();
        let reason = text.split(" (os error").next().unwrap_or(&text);
        let transport = Some(format!("delayed connect error: {reason}").into());
        Self { kind: UpstreamErrorKind::ConnectFailure, transport }
    }

    fn with(self, body: Option<Body>) -> UpstreamError {
        UpstreamError { kind: self.kind, body, transport_failure: self.transport }
    }
}

impl UpstreamError {
    fn from_exchange(error: ExchangeError, cluster: &Cluster) -> Self {
        let kind = match error.kind {
            ExchangeErrorKind::Closed | ExchangeErrorKind::Io(_) => UpstreamErrorKind::Terminated,
            ExchangeErrorKind::Reset(code) => UpstreamErrorKind::Reset(code),
            ExchangeErrorKind::Refused => UpstreamErrorKind::Refused,
            ExchangeErrorKind::Protocol(what) => UpstreamErrorKind::Protocol(what),
            ExchangeErrorKind::HeadersTooLarge => UpstreamErrorKind::Protocol("response head too large"),
            ExchangeErrorKind::RequestBody(error) => UpstreamErrorKind::RequestBody(error),
        };
        if matches!(kind, UpstreamErrorKind::Protocol(_)) {
            cluster.stats.upstream_cx_protocol_error.inc();
        }
        Self { kind, body: error.unsent_body, transport_failure: None }
    }
}

/// Whether a request that failed so may be sent again without its sender's asking: the host says that it did
/// nothing, or a second time does no harm (RFC 9110, section 9.2.2).
fn is_safe_to_repeat(kind: &UpstreamErrorKind, head: &RequestHead) -> bool {
    match kind {
        UpstreamErrorKind::Refused => true,
        UpstreamErrorKind::Terminated => {
            matches!(&*head.method, "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE")
        }
        _ => false,
    }
}

impl Local {
    /// Empty pools that follow `clusters`.
    pub fn new(clusters: Clusters) -> Self {
        let shared =
            Rc::new(Shared { tasks: RefCell::default(), tick: Cell::new(0), agreed: RefCell::default() });
        Self(Rc::new(Pools {
            shared,
            h1: Table::default(),
            h2: Table::default(),
            h1_named: NamedTable::default(),
            h2_named: NamedTable::default(),
            departures: clusters.departures(),
        }))
    }

    /// Sends a request to `host` and waits for the head of the response. No deadline but that for connecting: the
    /// caller owns it.
    ///
    /// A request that fails on a connection used before, without a byte of a response, is sent once more on a
    /// fresh one if its body is whole and repeating it does no harm: the host had closed what it kept. Where the
    /// host may have begun with it, that counts against the cluster's limit of retries, so that a host which
    /// fails is not asked more often than is allowed.
    ///
    /// # Errors
    /// No response came; the body is given back where it is whole.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the request: its connection closes (HTTP/1) or its stream is reset (HTTP/2); a
    /// connection being made for it goes on for others.
    pub async fn send(
        &self,
        cluster: &Arc<Cluster>,
        host: &Arc<Host>,
        head: &RequestHead,
        body: Body,
    ) -> Result<Exchange, UpstreamError> {
        self.send_with(cluster, host, head, body, SendOptions::default()).await
    }

    /// As [`Local::send`].
    ///
    /// # Errors
    /// As [`Local::send`].
    pub async fn send_with(
        &self,
        cluster: &Arc<Cluster>,
        host: &Arc<Host>,
        head: &RequestHead,
        body: Body,
        options: SendOptions<'_>,
    ) -> Result<Exchange, UpstreamError> {
        if cluster.config.protocol == UpstreamProtocol::Auto {
            return Box::pin(self.send_by_alpn(cluster, host, head, body, options)).await;
        }
        self.send_as(cluster.version_for(head.version), cluster, host, head, body, options).await
    }

    /// Sends by the protocol that ALPN yields: HTTP/2 until a host is known to want HTTP/1.1.
    async fn send_by_alpn(
        &self,
        cluster: &Arc<Cluster>,
        host: &Arc<Host>,
        head: &RequestHead,
        body: Body,
        options: SendOptions<'_>,
    ) -> Result<Exchange, UpstreamError> {
        let agreed = || self.0.shared.agreed.borrow().get(&host.id()).copied();
        let tried = agreed().unwrap_or(Version::Http2);
        let failed = match self.send_as(tried, cluster, host, head, body, options).await {
            Err(error) if error.kind == UpstreamErrorKind::ConnectFailure => error,
            other => return other,
        };
        match (agreed(), failed.body) {
            (Some(other), Some(body)) if other != tried => {
                self.send_as(other, cluster, host, head, body, options).await
            }
            (_, body) => Err(UpstreamError { body, ..failed }),
        }
    }

    async fn send_as(
        &self,
        version: Version,
        cluster: &Arc<Cluster>,
        host: &Arc<Host>,
        head: &RequestHead,
        body: Body,
        options: SendOptions<'_>,
    ) -> Result<Exchange, UpstreamError> {
        let pools = &*self.0;
        let priority = options.priority;
        let names = Names::of(cluster, head, options.client).map(Rc::new);
        if version == Version::Http2 {
            let make = |names| h2::Pool::new(&pools.shared, cluster, host, priority, names);
            let pool = match names {
                None => pool(&pools.h2, host, priority, || make(None)),
                Some(names) => named(&pools.h2_named, host, priority, names, make),
            };
            pool.send(cluster, host, head, body, options).await
        } else {
            let make = |names| h1::Pool::new(&pools.shared, cluster, host, priority, names);
            let pool = match names {
                None => pool(&pools.h1, host, priority, || make(None)),
                Some(names) => named(&pools.h1_named, host, priority, names, make),
            };
            pool.send(cluster, host, head, body, options).await
        }
    }

    /// Keeps the pools in order: closes connections that are idle, old, dead or of no more use. Run it on the
    /// worker for as long as the pools live; never ends.
    pub async fn maintain(&self) {
        let mut departures = self.0.departures.clone();
        let mut ticks = tokio::time::interval(SWEEP_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await;
        let mut told = true;
        loop {
            // Both are cancel safe: a tick or a change that is not taken is there the next time.
            tokio::select! {
                _ = ticks.tick() => self.0.shared.tick.set(self.0.shared.tick() + 1),
                changed = departures.changed(), if told => told = changed.is_ok(),
            }
            self.sweep();
        }
    }

    fn sweep(&self) {
        let pools = &*self.0;
        sweep(&pools.h1, |pool| pool.sweep(pools.shared.tick()));
        sweep(&pools.h2, |pool| pool.sweep(pools.shared.tick()));
        sweep(&pools.h1_named, |pool| pool.sweep(pools.shared.tick()));
        sweep(&pools.h2_named, |pool| pool.sweep(pools.shared.tick()));
        pools.forget_agreements();
        while pools.shared.tasks.borrow_mut().try_join_next().is_some() {}
    }
}

fn pool<P>(table: &Table<P>, host: &Host, priority: Priority, make: impl FnOnce() -> Rc<P>) -> Rc<P> {
    let key = host.id() << 1 | priority as u64;
    Rc::clone(table.borrow_mut().entry(key).or_insert_with(make))
}

fn named<P>(
    table: &NamedTable<P>,
    host: &Host,
    priority: Priority,
    names: Rc<Names>,
    make: impl FnOnce(Option<Rc<Names>>) -> Rc<P>,
) -> Rc<P> {
    let key = (host.id() << 1 | priority as u64, Rc::clone(&names));
    let mut table = table.borrow_mut();
    let pool = table.entry(key).or_insert_with(|| make(Some(names)));
    Rc::clone(pool)
}

/// Sweeps every pool, and drops those that have nothing and that nobody uses.
fn sweep<K: Clone + Eq + Hash, P>(
    table: &RefCell<HashMap<K, Rc<P>, FixedState>>,
    is_empty: impl Fn(&P) -> bool,
) {
    // Pools close connections, which may run code that asks for pools: the table is not borrowed meanwhile.
    let all: Vec<(K, Rc<P>)> =
        table.borrow().iter().map(|(key, pool)| (key.clone(), Rc::clone(pool))).collect();
    let empty: Vec<K> = all.iter().filter(|(_, pool)| is_empty(pool)).map(|(key, _)| key.clone()).collect();
    drop(all);
    let mut table = table.borrow_mut();
    for key in empty {
        if table.get(&key).is_some_and(|pool| Rc::strong_count(pool) == 1) {
            table.remove(&key);
        }
    }
}
