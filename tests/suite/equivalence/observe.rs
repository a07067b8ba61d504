//! What an operator sees: access logs, stats, the admin interface.

use super::{clusters, simple};
use anyhow::{Result, ensure};
use e2e::client::{Answer, Client};
use e2e::eventually;
use e2e::pair::{Case, Pair, Side, difference, http_listener};
use std::collections::{BTreeMap, BTreeSet};

/// Texts that must be the same on both sides.
#[derive(Default)]
struct Differences(String);

impl Differences {
    fn same(&mut self, what: &str, envoy: &str, ours: &str) {
        if envoy != ours {
            self.0 += &format!("=== {what}\n{}\n", difference(envoy, ours));
        }
    }

    #[track_caller]
    fn none(self) {
        assert!(self.0.is_empty(), "must be as Envoy's (- Envoy, + ours):\n{}", self.0);
    }
}

/// Sends a request by each of many ways a request can end.
fn ways() -> Vec<Case> {
    vec![
        Case::ask(
            "plain",
            "GET /a?q=v",
            &["user-agent: me", "x-a: aaa", "x-forwarded-for: 1.2.3.4", "x-request-id: my-id"],
        ),
        Case::with_body("post", "POST /a", &["x-do: echo"], b"body"),
        Case::ask("chunks", "GET /a", &["x-do: chunks"]),
        Case::ask("upstream 500", "GET /a", &["x-do: status:500"]),
        Case::ask("head", "HEAD /a", &[]),
        Case::ask("no route", "GET /none", &["host: nobody"]),
        Case::ask("no hosts", "GET /empty", &[]),
        Case::ask("refused", "GET /refused", &[]),
        Case::ask("reset", "GET /a", &["x-do: reset"]),
        Case::ask("garbage", "GET /a", &["x-do: garbage"]),
        Case::ask("timeout", "GET /slow", &["x-do: never"]),
        Case::ask("direct", "GET /direct", &[]),
        Case::ask("redirect", "GET /redirect", &[]),
        Case::ask("rewritten", "GET /pre/a", &[]),
        Case::ask("quotes", "GET /a\"b", &["user-agent: \"quoted\" \\ back"]),
        Case::ask("grpc", "POST /a", &["content-type: application/grpc"]),
        Case::new("1.0", "GET / HTTP/1.0\r\nhost: a\r\n\r\n"),
        Case::new("no host", "GET / HTTP/1.1\r\n\r\n"),
        Case::new("words", "hello\r\n\r\n"),
    ]
}

fn table() -> String {
    "virtual_hosts: [{name: nobody, domains: [nobody], routes: []}, {name: all, domains: ['*'], routes: [
      {name: empty, match: {path: /empty}, route: {cluster: empty}},
      {name: refused, match: {path: /refused}, route: {cluster: refused}},
      {name: slow, match: {path: /slow}, route: {cluster: up, timeout: 0.2s}},
      {name: direct, match: {path: /direct}, direct_response: {status: 200, body: {inline_string: made}}},
      {name: redirect, match: {path: /redirect}, redirect: {path_redirect: /x}},
      {name: pre, match: {prefix: /pre}, route: {cluster: up, prefix_rewrite: /a}},
      {name: the_route, match: {prefix: /}, route: {cluster: up}}]}]"
        .into()
}

