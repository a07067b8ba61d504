//! One worker and two, on two cores which load and backend share.
//!
//! Throughput here says how much all programs together can do; what a second worker costs is the CPU time of a
//! request beside that with one. How even their work is shows in the CPU time of each.

use crate::bench::{Bench, Subject, cpu_row};
use crate::config::{Extra, Proxy, Routes};
use crate::load::tools::{self, Scheme};
use crate::machine::Cores;
use crate::results::{Group, Peer, Row};
use anyhow::Result;
use std::time::Duration;

const CONNECTIONS: usize = 64;
const WHAT: [&str; 2] = ["1 worker", "2 workers"];

pub(super) fn run(bench: &mut Bench) -> Result<()> {
    let mut subjects = Vec::new();
    for peer in bench.plan.peers.clone() {
        let launch = |workers| {
            let proxy = bench.proxy(&[(Routes::ONE, Extra::None)])?;
            bench.launch(peer, Proxy { workers, cores: Cores::Both, ..proxy })
        };
        subjects.push([launch(1)?, launch(2)?]);
    }
    bench.spread(Cores::Both)?;
    let measured = rounds(bench, &subjects);
    bench.spread(Cores::Load)?;
    measured
}

fn rounds(bench: &mut Bench, subjects: &[[Subject; 2]]) -> Result<()> {
    for round in 0..bench.plan.rounds {
        bench.say("workers", round);
        for pair in subjects {
            let peer = pair[0].peer;
            let Some(one) = measure(bench, round, &pair[0])? else { continue };
            let before = pair[1].running.cpu_by_thread()?;
            let Some(two) = measure(bench, round, &pair[1])? else { continue };
            let busier = busier(&before, &pair[1].running.cpu_by_thread()?);
            add(bench, peer, round, "CPU/request, of that with 1 worker", two.0 / one.0);
            add(bench, peer, round, "of both workers' CPU, the busier one's", busier);
            let what = "requests/s, of those with 1 worker";
            let row = Row { group: Group::Workers, what: WHAT[1], unit: what };
            bench.results.add_higher(row, peer, round, two.1 / one.1);
        }
    }
    Ok(())
}

/// CPU time of a request, us, and requests a second.
fn measure(bench: &mut Bench, round: usize, subject: &Subject) -> Result<Option<(f64, f64)>> {
    let what = WHAT[subject.proxy.workers - 1];
    let (bin, time, request) = (bench.programs.bin.clone(), bench.plan.time, subject.request(0));
    let done = bench.measure(cpu_row(Group::Workers, what), round, subject, |_| {
        tools::wrk(&bin, &request, Scheme::Http, CONNECTIONS, time)
    })?;
    let Some((load, cpu)) = done else { return Ok(None) };
    let row = Row { group: Group::Workers, what, unit: "requests/s" };
    bench.results.add_higher(row, subject.peer, round, load.rate());
    Ok(Some((cpu, load.rate())))
}

fn add(bench: &mut Bench, peer: Peer, round: usize, unit: &'static str, value: f64) {
    bench.results.add(Row { group: Group::Workers, what: WHAT[1], unit }, peer, round, value);
}

/// The share that the busiest of all threads had in what the two busiest spent.
fn busier(before: &[(u32, Duration)], after: &[(u32, Duration)]) -> f64 {
    let spent = |&(id, now): &(u32, Duration)| {
        let was = before.iter().find(|(other, _)| *other == id).map_or(Duration::ZERO, |(_, time)| *time);
        now.saturating_sub(was).as_secs_f64()
    };
    let mut spent: Vec<f64> = after.iter().map(spent).collect();
    spent.sort_by(|a, b| b.total_cmp(a));
    let (first, second) = (spent.first().copied().unwrap_or(0.0), spent.get(1).copied().unwrap_or(0.0));
    first / (first + second).max(f64::MIN_POSITIVE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busier_workers_share_is_of_what_both_spent_meanwhile() {
        let at =
            |times: [u64; 3]| [1, 2, 3].into_iter().zip(times.map(Duration::from_secs)).collect::<Vec<_>>();
        assert_eq!(busier(&at([9, 5, 5]), &at([9, 8, 6])), 0.75, "the main thread spent nothing");
        assert_eq!(busier(&[], &at([1, 4, 4])), 0.5);
        assert_eq!(busier(&[], &[]), 0.0);
    }
}
