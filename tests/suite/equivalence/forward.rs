//! What a forwarded request and its answer gain and lose.

use super::simple;
use e2e::pair::{Case, http_listener, routes};

const NOMINATED: &str = "a header that `connection` names is hop-by-hop in answers too (RFC 9110 7.6.1)";
const ALL: &str = "{match: {prefix: /}, route: {cluster: up}}";

#[tokio::test]
async fn requests_reach_the_origin_as_envoys_do() {
    let edge =
        |name: &str, hcm: &str| http_listener(name, &format!("use_remote_address: true{hcm}"), &routes(ALL));
    let more = [
        edge("edge", ""),
        edge("behind", ", xff_num_trusted_hops: 1"),
        edge("quiet", ", skip_xff_append: true"),
        edge("via", ", via: proxy-1"),
        http_listener("inner", "xff_num_trusted_hops: 1", &routes(ALL)),
        http_listener(
            "kept",
            "preserve_external_request_id: true, always_set_request_id_in_response: true",
            &routes(ALL),
        ),
        http_listener("no_id", "generate_request_id: false", &routes(ALL)),
        http_listener("agent", "add_user_agent: true", &routes(ALL)),
        http_listener("scheme", "scheme_header_transformation: {scheme_to_overwrite: https}", &routes(ALL)),
    ];
    let pair = simple("", &more).await;
    let get = |name: &str, headers: &[&str]| Case::ask(name, "GET /a", headers);
    let mut cases = vec![
        get("plain", &[]),
        get("case of names", &["X-Mixed-Case: Yes", "USER-AGENT: me"]),
        get("repeated", &["x-a: 1", "x-a: 2", "cookie: a=1", "cookie: b=2"]),
        get("empty value", &["x-empty:", "x-spaces:   a  b \t"]),
        get("its own xff", &["x-forwarded-for: 1.2.3.4"]),
        get("its own proto", &["x-forwarded-proto: https"]),
        get("odd proto", &["x-forwarded-proto: ftp"]),
        get("its own id", &["x-request-id: mine"]),
        get("its own uuid", &["x-request-id: 0f8fad5b-d9cb-469f-a165-70867728950e"]),
        get(
            "hop by hop",
            &["connection: x-hop, keep-alive", "x-hop: 1", "keep-alive: 5", "proxy-connection: keep-alive"],
        ),
        get("te", &["te: trailers"]).differs("`te` is hop-by-hop and `connection` says so (RFC 9110 10.1.4)"),
        get("te gzip", &["te: gzip"]),
        get("connection close", &["connection: close"]),
        get("upgrade not configured", &["connection: upgrade", "upgrade: websocket"]),
        get(
            "upgrade h2c",
            &[
                "connection: upgrade, http2-settings",
                "upgrade: h2c",
                "http2-settings: AAMAAABkAAQCAAAAAAIAAAAA",
            ],
        ),
        get(
            "envoy controls",
            &[
                "x-envoy-retry-on: 5xx",
                "x-envoy-max-retries: 2",
                "x-envoy-upstream-rq-timeout-ms: 5000",
                "x-envoy-upstream-rq-per-try-timeout-ms: 100",
                "x-envoy-foo: kept",
                "x-envoy-retry-grpc-on: cancelled",
            ],
        ),
        get(
            "envoy internals",
            &[
                "x-envoy-internal: true",
                "x-envoy-original-path: /x",
                "x-envoy-attempt-count: 7",
                "x-envoy-decorator-operation: d",
                "x-envoy-external-address: 9.9.9.9",
                "x-envoy-downstream-service-cluster: c",
                "x-envoy-downstream-service-node: n",
                "x-envoy-force-trace: 1",
                "x-envoy-expected-rq-timeout-ms: 9",
                "x-envoy-upstream-alt-stat-name: s",
                "x-envoy-original-host: h",
                "x-envoy-hedge-on-per-try-timeout: true",
                "x-envoy-ip-tags: t",
                "x-envoy-is-timeout-retry: true",
            ],
        ),
        get("xfcc", &["x-forwarded-client-cert: By=a"]),
        get("xfh", &["x-forwarded-host: h", "x-forwarded-port: 1"]),
        Case::ask("query and fragment", "GET /a?b=c&d#e", &[]),
        Case::ask("odd characters", "GET /a%2Fb/../c//d%zz?x=%20", &[]),
        Case::ask("absolute form", "GET http://other:81/a?b", &[]),
        Case::ask("absolute form, https", "GET https://other/a", &[]),
        Case::ask("absolute form without path", "GET http://other", &[]),
        Case::ask("asterisk", "OPTIONS *", &[]),
        Case::ask("connect", "CONNECT test:80", &[]),
        Case::ask("trace", "TRACE /", &[]),
        Case::ask("own method", "PURGE /", &[]),
        Case::ask("lower-case method", "get /", &[])
            .differs("any token is a method, and methods have case (RFC 9110 9.1)"),
        Case::ask("unknown method", "FROBNICATE /", &[])
            .differs("any token is a method, and methods have case (RFC 9110 9.1)"),
        get("host in upper case", &["host: TEST:80"]),
        get("rich answer", &["x-do: rich"]),
        get("hop-by-hop answer", &["x-do: hop-by-hop"]).differs(NOMINATED),
        get("empty values in answer", &["x-do: empty-value"]),
        get("no reason in answer", &["x-do: no-reason"]),
        get("hints", &["x-do: hints"]),
        get("continue unasked", &["x-do: surprise-continue"]),
        get("http/1.0 answer", &["x-do: http10"]),
    ];
    for listener in ["edge", "behind", "quiet", "via", "inner"] {
        for (what, headers) in [
            ("plain", &[][..]),
            ("public xff", &["x-forwarded-for: 1.2.3.4"]),
            ("private xff", &["x-forwarded-for: 10.0.0.1"]),
            ("long xff", &["x-forwarded-for: 1.2.3.4, 10.0.0.1 ,5.6.7.8"]),
            ("bad xff", &["x-forwarded-for: a, b"]),
            ("two xff", &["x-forwarded-for: 1.2.3.4", "x-forwarded-for: 5.6.7.8"]),
            (
                "proto and more",
                &[
                    "x-forwarded-proto: https",
                    "x-forwarded-client-cert: By=a",
                    "x-envoy-internal: true",
                    "x-envoy-foo: 1",
                    "x-envoy-retry-on: 5xx",
                    "x-envoy-external-address: 9.9.9.9",
                    "x-request-id: mine",
                    "x-envoy-force-trace: 1",
                    "x-envoy-decorator-operation: d",
                    "x-envoy-downstream-service-cluster: c",
                    "x-envoy-original-path: /x",
                    "x-forwarded-host: h",
                    "x-envoy-expected-rq-timeout-ms: 9",
                    "x-envoy-ip-tags: t",
                    "x-envoy-upstream-rq-timeout-ms: 5000",
                    "x-envoy-upstream-alt-stat-name: s",
                    "x-envoy-original-host: h",
                    "x-envoy-attempt-count: 7",
                    "x-envoy-max-retries: 1",
                ],
            ),
        ] {
            cases.push(get(&format!("{listener}: {what}"), headers).at(listener));
        }
    }
    for listener in ["kept", "no_id", "agent", "scheme"] {
        cases.push(get(&format!("{listener}: plain"), &[]).at(listener));
        let own = &["x-request-id: mine", "user-agent: me", "x-forwarded-proto: http"];
        cases.push(get(&format!("{listener}: its own"), own).at(listener));
    }
    pair.compare(&cases).await;
}