/// Not among them, since ours tells more: `LOCAL_REPLY_BODY` (Envoy knows it in `local_reply_config` only),
/// `UPSTREAM_REMOTE_ADDRESS` (also of a host that refused), `UPSTREAM_PROTOCOL` (not after a timeout).
const OPERATORS: &[&str] = &[
    "%PROTOCOL%",
    "%REQ(:METHOD)%",
    "%REQ(:PATH)%",
    "%REQ(:PATH):3%",
    "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
    "%REQ(:AUTHORITY)%",
    "%REQ(USER-AGENT)%",
    "%REQ(x-a)%",
    "%REQ(x-none)%",
    "%REQ(X-FORWARDED-FOR)%",
    "%RESPONSE_CODE%",
    "%RESPONSE_FLAGS%",
    "%RESPONSE_FLAGS_LONG%",
    "%RESPONSE_CODE_DETAILS%",
    "%CONNECTION_TERMINATION_DETAILS%",
    "%BYTES_RECEIVED%",
    "%BYTES_SENT%",
    "%RESP(CONTENT-LENGTH)%",
    "%RESP(CONTENT-TYPE)%",
    "%UPSTREAM_HOST%",
    "%UPSTREAM_CLUSTER%",
    "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
    "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
    "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%",
    "%DOWNSTREAM_LOCAL_ADDRESS%",
    "%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%",
    "%ROUTE_NAME%",
    "%REQUESTED_SERVER_NAME%",
    "%FILTER_CHAIN_NAME%",
    "%DYNAMIC_METADATA(a:b)%",
    "%FILTER_STATE(k)%",
    "%QUERY_PARAM(q)%",
    "%PATH(NQ)%",
    "%GRPC_STATUS%",
    "%TRAILER(x)%",
    "%ACCESS_LOG_TYPE%",
    "%VIRTUAL_CLUSTER_NAME%",
];

fn file_log(file: &str, format: &str) -> String {
    format!(
        "{{name: file, typed_config: {{'@type': type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: $DIR/{file}, {format}}}}}"
    )
}

#[tokio::test]
async fn access_logs_say_the_same() {
    let text: String = OPERATORS.iter().map(|op| format!("{op} | ")).collect();
    let json: Vec<String> = OPERATORS.iter().enumerate().map(|(i, op)| format!("k{i:02}: '{op}'")).collect();
    let logs = [
        file_log("text", &format!("log_format: {{text_format_source: {{inline_string: \"{text}\\n\"}}}}")),
        file_log("json", &format!("log_format: {{json_format: {{{}, nested: {{list: ['%RESPONSE_CODE%', 'code %RESPONSE_CODE%'], fixed: 7}}}}}}", json.join(", "))),
        file_log("omit", "log_format: {omit_empty_values: true, json_format: {none: '%REQ(x-none)%', code: '%RESPONSE_CODE%'}}"),
        file_log("default", "access_log_format: ''").replace(", access_log_format: ''", ""),
        "{name: file, filter: {status_code_filter: {comparison: {op: GE, value: {default_value: 500, runtime_key: k}}}}, typed_config: {'@type': type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: $DIR/errors, log_format: {text_format_source: {inline_string: \"%RESPONSE_CODE%\\n\"}}}}".into(),
        "{name: file, filter: {response_flag_filter: {flags: [UF, UT]}}, typed_config: {'@type': type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: $DIR/flags, log_format: {text_format_source: {inline_string: \"%RESPONSE_FLAGS%\\n\"}}}}".into(),
        "{name: file, filter: {grpc_status_filter: {statuses: [UNAVAILABLE, UNIMPLEMENTED]}}, typed_config: {'@type': type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: $DIR/grpc, log_format: {text_format_source: {inline_string: \"%RESPONSE_CODE%\\n\"}}}}".into(),
        "{name: file, filter: {grpc_status_filter: {statuses: [UNAVAILABLE, UNIMPLEMENTED], exclude: true}}, typed_config: {'@type': type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: $DIR/notgrpc, log_format: {text_format_source: {inline_string: \"%RESPONSE_CODE%\\n\"}}}}".into(),
        "{name: file, filter: {and_filter: {filters: [{header_filter: {header: {name: x-do, present_match: true}}}, {not_health_check_filter: {}}]}}, typed_config: {'@type': type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: $DIR/and, log_format: {text_format_source: {inline_string: \"%REQ(X-DO)%\\n\"}}}}".into(),
    ];
    let mut pair = Pair::start(
        &[http_listener("web", &format!("access_log: [{}]", logs.join(", ")), &table())],
        &clusters(),
    )
    .await
    .unwrap();
    pair.compare(&ways()).await;
    pair.envoy.quit().await.unwrap();
    pair.ours.quit().await.unwrap();
    // Times differ, and so does the probe's own request id.
    let lines = |side: &Side, file: &str| {
        let text = side.normal(&side.file(file));
        text.lines().filter(|l| !l.contains("probe")).map(|l| format!("{l}\n")).collect::<String>()
    };
    let mut differences = Differences::default();
    for file in ["text", "json", "omit", "errors", "flags", "grpc", "notgrpc", "and"] {
        let envoy = lines(&pair.envoy, file);
        assert!(!envoy.is_empty(), "{file}: Envoy wrote nothing");
        // One operator a line, so that a difference can be read.
        let split = |text: String| text.replace(" | ", "\n").replace(",\"", ",\n\"");
        differences.same(&format!("access log {file}"), &split(envoy), &split(lines(&pair.ours, file)));
    }
    let shape = |side: &Side| {
        let text = lines(side, "default");
        // [time] "GET /a HTTP/1.1" 200 - 0 2 MS MS ...: times and random ids as their shape.
        text.lines()
            .map(|line| {
                let line = line.split_once("] ").map_or(line, |(_, rest)| rest);
                let fields = line.split(' ').enumerate().map(|(i, field)| {
                    let is_time = (7..=8).contains(&i) && field.parse::<u32>().is_ok();
                    let bare = field.trim_matches('"');
                    if is_time {
                        "(ms)"
                    } else if e2e::pair::is_uuid4(bare) {
                        "(uuid)"
                    } else {
                        field
                    }
                });
                fields.collect::<Vec<_>>().join(" ") + "\n"
            })
            .collect::<String>()
    };
    differences.same("default access log", &shape(&pair.envoy), &shape(&pair.ours));
    differences.none();
}

