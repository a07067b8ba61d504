//! Stats of subscriptions and of the connection to the control plane.

use crate::stat_block;
use crate::stats::{Registry, Scope, TextReadout};
use xxhash_rust::xxh64::xxh64;

stat_block! {
    /// Stats of one subscription, such as `cluster_manager.cds.`.
    pub(super) struct Metrics {
        counters: config_reload, init_fetch_timeout, update_attempt, update_empty, update_failure,
            update_rejected, update_success;
        gauges: config_reload_time_ms, update_time, version;
        histograms: update_duration;
    }
}

/// Stats of one subscription.
#[derive(Debug)]
pub(super) struct SubscriptionStats {
    pub(super) metrics: Metrics,
    version_text: TextReadout,
}

impl SubscriptionStats {
    fn new(scope: &Scope) -> Self {
        Self { metrics: Metrics::new(scope), version_text: scope.text("version_text") }
    }

    pub(super) fn clusters(registry: &Registry) -> Self {
        Self::new(&registry.scope("cluster_manager.cds.", "cluster_manager.cds.", &[]))
    }

    pub(super) fn listeners(registry: &Registry) -> Self {
        Self::new(&registry.scope("listener_manager.lds.", "listener_manager.lds.", &[]))
    }

    /// `http.<prefix>.rds.<name>.`
    pub(super) fn routes(registry: &Registry, prefix: &str, name: &str) -> Self {
        let tags = [("envoy_http_conn_manager_prefix", prefix), ("envoy_rds_route_config", name)];
        Self::new(&registry.scope(&format!("http.{prefix}.rds.{name}."), "http.rds.", &tags))
    }

    /// The version of the last update applied in full.
    pub(super) fn version(&self) -> String {
        self.version_text.value()
    }

    /// An update was applied in full.
    pub(super) fn accepted(&self, version: &str, now_ms: u64) {
        self.metrics.update_success.inc();
        self.metrics.config_reload.inc();
        self.metrics.config_reload_time_ms.set(now_ms);
        self.metrics.update_time.set(now_ms);
        self.metrics.version.set(version_hash(version));
        self.version_text.set(version);
    }
}

stat_block! {
    /// Stats of one secret, `sds.<name>.`.
    pub(super) struct SecretMetrics {
        counters: init_fetch_timeout, key_rotation_failed, update_attempt, update_failure, update_rejected,
            update_success;
        gauges: update_time, version;
        histograms: update_duration;
    }
}

/// Stats of one secret.
#[derive(Debug)]
pub(super) struct SecretStats {
    pub(super) metrics: SecretMetrics,
    version_text: TextReadout,
}

impl SecretStats {
    pub(super) fn new(registry: &Registry, name: &str) -> Self {
        let scope = registry.scope(&format!("sds.{name}."), "sds.", &[("envoy_xds_resource_name", name)]);
        Self { metrics: SecretMetrics::new(&scope), version_text: scope.text("version_text") }
    }

    /// An update was applied.
    pub(super) fn accepted(&self, version: &str, now_ms: u64, took_ms: u64) {
        self.metrics.update_success.inc();
        self.metrics.update_time.set(now_ms);
        self.metrics.update_duration.record(took_ms);
        self.metrics.version.set(version_hash(version));
        self.version_text.set(version);
    }
}

/// What Envoy's `version` gauges show.
pub(super) fn version_hash(version: &str) -> u64 {
    xxh64(version.as_bytes(), 0)
}

stat_block! {
    /// The connection to the control plane, `control_plane.`.
    pub(super) struct ControlPlane {
        counters: rate_limit_enforced;
        gauges: connected_state, pending_requests;
        histograms: ;
    }
}

impl ControlPlane {
    pub(super) fn scope(registry: &Registry) -> Scope {
        registry.scope("control_plane.", "control_plane.", &[])
    }
}
