//! TCP proxying beside the real Envoy: the same bootstrap, the same bytes, the same ends, flags and counts.

mod subsets;

use crate::upgrades::{FRAME, Sockets, handshake};
use e2e::certs::Authority;
use e2e::control::Control;
use e2e::eventually;
use e2e::https::Tls;
use e2e::pair::{Pair, Side, cluster};
use e2e::pki::{Life, Pki};
use e2e::process::free_port;
use e2e::tcp::{Client, End, Origin, echo_tls, pattern, sum};
use e2e::upstream::Upstream;
use e2e::wire::{Role, Wire};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const PROXY: &str = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";

/// What a log line tells of a connection; of its ends only what is the same in any two runs.
const FORMAT: &str = "%ACCESS_LOG_TYPE% %FILTER_CHAIN_NAME% flags=%RESPONSE_FLAGS% code=%RESPONSE_CODE% \
    details=%RESPONSE_CODE_DETAILS% rx=%BYTES_RECEIVED% tx=%BYTES_SENT% urx=%UPSTREAM_WIRE_BYTES_RECEIVED% \
    utx=%UPSTREAM_WIRE_BYTES_SENT% drx=%DOWNSTREAM_WIRE_BYTES_RECEIVED% dtx=%DOWNSTREAM_WIRE_BYTES_SENT% \
    cluster=%UPSTREAM_CLUSTER% host=%UPSTREAM_HOST% failure=%UPSTREAM_TRANSPORT_FAILURE_REASON% \
    protocol=%PROTOCOL% attempts=%UPSTREAM_REQUEST_ATTEMPT_COUNT% \
    from=%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% to=%DOWNSTREAM_LOCAL_ADDRESS% sni=%REQUESTED_SERVER_NAME% \
    path=%REQ(:PATH)% method=%REQ(:METHOD)%";

fn filter(name: &str, fields: &str) -> String {
    format!(
        "{{name: {name}, filters: [{{name: tcp, typed_config: {{'@type': {PROXY}, stat_prefix: {name}, access_log: [{{name: log, \
         typed_config: {{'@type': type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: $DIR/{name}, \
         log_format: {{text_format_source: {{inline_string: \"{FORMAT}\\n\"}}}}}}}}], {fields}}}}}]}}"
    )
}

fn listener(name: &str, fields: &str) -> String {
    listener_of(name, "", &[filter(name, fields)])
}

fn listener_of(name: &str, fields: &str, chains: &[String]) -> String {
    format!(
        "{{name: {name}, stat_prefix: {name}, address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}, {fields} \
         filter_chains: [{}]}}",
        chains.join(", ")
    )
}

/// Both sides in turn do the same.
async fn both<T>(pair: &Pair, mut act: impl AsyncFnMut(&Side) -> T) -> (T, T) {
    (act(&pair.envoy).await, act(&pair.ours).await)
}

/// Ends both and compares these logs line by line.
async fn compare_logs(pair: &mut Pair, names: &[&str]) {
    pair.envoy.quit().await.unwrap();
    pair.ours.quit().await.unwrap();
    let mut wrong = String::new();
    for name in names {
        let [envoy, ours] = [&pair.envoy, &pair.ours].map(|side| sort_flags(&side.normal(&side.file(name))));
        assert!(!envoy.is_empty(), "Envoy logs something for {name}");
        if envoy != ours {
            let _ = writeln!(wrong, "=== {name}\n{}", e2e::pair::difference(&envoy, &ours));
        }
    }
    assert!(wrong.is_empty(), "logs must say what Envoy's say (- Envoy, + ours):\n{wrong}");
}

/// Response flags in one order: Envoy's is that in which they were raised, ours always the same.
fn sort_flags(lines: &str) -> String {
    let sorted = lines.lines().map(|line| {
        let Some((before, rest)) = line.split_once("flags=") else { return line.to_owned() };
        let (flags, after) = rest.split_once(' ').unwrap_or((rest, ""));
        let mut flags: Vec<&str> = flags.split(',').collect();
        flags.sort_unstable();
        format!("{before}flags={} {after}", flags.join(","))
    });
    sorted.map(|line| line + "\n").collect()
}

