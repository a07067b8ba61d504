//! A proxy under a scripted control plane.

use crate::support::*;
use std::time::Duration;

async fn live(proxy: &data_plane::server::Handle) {
    let admin = proxy.admin_addr().unwrap();
    eventually("the proxy is live", async || (get(admin, "/ready").await.status == 200).then_some(())).await;
}

#[tokio::test]
async fn sotw_comes_up_in_envoys_order_and_serves() {
    let upstream = Upstream::start("one").await;
    let mut plane = ControlPlane::start().await;
    let proxy = start(&dynamic_bootstrap(plane.address, "GRPC"));
    let mut stream = plane.sotw().await;

    let cds = stream.request_of(CDS).await;
    assert_eq!((&*cds.version_info, &*cds.response_nonce, cds.resource_names.len()), ("", "", 0));
    let node = cds.node.unwrap();
    assert_eq!((&*node.id, &*node.user_agent_name), ("test-node", "portolan"));
    assert_eq!(get(proxy.admin_addr().unwrap(), "/ready").await.body, "INITIALIZING\n");

    stream.respond(CDS, "c1", "n1", vec![resource(CDS, &eds_cluster("up"))]).await;
    let (mut ack, mut eds) = (None, None);
    for _ in 0..2 {
        let request = stream.request().await;
        if request.type_url == CDS { ack = Some(request) } else { eds = Some(request) }
    }
    let (ack, eds) = (ack.unwrap(), eds.unwrap());
    assert_eq!((&*ack.version_info, &*ack.response_nonce), ("c1", "n1"));
    assert!(ack.error_detail.is_none());
    assert_eq!((&*eds.type_url, &*eds.resource_names), (EDS, &["up".to_owned()][..]));
    assert!(stream.is_quiet().await, "listeners wait for clusters");

    stream.respond(EDS, "e1", "n2", vec![resource(EDS, &assignment("up", upstream.address))]).await;
    let mut seen = [stream.request().await, stream.request().await];
    seen.sort_by_key(|r| r.type_url.clone());
    assert_eq!((&*seen[0].type_url, &*seen[0].response_nonce), (EDS, "n2"));
    assert_eq!((&*seen[1].type_url, &*seen[1].response_nonce), (LDS, ""));

    stream.respond(LDS, "l1", "n3", vec![resource(LDS, &listener("web", &by_rds("routes")))]).await;
    let mut seen = [stream.request().await, stream.request().await];
    seen.sort_by_key(|r| r.type_url.clone());
    assert_eq!((&*seen[0].type_url, &*seen[0].response_nonce), (LDS, "n3"));
    assert_eq!((&*seen[1].type_url, &*seen[1].resource_names), (RDS, &["routes".to_owned()][..]));
    assert!(proxy.listener_addr("web").is_none(), "a listener waits for its routes");

    stream.respond(RDS, "r1", "n4", vec![resource(RDS, &route_config("routes", "up"))]).await;
    assert_eq!(stream.request_of(RDS).await.response_nonce, "n4");
    live(&proxy).await;
    assert_eq!(get(bound(&proxy, "web").await, "/").await.body, "one");
    assert_eq!(proxy.stats().value("control_plane.connected_state"), Some(1));
    assert_eq!(proxy.stats().value("cluster.up.update_success"), Some(1));
    assert_eq!(proxy.stats().value("http.web.rds.routes.update_success"), Some(1));
}

/// A proxy that is live with one cluster `up` and one listener `web`, both whole.
async fn settled(plane: &mut ControlPlane, upstream: &Upstream) -> (data_plane::server::Handle, SotwStream) {
    let proxy = start(&dynamic_bootstrap(plane.address, "GRPC"));
    let mut stream = plane.sotw().await;
    stream.request_of(CDS).await;
    stream.respond(CDS, "c1", "c1", vec![resource(CDS, &static_cluster("up", upstream.address))]).await;
    stream.request_of(CDS).await;
    stream.request_of(LDS).await;
    stream.respond(LDS, "l1", "l1", vec![resource(LDS, &listener("web", &to_cluster("up")))]).await;
    stream.request_of(LDS).await;
    live(&proxy).await;
    (proxy, stream)
}

