//! Updates: good and bad ones, late ones, and those that take things away.

use super::*;
use e2e::ads::Response;
use socket2::{Domain, Socket, Type};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use xds_types::google::protobuf::BoolValue;

const ROUTES_OVER_ADS: &str =
    "rds: {route_config_name: all, config_source: {resource_api_version: V3, ads: {}}}";

#[tokio::test]
async fn a_bad_resource_is_refused_by_name_and_the_others_apply() {
    for dialect in Dialect::ALL {
        let (up, other) = (upstream("up").await, upstream("other").await);
        let mut world = World::up(dialect, up.addr).await;
        let stream = &mut world.stream;
        let nack = stream
            .push(CDS, "2", vec![eds_cluster("up"), bad_cluster("bad"), static_cluster("more", other.addr)])
            .await
            .unwrap()
            .unwrap_err();
        assert!(nack.contains("bad: lb_policy") && !nack.contains("more"), "{nack}");
        let bad_listener = listener_at(
            "broken",
            0,
            "rds: {route_config_name: '', config_source: {ads: {}, resource_api_version: V3}}",
        );
        let nack =
            stream.push(LDS, "2", vec![rds_listener("web", "all"), bad_listener]).await.unwrap().unwrap_err();
        assert!(nack.contains("broken: ") && !nack.contains("web"), "{nack}");
        let twice = "virtual_hosts: [{name: a, domains: ['x']}, {name: b, domains: ['x']}]";
        let bad_routes =
            any::pack(&text::from_yaml::<RouteConfiguration>(&format!("{{name: all, {twice}}}")).unwrap());
        let nack = stream.push(RDS, "2", vec![("all".into(), bad_routes)]).await.unwrap().unwrap_err();
        assert!(nack.contains("all: virtual_hosts[1].domains"), "{nack}");
        let bad_endpoints = any::pack(
            &text::from_yaml::<ClusterLoadAssignment>(
                "{cluster_name: up, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: not-an-ip, port_value: 1}}}}]}]}",
            )
            .unwrap(),
        );
        let nack = stream.push(EDS, "2", vec![("up".into(), bad_endpoints)]).await.unwrap().unwrap_err();
        assert!(nack.contains("up: endpoints[0].lb_endpoints[0]"), "{nack}");
        // Last good is in force, and the good part of the bad response too.
        world.answers("web", 200, "up").await;
        world.stream.push(RDS, "3", vec![routes("all", "more")]).await.unwrap().unwrap();
        world.answers("web", 200, "other").await;
        let dump = world.proxy.admin("/config_dump").await.unwrap().text();
        assert!(
            dump.contains("error_state") && dump.contains("\"bad\""),
            "what was refused is shown: {dump}"
        );
    }
}

#[tokio::test]
async fn names_that_come_twice_are_refused() {
    for dialect in Dialect::ALL {
        let (up, other) = (upstream("up").await, upstream("other").await);
        let mut world = World::up(dialect, up.addr).await;
        let resources =
            vec![eds_cluster("up"), static_cluster("twin", up.addr), static_cluster("twin", other.addr)];
        let nack = world.stream.push(CDS, "2", resources).await.unwrap().unwrap_err();
        assert!(nack.contains("twin: ") && nack.contains("more than once"), "{nack}");
        world.answers("web", 200, "up").await;
    }
}

#[tokio::test]
async fn a_listener_that_cannot_bind_is_refused() {
    for dialect in Dialect::ALL {
        let up = upstream("up").await;
        let mut world = World::up(dialect, up.addr).await;
        let taken = listener_at("taken", up.addr.port(), "route_config: {name: r}");
        let nack =
            world.stream.push(LDS, "2", vec![rds_listener("web", "all"), taken]).await.unwrap().unwrap_err();
        assert!(nack.contains("taken: ") && nack.contains(&up.addr.to_string()), "{nack}");
        world.answers("web", 200, "up").await;
    }
}

