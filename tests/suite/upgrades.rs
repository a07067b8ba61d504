//! WebSocket and gRPC through and through, beside the real Envoy.

use e2e::grpc::GrpcEcho;
use e2e::pair::{Pair, SPEAKS_H2, Side, cluster, difference, http_listener, routes};
use e2e::tcp::End;
use e2e::wire::{Role, Wire};
use parking_lot::Mutex;
use std::net::Ipv4Addr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// A masked text frame, `hello` (RFC 6455, section 5.7).
pub(crate) const FRAME: &[u8] = &[0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
/// A close frame.
const CLOSE: &[u8] = &[0x88, 0x80, 0, 0, 0, 0];

/// A WebSocket origin: switches, sends back what comes, and `bye` at the end. On `/refuse` it answers 403, on `/push` it
/// speaks with its answer and ends first.
pub(crate) struct Sockets {
    pub(crate) port: u16,
    heads: Arc<Mutex<Vec<String>>>,
    ends: Arc<Mutex<Vec<End>>>,
    _tasks: JoinSet<()>,
}

impl Sockets {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (heads, ends) = (Arc::<Mutex<Vec<String>>>::default(), Arc::<Mutex<Vec<End>>>::default());
        let mut tasks = JoinSet::new();
        let (all_heads, all_ends) = (Arc::clone(&heads), Arc::clone(&ends));
        tasks.spawn(async move {
            let mut serving = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (heads, ends) = (Arc::clone(&all_heads), Arc::clone(&all_ends));
                serving.spawn(async move {
                    let end = serve(stream, &heads).await.unwrap_or(End::Reset);
                    ends.lock().push(end);
                });
            }
        });
        Self { port, heads, ends, _tasks: tasks }
    }
}

