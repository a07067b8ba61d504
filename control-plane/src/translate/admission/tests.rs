use super::*;
use crate::model::{Event, SourceId, apply};
use serde_json::{Value, json};

fn key(kind: &str, name: &str) -> ObjectKey {
    ObjectKey::new(kind.parse().unwrap(), name.parse().unwrap())
}

fn object(revision: u64, o: &Value) -> Object {
    let text = json!({"kind": o[0], "name": o[1], "spec": o[2]});
    Object::stored(key(o[0].as_str().unwrap(), o[1].as_str().unwrap()), revision, &text.to_string())
}

fn resource(o: &Value) -> Resource {
    let object = object(1, o);
    (**object.resource().unwrap_or_else(|| panic!("{:?}", object.content))).clone()
}

fn gateway(name: &str, group: &str, port: u16) -> Value {
    json!(["Gateway", name, {"group": group, "listeners": [{"port": port}]}])
}

fn route(name: &str, gateway: &str) -> Value {
    json!(["Route", name, {"gateways": [gateway], "rules": [{"backends": [{"service": "cart"}]}]}])
}

/// Stores and what came of them.
#[derive(Default)]
struct Store {
    world: World,
    objects: Objects,
    revision: u64,
}

impl Store {
    fn with(objects: &[Value]) -> Self {
        let mut store = Self::default();
        objects.iter().for_each(|o| store.put(o));
        store
    }

    fn put(&mut self, o: &Value) {
        self.revision += 1;
        let source = SourceId::new(0, "test");
        let object = object(self.revision, o);
        self.event(Event::UpsertObject { source, object });
    }

    fn delete(&mut self, kind: &str, name: &str) {
        let (source, key) = (SourceId::new(0, "test"), key(kind, name));
        self.event(Event::RemoveObject { source, key });
    }

    fn event(&mut self, event: Event) {
        let (world, change) = apply(std::mem::take(&mut self.world), event);
        self.objects = settle(&self.objects, &world, &change.objects, &Trust::default());
        self.world = world;
    }

    fn state(&self, kind: &str, name: &str) -> &ObjectState {
        &self.objects.states()[&key(kind, name)]
    }

    fn admit(&self, writes: &[Value], deletes: &[(&str, &str)]) -> Vec<String> {
        let writes: Vec<Resource> = writes.iter().map(resource).collect();
        let deletes: Vec<ObjectKey> = deletes.iter().map(|(k, n)| key(k, n)).collect();
        admit(&self.objects, &writes, &deletes, &Trust::default())
            .problems
            .errors()
            .map(ToString::to_string)
            .collect()
    }
}

#[test]
fn what_is_wrong_with_several_objects_is_said_at_once() {
    let found = Store::default().admit(
        &[
            json!(["Service", "cart", {"connect_timeout": "0s"}]),
            json!(["Gateway", "edge", {"listeners": [{"port": 0}]}]),
            route("shop", "nowhere"),
        ],
        &[],
    );
    assert_eq!(
        found,
        [
            "Service/cart: spec.connect_timeout: must be more than 0s",
            "Gateway/edge: spec.listeners[0].port: must be 1 to 65535",
            "Route/shop: spec.gateways[0]: there is no Gateway `nowhere`",
        ]
    );
}

#[test]
fn references_may_be_met_by_the_same_write() {
    let store = Store::default();
    assert_eq!(store.admit(&[route("shop", "edge"), gateway("edge", "", 80)], &[]), [""; 0]);
}

#[test]
fn services_need_not_be_registered_but_subsets_must_exist() {
    let store = Store::with(&[
        gateway("edge", "", 80),
        json!(["Service", "cart", {"subsets": {"v1": {"labels": {"v": "1"}}}}]),
    ]);
    let to = |subset: &str| {
        let backends = json!([{"service": "cart", "subset": subset}, {"service": "nobody"}]);
        json!(["Route", "shop", {"gateways": ["edge"], "rules": [{"backends": backends}]}])
    };
    assert_eq!(store.admit(&[to("v1")], &[]), [""; 0]);
    assert_eq!(
        store.admit(&[to("v2")], &[]),
        ["Route/shop: spec.rules[0].backends[0].subset: Service `cart` has no subset `v2`"]
    );
    let mut store = store;
    store.put(&to("v1"));
    assert_eq!(
        store.admit(&[json!(["Service", "cart", {}])], &[]),
        ["Service/cart: spec.subsets: Route/shop names the subset `v1`"]
    );
    assert_eq!(
        store.admit(&[], &[("Service", "cart")]),
        ["Service/cart: spec.subsets: Route/shop names the subset `v1`"]
    );
}

