//! Whom an upstream must be: names out of requests (`auto_sni`, `auto_san_validation`), of endpoints and of
//! configuration, each asked by turns, so that no connection may serve a request of another name.

use super::{TLS, bootstrap, pki};
use e2e::envoy::Envoy;
use e2e::pki::Pki;
use e2e::proxy;
use e2e::secure::Secure;
use e2e::wire::{Role, Wire};
use std::fmt::Write as _;

const OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
const CA: &str = "validation_context: {trusted_ca: {filename: $PKI/ca.pem}}";

/// A cluster: its endpoint's hostname, fields of its TLS context, of its HTTP options, and what it speaks.
struct Shop {
    name: &'static str,
    hostname: &'static str,
    tls: String,
    http: &'static str,
    speaks: &'static str,
}

impl Shop {
    fn cluster(&self) -> String {
        let Self { name, hostname, tls, http, speaks } = self;
        format!(
            "{{name: {name}, connect_timeout: 2s, load_assignment: {{cluster_name: {name}, endpoints: [{{lb_endpoints: [{{endpoint: {{hostname: '{hostname}', \
             address: {{socket_address: {{address: 127.0.0.1, port_value: $SECURE}}}}}}}}]}}]}}, \
             typed_extension_protocol_options: {{{OPTIONS}: {{'@type': type.googleapis.com/{OPTIONS}, explicit_http_config: {{{speaks}: {{}}}}, \
             upstream_http_protocol_options: {{{http}}}}}}}, \
             transport_socket: {{name: tls, typed_config: {{'@type': {TLS}.UpstreamTlsContext, {tls}}}}}}}"
        )
    }
}

fn shops() -> Vec<Shop> {
    let shop = |name, tls: &str, http| Shop {
        name,
        hostname: "",
        tls: tls.into(),
        http,
        speaks: "http_protocol_options",
    };
    let trusting = format!("common_tls_context: {{{CA}}}");
    let blind = "common_tls_context: {}";
    let both = "auto_sni: true, auto_san_validation: true";
    let of_sni = |sni: &str| format!("sni: {sni}.example.com, auto_sni_san_validation: true, {trusting}");
    let other = "match_typed_subject_alt_names: [{san_type: DNS, matcher: {exact: b.example.com}}]";
    let instead = of_sni("a").replace("ca.pem}", &format!("ca.pem}}, {other}"));
    vec![
        shop("sni", blind, "auto_sni: true"),
        shop("san", &trusting, both),
        Shop { speaks: "http2_protocol_options", ..shop("h2", &trusting, both) },
        shop("fixed", &format!("sni: a.example.com, {trusting}"), "auto_san_validation: true"),
        shop(
            "header",
            &trusting,
            "auto_sni: true, auto_san_validation: true, override_auto_sni_header: x-sni",
        ),
        shop("matched", &trusting.replace("ca.pem}", &format!("ca.pem}}, {other}")), both),
        shop("no_ca", blind, both),
        Shop {
            hostname: "b.example.com",
            ..shop("hostname", "sni: a.example.com, auto_host_sni: true, common_tls_context: {}", "")
        },
        shop("no_hostname", "sni: a.example.com, auto_host_sni: true, common_tls_context: {}", ""),
        Shop {
            hostname: "b.example.com",
            ..shop("request_first", "auto_host_sni: true, common_tls_context: {}", "auto_sni: true")
        },
        shop("of_sni", &of_sni("a"), ""),
        shop("of_wrong_sni", &of_sni("wrong"), ""),
        shop("instead", &instead, ""),
        shop("of_request_sni", &format!("auto_sni_san_validation: true, {trusting}"), "auto_sni: true"),
        Shop {
            hostname: "b.example.com",
            ..shop(
                "of_hostname",
                &format!("auto_host_sni: true, auto_sni_san_validation: true, {trusting}"),
                "",
            )
        },
    ]
}

const REFUSED: &str = "503";

