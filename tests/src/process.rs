//! Child processes that leave a log and never outlive their owner.

use anyhow::{Context, Result, bail};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Seek};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A running program; killed when dropped, also when the thread that started it ends.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    /// The same, also once its folder is gone.
    said: File,
}

impl Process {
    /// Starts `program`; its output goes to `dir/name.log`.
    ///
    /// # Errors
    /// The program is missing or cannot be started.
    pub fn spawn(
        name: &str,
        program: &Path,
        args: impl IntoIterator<Item = impl AsRef<OsStr>>,
        env: &[(&str, &str)],
        dir: &Path,
    ) -> Result<Self> {
        if !program.exists() {
            bail!("{} is missing: `make test` and `make demo` build or install it", program.display());
        }
        let log = dir.join(format!("{name}.log"));
        let out = File::options().read(true).append(true).create(true).open(&log)?;
        // setpriv (util-linux): the child dies with this thread, however the thread ends.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program)
            .args(args)
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out.try_clone()?)
            .current_dir(dir)
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        Ok(Self { name: name.to_owned(), child, log, said: out })
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// User and system time it has used so far, in ticks of the clock (10 ms).
    ///
    /// # Errors
    /// The process is gone.
    pub fn cpu(&self) -> Result<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid()))?;
        // The name in parentheses may hold spaces; utime and stime are the 14th and 15th field.
        let after = stat.rsplit_once(") ").context("stat without a name")?.1;
        let ticks: u64 = after.split(' ').skip(11).take(2).map(|f| f.parse().unwrap_or(0)).sum();
        Ok(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
    }

    /// All it has written so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Sends a signal by name: `TERM`, `HUP`, `STOP`.
    ///
    /// # Errors
    /// The process is gone.
    pub fn signal(&self, signal: &str) -> Result<()> {
        let status = Command::new("kill").args([format!("-{signal}"), self.pid().to_string()]).status()?;
        if !status.success() {
            bail!("{} is gone:\n{}", self.name, self.log());
        }
        Ok(())
    }

    /// An error with the log when it has ended.
    ///
    /// # Errors
    /// The process has ended.
    pub fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("{} ended with {status}:\n{}", self.name, self.log()),
            None => Ok(()),
        }
    }

    /// Kills it without warning, as a crash would.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits for it to end by itself.
    ///
    /// # Errors
    /// It has not ended when `patience` is over.
    pub fn wait(&mut self, patience: Duration) -> Result<ExitStatus> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if start.elapsed() > patience {
                bail!("{} has not ended after {patience:?}:\n{}", self.name, self.log());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Lines of a process's log that a failed test shows.
const TOLD: usize = 40;

impl Drop for Process {
    /// Where a test has failed, the end of the log tells why.
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let mut log = Vec::new();
            let _ = self.said.rewind().and_then(|()| self.said.read_to_end(&mut log));
            let log = String::from_utf8_lossy(&log);
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("---- the last that {} said", self.name);
            for line in &lines[lines.len().saturating_sub(TOLD)..] {
                eprintln!("{line}");
            }
        }
    }
}

/// A port that was free a moment ago, for servers that cannot pick one themselves.
///
/// # Errors
/// The system has none.
pub fn free_port() -> Result<u16> {
    // Below the range that the system takes ports of outgoing connections from: one of those may be gone by the time
    // that it is used. Each is given once in this process, and processes begin at places of their own.
    const PORTS: std::ops::Range<u32> = 12_000..32_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let begin = std::process::id().wrapping_mul(619);
    for _ in PORTS {
        let next = begin.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = (PORTS.start + next % (PORTS.end - PORTS.start)) as u16;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no port is free")
}

/// A server installed by `deploy/dev`.
pub fn installed(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../.dev/bin").join(name)
}

/// One of our own binaries, built beside this one.
///
/// # Errors
/// Where this binary runs from is unknown.
pub fn built(name: &str) -> Result<PathBuf> {
    let here = std::env::current_exe()?;
    // target/PROFILE/portolan-demo, or target/PROFILE/deps/suite-HASH.
    let dir = here.parent().context("binary without a folder")?;
    let dir = if dir.ends_with("deps") { dir.parent().context("deps without a parent")? } else { dir };
    Ok(dir.join(name))
}
