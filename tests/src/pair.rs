//! Two proxies on the same configuration, asked the same: the real Envoy and ours.
//!
//! Each has an origin of its own, so that what each sends upstream is told apart.

use crate::envoy::Envoy;
use crate::process::{built, free_port, installed};
use crate::rls::Rls;
use crate::wire::{Origin, Role, Wire};
use crate::{eventually, h2wire, tcp};
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use tempfile::TempDir;

/// Asks the origin to close or reset.
const FAILING: &[&[u8]] = &[b"x-do: close\r\n", b"x-do: reset\r\n"];

/// Both sides.
#[derive(Debug)]
pub struct Pair {
    /// The reference.
    pub envoy: Side,
    /// What is held to it.
    pub ours: Side,
}

/// A proxy and what is around it.
#[derive(Debug)]
pub struct Side {
    /// Which of the two.
    pub name: &'static str,
    /// The proxy.
    pub proxy: Envoy,
    /// Its HTTP/1 origin.
    pub origin: Origin,
    /// Its HTTP/2 origin.
    pub h2: h2wire::Origin,
    /// Its rate limit service.
    pub rls: Rls,
    /// Its origin of bytes.
    pub tcp: tcp::Origin,
    /// A port at which nobody listens.
    refused: u16,
    dir: TempDir,
    listeners: BTreeMap<String, SocketAddr>,
}

/// One question: bytes to a listener.
#[derive(Clone, Debug)]
pub struct Case {
    /// What it is about.
    pub name: String,
    /// Which listener.
    pub listener: &'static str,
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Answers that come.
    pub answers: usize,
    /// Why ours may differ; the test then holds that it does.
    pub differs: Option<&'static str>,
}

impl Case {
    /// A question to the listener `web`.
    pub fn new(name: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        Self { name: name.into(), listener: "web", bytes, answers: 1, differs: None }
    }

    /// `METHOD PATH` with header lines, `host: test` unless one is given.
    pub fn ask(name: impl Into<String>, line: &str, headers: &[&str]) -> Self {
        Self::with_body(name, line, headers, b"")
    }

    /// As [`Self::ask`], with a body and its length.
    pub fn with_body(name: impl Into<String>, line: &str, headers: &[&str], body: &[u8]) -> Self {
        let mut text = format!("{line} HTTP/1.1\r\n");
        if !headers.iter().any(|h| h.to_ascii_lowercase().starts_with("host:")) {
            text += "host: test\r\n";
        }
        for header in headers {
            let _ = write!(text, "{header}\r\n");
        }
        if !body.is_empty() {
            let _ = write!(text, "content-length: {}\r\n", body.len());
        }
        text += "\r\n";
        Self::new(name, [text.as_bytes(), body].concat())
    }

    /// At another listener.
    pub fn at(mut self, listener: &'static str) -> Self {
        self.listener = listener;
        self
    }

    /// With so many answers.
    pub fn answers(mut self, answers: usize) -> Self {
        self.answers = answers;
        self
    }

    /// Ours differs, on purpose.
    pub fn differs(mut self, reason: &'static str) -> Self {
        self.differs = Some(reason);
        self
    }
}

/// An `http` listener on a port of its own: further fields of the connection manager, then virtual hosts, all in
/// YAML's flow style.
pub fn http_listener(name: &str, hcm: &str, virtual_hosts: &str) -> String {
    filtering_listener(name, "", hcm, virtual_hosts)
}

/// As [`http_listener`], with filters before the router, each followed by a comma.
pub fn filtering_listener(name: &str, filters: &str, hcm: &str, virtual_hosts: &str) -> String {
    let comma = if hcm.is_empty() { "" } else { ", " };
    format!(
        "{{name: {name}, stat_prefix: {name}, address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}, \
         filter_chains: [{{filters: [{{name: http, typed_config: {{\"@type\": \
         type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, \
         stat_prefix: {name}, delayed_close_timeout: 0.1s, \
         route_config: {{name: {name}_routes, {virtual_hosts}}}, http_filters: [{filters} {{name: router, \
         typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}}}]{comma}{hcm}}}}}]}}]}}"
    )
}

/// `virtual_hosts` with one host for everything and these routes.
pub fn routes(routes: &str) -> String {
    format!("virtual_hosts: [{{name: all, domains: [\"*\"], routes: [{routes}]}}]")
}

/// A cluster of one endpoint; `port` may be `$ORIGIN`, `$H2`, `$RLS`, `$TCP` or `$REFUSED`.
pub fn cluster(name: &str, port: &str, fields: &str) -> String {
    let comma = if fields.is_empty() { "" } else { ", " };
    format!(
        "{{name: {name}, load_assignment: {{cluster_name: {name}, endpoints: [{{lb_endpoints: [{{endpoint: {{address: \
         {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}}}]}}]}}{comma}{fields}}}"
    )
}

/// Cluster fields that make it speak HTTP/2.
pub const SPEAKS_H2: &str = "typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {\"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {http2_protocol_options: {}}}}";

