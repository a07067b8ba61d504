//! Circuit breaker limits: what a cluster uses of connections, pending requests, requests and retries at each
//! priority, counted over all workers.

use super::stats::{ClusterStats, RemainingStats};
use data_plane_core::config::{CircuitThresholds, RetryBudget};
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

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

/// Whose limits count (Envoy `RoutingPriority`). Connections of one priority never serve the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Priority {
    /// What routes have that say nothing.
    #[default]
    Default,
    /// `priority: HIGH`.
    High,
}

impl Priority {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Default, Self::High];

    /// Of a route that says so.
    pub fn high(is_high: bool) -> Self {
        if is_high { Self::High } else { Self::Default }
    }

    /// As in names of stats.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::High => "high",
        }
    }
}

/// Use of a cluster's limits. Outlives updates of the cluster, so that what is in use stays counted.
#[derive(Debug)]
pub struct Usage {
    priorities: [Uses; 2],
}

/// Use at one priority.
#[derive(Debug, Default)]
struct Uses {
    resources: [Resource; 4],
    budget: Budget,
    track_remaining: AtomicBool,
    remaining: OnceLock<RemainingStats>,
}

#[derive(Debug, Default)]
struct Resource {
    used: AtomicU32,
    max: AtomicU32,
}

/// A retry budget; no more than this many retries are allowed for what is under way.
#[derive(Debug, Default)]
struct Budget {
    on: AtomicBool,
    /// `per_million << 32 | min_concurrency`.
    value: AtomicU64,
}

impl Budget {
    fn set(&self, budget: Option<RetryBudget>) {
        if let Some(RetryBudget { per_million, min_concurrency }) = budget {
            self.value.store(u64::from(per_million) << 32 | u64::from(min_concurrency), Relaxed);
        }
        self.on.store(budget.is_some(), Relaxed);
    }

    fn max(&self, under_way: u32) -> Option<u32> {
        if !self.on.load(Relaxed) {
            return None;
        }
        let value = self.value.load(Relaxed);
        let share = u64::from(under_way) * (value >> 32) / 1_000_000;
        u32::try_from(share.max(value & u64::from(u32::MAX))).ok()
    }
}

impl Uses {
    fn set(&self, thresholds: &CircuitThresholds) {
        self.resource(Limit::Connections).max.store(thresholds.max_connections, Relaxed);
        self.resource(Limit::Pending).max.store(thresholds.max_pending_requests, Relaxed);
        self.resource(Limit::Requests).max.store(thresholds.max_requests, Relaxed);
        self.resource(Limit::Retries).max.store(thresholds.max_retries, Relaxed);
        self.budget.set(thresholds.retry_budget);
        self.track_remaining.store(thresholds.track_remaining, Relaxed);
    }

    fn resource(&self, limit: Limit) -> &Resource {
        &self.resources[limit as usize]
    }

    fn max(&self, limit: Limit) -> u32 {
        let max = self.resource(limit).max.load(Relaxed);
        if limit != Limit::Retries {
            return max;
        }
        let used = |limit| self.resource(limit).used.load(Relaxed);
        self.budget.max(used(Limit::Requests).saturating_add(used(Limit::Pending))).unwrap_or(max)
    }

    fn publish(&self, priority: Priority, stats: &ClusterStats) {
        let state = |limit| {
            let (used, max) = (self.resource(limit).used.load(Relaxed), self.max(limit));
            (u64::from(used >= max), u64::from(max.saturating_sub(used)))
        };
        let connections = state(Limit::Connections);
        let pending = state(Limit::Pending);
        let requests = state(Limit::Requests);
        let retries = state(Limit::Retries);
        let open = stats.breakers(priority);
        open.cx_open.set(connections.0);
        open.rq_pending_open.set(pending.0);
        open.rq_open.set(requests.0);
        open.rq_retry_open.set(retries.0);
        if self.track_remaining.load(Relaxed) {
            let remaining = self.remaining.get_or_init(|| stats.remaining(priority));
            remaining.remaining_cx.set(connections.1);
            remaining.remaining_pending.set(pending.1);
            remaining.remaining_rq.set(requests.1);
            remaining.remaining_retries.set(retries.1);
        }
    }
}

impl Usage {
    /// Nothing in use. Thresholds: those of default priority, then high.
    pub fn new(thresholds: &[CircuitThresholds; 2]) -> Arc<Self> {
        let usage = Self { priorities: Default::default() };
        usage.set(thresholds);
        Arc::new(usage)
    }

    /// Takes new limits; what is over them already stays.
    pub fn set(&self, thresholds: &[CircuitThresholds; 2]) {
        for (uses, thresholds) in self.priorities.iter().zip(thresholds) {
            uses.set(thresholds);
        }
    }

    /// One of `limit` until the permit is dropped; `None` when all are in use.
    pub fn acquire(self: &Arc<Self>, priority: Priority, limit: Limit) -> Option<Permit> {
        self.take(priority, limit).then(|| Permit { usage: Arc::clone(self), priority, limit })
    }

