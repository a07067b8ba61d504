//! What a policy makes of gateways, routes and the rate-limit service.

use super::*;
use serde_json::json;
use xds_types::envoy::config::route::v3::RouteAction;
use xds_types::envoy::extensions::filters::http::local_ratelimit::v3::LocalRateLimit;
use xds_types::envoy::extensions::filters::http::ratelimit::v3::RateLimit as GlobalFilter;

fn object(kind: &str, name: &str, spec: serde_json::Value) -> Object {
    let key = ObjectKey::new(kind.parse().unwrap(), name.parse().unwrap());
    let text = json!({"kind": kind, "name": name, "spec": spec}).to_string();
    let object = Object::stored(key, 1, &text);
    assert!(object.resource().is_some(), "{:?}", object.content);
    object
}

fn policy(targets: serde_json::Value, limits: serde_json::Value) -> Object {
    object("Policy", "calm", json!({"targets": targets, "rate_limit": {"limits": limits}}))
}

fn shop() -> Object {
    let rules = json!([
        {"name": "pay", "backends": [{"service": "pay"}]},
        {"backends": [{"service": "cart"}, {"service": "cart", "subset": "v2"}, {"service": "other"}]},
        {"respond": {"status": 204}},
    ]);
    object("Route", "shop", json!({"gateways": ["edge"], "rules": rules}))
}

fn applied(policy: &Object, rule: usize) -> EnvoyRoute {
    let (policies, shop) = (Policies::new([(&policy.key, policy.policy().unwrap())].into_iter()), shop());
    let mut route = EnvoyRoute { action: Some(Action::Route(RouteAction::default())), ..Default::default() };
    policies.apply("edge", "shop", rule, &shop.route().unwrap().rules[rule], &mut route);
    route
}

fn keys(route: &EnvoyRoute) -> Vec<String> {
    let Some(Action::Route(action)) = &route.action else { return Vec::new() };
    action.rate_limits.iter().map(|r| xds_types::text::to_json(r)["actions"].to_string()).collect()
}

fn filters(policy: &Object) -> Vec<HttpFilter> {
    let (policies, shop) = (Policies::new([(&policy.key, policy.policy().unwrap())].into_iter()), shop());
    let all = policies.filters("edge", &[("shop", shop.route().unwrap())]);
    assert!(
        policies.filters("other", &[]).is_empty(),
        "nothing is there for gateways that it does not concern"
    );
    all
}

fn unpack<M: Message + Name + Default>(filter: &HttpFilter) -> M {
    let Some(http_filter::ConfigType::TypedConfig(any)) = &filter.config_type else { panic!("no config") };
    xds_types::any::unpack(any).unwrap()
}

#[test]
fn each_target_reaches_its_rules() {
    let limits = json!([{"requests": 1}]);
    for (targets, rules) in [
        (json!([{"gateway": "edge"}]), [true, true]),
        (json!([{"gateway": "other"}]), [false, false]),
        (json!([{"route": "shop"}]), [true, true]),
        (json!([{"route": "shop", "rule": "pay"}]), [true, false]),
        (json!([{"route": "shop", "rule": "1"}]), [false, true]),
        (json!([{"service": "cart"}]), [false, true]),
    ] {
        let policy = policy(targets.clone(), limits.clone());
        for (rule, expected) in rules.into_iter().enumerate() {
            assert_eq!(!keys(&applied(&policy, rule)).is_empty(), expected, "{targets} rule {rule}");
        }
    }
}

