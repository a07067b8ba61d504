//! Many clusters: getting ready, memory, one that changes, and all their stats.

use crate::bench::{Bench, Subject};
use crate::config::backend::Answer;
use crate::config::{Extra, Routes, envoy};
use crate::load::client::fetch;
use crate::results::{Group, Peer, Row, thousands};
use crate::stage::change::Draft;
use anyhow::Result;
use std::time::Duration;

const CLUSTERS: usize = 10_000;

pub(super) fn run(bench: &mut Bench) -> Result<()> {
    for round in 0..bench.plan.rounds.min(2) {
        bench.say("clusters", round);
        // One at a time: so many stats are work even for a proxy that rests.
        for peer in bench.plan.peers.clone() {
            let small = {
                let proxy = bench.proxy(&[(Routes::ONE, Extra::None)])?;
                let subject = bench.launch(peer, proxy)?;
                std::thread::sleep(bench.plan.rest());
                subject.running.rss_kib()?
            };
            let mut proxy = bench.proxy(&[(Routes::ONE, Extra::None)])?;
            proxy.clusters = bench.plan.many(CLUSTERS);
            let subject = bench.launch(peer, proxy)?;
            std::thread::sleep(bench.plan.rest());
            let each = (subject.running.rss_kib()? - small) / subject.proxy.clusters as f64;
            let many = thousands(subject.proxy.clusters);
            let mut add = |what: &str, unit, value| {
                let what = format!("{many} clusters: {what}");
                bench.results.add(Row { group: Group::Clusters, what: &what, unit }, peer, round, value);
            };
            add("start to first answer through the last", "ms", millis(subject.ready));
            add("memory of a cluster", "KiB", each);
            if matches!(peer, Peer::Portolan | Peer::Envoy) {
                add("one changed in the file", "ms", millis(change(&subject)?));
                let (took, size) = fetch(subject.proxy.admin, "/stats/prometheus")?;
                add("/stats/prometheus", "ms", millis(took));
                add("/stats/prometheus", "MiB", size as f64 / 1024.0 / 1024.0);
            }
        }
    }
    Ok(())
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Leads the last cluster to the other backend; from the file's move to an answer of that backend.
fn change(subject: &Subject) -> Result<Duration> {
    let proxy = &subject.proxy;
    let port = |cluster| if cluster + 1 == proxy.clusters { proxy.other } else { proxy.backend };
    let text = envoy::clusters(proxy, 1, port).to_string();
    // The draft is written before the clock starts: what counts is the move.
    let draft = Draft::write(&envoy::clusters_file(proxy, &subject.peer.file_name()), 1, &text)?;
    draft.until_answered(&subject.request(0), Answer::Changed)
}
