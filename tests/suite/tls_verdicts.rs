//! Who may speak TLS with whom: our proxy and the real Envoy on the same YAML come to the same verdict on every
//! handshake, with OpenSSL as the other side. Served or not, protocol, suite, ALPN and certificate must be the same;
//! alerts are the library's own.

mod names;
mod sessions;

use e2e::envoy::Envoy;
use e2e::pki::{self, Life, Pki, Server, Verdict};
use e2e::proxy;
use futures_util::stream::{self, StreamExt};
use std::fmt::Write as _;
use std::net::SocketAddr;

const TLS: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3";
const INSPECTOR: &str = "listener_filters: [{name: inspector, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector}}], ";

/// Everything that a handshake of the matrix may need.
fn pki() -> Pki {
    let pki = Pki::new().unwrap();
    for (name, ca, sans, life) in [
        ("server", "ca", "DNS:server.example.com,DNS:localhost,IP:127.0.0.1", Life::Now),
        ("a", "ca", "DNS:a.example.com", Life::Now),
        ("b", "ca", "DNS:b.example.com,DNS:*.wild.example.com", Life::Now),
        ("stranger", "other", "DNS:server.example.com", Life::Now),
        ("expired", "ca", "DNS:server.example.com,URI:spiffe://fleet/client", Life::Over),
        ("early", "ca", "DNS:server.example.com,URI:spiffe://fleet/client", Life::Later),
        ("client", "ca", "URI:spiffe://fleet/client,DNS:client.example.com", Life::Now),
        ("second", "ca", "URI:spiffe://fleet/second,DNS:second.example.com,IP:10.0.0.9", Life::Now),
        ("foreign", "other", "URI:spiffe://fleet/client,DNS:client.example.com", Life::Now),
        ("revoked", "ca", "URI:spiffe://fleet/client,DNS:server.example.com", Life::Now),
    ] {
        pki.sign(name, ca, sans, life).unwrap();
    }
    pki.revoke("revoked", "ca").unwrap();
    pki
}

/// Besides, what is needed where there are several certificates or authorities.
fn large_pki() -> Pki {
    let pki = pki();
    pki.intermediate("middle", "ca").unwrap();
    for name in ["deep", "deep_revoked"] {
        pki.sign(name, "middle", "URI:spiffe://fleet/client,DNS:client.example.com", Life::Now).unwrap();
    }
    pki.revoke("deep_revoked", "middle").unwrap();
    let lists = pki.read("ca.crl").unwrap() + &pki.read("middle.crl").unwrap();
    std::fs::write(pki.path("all.crl"), lists).unwrap();
    let rsa = "-newkey rsa:2048 -addext subjectAltName=DNS:server.example.com,DNS:rsa.example.com";
    pki.sign_with("rsa", "ca", rsa, Life::Now).unwrap();
    // No alternative name: its common name counts.
    let unnamed = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -addext basicConstraints=CA:FALSE";
    pki.sign_with("cn.example.com", "ca", unnamed, Life::Now).unwrap();
    pki
}

fn certificate(name: &str) -> String {
    format!(
        "{{certificate_chain: {{filename: $PKI/{name}.pem}}, private_key: {{filename: $PKI/{name}.key}}}}"
    )
}

/// A filter chain that answers 200 over TLS with the certificates `names`: further fields of the common context, then
/// of the downstream context.
fn chain(matches: &str, names: &str, common: &str, downstream: &str) -> String {
    let certificates: Vec<_> = names.split(' ').map(certificate).collect();
    format!(
        "{{filter_chain_match: {{{matches}}}, transport_socket: {{name: tls, typed_config: {{'@type': {TLS}.DownstreamTlsContext, {downstream} \
         common_tls_context: {{tls_certificates: [{}], {common}}}}}}}, filters: [{{name: http, typed_config: {{'@type': \
         type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, stat_prefix: web, \
         delayed_close_timeout: 0.05s, route_config: {{name: r, virtual_hosts: [{{name: v, domains: ['*'], routes: [{{match: {{prefix: /}}, direct_response: {{status: 200, body: {{inline_string: hi}}}}}}]}}]}}, \
         http_filters: [{{name: router, typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}}}]}}}}]}}",
        certificates.join(", ")
    )
}

fn listener(name: &str, more: &str, chains: &[String]) -> String {
    format!(
        "{{name: {name}, address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}, {more}filter_chains: [{}]}}",
        chains.join(", ")
    )
}

/// A listener that asks for client certificates and checks them with these further fields.
fn mutual(name: &str, validation: &str) -> String {
    let common = format!("validation_context: {{trusted_ca: {{filename: $PKI/ca.pem}}, {validation}}}");
    listener(name, "", &[chain("", "server", &common, "require_client_certificate: true,")])
}

