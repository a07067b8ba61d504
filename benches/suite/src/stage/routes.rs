//! Tables of routes and hosts, of which the last is asked for.

use crate::bench::{Bench, Plan, cpu_row};
use crate::config::{Extra, Routes};
use crate::load::tools::{self, Scheme};
use crate::results::{Group, thousands};
use anyhow::Result;

/// What there is most of in each.
fn tables(plan: &Plan) -> Vec<(Routes, String)> {
    let many = |full| plan.many(full);
    let prefixes = |n| (Routes::Prefixes(n), format!("{} prefixes, the last one matches", thousands(n)));
    let (regexes, hosts) = (many(1_000), many(10_000));
    vec![
        (Routes::ONE, "1 route".to_owned()),
        prefixes(many(1_000)),
        prefixes(many(10_000)),
        prefixes(many(50_000)),
        (
            Routes::Regexes(regexes),
            format!("{} regular expressions, the last one matches", thousands(regexes)),
        ),
        (Routes::Hosts(hosts), format!("{} virtual hosts", thousands(hosts))),
    ]
}

pub(super) fn run(bench: &mut Bench) -> Result<()> {
    let tables = tables(&bench.plan);
    let listeners: Vec<_> = tables.iter().map(|(routes, _)| (*routes, Extra::None)).collect();
    let subjects = bench.launch_all(&listeners)?;
    for (listener, (_, what)) in tables.iter().enumerate() {
        for round in 0..bench.plan.rounds.min(2) {
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
