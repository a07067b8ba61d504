//! Streams: what is asked first, how it is answered, and how streams come back.

use super::*;
use e2e::ads::Response;
use std::collections::BTreeMap;

#[tokio::test]
async fn first_requests_come_in_envoys_order() {
    for dialect in Dialect::ALL {
        let up = upstream("up").await;
        let mut world = World::start(dialect).await;
        let stream = &mut world.stream;
        let first = stream.next().await.unwrap();
        assert_eq!(first.kind(), Some(CDS), "clusters are asked for first");
        let node = first.node.expect("the first request says who asks");
        assert_eq!((&*node.id, &*node.cluster), ("node-1", "fleet"));
        assert!(
            first.names.is_empty()
                && first.nonce.is_empty()
                && first.version.is_empty()
                && first.error.is_none()
        );

        stream.send(Response::new(CDS, "1", vec![eds_cluster("up")])).await.unwrap();
        // Either order: the request for endpoints, and the ACK.
        let (mut asked, mut acked) = (false, false);
        while !(asked && acked) {
            let request = stream.next().await.unwrap();
            match request.kind() {
                Some(EDS) => {
                    assert_eq!(request.names.iter().collect::<Vec<_>>(), ["up"]);
                    asked = true;
                }
                Some(CDS) => {
                    assert_eq!((&*request.nonce, request.error), ("Cluster-1", None));
                    if dialect == Dialect::Sotw {
                        assert_eq!(request.version, "1");
                    }
                    acked = true;
                }
                other => panic!("{other:?}: listeners are asked for once clusters are warm"),
            }
        }
        stream.push(EDS, "1", vec![assignment("up", &[up.addr])]).await.unwrap().unwrap();
        let listeners = stream.next().await.unwrap();
        assert_eq!((listeners.kind(), &*listeners.nonce), (Some(LDS), ""));
        stream.send(Response::new(LDS, "1", vec![rds_listener("web", "all")])).await.unwrap();
        let routes_asked = stream.of(RDS).await.unwrap();
        assert_eq!(routes_asked.names.iter().collect::<Vec<_>>(), ["all"]);
        assert_eq!(stream.answer(LDS, "1").await.unwrap().error, None);
        assert_ne!(world.proxy.admin("/ready").await.unwrap().status, 200, "not ready before its routes");
        world.stream.push(RDS, "1", vec![routes("all", "up")]).await.unwrap().unwrap();
        world.ready().await;
        world.answers("web", 200, "up").await;
        assert!(world.stream.so_far().is_empty(), "nothing more to say");
    }
}

#[tokio::test]
async fn a_stream_that_ends_is_opened_again_with_what_was_accepted() {
    for dialect in Dialect::ALL {
        let up = upstream("up").await;
        let mut world = World::up(dialect, up.addr).await;
        // Version 2 is refused: version 1 is what is held.
        let refused = world.stream.push(CDS, "2", vec![eds_cluster("up"), bad_cluster("bad")]).await.unwrap();
        assert!(refused.unwrap_err().contains("bad"));
        let World { mut server, stream, proxy, client } = world;
        drop(stream);
        let mut stream = server.stream().await.unwrap();
        let clusters = stream.of(CDS).await.unwrap();
        match dialect {
            Dialect::Sotw => assert_eq!(clusters.version, "1"),
            // The good one of a refused response is in force, and so is its version.
            Dialect::Delta => assert_eq!(clusters.held.get("up").map(String::as_str), Some("2")),
        }
        let world = World { server, stream, proxy, client };
        world.answers("web", 200, "up").await;
    }
}

