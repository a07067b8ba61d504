//! The PROXY protocol both ways, beside the real Envoy.

use e2e::pair::{Pair, Side, cluster, difference};
use e2e::process::free_port;
use e2e::tcp::{Client, End};
use e2e::wire::{Role, Wire};
use std::fmt::Write as _;
use std::net::{Ipv6Addr, SocketAddr};
use tokio::net::TcpSocket;

const FILTER: &str = "type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol";
const SENDS: &str =
    "type.googleapis.com/envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport";
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A listener that takes headers, and proxies TCP to `cluster`.
fn taking(name: &str, filter: &str, cluster: &str) -> String {
    format!(
        "{{name: {name}, stat_prefix: {name}, address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}, \
         listener_filters: [{{name: p, typed_config: {{'@type': {FILTER}{filter}}}}}], {}}}",
        proxying(name, cluster)
    )
}

fn proxying(name: &str, cluster: &str) -> String {
    format!(
        "filter_chains: [{{filters: [{{name: tcp, typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, \
         stat_prefix: {name}, cluster: {cluster}, access_log: [{{name: log, typed_config: {{'@type': type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, \
         path: $DIR/{name}, log_format: {{text_format_source: {{inline_string: \"%DOWNSTREAM_REMOTE_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% \
         %DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT% %BYTES_RECEIVED%\\n\"}}}}}}}}]}}}}]}}]"
    )
}

/// Cluster fields that make it begin with a header of this version, then be `inner`.
fn sending(version: &str, inner: &str) -> String {
    format!(
        "transport_socket: {{name: p, typed_config: {{'@type': {SENDS}, config: {{version: {version}}}, transport_socket: {inner}}}}}"
    )
}

const RAW: &str = "{name: raw, typed_config: {'@type': type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer}}";

fn binary(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u16).to_be_bytes();
    [SIGNATURE, &[command, family], &length, body].concat()
}

/// Headers, good and bad.
fn headers() -> Vec<(&'static str, Vec<u8>)> {
    let v4 = [1, 2, 3, 4, 5, 6, 7, 8, 0, 111, 0, 222];
    let six = |text: &str| text.parse::<Ipv6Addr>().unwrap().octets();
    let v6 = [&six("2001:db8::1")[..], &six("2001:db8::2"), &[0, 111, 0, 222]].concat();
    let big = [&v4[..], &[4, 0xff, 0xf0], &[b'x'; 0xfff0]].concat();
    let line = |text: &str| text.as_bytes().to_vec();
    vec![
        ("v1", line("PROXY TCP4 1.2.3.4 5.6.7.8 111 222\r\n")),
        ("v1 six", line("PROXY TCP6 2001:db8::1 2001:db8::2 111 222\r\n")),
        ("v1 unknown", line("PROXY UNKNOWN\r\n")),
        ("v1 unknown with more", line("PROXY UNKNOWN a b c d\r\n")),
        ("v1 unknown word", line("PROXY UNKNOWNx\r\n")),
        ("v1 families", line("PROXY TCP4 2001:db8::1 2001:db8::2 111 222\r\n")),
        ("v1 short", line("PROXY TCP4 1.2.3.4 5.6.7.8 111\r\n")),
        ("v1 long port", line("PROXY TCP4 1.2.3.4 5.6.7.8 111 99999\r\n")),
        ("v1 port zero", line("PROXY TCP4 1.2.3.4 5.6.7.8 0 222\r\n")),
        ("v1 more", line("PROXY TCP4 1.2.3.4 5.6.7.8 111 222 9\r\n")),
        ("v1 spaces", line("PROXY TCP4  1.2.3.4 5.6.7.8 111 222\r\n")),
        ("v1 octal", line("PROXY TCP4 1.2.3.04 5.6.7.8 111 222\r\n")),
        ("v1 long", line(&format!("PROXY UNKNOWN {}\r\n", "x".repeat(100)))),
        ("v1 multicast", line("PROXY TCP4 224.0.0.1 5.6.7.8 111 222\r\n")),
        ("v1 any", line("PROXY TCP4 0.0.0.0 5.6.7.8 111 222\r\n")),
        ("v1 lower case", line("proxy TCP4 1.2.3.4 5.6.7.8 111 222\r\n")),
        ("v1 udp", line("PROXY UDP4 1.2.3.4 5.6.7.8 111 222\r\n")),
        ("v2", binary(0x21, 0x11, &v4)),
        ("v2 six", binary(0x21, 0x21, &v6)),
        ("v2 local", binary(0x20, 0, b"")),
        ("v2 local with more", binary(0x20, 0x11, b"anything")),
        ("v2 datagrams", binary(0x21, 0x12, &v4)),
        ("v2 unspecified", binary(0x21, 0, b"")),
        ("v2 unspecified transport", binary(0x21, 0x10, &v4)),
        ("v2 unix", binary(0x21, 0x31, &[0; 216])),
        ("v2 short", binary(0x21, 0x11, &v4[1..])),
        ("v2 command", binary(0x22, 0x11, &v4)),
        ("v2 version", binary(0x31, 0x11, &v4)),
        ("v2 family", binary(0x21, 0x41, &v4)),
        ("v2 extensions", binary(0x21, 0x11, &[&v4[..], b"\x04\0\x03abc"].concat())),
        ("v2 broken extensions", binary(0x21, 0x11, &[&v4[..], b"\x04\0\x30abc"].concat())),
        ("v2 most extensions", binary(0x21, 0x11, &big)),
        ("none", Vec::new()),
    ]
}

