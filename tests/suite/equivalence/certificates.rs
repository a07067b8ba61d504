//! What is told of certificates on real handshakes: to upstreams by x-forwarded-client-cert, to operators by access logs
//! and stats.

use super::clusters;
use e2e::certs::Pair as Identity;
use e2e::https::Tls;
use e2e::pair::{Pair, Side, difference, http_listener, routes};
use e2e::pki::{Life, Pki};
use e2e::secure::Secure;
use std::collections::BTreeMap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const TLS: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3";

fn pki() -> Pki {
    let pki = Pki::new().unwrap();
    pki.intermediate("middle", "ca").unwrap();
    for (name, ca, sans) in [
        (
            "server",
            "ca",
            "URI:spiffe://fleet/server,URI:spiffe://fleet/second,DNS:server.example.com,IP:127.0.0.1",
        ),
        ("client", "ca", "URI:spiffe://fleet/client,DNS:client.example.com,DNS:other.example.com"),
        ("two", "ca", "URI:spiffe://fleet/one,URI:spiffe://fleet/two,IP:10.0.0.9,email:a@example.com"),
        ("nameless", "ca", "IP:10.0.0.9"),
        ("deep", "middle", "URI:spiffe://fleet/deep,DNS:deep.example.com"),
    ] {
        pki.sign(name, ca, sans, Life::Now).unwrap();
    }
    pki
}

/// A listener that speaks TLS and takes certificates of `ca` from those who have one.
fn tls_listener(pki: &Pki, name: &str, hcm: &str, hosts: &str) -> String {
    let socket = format!(
        "transport_socket: {{name: tls, typed_config: {{'@type': {TLS}.DownstreamTlsContext, common_tls_context: {{tls_certificates: [{{ \
         certificate_chain: {{filename: {0}/server.pem}}, private_key: {{filename: {0}/server.key}}}}], \
         validation_context: {{trusted_ca: {{filename: {0}/ca.pem}}}}}}}}}}",
        pki.dir().display()
    );
    http_listener(name, hcm, hosts).replace("filter_chains: [{", &format!("filter_chains: [{{{socket}, "))
}

fn client(pki: &Pki, name: Option<&str>) -> Tls {
    let identity = name.map(|name| {
        let mut chain = pki.read(&format!("{name}.pem")).unwrap();
        if name == "deep" {
            chain += &pki.read("middle.pem").unwrap();
        }
        Identity { chain, key: pki.read(&format!("{name}.key")).unwrap() }
    });
    Tls::new(&pki.read("ca.pem").unwrap(), "server.example.com", identity.as_ref()).unwrap()
}

