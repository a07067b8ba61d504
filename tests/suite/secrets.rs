//! Secrets and identities, from the objects that people write to the wire: HTTPS gateways, rotation, client
//! certificates, mutual TLS between proxies, and what of it may be seen where.

use anyhow::{Result, bail, ensure};
use e2e::certs::{Authority, Pair};
use e2e::client::{Answer, Client};
use e2e::control::Control;
use e2e::envoy::Envoy;
use e2e::eventually;
use e2e::https::Tls;
use e2e::pki::{Life, Pki};
use e2e::process::free_port;
use e2e::proxy;
use e2e::store::Etcd;
use e2e::upstream::Upstream;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

/// Who carries traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peer {
    Ours,
    Envoy,
}

async fn start(peer: Peer, control: &Control, group: &str, delta: bool) -> Result<Envoy> {
    let bootstrap = control.bootstrap(group, &format!("{group}-1"), delta).await?;
    match peer {
        Peer::Ours => proxy::start(&bootstrap).await,
        Peer::Envoy => Envoy::start(&bootstrap).await,
    }
}

fn local(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

fn certificate(name: &str, pair: &Pair) -> String {
    format!("kind: Secret\nname: {name}\nspec:\n  certificate:\n{}", pair.yaml(4))
}

fn authorities(name: &str, authority: &Authority) -> String {
    let lines: String = authority.pem.lines().map(|l| format!("      {l}\n")).collect();
    format!("kind: Secret\nname: {name}\nspec:\n  authorities:\n    certificates: |\n{lines}")
}

fn join(objects: &[String]) -> String {
    objects.join("\n---\n")
}

/// Answers 200 by the instance `one`.
async fn answers(what: &str, mut ask: impl AsyncFnMut() -> Result<Answer>) -> Answer {
    eventually(what, async || {
        let answer = ask().await?;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
        Ok(answer)
    })
    .await
}

/// Two names by SNI on one port, a redirect, client certificates, rotation, and a bad certificate that is refused.
async fn https(peer: Peer, delta: bool) {
    let control = Control::start(&[]).await.unwrap();
    let one = Upstream::start("one").await.unwrap();
    control.register("web", "one", one.addr, None).await.unwrap();
    let (authority, clients) = (Authority::new("servers").unwrap(), Authority::new("clients").unwrap());
    let (port, plain) = (free_port().unwrap(), free_port().unwrap());
    let a = authority.issue(&["a.test"]).unwrap();
    let objects = [
        certificate("a", &a),
        certificate("b", &authority.issue(&["b.test", "*.b.test"]).unwrap()),
        authorities("clients", &clients),
        format!(
            "
kind: Gateway
name: edge
spec:
  group: edge
  listeners:
  - {{name: a, address: 127.0.0.1, port: {port}, protocol: HTTPS, hostnames: [a.test], tls: {{certificates: [a]}}}}
  - name: b
    address: 127.0.0.1
    port: {port}
    protocol: HTTPS
    hostnames: [b.test, \"*.b.test\"]
    tls: {{certificates: [b], client_ca: clients, require_client_certificate: true, min_version: tls_1_3}}
  - {{name: plain, address: 127.0.0.1, port: {plain}, redirect_to_https: {port}}}
"
        ),
        "{kind: Route, name: web, spec: {gateways: [edge], rules: [{backends: [{service: web}]}]}}".to_owned(),
    ];
    control.apply(&join(&objects)).await.unwrap();
    let mut envoy = start(peer, &control, "edge", delta).await.unwrap();
    let to = |name: &str, identity: Option<&Pair>| Tls::new(&authority.pem, name, identity).unwrap();
    let ask = async |tls: &Tls| -> Result<Answer> { Ok(tls.get(local(port), "/").await?.answer) };
    let tls = to("a.test", None);
    answers("HTTPS is served", async || ask(&tls).await).await;
    assert_eq!(tls.get(local(port), "/").await.unwrap().alpn, "h2");

    // By SNI another certificate, which asks for the client's.
    let client = clients.issue(&["spiffe://tests/me", "me.test"]).unwrap();
    let answer = ask(&to("x.b.test", Some(&client))).await.unwrap();
    let xfcc = answer.json().unwrap()["headers"]["x-forwarded-client-cert"].to_string();
    assert!(xfcc.contains("URI=spiffe://tests/me") && xfcc.contains("DNS=me.test"), "{xfcc}");
    ask(&to("x.b.test", None)).await.expect_err("no client certificate");
    let stranger = authority.issue(&["me.test"]).unwrap();
    ask(&to("x.b.test", Some(&stranger))).await.expect_err("a client certificate of another authority");
    ask(&to("c.test", None)).await.expect_err("a name that nobody serves");
    let answer = Client::h1().get(&format!("http://127.0.0.1:{plain}/x?y=1")).await.unwrap();
    assert_eq!(
        (answer.status, answer.header("location")),
        (301, format!("https://127.0.0.1:{port}/x?y=1").as_str())
    );

    // Rotation: no request fails, and the new certificate is there.
    let new = authority.issue(&["a.test"]).unwrap();
    let before = tls.get(local(port), "/").await.unwrap().chain;
    control.apply(&certificate("a", &new)).await.unwrap();
    eventually("the new certificate is shown", async || {
        let seen = tls.get(local(port), "/").await?;
        assert_eq!(seen.answer.status, 200, "a request failed in a rotation");
        ensure!(seen.chain != before, "still the old one");
        Ok(())
    })
    .await;

    // What is wrong is refused at once and says why.
    let expired = authority.issue_until(&["a.test"], SystemTime::now() - Duration::from_secs(60)).unwrap();
    for (bad, reason) in [
        (
            certificate("a", &Pair { key: a.key.clone(), ..new.clone() }),
            "does not belong to the first certificate",
        ),
        (certificate("a", &expired), "expired"),
        (certificate("a", &Pair { chain: "garbage".into(), ..new.clone() }), "holds no certificate in PEM"),
    ] {
        let refused = control.apply(&bad).await.unwrap_err().to_string();
        assert!(refused.contains(reason), "{reason}: {refused}");
        assert!(!refused.contains("PRIVATE"), "{refused}");
    }
    let refused = control.call("DELETE", "/api/v1/objects/secret/a", "").await.unwrap();
    assert!(
        refused.status == 409 && refused.text().contains("is named by Gateway/edge"),
        "{}",
        refused.text()
    );
    answers("it serves on", async || ask(&tls).await).await;
    no_keys_in("the proxy's log", &envoy.process().log(), &[&a, &new]);
    no_keys_in("the proxy's dump", &envoy.admin("/config_dump").await.unwrap().text(), &[&a, &new]);
}

/// Lines of keys, which are nowhere else.
fn no_keys_in(what: &str, text: &str, pairs: &[&Pair]) {
    for line in pairs.iter().flat_map(|p| p.key.lines().filter(|l| !l.starts_with("-----"))) {
        assert!(!text.contains(line), "a key is in {what}");
    }
    assert!(!text.contains("PRIVATE KEY"), "a key is in {what}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn https_by_envoy_delta() {
    https(Peer::Envoy, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn https_by_envoy_sotw() {
    https(Peer::Envoy, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn https_by_our_proxy() {
    https(Peer::Ours, true).await;
}

fn block(text: &str) -> String {
    text.lines().map(|l| format!("      {l}\n")).collect()
}

/// A Secret of files of the authorities.
fn from_files(name: &str, pki: &Pki, file: &str) -> String {
    let (chain, key) = (pki.read(&format!("{file}.pem")).unwrap(), pki.read(&format!("{file}.key")).unwrap());
    format!(
        "kind: Secret\nname: {name}\nspec:\n  certificate:\n    chain: |\n{}    key: |\n{}",
        block(&chain),
        block(&key)
    )
}

fn trusted(name: &str, pki: &Pki, ca: &str, revoked: bool) -> String {
    let mut text = format!(
        "kind: Secret\nname: {name}\nspec:\n  authorities:\n    certificates: |\n{}",
        block(&pki.read(&format!("{ca}.pem")).unwrap())
    );
    if revoked {
        text += &format!("    revocation_lists: |\n{}", block(&pki.read(&format!("{ca}.crl")).unwrap()));
    }
    text
}

/// What Services and Gateways say of TLS decides who is spoken to: servers that others run, and clients.
async fn judges(peer: Peer) {
    let control = Control::start(&[]).await.unwrap();
    let web = Upstream::start("one").await.unwrap();
    control.register("web", "one", web.addr, None).await.unwrap();
    let pki = Pki::new().unwrap();
    for (name, ca, life) in [
        ("server", "ca", Life::Now),
        ("stranger", "other", Life::Now),
        ("expired", "ca", Life::Over),
        ("revoked", "ca", Life::Now),
        ("client", "ca", Life::Now),
    ] {
        pki.sign(name, ca, "DNS:up.test", life).unwrap();
    }
    pki.revoke("revoked", "ca").unwrap();
    let serve = |name: &str, certificate: &str, more: &str| {
        pki.serve(name, &format!("-cert {certificate}.pem -key {certificate}.key {more}")).unwrap()
    };
    let good = serve("good", "server", "");
    let stranger = serve("stranger", "stranger", "");
    let expired = serve("expired", "expired", "");
    let revoked = serve("revoked", "revoked", "");
    let mutual = serve("mutual", "server", "-CAfile ca.pem -Verify 3 -verify_return_error");
    let old = serve("old", "server", "-tls1_2");
    for server in [&good, &stranger, &expired, &revoked, &mutual, &old] {
        e2e::pki::listening(server.addr).await.unwrap();
    }
    let table = [
        ("right-name", &good, "ca: ca, sni: up.test", 200),
        ("right-san", &good, "ca: ca, sans: [{dns: up.test}]", 200),
        ("wrong-name", &good, "ca: ca, sni: other.test", 503),
        ("wrong-san", &good, "ca: ca, sni: up.test, sans: [{dns: other.test}, {uri: \"spiffe://a/b\"}]", 503),
        ("by-host", &good, "ca: ca", 200),
        ("wrong-authority", &stranger, "ca: ca, sni: up.test", 503),
        ("system", &good, "sni: up.test", 503),
        ("unverified", &stranger, "mode: SKIP_VERIFY", 200),
        ("expired", &expired, "ca: ca, sni: up.test", 503),
        ("revoked", &revoked, "ca: ca-revoking, sni: up.test", 503),
        ("not-revoked", &good, "ca: ca-revoking, sni: up.test", 200),
        ("revoked-unknown", &revoked, "ca: ca, sni: up.test", 200),
        ("mutual", &mutual, "ca: ca, sni: up.test, client_certificate: client", 200),
        ("mutual-none", &mutual, "ca: ca, sni: up.test", 503),
        ("old", &old, "ca: ca, sni: up.test", 200),
        ("too-old", &old, "ca: ca, sni: up.test, min_version: TLS_1_3", 503),
    ];
    let (port, secure, newest) = (free_port().unwrap(), free_port().unwrap(), free_port().unwrap());
    let mut objects = vec![
        trusted("ca", &pki, "ca", false),
        trusted("ca-revoking", &pki, "ca", true),
        from_files("client", &pki, "client"),
        from_files("server", &pki, "server"),
        format!(
            "
kind: Gateway
name: edge
spec:
  group: edge
  listeners:
  - {{name: web, address: 127.0.0.1, port: {port}}}
  - name: secure
    address: 127.0.0.1
    port: {secure}
    protocol: HTTPS
    tls: {{certificates: [server], client_ca: ca-revoking, require_client_certificate: true}}
  - {{name: newest, address: 127.0.0.1, port: {newest}, protocol: HTTPS, tls: {{certificates: [server], min_version: tls_1_3}}}}
"
        ),
        "{kind: Route, name: z, spec: {gateways: [edge], rules: [{backends: [{service: web}]}]}}".to_owned(),
    ];
    for (name, server, tls, _) in &table {
        objects.push(format!(
            "{{kind: Service, name: {name}, spec: {{discovery: {{static: {{addresses: ['{}']}}}}, tls: {{{tls}}}}}}}",
            server.addr
        ));
        objects.push(format!(
            "{{kind: Route, name: {name}, spec: {{gateways: [edge], rules: [{{matches: [{{exact: /{name}}}], \
             backends: [{{service: {name}}}]}}]}}}}"
        ));
    }
    control.apply(&join(&objects)).await.unwrap();
    let _proxy = start(peer, &control, "edge", true).await.unwrap();
    let ask = async |name: &str| {
        let url = format!("http://127.0.0.1:{port}/{name}");
        Client::h1().send("GET", &url, &[("host", "up.test")], "").await
    };
    for (name, _, tls, expected) in &table {
        eventually(&format!("{peer:?}: {name} ({tls}) is answered {expected}"), async || {
            let answer = ask(name).await?;
            ensure!(answer.status == *expected, "{} {}", answer.status, answer.text());
            Ok(())
        })
        .await;
    }

    // Clients, by OpenSSL.
    let ask = async |port: u16, args: &str| {
        let (dir, args) = (pki.dir().to_owned(), format!("-CAfile ca.pem {args}"));
        tokio::task::spawn_blocking(move || e2e::pki::ask(&dir, local(port), &args))
            .await
            .unwrap()
            .unwrap()
            .served
    };
    let shows = |name: &str| format!("-cert {name}.pem -key {name}.key");
    for (port, args, served) in [
        (secure, shows("client"), true),
        (secure, String::new(), false),
        (secure, shows("revoked"), false),
        (secure, shows("expired"), false),
        (secure, shows("stranger"), false),
        (secure, format!("{} -tls1_2", shows("client")), true),
        (newest, "-tls1_2".to_owned(), false),
        (newest, "-tls1_3".to_owned(), true),
    ] {
        assert_eq!(ask(port, &args).await, served, "{peer:?}: a client with `{args}`");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_objects_decide_whom_envoy_speaks_tls_with() {
    judges(Peer::Envoy).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_objects_decide_whom_our_proxy_speaks_tls_with() {
    judges(Peer::Ours).await;
}

/// An edge that calls a service through the proxies that stand before it.
fn mesh(mtls: &str, outer: u16, inner: u16, one: SocketAddr) -> String {
    format!(
        "
kind: Service
name: web
spec: {{mtls: {mtls}, discovery: {{static: {{addresses: [\"127.0.0.1:{inner}\"]}}}}}}
---
kind: Service
name: web-local
spec: {{discovery: {{static: {{addresses: [\"{one}\"]}}}}}}
---
kind: Gateway
name: edge
spec: {{group: edge, listeners: [{{name: web, address: 127.0.0.1, port: {outer}}}]}}
---
kind: Gateway
name: web-inbound
spec: {{group: web, service: web, listeners: [{{name: in, address: 127.0.0.1, port: {inner}}}]}}
---
kind: Route
name: web
spec: {{gateways: [edge], rules: [{{backends: [{{service: web}}]}}]}}
---
kind: Route
name: web-inbound
spec: {{gateways: [web-inbound], rules: [{{backends: [{{service: web-local}}]}}]}}
"
    )
}

async fn mutual_tls(caller: Peer, callee: Peer) {
    let control = Control::start(&["--identity-life=20"]).await.unwrap();
    let one = Upstream::start("one").await.unwrap();
    let (outer, inner) = (free_port().unwrap(), free_port().unwrap());
    control.apply(&mesh("strict", outer, inner, one.addr)).await.unwrap();
    let edge = start(caller, &control, "edge", true).await.unwrap();
    let web = start(callee, &control, "web", true).await.unwrap();
    let url = format!("http://127.0.0.1:{outer}/");
    let client = Client::h1();
    let answer = answers("the edge reaches the service by mutual TLS", async || client.get(&url).await).await;
    let xfcc = answer.json().unwrap()["headers"]["x-forwarded-client-cert"].to_string();
    assert!(xfcc.contains("URI=spiffe://portolan/group/edge"), "who calls is known: {xfcc}");
    let plain = format!("http://127.0.0.1:{inner}/");
    let refused = client.get(&plain).await;
    assert!(
        refused.is_err() || refused.as_ref().is_ok_and(|a| a.status >= 400),
        "strict takes no plaintext: {refused:?}"
    );
    // A certificate of another authority is of no use.
    let stranger = Authority::new("stranger").unwrap();
    let identity = stranger.issue(&["spiffe://portolan/group/edge"]).unwrap();
    let tls = Tls::new(&stranger.pem, "web", Some(&identity)).unwrap();
    tls.get(local(inner), "/").await.expect_err("another authority");

    // Certificates live for 20 s: two rotations, and no request fails.
    let start = std::time::Instant::now();
    let mut asked = 0;
    while start.elapsed() < Duration::from_secs(24) {
        let answer = client.get(&url).await.unwrap();
        assert_eq!(answer.status, 200, "after {asked} requests, {:?}: {}", start.elapsed(), answer.text());
        asked += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let rotated = |stats: &std::collections::BTreeMap<String, u64>, name: &str| {
        stats.iter().filter(|(k, _)| k.contains(name)).map(|(_, v)| *v).max().unwrap_or(0)
    };
    if caller == Peer::Envoy {
        let stats = edge.stats().await.unwrap();
        assert!(rotated(&stats, "ssl_context_update_by_sds") >= 2, "certificates were rotated");
    }

    // Permissive takes both; off takes plaintext alone.
    control.apply(&mesh("permissive", outer, inner, one.addr)).await.unwrap();
    answers("permissive takes plaintext", async || client.get(&plain).await).await;
    let by_tls = answers("and mutual TLS", async || client.get(&url).await).await;
    assert!(by_tls.text().contains("URI=spiffe://portolan/group/edge"), "{}", by_tls.text());
    control.apply(&mesh("off", outer, inner, one.addr)).await.unwrap();
    eventually("off is plaintext", async || {
        let answer = client.get(&url).await?;
        ensure!(answer.status == 200 && !answer.text().contains("spiffe"), "{}", answer.text());
        Ok(())
    })
    .await;
    drop((edge, web));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mutual_tls_from_envoy_to_envoy() {
    mutual_tls(Peer::Envoy, Peer::Envoy).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mutual_tls_from_our_proxy_to_envoy() {
    mutual_tls(Peer::Ours, Peer::Envoy).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mutual_tls_from_envoy_to_our_proxy() {
    mutual_tls(Peer::Envoy, Peer::Ours).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mutual_tls_from_our_proxy_to_our_proxy() {
    mutual_tls(Peer::Ours, Peer::Ours).await;
}

const KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

/// Two control planes over one etcd: one root, made once; proxies of one trust those of the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_planes_on_one_store_share_one_authority() {
    let etcd = Etcd::start().await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("key");
    std::fs::write(&key, KEY).unwrap();
    let store = format!("etcd://{}", etcd.endpoint());
    let key = key.display().to_string();
    let args = ["--store", &store, "--secret-key-file", &key];
    let (left, right) = tokio::join!(Control::start(&args), Control::start(&args));
    let (left, right) = (left.unwrap(), right.unwrap());
    let one = Upstream::start("one").await.unwrap();
    let (outer, inner) = (free_port().unwrap(), free_port().unwrap());
    eventually("objects are written", async || left.apply(&mesh("strict", outer, inner, one.addr)).await)
        .await;
    let _edge = start(Peer::Envoy, &left, "edge", true).await.unwrap();
    let _web = start(Peer::Envoy, &right, "web", true).await.unwrap();
    let url = format!("http://127.0.0.1:{outer}/");
    answers("identities of one are trusted by the other's", async || Client::h1().get(&url).await).await;
    let mut client = etcd_client::Client::connect([etcd.endpoint()], None).await.unwrap();
    let stored = client.get("/portolan/v1/config/secret/portolan-ca", None).await.unwrap();
    let text = String::from_utf8_lossy(stored.kvs()[0].value()).into_owned();
    assert_eq!(stored.kvs()[0].version(), 1, "it was written once");
    assert!(text.contains("ciphertext") && !text.contains("PRIVATE"), "{text}");
}

/// Without a key, nothing secret goes to a store that others read, and the reason is said.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_key_secrets_and_mutual_tls_are_refused_on_shared_stores() {
    let etcd = Etcd::start().await.unwrap();
    let control = Control::start(&["--store", &format!("etcd://{}", etcd.endpoint())]).await.unwrap();
    eventually("it is up", async || {
        ensure!(control.call("GET", "/readyz", "").await?.status == 200, "not ready");
        Ok(())
    })
    .await;
    for object in [
        "{kind: Secret, name: a, spec: {value: {text: planted}}}",
        "{kind: Service, name: web, spec: {mtls: strict}}",
    ] {
        let refused = control.apply(object).await.unwrap_err().to_string();
        assert!(refused.contains("--secret-key-file") && !refused.contains("planted"), "{refused}");
    }
}

/// Planted keys and values are in no answer, log, dump or file, and other groups do not get them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn planted_secrets_are_seen_by_those_alone_who_need_them() {
    let etcd = Etcd::start().await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("key");
    std::fs::write(&key, KEY).unwrap();
    let audit = dir.path().join("audit");
    let mut control = Control::start(&[
        "--store",
        &format!("etcd://{}", etcd.endpoint()),
        "--secret-key-file",
        &key.display().to_string(),
        "--audit-log",
        &audit.display().to_string(),
        "--log-level=debug",
    ])
    .await
    .unwrap();
    let authority = Authority::new("servers").unwrap();
    let pair = authority.issue(&["a.test"]).unwrap();
    let port = free_port().unwrap();
    let planted = "planted-value-4711";
    let objects = [
        certificate("a", &pair),
        format!("kind: Secret\nname: v\nspec: {{groups: [edge], value: {{text: {planted}}}}}"),
        format!(
            "
kind: Gateway
name: edge
spec:
  group: edge
  listeners: [{{name: a, address: 127.0.0.1, port: {port}, protocol: HTTPS, tls: {{certificates: [a]}}}}]
"
        ),
        "{kind: Gateway, name: other, spec: {group: other, listeners: [{port: 1, address: 127.0.0.9}]}}"
            .to_owned(),
    ];
    eventually("objects are written", async || control.apply(&join(&objects)).await).await;
    // Written again: nothing changes, though no sealing is like another.
    let again = control.call("POST", "/api/v1/apply", objects[0].clone()).await.unwrap();
    assert!(!again.text().contains("UPDATED") && !again.text().contains("CREATED"), "{}", again.text());
    let mut envoy = start(Peer::Envoy, &control, "edge", true).await.unwrap();
    let tls = Tls::new(&authority.pem, "a.test", None).unwrap();
    eventually("TLS is served", async || tls.connect(local(port)).await.map(drop)).await;

    let mut seen = vec![("the proxy's dump".to_owned(), envoy.admin("/config_dump").await.unwrap().text())];
    for path in [
        "/api/v1/objects",
        "/api/v1/objects/secret/a",
        "/api/v1/objects/secret/v",
        "/api/v1/status",
        "/metrics",
        "/api/v1/bootstrap?group=edge",
    ] {
        seen.push((path.to_owned(), control.call("GET", path, "").await.unwrap().text()));
    }
    // A wrong write with the key in it is refused without quoting it.
    let broken = objects[0].replace("BEGIN CERTIFICATE", "BEGIN NOTHING");
    seen.push(("a refusal".to_owned(), control.apply(&broken).await.unwrap_err().to_string()));
    eventually("the last good state is on disk", async || {
        let text = std::fs::read_to_string(control.dir().join("data/last-good.json"))?;
        ensure!(text.contains("/secret/a") && text.contains("/secret/v"), "{text}");
        Ok(())
    })
    .await;
    let mut files = vec![audit, control.dir().to_owned()];
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(std::fs::read_dir(path).unwrap().map(|e| e.unwrap().path()));
        } else {
            seen.push((
                path.display().to_string(),
                String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into(),
            ));
        }
    }
    let mut client = etcd_client::Client::connect([etcd.endpoint()], None).await.unwrap();
    let options = etcd_client::GetOptions::new().with_prefix();
    for kv in client.get("/", Some(options)).await.unwrap().kvs() {
        let value = String::from_utf8_lossy(kv.value()).into_owned();
        seen.push((format!("etcd: {}", String::from_utf8_lossy(kv.key())), value));
    }
    seen.push(("the log".to_owned(), control.process().log()));
    seen.push(("the proxy's log".to_owned(), envoy.process().log()));
    assert!(seen.len() > 14, "{:?}", seen.iter().map(|(what, _)| what).collect::<Vec<_>>());
    for (what, text) in &seen {
        no_keys_in(what, text, &[&pair]);
        assert!(!text.contains(planted), "the value is in {what}");
        assert!(!text.contains(KEY), "the encryption key is in {what}");
    }
    let shown = control.call("GET", "/api/v1/objects/secret/a", "").await.unwrap().json().unwrap();
    let facts = &shown["resource"]["spec"]["sealed"]["certificates"][0];
    assert!(
        facts["names"][0] == "DNS:a.test" && facts["fingerprint"].as_str().unwrap().len() == 64,
        "{shown}"
    );

    // Whoever asks by name gets what its group may have.
    for (group, name, gets) in [
        ("edge", "a", true),
        ("edge", "v", true),
        ("other", "a", false),
        ("other", "v", false),
        ("edge", "portolan-ca", false),
    ] {
        let got = fetch(&control, group, name).await.unwrap();
        assert_eq!(got, gets, "{name} by {group}");
    }
}

/// Whether a node of a group is given a secret by its name, on the service of secrets alone.
async fn fetch(control: &Control, group: &str, name: &str) -> Result<bool> {
    use xds_types::envoy::config::core::v3::Node;
    use xds_types::envoy::service::discovery::v3::DeltaDiscoveryRequest;
    use xds_types::envoy::service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient;
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", control.xds))?;
    let mut client = SecretDiscoveryServiceClient::new(endpoint.connect().await?);
    let request = DeltaDiscoveryRequest {
        node: Some(Node { id: "probe".into(), cluster: group.into(), ..Node::default() }),
        type_url: xds_types::ResourceType::Secret.type_url().to_owned(),
        resource_names_subscribe: vec![name.to_owned()],
        ..DeltaDiscoveryRequest::default()
    };
    let (sender, requests) = tokio::sync::mpsc::channel(1);
    sender.send(request).await?;
    let stream = tokio_stream::wrappers::ReceiverStream::new(requests);
    let mut answers = client.delta_secrets(stream).await?.into_inner();
    let Some(answer) = tokio::time::timeout(Duration::from_secs(10), answers.message()).await?? else {
        bail!("no answer")
    };
    ensure!(answer.resources.iter().all(|r| r.name == name), "others were sent");
    Ok(!answer.resources.is_empty())
}
