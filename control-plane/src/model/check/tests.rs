//! One table of bad objects: what is written, where the error is, and a part of what it says.

use super::*;
use crate::model::Object;
use serde_json::json;

/// Objects are read as people write them, so that paths are those that people see.
fn problems(text: &serde_json::Value) -> Vec<String> {
    let key: ObjectKey = ObjectKey::new(
        text["kind"].as_str().unwrap().parse().unwrap(),
        text["name"].as_str().unwrap().parse().unwrap(),
    );
    let read = Object::stored(key.clone(), 1, &text.to_string());
    let Some(resource) = read.resource() else { panic!("{:?}", read.content) };
    object(&key, resource).list.iter().map(|p| format!("{}: {}", p.path, p.message)).collect()
}

fn service(spec: serde_json::Value) -> serde_json::Value {
    json!({"kind": "Service", "name": "cart", "spec": spec})
}

fn gateway(spec: serde_json::Value) -> serde_json::Value {
    json!({"kind": "Gateway", "name": "edge", "spec": spec})
}

fn listener(spec: serde_json::Value) -> serde_json::Value {
    gateway(json!({"listeners": [spec]}))
}

fn route(spec: serde_json::Value) -> serde_json::Value {
    json!({"kind": "Route", "name": "shop", "spec": spec})
}

fn rule(rule: serde_json::Value) -> serde_json::Value {
    route(json!({"gateways": ["edge"], "rules": [rule]}))
}

fn matching(m: serde_json::Value) -> serde_json::Value {
    rule(json!({"matches": [m], "backends": [{"service": "cart"}]}))
}

fn mesh(rule: serde_json::Value) -> serde_json::Value {
    route(json!({"mesh": true, "hosts": ["cart"], "rules": [rule]}))
}

