//! Answers that the proxy makes itself.

use super::clusters;
use e2e::pair::{Case, Pair, cluster, http_listener, routes};

const COMPLETE: &str =
    "the whole request came at once, so its connection goes on; Envoy answers before it reads the body";

/// Routes that may name clusters that do not exist.
fn lax(table: &str) -> String {
    format!("validate_clusters: false, {}", routes(table))
}

#[tokio::test]
async fn local_replies_are_envoys() {
    let table = "
      {match: {path: /missing}, route: {cluster: no_such_cluster}},
      {match: {path: /missing404}, route: {cluster: no_such_cluster, cluster_not_found_response_code: NOT_FOUND}},
      {match: {path: /by-header}, route: {cluster_header: x-cluster}},
      {match: {path: /empty}, route: {cluster: empty}},
      {match: {path: /refused}, route: {cluster: refused}},
      {match: {path: /timeout}, route: {cluster: up, timeout: 0.2s}},
      {match: {path: /max-duration}, route: {cluster: up, timeout: 0s, max_stream_duration: {max_stream_duration: 0.2s}}},
      {match: {path: /idle}, route: {cluster: up, timeout: 0s, idle_timeout: 0.2s}},
      {match: {path: /full}, route: {cluster: full}},
      {match: {path: /full/high}, route: {cluster: full, priority: HIGH}},
      {match: {path: /full-high}, route: {cluster: full_high}},
      {match: {path: /full-high/high}, route: {cluster: full_high, priority: HIGH}},
      {match: {path: /direct}, direct_response: {status: 201, body: {inline_string: made}}},
      {match: {path: /direct-empty}, direct_response: {status: 204}},
      {match: {path: /direct-bare}, direct_response: {status: 503}},
      {match: {path: /direct-typed}, direct_response: {status: 200, body: {inline_string: '{}'}}, response_headers_to_add: [{header: {key: content-type, value: application/json}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}]},
      {match: {path: /redirect}, redirect: {host_redirect: other}},
      {match: {path: /redirect/path}, redirect: {path_redirect: '/new?x=y', response_code: FOUND}},
      {match: {path: /redirect/strip}, redirect: {path_redirect: /new, strip_query: true, response_code: SEE_OTHER}},
      {match: {prefix: /redirect/prefix}, redirect: {prefix_rewrite: /p, response_code: TEMPORARY_REDIRECT}},
      {match: {prefix: /redirect/regex}, redirect: {regex_rewrite: {pattern: {regex: '^/redirect/regex/(.*)$'}, substitution: '/r/\\1'}, response_code: PERMANENT_REDIRECT}},
      {match: {path: /redirect/https}, redirect: {https_redirect: true}},
      {match: {path: /redirect/scheme}, redirect: {scheme_redirect: ftp}},
      {match: {path: /redirect/port}, redirect: {port_redirect: 8443, https_redirect: true}},
      {match: {path: /redirect/host-port}, redirect: {host_redirect: other, port_redirect: 81}},
      {match: {prefix: /ok}, route: {cluster: up}}";
    let tls = "virtual_hosts: [{name: all, domains: ['*'], require_tls: ALL, routes: [{match: {prefix: /}, route: {cluster: up}}]}, \
               {name: outside, domains: [outside], require_tls: EXTERNAL_ONLY, routes: [{match: {prefix: /}, route: {cluster: up}}]}]";
    let listeners = [
        http_listener("web", "", &lax(table)),
        http_listener("tls", "", tls),
        http_listener(
            "edge",
            "use_remote_address: true, stream_idle_timeout: 0.5s, request_timeout: 0.1s",
            &lax(table),
        ),
    ];
    let mut all = clusters();
    all.push(cluster(
        "full",
        "$ORIGIN",
        "circuit_breakers: {thresholds: [{max_requests: 0, max_pending_requests: 0, max_connections: 0}]}",
    ));
    all.push(cluster(
        "full_high",
        "$ORIGIN",
        "circuit_breakers: {thresholds: [{priority: HIGH, max_requests: 0, max_pending_requests: 0, max_connections: 0}]}",
    ));
    let pair = Pair::start(&listeners, &all).await.unwrap();
    let mut cases = Vec::new();
    let ask = |name: &str, path: &str, headers: &[&str]| Case::ask(name, &format!("GET {path}"), headers);
    cases.extend([
        ask("no route", "/none", &[]),
        ask("missing cluster", "/missing", &[]),
        ask("missing cluster, 404", "/missing404", &[]),
        ask("cluster header absent", "/by-header", &[]),
        ask("cluster header unknown", "/by-header", &["x-cluster: nope"]),
        ask("cluster header", "/by-header", &["x-cluster: up"]),
        ask("no hosts", "/empty", &[]),
        ask("refused", "/refused", &[]),
        ask("closes", "/ok", &["x-do: close"]),
        ask("resets", "/ok", &["x-do: reset"]),
        ask("garbage", "/ok", &["x-do: garbage"]),
        ask("bad status", "/ok", &["x-do: bad-status"]),
        ask("bad length", "/ok", &["x-do: bad-length"]),
        ask("two lengths", "/ok", &["x-do: two-lengths"]),
        ask("length and chunks", "/ok", &["x-do: length-and-chunks"]),
        ask("timeout", "/timeout", &["x-do: never"]),
        ask("max duration", "/max-duration", &["x-do: never"]),
        ask("idle", "/idle", &["x-do: never"]),
        ask("full", "/full", &[]),
        ask("full, high priority", "/full/high", &[]),
        ask("full of high priority", "/full-high", &[]),
        ask("full of high priority, high priority", "/full-high/high", &[]),
        ask("direct", "/direct", &[]),
        ask("direct, empty", "/direct-empty", &[]),
        ask("direct, no body", "/direct-bare", &[]),
        ask("direct, typed", "/direct-typed", &[]),
        ask("upstream 404", "/ok", &["x-do: status:404"]),
    ]);
    let get = |path: &str| Case::ask(path, &format!("GET {path}"), &[]);
    cases.extend(
        [
            "/redirect",
            "/redirect?a=b",
            "/redirect/path",
            "/redirect/path?a=b",
            "/redirect/strip?a=b",
            "/redirect/prefix/x?y",
            "/redirect/prefixed",
            "/redirect/regex/a/b?c",
            "/redirect/https?a",
            "/redirect/scheme",
            "/redirect/port",
            "/redirect/host-port",
        ]
        .map(get),
    );
    for host in ["test:80", "test:443", "test:8080", "[::1]:80", "1.2.3.4"] {
        for path in ["/redirect", "/redirect/https", "/redirect/port", "/redirect/path"] {
            cases.push(Case::ask(
                format!("{host}{path}"),
                &format!("GET {path}"),
                &[&format!("host: {host}")],
            ));
        }
    }
    for headers in [
        &[][..],
        &["x-forwarded-proto: https"],
        &["host: outside"],
        &["host: outside", "x-forwarded-for: 1.2.3.4"],
        &["host: test:80"],
    ] {
        cases.push(Case::ask(format!("tls required {headers:?}"), "GET /a?b", headers).at("tls"));
    }
    cases.push(Case::with_body("POST to a direct response", "POST /direct", &[], b"abc").differs(COMPLETE));
    cases.push(Case::with_body("POST to no route", "POST /none", &[], b"abc").differs(COMPLETE));
    cases.push(Case::ask("HEAD of no hosts", "HEAD /empty", &[]));
    cases.push(Case::ask("HEAD of direct", "HEAD /direct", &[]));
    cases.push(Case::ask("HEAD of redirect", "HEAD /redirect", &[]));
    cases.push(Case::ask("grpc, no route", "POST /none", &["content-type: application/grpc"]));
    cases.push(Case::ask("grpc, no hosts", "POST /empty", &["content-type: application/grpc"]));
    cases.push(Case::ask("grpc, refused", "POST /refused", &["content-type: application/grpc+proto"]));
    cases.push(Case::ask("grpc, direct", "POST /direct", &["content-type: application/grpc"]));
    cases.push(Case::ask("idle stream", "GET /ok", &["x-do: never"]).at("edge"));
    cases.push(Case::ask("slow request", "POST /ok", &["content-length: 10"]).at("edge"));
    cases.push(Case::ask(
        "edge controls",
        "GET /ok",
        &["x-envoy-upstream-rq-timeout-ms: 100", "x-do: never"],
    ));
    pair.compare(&cases).await;
}