/// Stats that depend on time, memory, process or build and not on what was asked.
const VOLATILE: &[&str] = &[
    "_time",
    "_ms",
    "uptime",
    "memory",
    "version",
    "length_ms",
    "server.",
    "filesystem.",
    "main_thread",
    "workers.",
    "dispatcher",
];

/// Where values differ, and why.
const TELLS_MORE: &[(&str, &str)] = &[
    (".max_host_weight", "Envoy does not fill it in for STATIC clusters"),
    (".default.total_match_count", "Envoy's own, of its matchers"),
    (".upstream_cx_destroy", "Envoy counts attempts to connect that failed"),
    (".upstream_cx_destroy_remote", "Envoy counts attempts to connect that failed"),
    (".upstream_cx_rx_bytes_total", "counted when the socket is next polled"),
    (".upstream_cx_rx_bytes_buffered", "nothing stays in a buffer"),
    (".downstream_cx_rx_bytes_total", "request ids, and bytes sent after an answer that closes"),
    (".downstream_cx_tx_bytes_total", "digits of times"),
    (".downstream_rq_rx_reset", "also of refused messages"),
];

async fn stats_of(side: &Side) -> BTreeMap<String, u64> {
    let text = side.proxy.admin("/stats").await.unwrap().text();
    side.normal(&text)
        .lines()
        .filter_map(|l| l.split_once(": "))
        .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
        .collect()
}

