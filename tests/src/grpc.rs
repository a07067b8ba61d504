//! gRPC's own xDS client (Python), as a process.

use crate::process::installed;
use anyhow::{Context, Result, bail};
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::Mutex;

/// Longest wait for a call's outcome; the call's own deadline is 3 s.
const DEADLINE: Duration = Duration::from_secs(20);

/// A client with one channel, such as `xds:///web`.
#[derive(Debug)]
pub struct GrpcClient {
    _dir: TempDir,
    _child: Child,
    pipes: Mutex<(ChildStdin, Lines<BufReader<ChildStdout>>)>,
}

impl GrpcClient {
    /// Starts a client that asks `xds` for where `target` goes.
    ///
    /// # Errors
    /// grpcio is not installed.
    pub fn start(xds: SocketAddr, group: &str, node: &str, target: &str) -> Result<Self> {
        let dir = TempDir::new()?;
        let bootstrap = dir.path().join("bootstrap.json");
        let text = serde_json::json!({
            "xds_servers": [{
                "server_uri": xds.to_string(),
                "channel_creds": [{"type": "insecure"}],
                "server_features": ["xds_v3"],
            }],
            "node": {"id": node, "cluster": group},
        });
        std::fs::write(&bootstrap, text.to_string())?;
        let script = dir.path().join("client.py");
        std::fs::write(&script, include_str!("grpc_client.py"))?;
        let mut child = Command::new(installed("python-grpc"))
            .arg(script)
            .arg(target)
            .env("GRPC_XDS_BOOTSTRAP", bootstrap)
            // While its calls fail at once nobody else looks at its xDS stream, by default every 5 s: each step of coming back
            // takes that long.
            .env("GRPC_CLIENT_CHANNEL_BACKUP_POLL_INTERVAL_MS", "100")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("python-grpc; `make test` installs it")?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("pipes of the gRPC client")
        };
        let pipes = Mutex::new((stdin, BufReader::new(stdout).lines()));
        Ok(Self { _dir: dir, _child: child, pipes })
    }

    /// Calls once and answers which instance replied.
    ///
    /// # Errors
    /// The call failed; with gRPC's status and reason.
    pub async fn call(&self) -> Result<String> {
        let mut pipes = self.pipes.lock().await;
        pipes.0.write_all(b"\n").await?;
        let line = tokio::time::timeout(DEADLINE, pipes.1.next_line())
            .await
            .context("no outcome from the gRPC client")??
            .context("the gRPC client has ended")?;
        match line.split_once(' ') {
            Some(("ok", instance)) => Ok(instance.to_owned()),
            _ => bail!("{line}"),
        }
    }
}

/// A gRPC server (Python's grpcio) of every kind of call.
#[derive(Debug)]
pub struct GrpcEcho {
    dir: TempDir,
    _child: Child,
    /// Its port on 127.0.0.1.
    pub port: u16,
}

impl GrpcEcho {
    /// Starts one.
    ///
    /// # Errors
    /// grpcio is not installed.
    pub async fn start() -> Result<Self> {
        let dir = TempDir::new()?;
        let script = dir.path().join("echo.py");
        std::fs::write(&script, include_str!("grpc_echo.py"))?;
        let mut child = Command::new(installed("python-grpc"))
            .arg(&script)
            .arg("serve")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("python-grpc; `make test` installs it")?;
        let mut lines = BufReader::new(child.stdout.take().context("its output")?).lines();
        let line = tokio::time::timeout(DEADLINE, lines.next_line()).await.context("no port")??;
        let port = line.context("the gRPC server has ended")?.trim().parse()?;
        Ok(Self { dir, _child: child, port })
    }

    /// How calls of every kind go through the proxy at `addr`, a line each.
    ///
    /// # Errors
    /// The client does not end.
    pub async fn talk(&self, addr: SocketAddr) -> Result<String> {
        let child = Command::new(installed("python-grpc"))
            .arg(self.dir.path().join("echo.py"))
            .arg("talk")
            .arg(addr.port().to_string())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(4 * DEADLINE, child).await.context("the client hangs")??;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}