fn listeners(pki: &Pki) -> Vec<String> {
    let plain = |name: &str, common: &str| listener(name, "", &[chain("", "server", common, "")]);
    let params = |name: &str, params: &str| plain(name, &format!("tls_params: {{{params}}}"));
    let named =
        |names: &str, certificate: &str| chain(&format!("server_names: [{names}]"), certificate, "", "");
    let optional = "validation_context: {trusted_ca: {filename: $PKI/ca.pem}}";
    vec![
        plain("plain", ""),
        plain("alpn", "alpn_protocols: [h2, http/1.1]"),
        params("v12", "tls_minimum_protocol_version: TLSv1_2, tls_maximum_protocol_version: TLSv1_2"),
        params("v13", "tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3"),
        params(
            "one_suite",
            "tls_maximum_protocol_version: TLSv1_2, cipher_suites: [ECDHE-ECDSA-AES256-GCM-SHA384]",
        ),
        listener(
            "sni",
            INSPECTOR,
            &[named("a.example.com", "a"), named("b.example.com, '*.wild.example.com'", "b")],
        ),
        listener("sni_default", INSPECTOR, &[named("a.example.com", "a"), chain("", "server", "", "")]),
        mutual("mutual", ""),
        listener("optional", "", &[chain("", "server", optional, "require_client_certificate: false,")]),
        mutual(
            "uri",
            "match_typed_subject_alt_names: [{san_type: URI, matcher: {exact: 'spiffe://fleet/client'}}]",
        ),
        mutual(
            "uri_prefix",
            "match_typed_subject_alt_names: [{san_type: URI, matcher: {prefix: 'spiffe://fleet/'}}]",
        ),
        mutual(
            "dns_suffix",
            "match_typed_subject_alt_names: [{san_type: DNS, matcher: {suffix: '.example.com'}}]",
        ),
        mutual("ip", "match_typed_subject_alt_names: [{san_type: IP_ADDRESS, matcher: {exact: 10.0.0.9}}]"),
        mutual(
            "regex",
            "match_typed_subject_alt_names: [{san_type: URI, matcher: {safe_regex: {regex: 'spiffe://[a-z]+/second'}}}]",
        ),
        mutual("crl", "crl: {filename: $PKI/ca.crl}"),
        mutual("allow_expired", "allow_expired_certificate: true"),
        mutual("untrusted", "trust_chain_verification: ACCEPT_UNTRUSTED"),
        mutual("hash", &format!("verify_certificate_hash: ['{}']", pki.hash("client").unwrap())),
        mutual("spki", &format!("verify_certificate_spki: ['{}']", pki.spki("client").unwrap())),
        mutual(
            "pins",
            &format!(
                "verify_certificate_spki: ['{}'], verify_certificate_hash: ['{}']",
                pki.spki("client").unwrap(),
                pki.hash("second").unwrap()
            ),
        ),
        mutual("depth0", "max_verify_depth: 0"),
        mutual("depth1", "max_verify_depth: 1"),
        mutual("depth2", "max_verify_depth: 2"),
        mutual("crl_leaf", "crl: {filename: $PKI/middle.crl}, only_verify_leaf_cert_crl: true"),
        mutual("crl_middle", "crl: {filename: $PKI/middle.crl}"),
        mutual("crl_all", "crl: {filename: $PKI/all.crl}"),
        listener("names", "", &[chain("", "a b", "", "")]),
        listener("cn", "", &[chain("", "a cn.example.com", "", "")]),
        listener("rsa_first", "", &[chain("", "rsa server", "", "")]),
        listener("ecdsa_first", "", &[chain("", "server rsa", "", "")]),
        listener("no_scan", "", &[chain("", "rsa a", "", "")]),
        listener("scan", "", &[chain("", "rsa a", "", "full_scan_certs_on_sni_mismatch: true,")]),
    ]
}

/// Rows that are asked at a time: most of it is waiting.
const AT_A_TIME: usize = 4;

/// Which listener, which client, whether both are to serve it.
type Case = (&'static str, &'static str, bool);

const SERVER: &str = "-CAfile ca.pem -verify_return_error -verify_hostname server.example.com";

