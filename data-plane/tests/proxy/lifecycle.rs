//! Draining, stopping, reloading.

use crate::support::*;
use data_plane::server::{Boot, Options};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn bootstrap(listeners: &[String], clusters: &[String]) -> String {
    format!(
        "{ADMIN}static_resources: {{listeners: [{}], clusters: [{}]}}\n",
        listeners.join(", "),
        clusters.join(", ")
    )
}

async fn join(handle: data_plane::server::Handle) {
    let joined = tokio::task::spawn_blocking(move || handle.join());
    tokio::time::timeout(LIMIT, joined).await.expect("the proxy ends").unwrap().unwrap();
}

#[tokio::test]
async fn a_static_listener_that_cannot_listen_ends_the_start_as_one_that_cannot_bind() {
    // Bound, and not listening yet: to bind beside it goes well.
    let foreign = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    foreign.set_reuse_address(true).unwrap();
    foreign.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let taken = foreign.local_addr().unwrap().as_socket().unwrap().port();
    // Whose first health check is not answered: listeners wait for it.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let check = "health_checks: [{timeout: 1s, interval: 60s, unhealthy_threshold: 1, healthy_threshold: 1, \
                 http_health_check: {path: /}}]}";
    let cluster = static_cluster("up", silent.local_addr().unwrap());
    let cluster = format!("{}, {check}", cluster.strip_suffix('}').unwrap());
    let listener = listener("web", &to_cluster("up"))
        .replacen("name: web,", "name: web, enable_reuse_port: false,", 1)
        .replacen("port_value: 0", &format!("port_value: {taken}"), 1);
    let proxy = start(&bootstrap(&[listener], &[cluster]));
    foreign.listen(1).unwrap();
    let joined = tokio::task::spawn_blocking(move || proxy.join());
    let ended = tokio::time::timeout(LIMIT, joined).await.expect("the proxy ends").unwrap();
    let why = ended.unwrap_err().describe();
    assert!(why.starts_with("static_resources.listeners[0]: listener \"web\": "), "{why}");
    assert!(why.contains(&format!("cannot listen on 127.0.0.1:{taken}")), "{why}");
}

#[tokio::test]
async fn draining_finishes_what_is_under_way_and_takes_nothing_new() {
    let upstream = Upstream::start("one").await;
    let proxy =
        start(&bootstrap(&[listener("web", &to_cluster("up"))], &[static_cluster("up", upstream.address)]));
    let proxy = ready(proxy).await;
    let web = bound(&proxy, "web").await;
    let under_way = tokio::spawn(async move { get(web, "/slow").await });
    eventually("the request is under way", async || {
        (proxy.stats().value("cluster.up.upstream_rq_active") == Some(1)).then_some(())
    })
    .await;
    proxy.drain();
    eventually("the port is closed", async || TcpStream::connect(web).await.is_err().then_some(())).await;
    assert_eq!(under_way.await.unwrap().body, "one");
    join(proxy).await;
}