#[test]
fn a_gateway_that_routes_name_is_not_deleted() {
    let store = Store::with(&[gateway("edge", "", 80), route("shop", "edge")]);
    assert_eq!(store.admit(&[], &[("Gateway", "edge")]), ["Gateway/edge: is named by Route/shop"]);
    assert_eq!(store.admit(&[], &[("Gateway", "edge"), ("Route", "shop")]), [""; 0]);
}

#[test]
fn ports_clash_between_gateways_that_may_be_on_one_proxy() {
    let store = Store::with(&[gateway("edge", "a", 80)]);
    assert_eq!(store.admit(&[gateway("other", "b", 80)], &[]), [""; 0]);
    assert_eq!(store.admit(&[gateway("other", "a", 81)], &[]), [""; 0]);
    assert_eq!(store.admit(&[gateway("edge", "a", 80)], &[]), [""; 0], "not with itself");
    let clash = ["Gateway/other: spec.listeners[0].port: 80 is taken by listener `http-80` of Gateway/edge"];
    assert_eq!(store.admit(&[gateway("other", "a", 80)], &[]), clash);
    assert_eq!(store.admit(&[gateway("other", "", 80)], &[]), clash, "a gateway of every group");
}

#[test]
fn an_object_twice_in_one_write_is_refused() {
    let found = Store::default().admit(&[gateway("edge", "", 80), gateway("edge", "", 81)], &[]);
    assert_eq!(found, ["Gateway/edge: is there twice"]);
}

#[test]
fn a_name_or_kind_that_is_missing_is_refused_with_its_place() {
    let nameless = Resource { name: "a/b".into(), ..resource(&gateway("edge", "", 80)) };
    let kindless = Resource { name: "x".into(), ..Resource::default() };
    let found = admit(&Objects::default(), &[nameless, kindless], &[], &Trust::default());
    let paths: Vec<&str> = found.problems.errors().map(|p| p.path.as_str()).collect();
    assert_eq!(paths, ["[0].name", "[1].kind"]);
}

#[test]
fn patches_are_checked_against_the_protos_and_their_rules() {
    let patched = |patch: Value| json!(["Service", "cart", {"patch": patch}]);
    let table = [
        (json!({"clutser": {}}), "spec.patch[\"clutser\"]", "nothing of this type is emitted for Service"),
        (json!({"cluster": {"no_such_field": 1}}), "spec.patch[\"cluster\"].no_such_field", ""),
        (json!({"cluster": {"name": "other"}}), "spec.patch[\"cluster\"].name", "must not change the name"),
        (json!({"cluster": {"connect_timeout": "0s"}}), "spec", "connect_timeout"),
    ];
    for (patch, path, message) in table {
        let writes = [resource(&patched(patch.clone()))];
        let found = admit(&Objects::default(), &writes, &[], &Trust::default());
        let hit = found.problems.errors().any(|p| p.path == path && p.message.contains(message));
        assert!(hit, "{patch}: {path}: ..{message}..\n{}", found.problems);
    }
    let good = patched(json!({"cluster": {"circuit_breakers": {"thresholds": [{"max_connections": 9}]}}}));
    assert!(admit(&Objects::default(), &[resource(&good)], &[], &Trust::default()).is_accepted());
}

#[test]
fn a_bad_write_past_admission_leaves_the_last_good_revision_in_force() {
    let mut store = Store::with(&[gateway("edge", "", 80)]);
    store.put(&gateway("edge", "", 0));
    let state = store.state("Gateway", "edge");
    assert!(state.is_quarantined());
    assert_eq!((state.newest.revision, state.in_force.as_ref().unwrap().revision), (2, 1));
    store.put(&gateway("edge", "", 0));
    assert_eq!(store.state("Gateway", "edge").in_force.as_ref().unwrap().revision, 1, "however often");
    store.put(&gateway("edge", "", 81));
    assert!(!store.state("Gateway", "edge").is_quarantined());
}

#[test]
fn an_object_that_was_never_good_is_not_in_force() {
    let store = Store::with(&[gateway("edge", "", 0)]);
    assert!(store.state("Gateway", "edge").in_force.is_none());
    assert_eq!(store.objects.in_force().count(), 0);
}

