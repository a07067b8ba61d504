//! What a proxy and a gRPC client live through.

use super::client::{Client, Control, eventually, instance, node, the_source};
use control_plane::ads::{Mode, Refusal};
use control_plane::model::{Event, Gone, ServiceName};
use serde_json::{Value, json};
use tokio_stream::StreamExt;
use xds_types::ResourceType;
use xds_types::ResourceType::{
    Cluster as CDS, ClusterLoadAssignment as EDS, Listener as LDS, RouteConfiguration as RDS,
};
use xds_types::envoy::config::endpoint::v3::ClusterLoadAssignment;
use xds_types::envoy::config::listener::v3::Listener;
use xds_types::envoy::config::route::v3::RouteConfiguration;
use xds_types::envoy::config::route::v3::route::Action;
use xds_types::envoy::service::discovery::v3::DiscoveryRequest;

fn gateway() -> Value {
    json!(["Gateway", "edge", {"listeners": [{"name": "http", "port": 8080}]}])
}

fn route(service: &str) -> Value {
    json!(["Route", "shop", {"gateways": ["edge"], "rules": [{"backends": [{"service": service}]}]}])
}

async fn connect(control: &Control, mode: Mode, id: &str, agent: &str) -> Client {
    let node = node(id, "edge", agent);
    match mode {
        Mode::Sotw => Client::sotw(control.channel().await, node).await,
        Mode::Delta => Client::delta(control.channel().await, node).await,
    }
}

/// Goes through the start of Envoy, and ends with everything accepted.
async fn start_up(c: &mut Client) {
    c.ask(CDS, &[]).await;
    let cds = c.next(CDS).await;
    assert_eq!(cds.names(), ["cart"]);
    assert_eq!(cds.control_plane.as_ref().unwrap().identifier, "replica-1");
    c.ask(EDS, &["cart"]).await;
    c.answer(&cds, &[], None).await;
    let eds = c.accept(EDS, &["cart"]).await;
    assert_eq!(eds.message::<ClusterLoadAssignment>("cart").endpoints.len(), 1);
    c.ask(LDS, &[]).await;
    assert_eq!(c.accept(LDS, &[]).await.names(), ["edge/http"]);
    c.ask(RDS, &["edge/http"]).await;
    assert_eq!(c.accept(RDS, &["edge/http"]).await.names(), ["edge/http"]);
}

#[tokio::test]
async fn a_proxy_starts_and_then_hears_of_changes_only() {
    for mode in [Mode::Sotw, Mode::Delta] {
        let control = Control::start(&[gateway(), route("cart")], vec![instance("cart", 1001)]).await;
        let mut c = connect(&control, mode, "p1", "envoy").await;
        start_up(&mut c).await;
        c.nothing().await;

        control.register(instance("cart", 1002)).await;
        let eds = c.accept(EDS, &["cart"]).await;
        assert_eq!(eds.message::<ClusterLoadAssignment>("cart").endpoints[0].lb_endpoints.len(), 2, "{mode}");

        // What changes nothing for this proxy is not sent.
        control.register(instance("cart", 1002)).await;
        control.register(instance("other", 1)).await;
        c.nothing().await;

        let service = ServiceName::new("cart").unwrap();
        control
            .send(Event::ReplaceService { source: the_source(), service, instances: vec![], why: Gone::Lost })
            .await;
        let eds = c.accept(EDS, &["cart"]).await;
        assert_eq!(eds.message::<ClusterLoadAssignment>("cart").endpoints, [], "an empty assignment is sent");
    }
}

#[tokio::test]
async fn a_route_moves_to_a_new_service_make_before_break() {
    for mode in [Mode::Sotw, Mode::Delta] {
        let objects = [gateway(), route("cart")];
        let mut control = Control::start(&objects, vec![instance("cart", 1001), instance("pay", 1002)]).await;
        let mut c = connect(&control, mode, "p1", "envoy").await;
        start_up(&mut c).await;

        control.put(route("pay")).await;
        let cds = c.next(CDS).await;
        assert!(cds.names().contains(&"pay"), "{mode}: the new cluster comes first");
        assert!(cds.removed.is_empty(), "{mode}: the old one stays");
        c.nothing().await; // the route waits for the cluster
        // Envoy asks for endpoints, and accepts the cluster when they are there.
        match mode {
            Mode::Delta => c.ask(EDS, &["pay"]).await,
            Mode::Sotw => {
                let last = control.registry.nodes()[0].1.types["EDS"].sent.clone();
                assert!(last.is_some());
                let mut again = cds.clone();
                (again.kind, again.nonce) = (EDS, "2".into());
                c.ask_more(&again, "pay", &["pay", "cart"]).await;
            }
        }
        assert_eq!(c.accept(EDS, &["pay", "cart"]).await.names(), ["pay"]);
        c.answer(&cds, &[], None).await;
        let rds = c.next(RDS).await;
        let route = rds.message::<RouteConfiguration>("edge/http");
        assert!(matches!(&route.virtual_hosts[0].routes[0].action, Some(Action::Route(_))));
        c.nothing().await; // the old cluster waits for the route
        c.answer(&rds, &["edge/http"], None).await;
        let cds = c.accept(CDS, &[]).await;
        match mode {
            Mode::Sotw => assert_eq!(cds.names(), ["pay"]),
            Mode::Delta => assert_eq!(cds.removed, ["cart"]),
        }
    }
}

