//! Memory: idle, of held connections, and what stays when they have gone.

use crate::bench::Bench;
use crate::config::{Extra, Routes};
use crate::load::hold::Held;
use crate::machine;
use crate::results::{Group, Row, thousands};
use anyhow::Result;
use std::time::Duration;

/// Held while memory for each is counted.
const HELD: usize = 5_000;
/// Come and gone, as the limit of open files allows.
const GONE: usize = 10_000;
/// What a process is given to give memory back.
const RETURN: Duration = Duration::from_secs(5);

pub(super) fn run(bench: &mut Bench) -> Result<()> {
    let (gone, rest) = (machine::connections(bench.plan.many(GONE)), bench.plan.rest());
    let some = bench.plan.many(HELD);
    let all = thousands(gone);
    // Once: memory does not change from round to round as time does.
    eprintln!("memory");
    for peer in bench.plan.peers.clone() {
        let proxy = bench.proxy(&[(Routes::ONE, Extra::None)])?;
        let subject = bench.launch(peer, proxy)?;
        let request = subject.request(0);
        std::thread::sleep(rest);
        let idle = subject.running.rss_kib()?;
        let mut held = Held::default();
        held.grow(&request, some)?;
        std::thread::sleep(rest);
        let busy = subject.running.rss_kib()?;
        held.grow(&request, gone)?;
        std::thread::sleep(rest);
        let most = subject.running.rss_kib()?;
        drop(held);
        std::thread::sleep(RETURN);
        let after = subject.running.rss_kib()?;

        let mut add = |group, what: &str, unit, value| {
            bench.results.add(Row { group, what, unit }, peer, 0, value);
        };
        add(Group::Process, "memory idle, small configuration", "MiB", idle / 1024.0);
        let each = (busy - idle) / some as f64;
        let what = format!("memory of an idle HTTP/1.1 connection, of {}", thousands(some));
        add(Group::Connections, &what, "KiB", each);
        let what = format!("memory with {all} idle connections");
        add(Group::Connections, &what, "MiB", most / 1024.0);
        let what = format!("memory kept 5 s after {all} connections");
        add(Group::Connections, &what, "MiB above idle", (after - idle).max(0.0) / 1024.0);
    }
    Ok(())
}
