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

fn limited(limits: serde_json::Value) -> serde_json::Value {
    gateway(json!({"listeners": [{"port": 1}], "limits": limits}))
}

fn policy(spec: serde_json::Value) -> serde_json::Value {
    json!({"kind": "Policy", "name": "calm", "spec": spec})
}

fn limits(limits: serde_json::Value) -> serde_json::Value {
    policy(json!({"targets": [{"gateway": "edge"}], "rate_limit": {"limits": limits}}))
}

fn descriptors(descriptors: serde_json::Value) -> serde_json::Value {
    policy(json!({"rate_limit_domain": {"domain": "d", "descriptors": descriptors}}))
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
        (service(json!({"mtls": "strict", "tls": {}})), "spec.tls", "cannot be used with `mtls`"),
        (service(json!({"tls": {"mode": "skip_verify", "ca": "a"}})), "spec.tls", "nothing to verify"),
        (service(json!({"tls": {"sni": "*.a"}})), "spec.tls.sni", "not a host name"),
        (service(json!({"tls": {"sans": [{}]}})), "spec.tls.sans[0]", "one of dns, ip and uri"),
        (service(json!({"tls": {"sans": [{"ip": "a"}]}})), "spec.tls.sans[0]", "not an IP address"),
        (service(json!({"tls": {"ca": "a/b"}})), "spec.tls.ca", "must not contain"),
        (listener(json!({"port": 1, "protocol": "HTTPS"})), "spec.listeners[0].tls", "needed by HTTPS"),
        (listener(json!({"port": 1, "tls": {"certificates": ["a"]}})), "spec.listeners[0].tls", "needs `protocol: HTTPS`"),
        (listener(json!({"port": 1, "protocol": "HTTPS", "tls": {}})), "spec.listeners[0].tls.certificates", "at least one"),
        (listener(json!({"port": 1, "protocol": "HTTPS", "tls": {"certificates": ["a", "a"]}})), "spec.listeners[0].tls.certificates[1]", "there twice"),
        (listener(json!({"port": 1, "protocol": "HTTPS", "tls": {"certificates": ["a"], "require_client_certificate": true}})), "spec.listeners[0].tls.client_ca", "needed by"),
        (listener(json!({"port": 1, "protocol": "HTTPS", "tls": {"certificates": ["a"], "alpn": ["h3"]}})), "spec.listeners[0].tls.alpn[0]", "`h2` or"),
        (listener(json!({"port": 1, "protocol": "HTTPS", "tls": {"certificates": ["a"]}, "redirect_to_https": 1})), "spec.listeners[0].redirect_to_https", "HTTP listeners only"),
        (listener(json!({"port": 1, "redirect_to_https": 70000})), "spec.listeners[0].redirect_to_https", "1 to 65535"),
        (listener(json!({"port": 1, "mtls": "strict"})), "spec.group", "needed with `mtls`"),
        (gateway(json!({"listeners": [{"port": 1}], "service": "cart"})), "spec.group", "needed with `service`"),
        (gateway(json!({"listeners": [
            {"name": "a", "port": 1, "protocol": "HTTPS", "hostnames": ["x.a"], "tls": {"certificates": ["a"]}},
            {"name": "b", "port": 1, "protocol": "HTTPS", "hostnames": ["X.a"], "tls": {"certificates": ["a"]}}]})), "spec.listeners[1].port", "is taken"),
        (gateway(json!({"listeners": [
            {"name": "a", "port": 1, "protocol": "HTTPS", "hostnames": ["x.a"], "tls": {"certificates": ["a"]}},
            {"name": "b", "port": 1, "hostnames": ["y.a"]}]})), "spec.listeners[1].port", "is taken"),
        (service(json!({"health_check": {}})), "spec.health_check", "must say how"),
        (service(json!({"health_check": {"http": {"path": "x"}}})), "spec.health_check.http.path", "from `/`"),
        (service(json!({"health_check": {"http": {"path": "/", "method": "CONNECT"}}})), "spec.health_check.http.method", "one of GET"),
        (service(json!({"health_check": {"http": {"path": "/", "expected": ["200-"]}}})), "spec.health_check.http.expected[0]", "`200-299`"),
        (service(json!({"health_check": {"http": {"path": "/", "headers": {"Host": "a"}}}})), "spec.health_check.http.headers[\"Host\"]", "fields of their own"),
        (service(json!({"health_check": {"grpc": {}}})), "spec.health_check.grpc", "HTTP2"),
        (service(json!({"health_check": {"tcp": {"receive": [""]}}})), "spec.health_check.tcp.receive[0]", "empty"),
        (service(json!({"health_check": {"tcp": {}, "interval": "0s"}})), "spec.health_check.interval", "more than 0s"),
        (service(json!({"health_check": {"tcp": {}, "healthy_threshold": 0}})), "spec.health_check.healthy_threshold", "at least 1"),
        (service(json!({"health_check": {"tcp": {}, "jitter_percent": 101}})), "spec.health_check.jitter_percent", "0 to 100"),
        (service(json!({"health_check": {"tcp": {}, "port": 70000}})), "spec.health_check.port", "1 to 65535"),
        (service(json!({"outlier_detection": {"max_ejection": "1s"}})), "spec.outlier_detection.max_ejection", "base_ejection"),
        (service(json!({"outlier_detection": {"max_ejected_percent": 101}})), "spec.outlier_detection.max_ejected_percent", "0 to 100"),
        (service(json!({"outlier_detection": {"failure_percentage": {"threshold": 0}}})), "spec.outlier_detection.failure_percentage.threshold", "1 to 100"),
        (service(json!({"circuit_breaker": {}})), "spec.circuit_breaker", "never opens"),
        (service(json!({"circuit_breaker": {"slow_percent": 5}})), "spec.circuit_breaker.slow_duration", "needed"),
        (service(json!({"circuit_breaker": {"failure_percent": 5, "window": "0.001s"}})), "spec.circuit_breaker.window", "0.01s"),
        (service(json!({"circuit_breaker": {"failure_percent": 5, "max_open_time": "1s"}})), "spec.circuit_breaker.max_open_time", "open_time"),
        (service(json!({"limits": {"retries": 1, "retry_budget": {}}})), "spec.limits.retries", "no effect"),
        (service(json!({"limits": {"retry_budget": {"percent": 0}}})), "spec.limits.retry_budget.percent", "more than 0"),
        (service(json!({"hash_table": {"min_size": 1}})), "spec.hash_table.min_size", "RING_HASH"),
        (service(json!({"load_balancing": "MAGLEV", "hash_table": {"table_size": 10}})), "spec.hash_table.table_size", "prime"),
        (service(json!({"load_balancing": "RING_HASH", "hash_table": {"max_size": 10}})), "spec.hash_table.max_size", "min_size"),
        (service(json!({"load_balancing": "RANDOM", "slow_start": {"window": "1s"}})), "spec.slow_start", "ROUND_ROBIN"),
        (service(json!({"slow_start": {}})), "spec.slow_start.window", "needed"),
        (service(json!({"zones": {"order": ["a", "a"]}})), "spec.zones.order[1]", "once"),
        (service(json!({"zones": {"overprovisioning_percent": 99}})), "spec.zones.overprovisioning_percent", "100 to 10000"),
        (limited(json!({"max_request_headers_kib": 9000})), "spec.limits.max_request_headers_kib", "1 to 8192"),
        (limited(json!({"request_headers_timeout": "0s"})), "spec.limits.request_headers_timeout", "more than 0s"),
        (rule(json!({"backends": to, "retry": {"on": ["often"]}})), "spec.rules[0].retry.on[0]", "one of 5xx"),
        (rule(json!({"backends": to, "retry": {"attempts": 0}})), "spec.rules[0].retry.attempts", "1 to 100"),
        (rule(json!({"backends": to, "retry": {"statuses": [99]}})), "spec.rules[0].retry.statuses[0]", "100 to 599"),
        (rule(json!({"backends": to, "retry": {"max_backoff": "0.001s"}})), "spec.rules[0].retry.max_backoff", "backoff"),
        (rule(json!({"respond": {"status": 200}, "retry": {}})), "spec.rules[0].retry", "needs backends"),
        (rule(json!({"backends": to, "mirrors": [{"service": "a/b"}]})), "spec.rules[0].mirrors[0].service", "`/`"),
        (rule(json!({"backends": to, "mirrors": [{"service": "a", "percent": 101}]})), "spec.rules[0].mirrors[0].percent", "at most 100"),
        (rule(json!({"backends": to, "hash": [{}]})), "spec.rules[0].hash[0]", "must say what"),
        (rule(json!({"backends": to, "hash": [{"cookie": {"name": "a b"}}]})), "spec.rules[0].hash[0].cookie.name", "not a cookie"),
        (mesh(json!({"backends": to, "hash": [{"client_ip": true}]})), "spec.rules[0].hash[0]", "gRPC"),
        (mesh(json!({"backends": to, "retry": {"on": ["5xx"]}})), "spec.rules[0].retry.on", "gRPC"),
        (mesh(json!({"backends": to, "mirrors": [{"service": "a"}]})), "spec.rules[0].mirrors", "gRPC"),
        (policy(json!({})), "spec", "must say what"),
        (limits(json!([])), "spec.rate_limit.limits", "at least one"),
        (limits(json!([{}])), "spec.rate_limit.limits[0].requests", "needed"),
        (limits(json!([{"requests": 1, "scope": "LOCAL", "algorithm": "FIXED_WINDOW"}])), "spec.rate_limit.limits[0].algorithm", "TOKEN_BUCKET"),
        (limits(json!([{"requests": 1, "burst": 2}])), "spec.rate_limit.limits[0].burst", "TOKEN_BUCKET"),
        (limits(json!([{"requests": 1, "name": "a b"}])), "spec.rate_limit.limits[0].name", "letters"),
        (limits(json!([{"requests": 1, "per": [{}]}])), "spec.rate_limit.limits[0].per[0]", "by what"),
        (limits(json!([{"requests": 1, "per": [{"client_ip": {"v4_bits": 33}}]}])), "spec.rate_limit.limits[0].per[0].client_ip.v4_bits", "1 to 32"),
        (limits(json!([{"requests": 1, "per": [{"metadata": {"namespace": "a"}}]}])), "spec.rate_limit.limits[0].per[0].metadata.path", "at least one"),
        (policy(json!({"rate_limit": {"limits": [{"requests": 1}]}})), "spec.targets", "at least one"),
        (policy(json!({"targets": [{"gateway": "a", "rule": "b"}], "rate_limit": {"limits": [{"requests": 1}]}})), "spec.targets[0].rule", "needs a route"),
        (policy(json!({"targets": [{}], "rate_limit": {"limits": [{"requests": 1}]}})), "spec.targets[0]", "gateway"),
        (descriptors(json!([{"value": "a"}])), "spec.rate_limit_domain.descriptors[0].key", "empty"),
        (descriptors(json!([{"key": "a", "value": "*a"}])), "spec.rate_limit_domain.descriptors[0].value", "at its end"),
        (descriptors(json!([{"key": "a"}, {"key": "a"}])), "spec.rate_limit_domain.descriptors[1]", "twice"),
        (descriptors(json!([{"key": "a", "rate_limit": {"requests_per_unit": 1}}])), "spec.rate_limit_domain.descriptors[0].rate_limit.unit", "needed"),
        (descriptors(json!([{"key": "a", "descriptors": [{"key": "b", "share_threshold": true}]}])), "spec.rate_limit_domain.descriptors[0].descriptors[0].share_threshold", "`*`"),
        (policy(json!({"rate_limit_domain": {"domain": "portolan"}})), "spec.rate_limit_domain.domain", "other policies"),
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
        (gateway(json!({"listeners": [{"port": 80}], "access_log": {"service": "a/b"}})), "spec.access_log.service", "`a/b`"),
        (gateway(json!({"listeners": [{"port": 80}], "access_log": {"service": "a", "format": "x"}})), "spec.access_log", "no path"),
        (gateway(json!({"listeners": [{"port": 80}], "access_log": {"path": "/l", "log_name": "x"}})), "spec.access_log.log_name", "there is none"),
        (gateway(json!({"listeners": [{"port": 80}], "tracing": {}})), "spec.tracing.service", "must not be empty"),
        (gateway(json!({"listeners": [{"port": 80}], "tracing": {"service": "a", "sampling_percent": 101}})), "spec.tracing.sampling_percent", "0 to 100"),
        (gateway(json!({"listeners": [{"port": 80}], "tracing": {"service": "a", "tags": {"t": "%X"}}})), "spec.tracing.tags[\"t\"]", "lone `%`"),
        (gateway(json!({"listeners": [{"port": 80}], "metadata": [{}]})), "spec.metadata[0].header", "must not be empty"),
        (gateway(json!({"listeners": [{"port": 80}], "metadata": [{"header": "a"}, {"header": "b", "key": "a"}]})), "spec.metadata[1].key", "twice"),
        (gateway(json!({"listeners": [{"port": 80}], "local_replies": {}})), "spec.local_replies", "one of format and json"),
        (gateway(json!({"listeners": [{"port": 80}], "local_replies": {"json": {"a": "%"}}})), "spec.local_replies.json[\"a\"]", "lone `%`"),
        (rule(json!({"priority": "HIGH", "respond": {"status": 200}})), "spec.rules[0].priority", "needs backends"),
        (mesh(json!({"priority": "HIGH", "backends": [{"service": "cart"}]})), "spec.rules[0].priority", "gRPC clients"),
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
