use super::*;
use crate::model::{Object, check};
use serde_json::{Value as Json, json};
use xds_types::text;

/// The routes that a Route's rules become, as JSON.
fn compiled(rules: &Json, dialect: Dialect) -> Vec<Json> {
    let key = ObjectKey::new(crate::model::Kind::Route, "shop".parse().unwrap());
    let spec = match dialect {
        Dialect::Envoy => json!({"gateways": ["edge"], "rules": rules}),
        Dialect::Grpc => json!({"mesh": true, "rules": rules}),
    };
    let object =
        Object::stored(key.clone(), 1, &json!({"kind": "Route", "name": "shop", "spec": spec}).to_string());
    let found = check::object(&key, object.resource().unwrap_or_else(|| panic!("{:?}", object.content)));
    assert!(!found.has_errors(), "{found}");
    let mut found = Problems::default();
    let routes = routes(&key, object.route().unwrap(), dialect, &mut found);
    assert!(found.list.is_empty(), "{found}");
    routes.iter().map(text::to_json).collect()
}

fn one(rule: &Json) -> Json {
    let mut all = compiled(&json!([rule]), Dialect::Envoy);
    assert_eq!(all.len(), 1, "{all:#?}");
    all.remove(0)
}

fn matching(m: &Json) -> Json {
    one(&json!({"matches": [m], "backends": [{"service": "cart"}]}))["match"].clone()
}

#[test]
fn each_kind_of_path_is_matched_by_its_own_specifier() {
    let table = [
        (json!({}), json!({"prefix": "/"})),
        (json!({"prefix": "/a"}), json!({"prefix": "/a"})),
        (json!({"exact": "/a"}), json!({"path": "/a"})),
        (json!({"regex": "/a/[0-9]+"}), json!({"safe_regex": {"regex": "/a/[0-9]+"}})),
        (json!({"path_prefix": "/a"}), json!({"path_separated_prefix": "/a"})),
        (json!({"path_prefix": "/a/"}), json!({"path_separated_prefix": "/a"})),
        (json!({"path_prefix": "/"}), json!({"prefix": "/"})),
        (json!({"grpc": "pkg.Cart"}), json!({"prefix": "/pkg.Cart/", "grpc": {}})),
        (json!({"grpc": "pkg.Cart/Get"}), json!({"path": "/pkg.Cart/Get", "grpc": {}})),
    ];
    for (written, emitted) in table {
        assert_eq!(matching(&written), emitted, "{written}");
    }
}

#[test]
fn methods_headers_and_queries_become_matchers() {
    let m = matching(&json!({
        "prefix": "/", "method": "GET",
        "headers": [
            {"name": "X-A", "exact": "1"}, {"name": "b", "regex": "v.*", "not": true},
            {"name": "c"}, {"name": "d", "present": false},
        ],
        "query": [{"name": "q"}, {"name": "r", "prefix": "x"}],
    }));
    assert_eq!(
        m["headers"],
        json!([
            {"name": ":method", "string_match": {"exact": "GET"}},
            {"name": "x-a", "string_match": {"exact": "1"}},
            {"name": "b", "invert_match": true, "string_match": {"safe_regex": {"regex": "v.*"}}},
            {"name": "c", "present_match": true},
            {"name": "d", "present_match": false},
        ])
    );
    assert_eq!(
        m["query_parameters"],
        json!([{"name": "q", "present_match": true}, {"name": "r", "string_match": {"prefix": "x"}}])
    );
}

#[test]
fn backends_are_chosen_by_weight_and_those_of_weight_zero_stay_named() {
    assert_eq!(one(&json!({"backends": [{"service": "a"}]}))["route"], json!({"cluster": "a"}));
    assert_eq!(
        one(&json!({"backends": [{"service": "a", "subset": "v2"}], "timeout": "0s"}))["route"],
        json!({"cluster": "a/v2", "timeout": "0s"})
    );
    assert_eq!(
        one(&json!({"backends": [{"service": "a", "weight": 100}, {"service": "b", "weight": 0}]}))["route"],
        json!({"weighted_clusters": {"clusters": [{"name": "a", "weight": 100}, {"name": "b", "weight": 0}]}})
    );
}