/// Waits until these stats are the same on both sides and not all zero, then holds that.
async fn compare_stats(pair: &Pair, prefixes: &[&str]) {
    let differ = eventually("stats are alike", async || {
        let (envoy, ours) = (pair.envoy.proxy.stats().await?, pair.ours.proxy.stats().await?);
        let mut wrong = String::new();
        for (name, value) in &envoy {
            if !prefixes.iter().any(|prefix| name.starts_with(prefix)) {
                continue;
            }
            // Ours carries on by itself, where Envoy hands what is left to a drainer.
            if name.contains("upstream_flush_") {
                continue;
            }
            let told = ours.get(name);
            // What is not there at all, Envoy does not count either.
            if told != Some(value) && (told.is_some() || *value > 0) {
                let _ = writeln!(wrong, "{name}: Envoy {value}, ours {told:?}");
            }
        }
        anyhow::ensure!(wrong.is_empty(), "{wrong}");
        Ok(())
    });
    differ.await;
}

#[tokio::test]
async fn bytes_flow_both_ways_to_their_ends() {
    let mut pair =
        Pair::start(&[listener("web", "cluster: tcp")], &[cluster("tcp", "$TCP", "")]).await.unwrap();
    let (envoy, ours) = both(&pair, async |side| {
        let at = side.at("web");
        let mut told = Vec::new();
        // The client ends first, and still gets all.
        let mut client = Client::send(at, b"DO echo\nhello").await.unwrap();
        client.finish().await.unwrap();
        told.push(format!("{:?} {:?}", client.rest().await.unwrap(), side.tcp.next().await));
        // The origin ends first, and still gets all.
        let mut client = Client::send(at, b"DO first\n").await.unwrap();
        let first = client.rest().await.unwrap();
        client.more(b"and more").await.unwrap();
        client.finish().await.unwrap();
        drop(client);
        told.push(format!("{first:?} {:?}", side.tcp.next().await));
        // The origin closes.
        let mut client = Client::send(at, b"DO close\n").await.unwrap();
        told.push(format!("{:?}", client.rest().await.unwrap()));
        drop(client);
        told.push(format!("{:?}", side.tcp.next().await));
        // A failure of one side is one for the other.
        let mut client = Client::send(at, b"DO reset\n").await.unwrap();
        told.push(format!("{:?}", client.rest().await.unwrap()));
        drop(client);
        told.push(format!("{:?}", side.tcp.next().await));
        let mut client = Client::send(at, b"DO echo\nabc").await.unwrap();
        client.exactly(3).await.unwrap();
        client.reset().unwrap();
        told.push(format!("{:?}", side.tcp.next().await));
        told
    })
    .await;
    assert_eq!(ours, envoy, "ours must carry what Envoy carries, and end as it does");
    assert!(ours[0].contains("98, 121, 101"), "it says bye: {ours:?}");
    compare_stats(&pair, &["tcp.web.", "listener.web.downstream_cx_", "cluster.tcp.upstream_"]).await;
    compare_logs(&mut pair, &["web"]).await;
}