fn cases() -> Vec<(String, String, bool)> {
    let with = |name: &str| {
        let above = if name.starts_with("deep") { " -cert_chain middle.pem" } else { "" };
        format!("-cert {name}.pem -key {name}.key{above}")
    };
    let mut cases: Vec<(String, String, bool)> = [
        // The client's own checks.
        ("plain", SERVER, true),
        ("plain", "-CAfile ca.pem -verify_return_error -verify_hostname wrong.example.com", false),
        ("plain", "-CAfile other.pem -verify_return_error", false),
        // Protocols and suites.
        ("plain", "-tls1_2", true),
        ("plain", "-tls1_3", true),
        ("plain", "-tls1_1 -cipher ALL:@SECLEVEL=0", false),
        ("plain", "-tls1 -cipher ALL:@SECLEVEL=0", false),
        ("v12", "-tls1_2", true),
        ("v12", "-tls1_3", false),
        ("v12", "", true),
        ("v13", "-tls1_3", true),
        ("v13", "-tls1_2", false),
        ("v13", "", true),
        ("plain", "-tls1_2 -cipher ECDHE-ECDSA-AES128-GCM-SHA256", true),
        ("plain", "-tls1_2 -cipher ECDHE-ECDSA-AES256-GCM-SHA384", true),
        ("plain", "-tls1_2 -cipher ECDHE-ECDSA-CHACHA20-POLY1305", true),
        ("plain", "-tls1_2 -cipher ECDHE-ECDSA-AES128-SHA", false),
        ("plain", "-tls1_2 -cipher AES128-SHA:AES256-SHA:@SECLEVEL=0", false),
        ("plain", "-tls1_2 -cipher ECDHE-RSA-AES128-GCM-SHA256", false),
        ("plain", "-tls1_3 -ciphersuites TLS_CHACHA20_POLY1305_SHA256", true),
        ("plain", "-tls1_3 -ciphersuites TLS_AES_128_CCM_SHA256", false),
        ("one_suite", "-tls1_2", true),
        ("one_suite", "-tls1_2 -cipher ECDHE-ECDSA-AES128-GCM-SHA256", false),
        // ALPN.
        ("alpn", "", true),
        ("alpn", "-alpn http/1.1", true),
        ("alpn", "-alpn unknown,http/1.1", true),
        ("alpn", "-alpn unknown", true),
        ("plain", "-alpn http/1.1", true),
        // SNI.
        ("sni", "-servername a.example.com", true),
        ("sni", "-servername A.Example.com", true),
        ("sni", "-servername b.example.com", true),
        ("sni", "-servername x.wild.example.com", true),
        ("sni", "-servername x.y.wild.example.com", true),
        ("sni", "-servername wild.example.com", false),
        ("sni", "-servername wrong.example.com", false),
        ("sni", "-noservername", false),
        ("sni_default", "-servername a.example.com", true),
        ("sni_default", "-servername wrong.example.com", true),
        ("sni_default", "-noservername", true),
    ]
    .map(|(listener, client, served): Case| (listener.to_owned(), client.to_owned(), served))
    .into();
    // Several certificates: whose is shown is held to Envoy's choice.
    for listener in ["names", "cn", "no_scan", "scan"] {
        for name in ["a", "b", "x.wild", "x.y.wild", "wild", "cn", "rsa", "wrong"] {
            cases.push((listener.to_owned(), format!("-servername {name}.example.com"), true));
        }
        cases.push((listener.to_owned(), "-noservername".to_owned(), true));
    }
    for listener in ["rsa_first", "ecdsa_first", "scan"] {
        for name in ["-servername server.example.com", "-servername wrong.example.com", "-noservername"] {
            // Without a look at all of them the first is shown, whatever the client can do with it.
            let stuck = listener == "ecdsa_first" && name.contains("wrong");
            for (client, needs_rsa) in [
                ("-tls1_3", false),
                ("-tls1_2", false),
                ("-tls1_3 -sigalgs RSA-PSS+SHA256", true),
                ("-tls1_3 -sigalgs ECDSA+SHA256:RSA-PSS+SHA256", false),
                ("-tls1_2 -sigalgs RSA-PSS+SHA256:RSA+SHA256", true),
                ("-tls1_2 -cipher ECDHE-RSA-AES128-GCM-SHA256", true),
                ("-tls1_2 -curves X25519", true),
            ] {
                cases.push((listener.to_owned(), format!("{client} {name}"), !(stuck && needs_rsa)));
            }
        }
    }
    let ecdsa_only = "-tls1_3 -sigalgs ECDSA+SHA256 -servername server.example.com";
    cases.push(("rsa_first".to_owned(), ecdsa_only.to_owned(), true));
    cases.push(("names".to_owned(), "-sigalgs RSA-PSS+SHA256 -servername a.example.com".to_owned(), false));
    // Client certificates: on which listeners each is taken.
    let taken = [
        (
            "client",
            "mutual optional uri uri_prefix dns_suffix crl allow_expired untrusted hash spki pins depth0 depth1 depth2 crl_all",
        ),
        (
            "second",
            "mutual optional uri_prefix dns_suffix ip regex crl allow_expired untrusted pins depth0 depth1 depth2 crl_all",
        ),
        ("foreign", "untrusted"),
        ("expired", "allow_expired untrusted"),
        // Envoy takes any date then.
        ("early", "allow_expired untrusted"),
        ("revoked", "mutual optional uri uri_prefix dns_suffix allow_expired untrusted depth0 depth1 depth2"),
        ("deep", "mutual optional uri uri_prefix dns_suffix allow_expired untrusted depth2 crl_leaf crl_all"),
        ("deep_revoked", "mutual optional uri uri_prefix dns_suffix allow_expired untrusted depth2"),
    ];
    let all = "mutual optional uri uri_prefix dns_suffix ip regex crl allow_expired untrusted hash spki pins depth0 \
               depth1 depth2 crl_leaf crl_middle crl_all";
    for (name, on) in taken {
        for listener in all.split_whitespace() {
            let served = on.split(' ').any(|l| l == listener);
            for version in ["-tls1_2", "-tls1_3"] {
                cases.push((listener.to_owned(), format!("{version} {}", with(name)), served));
            }
        }
    }
    for version in ["-tls1_2", "-tls1_3"] {
        cases.push(("mutual".to_owned(), version.to_owned(), false));
        cases.push(("optional".to_owned(), version.to_owned(), true));
    }
    cases
}

