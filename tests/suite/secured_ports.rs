//! xDS and the API with TLS: who is let in, as what, and what is written down of it. The tool's part of it, too.

use anyhow::{Result, bail, ensure};
use e2e::certs::{Authority, Pair};
use e2e::client::Client;
use e2e::control::Control;
use e2e::envoy::Envoy;
use e2e::eventually;
use e2e::eventually::PATIENCE;
use e2e::https::Tls;
use e2e::process::built;
use e2e::proxy;
use e2e::upstream::Upstream;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const TOKEN: &str = "a-bootstrap-token-of-the-tests";

fn path(p: impl AsRef<Path>) -> String {
    p.as_ref().display().to_string()
}

struct Secured {
    authority: Authority,
    dir: TempDir,
    control: Control,
}

impl Secured {
    /// Both ports with TLS, client certificates for xDS, a token for the API, and an audit log.
    async fn start() -> Result<Self> {
        let authority = Authority::new("ports")?;
        let dir = TempDir::new()?;
        let ca = path(authority.write(dir.path())?);
        let (cert, key) = authority.issue(&["localhost", "127.0.0.1"])?.write(dir.path(), "port")?;
        let token = dir.path().join("token");
        std::fs::write(&token, TOKEN)?;
        let args = [
            "--xds-cert-file".to_owned(),
            path(&cert),
            "--xds-key-file".to_owned(),
            path(&key),
            "--xds-client-ca-file".to_owned(),
            ca,
            "--api-cert-file".to_owned(),
            path(&cert),
            "--api-key-file".to_owned(),
            path(&key),
            "--admin-token-file".to_owned(),
            path(&token),
            "--audit-log".to_owned(),
            path(dir.path().join("audit.jsonl")),
        ];
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let control = Control::start(&args).await?;
        Ok(Self { authority, dir, control })
    }

    fn pair(&self, names: &[&str], file: &str) -> Result<(Pair, String, String)> {
        let pair = self.authority.issue(names)?;
        let (cert, key) = pair.write(self.dir.path(), file)?;
        Ok((pair, path(cert), path(key)))
    }