#[tokio::test]
async fn stats_have_the_same_names_and_values() {
    let pair = Pair::start(&[http_listener("web", "", &table())], &clusters()).await.unwrap();
    let (before_envoy, before_ours) = (stats_of(&pair.envoy).await, stats_of(&pair.ours).await);
    let prefixes = ["cluster.", "http.web.", "listener.web."];
    let core = |name: &&String| {
        prefixes.iter().any(|p| name.starts_with(p)) && !VOLATILE.iter().any(|v| name.contains(v))
    };
    let names = |stats: &BTreeMap<String, u64>| stats.keys().filter(core).cloned().collect::<BTreeSet<_>>();
    let (envoy_names, our_names) = (names(&before_envoy), names(&before_ours));
    let missing: Vec<_> = envoy_names.difference(&our_names).collect();
    pair.compare(&ways()).await;
    let core = |name: &&String| core(name) && !TELLS_MORE.iter().any(|(tail, _)| name.ends_with(tail));
    // Envoy counts a connection that it closes only when the client has gone too, or a second later.
    eventually("the same requests count alike", async || -> Result<()> {
        let (envoy, ours) = (stats_of(&pair.envoy).await, stats_of(&pair.ours).await);
        let mut wrong = String::new();
        for (name, value) in envoy.iter().filter(|(name, _)| core(name)) {
            match ours.get(name) {
                Some(ours) if ours == value => {}
                Some(ours) => wrong += &format!("{name}: Envoy {value}, ours {ours}\n"),
                None if *value > 0 => wrong += &format!("{name}: Envoy {value}, ours has none\n"),
                None => {}
            }
        }
        for (name, value) in
            ours.iter().filter(|(name, value)| core(name) && **value > 0 && !envoy.contains_key(*name))
        {
            wrong += &format!("{name}: Envoy has none, ours {value}\n");
        }
        ensure!(wrong.is_empty(), "{wrong}\nnames missing: {missing:#?}");
        Ok(())
    })
    .await;
}

/// What Envoy's dashboards are made of.
const DASHBOARD: &[&str] = &[
    "envoy_cluster_external_upstream_rq_time",
    "envoy_cluster_external_upstream_rq_xx",
    "envoy_cluster_membership_healthy",
    "envoy_cluster_membership_total",
    "envoy_cluster_upstream_cx_active",
    "envoy_cluster_upstream_cx_connect_fail",
    "envoy_cluster_upstream_cx_connect_ms",
    "envoy_cluster_upstream_cx_total",
    "envoy_cluster_upstream_cx_rx_bytes_total",
    "envoy_cluster_upstream_cx_tx_bytes_total",
    "envoy_cluster_upstream_rq",
    "envoy_cluster_upstream_rq_active",
    "envoy_cluster_upstream_rq_pending_overflow",
    "envoy_cluster_upstream_rq_retry",
    "envoy_cluster_upstream_rq_time",
    "envoy_cluster_upstream_rq_timeout",
    "envoy_cluster_upstream_rq_total",
    "envoy_cluster_upstream_rq_xx",
    "envoy_http_downstream_cx_active",
    "envoy_http_downstream_cx_total",
    "envoy_http_downstream_rq_active",
    "envoy_http_downstream_rq_time",
    "envoy_http_downstream_rq_total",
    "envoy_http_downstream_rq_xx",
    "envoy_listener_downstream_cx_active",
    "envoy_listener_downstream_cx_total",
    "envoy_server_live",
    "envoy_server_uptime",
];

async fn page(side: &Side, method: &str, path: &str) -> Answer {
    Client::h1().send(method, &format!("http://{}{path}", side.proxy.admin), &[], "").await.unwrap()
}

fn keys(value: &serde_json::Value) -> BTreeSet<String> {
    value.as_object().map(|o| o.keys().cloned().collect()).unwrap_or_default()
}

