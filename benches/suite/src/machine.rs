//! The machine: cores, limits, clocks of processes, and what a reader of figures must know about it.

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Resource, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};
use std::fs::read_to_string;
use std::path::Path;
use std::process::Command;
use std::thread::available_parallelism;
use std::time::Duration;

/// Where a program runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Cores {
    /// Core 0, which is of what is measured.
    Proxy,
    /// Core 1: of backend, load and this program.
    Load,
    Both,
}

impl Cores {
    /// Their numbers.
    pub(crate) fn numbers(self) -> &'static [usize] {
        match self {
            Self::Proxy => &[0],
            Self::Load => &[1],
            Self::Both => &[0, 1],
        }
    }
}

/// Moves a running program, and whatever it starts from then on; `None` is this one.
pub(crate) fn pin(pid: Option<u32>, cores: Cores) -> Result<()> {
    let mut set = CpuSet::new();
    cores.numbers().iter().for_each(|core| set.set(*core));
    let pid = pid.and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
    sched_setaffinity(pid, &set).with_context(|| format!("pinning to {cores:?}"))
}

/// Moves this program, and so whatever it starts, to the load's core, and lets all open as many files as the
/// system allows.
///
/// # Errors
/// There is one core only.
pub(crate) fn settle() -> Result<()> {
    ensure!(available_parallelism()?.get() >= 2, "two cores are needed: one for the proxy, one for the load");
    pin(None, Cores::Load)?;
    let mut files = getrlimit(Resource::Nofile);
    files.current = files.maximum;
    setrlimit(Resource::Nofile, files).context("raising the limit of open files")?;
    Ok(())
}

/// Connections that a proxy can hold on both sides, `wanted` at most: it needs some files besides.
pub(crate) fn connections(wanted: usize) -> usize {
    let files = getrlimit(Resource::Nofile).current.and_then(|n| usize::try_from(n).ok());
    files.map_or(wanted, |files| wanted.min(files.saturating_sub(1_000) / 2))
}

/// CPU time of each thread of a process and of its children so far, user and system; in no order.
///
/// The scheduler's own count in nanoseconds: `utime` and `stime` of `/proc/PID/stat` are the same time rounded to
/// ticks of 10 ms, and take its place where the kernel does not tell.
pub(crate) fn cpu(pid: u32) -> Result<Vec<(u32, Duration)>> {
    let mut all = match exact(pid) {
        Some(threads) => threads,
        None => vec![(pid, ticks(pid)?)],
    };
    // Of nginx, whose workers are processes. Empty where the kernel does not tell.
    let children = read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    for child in children.split_whitespace() {
        all.extend(cpu(child.parse()?)?);
    }
    Ok(all)
}

/// The threads of one process.
fn exact(pid: u32) -> Option<Vec<(u32, Duration)>> {
    let mut threads = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).ok()? {
        let task = task.ok()?;
        let text = read_to_string(task.path().join("schedstat")).ok()?;
        let nanos = text.split(' ').next()?.parse().ok()?;
        threads.push((task.file_name().to_str()?.parse().ok()?, Duration::from_nanos(nanos)));
    }
    threads.iter().any(|(_, time)| !time.is_zero()).then_some(threads)
}

/// The same from `/proc/PID/stat`.
fn ticks(pid: u32) -> Result<Duration> {
    let stat = read_to_string(format!("/proc/{pid}/stat")).context("the process is gone")?;
    let fields = stat.rsplit_once(") ").map(|(_, rest)| rest.split(' ')).context("reading /proc/PID/stat")?;
    // `rest` begins with field 3; utime and stime are 14 and 15.
    let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second()))
}

/// Resident memory of a process, KiB.
pub(crate) fn rss_kib(pid: u32) -> Result<f64> {
    let status = read_to_string(format!("/proc/{pid}/status")).context("the process is gone")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// Busy, stolen and all time of all cores so far, ticks.
fn cores() -> Option<[u64; 3]> {
    let stat = read_to_string("/proc/stat").ok()?;
    let ticks: Vec<u64> =
        stat.lines().next()?.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    let all: u64 = ticks.iter().take(8).sum();
    let idle = ticks.get(3)? + ticks.get(4)?;
    Some([all - idle, *ticks.get(7)?, all])
}

/// How busy the machine is by itself, percent over a second.
pub(crate) fn noise() -> f64 {
    let before = cores();
    std::thread::sleep(Duration::from_secs(1));
    match (before, cores()) {
        (Some([busy, _, all]), Some([busy_now, _, all_now])) if all_now > all => {
            100.0 * (busy_now - busy) as f64 / (all_now - all) as f64
        }
        _ => 0.0,
    }
}

/// Time that the host gave to others, percent of all since the machine began.
pub(crate) fn stolen() -> f64 {
    cores().map_or(0.0, |[_, stolen, all]| 100.0 * stolen as f64 / all.max(1) as f64)
}

/// The machine in a line: cores, memory, system.
pub(crate) fn describe() -> String {
    let value = |file: &str, key: &str| {
        let text = read_to_string(file).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_default().to_owned();
        line.split_once([':', '='])
            .map_or_else(String::new, |(_, value)| value.trim().trim_matches('"').to_owned())
    };
    let memory: f64 =
        value("/proc/meminfo", "MemTotal").trim_end_matches(" kB").parse::<f64>().unwrap_or_default();
    format!(
        "{} x {}, {:.0} GiB, {}, Linux {}",
        // Not `available_parallelism`: this program is pinned.
        read_to_string("/proc/cpuinfo").unwrap_or_default().matches("processor\t").count(),
        value("/proc/cpuinfo", "model name"),
        memory / 1024.0 / 1024.0,
        value("/etc/os-release", "PRETTY_NAME"),
        read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim(),
    )
}

/// The first line that a program says of its version.
pub(crate) fn version(program: &Path, flag: &str) -> String {
    let Ok(output) = Command::new(program).arg(flag).output() else { return "unknown".to_owned() };
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("unknown").to_owned()
}