#[test]
fn each_bad_field_is_named_with_its_path_and_reason() {
    let to = json!([{"service": "cart"}]);
    let long = "x".repeat(4097);
    #[rustfmt::skip]
    let table = [
        (service(json!({"connect_timeout": "0s"})), "spec.connect_timeout", "more than 0s"),
        (service(json!({"connect_timeout": "-1s"})), "spec.connect_timeout", "negative"),
        (service(json!({"connect_timeout": "99999999s"})), "spec.connect_timeout", "a year"),
        (service(json!({"max_requests_per_connection": 0})), "spec.max_requests_per_connection", "at least 1"),
        (service(json!({"subsets": {"a/b": {"labels": {"v": "1"}}}})), "spec.subsets[\"a/b\"]", "`/`"),
        (service(json!({"subsets": {"v1": {}}})), "spec.subsets[\"v1\"].labels", "at least one"),
        (service(json!({"discovery": {}})), "spec.discovery", "must say where"),
        (service(json!({"discovery": {"static": {}}})), "spec.discovery.static.addresses", "at least one"),
        (service(json!({"discovery": {"static": {"addresses": ["host:80"]}}})), "spec.discovery.static.addresses[0]", "not ADDRESS:PORT"),
        (service(json!({"discovery": {"static": {"addresses": ["10.0.0.1:0"]}}})), "spec.discovery.static.addresses[0]", "port"),
        (service(json!({"discovery": {"static": {"addresses": ["10.0.0.1:1", "10.0.0.1:1"]}}})), "spec.discovery.static.addresses[1]", "twice"),
        (service(json!({"discovery": {"dns": {"hostname": "a b", "port": 80}}})), "spec.discovery.dns.hostname", "not a host name"),
        (service(json!({"discovery": {"dns": {"hostname": "a", "port": 0}}})), "spec.discovery.dns.port", "1 to 65535"),
        (service(json!({"discovery": {"dns": {"hostname": "a", "port": 1}}, "subsets": {"v": {"labels": {"a": "b"}}}})), "spec.subsets", "DNS"),
        (service(json!({"discovery": {"service": "a/b"}})), "spec.discovery.service", "`/`"),
        (gateway(json!({})), "spec.listeners", "at least one"),
        (listener(json!({"port": 0})), "spec.listeners[0].port", "1 to 65535"),
        (listener(json!({"port": 70000})), "spec.listeners[0].port", "1 to 65535"),
        (listener(json!({"port": 80, "address": "localhost"})), "spec.listeners[0].address", "not an IP address"),
        (listener(json!({"port": 80, "name": "a/b"})), "spec.listeners[0].name", "`/`"),
        (listener(json!({"port": 80, "hostnames": ["*"]})), "spec.listeners[0].hostnames[0]", "leave the list empty"),
        (listener(json!({"port": 80, "hostnames": ["a.*"]})), "spec.listeners[0].hostnames[0]", "only in front"),
        (listener(json!({"port": 80, "hostnames": ["a.com", "A.com"]})), "spec.listeners[0].hostnames[1]", "twice"),
        (gateway(json!({"listeners": [{"port": 80, "name": "a"}, {"port": 81, "name": "a"}]})), "spec.listeners[1].name", "twice"),
        (gateway(json!({"listeners": [{"port": 80, "name": "a"}, {"port": 80, "name": "b", "address": "10.0.0.1"}]})), "spec.listeners[1].port", "taken by listeners[0]"),
        (gateway(json!({"listeners": [{"port": 80}], "access_log": {}})), "spec.access_log.path", "must not be empty"),
        (gateway(json!({"listeners": [{"port": 80}], "access_log": {"path": "/l", "format": "%REQ(x)% %"}})), "spec.access_log.format", "lone `%`"),
        (gateway(json!({"listeners": [{"port": 80}], "access_log": {"path": "/l", "json": {"a": ["%X"]}}})), "spec.access_log.json[\"a\"][0]", "lone `%`"),
        (gateway(json!({"listeners": [{"port": 80}], "access_log": {"path": "/l", "format": "x", "json": {"a": "b"}}})), "spec.access_log", "both"),
        (route(json!({"rules": [{"backends": to}]})), "spec.gateways", "serves nobody"),
        (route(json!({"gateways": ["a", "a"], "rules": [{"backends": to}]})), "spec.gateways[1]", "twice"),
        (route(json!({"gateways": ["a/b"], "rules": [{"backends": to}]})), "spec.gateways[0]", "`/`"),
        (route(json!({"gateways": ["a"]})), "spec.rules", "at least one"),
        (route(json!({"gateways": ["a"], "hosts": ["a.com:80"], "rules": [{"backends": to}]})), "spec.hosts[0]", "must not have a port"),
        (route(json!({"gateways": ["a"], "hosts": ["a..b"], "rules": [{"backends": to}]})), "spec.hosts[0]", "not a host name"),
        (route(json!({"gateways": ["a"], "hosts": ["a", "a"], "rules": [{"backends": to}]})), "spec.hosts[1]", "twice"),
        (route(json!({"gateways": ["a"], "rules": [{"name": "x", "matches": [{"prefix": "/a"}], "backends": to}, {"name": "x", "backends": to}]})), "spec.rules[1].name", "twice"),
        (rule(json!({})), "spec.rules[0]", "must say what happens"),
        (rule(json!({"backends": to, "respond": {"status": 200}})), "spec.rules[0]", "only one"),
        (rule(json!({"backends": [{"service": ""}]})), "spec.rules[0].backends[0].service", "must not be empty"),
        (rule(json!({"backends": [{"service": "a", "subset": "/"}]})), "spec.rules[0].backends[0].subset", "`/`"),
        (rule(json!({"backends": [{"service": "a", "weight": 0}]})), "spec.rules[0].backends", "weight 0"),
        (rule(json!({"backends": [{"service": "a"}, {"service": "a"}]})), "spec.rules[0].backends[1]", "twice"),
        (rule(json!({"backends": [{"service": "a", "weight": 4294967295u32}, {"service": "b"}]})), "spec.rules[0].backends", "at most 4294967295"),
        (rule(json!({"backends": to, "timeout": "-1s"})), "spec.rules[0].timeout", "negative"),
        (rule(json!({"respond": {"status": 200}, "timeout": "1s"})), "spec.rules[0].timeout", "needs backends"),
        (rule(json!({"respond": {"status": 199}})), "spec.rules[0].respond.status", "200 to 599"),
        (rule(json!({"respond": {"status": 200, "body": long}})), "spec.rules[0].respond.body", "4096"),
        (rule(json!({"redirect": {}})), "spec.rules[0].redirect", "must change something"),
        (rule(json!({"redirect": {"status": 304, "host": "a"}})), "spec.rules[0].redirect.status", "301, 302"),
        (rule(json!({"redirect": {"scheme": "ftp"}})), "spec.rules[0].redirect.scheme", "http"),
        (rule(json!({"redirect": {"host": "a b"}})), "spec.rules[0].redirect.host", "not a host"),
        (rule(json!({"redirect": {"host": "a", "port": 65536}})), "spec.rules[0].redirect.port", "1 to 65535"),
        (rule(json!({"redirect": {"path": "/a", "prefix": "/b"}})), "spec.rules[0].redirect", "both"),
        (rule(json!({"redirect": {"prefix": "/b"}})), "spec.rules[0].redirect.prefix", "nothing to replace"),
        (rule(json!({"redirect": {"path": "b"}})), "spec.rules[0].redirect.path", "begin with `/`"),
        (rule(json!({"backends": to, "rewrite": {}})), "spec.rules[0].rewrite", "prefix or a host"),
        (rule(json!({"backends": to, "rewrite": {"prefix": "/a"}})), "spec.rules[0].rewrite.prefix", "nothing to replace"),
        (rule(json!({"respond": {"status": 200}, "rewrite": {"host": "a"}})), "spec.rules[0].rewrite", "needs backends"),
        (rule(json!({"backends": to, "rewrite": {"host": "a/b"}})), "spec.rules[0].rewrite.host", "not a host"),
        (rule(json!({"backends": to, "request_headers": {"set": {"a b": "c"}}})), "spec.rules[0].request_headers.set[\"a b\"]", "not a header name"),
        (rule(json!({"backends": to, "request_headers": {"set": {"x": "50%"}}})), "spec.rules[0].request_headers.set[\"x\"]", "lone `%`"),
        (rule(json!({"backends": to, "request_headers": {"set": {"x": "a\r\nb: c"}}})), "spec.rules[0].request_headers.set[\"x\"]", "line breaks"),
        (rule(json!({"backends": to, "request_headers": {"add": {"Host": "a"}}})), "spec.rules[0].request_headers.add[\"Host\"]", "cannot be edited"),
        (rule(json!({"backends": to, "response_headers": {"remove": [":status"]}})), "spec.rules[0].response_headers.remove[0]", "cannot be edited"),
        (rule(json!({"backends": to, "request_headers": {"set": {"x": "a", "X": "b"}}})), "spec.rules[0].request_headers.set[\"x\"]", "twice"),
        (matching(json!({"prefix": "a"})), "spec.rules[0].matches[0].prefix", "begin with `/`"),
        (matching(json!({"exact": "/a?b"})), "spec.rules[0].matches[0].exact", "`?`"),
        (matching(json!({"regex": "("})), "spec.rules[0].matches[0].regex", "not a regular expression"),
        (matching(json!({"regex": "[a-z&&[^b]]"})), "spec.rules[0].matches[0].regex", "not RE2"),
        (matching(json!({"regex": ""})), "spec.rules[0].matches[0].regex", "must not be empty"),
        (matching(json!({"method": "G T"})), "spec.rules[0].matches[0].method", "not a method"),
        (matching(json!({"headers": [{"name": ""}]})), "spec.rules[0].matches[0].headers[0].name", "must not be empty"),
        (matching(json!({"headers": [{"name": "a", "regex": "["}]})), "spec.rules[0].matches[0].headers[0].regex", "not a regular expression"),
        (matching(json!({"headers": [{"name": "a", "prefix": ""}]})), "spec.rules[0].matches[0].headers[0].prefix", "must not be empty"),
        (matching(json!({"query": [{"name": "a", "not": true}]})), "spec.rules[0].matches[0].query[0].not", "not possible"),
        (matching(json!({"grpc": "a.B/C", "prefix": "/"})), "spec.rules[0].matches[0].grpc", "in place of a path"),
        (matching(json!({"grpc": "a/b/c"})), "spec.rules[0].matches[0].grpc", "package.Service"),
        (mesh(json!({"redirect": {"host": "b"}})), "spec.rules[0].redirect", "gRPC"),
        (mesh(json!({"respond": {"status": 200}})), "spec.rules[0].respond", "gRPC"),
        (mesh(json!({"backends": to, "rewrite": {"host": "b"}})), "spec.rules[0].rewrite", "gRPC"),
        (mesh(json!({"backends": to, "request_headers": {"remove": ["x"]}})), "spec.rules[0].request_headers", "gRPC"),
        (mesh(json!({"backends": to, "matches": [{"query": [{"name": "a"}]}]})), "spec.rules[0].matches[0].query", "gRPC"),
        (mesh(json!({"backends": to, "matches": [{"method": "GET"}]})), "spec.rules[0].matches[0].method", "POST"),
        (mesh(json!({"backends": to, "matches": [{"headers": [{"name": "x-bin"}]}]})), "spec.rules[0].matches[0].headers[0].name", "gRPC"),
    ];
    for (text, path, message) in table {
        let found = problems(&text);
        assert!(
            found.iter().any(|p| p.starts_with(&format!("{path}: ")) && p.contains(message)),
            "{text}\n  wants {path}: ..{message}..\n  has   {found:#?}"
        );
    }
}