/// One request on a connection of its own; the status line.
async fn ask(side: &Side, listener: &str, client: &Tls, headers: &str) -> String {
    let mut stream = client.connect(side.at(listener)).await.unwrap();
    let request = format!("GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // Not all who close say so.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned()
}

const CLIENTS: &[Option<&str>] = &[None, Some("client"), Some("two"), Some("nameless"), Some("deep")];

#[tokio::test]
async fn upstreams_learn_of_client_certificates_as_from_envoy() {
    let pki = pki();
    let all = "{subject: true, cert: true, chain: true, dns: true, uri: true}";
    let modes = [
        ("sanitize", "SANITIZE", all),
        ("forward", "FORWARD_ONLY", all),
        ("append", "APPEND_FORWARD", all),
        ("set", "SANITIZE_SET", all),
        ("always", "ALWAYS_FORWARD_ONLY", all),
        ("hash", "SANITIZE_SET", "{}"),
        ("uri", "SANITIZE_SET", "{uri: true}"),
        ("dns", "APPEND_FORWARD", "{dns: true}"),
        ("subject", "APPEND_FORWARD", "{subject: true}"),
    ];
    let to_up = routes("{match: {prefix: /}, route: {cluster: up}}");
    let listeners: Vec<_> = modes
        .iter()
        .map(|(name, mode, details)| {
            let hcm =
                format!("forward_client_cert_details: {mode}, set_current_client_cert_details: {details}");
            tls_listener(&pki, name, &hcm, &to_up)
        })
        .collect();
    let pair = Pair::start(&listeners, &clusters()).await.unwrap();
    let former = "x-forwarded-client-cert: By=spiffe://a;Hash=b\r\nx-forwarded-client-cert: Hash=c\r\n";
    let mut wrong = String::new();
    let mut told = 0;
    for (listener, ..) in modes {
        for name in CLIENTS {
            let client = client(&pki, *name);
            for headers in ["", former] {
                let seen = async |side: &Side| {
                    side.origin.take();
                    assert_eq!(ask(side, listener, &client, headers).await, "HTTP/1.1 200 OK");
                    let request = side.origin.take().pop().expect("a request");
                    let values = request.headers.iter().filter(|(name, _)| name == "x-forwarded-client-cert");
                    // A part a line, so that a difference can be read.
                    values
                        .map(|(_, value)| format!("{}\n", value.replace([';', ','], "\n")))
                        .collect::<String>()
                };
                let (envoy, ours) = (seen(&pair.envoy).await, seen(&pair.ours).await);
                told += usize::from(envoy.contains("URI="));
                if envoy != ours {
                    wrong += &format!(
                        "=== {listener}, {name:?}, {} before\n{}\n",
                        headers.len(),
                        difference(&envoy, &ours)
                    );
                }
            }
        }
    }
    assert!(wrong.is_empty(), "the header must be Envoy's (- Envoy, + ours):\n{wrong}");
    assert!(told > 10, "the header is written at all");
}

/// Of both sides. Not among them: session ids and fingerprints of hellos, which ours has not.
const FACTS: &[&str] = &[
    "TLS_VERSION",
    "TLS_CIPHER",
    "LOCAL_URI_SAN",
    "LOCAL_DNS_SAN",
    "LOCAL_IP_SAN",
    "PEER_SUBJECT",
    "PEER_ISSUER",
    "PEER_URI_SAN",
    "PEER_DNS_SAN",
    "PEER_IP_SAN",
    "PEER_CERT",
];

/// Of clients only.
const OF_CLIENTS: &[&str] = &[
    "DOWNSTREAM_LOCAL_SUBJECT",
    "DOWNSTREAM_LOCAL_EMAIL_SAN",
    "DOWNSTREAM_PEER_EMAIL_SAN",
    "DOWNSTREAM_PEER_OTHERNAME_SAN",
    "DOWNSTREAM_PEER_FINGERPRINT_256",
    "DOWNSTREAM_PEER_FINGERPRINT_1",
    "DOWNSTREAM_PEER_SERIAL",
    "DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_256",
    "DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_1",
    "DOWNSTREAM_PEER_CHAIN_SERIALS",
    "DOWNSTREAM_PEER_CERT_V_START",
    "DOWNSTREAM_PEER_CERT_V_END",
    "REQUESTED_SERVER_NAME",
    "DOWNSTREAM_TRANSPORT_FAILURE_REASON",
    "UPSTREAM_TRANSPORT_FAILURE_REASON",
];

/// Where stats differ, and why.
const DIFFERS: &[(&str, &str)] = &[
    (".certificate.", "Envoy tells of authorities apart; ours of the certificate that ends first"),
    (".ocsp_staple_", "whether clients ask for staples is not known"),
    ("listener.web.ssl.sigalgs.", "signatures that were seen: a session that is resumed has none"),
];

async fn tls_stats(side: &Side) -> BTreeMap<String, u64> {
    let stats = side.proxy.stats().await.unwrap();
    let of_tls = |name: &str| {
        ["listener.web.ssl.", "cluster.secure.ssl.", "cluster.refused.ssl."]
            .iter()
            .any(|p| name.starts_with(p))
    };
    let differs = |name: &str| DIFFERS.iter().any(|(part, _)| name.contains(part));
    stats.into_iter().filter(|(name, _)| of_tls(name) && !differs(name)).collect()
}

#[tokio::test]
async fn logs_and_stats_tell_of_handshakes_as_envoys() {
    let pki = pki();
    let secure = Secure::start(&pki, &["server"], &["http/1.1"]).await.unwrap();
    let port = [secure.addr.port(); 2];
    let cluster = |name: &str, matcher: &str| {
        let context = format!(
            "transport_socket: {{name: tls, typed_config: {{'@type': {TLS}.UpstreamTlsContext, sni: server.example.com, common_tls_context: {{ \
             tls_params: {{tls_maximum_protocol_version: TLSv1_3, cipher_suites: [ECDHE-ECDSA-AES128-GCM-SHA256]}}, \
             tls_certificates: [{{certificate_chain: {{filename: {0}/two.pem}}, private_key: {{filename: {0}/two.key}}}}], \
             validation_context: {{trusted_ca: {{filename: {0}/ca.pem}}, match_typed_subject_alt_names: [{{san_type: DNS, matcher: {{exact: {matcher}}}}}]}}}}}}}}",
            pki.dir().display()
        );
        e2e::pair::cluster(name, "$SECURE", &context)
    };
    let operators: Vec<String> = ["DOWNSTREAM_", "UPSTREAM_"]
        .iter()
        .flat_map(|side| FACTS.iter().map(move |fact| format!("{side}{fact}")))
        .chain(OF_CLIENTS.iter().map(|fact| (*fact).to_owned()))
        .collect();
    let line: String = operators.iter().map(|name| format!("{name} %{name}% | ")).collect();
    let hcm = format!(
        "access_log: [{{name: file, typed_config: {{'@type': type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, \
         path: $DIR/log, log_format: {{text_format_source: {{inline_string: \"{line}\\n\"}}}}}}}}]"
    );
    let table = routes(
        "{match: {prefix: /, headers: [{name: x-refused, present_match: true}]}, route: {cluster: refused}}, \
         {match: {prefix: /}, route: {cluster: secure}}",
    );
    let listeners = [tls_listener(&pki, "web", &hcm, &table)];
    let clusters = [cluster("secure", "server.example.com"), cluster("refused", "wrong.example.com")];
    let mut pair = Pair::start_with(&listeners, &clusters, &[("$SECURE", port)], &[]).await.unwrap();
    for side in [&pair.envoy, &pair.ours] {
        for name in CLIENTS {
            let client = client(&pki, *name);
            assert_eq!(ask(side, "web", &client, "").await, "HTTP/1.1 200 OK", "{}", side.name);
            let refused = ask(side, "web", &client, "x-refused: 1\r\n").await;
            assert_eq!(refused, "HTTP/1.1 503 Service Unavailable", "{}", side.name);
        }
    }
    let mut wrong = String::new();
    let text = |stats: &BTreeMap<String, u64>| {
        stats.iter().filter(|(_, v)| **v > 0).map(|(k, v)| format!("{k}: {v}\n")).collect::<String>()
    };
    let (envoy, ours) = (tls_stats(&pair.envoy).await, tls_stats(&pair.ours).await);
    let missing: Vec<_> = envoy.keys().filter(|name| !ours.contains_key(*name)).collect();
    if text(&envoy) != text(&ours) || !missing.is_empty() {
        wrong += &format!("=== stats\n{}missing: {missing:#?}\n", difference(&text(&envoy), &text(&ours)));
    }
    pair.envoy.quit().await.unwrap();
    pair.ours.quit().await.unwrap();
    let log = |side: &Side| side.file("log").replace(" | ", "\n");
    let (envoy, ours) = (log(&pair.envoy), log(&pair.ours));
    if envoy != ours || !envoy.contains("DOWNSTREAM_PEER_URI_SAN spiffe://fleet/client") {
        wrong += &format!("=== log\n{}\n", difference(&envoy, &ours));
    }
    assert!(wrong.is_empty(), "must be as Envoy's (- Envoy, + ours):\n{wrong}");
}

#[tokio::test]
async fn every_authority_of_a_bundle_is_told_of_the_first_as_by_envoy() {
    let pki = pki();
    let bundle = pki.read("ca.pem").unwrap() + &pki.read("other.pem").unwrap();
    std::fs::write(pki.path("bundle.pem"), bundle).unwrap();
    let to_up = routes("{match: {prefix: /}, route: {cluster: up}}");
    let listener = tls_listener(&pki, "web", "", &to_up).replace("ca.pem", "bundle.pem");
    let pair = Pair::start(&[listener], &clusters()).await.unwrap();
    let authorities = async |side: &Side| {
        let page = side.proxy.admin("/certs").await.unwrap().json().unwrap();
        page["certificates"][0]["ca_cert"].as_array().unwrap().clone()
    };
    let (theirs, own) = (authorities(&pair.envoy).await, authorities(&pair.ours).await);
    assert_eq!(own[0], theirs[0], "the first as Envoy (right)");
    assert_eq!(own.len(), 2, "{own:?}");
    assert_ne!(own[0]["serial_number"], own[1]["serial_number"]);
    let stats = pair.ours.proxy.stats().await.unwrap();
    let ends: BTreeMap<&str, u64> = stats
        .iter()
        .filter_map(|(name, end)| Some((name.split_once(".ssl.certificate.")?.1, *end)))
        .collect();
    let second = format!("unnamed_cert_e3b0c442_{}", own[1]["serial_number"].as_str().unwrap());
    for name in ["unnamed_cert_e3b0c442", &second] {
        let name = format!("{name}.expiration_unix_time_seconds");
        assert!(ends.get(&*name).is_some_and(|end| *end > 0), "{name}: {ends:?}");
    }
}
