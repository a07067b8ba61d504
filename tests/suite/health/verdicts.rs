//! The same YAML in the real Envoy and in ours, against the same upstreams: who is healthy, and who is ejected.

use super::{check, cluster, flags};
use e2e::client::Client;
use e2e::eventually;
use e2e::pair::{Pair, Side, http_listener, routes};
use e2e::patient::{Mood, Patient};
use std::fmt::Write;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

const H2: &str = "typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {'@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {http2_protocol_options: {}}}}";

const FAILED: &str = "/failed_active_hc";

/// An HTTP check, how the upstream answers, and what the verdict must be.
fn http_cases() -> Vec<(&'static str, &'static str, Mood, &'static str)> {
    let status = |check| Mood { check, ..Mood::default() };
    let with = |check, check_headers| Mood { check, check_headers, ..Mood::default() };
    vec![
        ("ok", "path: /hz", status(200), "healthy"),
        ("not_200", "path: /hz", status(201), FAILED),
        ("expected", "path: /hz, expected_statuses: [{start: 200, end: 300}]", status(204), "healthy"),
        ("replaces_200", "path: /hz, expected_statuses: [{start: 201, end: 202}]", status(200), FAILED),
        ("retriable", "path: /hz, retriable_statuses: [{start: 503, end: 504}]", status(503), FAILED),
        ("degraded", "path: /hz", with(200, vec![("x-envoy-degraded", "1")]), "/degraded_active_hc"),
        ("degraded_failed", "path: /hz", with(503, vec![("x-envoy-degraded", "1")]), FAILED),
        (
            "excluded",
            "path: /hz",
            with(503, vec![("x-envoy-immediate-health-check-fail", "1")]),
            "/failed_active_hc/excluded_via_immediate_hc_fail",
        ),
        (
            "named",
            "path: /hz, service_name_matcher: {prefix: web}",
            with(200, vec![("x-envoy-upstream-healthchecked-cluster", "web-1")]),
            "healthy",
        ),
        (
            "misnamed",
            "path: /hz, service_name_matcher: {prefix: web}",
            with(200, vec![("x-envoy-upstream-healthchecked-cluster", "api")]),
            FAILED,
        ),
        ("unnamed", "path: /hz, service_name_matcher: {prefix: web}", status(200), FAILED),
        // "ok"
        ("body", "path: /hz, receive: [{text: '6f'}, {text: '6b'}]", status(200), "healthy"),
        ("other_body", "path: /hz, receive: [{text: '6b'}, {text: '6f'}]", status(200), FAILED),
        ("late_body", "path: /hz, receive: [{text: '6b'}], response_buffer_size: 1", status(200), FAILED),
        (
            "silent",
            "path: /hz",
            Mood { silent: true, ..Mood::default() },
            "/failed_active_hc/active_hc_timeout",
        ),
        ("post", "path: /hz, method: POST, send: {text: '6869'}", status(200), "healthy"),
        ("h2", "path: /hz, codec_client_type: HTTP2", status(200), "healthy"),
        ("h2_failed", "path: /hz, codec_client_type: HTTP2", status(500), FAILED),
    ]
}

/// Each side's flags of each cluster's one host.
async fn verdicts(pair: &Pair, clusters: &[(String, String)]) {
    for side in [&pair.envoy, &pair.ours] {
        eventually(&format!("{} has made up its mind", side.name), async || -> Result<(), String> {
            let flags = flags(&side.proxy).await.map_err(|e| e.to_string())?;
            let mut wrong = String::new();
            for (name, want) in clusters {
                let found = flags.iter().find(|(host, _)| host.split("::").next() == Some(name));
                if found.map(|(_, flags)| flags) != Some(want) {
                    let _ = writeln!(wrong, "{name}: {found:?}, not {want}");
                }
            }
            if wrong.is_empty() { Ok(()) } else { Err(wrong) }
        })
        .await;
    }
}

fn nowhere() -> Vec<String> {
    vec![http_listener("web", "", &routes("{match: {prefix: /}, direct_response: {status: 200}}"))]
}

#[tokio::test]
async fn http_checks_end_as_envoys_do() {
    let (mut patients, mut clusters, mut want) = (Vec::new(), Vec::new(), Vec::new());
    for (name, probe, mood, verdict) in http_cases() {
        let patient = Patient::start(mood).await.unwrap();
        clusters.push(cluster(
            name,
            &[patient.addr.port()],
            &check(&format!("http_health_check: {{{probe}}}")),
        ));
        want.push((name.to_owned(), verdict.to_owned()));
        patients.push(patient);
    }
    clusters.push(cluster("refused", &[1], &check("http_health_check: {path: /hz}")));
    want.push(("refused".into(), FAILED.into()));
    let pair = Pair::start(&nowhere(), &clusters).await.unwrap();
    verdicts(&pair, &want).await;
}