#[tokio::test]
async fn answers_reach_the_client_as_envoys_do() {
    let with = |name: &str, hcm: &str| http_listener(name, hcm, &routes(ALL));
    let more = [
        with("named", "server_name: mine"),
        with("through", "server_header_transformation: PASS_THROUGH"),
        with("absent", "server_header_transformation: APPEND_IF_ABSENT"),
        with("via", "via: proxy-1"),
        with("old", "http_protocol_options: {accept_http_10: true}"),
        with("old_host", "http_protocol_options: {accept_http_10: true, default_host_for_http_10: fallback}"),
        with("trailers", "http_protocol_options: {enable_trailers: true}"),
        with("proper", "http_protocol_options: {header_key_format: {proper_case_words: {}}}"),
        with(
            "kept",
            "http_protocol_options: {header_key_format: {stateful_formatter: {name: preserve, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig}}}}",
        ),
    ];
    let pair = simple("", &more).await;
    let mut cases = Vec::new();
    for listener in ["named", "through", "absent", "via", "proper", "kept", "trailers"] {
        for script in ["rich", "empty-value", "trailers", "hop-by-hop"] {
            let do_it = format!("X-Do: {script}");
            let case = Case::ask(format!("{listener}: {script}"), "GET /", &[&do_it, "X-Mixed-Case: a"])
                .at(listener);
            cases.push(match (listener, script) {
                ("kept", _) => case.differs(
                    "each side writes names as its own formatter says, whoever read them; Envoy as the reader's says",
                ),
                (_, "hop-by-hop") => case.differs(NOMINATED),
                _ => case,
            });
        }
    }
    for listener in ["old", "old_host"] {
        cases.push(Case::new(format!("{listener}: 1.0"), "GET / HTTP/1.0\r\n\r\n").at(listener));
        cases.push(
            Case::new(format!("{listener}: 1.0 host"), "GET / HTTP/1.0\r\nhost: a\r\n\r\n").at(listener),
        );
        cases.push(
            Case::new(
                format!("{listener}: 1.0 keep-alive"),
                "GET / HTTP/1.0\r\nhost: a\r\nconnection: keep-alive\r\n\r\n",
            )
            .at(listener),
        );
        cases.push(
            Case::new(format!("{listener}: 1.0 chunks"), "GET / HTTP/1.0\r\nhost: a\r\nx-do: chunks\r\n\r\n")
                .at(listener),
        );
        cases.push(Case::new(format!("{listener}: 1.1"), "GET / HTTP/1.1\r\nhost: a\r\n\r\n").at(listener));
    }
    pair.compare(&cases).await;
}

