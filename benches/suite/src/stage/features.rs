//! What access logs, tracing and limits add to a request.

use crate::bench::{Bench, cpu_row};
use crate::config::{Extra, Routes};
use crate::load::tools::{self, Scheme};
use crate::results::{Group, Peer, Row};
use anyhow::Result;

const PLAIN: &str = "none of them";
const FEATURES: [(Extra, &str, &[Peer]); 3] = [
    (Extra::AccessLog, "access log to a file", &[Peer::Portolan, Peer::Envoy, Peer::Nginx]),
    (Extra::Tracing, "spans of 1 % over OTLP", &[Peer::Portolan, Peer::Envoy]),
    (Extra::RateLimit, "local rate limit", &[Peer::Portolan, Peer::Envoy]),
];

pub(super) fn run(bench: &mut Bench) -> Result<()> {
    let mut listeners = vec![(Routes::ONE, Extra::None)];
    listeners.extend(FEATURES.map(|(extra, ..)| (Routes::ONE, extra)));
    // HAProxy logs to syslog only, and has none of the others as they are meant here.
    let mut subjects = bench.launch_all(&listeners)?;
    subjects.retain(|subject| subject.peer != Peer::Haproxy);
    for round in 0..bench.plan.rounds {
        bench.say("features", round);
        for subject in &subjects {
            let (bin, time) = (bench.programs.bin.clone(), bench.plan.time);
            let load = |port| {
                let request = crate::load::Request::plain(port);
                tools::wrk(&bin, &request, Scheme::Http, 64, time)
            };
            let plain = bench
                .measure(cpu_row(Group::Features, PLAIN), round, subject, |to| load(to.port(Extra::None)))?;
            let Some((_, plain)) = plain else { continue };
            for (extra, what, peers) in FEATURES {
                if !peers.contains(&subject.peer) {
                    continue;
                }
                let row = cpu_row(Group::Features, what);
                let with = bench.measure(row, round, subject, |to| load(to.port(extra)))?;
                let Some((_, with)) = with else { continue };
                let row = Row { group: Group::Features, what, unit: "us added" };
                bench.results.add(row, subject.peer, round, with - plain);
            }
        }
    }
    Ok(())
}