#[tokio::test]
async fn connections_that_find_no_host_end_with_envoys_flags() {
    let listeners = [
        listener("refused", "cluster: refused"),
        listener("again", "cluster: refused, max_connect_attempts: 3"),
        listener("missing", "cluster: missing"),
        listener("empty", "cluster: empty"),
        listener("limited", "cluster: limited"),
        listener("tls", "cluster: tls"),
        listener("other", "cluster: other, max_connect_attempts: 2"),
    ];
    let endpoint = |port: &str| {
        format!("{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}}}")
    };
    let clusters = [
        cluster("refused", "$REFUSED", ""),
        "{name: empty, load_assignment: {cluster_name: empty}}".into(),
        cluster("limited", "$TCP", "circuit_breakers: {thresholds: [{max_connections: 1}]}"),
        cluster(
            "tls",
            "$REFUSED",
            "transport_socket: {name: tls, typed_config: {'@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext}}",
        ),
        format!(
            "{{name: other, load_assignment: {{cluster_name: other, endpoints: [{{lb_endpoints: [{}, {}]}}]}}}}",
            endpoint("$REFUSED"),
            endpoint("$TCP")
        ),
    ];
    let mut pair = Pair::start(&listeners, &clusters).await.unwrap();
    let (envoy, ours) = both(&pair, async |side| {
        let mut told = Vec::new();
        for name in ["refused", "again", "missing", "empty", "tls"] {
            let mut client = Client::send(side.at(name), b"").await.unwrap();
            told.push(format!("{name} {:?}", client.rest().await.unwrap()));
        }
        let mut first = Client::send(side.at("limited"), b"DO echo\nx").await.unwrap();
        first.exactly(1).await.unwrap();
        let mut second = Client::send(side.at("limited"), b"").await.unwrap();
        told.push(format!("limited {:?}", second.rest().await.unwrap()));
        first.finish().await.unwrap();
        told.push(format!("limited {:?}", first.rest().await.unwrap()));
        side.tcp.next().await;
        // Whichever host is first, the other is tried after it.
        for _ in 0..4 {
            let mut client = Client::send(side.at("other"), b"DO echo\n").await.unwrap();
            client.finish().await.unwrap();
            told.push(format!("other {:?}", client.rest().await.unwrap()));
            side.tcp.next().await;
        }
        told
    })
    .await;
    assert_eq!(ours, envoy);
    assert!(ours.iter().filter(|told| told.starts_with("other")).all(|told| told.contains("Closed")));
    let names = ["refused", "again", "missing", "empty", "limited", "tls"];
    let mut prefixes: Vec<String> = names.iter().map(|name| format!("tcp.{name}.")).collect();
    for name in ["refused", "empty", "limited", "tls"] {
        prefixes.push(format!("cluster.{name}.upstream_"));
    }
    let prefixes: Vec<&str> = prefixes.iter().map(String::as_str).collect();
    compare_stats(&pair, &prefixes).await;
    compare_logs(&mut pair, &names).await;
}

#[tokio::test]
async fn connections_end_when_idle_and_when_too_old() {
    let listeners = [
        listener("idle", "cluster: tcp, idle_timeout: 0.3s"),
        listener(
            "old",
            "cluster: tcp, max_downstream_connection_duration: 0.5s, access_log_options: {flush_access_log_on_connected: true, flush_access_log_on_start: true}",
        ),
        listener(
            "periodic",
            "cluster: tcp, idle_timeout: 1.6s, access_log_options: {access_log_flush_interval: 1s}",
        ),
    ];
    let mut pair = Pair::start(&listeners, &[cluster("tcp", "$TCP", "")]).await.unwrap();
    let (envoy, ours) = both(&pair, async |side| {
        let mut told = Vec::new();
        let mut old = Client::send(side.at("old"), b"DO hold\n").await.unwrap();
        let mut idle = Client::send(side.at("idle"), b"DO hold\n").await.unwrap();
        let mut periodic = Client::send(side.at("periodic"), b"DO hold\n").await.unwrap();
        told.push(format!("{:?}", idle.rest().await.unwrap()));
        told.push(format!("{:?}", old.rest().await.unwrap()));
        told.push(format!("{:?}", periodic.rest().await.unwrap()));
        told.push(format!("{:?}", [side.tcp.next().await, side.tcp.next().await, side.tcp.next().await]));
        told
    })
    .await;
    assert_eq!(ours, envoy);
    compare_stats(&pair, &["tcp.", "cluster.tcp.upstream_"]).await;
    compare_logs(&mut pair, &["idle", "old", "periodic"]).await;
}

