//! From the start of the process to its first answer.

use crate::bench::Bench;
use crate::config::{Extra, Routes};
use crate::results::{Group, Peer, Row};
use anyhow::Result;

pub(super) fn run(bench: &mut Bench) -> Result<()> {
    // The first start is from the disk, the others from the page cache.
    for round in 0..=bench.plan.rounds.max(3) {
        for peer in bench.plan.peers.clone() {
            let proxy = bench.proxy(&[(Routes::ONE, Extra::None)])?;
            let subject = bench.launch(peer, proxy)?;
            if round > 0 {
                let row = Row {
                    group: Group::Process,
                    what: "start to first answer, small configuration",
                    unit: "ms",
                };
                bench.results.add(row, peer, round, subject.ready.as_secs_f64() * 1e3);
            }
        }
    }
    for peer in bench.plan.peers.clone() {
        let row =
            Row { group: Group::Process, what: "size of the program, without its libraries", unit: "MiB" };
        let path = match peer {
            // Behind the wrappers of `.dev/bin`.
            Peer::Nginx | Peer::Haproxy => continue,
            _ => bench.programs.of(peer),
        };
        let size = std::fs::metadata(path)?.len() as f64 / 1024.0 / 1024.0;
        bench.results.add(row, peer, 0, size);
    }
    Ok(())
}
