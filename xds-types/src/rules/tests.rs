use super::*;
use crate::descriptors;
use crate::envoy::config::bootstrap::v3::Bootstrap;
use crate::envoy::config::cluster::v3::Cluster;
use crate::envoy::config::listener::v3::Listener;
use crate::text;

fn found<M: Message + Name + Default>(yaml: &str) -> Vec<String> {
    let message: M = text::from_yaml(yaml).unwrap_or_else(|e| panic!("{e}"));
    check(&message).into_iter().map(|v| format!("{}: {}", v.path, v.message)).collect()
}

#[test]
fn every_rule_in_envoys_protos_is_understood() {
    let mut with_rules = 0;
    for message in descriptors::pool().all_messages() {
        let compiled = compile::compile(&message);
        let compiled = compiled.unwrap_or_else(|e| panic!("{}: {e:?}", message.full_name()));
        with_rules += compiled.fields.iter().filter(|f| f.rule.is_some() || f.required).count();
    }
    assert!(with_rules > 1000, "only {with_rules} fields with rules: are the options still there?");
}

#[test]
fn broken_constraints_are_told_in_plain_words() {
    let cases: &[(&str, &[&str])] = &[
        ("{name: a, connect_timeout: 1s}", &[]),
        ("{}", &["name: must be at least 1 character"]),
        ("{name: a, connect_timeout: 0s}", &["connect_timeout: must be greater than 0s"]),
        ("{name: a, type: 77}", &["type: 77 is not a value of the enum DiscoveryType"]),
        (
            "{name: a, lb_policy: LOAD_BALANCING_POLICY_CONFIG, dns_lookup_family: 99}",
            &["dns_lookup_family: 99 is not a value of the enum DnsLookupFamily"],
        ),
        ("{name: a, lb_policy: 4}", &["lb_policy: 4 is not a value of the enum LbPolicy"]),
        (
            "{name: a, health_checks: [{tcp_health_check: {}}]}",
            &[
                "health_checks[0].timeout: is required",
                "health_checks[0].interval: is required",
                "health_checks[0].unhealthy_threshold: is required",
                "health_checks[0].healthy_threshold: is required",
            ],
        ),
        (
            "{name: a, health_checks: [{timeout: 1s, interval: 1s, unhealthy_threshold: 1, healthy_threshold: 1}]}",
            &[
                "health_checks[0]: one of `http_health_check`, `tcp_health_check`, `grpc_health_check`, `custom_health_check` is required",
            ],
        ),
        (
            "{name: a, load_assignment: {endpoints: []}}",
            &["load_assignment.cluster_name: must be at least 1 character"],
        ),
        (
            "{name: a, load_assignment: {cluster_name: a, endpoints: [{priority: 200, lb_endpoints: [{load_balancing_weight: 0, endpoint: {address: {socket_address: {address: b, port_value: 70000}}}}]}]}}",
            &[
                "load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.port_value: must be at most 65535",
                "load_assignment.endpoints[0].lb_endpoints[0].load_balancing_weight: must be at least 1",
                "load_assignment.endpoints[0].priority: must be at most 128",
            ],
        ),
        (
            "{name: a, outlier_detection: {max_ejection_percent: 101}}",
            &["outlier_detection.max_ejection_percent: must be at most 100"],
        ),
    ];
    for (yaml, expected) in cases {
        assert_eq!(&found::<Cluster>(yaml), expected, "{yaml}");
    }
}

const HCM: &str =
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";

#[test]
fn payloads_of_any_and_typed_structs_are_checked_at_the_path_of_their_field() {
    let hcm = format!(
        "{{'@type': {HCM}, codec_type: 9, route_config: {{virtual_hosts: [{{name: a, domains: [], routes: [{{match: {{path: /a}}}}]}}]}},
          http_filters: [{{name: r, typed_config: {{'@type': {HCM}, rds: {{route_config_name: a}}}}}}]}}"
    );
    let listener =
        |config: &str| format!("{{filter_chains: [{{filters: [{{name: f, typed_config: {config}}}]}}]}}");
    let at = "filter_chains[0].filters[0].typed_config";
    assert_eq!(
        found::<Listener>(&listener(&hcm)),
        [
            format!("{at}.codec_type: 9 is not a value of the enum CodecType"),
            format!("{at}.stat_prefix: must be at least 1 character"),
            format!("{at}.route_config.virtual_hosts[0].domains: must have at least 1 element"),
            format!(
                "{at}.route_config.virtual_hosts[0].routes[0]: one of `route`, `redirect`, `direct_response`, `filter_action`, `non_forwarding_action` is required"
            ),
            format!("{at}.http_filters[0].typed_config.stat_prefix: must be at least 1 character"),
        ]
    );
    let typed = format!(
        "{{'@type': type.googleapis.com/xds.type.v3.TypedStruct, type_url: {HCM}, value: {{route_config: {{virtual_hosts: {{name: a, domains: b, routes: {{match: {{}}}}}}}}}}}}"
    );
    assert_eq!(
        found::<Listener>(&listener(&typed)),
        [
            format!("{at}.stat_prefix: must be at least 1 character"),
            format!(
                "{at}.route_config.virtual_hosts[0].routes[0].match: one of `prefix`, `path`, `safe_regex`, `connect_matcher`, `path_separated_prefix`, `path_match_policy` is required"
            ),
            format!(
                "{at}.route_config.virtual_hosts[0].routes[0]: one of `route`, `redirect`, `direct_response`, `filter_action`, `non_forwarding_action` is required"
            ),
        ]
    );
}