#[tokio::test]
async fn nothing_is_lost_and_little_held_when_a_side_reads_slowly() {
    /// More than all the sockets on the way hold.
    const BYTES: u64 = 64 << 20;
    let listeners = [
        listener("web", "cluster: tcp"),
        listener_of("small", "per_connection_buffer_limit_bytes: 4096,", &[filter("small", "cluster: tcp")]),
    ];
    let pair = Pair::start(&listeners, &[cluster("tcp", "$TCP", "")]).await.unwrap();
    let expected = (0..BYTES / 65_536).fold(0, |total, n| sum(total, &pattern(n * 65_536, 65_536)));
    for name in ["web", "small"] {
        let side = &pair.ours;
        let rss = || {
            let pid = side.proxy.pid();
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            let line = status.lines().find(|line| line.starts_with("RssAnon")).unwrap();
            line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
        };
        let before = rss();
        let mut client = Client::send(side.at(name), format!("DO flood {BYTES}\n").as_bytes()).await.unwrap();
        // The origin is held up once all on the way is full.
        let stats = format!("tcp.{name}.downstream_cx_tx_bytes_buffered");
        eventually("the client's side is full", async || {
            let held = side.proxy.stats().await?[&stats];
            anyhow::ensure!(held > 0, "nothing is held");
            anyhow::ensure!(held <= 65_536, "too much is held: {held}");
            Ok(())
        })
        .await;
        assert!(rss() < before + 16 * 1024, "memory does not grow with what is to come");
        let (mut total, mut read, mut buffer) = (0, 0, vec![0; 65_536]);
        loop {
            match client.0.read(&mut buffer).await.unwrap() {
                0 => break,
                n => (total, read) = (sum(total, &buffer[..n]), read + n as u64),
            }
        }
        assert_eq!((read, total), (BYTES, expected), "all comes through, in order");
        client.finish().await.unwrap();
        side.tcp.next().await;
        // The other way.
        let mut client = Client::send(side.at(name), b"DO sum\n").await.unwrap();
        for n in 0..BYTES / 65_536 {
            client.0.write_all(&pattern(n * 65_536, 65_536)).await.unwrap();
        }
        client.finish().await.unwrap();
        let (told, end) = client.rest().await.unwrap();
        assert_eq!((String::from_utf8(told).unwrap(), end), (format!("{BYTES} {expected}"), End::Closed));
        side.tcp.next().await;
    }
}

#[tokio::test]
async fn clusters_get_their_weights_and_clients_their_hosts() {
    let listeners = [
        listener(
            "split",
            "weighted_clusters: {clusters: [{name: tcp, weight: 3}, {name: refused, weight: 1}]}",
        ),
        listener("hashed", "cluster: ring, hash_policy: [{source_ip: {}}]"),
    ];
    let clusters = [
        cluster("tcp", "$TCP", ""),
        cluster("refused", "$REFUSED", ""),
        "{name: ring, lb_policy: RING_HASH, load_assignment: {cluster_name: ring, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: $TCP}}}}, {endpoint: {address: {socket_address: {address: 127.0.0.2, port_value: $REFUSED}}}}]}]}}".into(),
    ];
    let pair = Pair::start(&listeners, &clusters).await.unwrap();
    let (envoy, ours) = both(&pair, async |side| {
        for _ in 0..200 {
            let mut client = Client::send(side.at("split"), b"DO close\n").await.unwrap();
            let _ = client.rest().await;
        }
        let stats = side.proxy.stats().await.unwrap();
        let (tcp, refused) =
            (stats["cluster.tcp.upstream_cx_total"], stats["cluster.refused.upstream_cx_total"]);
        assert_eq!(tcp + refused, 200, "{}", side.name);
        for _ in 0..10 {
            let mut client = Client::send(side.at("hashed"), b"").await.unwrap();
            client.finish().await.unwrap();
            let _ = client.rest().await;
        }
        let stats = side.proxy.stats().await.unwrap();
        let hashed = stats["cluster.ring.upstream_cx_connect_fail"];
        assert!(hashed == 0 || hashed == 10, "{}: a client stays on its host, {hashed}", side.name);
        tcp
    })
    .await;
    for tcp in [envoy, ours] {
        // Five standard deviations around 150.
        assert!((119..=181).contains(&tcp), "about three of four: {tcp}");
    }
}