#[test]
fn of_two_gateways_on_one_port_the_one_in_force_keeps_it() {
    let mut store = Store::with(&[gateway("b", "", 80), gateway("a", "", 80)]);
    assert!(!store.state("Gateway", "b").is_quarantined());
    let a = store.state("Gateway", "a");
    assert!(a.in_force.is_none());
    assert_eq!(a.problems[0].message, "80 is taken by listener `http-80` of Gateway/b");
    store.put(&gateway("b", "", 80)); // now the younger
    assert!(!store.state("Gateway", "b").is_quarantined());
    store.delete("Gateway", "b");
    assert!(!store.state("Gateway", "a").is_quarantined(), "it takes over");
}

#[test]
fn a_gateway_that_moves_onto_a_taken_port_stays_where_it_was() {
    let mut store = Store::with(&[gateway("a", "", 80), gateway("b", "", 81)]);
    store.put(&gateway("b", "", 80));
    let b = store.state("Gateway", "b");
    assert_eq!((b.newest.revision, b.in_force.as_ref().unwrap().revision), (3, 2));
    store.put(&gateway("a", "", 82));
    assert!(!store.state("Gateway", "b").is_quarantined(), "the port is free now");
}

#[test]
fn references_that_lead_nowhere_are_warned_of_until_they_do_not() {
    let mut store = Store::with(&[route("shop", "edge")]);
    let state = store.state("Route", "shop");
    assert!(!state.is_quarantined());
    assert_eq!(state.problems[0].to_string(), "Route/shop: spec.gateways[0]: there is no Gateway `edge`");
    assert_eq!(state.problems[0].severity, Severity::Warning);
    store.put(&gateway("edge", "", 80));
    assert_eq!(store.state("Route", "shop").problems, []);
    store.delete("Gateway", "edge");
    assert_eq!(store.state("Route", "shop").problems.len(), 1);
}

#[test]
fn after_a_restart_the_same_objects_come_to_the_same() {
    let objects = [gateway("b", "", 80), gateway("a", "", 80), route("shop", "b")];
    let stepwise = Store::with(&objects);
    let mut at_once = Store::default();
    let held = crate::model::Held {
        instances: vec![],
        objects: objects.iter().zip(1..).map(|(o, revision)| object(revision, o)).collect(),
    };
    at_once.event(Event::Resync { source: SourceId::new(0, "test"), held });
    let in_force = |s: &Store| s.objects.in_force().map(|o| o.key.clone()).collect::<Vec<_>>();
    assert_eq!(in_force(&stepwise), in_force(&at_once));
}

fn of_bytes() -> Value {
    json!(["Gateway", "edge", {"listeners": [
        {"name": "db", "port": 5432, "protocol": "TCP"},
        {"name": "tls", "port": 8443, "protocol": "TLS_PASSTHROUGH", "hostnames": ["*.example.com"]},
        {"name": "web", "port": 8080},
    ]}])
}

fn carrying(name: &str, listener: &str, spec: Value) -> Value {
    let mut all =
        json!({"gateways": ["edge"], "listeners": [listener], "rules": [{"backends": [{"service": "a"}]}]});
    for (field, value) in spec.as_object().unwrap() {
        all[field] = value.clone();
    }
    json!(["Route", name, all])
}

#[test]
fn routes_of_bytes_say_only_where_to() {
    let store = Store::with(&[of_bytes()]);
    let admitted = [
        carrying(
            "a",
            "db",
            json!({"rules": [{"backends": [{"service": "a"}], "idle_timeout": "5s", "hash": [{"client_ip": true}]}]}),
        ),
        carrying("b", "tls", json!({"hosts": ["b.example.com"]})),
        carrying("c", "tls", json!({"hosts": ["c.example.com"]})),
        carrying("d", "web", json!({"hosts": ["d.example.com"]})),
    ];
    assert_eq!(store.admit(&admitted, &[]), [""; 0]);
    let found = store.admit(
        &[carrying("a", "db", json!({
            "hosts": ["a.example.com"],
            "rules": [
                {"matches": [{"prefix": "/"}], "backends": [{"service": "a"}], "timeout": "1s", "retry": {}},
                {"redirect": {"host": "b"}},
            ],
        }))],
        &[],
    );
    let places: Vec<&str> = found.iter().filter_map(|f| f.split(": ").nth(1)).collect();
    assert_eq!(
        places,
        ["spec.hosts", "spec.rules", "spec.rules[0].matches", "spec.rules[0].timeout", "spec.rules[0].retry"],
        "{found:?}"
    );
    assert!(found[0].ends_with("cannot be told apart: listener `db` carries bytes"), "{found:?}");
}

