//! Which route a request takes, and what it does to the request.

use super::clusters;
use e2e::pair::{Case, Pair, http_listener, routes};

/// A route that answers its own name.
fn says(name: &str, matching: &str) -> String {
    format!("{{match: {{{matching}}}, direct_response: {{status: 200, body: {{inline_string: {name}}}}}}}")
}

#[tokio::test]
async fn the_same_route_is_taken() {
    let table: Vec<String> = [
        ("exact", "path: /exact"),
        ("exact_any_case", "path: /Any, case_sensitive: false"),
        ("separated", "path_separated_prefix: /sep"),
        ("regex", "safe_regex: {regex: '/r/[0-9]+'}"),
        ("regex_query", "safe_regex: {regex: '/rq.*x=1'}"),
        ("header_exact", "prefix: /h, headers: [{name: x-k, string_match: {exact: a}}]"),
        ("header_prefix", "prefix: /h, headers: [{name: x-k, string_match: {prefix: pre}}]"),
        ("header_suffix", "prefix: /h, headers: [{name: x-k, string_match: {suffix: post}}]"),
        ("header_contains", "prefix: /h, headers: [{name: x-k, string_match: {contains: mid, ignore_case: true}}]"),
        ("header_regex", "prefix: /h, headers: [{name: x-k, string_match: {safe_regex: {regex: 'r[0-9]'}}}]"),
        ("header_range", "prefix: /h, headers: [{name: x-n, range_match: {start: 1, end: 10}}]"),
        ("header_present", "prefix: /h, headers: [{name: x-p, present_match: true}]"),
        ("header_absent", "prefix: /h, headers: [{name: x-q, present_match: false}, {name: x-go, string_match: {exact: absent}}]"),
        ("header_not", "prefix: /h, headers: [{name: x-k, string_match: {exact: b}, invert_match: true}, {name: x-go, string_match: {exact: 'not'}}]"),
        ("header_missing_empty", "prefix: /h, headers: [{name: x-z, string_match: {exact: zz}, invert_match: true, treat_missing_header_as_empty: true}, {name: x-go, string_match: {exact: empty}}]"),
        ("method", "prefix: /m, headers: [{name: ':method', string_match: {exact: PUT}}]"),
        ("authority", "prefix: /m, headers: [{name: ':authority', string_match: {suffix: .org}}]"),
        ("query", "prefix: /q, query_parameters: [{name: a, string_match: {exact: '1'}}]"),
        ("query_present", "prefix: /q, query_parameters: [{name: b, present_match: true}]"),
        ("query_regex", "prefix: /q, query_parameters: [{name: c, string_match: {safe_regex: {regex: 'x+'}}}]"),
        ("grpc", "prefix: /g, grpc: {}"),
        ("short", "prefix: /p"),
        ("long", "prefix: /prefix/long"),
        ("nothing_by_runtime", "prefix: /f, runtime_fraction: {default_value: {numerator: 0}}"),
        ("all_by_runtime", "prefix: /f, runtime_fraction: {default_value: {numerator: 100}}"),
        ("rest", "prefix: /"),
    ]
    .iter()
    .map(|(name, matching)| says(name, matching))
    .collect();
    let hosts: Vec<String> = [
        ("exact", "['a.test', 'p.test:80']"),
        ("wild", "['*.test']"),
        ("wilder", "['*.b.test']"),
        ("dash", "['*-x.test']"),
        ("end", "['end.*']"),
        ("longer_end", "['end.b.*']"),
        ("upper", "['UPPER.org']"),
        ("all", "['*']"),
    ]
    .iter()
    .map(|(name, domains)| {
        format!("{{name: {name}, domains: {domains}, routes: [{}]}}", says(name, "prefix: /"))
    })
    .collect();
    let pair = Pair::start(
        &[
            http_listener("web", "", &routes(&table.join(",\n"))),
            http_listener("hosts", "", &format!("virtual_hosts: [{}]", hosts.join(", "))),
            http_listener(
                "portless",
                "",
                &format!("ignore_port_in_host_matching: true, virtual_hosts: [{}]", hosts.join(", ")),
            ),
        ],
        &clusters(),
    )
    .await
    .unwrap();
    let mut cases: Vec<Case> = [
        "/exact",
        "/exact?q",
        "/exact/",
        "/Exact",
        "/any",
        "/ANY",
        "/anyx",
        "/sep",
        "/sep/",
        "/sep/a",
        "/sep?a",
        "/sepa",
        "/r/12",
        "/r/12?x",
        "/r/1a",
        "/r/12/",
        "/rq?x=1",
        "/q?a=1",
        "/q?a=2",
        "/q?x=y&a=1",
        "/q?a=1&a=2",
        "/q?a=2&a=1",
        "/q?b",
        "/q?b=",
        "/q?c=xxx",
        "/q?c=xy",
        "/q?a=%31",
        "/q#?a=1",
        "/p",
        "/prefix/long",
        "/prefix/lon",
        "/f",
        "/",
        "/h",
    ]
    .iter()
    .map(|path| Case::ask(*path, &format!("GET {path}"), &[]))
    .collect();
    for headers in [
        &["x-k: a"][..],
        &["x-k: prefix"],
        &["x-k: mypost"],
        &["x-k: aMIDb"],
        &["x-k: r1"],
        &["x-k: r1x"],
        &["X-K: a"],
        &["x-k: A"],
        &["x-k: a", "x-k: b"],
        &["x-k: b", "x-k: a"],
        &["x-n: 1"],
        &["x-n: 10"],
        &["x-n: 9"],
        &["x-n: -1"],
        &["x-n: 5a"],
        &["x-n: 5 "],
        &["x-p: 1"],
        &["x-p:"],
        &["x-go: absent"],
        &["x-go: absent", "x-q: 1"],
        &["x-go: not"],
        &["x-go: not", "x-k: b"],
        &["x-go: not", "x-k: c"],
        &["x-go: empty"],
        &["x-go: empty", "x-z: zz"],
    ] {
        cases.push(Case::ask(format!("{headers:?}"), "GET /h", headers));
    }
    cases.push(Case::ask("method", "PUT /m", &[]));
    cases.push(Case::ask("authority", "GET /m", &["host: a.org"]));
    for content_type in [
        "application/grpc",
        "application/grpc+proto",
        "application/grpc-web",
        "application/json",
        "application/grpcx",
    ] {
        cases.push(Case::ask(content_type, "POST /g", &[&format!("content-type: {content_type}")]));
    }
    for listener in ["hosts", "portless"] {
        for host in [
            "a.test",
            "A.TEST",
            "a.test:80",
            "p.test:80",
            "p.test",
            "b.test",
            "x.b.test",
            ".test",
            "test",
            "q-x.test",
            "-x.test",
            "end.com",
            "end.b.com",
            "end.",
            "upper.org",
            "UPPER.ORG",
            "zzz",
            "zzz:1",
            "a.test.",
        ] {
            cases.push(
                Case::ask(format!("{listener}: {host}"), "GET /", &[&format!("host: {host}")]).at(listener),
            );
        }
    }
    pair.compare(&cases).await;
}