#[test]
fn a_typed_struct_over_the_wire_that_is_not_its_message_is_told() {
    use crate::envoy::config::listener::v3::{Filter, FilterChain, filter::ConfigType};
    let value = text::from_yaml("{stat_prefx: a, codec_type: [1]}").unwrap();
    let typed = crate::typed_struct::TypedStruct { type_url: HCM.into(), value: Some(value) };
    let filter =
        Filter { name: "f".into(), config_type: Some(ConfigType::TypedConfig(crate::any::pack(&typed))) };
    let chain = FilterChain { filters: vec![filter], ..FilterChain::default() };
    let mut messages: Vec<String> =
        check(&chain).into_iter().map(|v| format!("{}: {}", v.path, v.message)).collect();
    messages.sort();
    assert_eq!(
        messages,
        [
            "filters[0].typed_config.codec_type: must be the name of an enum value, not a list",
            "filters[0].typed_config.stat_prefx: no such field; did you mean `stat_prefix`?",
        ]
    );
}

#[test]
fn malformed_payloads_are_told_and_unknown_ones_passed_over() {
    use crate::google::protobuf::Any;
    let check_any = |url: &str, value: Vec<u8>| check(&Any { type_url: url.into(), value });
    let name = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
    assert_eq!(
        check_any(name, vec![0xff])[0].message,
        "the bytes are not a `envoy.config.cluster.v3.Cluster`"
    );
    assert_eq!(check_any("type.googleapis.com/unknown.Type", vec![0xff]), []);
    assert_eq!(check_any("", Vec::new()), []);
    assert_eq!(
        check_any("x", Vec::new())[0].message,
        "type URL `x` is not of the form `type.googleapis.com/<message>`"
    );
    let mut any = crate::any::pack(&Cluster::default());
    for _ in 0..5000 {
        any = crate::any::pack(&any);
    }
    assert_eq!(check(&any)[0].message, "is nested too deeply");
    let _ = text::any_to_json(&any);
}

#[test]
fn map_keys_and_violations_past_the_limit_are_told() {
    let routes = "{match: {prefix: /}}, ".repeat(MAX_VIOLATIONS + 5);
    let yaml = format!("{{name: a, virtual_hosts: [{{name: b, domains: ['*'], routes: [{routes}]}}]}}");
    let all = found::<crate::envoy::config::route::v3::RouteConfiguration>(&yaml);
    assert_eq!(all.len(), MAX_VIOLATIONS + 1);
    assert_eq!(all[MAX_VIOLATIONS], ": and 5 more");
}

#[test]
fn header_names_and_values_are_checked() {
    let yaml = |name: &str| {
        format!(
            "{{name: a, virtual_hosts: [{{name: b, domains: ['*'], request_headers_to_remove: [{name:?}]}}]}}"
        )
    };
    let check = |name: &str| found::<crate::envoy::config::route::v3::RouteConfiguration>(&yaml(name));
    assert!(check("x-a").is_empty());
    let expected = "virtual_hosts[0].request_headers_to_remove[0]: must hold no line break and no zero byte";
    assert_eq!(check("x\ny"), [expected]);
}

#[test]
fn an_admin_without_address_and_a_bare_bootstrap_are_fine() {
    assert!(found::<Bootstrap>("{node: {id: a}}").is_empty());
}

/// Not a bench, a guard: validation is on the path of every xDS update.
#[test]
fn checking_a_cluster_is_cheap() {
    let text = "{name: a, connect_timeout: 1s, load_assignment: {cluster_name: a, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: b, port_value: 7}}}}]}]}}";
    let cluster: Cluster = text::from_yaml(text).unwrap();
    check(&cluster);
    let start = std::time::Instant::now();
    const ROUNDS: u32 = 2000;
    for _ in 0..ROUNDS {
        assert!(check(&cluster).is_empty());
    }
    let each = start.elapsed() / ROUNDS;
    println!("checking a cluster: {each:?}");
    assert!(each.as_millis() < 5, "{each:?} for one cluster");
}