#[tokio::test]
async fn a_refusal_is_shown_with_the_object_that_caused_it_until_it_is_mended() {
    for mode in [Mode::Sotw, Mode::Delta] {
        let objects = [gateway(), route("cart"), json!(["Service", "cart", {}])];
        let mut control = Control::start(&objects, vec![instance("cart", 1001)]).await;
        let mut c = connect(&control, mode, "p1", "envoy").await;
        start_up(&mut c).await;
        control.put(json!(["Service", "cart", {"load_balancing": "LEAST_REQUEST"}])).await;
        let cds = c.next(CDS).await;
        c.accept(EDS, &["cart"]).await;
        c.answer(&cds, &[], Some("Error adding/updating cluster(s) cart: no such policy")).await;
        let cart = control
            .handle
            .view()
            .objects
            .states()
            .keys()
            .find(|k| k.name.as_str() == "cart")
            .unwrap()
            .clone();
        eventually("the refusal is shown", || control.registry.refusals().contains_key(&cart)).await;
        let Refusal { node, group, kind, nack } = control.registry.refusals()[&cart][0].clone();
        assert_eq!((node.as_str(), group.as_str(), kind.as_str()), ("p1", "edge", "CDS"));
        assert_eq!(
            (nack.objects.as_slice(), nack.version.as_str()),
            (&[cart.clone()][..], cds.version.as_str())
        );
        assert!(nack.reason.contains("no such policy"));
        assert_eq!(nack.resources, [std::sync::Arc::<str>::from("cart")]);
        c.nothing().await; // it is not sent again

        control.put(json!(["Service", "cart", {"load_balancing": "RANDOM"}])).await;
        c.accept(CDS, &[]).await;
        eventually("the refusal is gone", || control.registry.refusals().is_empty()).await;
    }
}

#[tokio::test]
async fn who_is_connected_is_known_while_it_is() {
    let control = Control::start(&[gateway(), route("cart")], vec![instance("cart", 1001)]).await;
    let mut c = connect(&control, Mode::Delta, "p1", "envoy").await;
    start_up(&mut c).await;
    eventually("everything is acknowledged", || {
        let nodes = control.registry.nodes();
        nodes.len() == 1
            && nodes[0].1.types.len() == 4
            && nodes[0].1.types.values().all(|t| t.acked.is_some())
    })
    .await;
    let (_, n) = control.registry.nodes().remove(0);
    assert_eq!((n.id.as_str(), n.group.as_str(), n.mode), ("p1", "edge", Mode::Delta));
    assert!(n.peer.starts_with("127.0.0.1:"));
    assert!(n.types["CDS"].wildcard);
    assert_eq!(n.types["EDS"].subscribed, 1);
    drop(c);
    eventually("it is forgotten", || control.registry.is_empty()).await;
}