#[tokio::test]
async fn per_type_streams_are_asked_where_the_configuration_says() {
    for dialect in Dialect::ALL {
        let up = upstream("up").await;
        let mut server = AdsServer::start().await.unwrap();
        let own = format!(
            "{{resource_api_version: V3, api_config_source: {{api_type: {}, transport_api_version: V3, grpc_services: [{{envoy_grpc: {{cluster_name: control}}}}]}}}}",
            dialect.api_type()
        );
        let bootstrap = format!(
            "{{node: {{id: node-1, cluster: fleet}}, admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}}}, \
             dynamic_resources: {{cds_config: {own}, lds_config: {own}}}, static_resources: {{clusters: [{}]}}}}",
            control_cluster(server.addr)
        );
        let proxy = e2e::proxy::start_unready(&bootstrap).await.unwrap();
        let word = if dialect == Dialect::Sotw { "Stream" } else { "Delta" };
        let mut clusters = server.stream().await.unwrap();
        assert_eq!(clusters.method, format!("{word}Clusters"));
        let cluster = cluster_with("up", &format!("type: EDS, eds_cluster_config: {{eds_config: {own}}}"));
        clusters.push(CDS, "1", vec![cluster]).await.unwrap().unwrap();
        let mut endpoints = server.stream().await.unwrap();
        assert_eq!(endpoints.method, format!("{word}Endpoints"));
        endpoints.push(EDS, "1", vec![assignment("up", &[up.addr])]).await.unwrap().unwrap();
        let mut listeners = server.stream().await.unwrap();
        assert_eq!(listeners.method, format!("{word}Listeners"));
        let listener =
            listener_at("web", 0, &format!("rds: {{route_config_name: all, config_source: {own}}}"));
        listeners.push(LDS, "1", vec![listener]).await.unwrap().unwrap();
        let mut tables = server.stream().await.unwrap();
        assert_eq!(tables.method, format!("{word}Routes"));
        tables.push(RDS, "1", vec![routes("all", "up")]).await.unwrap().unwrap();
        let world = World { server, stream: clusters, proxy, client: Client::h1() };
        world.answers("web", 200, "up").await;
    }
}

#[tokio::test]
async fn a_server_that_dies_and_comes_back_is_found_again() {
    for dialect in Dialect::ALL {
        let (up, other) = (upstream("up").await, upstream("other").await);
        let mut world = World::up(dialect, up.addr).await;
        let addr = world.server.addr;
        drop(world.stream);
        drop(world.server);
        // Without a control plane everything goes on.
        let alone = Client::h1();
        let web = world.proxy.listener("web").await.unwrap();
        eventually("the loss is noticed", async || -> Result<()> {
            anyhow::ensure!(
                world.proxy.stats().await?["control_plane.connected_state"] == 0,
                "still connected"
            );
            Ok(())
        })
        .await;
        for _ in 0..10 {
            assert_eq!(alone.get(&format!("http://{web}/")).await.unwrap().status, 200);
        }
        world.server = eventually("the port is free again", async || AdsServer::bind(addr).await).await;
        world.stream = world.server.stream().await.unwrap();
        let clusters = world.stream.of(CDS).await.unwrap();
        let endpoints = world.stream.of(EDS).await.unwrap();
        assert!(clusters.nonce.is_empty() && endpoints.nonce.is_empty(), "nonces are the stream's");
        let held = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect::<BTreeMap<String, String>>()
        };
        match dialect {
            Dialect::Sotw => {
                assert_eq!((&*clusters.version, &*endpoints.version), ("1", "1"));
                assert_eq!(endpoints.names.iter().collect::<Vec<_>>(), ["up"]);
            }
            Dialect::Delta => {
                assert_eq!(clusters.held, held(&[("up", "1")]));
                assert_eq!(endpoints.held, held(&[("up", "1")]));
            }
        }
        world.stream.push(EDS, "2", vec![assignment("up", &[other.addr])]).await.unwrap().unwrap();
        world.answers("web", 200, "other").await;
    }
}

#[tokio::test]
async fn a_response_of_an_unknown_type_is_ignored() {
    for dialect in Dialect::ALL {
        let up = upstream("up").await;
        let mut world = World::up(dialect, up.addr).await;
        let strange = Response {
            type_url: "type.googleapis.com/acme.Strange".into(),
            nonce: "strange".into(),
            ..Response::default()
        };
        world.stream.send(strange).await.unwrap();
        // The next response is answered on the same stream, and nothing is said of the strange one.
        world.stream.push(EDS, "2", vec![assignment("up", &[up.addr])]).await.unwrap().unwrap();
        assert!(world.stream.so_far().iter().all(|r| r.nonce != "strange"), "no answer to an unknown type");
        world.answers("web", 200, "up").await;
    }
}
