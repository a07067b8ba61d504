//! Checks of what makes services fail well: health checks, ejection, breakers, limits, retries, hashing.
//!
//! Ranges are those of Envoy's protos (`validate.rules`), and of what its code refuses beside, so that an error
//! is about the field that a person wrote.

use std::collections::BTreeSet;

use super::{Checker, Zero, header_name};
use crate::model::{ObjectName, ServiceName};
use xds_types::google::protobuf::UInt32Value;
use xds_types::portolan::config::v1::{
    FailurePercentage, GatewayLimits, HashCookie, HashKey, HashTable, HealthCheck, Mirror, OutlierDetection,
    Retry, RetryBudget, Rule, Service, ServiceLimits, SlowStart, SuccessRate, Zones, hash_key::By,
    health_check::Check, service,
};
use xds_types::portolan::extensions::v1::CircuitBreaker;

/// Envoy's `retry_on` and `retry_grpc_on`; the last five are of gRPC.
const CONDITIONS: [&str; 14] = [
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "envoy-ratelimited",
    "retriable-4xx",
    "refused-stream",
    "http3-post-connect-failure",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
];
const METHODS: [&str; 8] = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH"];
/// Largest Maglev table (Envoy: `MaglevLbConfig.table_size`).
const MAX_TABLE: u32 = 5_000_011;
/// Largest ring (Envoy: `RingHashLbConfig.maximum_ring_size`).
const MAX_RING: u32 = 8_388_608;

/// Conditions that gRPC clients know.
pub(crate) fn grpc_conditions() -> &'static [&'static str] {
    &CONDITIONS[9..]
}

fn number(value: Option<&UInt32Value>) -> Option<u32> {
    value.map(|n| n.value)
}

pub(super) fn service(
    s: &Service,
    health: &Option<HealthCheck>,
    outlier: &Option<OutlierDetection>,
    breaker: &Option<CircuitBreaker>,
    at: &mut Checker<'_>,
) {
    if let Some(health) = health {
        health_check(s, health, at);
    }
    if let Some(outlier) = outlier {
        outlier_detection(outlier, at);
    }
    if let Some(breaker) = breaker {
        circuit_breaker(breaker, at);
    }
}

fn health_check(s: &Service, h: &HealthCheck, at: &mut Checker<'_>) {
    let HealthCheck {
        check,
        interval,
        timeout,
        unhealthy_threshold,
        healthy_threshold,
        jitter_percent,
        port,
        no_traffic_interval,
    } = h;
    let path = "spec.health_check";
    for (field, value) in
        [("interval", interval), ("timeout", timeout), ("no_traffic_interval", no_traffic_interval)]
    {
        at.duration(&format!("{path}.{field}"), value.as_ref(), Zero::Refused);
    }
    at.range(&format!("{path}.unhealthy_threshold"), number(unhealthy_threshold.as_ref()), 1..=u32::MAX);
    at.range(&format!("{path}.healthy_threshold"), number(healthy_threshold.as_ref()), 1..=u32::MAX);
    at.range(&format!("{path}.jitter_percent"), number(jitter_percent.as_ref()), 0..=100);
    if *port > 65_535 {
        at.error(format!("{path}.port"), "must be 1 to 65535");
    }
    match check {
        None => at.error(path, "must say how: http, tcp or grpc"),
        Some(Check::Http(http)) => {
            if !http.path.starts_with('/') || http.path.bytes().any(|b| b <= b' ' || b == 0x7f) {
                at.error(format!("{path}.http.path"), format!("`{}` must be a path from `/`", http.path));
            }
            if !http.method.is_empty() && !METHODS.contains(&http.method.as_str()) {
                at.error(
                    format!("{path}.http.method"),
                    format!("`{}` must be one of {}", http.method, METHODS.join(", ")),
                );
            }
            for (i, text) in http.expected.iter().enumerate() {
                if statuses(text).is_none() {
                    at.error(
                        format!("{path}.http.expected[{i}]"),
                        format!("`{text}` must be a status as `200`, or a range as `200-299`, of 100 to 599"),
                    );
                }
            }
            let mut names: Vec<_> = http.headers.iter().collect();
            names.sort();
            for (name, value) in names {
                let path = format!("{path}.http.headers[\"{name}\"]");
                if let Err(message) = header_name(name) {
                    at.error(&path, message);
                } else if name.starts_with(':') || name.eq_ignore_ascii_case("host") {
                    at.error(&path, "cannot be set; `host`, `method` and `path` have fields of their own");
                }
                if value.bytes().any(|b| matches!(b, b'\r' | b'\n' | 0)) {
                    at.error(path, "must not hold line breaks or NUL");
                }
            }
        }
        Some(Check::Tcp(tcp)) => {
            for (i, text) in tcp.receive.iter().enumerate().filter(|(_, t)| t.is_empty()) {
                at.error(format!("{path}.tcp.receive[{i}]"), format!("`{text}` must not be empty"));
            }
        }
        Some(Check::Grpc(_)) => {
            if s.protocol != i32::from(service::Protocol::Http2) {
                at.error(format!("{path}.grpc"), "needs `protocol: HTTP2`");
            }
        }
    }
}

