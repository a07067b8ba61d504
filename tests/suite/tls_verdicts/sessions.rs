//! Sessions: resumed where they may be, with tickets that proxies share too, and never past a change of who is trusted.

use super::{Pki, bootstrap, both, chain, listener, pki};
use e2e::envoy::Envoy;
use e2e::pki::Verdict;
use e2e::proxy;
use e2e::secure::Secure;
use std::fmt::Write as _;

async fn ask(pki: &Pki, proxy: &Envoy, listener: &str, args: String) -> Verdict {
    let (addr, dir) = (proxy.listener(listener).await.unwrap(), pki.dir().to_owned());
    tokio::task::spawn_blocking(move || pki::ask(&dir, addr, &args).unwrap()).await.unwrap()
}

/// Asks `first` for a session, and `second` with it, if there is one; how the second connection went.
async fn resumed(
    pki: &Pki,
    name: &str,
    first: (&Envoy, &str),
    second: (&Envoy, &str),
    args: &str,
) -> Verdict {
    let begun = ask(pki, first.0, first.1, format!("{args} -sess_out {name}.session")).await;
    assert!(begun.served && begun.session.starts_with("New, "), "{name}: {begun:?}");
    let given = pki.path(&format!("{name}.session")).exists();
    let session = if given { format!(" -sess_in {name}.session") } else { String::new() };
    ask(pki, second.0, second.1, format!("{args}{session}")).await
}

const VERSIONS: [&str; 2] = ["-tls1_2", "-tls1_3"];