#[tokio::test]
async fn sotw_partly_bad_response_applies_the_good_and_nacks_every_bad_by_name_and_path() {
    let (one, two) = (Upstream::start("one").await, Upstream::start("two").await);
    let mut plane = ControlPlane::start().await;
    let (proxy, mut stream) = settled(&mut plane, &one).await;
    let web = bound(&proxy, "web").await;
    let bad = |name: &str| resource(CDS, &format!("{{name: {name}, connect_timeout: -1s}}"));
    stream
        .respond(
            CDS,
            "c2",
            "c2",
            vec![bad("bad1"), resource(CDS, &static_cluster("up", two.address)), bad("bad2")],
        )
        .await;
    let nack = stream.request_of(CDS).await;
    assert_eq!((&*nack.version_info, &*nack.response_nonce), ("c1", "c2"), "version is the last accepted");
    let error = nack.error_detail.unwrap();
    assert_eq!(error.code, 13);
    for part in ["bad1: ", "bad2: ", "connect_timeout"] {
        assert!(error.message.contains(part), "{part} in {}", error.message);
    }
    eventually("the good cluster applies", async || (get(web, "/").await.body == "two").then_some(())).await;
    assert!(stream.is_quiet().await, "a nonce is answered once");
    assert_eq!(proxy.stats().value("cluster_manager.cds.update_rejected"), Some(1));

    // Fixed: everything is accepted under the new version.
    stream.respond(CDS, "c3", "c3", vec![resource(CDS, &static_cluster("up", two.address))]).await;
    let ack = stream.request_of(CDS).await;
    assert_eq!((&*ack.version_info, ack.error_detail), ("c3", None));
}

#[tokio::test]
async fn a_listener_that_cannot_bind_is_nacked_and_never_acked() {
    let upstream = Upstream::start("one").await;
    let mut plane = ControlPlane::start().await;
    let (proxy, mut stream) = settled(&mut plane, &upstream).await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let text = listener("web2", &to_cluster("up")).replace("port_value: 0", &format!("port_value: {port}"));
    let web = listener("web", &to_cluster("up"));
    stream.respond(LDS, "l2", "l2", vec![resource(LDS, &web), resource(LDS, &text)]).await;
    let nack = stream.request_of(LDS).await;
    assert!(nack.error_detail.as_ref().unwrap().message.contains("web2: "), "{nack:?}");
    assert_eq!(nack.version_info, "l1");
    assert_eq!(get(bound(&proxy, "web").await, "/").await.body, "one");
}

#[tokio::test]
async fn a_type_never_asked_for_is_not_answered_and_the_stream_lives_on() {
    let upstream = Upstream::start("one").await;
    let mut plane = ControlPlane::start().await;
    let (_proxy, mut stream) = settled(&mut plane, &upstream).await;
    stream.respond("type.googleapis.com/envoy.config.core.v3.Address", "1", "x", vec![]).await;
    assert!(stream.is_quiet().await);
    stream.respond(CDS, "c2", "c2", vec![resource(CDS, &static_cluster("up", upstream.address))]).await;
    assert_eq!(stream.request_of(CDS).await.response_nonce, "c2");
}

#[tokio::test]
async fn a_lost_stream_comes_back_with_what_is_held_and_traffic_goes_on() {
    let upstream = Upstream::start("one").await;
    let mut plane = ControlPlane::start().await;
    let (proxy, stream) = settled(&mut plane, &upstream).await;
    let web = bound(&proxy, "web").await;
    drop(stream);
    assert_eq!(get(web, "/").await.body, "one");
    let mut stream = plane.sotw().await;
    let cds = stream.request_of(CDS).await;
    assert_eq!((&*cds.version_info, &*cds.response_nonce), ("c1", ""));
    assert_eq!(stream.request_of(LDS).await.version_info, "l1");
    assert_eq!(get(web, "/").await.body, "one");
}

