//! The stats of listeners, under Envoy's names.

use crate::stat_block;
use crate::stats::{Counter, Registry, Scope};
use std::net::SocketAddr;

stat_block! {
    /// Metrics of the listener manager, `listener_manager.`.
    pub struct ManagerStats {
        counters: listener_added, listener_create_failure, listener_create_success, listener_in_place_updated,
            listener_modified, listener_removed, listener_stopped;
        gauges: total_filter_chains_draining, total_listeners_active, total_listeners_draining,
            total_listeners_warming, workers_started;
        histograms: ;
    }
}

stat_block! {
    /// Metrics of one listener, `listener.<address>.`. `downstream_cx_accept_error` is ours: accepts that failed
    /// for want of files or memory.
    pub struct ListenerStats {
        counters: downstream_cx_accept_error, downstream_cx_destroy, downstream_cx_overflow,
            downstream_cx_overload_reject, downstream_cx_total, downstream_cx_transport_socket_connect_timeout,
            downstream_global_cx_overflow, downstream_listener_filter_error,
            downstream_listener_filter_remote_close, downstream_pre_cx_timeout, no_filter_chain_match;
        gauges: downstream_cx_active, downstream_pre_cx_active;
        histograms: downstream_cx_length_ms;
    }
}

stat_block! {
    /// Metrics of one listener on one worker, `listener.<address>.worker_<n>.`.
    pub struct WorkerStats {
        counters: downstream_cx_total;
        gauges: downstream_cx_active;
        histograms: ;
    }
}

stat_block! {
    /// Metrics of all HTTP inspectors, `http_inspector.`.
    pub struct InspectorStats {
        counters: http10_found, http11_found, http2_found, http_not_found, parse_error, read_error;
        gauges: ;
        histograms: ;
    }
}

stat_block! {
    /// Metrics of all TLS inspectors, `tls_inspector.`.
    pub struct TlsInspectorStats {
        counters: alpn_found, alpn_not_found, client_hello_too_large, sni_found, sni_not_found, tls_found,
            tls_not_found;
        gauges: ;
        histograms: bytes_processed;
    }
}

/// Metrics of PROXY protocol filters, `proxy_proto.` and an older name.
#[derive(Clone, Debug)]
pub struct ProxyProtocolStats {
    /// Refused for whatever reason.
    pub downstream_cx_proxy_proto_error: Counter,
    /// Without a header, and refused.
    pub not_found_disallowed: Counter,
    /// Without a header, and served.
    pub not_found_allowed: Counter,
    /// Headers of version 1: taken, not read, not allowed.
    pub v1_found: Counter,
    #[expect(missing_docs, reason = "see v1_found")]
    pub v1_error: Counter,
    #[expect(missing_docs, reason = "see v1_found")]
    pub v1_disallowed: Counter,
    /// Headers of version 2: taken, not read, not allowed.
    pub v2_found: Counter,
    #[expect(missing_docs, reason = "see v2_found")]
    pub v2_error: Counter,
    #[expect(missing_docs, reason = "see v2_found")]
    pub v2_disallowed: Counter,
}

impl ProxyProtocolStats {
    /// `stat_prefix` may be empty.
    pub(super) fn new(registry: &Registry, stat_prefix: &str) -> Self {
        let prefix = match stat_prefix {
            "" => "proxy_proto.".to_owned(),
            own => format!("proxy_proto.{own}."),
        };
        let scope = registry.scope(&prefix, &prefix, &[]);
        let root = registry.scope("", "", &[]);
        Self {
            downstream_cx_proxy_proto_error: root.counter(&["downstream_cx_proxy_proto_error"]),
            not_found_disallowed: scope.counter(&["not_found_disallowed"]),
            not_found_allowed: scope.counter(&["not_found_allowed"]),
            v1_found: scope.counter(&["versions.v1.found"]),
            v1_error: scope.counter(&["versions.v1.error"]),
            v1_disallowed: scope.counter(&["versions.v1.disallowed"]),
            v2_found: scope.counter(&["versions.v2.found"]),
            v2_error: scope.counter(&["versions.v2.error"]),
            v2_disallowed: scope.counter(&["versions.v2.disallowed"]),
        }
    }
}

/// `listener.<address>.`, or with the configured prefix in the place of the address.
pub(super) fn scope(registry: &Registry, stat_prefix: Option<&str>, address: SocketAddr) -> Scope {
    let shown = stat_prefix.map_or_else(|| address.to_string(), str::to_owned).replace(':', "_");
    registry.scope(&format!("listener.{shown}."), "listener.", &[("envoy_listener_address", &shown)])
}

/// `listener.<address>.worker_<n>.`, `worker` from 0.
pub(super) fn worker_scope(listener: &Scope, worker: usize) -> Scope {
    let name = format!("worker_{worker}");
    listener.child(&format!("{name}."), "worker.", &[("envoy_worker_id", &worker.to_string())])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stats_carry_the_address_or_the_configured_prefix() {
        let registry = Registry::new(1);
        let v4 = "127.0.0.1:8080".parse().unwrap();
        let v6 = "[::1]:8080".parse().unwrap();
        assert_eq!(&*scope(&registry, None, v4).prefix, "listener.127.0.0.1_8080.");
        assert_eq!(&*scope(&registry, None, v6).prefix, "listener.[__1]_8080.");
        assert_eq!(&*scope(&registry, Some("in:gress"), v4).prefix, "listener.in_gress.");
    }
}
