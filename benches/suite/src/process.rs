//! Programs under measurement and beside it: started on a core, watched, and never left behind.

use crate::machine::{self, Cores};
use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// Longest wait for a program that was asked to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// A program to start.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    /// What to call it, and its log.
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    pub(crate) args: Vec<String>,
    pub(crate) cores: Cores,
    /// Where its log goes.
    pub(crate) dir: PathBuf,
    /// Whether it is asked to end, not killed: it has children, or something to write.
    pub(crate) gentle: bool,
}

/// A running program; ended when dropped, and when this program dies.
#[derive(Debug)]
pub(crate) struct Running {
    name: String,
    child: Child,
    log: PathBuf,
    gentle: bool,
}

impl Program {
    /// Starts it.
    pub(crate) fn start(&self) -> Result<Running> {
        let log = self.dir.join(format!("{}.log", self.name));
        let out = File::create(&log)?;
        let cores: Vec<String> = self.cores.numbers().iter().map(ToString::to_string).collect();
        let child = Command::new("taskset")
            .args([
                "-c",
                &cores.join(","),
                "setpriv",
                "--pdeathsig",
                if self.gentle { "TERM" } else { "KILL" },
                "--",
            ])
            .arg(&self.path)
            .args(&self.args)
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .with_context(|| format!("starting {}", self.name))?;
        Ok(Running { name: self.name.clone(), child, log, gentle: self.gentle })
    }
}

impl Running {
    /// Its process id: `taskset`, `setpriv` and the wrappers of `.dev/bin` become the program.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// CPU time so far.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        Ok(self.cpu_by_thread()?.iter().map(|(_, time)| *time).sum())
    }

    /// The same, of each thread or child by its id.
    pub(crate) fn cpu_by_thread(&self) -> Result<Vec<(u32, Duration)>> {
        machine::cpu(self.pid()).with_context(|| self.last_words())
    }

    /// Resident memory, KiB.
    pub(crate) fn rss_kib(&self) -> Result<f64> {
        machine::rss_kib(self.pid()).with_context(|| self.last_words())
    }

    /// An error with its log when it has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("{} ended with {status}: {}", self.name, self.last_words()),
            None => Ok(()),
        }
    }

    /// Asks it to end and waits until it has.
    pub(crate) fn end(&mut self, patience: Duration) -> Result<()> {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).context("no process id")?;
        kill_process(pid, Signal::TERM)?;
        let start = Instant::now();
        while self.child.try_wait()?.is_none() {
            ensure!(start.elapsed() < patience, "{} does not end: {}", self.name, self.last_words());
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    fn last_words(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        format!("{} said:\n{}", self.name, lines[lines.len().saturating_sub(12)..].join("\n"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.gentle && self.end(PATIENCE).is_ok() {
            return;
        }
        // Gone already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where ports to listen on are looked for: below those that outgoing connections take, of which there are
/// thousands here.
const FIRST_PORT: u16 = 20_000;
const END_PORT: u16 = 32_000;

/// A port that was free a moment ago, and is not given out again soon.
pub(crate) fn free_port() -> Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(FIRST_PORT);
    for _ in FIRST_PORT..END_PORT {
        let next = |port| Some(if port + 1 < END_PORT { port + 1 } else { FIRST_PORT });
        let port = NEXT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).unwrap_or(FIRST_PORT);
        if TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no port is free between {FIRST_PORT} and {END_PORT}")
}

/// A file of `text`, put in its place in one step.
pub(crate) fn place(path: &Path, text: impl AsRef<[u8]>) -> Result<()> {
    let draft = path.with_extension("draft");
    std::fs::write(&draft, text)?;
    std::fs::rename(&draft, path).with_context(|| format!("writing {}", path.display()))
}