#[tokio::test]
async fn endpoint_changes_move_traffic() {
    let (one, two) = (Upstream::start("one").await, Upstream::start("two").await);
    let mut plane = ControlPlane::start().await;
    let proxy = start(&dynamic_bootstrap(plane.address, "DELTA_GRPC"));
    let mut stream = plane.delta().await;
    let cds = stream.request_of(CDS).await;
    assert!(cds.resource_names_subscribe.is_empty(), "all clusters");
    stream.respond(CDS, "1", vec![("up", "1", resource(CDS, &eds_cluster("up")))], &[]).await;
    let mut seen = [stream.request().await, stream.request().await];
    seen.sort_by_key(|r| r.type_url.clone());
    assert_eq!((&*seen[0].type_url, &*seen[0].response_nonce), (CDS, "1"));
    assert_eq!((&*seen[1].type_url, &*seen[1].resource_names_subscribe), (EDS, &["up".to_owned()][..]));
    stream.respond(EDS, "2", vec![("up", "1", resource(EDS, &assignment("up", one.address)))], &[]).await;
    let mut seen = [stream.request().await, stream.request().await];
    seen.sort_by_key(|r| r.type_url.clone());
    assert_eq!((&*seen[0].type_url, &*seen[1].type_url), (EDS, LDS));
    stream
        .respond(LDS, "3", vec![("web", "1", resource(LDS, &listener("web", &to_cluster("up"))))], &[])
        .await;
    assert_eq!(stream.request_of(LDS).await.response_nonce, "3");
    live(&proxy).await;
    let web = bound(&proxy, "web").await;
    assert_eq!(get(web, "/").await.body, "one");

    stream.respond(EDS, "4", vec![("up", "2", resource(EDS, &assignment("up", two.address)))], &[]).await;
    assert_eq!(stream.request_of(EDS).await.response_nonce, "4");
    assert_eq!(get(web, "/").await.body, "two", "what is acknowledged is in force");

    // One bad, one good: the bad one keeps what it had, and is not claimed on reconnect.
    let bad = resource(CDS, "{name: bad, connect_timeout: -1s}");
    let other = resource(CDS, &static_cluster("other", two.address));
    stream.respond(CDS, "5", vec![("bad", "1", bad), ("other", "1", other)], &[]).await;
    let nack = stream.request_of(CDS).await;
    assert_eq!(nack.response_nonce, "5");
    assert!(nack.error_detail.unwrap().message.contains("bad: connect_timeout"));
    drop(stream);
    let mut stream = plane.delta().await;
    let cds = stream.request_of(CDS).await;
    let mut held: Vec<_> = cds.initial_resource_versions.into_iter().collect();
    held.sort();
    assert_eq!(held, [("other".into(), "1".into()), ("up".into(), "1".into())]);
    let eds = stream.request_of(EDS).await;
    assert_eq!(eds.initial_resource_versions.get("up").map(String::as_str), Some("2"));
    assert_eq!(stream.request_of(LDS).await.initial_resource_versions.len(), 1);

    // Removal of the cluster unsubscribes its endpoints.
    stream.respond(CDS, "6", vec![], &["up"]).await;
    let mut seen = [stream.request().await, stream.request().await];
    seen.sort_by_key(|r| r.type_url.clone());
    assert_eq!((&*seen[0].type_url, &*seen[0].response_nonce), (CDS, "6"));
    assert_eq!((&*seen[1].type_url, &*seen[1].resource_names_unsubscribe), (EDS, &["up".to_owned()][..]));
    assert_eq!(get(web, "/").await.status, 503);
}

#[tokio::test]
async fn a_listener_whose_routes_do_not_exist_serves_404_at_once() {
    let mut plane = ControlPlane::start().await;
    let proxy = start(&dynamic_bootstrap(plane.address, "DELTA_GRPC"));
    let mut stream = plane.delta().await;
    stream.request_of(CDS).await;
    stream.respond(CDS, "1", vec![], &[]).await;
    stream.request_of(CDS).await;
    stream.request_of(LDS).await;
    stream.respond(LDS, "2", vec![("web", "1", resource(LDS, &listener("web", &by_rds("none"))))], &[]).await;
    stream.request().await;
    stream.request().await;
    // Envoy 1.40 ignores this and waits for ever.
    stream.respond(RDS, "3", vec![], &["none"]).await;
    assert_eq!(stream.request_of(RDS).await.response_nonce, "3");
    live(&proxy).await;
    assert_eq!(get(bound(&proxy, "web").await, "/").await.status, 404);
}

