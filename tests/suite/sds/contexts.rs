//! Secrets by every way and of every kind: over a stream of their own, for clusters, authorities, ticket keys.

use super::*;
use e2e::pki::Verdict;
use e2e::secure::Secure;
use std::path::Path;

/// A bootstrap with a control plane, this listener context, and these clusters.
fn site(control: Option<(SocketAddr, Dialect)>, context: &str, route: &str, clusters: &str) -> String {
    let empty = bootstrap(control, "{ads: {}, resource_api_version: V3}");
    let start = empty.find("transport_socket: ").unwrap();
    let end = empty[start..].find("filters: [").unwrap() + start;
    let socket = match context {
        "" => String::new(),
        _ => format!(
            "transport_socket: {{name: tls, typed_config: {{'@type': {TLS}.DownstreamTlsContext, {context}}}}}, "
        ),
    };
    let direct = "direct_response: {status: 200, body: {inline_string: hi}}";
    let (before, after) = (&empty[..start], &empty[end..]);
    let all =
        format!("{before}{socket}{}", after.replace(direct, if route.is_empty() { direct } else { route }));
    match (control, clusters) {
        (_, "") => all,
        (Some(_), _) => all.replacen("clusters: [", &format!("clusters: [{clusters}, "), 1),
        (None, _) => all.replacen("clusters: [", &format!("clusters: [{clusters}"), 1),
    }
}

