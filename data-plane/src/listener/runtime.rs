//! A listener as workers see it: its chains, how one is chosen, and the counts of its connections.

use super::chain_select::Selector;
use super::log::Logs;
use super::stats::{InspectorStats, ListenerStats, ProxyProtocolStats, TlsInspectorStats, WorkerStats};
use crate::network::NetworkFilter;
use crate::stats::Scope;
use crate::task::{Pace, Phase, Shutdown, ShutdownTrigger};
use crate::transport::tls::ServerContext;
use data_plane_core::config::{self, ListenerFilter, TcpKeepalive};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Notify;

/// A built filter chain. An update that leaves its configuration as it is keeps the chain, and so its
/// connections.
pub(super) struct Chain {
    pub(super) config: Arc<config::FilterChain>,
    pub(super) name: Arc<str>,
    pub(super) filter: Arc<dyn NetworkFilter>,
    /// `None`: plaintext.
    pub(super) tls: Option<Arc<ServerContext>>,
    trigger: ShutdownTrigger,
    shutdown: Shutdown,
    connections: AtomicUsize,
}

impl Chain {
    pub(super) fn new(
        config: Arc<config::FilterChain>,
        filter: Arc<dyn NetworkFilter>,
        tls: Option<Arc<ServerContext>>,
    ) -> Arc<Self> {
        let (trigger, shutdown) = crate::task::shutdown();
        let name = Arc::from(&*config.name);
        Arc::new(Self { config, name, filter, tls, trigger, shutdown, connections: AtomicUsize::new(0) })
    }

    /// Counts a connection until the answer is dropped.
    pub(super) fn enter(self: &Arc<Self>) -> Served {
        self.connections.fetch_add(1, Ordering::Relaxed);
        Served(Arc::clone(self))
    }

    /// Connections it serves.
    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// What a connection of it ends by; `turn` as [`Shutdown::at`] has it.
    pub(super) fn shutdown(&self, turn: f32) -> Shutdown {
        self.shutdown.at(turn)
    }

    /// Tells its connections to end, new ones too.
    pub(super) fn drain(&self, pace: Pace) {
        self.trigger.drain(pace);
    }

    pub(super) fn advance(&self, phase: Phase) {
        self.trigger.advance(phase);
    }
}

/// A connection that a chain serves.
pub(super) struct Served(Arc<Chain>);

impl Drop for Served {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One version of a listener.
pub(super) struct Runtime {
    pub(super) name: Arc<str>,
    pub(super) selector: Selector,
    /// In the order that the selector's indices mean.
    pub(super) chains: Vec<Arc<Chain>>,
    pub(super) default_chain: Option<Arc<Chain>>,
    pub(super) filters: Vec<ListenerFilter>,
    /// Of the PROXY protocol filter, if there is one.
    pub(super) proxy_protocol: Option<ProxyProtocolStats>,
    pub(super) filters_timeout: Option<Duration>,
    pub(super) continue_on_timeout: bool,
    pub(super) keepalive: Option<TcpKeepalive>,
    /// Whether connections go to the worker with the fewest.
    pub(super) exact_balance: bool,
    /// Of each connection, bytes.
    pub(super) buffer_limit: u64,
    /// `None`: connections are not logged.
    pub(super) logs: Option<Arc<Logs>>,
    pub(super) stats: Arc<Stats>,
}

impl Runtime {
    pub(super) fn all_chains(&self) -> impl Iterator<Item = &Arc<Chain>> {
        self.chains.iter().chain(&self.default_chain)
    }
}

/// Counts of one listener; survive its updates.
pub(super) struct Stats {
    pub(super) scope: Scope,
    pub(super) listener: ListenerStats,
    /// By worker, from 0.
    pub(super) workers: Vec<WorkerStats>,
}

impl Stats {
    pub(super) fn new(scope: Scope, workers: usize) -> Arc<Self> {
        let listener = ListenerStats::new(&scope);
        let workers =
            (0..workers).map(|n| WorkerStats::new(&super::stats::worker_scope(&scope, n))).collect();
        Arc::new(Self { scope, listener, workers })
    }
}

/// What all listeners of a proxy share.
pub(super) struct Shared {
    pub(super) inspector: InspectorStats,
    pub(super) tls_inspector: TlsInspectorStats,
    next_id: AtomicU64,
    open: AtomicUsize,
    none_left: Notify,
}

impl Shared {
    pub(super) fn new(inspector: InspectorStats, tls_inspector: TlsInspectorStats) -> Arc<Self> {
        Arc::new(Self {
            inspector,
            tls_inspector,
            next_id: AtomicU64::new(0),
            open: AtomicUsize::new(0),
            none_left: Notify::new(),
        })
    }

    /// An id for a connection: from 1, never used twice.
    pub(super) fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Counts a connection until the answer is dropped.
    pub(super) fn enter(self: &Arc<Self>) -> Open {
        self.open.fetch_add(1, Ordering::AcqRel);
        Open(Arc::clone(self))
    }

    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }

    /// Waits until there is no connection.
    pub(super) async fn none_left(&self) {
        loop {
            let notified = self.none_left.notified();
            tokio::pin!(notified);
            // Registered before the look, so that no departure is missed.
            notified.as_mut().enable();
            if self.open() == 0 {
                return;
            }
            notified.await;
        }
    }
}

/// An open connection.
pub(super) struct Open(Arc<Shared>);

impl Drop for Open {
    fn drop(&mut self) {
        if self.0.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.none_left.notify_waiters();
        }
    }
}
