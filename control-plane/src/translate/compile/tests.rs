use super::*;
use crate::model::{Event, Held, Instance, SourceId, apply};
use crate::snapshot::{Audience, Version};
use crate::translate::settle;
use serde_json::{Value, json};
use xds_types::envoy::config::cluster::v3::Cluster;
use xds_types::envoy::config::endpoint::v3::ClusterLoadAssignment;
use xds_types::envoy::config::listener::v3::Listener;
use xds_types::envoy::config::route::v3::RouteConfiguration;
use xds_types::text;

const CDS: ResourceType = ResourceType::Cluster;
const EDS: ResourceType = ResourceType::ClusterLoadAssignment;
const LDS: ResourceType = ResourceType::Listener;
const RDS: ResourceType = ResourceType::RouteConfiguration;

#[derive(Default)]
struct Plane {
    world: World,
    objects: Objects,
    compiler: Compiler,
    revision: u64,
    published: Option<Arc<Published>>,
}

fn instance(service: &str, port: u16, labels: &[(&str, &str)]) -> Instance {
    let mut i = Instance::at(ServiceName::new(service).unwrap(), ([10, 0, 0, 1], port).into()).unwrap();
    i.labels = labels.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
    i
}

fn source() -> SourceId {
    SourceId::new(0, "test")
}

impl Plane {
    fn with(objects: &[Value], instances: Vec<Instance>) -> Self {
        let mut plane = Self::default();
        let objects = objects.iter().map(|o| plane.object(o)).collect();
        plane.event(Event::Resync { source: source(), held: Held { instances, objects } });
        plane
    }

    fn object(&mut self, o: &Value) -> Object {
        self.revision += 1;
        let key =
            ObjectKey::new(o[0].as_str().unwrap().parse().unwrap(), o[1].as_str().unwrap().parse().unwrap());
        let object = Object::stored(
            key,
            self.revision,
            &json!({"kind": o[0], "name": o[1], "spec": o[2]}).to_string(),
        );
        assert!(object.resource().is_some(), "{:?}", object.content);
        object
    }

    /// Whether something was published.
    fn event(&mut self, event: Event) -> bool {
        let (world, change) = apply(std::mem::take(&mut self.world), event);
        self.objects = settle(&self.objects, &world, &change.objects, &Trust::default());
        self.world = world;
        let quarantined: Vec<_> = self.objects.states().values().filter(|s| s.is_quarantined()).collect();
        assert!(quarantined.is_empty(), "{quarantined:?}");
        let compiled =
            self.compiler.compile(&self.world, &self.objects, &change.services, SystemTime::UNIX_EPOCH);
        let Some(compiled) = compiled else { return false };
        assert_eq!(compiled.dangling, [], "nothing dangles");
        self.published = Some(compiled.published);
        true
    }

    fn put(&mut self, o: &Value) -> bool {
        let object = self.object(o);
        self.event(Event::UpsertObject { source: source(), object })
    }

    fn register(&mut self, instance: Instance) -> bool {
        self.event(Event::UpsertInstance { source: source(), instance })
    }

    fn snapshot(&self, group: &str) -> &Arc<Snapshot> {
        self.published.as_ref().unwrap().snapshot(&Audience::Proxy { group: group.into() })
    }

    fn grpc(&self) -> &Arc<Snapshot> {
        self.published.as_ref().unwrap().snapshot(&Audience::Grpc)
    }

    fn names(&self, group: &str, kind: ResourceType) -> Vec<String> {
        self.snapshot(group).set(kind).resources().keys().map(|n| n.to_string()).collect()
    }
}

fn ports(s: &Snapshot, cluster: &str) -> Vec<u32> {
    use xds_types::envoy::config::core::v3::{address::Address, socket_address::PortSpecifier};
    use xds_types::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
    let m: ClusterLoadAssignment = s.get(EDS, cluster).unwrap().decode().unwrap();
    let all = m.endpoints.into_iter().flat_map(|l| l.lb_endpoints);
    all.map(|e| {
        let Some(HostIdentifier::Endpoint(e)) = e.host_identifier else { panic!("no endpoint") };
        let Some(Address::SocketAddress(a)) = e.address.unwrap().address else { panic!("no address") };
        let Some(PortSpecifier::PortValue(port)) = a.port_specifier else { panic!("no port") };
        port
    })
    .collect()
}