#[tokio::test]
async fn a_renamed_listener_keeps_its_socket_and_no_connection_is_refused() {
    for dialect in Dialect::ALL {
        let up = upstream("up").await;
        let mut world = World::up(dialect, up.addr).await;
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        // A port that may not be shared: only the socket itself can be handed on.
        let alone = |name: &str| {
            let (_, body) = listener_at(name, port, ROUTES_OVER_ADS);
            let listener = Listener {
                enable_reuse_port: Some(BoolValue { value: false }),
                ..any::unpack(&body).unwrap()
            };
            (name.to_owned(), any::pack(&listener))
        };
        world.stream.push(LDS, "2", vec![rds_listener("web", "all"), alone("name2")]).await.unwrap().unwrap();
        world.answers("name2", 200, "up").await;
        let load = Load::anew(([127, 0, 0, 1], port).into());
        for round in 3..9_u32 {
            load.more(10).await;
            let (version, name, before) =
                (round.to_string(), format!("name{round}"), format!("name{}", round - 1));
            let all = vec![rds_listener("web", "all"), alone(&name)];
            let update = match dialect {
                Dialect::Sotw => Response::new(LDS, &version, all),
                Dialect::Delta => Response::new(LDS, &version, all).removing(&[&before]),
            };
            world.stream.send(update).await.unwrap();
            assert_eq!(world.stream.answer(LDS, &version).await.unwrap().error, None);
            world.answers(&name, 200, "up").await;
        }
        load.end().await;
    }
}

#[tokio::test]
async fn a_listener_that_comes_to_nothing_after_its_wait_is_told_and_tried_again() {
    for dialect in Dialect::ALL {
        let up = upstream("up").await;
        let mut world = World::up(dialect, up.addr).await;
        // Bound and not listening yet: binding beside it goes well.
        let foreign = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        foreign.set_reuse_address(true).unwrap();
        foreign.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        let port = foreign.local_addr().unwrap().as_socket().unwrap().port();
        let alone = || {
            let routes = ROUTES_OVER_ADS.replace("all", "late");
            let (name, body) = listener_at("web", port, &routes);
            let listener = Listener {
                enable_reuse_port: Some(BoolValue { value: false }),
                ..any::unpack(&body).unwrap()
            };
            vec![(name, any::pack(&listener))]
        };
        world.stream.push(LDS, "2", alone()).await.unwrap().unwrap();
        foreign.listen(1).unwrap();
        world.stream.push(RDS, "2", vec![routes("all", "up"), routes("late", "up")]).await.unwrap().unwrap();
        world.stat("listener_manager.listener_create_failure", 1).await;
        world.answers("web", 200, "up").await;
        let dump = world.proxy.admin("/config_dump").await.unwrap().text();
        assert!(dump.contains("error_state") && dump.contains("cannot listen on"), "{dump}");
        drop(foreign);
        world.stream.push(LDS, "3", alone()).await.unwrap().unwrap();
        eventually("it serves at its port", async || -> Result<()> {
            let answer = world.client.get(&format!("http://127.0.0.1:{port}/")).await?;
            anyhow::ensure!(answer.status == 200, "{}", answer.status);
            Ok(())
        })
        .await;
    }
}

#[tokio::test]
async fn waits_for_endpoints_and_routes_end() {
    for dialect in Dialect::ALL {
        let up = upstream("up").await;
        let mut world = World::start(dialect).await;
        let late = "type: EDS, eds_cluster_config: {eds_config: {resource_api_version: V3, ads: {}, initial_fetch_timeout: 0.3s}}";
        world.stream.push(CDS, "1", vec![cluster_with("up", late)]).await.unwrap().unwrap();
        world.stream.of(LDS).await.expect("listeners are asked for once the wait for endpoints is over");
        let late = "rds: {route_config_name: all, config_source: {resource_api_version: V3, ads: {}, initial_fetch_timeout: 0.3s}}";
        world.stream.push(LDS, "1", vec![listener_at("web", 0, late)]).await.unwrap().unwrap();
        world.ready().await;
        assert_eq!(world.get("web").await.unwrap().status, 404, "no routes: nothing is found");
        world.stat("http.web.rds.all.init_fetch_timeout", 1).await;
        world.stat("cluster.up.init_fetch_timeout", 1).await;
        world.stream.push(RDS, "1", vec![routes("all", "up")]).await.unwrap().unwrap();
        world.answers("web", 503, "").await;
        world.stream.push(EDS, "1", vec![assignment("up", &[up.addr])]).await.unwrap().unwrap();
        world.answers("web", 200, "up").await;
    }
}