impl Pair {
    /// Starts both on these listeners and clusters, one worker each. `$ORIGIN`, `$H2`, `$RLS`, `$TCP`, `$REFUSED` are ports and
    /// `$DIR` a folder.
    ///
    /// # Errors
    /// One of them is missing or does not start.
    pub async fn start(listeners: &[String], clusters: &[String]) -> Result<Self> {
        Self::start_with(listeners, clusters, &[], &[]).await
    }

    /// As [`Self::start`], with ports by further names, Envoy's and ours, and further arguments.
    ///
    /// # Errors
    /// One of them is missing or does not start.
    pub async fn start_with(
        listeners: &[String],
        clusters: &[String],
        ports: &[(&str, [u16; 2])],
        args: &[&str],
    ) -> Result<Self> {
        let config = format!(
            "{{admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}}}, node: {{id: node-1, cluster: fleet}}, \
             static_resources: {{listeners: [\n{}\n], clusters: [\n{}\n]}}}}\n",
            listeners.join(",\n"),
            clusters.join(",\n")
        );
        let of = |side: usize| {
            ports.iter().fold(config.clone(), |c, (name, ports)| c.replace(name, &ports[side].to_string()))
        };
        let (theirs, own) = (of(0), of(1));
        let envoys = [args, &["--disable-hot-restart"]].concat();
        let (envoy, ours) = tokio::try_join!(
            Side::start("envoy", installed("envoy"), &theirs, &envoys),
            Side::start("proxy", built("portolan-proxy")?, &own, args),
        )?;
        Ok(Self { envoy, ours })
    }

    /// Asks both every question, one after another, and compares all that can be seen.
    ///
    /// # Panics
    /// When they differ where they must not, or no longer differ where it is said that they do; with all of it.
    pub async fn compare(&self, cases: &[Case]) {
        let (envoy, ours) = tokio::join!(self.envoy.ask_all(cases), self.ours.ask_all(cases));
        let mut wrong = String::new();
        for ((case, envoy), ours) in cases.iter().zip(envoy).zip(ours) {
            match (envoy == ours, case.differs) {
                (true, None) | (false, Some(_)) => {}
                (true, Some(reason)) => {
                    let _ = writeln!(
                        wrong,
                        "=== {}: is said to differ ({reason}) and does not:\n{ours}",
                        case.name
                    );
                }
                (false, None) => {
                    let _ = writeln!(wrong, "=== {}\n{}", case.name, difference(&envoy, &ours));
                }
            }
        }
        assert!(wrong.is_empty(), "ours must answer as Envoy does (- Envoy, + ours):\n{wrong}");
    }
}

/// Lines of both texts, those of one only marked.
pub fn difference(envoy: &str, ours: &str) -> String {
    let (a, b): (Vec<_>, Vec<_>) = (envoy.lines().collect(), ours.lines().collect());
    // Longest common subsequence: the texts are short.
    let mut table = vec![vec![0_usize; b.len() + 1]; a.len() + 1];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            table[i][j] =
                if a[i] == b[j] { table[i + 1][j + 1] + 1 } else { table[i + 1][j].max(table[i][j + 1]) };
        }
    }
    let (mut i, mut j, mut out) = (0, 0, String::new());
    while i < a.len() || j < b.len() {
        if i < a.len() && j < b.len() && a[i] == b[j] {
            let _ = writeln!(out, "  {}", a[i]);
            (i, j) = (i + 1, j + 1);
        } else if j >= b.len() || (i < a.len() && table[i + 1][j] >= table[i][j + 1]) {
            let _ = writeln!(out, "- {}", a[i]);
            i += 1;
        } else {
            let _ = writeln!(out, "+ {}", b[j]);
            j += 1;
        }
    }
    out
}

impl Side {
    async fn start(name: &'static str, program: PathBuf, config: &str, args: &[&str]) -> Result<Self> {
        let (origin, h2, rls) = (Origin::start().await?, h2wire::Origin::start().await?, Rls::start().await?);
        let tcp = tcp::Origin::start().await?;
        let refused = free_port()?;
        let dir = TempDir::new()?;
        let config = config
            .replace("$ORIGIN", &origin.addr.port().to_string())
            .replace("$H2", &h2.addr.port().to_string())
            .replace("$RLS", &rls.addr.port().to_string())
            .replace("$TCP", &tcp.addr.port().to_string())
            .replace("$REFUSED", &refused.to_string())
            .replace("$DIR", &dir.path().display().to_string());
        let args = [args, &["--concurrency", "1"]].concat();
        let proxy = Envoy::launch(name, &program, &config, &args).await?;
        let text = proxy.admin("/listeners").await?.text();
        let mut listeners = BTreeMap::new();
        for line in text.lines() {
            let (name, addr) = line.split_once("::").context("a line of /listeners")?;
            listeners.insert(name.to_owned(), addr.parse()?);
        }
        Ok(Self { name, proxy, origin, h2, rls, tcp, refused, dir, listeners })
    }

    /// Where a listener is.
    ///
    /// # Panics
    /// There is none of that name.
    pub fn at(&self, listener: &str) -> SocketAddr {
        *self.listeners.get(listener).unwrap_or_else(|| panic!("{} has no listener {listener}", self.name))
    }

