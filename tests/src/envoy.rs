//! Real Envoy.

use crate::client::{Answer, Client};
use crate::eventually;
use crate::process::{Process, installed};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use tempfile::TempDir;

/// A proxy process with an Envoy admin interface: the real Envoy, or ours, which takes the same flags.
#[derive(Debug)]
pub struct Envoy {
    dir: TempDir,
    process: Process,
    /// Where the admin interface listens.
    pub admin: SocketAddr,
}

/// How long a start waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// The admin interface answers.
    Answers,
    /// `/ready` says LIVE.
    Ready,
}

impl Envoy {
    /// Starts the real Envoy on a bootstrap whose admin port may be 0, and waits until `/ready` says LIVE.
    ///
    /// # Errors
    /// It is not installed or does not get ready.
    pub async fn start(bootstrap: &str) -> Result<Self> {
        Self::launch("envoy", &installed("envoy"), bootstrap, &["--disable-hot-restart"]).await
    }

    /// Starts it and waits only until its admin interface answers: it may not be ready yet.
    ///
    /// # Errors
    /// It is not installed or ends.
    pub async fn launch_unready(bootstrap: &str) -> Result<Self> {
        let args = ["--disable-hot-restart"];
        Self::launch_until("envoy", &installed("envoy"), bootstrap, &args, Until::Answers).await
    }

    /// Starts `program`, Envoy or ours, as [`Self::start`], with further arguments.
    ///
    /// # Errors
    /// It does not get ready.
    pub async fn launch(name: &str, program: &Path, bootstrap: &str, args: &[&str]) -> Result<Self> {
        Self::launch_until(name, program, bootstrap, args, Until::Ready).await
    }

    pub(crate) async fn launch_until(
        name: &str,
        program: &Path,
        bootstrap: &str,
        args: &[&str],
        until: Until,
    ) -> Result<Self> {
        let dir = TempDir::new()?;
        let config = dir.path().join("bootstrap.yaml");
        std::fs::write(&config, bootstrap)?;
        let address_file = dir.path().join("admin");
        let mut all: Vec<String> = vec![
            "-c".into(),
            config.display().to_string(),
            "--admin-address-path".into(),
            address_file.display().to_string(),
            "-l".into(),
            "info".into(),
        ];
        if !args.contains(&"--concurrency") {
            all.extend(["--concurrency".into(), "2".into()]);
        }
        all.extend(args.iter().map(|a| (*a).to_owned()));
        let mut process = Process::spawn(name, program, all, &[], dir.path())?;
        let client = Client::h1();
        let admin = eventually("proxy is ready", async || -> Result<Result<SocketAddr>> {
            // One that has ended will not get ready.
            if let Err(ended) = process.check() {
                return Ok(Err(ended));
            }
            let admin: SocketAddr = std::fs::read_to_string(&address_file)?.trim().parse()?;
            let answer = client.get(&format!("http://{admin}/ready")).await?;
            ensure!(answer.status == 200 || until == Until::Answers, "/ready: {}", answer.text());
            Ok(Ok(admin))
        })
        .await?;
        Ok(Self { dir, process, admin })
    }

    /// `GET path` on the admin interface.
    ///
    /// # Errors
    /// No answer.
    pub async fn admin(&self, path: &str) -> Result<Answer> {
        Client::h1().get(&format!("http://{}{path}", self.admin)).await
    }

    /// The address a listener is bound to.
    ///
    /// # Errors
    /// There is no such listener now.
    pub async fn listener(&self, name: &str) -> Result<SocketAddr> {
        let text = self.admin("/listeners").await?.text();
        let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix("::"));
        Ok(line.with_context(|| format!("no listener {name} in:\n{text}"))?.parse()?)
    }

    /// All counters and gauges.
    ///
    /// # Errors
    /// No answer.
    pub async fn stats(&self) -> Result<BTreeMap<String, u64>> {
        let text = self.admin("/stats").await?.text();
        Ok(text
            .lines()
            .filter_map(|l| l.split_once(": "))
            .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
            .collect())
    }

    /// Its folder: the bootstrap is `bootstrap.yaml` in it.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The process itself.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}
