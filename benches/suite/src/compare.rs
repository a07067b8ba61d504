//! Two builds of the proxy beside each other by instructions, which do not depend on how busy the machine is; or one
//! beside figures that were kept of an earlier one.
//!
//! Valgrind's callgrind counts what the proxy executes in user space while a fixed number of requests go through it
//! one after the other. Each work runs twice, with few requests and with many: the difference, divided by theirs, is
//! what one request takes, free of what starting takes.

use crate::bench::Bench;
use crate::config::{Extra, Routes};
use crate::machine::{self, Cores};
use crate::process::Program;
use crate::results::Peer;
use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Requests of the shorter and the longer run.
const FEW: usize = 200;
const MANY: usize = 1_200;
/// More than this is worse, of the base.
const TOLERANCE: f64 = 0.05;
/// Longest wait for the proxy to end.
const PATIENCE: Duration = Duration::from_secs(60);

struct Work {
    what: &'static str,
    listener: (Routes, Extra),
    /// Arguments of h2load beside number and address.
    load: &'static [&'static str],
}

const WORKS: [Work; 7] = [
    Work { what: "HTTP/1.1 GET", listener: (Routes::ONE, Extra::None), load: &["--h1"] },
    Work {
        what: "HTTP/1.1 GET with 8 more headers",
        listener: (Routes::ONE, Extra::None),
        load: &[
            "--h1",
            "-Haccept: text/html,application/xhtml+xml;q=0.9,*/*;q=0.8",
            "-Haccept-language: en-GB,en;q=0.7",
            "-Haccept-encoding: gzip, deflate, br",
            "-Hreferer: https://shop.example.com/shoes?colour=red",
            "-Hcookie: session=0123456789abcdef0123456789abcdef",
            "-Hx-context-1: one",
            "-Hx-context-2: two",
            "-Hx-context-3: three",
        ],
    },
    Work { what: "HTTP/2 to HTTP/1.1", listener: (Routes::ONE, Extra::Http2), load: &[] },
    Work { what: "TLS, HTTP/1.1", listener: (Routes::ONE, Extra::Tls), load: &["--h1"] },
    Work {
        what: "the last of 10,000 routes",
        listener: (Routes::Prefixes(10_000), Extra::None),
        load: &["--h1"],
    },
    Work { what: "access log", listener: (Routes::ONE, Extra::AccessLog), load: &["--h1"] },
    Work { what: "local rate limit", listener: (Routes::ONE, Extra::RateLimit), load: &["--h1"] },
];

/// Prints instructions for each request of both builds.
///
/// # Errors
/// A work takes more than [`TOLERANCE`] more than in the base.
pub(crate) fn run(bench: &Bench, base: &Path, head: &Path) -> Result<()> {
    let base = base.canonicalize()?;
    let worse = table(bench, head, "base", |work| each(bench, &base, work).map(Some))?;
    ensure!(worse.is_empty(), "more than {:.0} % worse: {}", TOLERANCE * 100.0, worse.join(", "));
    Ok(())
}

/// Prints instructions for each request beside those that [`keep`] wrote, and what is worse, as advice.
pub(crate) fn advise(bench: &Bench, file: &Path, head: &Path) -> Result<()> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let kept: Value = serde_json::from_str(&text)?;
    let (then, now) = (kept["compiler"].as_str().unwrap_or_default(), compiler());
    if then != now {
        println!("ADVISORY: kept with {then}, counted with {now}");
    }
    let worse = table(bench, head, "kept", |work| Ok(kept["instructions"][work.what].as_f64()))?;
    for what in &worse {
        println!("ADVISORY: {what}: more than {:.0} % worse than kept", TOLERANCE * 100.0);
    }
    if worse.is_empty() {
        println!("ADVISORY: nothing takes {:.0} % more instructions than kept", TOLERANCE * 100.0);
    }
    Ok(())
}

