//! The control side of listeners: what is bound, what accepts, what drains.

use super::addresses::{self, Claim, Leaving, Ports};
use super::chain_select::Selector;
use super::drain::Draining;
use super::log::Logs;
use super::runtime::{Chain, Runtime, Shared, Stats};
use super::sockets::Sockets;
use super::stats::{self, InspectorStats, ManagerStats, ProxyProtocolStats, TlsInspectorStats};
use super::worker::{Bound, Desired, Started, WorkerSide};
use crate::http::{BuildError, Deps};
use crate::network::{self, NetworkFilter};
use crate::stats::{Gauge, Registry, Scope};
use crate::task::Pace;
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

/// What a manager needs from outside.
pub struct Options {
    /// Worker threads.
    pub workers: usize,
    /// Where metrics are registered.
    pub registry: Registry,
    /// How long connections of removed chains and listeners may go on. Envoy's default is 600 s.
    pub drain_time: Duration,
    /// How those connections are told.
    pub pace: Pace,
    /// Whether addresses are bound.
    pub ports: Ports,
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
    /// An address that was bound cannot be listened on.
    #[error("cannot listen on {address}: {reason}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's reason.
        reason: io::Error,
    },
    /// What has the address now shares it otherwise.
    #[error("enable_reuse_port: cannot be changed while {address} is listened on")]
    ReusePort {
        /// The address.
        address: SocketAddr,
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
    claim: Arc<Claim>,
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
        self.claim.sockets.iter().map(|s| s.address).collect()
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
pub struct Manager(pub(super) Arc<Inner>);

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
pub(super) type Build =
    Box<dyn Fn(&config::FilterChain, &Scope) -> Result<Arc<dyn NetworkFilter>, BuildError> + Send + Sync>;

/// Opens the access logs of a listener.
pub(super) type OpenLogs =
    Box<dyn Fn(&config::ConnectionLogs) -> Result<Option<Arc<Logs>>, BuildError> + Send + Sync>;

/// [`Options`], with what is built behind functions.
pub(super) struct How {
    pub(super) workers: usize,
    pub(super) registry: Registry,
    pub(super) drain_time: Duration,
    pub(super) pace: Pace,
    pub(super) ports: Ports,
    pub(super) build: Build,
    pub(super) open_logs: OpenLogs,
    pub(super) secrets: SecretSlots,
}

pub(super) struct Inner {
    workers: usize,
    registry: Registry,
    pub(super) drain_time: Duration,
    pub(super) pace: Pace,
    ports: Ports,
    build: Build,
    open_logs: OpenLogs,
    secrets: SecretSlots,
    pub(super) stats: ManagerStats,
    pub(super) shared: Arc<Shared>,
    desired: watch::Sender<Desired>,
    pub(super) lists: Mutex<Lists>,
}

#[derive(Default)]
pub(super) struct Lists {
    pub(super) active: BTreeMap<Box<str>, Listener>,
    /// Of listeners prepared and not active yet, so that addresses are not given twice.
    claims: Vec<Weak<Claim>>,
    pub(super) draining: Draining,
    next_id: u64,
}

impl Lists {
    /// An id for an address that is accepted on, or a listener that drains.
    pub(super) fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Whether another listener is about to take an address of this one over.
    pub(super) fn has_heir(&self, listener: &Listener) -> bool {
        let claims = self.claims.iter().filter_map(Weak::upgrade);
        let mut others = claims.filter(|claim| claim.name != listener.config.name);
        others.any(|claim| listener.accepting().any(|bound| claim.holds(&bound.sockets)))
    }

    /// Stops to accept for listeners that were to take an address over and do not come. True if there were any.
    pub(super) fn drop_lent(&mut self) -> bool {
        let claims: Vec<_> = self.claims.iter().filter_map(Weak::upgrade).collect();
        let wanted = |bound: &mut Bound| claims.iter().any(|claim| claim.holds(&bound.sockets));
        let lent = self.active.values_mut().flat_map(|l| l.lent.extract_if(.., |bound| !wanted(bound)));
        lent.count() > 0
    }
}

pub(super) struct Listener {
    pub(super) config: Arc<config::Listener>,
    pub(super) runtime: Arc<Runtime>,
    pub(super) sockets: Vec<Bound>,
    /// Addresses that it had, accepted on until the listener is active that takes them over.
    lent: Vec<Bound>,
    updated: SystemTime,
    /// Removed; serves until those are active that take its addresses over.
    pub(super) leaving: bool,
}

impl Listener {
    fn accepting(&self) -> impl Iterator<Item = &Bound> {
        self.sockets.iter().chain(&self.lent)
    }

    /// Gives the place away where these sockets are accepted on.
    fn give(&mut self, sockets: &Arc<Sockets>) -> Option<Bound> {
        take(&mut self.sockets, sockets).or_else(|| take(&mut self.lent, sockets))
    }

    pub(super) fn info(&self, state: State) -> Info {
        Info {
            name: self.config.name.clone(),
            addresses: self.sockets.iter().map(|bound| bound.sockets.address).collect(),
            config: Arc::clone(&self.config),
            state,
            updated: self.updated,
        }
    }
}

impl Manager {
    /// No listeners; a side for each worker.
    pub fn new(options: Options) -> (Self, Vec<WorkerSide>) {
        let Options { workers, registry, drain_time, pace, ports, deps } = options;
        let secrets = deps.secrets.clone();
        let for_logs = deps.clone();
        let open_logs: OpenLogs = Box::new(move |configured| Logs::open(configured, &for_logs));
        let build: Build = Box::new(move |chain, listener| network::build(&chain.filters, &deps, listener));
        let how = How { workers, registry, drain_time, pace, ports, build, open_logs, secrets };
        Self::with_builder(how)
    }

    pub(super) fn with_builder(how: How) -> (Self, Vec<WorkerSide>) {
        let How { workers, registry, drain_time, pace, ports, build, open_logs, secrets } = how;
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
            pace,
            ports,
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

    /// [`Self::prepare_among`], while no listener goes.
    ///
    /// # Errors
    /// As there.
    pub fn prepare(&self, config: Arc<config::Listener>) -> Result<Prepared, Error> {
        self.prepare_among(config, &mut Leaving::default())
    }

    /// Builds a listener's chains and binds its addresses, unless the listener of that name has them already, or one
    /// of those that leave: their sockets are taken over, so that no connection is refused meanwhile.
    ///
    /// # Errors
    /// Nothing is left bound then, and what was active stays as it is.
    pub fn prepare_among(
        &self,
        config: Arc<config::Listener>,
        leaving: &mut Leaving,
    ) -> Result<Prepared, Error> {
        let inner = &*self.0;
        let lists = &mut *inner.lists.lock();
        lists.claims.retain(|claim| claim.strong_count() > 0);
        let old = lists.active.get(&config.name);
        let selector =
            Selector::build(config.filter_chains.iter().map(|c| &c.matches)).map_err(|overlap| {
                let name = |index: usize| shown(&config.filter_chains[index], Some(index));
                Error::DuplicateMatch { first: name(overlap.first), second: name(overlap.second) }
            })?;
        let sockets = inner.bind(lists, &config, leaving)?;
        let stats = match old {
            Some(old) if old.config.stat_prefix == config.stat_prefix => Arc::clone(&old.runtime.stats),
            _ => {
                let address = sockets.first().map_or(SocketAddr::from(([0, 0, 0, 0], 0)), |s| s.address);
                let scope = stats::scope(&inner.registry, config.stat_prefix.as_deref(), address);
                Stats::new(scope, inner.workers)
            }
        };
        let old_runtime = old.map(|old| &old.runtime);
        let chain = |chain: &Arc<config::FilterChain>, index| {
            let kept = old_runtime.filter(|old| Arc::ptr_eq(&old.stats, &stats));
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
            exact_balance: config.exact_balance,
            buffer_limit: config.per_connection_buffer_limit_bytes.into(),
            logs: (inner.open_logs)(&config.access_log).map_err(Error::AccessLog)?,
            stats,
        });
        leaving.gave(&sockets);
        let claim = Arc::new(Claim { name: config.name.clone(), sockets });
        lists.claims.push(Arc::downgrade(&claim));
        let _warming = Raised::new(&inner.stats.total_listeners_warming);
        Ok(Prepared { config, runtime, claim, _warming })
    }

    /// The listeners of these names as ones that are about to go, or to change.
    pub fn leaving<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Leaving {
        let lists = self.0.lists.lock();
        let mut leaving = Leaving::default();
        for name in names {
            for bound in lists.active.get(name).iter().flat_map(|listener| listener.accepting()) {
                leaving.add(name, &bound.sockets);
            }
            for claim in lists.claims.iter().filter_map(Weak::upgrade).filter(|claim| *claim.name == *name) {
                claim.sockets.iter().for_each(|sockets| leaving.add(name, sockets));
            }
        }
        leaving
    }

    /// Starts to accept, in the place of the listener of that name. Sockets of equal addresses stay open, chains
    /// that are equal keep their connections, connections of others drain. Does nothing once listeners are stopped.
    ///
    /// # Errors
    /// An address cannot be listened on; what was active stays so.
    ///
    /// # Panics
    /// Outside a tokio runtime: the time to drain is counted there.
    pub fn activate(&self, prepared: Prepared) -> Result<(), Error> {
        let inner = &*self.0;
        let lists = &mut *inner.lists.lock();
        let Prepared { config, runtime, claim, _warming } = prepared;
        if lists.draining.stopped.is_some_and(|direction| direction.covers(&config)) {
            return Ok(());
        }
        let accepts = |sockets: &Arc<Sockets>| {
            lists
                .active
                .values()
                .flat_map(Listener::accepting)
                .any(|bound| Arc::ptr_eq(&bound.sockets, sockets))
        };
        let listens = |sockets: &&Arc<Sockets>| sockets.is_exclusive() || !accepts(sockets);
        for sockets in claim.sockets.iter().filter(listens) {
            if let Err(reason) = sockets.listen(config.tcp_backlog_size) {
                inner.stats.listener_create_failure.inc();
                return Err(Error::Listen { address: sockets.address, reason });
            }
        }
        let (mut lent, old) = match lists.active.remove(&config.name) {
            Some(Listener { mut sockets, lent, runtime, .. }) => {
                sockets.extend(lent);
                (sockets, Some(runtime))
            }
            None => (Vec::new(), None),
        };
        let mut kept = 0;
        let mut sockets = Vec::with_capacity(claim.sockets.len());
        for claimed in &claim.sockets {
            let bound = if let Some(own) = take(&mut lent, claimed) {
                kept += 1;
                own
            } else if let Some(foreign) = lists.active.values_mut().find_map(|l| l.give(claimed)) {
                foreign
            } else {
                let cell = Arc::new(ArcSwap::new(Arc::clone(&runtime)));
                Bound { id: lists.id(), sockets: Arc::clone(claimed), runtime: cell }
            };
            sockets.push(bound);
        }
        // What queues up at addresses that go is served by the new version too.
        for bound in sockets.iter().chain(&lent) {
            bound.runtime.store(Arc::clone(&runtime));
        }
        if old.is_some() {
            inner.stats.listener_modified.inc();
            if kept == sockets.len() && lent.is_empty() {
                inner.stats.listener_in_place_updated.inc();
            }
        } else {
            inner.stats.listener_added.inc();
        }
        drop(claim);
        let told = lists.draining.told.is_some_and(|direction| direction.covers(&config));
        let listener = Listener {
            config,
            runtime: Arc::clone(&runtime),
            sockets,
            lent,
            updated: SystemTime::now(),
            leaving: false,
        };
        lists.active.insert(listener.config.name.clone(), listener);
        lists.drop_lent();
        inner.publish(lists);
        if told {
            runtime.all_chains().for_each(|chain| chain.drain(inner.pace));
        }
        if let Some(replaced) = old {
            let stays = |chain: &Arc<Chain>| runtime.all_chains().any(|c| Arc::ptr_eq(c, chain));
            let leaving: Vec<_> = replaced.all_chains().filter(|c| !stays(c)).cloned().collect();
            self.drain(lists, leaving, None, inner.pace);
        }
        self.let_go(lists);
        Ok(())
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
        active.chain(lists.draining.listeners()).collect()
    }

    /// The scope of each active listener's stats, by name.
    pub fn stat_scopes(&self) -> BTreeMap<Box<str>, Scope> {
        let lists = self.0.lists.lock();
        let scope = |listener: &Listener| listener.runtime.stats.scope.clone();
        lists.active.iter().map(|(name, listener)| (name.clone(), scope(listener))).collect()
    }
}

impl Inner {
    /// The sockets of a listener's addresses: those it has or takes over, and new ones.
    fn bind(
        &self,
        lists: &Lists,
        config: &config::Listener,
        leaving: &Leaving,
    ) -> Result<Vec<Arc<Sockets>>, Error> {
        let claims: Vec<Arc<Claim>> = lists.claims.iter().filter_map(Weak::upgrade).collect();
        let claimed = claims.iter().flat_map(|claim| claim.sockets.iter().map(|s| (&*claim.name, s)));
        let active = lists.active.iter().flat_map(|(name, l)| l.accepting().map(|b| (&**name, &b.sockets)));
        let bound: Vec<_> = active.chain(claimed).collect();
        addresses::bind(config, &bound, leaving, self.workers, self.ports)
    }

    /// Tells workers what to accept on.
    pub(super) fn publish(&self, lists: &Lists) {
        let all = lists.active.values().flat_map(|listener| listener.accepting().cloned());
        self.desired.send_replace(Arc::new(all.collect()));
        self.stats.total_listeners_active.set(lists.active.len() as u64);
    }
}

/// Takes the bound address of these sockets out of a list.
fn take(list: &mut Vec<Bound>, sockets: &Arc<Sockets>) -> Option<Bound> {
    let at = list.iter().position(|bound| Arc::ptr_eq(&bound.sockets, sockets))?;
    Some(list.remove(at))
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
pub(super) struct Raised(Gauge, i64);

impl Raised {
    pub(super) fn new(gauge: &Gauge) -> Self {
        Self::by(gauge, 1)
    }

    pub(super) fn by(gauge: &Gauge, n: usize) -> Self {
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