async fn ask(side: &Side, listener: &str, header: &[u8]) -> String {
    let mut client = Client::send(side.at(listener), &[header, b"DO echo\nhello"].concat()).await.unwrap();
    // Not ended before the answer: who ends early may be taken for gone.
    match client.exactly(5).await {
        Ok(bytes) => {
            client.finish().await.unwrap();
            let (rest, end) = client.rest().await.unwrap();
            let seen = side.tcp.next().await;
            format!("{} {rest:?} {end:?} {}", String::from_utf8_lossy(&bytes), seen.prefix.escape_ascii())
        }
        Err(_) => "refused".into(),
    }
}

#[tokio::test]
async fn headers_are_taken_and_refused_as_envoy_does() {
    let listeners = [
        taking("strict", "", "tcp"),
        taking("lenient", ", allow_requests_without_proxy_protocol: true", "tcp"),
        taking("second", ", disallowed_versions: [V1]", "tcp"),
        taking(
            "first",
            ", allow_requests_without_proxy_protocol: true, disallowed_versions: [V2], stat_prefix: own",
            "tcp",
        ),
    ];
    let mut pair = Pair::start(&listeners, &[cluster("tcp", "$TCP", "")]).await.unwrap();
    let names = ["strict", "lenient", "second", "first"];
    let mut wrong = String::new();
    for (what, header) in headers() {
        // Envoy reads the line to its end before it says that its version is not wanted: this one has none. And it does
        // not count the refusal of what is shorter than a header as an error.
        let apart = [("v1 long", "second"), ("none", "strict"), ("none", "second")];
        for name in names.into_iter().filter(|name| !apart.contains(&(what, *name))) {
            let (envoy, ours) = tokio::join!(ask(&pair.envoy, name, &header), ask(&pair.ours, name, &header));
            if envoy != ours {
                let _ = writeln!(wrong, "{what} at {name}: Envoy {envoy}, ours {ours}");
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    let (envoy, ours) = (pair.envoy.proxy.stats().await.unwrap(), pair.ours.proxy.stats().await.unwrap());
    for (name, value) in envoy.iter().filter(|(name, _)| name.contains("proxy_proto")) {
        assert_eq!(ours.get(name), Some(value), "{name}");
    }
    assert!(envoy["proxy_proto.versions.v2.found"] > 0);
    pair.envoy.quit().await.unwrap();
    pair.ours.quit().await.unwrap();
    for name in names {
        // Ports of the test's own connections differ.
        let lines = |side: &Side| {
            let text = side.normal(&side.file(name));
            let line = |line: &str| {
                let from = line.split(' ').next().unwrap_or_default();
                if from.starts_with("127.0.0.1:") { line.replacen(from, "(client)", 1) } else { line.into() }
            };
            text.lines().map(|l| line(l) + "\n").collect::<String>()
        };
        let (envoy, ours) = (lines(&pair.envoy), lines(&pair.ours));
        assert!(envoy.contains("1.2.3.4:111 5.6.7.8:222 127.0.0.1") || name == "first", "{envoy}");
        assert!(envoy == ours, "{name}:\n{}", difference(&envoy, &ours));
    }
}

#[tokio::test]
async fn a_header_in_pieces_is_waited_for_and_one_that_stops_is_not_for_ever() {
    let listeners = [taking("strict", "", "tcp")
        .replace("listener_filters:", "listener_filters_timeout: 0.5s, listener_filters:")];
    let pair = Pair::start(&listeners, &[cluster("tcp", "$TCP", "")]).await.unwrap();
    for side in [&pair.envoy, &pair.ours] {
        for header in [&b"PROXY TCP4 1.2.3.4 5.6.7.8 111 222\r\n"[..], &binary(0x20, 0, b"\x04\0\x01a")] {
            let mut client = Client::send(side.at("strict"), b"").await.unwrap();
            for byte in header {
                client.more(&[*byte]).await.unwrap();
            }
            client.more(b"DO echo\nhello").await.unwrap();
            assert_eq!(client.exactly(5).await.unwrap(), b"hello", "{}", side.name);
            drop(client);
            side.tcp.next().await;
        }
        for part in [&b"PROXY TCP4 1.2"[..], SIGNATURE, &binary(0x21, 0x11, &[1; 12])[..20]] {
            let mut client = Client::send(side.at("strict"), part).await.unwrap();
            assert!(client.rest().await.unwrap().0.is_empty(), "{}", side.name);
            // And one that ends in the middle.
            let mut client = Client::send(side.at("strict"), part).await.unwrap();
            client.finish().await.unwrap();
            assert!(client.rest().await.unwrap().0.is_empty(), "{}", side.name);
        }
    }
}

#[tokio::test]
async fn hosts_are_told_whose_connection_it_is() {
    let plain = |name: &str, cluster: &str| {
        format!(
            "{{name: {name}, address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}, {}}}",
            proxying(name, cluster)
        )
    };
    let listeners = [
        plain("one", "one"),
        plain("two", "two"),
        taking("passed", ", allow_requests_without_proxy_protocol: true", "two"),
        plain("twice", "chained"),
        taking("inner", "", "tcp").replace("port_value: 0", "port_value: $INNER"),
    ];
    let clusters = [
        cluster("tcp", "$TCP", ""),
        cluster("one", "$TCP", &sending("V1", RAW)),
        cluster("two", "$TCP", &sending("V2", RAW)),
        cluster("chained", "$INNER", &sending("V2", RAW)),
    ];
    let ports = [free_port().unwrap(), free_port().unwrap()];
    let pair = Pair::start_with(&listeners, &clusters, &[("$INNER", ports)], &[]).await.unwrap();
    for side in [&pair.envoy, &pair.ours] {
        for name in ["one", "two", "passed"] {
            let mut client = Client::send(side.at(name), b"DO echo\nx").await.unwrap();
            // Who ends before an answer may be taken for gone by a listener filter.
            client.exactly(1).await.unwrap();
            client.finish().await.unwrap();
            let (from, to) = (client.0.local_addr().unwrap(), client.0.peer_addr().unwrap());
            assert_eq!(client.rest().await.unwrap(), (b"bye".to_vec(), End::Closed), "{}", side.name);
            let told = side.tcp.next().await.prefix;
            let expected = match name {
                "one" => {
                    format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\n", from.port(), to.port()).into_bytes()
                }
                _ => v2_of(from, to),
            };
            assert_eq!(
                told.escape_ascii().to_string(),
                expected.escape_ascii().to_string(),
                "{} {name}",
                side.name
            );
        }
        let header = binary(0x21, 0x11, &[1, 2, 3, 4, 5, 6, 7, 8, 0, 111, 0, 222]);
        let mut client =
            Client::send(side.at("passed"), &[&header[..], b"DO echo\nx"].concat()).await.unwrap();
        client.exactly(1).await.unwrap();
        drop(client);
        assert_eq!(side.tcp.next().await.prefix, header, "{}: what it was told is passed on", side.name);
        let mut client = Client::send(side.at("twice"), b"DO echo\nx").await.unwrap();
        client.exactly(1).await.unwrap();
        drop(client);
        assert_eq!(side.tcp.next().await.prefix, b"", "{}: the next proxy takes it off", side.name);
    }
}

fn v2_of(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let (from_port, to_port) = (from.port().to_be_bytes(), to.port().to_be_bytes());
    binary(0x21, 0x11, &[&[127, 0, 0, 1, 127, 0, 0, 1][..], &from_port, &to_port].concat())
}

/// Two clients share an HTTP pool elsewhere; here each has connections of its own, since one tells one client.
#[tokio::test]
async fn requests_of_one_client_never_use_a_connection_told_of_another() {
    let web = |name: &str, cluster: &str| {
        e2e::pair::http_listener(
            name,
            "use_remote_address: true",
            &e2e::pair::routes(&format!("{{match: {{prefix: /}}, route: {{cluster: {cluster}}}}}")),
        )
    };
    // The second listener of each proxy takes the header off, so that the origin's HTTP is plain.
    let inner = web("inner", "up").replace(
        "filter_chains:",
        &format!("listener_filters: [{{name: p, typed_config: {{'@type': {FILTER}}}}}], filter_chains:"),
    );
    let inner = inner.replace("port_value: 0", "port_value: $INNER");
    let clusters = [cluster("up", "$ORIGIN", ""), cluster("chained", "$INNER", &sending("V2", RAW))];
    let ports = [free_port().unwrap(), free_port().unwrap()];
    let pair = Pair::start_with(&[web("web", "chained"), inner], &clusters, &[("$INNER", ports)], &[])
        .await
        .unwrap();
    for side in [&pair.envoy, &pair.ours] {
        let ask = async |wire: &mut Wire| {
            wire.send(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
            let answer = wire.message(Role::Response).await.unwrap().unwrap();
            assert_eq!(answer.status(), 200, "{}", side.name);
            let seen = side.origin.take();
            let told = seen.last().unwrap().header("x-forwarded-for").unwrap().to_owned();
            told.rsplit(',').next().unwrap().trim().to_owned()
        };
        // Clients told apart by their addresses.
        let mut wires = Vec::new();
        for from in ["127.0.0.1:0", "127.0.0.2:0", "127.0.0.3:0"] {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind(from.parse().unwrap()).unwrap();
            wires.push(Wire::of(socket.connect(side.at("web")).await.unwrap()));
        }
        for _ in 0..3 {
            let mut told = Vec::new();
            for wire in &mut wires {
                told.push(ask(wire).await);
            }
            assert_eq!(told[1..], ["127.0.0.2", "127.0.0.3"], "{}", side.name);
        }
        let stats = side.proxy.stats().await.unwrap();
        assert_eq!(stats["cluster.chained.upstream_cx_total"], 3, "{}: one for each client", side.name);
    }
}
