//! Real Redis.

use crate::eventually;
use crate::process::{Process, free_port, installed};
use anyhow::{Result, ensure};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;
use tempfile::TempDir;

/// A Redis in memory: a restart forgets everything.
#[derive(Debug)]
pub struct Redis {
    dir: TempDir,
    port: u16,
    password: Option<String>,
    process: Process,
}

impl Redis {
    /// Starts it and waits until it answers. With a password it takes no commands without.
    ///
    /// # Errors
    /// It is not installed or does not start.
    pub async fn start(password: Option<&str>) -> Result<Self> {
        let dir = TempDir::new()?;
        let port = free_port()?;
        let password = password.map(str::to_owned);
        let process = Self::spawn(&dir, port, password.as_deref())?;
        let mut redis = Self { dir, port, password, process };
        redis.ready().await?;
        Ok(redis)
    }

    /// `redis://host:port`.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
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
        self.process = Self::spawn(&self.dir, self.port, self.password.as_deref())?;
        self.ready().await
    }

    /// The process itself.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    fn spawn(dir: &TempDir, port: u16, password: Option<&str>) -> Result<Process> {
        let mut args: Vec<String> =
            ["--save", "", "--appendonly", "no", "--bind", "127.0.0.1", "--port"].map(str::to_owned).to_vec();
        args.push(port.to_string());
        if let Some(password) = password {
            args.extend(["--requirepass".to_owned(), password.to_owned()]);
        }
        Process::spawn("redis", &installed("redis-server"), args, &[], dir.path())
    }

    async fn ready(&mut self) -> Result<()> {
        let port = self.port;
        eventually("redis answers", async || -> Result<()> {
            self.process.check()?;
            let mut stream = TcpStream::connect(("127.0.0.1", port))?;
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
