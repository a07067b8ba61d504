//! Health checks, outlier detection, our circuit breaker.

use super::accepted::{accepted, as_cluster, silent};
use super::refused::check;
use super::*;
use data_plane_core::config::{EndpointCheck, Probe};
use data_plane_core::guard::circuit;
use std::time::Duration;

const TIMES: &str = "timeout: 1s, interval: 3s, unhealthy_threshold: 2, healthy_threshold: 1";

/// A cluster with one check.
fn checked(fields: &str) -> Yaml {
    cluster(&format!("health_checks: [{{{TIMES}, {fields}}}]"))
}

fn http(fields: &str) -> Yaml {
    checked(&format!("http_health_check: {{path: /, {fields}}}"))
}

fn breaker(fields: &str) -> Yaml {
    cluster(&format!(
        "metadata: {{typed_filter_metadata: {{portolan.circuit_breaker: {{\"@type\": \
         type.googleapis.com/portolan.extensions.v1.CircuitBreaker, {fields}}}}}}}"
    ))
}

#[test]
fn checks_have_envoys_defaults() {
    let cluster = as_cluster(silent(&http("")));
    let check = cluster.health_check.unwrap();
    let seconds = Duration::from_secs;
    assert_eq!((check.timeout, check.pace.interval), (seconds(1), seconds(3)));
    assert_eq!(
        (check.pace.no_traffic_interval, check.pace.no_traffic_healthy_interval),
        (seconds(60), seconds(60))
    );
    assert_eq!((check.pace.unhealthy_interval, check.pace.unhealthy_edge_interval), (seconds(3), seconds(3)));
    assert_eq!(check.pace.healthy_edge_interval, seconds(3));
    assert!(check.reuse_connection);
    let Probe::Http(probe) = &check.probe else { panic!("an HTTP check") };
    assert_eq!((&*probe.method, probe.response_buffer), ("GET", Some(1024)));
    assert_eq!((probe.expected.len(), &probe.expected[0]), (1, &(200..201)));
}

#[test]
fn payloads_are_hexadecimal_or_bytes() {
    let cluster =
        as_cluster(silent(&checked("tcp_health_check: {send: {text: 00fF}, receive: [{binary: b2s=}]}")));
    let Probe::Tcp(probe) = &cluster.health_check.as_ref().unwrap().probe else { panic!("a TCP check") };
    assert_eq!((&*probe.send, &*probe.receive[0]), (&[0, 255][..], &b"ok"[..]));
}

#[test]
fn endpoints_say_how_they_are_checked() {
    let one = |fields: &str| {
        let yaml = endpoints(&format!(
            "{{lb_endpoints: [{{endpoint: {{{ADDRESS}, health_check_config: {{{fields}}}}}}}]}}"
        ));
        let Config::Assignment(assignment) = silent(&yaml) else { panic!("endpoints") };
        assignment.localities[0].endpoints[0].check.clone().map(|check| *check)
    };
    assert_eq!(one(""), None);
    assert_eq!(one("port_value: 7"), Some(EndpointCheck { port: Some(7), ..EndpointCheck::default() }));
    assert!(one("disable_active_health_check: true").unwrap().disabled);
}

#[test]
fn outlier_detection_has_envoys_defaults() {
    let cluster = as_cluster(silent(&cluster("outlier_detection: {}")));
    assert_eq!(*cluster.outlier_detection.unwrap(), config::OutlierDetection::default());
    let cluster = as_cluster(silent(&super::cluster("outlier_detection: {base_ejection_time: 400s}")));
    assert_eq!(
        cluster.outlier_detection.unwrap().max_ejection_time,
        Duration::from_secs(400),
        "never below the base"
    );
}

#[test]
fn our_breaker_comes_with_the_metadata() {
    let cluster = as_cluster(silent(&breaker("failure_percent: 50, probes: 2")));
    let want = circuit::Options { failure_percent: Some(50), probes: 2, ..circuit::Options::default() };
    assert_eq!(cluster.breaker.unwrap().options, want);
    let (config, ignored) = accepted(&super::cluster(
        "metadata: {filter_metadata: {a: {}}, typed_filter_metadata: {b: {\"@type\": type.googleapis.com/google.protobuf.Empty}}}",
    ));
    assert_eq!(as_cluster(config).breaker, None);
    assert_eq!(
        ignored,
        [
            "metadata.filter_metadata: has no reader",
            "metadata.typed_filter_metadata[\"b\"]: has no reader: only portolan.circuit_breaker has"
        ]
    );
}

#[test]
fn the_breaker_may_be_written_so_that_envoy_reads_it_too() {
    let yaml = cluster(
        "metadata: {typed_filter_metadata: {portolan.circuit_breaker: {\"@type\": type.googleapis.com/xds.type.v3.TypedStruct, \
         type_url: type.googleapis.com/portolan.extensions.v1.CircuitBreaker, value: {consecutive_failures: 3}}}}",
    );
    assert_eq!(as_cluster(silent(&yaml)).breaker.unwrap().options.consecutive_failures, Some(3));
}

