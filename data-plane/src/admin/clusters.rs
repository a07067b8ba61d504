//! `/clusters`: thresholds and hosts, a line a value, or JSON.

use super::listeners::address;
use super::page::{Content, Page, Params, pretty};
use super::proxy::Proxy;
use crate::upstream::{Cluster, ClusterInfo, ClusterState, HealthFlag, Host, Origin};
use bytes::Bytes;
use data_plane_core::config::{CircuitThresholds, Discovery, EndpointHealth};
use data_plane_core::guard::circuit::State;
use serde_json::{Value, json};
use std::fmt::Write;
use std::sync::atomic::Ordering::Relaxed;

pub(super) fn page(proxy: &dyn Proxy, params: &Params) -> Page {
    let clusters: Vec<ClusterInfo> =
        proxy.clusters().into_iter().filter(|info| info.state == ClusterState::Active).collect();
    if params.get("format") == Some("json") {
        let first = std::iter::once(Bytes::from_static(b"{\n \"cluster_statuses\": ["));
        let items = clusters.into_iter().enumerate().map(|(i, info)| {
            let comma = if i > 0 { "," } else { "" };
            Bytes::from(format!("{comma}\n  {}", pretty(&status(&info)).replace('\n', "\n  ")))
        });
        let last = std::iter::once(Bytes::from_static(b"\n ]\n}"));
        return Page::pieces(Content::Json, first.chain(items).chain(last));
    }
    Page::pieces(Content::Text, clusters.into_iter().map(|info| lines(&info).into()))
}

fn lines(info: &ClusterInfo) -> String {
    let cluster: &Cluster = &info.cluster;
    let config = &cluster.config;
    let name = &config.name;
    let mut out = String::new();
    let mut line = |key: &str, value: &dyn std::fmt::Display| {
        let _ = writeln!(out, "{name}::{key}::{value}");
    };
    line("observability_name", &config.stat_name);
    if let Some(detection) = cluster.detection() {
        let [external, local] = detection.success_rates();
        line("outlier::success_rate_average", &external.0);
        line("outlier::success_rate_ejection_threshold", &external.1);
        line("outlier::local_origin_success_rate_average", &local.0);
        line("outlier::local_origin_success_rate_ejection_threshold", &local.1);
    }
    for (priority, limits) in ["default", "high"].into_iter().zip(&config.circuit_breakers) {
        let CircuitThresholds { max_connections, max_pending_requests, max_requests, max_retries, .. } =
            limits;
        line(&format!("{priority}_priority::max_connections"), max_connections);
        line(&format!("{priority}_priority::max_pending_requests"), max_pending_requests);
        line(&format!("{priority}_priority::max_requests"), max_requests);
        line(&format!("{priority}_priority::max_retries"), max_retries);
    }
    line("added_via_api", &(info.origin != Origin::Static));
    if let Discovery::Eds { service_name, .. } = &config.discovery {
        line("eds_service_name", service_name);
    }
    // Ours; what Envoy has not comes after what it has.
    if let Some(breaker) = cluster.breaker() {
        let (requests, failures, slow) = breaker.counts();
        line("circuit_breaker::state", &state_name(breaker.state()));
        line("circuit_breaker::requests", &requests);
        line("circuit_breaker::failures", &failures);
        line("circuit_breaker::slow", &slow);
    }
    for host in cluster.hosts().iter() {
        host_lines(host, &mut line);
    }
    out
}

fn state_name(state: State) -> &'static str {
    match state {
        State::Closed => "closed",
        State::Open => "open",
        State::HalfOpen => "half_open",
    }
}

fn host_lines(host: &Host, line: &mut dyn FnMut(&str, &dyn std::fmt::Display)) {
    let address = host.address;
    for (key, value) in numbers(host) {
        line(&format!("{address}::{key}"), &value);
    }
    let mut text = |key: &str, value: &dyn std::fmt::Display| line(&format!("{address}::{key}"), value);
    text("hostname", &host.hostname);
    text("health_flags", &host.health_state());
    text("weight", &host.weight);
    text("region", &host.locality.region);
    text("zone", &host.locality.zone);
    text("sub_zone", &host.locality.sub_zone);
    text("canary", &is_canary(host));
    text("priority", &host.priority);
    let [external, local] = success_rates(host);
    text("success_rate", &external);
    text("local_origin_success_rate", &local);
}

/// Success rates of the last interval; -1: not known, or there is no outlier detection.
fn success_rates(host: &Host) -> [f64; 2] {
    host.monitor().map_or([-1.0; 2], |monitor| monitor.success_rates())
}