#[tokio::test]
async fn what_is_removed_is_gone() {
    for dialect in Dialect::ALL {
        let up = upstream("up").await;
        let mut world = World::up(dialect, up.addr).await;
        let web = world.proxy.listener("web").await.unwrap();
        let none = |kind, version: &str, name: &str| match dialect {
            Dialect::Sotw => Response::new(kind, version, vec![]),
            Dialect::Delta => Response::new(kind, version, vec![]).removing(&[name]),
        };
        world.stream.send(none(CDS, "2", "up")).await.unwrap();
        assert_eq!(world.stream.answer(CDS, "2").await.unwrap().error, None);
        world.answers("web", 503, "").await;
        world.stat("http.web.no_cluster", 1).await;
        world.stream.send(none(LDS, "2", "web")).await.unwrap();
        assert_eq!(world.stream.answer(LDS, "2").await.unwrap().error, None);
        eventually("the port is closed", async || match tokio::net::TcpStream::connect(web).await {
            Ok(_) => Err("still open"),
            Err(_) => Ok(()),
        })
        .await;
        world.stream.push(CDS, "3", vec![static_cluster("up", up.addr)]).await.unwrap().unwrap();
        world.stream.push(LDS, "3", vec![rds_listener("web", "all")]).await.unwrap().unwrap();
        world.stream.push(RDS, "3", vec![routes("all", "up")]).await.unwrap().unwrap();
        world.answers("web", 200, "up").await;
    }
}

/// Sends requests until told to stop; counts them and those that fail.
struct Load {
    stop: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    sent: Arc<AtomicU64>,
    failed: Arc<parking_lot::Mutex<Vec<String>>>,
}

impl Load {
    fn start(target: SocketAddr) -> Self {
        Self::run(target, false)
    }

    /// With a connection for each request.
    fn anew(target: SocketAddr) -> Self {
        Self::run(target, true)
    }

    fn run(target: SocketAddr, anew: bool) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let failed = Arc::<parking_lot::Mutex<Vec<String>>>::default();
        let tasks = (0..4)
            .map(|_| {
                let (stop, sent, failed) = (Arc::clone(&stop), Arc::clone(&sent), Arc::clone(&failed));
                tokio::spawn(async move {
                    let mut client = Client::h1();
                    while !stop.load(Relaxed) {
                        if anew {
                            client = Client::h1();
                        }
                        match client.get(&format!("http://{target}/")).await {
                            Ok(answer) if answer.status == 200 => {}
                            Ok(answer) => failed.lock().push(format!("{} {}", answer.status, answer.text())),
                            Err(error) => failed.lock().push(format!("{error:#}")),
                        }
                        sent.fetch_add(1, Relaxed);
                    }
                })
            })
            .collect();
        Self { stop, tasks, sent, failed }
    }

    /// Waits until so many more requests were answered.
    async fn more(&self, requests: u64) {
        let from = self.sent.load(Relaxed);
        eventually("requests are answered", async || match self.sent.load(Relaxed) - from {
            done if done >= requests => Ok(()),
            done => Err(format!("{done} of {requests}")),
        })
        .await;
    }

    async fn end(self) {
        self.stop.store(true, Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
        let failed = self.failed.lock();
        assert!(
            failed.is_empty(),
            "{} of {} failed: {:?}",
            failed.len(),
            self.sent.load(Relaxed),
            failed.first()
        );
    }
}

#[tokio::test]
async fn updates_break_nothing_that_is_under_way() {
    for dialect in Dialect::ALL {
        let (up, other) = (upstream("up").await, upstream("other").await);
        let mut world = World::up(dialect, up.addr).await;
        let load = Load::start(world.proxy.listener("web").await.unwrap());
        load.more(20).await;
        for round in 2..8_u32 {
            let version = round.to_string();
            // A changed cluster warms while the old one serves; its endpoints are told a little later.
            let timeout = format!(
                "type: EDS, eds_cluster_config: {{eds_config: {{resource_api_version: V3, ads: {{}}}}}}, per_connection_buffer_limit_bytes: {}",
                30_000 + round
            );
            world.stream.push(CDS, &version, vec![cluster_with("up", &timeout)]).await.unwrap().unwrap();
            load.more(10).await;
            let endpoint = if round % 2 == 0 { other.addr } else { up.addr };
            world.stream.push(EDS, &version, vec![assignment("up", &[endpoint])]).await.unwrap().unwrap();
            world.stream.push(RDS, &version, vec![routes("all", "up")]).await.unwrap().unwrap();
            world.answers("web", 200, if round % 2 == 0 { "other" } else { "up" }).await;
        }
        load.end().await;
        tokio::time::timeout(Duration::from_secs(10), world.proxy.admin("/ready")).await.unwrap().unwrap();
    }
}

/// A cluster with a field of a later version of the API.
fn cluster_of_the_future(name: &str, endpoint: SocketAddr) -> Named {
    let (name, mut body) = static_cluster(name, endpoint);
    // Number 1999, a varint.
    body.value.extend([0xf8, 0x7c, 1]);
    (name, body)
}

