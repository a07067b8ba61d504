//! The control plane beside its targets: a real `portolan-control` on a real store, and simulated proxies.
//!
//! For each store, dialect, debounce and number of proxies, a fresh control plane has all services; then
//!
//! 1. all proxies connect at once: *sync* ends when the last has everything;
//! 2. rounds: the store is written so that one endpoint set changes; a round's time is from the moment before
//!    the write until the last proxy has received the change and written its ACK;
//! 3. writes that change nothing: they must push nothing.
//!
//! Clients, store and control plane share the machine, so the figures are upper bounds. CPU is user and system
//! time of `portolan-control` only.

mod clients;
mod http2;
mod plane;
mod report;
mod requests;

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Parser;

use self::clients::Fleet;
use self::plane::{Kind, Plane, Size, Store, Write};
use self::report::Row;
use self::requests::Mode;

/// The control plane beside its targets.
#[derive(Debug, Parser)]
struct Args {
    /// Stores to run over
    #[arg(long, env = "STORE", value_delimiter = ',', default_value = "embedded")]
    store: Vec<Kind>,
    /// Dialects of the proxies
    #[arg(long, env = "MODE", value_delimiter = ',', default_value = "delta,sotw")]
    mode: Vec<Mode>,
    /// Numbers of proxies
    #[arg(long, env = "CLIENTS", value_delimiter = ',', default_value = "100,1000,10000")]
    clients: Vec<usize>,
    /// Quiet times of the debounce in milliseconds, or `default`
    #[arg(long, env = "DEBOUNCE", value_delimiter = ',', default_value = "default,0")]
    debounce: Vec<String>,
    /// Services, each with an endpoint set of its own
    #[arg(long, env = "SERVICES", default_value_t = 100)]
    services: usize,
    /// Instances of each service
    #[arg(long, env = "INSTANCES", default_value_t = 50)]
    instances: usize,
    /// Changes measured
    #[arg(long, env = "ROUNDS", default_value_t = 20)]
    rounds: usize,
}

/// Changes before those that are measured.
const WARM_UP: usize = 2;
/// Writes that change nothing.
const NO_OPS: usize = 5;
/// Port of the first write; instances begin at port 80.
const FIRST_PORT: u16 = 1024;
/// Pause after each round, in which nothing more may come.
const PAUSE: Duration = Duration::from_millis(60);
/// Pause before memory is read.
const REST: Duration = Duration::from_secs(2);

fn main() -> Result<()> {
    let args = Args::parse();
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let rows = tokio::task::LocalSet::new().block_on(&runtime, run(&args))?;
    report::targets(&rows);
    Ok(())
}

/// As many files as the system allows, here and in the children: every proxy is a socket on both sides.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        eprintln!("the limit of open files stays: {error}");
    }
}

async fn run(args: &Args) -> Result<Vec<Row>> {
    let size = Size { services: args.services, instances: args.instances };
    println!("{} services x {} instances, {} rounds", size.services, size.instances, args.rounds);
    let mut rows = Vec::new();
    for &kind in &args.store {
        let start = Instant::now();
        let store = Store::fill(kind, size).await?;
        println!("{kind:?} store filled in {:.1} s\n", start.elapsed().as_secs_f64());
        report::heading();
        for &mode in &args.mode {
            for debounce in &args.debounce {
                for &clients in &args.clients {
                    // Ports that no other cell has written to this store: every write is a change.
                    let port = FIRST_PORT + (rows.len() * (WARM_UP + args.rounds)) as u16;
                    let cell = Cell { kind, mode, debounce, clients, size, rounds: args.rounds, port };
                    let row = cell.measure(&store).await.with_context(|| format!("{cell:?}"))?;
                    report::row(&row);
                    rows.push(row);
                }
            }
        }
        println!();
    }
    Ok(rows)
}

/// One combination.
#[derive(Debug)]
struct Cell<'a> {
    kind: Kind,
    mode: Mode,
    debounce: &'a str,
    clients: usize,
    size: Size,
    rounds: usize,
    /// Port of the first write; the next one's is one more, and so on.
    port: u16,
}

impl Cell<'_> {
    async fn measure(&self, store: &Store) -> Result<Row> {
        let debounce = match self.debounce {
            "default" => None,
            ms => Some(ms.parse().context("debounce is a number of milliseconds, or default")?),
        };
        let mut plane = Plane::start(store, debounce).await?;
        tokio::time::sleep(REST).await;
        let before = plane.usage()?;

        let start = Instant::now();
        let names = self.size.names();
        let mut fleet = Fleet::connect(plane.control.xds, self.mode, self.clients, &names);
        fleet.synced().await?;
        let sync = start.elapsed();
        tokio::time::sleep(REST).await;
        let synced = plane.usage()?;

        let mut times = Vec::new();
        let (mut cpu, mut bytes, mut extra) = (synced.cpu, 0, 0);
        for round in 0..WARM_UP + self.rounds {
            if round == WARM_UP {
                (cpu, bytes) = (plane.usage()?.cpu, fleet.bytes());
            }
            let sent = fleet.responses();
            let write = self.round(round);
            fleet.start_round();
            let start = Instant::now();
            plane.write(write).await?;
            fleet.acked().await?;
            times.push(start.elapsed());
            tokio::time::sleep(PAUSE).await;
            extra += fleet.responses() - sent - self.clients as u64;
        }
        times.drain(..WARM_UP);
        times.sort();
        let after = plane.usage()?;
        let bytes = fleet.bytes() - bytes;

        let sent = fleet.responses();
        let mut writes = Vec::new();
        for _ in 0..NO_OPS {
            let start = Instant::now();
            plane.write(self.round(WARM_UP + self.rounds - 1)).await?;
            writes.push(start.elapsed());
            tokio::time::sleep(PAUSE).await;
        }
        writes.sort();
        plane.write_objects_again(self.size).await?;
        tokio::time::sleep(REST).await;
        let pushed_for_nothing = fleet.responses() - sent;
        fleet.disconnect().await;

        let rounds = self.rounds.max(1) as u32;
        Ok(Row {
            store: self.kind,
            mode: self.mode,
            debounce: self.debounce.to_owned(),
            clients: self.clients,
            sync,
            sync_cpu: synced.cpu - before.cpu,
            write: writes[writes.len() / 2],
            median: percentile(&times, 50),
            p99: percentile(&times, 99),
            round_cpu: (after.cpu - cpu) / rounds,
            round_bytes: bytes / u64::from(rounds),
            resident_before: before.resident,
            resident_synced: synced.resident,
            resident_after: after.resident,
            extra,
            pushed_for_nothing,
        })
    }

    /// The change of a round: another endpoint set each time.
    fn round(&self, round: usize) -> Write {
        Write { service: round % self.size.services, instance: 0, port: self.port + round as u16 }
    }
}

/// Nearest rank, of sorted times.
fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}