/// Counters and gauges in Envoy's order.
fn numbers(host: &Host) -> [(&'static str, u64); 9] {
    let stats = host.stats();
    let gauge = |value: i64| value.max(0).cast_unsigned();
    [
        ("cx_active", gauge(stats.cx_active.load(Relaxed))),
        ("cx_connect_fail", stats.cx_connect_fail.load(Relaxed)),
        ("cx_total", stats.cx_total.load(Relaxed)),
        ("rq_active", gauge(stats.rq_active.load(Relaxed))),
        ("rq_error", stats.rq_error.load(Relaxed)),
        ("rq_pending_active", gauge(stats.rq_pending_active.load(Relaxed))),
        ("rq_success", stats.rq_success.load(Relaxed)),
        ("rq_timeout", stats.rq_timeout.load(Relaxed)),
        ("rq_total", stats.rq_total.load(Relaxed)),
    ]
}

fn is_canary(host: &Host) -> bool {
    host.labels.get("canary").is_some_and(|value| *value == Value::Bool(true))
}

fn status(info: &ClusterInfo) -> Value {
    let config = &info.cluster.config;
    let thresholds: Vec<Value> = ["DEFAULT", "HIGH"]
        .into_iter()
        .zip(&config.circuit_breakers)
        .map(|(priority, limits)| {
            json!({
                "priority": priority,
                "max_connections": limits.max_connections,
                "max_pending_requests": limits.max_pending_requests,
                "max_requests": limits.max_requests,
                "max_retries": limits.max_retries,
            })
        })
        .collect();
    let mut out = json!({
        "name": config.name,
        "observability_name": config.stat_name,
        "added_via_api": info.origin != Origin::Static,
        "circuit_breakers": { "thresholds": thresholds },
        "host_statuses": info.cluster.hosts().iter().map(|host| host_status(host)).collect::<Vec<_>>(),
    });
    if let Discovery::Eds { service_name, .. } = &config.discovery {
        out["eds_service_name"] = (&**service_name).into();
    }
    if let Some(detection) = info.cluster.detection() {
        let names = ["success_rate_ejection_threshold", "local_origin_success_rate_ejection_threshold"];
        for (name, (_, threshold)) in names.into_iter().zip(detection.success_rates()) {
            if threshold > 0.0 {
                out[name] = json!({ "value": threshold });
            }
        }
    }
    if let Some(breaker) = info.cluster.breaker() {
        let (requests, failures, slow) = breaker.counts();
        out["circuit_breaker"] = json!({
            "state": state_name(breaker.state()),
            "requests": requests,
            "failures": failures,
            "slow": slow,
        });
    }
    out
}

fn host_status(host: &Host) -> Value {
    let stats: Vec<Value> = numbers(host)
        .into_iter()
        .map(|(name, value)| {
            let kind = if name.ends_with("_active") { "GAUGE" } else { "COUNTER" };
            json!({ "name": name, "value": value.to_string(), "type": kind })
        })
        .collect();
    let mut out = json!({
        "address": address(&host.address),
        "hostname": host.hostname,
        "stats": stats,
        "health_status": health_status(host),
        "weight": host.weight,
        "priority": host.priority,
        "locality": {
            "region": host.locality.region,
            "zone": host.locality.zone,
            "sub_zone": host.locality.sub_zone,
        },
    });
    for (name, rate) in ["success_rate", "local_origin_success_rate"].into_iter().zip(success_rates(host)) {
        if rate >= 0.0 {
            out[name] = json!({ "value": rate });
        }
    }
    out
}

/// Flags that are set, in Envoy's names; `eds_health_status` always.
fn health_status(host: &Host) -> Value {
    let eds = match host.eds_health {
        EndpointHealth::Healthy => "HEALTHY",
        EndpointHealth::Degraded => "DEGRADED",
        EndpointHealth::Unhealthy => "UNHEALTHY",
        EndpointHealth::Draining => "DRAINING",
    };
    let mut out = json!({ "eds_health_status": eds });
    let state = host.health_state();
    for (flag, name) in [
        (HealthFlag::FailedActiveHc, "failed_active_health_check"),
        (HealthFlag::FailedOutlierCheck, "failed_outlier_check"),
        (HealthFlag::DegradedActiveHc, "failed_active_degraded_check"),
        (HealthFlag::PendingDynamicRemoval, "pending_dynamic_removal"),
        (HealthFlag::PendingActiveHc, "pending_active_hc"),
        (HealthFlag::ExcludedViaImmediateHcFail, "excluded_via_immediate_hc_fail"),
        (HealthFlag::ActiveHcTimeout, "active_hc_timeout"),
    ] {
        if state.has(flag) {
            out[name] = true.into();
        }
    }
    out
}