    /// One of `limit` even when all are in use.
    pub(super) fn acquire_beyond(self: &Arc<Self>, priority: Priority, limit: Limit) -> Permit {
        self.of(priority).resource(limit).used.fetch_add(1, Relaxed);
        Permit { usage: Arc::clone(self), priority, limit }
    }

    /// In use now.
    pub fn used(&self, priority: Priority, limit: Limit) -> u32 {
        self.of(priority).resource(limit).used.load(Relaxed)
    }

    /// Counts one of `limit` as used; the caller gives it back. False when all are in use.
    pub(super) fn take(&self, priority: Priority, limit: Limit) -> bool {
        let uses = self.of(priority);
        let max = uses.max(limit);
        let used = &uses.resource(limit).used;
        used.fetch_update(Relaxed, Relaxed, |used| (used < max).then(|| used + 1)).is_ok()
    }

    /// Gives back what [`Usage::take`] took.
    pub(super) fn give_back(&self, priority: Priority, limit: Limit) {
        self.of(priority).resource(limit).used.fetch_sub(1, Relaxed);
    }

    /// Writes the gauges.
    pub(super) fn publish(&self, stats: &ClusterStats) {
        for priority in Priority::ALL {
            self.of(priority).publish(priority, stats);
        }
    }

    fn of(&self, priority: Priority) -> &Uses {
        &self.priorities[priority as usize]
    }
}

/// One of a limited resource, given back when dropped.
#[derive(Debug)]
pub struct Permit {
    usage: Arc<Usage>,
    priority: Priority,
    limit: Limit,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.usage.give_back(self.priority, self.limit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::{MetricValue, Registry};

    fn thresholds(max_connections: u32) -> [CircuitThresholds; 2] {
        let limited =
            CircuitThresholds { max_connections, track_remaining: true, ..CircuitThresholds::default() };
        [limited, CircuitThresholds::default()]
    }

    #[test]
    fn priorities_are_limited_each_for_itself() {
        let usage = Usage::new(&thresholds(1));
        let _first = usage.acquire(Priority::Default, Limit::Connections).unwrap();
        assert!(usage.acquire(Priority::Default, Limit::Connections).is_none());
        assert!(usage.acquire(Priority::High, Limit::Connections).is_some());
    }

    #[test]
    fn a_budget_allows_a_share_of_what_is_under_way_and_never_less_than_its_minimum() {
        let budget = RetryBudget { per_million: 200_000, min_concurrency: 2 };
        let limited = CircuitThresholds {
            max_retries: 100,
            retry_budget: Some(budget),
            ..CircuitThresholds::default()
        };
        let usage = Usage::new(&[limited, CircuitThresholds::default()]);
        let allowed = || {
            let held: Vec<_> =
                std::iter::from_fn(|| usage.acquire(Priority::Default, Limit::Retries)).collect();
            held.len()
        };
        assert_eq!(allowed(), 2, "the minimum");
        let mut requests: Vec<_> =
            (0..14).map(|_| usage.acquire(Priority::Default, Limit::Requests).unwrap()).collect();
        assert_eq!(allowed(), 2);
        requests.extend((0..6).map(|_| usage.acquire(Priority::Default, Limit::Pending).unwrap()));
        assert_eq!(allowed(), 4, "a fifth of twenty");
        drop(requests);
        assert_eq!(allowed(), 2);
        let high: Vec<_> = std::iter::from_fn(|| usage.acquire(Priority::High, Limit::Retries)).collect();
        assert_eq!(high.len(), 3, "no budget: max_retries");
    }

    #[test]
    fn a_limit_admits_up_to_its_maximum_and_again_after_a_permit_is_dropped() {
        let usage = Usage::new(&thresholds(2));
        let first = usage.acquire(Priority::Default, Limit::Connections).unwrap();
        let _second = usage.acquire(Priority::Default, Limit::Connections).unwrap();
        assert!(usage.acquire(Priority::Default, Limit::Connections).is_none(), "two are in use");
        drop(first);
        assert!(usage.acquire(Priority::Default, Limit::Connections).is_some());
        assert_eq!(usage.used(Priority::Default, Limit::Connections), 1, "the refused one took nothing");
    }

    #[test]
    fn a_lowered_limit_keeps_what_is_in_use_and_admits_no_more() {
        let usage = Usage::new(&thresholds(3));
        let held: Vec<_> =
            (0..3).map(|_| usage.acquire(Priority::Default, Limit::Connections).unwrap()).collect();
        usage.set(&thresholds(1));
        assert!(usage.acquire(Priority::Default, Limit::Connections).is_none());
        drop(held);
        assert_eq!(usage.used(Priority::Default, Limit::Connections), 0);
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
        let permit = usage.acquire(Priority::Default, Limit::Connections);
        usage.publish(&stats);
        assert_eq!(gauge("cx_open"), Some(MetricValue::Gauge(1)));
        assert_eq!(gauge("remaining_cx"), Some(MetricValue::Gauge(0)));
        drop(permit);
        usage.publish(&stats);
        assert_eq!(gauge("cx_open"), Some(MetricValue::Gauge(0)));
        assert_eq!(gauge("remaining_cx"), Some(MetricValue::Gauge(1)));
    }
}
