//! Secrets in our proxy: waited for, delivered by a management server and from files, rotated under load, refused
//! when they are bad, and their keys shown nowhere.

mod contexts;

use anyhow::{Context, Result, ensure};
use e2e::ads::{AdsServer, Dialect, SDS, Stream};
use e2e::envoy::Envoy;
use e2e::pki::{Life, Pki};
use e2e::{eventually, proxy};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use xds_types::envoy::extensions::transport_sockets::tls::v3::Secret;
use xds_types::google::protobuf::Any;
use xds_types::{any, text};

const TLS: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3";

/// Requests at least on each side of a change.
const ENOUGH: u64 = 50;

fn pki() -> Pki {
    let pki = Pki::new().unwrap();
    for (name, life) in [("one", Life::Now), ("two", Life::Now), ("over", Life::Over)] {
        pki.sign(name, "ca", "DNS:server.example.com", life).unwrap();
    }
    pki
}

/// A static listener `web` that answers 200 over TLS with the secret `server` from `source`, and an ADS server.
fn bootstrap(ads: Option<(SocketAddr, Dialect)>, source: &str) -> String {
    let (dynamic, control) = match ads {
        Some((addr, dialect)) => (
            format!(
                "dynamic_resources: {{ads_config: {{api_type: {}, transport_api_version: V3, grpc_services: [{{envoy_grpc: {{cluster_name: control}}}}]}}}},",
                dialect.api_type()
            ),
            e2e::pair::cluster("control", &addr.port().to_string(), e2e::pair::SPEAKS_H2),
        ),
        None => (String::new(), String::new()),
    };
    format!(
        "{{node: {{id: node-1, cluster: fleet}}, admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}}}, {dynamic} \
         static_resources: {{clusters: [{control}], listeners: [{{name: web, address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}, filter_chains: [{{ \
         transport_socket: {{name: tls, typed_config: {{'@type': {TLS}.DownstreamTlsContext, common_tls_context: {{tls_certificate_sds_secret_configs: [{{name: server, sds_config: {source}}}]}}}}}}, \
         filters: [{{name: http, typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, stat_prefix: web, \
         route_config: {{name: r, virtual_hosts: [{{name: v, domains: ['*'], routes: [{{match: {{prefix: /}}, direct_response: {{status: 200, body: {{inline_string: hi}}}}}}]}}]}}, \
         http_filters: [{{name: router, typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}}}]}}}}]}}]}}]}}}}"
    )
}

const ADS: &str = "{ads: {}, resource_api_version: V3}";

fn secret(chain: &str, key: &str) -> (String, Any) {
    let quoted = |pem: &str| format!("\"{}\"", pem.replace('\n', "\\n"));
    let yaml = format!(
        "{{name: server, tls_certificate: {{certificate_chain: {{inline_string: {}}}, private_key: {{inline_string: {}}}}}}}",
        quoted(chain),
        quoted(key)
    );
    ("server".into(), any::pack(&text::from_yaml::<Secret>(&yaml).unwrap()))
}

/// The secret `server` with the certificate `chain` and the key of `key`.
fn pushed(pki: &Pki, chain: &str, key: &str) -> Vec<(String, Any)> {
    let (chain, key) = (pki.read(&format!("{chain}.pem")).unwrap(), pki.read(&format!("{key}.key")).unwrap());
    vec![secret(&chain, &key)]
}

/// A client that trusts `ca`.
#[derive(Clone)]
struct Client {
    tls: TlsConnector,
    addr: SocketAddr,
}

impl Client {
    fn new(pki: &Pki, addr: SocketAddr) -> Self {
        Self::of(pki, addr, None)
    }

    /// With the certificate of that name.
    fn of(pki: &Pki, addr: SocketAddr, identity: Option<&str>) -> Self {
        let mut roots = RootCertStore::empty();
        let pem = pki.read("ca.pem").unwrap();
        for der in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            roots.add(der.unwrap()).unwrap();
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config =
            ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_root_certificates(roots);
        let config = match identity {
            None => config.with_no_client_auth(),
            Some(name) => {
                let key = pki.read(&format!("{name}.key")).unwrap();
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
                config.with_client_auth_cert(vec![der(pki, name).into()], key).unwrap()
            }
        };
        Self { tls: TlsConnector::from(Arc::new(config)), addr }
    }

