//! The control side of listeners: what is bound, what accepts, what drains.

use super::chain_select::Selector;
use super::log::Logs;
use super::runtime::{Chain, Runtime, Shared, Stats};
use super::sockets::{Plan, Sockets};
use super::stats::{self, InspectorStats, ManagerStats, ProxyProtocolStats, TlsInspectorStats};
use super::worker::{Bound, Desired, Started, WorkerSide};
use crate::http::{BuildError, Deps};
use crate::network::{self, NetworkFilter};
use crate::stats::{Gauge, Registry, Scope};
use crate::task::Phase;
use crate::transport::tls::slot::SecretSlots;
use crate::transport::tls::{ServerContext, TlsStats};
use arc_swap::ArcSwap;
use data_plane_core::config::{self, ListenerFilter};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Time between two looks at what drains.
const DRAIN_CHECK: Duration = Duration::from_millis(500);

/// What a manager needs from outside.
pub struct Options {
    /// Worker threads.
    pub workers: usize,
    /// Where metrics are registered.
    pub registry: Registry,
    /// How long connections of removed chains and listeners may go on. Envoy's default is 600 s.
    pub drain_time: Duration,
    /// What filter chains are built with.
    pub deps: Deps,
}

/// Why a listener cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address cannot be bound.
    #[error("cannot bind {address}: {reason}")]
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// The system's reason.
        reason: io::Error,
    },
    /// Another listener has the address, or this one twice.
    #[error("address {address} belongs to listener {other:?}")]
    DuplicateAddress {
        /// The address asked for.
        address: SocketAddr,
        /// The listener that has it.
        other: Box<str>,
    },
    /// A filter chain cannot be built.
    #[error("filter chain {chain}: {reason}")]
    Chain {
        /// Its quoted name, or its number when it has none.
        chain: Box<str>,
        /// Why.
        #[source]
        reason: BuildError,
    },
    /// An access log cannot be opened.
    #[error("access log")]
    AccessLog(#[source] BuildError),
    /// Two chains serve the same connections.
    #[error("filter chains {first} and {second} match the same connections")]
    DuplicateMatch {
        /// The earlier.
        first: Box<str>,
        /// The later.
        second: Box<str>,
    },
}

/// A listener with its chains built and its addresses bound; does not accept yet. Dropping it closes what it bound.
pub struct Prepared {
    config: Arc<config::Listener>,
    runtime: Arc<Runtime>,
    sockets: Vec<Arc<Sockets>>,
    _warming: Raised,
}

impl std::fmt::Debug for Prepared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prepared").field("name", &self.config.name).finish_non_exhaustive()
    }
}

impl Prepared {
    /// Its configuration.
    pub fn config(&self) -> &Arc<config::Listener> {
        &self.config
    }

    /// What it is bound to, in configured order.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.sockets.iter().map(|s| s.address).collect()
    }
}

/// Whether a listener serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Accepts.
    Active,
    /// Accepts no more; connections finish.
    Draining,
}

/// A listener as the admin interface shows it.
#[derive(Clone, Debug)]
pub struct Info {
    /// Its name.
    pub name: Box<str>,
    /// What it is bound to, in configured order; port 0 is resolved.
    pub addresses: Vec<SocketAddr>,
    /// Its configuration.
    pub config: Arc<config::Listener>,
    /// Whether it serves.
    pub state: State,
    /// When it came.
    pub updated: SystemTime,
}

/// The control side of listeners: clones share it. Used on the control thread only.
#[derive(Clone)]
pub struct Manager(Arc<Inner>);

impl std::fmt::Debug for Manager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("listener::Manager").finish_non_exhaustive()
    }
}