#[tokio::test]
async fn the_admin_interface_has_the_same_shape() {
    let pair = simple("", &[]).await;
    pair.compare(&[Case::ask("plain", "GET /", &[])]).await;
    let mut differences = Differences::default();
    // Status, headers and, where it is fixed, the body.
    for (method, path, whole) in [
        ("GET", "/ready", true),
        ("HEAD", "/ready", false),
        ("GET", "/no-such-path", false),
        ("GET", "/logging", true),
        ("POST", "/logging?level=nonsense", false),
        ("GET", "/listeners", true),
        ("GET", "/listeners?format=json", true),
        ("GET", "/hot_restart_version", true),
        ("GET", "/healthcheck/fail", true),
        ("GET", "/quitquitquit", true),
        ("GET", "/reset_counters", true),
        ("GET", "/stats?filter=nothing-matches-this", true),
        ("GET", "/stats?filter=(", false),
        ("GET", "/stats?format=nonsense", false),
        ("GET", "/server_info", false),
        ("GET", "/clusters", false),
        ("GET", "/config_dump", false),
        ("GET", "/memory", false),
        ("GET", "/certs", false),
        ("GET", "/runtime", false),
        ("GET", "/init_dump", false),
        ("GET", "/stats/prometheus", false),
        ("GET", "/help", false),
    ] {
        let tell = async |side: &Side| {
            let answer = page(side, method, path).await;
            let mut out = format!("{}\n", answer.status);
            let mut lines: Vec<String> = answer
                .headers
                .iter()
                .filter(|(name, _)| !["date", "content-length", "transfer-encoding"].contains(&name.as_str()))
                .map(|(name, value)| format!("{name}: {}\n", value.to_str().unwrap()))
                .collect();
            lines.sort();
            out += &lines.concat();
            let unordered = ["/clusters", "/stats/prometheus"].contains(&path);
            if whole {
                out += &answer.text();
            } else if !unordered {
                out += answer
                    .text()
                    .lines()
                    .next()
                    .unwrap_or_default()
                    .split(['\'', ':'])
                    .next()
                    .unwrap_or_default();
            }
            side.normal(&out)
        };
        differences.same(&format!("{method} {path}"), &tell(&pair.envoy).await, &tell(&pair.ours).await);
    }

    let info = async |side: &Side| keys(&page(side, "GET", "/server_info").await.json().unwrap());
    assert_eq!(info(&pair.envoy).await, info(&pair.ours).await, "keys of /server_info");

    // Every line of /clusters but for the numbers' values.
    let clusters = async |side: &Side| {
        let text = side.normal(&page(side, "GET", "/clusters").await.text());
        // Requests that wait are counted by cluster here and not by host.
        let lines = text.lines().map(|l| l.rsplit_once("::").map_or(l, |(name, _)| name));
        let mut lines: Vec<String> =
            lines.filter(|l| !l.ends_with("::rq_pending_active")).map(|l| format!("{l}\n")).collect();
        lines.sort();
        lines.concat()
    };
    differences.same("/clusters", &clusters(&pair.envoy).await, &clusters(&pair.ours).await);

    let sections = async |side: &Side| {
        let dump = page(side, "GET", "/config_dump").await.json().unwrap();
        let sections = dump["configs"].as_array().unwrap().iter();
        sections.map(|s| format!("{} {:?}\n", s["@type"].as_str().unwrap(), keys(s))).collect::<String>()
    };
    differences.same("sections of /config_dump", &sections(&pair.envoy).await, &sections(&pair.ours).await);
    differences.none();

    // Names and types of metrics: those that both have agree, and what dashboards are made of is there.
    let families = async |side: &Side| {
        let text = page(side, "GET", "/stats/prometheus").await.text();
        let types = text.lines().filter_map(|l| l.strip_prefix("# TYPE ")?.split_once(' '));
        types.map(|(name, kind)| (name.to_owned(), kind.to_owned())).collect::<BTreeMap<_, _>>()
    };
    let (envoy, ours) = (families(&pair.envoy).await, families(&pair.ours).await);
    let other: Vec<_> =
        ours.iter().filter(|(name, kind)| envoy.get(*name).is_some_and(|e| e != *kind)).collect();
    assert!(other.is_empty(), "of another type than Envoy's: {other:?}");
    for name in DASHBOARD {
        assert!(envoy.contains_key(*name), "{name}: Envoy has none, so nobody looks at it");
        assert!(ours.contains_key(*name), "{name}: Envoy has it and we have not");
    }
}
