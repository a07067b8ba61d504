//! A listener's own access log: a line for each connection when it ends.

use e2e::certs::Authority;
use e2e::envoy::Envoy;
use e2e::pair::{Pair, Side, difference};
use e2e::process::{built, installed};
use e2e::wire::{Role, Wire};

/// What is the same of a connection in any run.
const LINE: &str = "%ACCESS_LOG_TYPE% %PROTOCOL% %RESPONSE_CODE% %RESPONSE_CODE_DETAILS% %RESPONSE_FLAGS% rx=%BYTES_RECEIVED% \
     tx=%BYTES_SENT% remote=%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% direct=%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT% \
     chain=%FILTER_CHAIN_NAME% sni=%REQUESTED_SERVER_NAME% end=%CONNECTION_TERMINATION_DETAILS% upstream=%UPSTREAM_HOST% \
     cluster=%UPSTREAM_CLUSTER% route=%ROUTE_NAME% method=%REQ(:METHOD)% tries=%UPSTREAM_REQUEST_ATTEMPT_COUNT%";

fn listener(name: &str, fields: &str, matches: &str, tls: &str) -> String {
    format!(
        "{{name: {name}, address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}, {fields}
          access_log: [{{name: file, typed_config: {{'@type': type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog,
            path: $DIR/{name}, log_format: {{text_format_source: {{inline_string: \"{name} {LINE}\\n\"}}}}}}}},
           {{name: file, filter: {{response_flag_filter: {{flags: [NR]}}}}, typed_config: {{'@type': type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog,
            path: $DIR/flagged, log_format: {{text_format_source: {{inline_string: \"{name} %RESPONSE_FLAGS%\\n\"}}}}}}}}],
          filter_chains: [{{name: served, {matches} {tls} filters: [{{name: http, typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager,
            stat_prefix: {name}, delayed_close_timeout: 0.1s,
            route_config: {{virtual_hosts: [{{name: all, domains: ['*'], routes: [{{match: {{prefix: /}}, direct_response: {{status: 200, body: {{inline_string: hello}}}}}}]}}]}},
            http_filters: [{{name: router, typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}}}]}}}}]}}]}}"
    )
}

const ASK: &[u8] = b"GET /a HTTP/1.1\r\nhost: test\r\nx-padding: 0123456789\r\n\r\n";

/// A connection for each way that one can go.
async fn talk(side: &Side) {
    for times in [1, 3] {
        let mut wire = Wire::connect(side.at("plain")).await.unwrap();
        for _ in 0..times {
            wire.send(ASK).await.unwrap();
            wire.message(Role::Response).await.unwrap().expect("an answer");
        }
    }
    let mut wire = Wire::connect(side.at("plain")).await.unwrap();
    wire.send(b"NONSENSE\r\n\r\n").await.unwrap();
    assert!(wire.ends().await.is_ok());
    // Says nothing at all; seen to be served by what comes after.
    drop(Wire::connect(side.at("plain")).await.unwrap());
    let mut wire = Wire::connect(side.at("unmatched")).await.unwrap();
    assert!(wire.ends().await.unwrap(), "{}: no chain takes it", side.name);
    let mut wire = Wire::connect(side.at("inspected")).await.unwrap();
    wire.send(ASK).await.unwrap();
    wire.message(Role::Response).await.unwrap().expect("an answer");
    drop(wire);
    // Longer than filters and handshakes may take.
    for listener in ["inspected", "secured"] {
        let mut wire = Wire::connect(side.at(listener)).await.unwrap();
        assert!(wire.ends().await.unwrap(), "{}: it is given up", side.name);
    }
}

#[tokio::test]
async fn connections_are_logged_as_they_end_with_a_chain_or_without() {
    let authority = Authority::new("connections").unwrap();
    let issued = authority.issue(&["test"]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (certificate, key) = issued.write(dir.path(), "server").unwrap();
    let tls = format!(
        "transport_socket_connect_timeout: 0.3s, transport_socket: {{name: tls, typed_config: {{'@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext,
           common_tls_context: {{tls_certificates: [{{certificate_chain: {{filename: {}}}, private_key: {{filename: {}}}}}]}}}}}},",
        certificate.display(),
        key.display()
    );
    let nobody = "filter_chain_match: {source_prefix_ranges: [{address_prefix: 127.9.9.9, prefix_len: 32}]},";
    let inspect = "listener_filters_timeout: 0.3s, listener_filters: [{name: h, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.listener.http_inspector.v3.HttpInspector}}],";
    let listeners = [
        listener("plain", "", "", ""),
        listener("unmatched", "", nobody, ""),
        listener("inspected", inspect, "", ""),
        listener("secured", "", "", &tls),
    ];
    let mut pair = Pair::start(&listeners, &[]).await.unwrap();
    tokio::join!(talk(&pair.envoy), talk(&pair.ours));
    let (envoy, ours) = (&mut pair.envoy, &mut pair.ours);
    tokio::try_join!(envoy.quit(), ours.quit()).unwrap();
    for file in ["plain", "unmatched", "inspected", "secured", "flagged"] {
        let (envoy, ours) = (sorted(&pair.envoy.file(file)), sorted(&pair.ours.file(file)));
        assert!(envoy == ours, "{file} (- Envoy, + ours):\n{}", difference(&envoy, &ours));
        assert!(!ours.is_empty(), "{file}");
    }
}

#[tokio::test]
async fn an_exact_balance_gives_every_worker_as_many_connections() {
    let listener = listener(
        "balanced",
        "stat_prefix: balanced, connection_balance_config: {exact_balance: {}},",
        "",
        "",
    );
    let dir = tempfile::tempdir().unwrap();
    let listener = listener.replace("$DIR", &dir.path().display().to_string());
    let config = format!(
        "{{admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}}}, static_resources: {{listeners: [{listener}]}}}}"
    );
    let programs: [(_, _, &[&str]); 2] = [
        ("envoy", installed("envoy"), &["--disable-hot-restart", "--concurrency", "4"]),
        ("ours", built("portolan-proxy").unwrap(), &["--concurrency", "4"]),
    ];
    for (name, program, args) in programs {
        let proxy = Envoy::launch(name, &program, &config, args).await.unwrap();
        let address = proxy.listener("balanced").await.unwrap();
        let mut wires = Vec::new();
        for _ in 0..20 {
            let mut wire = Wire::connect(address).await.unwrap();
            wire.send(ASK).await.unwrap();
            wire.message(Role::Response).await.unwrap().expect("an answer");
            wires.push(wire);
        }
        let stats = proxy.stats().await.unwrap();
        let by_worker: Vec<_> =
            (0..4).map(|n| stats[&format!("listener.balanced.worker_{n}.downstream_cx_active")]).collect();
        assert_eq!(by_worker, [5; 4], "{name}");
    }
}

/// Lines of connections that end at about the same time come in any order.
fn sorted(text: &str) -> String {
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort_unstable();
    lines.into_iter().flat_map(|line| [line, "\n"]).collect()
}