#[tokio::test]
async fn paths_are_made_normal_as_envoy_does() {
    let with = |name: &str, hcm: &str| http_listener(name, hcm, &routes(ALL));
    let more = [
        with("normal", "normalize_path: true"),
        with("merged", "merge_slashes: true"),
        with("both", "normalize_path: true, merge_slashes: true"),
        with("refuse", "path_with_escaped_slashes_action: REJECT_REQUEST"),
        with("unescape", "path_with_escaped_slashes_action: UNESCAPE_AND_FORWARD, normalize_path: true"),
        with("redirect", "path_with_escaped_slashes_action: UNESCAPE_AND_REDIRECT"),
        with("any_port", "strip_any_host_port: true"),
        with("own_port", "strip_matching_host_port: true"),
        with("dot", "strip_trailing_host_dot: true"),
        with(
            "underscore_reject",
            "common_http_protocol_options: {headers_with_underscores_action: REJECT_REQUEST}",
        ),
        with(
            "underscore_drop",
            "common_http_protocol_options: {headers_with_underscores_action: DROP_HEADER}",
        ),
    ];
    let pair = simple("", &more).await;
    let mut cases = Vec::new();
    for listener in ["normal", "merged", "both", "refuse", "unescape", "redirect"] {
        for path in [
            "/a/../b",
            "/a/./b/.",
            "/../../x",
            "//a///b//",
            "/a%2Fb",
            "/a%5Cb",
            "/a%2fb/../c?d=/../e",
            "/%41%7e%2E%2e/x",
            "/a%00b",
            "/a\\b",
            "/a;b=c",
            "/a?x=%2F",
            "/%zz",
            "/a/..",
            "/.",
            "/a//../b",
        ] {
            cases.push(Case::ask(format!("{listener}: {path}"), &format!("GET {path}"), &[]).at(listener));
        }
    }
    for listener in ["any_port", "own_port", "dot"] {
        for host in ["test", "test:80", "test:443", "test.", "test.:80", "[::1]:80", "test:x", "1.2.3.4:8080"]
        {
            cases.push(
                Case::ask(format!("{listener}: {host}"), "GET /", &[&format!("host: {host}")]).at(listener),
            );
        }
    }
    for listener in ["underscore_reject", "underscore_drop"] {
        cases.push(Case::ask(format!("{listener}: one"), "GET /", &["a_b: 1", "a-b: 2"]).at(listener));
    }
    pair.compare(&cases).await;
}
