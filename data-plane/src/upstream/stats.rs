//! The stats of clusters, under Envoy's names.
//!
//! A cluster's handles are made on first use, so that a cluster nobody asks for costs little.

use super::limits::Priority;
use crate::stat_block;
use crate::stats::{self, Block, Counter, Gauge, Histogram, Registry, Scope};
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

stat_block! {
    /// Metrics of the cluster manager, `cluster_manager.`.
    pub struct ManagerStats {
        counters: cluster_added, cluster_modified, cluster_removed, cluster_updated;
        gauges: active_clusters, warming_clusters;
        histograms: ;
    }
}

stat_block! {
    /// Metrics of one cluster's traffic, `cluster.<name>.`. Pools charge connections and requests, the router
    /// timeouts and retries.
    pub struct ClusterMetrics {
        counters:
            lb_healthy_panic, lb_subsets_fallback, lb_subsets_fallback_panic, lb_subsets_selected,
            retry_or_shadow_abandoned, upstream_cx_close_notify, upstream_cx_connect_attempts_exceeded,
            upstream_cx_connect_fail, upstream_cx_connect_timeout,
            upstream_cx_destroy, upstream_cx_destroy_local, upstream_cx_destroy_local_with_active_rq,
            upstream_cx_destroy_remote, upstream_cx_destroy_remote_with_active_rq,
            upstream_cx_destroy_with_active_rq, upstream_cx_http1_total, upstream_cx_http2_total,
            upstream_cx_idle_timeout, upstream_cx_max_duration_reached, upstream_cx_max_requests,
            upstream_cx_none_healthy, upstream_cx_overflow, upstream_cx_pool_overflow,
            upstream_cx_protocol_error, upstream_cx_rx_bytes_total, upstream_cx_total,
            upstream_cx_tx_bytes_total, upstream_internal_redirect_failed_total,
            upstream_internal_redirect_succeeded_total, upstream_rq_cancelled, upstream_rq_maintenance_mode,
            upstream_rq_max_duration_reached, upstream_rq_pending_failure_eject,
            upstream_rq_pending_overflow, upstream_rq_pending_total, upstream_rq_per_try_idle_timeout,
            upstream_rq_per_try_timeout, upstream_rq_retry, upstream_rq_retry_backoff_exponential,
            upstream_rq_retry_backoff_ratelimited, upstream_rq_retry_limit_exceeded,
            upstream_rq_retry_overflow, upstream_rq_retry_success, upstream_rq_rx_reset,
            upstream_rq_rx_reset_no_error, upstream_rq_timeout, upstream_rq_total, upstream_rq_tx_reset;
        gauges: upstream_cx_active, upstream_rq_active, upstream_rq_pending_active;
        histograms: upstream_cx_connect_ms, upstream_cx_length_ms, upstream_rq_per_cx;
    }
}

stat_block! {
    /// Metrics of one cluster's members and where they come from, `cluster.<name>.`.
    pub struct Membership {
        counters: assignment_use_cached, init_fetch_timeout, lb_subsets_created, lb_subsets_removed,
            membership_change, update_attempt, update_empty, update_failure, update_no_rebuild, update_rejected, update_success;
        gauges: lb_subsets_active, max_host_weight, membership_degraded, membership_excluded, membership_healthy,
            membership_total, version, warming_state;
        histograms: ;
    }
}

stat_block! {
    /// Metrics of active health checks, `cluster.<name>.health_check.`.
    pub struct CheckStats {
        counters: attempt, failure, network_failure, passive_failure, success, verify_cluster;
        gauges: degraded, healthy;
        histograms: ;
    }
}

stat_block! {
    /// Gauges of one priority's limits, `cluster.<name>.circuit_breakers.<priority>.`.
    pub struct BreakerStats {
        counters: ;
        gauges: cx_open, cx_pool_open, rq_open, rq_pending_open, rq_retry_open;
        histograms: ;
    }
}

stat_block! {
    /// What is left of the limits, published when `track_remaining` is set.
    pub struct RemainingStats {
        counters: ;
        gauges: remaining_cx, remaining_pending, remaining_retries, remaining_rq;
        histograms: ;
    }
}

fn breakers_prefix(priority: Priority) -> String {
    format!("circuit_breakers.{}.", priority.as_str())
}

/// All metrics of one cluster; reads as its [`ClusterMetrics`].
#[derive(Debug)]
pub struct ClusterStats {
    /// Its members; the source of endpoints charges `update_*`.
    pub membership: Membership,
    scope: Scope,
    /// Registered from the start, so that zeros show; handles are made on first use.
    block: Arc<Block>,
    metrics: OnceLock<Box<ClusterMetrics>>,
    /// By priority.
    breakers: [Arc<Block>; 2],
    codes: OnceLock<Box<Codes>>,
    rate_limits: OnceLock<Box<RateLimitStats>>,
    duplicates: OnceLock<Gauge>,
}