/// As [`cluster`], with a `health_check_config` of the one endpoint.
fn checked_at(name: &str, port: u16, config: &str, fields: &str) -> String {
    let end = format!("port_value: {port}}}}}");
    cluster(name, &[port], fields).replace(&end, &format!("{end}, health_check_config: {{{config}}}"))
}

#[tokio::test]
async fn checks_go_where_endpoints_say() {
    let bad = Patient::start(Mood { check: 503, ..Mood::default() }).await.unwrap();
    let good = Patient::start(Mood::default()).await.unwrap();
    let (bad, sound) = (bad.addr.port(), good.addr.port());
    let http = check("http_health_check: {path: /hz}");
    let at = |port: u16| format!("port_value: {port}");
    let address =
        |port: u16| format!("address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}");
    let clusters = [
        checked_at("own_port", bad, &at(sound), &http),
        checked_at("bad_port", sound, &at(bad), &http),
        checked_at("address", bad, &address(sound), &http),
        checked_at("bad_address", sound, &address(bad), &http),
        checked_at("tcp", sound, &at(1), &check("tcp_health_check: {}")),
        checked_at("grpc", bad, &at(sound), &format!("{}, {H2}", check("grpc_health_check: {}"))),
        checked_at("disabled", bad, "disable_active_health_check: true", &http),
    ];
    let want = [
        ("own_port", "healthy"),
        ("bad_port", FAILED),
        ("address", "healthy"),
        ("bad_address", FAILED),
        ("tcp", FAILED),
        ("grpc", "healthy"),
        ("disabled", "healthy"),
    ]
    .map(|(name, verdict)| (name.to_owned(), verdict.to_owned()));
    let pair = Pair::start(&nowhere(), &clusters).await.unwrap();
    verdicts(&pair, &want).await;

    // Envoy has `alt_port` in its API and does nothing with it.
    let alt = |port: u16| check(&format!("alt_port: {port}, http_health_check: {{path: /hz}}"));
    let clusters = [
        cluster("alt", &[bad], &alt(sound)),
        cluster("bad_alt", &[sound], &alt(bad)),
        checked_at("own_first", bad, &at(sound), &alt(bad)),
    ];
    let ours = e2e::proxy::start(&super::bootstrap(&nowhere(), &clusters)).await.unwrap();
    eventually("alt_port is where checks go", async || -> Result<(), String> {
        let flags = flags(&ours).await.map_err(|e| e.to_string())?;
        let of = |name: &str| {
            flags.iter().find(|(host, _)| host.split("::").next() == Some(name)).map(|(_, flags)| &**flags)
        };
        let found = [of("alt"), of("bad_alt"), of("own_first")];
        let want = [Some("healthy"), Some(FAILED), Some("healthy")];
        if found == want { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
}

#[tokio::test]
async fn requests_of_checks_are_the_same() {
    let patient = Patient::start(Mood::default()).await.unwrap();
    let port = patient.addr.port();
    let probe = "http_health_check: {host: health.example, path: '/hz/a?b=c', request_headers_to_remove: [user-agent], \
                 request_headers_to_add: [{header: {key: x-b, value: '%PROTOCOL% %UPSTREAM_HOST%'}}]}";
    for (name, fields) in [
        ("plain", check("http_health_check: {path: /hz}")),
        ("edited", check(probe)),
        ("posted", check("http_health_check: {path: /hz, method: PUT, send: {text: '6869'}}")),
        ("grpc", format!("{}, {H2}", check("grpc_health_check: {service_name: a}"))),
        ("grpc, no name", format!("{}, {H2}", check("grpc_health_check: {authority: a.example}"))),
        ("hostname", check("http_health_check: {path: /hz, host: health.example}")),
    ] {
        let clusters = if name == "hostname" {
            [checked_at("hostname", port, "hostname: own.example", &fields)]
        } else {
            [cluster("checked", &[port], &fields)]
        };
        let pair = Pair::start(&nowhere(), &clusters).await.unwrap();
        let Pair { envoy, ours } = pair;
        let seen = async |side: Side| {
            // The other one may just have asked.
            patient.take();
            let mut seen = Vec::new();
            eventually("checks come", async || -> Result<(), String> {
                let last = patient.take().last_check;
                seen.extend((!last.is_empty()).then_some(last));
                if seen.len() > 3 { Ok(()) } else { Err(format!("{} so far", seen.len())) }
            })
            .await;
            drop(side);
            seen.pop().unwrap()
        };
        // One at a time: the first ends before the other is looked at.
        let ours_alone = {
            let envoys = seen(envoy).await;
            let ours = seen(ours).await;
            (envoys, ours)
        };
        let (envoys, ours) = ours_alone;
        assert!(!envoys.is_empty());
        assert_eq!(ours, envoys, "{name}");
    }
}

/// Answers the first bytes with these, then closes or not.
async fn tcp_origin(answer: &'static [u8], closes: bool) -> (u16, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            connections.spawn(async move {
                let mut buffer = [0; 64];
                while matches!(stream.read(&mut buffer).await, Ok(1..)) {
                    if stream.write_all(answer).await.is_err() || closes {
                        return;
                    }
                }
            });
        }
    });
    (port, tasks)
}