/// The listener filters; the TLS inspector is added where chains are told apart by what it finds (as Envoy does).
fn filters(config: &config::Listener) -> Vec<ListenerFilter> {
    let mut filters = config.listener_filters.clone();
    let needs = |chain: &Arc<config::FilterChain>| {
        let matches = &chain.matches;
        let by_names = !matches.server_names.is_empty() || !matches.application_protocols.is_empty();
        &*matches.transport_protocol == "tls" || (matches.transport_protocol.is_empty() && by_names)
    };
    let inspects = |filter: &ListenerFilter| matches!(filter, ListenerFilter::TlsInspector { .. });
    if !filters.iter().any(inspects) && config.filter_chains.iter().any(needs) {
        tracing::warn!(listener = %config.name, "filter chains need the TLS inspector, which is not configured: added");
        // What a PROXY protocol header hides is looked at once the header is off.
        let takes = |filter: &ListenerFilter| matches!(filter, ListenerFilter::ProxyProtocol(_));
        let at = filters.iter().rposition(takes).map_or(0, |last| last + 1);
        filters.insert(
            at,
            ListenerFilter::TlsInspector { max_client_hello_bytes: 16 * 1024, close_on_error: false },
        );
    }
    filters
}

/// Builds the filters of a chain; `listener` is the scope of its stats.
type Build =
    Box<dyn Fn(&config::FilterChain, &Scope) -> Result<Arc<dyn NetworkFilter>, BuildError> + Send + Sync>;

/// Opens the access logs of a listener.
type OpenLogs = Box<dyn Fn(&[config::AccessLog]) -> Result<Option<Arc<Logs>>, BuildError> + Send + Sync>;

struct Inner {
    workers: usize,
    registry: Registry,
    drain_time: Duration,
    build: Build,
    open_logs: OpenLogs,
    secrets: SecretSlots,
    stats: ManagerStats,
    shared: Arc<Shared>,
    desired: watch::Sender<Desired>,
    lists: Mutex<Lists>,
}

#[derive(Default)]
struct Lists {
    active: BTreeMap<Box<str>, Listener>,
    /// Bound and not active yet, by listener: so that addresses are not given twice.
    prepared: Vec<(Box<str>, Weak<Sockets>)>,
    /// Removed, with connections that finish.
    draining: Vec<(u64, Info)>,
    drains: JoinSet<()>,
    next_id: u64,
    /// Nothing is accepted any more.
    ended: bool,
}

struct Listener {
    config: Arc<config::Listener>,
    runtime: Arc<ArcSwap<Runtime>>,
    sockets: Vec<(u64, Arc<Sockets>)>,
    updated: SystemTime,
}

impl Listener {
    fn info(&self, state: State) -> Info {
        Info {
            name: self.config.name.clone(),
            addresses: self.sockets.iter().map(|(_, s)| s.address).collect(),
            config: Arc::clone(&self.config),
            state,
            updated: self.updated,
        }
    }
}

impl Manager {
    /// No listeners; a side for each worker.
    pub fn new(options: Options) -> (Self, Vec<WorkerSide>) {
        let Options { workers, registry, drain_time, deps } = options;
        let secrets = deps.secrets.clone();
        let for_logs = deps.clone();
        let open_logs: OpenLogs = Box::new(move |configured| Logs::open(configured, &for_logs));
        let build: Build = Box::new(move |chain, listener| network::build(&chain.filters, &deps, listener));
        Self::with_builder(workers, registry, drain_time, build, open_logs, secrets)
    }

    pub(super) fn with_builder(
        workers: usize,
        registry: Registry,
        drain_time: Duration,
        build: Build,
        open_logs: OpenLogs,
        secrets: SecretSlots,
    ) -> (Self, Vec<WorkerSide>) {
        let stats = ManagerStats::new(&registry.scope("listener_manager.", "listener_manager.", &[]));
        let inspector = InspectorStats::new(&registry.scope("http_inspector.", "http_inspector.", &[]));
        let tls_inspector = TlsInspectorStats::new(&registry.scope("tls_inspector.", "tls_inspector.", &[]));
        let shared = Shared::new(inspector, tls_inspector);
        let desired = watch::Sender::new(Desired::default());
        let started =
            Arc::new(Started { expected: workers, count: AtomicUsize::new(0), stats: stats.clone() });
        let sides = (0..workers)
            .map(|index| WorkerSide {
                index,
                desired: desired.subscribe(),
                shared: Arc::clone(&shared),
                started: Arc::clone(&started),
            })
            .collect();
        let inner = Inner {
            workers,
            registry,
            drain_time,
            build,
            open_logs,
            secrets,
            stats,
            shared,
            desired,
            lists: Mutex::default(),
        };
        (Self(Arc::new(inner)), sides)
    }