#[tokio::test]
async fn tls_is_ended_passed_through_and_begun_by_name() {
    let pki = Pki::new().unwrap();
    for name in ["a", "b", "inner"] {
        pki.sign(name, "ca", &format!("DNS:{name}.example.com"), Life::Now).unwrap();
    }
    let dir = pki.dir().display();
    let context = |name: &str| {
        format!(
            "transport_socket: {{name: tls, typed_config: {{'@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext, \
             common_tls_context: {{tls_certificates: [{{certificate_chain: {{filename: {dir}/{name}.pem}}, private_key: {{filename: {dir}/{name}.key}}}}]}}}}}}"
        )
    };
    let chain = |name: &str, matches: &str, tls: &str, cluster: &str| {
        let filters = filter(name, &format!("cluster: {cluster}"));
        format!("{{filter_chain_match: {{{matches}}}, {tls}{}", filters.trim_start_matches('{'))
    };
    let inspector = "listener_filters: [{name: i, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector}}],";
    let listeners = [
        // Ends TLS for a, hands b on as it is, and refuses the rest.
        listener_of(
            "edge",
            inspector,
            &[
                chain("ended", "server_names: [a.example.com]", &format!("{}, ", context("a")), "tcp"),
                chain("passed", "server_names: [b.example.com]", "", "inner"),
                chain("plain", "transport_protocol: raw_buffer", "", "tcp"),
            ],
        ),
        listener_of("inner", "", &[chain("inner", "", &format!("{}, ", context("b")), "tcp")]),
        listener("begun", "cluster: begun"),
    ];
    // Ports of listeners are not known before they are bound: one that is free now is.
    let inner = free_port().unwrap();
    let listeners = listeners.map(|l| {
        if l.starts_with("{name: inner") { l.replace("port_value: 0", "port_value: $INNER") } else { l }
    });
    let other = free_port().unwrap();
    let clusters = [
        cluster("tcp", "$TCP", ""),
        cluster("inner", "$INNER", ""),
        cluster(
            "begun",
            "$INNER",
            &format!(
                "transport_socket: {{name: tls, typed_config: {{'@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext, sni: b.example.com, common_tls_context: {{validation_context: {{trusted_ca: {{filename: {dir}/ca.pem}}, match_typed_subject_alt_names: [{{san_type: DNS, matcher: {{exact: b.example.com}}}}]}}}}}}}}"
            ),
        ),
    ];
    let mut pair = Pair::start_with(&listeners, &clusters, &[("$INNER", [inner, other])], &[]).await.unwrap();
    let ca = pki.read("ca.pem").unwrap();
    let (envoy, ours) = both(&pair, async |side| {
        let mut told = Vec::new();
        for name in ["a.example.com", "b.example.com", "c.example.com"] {
            let said = echo_tls(side.at("edge"), &ca, name, b"hello").await;
            told.push(format!("{name}: {:?}", said.map(String::from_utf8).ok()));
        }
        for listener in ["edge", "begun"] {
            let mut client = Client::send(side.at(listener), b"DO echo\nhi").await.unwrap();
            client.exactly(1).await.unwrap();
            client.finish().await.unwrap();
            told.push(format!("{listener}: {:?}", client.rest().await.unwrap()));
        }
        told
    })
    .await;
    assert_eq!(ours, envoy);
    assert!(ours[0].contains("hello") && ours[1].contains("hello") && !ours[2].contains("hello"), "{ours:?}");
    // What TLS itself says is not the same length in both.
    let prefixes =
        ["tcp.ended.", "tcp.inner.", "tcp.plain.", "tcp.begun.", "listener.edge.no_filter_chain_match"];
    compare_stats(&pair, &prefixes).await;
    compare_logs(&mut pair, &["ended", "inner", "plain"]).await;
}