/// First and last status of `200` or `200-299`.
pub(crate) fn statuses(text: &str) -> Option<(u32, u32)> {
    let one = |t: &str| t.parse::<u32>().ok().filter(|n| t.len() == 3 && (100..600).contains(n));
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (one(first)?, one(last)?),
        None => (one(text)?, one(text)?),
    };
    (first <= last).then_some((first, last))
}

fn outlier_detection(o: &OutlierDetection, at: &mut Checker<'_>) {
    let OutlierDetection {
        consecutive_5xx: _,
        consecutive_gateway_failures: _,
        consecutive_local_failures: _,
        interval,
        base_ejection,
        max_ejection,
        max_ejected_percent,
        success_rate,
        failure_percentage,
    } = o;
    let path = "spec.outlier_detection";
    for (field, value) in
        [("interval", interval), ("base_ejection", base_ejection), ("max_ejection", max_ejection)]
    {
        at.duration(&format!("{path}.{field}"), value.as_ref(), Zero::Refused);
    }
    let longest = max_ejection.as_ref().and_then(super::to_duration);
    let base = base_ejection.as_ref().map_or(Some(std::time::Duration::from_secs(30)), super::to_duration);
    if let (Some(longest), Some(base)) = (longest, base)
        && longest < base
    {
        at.error(format!("{path}.max_ejection"), "must be at least `base_ejection`");
    }
    at.range(&format!("{path}.max_ejected_percent"), number(max_ejected_percent.as_ref()), 0..=100);
    if let Some(SuccessRate { factor, minimum_instances: _, minimum_requests: _ }) = success_rate {
        at.range(&format!("{path}.success_rate.factor"), number(factor.as_ref()), 1..=u32::MAX);
    }
    if let Some(FailurePercentage { threshold, minimum_instances: _, minimum_requests: _ }) =
        failure_percentage
    {
        at.range(&format!("{path}.failure_percentage.threshold"), number(threshold.as_ref()), 1..=100);
    }
}