    /// Builds a listener's chains and binds its addresses, unless the listener of that name has them already.
    ///
    /// # Errors
    /// Nothing is left bound then, and what was active stays as it is.
    pub fn prepare(&self, config: Arc<config::Listener>) -> Result<Prepared, Error> {
        let inner = &*self.0;
        let lists = &mut *inner.lists.lock();
        lists.prepared.retain(|(_, sockets)| sockets.strong_count() > 0);
        let old = lists.active.get(&config.name);
        let selector =
            Selector::build(config.filter_chains.iter().map(|c| &c.matches)).map_err(|overlap| {
                let name = |index: usize| shown(&config.filter_chains[index], Some(index));
                Error::DuplicateMatch { first: name(overlap.first), second: name(overlap.second) }
            })?;
        let sockets = inner.bind(lists, &config)?;
        let stats = match old.map(|old| (old, old.runtime.load())) {
            Some((old, runtime)) if old.config.stat_prefix == config.stat_prefix => {
                Arc::clone(&runtime.stats)
            }
            _ => {
                let address = sockets.first().map_or(SocketAddr::from(([0, 0, 0, 0], 0)), |s| s.address);
                let scope = stats::scope(&inner.registry, config.stat_prefix.as_deref(), address);
                Stats::new(scope, inner.workers)
            }
        };
        let old_runtime = old.map(|old| old.runtime.load_full());
        let chain = |chain: &Arc<config::FilterChain>, index| {
            let kept = old_runtime.as_ref().filter(|old| Arc::ptr_eq(&old.stats, &stats));
            if let Some(same) = kept.and_then(|old| old.all_chains().find(|c| c.config == *chain)) {
                return Ok(Arc::clone(same));
            }
            let filter = (inner.build)(chain, &stats.scope)
                .map_err(|reason| Error::Chain { chain: shown(chain, index), reason })?;
            let tls = chain.transport_socket.as_ref().map(|tls| {
                ServerContext::new(Arc::clone(tls), &inner.secrets, TlsStats::new(&stats.scope)).map_err(
                    |reason| Error::Chain {
                        chain: shown(chain, index),
                        reason: BuildError::Tls(reason.into()),
                    },
                )
            });
            Ok(Chain::new(Arc::clone(chain), filter, tls.transpose()?))
        };
        let chains = config
            .filter_chains
            .iter()
            .enumerate()
            .map(|(n, c)| chain(c, Some(n)))
            .collect::<Result<_, _>>()?;
        let default_chain = config.default_filter_chain.as_ref().map(|c| chain(c, None)).transpose()?;
        let runtime = Arc::new(Runtime {
            name: Arc::from(&*config.name),
            selector,
            chains,
            default_chain,
            filters: filters(&config),
            proxy_protocol: config.listener_filters.iter().find_map(|filter| match filter {
                ListenerFilter::ProxyProtocol(filter) => {
                    Some(ProxyProtocolStats::new(&inner.registry, &filter.stat_prefix))
                }
                _ => None,
            }),
            filters_timeout: config.listener_filters_timeout,
            continue_on_timeout: config.continue_on_listener_filters_timeout,
            keepalive: config.tcp_keepalive,
            buffer_limit: config.per_connection_buffer_limit_bytes.into(),
            logs: (inner.open_logs)(&config.access_log).map_err(Error::AccessLog)?,
            stats,
        });
        for sockets in &sockets {
            lists.prepared.push((config.name.clone(), Arc::downgrade(sockets)));
        }
        let _warming = Raised::new(&inner.stats.total_listeners_warming);
        Ok(Prepared { config, runtime, sockets, _warming })
    }

