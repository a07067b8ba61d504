//! Fixed rates: what an idle-ish proxy costs, and how late its answers are.

use crate::bench::{Bench, Subject, cpu_row};
use crate::config::{Extra, Routes};
use crate::load::paced::{self, Pace};
use crate::load::tools::{self, Asks, Scheme};
use crate::results::{Group, Peer, Row, thousands};
use crate::stage::requests::KEEP_ALIVE;
use anyhow::{Context, Result};

const CONNECTIONS: usize = 64;
/// Requests a second, whatever the machine.
const FIXED: usize = 9_600;
/// Shares of what Envoy does at most.
const SHARES: [f64; 3] = [0.1, 0.3, 0.6];

pub(super) fn run(bench: &mut Bench) -> Result<()> {
    let subjects = bench.launch_all(&[(Routes::ONE, Extra::None)])?;
    let most = envoys_most(bench, &subjects)?;
    bursts(bench, &subjects)?;
    let mut rates = vec![("9,600 requests/s".to_owned(), FIXED as f64)];
    rates.extend(SHARES.map(|share| {
        let (percent, rate) = (share * 100.0, share * most);
        (format!("{percent:.0} % of Envoy's most ({}/s)", thousands(rate as usize)), rate)
    }));
    for (what, rate) in rates {
        for round in 0..bench.plan.rounds {
            bench.say(&what, round);
            for subject in &subjects {
                let request = subject.request(0);
                let time = bench.plan.paced();
                let done = bench.measure(cpu_row(Group::Rates, &what), round, subject, |_| {
                    paced::run(&request, CONNECTIONS, Pace::Rate(rate), time)
                })?;
                let Some((load, _)) = done else { continue };
                for (unit, share) in [("us p50", 0.5), ("us p99", 0.99), ("us p99.9", 0.999)] {
                    let latency = load.quantile_us(share).context("no latencies")?;
                    bench.results.add(
                        Row { group: Group::Rates, what: &what, unit },
                        subject.peer,
                        round,
                        latency,
                    );
                }
            }
        }
    }
    Ok(())
}

/// The fixed rate, with all connections asking at once: how many load generators do it, and gentle on who is asked, as many
/// requests share a wake-up. Its latencies would be those of draining a burst.
fn bursts(bench: &mut Bench, subjects: &[Subject]) -> Result<()> {
    const WHAT: &str = "9,600 requests/s in bursts of 64";
    let (bin, time) = (bench.programs.bin.clone(), bench.plan.time);
    for round in 0..bench.plan.rounds {
        bench.say(WHAT, round);
        for subject in subjects {
            bench.measure(cpu_row(Group::Rates, WHAT), round, subject, |to| {
                tools::h2load(&bin, to.port(Extra::None), CONNECTIONS, Asks::Bursts(FIXED), time)
            })?;
        }
    }
    Ok(())
}

/// Envoy's throughput in a closed loop, from this run where it is known. Without Envoy, the fixed rate.
fn envoys_most(bench: &Bench, subjects: &[Subject]) -> Result<f64> {
    let known = bench.results.find(Group::Throughput, KEEP_ALIVE, "requests/s");
    if let Some(envoy) = known.and_then(|figure| figure.of(Peer::Envoy)) {
        return Ok(envoy.median);
    }
    let Some(envoy) = subjects.iter().find(|subject| subject.peer == Peer::Envoy) else {
        return Ok(FIXED as f64);
    };
    let load =
        tools::wrk(&bench.programs.bin, &envoy.request(0), Scheme::Http, CONNECTIONS, bench.plan.time)?;
    Ok(load.rate())
}
