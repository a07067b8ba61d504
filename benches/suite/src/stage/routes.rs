//! Tables of routes and hosts, of which the last is asked for.

use crate::bench::{Bench, cpu_row};
use crate::config::{Extra, Routes};
use crate::load::tools::{self, Scheme};
use crate::results::Group;
use anyhow::Result;

const TABLES: [(Routes, &str); 6] = [
    (Routes::ONE, "1 route"),
    (Routes::Prefixes(1_000), "1,000 prefixes, the last one matches"),
    (Routes::Prefixes(10_000), "10,000 prefixes, the last one matches"),
    (Routes::Prefixes(50_000), "50,000 prefixes, the last one matches"),
    (Routes::Regexes(1_000), "1,000 regular expressions, the last one matches"),
    (Routes::Hosts(10_000), "10,000 virtual hosts"),
];

pub(super) fn run(bench: &mut Bench) -> Result<()> {
    let listeners = TABLES.map(|(routes, _)| (routes, Extra::None));
    let subjects = bench.launch_all(&listeners)?;
    for (listener, (_, what)) in TABLES.into_iter().enumerate() {
        for round in 0..bench.plan.rounds {
            bench.say(what, round);
            for subject in &subjects {
                let (bin, time, request) =
                    (bench.programs.bin.clone(), bench.plan.time, subject.request(listener));
                bench.measure(cpu_row(Group::Routing, what), round, subject, |_| {
                    tools::wrk(&bin, &request, Scheme::Http, 64, time)
                })?;
            }
        }
    }
    Ok(())
}