fn gateway() -> Value {
    json!(["Gateway", "edge", {"listeners": [{"name": "http", "port": 8080}]}])
}

fn route(name: &str, spec: Value) -> Value {
    let mut spec = spec;
    spec["gateways"] = json!(["edge"]);
    json!(["Route", name, spec])
}

fn to(service: &str) -> Value {
    json!([{"backends": [{"service": service}]}])
}

fn routes_of(p: &Plane) -> RouteConfiguration {
    p.snapshot("any").get(RDS, "edge/http").unwrap().decode().unwrap()
}

#[test]
fn a_gateway_becomes_a_listener_whose_routes_come_over_ads() {
    let p = Plane::with(&[gateway()], vec![]);
    let m: Listener = p.snapshot("any").get(LDS, "edge/http").unwrap().decode().unwrap();
    let json = text::to_json(&m);
    assert_eq!(json["address"]["socket_address"], json!({"address": "0.0.0.0", "port_value": 8080}));
    let manager = &json["filter_chains"][0]["filters"][0]["typed_config"];
    assert_eq!(manager["rds"]["route_config_name"], "edge/http");
    assert_eq!(manager["rds"]["config_source"], json!({"ads": {}, "resource_api_version": "V3"}));
    assert_eq!(manager["use_remote_address"], true);
    assert_eq!((&manager["normalize_path"], &manager["merge_slashes"]), (&json!(true), &json!(true)));
    assert_eq!(
        manager["http_filters"].as_array().unwrap().last().unwrap()["name"],
        "envoy.filters.http.router"
    );
    assert_eq!(manager["access_log"], Value::Null);
    assert_eq!(routes_of(&p).virtual_hosts, [], "it has routes, though none serve anything");
}

#[test]
fn access_logs_and_addresses_are_as_written() {
    let spec = json!({
        "listeners": [{"port": 80, "address": "::1"}], "use_remote_address": false,
        "access_log": {"path": "/dev/stdout", "format": "%REQ(:path)%"},
    });
    let p = Plane::with(&[json!(["Gateway", "g.x", spec])], vec![]);
    let m: Listener = p.snapshot("any").get(LDS, "g.x/http-80").unwrap().decode().unwrap();
    let json = text::to_json(&m);
    assert_eq!(json["address"]["socket_address"]["address"], "::1");
    let manager = &json["filter_chains"][0]["filters"][0]["typed_config"];
    assert_eq!(manager["stat_prefix"], "g_x_http-80");
    assert_eq!(manager["use_remote_address"], false);
    let log = &manager["access_log"][0]["typed_config"];
    assert_eq!(log["path"], "/dev/stdout");
    assert_eq!(log["log_format"]["text_format_source"]["inline_string"], "%REQ(:path)%\n");
}

#[test]
fn routes_of_one_host_share_a_virtual_host_in_the_order_of_their_names() {
    let p = Plane::with(
        &[
            gateway(),
            route("b", json!({"hosts": ["shop.com"], "rules": to("b")})),
            route("a", json!({"hosts": ["shop.com", "*.shop.com"], "rules": to("a")})),
            route("z", json!({"rules": to("z")})),
        ],
        vec![],
    );
    let m = routes_of(&p);
    let hosts: Vec<(Vec<&str>, Vec<&str>)> = m
        .virtual_hosts
        .iter()
        .map(|h| {
            let routes = h.routes.iter().map(|r| r.name.as_str()).collect();
            (h.domains.iter().map(String::as_str).collect(), routes)
        })
        .collect();
    assert_eq!(
        hosts,
        [(vec!["*"], vec!["z/0"]), (vec!["*.shop.com"], vec!["a/0"]), (vec!["shop.com"], vec!["a/0", "b/0"]),]
    );
    assert!(m.ignore_port_in_host_matching);
}