/// The listener, the client, whether its session is resumed.
const CASES: &[(&str, &str, bool)] = &[
    ("plain", "-tls1_2", true),
    ("plain", "-tls1_3", true),
    ("plain", "-tls1_2 -no_ticket", true),
    ("no_tickets", "-tls1_2", true),
    ("no_tickets", "-tls1_3", false),
    ("no_memory", "-tls1_2", true),
    ("no_memory", "-tls1_3", true),
    ("no_memory", "-tls1_2 -no_ticket", false),
    ("neither", "-tls1_2", false),
    ("neither", "-tls1_3", false),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_are_resumed_where_envoy_resumes_them() {
    let pki = pki();
    let with = |name: &str, fields: &str| listener(name, "", &[chain("", "server", "", fields)]);
    let (tickets, memory) =
        ("disable_stateless_session_resumption: true,", "disable_stateful_session_resumption: true,");
    let listeners = [
        with("plain", ""),
        with("no_tickets", tickets),
        with("no_memory", memory),
        with("neither", &format!("{tickets} {memory}")),
    ];
    let (envoy, ours) = both(&bootstrap(&pki, &listeners, &[])).await;
    let mut wrong = String::new();
    for (at, (listener, args, expected)) in CASES.iter().enumerate() {
        let of = async |proxy: &Envoy, name: &str| {
            resumed(&pki, &format!("{name}{at}"), (proxy, *listener), (proxy, *listener), args).await
        };
        let (reference, own) = (of(&envoy, "envoy").await, of(&ours, "ours").await);
        let is_resumed = |verdict: &Verdict| verdict.session.starts_with("Reused, ");
        if is_resumed(&own) != *expected || is_resumed(&reference) != *expected || !own.served {
            let _ = writeln!(
                wrong,
                "{listener} {args}: expected {expected}\n  envoy {reference:?}\n  ours  {own:?}"
            );
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    let count = async |proxy: &Envoy| {
        let stats = proxy.stats().await.unwrap();
        stats.iter().filter(|(name, _)| name.ends_with(".ssl.session_reused")).map(|(_, n)| n).sum::<u64>()
    };
    assert_eq!(count(&ours).await, count(&envoy).await);
    assert_eq!(count(&ours).await, CASES.iter().filter(|(.., resumed)| *resumed).count() as u64);
}

/// A listener that takes certificates of `ca`, with these ticket keys, the first of them sealing.
fn keyed(ca: &str, keys: &[&str]) -> String {
    let keys: Vec<_> = keys.iter().map(|key| format!("{{filename: $PKI/{key}.key80}}")).collect();
    let common = format!("validation_context: {{trusted_ca: {{filename: $PKI/{ca}.pem}}}}");
    let fields =
        format!("require_client_certificate: true, session_ticket_keys: {{keys: [{}]}},", keys.join(", "));
    listener("web", "", &[chain("", "server", &common, &fields)])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tickets_serve_all_proxies_with_their_keys_and_the_same_authority() {
    let pki = pki();
    for (key, byte) in [("one", 1_u8), ("two", 2), ("three", 3)] {
        std::fs::write(pki.path(&format!("{key}.key80")), [byte; 80]).unwrap();
    }
    let start = async |ca: &str, keys: &[&str]| both(&bootstrap(&pki, &[keyed(ca, keys)], &[])).await;
    let first = start("ca", &["one"]).await;
    let client = "-cert client.pem -key client.key";
    // Whether the second proxy serves the client, and whether it resumes for that.
    for (name, ca, keys, served, expected) in [
        ("the same", "ca", &["one"][..], true, true),
        ("rotated", "ca", &["two", "one"], true, true),
        ("retired", "ca", &["two", "three"], true, false),
        // Its client was judged by another authority: it is judged again, and refused.
        ("another authority", "other", &["one"], false, false),
    ] {
        let second = start(ca, keys).await;
        for version in VERSIONS {
            let args = format!("{version} {client}");
            for (side, first, second) in [("envoy", &first.0, &second.0), ("ours", &first.1, &second.1)] {
                let id = format!("{side}-{}{version}", name.replace(' ', "-"));
                let verdict = resumed(&pki, &id, (first, "web"), (second, "web"), &args).await;
                assert_eq!(verdict.served, served, "{side}, {name} {version}: {verdict:?}");
                assert!(
                    !served || verdict.session.starts_with("Reused, ") == expected,
                    "{side}, {name} {version}: {verdict:?}"
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_with_upstreams_are_resumed_where_envoy_resumes_them() {
    let pki = pki();
    let table = [
        ("v12", "", "TLSv1_2", true),
        ("v13", "", "TLSv1_3", true),
        ("v12_none", "max_session_keys: 0,", "TLSv1_2", false),
        ("v13_none", "max_session_keys: 0,", "TLSv1_3", false),
    ];
    let told = async |ours: bool| {
        let secure = Secure::start(&pki, &["server"], &[]).await.unwrap();
        let clusters: Vec<_> = table
            .iter()
            .map(|(name, fields, version, _)| {
                let context = format!(
                    "sni: server.example.com, {fields} common_tls_context: {{tls_params: {{tls_minimum_protocol_version: {version}, \
                     tls_maximum_protocol_version: {version}}}, validation_context: {{trusted_ca: {{filename: $PKI/ca.pem}}}}}}"
                );
                super::cluster(name, secure.addr, &context)
            })
            .collect();
        let routes: Vec<_> = table
            .iter()
            .map(|(name, ..)| format!("{{match: {{path: /{name}}}, route: {{cluster: {name}}}}}"))
            .collect();
        let web = e2e::pair::http_listener("web", "", &e2e::pair::routes(&routes.join(", ")));
        let config = bootstrap(&pki, &[web], &clusters);
        let proxy =
            if ours { proxy::start(&config).await.unwrap() } else { Envoy::start(&config).await.unwrap() };
        let url = format!("http://{}", proxy.listener("web").await.unwrap());
        let client = e2e::client::Client::h1();
        let mut told = Vec::new();
        for (name, ..) in &table {
            let mut last = String::new();
            for _ in 0..3 {
                let answer = client.send("GET", &format!("{url}/{name}"), &[("x-do", "close")], "").await;
                let answer = answer.unwrap();
                assert_eq!(answer.status, 200, "{}", answer.text());
                last = answer.text();
            }
            told.push(last);
        }
        let stats = proxy.stats().await.unwrap();
        let reused = stats.iter().filter(|(name, _)| name.ends_with(".ssl.session_reused"));
        (told, reused.map(|(name, n)| (name.clone(), *n)).collect::<Vec<_>>())
    };
    let (envoys, ours) = (told(false).await, told(true).await);
    assert_eq!(ours, envoys);
    for ((name, .., resumed), told) in table.iter().zip(&ours.0) {
        assert_eq!(told.ends_with(", resumed"), *resumed, "{name}: {told}");
    }
}