    /// Starts to accept, in the place of the listener of that name. Sockets of equal addresses stay open, chains
    /// that are equal keep their connections, connections of others drain. Does nothing after
    /// [`Manager::drain_all`].
    ///
    /// # Panics
    /// Outside a tokio runtime: the time to drain is counted there.
    pub fn activate(&self, prepared: Prepared) {
        let inner = &*self.0;
        let lists = &mut *inner.lists.lock();
        if lists.ended {
            return;
        }
        let Prepared { config, runtime, sockets, _warming } = prepared;
        let old = lists.active.remove(&config.name);
        let mut kept = 0;
        let sockets: Vec<_> = sockets
            .into_iter()
            .map(|sockets| {
                let same = old.iter().flat_map(|o| &o.sockets).find(|(_, s)| Arc::ptr_eq(s, &sockets));
                if let Some((id, _)) = same {
                    kept += 1;
                    return (*id, sockets);
                }
                if let Err(error) = sockets.listen() {
                    tracing::error!(listener = %config.name, address = %sockets.address, %error, "cannot listen");
                    inner.stats.listener_create_failure.inc();
                }
                lists.next_id += 1;
                (lists.next_id, sockets)
            })
            .collect();
        let cell = match &old {
            Some(old) => Arc::clone(&old.runtime),
            None => Arc::new(ArcSwap::new(Arc::clone(&runtime))),
        };
        let replaced = old.as_ref().map(|_| cell.swap(Arc::clone(&runtime)));
        match &old {
            None => inner.stats.listener_added.inc(),
            Some(old) => {
                inner.stats.listener_modified.inc();
                if kept == sockets.len() && kept == old.sockets.len() {
                    inner.stats.listener_in_place_updated.inc();
                }
            }
        }
        let listener = Listener { config, runtime: cell, sockets, updated: SystemTime::now() };
        lists.active.insert(listener.config.name.clone(), listener);
        inner.publish(lists);
        if let Some(replaced) = replaced {
            let stays = |chain: &Arc<Chain>| runtime.all_chains().any(|c| Arc::ptr_eq(c, chain));
            let leaving: Vec<_> = replaced.all_chains().filter(|c| !stays(c)).cloned().collect();
            self.drain(lists, leaving, None);
        }
    }

    /// Closes a listener's sockets at once and drains its connections. False when there is none of that name.
    ///
    /// # Panics
    /// Outside a tokio runtime: the time to drain is counted there.
    pub fn remove(&self, name: &str) -> bool {
        let inner = &*self.0;
        let lists = &mut *inner.lists.lock();
        let Some(listener) = lists.active.remove(name) else { return false };
        inner.stats.listener_removed.inc();
        inner.publish(lists);
        self.retire(lists, &listener);
        true
    }

    /// Stops all listeners and drains all connections, for good.
    ///
    /// # Panics
    /// Outside a tokio runtime: the time to drain is counted there.
    pub fn drain_all(&self) {
        let inner = &*self.0;
        let lists = &mut *inner.lists.lock();
        lists.ended = true;
        let all = std::mem::take(&mut lists.active);
        inner.publish(lists);
        for listener in all.values() {
            inner.stats.listener_stopped.inc();
            self.retire(lists, listener);
        }
    }

    /// Open connections, those that listener filters look at included.
    pub fn connections(&self) -> usize {
        self.0.shared.open()
    }

    /// Waits until there is no connection.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn drained(&self) {
        self.0.shared.none_left().await;
    }

    /// All listeners, ordered by name, the active ones first.
    pub fn infos(&self) -> Vec<Info> {
        let lists = self.0.lists.lock();
        let active = lists.active.values().map(|listener| listener.info(State::Active));
        active.chain(lists.draining.iter().map(|(_, info)| info.clone())).collect()
    }

    /// The scope of each active listener's stats, by name.
    pub fn stat_scopes(&self) -> BTreeMap<Box<str>, Scope> {
        let lists = self.0.lists.lock();
        let scope = |listener: &Listener| listener.runtime.load().stats.scope.clone();
        lists.active.iter().map(|(name, listener)| (name.clone(), scope(listener))).collect()
    }

    fn retire(&self, lists: &mut Lists, listener: &Listener) {
        let chains = listener.runtime.load().all_chains().cloned().collect();
        lists.next_id += 1;
        let id = lists.next_id;
        lists.draining.push((id, listener.info(State::Draining)));
        self.drain(lists, chains, Some(id));
    }

    /// Lets the connections of chains finish, ends them after the drain time. `listener` is in the list of those
    /// that drain until then.
    fn drain(&self, lists: &mut Lists, chains: Vec<Arc<Chain>>, listener: Option<u64>) {
        let inner = &*self.0;
        for chain in &chains {
            chain.advance(Phase::Draining);
        }
        let draining = if listener.is_some() {
            Raised::new(&inner.stats.total_listeners_draining)
        } else {
            Raised::by(&inner.stats.total_filter_chains_draining, chains.len())
        };
        let deadline = Instant::now() + inner.drain_time;
        let weak = Arc::downgrade(&self.0);
        while lists.drains.try_join_next().is_some() {}
        lists.drains.spawn(async move {
            // A connection accepted just before has its chain but is not counted there yet: look after a while.
            tokio::time::sleep(DRAIN_CHECK.min(deadline.saturating_duration_since(Instant::now()))).await;
            while Instant::now() < deadline && chains.iter().any(|c| c.connections() > 0) {
                tokio::time::sleep(DRAIN_CHECK.min(deadline.saturating_duration_since(Instant::now()))).await;
            }
            for chain in &chains {
                chain.advance(Phase::Stopped);
            }
            drop(draining);
            if let (Some(inner), Some(listener)) = (weak.upgrade(), listener) {
                inner.lists.lock().draining.retain(|(id, _)| *id != listener);
            }
        });
    }
}

