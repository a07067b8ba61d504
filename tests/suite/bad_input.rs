//! What the real binary does with bad input: exit code 1, every error with its place, and nothing but the errors.
//! Once it serves, bad input changes nothing.

use anyhow::Result;
use e2e::client::Client;
use e2e::envoy::Envoy;
use e2e::process::{Process, built};
use e2e::upstream::Upstream;
use e2e::wire::{Role, Wire};
use e2e::{eventually, pair, proxy};
use std::fmt::Write as _;
use std::process::Command;
use std::time::Duration;

const AT_HCM: &str = "static_resources.listeners[0].filter_chains[0].filters[0].typed_config";
const ROUTER: &str = "{name: r, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}";

fn cluster(fields: &str) -> String {
    format!("static_resources: {{clusters: [{{name: c, {fields}}}]}}")
}

/// A connection manager of these fields.
fn web(fields: &str) -> String {
    let fields = fields.replace("ROUTER", ROUTER);
    format!(
        "static_resources: {{listeners: [{{name: web, address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}, filter_chains: [{{filters: [{{name: http, \
         typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, {fields}}}}}]}}]}}]}}"
    )
}

/// A virtual host with this route.
fn route(route: &str) -> String {
    web(&format!(
        "stat_prefix: w, http_filters: [ROUTER], route_config: {{virtual_hosts: [{{name: v, domains: [\"*\"], routes: [{route}]}}]}}"
    ))
}

/// Runs the binary to its end: exit code, standard output, standard error.
fn run(args: &[&str]) -> (Option<i32>, String, String) {
    let out = Command::new(built("portolan-proxy").unwrap()).args(args).env_clear().output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (out.status.code(), text(out.stdout), text(out.stderr))
}

/// A message, and the text that its place points at; `None`: it has no place, and the empty text is the end.
type Finding = (&'static str, Option<&'static str>);