    /// The tool, as people use it.
    fn tool(&self, token: Option<&str>, args: &[&str]) -> Result<String> {
        let mut command = Command::new(built("portolan")?);
        command.args(["--api", &format!("https://localhost:{}", self.control.api.port())]);
        command.args(["--ca", &path(self.dir.path().join("ca.pem"))]).args(args);
        command.env_remove("PORTOLAN_TOKEN");
        if let Some(token) = token {
            command.env("PORTOLAN_TOKEN", token);
        }
        let output = command.output()?;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    fn apply(&self, yaml: &str) -> Result<()> {
        let file = self.dir.path().join("objects.yaml");
        std::fs::write(&file, yaml)?;
        self.tool(Some(TOKEN), &["apply", "-f", &path(file)]).map(drop)
    }

    /// A bootstrap by the tool, for a proxy with this certificate.
    fn bootstrap(&self, group: &str, cert: &str, key: &str) -> Result<String> {
        let (ca, xds) =
            (path(self.dir.path().join("ca.pem")), format!("127.0.0.1:{}", self.control.xds.port()));
        let args = ["bootstrap", "--group", group, "--node", "n1", "--xds", &xds, "--admin", "127.0.0.1:0"];
        let tls = ["--xds-ca", &ca, "--xds-cert", cert, "--xds-key", key];
        self.tool(Some(TOKEN), &[args.as_slice(), &tls].concat())
    }

    async fn status(&self) -> Result<serde_json::Value> {
        let tls = Tls::new(&self.authority.pem, "localhost", None)?;
        let bearer = format!("Bearer {TOKEN}");
        let headers = [("authorization", bearer.as_str())];
        tls.send(self.control.api, "GET", "/api/v1/status", &headers, "").await?.answer.json()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_let_in_by_role_and_everything_that_changes_is_written_down() {
    let secured = Secured::start().await.unwrap();
    let denied = secured.tool(None, &["get"]).unwrap_err().to_string();
    assert!(denied.contains("a token is needed"), "{denied}");
    let denied = secured.tool(Some("wrong"), &["get"]).unwrap_err().to_string();
    assert!(denied.contains("not valid"), "{denied}");
    secured.apply("{kind: Service, name: web, spec: {}}").unwrap();
    let viewer = secured.tool(Some(TOKEN), &["token", "create", "eyes"]).unwrap();
    let operator = secured.tool(Some(TOKEN), &["token", "create", "ci", "--role", "operator"]).unwrap();
    assert!(secured.tool(Some(&viewer), &["get"]).unwrap().contains("web"));
    let denied = secured.tool(Some(&viewer), &["delete", "service", "web"]).unwrap_err().to_string();
    assert!(denied.contains("token/eyes is viewer; this takes operator"), "{denied}");
    secured.tool(Some(&operator), &["delete", "service", "web"]).unwrap();
    let denied = secured.tool(Some(&operator), &["token", "list"]).unwrap_err().to_string();
    assert!(denied.contains("this takes admin"), "{denied}");
    let listed = secured.tool(Some(TOKEN), &["token", "list"]).unwrap();
    assert!(listed.contains("ci") && listed.contains("operator") && listed.contains("bootstrap"), "{listed}");
    secured.tool(Some(TOKEN), &["token", "revoke", "ci"]).unwrap();
    let denied = secured.tool(Some(&operator), &["get"]).unwrap_err().to_string();
    assert!(denied.contains("not valid"), "{denied}");

    let log = std::fs::read_to_string(secured.dir.path().join("audit.jsonl")).unwrap();
    let lines: Vec<serde_json::Value> = log.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let has = |who: &str, action: &str, object: &str, outcome: &str| {
        let one = |l: &serde_json::Value| {
            l["who"] == who && l["action"] == action && l["outcome"] == outcome && l["objects"][0] == object
        };
        assert!(lines.iter().any(one), "no {who} {action} {object} {outcome} in:\n{log}");
    };
    has("bootstrap", "apply", "Service/web", "done");
    has("bootstrap", "create token", "AccessToken/ci", "done");
    has("token/eyes", "delete", "service/web", "denied");
    has("token/ci", "delete", "service/web", "done");
    has("bootstrap", "revoke token", "AccessToken/ci", "done");
    assert!(lines.iter().any(|l| l["who"] == "nobody" && l["outcome"] == "denied"), "{log}");
    for secret in [TOKEN, viewer.trim(), operator.trim()] {
        assert!(!log.contains(secret), "a token is in the audit log");
        let store = std::fs::read(secured.control.dir().join("data/store.redb")).unwrap();
        assert!(!store.windows(secret.len()).any(|w| w == secret.as_bytes()), "a token is in the store");
    }
}

async fn joins_by_its_certificate(ours: bool) {
    let secured = Secured::start().await.unwrap();
    let one = Upstream::start("one").await.unwrap();
    let port = e2e::process::free_port().unwrap();
    secured
        .apply(&format!(
            "
kind: Gateway
name: edge
spec: {{group: edge, listeners: [{{name: web, address: 127.0.0.1, port: {port}}}]}}
---
kind: Service
name: web
spec: {{discovery: {{static: {{addresses: [\"{}\"]}}}}}}
---
kind: Route
name: web
spec: {{gateways: [edge], rules: [{{backends: [{{service: web}}]}}]}}
",
            one.addr
        ))
        .unwrap();
    let (_, cert, key) = secured.pair(&["spiffe://tests/group/edge"], "edge").unwrap();
    let web = format!("http://127.0.0.1:{port}/");
    let bootstrap = secured.bootstrap("edge", &cert, &key).unwrap();
    let running = if ours { proxy::start(&bootstrap).await } else { Envoy::start(&bootstrap).await };
    let _running = running.unwrap();
    eventually("the upstream is reached", async || {
        let answer = e2e::client::Client::h1().get(&web).await?;
        ensure!(answer.header("x-instance") == "one", "{} {}", answer.status, answer.text());
        Ok(())
    })
    .await;
    eventually("it reports how it sees the service", async || {
        let status = secured.status().await?;
        let web = &status["services"][0];
        ensure!(web["cluster"] == "web" && web["proxies"] == 1 && web["fewest_healthy"] == 1, "{status:#}");
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_joins_by_its_certificate() {
    joins_by_its_certificate(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_proxy_joins_by_its_certificate() {
    joins_by_its_certificate(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_is_of_the_group_that_its_certificate_names() {
    let mut secured = Secured::start().await.unwrap();
    let (_, cert, key) = secured.pair(&["spiffe://tests/group/edge"], "edge").unwrap();
    // It says that it is of another group than its certificate does.
    let bootstrap = secured.bootstrap("pay", &cert, &key).unwrap();
    let _envoy = Envoy::launch_unready(&bootstrap).await.unwrap();
    eventually("it is refused, and the log says why", async || {
        let log = secured.control.process().log();
        ensure!(log.contains("its certificate names another group"), "{log}");
        Ok(())
    })
    .await;
    let status = secured.status().await.unwrap();
    let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
    assert!(!nodes.iter().any(|n| n["group"] == "pay"), "{status}");

    // Without a certificate there is no connection at all.
    let tls = Tls::new(&secured.authority.pem, "localhost", None).unwrap();
    // In TLS 1.3 the client has finished its handshake by then: it reads the alert, or finds the connection closed.
    tls.get(secured.control.xds, "/").await.expect_err("a client without a certificate was answered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changed_certificate_files_are_used_and_bad_ones_are_not() {
    let mut secured = Secured::start().await.unwrap();
    let tls = Tls::new(&secured.authority.pem, "localhost", None).unwrap();
    let api = secured.control.api;
    let before = tls.get(api, "/healthz").await.unwrap().chain;
    let (pair, ..) = secured.pair(&["localhost", "127.0.0.1"], "port").unwrap();
    eventually("the new certificate is shown", async || {
        let now = tls.get(api, "/healthz").await?.chain;
        ensure!(now != before, "still the old one");
        Ok(())
    })
    .await;
    let now = tls.get(api, "/healthz").await.unwrap().chain;
    std::fs::write(secured.dir.path().join("port.key"), "garbage").unwrap();
    eventually("the bad file is told of", async || {
        let log = secured.control.process().log();
        ensure!(log.contains("cannot be used; the old ones are"), "{log}");
        Ok(())
    })
    .await;
    assert_eq!(tls.get(api, "/healthz").await.unwrap().chain, now, "the old one serves on");
    let log = secured.control.process().log();
    assert!(!log.contains("PRIVATE") && !log.contains(&pair.key), "a key is in the log");
}

/// Fills every place of a port with connections that ask for nothing, each in its own way, and asks for something besides.
async fn silent_ones_make_room(port: SocketAddr, places: usize, ask: &str) -> Result<()> {
    let mut silent = Vec::new();
    for i in 0..places {
        let mut stream = TcpStream::connect(port).await?;
        // Nothing at all; half a preface of HTTP/2; a whole one, and pings are answered.
        match i % 3 {
            0 => {}
            1 => stream.write_all(b"PRI * HTTP/2.0\r\n").await?,
            _ => {
                let (sender, driver) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
                    .handshake::<_, http_body_util::Empty<bytes::Bytes>>(TokioIo::new(stream))
                    .await?;
                silent.push(tokio::spawn(async move {
                    let _sender = sender;
                    let _ = driver.await;
                }));
                continue;
            }
        }
        silent.push(tokio::spawn(async move { drop(stream.read(&mut [0; 64]).await) }));
    }
    let url = format!("http://{port}{ask}");
    eventually(&format!("{url} is answered beside silent connections"), async || {
        Client::h2().get(&url).await.map(drop)
    })
    .await;
    for one in silent {
        tokio::time::timeout(PATIENCE, one).await??;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_connections_lock_nobody_out() {
    let control = Control::start(&["--api-max-connections=6", "--xds-max-connections=6"]).await.unwrap();
    let Control { api, xds, ratelimit, .. } = &control;
    let (a, b, c) = tokio::join!(
        silent_ones_make_room(*api, 6, "/healthz"),
        silent_ones_make_room(*xds, 6, "/nothing"),
        silent_ones_make_room(*ratelimit, 6, "/nothing"),
    );
    a.and(b).and(c).unwrap();
}
