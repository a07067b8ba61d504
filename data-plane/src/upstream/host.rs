//! Hosts: the endpoints of a cluster, and the set that one is picked from.

use data_plane_core::config::{self, EndpointHealth, Locality};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};

/// An endpoint. Immutable: an update that changes more than membership makes a new `Host` that shares the
/// identity, and with it pools and stats, of the old one.
#[derive(Debug)]
pub struct Host {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its name; may be empty.
    pub hostname: Box<str>,
    /// Where it runs.
    pub locality: Arc<Locality>,
    /// `1..`.
    pub weight: u32,
    /// 0 is the highest.
    pub priority: u32,
    /// Health told by the control plane.
    pub health: EndpointHealth,
    /// Metadata `envoy.lb`.
    pub labels: BTreeMap<String, String>,
    identity: Arc<Identity>,
}

/// What stays the same while an address is a member of a cluster.
#[derive(Debug)]
pub(super) struct Identity {
    id: u64,
    retired: AtomicBool,
    stats: HostStats,
}

/// Counts of one host, as `/clusters` shows them.
#[derive(Debug, Default)]
pub struct HostStats {
    /// Connections open.
    pub cx_active: AtomicI64,
    /// Connection attempts that failed.
    pub cx_connect_fail: AtomicU64,
    /// Connections made.
    pub cx_total: AtomicU64,
    /// Requests under way.
    pub rq_active: AtomicI64,
    /// Requests that failed or were answered with 5xx.
    pub rq_error: AtomicU64,
    /// Requests answered with anything else.
    pub rq_success: AtomicU64,
    /// Requests that timed out.
    pub rq_timeout: AtomicU64,
    /// Requests sent.
    pub rq_total: AtomicU64,
}

impl HostStats {
    /// Counts a response by its status.
    pub fn response(&self, status: u16) {
        if status >= 500 { &self.rq_error } else { &self.rq_success }.fetch_add(1, Relaxed);
    }

    /// Counts a request that failed without a response.
    pub fn error(&self) {
        self.rq_error.fetch_add(1, Relaxed);
    }

    /// Counts a request that timed out.
    pub fn timeout(&self) {
        self.rq_timeout.fetch_add(1, Relaxed);
    }
}

impl Identity {
    pub(super) fn new(id: u64) -> Arc<Self> {
        Arc::new(Self { id, retired: AtomicBool::new(false), stats: HostStats::default() })
    }

    /// No set holds the address any more: pools of it drain.
    pub(super) fn retire(&self) {
        self.retired.store(true, Relaxed);
    }

    /// The address came back before its pools were gone.
    pub(super) fn revive(&self) {
        self.retired.store(false, Relaxed);
    }
}

impl Host {
    pub(super) fn new(
        address: SocketAddr,
        endpoint: &config::Endpoint,
        locality: &Arc<Locality>,
        priority: u32,
        identity: Arc<Identity>,
    ) -> Self {
        Self {
            address,
            hostname: endpoint.hostname.clone(),
            locality: Arc::clone(locality),
            weight: endpoint.weight.max(1),
            priority,
            health: endpoint.health,
            labels: endpoint.labels.clone(),
            identity,
        }
    }

    /// Unique among the hosts of a proxy; stays while the address is a member.
    pub fn id(&self) -> u64 {
        self.identity.id
    }

    /// Its counts.
    pub fn stats(&self) -> &HostStats {
        &self.identity.stats
    }

    /// Whether it has left its cluster: its connections take no new requests.
    pub fn is_retired(&self) -> bool {
        self.identity.retired.load(Relaxed)
    }

    pub(super) fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }
}

/// The hosts of a cluster at one moment, ready to be picked from.
#[derive(Debug, Default)]
pub struct HostSet {
    hosts: Box<[Arc<Host>]>,
}

impl HostSet {
    pub(super) fn new(hosts: Vec<Arc<Host>>) -> Self {
        Self { hosts: hosts.into() }
    }

    /// All hosts, in configured order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Arc<Host>> {
        self.hosts.iter()
    }

    /// Number of hosts.
    pub fn len(&self) -> usize {
        self.hosts.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty()
    }

    pub(super) fn pick(&self, random: u64, _hash: Option<u64>) -> Option<Arc<Host>> {
        (!self.hosts.is_empty()).then(|| Arc::clone(&self.hosts[random as usize % self.hosts.len()]))
    }
}
