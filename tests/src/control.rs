//! Our own control plane, as a process.

use crate::client::{Answer, Client};
use crate::eventually;
use crate::process::{Process, built};
use anyhow::{Result, ensure};
use bytes::Bytes;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// A `portolan-control` process; its data survives [`Control::restart`].
#[derive(Debug)]
pub struct Control {
    dir: Arc<TempDir>,
    args: Vec<String>,
    process: Process,
    /// Where proxies connect.
    pub xds: SocketAddr,
    /// Where the API listens.
    pub api: SocketAddr,
    /// Where the rate-limit service listens.
    pub ratelimit: SocketAddr,
    client: Client,
}

impl Control {
    /// Starts it on ports of its own, with further arguments such as `--store etcd://...`, and waits until it
    /// has bound them.
    ///
    /// # Errors
    /// It is not built or does not start.
    pub async fn start(args: &[&str]) -> Result<Self> {
        let args = args.iter().map(|a| (*a).to_owned()).collect();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Self::launch(Arc::new(TempDir::new()?), args, any, any).await
    }

    async fn launch(dir: Arc<TempDir>, args: Vec<String>, xds: SocketAddr, api: SocketAddr) -> Result<Self> {
        let address_path = dir.path().join("addresses");
        let _ = std::fs::remove_file(&address_path);
        let mut all = vec![
            format!("--xds-address={xds}"),
            format!("--api-address={api}"),
            "--ratelimit-address=127.0.0.1:0".to_owned(),
            format!("--address-path={}", address_path.display()),
            format!("--data-dir={}", dir.path().join("data").display()),
        ];
        all.extend(args.iter().cloned());
        let mut process = Process::spawn("control", &built("portolan-control")?, all, &[], dir.path())?;
        let (xds, api, ratelimit) = eventually("the control plane is up", async || -> Result<_> {
            process.check()?;
            let told: serde_json::Value = serde_json::from_slice(&std::fs::read(&address_path)?)?;
            let address = |name: &str| told[name].as_str().unwrap_or_default().parse();
            Ok((address("xds")?, address("api")?, address("ratelimit")?))
        })
        .await;
        Ok(Self { dir, args, process, xds, api, ratelimit, client: Client::h1() })
    }

    /// Kills it as a crash would.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again on the same ports and data.
    ///
    /// # Errors
    /// It does not start.
    pub async fn restart(&mut self) -> Result<()> {
        self.process.kill();
        *self = Self::launch(Arc::clone(&self.dir), self.args.clone(), self.xds, self.api).await?;
        Ok(())
    }

    /// A call of the REST API.
    ///
    /// # Errors
    /// No answer.
    pub async fn call(&self, method: &str, path: &str, body: impl Into<Bytes>) -> Result<Answer> {
        self.client.send(method, &format!("http://{}{path}", self.api), &[], body).await
    }

    /// Applies objects written as YAML.
    ///
    /// # Errors
    /// They are refused.
    pub async fn apply(&self, yaml: &str) -> Result<()> {
        let answer = self.call("POST", "/api/v1/apply", yaml.to_owned()).await?;
        ensure!(answer.status == 200, "apply: {} {}", answer.status, answer.text());
        Ok(())
    }

    /// Registers an instance; without `ttl` it stays.
    ///
    /// # Errors
    /// It is refused.
    pub async fn register(
        &self,
        service: &str,
        id: &str,
        addr: SocketAddr,
        ttl: Option<Duration>,
    ) -> Result<()> {
        let mut body = serde_json::json!({"address": addr.ip(), "port": addr.port()});
        if let Some(ttl) = ttl {
            body["ttl"] = format!("{}s", ttl.as_secs_f64()).into();
        }
        let path = format!("/api/v1/services/{service}/instances/{id}");
        let answer = self.call("PUT", &path, body.to_string()).await?;
        ensure!(answer.status == 200, "register: {} {}", answer.status, answer.text());
        Ok(())
    }

    /// Deregisters an instance.
    ///
    /// # Errors
    /// It is refused.
    pub async fn deregister(&self, service: &str, id: &str) -> Result<()> {
        let answer =
            self.call("DELETE", &format!("/api/v1/services/{service}/instances/{id}"), Bytes::new()).await?;
        ensure!(answer.status == 200, "deregister: {} {}", answer.status, answer.text());
        Ok(())
    }

    /// A bootstrap for a proxy of this group, with an admin port of its own choosing.
    ///
    /// # Errors
    /// It is refused.
    pub async fn bootstrap(&self, group: &str, node: &str, delta: bool) -> Result<String> {
        let path = format!("/api/v1/bootstrap?group={group}&node={node}&delta={delta}&admin=127.0.0.1:0");
        let answer = self.call("GET", &path, Bytes::new()).await?;
        ensure!(answer.status == 200, "bootstrap: {} {}", answer.status, answer.text());
        Ok(answer.text())
    }

    /// `GET /api/v1/status`.
    ///
    /// # Errors
    /// No answer.
    pub async fn status(&self) -> Result<serde_json::Value> {
        self.call("GET", "/api/v1/status", Bytes::new()).await?.json()
    }

    /// Its folder.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The process itself.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}
