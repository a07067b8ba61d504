//! Upstreams whose TLS handshakes fail at times, under load.

use super::*;
use e2e::load::{Ask, Speak, Told, load, tally};
use e2e::pki::{Life, Pki};
use e2e::secure::Shaky;

/// Requests of a kind.
const EACH: usize = 60;

/// Every connection serves once, so that a third of all that are made are good.
fn config(pki: &Pki, port: u16) -> String {
    let tls = format!(
        "{UNLIMITED}, transport_socket: {{name: tls, typed_config: {{\"@type\": \
         type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext, sni: server.example.com, \
         common_tls_context: {{validation_context: {{trusted_ca: {{filename: {}/ca.pem}}}}}}}}}}, \
         typed_extension_protocol_options: {{envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {{\"@type\": \
         type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {{http_protocol_options: {{}}}}, \
         common_http_protocol_options: {{max_requests_per_connection: 1}}}}}}",
        pki.dir().display()
    );
    let routes = [
        route("/once/", "tls", "timeout: 0s"),
        route(
            "/again/",
            "tls",
            "timeout: 0s, retry_policy: {retry_on: connect-failure, num_retries: 60, retry_back_off: {base_interval: 0.001s, max_interval: 0.002s}}",
        ),
    ];
    bootstrap(&[web(&routes)], &[cluster("tls", &port.to_string(), &tls)])
}

/// What clients were told, by route, and connections that failed as the origin and the proxy count them.
async fn outcome(site: &Site, shaky: &Shaky) -> Vec<String> {
    shaky.lead_to(site.up.addr);
    let mut asks = Vec::new();
    for n in 0..EACH {
        asks.push(Ask::get(format!("once{n}"), "/once/", "bytes:3000"));
        asks.push(Ask::get(format!("again{n}"), "/again/", "bytes:3000").sending("POST", 500));
    }
    let told = load(site.web, Speak::Http1, 12, asks).await;
    let (again, once): (Told, Told) = told.into_iter().partition(|(id, _)| id.starts_with("again"));
    let (again, once) = (tally(&again), tally(&once));
    assert_eq!(again, BTreeMap::from([("200 (3000 bytes)".to_owned(), EACH)]), "{}: with retries", site.name);
    let good = once.get("200 (3000 bytes)").copied().unwrap_or_default();
    assert!(good > 0 && good < EACH, "{}: without retries {once:?}", site.name);
    assert_eq!(once.values().sum::<usize>(), EACH, "{}", site.name);
    let seen = site.up.take();
    for (kind, served) in [("once", good), ("again", EACH)] {
        let came = seen.iter().filter(|seen| seen.id.starts_with(kind)).count();
        assert_eq!(came, served, "{}: each request that was answered came once, and no other", site.name);
    }
    let stats = eventually(&format!("{}: all failures are counted", site.name), async || {
        let stats = site.proxy.stats().await?;
        let (counted, failed) = (stats["cluster.tls.upstream_cx_connect_fail"], shaky.failed());
        ensure!(counted == failed, "{counted} of {failed}");
        Ok(stats)
    })
    .await;
    let handshakes = stats["cluster.tls.ssl.handshake"] as usize;
    assert!(handshakes >= good + EACH, "{}: {handshakes}", site.name);
    once.into_keys().filter(|told| !told.starts_with("200 ")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes_that_fail_cost_no_request_that_may_be_tried_again() {
    let pki = Pki::new().unwrap();
    pki.sign("server", "ca", "DNS:server.example.com", Life::Now).unwrap();
    let mut all = Vec::new();
    for ours in [true, false] {
        let shaky = Shaky::start(&pki, &["server"]).await.unwrap();
        let site = Site::start(ours, &config(&pki, shaky.addr.port())).await;
        let told = outcome(&site, &shaky).await;
        assert!(told.iter().all(|told| told.starts_with(RESET)), "{}: {told:?}", site.name);
        all.push(told);
        site.over().await;
    }
    assert_eq!(all[0], all[1], "what clients are told of it");
}