#[tokio::test]
async fn requests_are_rewritten_the_same() {
    let table = "
      {match: {prefix: /pre/}, route: {cluster: up, prefix_rewrite: /new/}},
      {match: {prefix: /strip}, route: {cluster: up, prefix_rewrite: /}},
      {match: {path: /exact}, route: {cluster: up, prefix_rewrite: /other}},
      {match: {path_separated_prefix: /sep}, route: {cluster: up, prefix_rewrite: /s2}},
      {match: {prefix: /Case, case_sensitive: false}, route: {cluster: up, prefix_rewrite: /lower}},
      {match: {safe_regex: {regex: '/rx/.*'}}, route: {cluster: up, regex_rewrite: {pattern: {regex: '^/rx/([^/]+)/([^?]+)'}, substitution: '/\\2/\\1'}}},
      {match: {prefix: /all/}, route: {cluster: up, regex_rewrite: {pattern: {regex: 'a'}, substitution: 'bb'}}},
      {match: {prefix: /host/literal}, route: {cluster: up, host_rewrite_literal: literal.test}},
      {match: {prefix: /host/append}, route: {cluster: up, host_rewrite_literal: literal.test, append_x_forwarded_host: true}},
      {match: {prefix: /host/header}, route: {cluster: up, host_rewrite_header: x-host}},
      {match: {prefix: /host/regex}, route: {cluster: up, host_rewrite_path_regex: {pattern: {regex: '^/host/regex/([a-z]+).*$'}, substitution: '\\1.test'}}},
      {match: {prefix: /host/auto}, route: {cluster: named, auto_host_rewrite: true}},
      {match: {prefix: /weights}, route: {weighted_clusters: {clusters: [{name: up, weight: 100}, {name: refused, weight: 0}]}}},
      {match: {prefix: /weighed}, route: {weighted_clusters: {clusters: [{name: refused, weight: 0}, {name: up, weight: 7, request_headers_to_add: [{header: {key: x-weighed, value: 'yes'}}], host_rewrite_literal: weighed.test}]}}},
      {match: {prefix: /timeout0}, route: {cluster: up, timeout: 0s}},
      {match: {prefix: /timeout9}, route: {cluster: up, timeout: 9.5s}},
      {match: {prefix: /}, route: {cluster: up}}";
    let counted = format!(
        "virtual_hosts: [{{name: all, domains: ['*'], include_request_attempt_count: true, include_attempt_count_in_response: true, routes: [{table}]}}]"
    );
    let mut all = clusters();
    all.push("{name: named, type: STRICT_DNS, load_assignment: {cluster_name: named, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: localhost, port_value: $ORIGIN}}}}]}]}}".into());
    let pair = Pair::start(
        &[http_listener("web", "", &routes(table)), http_listener("counted", "", &counted)],
        &all,
    )
    .await
    .unwrap();
    let mut cases: Vec<Case> = [
        "/pre/a?b=c",
        "/pre/",
        "/strip/a",
        "/strip",
        "/stripped",
        "/exact",
        "/exact?a",
        "/sep",
        "/sep/a",
        "/sep?a",
        "/case/x",
        "/CASEx",
        "/rx/a/b",
        "/rx/a/b?c=/rx/d/e",
        "/rx/a",
        "/all/a/banana?a=a",
        "/host/literal",
        "/host/append",
        "/host/regex/abc/d?e",
        "/host/auto",
        "/weights",
        "/weighed",
        "/timeout0",
        "/timeout9",
        "/plain?q",
    ]
    .iter()
    .map(|path| Case::ask(*path, &format!("GET {path}"), &[]))
    .collect();
    let no_host = Case::ask("host from a path that does not match", "GET /host/regex/1", &[]);
    cases.push(no_host.differs("a path is no host: refused, where Envoy sends it as one"));
    cases.push(Case::ask("host from header", "GET /host/header", &["x-host: from.header"]));
    cases.push(Case::ask("host from no header", "GET /host/header", &[]));
    cases.push(Case::ask("host appended to", "GET /host/append", &["x-forwarded-host: before"]));
    for script in ["status:200", "status:500"] {
        cases.push(
            Case::ask(format!("counted: {script}"), "GET /plain", &[&format!("x-do: {script}")])
                .at("counted"),
        );
    }
    pair.compare(&cases).await;
}