    async fn connect(&self) -> Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from("server.example.com")?;
        Ok(self.tls.connect(name, TcpStream::connect(self.addr).await?).await?)
    }

    /// One request; `last`: of this connection.
    async fn ask(stream: &mut TlsStream<TcpStream>) -> Result<()> {
        stream.write_all(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n").await?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\nhi") {
            ensure!(stream.read_buf(&mut answer).await? > 0, "the connection ended");
        }
        ensure!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
        Ok(())
    }

    /// The certificate that a new connection gets, DER.
    async fn certificate(&self) -> Result<Vec<u8>> {
        let mut stream = self.connect().await?;
        Self::ask(&mut stream).await?;
        let (_, session) = stream.get_ref();
        Ok(session.peer_certificates().context("certificates")?[0].to_vec())
    }
}

fn der(pki: &Pki, name: &str) -> Vec<u8> {
    let pem = pki.read(&format!("{name}.pem")).unwrap();
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec()
}

/// Waits until new connections get the certificate `name`.
async fn serves(client: &Client, pki: &Pki, name: &str) {
    let wanted = der(pki, name);
    eventually(&format!("{name} is served"), async || -> Result<()> {
        ensure!(client.certificate().await? == wanted, "another certificate");
        Ok(())
    })
    .await;
}

/// Requests on new connections and on one that is kept, until stopped.
struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    tasks: JoinSet<Result<()>>,
}

impl Load {
    fn start(client: &Client) -> Self {
        let (stop, done) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let mut tasks = JoinSet::new();
        for kept in [false, false, true] {
            let (client, stop, done) = (client.clone(), Arc::clone(&stop), Arc::clone(&done));
            tasks.spawn(async move {
                let mut stream = client.connect().await?;
                while !stop.load(Relaxed) {
                    if !kept {
                        stream = client.connect().await?;
                    }
                    Client::ask(&mut stream).await?;
                    done.fetch_add(1, Relaxed);
                }
                Ok(())
            });
        }
        Self { stop, done, tasks }
    }

    /// Waits for some more requests.
    async fn more(&mut self) {
        let until = self.done.load(Relaxed) + ENOUGH;
        let wait = async {
            while self.done.load(Relaxed) < until {
                tokio::task::yield_now().await;
                if let Some(ended) = self.tasks.try_join_next() {
                    panic!("load ended: {ended:?}");
                }
            }
        };
        timeout(Duration::from_secs(60), wait).await.unwrap();
    }

    /// Ends it; not one request has failed.
    async fn end(mut self) {
        self.stop.store(true, Relaxed);
        while let Some(task) = self.tasks.join_next().await {
            task.unwrap().unwrap();
        }
    }
}

async fn dump(proxy: &Envoy) -> String {
    proxy.admin("/config_dump?resource=dynamic_active_secrets").await.unwrap().text()
}