#[tokio::test]
async fn an_unreachable_control_plane_does_not_keep_static_listeners_from_serving() {
    let upstream = Upstream::start("one").await;
    let nowhere = "127.0.0.1:1".parse().unwrap();
    let dynamic = dynamic_bootstrap(nowhere, "GRPC")
        .replace("cds_config: {ads: {}", "cds_config: {initial_fetch_timeout: 0.2s, ads: {}")
        .replace("lds_config: {ads: {}", "lds_config: {initial_fetch_timeout: 0.2s, ads: {}");
    let own = format!(
        "listeners: [{}], clusters: [{}, ",
        listener("web", &to_cluster("up")),
        static_cluster("up", upstream.address)
    );
    let proxy = start(&dynamic.replace("clusters: [", &own));
    let proxy =
        tokio::time::timeout(Duration::from_secs(5), ready(proxy)).await.expect("live after the waits");
    assert_eq!(get(bound(&proxy, "web").await, "/").await.body, "one");
    assert_eq!(proxy.stats().value("cluster_manager.cds.init_fetch_timeout"), Some(1));
    assert_eq!(proxy.stats().value("listener_manager.lds.init_fetch_timeout"), Some(1));
    assert_eq!(proxy.stats().value("control_plane.connected_state"), Some(0));
}

#[tokio::test]
async fn endpoints_that_never_come_end_their_wait() {
    let mut plane = ControlPlane::start().await;
    let proxy = start(&dynamic_bootstrap(plane.address, "GRPC"));
    let mut stream = plane.sotw().await;
    stream.request_of(CDS).await;
    let impatient = eds_cluster("up").replace("eds_config: {", "eds_config: {initial_fetch_timeout: 0.2s, ");
    stream.respond(CDS, "c1", "1", vec![resource(CDS, &impatient)]).await;
    stream.request().await;
    stream.request().await;
    assert_eq!(
        stream.request_of(LDS).await.response_nonce,
        "",
        "listeners are asked for once the wait is over"
    );
    assert_eq!(proxy.stats().value("cluster.up.init_fetch_timeout"), Some(1));
}

#[tokio::test]
async fn the_next_server_is_asked_when_the_first_is_unreachable() {
    let upstream = Upstream::start("one").await;
    let mut plane = ControlPlane::start().await;
    let dead = static_cluster("dead", "127.0.0.1:1".parse().unwrap());
    let yaml = dynamic_bootstrap(plane.address, "GRPC")
        .replace("grpc_services: [", "grpc_services: [{envoy_grpc: {cluster_name: dead}}, ")
        .replace("clusters: [", &format!("clusters: [{dead}, "));
    let proxy = start(&yaml);
    let mut stream = plane.sotw().await;
    stream.request_of(CDS).await;
    stream.respond(CDS, "c1", "c1", vec![resource(CDS, &static_cluster("up", upstream.address))]).await;
    assert_eq!(stream.request_of(CDS).await.version_info, "c1");
    assert!(proxy.stats().value("cluster_manager.cds.update_failure") >= Some(1));
}

#[tokio::test]
async fn requests_beyond_the_rate_limit_wait() {
    let upstream = Upstream::start("one").await;
    let mut plane = ControlPlane::start().await;
    let limit = "rate_limit_settings: {max_tokens: 1, fill_rate: 5}, grpc_services: [";
    let proxy = start(&dynamic_bootstrap(plane.address, "GRPC").replace("grpc_services: [", limit));
    let mut stream = plane.sotw().await;
    stream.request_of(CDS).await;
    let began = std::time::Instant::now();
    for version in ["1", "2", "3"] {
        let cluster = resource(CDS, &static_cluster("up", upstream.address));
        stream.respond(CDS, version, version, vec![cluster]).await;
    }
    // Every answer waits its turn; none is lost.
    let mut answered = std::collections::BTreeSet::new();
    while !answered.contains("3") {
        answered.insert(stream.request().await.response_nonce);
    }
    assert!(began.elapsed() >= Duration::from_millis(300), "{:?}", began.elapsed());
    assert!(proxy.stats().value("control_plane.rate_limit_enforced") >= Some(1));
}
