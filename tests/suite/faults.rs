//! What goes wrong around a proxy, under load: what clients are told of it, what the origin gets and how often, and
//! what is left of it afterwards. Where the real Envoy can be asked the same, ours is held to its answers.

mod clients;
mod exchange;
mod expect;
mod fleet;
mod handshakes;
mod overload;
mod pools;

use anyhow::{Context, Result, ensure};
use e2e::envoy::Envoy;
use e2e::eventually;
use e2e::faulty::{BlackHole, Faulty};
use e2e::pair::{cluster, http_listener};
use e2e::process::{built, free_port, installed};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// Memory that a proxy may have gained once the load is over, bytes.
const GAINED: u64 = 48 * 1024 * 1024;

/// Logs what became of a request, by its id.
const HCM: &str = "access_log: [{name: file, typed_config: {\"@type\": \
                   type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: $DIR/access.log, \
                   log_format: {text_format_source: {inline_string: \"%REQ(x-id)% %RESPONSE_CODE% %RESPONSE_FLAGS% \
                   %RESPONSE_CODE_DETAILS% %UPSTREAM_PROTOCOL% tries=%UPSTREAM_REQUEST_ATTEMPT_COUNT%\\n\"}}}}]";

/// How local replies to what failed upstream begin.
const RESET: &str = "503 upstream connect error or disconnect/reset before headers. ";

/// No limit gets into the way.
const UNLIMITED: &str = "circuit_breakers: {thresholds: [{max_connections: 9999, max_pending_requests: 9999, \
                         max_requests: 9999, max_retries: 9999}]}";

const RETRIES: &str = "num_retries: 2, retry_back_off: {base_interval: 0.001s, max_interval: 0.002s}";

const HTTP2: &str = "typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: \
                     {\"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, \
                     explicit_http_config: {http2_protocol_options: {}}}}";

/// A bootstrap for these listeners and clusters, in YAML's flow style.
fn bootstrap(listeners: &[String], clusters: &[String]) -> String {
    format!(
        "{{admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}}}, node: {{id: node-1, cluster: fleet}}, \
         static_resources: {{listeners: [\n{}\n], clusters: [\n{}\n]}}}}\n",
        listeners.join(",\n"),
        clusters.join(",\n")
    )
}

fn route(prefix: &str, cluster: &str, fields: &str) -> String {
    let comma = if fields.is_empty() { "" } else { ", " };
    format!("{{match: {{prefix: {prefix}}}, route: {{cluster: {cluster}{comma}{fields}}}}}")
}

/// A listener `web` with these routes, which count tries.
fn web(routes: &[String]) -> String {
    let hosts = format!(
        "virtual_hosts: [{{name: all, domains: [\"*\"], include_request_attempt_count: true, routes: [{}]}}]",
        routes.join(", ")
    );
    http_listener("web", HCM, &hosts)
}

/// A proxy, its faulty origin, and what the proxy was like before the load.
struct Site {
    name: &'static str,
    proxy: Envoy,
    up: Faulty,
    web: SocketAddr,
    dir: tempfile::TempDir,
    _hole: BlackHole,
    before: Footprint,
}

#[derive(Clone, Copy, Debug)]
struct Footprint {
    files: usize,
    threads: usize,
    resident: u64,
}

impl Footprint {
    fn of(pid: u32) -> Result<Self> {
        let entries =
            |what: &str| Ok::<_, anyhow::Error>(std::fs::read_dir(format!("/proc/{pid}/{what}"))?.count());
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let resident: u64 = resident.trim().trim_end_matches(" kB").parse()?;
        Ok(Self { files: entries("fd")?, threads: entries("task")?, resident: resident * 1024 })
    }
}

impl Site {
    /// Ours, or the real Envoy, on a configuration in which `$UP`, `$HOLE`, `$REFUSED` are ports and `$DIR` a folder.
    async fn start(ours: bool, config: &str) -> Self {
        Self::start_with(ours, config, 2).await
    }

    async fn start_with(ours: bool, config: &str, workers: u32) -> Self {
        let up = Faulty::start().await.unwrap();
        let hole = BlackHole::start().await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let config = config
            .replace("$UP", &up.addr.port().to_string())
            .replace("$HOLE", &hole.addr.port().to_string())
            .replace("$REFUSED", &free_port().unwrap().to_string())
            .replace("$DIR", &dir.path().display().to_string());
        let (name, program) =
            if ours { ("ours", built("portolan-proxy").unwrap()) } else { ("envoy", installed("envoy")) };
        let workers = workers.to_string();
        let mut extra = vec!["--concurrency", &workers];
        if !ours {
            extra.push("--disable-hot-restart");
        }
        let mut proxy = Envoy::launch(name, &program, &config, &extra).await.unwrap();
        let web = proxy.listener("web").await.unwrap();
        let before = Footprint::of(proxy.process().pid()).unwrap();
        Self { name, proxy, up, web, dir, _hole: hole, before }
    }

    async fn pair(config: &str) -> [Self; 2] {
        [Self::start(true, config).await, Self::start(false, config).await]
    }

    /// Lines of the access log, by id.
    fn log(&self) -> BTreeMap<String, String> {
        let text = std::fs::read_to_string(self.dir.path().join("access.log")).unwrap_or_default();
        text.lines()
            .filter_map(|line| line.split_once(' '))
            .map(|(id, line)| (id.to_owned(), line.to_owned()))
            .collect()
    }

    /// Waits until nothing is under way any more.
    async fn quiet(&self) {
        eventually(&format!("{}: nothing is under way", self.name), async || {
            let stats = self.proxy.stats().await?;
            for (name, value) in &stats {
                let (group, gauge) = name.rsplit_once('.').unwrap_or_default();
                let counts = match gauge {
                    "downstream_cx_active" | "downstream_rq_active" => group == "http.web",
                    "upstream_rq_active" | "upstream_rq_pending_active" => true,
                    _ => group.contains(".circuit_breakers.") && gauge.ends_with("_open"),
                };
                ensure!(*value == 0 || !counts, "{name}: {value}");
            }
            Ok(())
        })
        .await;
    }

    /// Nothing must be left of it all: no connection, file, thread, no memory to speak of, no word of a panic.
    async fn over(mut self) {
        self.quiet().await;
        self.up.down().await;
        if self.name != "ours" {
            return;
        }
        let pid = self.proxy.process().pid();
        let before = self.before;
        eventually(&format!("{}: nothing is left", self.name), async || {
            let stats = self.proxy.stats().await?;
            for (name, value) in stats.iter().filter(|(name, _)| name.ends_with("upstream_cx_active")) {
                ensure!(*value == 0, "{name}: {value}");
            }
            let now = Footprint::of(pid)?;
            ensure!(now.files <= before.files + 1, "files: {now:?} after {before:?}");
            ensure!(now.threads <= before.threads, "threads: {now:?} after {before:?}");
            ensure!(now.resident <= before.resident + GAINED, "memory: {now:?} after {before:?}");
            Ok(())
        })
        .await;
        let log = self.proxy.process().log();
        assert!(!log.contains("panicked") && !log.contains("assert failure"), "{}: {log}", self.name);
        self.proxy.process().check().unwrap();
    }
}