#[test]
fn redirects_and_answers_of_the_proxy_itself() {
    let rule =
        json!({"redirect": {"scheme": "https", "host": "b.com", "port": 8443, "path": "/x", "status": 308}});
    assert_eq!(
        one(&rule)["redirect"],
        json!({
            "scheme_redirect": "https", "host_redirect": "b.com", "port_redirect": 8443, "path_redirect": "/x",
            "response_code": "PERMANENT_REDIRECT",
        })
    );
    let rule = json!({"respond": {"status": 404, "body": "no"}});
    assert_eq!(one(&rule)["direct_response"], json!({"status": 404, "body": {"inline_string": "no"}}));
}

#[test]
fn a_rewritten_prefix_neither_doubles_nor_loses_a_slash() {
    let rewritten = |m: Json, to: &str| {
        one(&json!({"matches": [m], "rewrite": {"prefix": to}, "backends": [{"service": "a"}]}))["route"]
            .clone()
    };
    assert_eq!(rewritten(json!({"prefix": "/a/"}), "/")["prefix_rewrite"], "/");
    assert_eq!(rewritten(json!({"path_prefix": "/a"}), "/b")["prefix_rewrite"], "/b");
    assert_eq!(rewritten(json!({"path_prefix": "/"}), "/b/")["prefix_rewrite"], "/b/");
    assert_eq!(
        rewritten(json!({"path_prefix": "/a.b"}), "/")["regex_rewrite"],
        json!({"pattern": {"regex": r"^/a\.b/*"}, "substitution": "/"})
    );
}

#[test]
fn header_edits_come_in_the_order_of_their_names() {
    let rule = json!({
        "backends": [{"service": "a"}],
        "request_headers": {"set": {"z": "1", "a": "%REQ(x)%"}, "add": {"m": ""}, "remove": ["r"]},
    });
    let route = one(&rule);
    assert_eq!(
        route["request_headers_to_add"],
        json!([
            {"header": {"key": "a", "value": "%REQ(x)%"}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"},
            {"header": {"key": "m"}, "keep_empty_value": true},
            {"header": {"key": "z", "value": "1"}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"},
        ])
    );
    assert_eq!(route["request_headers_to_remove"], json!(["r"]));
}

#[test]
fn every_match_is_a_route_and_rules_keep_their_order() {
    let rules = json!([
        {"name": "first", "matches": [{"exact": "/a"}, {"exact": "/b"}], "backends": [{"service": "a"}]},
        {"backends": [{"service": "b"}]},
    ]);
    let names: Vec<Json> = compiled(&rules, Dialect::Envoy).iter().map(|r| r["name"].clone()).collect();
    assert_eq!(names, ["shop/first", "shop/first", "shop/1"]);
}

#[test]
fn grpc_clients_get_only_what_they_know() {
    let rules = json!([
        {"matches": [{"path_prefix": "/pkg.Cart", "method": "POST"}], "backends": [{"service": "a"}], "timeout": "3s"},
        {"matches": [{"grpc": "pkg.Pay"}], "backends": [{"service": "b"}], "timeout": "0s"},
        {"backends": [{"service": "c"}]},
    ]);
    let all = compiled(&rules, Dialect::Grpc);
    let matches: Vec<Json> = all.iter().map(|r| r["match"].clone()).collect();
    assert_eq!(
        matches,
        [
            json!({"path": "/pkg.Cart"}), // no separated prefix
            json!({"prefix": "/pkg.Cart/"}),
            json!({"prefix": "/pkg.Pay/"}),
            json!({"prefix": ""}),
        ]
    );
    assert_eq!(all[0]["route"]["max_stream_duration"], json!({"max_stream_duration": "3s"}));
    assert_eq!(all[2]["route"], json!({"cluster": "b"}), "no limit is gRPC's own default");
}

#[test]
fn a_patch_reaches_every_route() {
    let key = ObjectKey::new(crate::model::Kind::Route, "shop".parse().unwrap());
    let text = json!({"kind": "Route", "name": "shop", "spec": {
        "gateways": ["edge"],
        "rules": [{"matches": [{"exact": "/a"}, {"exact": "/b"}], "backends": [{"service": "a"}]}],
        "patch": {"route": {"route": {"retry_policy": {"retry_on": "5xx", "num_retries": 3}}}},
    }});
    let object = Object::stored(key.clone(), 1, &text.to_string());
    let mut found = Problems::default();
    let all = routes(&key, object.route().unwrap(), Dialect::Envoy, &mut found);
    assert!(found.list.is_empty(), "{found}");
    for r in &all {
        assert_eq!(text::to_json(r)["route"]["retry_policy"]["num_retries"], 3);
        assert_eq!(text::to_json(r)["route"]["cluster"], "a");
    }
}
