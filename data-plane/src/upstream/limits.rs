//! Circuit breaker limits: what a cluster uses of connections, pending requests, requests and retries, counted
//! over all workers.

use super::stats::{ClusterStats, RemainingStats};
use data_plane_core::config::CircuitThresholds;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Connections.
    Connections,
    /// Requests waiting for a connection.
    Pending,
    /// Requests at a time.
    Requests,
    /// Retries at a time.
    Retries,
}

/// Use of a cluster's limits at default priority. Outlives updates of the cluster, so that what is in use stays
/// counted.
#[derive(Debug)]
pub struct Usage {
    resources: [Resource; 4],
    track_remaining: AtomicBool,
    remaining: OnceLock<RemainingStats>,
}

#[derive(Debug, Default)]
struct Resource {
    used: AtomicU32,
    max: AtomicU32,
}

impl Usage {
    /// Nothing in use.
    pub fn new(thresholds: &CircuitThresholds) -> Arc<Self> {
        let usage = Self {
            resources: Default::default(),
            track_remaining: AtomicBool::new(false),
            remaining: OnceLock::new(),
        };
        usage.set(thresholds);
        Arc::new(usage)
    }

    /// Takes new limits; what is over them already stays.
    pub fn set(&self, thresholds: &CircuitThresholds) {
        self.resource(Limit::Connections).max.store(thresholds.max_connections, Relaxed);
        self.resource(Limit::Pending).max.store(thresholds.max_pending_requests, Relaxed);
        self.resource(Limit::Requests).max.store(thresholds.max_requests, Relaxed);
        self.resource(Limit::Retries).max.store(thresholds.max_retries, Relaxed);
        self.track_remaining.store(thresholds.track_remaining, Relaxed);
    }

    /// One of `limit` until the permit is dropped; `None` when all are in use.
    pub fn acquire(self: &Arc<Self>, limit: Limit) -> Option<Permit> {
        self.take(limit).then(|| Permit { usage: Arc::clone(self), limit })
    }

    /// One of `limit` even when all are in use.
    pub(super) fn acquire_beyond(self: &Arc<Self>, limit: Limit) -> Permit {
        self.resource(limit).used.fetch_add(1, Relaxed);
        Permit { usage: Arc::clone(self), limit }
    }

    /// In use now.
    pub fn used(&self, limit: Limit) -> u32 {
        self.resource(limit).used.load(Relaxed)
    }

    /// Counts one of `limit` as used; the caller gives it back. False when all are in use.
    pub(super) fn take(&self, limit: Limit) -> bool {
        let resource = self.resource(limit);
        let max = resource.max.load(Relaxed);
        resource.used.fetch_update(Relaxed, Relaxed, |used| (used < max).then(|| used + 1)).is_ok()
    }

    /// Gives back what [`Usage::take`] took.
    pub(super) fn give_back(&self, limit: Limit) {
        self.resource(limit).used.fetch_sub(1, Relaxed);
    }

    /// Writes the gauges.
    pub(super) fn publish(&self, stats: &ClusterStats) {
        let state = |limit| {
            let resource = self.resource(limit);
            let (used, max) = (resource.used.load(Relaxed), resource.max.load(Relaxed));
            (u64::from(used >= max), u64::from(max.saturating_sub(used)))
        };
        let connections = state(Limit::Connections);
        let pending = state(Limit::Pending);
        let requests = state(Limit::Requests);
        let retries = state(Limit::Retries);
        let open = stats.breakers();
        open.cx_open.set(connections.0);
        open.rq_pending_open.set(pending.0);
        open.rq_open.set(requests.0);
        open.rq_retry_open.set(retries.0);
        if self.track_remaining.load(Relaxed) {
            let remaining = self.remaining.get_or_init(|| stats.remaining());
            remaining.remaining_cx.set(connections.1);
            remaining.remaining_pending.set(pending.1);
            remaining.remaining_rq.set(requests.1);
            remaining.remaining_retries.set(retries.1);
        }
    }

    fn resource(&self, limit: Limit) -> &Resource {
        &self.resources[limit as usize]
    }
}

/// One of a limited resource, given back when dropped.
#[derive(Debug)]
pub struct Permit {
    usage: Arc<Usage>,
    limit: Limit,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.usage.give_back(self.limit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::{MetricValue, Registry};

    fn thresholds(max_connections: u32) -> CircuitThresholds {
        CircuitThresholds { max_connections, track_remaining: true, ..CircuitThresholds::default() }
    }

    #[test]
    fn a_limit_admits_up_to_its_maximum_and_again_after_a_permit_is_dropped() {
        let usage = Usage::new(&thresholds(2));
        let first = usage.acquire(Limit::Connections).unwrap();
        let _second = usage.acquire(Limit::Connections).unwrap();
        assert!(usage.acquire(Limit::Connections).is_none(), "two are in use");
        drop(first);
        assert!(usage.acquire(Limit::Connections).is_some());
        assert_eq!(usage.used(Limit::Connections), 1, "the refused one took nothing");
    }

    #[test]
    fn a_lowered_limit_keeps_what_is_in_use_and_admits_no_more() {
        let usage = Usage::new(&thresholds(3));
        let held: Vec<_> = (0..3).map(|_| usage.acquire(Limit::Connections).unwrap()).collect();
        usage.set(&thresholds(1));
        assert!(usage.acquire(Limit::Connections).is_none());
        drop(held);
        assert_eq!(usage.used(Limit::Connections), 0);
    }

    #[test]
    fn gauges_tell_the_state_at_the_time_they_are_published() {
        let registry = Registry::new(1);
        let stats = ClusterStats::new(&registry, "a");
        let usage = Usage::new(&thresholds(1));
        let gauge = |name: &str| {
            registry
                .collect()
                .into_iter()
                .find(|m| {
                    format!("{}{}", m.scope.prefix, m.name)
                        == format!("cluster.a.circuit_breakers.default.{name}")
                })
                .map(|m| m.value)
        };
        let permit = usage.acquire(Limit::Connections);
        usage.publish(&stats);
        assert_eq!(gauge("cx_open"), Some(MetricValue::Gauge(1)));
        assert_eq!(gauge("remaining_cx"), Some(MetricValue::Gauge(0)));
        drop(permit);
        usage.publish(&stats);
        assert_eq!(gauge("cx_open"), Some(MetricValue::Gauge(0)));
        assert_eq!(gauge("remaining_cx"), Some(MetricValue::Gauge(1)));
    }
}