fn circuit_breaker(b: &CircuitBreaker, at: &mut Checker<'_>) {
    let CircuitBreaker {
        failure_percent,
        consecutive_failures,
        slow_percent,
        slow_duration,
        window,
        minimum_requests,
        open_time,
        max_open_time,
        jitter_percent,
        probes,
        event_log_path: _,
    } = b;
    let path = "spec.circuit_breaker";
    if *failure_percent == 0 && *consecutive_failures == 0 && *slow_percent == 0 {
        at.error(
            path,
            "must have failure_percent, consecutive_failures or slow_percent: else it never opens",
        );
    }
    for (field, value) in [("failure_percent", failure_percent), ("slow_percent", slow_percent)] {
        at.range(&format!("{path}.{field}"), Some(*value), 0..=100);
    }
    at.range(&format!("{path}.minimum_requests"), number(minimum_requests.as_ref()), 1..=u32::MAX);
    at.range(&format!("{path}.jitter_percent"), number(jitter_percent.as_ref()), 0..=100);
    at.range(&format!("{path}.probes"), number(probes.as_ref()), 1..=u32::MAX);
    for (field, value) in [
        ("slow_duration", slow_duration),
        ("window", window),
        ("open_time", open_time),
        ("max_open_time", max_open_time),
    ] {
        at.duration(&format!("{path}.{field}"), value.as_ref(), Zero::Refused);
    }
    if (*slow_percent > 0) != slow_duration.is_some() {
        at.error(format!("{path}.slow_duration"), "is needed with `slow_percent`, and only with it");
    }
    let millis = |d: &Option<_>| d.as_ref().and_then(super::to_duration).map(|d| d.as_millis());
    if millis(window).is_some_and(|w| !(10..=3_600_000).contains(&w)) {
        at.error(format!("{path}.window"), "must be 0.01s to 3600s");
    }
    if let (open, Some(longest)) = (millis(open_time).unwrap_or(5_000), millis(max_open_time))
        && longest < open
    {
        at.error(format!("{path}.max_open_time"), "must be at least `open_time`");
    }
}

pub(super) fn balancing(
    s: &Service,
    limits: &Option<ServiceLimits>,
    table: &Option<HashTable>,
    slow: &Option<SlowStart>,
    zones: &Option<Zones>,
    at: &mut Checker<'_>,
) {
    let policy = service::LoadBalancing::try_from(s.load_balancing).unwrap_or_default();
    if let Some(ServiceLimits {
        connections: _, // 0 is a value: it lets nothing through
        pending_requests: _,
        requests: _,
        retries,
        retry_budget,
        connections_per_instance: _,
    }) = limits
        && let Some(RetryBudget { percent, minimum: _ }) = retry_budget
    {
        if retries.is_some() {
            at.error("spec.limits.retries", "has no effect beside `retry_budget`");
        }
        if percent.as_ref().is_some_and(|p| !(p.value > 0.0 && p.value <= 100.0)) {
            at.error("spec.limits.retry_budget.percent", "must be more than 0 and at most 100");
        }
    }
    if let Some(HashTable { min_size, max_size, table_size }) = table {
        let path = "spec.hash_table";
        let ring = policy == service::LoadBalancing::RingHash;
        let maglev = policy == service::LoadBalancing::Maglev;
        for (field, value) in [("min_size", min_size), ("max_size", max_size)] {
            if value.is_some() && !ring {
                at.error(format!("{path}.{field}"), "needs `load_balancing: RING_HASH`");
            }
            at.range(&format!("{path}.{field}"), number(value.as_ref()), 1..=MAX_RING);
        }
        if number(min_size.as_ref()).unwrap_or(1024) > number(max_size.as_ref()).unwrap_or(MAX_RING) {
            at.error(format!("{path}.max_size"), "must be at least `min_size`, which is 1024 by default");
        }
        if let Some(size) = number(table_size.as_ref()) {
            if !maglev {
                at.error(format!("{path}.table_size"), "needs `load_balancing: MAGLEV`");
            }
            if size > MAX_TABLE || !is_prime(size) {
                at.error(format!("{path}.table_size"), format!("must be a prime of at most {MAX_TABLE}"));
            }
        }
    }
    if let Some(SlowStart { window, aggression, min_weight_percent }) = slow {
        let path = "spec.slow_start";
        use service::LoadBalancing::{LeastRequest, RoundRobin};
        if !matches!(policy, RoundRobin | LeastRequest) {
            at.error(path, "needs load balancing by ROUND_ROBIN or LEAST_REQUEST");
        }
        if window.is_none() {
            at.error(format!("{path}.window"), "is needed");
        }
        at.duration(&format!("{path}.window"), window.as_ref(), Zero::Refused);
        if aggression.as_ref().is_some_and(|a| !(a.value > 0.0 && a.value.is_finite())) {
            at.error(format!("{path}.aggression"), "must be more than 0");
        }
        if min_weight_percent.as_ref().is_some_and(|p| !(0.0..=100.0).contains(&p.value)) {
            at.error(format!("{path}.min_weight_percent"), "must be 0 to 100");
        }
    }
    if let Some(Zones { order, overprovisioning_percent, panic_percent }) = zones {
        let path = "spec.zones";
        let mut seen = BTreeSet::new();
        for (i, zone) in order.iter().enumerate() {
            if zone.is_empty() || !seen.insert(zone) {
                at.error(format!("{path}.order[{i}]"), format!("`{zone}` must be a zone, each once"));
            }
        }
        at.range(
            &format!("{path}.overprovisioning_percent"),
            number(overprovisioning_percent.as_ref()),
            100..=10_000,
        );
        at.range(&format!("{path}.panic_percent"), number(panic_percent.as_ref()), 0..=100);
        let by_dns = s.discovery.as_ref().is_some_and(|d| {
            matches!(d.from, Some(xds_types::portolan::config::v1::discovery::From::Dns(_)))
        });
        if by_dns && (!order.is_empty() || overprovisioning_percent.is_some()) {
            at.error(path, "a service found by DNS has no zones");
        }
    }
}