#[tokio::test]
async fn draining_ends_idle_connections_after_the_managers_drain_timeout() {
    let upstream = Upstream::start("one").await;
    let proxy = start(&bootstrap(
        &[listener("web", &format!("drain_timeout: 0.2s, {}", to_cluster("up")))],
        &[static_cluster("up", upstream.address)],
    ));
    let proxy = ready(proxy).await;
    let mut idle = TcpStream::connect(bound(&proxy, "web").await).await.unwrap();
    idle.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut bytes = [0; 1024];
    assert!(idle.read(&mut bytes).await.unwrap() > 0);
    let began = Instant::now();
    proxy.drain();
    join(proxy).await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[tokio::test]
async fn drain_time_bounds_the_wait() {
    // Takes connections and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let cluster = static_cluster("up", silent.local_addr().unwrap());
    let yaml = bootstrap(&[listener("web", &to_cluster("up"))], &[cluster]);
    let options = Options { drain_time: Duration::from_millis(300), ..Options::default() };
    let proxy = ready(start_with(Boot::from_yaml(&yaml).unwrap(), options)).await;
    let mut stuck = TcpStream::connect(bound(&proxy, "web").await).await.unwrap();
    stuck.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    eventually("the request is under way", async || {
        (proxy.stats().value("http.web.downstream_rq_active") == Some(1)).then_some(())
    })
    .await;
    proxy.drain();
    join(proxy).await;
}

#[tokio::test]
async fn quitting_by_the_admin_interface_ends_the_proxy() {
    let proxy = ready(start(ADMIN)).await;
    assert_eq!(post(proxy.admin_addr().unwrap(), "/quitquitquit").await.status, 200);
    join(proxy).await;
}

#[tokio::test]
async fn drained_listeners_close_while_the_proxy_stays() {
    let up = static_cluster("up", "127.0.0.1:1".parse().unwrap());
    let proxy = ready(start(&bootstrap(&[listener("web", &to_cluster("up"))], &[up]))).await;
    let (admin, web) = (proxy.admin_addr().unwrap(), bound(&proxy, "web").await);
    assert_eq!(post(admin, "/drain_listeners").await.status, 200);
    eventually("the port is closed", async || TcpStream::connect(web).await.is_err().then_some(())).await;
    assert_eq!(get(admin, "/ready").await.status, 200);
}

#[tokio::test]
async fn reload_changes_what_changed_and_keeps_connections_of_the_rest() {
    let (one, two) = (Upstream::start("one").await, Upstream::start("two").await);
    let keep = listener("keep", &to_cluster("a"));
    let proxy = ready(start(&bootstrap(
        &[keep.clone(), listener("gone", &to_cluster("a"))],
        &[static_cluster("a", one.address)],
    )))
    .await;
    let (kept, gone) = (bound(&proxy, "keep").await, bound(&proxy, "gone").await);
    let mut connection = TcpStream::connect(kept).await.unwrap();
    let mut bytes = [0; 1024];
    connection.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    assert!(connection.read(&mut bytes).await.unwrap() > 0);

    let next = bootstrap(
        &[keep, listener("new", &to_cluster("b"))],
        &[static_cluster("a", two.address), static_cluster("b", two.address)],
    );
    proxy.reload(Boot::from_yaml(&next).unwrap()).unwrap();
    assert_eq!(get(bound(&proxy, "new").await, "/").await.body, "two");
    eventually("the removed port is closed", async || TcpStream::connect(gone).await.is_err().then_some(()))
        .await;
    // The connection of the listener that did not change still serves, from the cluster that did.
    connection.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let n = connection.read(&mut bytes).await.unwrap();
    assert!(String::from_utf8_lossy(&bytes[..n]).ends_with("two"));
}

#[tokio::test]
async fn reload_with_a_port_that_cannot_be_bound_changes_nothing() {
    let upstream = Upstream::start("one").await;
    let clusters = [static_cluster("a", upstream.address)];
    let proxy = ready(start(&bootstrap(&[listener("web", &to_cluster("a"))], &clusters))).await;
    let web = bound(&proxy, "web").await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = format!("port_value: {}", taken.local_addr().unwrap().port());
    let bad = listener("bad", &to_cluster("a")).replace("port_value: 0", &port);
    let failure = proxy.reload(Boot::from_yaml(&bootstrap(&[bad], &clusters)).unwrap()).unwrap_err();
    assert!(failure.describe().contains("bad"), "{}", failure.describe());
    assert_eq!(get(web, "/").await.body, "one");
}

#[tokio::test]
async fn reload_with_tls_that_cannot_be_had_changes_nothing() {
    let upstream = Upstream::start("one").await;
    let web = [listener("web", &to_cluster("a"))];
    let proxy = ready(start(&bootstrap(&web, &[static_cluster("a", upstream.address)]))).await;
    let bad = bootstrap(&web, &[broken_tls_cluster("a", upstream.address)]);
    let failure = proxy.reload(Boot::from_yaml(&bad).unwrap()).unwrap_err().describe();
    assert!(failure.contains("static_resources.clusters[0]: cluster \"a\": TLS: "), "{failure}");
    assert_eq!(get(bound(&proxy, "web").await, "/").await.body, "one");
}

#[tokio::test]
async fn reload_may_rename_a_listener_and_no_connection_is_refused() {
    let upstream = Upstream::start("one").await;
    let clusters = [static_cluster("a", upstream.address)];
    // Their ports are their own: only the socket itself can be handed on.
    let web = |name: &str, port| {
        at_port(&listener(name, &to_cluster("a")), port)
            .replace(&format!("name: {name}, "), &format!("name: {name}, enable_reuse_port: false, "))
    };
    let (x, y) = (free_port(), free_port());
    let proxy = ready(start(&bootstrap(&[web("one", x), web("two", y)], &clusters))).await;
    let mut kept = TcpStream::connect(bound(&proxy, "one").await).await.unwrap();
    // `one` is renamed, `two` moves to a port of its own, and a third gets the one that it had.
    let next = bootstrap(&[web("renamed", x), web("third", y), web("two", free_port())], &clusters);
    proxy.reload(Boot::from_yaml(&next).unwrap()).unwrap();
    for name in ["renamed", "third", "two"] {
        assert_eq!(get(bound(&proxy, name).await, "/").await.body, "one", "{name}");
    }
    assert_eq!(proxy.listener_addr("one"), None);
    assert_eq!(bound(&proxy, "renamed").await.port(), x);
    kept.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut bytes = [0; 1024];
    let n = kept.read(&mut bytes).await.unwrap();
    assert!(String::from_utf8_lossy(&bytes[..n]).ends_with("one"), "what was connected is served");
}

#[tokio::test]
async fn graceful_draining_tells_clients_to_leave_and_closes_ports_after_the_drain_time() {
    let upstream = Upstream::start("one").await;
    let up = [static_cluster("up", upstream.address)];
    let inside =
        listener("in", &to_cluster("up")).replace("name: in, ", "name: in, traffic_direction: INBOUND, ");
    let listeners = [inside, listener("out", &to_cluster("up"))];
    let options = || Options {
        drain_time: Duration::from_millis(500),
        drain_strategy: data_plane::server::DrainStrategy::Immediate,
        ..Options::default()
    };
    let begin =
        async || ready(start_with(Boot::from_yaml(&bootstrap(&listeners, &up)).unwrap(), options())).await;
    let persistent = async |address| {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        let mut bytes = [0; 1024];
        let n = stream.read(&mut bytes).await.unwrap();
        String::from_utf8_lossy(&bytes[..n]).into_owned()
    };
    let proxy = begin().await;
    let (admin, inside, outside) =
        (proxy.admin_addr().unwrap(), bound(&proxy, "in").await, bound(&proxy, "out").await);
    assert!(!persistent(inside).await.contains("connection: close"));
    assert_eq!(post(admin, "/drain_listeners?graceful&inboundonly").await.status, 200);
    let told = persistent(inside).await;
    assert!(told.contains("connection: close") && told.ends_with("one"), "the port is open: {told}");
    assert!(!persistent(outside).await.contains("connection: close"));
    eventually("the port is closed", async || TcpStream::connect(inside).await.is_err().then_some(())).await;
    assert_eq!(get(outside, "/").await.body, "one", "outbound listeners are not concerned");

    let proxy = begin().await;
    let (admin, inside) = (proxy.admin_addr().unwrap(), bound(&proxy, "in").await);
    assert_eq!(post(admin, "/drain_listeners?graceful&skip_exit").await.status, 200);
    let until = Instant::now() + Duration::from_millis(700);
    while Instant::now() < until {
        let told = persistent(inside).await;
        assert!(told.contains("connection: close") && told.ends_with("one"), "{told}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(get(admin, "/ready").await.status, 200);
}

#[tokio::test]
async fn a_gradual_drain_does_not_tell_everyone_at_once() {
    let upstream = Upstream::start("one").await;
    let yaml = bootstrap(&[listener("web", &to_cluster("up"))], &[static_cluster("up", upstream.address)]);
    // The first quarter of it is longer than this test.
    let options = Options { drain_time: Duration::from_secs(4000), ..Options::default() };
    let proxy = ready(start_with(Boot::from_yaml(&yaml).unwrap(), options)).await;
    let (admin, web) = (proxy.admin_addr().unwrap(), bound(&proxy, "web").await);
    post(admin, "/drain_listeners?graceful").await;
    let mut told = 0;
    for _ in 0..10 {
        let mut stream = TcpStream::connect(web).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        let mut bytes = [0; 1024];
        let n = stream.read(&mut bytes).await.unwrap();
        told += usize::from(String::from_utf8_lossy(&bytes[..n]).contains("connection: close"));
    }
    assert!(told < 5, "{told} of 10 were told within moments");
}