#[test]
fn good_objects_have_no_problems() {
    let good = [
        service(json!({})),
        service(json!({
            "protocol": "HTTP2", "load_balancing": "LEAST_REQUEST", "connect_timeout": "0.25s",
            "subsets": {"v1": {"labels": {"version": "1"}}}, "max_requests_per_connection": 100,
        })),
        service(json!({"discovery": {"static": {"addresses": ["10.0.0.1:80", "[::1]:80"]}}})),
        service(json!({"discovery": {"dns": {"hostname": "db.example.com", "port": 80}}})),
        gateway(json!({
            "listeners": [{"port": 80, "hostnames": ["a.com", "*.b.com"]}, {"port": 80, "name": "six", "address": "::"}],
            "access_log": {"path": "/dev/stdout", "json": {"path": "%REQ(:PATH):30%", "n": 1}},
        })),
        route(json!({"gateways": ["edge"], "hosts": ["a.com", "*.b.com", "*"], "rules": [
            {"matches": [{"path_prefix": "/a", "method": "GET", "headers": [{"name": ":authority", "exact": ""}]}],
             "rewrite": {"prefix": "/", "host": "x.com:80"}, "backends": [{"service": "a", "weight": 0}, {"service": "b"}]},
            {"matches": [{"grpc": "pkg.Service/Call"}], "backends": [{"service": "g"}], "timeout": "0s"},
            {"matches": [{"exact": "/old"}], "redirect": {"prefix": "/new", "status": 308}},
            {"respond": {"status": 404, "body": "no"}, "response_headers": {"set": {"x": "100%% %START_TIME(%s)%"}}},
        ]})),
        mesh(
            json!({"matches": [{"path_prefix": "/a.B"}], "backends": [{"service": "cart", "subset": "v2"}]}),
        ),
    ];
    for text in good {
        assert_eq!(problems(&text), [""; 0], "{text}");
    }
}

#[test]
fn every_error_is_reported_at_once() {
    let found = problems(&rule(json!({
        "matches": [{"prefix": "a", "method": "?"}],
        "backends": [{"service": "/"}],
        "redirect": {"status": 1},
        "timeout": "-1s",
    })));
    assert!(found.len() >= 6, "{found:#?}");
}

#[test]
fn a_rule_behind_one_that_takes_all_is_warned_about() {
    let key = ObjectKey::new(crate::model::Kind::Route, "shop".parse().unwrap());
    let text = route(json!({"gateways": ["edge"], "rules": [
        {"backends": [{"service": "a"}]},
        {"matches": [{"exact": "/b"}], "backends": [{"service": "b"}]},
    ]}));
    let found = object(&key, Object::stored(key.clone(), 1, &text.to_string()).resource().unwrap());
    assert!(!found.has_errors());
    assert!(found.warnings().any(|p| p.path == "spec.rules[1]" && p.message.contains("never reached")));
}