impl ClusterStats {
    /// For the cluster shown as `stat_name`.
    pub fn new(registry: &Registry, stat_name: &str) -> Self {
        // Envoy replaces the separator of its own names.
        let shown = stat_name.replace(':', "_");
        let prefix = format!("cluster.{shown}.");
        let scope = registry.scope(&prefix, "cluster.", &[("envoy_cluster_name", &shown)]);
        Self {
            membership: Membership::new(&scope),
            block: ClusterMetrics::register(&scope),
            breakers: Priority::ALL.map(|priority| {
                let prefix = breakers_prefix(priority);
                BreakerStats::register(&scope.child(&prefix, &prefix, &[]))
            }),
            scope,
            metrics: OnceLock::new(),
            codes: OnceLock::new(),
            rate_limits: OnceLock::new(),
            duplicates: OnceLock::new(),
        }
    }

    /// Hosts that are never used, as their subset has another one; appears with subsets, as with Envoy.
    pub(super) fn subset_duplicates(&self) -> &Gauge {
        self.duplicates.get_or_init(|| self.scope.gauge(&["lb_subsets_single_host_per_subset_duplicate"]))
    }

    /// Those of its active health checks.
    pub(super) fn checks(&self) -> CheckStats {
        CheckStats::new(&self.scope.child("health_check.", "health_check.", &[]))
    }

    /// The gauges of one priority's circuit breakers.
    pub(super) fn breakers(&self, priority: Priority) -> BreakerStats {
        BreakerStats::from_block(&self.breakers[priority as usize])
    }

    /// What is left of one priority's limits.
    pub(super) fn remaining(&self, priority: Priority) -> RemainingStats {
        let prefix = breakers_prefix(priority);
        RemainingStats::new(&self.scope.child(&prefix, &prefix, &[]))
    }

    /// Whether anything has been charged to the traffic metrics.
    pub(super) fn is_used(&self) -> bool {
        self.metrics.get().is_some()
    }

    /// Where further metrics of this cluster are registered.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// What a rate limit service said of requests to the cluster; `prefix` tells filters apart, and may be empty.
    pub fn rate_limits(&self, prefix: &str) -> &RateLimitStats {
        let mut slot = &self.rate_limits;
        loop {
            let stats = slot.get_or_init(|| Box::new(RateLimitStats::new(&self.scope, prefix)));
            if *stats.prefix == *prefix {
                return stats;
            }
            slot = &stats.next;
        }
    }

    /// Counts of responses by status; charged by the router.
    pub fn codes(&self) -> &Codes {
        self.codes.get_or_init(|| Box::new(Codes::new(&self.scope)))
    }
}

impl Deref for ClusterStats {
    type Target = ClusterMetrics;

    fn deref(&self) -> &ClusterMetrics {
        self.metrics.get_or_init(|| Box::new(ClusterMetrics::from_block(&self.block)))
    }
}

/// `cluster.<c>.ratelimit.<prefix>.`: each counter appears once used, as with Envoy. A lookup walks the few prefixes
/// there are; nothing is locked.
#[derive(Debug)]
pub struct RateLimitStats {
    prefix: Box<str>,
    scope: Scope,
    ok: OnceLock<Counter>,
    error: OnceLock<Counter>,
    over_limit: OnceLock<Counter>,
    failure_mode_allowed: OnceLock<Counter>,
    next: OnceLock<Box<RateLimitStats>>,
}

impl RateLimitStats {
    fn new(cluster: &Scope, prefix: &str) -> Self {
        let path = if prefix.is_empty() { "ratelimit.".to_owned() } else { format!("ratelimit.{prefix}.") };
        Self {
            prefix: prefix.into(),
            scope: cluster.child(&path, &path, &[]),
            ok: OnceLock::new(),
            error: OnceLock::new(),
            over_limit: OnceLock::new(),
            failure_mode_allowed: OnceLock::new(),
            next: OnceLock::new(),
        }
    }

    /// Under their limits.
    pub fn ok(&self) -> &Counter {
        self.ok.get_or_init(|| self.scope.counter(&["ok"]))
    }

    /// The service gave no answer.
    pub fn error(&self) -> &Counter {
        self.error.get_or_init(|| self.scope.counter(&["error"]))
    }

    /// Over a limit.
    pub fn over_limit(&self) -> &Counter {
        self.over_limit.get_or_init(|| self.scope.counter(&["over_limit"]))
    }

    /// The service gave no answer and the request went on.
    pub fn failure_mode_allowed(&self) -> &Counter {
        self.failure_mode_allowed.get_or_init(|| self.scope.counter(&["failure_mode_allowed"]))
    }
}

/// Whose traffic a response belongs to (Envoy: `x-envoy-internal`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// From inside: `internal.`.
    Internal,
    /// From outside: `external.`.
    External,
}

