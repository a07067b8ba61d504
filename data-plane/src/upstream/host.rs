//! Hosts: the endpoints of a cluster, and the set that one is picked from.

use data_plane_core::config::{self, EndpointHealth, Locality};
use data_plane_core::lb::{Health, HostIndex, HostView, PickCx, Selector, SelectorOptions};
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

    fn view(&self) -> HostView {
        let health = match self.health {
            EndpointHealth::Healthy => Health::Healthy,
            EndpointHealth::Degraded => Health::Degraded,
            // Envoy: both get requests in panic only.
            EndpointHealth::Unhealthy | EndpointHealth::Draining => Health::Unhealthy,
        };
        HostView { priority: self.priority, weight: self.weight, health }
    }

    pub(super) fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }
}

/// The hosts of a cluster at one moment, ready to be picked from.
#[derive(Debug, Default)]
pub struct HostSet {
    hosts: Box<[Arc<Host>]>,
    selector: Option<Selector>,
}

impl HostSet {
    pub(super) fn new(
        hosts: Vec<Arc<Host>>,
        cluster: &config::Cluster,
        overprovisioning_factor: u32,
        seed: u64,
    ) -> Self {
        if hosts.is_empty() {
            return Self::default();
        }
        let views: Vec<_> = hosts.iter().map(|host| host.view()).collect();
        let options =
            SelectorOptions { panic_threshold: cluster.healthy_panic_threshold, overprovisioning_factor };
        Self { selector: Some(Selector::build(&cluster.lb, &views, options, seed)), hosts: hosts.into() }
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

    /// Whether so few hosts are usable that unhealthy ones get requests too.
    pub fn in_panic(&self) -> bool {
        self.selector.as_ref().is_some_and(Selector::in_panic)
    }

    pub(super) fn pick(&self, random: u64, hash: Option<u64>) -> Option<Arc<Host>> {
        let active = |index: HostIndex| {
            let active = self.hosts[index.0 as usize].stats().rq_active.load(Relaxed);
            u32::try_from(active.max(0)).unwrap_or(u32::MAX)
        };
        let HostIndex(index) = self.selector.as_ref()?.pick(&PickCx { random, hash, active: &active })?;
        self.hosts.get(index as usize).cloned()
    }
}