fn is_prime(n: u32) -> bool {
    n >= 2
        && (2..).take_while(|d| u64::from(*d) * u64::from(*d) <= u64::from(n)).all(|d| !n.is_multiple_of(d))
}

pub(super) fn rule(
    path: &str,
    retry: Option<&Retry>,
    mirrors: &[Mirror],
    hash: &[HashKey],
    at: &mut Checker<'_>,
) {
    if let Some(retry) = retry {
        check_retry(&format!("{path}.retry"), retry, at);
    }
    for (i, Mirror { service, subset, percent }) in mirrors.iter().enumerate() {
        let path = format!("{path}.mirrors[{i}]");
        if let Err(e) = ServiceName::new(service) {
            at.error(format!("{path}.service"), format!("`{service}` {e}"));
        }
        if !subset.is_empty()
            && let Err(e) = ObjectName::new(subset)
        {
            at.error(format!("{path}.subset"), format!("`{subset}` {e}"));
        }
        if percent.as_ref().is_some_and(|p| !(p.value > 0.0 && p.value <= 100.0)) {
            at.error(format!("{path}.percent"), "must be more than 0 and at most 100");
        }
    }
    for (i, key) in hash.iter().enumerate() {
        let path = format!("{path}.hash[{i}]");
        match &key.by {
            Some(By::Header(name)) => {
                if let Err(message) = header_name(name) {
                    at.error(format!("{path}.header"), format!("`{name}` {message}"));
                }
            }
            Some(By::Cookie(HashCookie { name, ttl, path: of })) => {
                if name.is_empty() || header_name(name).is_err() || name.starts_with(':') {
                    at.error(format!("{path}.cookie.name"), format!("`{name}` is not a cookie's name"));
                }
                at.duration(&format!("{path}.cookie.ttl"), ttl.as_ref(), Zero::Allowed);
                if !of.is_empty() && !of.starts_with('/') {
                    at.error(format!("{path}.cookie.path"), format!("`{of}` must begin with `/`"));
                }
            }
            Some(By::ClientIp(true)) => {}
            Some(By::ClientIp(false)) => at.error(format!("{path}.client_ip"), "must be true"),
            Some(By::Query(name)) if !name.is_empty() => {}
            Some(By::Query(_)) => at.error(format!("{path}.query"), "must not be empty"),
            None => at.error(path, "must say what: header, cookie, client_ip or query"),
        }
    }
}