fn bootstrap(pki: &Pki, listeners: &[String], clusters: &[String]) -> String {
    format!(
        "{{admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}}}, node: {{id: node-1, cluster: fleet}}, \
         static_resources: {{listeners: [{}], clusters: [{}]}}}}",
        listeners.join(",\n"),
        clusters.join(",\n")
    )
    .replace("$PKI", &pki.dir().display().to_string())
}

async fn both(config: &str) -> (Envoy, Envoy) {
    let (envoy, ours) = tokio::join!(Envoy::start(config), proxy::start(config));
    (envoy.unwrap(), ours.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_are_judged_as_envoy_judges_them() {
    let pki = large_pki();
    let (envoy, ours) = both(&bootstrap(&pki, &listeners(&pki), &[])).await;
    let mut wrong = String::new();
    let asked = cases().into_iter().map(async |(listener, client, served)| {
        let ask = async |proxy: &Envoy| {
            let (addr, dir, args) =
                (proxy.listener(&listener).await.unwrap(), pki.dir().to_owned(), client.clone());
            tokio::task::spawn_blocking(move || pki::ask(&dir, addr, &args).unwrap()).await.unwrap()
        };
        let (reference, own) = tokio::join!(ask(&envoy), ask(&ours));
        (listener, client, served, reference, own)
    });
    let mut asked = stream::iter(asked).buffered(AT_A_TIME);
    while let Some((listener, client, served, reference, own)) = asked.next().await {
        // Suites are chosen apart. TLS 1.2: Envoy lets the client choose between those of the first rank, rustls ranks them
        // all. TLS 1.3: ours takes the shorter AES where clients put the longer first.
        let session = |verdict: &Verdict| match verdict.session.split_once("Cipher is ") {
            Some((version, rest)) => {
                format!("{version}{}", rest.split_once(';').map_or("", |(_, rest)| rest))
            }
            None => verdict.session.clone(),
        };
        let same = reference.served == own.served && (!served || session(&reference) == session(&own));
        if !same || own.served != served {
            let _ = writeln!(
                wrong,
                "{listener} {client}: expected served={served}\n  envoy {reference:?}\n  ours  {own:?}"
            );
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// A cluster with this upstream context, and a route to it by its name.
fn cluster(name: &str, addr: SocketAddr, context: &str) -> String {
    format!(
        "{{name: {name}, connect_timeout: 2s, load_assignment: {{cluster_name: {name}, endpoints: [{{lb_endpoints: [{{endpoint: {{address: \
         {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}}}}}]}}]}}, transport_socket: {{name: tls, typed_config: {{'@type': \
         {TLS}.UpstreamTlsContext, {context}}}}}}}",
        addr.port()
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_are_judged_as_envoy_judges_them() {
    let pki = pki();
    let serve = |name: &str, args: &str| -> Server { pki.serve(name, args).unwrap() };
    let with = |name: &str| format!("-cert {name}.pem -key {name}.key");
    let servers = [
        serve("good", &with("server")),
        serve("stranger", &with("stranger")),
        serve("expired", &with("expired")),
        serve("early", &with("early")),
        serve("revoked", &with("revoked")),
        serve("mutual", &format!("{} -CAfile ca.pem -Verify 3 -verify_return_error", with("server"))),
        serve("v12", &format!("{} -tls1_2", with("server"))),
        serve("v13", &format!("{} -tls1_3", with("server"))),
        serve("cbc", &format!("{} -tls1_2 -cipher ECDHE-ECDSA-AES128-SHA", with("server"))),
        serve("names", &format!("{} -servername a.example.com -cert2 a.pem -key2 a.key", with("server"))),
    ];
    for server in &servers {
        pki::listening(server.addr).await.unwrap();
    }
    let [good, stranger, expired, early, revoked, mutual, v12, v13, cbc, names] = &servers;
    let ca = "trusted_ca: {filename: $PKI/ca.pem}";
    let trusting = |more: &str| {
        format!("sni: server.example.com, common_tls_context: {{validation_context: {{{ca}, {more}}}}}")
    };
    let named = |name: &str| {
        trusting(&format!("match_typed_subject_alt_names: [{{san_type: DNS, matcher: {{exact: {name}}}}}]"))
    };
    let presenting = |name: &str| {
        format!(
            "sni: server.example.com, common_tls_context: {{tls_certificates: [{}], validation_context: {{{ca}}}}}",
            certificate(name)
        )
    };
    let version = |version: &str| {
        format!(
            "common_tls_context: {{tls_params: {{tls_minimum_protocol_version: {version}, tls_maximum_protocol_version: {version}}}}}"
        )
    };
    let table = [
        ("unverified", stranger, "common_tls_context: {}".to_owned(), 200),
        ("trusted", good, trusting(""), 200),
        ("right_name", good, named("server.example.com"), 200),
        ("wrong_name", good, named("wrong.example.com"), 503),
        ("wrong_ca", stranger, trusting(""), 503),
        ("wrong_ca_accepted", stranger, trusting("trust_chain_verification: ACCEPT_UNTRUSTED"), 200),
        ("expired", expired, trusting(""), 503),
        ("expired_allowed", expired, trusting("allow_expired_certificate: true"), 200),
        ("early", early, trusting(""), 503),
        ("revoked", revoked, trusting("crl: {filename: $PKI/ca.crl}"), 503),
        ("not_revoked", good, trusting("crl: {filename: $PKI/ca.crl}"), 200),
        ("client", mutual, presenting("client"), 200),
        ("client_absent", mutual, trusting(""), 503),
        ("client_foreign", mutual, presenting("foreign"), 503),
        ("client_early", mutual, presenting("early"), 503),
        ("v12", v12, trusting(""), 200),
        ("v12_wrong", v13, version("TLSv1_2"), 503),
        ("v13", v13, version("TLSv1_3"), 200),
        ("v13_wrong", v12, version("TLSv1_3"), 503),
        ("weak", cbc, trusting(""), 503),
        (
            "hash",
            good,
            trusting(&format!("verify_certificate_hash: ['{}']", pki.hash("server").unwrap())),
            200,
        ),
        (
            "hash_wrong",
            good,
            trusting(&format!("verify_certificate_hash: ['{}']", pki.hash("a").unwrap())),
            503,
        ),
        (
            "sni",
            names,
            format!(
                "sni: a.example.com, common_tls_context: {{validation_context: {{{ca}, match_typed_subject_alt_names: [{{san_type: DNS, matcher: {{exact: a.example.com}}}}]}}}}"
            ),
            200,
        ),
    ];
    let clusters: Vec<_> =
        table.iter().map(|(name, server, context, _)| cluster(name, server.addr, context)).collect();
    let routes: Vec<_> = table
        .iter()
        .map(|(name, ..)| {
            format!("{{match: {{path: /{name}}}, route: {{cluster: {name}, prefix_rewrite: /}}}}")
        })
        .collect();
    let web = e2e::pair::http_listener("web", "", &e2e::pair::routes(&routes.join(", ")));
    let (envoy, ours) = both(&bootstrap(&pki, &[web], &clusters)).await;
    let mut wrong = String::new();
    for (name, _, _, status) in &table {
        let ask = async |proxy: &Envoy| {
            let addr = proxy.listener("web").await.unwrap();
            e2e::client::Client::h1().get(&format!("http://{addr}/{name}")).await.map_or(0, |a| a.status)
        };
        let (reference, own) = (ask(&envoy).await, ask(&ours).await);
        if reference != *status || own != *status {
            let _ = writeln!(wrong, "{name}: expected {status}, envoy {reference}, ours {own}");
        }
    }
    assert!(wrong.is_empty(), "{wrong}\nours:\n{}", {
        let mut ours = ours;
        ours.process().log()
    });
}