#[test]
fn only_clusters_that_the_groups_routes_name_are_given_to_it() {
    let p = Plane::with(
        &[
            json!(["Gateway", "edge", {"group": "edge", "listeners": [{"port": 80}]}]),
            json!(["Gateway", "inner", {"group": "inner", "listeners": [{"port": 80}]}]),
            json!(["Route", "r", {"gateways": ["edge"], "rules": to("cart")}]),
            json!(["Route", "s", {"gateways": ["inner"], "rules": to("pay")}]),
        ],
        vec![instance("cart", 1, &[]), instance("pay", 2, &[]), instance("unused", 3, &[])],
    );
    assert_eq!(p.names("edge", CDS), ["cart"]);
    assert_eq!(p.names("inner", CDS), ["pay"]);
    assert_eq!(p.names("elsewhere", CDS), [""; 0]);
    assert_eq!(ports(p.snapshot("edge"), "cart"), [1]);
}

#[test]
fn a_service_that_is_not_registered_has_an_empty_assignment() {
    let p = Plane::with(&[gateway(), route("r", json!({"rules": to("nobody")}))], vec![]);
    assert_eq!(p.names("any", CDS), ["nobody"]);
    assert_eq!(ports(p.snapshot("any"), "nobody"), [0u32; 0]);
}

#[test]
fn a_cluster_is_what_its_service_says() {
    let spec = json!({
        "protocol": "HTTP2", "load_balancing": "RANDOM", "connect_timeout": "1.5s", "max_requests_per_connection": 7,
    });
    let p = Plane::with(
        &[gateway(), route("r", json!({"rules": to("cart")})), json!(["Service", "cart", spec])],
        vec![],
    );
    let json = |s: &Snapshot| text::to_json(&s.get(CDS, "cart").unwrap().decode::<Cluster>().unwrap());
    let envoy = json(p.snapshot("any"));
    assert_eq!(envoy["type"], "EDS");
    assert_eq!(envoy["lb_policy"], "RANDOM");
    assert_eq!(envoy["connect_timeout"], "1.500s");
    let options = &envoy["typed_extension_protocol_options"][cluster_options()];
    assert_eq!(options["explicit_http_config"], json!({"http2_protocol_options": {}}));
    assert_eq!(options["common_http_protocol_options"]["max_requests_per_connection"], 7);
    let grpc = json(p.grpc());
    assert_eq!(grpc["lb_policy"], Value::Null, "round robin: gRPC clients refuse RANDOM");
    assert_eq!(grpc["typed_extension_protocol_options"], Value::Null);
}

#[test]
fn grpc_clients_choose_a_policy_that_they_know() {
    let spec = json!({"load_balancing": "LEAST_REQUEST"});
    let p = Plane::with(
        &[gateway(), route("r", json!({"rules": to("a")})), json!(["Service", "a", spec])],
        vec![],
    );
    let json = |s: &Snapshot| text::to_json(&s.get(CDS, "a").unwrap().decode::<Cluster>().unwrap());
    let envoy = json(p.snapshot("any"));
    assert_eq!(
        (&envoy["lb_policy"], &envoy["load_balancing_policy"]),
        (&json!("LEAST_REQUEST"), &Value::Null)
    );
    let grpc = json(p.grpc());
    assert_eq!(grpc["lb_policy"], Value::Null, "C-core refuses LEAST_REQUEST there");
    let by_locality = &grpc["load_balancing_policy"]["policies"][0]["typed_extension_config"]["typed_config"];
    let choices = by_locality["endpoint_picking_policy"]["policies"].as_array().unwrap();
    let names: Vec<&str> =
        choices.iter().map(|c| c["typed_extension_config"]["name"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        ["envoy.load_balancing_policies.least_request", "envoy.load_balancing_policies.round_robin"]
    );
}

fn cluster_options() -> &'static str {
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
}