    /// A file of its folder `$DIR`.
    pub fn file(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(name)).unwrap_or_default()
    }

    async fn ask_all(&self, cases: &[Case]) -> Vec<String> {
        let mut out = Vec::with_capacity(cases.len());
        for case in cases {
            let told = match self.ask(case).await {
                Ok(told) => told,
                Err(error) => format!("failed: {error:#}\n"),
            };
            out.push(self.normal(&told));
        }
        out
    }

    /// Asks one question, and says what came back, whether the connection can be used again, and what the origin saw.
    async fn ask(&self, case: &Case) -> Result<String> {
        if FAILING.iter().any(|script| case.bytes.windows(script.len()).any(|w| w == *script)) {
            self.fresh(case.listener).await?;
        }
        self.origin.take();
        self.h2.take();
        self.rls.take();
        let mut wire = Wire::connect(self.at(case.listener)).await?;
        wire.send(&case.bytes).await?;
        let mut out = String::new();
        let mut left = case.answers;
        let head = case.bytes.starts_with(b"HEAD ");
        while left > 0 {
            let role = if head { Role::ResponseToHead } else { Role::Response };
            let Some(answer) = wire.message(role).await? else {
                out += "< (ends)\n";
                break;
            };
            out += &answer.describe("<");
            left -= usize::from(answer.status() / 100 != 1 || answer.status() == 101);
        }
        let (seen, asked) = (self.origin.take(), self.rls.take());
        if left == 0 {
            out += if self.reusable(&mut wire).await { "connection: open\n" } else { "connection: closed\n" };
        }
        for message in seen {
            out += &message.describe(">");
        }
        for message in self.h2.take() {
            out += &message.describe(">");
        }
        out.extend(asked);
        Ok(out)
    }

    /// Makes sure that the next request goes out on a fresh connection: how a reused one fails is another matter.
    ///
    /// # Errors
    /// No answer.
    pub async fn fresh(&self, listener: &str) -> Result<()> {
        let mut wire = Wire::connect(self.at(listener)).await?;
        wire.send(b"GET /ok?probe HTTP/1.1\r\nhost: test\r\nx-do: close-header\r\n\r\n").await?;
        wire.message(Role::Response).await?;
        Ok(())
    }

    async fn reusable(&self, wire: &mut Wire) -> bool {
        let sent = wire.send(b"GET /probe HTTP/1.1\r\nhost: probe\r\n\r\n").await;
        sent.is_ok() && matches!(wire.message(Role::Response).await, Ok(Some(_)))
    }

    /// A text without what differs between any two runs: times, ids, ports.
    pub fn normal(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (name, addr) in &self.listeners {
            text = text.replace(&format!("127.0.0.1:{}", addr.port()), &format!("127.0.0.1:${name}"));
            text = text
                .replace(&format!("\"port_value\": {}", addr.port()), &format!("\"port_value\": ${name}"));
            text = text.replace(&format!("127.0.0.1_{}", addr.port()), &format!("127.0.0.1_${name}"));
        }
        let ports = [
            (self.origin.addr.port(), "$ORIGIN"),
            (self.h2.addr.port(), "$H2"),
            (self.tcp.addr.port(), "$TCP"),
            (self.refused, "$REFUSED"),
            (self.proxy.admin.port(), "$ADMIN"),
        ];
        for (port, name) in ports {
            text = text.replace(&format!("127.0.0.1:{port}"), &format!("127.0.0.1:{name}"));
        }
        let mut out = String::with_capacity(text.len());
        for line in text.lines() {
            out += &normal_line(line);
            out.push('\n');
        }
        out
    }

    /// Ends the proxy so that everything it holds back is written.
    ///
    /// # Errors
    /// It does not end.
    pub async fn quit(&mut self) -> Result<()> {
        let url = format!("http://{}/quitquitquit", self.proxy.admin);
        crate::client::Client::h1().send("POST", &url, &[], "").await?;
        eventually("it ends", async || -> Result<()> {
            anyhow::ensure!(self.proxy.process().check().is_err(), "still runs");
            Ok(())
        })
        .await;
        Ok(())
    }
}

fn normal_line(line: &str) -> String {
    let Some((name, value)) = line.split_once(": ") else { return line.to_owned() };
    let value = match &*name.trim_start_matches(['<', '>', ' ']).to_ascii_lowercase() {
        "date" if value.len() == 29 && value.ends_with("GMT") && !value.contains("1994") => "(now)",
        "x-request-id" if is_uuid4(value) => "(uuid)",
        "x-envoy-upstream-service-time" if value.parse::<u32>().is_ok() => "(ms)",
        _ => value,
    };
    format!("{name}: {value}")
}

/// Whether this is a random UUID as RFC 9562 writes it.
pub fn is_uuid4(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    parts.iter().map(|p| p.len()).eq([8, 4, 4, 4, 12])
        && text.chars().all(|c| c == '-' || c.is_ascii_hexdigit())
        && parts[2].starts_with('4')
}
