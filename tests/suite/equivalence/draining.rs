//! Draining on request: what clients are told meanwhile, and what becomes of the ports.

use super::clusters;
use bytes::Bytes;
use e2e::client::Client;
use e2e::eventually;
use e2e::pair::{Pair, Side, http_listener, routes};
use e2e::wire::{Role, Wire};
use http_body_util::Full;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const ARGS: [&str; 4] = ["--drain-time-s", "2", "--drain-strategy", "immediate"];

async fn pair() -> Pair {
    let to_up = routes("{match: {prefix: /}, route: {cluster: up}}");
    let inside =
        http_listener("in", "", &to_up).replacen("name: in,", "name: in, traffic_direction: INBOUND,", 1);
    Pair::start_with(&[inside, http_listener("out", "", &to_up)], &clusters(), &[], &ARGS).await.unwrap()
}

async fn post(side: &Side, path: &str) -> String {
    let url = format!("http://{}{path}", side.proxy.admin);
    let answer = Client::h1().send("POST", &url, &[], "").await.unwrap();
    format!("{} {}", answer.status, answer.text())
}

/// The status of an answer on a connection, and whether it is to be closed.
async fn ask(wire: &mut Wire) -> String {
    wire.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let answer = wire.message(Role::Response).await.unwrap().unwrap();
    format!("{} {:?}", answer.status(), answer.header("connection"))
}

async fn told(side: &Side, listener: &str) -> String {
    ask(&mut Wire::connect(side.at(listener)).await.unwrap()).await
}

/// A connection that speaks HTTP/2.
struct Http2 {
    sender: http2::SendRequest<Full<Bytes>>,
    _driver: JoinSet<()>,
}

impl Http2 {
    async fn connect(addr: SocketAddr) -> Self {
        let io = TokioIo::new(TcpStream::connect(addr).await.unwrap());
        let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
        let mut driver = JoinSet::new();
        driver.spawn(async move { drop(connection.await) });
        Self { sender, _driver: driver }
    }

    async fn ask(&mut self) -> String {
        let request = http::Request::get("http://a/").body(Full::default()).unwrap();
        let answer = self.sender.send_request(request).await.unwrap();
        format!("{} {:?}", answer.status(), answer.headers().get("connection"))
    }

    /// GOAWAY comes.
    async fn is_dismissed(&self) {
        eventually("the connection takes no more requests", async || -> anyhow::Result<()> {
            anyhow::ensure!(self.sender.is_closed(), "it does");
            Ok(())
        })
        .await;
    }
}

async fn closes(side: &Side, listener: &str) {
    eventually(&format!("{listener} of {} closes", side.proxy.admin), async || -> anyhow::Result<()> {
        anyhow::ensure!(tokio::net::TcpStream::connect(side.at(listener)).await.is_err(), "open");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_graceful_drain_tells_clients_to_leave_and_then_closes_the_ports() {
    let pair = pair().await;
    let mut seen = Vec::new();
    for side in [&pair.envoy, &pair.ours] {
        let mut old = Wire::connect(side.at("in")).await.unwrap();
        let mut all = vec![
            ask(&mut old).await,
            post(side, "/drain_listeners?graceful&inboundonly").await,
            ask(&mut old).await,
            told(side, "in").await,
            told(side, "out").await,
        ];
        closes(side, "in").await;
        all.push(told(side, "out").await);
        all.push(post(side, "/drain_listeners?graceful").await);
        all.push(told(side, "out").await);
        closes(side, "out").await;
        all.push(format!("{}", side.proxy.admin("/ready").await.unwrap().status));
        seen.push(all);
    }
    assert_eq!(seen[1], seen[0], "ours (left) as Envoy");
    assert!(seen[1][2].contains("close") && !seen[1][4].contains("close"), "{:?}", seen[1]);
}

#[tokio::test]
async fn failing_health_checks_tells_whoever_asks_to_leave() {
    let pair = pair().await;
    let mut seen = Vec::new();
    for side in [&pair.envoy, &pair.ours] {
        let mut old = Wire::connect(side.at("out")).await.unwrap();
        let mut h2 = Http2::connect(side.at("out")).await;
        let mut all = vec![ask(&mut old).await, h2.ask().await];
        all.push(post(side, "/healthcheck/fail").await);
        all.push(format!("{}", side.proxy.admin("/ready").await.unwrap().status));
        // Nobody is told before they ask; new clients are served, and told.
        all.push(ask(&mut old).await);
        all.push(format!("{:?}", old.message(Role::Response).await.unwrap().is_none()));
        all.push(told(side, "out").await);
        all.push(h2.ask().await);
        h2.is_dismissed().await;
        all.push(post(side, "/healthcheck/ok").await);
        all.push(format!("{}", side.proxy.admin("/ready").await.unwrap().status));
        all.push(told(side, "out").await);
        eventually("each is counted once", async || -> anyhow::Result<()> {
            let stats = side.proxy.admin("/stats?filter=http.out.downstream_cx_drain_close").await?.text();
            anyhow::ensure!(stats.trim().ends_with(": 3"), "{stats}");
            Ok(())
        })
        .await;
        seen.push(all);
    }
    assert_eq!(seen[1], seen[0], "ours (left) as Envoy");
    assert!(seen[1][4].contains("close") && !seen[1][10].contains("close"), "{:?}", seen[1]);
}

/// Of a connection that carries bytes only its next bytes tell that it may leave.
#[tokio::test]
async fn failing_health_checks_ends_connections_that_carry_bytes_where_that_is_asked_for() {
    let bytes = |name: &str, leaves: bool| {
        format!(
            "{{name: {name}, address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}, filter_chains: [{{filters: [{{name: tcp, \
             typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: {name}, \
             cluster: up, check_drain_close: {leaves}}}}}]}}]}}"
        )
    };
    let listeners = [bytes("leaves", true), bytes("stays", false)];
    let pair = Pair::start_with(&listeners, &clusters(), &[], &ARGS).await.unwrap();
    for side in [&pair.envoy, &pair.ours] {
        let mut leaves = Wire::connect(side.at("leaves")).await.unwrap();
        let mut stays = Wire::connect(side.at("stays")).await.unwrap();
        for wire in [&mut leaves, &mut stays] {
            assert!(ask(wire).await.starts_with("200"));
        }
        post(side, "/healthcheck/fail").await;
        leaves.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        // The answer may come before the end, which has to come.
        leaves.rest().await.unwrap();
        assert!(ask(&mut stays).await.starts_with("200"));
        post(side, "/healthcheck/ok").await;
        let mut new = Wire::connect(side.at("leaves")).await.unwrap();
        for _ in 0..2 {
            assert!(ask(&mut new).await.starts_with("200"));
        }
    }
}

#[tokio::test]
async fn ports_stay_open_where_nothing_is_to_end() {
    let pair = pair().await;
    let mut seen = Vec::new();
    for side in [&pair.envoy, &pair.ours] {
        let mut all = vec![post(side, "/drain_listeners?skip_exit").await, told(side, "out").await];
        // It is under way already: that this one would end with the ports closed is not heard.
        all.push(post(side, "/drain_listeners?graceful").await);
        let end = Instant::now() + Duration::from_secs(3);
        while Instant::now() < end {
            assert!(told(side, "in").await.contains("close"));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        all.push(post(side, "/drain_listeners").await);
        closes(side, "out").await;
        seen.push(all);
    }
    assert_eq!(seen[1], seen[0], "ours (left) as Envoy");
}