/// Which cluster, the request's host, its header `x-sni`, and the SNI that the upstream is to see.
const CASES: &[(&str, &str, Option<&str>, &str)] = &[
    ("sni", "a.example.com", None, "a.example.com"),
    ("sni", "b.example.com", None, "b.example.com"),
    ("sni", "a.example.com", None, "a.example.com"),
    ("sni", "a.example.com:8443", None, "a.example.com"),
    ("sni", "wrong.example.com", None, "wrong.example.com"),
    ("sni", "127.0.0.1:80", None, "-"),
    ("sni", "[::1]", None, "-"),
    ("san", "a.example.com", None, "a.example.com"),
    ("san", "b.example.com:443", None, "b.example.com"),
    ("san", "wrong.example.com", None, REFUSED),
    ("san", "a.example.com", None, "a.example.com"),
    ("san", "wrong.example.com", None, REFUSED),
    ("san", "localhost", None, "localhost"),
    ("san", "127.0.0.1", None, "-"),
    ("san", "127.0.0.2", None, REFUSED),
    ("san", "b.example.com", None, "b.example.com"),
    ("h2", "a.example.com", None, "a.example.com"),
    ("h2", "b.example.com", None, "b.example.com"),
    ("h2", "wrong.example.com", None, REFUSED),
    ("h2", "a.example.com", None, "a.example.com"),
    ("fixed", "a.example.com", None, "a.example.com"),
    ("fixed", "b.example.com", None, REFUSED),
    ("fixed", "a.example.com", None, "a.example.com"),
    ("header", "a.example.com", Some("b.example.com"), "b.example.com"),
    ("header", "a.example.com", None, "a.example.com"),
    ("header", "a.example.com", Some(""), "a.example.com"),
    ("header", "a.example.com", Some("wrong.example.com"), REFUSED),
    ("header", "wrong.example.com", Some("a.example.com"), "a.example.com"),
    ("header", "wrong.example.com", None, REFUSED),
    ("matched", "b.example.com", None, "b.example.com"),
    ("matched", "a.example.com", None, REFUSED),
    ("no_ca", "a.example.com", None, REFUSED),
    ("no_ca", "wrong.example.com", None, REFUSED),
    ("hostname", "a.example.com", None, "b.example.com"),
    ("no_hostname", "b.example.com", None, "a.example.com"),
    ("request_first", "a.example.com", None, "a.example.com"),
    ("of_sni", "wrong.example.com", None, "a.example.com"),
    ("of_wrong_sni", "a.example.com", None, REFUSED),
    ("instead", "a.example.com", None, "a.example.com"),
    ("of_request_sni", "b.example.com", None, "b.example.com"),
    ("of_request_sni", "wrong.example.com", None, REFUSED),
    ("of_request_sni", "b.example.com", None, "b.example.com"),
    ("of_hostname", "a.example.com", None, "b.example.com"),
];

/// Asks one proxy everything: what its own origin said, or the status.
async fn told(pki: &Pki, ours: bool) -> Vec<String> {
    let secure = Secure::start(pki, &["server", "a", "b"], &["h2", "http/1.1"]).await.unwrap();
    let shops = shops();
    let clusters: Vec<_> = shops.iter().map(Shop::cluster).collect();
    let routes: Vec<_> = shops
        .iter()
        .map(|shop| format!("{{match: {{path: /{0}}}, route: {{cluster: {0}}}}}", shop.name))
        .collect();
    let web = e2e::pair::http_listener("web", "", &e2e::pair::routes(&routes.join(", ")));
    let config = bootstrap(pki, &[web], &clusters).replace("$SECURE", &secure.addr.port().to_string());
    let proxy = if ours { proxy::start(&config).await } else { Envoy::start(&config).await };
    let mut proxy = proxy.unwrap();
    let addr = proxy.listener("web").await.unwrap();
    let mut told = Vec::new();
    // One connection, and so one worker and one set of pools.
    let mut wire = Wire::connect(addr).await.unwrap();
    for (shop, host, header, _) in CASES {
        let header = header.map(|value| format!("x-sni: {value}\r\n")).unwrap_or_default();
        wire.send(format!("GET /{shop} HTTP/1.1\r\nhost: {host}\r\n{header}\r\n").as_bytes()).await.unwrap();
        let answer = wire.message(Role::Response).await.unwrap().expect("an answer");
        told.push(match answer.status() {
            200 => String::from_utf8(answer.body).unwrap(),
            status => status.to_string(),
        });
    }
    proxy.process().check().unwrap();
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstreams_are_named_as_envoy_names_them() {
    let pki = pki();
    let (envoys, ours) = tokio::join!(told(&pki, false), told(&pki, true));
    let mut wrong = String::new();
    for (((shop, host, header, sni), envoy), own) in CASES.iter().zip(envoys).zip(ours) {
        let right = own == *sni || own.contains(&format!(", sni {sni}, "));
        if !right || own != envoy {
            let _ = writeln!(
                wrong,
                "{shop}, host {host}, x-sni {header:?}: expected {sni}\n  envoy {envoy}\n  ours  {own}"
            );
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}