#[test]
fn a_subset_is_a_cluster_of_the_instances_with_its_labels() {
    let p = Plane::with(
        &[
            gateway(),
            json!(["Service", "cart", {"subsets": {"v1": {"labels": {"v": "1"}}, "v2": {"labels": {"v": "2"}}}}]),
            route(
                "r",
                json!({"rules": [{"backends": [{"service": "cart", "subset": "v1"}, {"service": "cart"}]}]}),
            ),
        ],
        vec![instance("cart", 1, &[("v", "1")]), instance("cart", 2, &[("v", "2")])],
    );
    assert_eq!(p.names("any", CDS), ["cart", "cart/v1"]);
    assert_eq!(ports(p.snapshot("any"), "cart/v1"), [1]);
    assert_eq!(ports(p.snapshot("any"), "cart"), [1, 2]);
}

#[test]
fn instances_may_be_elsewhere_than_under_the_services_name() {
    let mut p = Plane::with(
        &[
            gateway(),
            json!(["Service", "fixed", {"discovery": {"static": {"addresses": ["10.0.0.9:9"]}}}]),
            json!(["Service", "alias", {"discovery": {"service": "cart-prod"}}]),
            json!(["Service", "named", {"discovery": {"dns": {"hostname": "db.local", "port": 53}}}]),
            route(
                "r",
                json!({"rules": [{"backends": [{"service": "fixed"}, {"service": "alias"}, {"service": "named"}]}]}),
            ),
        ],
        vec![instance("cart-prod", 5, &[])],
    );
    assert_eq!(ports(p.snapshot("any"), "fixed"), [9]);
    assert_eq!(ports(p.snapshot("any"), "alias"), [5]);
    assert!(p.register(instance("cart-prod", 6, &[])));
    assert_eq!(ports(p.snapshot("any"), "alias"), [5, 6]);
    assert_eq!(ports(p.grpc(), "alias"), [5, 6]);
    let named = |s: &Snapshot| text::to_json(&s.get(CDS, "named").unwrap().decode::<Cluster>().unwrap());
    assert_eq!(named(p.snapshot("any"))["type"], "STRICT_DNS");
    assert_eq!(named(p.grpc())["type"], "LOGICAL_DNS");
    assert!(p.snapshot("any").get(EDS, "named").is_none());
}

#[test]
fn what_did_not_change_is_the_same_resource_as_before() {
    let mut p = Plane::with(
        &[gateway(), route("r", json!({"rules": [{"backends": [{"service": "a"}, {"service": "b"}]}]}))],
        vec![instance("a", 1, &[]), instance("b", 1, &[])],
    );
    let before = p.snapshot("any").clone();
    assert!(p.register(instance("b", 2, &[])));
    let after = p.snapshot("any").clone();
    for (kind, name) in [(CDS, "a"), (CDS, "b"), (EDS, "a"), (LDS, "edge/http"), (RDS, "edge/http")] {
        assert!(
            Arc::ptr_eq(&before.get(kind, name).unwrap(), &after.get(kind, name).unwrap()),
            "{kind} {name}"
        );
    }
    assert_eq!(after.changed_since(before.id(), EDS).unwrap(), [Arc::<str>::from("b")]);
    assert_eq!(after.changed_since(before.id(), CDS).unwrap(), [] as [Arc<str>; 0]);
}

#[test]
fn an_equal_snapshot_stays_the_same_one() {
    let mut p = Plane::with(&[gateway(), route("r", json!({"rules": to("a")}))], vec![instance("a", 1, &[])]);
    let before = p.snapshot("any").clone();
    assert!(p.register(instance("other", 1, &[])), "gRPC clients may ask for it");
    assert!(Arc::ptr_eq(&before, p.snapshot("any")));
    assert!(!p.register(instance("other", 1, &[])));
    // Written again in other words.
    assert!(p.put(
        &json!(["Gateway", "edge", {"listeners": [{"name": "http", "address": "0.0.0.0", "port": 8080}]}])
    ));
    assert!(Arc::ptr_eq(&before, p.snapshot("any")));
}