#[tokio::test]
async fn a_listener_that_goes_lets_its_connections_finish() {
    let args = ["--drain-time-s", "600"];
    let pair =
        Pair::start_with(&[listener("web", "cluster: tcp")], &[cluster("tcp", "$TCP", "")], &[], &args)
            .await
            .unwrap();
    let (envoy, ours) = both(&pair, async |side| {
        let mut client = Client::send(side.at("web"), b"DO echo\nbefore").await.unwrap();
        client.exactly(6).await.unwrap();
        let url = format!("http://{}/drain_listeners", side.proxy.admin);
        e2e::client::Client::h1().send("POST", &url, &[], "").await.unwrap();
        eventually("nothing is accepted", async || -> anyhow::Result<()> {
            anyhow::ensure!(tokio::net::TcpStream::connect(side.at("web")).await.is_err(), "accepts");
            Ok(())
        })
        .await;
        client.more(b"after").await.unwrap();
        client.finish().await.unwrap();
        client.rest().await.unwrap()
    })
    .await;
    assert_eq!(ours, envoy);
    assert_eq!(ours, (b"afterbye".to_vec(), End::Closed));
    tokio::time::timeout(Duration::from_secs(60), pair.ours.tcp.next()).await.unwrap();
}

/// A header of the PROXY protocol, version 2, for 127.0.0.1 to 127.0.0.1.
fn is_version_2(header: &[u8]) -> bool {
    let (signature, rest) = header.split_at(header.len().min(12));
    signature == b"\r\n\r\n\0\r\nQUIT\n" && rest.starts_with(&[0x21, 0x11, 0, 12, 127, 0, 0, 1, 127, 0, 0, 1])
}

