//! Real Redis.

use crate::certs::Authority;
use crate::eventually;
use crate::process::{Process, free_port, installed};
use anyhow::{Result, ensure};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::Duration;
use tempfile::TempDir;

/// A Redis in memory: a restart forgets everything.
#[derive(Debug)]
pub struct Redis {
    dir: TempDir,
    port: u16,
    secured: Secured,
    process: Process,
}

/// Who may speak with it, and how.
#[derive(Clone, Debug, Default)]
struct Secured {
    password: Option<String>,
    /// Certificate and key; with them it takes nothing but TLS.
    tls: Option<(PathBuf, PathBuf)>,
}

impl Redis {
    /// Starts it and waits until it answers. With a password it takes no commands without.
    ///
    /// # Errors
    /// It is not installed or does not start.
    pub async fn start(password: Option<&str>) -> Result<Self> {
        let secured = Secured { password: password.map(str::to_owned), tls: None };
        Self::launch(TempDir::new()?, secured).await
    }

    /// Starts it with TLS, for the address 127.0.0.1 by an authority.
    ///
    /// # Errors
    /// It is not installed or does not start.
    pub async fn start_tls(authority: &Authority) -> Result<Self> {
        let dir = TempDir::new()?;
        let tls = authority.issue(&["127.0.0.1"])?.write(dir.path(), "redis")?;
        Self::launch(dir, Secured { password: None, tls: Some(tls) }).await
    }

    async fn launch(dir: TempDir, secured: Secured) -> Result<Self> {
        let port = free_port()?;
        let process = Self::spawn(&dir, port, &secured)?;
        let mut redis = Self { dir, port, secured, process };
        redis.ready().await?;
        Ok(redis)
    }

    /// `redis://host:port`, or `rediss://` where it speaks TLS.
    pub fn url(&self) -> String {
        let scheme = if self.secured.tls.is_some() { "rediss" } else { "redis" };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    /// Kills it; what it knew is gone.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again, empty, on the same port.
    ///
    /// # Errors
    /// It does not start.
    pub async fn restart(&mut self) -> Result<()> {
        self.process.kill();
        self.process = Self::spawn(&self.dir, self.port, &self.secured)?;
        self.ready().await
    }

    /// The process itself.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    fn spawn(dir: &TempDir, port: u16, secured: &Secured) -> Result<Process> {
        let mut args: Vec<String> =
            ["--save", "", "--appendonly", "no", "--bind", "127.0.0.1"].map(str::to_owned).to_vec();
        let mut flag = |name: &str, value: String| args.extend([name.to_owned(), value]);
        match &secured.tls {
            None => flag("--port", port.to_string()),
            Some((chain, key)) => {
                flag("--port", "0".to_owned());
                flag("--tls-port", port.to_string());
                flag("--tls-cert-file", chain.display().to_string());
                flag("--tls-key-file", key.display().to_string());
                flag("--tls-auth-clients", "no".to_owned());
            }
        }
        if let Some(password) = &secured.password {
            flag("--requirepass", password.clone());
        }
        Process::spawn("redis", &installed("redis-server"), args, &[], dir.path())
    }

    async fn ready(&mut self) -> Result<()> {
        let (port, tls) = (self.port, self.secured.tls.is_some());
        eventually("redis answers", async || -> Result<()> {
            self.process.check()?;
            let mut stream = TcpStream::connect(("127.0.0.1", port))?;
            if tls {
                return Ok(());
            }
            stream.set_read_timeout(Some(Duration::from_secs(1)))?;
            stream.write_all(b"PING\r\n")?;
            let mut said = [0; 64];
            let n = stream.read(&mut said)?;
            // `+PONG`, or that it wants a password.
            ensure!(n > 0, "it closed");
            Ok(())
        })
        .await;
        Ok(())
    }
}