#[test]
fn two_replicas_give_the_same_versions_whatever_the_order_of_events() {
    let objects = [
        gateway(),
        json!(["Service", "a", {"subsets": {"x": {"labels": {"l": "1", "m": "2", "n": "3"}}}, "protocol": "HTTP2"}]),
        route(
            "r",
            json!({"hosts": ["h1", "h2"], "rules": [{"backends": [{"service": "a", "subset": "x"}],
            "request_headers": {"set": {"a": "1", "b": "2", "c": "3", "d": "4"}}}]}),
        ),
        json!(["Gateway", "logs", {"listeners": [{"port": 81}], "access_log": {"path": "/l", "json": {"a": "1", "b": "2", "c": "3", "d": "4"}}}]),
    ];
    let instances = || (1..9).map(|port| instance("a", port, &[("l", "1"), ("m", "2"), ("n", "3")]));
    let versions = |p: &Plane| -> Vec<Version> {
        [CDS, EDS, LDS, RDS].iter().map(|kind| p.snapshot("any").set(*kind).version()).collect()
    };
    let one = Plane::with(&objects, instances().collect());
    let mut two = Plane::with(&[], vec![]);
    for i in instances() {
        two.register(i);
    }
    for o in objects.iter().rev() {
        two.put(o);
    }
    assert_eq!(versions(&one), versions(&two));
    assert_eq!(ports(one.snapshot("any"), "a/x").len(), 8);
}