async fn is_ready(proxy: &Envoy) {
    eventually("it is ready", async || -> Result<()> {
        ensure!(proxy.admin("/ready").await?.status == 200, "not ready");
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_come_over_a_stream_of_their_own_and_outlive_it() {
    let pki = pki();
    for (dialect, method) in [(Dialect::Sotw, "StreamSecrets"), (Dialect::Delta, "DeltaSecrets")] {
        let mut server = AdsServer::start().await.unwrap();
        let source = format!(
            "{{api_config_source: {{api_type: {}, transport_api_version: V3, grpc_services: [{{envoy_grpc: {{cluster_name: control}}}}]}}, resource_api_version: V3}}",
            dialect.api_type()
        );
        let config = bootstrap(Some((server.addr, dialect)), &source);
        let proxy = proxy::start_unready(&config).await.unwrap();
        // The stream of everything else has nothing to ask for.
        let mut others = Vec::new();
        let mut own = async || loop {
            let stream = server.stream().await.unwrap();
            if stream.method == method {
                return stream;
            }
            others.push(stream);
        };
        let mut stream = own().await;
        let asked = stream.of(SDS).await.unwrap();
        assert_eq!(asked.names.iter().map(String::as_str).collect::<Vec<_>>(), ["server"]);
        assert_eq!(proxy.admin("/ready").await.unwrap().status, 503, "the secret has not come");
        stream.push(SDS, "1", pushed(&pki, "one", "one")).await.unwrap().unwrap();
        is_ready(&proxy).await;
        let client = Client::new(&pki, proxy.listener("web").await.unwrap());
        serves(&client, &pki, "one").await;
        stream.push(SDS, "2", pushed(&pki, "two", "one")).await.unwrap().unwrap_err();
        drop(stream);
        let mut again = own().await;
        let asked = again.of(SDS).await.unwrap();
        assert_eq!(asked.names.iter().map(String::as_str).collect::<Vec<_>>(), ["server"], "asked for anew");
        serves(&client, &pki, "one").await;
        again.push(SDS, "3", pushed(&pki, "two", "two")).await.unwrap().unwrap();
        serves(&client, &pki, "two").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_waits_for_its_certificate_and_authority() {
    let pki = pki();
    let secure = Secure::start(&pki, &["one"], &[]).await.unwrap();
    let mut server = AdsServer::start().await.unwrap();
    let context = format!(
        "{{name: secure, load_assignment: {{cluster_name: secure, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: \
         {{address: 127.0.0.1, port_value: {}}}}}}}}}]}}]}}, transport_socket: {{name: tls, typed_config: {{'@type': {TLS}.UpstreamTlsContext, \
         sni: server.example.com, common_tls_context: {{tls_certificate_sds_secret_configs: [{{name: server, sds_config: {ADS}}}], \
         validation_context_sds_secret_config: {{name: authority, sds_config: {ADS}}}}}}}}}}}",
        secure.addr.port()
    );
    let config = site(Some((server.addr, Dialect::Delta)), "", "route: {cluster: secure}", &context);
    let proxy = proxy::start_unready(&config).await.unwrap();
    let mut stream = server.stream().await.unwrap();
    stream.of(SDS).await.unwrap();
    stream.push(SDS, "1", pushed(&pki, "two", "two")).await.unwrap().unwrap();
    let dump = proxy.admin("/config_dump?resource=dynamic_warming_secrets").await.unwrap().text();
    assert!(dump.contains("\"authority\"") && !dump.contains("\"server\""), "{dump}");
    assert_eq!(proxy.admin("/ready").await.unwrap().status, 503, "the authority has not come");
    stream.push(SDS, "2", vec![authority(&pki.read("ca.pem").unwrap())]).await.unwrap().unwrap();
    is_ready(&proxy).await;
    let url = format!("http://{}/", proxy.listener("web").await.unwrap());
    let http = e2e::client::Client::h1();
    let answer = http.get(&url).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.text().contains(", certified, "), "the certificate is shown: {}", answer.text());
    // Another authority: no connection is made, and no session is resumed, past it.
    stream.push(SDS, "3", vec![authority(&pki.read("other.pem").unwrap())]).await.unwrap().unwrap();
    eventually("the upstream is trusted no more", async || -> Result<()> {
        let answer = http.send("GET", &url, &[("x-do", "close")], "").await?;
        ensure!(answer.status == 503, "{} {}", answer.status, answer.text());
        Ok(())
    })
    .await;
    stream.push(SDS, "4", vec![authority(&pki.read("ca.pem").unwrap())]).await.unwrap().unwrap();
    eventually("and again", async || -> Result<()> {
        let answer = http.get(&url).await?;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
        Ok(())
    })
    .await;
}

fn authority(pem: &str) -> (String, Any) {
    let yaml = format!(
        "{{name: authority, validation_context: {{trusted_ca: {{inline_string: \"{}\"}}}}}}",
        pem.replace('\n', "\\n")
    );
    ("authority".into(), any::pack(&text::from_yaml::<Secret>(&yaml).unwrap()))
}

/// Puts `pem` in the place of `ca.pem`, as Kubernetes does: the file is a link through a link, and only that moves.
fn mount(folder: &Path, version: &str, pem: &str) {
    std::fs::create_dir(folder.join(version)).unwrap();
    std::fs::write(folder.join(version).join("ca.pem"), pem).unwrap();
    std::os::unix::fs::symlink(version, folder.join("..next")).unwrap();
    std::fs::rename(folder.join("..next"), folder.join("..data")).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn authorities_in_a_watched_directory_rotate_under_load() {
    let pki = pki();
    pki.sign("stranger", "other", "DNS:client.example.com", Life::Now).unwrap();
    let live = tempfile::tempdir().unwrap();
    let (own, other) = (pki.read("ca.pem").unwrap(), pki.read("other.pem").unwrap());
    mount(live.path(), "v1", &own);
    std::os::unix::fs::symlink("..data/ca.pem", live.path().join("ca.pem")).unwrap();
    let file = pki.path("sds.yaml");
    let yaml = format!(
        "resources:\n- '@type': {TLS}.Secret\n  name: authority\n  validation_context:\n    trusted_ca: {{filename: {0}/ca.pem}}\n    watched_directory: {{path: {0}}}\n",
        live.path().display()
    );
    std::fs::write(&file, yaml).unwrap();
    let context = format!(
        "require_client_certificate: true, common_tls_context: {{tls_certificates: [{{certificate_chain: {{filename: {0}/one.pem}}, private_key: {{filename: {0}/one.key}}}}], \
         validation_context_sds_secret_config: {{name: authority, sds_config: {{path_config_source: {{path: {1}}}}}}}}}",
        pki.dir().display(),
        file.display()
    );
    let proxy = proxy::start(&site(None, &context, "", "")).await.unwrap();
    let addr = proxy.listener("web").await.unwrap();
    let client = Client::of(&pki, addr, Some("two"));
    let stranger = Client::of(&pki, addr, Some("stranger"));
    client.certificate().await.unwrap();
    assert!(stranger.certificate().await.is_err(), "not trusted yet");
    let mut load = Load::start(&client);
    load.more().await;
    mount(live.path(), "v2", &format!("{own}{other}"));
    eventually("both are taken", async || stranger.certificate().await.map(drop)).await;
    load.more().await;
    // What is there goes on, and none that had a certificate of ours was refused.
    load.end().await;
    mount(live.path(), "v3", &other);
    eventually("the former is taken no more, with a session of before or without", async || -> Result<()> {
        ensure!(client.certificate().await.is_err(), "taken");
        Ok(())
    })
    .await;
    assert!(Client::of(&pki, addr, Some("two")).certificate().await.is_err());
    stranger.certificate().await.unwrap();
    // What cannot be used changes nothing.
    let before = proxy.stats().await.unwrap()["sds.authority.key_rotation_failed"];
    mount(live.path(), "v4", "nothing of the kind");
    eventually("it is refused", async || -> Result<()> {
        ensure!(proxy.stats().await?["sds.authority.key_rotation_failed"] > before, "not yet");
        Ok(())
    })
    .await;
    stranger.certificate().await.unwrap();
}

fn ticket_keys(keys: &[char]) -> Vec<(String, Any)> {
    let keys: Vec<_> =
        keys.iter().map(|key| format!("{{inline_string: '{}'}}", key.to_string().repeat(80))).collect();
    let yaml = format!("{{name: keys, session_ticket_keys: {{keys: [{}]}}}}", keys.join(", "));
    vec![("keys".into(), any::pack(&text::from_yaml::<Secret>(&yaml).unwrap()))]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ticket_keys_rotate_by_push() {
    let pki = pki();
    let mut server = AdsServer::start().await.unwrap();
    let context = format!(
        "session_ticket_keys_sds_secret_config: {{name: keys, sds_config: {ADS}}}, common_tls_context: {{tls_certificates: [{{ \
         certificate_chain: {{filename: {0}/one.pem}}, private_key: {{filename: {0}/one.key}}}}]}}",
        pki.dir().display()
    );
    let config = site(Some((server.addr, Dialect::Sotw)), &context, "", "");
    let proxy = proxy::start_unready(&config).await.unwrap();
    let mut stream = server.stream().await.unwrap();
    stream.of(SDS).await.unwrap();
    assert_eq!(proxy.admin("/ready").await.unwrap().status, 503, "the keys have not come");
    stream.push(SDS, "1", ticket_keys(&['a'])).await.unwrap().unwrap();
    is_ready(&proxy).await;
    let addr = proxy.listener("web").await.unwrap();
    let ask = async |args: &str| -> Verdict {
        let (dir, args) = (pki.dir().to_owned(), args.to_owned());
        tokio::task::spawn_blocking(move || e2e::pki::ask(&dir, addr, &args).unwrap()).await.unwrap()
    };
    let resumes = async || ask("-tls1_3 -sess_in session").await.session.starts_with("Reused, ");
    let first = ask("-tls1_3 -sess_out session").await;
    assert!(first.served && first.session.starts_with("New, "), "{first:?}");
    assert!(resumes().await, "with the key it was sealed with");
    let nack = stream.push(SDS, "2", short()).await.unwrap().unwrap_err();
    assert!(nack.contains("keys"), "{nack}");
    assert!(resumes().await, "a key that is too short is refused");
    stream.push(SDS, "3", ticket_keys(&['b', 'a'])).await.unwrap().unwrap();
    let second = ask("-tls1_3 -sess_out second").await;
    assert!(second.served);
    assert!(resumes().await, "the former key still opens");
    stream.push(SDS, "4", ticket_keys(&['b'])).await.unwrap().unwrap();
    eventually("a key that is gone opens nothing", async || -> Result<()> {
        ensure!(!resumes().await, "resumed");
        Ok(())
    })
    .await;
    let second = ask("-tls1_3 -sess_in second").await;
    assert!(second.session.starts_with("Reused, "), "{second:?}");
}

fn short() -> Vec<(String, Any)> {
    let yaml = "{name: keys, session_ticket_keys: {keys: [{inline_string: 'short'}]}}";
    vec![("keys".into(), any::pack(&text::from_yaml::<Secret>(yaml).unwrap()))]
}
