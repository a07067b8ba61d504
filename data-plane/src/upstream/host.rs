//! Hosts: the endpoints of a cluster.

use super::flags::{HealthFlag, HealthFlags, HealthState};
use super::outlier::Monitor;
use data_plane_core::config::{self, EndpointCheck, EndpointHealth, Locality, LocalityEndpoints};
use data_plane_core::lb::Health;
use parking_lot::Mutex;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};
use tokio::time::Instant;

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
    /// Its locality's weight; zero when it has none.
    pub locality_weight: u32,
    /// 0 is the highest.
    pub priority: u32,
    /// Health told by the control plane.
    pub eds_health: EndpointHealth,
    /// Metadata `envoy.lb`.
    pub labels: BTreeMap<String, Value>,
    /// Metadata `envoy.transport_socket_match`.
    pub transport_labels: BTreeMap<String, Value>,
    pub(super) check: Option<Box<EndpointCheck>>,
    monitor: Option<Arc<Monitor>>,
    identity: Arc<Identity>,
}

/// What stays the same while an address is a member of a cluster.
#[derive(Debug)]
pub(super) struct Identity {
    id: u64,
    retired: AtomicBool,
    flags: HealthFlags,
    /// An answer asked for it to be left out; for the health thread to take.
    complaint: AtomicBool,
    /// See [`Host::healthy_since`].
    healthy_since: Mutex<Option<Instant>>,
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
    /// Requests that wait for a connection.
    pub rq_pending_active: AtomicI64,
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
    /// A host that starts with what `state` says of its health.
    pub(super) fn new(id: u64, state: HealthState) -> Arc<Self> {
        Arc::new(Self {
            id,
            retired: AtomicBool::new(false),
            flags: HealthFlags::new(state),
            complaint: AtomicBool::new(false),
            healthy_since: Mutex::default(),
            stats: HostStats::default(),
        })
    }

    /// What was found out about its health; the control plane's word is the host's.
    pub(super) fn flags(&self) -> HealthState {
        self.flags.load()
    }

    /// Sets or clears a flag; whether that changed anything. The host's cluster must be told to take it up:
    /// balancing looks at flags when a host set is built.
    pub(super) fn set_flag(&self, flag: HealthFlag, on: bool) -> bool {
        self.flags.set(flag, on)
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
        group: &LocalityEndpoints,
        monitor: Option<Arc<Monitor>>,
        identity: Arc<Identity>,
    ) -> Self {
        Self {
            address,
            hostname: endpoint.hostname.clone(),
            locality: Arc::clone(locality),
            weight: endpoint.weight.max(1),
            locality_weight: group.weight.unwrap_or(0),
            priority: group.priority,
            eds_health: endpoint.health,
            labels: endpoint.labels.clone(),
            transport_labels: endpoint.transport_labels.clone(),
            check: endpoint.check.clone(),
            monitor,
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

    /// What outlier detection counts of it, where there is any.
    #[inline]
    pub fn monitor(&self) -> Option<&Arc<Monitor>> {
        self.monitor.as_ref()
    }

    /// Whether it takes part in the active checks of its cluster.
    pub(super) fn is_checked(&self) -> bool {
        !self.check.as_ref().is_some_and(|check| check.disabled)
    }

    /// Leaves it out until a check passes.
    pub(super) fn complain(&self) {
        self.identity.set_flag(HealthFlag::ExcludedViaImmediateHcFail, true);
        self.identity.complaint.store(true, Relaxed);
    }

    /// Whether an answer complained since the last call.
    pub(super) fn take_complaint(&self) -> bool {
        self.identity.complaint.load(Relaxed) && self.identity.complaint.swap(false, Relaxed)
    }

    /// All that is known of its health: the control plane's word, active checks, outlier detection.
    pub fn health_state(&self) -> HealthState {
        HealthState::of_eds(self.eds_health).with(self.identity.flags())
    }

    /// Whether it may be used, all in all.
    pub fn health(&self) -> Health {
        self.health_state().coarse()
    }

    /// What policies that hash know it by: its metadata's `hash_key`, else its name or address.
    pub(super) fn hash_key(&self, use_hostname: bool) -> String {
        match self.labels.get("hash_key").and_then(Value::as_str).filter(|key| !key.is_empty()) {
            Some(key) => key.to_owned(),
            None if use_hostname => self.hostname.to_string(),
            None => self.address.to_string(),
        }
    }

    /// Since when it may be used. Begins anew when its active health check failed or it was not checked yet.
    pub(super) fn healthy_since(&self, now: Instant) -> Option<Instant> {
        let state = self.health_state();
        let mut since = self.identity.healthy_since.lock();
        if state.has(HealthFlag::FailedActiveHc) || state.has(HealthFlag::PendingActiveHc) {
            *since = None;
        } else if since.is_none() && state.coarse() == Health::Healthy {
            *since = Some(now);
        }
        *since
    }

    pub(super) fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }
}