#[tokio::test]
async fn fields_that_are_not_known_are_counted_as_by_envoy_and_logged_once() {
    let mut counts = Vec::new();
    for is_envoy in [true, false] {
        let up = upstream("up").await;
        let mut server = AdsServer::start().await.unwrap();
        let bootstrap = ads_bootstrap(server.addr, Dialect::Sotw);
        let mut proxy = match is_envoy {
            true => Envoy::launch_unready(&bootstrap).await.unwrap(),
            false => e2e::proxy::start_unready(&bootstrap).await.unwrap(),
        };
        let mut stream = server.stream().await.unwrap();
        let mut seen = Vec::new();
        for (version, resources) in [
            ("1", vec![static_cluster("a", up.addr)]),
            ("2", vec![cluster_of_the_future("a", up.addr), cluster_of_the_future("b", up.addr)]),
            ("3", vec![cluster_of_the_future("a", up.addr)]),
        ] {
            stream.push(CDS, version, resources).await.unwrap().unwrap();
            seen.push(proxy.stats().await.unwrap()["server.dynamic_unknown_fields"]);
        }
        if !is_envoy {
            let log = proxy.process().log();
            assert_eq!(
                log.matches("field 1999 of envoy.config.cluster.v3.Cluster is not known here").count(),
                1
            );
        }
        counts.push(seen);
    }
    assert_eq!(counts[1], counts[0], "as Envoy counts them");
    assert_eq!(counts[1], [0, 1, 1]);
}

#[tokio::test]
async fn fields_that_are_not_known_are_refused_where_that_is_asked_for() {
    for dialect in Dialect::ALL {
        let up = upstream("up").await;
        let mut server = AdsServer::start().await.unwrap();
        let bootstrap = ads_bootstrap(server.addr, dialect);
        let args = ["--reject-unknown-dynamic-fields"];
        let proxy = e2e::proxy::start_unready_with(&bootstrap, &args).await.unwrap();
        let mut stream = server.stream().await.unwrap();
        let resources = vec![static_cluster("a", up.addr), cluster_of_the_future("b", up.addr)];
        let nack = stream.push(CDS, "1", resources).await.unwrap().unwrap_err();
        let told = "b: field 1999 of envoy.config.cluster.v3.Cluster is not known here";
        assert!(nack.contains(told) && !nack.contains("a: "), "{nack}");
        let clusters = proxy.admin("/clusters").await.unwrap().text();
        assert!(clusters.contains("a::") && !clusters.contains("b::"), "{clusters}");
    }
}

#[tokio::test]
async fn a_file_that_does_not_exist_is_refused_as_a_source() {
    for dialect in Dialect::ALL {
        let up = upstream("up").await;
        let mut world = World::up(dialect, up.addr).await;
        let nowhere =
            "type: EDS, eds_cluster_config: {eds_config: {path_config_source: {path: /nowhere/eds.yaml}}}";
        let resources = vec![eds_cluster("up"), cluster_with("lost", nowhere)];
        let nack = world.stream.push(CDS, "2", resources).await.unwrap().unwrap_err();
        let told =
            "lost: eds_cluster_config.eds_config.path_config_source.path: /nowhere/eds.yaml does not exist";
        assert!(nack.contains(told), "{nack}");
        world.answers("web", 200, "up").await;
    }
}

#[tokio::test]
async fn ignored_fields_are_counted_and_told() {
    let up = upstream("up").await;
    let mut world = World::up(Dialect::Sotw, up.addr).await;
    let before = world.proxy.stats().await.unwrap()["server.ignored_fields"];
    let odd = |name: &str| {
        let endpoints = assignment_yaml(name, &[up.addr]);
        cluster_with(
            name,
            &format!("load_assignment: {endpoints}, close_connections_on_host_health_failure: true"),
        )
    };
    let resources = vec![eds_cluster("up"), odd("one"), odd("two")];
    world.stream.push(CDS, "2", resources).await.unwrap().unwrap();
    let ignored = world.proxy.admin("/config_dump?include_ignored").await.unwrap().json().unwrap();
    let ignored = ignored["ignored_fields"].as_array().unwrap().len() as u64;
    assert!(ignored >= 2, "both clusters set what has no effect");
    assert_eq!(world.proxy.stats().await.unwrap()["server.ignored_fields"], before + ignored);
    let log = world.proxy.process().log();
    let told = log.lines().filter(|line| line.contains("ignored: ") && line.contains("path=")).count();
    assert!(told > 0, "{log}");
}
