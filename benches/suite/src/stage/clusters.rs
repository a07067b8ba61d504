//! Many clusters: getting ready, memory, one that changes, and all their stats.

use crate::bench::{Bench, Subject};
use crate::config::{Extra, Routes, backend, envoy};
use crate::load::client::{Client, fetch};
use crate::results::{Group, Peer, Row};
use anyhow::{Context, Result, ensure};
use std::time::{Duration, Instant};

const CLUSTERS: usize = 10_000;
/// What a process is given to settle before its memory is read.
const REST: Duration = Duration::from_secs(1);
/// Longest wait for a change.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn run(bench: &mut Bench) -> Result<()> {
    for round in 0..bench.plan.rounds {
        bench.say("clusters", round);
        // One at a time: so many stats are work even for a proxy that rests.
        for peer in bench.plan.peers.clone() {
            let small = {
                let proxy = bench.proxy(&[(Routes::ONE, Extra::None)])?;
                let subject = bench.launch(peer, proxy)?;
                std::thread::sleep(REST);
                subject.running.rss_kib()?
            };
            let mut proxy = bench.proxy(&[(Routes::ONE, Extra::None)])?;
            proxy.clusters = CLUSTERS;
            let subject = bench.launch(peer, proxy)?;
            std::thread::sleep(REST);
            let each = (subject.running.rss_kib()? - small) / CLUSTERS as f64;
            add(bench, peer, round, "start to first answer through the last", "ms", millis(subject.ready));
            add(bench, peer, round, "memory of each", "KiB", each);
            if matches!(peer, Peer::Portolan | Peer::Envoy) {
                let took = change(bench, &subject)?;
                add(
                    bench,
                    peer,
                    round,
                    "one changed in the file of all, to its first answer",
                    "ms",
                    millis(took),
                );
                let (took, size) = fetch(subject.proxy.admin, "/stats/prometheus")?;
                add(bench, peer, round, "/stats/prometheus", "ms", millis(took));
                add(bench, peer, round, "/stats/prometheus", "MiB", size as f64 / 1024.0 / 1024.0);
            }
        }
    }
    Ok(())
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn add(bench: &mut Bench, peer: Peer, round: usize, what: &str, unit: &'static str, value: f64) {
    bench.results.add(Row { group: Group::Clusters, what, unit }, peer, round, value);
}

/// Leads the last cluster to the other backend; from the file's move to an answer of that backend.
fn change(bench: &Bench, subject: &Subject) -> Result<Duration> {
    let name = format!("{:?}", subject.peer).to_lowercase();
    let file = envoy::clusters_file(&subject.proxy, &name);
    let text = envoy::clusters(&subject.proxy, 1, bench.other).to_string();
    let request = subject.request(0);
    let mut client = Client::connect(request.port)?;
    client.ask(&request)?;
    // The draft is written before the clock starts: what counts is the move.
    let draft = file.with_extension("next");
    std::fs::write(&draft, text)?;
    let start = Instant::now();
    std::fs::rename(&draft, &file).context("moving the file of clusters")?;
    loop {
        // While one cluster takes the other's place a request may fail on a connection that is closing.
        let body = match client.ask(&request) {
            Ok(body) => body,
            Err(_) => {
                client = Client::connect(request.port)?;
                continue;
            }
        };
        if body == backend::CHANGED.as_bytes() {
            return Ok(start.elapsed());
        }
        ensure!(start.elapsed() < PATIENCE, "the change of a cluster has no effect");
        std::thread::sleep(Duration::from_millis(1));
    }
}