#[test]
fn a_listener_of_bytes_is_served_by_one_route() {
    let store = Store::with(&[
        of_bytes(),
        carrying("a", "db", json!({})),
        carrying("b", "tls", json!({"hosts": ["b.example.com"]})),
    ]);
    for (write, place, said) in [
        (carrying("z", "db", json!({})), "spec.listeners", "is taken by Route/a"),
        (
            carrying("z", "tls", json!({"hosts": ["B.example.com", "c.example.com"]})),
            "spec.hosts",
            "`b.example.com` at listener `tls`",
        ),
        (carrying("z", "tls", json!({"hosts": ["b.other.com"]})), "spec.hosts", "not among the hostnames"),
        (carrying("z", "none", json!({})), "spec.listeners[0]", "has a listener `none`"),
    ] {
        let found = store.admit(&[write], &[]);
        assert!(found.len() == 1 && found[0].contains(place) && found[0].contains(said), "{said}: {found:?}");
    }
    // The gateway cannot take the listener away from under its route.
    let found = store.admit(&[json!(["Gateway", "edge", {"listeners": [{"name": "db", "port": 1}]}])], &[]);
    assert!(found.iter().any(|f| f.contains("Route/b: spec.listeners[0]")), "{found:?}");
}

#[test]
fn bytes_are_not_carried_to_a_service_whose_name_nobody_verifies() {
    let tls = |spec: Value| json!(["Service", "a", spec]);
    let plain = Store::with(&[of_bytes(), carrying("r", "db", json!({}))]);
    let nameless = tls(json!({"tls": {}}));
    let found = plain.admit(std::slice::from_ref(&nameless), &[]);
    assert!(found.len() == 1 && found[0].starts_with("Service/a: spec.tls: Route/r:"), "{found:?}");
    for named in [
        json!({"tls": {"sni": "a.example.com"}}),
        json!({"tls": {"sans": [{"dns": "a.example.com"}]}}),
        json!({"tls": {}, "discovery": {"dns": {"hostname": "a.example.com", "port": 1}}}),
        json!({"tls": {"mode": "SKIP_VERIFY"}}),
    ] {
        assert_eq!(plain.admit(&[tls(named.clone())], &[]), [""; 0], "{named}");
    }
    let store = Store::with(&[of_bytes(), nameless]);
    let found = store.admit(&[carrying("r", "db", json!({}))], &[]);
    assert!(found.len() == 1 && found[0].contains("spec.rules[0].backends[0].service"), "{found:?}");
    assert!(found[0].ends_with("its `tls` needs `sni` or `sans`"), "{found:?}");
    assert_eq!(store.admit(&[carrying("r", "web", json!({}))], &[]), [""; 0], "requests have hosts");
}

#[test]
fn what_a_gateway_tells_by_grpc_goes_to_a_service_that_speaks_it() {
    let spec = json!({
        "listeners": [{"port": 80}],
        "tracing": {"service": "otel"},
        "access_log": {"service": "logs"},
    });
    let gateway = json!(["Gateway", "edge", spec]);
    let service = |name: &str, protocol: &str| json!(["Service", name, {"protocol": protocol}]);
    let found = Store::with(&[service("logs", "HTTP2")]).admit(std::slice::from_ref(&gateway), &[]);
    assert_eq!(
        found,
        [
            "Gateway/edge: spec.tracing.service: Service `otel` must say `protocol: HTTP2`: it is spoken to by gRPC"
        ]
    );
    let store = Store::with(&[service("logs", "HTTP2"), service("otel", "HTTP2"), gateway.clone()]);
    assert_eq!(store.admit(std::slice::from_ref(&gateway), &[]), [""; 0]);
    for found in [store.admit(&[service("otel", "HTTP1")], &[]), store.admit(&[], &[("Service", "otel")])] {
        assert_eq!(
            found,
            [
                "Service/otel: spec.protocol: Gateway/edge: spec.tracing.service: Service `otel` must say `protocol: HTTP2`"
            ]
        );
    }
}