/// One listener for each thing that a gateway carries: bytes, alone, shared out, or with what origins are told of clients;
/// TLS that is not ended; WebSockets.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_objects_carry_bytes_and_websockets_through_our_proxy_and_envoy() {
    let control = Control::start(&[]).await.unwrap();
    let (origin, first, second) =
        (Origin::start().await.unwrap(), Origin::start().await.unwrap(), Origin::start().await.unwrap());
    for service in ["db", "told", "told2"] {
        control.register(service, "one", origin.addr, None).await.unwrap();
    }
    control.register("first", "one", first.addr, None).await.unwrap();
    control.register("second", "one", second.addr, None).await.unwrap();
    let (sockets, web) = (Sockets::start().await, Upstream::start("web").await.unwrap());
    control.register("ws", "one", ([127, 0, 0, 1], sockets.port).into(), None).await.unwrap();
    control.register("web", "web", web.addr, None).await.unwrap();
    let authority = Authority::new("servers").unwrap();
    for name in ["a", "b"] {
        let pair = authority.issue(&[&format!("{name}.test")]).unwrap();
        let secret = format!("kind: Secret\nname: {name}\nspec:\n  certificate:\n{}", pair.yaml(4));
        control.apply(&secret).await.unwrap();
    }
    control.apply("{kind: Service, name: told, spec: {proxy_protocol: V1}}").await.unwrap();
    control.apply("{kind: Service, name: told2, spec: {proxy_protocol: V2}}").await.unwrap();
    for group in ["envoy", "ours"] {
        let names = ["db", "told", "told2", "shared", "pass", "a", "b", "ws"];
        let ports: BTreeMap<&str, u16> = names.iter().map(|name| (*name, free_port().unwrap())).collect();
        let at = |name: &str| SocketAddr::from(([127, 0, 0, 1], ports[name]));
        let listener = |name: &str, more: &str| {
            format!("{{name: {name}, address: 127.0.0.1, port: {}, {more}}}", ports[name])
        };
        let listeners = [
            listener("db", "protocol: TCP"),
            listener("told", "protocol: TCP, proxy_protocol: true"),
            listener("told2", "protocol: TCP"),
            listener("shared", "protocol: TCP"),
            listener("pass", "protocol: TLS_PASSTHROUGH, hostnames: [a.test, b.test]"),
            listener("a", "protocol: HTTPS, tls: {certificates: [a]}"),
            listener("b", "protocol: HTTPS, tls: {certificates: [b]}"),
            listener("ws", "protocol: HTTP"),
        ];
        let gateway = format!(
            "{{kind: Gateway, name: {group}, spec: {{group: {group}, listeners: [{}]}}}}",
            listeners.join(", ")
        );
        let route = |name: &str, on: &str, hosts: &str, backends: &str| {
            format!(
                "{{kind: Route, name: {group}-{name}, spec: {{gateways: [{group}], listeners: [{on}], hosts: [{hosts}], \
                 rules: [{{backends: [{backends}]}}]}}}}"
            )
        };
        let ended = |name: &str| {
            format!(
                "{{kind: Service, name: {group}-{name}, spec: {{discovery: {{static: {{addresses: ['{}']}}}}}}}}",
                at(name)
            )
        };
        for object in [
            gateway,
            ended("a"),
            ended("b"),
            route("db", "db", "", "{service: db}"),
            route("told", "told", "", "{service: told}"),
            route("told2", "told2", "", "{service: told2}"),
            route(
                "shared",
                "shared",
                "",
                "{service: first, weight: 1}, {service: second, weight: 1}, {service: told, weight: 0}",
            ),
            route("pass-a", "pass", "a.test", &format!("{{service: {group}-a}}")),
            route("pass-b", "pass", "b.test", &format!("{{service: {group}-b}}")),
            route("web", "a, b", "", "{service: web}"),
            route("ws", "ws", "", "{service: ws}"),
        ] {
            control.apply(&object).await.unwrap();
        }
        let bootstrap = control.bootstrap(group, group, true).await.unwrap();
        let _proxy = match group {
            "ours" => e2e::proxy::start(&bootstrap).await.unwrap(),
            _ => e2e::envoy::Envoy::start(&bootstrap).await.unwrap(),
        };
        let ask = async |port: &str, header: &str| -> anyhow::Result<()> {
            let bytes = format!("{header}DO echo\nhello");
            let mut client = Client::send(at(port), bytes.as_bytes()).await?;
            anyhow::ensure!(client.exactly(5).await? == b"hello", "an echo");
            Ok(())
        };
        let told = async |port: &str, header: &str| {
            eventually("bytes get through", async || ask(port, header).await).await;
            origin.next().await.prefix
        };
        assert_eq!(told("db", "").await, b"", "{group}");
        let header = "PROXY TCP4 1.2.3.4 5.6.7.8 111 222\r\n";
        let seen = told("told", header).await;
        assert_eq!(String::from_utf8_lossy(&seen), header, "{group}: what it is told it tells on");
        let seen = told("told2", "").await;
        assert!(is_version_2(&seen), "{group}: {seen:?}");

        // By weight: both of one, none of zero.
        let mut counted = (0, 0);
        eventually("both services get connections", async || {
            ask("shared", "").await?;
            let (some, other) = (first.take(), second.take());
            counted.0 += some.len();
            counted.1 += other.len();
            anyhow::ensure!(counted.0 > 2 && counted.1 > 2, "{counted:?}");
            Ok(())
        })
        .await;

        assert_eq!(origin.take(), [], "{group}: a service of weight 0 was asked");

        // TLS goes on to whom the client asks for, who alone ends it.
        for name in ["a.test", "b.test"] {
            let tls = Tls::new(&authority.pem, name, None).unwrap();
            let straight = eventually("it is ended", async || tls.get(at(&name[..1]), "/").await).await;
            let passed = eventually("it is passed through", async || tls.get(at("pass"), "/").await).await;
            assert_eq!((passed.answer.status, passed.answer.header("x-instance")), (200, "web"), "{group}");
            assert_eq!(passed.chain, straight.chain, "{group}: {name}");
        }
        let other = Tls::new(&authority.pem, "c.test", None).unwrap();
        other.get(at("pass"), "/").await.expect_err("a name that nobody has");

        // A WebSocket is opened, and carries frames both ways.
        let mut wire = eventually("the listener is there", async || Wire::connect(at("ws")).await).await;
        wire.send(&handshake("/chat", "")).await.unwrap();
        let answer = wire.message(Role::ResponseToHead).await.unwrap().unwrap();
        assert_eq!(answer.status(), 101, "{group}");
        for _ in 0..3 {
            wire.send(FRAME).await.unwrap();
            assert_eq!(wire.bytes(FRAME.len()).await.unwrap(), FRAME, "{group}");
        }
    }
}