/// Bootstraps, and all that is said of each.
fn refused(cases: &[(String, &[Finding])]) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("b.yaml");
    let name = path.to_str().unwrap();
    let mut wrong = String::new();
    for (yaml, findings) in cases {
        std::fs::write(&path, yaml).unwrap();
        let (code, out, err) = run(&["-c", name, "--mode", "validate"]);
        let mut lines = err.lines();
        let first = format!("error initializing configuration '{name}':");
        let mut right = code == Some(1) && out.is_empty() && lines.next() == Some(&first);
        for (message, token) in *findings {
            let message = message
                .replace("ROUTE", "HCM.route_config.virtual_hosts[0].routes[0]")
                .replace("HCM", AT_HCM)
                .replace("CLUSTER", "static_resources.clusters[0]");
            let place =
                lines.next().and_then(|l| l.strip_prefix(&message)?.strip_prefix(" (")?.strip_suffix(')'));
            right &= place.and_then(|p| p.strip_prefix(name)).is_some_and(|p| points_at(yaml, p, *token));
        }
        if !right || lines.next().is_some() {
            let _ = writeln!(wrong, "{yaml}\n  exit {code:?}, expected {findings:?}, got:\n{out}{err}");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// Whether `place`, `:LINE:COLUMN` or nothing, is where `token` stands.
fn points_at(text: &str, place: &str, token: Option<&str>) -> bool {
    let Some(token) = token else { return place.is_empty() };
    let mut numbers = place.split(':').skip(1).map(|n| n.parse::<usize>().unwrap_or(0));
    let (Some(line @ 1..), Some(column @ 1..)) = (numbers.next(), numbers.next()) else { return false };
    let rest = text.split('\n').nth(line - 1).and_then(|l| l.get(column - 1..));
    if token.is_empty() { rest.is_none_or(str::is_empty) } else { rest.is_some_and(|r| r.starts_with(token)) }
}

#[test]
fn texts_that_are_not_a_bootstrap_are_refused() {
    refused(&[
        (
            "node: {id: a".to_owned(),
            &[("is not YAML: while parsing a flow mapping, did not find expected ',' or '}'", Some(""))],
        ),
        (
            "node: [1".to_owned(),
            &[("is not YAML: while parsing a flow sequence, expected ',' or ']'", Some(""))],
        ),
        ("".to_owned(), &[("is empty", None)]),
        ("# only words\n".to_owned(), &[("is empty", None)]),
        ("[]".to_owned(), &[("must be an object, not a list", Some("["))]),
        ("just words".to_owned(), &[(r#"must be an object, not the string "just words""#, Some("just"))]),
        ("a: b: c".to_owned(), &[("is not YAML: mapping values are not allowed in this context", Some(":"))]),
        ("node: *x".to_owned(), &[("is not YAML: while parsing node, found unknown anchor", Some("*x"))]),
        (
            r#"node: {id: "a}"#.to_owned(),
            &[("is not YAML: while scanning a quoted scalar, found unexpected end of stream", Some(r#""a"#))],
        ),
        (
            "node: {id: n}".to_owned(),
            &[(r#"node.id: must be a string, but an unquoted n is a boolean; write "n""#, Some("n"))],
        ),
        ("node: {id: a, id: b}".to_owned(), &[("node.id: is given twice; first at 1:8", Some("id:"))]),
        ("nod: {}".to_owned(), &[("nod: no such field; did you mean `node`?", Some("nod:"))]),
        ("node: {identity: a}".to_owned(), &[("node.identity: no such field", Some("identity:"))]),
        ("node: text".to_owned(), &[(r#"node: must be an object, not the string "text""#, Some("text"))]),
        (
            "node: {id: 5}".to_owned(),
            &[(r#"node.id: must be a string, but an unquoted 5 is a number; write "5""#, Some("5"))],
        ),
        ("node: {id: {}}".to_owned(), &[("node.id: must be a string, not an object", Some("{"))]),
        (
            r#"{"node": {"id": "a"},}x"#.to_owned(),
            &[("is not YAML: did not find expected <document start>", Some("x"))],
        ),
        (
            "node: {id: a}\n---\nnode: {id: b}".to_owned(),
            &[("holds 2 documents separated by `---`; only one is allowed", Some("node:"))],
        ),
        (
            "admin: {address: {socket_address: {address: 127.0.0.1, port_value: many}}}".to_owned(),
            &[(
                r#"admin.address.socket_address.port_value: must be an integer, not the string "many""#,
                Some("many"),
            )],
        ),
        (
            cluster("connect_timeout: fast"),
            &[(
                r#"CLUSTER.connect_timeout: must be a duration such as `5s` or `0.25s`, not the string "fast""#,
                Some("fast"),
            )],
        ),
        (
            cluster("connect_timeout: 5"),
            &[(
                "CLUSTER.connect_timeout: must be a duration such as `5s` or `0.25s`, not the number 5",
                Some("5"),
            )],
        ),
        (
            cluster("type: NOPE"),
            &[(
                r#"CLUSTER.type: no such value "NOPE"; it may be STATIC, STRICT_DNS, LOGICAL_DNS, EDS, ORIGINAL_DST"#,
                Some("NOPE"),
            )],
        ),
        (
            cluster("lb_policy: [A]"),
            &[("CLUSTER.lb_policy: must be the name of an enum value, not a list", Some("[A"))],
        ),
        (
            cluster("respect_dns_ttl: perhaps"),
            &[(
                r#"CLUSTER.respect_dns_ttl: must be true or false, not the string "perhaps""#,
                Some("perhaps"),
            )],
        ),
        (
            cluster("per_connection_buffer_limit_bytes: -1"),
            &[(
                "CLUSTER.per_connection_buffer_limit_bytes: -1 is out of range: from 0 to 4294967295",
                Some("-1"),
            )],
        ),
        (
            cluster("per_connection_buffer_limit_bytes: 1.5"),
            &[("CLUSTER.per_connection_buffer_limit_bytes: must be an integer, but 1.5 is not", Some("1.5"))],
        ),
        (
            cluster("per_connection_buffer_limit_bytes: 5000000000"),
            &[(
                "CLUSTER.per_connection_buffer_limit_bytes: 5000000000 is out of range: from 0 to 4294967295",
                Some("5000000000"),
            )],
        ),
        (
            cluster(r#"typed_extension_protocol_options: {a: {"@type": no-slash}}"#),
            &[(
                r#"CLUSTER.typed_extension_protocol_options["a"].@type: "no-slash" is not of the form `type.googleapis.com/package.Message`"#,
                Some("no-slash"),
            )],
        ),
        (
            cluster(r#"typed_extension_protocol_options: {a: {"@type": type.googleapis.com/acme.Unknown}}"#),
            &[(
                r#"CLUSTER.typed_extension_protocol_options["a"].@type: no message type `acme.Unknown` is known"#,
                Some("type.googleapis.com/acme"),
            )],
        ),
        (
            cluster("typed_extension_protocol_options: {a: {x: 1}}"),
            &[(
                r#"CLUSTER.typed_extension_protocol_options["a"]: must hold `@type`, the type of the message that stands here"#,
                Some("{x:"),
            )],
        ),
        (
            web(
                r#"stat_prefix: w, http_filters: [ROUTER], route_config: {virtual_hosts: [{name: v, domains: ["*"], routes: [{match: {prefix: /}, direct_response: {status: 200}}], require_tls: SOMETIMES}]}"#,
            ),
            &[(
                r#"HCM.route_config.virtual_hosts[0].require_tls: no such value "SOMETIMES"; it may be NONE, EXTERNAL_ONLY, ALL"#,
                Some("SOMETIMES"),
            )],
        ),
    ]);
}

#[test]
fn values_that_break_the_protos_rules_are_refused() {
    refused(&[
        (
            "static_resources: {clusters: [{connect_timeout: 1s}]}".to_owned(),
            &[("CLUSTER.name: is required", Some("{connect_timeout:"))],
        ),
        (
            cluster("connect_timeout: 0s"),
            &[("CLUSTER.connect_timeout: must be longer than zero", Some("0s"))],
        ),
        (
            cluster("connect_timeout: -1s"),
            &[("CLUSTER.connect_timeout: must not be negative nor longer than 10000 years", Some("-1s"))],
        ),
        (
            "admin: {address: {socket_address: {address: 127.0.0.1, port_value: 70000}}}".to_owned(),
            &[(
                "admin.address.socket_address.port_value: 70000 is not a port, must be 0 to 65535",
                Some("70000"),
            )],
        ),
        (
            "admin: {address: {socket_address: {port_value: 1}}}".to_owned(),
            &[("admin.address.socket_address.address: is required", Some("{port_value:"))],
        ),
        ("admin: {address: {}}".to_owned(), &[("admin.address: an address is required", Some("{"))]),
        (
            web("http_filters: [ROUTER], route_config: {}"),
            &[("HCM.stat_prefix: must be at least 1 character", Some(r#"{"@type":"#))],
        ),
        (
            web("stat_prefix: w, http_filters: [ROUTER]"),
            &[("HCM: one of route_config, rds is required", Some(r#"{"@type":"#))],
        ),
        (
            route("{match: {prefix: /}, route: {weighted_clusters: {clusters: []}}}"),
            &[(
                "ROUTE.route.weighted_clusters.clusters: the sum of weights must be greater than 0",
                Some("["),
            )],
        ),
        (
            route("{match: {}, route: {cluster: c}}"),
            &[
                (
                    "ROUTE.match: one of prefix, path, path_separated_prefix, safe_regex is required",
                    Some("{"),
                ),
                (r#"ROUTE.route.cluster: unknown cluster "c""#, Some("c")),
            ],
        ),
        (
            route("{match: {prefix: /}}"),
            &[("ROUTE: one of route, redirect, direct_response is required", Some("{match:"))],
        ),
        (
            route("{route: {cluster: c}}"),
            &[
                ("ROUTE.match: is required", Some("{route:")),
                (r#"ROUTE.route.cluster: unknown cluster "c""#, Some("c")),
            ],
        ),
        (
            route("{match: {prefix: /}, direct_response: {status: 99}}"),
            &[("ROUTE.direct_response.status: 99 is not a status, must be 200 to 599", Some("99"))],
        ),
        (
            route("{match: {prefix: /}, direct_response: {status: 600}}"),
            &[("ROUTE.direct_response.status: 600 is not a status, must be 200 to 599", Some("600"))],
        ),
        (
            web(
                "stat_prefix: w, http_filters: [ROUTER], route_config: {virtual_hosts: [{name: v, domains: []}]}",
            ),
            &[("HCM.route_config.virtual_hosts[0].domains: at least one is required", Some("["))],
        ),
        (
            web(
                r#"stat_prefix: w, http_filters: [ROUTER], route_config: {virtual_hosts: [{domains: ["*"]}]}"#,
            ),
            &[("HCM.route_config.virtual_hosts[0].name: must be at least 1 character", Some("{domains:"))],
        ),
    ]);
}

#[test]
fn configuration_that_makes_no_sense_is_refused() {
    refused(&[
        ("static_resources: {clusters: [{name: a}, {name: a}]}".to_owned(), &[(r#"static_resources.clusters[1].name: "a" is already the name of clusters[0]"#, Some("a"))]),
        (cluster("type: EDS"), &[("CLUSTER.eds_cluster_config: is required", Some("{name:"))]),
        (cluster("load_assignment: {cluster_name: c, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: not-an-ip, port_value: 1}}}}]}]}"), &[("CLUSTER.load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.address: malformed IP address: not-an-ip", Some("not-an-ip"))]),
        ("dynamic_resources: {cds_config: {ads: {}}}".to_owned(), &[("dynamic_resources.cds_config.ads: the bootstrap has no dynamic_resources.ads_config", Some("{"))]),
        ("dynamic_resources: {lds_config: {path_config_source: {}}}".to_owned(), &[("dynamic_resources.lds_config.path_config_source.path: is required", Some("{"))]),
        ("dynamic_resources: {ads_config: {api_type: GRPC, transport_api_version: V3, grpc_services: [{envoy_grpc: {cluster_name: gone}}]}}".to_owned(), &[(r#"dynamic_resources.ads_config.grpc_services[0].envoy_grpc.cluster_name: "gone" is not a static cluster of the bootstrap, or gets its endpoints by EDS"#, Some("gone"))]),
        ("admin: {address: {socket_address: {address: localhost, port_value: 1}}}".to_owned(), &[("admin.address.socket_address.address: malformed IP address: localhost", Some("localhost"))]),
        ("layered_runtime: {layers: [{name: a, static_layer: {}}, {name: a, static_layer: {}}]}".to_owned(), &[(r#"layered_runtime.layers[1].name: duplicate layer name "a""#, Some("a"))]),
        ("static_resources: {listeners: [{name: web}]}".to_owned(), &[("static_resources.listeners[0].address: is required", Some("{name:"))]),
        (web("stat_prefix: w, http_filters: [], route_config: {}"), &[("HCM.http_filters: must end with the router filter (envoy.filters.http.router)", Some("["))]),
        (web("stat_prefix: w, http_filters: [ROUTER, ROUTER], route_config: {}"), &[("HCM.http_filters[0]: the router must be the last filter", Some("{name:"))]),
        (web(r#"stat_prefix: w, http_filters: [{name: x, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua}}, ROUTER], route_config: {}"#), &[(r#"HCM.http_filters[0].typed_config: HTTP filter "x" of type envoy.extensions.filters.http.lua.v3.Lua is not supported"#, Some(r#"{"@type":"#))]),
        (web(r#"stat_prefix: w, http_filters: [ROUTER], route_config: {}, access_log: [{name: f, typed_config: {"@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: /dev/null, log_format: {text_format_source: {inline_string: "%NOPE%"}}}}]"#), &[("HCM.access_log[0].typed_config.log_format.text_format_source: column 2: there is no command NOPE", Some("{inline_string:"))]),
        (web(r#"stat_prefix: w, http_filters: [ROUTER], route_config: {}, access_log: [{name: f, typed_config: {"@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: /dev/null, log_format: {text_format_source: {inline_string: "%REQ(a"}}}}]"#), &[("HCM.access_log[0].typed_config.log_format.text_format_source: column 5: `(` of REQ is not closed", Some("{inline_string:"))]),
        (route(r#"{match: {safe_regex: {regex: "["}}, route: {cluster: c}}"#), &[("ROUTE.match.safe_regex.regex: does not compile: unclosed character class", Some(r#""[""#)), (r#"ROUTE.route.cluster: unknown cluster "c""#, Some("c"))]),
        (route(r#"{match: {safe_regex: {regex: "(?=a)"}}, route: {cluster: c}}"#), &[("ROUTE.match.safe_regex.regex: does not compile: look-around, including look-ahead and look-behind, is not supported", Some(r#""(?=a)""#)), (r#"ROUTE.route.cluster: unknown cluster "c""#, Some("c"))]),
        (route("{match: {path_separated_prefix: /a/}, route: {cluster: c}}"), &[("ROUTE.match.path_separated_prefix: must be longer than /, must not end with /, and must not hold ? or #", Some("/a/")), (r#"ROUTE.route.cluster: unknown cluster "c""#, Some("c"))]),
        (route("{match: {prefix: /}, route: {cluster: gone}}"), &[(r#"ROUTE.route.cluster: unknown cluster "gone""#, Some("gone"))]),
        (route("{match: {prefix: /}, redirect: {path_redirect: /a, prefix_rewrite: /b}}"), &[("ROUTE.redirect.prefix_rewrite: excludes `path_redirect`, which is set too; only one of them may be", Some("prefix_rewrite:"))]),
        (route(r#"{match: {prefix: /}, direct_response: {status: 200}, request_headers_to_add: [{header: {key: ":path", value: x}}]}"#), &[("ROUTE.request_headers_to_add[0].header.key: :-prefixed or host headers may not be modified", Some(r#"":path""#))]),
        (route(r#"{match: {prefix: /}, direct_response: {status: 200}, request_headers_to_add: [{header: {key: x, value: "%BAD%"}}]}"#), &[("ROUTE.request_headers_to_add[0].header.value: column 2: there is no command BAD", Some(r#""%BAD%""#))]),
        (web("stat_prefix: w, http_filters: [ROUTER], route_config: {virtual_hosts: [{name: a, domains: [x]}, {name: b, domains: [x]}]}"), &[(r#"HCM.route_config.virtual_hosts[1].domains[0]: domain "x" is already taken by virtual_hosts[0]"#, Some("x"))]),
        (route("{match: {prefix: /}, direct_response: {status: 200, body: {filename: /nonexistent/body}}}"), &[("ROUTE.direct_response.body.filename: /nonexistent/body: No such file or directory (os error 2)", Some("/nonexistent/body"))]),
        (route("{match: {prefix: /}, direct_response: {status: 200, body: {environment_variable: NO_SUCH_VARIABLE}}}"), &[("ROUTE.direct_response.body.environment_variable: NO_SUCH_VARIABLE: environment variable not found", Some("NO_SUCH_VARIABLE"))]),
    ]);
}

#[test]
fn every_error_of_a_bootstrap_is_told_at_once() {
    let yaml = "static_resources: {clusters: [{name: c, connect_timeout: 0s}, {name: c}]}\nadmin: {address: {socket_address: {address: x, port_value: 1}}}";
    refused(&[(
        yaml.to_owned(),
        &[
            ("CLUSTER.connect_timeout: must be longer than zero", Some("0s")),
            ("static_resources.clusters[1].name: \"c\" is already the name of clusters[0]", Some("c}")),
            ("admin.address.socket_address.address: malformed IP address: x", Some("x,")),
        ],
    )]);
}

#[test]
fn flags_that_are_wrong_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let good = dir.path().join("good.yaml");
    std::fs::write(&good, "node: {id: a}").unwrap();
    let good = good.to_str().unwrap();
    for (args, said) in [
        (&[][..], "At least one of --config-path or --config-yaml"),
        (&["--no-such-flag"], "unexpected argument '--no-such-flag'"),
        (&["words"], "unexpected argument 'words'"),
        (&["-c"], "'--config-path <PATH>'"),
        (&["-c", "/nonexistent/b.yaml"], "/nonexistent/b.yaml: unable to read file: No such file"),
        (&["-c", "/"], "/: unable to read file: Is a directory"),
        (&["--config-yaml", "{"], "(--config-yaml:"),
        (&["--config-yaml", "nod: {}"], "nod: no such field; did you mean `node`? (--config-yaml:1:1)"),
        (&["-c", good, "--config-yaml", "nod: {}"], "nod: no such field"),
        (&["-c", good, "--mode", "nonsense"], "invalid value 'nonsense' for '--mode"),
        (&["-c", good, "-l", "loud"], "invalid log level \"loud\""),
        (&["-c", good, "--component-log-level", "upstream"], "expected COMPONENT:LEVEL"),
        (&["-c", good, "--concurrency", "many"], "invalid value 'many' for '--concurrency"),
        (&["-c", good, "--concurrency", "-1"], "invalid value '-1' for '--concurrency"),
        (&["-c", good, "--drain-time-s", "-1"], "invalid value '-1' for '--drain-time-s"),
        (&["-c", good, "--drain-strategy", "later"], "invalid value 'later' for '--drain-strategy"),
        (&["-c", good, "--service-node"], "'--service-node"),
        (&["-c", good, "--log-path", "/nonexistent/x.log"], "cannot open the log file: No such file"),
    ] {
        let (code, out, err) = run(args);
        assert_eq!((code, &*out), (Some(1), ""), "{args:?}: {err}");
        assert!(err.contains(said), "{args:?} must say {said:?}: {err}");
        assert!(!err.contains("panicked"), "{args:?}: {err}");
    }
}

#[test]
fn a_good_bootstrap_is_valid_and_what_is_ignored_is_told() {
    let (code, out, err) = run(&["--mode", "validate", "--config-yaml", "node: {id: a}"]);
    assert_eq!((code, &*out, &*err), (Some(0), "configuration '' OK\n", ""));
    let (code, _, err) =
        run(&["--mode", "validate", "--allow-unknown-static-fields", "--config-yaml", "nod: {}"]);
    assert_eq!(code, Some(0));
    assert!(err.contains("warning: ignored: nod: no such field"), "{err}");
    let (code, out, _) = run(&["--version"]);
    assert_eq!(code, Some(0));
    assert!(out.contains("version: "), "{out}");
    let (code, out, _) = run(&["--help"]);
    assert!(code == Some(0) && out.contains("--config-path"), "{out}");
}

#[test]
fn addresses_that_cannot_be_had_end_the_start() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let at = |port: u16| format!("address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}");
    let web = web("stat_prefix: w, http_filters: [ROUTER], route_config: {}");
    let yaml = web.replace("port_value: 0", &format!("port_value: {port}"));
    let (code, _, err) = run(&["--config-yaml", &yaml, "-l", "off"]);
    assert_eq!(code, Some(1));
    let said = |err: &str, what: &str| {
        err.contains(what) && err.contains(&format!("127.0.0.1:{port}")) && err.contains("in use")
    };
    assert!(said(&err, "listener \"web\""), "{err}");
    let (code, _, err) = run(&["--config-yaml", &format!("admin: {{{}}}", at(port)), "-l", "off"]);
    assert_eq!(code, Some(1));
    assert!(said(&err, "admin address"), "{err}");
    let away = web.replace("127.0.0.1", "192.0.2.1");
    let (code, _, err) = run(&["--config-yaml", &away, "-l", "off"]);
    assert!(code == Some(1) && err.contains("192.0.2.1"), "{err}");
    let log = web.replace(
        "route_config: {}",
        "route_config: {}, access_log: [{name: f, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: /nonexistent/access.log}}]",
    );
    let (code, _, err) = run(&["--config-yaml", &log, "-l", "off"]);
    assert!(code == Some(1) && err.contains("/nonexistent/access.log"), "{err}");
}

/// A bootstrap that routes everything to `cluster`, with an upstream of that name.
fn serving(cluster: &str, upstream: &Upstream) -> String {
    let listener = pair::http_listener(
        "web",
        "",
        &pair::routes(&format!("{{match: {{prefix: /}}, route: {{cluster: {cluster}}}}}")),
    );
    format!(
        "{{admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}}}, static_resources: {{listeners: [{listener}], clusters: [{}]}}}}",
        pair::cluster(cluster, &upstream.addr.port().to_string(), "")
    )
}

async fn instance(proxy: &Envoy) -> Result<String> {
    let web = proxy.listener("web").await?;
    Ok(Client::h1().get(&format!("http://{web}/")).await?.header("x-instance").to_owned())
}

#[tokio::test]
async fn a_bad_bootstrap_at_reload_changes_nothing_and_a_good_one_applies() {
    let (one, two) = (Upstream::start("one").await.unwrap(), Upstream::start("two").await.unwrap());
    let mut proxy = proxy::start(&serving("one", &one)).await.unwrap();
    let path = proxy.dir().join("bootstrap.yaml");
    assert_eq!(instance(&proxy).await.unwrap(), "one");
    for (bad, said) in [
        ("static_resources: {".to_owned(), "is not YAML"),
        (serving("two", &two).replace("{name: two,", "{name: two, lb_polcy: x,"), "lb_polcy: no such field"),
        (serving("two", &two).replace("cluster: two", "cluster: three"), "unknown cluster \"three\""),
        (
            serving("two", &two)
                .replace("port_value: 0}}, filter", &format!("port_value: {}}}}}, filter", two.addr.port())),
            "in use",
        ),
    ] {
        std::fs::write(&path, bad).unwrap();
        let before = proxy.process().log().matches("configuration kept as it was").count();
        proxy.process().signal("HUP").unwrap();
        eventually("the reload is refused", async || {
            let log = proxy.process().log();
            let refused = log.matches("configuration kept as it was").count() > before && log.contains(said);
            if refused { Ok(()) } else { Err(log) }
        })
        .await;
        assert_eq!(instance(&proxy).await.unwrap(), "one", "{said}: what was good goes on");
    }
    std::fs::write(&path, serving("two", &two)).unwrap();
    proxy.process().signal("HUP").unwrap();
    eventually("the new bootstrap is in force", async || -> Result<()> {
        let from = instance(&proxy).await?;
        anyhow::ensure!(from == "two", "{from:?} answers");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn termination_lets_what_is_under_way_finish() {
    let upstream = Upstream::start("one").await.unwrap();
    let mut proxy = proxy::start(&serving("one", &upstream)).await.unwrap();
    let web = proxy.listener("web").await.unwrap();
    let mut idle = Wire::connect(web).await.unwrap();
    idle.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    idle.message(Role::Response).await.unwrap().unwrap();
    let mut busy = Wire::connect(web).await.unwrap();
    busy.send(b"GET /delay/700/late HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    eventually("the request is upstream", async || match upstream.requests() {
        2.. => Ok(()),
        n => Err(format!("{n} requests")),
    })
    .await;
    proxy.process().signal("TERM").unwrap();
    let answer = busy.message(Role::Response).await.unwrap().expect("an answer to what was under way");
    assert_eq!((answer.status(), answer.header("connection")), (200, Some("close")));
    assert!(idle.ends().await.unwrap(), "idle connections are closed");
    let status = wait(proxy.process());
    assert_eq!(status, Some(0), "{}", proxy.process().log());
    assert!(tokio::net::TcpStream::connect(web).await.is_err(), "nobody listens any more");
}

fn wait(process: &mut Process) -> Option<i32> {
    process.wait(Duration::from_secs(20)).unwrap().code()
}
