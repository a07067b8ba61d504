//! What an update does to requests that have nothing to do with it.
//!
//! A load at a fixed rate goes through one of many routes and clusters, and a file moves into place a few times in
//! which another one has changed. Who reads no files while running takes no part.

use crate::bench::{Bench, Subject};
use crate::config::backend::Answer;
use crate::config::envoy::{self, Target, WATCHED};
use crate::config::{Extra, Proxy, Routes};
use crate::load::Load;
use crate::load::client::Client;
use crate::load::paced::{self, Pace};
use crate::results::{Group, Peer, Row, thousands};
use crate::stage::change::Draft;
use anyhow::{Context, Result, ensure};
use std::time::{Duration, Instant};

/// Of routes, and of clusters.
const MANY: usize = 10_000;
const CONNECTIONS: usize = 64;
/// Requests a second.
const RATE: f64 = 4_800.0;
/// While a load lasts, at equal intervals. An odd number: what changes has changed in the end.
const UPDATES: usize = 3;
/// Longest wait for the last of them once the load is over.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Nothing,
    Cluster,
    Route,
}

pub(super) fn run(bench: &mut Bench) -> Result<()> {
    for round in 0..bench.plan.rounds.min(2) {
        bench.say("updates", round);
        let many = bench.plan.many(MANY);
        for peer in bench.plan.peers.clone() {
            if matches!(peer, Peer::Portolan | Peer::Envoy) {
                let proxy = bench.proxy(&[(Routes::Prefixes(many), Extra::None)])?;
                let subject = bench.launch(peer, Proxy { clusters: many, routes_file: true, ..proxy })?;
                measure(bench, round, &subject)?;
            }
        }
    }
    Ok(())
}

fn measure(bench: &mut Bench, round: usize, subject: &Subject) -> Result<()> {
    // So that the first kind finds warm pools, as the others do.
    paced::run(&subject.request_of(0, 0), CONNECTIONS, Pace::Rate(RATE), bench.plan.paced())?;
    let mut quiet = Duration::ZERO;
    let many = thousands(subject.proxy.clusters);
    let kinds = [
        (Kind::Nothing, "no update".to_owned()),
        (Kind::Cluster, format!("one of {many} clusters changes, {UPDATES} times")),
        (Kind::Route, format!("one of {many} routes changes, {UPDATES} times")),
    ];
    for (kind, what) in &kinds {
        let before = subject.running.cpu()?;
        let load = kind.load(subject, bench.plan.paced())?;
        let spent = subject.running.cpu()?.saturating_sub(before);
        bench.remark_failures(what, round, subject, &load);
        let mut add = |unit, value| {
            bench.results.add(Row { group: Group::Updates, what, unit }, subject.peer, round, value);
        };
        for (unit, share) in [("us p50", 0.5), ("us p99", 0.99), ("us p99.9", 0.999), ("us at most", 1.0)] {
            add(unit, load.quantile_us(share).context("no latencies")?);
        }
        if *kind == Kind::Nothing {
            quiet = spent;
        } else {
            let more = spent.as_secs_f64() - quiet.as_secs_f64();
            add("ms CPU/update", more * 1e3 / UPDATES as f64);
        }
    }
    Ok(())
}

impl Kind {
    /// A load of which the first rule takes all, while files move, one for each `interval`.
    fn load(self, subject: &Subject, interval: Duration) -> Result<Load> {
        let drafts: Vec<Draft> = (1..=UPDATES)
            .filter_map(|version| self.draft(subject, version).transpose())
            .collect::<Result<_>>()?;
        let request = subject.request_of(0, 0);
        let start = Instant::now();
        let load = std::thread::scope(|scope| {
            let updates = scope.spawn(|| {
                for (at, draft) in drafts.into_iter().enumerate() {
                    let due = start + interval.mul_f64(at as f64 + 0.5);
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                    draft.publish()?;
                }
                Ok(())
            });
            let load = paced::run(&request, CONNECTIONS, Pace::Rate(RATE), interval * UPDATES as u32);
            let updated: Result<()> = updates.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            updated.and(load)
        })?;
        match self {
            Self::Nothing => {}
            Self::Cluster => await_change(subject, WATCHED)?,
            Self::Route => await_change(subject, subject.proxy.listeners[0].routes.count() - 1)?,
        }
        Ok(load)
    }

    /// Leads the first cluster, or the last rule, to the other backend in odd versions.
    fn draft(self, subject: &Subject, version: usize) -> Result<Option<Draft>> {
        let (proxy, name, odd) = (&subject.proxy, subject.peer.file_name(), version % 2 == 1);
        let (file, text) = match self {
            Self::Nothing => return Ok(None),
            Self::Cluster => {
                let port = |cluster| if cluster == 0 && odd { proxy.other } else { proxy.backend };
                (envoy::clusters_file(proxy, &name), envoy::clusters(proxy, version, port))
            }
            Self::Route => {
                let target = |rule| {
                    if rule + 1 == proxy.listeners[0].routes.count() && odd {
                        Target::Other
                    } else {
                        Target::usual(proxy, rule)
                    }
                };
                (envoy::routes_file(proxy, &name), envoy::routes(proxy, version, target))
            }
        };
        Draft::write(&file, version, &text.to_string()).map(Some)
    }
}

/// Waits until what a rule leads to says `changed`: that the updates were taken at all.
fn await_change(subject: &Subject, rule: usize) -> Result<()> {
    let (request, start) = (subject.request_of(0, rule), Instant::now());
    let mut client = Client::connect(request.port)?;
    while Answer::of(&client.ask(&request)?) != Answer::Changed {
        ensure!(start.elapsed() < PATIENCE, "updates have no effect");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
