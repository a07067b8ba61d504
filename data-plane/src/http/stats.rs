//! Metrics of a connection manager, under Envoy's names.

use crate::stat_block;
use crate::stats::Scope;
use data_plane_core::headers::Version;

stat_block! {
    /// `http.<stat_prefix>.`: connections and requests from downstream, and what the router did with them.
    pub(super) struct ManagerStats {
        counters:
            downstream_cx_delayed_close_timeout, downstream_cx_destroy, downstream_cx_destroy_active_rq,
            downstream_cx_destroy_local, downstream_cx_destroy_local_active_rq, downstream_cx_destroy_remote,
            downstream_cx_destroy_remote_active_rq, downstream_cx_drain_close, downstream_cx_http1_total,
            downstream_cx_http2_total, downstream_cx_http3_total, downstream_cx_idle_timeout,
            downstream_cx_max_duration_reached, downstream_cx_max_requests_reached,
            downstream_cx_overload_disable_keepalive, downstream_cx_protocol_error,
            downstream_cx_rx_bytes_total, downstream_cx_ssl_total, downstream_cx_total,
            downstream_cx_tx_bytes_total, downstream_cx_upgrades_total,
            downstream_flow_control_paused_reading_total, downstream_flow_control_resumed_reading_total,
            downstream_rq_1xx, downstream_rq_2xx, downstream_rq_3xx, downstream_rq_4xx, downstream_rq_5xx,
            downstream_rq_completed, downstream_rq_failed_path_normalization, downstream_rq_header_timeout,
            downstream_rq_http1_total, downstream_rq_http2_total, downstream_rq_http3_total,
            downstream_rq_idle_timeout, downstream_rq_max_duration_reached, downstream_rq_non_relative_path,
            downstream_rq_overload_close, downstream_rq_redirected_with_normalized_path,
            downstream_rq_rejected_via_ip_detection, downstream_rq_response_before_rq_complete,
            downstream_rq_rx_reset, downstream_rq_timeout, downstream_rq_too_large,
            downstream_rq_too_many_premature_resets, downstream_rq_total, downstream_rq_tx_reset,
            downstream_rq_ws_on_non_ws_route, no_cluster, no_route, passthrough_internal_redirect_bad_location,
            passthrough_internal_redirect_no_route, passthrough_internal_redirect_predicate,
            passthrough_internal_redirect_too_many_redirects, passthrough_internal_redirect_unsafe_scheme,
            rq_direct_response, rq_overload_local_reply, rq_redirect,
            rq_reset_after_downstream_response_started, rq_total, rs_too_large;
        gauges:
            downstream_cx_active, downstream_cx_http1_active, downstream_cx_http1_soft_drain,
            downstream_cx_http2_active, downstream_cx_http3_active, downstream_cx_rx_bytes_buffered,
            downstream_cx_ssl_active, downstream_cx_tx_bytes_buffered, downstream_cx_upgrades_active,
            downstream_rq_active;
        histograms: downstream_cx_length_ms, downstream_rq_time;
    }
}

stat_block! {
    /// `http.<stat_prefix>.tracing.`: requests by why they are traced, or not.
    pub(super) struct TracingStats {
        counters: client_enabled, health_check, not_traceable, random_sampling, service_forced;
        gauges: ;
        histograms: ;
    }
}

stat_block! {
    /// `listener.<address>.http.<stat_prefix>.`: responses by class.
    pub(super) struct ListenerStats {
        counters:
            downstream_rq_1xx, downstream_rq_2xx, downstream_rq_3xx, downstream_rq_4xx, downstream_rq_5xx,
            downstream_rq_completed;
        gauges: ;
        histograms: ;
    }
}

/// All metrics of one manager.
pub(super) struct Stats {
    pub(super) manager: ManagerStats,
    listener: ListenerStats,
    /// Held so that the names are listed.
    pub(super) tracing: TracingStats,
}

impl Stats {
    /// `scope` is `http.<stat_prefix>.`, `listener` is `listener.<address>.`.
    pub(super) fn new(scope: &Scope, listener: &Scope, prefix: &str) -> Self {
        let under_listener = listener.child(
            &format!("http.{prefix}."),
            "http.",
            &[("envoy_http_conn_manager_prefix", prefix)],
        );
        Self {
            manager: ManagerStats::new(scope),
            listener: ListenerStats::new(&under_listener),
            tracing: TracingStats::new(&scope.child("tracing.", "tracing.", &[])),
        }
    }

    /// Counts a response head that goes downstream.
    pub(super) fn response(&self, status: u16) {
        self.manager.downstream_rq_completed.inc();
        self.listener.downstream_rq_completed.inc();
        let (manager, listener) = (&self.manager, &self.listener);
        let (here, there) = match status / 100 {
            1 => (&manager.downstream_rq_1xx, &listener.downstream_rq_1xx),
            2 => (&manager.downstream_rq_2xx, &listener.downstream_rq_2xx),
            3 => (&manager.downstream_rq_3xx, &listener.downstream_rq_3xx),
            4 => (&manager.downstream_rq_4xx, &listener.downstream_rq_4xx),
            5 => (&manager.downstream_rq_5xx, &listener.downstream_rq_5xx),
            _ => return,
        };
        here.inc();
        there.inc();
    }

    /// Counts a request that came in.
    pub(super) fn request(&self, version: Version) {
        let stats = &self.manager;
        stats.downstream_rq_total.inc();
        stats.downstream_rq_active.inc();
        match version {
            Version::Http10 | Version::Http11 => stats.downstream_rq_http1_total.inc(),
            Version::Http2 => stats.downstream_rq_http2_total.inc(),
        }
    }
}