stat_block! {
    /// Responses by class.
    struct Classes {
        counters: upstream_rq_1xx, upstream_rq_2xx, upstream_rq_3xx, upstream_rq_4xx, upstream_rq_5xx,
            upstream_rq_completed;
        gauges: ;
        histograms: ;
    }
}

/// Responses by status: `upstream_rq_<code>`, `upstream_rq_<class>xx`, `upstream_rq_completed` and
/// `upstream_rq_time`, over all and again below `internal.`, `external.` and `canary.`. Each appears once used,
/// as with Envoy.
#[derive(Debug)]
pub struct Codes {
    scope: Scope,
    all: Group,
    internal: OnceLock<Box<Group>>,
    external: OnceLock<Box<Group>>,
    canary: OnceLock<Box<Group>>,
    retry: OnceLock<Box<Group>>,
}

#[derive(Debug)]
struct Group {
    scope: Scope,
    classes: Classes,
    codes: stats::Codes,
    time: OnceLock<Histogram>,
}

impl Codes {
    fn new(scope: &Scope) -> Self {
        Self {
            scope: scope.clone(),
            all: Group::new(scope.clone()),
            internal: OnceLock::new(),
            external: OnceLock::new(),
            canary: OnceLock::new(),
            retry: OnceLock::new(),
        }
    }

    /// Counts one response. `canary`: it came from a canary upstream (`x-envoy-upstream-canary`).
    pub fn charge(&self, status: u16, traffic: Traffic, canary: bool) {
        self.all.charge(status);
        self.traffic(traffic).charge(status);
        if canary {
            self.canary().charge(status);
        }
    }

    /// Counts a response that leads to another try.
    pub fn charge_retry(&self, status: u16) {
        let group =
            self.retry.get_or_init(|| Box::new(Group::new(self.scope.child("retry.", "retry.", &[]))));
        group.charge(status);
    }

    /// Records how long the upstream took, in milliseconds.
    pub fn time(&self, elapsed_ms: u64, traffic: Traffic, canary: bool) {
        self.all.time().record(elapsed_ms);
        self.traffic(traffic).time().record(elapsed_ms);
        if canary {
            self.canary().time().record(elapsed_ms);
        }
    }

    fn traffic(&self, traffic: Traffic) -> &Group {
        let (slot, prefix) = match traffic {
            Traffic::Internal => (&self.internal, "internal."),
            Traffic::External => (&self.external, "external."),
        };
        slot.get_or_init(|| Box::new(Group::new(self.scope.child(prefix, prefix, &[]))))
    }

    fn canary(&self) -> &Group {
        self.canary.get_or_init(|| Box::new(Group::new(self.scope.child("canary.", "canary.", &[]))))
    }
}

impl Group {
    fn new(scope: Scope) -> Self {
        let classes = Classes::new(&scope);
        let codes = stats::Codes::new(&scope, "upstream_rq_");
        Self { scope, classes, codes, time: OnceLock::new() }
    }

    fn charge(&self, status: u16) {
        self.classes.upstream_rq_completed.inc();
        let class = match status / 100 {
            1 => &self.classes.upstream_rq_1xx,
            2 => &self.classes.upstream_rq_2xx,
            3 => &self.classes.upstream_rq_3xx,
            4 => &self.classes.upstream_rq_4xx,
            5 => &self.classes.upstream_rq_5xx,
            _ => return,
        };
        class.inc();
        self.codes.inc(status);
    }

    fn time(&self) -> &Histogram {
        self.time.get_or_init(|| self.scope.histogram(&["upstream_rq_time"]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_is_counted_by_code_class_and_origin() {
        let registry = Registry::new(1);
        let stats = ClusterStats::new(&registry, "a:b");
        stats.codes().charge(204, Traffic::External, true);
        stats.codes().charge(503, Traffic::Internal, false);
        for (name, expected) in [
            ("cluster.a_b.upstream_rq_204", Some(1)),
            ("cluster.a_b.upstream_rq_2xx", Some(1)),
            ("cluster.a_b.upstream_rq_completed", Some(2)),
            ("cluster.a_b.external.upstream_rq_204", Some(1)),
            ("cluster.a_b.internal.upstream_rq_5xx", Some(1)),
            ("cluster.a_b.canary.upstream_rq_204", Some(1)),
            ("cluster.a_b.external.upstream_rq_503", None),
        ] {
            assert_eq!(registry.value(name), expected, "{name}");
        }
    }

    #[test]
    fn a_status_out_of_range_is_only_completed() {
        let registry = Registry::new(1);
        let stats = ClusterStats::new(&registry, "a");
        stats.codes().charge(999, Traffic::External, false);
        assert_eq!(registry.value("cluster.a.upstream_rq_completed"), Some(1));
    }
}