#[tokio::test]
async fn a_grpc_client_gets_a_service_by_its_name() {
    let mesh = json!(["Route", "mesh", {"mesh": true, "hosts": ["cart"], "rules": [
        {"matches": [{"grpc": "shop.Cart/Checkout"}], "backends": [{"service": "pay", "weight": 1}, {"service": "cart", "weight": 3}]},
    ]}]);
    let mut control =
        Control::start(&[gateway(), mesh], vec![instance("cart", 1001), instance("pay", 1002)]).await;
    let agent = "gRPC C-core linux";
    let mut c = connect(&control, Mode::Sotw, "g1", agent).await;
    c.ask(LDS, &["cart:50051"]).await;
    let lds = c.accept(LDS, &["cart:50051"]).await;
    let listener = lds.message::<Listener>("cart:50051");
    assert!(listener.api_listener.is_some() && listener.address.is_none());
    c.ask(RDS, &["cart:50051"]).await;
    let rds = c.accept(RDS, &["cart:50051"]).await.message::<RouteConfiguration>("cart:50051");
    assert_eq!(rds.virtual_hosts[0].domains, ["*"]);
    assert_eq!(rds.virtual_hosts[0].routes.len(), 2);
    c.ask(CDS, &["cart", "pay"]).await;
    assert_eq!(c.accept(CDS, &["cart", "pay"]).await.names(), ["cart", "pay"], "by name, not all");
    c.ask(EDS, &["cart", "pay"]).await;
    let eds = c.accept(EDS, &["cart", "pay"]).await;
    assert!(eds.message::<ClusterLoadAssignment>("cart").endpoints[0].load_balancing_weight.is_some());
    c.nothing().await;

    control.register(instance("cart", 1003)).await;
    let eds = c.accept(EDS, &["cart", "pay"]).await;
    assert_eq!(eds.names(), ["cart"], "only what changed");
    control.put(json!(["Service", "cart", {"load_balancing": "LEAST_REQUEST"}])).await;
    assert_eq!(c.accept(CDS, &["cart", "pay"]).await.names(), ["cart", "pay"]);

    let mut c = connect(&control, Mode::Sotw, "g2", agent).await;
    c.ask(LDS, &["unknown"]).await;
    c.nothing().await;
    control.register(instance("unknown", 1)).await;
    assert_eq!(c.next(LDS).await.names(), ["unknown"], "a name that did not exist yet is remembered");
}

#[tokio::test]
async fn a_client_with_another_user_agent_gets_a_service_by_its_name_too() {
    let control = Control::start(&[gateway()], vec![instance("cart", 1001)]).await;
    eventually("published", || control.handle.is_ready()).await;
    let mut c = connect(&control, Mode::Delta, "x", "my-client").await;
    c.ask(LDS, &["cart"]).await;
    assert!(c.next(LDS).await.message::<Listener>("cart").api_listener.is_some());
}

#[tokio::test]
async fn groups_see_their_own_gateways_and_those_of_all() {
    let objects = [
        json!(["Gateway", "all", {"listeners": [{"name": "http", "port": 8080}]}]),
        json!(["Gateway", "inner", {"group": "inner", "listeners": [{"name": "http", "port": 8081}]}]),
    ];
    let mut control = Control::start(&objects, vec![]).await;
    let mut edge = Client::delta(control.channel().await, node("e", "edge", "envoy")).await;
    edge.ask(LDS, &[]).await;
    assert_eq!(edge.accept(LDS, &[]).await.names(), ["all/http"]);
    let mut inner = Client::delta(control.channel().await, node("i", "inner", "envoy")).await;
    inner.ask(LDS, &[]).await;
    assert_eq!(inner.accept(LDS, &[]).await.names(), ["all/http", "inner/http"]);

    control
        .put(json!(["Gateway", "e", {"group": "edge", "listeners": [{"name": "http", "port": 8082}]}]))
        .await;
    assert_eq!(edge.accept(LDS, &[]).await.names(), ["e/http"], "a group that comes into being");
    inner.nothing().await;
}

#[tokio::test]
async fn each_type_has_a_service_of_its_own() {
    use xds_types::envoy::service::endpoint::v3::endpoint_discovery_service_client::EndpointDiscoveryServiceClient;
    let control = Control::start(&[gateway(), route("cart")], vec![instance("cart", 1001)]).await;
    let ask = |type_url: &str| {
        let r = DiscoveryRequest {
            type_url: type_url.to_owned(),
            resource_names: vec!["cart".into()],
            ..Default::default()
        };
        tokio_stream::once(r).chain(tokio_stream::pending())
    };
    let mut client = EndpointDiscoveryServiceClient::new(control.channel().await);
    for url in [EDS.type_url(), ""] {
        let mut stream = client.stream_endpoints(ask(url)).await.unwrap().into_inner();
        let r = stream.message().await.unwrap().unwrap();
        assert_eq!((r.type_url.as_str(), r.resources.len()), (EDS.type_url(), 1));
    }
    let mut wrong = client.stream_endpoints(ask(CDS.type_url())).await.unwrap().into_inner();
    let status = wrong.message().await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    assert!(
        status.message().contains("this service has EDS") || status.message().contains(EDS.full_name()),
        "{status}"
    );
    let status = client.fetch_endpoints(DiscoveryRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unimplemented);
}

#[tokio::test]
async fn a_type_that_nobody_knows_does_not_end_the_stream() {
    let control = Control::start(&[gateway(), route("cart")], vec![instance("cart", 1001)]).await;
    let mut c = connect(&control, Mode::Sotw, "p1", "envoy").await;
    c.ask(ResourceType::Secret, &["certificate"]).await;
    c.ask(ResourceType::Runtime, &["layer"]).await;
    start_up(&mut c).await;
}