#[test]
fn a_grpc_client_gets_the_routes_of_the_mesh_that_mean_its_service_most_exactly() {
    let mesh = |name: &str, hosts: Value, service: &str| json!(["Route", name, {"mesh": true, "hosts": hosts, "rules": to(service)}]);
    let p = Plane::with(
        &[
            mesh("all", json!([]), "everywhere"),
            mesh("cart", json!(["cart", "cart-alias"]), "cart-v2"),
            mesh("suffix", json!(["*.prod"]), "prod"),
        ],
        vec![instance("cart", 1, &[]), instance("pay", 1, &[]), instance("x.prod", 1, &[])],
    );
    let clusters = |name: &str| -> Vec<String> {
        let m: RouteConfiguration = p.grpc().get(RDS, name).unwrap().decode().unwrap();
        let json = text::to_json(&m);
        json["virtual_hosts"][0]["routes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|r| r["route"]["cluster"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(clusters("cart"), ["cart-v2", "cart"]);
    assert_eq!(clusters("cart:80"), ["cart-v2", "cart"]);
    assert_eq!(clusters("pay"), ["everywhere", "pay"]);
    assert_eq!(clusters("x.prod"), ["prod", "x.prod"]);
    assert_eq!(clusters("cart-alias"), ["cart-v2", "cart-alias"], "a name that only a route knows");
    assert!(p.grpc().get(LDS, "nobody").is_none(), "a route for all hosts does not make names");
    assert!(p.snapshot("any").get(LDS, "cart").is_none(), "proxies do not see them");
}

#[test]
fn what_grpc_clients_were_given_follows_the_world() {
    let mut p = Plane::with(&[], vec![instance("cart", 1, &[]), instance("pay", 1, &[])]);
    let first = p.grpc().clone();
    let pay = first.get(EDS, "pay").unwrap();
    assert_eq!(ports(&first, "cart"), [1]);
    p.register(instance("cart", 2, &[]));
    assert_eq!(ports(p.grpc(), "cart"), [1, 2]);
    assert!(Arc::ptr_eq(&pay, &p.grpc().get(EDS, "pay").unwrap()), "what did not change is remembered");
    assert_eq!(ports(&first, "cart"), [1], "a snapshot does not change under its readers");
    assert!(p.grpc().get(LDS, "new").is_none());
    p.register(instance("new", 1, &[]));
    assert!(p.grpc().get(LDS, "new").is_some());
    p.put(&json!(["Service", "cart", {"discovery": {"service": "pay"}}]));
    assert_eq!(ports(p.grpc(), "cart"), [1]);
}

#[test]
fn everything_emitted_keeps_the_rules_of_the_protos() {
    let p = Plane::with(
        &[
            gateway(),
            json!(["Service", "a", {"protocol": "HTTP2", "max_requests_per_connection": 1}]),
            json!(["Service", "d", {"discovery": {"dns": {"hostname": "h", "port": 1}}}]),
            route(
                "r",
                json!({"rules": [
                    {"matches": [{"path_prefix": "/a", "headers": [{"name": "x"}]}], "rewrite": {"prefix": "/"}, "backends": [{"service": "a"}, {"service": "d"}]},
                    {"matches": [{"exact": "/b"}], "redirect": {"host": "c"}},
                    {"respond": {"status": 503}},
                ]}),
            ),
            json!(["Route", "m", {"mesh": true, "rules": to("a")}]),
        ],
        vec![instance("a", 1, &[])],
    );
    let (s, g) = (p.snapshot("any"), p.grpc());
    let all = [CDS, EDS, LDS, RDS].into_iter().flat_map(|kind| s.set(kind).resources().values().cloned());
    let mut lazy = vec![g.get(LDS, "a").unwrap(), g.get(RDS, "a").unwrap()];
    lazy.extend(["a", "d"].map(|name| g.get(CDS, name).unwrap()));
    lazy.push(g.get(EDS, "a").unwrap());
    let mut seen = 0;
    for r in all.chain(lazy) {
        let found = match r.kind {
            CDS => xds_types::rules::check(&r.decode::<Cluster>().unwrap()),
            EDS => xds_types::rules::check(&r.decode::<ClusterLoadAssignment>().unwrap()),
            LDS => xds_types::rules::check(&r.decode::<Listener>().unwrap()),
            RDS => xds_types::rules::check(&r.decode::<RouteConfiguration>().unwrap()),
            other => panic!("unexpected {other}"),
        };
        assert_eq!(found, [], "{} {}", r.kind, r.name);
        seen += 1;
    }
    assert_eq!(seen, 10);
}

/// Secrets by group, and identities of the built-in authority.
mod security {
    use super::*;
    use crate::authority;
    use crate::secret::Vault;
    use std::time::Duration;
    use xds_types::envoy::extensions::transport_sockets::tls::v3::{Secret as EnvoySecret, secret::Type};
    use xds_types::portolan::config::v1::{
        Authorities, Resource as Proto, Secret, resource::Spec, secret::From,
    };

    const SDS: ResourceType = ResourceType::Secret;

    struct Fleet {
        trust: Trust,
        plane: Plane,
        now: SystemTime,
        dangling: usize,
    }

    impl Fleet {
        fn new() -> Self {
            let vault = Arc::new(Vault::parse("MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=").unwrap());
            let trust = Trust { vault, authority: authority::Options::default() };
            let plane = Plane { compiler: Compiler::new(trust.clone()), ..Plane::default() };
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
            let mut fleet = Self { trust, plane, now, dangling: 0 };
            fleet.event(Event::Resync { source: source(), held: Held::default() });
            fleet
        }

        fn event(&mut self, event: Event) -> bool {
            let (world, change) = apply(std::mem::take(&mut self.plane.world), event);
            self.plane.objects = settle(&self.plane.objects, &world, &change.objects, &self.trust);
            self.plane.world = world;
            self.compile(&change.services)
        }

        fn compile(&mut self, services: &BTreeSet<ServiceName>) -> bool {
            let p = &mut self.plane;
            let Some(compiled) = p.compiler.compile(&p.world, &p.objects, services, self.now) else {
                return false;
            };
            self.dangling = compiled.dangling.len();
            p.published = Some(compiled.published);
            true
        }

        fn put(&mut self, o: &Value) {
            let object = self.plane.object(o);
            self.event(Event::UpsertObject { source: source(), object });
        }

        fn secret(&mut self, name: &str, secret: &Secret, groups: &[&str]) {
            let sealed = self.trust.vault.seal(name, secret).unwrap();
            let holds =
                if matches!(secret.from, Some(From::Authorities(_))) { "authorities" } else { "certificate" };
            let sealed = xds_types::portolan::config::v1::Sealed { holds: holds.into(), ..sealed };
            let groups = groups.iter().map(ToString::to_string).collect();
            let spec = Spec::Secret(Secret { from: Some(From::Sealed(sealed)), groups });
            self.plane.revision += 1;
            let resource = Proto { name: name.to_owned(), spec: Some(spec), ..Proto::default() };
            let object = Object::new(resource, self.plane.revision).unwrap();
            self.event(Event::UpsertObject { source: source(), object });
        }

        fn root(&mut self) {
            let root = authority::generate("portolan", self.now).unwrap();
            self.secret(AUTHORITY, &root, &[]);
        }

        fn names(&self, group: &str, kind: ResourceType) -> Vec<String> {
            self.plane.names(group, kind)
        }

        fn chain(&self, group: &str, name: &str) -> String {
            let message: EnvoySecret = self.plane.snapshot(group).get(SDS, name).unwrap().decode().unwrap();
            let Some(Type::TlsCertificate(c)) = message.r#type else { panic!("no certificate") };
            format!("{:?}", c.certificate_chain)
        }
    }

    fn https(name: &str, group: &str, port: u16, secret: &str) -> Value {
        json!(["Gateway", name, {"group": group, "listeners":
            [{"port": port, "protocol": "HTTPS", "tls": {"certificates": [secret]}}]}])
    }

    #[test]
    fn a_group_has_the_secrets_that_it_names_and_no_others() {
        let mut fleet = Fleet::new();
        let pem = Secret {
            from: Some(From::Authorities(Authorities { certificates: "x".into(), ..Authorities::default() })),
            ..Secret::default()
        };
        for name in ["a", "b", "unused"] {
            fleet.secret(name, &pem, &[]);
        }
        fleet.secret("named", &pem, &["edge"]);
        fleet.put(&https("edge", "edge", 1, "a"));
        fleet.put(&https("pay", "pay", 2, "b"));
        assert_eq!(fleet.names("edge", SDS), ["a", "named"]);
        assert_eq!(fleet.names("pay", SDS), ["b"]);
        assert_eq!(fleet.names("elsewhere", SDS), [""; 0]);
        assert_eq!(fleet.dangling, 0);
    }

    #[test]
    fn a_listener_is_not_published_before_its_secret() {
        let mut fleet = Fleet::new();
        fleet.put(&https("edge", "edge", 1, "late"));
        assert_eq!((fleet.names("edge", LDS), fleet.dangling), (vec![], 1));
        let root = authority::generate("x", fleet.now).unwrap();
        fleet.secret("late", &root, &[]);
        assert_eq!((fleet.names("edge", LDS), fleet.dangling), (vec!["edge/https-1".to_owned()], 0));
    }

    fn mesh() -> [Value; 4] {
        [
            json!(["Service", "web", {"mtls": "strict"}]),
            json!(["Gateway", "edge", {"group": "edge", "listeners": [{"port": 1}]}]),
            json!(["Gateway", "in", {"group": "web", "service": "web", "listeners": [{"port": 2}]}]),
            route("r", json!({"rules": to("web")})),
        ]
    }

    #[test]
    fn both_ends_of_mutual_tls_have_identities_once_there_is_an_authority() {
        let mut fleet = Fleet::new();
        for o in mesh() {
            fleet.put(&o);
        }
        assert!(fleet.plane.compiler.wants_root());
        assert_eq!(fleet.names("edge", CDS), [""; 0], "a cluster without its secrets is held back");
        fleet.root();
        assert!(!fleet.plane.compiler.wants_root());
        assert_eq!(fleet.names("edge", CDS), ["web"]);
        assert_eq!(fleet.names("edge", SDS), ["mesh/authorities", "mesh/identity"]);
        assert_eq!(fleet.names("web", SDS), ["mesh/authorities", "mesh/service/web"]);
        assert_eq!(fleet.names("web", LDS), ["in/http-2"]);
        fleet.put(&json!(["Service", "web", {"mtls": "off"}]));
        assert_eq!(fleet.names("edge", SDS), [""; 0]);
        assert_eq!(fleet.names("web", SDS), [""; 0]);
    }

    #[test]
    fn identities_are_renewed_at_half_of_their_life_and_nothing_else_is_published() {
        let mut fleet = Fleet::new();
        for o in mesh() {
            fleet.put(&o);
        }
        fleet.root();
        let (chain, clusters) =
            (fleet.chain("edge", "mesh/identity"), fleet.plane.snapshot("edge").set(CDS).version());
        let renew = fleet.plane.compiler.next_renewal().unwrap();
        assert!(
            renew > fleet.now + Duration::from_secs(10 * 3600)
                && renew < fleet.now + Duration::from_secs(14 * 3600)
        );
        fleet.now = renew - Duration::from_secs(1);
        assert!(!fleet.compile(&BTreeSet::new()));
        fleet.now = renew + Duration::from_secs(4 * 3600);
        assert!(fleet.compile(&BTreeSet::new()));
        assert_ne!(fleet.chain("edge", "mesh/identity"), chain);
        assert_eq!(fleet.plane.snapshot("edge").set(CDS).version(), clusters);
    }

    #[test]
    fn versions_of_secrets_do_not_follow_from_what_they_hold() {
        let mut fleet = Fleet::new();
        let root = authority::generate("x", fleet.now).unwrap();
        fleet.put(&https("edge", "edge", 1, "a"));
        fleet.secret("a", &root, &[]);
        let first = fleet.plane.snapshot("edge").get(SDS, "a").unwrap().version;
        fleet.secret("a", &root, &[]);
        assert_ne!(fleet.plane.snapshot("edge").get(SDS, "a").unwrap().version, first);
    }
}

#[test]
fn listeners_of_bytes_carry_them_to_the_route_that_names_them() {
    let p = Plane::with(
        &[
            json!(["Gateway", "edge", {"listeners": [
                {"name": "db", "port": 5432, "protocol": "TCP", "proxy_protocol": true},
                {"name": "idle", "port": 5433, "protocol": "TCP"},
                {"name": "passed", "port": 8443, "protocol": "TLS_PASSTHROUGH"},
                {"name": "http", "port": 8080},
            ]}]),
            json!(["Route", "db", {"gateways": ["edge"], "listeners": ["db"], "rules": [{"backends": [{"service": "postgres"}], "idle_timeout": "0s"}]}]),
            json!(["Route", "bank", {"gateways": ["edge"], "listeners": ["passed"], "hosts": ["Bank.example.com"],
                "rules": [{"backends": [{"service": "bank", "weight": 9}, {"service": "next"}, {"service": "never", "weight": 0}]}]}]),
            route("web", json!({"rules": to("cart")})),
        ],
        vec![],
    );
    assert_eq!(p.names("any", LDS), ["edge/db", "edge/http", "edge/passed"], "nobody serves `idle`");
    assert_eq!(p.names("any", RDS), ["edge/http"]);
    assert_eq!(p.names("any", CDS), ["bank", "cart", "next", "postgres"]);
    let json = |name: &str| {
        let m: Listener = p.snapshot("any").get(LDS, name).unwrap().decode().unwrap();
        text::to_json(&m)
    };
    let db = json("edge/db");
    assert_eq!(db["listener_filters"][0]["name"], "envoy.filters.listener.proxy_protocol");
    let proxy = &db["filter_chains"][0]["filters"][0]["typed_config"];
    assert_eq!((&proxy["cluster"], &proxy["idle_timeout"]), (&json!("postgres"), &json!("0s")));
    assert_eq!(proxy["stat_prefix"], "edge_db");
    let passed = json("edge/passed");
    assert_eq!(passed["listener_filters"][0]["name"], "envoy.filters.listener.tls_inspector");
    let chain = &passed["filter_chains"][0];
    assert_eq!(
        chain["filter_chain_match"],
        json!({"server_names": ["bank.example.com"], "transport_protocol": "tls"})
    );
    assert_eq!(
        chain["filters"][0]["typed_config"]["weighted_clusters"],
        json!({"clusters": [{"name": "bank", "weight": 9}, {"name": "next", "weight": 1}]})
    );
    let manager = &json("edge/http")["filter_chains"][0]["filters"][0]["typed_config"];
    assert_eq!(manager["upgrade_configs"], json!([{"upgrade_type": "websocket"}]));
}