/// A proxy that waits for its secret, and the stream that it asks on.
async fn waiting(dialect: Dialect) -> (AdsServer, Envoy, Stream) {
    let mut server = AdsServer::start().await.unwrap();
    let proxy = proxy::start_unready(&bootstrap(Some((server.addr, dialect)), ADS)).await.unwrap();
    let mut stream = server.stream().await.unwrap();
    let asked = stream.of(SDS).await.unwrap();
    assert_eq!(asked.names.iter().map(String::as_str).collect::<Vec<_>>(), ["server"]);
    (server, proxy, stream)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_waits_for_its_secret_and_rotates_under_load_by_push() {
    let pki = pki();
    for dialect in Dialect::ALL {
        let (_server, proxy, mut stream) = waiting(dialect).await;
        assert_eq!(proxy.admin("/ready").await.unwrap().status, 503, "the secret has not come");
        let warming = proxy.admin("/config_dump?resource=dynamic_warming_secrets").await.unwrap().text();
        assert!(warming.contains("\"server\"") && warming.contains("uninitialized"), "{warming}");
        stream.push(SDS, "1", pushed(&pki, "one", "one")).await.unwrap().unwrap();
        eventually("it is ready", async || -> Result<()> {
            ensure!(proxy.admin("/ready").await?.status == 200, "not ready");
            Ok(())
        })
        .await;
        let client = Client::new(&pki, proxy.listener("web").await.unwrap());
        serves(&client, &pki, "one").await;
        let mut load = Load::start(&client);
        load.more().await;
        // Bad ones are refused with the reason, and the old one serves on.
        for (version, chain, key, why) in [
            ("2", "two", "one", "server: tls_certificate: private_key: does not belong to the certificate"),
            (
                "3",
                "over",
                "over",
                "server: tls_certificate: certificate_chain: the certificate expired at 2021",
            ),
        ] {
            let nack = stream.push(SDS, version, pushed(&pki, chain, key)).await.unwrap().unwrap_err();
            assert!(nack.contains(why), "{nack}");
            let shown = dump(&proxy).await;
            assert!(shown.contains("error_state") && shown.contains(&why[8..]), "{shown}");
            serves(&client, &pki, "one").await;
        }
        let nack = stream.push(SDS, "4", vec![secret("garbage", "garbage")]).await.unwrap().unwrap_err();
        assert!(nack.contains("holds no certificate in PEM form"), "{nack}");
        load.more().await;
        stream.push(SDS, "5", pushed(&pki, "two", "two")).await.unwrap().unwrap();
        serves(&client, &pki, "two").await;
        load.more().await;
        load.end().await;
        let stats = proxy.stats().await.unwrap();
        assert_eq!((stats["sds.server.update_rejected"], stats["sds.server.update_success"]), (3, 2));
        assert!(!dump(&proxy).await.contains("error_state"), "what was refused is over");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_goes_on_without_a_secret_that_does_not_come_in_time() {
    let mut server = AdsServer::start().await.unwrap();
    let source = "{ads: {}, resource_api_version: V3, initial_fetch_timeout: 0.5s}";
    let proxy = proxy::start(&bootstrap(Some((server.addr, Dialect::Sotw)), source)).await.unwrap();
    let mut stream = server.stream().await.unwrap();
    assert_eq!(proxy.stats().await.unwrap()["sds.server.init_fetch_timeout"], 1);
    let pki = pki();
    let client = Client::new(&pki, proxy.listener("web").await.unwrap());
    assert!(client.certificate().await.is_err(), "without a certificate nobody is served");
    // Late is better than never.
    stream.push(SDS, "1", pushed(&pki, "one", "one")).await.unwrap().unwrap();
    serves(&client, &pki, "one").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_are_swapped_under_load_and_bad_ones_are_refused() {
    let pki = pki();
    let live = tempfile::tempdir().unwrap();
    pki.swap("one", live.path(), "live").unwrap();
    let file = live.path().join("sds.yaml");
    let yaml = format!(
        "resources:\n- '@type': {TLS}.Secret\n  name: server\n  tls_certificate:\n    certificate_chain: {{filename: {0}/live.pem}}\n    private_key: {{filename: {0}/live.key}}\n",
        live.path().display()
    );
    std::fs::write(&file, yaml).unwrap();
    let source = format!("{{path_config_source: {{path: {}}}}}", file.display());
    let proxy = proxy::start(&bootstrap(None, &source)).await.unwrap();
    let client = Client::new(&pki, proxy.listener("web").await.unwrap());
    serves(&client, &pki, "one").await;
    let mut load = Load::start(&client);
    for name in ["two", "one", "two"] {
        load.more().await;
        pki.swap(name, live.path(), "live").unwrap();
        serves(&client, &pki, name).await;
    }
    // One that expired: told, counted, shown; the old one serves on. A pair that is read between the swaps of its two files
    // may be refused as well, before.
    let before = proxy.stats().await.unwrap()["sds.server.key_rotation_failed"];
    pki.swap("over", live.path(), "live").unwrap();
    eventually("the bad one is refused", async || -> Result<()> {
        ensure!(proxy.stats().await?["sds.server.key_rotation_failed"] > before, "not yet");
        let shown = dump(&proxy).await;
        ensure!(shown.contains("the certificate expired at 2021"), "{shown}");
        Ok(())
    })
    .await;
    serves(&client, &pki, "two").await;
    pki.swap("one", live.path(), "live").unwrap();
    serves(&client, &pki, "one").await;
    load.more().await;
    load.end().await;
    assert!(!dump(&proxy).await.contains("error_state"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_in_use_are_told_and_keys_never() {
    let pki = pki();
    let mut server = AdsServer::start().await.unwrap();
    let mut proxy = proxy::start_unready(&bootstrap(Some((server.addr, Dialect::Delta)), ADS)).await.unwrap();
    let mut stream = server.stream().await.unwrap();
    stream.of(SDS).await.unwrap();
    // Keys in the right place, in the wrong place, and bad ones.
    let (chain, key) = (pki.read("one.pem").unwrap(), pki.read("one.key").unwrap());
    let other = pki.read("two.key").unwrap();
    stream.push(SDS, "1", vec![secret(&chain, &other)]).await.unwrap().unwrap_err();
    stream.push(SDS, "2", vec![secret(&other, &key)]).await.unwrap().unwrap_err();
    stream.push(SDS, "3", vec![secret(&chain, "PLANTEDPLANTED")]).await.unwrap().unwrap_err();
    let both = format!("{chain}{key}");
    stream.push(SDS, "4", vec![secret(&both, &both)]).await.unwrap().unwrap();
    stream.push(SDS, "5", vec![secret(&chain, &other)]).await.unwrap().unwrap_err();
    let client = Client::new(&pki, proxy.listener("web").await.unwrap());
    serves(&client, &pki, "one").await;

    let certs = proxy.admin("/certs").await.unwrap().json().unwrap();
    let shown = &certs["certificates"][0]["cert_chain"][0];
    assert_eq!(shown["path"], "<inline>");
    assert_eq!(shown["subject_alt_names"][0]["dns"], "server.example.com");
    assert_eq!(shown["expiration_time"], "2048-01-01T00:00:00Z");
    assert_eq!(certs["certificates"][0]["ca_cert"], serde_json::json!([]));
    let stats = proxy.stats().await.unwrap();
    let address = proxy.listener("web").await.unwrap().to_string().replace(':', "_");
    let expiry = format!("listener.{address}.ssl.certificate.server.expiration_unix_time_seconds");
    assert_eq!(stats[&expiry], 2_461_449_600);
    assert!(stats["server.days_until_first_cert_expiring"] > 5000);

    let mut said = String::new();
    for path in [
        "/config_dump",
        "/config_dump?include_eds",
        "/config_dump?include_ignored",
        "/certs",
        "/stats",
        "/clusters",
        "/listeners",
        "/server_info",
        "/init_dump",
        "/runtime",
        "/stats/prometheus",
    ] {
        said += &proxy.admin(path).await.unwrap().text();
    }
    said += &proxy.process().log();
    for (name, pem) in [("one", key.as_str()), ("two", other.as_str()), ("planted", "PLANTEDPLANTED")] {
        for line in pem.lines().filter(|line| line.len() > 12 && !line.starts_with("-----")) {
            assert!(!said.contains(line), "the key {name} is shown");
            // Wherever its bytes fall.
            for skip in 0..3 {
                assert!(!said.contains(&encoded(&line[skip..])), "the key {name} is shown in base64");
            }
        }
    }
}

/// The inner part of a text in base64, whatever stands before it.
fn encoded(text: &str) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bytes = &text.as_bytes()[..text.len() / 3 * 3];
    let digit = |word: u32, shift: u32| char::from(DIGITS[(word >> shift) as usize & 63]);
    bytes
        .chunks_exact(3)
        .flat_map(|c| {
            let word = u32::from(c[0]) << 16 | u32::from(c[1]) << 8 | u32::from(c[2]);
            [digit(word, 18), digit(word, 12), digit(word, 6), digit(word, 0)]
        })
        .collect()
}