/// Writes instructions for each request.
pub(crate) fn keep(bench: &Bench, file: &Path, head: &Path) -> Result<()> {
    let mut all = Map::new();
    for work in &WORKS {
        // The lower of two: what the clock makes a slow run do beside is not of the requests.
        let count = each(bench, head, work)?.min(each(bench, head, work)?);
        all.insert(work.what.to_owned(), (count.round() as u64).into());
    }
    let text = serde_json::to_string_pretty(&json!({"compiler": compiler(), "instructions": all}))?;
    std::fs::write(file, text + "\n").with_context(|| file.display().to_string())
}

fn compiler() -> String {
    machine::version(Path::new("rustc"), "--version")
}

/// Prints all works beside what `before` knows of each; those that are worse.
fn table(
    bench: &Bench,
    head: &Path,
    name: &str,
    before: impl Fn(&Work) -> Result<Option<f64>>,
) -> Result<Vec<&'static str>> {
    println!("{:<36} {name:>12} {:>12} {:>8}", "instructions for a request", "head", "change");
    let mut worse = Vec::new();
    for work in &WORKS {
        let (before, mut after) = (before(work)?, each(bench, head, work)?);
        let Some(before) = before else {
            println!("{:<36} {:>12} {after:>12.0}", work.what, "-");
            continue;
        };
        if after / before - 1.0 > TOLERANCE {
            // Once more: a slow run does more by the clock.
            after = after.min(each(bench, head, work)?);
        }
        let change = after / before - 1.0;
        println!("{:<36} {before:>12.0} {after:>12.0} {:>+7.2}%", work.what, change * 100.0);
        if change > TOLERANCE {
            worse.push(work.what);
        }
    }
    Ok(worse)
}

fn each(bench: &Bench, proxy: &Path, work: &Work) -> Result<f64> {
    let few = count(bench, proxy, work, FEW)?;
    let many = count(bench, proxy, work, MANY)?;
    Ok(many.saturating_sub(few) as f64 / (MANY - FEW) as f64)
}

/// Instructions of a whole life with `requests` requests.
fn count(bench: &Bench, path: &Path, work: &Work, requests: usize) -> Result<u64> {
    let proxy = bench.proxy(&[work.listener])?;
    let direct = bench.prepare(Peer::Portolan, &proxy)?;
    let out = direct.dir.join("callgrind.out");
    // What an earlier run left would be taken for this one's.
    if out.exists() {
        std::fs::remove_file(&out)?;
    }
    let mut args: Vec<String> = ["--tool=callgrind", "--quiet"].map(str::to_owned).to_vec();
    args.extend([format!("--callgrind-out-file={}", out.display()), path.display().to_string()]);
    args.extend(direct.args);
    let program = Program {
        name: "valgrind".into(),
        path: valgrind()?,
        args,
        cores: Cores::Proxy,
        dir: direct.dir,
        gentle: false,
    };
    let mut subject = bench.begin(Peer::Portolan, proxy, &program)?;
    let request = subject.request(0);
    let scheme = if work.listener.1 == Extra::Tls { "https" } else { "http" };
    let mut load = Command::new(bench.programs.bin.join("h2load"));
    load.args(["-c1", "-m1", "-t1", &format!("-n{requests}")]).args(work.load);
    load.arg(format!("{scheme}://127.0.0.1:{}{}", request.port, request.path));
    let output = load.output().context("running h2load")?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(
        text.contains(&format!(" {requests} succeeded")) && text.contains(&format!("{requests} 2xx")),
        "{}: {text}",
        work.what
    );
    subject.running.end(PATIENCE)?;
    let text = std::fs::read_to_string(&out).context("callgrind has counted nothing")?;
    let total = text.lines().rev().find_map(|line| line.strip_prefix("totals: "));
    Ok(total.context("callgrind tells no total")?.trim().parse()?)
}

fn valgrind() -> Result<std::path::PathBuf> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&paths).map(|dir| dir.join("valgrind")).find(|path| path.exists());
    found.context("valgrind is not installed")
}