fn check_retry(path: &str, retry: &Retry, at: &mut Checker<'_>) {
    let Retry { on, attempts, per_try_timeout, backoff, max_backoff, statuses, headers, other_instances: _ } =
        retry;
    for (i, condition) in on.iter().enumerate() {
        if !CONDITIONS.contains(&condition.as_str()) {
            let path = format!("{path}.on[{i}]");
            at.error(path, format!("`{condition}` must be one of {}", CONDITIONS.join(", ")));
        }
    }
    at.range(&format!("{path}.attempts"), number(attempts.as_ref()), 1..=100);
    for (field, value) in
        [("per_try_timeout", per_try_timeout), ("backoff", backoff), ("max_backoff", max_backoff)]
    {
        at.duration(&format!("{path}.{field}"), value.as_ref(), Zero::Refused);
    }
    let millis = |d: &Option<_>| d.as_ref().and_then(super::to_duration).map(|d| d.as_micros());
    if let (base, Some(longest)) = (millis(backoff).unwrap_or(25_000), millis(max_backoff))
        && longest < base
    {
        at.error(format!("{path}.max_backoff"), "must be at least `backoff`, which is 0.025s by default");
    }
    for (i, status) in statuses.iter().enumerate() {
        at.range(&format!("{path}.statuses[{i}]"), Some(*status), 100..=599);
    }
    for (i, name) in headers.iter().enumerate() {
        if let Err(message) = header_name(name) {
            at.error(format!("{path}.headers[{i}]"), format!("`{name}` {message}"));
        }
    }
}

/// What gRPC clients do not follow of these.
pub(super) fn rule_for_grpc(path: &str, rule: &Rule, why: &str, at: &mut Checker<'_>) {
    for (i, key) in rule.hash.iter().enumerate() {
        if !matches!(key.by, Some(By::Header(_)) | None) {
            at.error(format!("{path}.hash[{i}]"), why);
        }
    }
    if let Some(retry) = &rule.retry {
        let known = |on: &String| grpc_conditions().contains(&on.as_str());
        if !retry.on.is_empty() && !retry.on.iter().any(known) {
            at.error(
                format!("{path}.retry.on"),
                format!("gRPC clients know only {}", grpc_conditions().join(", ")),
            );
        }
        let set = [
            ("per_try_timeout", retry.per_try_timeout.is_some()),
            ("statuses", !retry.statuses.is_empty()),
            ("headers", !retry.headers.is_empty()),
        ];
        for (field, _) in set.iter().filter(|(_, set)| *set) {
            at.error(format!("{path}.retry.{field}"), why);
        }
    }
}

pub(super) fn gateway(limits: &GatewayLimits, at: &mut Checker<'_>) {
    let GatewayLimits {
        request_headers_timeout,
        request_timeout,
        stream_idle_timeout,
        idle_timeout,
        max_connection_duration,
        max_requests_per_connection,
        max_request_headers_kib,
        max_request_headers,
        max_concurrent_streams,
        buffer_bytes,
    } = limits;
    let path = "spec.limits";
    for (field, value, zero) in [
        ("request_headers_timeout", request_headers_timeout, Zero::Refused),
        ("request_timeout", request_timeout, Zero::Allowed),
        ("stream_idle_timeout", stream_idle_timeout, Zero::Allowed),
        ("idle_timeout", idle_timeout, Zero::Allowed),
        ("max_connection_duration", max_connection_duration, Zero::Refused),
    ] {
        at.duration(&format!("{path}.{field}"), value.as_ref(), zero);
    }
    for (field, value, range) in [
        ("max_requests_per_connection", max_requests_per_connection, 1..=u32::MAX),
        ("max_request_headers_kib", max_request_headers_kib, 1..=8192),
        ("max_request_headers", max_request_headers, 1..=u32::MAX),
        ("max_concurrent_streams", max_concurrent_streams, 1..=2_147_483_647),
        ("buffer_bytes", buffer_bytes, 1024..=u32::MAX),
    ] {
        at.range(&format!("{path}.{field}"), number(value.as_ref()), range);
    }
}
