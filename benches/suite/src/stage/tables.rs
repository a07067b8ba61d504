//! What tables cost: memory of a route, a virtual host, an endpoint and a listener, and the time that a table takes
//! to start with and to replace.
//!
//! Memory of one is the difference between two sizes of the same configuration, divided by how many more there are.

use crate::bench::{Bench, Plan, Subject};
use crate::config::backend::Answer;
use crate::config::envoy::{self, Target};
use crate::config::{Extra, Proxy, Routes};
use crate::results::{Group, Peer, Row, thousands};
use crate::stage::change::Draft;
use anyhow::Result;
use std::time::Duration;

/// Of each of the clusters that share the endpoints.
const ENDPOINTS: usize = 50;

/// What there is much of.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// In a route table, which a file holds.
    Rules(Routes),
    /// In so many clusters, which a file holds.
    Endpoints(usize),
    Listeners(usize),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Size {
    One,
    Many,
}

struct Table {
    what: String,
    each: &'static str,
    kind: Kind,
}

fn tables(plan: &Plan) -> Vec<Table> {
    let table = |full, things: &str, each, kind: fn(usize) -> Kind| {
        let count = plan.many(full);
        Table { what: format!("{} {things}", thousands(count)), each, kind: kind(count) }
    };
    vec![
        table(10_000, "routes", "a route", |n| Kind::Rules(Routes::Prefixes(n))),
        table(50_000, "routes", "a route", |n| Kind::Rules(Routes::Prefixes(n))),
        table(10_000, "virtual hosts", "a virtual host", |n| Kind::Rules(Routes::Hosts(n))),
        table(50_000, "endpoints, 50 in a cluster", "an endpoint", |n| Kind::Endpoints(n / ENDPOINTS)),
        table(1_000, "listeners", "a listener", Kind::Listeners),
    ]
}

impl Kind {
    /// Such a configuration, and the same with one where this has many.
    fn proxy(self, bench: &Bench, size: Size) -> Result<Proxy> {
        let one = (Routes::ONE, Extra::None);
        Ok(match self {
            Self::Rules(routes) => {
                let routes = if size == Size::Many { routes } else { Routes::ONE };
                Proxy { routes_file: true, ..bench.proxy(&[(routes, Extra::None)])? }
            }
            Self::Endpoints(clusters) => {
                let endpoints = if size == Size::Many { ENDPOINTS } else { 1 };
                Proxy { clusters, endpoints, ..bench.proxy(&[one])? }
            }
            Self::Listeners(n) => bench.proxy(&vec![one; if size == Size::Many { n } else { 1 }])?,
        })
    }

    fn count(self, proxy: &Proxy) -> usize {
        match self {
            Self::Rules(_) => proxy.listeners[0].routes.count(),
            Self::Endpoints(_) => proxy.hosts(),
            Self::Listeners(_) => proxy.listeners.len(),
        }
    }

    /// Leads all of them to the other backend, or back; from the file's move to the first answer. `None` where
    /// nothing is read while running.
    fn replace(self, subject: &Subject, version: usize) -> Result<Option<Duration>> {
        let (proxy, name) = (&subject.proxy, subject.peer.file_name());
        let wanted = if version % 2 == 1 { Answer::Changed } else { Answer::Usual };
        let (file, text) = match self {
            _ if !matches!(subject.peer, Peer::Portolan | Peer::Envoy) => return Ok(None),
            Self::Rules(_) => {
                let target = if wanted == Answer::Changed { Target::Other } else { Target::Main };
                (envoy::routes_file(proxy, &name), envoy::routes(proxy, version, |_| target))
            }
            Self::Endpoints(_) => {
                let port = if wanted == Answer::Changed { proxy.other } else { proxy.backend };
                (envoy::clusters_file(proxy, &name), envoy::clusters(proxy, version, |_| port))
            }
            Self::Listeners(_) => return Ok(None),
        };
        let draft = Draft::write(&file, version, &text.to_string())?;
        // Of the first rule: to find the last takes some of the peers long.
        draft.until_answered(&subject.request_of(0, 0), wanted).map(Some)
    }
}

pub(super) fn run(bench: &mut Bench) -> Result<()> {
    for Table { what, each, kind } in tables(&bench.plan) {
        eprintln!("tables: {what}");
        // Alone each: so many are work even for a proxy that rests.
        for peer in bench.plan.peers.clone() {
            let measure = |size| -> Result<(Subject, f64)> {
                let subject = bench.launch(peer, kind.proxy(bench, size)?)?;
                std::thread::sleep(bench.plan.rest());
                let memory = subject.running.rss_kib()?;
                Ok((subject, memory))
            };
            let (one, small) = measure(Size::One)?;
            let fewer = kind.count(&one.proxy);
            drop(one);
            let (subject, large) = measure(Size::Many)?;
            let memory = (large - small) / (kind.count(&subject.proxy) - fewer) as f64;
            let mut times = Vec::new();
            for version in 1..=bench.plan.rounds {
                times.extend(kind.replace(&subject, version)?);
            }
            let mut add = |what: &str, unit, round, value| {
                bench.results.add(Row { group: Group::Tables, what, unit }, peer, round, value);
            };
            add(&format!("{what}: memory of {each}"), "KiB", 0, memory);
            let millis = |time: Duration| time.as_secs_f64() * 1e3;
            add(&format!("{what}: start to first answer"), "ms", 0, millis(subject.ready));
            for (round, time) in times.into_iter().enumerate() {
                add(&format!("{what}: all replaced by file"), "ms", round, millis(time));
            }
        }
    }
    Ok(())
}
