//! The product beside its peers, one harness for every figure: `make bench`.
//!
//! The proxy under test has core 0 to itself, one worker; backend, load and this program share core 1. Peers take
//! turns (A B C A B C ...), and what is compared is the proxy's CPU time for each request that the load counted:
//! throughput is capped by core 1, CPU time is not. Medians over the rounds, and ratios to Envoy within a round,
//! since absolute figures drift.
//!
//! Modules, low to high: [`machine`], [`results`], [`process`], [`config`], [`load`], [`mod@bench`], [`stage`],
//! [`compare`], [`report`], [`plot`].

mod bench;
mod compare;
mod config;
mod load;
mod machine;
mod plot;
mod process;
mod report;
mod results;
mod stage;

use anyhow::{Context, Result, ensure};
use bench::{Bench, Plan, Programs};
use clap::Parser;
use report::Setting;
use results::Peer;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The product beside its peers.
#[derive(Debug, Parser)]
struct Args {
    /// The proxy under test
    #[arg(long, env = "PROXY", default_value = "target/release/portolan-proxy")]
    proxy: PathBuf,
    /// Where deploy/dev installs servers
    #[arg(long, default_value = ".dev")]
    dev: PathBuf,
    /// Stages to run; all by default
    #[arg(long, env = "ONLY", value_delimiter = ',')]
    only: Vec<String>,
    /// Who takes part
    #[arg(long, env = "PEERS", value_delimiter = ',', default_value = "portolan,envoy,nginx,haproxy")]
    peers: Vec<Peer>,
    /// Turns that each peer has
    #[arg(long, env = "ROUNDS")]
    rounds: Option<usize>,
    /// Of each load
    #[arg(long, env = "SECONDS_EACH")]
    seconds: Option<u64>,
    /// One short round: shows that everything runs
    #[arg(long, env = "QUICK", value_parser = clap::builder::FalseyValueParser::new())]
    quick: bool,
    /// Folder for RESULTS.md and plots/; nothing is written without
    #[arg(long)]
    out: Option<PathBuf>,
    /// End our proxy by asking, so that an instrumented build can write what it has counted
    #[arg(long)]
    gentle: bool,
    /// Instead of all this: compare --proxy by instructions with this earlier build of it
    #[arg(long)]
    base: Option<PathBuf>,
    /// Or with the figures in this file, and only advise
    #[arg(long)]
    kept: Option<PathBuf>,
    /// Or write such a file
    #[arg(long)]
    keep: Option<PathBuf>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let stages: Vec<_> = stage::ALL
        .into_iter()
        .filter(|stage| args.only.is_empty() || args.only.iter().any(|name| name == stage.name))
        .collect();
    ensure!(!stages.is_empty(), "no stage is called {}", args.only.join(" or "));
    let programs = Programs::find(&args.proxy, &args.dev).context("the proxy and its peers")?;
    let plan = Plan {
        peers: args.peers.clone(),
        rounds: args.rounds.unwrap_or(if args.quick { 1 } else { 3 }).max(1),
        time: Duration::from_secs(args.seconds.unwrap_or(if args.quick { 1 } else { 2 }).max(1)),
        quick: args.quick,
        gentle: args.gentle,
    };
    machine::settle()?;
    let noise = machine::noise();
    let start = Instant::now();
    let mut bench = Bench::start(plan, programs)?;
    let head = bench.programs.portolan.clone();
    if let Some(base) = &args.base {
        return compare::run(&bench, base, &head);
    }
    if let Some(file) = &args.kept {
        return compare::advise(&bench, file, &head);
    }
    if let Some(file) = &args.keep {
        return compare::keep(&bench, file, &head);
    }
    let mut failed = Vec::new();
    for stage in stages {
        // The others' figures are not lost.
        if let Err(error) = (stage.run)(&mut bench) {
            let remark = format!("The stage `{}` did not end: {error:#}", stage.name);
            eprintln!("{remark}");
            bench.results.remarks.push(remark);
            failed.push(stage.name);
        }
    }
    let charts = plot::charts(&bench.results);
    let setting = Setting {
        machine: machine::describe(),
        noise,
        stolen: machine::stolen(),
        versions: versions(&bench),
        rounds: bench.plan.rounds,
        seconds: bench.plan.time.as_secs(),
        peers: bench.plan.peers.clone(),
        quick: bench.plan.quick,
        minutes: start.elapsed().as_secs_f64() / 60.0,
        plots: charts.iter().map(|chart| chart.name.to_owned()).collect(),
    };
    let text = report::markdown(&bench.results, &setting);
    println!("{text}");
    if let Some(out) = &args.out {
        write(out, &text, &charts)?;
        eprintln!("written: {}", out.join("RESULTS.md").display());
    }
    ensure!(failed.is_empty(), "stages that did not end: {}", failed.join(", "));
    Ok(())
}

fn write(out: &Path, text: &str, charts: &[plot::Chart]) -> Result<()> {
    let plots = out.join("plots");
    std::fs::create_dir_all(&plots)?;
    for chart in charts {
        std::fs::write(plots.join(format!("{}.svg", chart.name)), chart.svg())?;
    }
    std::fs::write(out.join("RESULTS.md"), text).context("writing RESULTS.md")
}

/// Who took part, a line each.
fn versions(bench: &Bench) -> Vec<String> {
    let line = |peer: &Peer| {
        let flag = if *peer == Peer::Portolan || *peer == Peer::Envoy { "--version" } else { "-v" };
        let said = machine::version(&bench.programs.of(*peer), flag);
        // Envoy begins with its path.
        let said = said.rsplit_once("version: ").map_or(said.as_str(), |(_, version)| version);
        format!("{}: {}", peer.name(), said.trim())
    };
    bench.plan.peers.iter().map(line).collect()
}