/// Answers that are shaped for people who must find the request again: `local_reply_config`.
#[tokio::test]
async fn local_replies_are_mapped_as_envoy_maps_them() {
    let table = "
      {match: {path: /empty}, route: {cluster: empty}},
      {match: {path: /refused}, route: {cluster: refused}},
      {match: {path: /direct}, direct_response: {status: 418, body: {inline_string: tea}}},
      {match: {path: /typed}, direct_response: {status: 503, body: {inline_string: '{}'}}, response_headers_to_add: [{header: {key: content-type, value: application/json}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}]},
      {match: {path: /json}, direct_response: {status: 200, body_format: {json_format: {code: '%RESPONSE_CODE%', path: '%REQ(:path)%'}}}},
      {match: {path: /redirect}, redirect: {host_redirect: other}},
      {match: {prefix: /ok}, route: {cluster: up}}";
    let status = |op: &str, code: u16| {
        format!(
            "status_code_filter: {{comparison: {{op: {op}, value: {{default_value: {code}, runtime_key: k}}}}}}"
        )
    };
    let map = format!(
        "local_reply_config: {{mappers: [\
           {{filter: {{and_filter: {{filters: [{{{unavailable}}}, {{header_filter: {{header: {{name: x-map, string_match: {{exact: status}}}}}}}}]}}}}, status_code: 500}}, \
           {{filter: {{header_filter: {{header: {{name: x-map, string_match: {{exact: body}}}}}}}}, body: {{inline_string: '%mapped'}}, \
             headers_to_add: [{{header: {{key: x-id, value: '%REQ(x-request-id)% %RESPONSE_FLAGS%'}}}}, {{header: {{key: server, value: me}}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}}]}}, \
           {{filter: {{{teapot}}}, body_format_override: {{text_format_source: {{inline_string: '<b>%RESPONSE_CODE% %LOCAL_REPLY_BODY%</b>'}}, content_type: text/html}}}}, \
           {{filter: {{response_flag_filter: {{flags: [NR]}}}}, status_code: 403, body: {{inline_string: ''}}}}], \
         body_format: {{json_format: {{id: '%REQ(x-request-id)%', trace: '%TRACE_ID%', status: '%RESPONSE_CODE%', text: '%LOCAL_REPLY_BODY%', flags: '%RESPONSE_FLAGS%', why: '%RESPONSE_CODE_DETAILS%'}}}}}}",
        unavailable = status("EQ", 503),
        teapot = status("EQ", 418),
    );
    let text = "local_reply_config: {mappers: [{filter: {response_flag_filter: {flags: [UH]}}, body: {inline_string: 'nobody is there'}, headers_to_add: [{header: {key: content-type, value: text/x}}]}]}";
    let on = |value: &str, rest: &str| {
        format!(
            "{{filter: {{header_filter: {{header: {{name: x-map, string_match: {{exact: {value}}}}}}}}}, {rest}}}"
        )
    };
    let (body, header) =
        ("body: {inline_string: changed}", "headers_to_add: [{header: {key: content-type, value: text/x}}]");
    let format = "body_format_override: {text_format_source: {inline_string: 'F%LOCAL_REPLY_BODY%'}, content_type: text/html}";
    let mappers = [
        on("body", body),
        on("header", header),
        on("both", &format!("{body}, {header}")),
        on("format", format),
        on("format-header", &format!("{format}, {header}")),
    ];
    let types = format!("local_reply_config: {{mappers: [{}]}}", mappers.join(", "));
    let listeners = [
        http_listener("web", &format!("preserve_external_request_id: true, {map}"), &routes(table)),
        http_listener("text", text, &routes(table)),
        http_listener("types", &types, &routes(table)),
    ];
    let pair = Pair::start(&listeners, &clusters()).await.unwrap();
    let mut cases = Vec::new();
    for path in ["/none", "/empty", "/refused", "/direct", "/typed", "/json", "/redirect", "/ok"] {
        for map in ["none", "status", "body"] {
            let headers =
                [format!("x-map: {map}"), "x-request-id: 00000000-0000-4000-8000-000000000001".to_owned()];
            let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
            cases.push(Case::ask(format!("{path}, {map}"), &format!("GET {path}"), &headers));
            cases.push(Case::ask(format!("HEAD {path}, {map}"), &format!("HEAD {path}"), &headers));
            let grpc = [&headers[..], &["content-type: application/grpc"]].concat();
            cases.push(Case::ask(format!("grpc {path}, {map}"), &format!("POST {path}"), &grpc));
        }
        cases.push(Case::ask(format!("{path}, text"), &format!("GET {path}"), &[]).at("text"));
    }
    for map in ["none", "body", "header", "both", "format", "format-header"] {
        let headers = format!("x-map: {map}");
        for path in ["/typed", "/direct", "/none"] {
            let case = Case::ask(format!("types, {path}, {map}"), &format!("GET {path}"), &[&headers]);
            let joins = path == "/typed" && ["header", "both", "format-header"].contains(&map);
            let case = if joins { case.differs("Envoy joins the values of content-type") } else { case };
            cases.push(case.at("types"));
        }
    }
    cases.push(Case::new("no host", "GET / HTTP/1.1\r\n\r\n"));
    cases.push(Case::new("malformed", "GET / HTTP/1.1\r\nhost: a\r\n: b\r\n\r\n"));
    pair.compare(&cases).await;
}