#[tokio::test]
async fn connections_beyond_a_limit_end_and_answers_are_given_without_a_host() {
    let listeners = [
        format!(
            "{{name: limited, address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}, filter_chains: [{{filters: [\
             {{name: limit, typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit, \
             stat_prefix: limited, max_connections: 1}}}}, \
             {{name: tcp, typed_config: {{'@type': {PROXY}, stat_prefix: limited, cluster: tcp}}}}]}}]}}"
        ),
        "{name: direct, address: {socket_address: {address: 127.0.0.1, port_value: 0}}, filter_chains: [{filters: [\
         {name: d, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.network.direct_response.v3.Config, \
         response: {inline_string: sorry}}}]}]}"
            .into(),
    ];
    let pair = Pair::start(&listeners, &[cluster("tcp", "$TCP", "")]).await.unwrap();
    let (envoy, ours) = both(&pair, async |side| {
        let mut told = Vec::new();
        let mut first = Client::send(side.at("limited"), b"DO echo\nx").await.unwrap();
        first.exactly(1).await.unwrap();
        let mut second = Client::send(side.at("limited"), b"").await.unwrap();
        told.push(format!("{:?}", second.rest().await.unwrap()));
        first.finish().await.unwrap();
        told.push(format!("{:?}", first.rest().await.unwrap()));
        side.tcp.next().await;
        eventually("there is room again", async || -> anyhow::Result<()> {
            let stats = side.proxy.stats().await?;
            anyhow::ensure!(stats["connection_limit.limited.active_connections"] == 0, "still taken");
            Ok(())
        })
        .await;
        let stats = side.proxy.stats().await.unwrap();
        told.push(format!("{}", stats["connection_limit.limited.limited_connections"]));
        let mut direct = Client::send(side.at("direct"), b"").await.unwrap();
        told.push(format!("{:?}", direct.rest().await.unwrap()));
        told
    })
    .await;
    assert_eq!(ours, envoy);
    assert!(ours[3].contains("115, 111, 114, 114, 121"), "{ours:?}");
}

#[tokio::test]
async fn an_echo_gives_back_every_byte_and_the_end() {
    let listeners = ["{name: echo, address: {socket_address: {address: 127.0.0.1, port_value: 0}}, filter_chains: [{filters: [\
         {name: e, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo}}]}]}"
        .to_owned()];
    let pair = Pair::start(&listeners, &[]).await.unwrap();
    let (envoy, ours) = both(&pair, async |side| {
        let mut client = Client::send(side.at("echo"), b"hello").await.unwrap();
        let mut told = vec![client.exactly(5).await.unwrap()];
        // More than any buffer holds.
        let many = e2e::tcp::pattern(0, 3 << 20);
        let (mut reader, mut writer) = client.0.into_split();
        let back = async {
            let mut back = vec![0; many.len()];
            tokio::io::AsyncReadExt::read_exact(&mut reader, &mut back).await.unwrap();
            back
        };
        let (back, sent) = tokio::join!(back, tokio::io::AsyncWriteExt::write_all(&mut writer, &many));
        sent.unwrap();
        assert!(back == many, "{} bytes come back", many.len());
        let mut client = Client(reader.reunite(writer).unwrap());
        client.finish().await.unwrap();
        told.push(format!("{:?}", client.rest().await.unwrap()).into_bytes());
        told
    })
    .await;
    assert_eq!(ours, envoy);
}
