//! One connection, and ten thousand.

use crate::bench::{Bench, cpu_row};
use crate::config::{Extra, Routes};
use crate::load::paced::{self, Pace};
use crate::machine;
use crate::results::{Group, Row, thousands};
use anyhow::{Context, Result};

/// As many as the limit of open files allows, this at most.
const MANY: usize = 10_000;
/// Requests a second over them.
const RATE: f64 = 9_600.0;

pub(super) fn run(bench: &mut Bench) -> Result<()> {
    let many = machine::connections(MANY);
    let kinds = [
        ("1 connection, one request after the other".to_owned(), 1, Pace::Closed),
        (format!("{} connections, 9,600 requests/s over all", thousands(many)), many, Pace::Rate(RATE)),
    ];
    for (what, connections, pace) in kinds {
        for round in 0..bench.plan.rounds {
            bench.say(&what, round);
            for peer in bench.plan.peers.clone() {
                // One at a time and fresh: the backend could not hold the pools that all of them keep.
                let proxy = bench.proxy(&[(Routes::ONE, Extra::None)])?;
                let subject = &bench.launch(peer, proxy)?;
                let (request, time) = (subject.request(0), bench.plan.paced());
                let done = bench.measure(cpu_row(Group::Connections, &what), round, subject, |_| {
                    paced::run(&request, connections, pace, time)
                })?;
                let Some((load, _)) = done else { continue };
                for (unit, share) in [("us p50", 0.5), ("us p99", 0.99)] {
                    let row = Row { group: Group::Connections, what: &what, unit };
                    let latency = load.quantile_us(share).context("no latencies")?;
                    bench.results.add(row, subject.peer, round, latency);
                }
            }
        }
    }
    Ok(())
}