async fn serve(mut stream: TcpStream, heads: &Mutex<Vec<String>>) -> std::io::Result<End> {
    stream.set_nodelay(true)?;
    let mut got = Vec::new();
    let end = loop {
        if let Some(at) = got.windows(4).position(|w| w == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(&mut got).await? == 0 {
            return Ok(End::Closed);
        }
    };
    let rest = got.split_off(end);
    let head = String::from_utf8_lossy(&got).into_owned();
    heads.lock().push(head.clone());
    if head.starts_with("GET /refuse") {
        stream.write_all(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno").await?;
    } else {
        let switch = b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
            sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        if head.starts_with("GET /push") {
            stream.write_all(&[&switch[..], b"pushed"].concat()).await?;
            stream.shutdown().await?;
        } else {
            stream.write_all(&[&switch[..], &rest].concat()).await?;
        }
    }
    let mut buffer = vec![0; 65_536];
    let pushed = head.starts_with("GET /push");
    loop {
        match stream.read(&mut buffer).await? {
            0 => break,
            _ if pushed => {}
            n => stream.write_all(&buffer[..n]).await?,
        }
    }
    let _ = stream.write_all(b"bye").await;
    Ok(End::Closed)
}

pub(crate) fn handshake(path: &str, more: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nhost: test\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{more}\r\n"
    )
    .into_bytes()
}

/// The answer's head as lines, without what differs between runs.
async fn answer(side: &Side, wire: &mut Wire) -> String {
    let message = wire.message(Role::ResponseToHead).await.unwrap();
    let Some(message) = message else { return "(ends)".into() };
    plain(&side.normal(&message.describe("<")))
}

/// Ours says `connection: upgrade` last, whatever was said.
fn plain(head: &str) -> String {
    let lines = head.lines().filter(|line| {
        let line = line.trim_start_matches("< ").to_ascii_lowercase();
        !(line.starts_with("connection:") && line.ends_with("upgrade"))
    });
    lines.map(|line| format!("{line}\n")).collect()
}

#[tokio::test]
async fn websockets_are_opened_carried_and_closed_as_by_envoy() {
    let (theirs, own) = (Sockets::start().await, Sockets::start().await);
    let all = "{match: {prefix: /off}, route: {cluster: ws, upgrade_configs: [{upgrade_type: websocket, enabled: false}]}}, \
               {match: {prefix: /redirect}, redirect: {path_redirect: /x}}, \
               {match: {prefix: /refused}, route: {cluster: refused}}, \
               {match: {prefix: /short}, route: {cluster: ws, timeout: 0.3s}}, \
               {match: {prefix: /none, headers: [{name: x, present_match: true}]}, route: {cluster: ws}}, \
               {match: {prefix: /}, route: {cluster: ws}}";
    let on = "upgrade_configs: [{upgrade_type: websocket}]";
    let by_route = "{match: {prefix: /on}, route: {cluster: ws, upgrade_configs: [{upgrade_type: websocket}]}}, \
                    {match: {prefix: /}, route: {cluster: ws}}";
    let listeners = [
        http_listener("web", on, &routes(all)),
        http_listener("without", "", &routes(by_route)),
        http_listener(
            "disabled",
            "upgrade_configs: [{upgrade_type: websocket, enabled: false}]",
            &routes(by_route),
        ),
    ];
    let ports = [("$WS", [theirs.port, own.port])];
    let clusters = [cluster("ws", "$WS", ""), cluster("refused", "$REFUSED", "")];
    let pair = Pair::start_with(&listeners, &clusters, &ports, &[]).await.unwrap();
    let mut told = Vec::new();
    for (side, origin) in [(&pair.envoy, &theirs), (&pair.ours, &own)] {
        let mut lines = Vec::new();
        // Open, both ways, closed by the client.
        let mut wire = Wire::connect(side.at("web")).await.unwrap();
        wire.send(&handshake("/chat?room=1", "")).await.unwrap();
        lines.push(answer(side, &mut wire).await);
        for _ in 0..3 {
            wire.send(FRAME).await.unwrap();
            lines.push(format!("{:?}", wire.bytes(FRAME.len()).await.unwrap()));
        }
        wire.send(CLOSE).await.unwrap();
        lines.push(format!("{:?}", wire.bytes(CLOSE.len()).await.unwrap()));
        let stats = side.proxy.stats().await.unwrap();
        lines.push(format!("active {}", stats["http.web.downstream_cx_upgrades_active"]));
        wire.finish().await.unwrap();
        // Envoy ends both sides with the first (of HTTP/1); ours lets the origin have its last word.
        let last = wire.rest().await.unwrap();
        assert_eq!(last, if side.name == "envoy" { &b""[..] } else { b"bye" });
        // Bytes right behind the handshake, and many of them.
        let mut wire = Wire::connect(side.at("web")).await.unwrap();
        wire.send(&[handshake("/eager", ""), FRAME.to_vec()].concat()).await.unwrap();
        lines.push(answer(side, &mut wire).await);
        lines.push(format!("{:?}", wire.bytes(FRAME.len()).await.unwrap()));
        let long = vec![7; 1 << 20];
        let (sent, got) = wire.exchange(&long, long.len()).await.unwrap();
        lines.push(format!("{} {}", sent, got == long));
        drop(wire);
        // Past the route's timeout, which does not count while the client may speak.
        let mut wire = Wire::connect(side.at("web")).await.unwrap();
        wire.send(&handshake("/short", "")).await.unwrap();
        lines.push(answer(side, &mut wire).await);
        let mut late = Wire::connect(side.at("web")).await.unwrap();
        late.send(b"GET /refused HTTP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
        late.message(Role::Response).await.unwrap();
        wire.send(FRAME).await.unwrap();
        lines.push(format!("{:?}", wire.bytes(FRAME.len()).await.unwrap()));
        drop(wire);
        // The origin speaks first and ends first.
        let mut wire = Wire::connect(side.at("web")).await.unwrap();
        wire.send(&handshake("/push", "")).await.unwrap();
        lines.push(answer(side, &mut wire).await);
        lines.push(format!("{:?}", wire.bytes(6).await.unwrap()));
        drop(wire);
        // Not granted by the origin, or not possible.
        for (listener, path) in [
            ("web", "/refuse"),
            ("web", "/off"),
            ("web", "/redirect"),
            ("web", "/refused"),
            ("without", "/any"),
            ("disabled", "/any"),
        ] {
            let mut wire = Wire::connect(side.at(listener)).await.unwrap();
            wire.send(&handshake(path, "")).await.unwrap();
            let message = wire.message(Role::Response).await.unwrap();
            let text = message.map_or("(ends)".into(), |m| side.normal(&m.describe("<")));
            lines.push(format!("{listener} {path}: {text}"));
        }
        // Allowed by the route alone.
        for listener in ["without", "disabled"] {
            let mut wire = Wire::connect(side.at(listener)).await.unwrap();
            wire.send(&handshake("/on", "")).await.unwrap();
            lines.push(format!("{listener} {}", answer(side, &mut wire).await));
            wire.send(FRAME).await.unwrap();
            lines.push(format!("{:?}", wire.bytes(FRAME.len()).await.unwrap()));
        }
        let heads: Vec<String> = origin.heads.lock().iter().map(|head| plain(&side.normal(head))).collect();
        lines.extend(heads);
        e2e::eventually("all upgrades are over", async || {
            let stats = side.proxy.stats().await?;
            anyhow::ensure!(stats["http.web.downstream_cx_upgrades_active"] == 0, "still active");
            Ok(())
        })
        .await;
        let stats = side.proxy.stats().await.unwrap();
        lines.push(format!("total {}", stats["http.web.downstream_cx_upgrades_total"]));
        lines.push(format!("refused {}", stats["http.without.downstream_rq_ws_on_non_ws_route"]));
        e2e::eventually("the origin's connections end", async || {
            let ends = origin.ends.lock().len();
            anyhow::ensure!(ends >= origin.heads.lock().len() - 1, "{ends}");
            Ok(())
        })
        .await;
        told.push(lines.join("\n"));
    }
    assert!(told[0] == told[1], "(- Envoy, + ours)\n{}", difference(&told[0], &told[1]));
    assert!(told[1].contains("101 Switching Protocols"));
}

#[tokio::test]
async fn every_kind_of_grpc_call_goes_through_as_by_envoy() {
    let origin = GrpcEcho::start().await.unwrap();
    let all = "{match: {prefix: /test.none/, headers: [{name: x-never, present_match: true}]}, route: {cluster: grpc}}, \
               {match: {prefix: /test.refused/}, route: {cluster: refused}}, \
               {match: {prefix: /test.empty/}, route: {cluster: empty}}, \
               {match: {prefix: /test.late/}, route: {cluster: silent, timeout: 0.2s}}, \
               {match: {prefix: /test.direct/}, direct_response: {status: 503, body: {inline_string: out}}}, \
               {match: {prefix: /test.Echo/}, route: {cluster: grpc, timeout: 0s, max_stream_duration: {grpc_timeout_header_max: 0s}}}";
    let clusters = [
        cluster("grpc", &origin.port.to_string(), SPEAKS_H2),
        cluster("refused", "$REFUSED", SPEAKS_H2),
        cluster("silent", "$TCP", SPEAKS_H2),
        "{name: empty, load_assignment: {cluster_name: empty}}".into(),
    ];
    let pair = Pair::start(&[http_listener("web", "", &routes(all))], &clusters).await.unwrap();
    let envoy = origin.talk(pair.envoy.at("web")).await.unwrap();
    let ours = origin.talk(pair.ours.at("web")).await.unwrap();
    assert!(envoy.contains("direct"), "the client gets to its end:\n{envoy}");
    assert!(envoy == ours, "(- Envoy, + ours)\n{}", difference(&envoy, &ours));
    let straight = origin.talk(([127, 0, 0, 1], origin.port).into()).await.unwrap();
    let calls = |text: &str| text.lines().take(11).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(calls(&ours), calls(&straight), "a proxy changes nothing");
}