impl Inner {
    /// The sockets of a listener's addresses: those it has, and new ones.
    fn bind(&self, lists: &Lists, config: &config::Listener) -> Result<Vec<Arc<Sockets>>, Error> {
        let waiting = lists.prepared.iter().filter_map(|(name, s)| Some((&**name, s.upgrade()?)));
        let active =
            lists.active.iter().flat_map(|(name, l)| l.sockets.iter().map(|(_, s)| (&**name, Arc::clone(s))));
        let bound: Vec<(&str, Arc<Sockets>)> = active.chain(waiting).collect();
        let mut taken: Vec<Arc<Sockets>> = Vec::new();
        for (index, &address) in config.addresses.iter().enumerate() {
            let duplicate = |other: &str| Error::DuplicateAddress { address, other: other.into() };
            if address.port() != 0 {
                if config.addresses[..index].contains(&address) {
                    return Err(duplicate(&config.name));
                }
                if let Some((other, _)) =
                    bound.iter().find(|(n, s)| **n != *config.name && s.address == address)
                {
                    return Err(duplicate(other));
                }
            }
            let plan = Plan { address, reuse_port: config.reuse_port, backlog: config.tcp_backlog_size };
            let ours = bound.iter().filter(|(name, s)| **name == *config.name && s.plan == plan);
            let free = ours.map(|(_, s)| s).find(|s| !taken.iter().any(|t| Arc::ptr_eq(t, s)));
            taken.push(match free {
                Some(sockets) => Arc::clone(sockets),
                None => Arc::new(
                    Sockets::bind(plan, self.workers).map_err(|reason| Error::Bind { address, reason })?,
                ),
            });
        }
        Ok(taken)
    }

    /// Tells workers what to accept on.
    fn publish(&self, lists: &Lists) {
        let all = lists.active.values().flat_map(|listener| {
            listener.sockets.iter().map(|(id, sockets)| Bound {
                id: *id,
                sockets: Arc::clone(sockets),
                runtime: Arc::clone(&listener.runtime),
            })
        });
        self.desired.send_replace(Arc::new(all.collect()));
        self.stats.total_listeners_active.set(lists.active.len() as u64);
    }
}

/// How a message names a chain.
fn shown(chain: &config::FilterChain, index: Option<usize>) -> Box<str> {
    match index {
        _ if !chain.name.is_empty() => format!("{:?}", chain.name).into(),
        Some(index) => format!("#{index}").into(),
        None => "default_filter_chain".into(),
    }
}

/// A gauge that is higher for a time.
struct Raised(Gauge, i64);

impl Raised {
    fn new(gauge: &Gauge) -> Self {
        Self::by(gauge, 1)
    }

    fn by(gauge: &Gauge, n: usize) -> Self {
        let n = i64::try_from(n).unwrap_or(i64::MAX);
        gauge.add(n);
        Self(gauge.clone(), n)
    }
}

impl Drop for Raised {
    fn drop(&mut self) {
        self.0.add(-self.1);
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