#[test]
fn every_key_is_an_action_and_an_entry_of_the_domain_in_the_same_order() {
    let per = json!([
        {"client_ip": {}}, {"client_ip": {"v6_bits": 64}}, {"header": "X-User"}, {"header": "x-tier", "value": "gold"},
        {"query": "q"}, {"query": "q", "value": "1"}, {"metadata": {"namespace": "jwt", "path": ["sub"]}},
        {"method": true, "value": "POST"}, {"path": true}, {"route": true}, {"service": true},
    ]);
    let policy = policy(json!([{"gateway": "edge"}]), json!([{"requests": 5, "unit": "minute", "per": per}]));
    let mut found = Problems::default();
    check(&policy.key, policy.policy().unwrap(), &mut found);
    assert!(found.list.is_empty(), "{found}");
    let actions = &keys(&applied(&policy, 0))[0];
    let domains = domains([&policy].into_iter());
    assert_eq!((domains.len(), domains[0].domain.as_str()), (1, "portolan"));
    let (mut at, mut place) = (&domains[0].descriptors, 0);
    let mut leaf = None;
    while let Some(one) = at.first() {
        let named = match one.key.as_str() {
            "remote_address" | "masked_remote_address" | "destination_cluster" => one.key.clone(),
            key => format!("\"{key}\""),
        };
        let found = actions[place..].find(&named).unwrap_or_else(|| panic!("{named} in {actions}"));
        place += found;
        leaf = one.rate_limit.clone();
        at = &one.descriptors;
    }
    assert_eq!(leaf.map(|l| (l.requests_per_unit, l.unit)), Some((5, 2)));
}

#[test]
fn a_service_counts_with_its_subsets_and_not_with_others_of_the_rule() {
    let policy = policy(json!([{"service": "cart"}]), json!([{"requests": 5}]));
    let domain = &domains([&policy].into_iter())[0];
    let values: Vec<_> = domain.descriptors[0].descriptors.iter().map(|d| d.value.as_str()).collect();
    assert_eq!(values, ["cart", "cart/*"]);
    assert!(keys(&applied(&policy, 1))[0].contains("destination_cluster"));
}

#[test]
fn local_limits_are_buckets_of_a_filter_for_descriptors_of_the_routes_they_target() {
    let limits = json!([{"requests": 5, "scope": "LOCAL", "per": [{"client_ip": {}}]}]);
    let on_route = policy(json!([{"route": "shop", "rule": "pay"}]), limits.clone());
    let filter: LocalRateLimit = unpack(&filters(&on_route)[0]);
    assert_eq!((filter.stage, filter.descriptors[0].entries.len()), (0, 2));
    assert_eq!((keys(&applied(&on_route, 0)).len(), keys(&applied(&on_route, 1)).len()), (1, 0));
    let on_service = policy(json!([{"service": "cart"}]), limits);
    let filter: LocalRateLimit = unpack(&filters(&on_service)[0]);
    let clusters: Vec<_> = filter.descriptors.iter().map(|d| d.entries[1].value.as_str()).collect();
    assert_eq!(clusters, ["cart", "cart/v2"]);
    let both =
        policy(json!([{"gateway": "edge"}]), json!([{"requests": 5, "scope": "LOCAL"}, {"requests": 9}]));
    let names: Vec<_> = filters(&both).iter().map(|f| f.name.clone()).collect();
    assert_eq!(
        names,
        ["portolan.local_rate_limit/1", "portolan.rate_limit/0"],
        "what asks nobody comes first"
    );
}

#[test]
fn policies_that_say_the_same_of_failure_share_a_filter() {
    let spec = |deny: bool| {
        let on_failure = if deny { "DENY" } else { "ALLOW" };
        json!({"targets": [{"gateway": "edge"}], "rate_limit": {"on_failure": on_failure, "limits": [{"requests": 1}]}})
    };
    let all = [
        object("Policy", "a", spec(true)),
        object("Policy", "b", spec(false)),
        object("Policy", "c", spec(true)),
    ];
    let policies = Policies::new(all.iter().map(|p| (&p.key, p.policy().unwrap())));
    let shop = shop();
    let filters = policies.filters("edge", &[("shop", shop.route().unwrap())]);
    let filters: Vec<GlobalFilter> = filters.iter().map(unpack).collect();
    assert_eq!(
        filters.iter().map(|f| (f.stage, f.failure_mode_deny)).collect::<Vec<_>>(),
        [(0, false), (1, true)]
    );
    let mut route = EnvoyRoute { action: Some(Action::Route(RouteAction::default())), ..Default::default() };
    policies.apply("edge", "shop", 0, &shop.route().unwrap().rules[0], &mut route);
    let Some(Action::Route(action)) = route.action else { panic!() };
    assert_eq!(action.rate_limits.iter().map(|r| r.stage.unwrap().value).collect::<Vec<_>>(), [1, 0, 1]);
}