#[tokio::test]
async fn tcp_and_grpc_checks_end_as_envoys_do() {
    let (mut clusters, mut want, mut kept) = (Vec::new(), Vec::new(), Vec::new());
    for (name, probe, answer, closes, verdict) in [
        ("connects", "tcp_health_check: {}", &b""[..], false, "healthy"),
        ("sends", "tcp_health_check: {send: {text: '6869'}}", b"", false, "healthy"),
        (
            "pong",
            "tcp_health_check: {send: {text: '6869'}, receive: [{text: '706f6e67'}]}",
            b"pong",
            false,
            "healthy",
        ),
        (
            "parts",
            "tcp_health_check: {send: {text: '6869'}, receive: [{text: '70'}, {text: '67'}]}",
            b"pong",
            false,
            "healthy",
        ),
        (
            "closes",
            "tcp_health_check: {send: {text: '6869'}, receive: [{text: '706f6e67'}]}",
            b"pi",
            true,
            FAILED,
        ),
        (
            "waits",
            "tcp_health_check: {send: {text: '6869'}, receive: [{text: '706f6e67'}]}",
            b"pi",
            false,
            "/failed_active_hc/active_hc_timeout",
        ),
    ] {
        let (port, tasks) = tcp_origin(answer, closes).await;
        kept.push(tasks);
        clusters.push(cluster(name, &[port], &check(probe)));
        want.push((name.to_owned(), verdict.to_owned()));
    }
    clusters.push(cluster("tcp_refused", &[1], &check("tcp_health_check: {}")));
    want.push(("tcp_refused".into(), FAILED.into()));
    let mut patients = Vec::new();
    for (name, mood, verdict) in [
        ("serving", Mood::default(), "healthy"),
        ("not_serving", Mood { serving: 2, ..Mood::default() }, FAILED),
        ("unknown", Mood { serving: 0, ..Mood::default() }, FAILED),
        ("grpc_503", Mood { check: 503, ..Mood::default() }, FAILED),
        ("grpc_silent", Mood { silent: true, ..Mood::default() }, "/failed_active_hc/active_hc_timeout"),
    ] {
        let patient = Patient::start(mood).await.unwrap();
        let fields = format!("{}, {H2}", check("grpc_health_check: {service_name: s}"));
        clusters.push(cluster(name, &[patient.addr.port()], &fields));
        want.push((name.to_owned(), verdict.to_owned()));
        patients.push(patient);
    }
    clusters.push(cluster("grpc_refused", &[1], &format!("{}, {H2}", check("grpc_health_check: {}"))));
    want.push(("grpc_refused".into(), FAILED.into()));
    let pair = Pair::start(&nowhere(), &clusters).await.unwrap();
    verdicts(&pair, &want).await;
}

/// Sends requests one after another; statuses in order.
async fn statuses(side: &Side, path: &str, count: usize) -> Vec<u16> {
    let client = Client::h1();
    let url = format!("http://{}{path}", side.at("web"));
    let mut out = Vec::new();
    for _ in 0..count {
        out.push(client.get(&url).await.unwrap().status);
    }
    out
}

/// A cluster of five, one of which is bad: which detectors are at work.
const COMPARED: &[(&str, bool, &str)] = &[
    ("rate", false, "enforcing_failure_percentage: 0"),
    ("rate_not_enforced", false, "enforcing_success_rate: 0, enforcing_failure_percentage: 0"),
    ("percentage", false, "enforcing_success_rate: 0, enforcing_failure_percentage: 100"),
    ("local_rate", true, "split_external_local_origin_errors: true"),
    (
        "local_percentage",
        true,
        "split_external_local_origin_errors: true, enforcing_local_origin_success_rate: 0, \
         enforcing_failure_percentage_local_origin: 100",
    ),
];