#[test]
fn what_is_wrong_with_checks() {
    let tcp = "tcp_health_check: {}";
    check(vec![
        (
            cluster(&format!("health_checks: [{{{TIMES}, {tcp}}}, {{{TIMES}, {tcp}}}]")),
            &["health_checks[1]: one health check per cluster is supported, as in Envoy"],
        ),
        (
            checked("custom_health_check: {name: envoy.health_checkers.redis}"),
            &["health_checks[0].custom_health_check: health checker \"envoy.health_checkers.redis\" is not \
               supported: http, tcp and grpc are"],
        ),
        (
            checked("grpc_health_check: {}"),
            &["health_checks[0].grpc_health_check: the cluster must speak HTTP/2 for gRPC health checks"],
        ),
        (
            checked("tcp_health_check: {send: {text: zz}}"),
            &[
                "health_checks[0].tcp_health_check.send.text: \"zz\" is not hexadecimal: 00 to ff, byte by byte",
            ],
        ),
        (
            checked("tcp_health_check: {proxy_protocol_config: {}}"),
            &["health_checks[0].tcp_health_check.proxy_protocol_config: not supported"],
        ),
        (
            http("send: {text: aa}"),
            &[
                "health_checks[0].http_health_check.send: GET requests have no body: POST, PUT, PATCH and OPTIONS do",
            ],
        ),
        (
            http("expected_statuses: [{start: 200, end: 200}]"),
            &[
                "health_checks[0].http_health_check.expected_statuses[0]: 200..200 is not a range of statuses within 100..600",
            ],
        ),
        (
            http("receive: [{text: aabb}], response_buffer_size: 1"),
            &[
                "health_checks[0].http_health_check.response_buffer_size: 1 bytes do not hold the 2 that are expected",
            ],
        ),
        (
            http("codec_client_type: HTTP3"),
            &["health_checks[0].http_health_check.codec_client_type: HTTP/3 is not supported"],
        ),
        (
            checked(&format!("alt_port: 70000, {tcp}")),
            &["health_checks[0].alt_port: 70000 is not a port, must be 1 to 65535"],
        ),
        (checked(&format!("tls_options: {{}}, {tcp}")), &["health_checks[0].tls_options: not supported"]),
        (
            cluster("outlier_detection: {detect_degraded_hosts: true}"),
            &["outlier_detection.detect_degraded_hosts: not supported"],
        ),
        (
            cluster("circuit_breakers: {per_host_thresholds: [{max_requests: 1}]}"),
            &[
                "circuit_breakers.per_host_thresholds[0].max_requests: of single hosts only max_connections is \
               limited, as in Envoy",
            ],
        ),
    ]);
}

#[test]
fn what_is_wrong_with_breakers() {
    let at = "metadata.typed_filter_metadata[\"portolan.circuit_breaker\"]";
    for (fields, want) in [
        ("", ": one of failure_percent, consecutive_failures, slow_percent must open it"),
        ("failure_percent: 101", ".failure_percent: 101 is not a percentage, must be 0 to 100"),
        ("slow_percent: 10", ".slow_duration: must be longer than zero where slow_percent is set"),
        ("failure_percent: 1, slow_duration: 1s", ".slow_duration: says nothing without slow_percent"),
        ("failure_percent: 1, window: 0s", ".window: must be 10ms to 1h"),
        (
            "failure_percent: 1, open_time: 2s, max_open_time: 1s",
            ".max_open_time: must be at least open_time",
        ),
        ("failure_percent: 1, probes: 0", ".probes: must be at least 1"),
        ("failure_percent: 1, minimum_requests: 0", ".minimum_requests: must be at least 1"),
    ] {
        check(vec![(breaker(fields), &[&format!("{at}{want}")])]);
    }
}

#[test]
fn the_examples_of_the_documentation_are_accepted() {
    let page = include_str!("../../../../docs/health.md");
    let examples: Vec<&str> =
        page.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert_eq!(examples.len(), 4);
    let indented =
        |text: &str, by: &str| -> String { text.lines().map(|line| format!("{by}{line}\n")).collect() };
    for text in examples {
        let yaml = match text.starts_with("clusters:") {
            true => Yaml::Bootstrap(format!("static_resources:\n{}", indented(text, "  "))),
            false => Yaml::Listener(format!(
                "name: web\n{ADDRESS}\nfilter_chains:\n- filters:\n  - name: http\n    typed_config:\n      \"@type\": {HCM}\n      \
                 stat_prefix: web\n      route_config: {{name: r}}\n{}      - {ROUTER}\n",
                indented(text, "      "),
            )),
        };
        silent(&yaml);
    }
}