/// What was logged of ejections, but for times and for which of a cluster's hosts it was.
fn events(log: &std::path::Path) -> Vec<String> {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let told = text.lines().map(|line| {
        let mut event: serde_json::Value = serde_json::from_str(line).unwrap();
        for name in ["timestamp", "secs_since_last_action"] {
            event.as_object_mut().unwrap().remove(name);
        }
        event.to_string()
    });
    told.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_that_do_worse_than_others_are_ejected_as_by_envoy() {
    let mut good = Vec::new();
    for _ in 0..4 {
        good.push(Patient::start(Mood::default()).await.unwrap());
    }
    let bad = Patient::start(Mood { work: 500, ..Mood::default() }).await.unwrap();
    let mut ports: Vec<u16> = good.iter().map(|patient| patient.addr.port()).collect();
    let clusters: Vec<_> = COMPARED
        .iter()
        .map(|(name, refuses, fields)| {
            ports.truncate(4);
            ports.push(if *refuses { 1 } else { bad.addr.port() });
            let detection = format!(
                "outlier_detection: {{interval: 1s, base_ejection_time: 3600s, max_ejection_percent: 50, success_rate_request_volume: 5, \
                 failure_percentage_request_volume: 5, enforcing_consecutive_5xx: 0, enforcing_consecutive_local_origin_failure: 0, {fields}}}"
            );
            cluster(name, &ports, &detection)
        })
        .collect();
    let table: Vec<_> = COMPARED
        .iter()
        .map(|(name, ..)| format!("{{match: {{prefix: /{name}/}}, route: {{cluster: {name}}}}}"))
        .collect();
    let web = [http_listener("web", "", &routes(&table.join(", ")))];
    let folder = tempfile::tempdir().unwrap();
    let mut told = Vec::new();
    for name in ["envoy", "ours"] {
        let log = folder.path().join(name);
        let manager = format!(
            "{{cluster_manager: {{outlier_detection: {{event_log_path: {}}}}}, admin: ",
            log.display()
        );
        let config = super::bootstrap(&web, &clusters).replacen("{admin: ", &manager, 1);
        let proxy = match name {
            "envoy" => e2e::envoy::Envoy::start(&config).await.unwrap(),
            _ => e2e::proxy::start(&config).await.unwrap(),
        };
        let url = format!("http://{}", proxy.listener("web").await.unwrap());
        let client = Client::h1();
        let mut found = String::new();
        for (case, ..) in COMPARED {
            let (prefix, at) = (format!("cluster.{case}.outlier_detection."), format!("{url}/{case}/"));
            let rulings = ["ejections_detected_", "ejections_enforced_"];
            let of = |stats: &std::collections::BTreeMap<String, u64>| {
                let counts =
                    stats.iter().filter_map(|(name, value)| Some((name.strip_prefix(&prefix)?, *value)));
                // Rows come to their end more often the longer it takes.
                let counts = counts.filter(|(name, value)| {
                    *value > 0 && rulings.iter().any(|r| name.starts_with(r)) && !name.contains("consecutive")
                });
                counts
                    .map(|(name, value)| (name.to_owned(), value))
                    .collect::<std::collections::BTreeMap<_, _>>()
            };
            let counts = eventually(&format!("{name}: {case}: one is found"), async || {
                for _ in 0..20 {
                    for answer in futures_util::future::join_all((0..4).map(|_| client.get(&at))).await {
                        answer.map_err(|e| e.to_string())?;
                    }
                }
                let counts = of(&proxy.stats().await.map_err(|e| e.to_string())?);
                if counts.keys().any(|name| name.starts_with("ejections_detected_")) {
                    Ok(counts)
                } else {
                    Err("none".to_owned())
                }
            })
            .await;
            // What is not enforced is found again and again.
            let counts = counts.iter().map(|(name, value)| match case.ends_with("not_enforced") {
                true => format!("  {name}\n"),
                false => format!("  {name}: {value}\n"),
            });
            found += &format!("{case}\n{}", counts.collect::<String>());
        }
        let mut logged = eventually("ejections are logged", async || {
            let mut events = events(&log);
            events.retain(|event| !event.contains("CONSECUTIVE"));
            if events.len() >= COMPARED.len() { Ok(events) } else { Err(format!("{events:#?}")) }
        })
        .await;
        logged.sort();
        logged.dedup();
        told.push(format!("{found}{}\n", logged.join("\n").replace(',', "\n")));
    }
    assert_eq!(told[0], told[1], "(- Envoy, + ours):\n{}", e2e::pair::difference(&told[0], &told[1]));
}

#[tokio::test]
async fn outlier_detection_finds_what_envoys_finds() {
    let detection = |fields: &str| {
        format!(
            "outlier_detection: {{interval: 3600s, base_ejection_time: 3600s, max_ejection_percent: 50, {fields}}}"
        )
    };
    let bad = Patient::start(Mood { work: 503, ..Mood::default() }).await.unwrap();
    let worse = Patient::start(Mood { work: 503, ..Mood::default() }).await.unwrap();
    let broken = Patient::start(Mood { work: 500, ..Mood::default() }).await.unwrap();
    let good = Patient::start(Mood::default()).await.unwrap();
    let grpc =
        Patient::start(Mood { work_headers: vec![("grpc-status", "14")], ..Mood::default() }).await.unwrap();
    let ports = [&bad, &worse, &broken, &good, &grpc].map(|patient| patient.addr.port());
    let [bad, worse, broken, good, grpc] = ports;
    let cases: &[(&str, &[u16], &str)] = &[
        ("five", &[bad, good], "consecutive_5xx: 3"),
        (
            "gateway",
            &[bad, good],
            "consecutive_5xx: 100, consecutive_gateway_failure: 2, enforcing_consecutive_gateway_failure: 100",
        ),
        (
            "not_gateway",
            &[broken, good],
            "consecutive_5xx: 100, consecutive_gateway_failure: 2, enforcing_consecutive_gateway_failure: 100",
        ),
        ("not_enforced", &[bad, good], "consecutive_5xx: 3, enforcing_consecutive_5xx: 0"),
        ("refused", &[1, good], "consecutive_5xx: 3"),
        (
            "split",
            &[1, good],
            "split_external_local_origin_errors: true, consecutive_5xx: 100, consecutive_local_origin_failure: 2",
        ),
        ("split_5xx", &[bad, good], "split_external_local_origin_errors: true, consecutive_5xx: 2"),
        ("no_room", &[bad, good], "consecutive_5xx: 3, max_ejection_percent: 10"),
        (
            "one_always",
            &[bad, good],
            "consecutive_5xx: 3, max_ejection_percent: 10, always_eject_one_host: true",
        ),
        ("all_bad", &[bad, worse], "consecutive_5xx: 3"),
        ("disabled", &[bad, good], "consecutive_5xx: 0, consecutive_gateway_failure: 0"),
        ("grpc", &[grpc, good], "consecutive_5xx: 3"),
    ];
    let mut clusters = Vec::new();
    let mut table = Vec::new();
    for (name, ports, fields) in cases {
        // The last one said counts, as in YAML of both: written once each.
        let base = detection("");
        let fields = match fields.contains("max_ejection_percent") {
            true => base.replace("max_ejection_percent: 50, ", fields),
            false => detection(fields),
        };
        clusters.push(cluster(name, ports, &fields));
        table.push(format!("{{match: {{prefix: /{name}/}}, route: {{cluster: {name}}}}}"));
    }
    let pair = Pair::start(&[http_listener("web", "", &routes(&table.join(", ")))], &clusters).await.unwrap();
    let mut wrong = String::new();
    for (name, ..) in cases {
        let path = format!("/{name}/");
        let mut failures = Vec::new();
        for side in [&pair.envoy, &pair.ours] {
            // Rulings are made on another thread: the first are given a moment each.
            let mut all = Vec::new();
            for _ in 0..16 {
                all.extend(statuses(side, &path, 1).await);
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
            failures.push(all.iter().filter(|status| **status != 200).count());
        }
        let stats: Vec<String> = {
            let mut out = Vec::new();
            for side in [&pair.envoy, &pair.ours] {
                let stats = side.proxy.stats().await.unwrap();
                let prefix = format!("cluster.{name}.outlier_detection.");
                let lines =
                    stats.iter().filter(|(k, _)| k.starts_with(&prefix)).map(|(k, v)| format!("{k}: {v}\n"));
                out.push(lines.collect());
            }
            out
        };
        if failures[0] != failures[1] || stats[0] != stats[1] {
            let _ = writeln!(
                wrong,
                "=== {name}: {failures:?} failed\n{}",
                e2e::pair::difference(&stats[0], &stats[1])
            );
        }
    }
    assert!(wrong.is_empty(), "ours must be as Envoy's (- Envoy, + ours):\n{wrong}");
    let ejected = async |side: &Side| {
        let mut flags = flags(&side.proxy).await.unwrap();
        // Which of two equals is first is chance.
        flags.retain(|host, _| !host.starts_with("all_bad::"));
        flags
    };
    assert_eq!(ejected(&pair.ours).await, ejected(&pair.envoy).await);
}
