//! Requests of each kind, in a closed loop.

use crate::bench::{Bench, Subject, cpu_row};
use crate::config::{Extra, Routes, backend};
use crate::load::paced::{self, Pace};
use crate::load::tools::{self, Asks, Scheme};
use crate::load::{Load, Request, handshakes};
use crate::results::{Group, Row};
use anyhow::Result;
use std::path::Path;
use std::time::Duration;

/// Connections of a load, where its row does not say otherwise.
const CONNECTIONS: usize = 64;
/// Bytes of a posted body.
const BODY: usize = 64 * 1024;

/// What every load is given.
struct Given<'a> {
    bin: &'a Path,
    certificate: &'a [u8],
    time: Duration,
}

struct Kind {
    what: &'static str,
    load: fn(&Given<'_>, &Subject) -> Result<Load>,
}

/// What `rates` compares with.
pub(super) const KEEP_ALIVE: &str = "HTTP/1.1 keep-alive, 1 KiB answers, 64 connections";

const KINDS: [Kind; 8] = [
    Kind {
        what: KEEP_ALIVE,
        load: |given, to| tools::wrk(given.bin, &plain(to), Scheme::Http, CONNECTIONS, given.time),
    },
    Kind {
        what: "HTTP/2, 8 connections of 32 streams, to HTTP/1.1",
        load: |given, to| tools::h2load(given.bin, to.port(Extra::Http2), 8, Asks::Streams(32), given.time),
    },
    Kind {
        what: "TLS 1.3 keep-alive, 1 KiB answers, 64 connections",
        load: |given, to| {
            let request = Request::plain(to.port(Extra::Tls));
            tools::wrk(given.bin, &request, Scheme::Https, CONNECTIONS, given.time)
        },
    },
    Kind {
        what: "full TLS 1.3 handshake, P-256, X25519",
        load: |given, to| handshakes::run(to.port(Extra::Tls), given.certificate, given.time),
    },
    Kind {
        what: "1 MiB answers, 8 connections",
        load: |given, to| {
            let request = Request { path: backend::LARGE.0.into(), ..plain(to) };
            tools::wrk(given.bin, &request, Scheme::Http, 8, given.time)
        },
    },
    Kind {
        what: "POST of 64 KiB, 16 connections",
        load: |given, to| paced::run(&Request { body: BODY, ..plain(to) }, 16, Pace::Closed, given.time),
    },
    Kind {
        what: "30 headers and a cookie of 4 KiB, 64 connections",
        load: |given, to| {
            let request = Request { headers: headers(), ..plain(to) };
            tools::wrk(given.bin, &request, Scheme::Http, CONNECTIONS, given.time)
        },
    },
    Kind {
        what: "a new connection for each request, 64 at a time",
        load: |given, to| {
            let headers = vec![("connection".to_owned(), "close".to_owned())];
            tools::wrk(given.bin, &Request { headers, ..plain(to) }, Scheme::Http, CONNECTIONS, given.time)
        },
    },
];

fn plain(to: &Subject) -> Request {
    Request::plain(to.port(Extra::None))
}

/// Such as browsers and meshes send, 29 and the cookie.
fn headers() -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = (0..23)
        .map(|i| (format!("x-context-{i}"), format!("value-{i}-of-a-usual-length-for-a-header")))
        .collect();
    for (name, value) in [
        ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
        ("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,image/webp,*/*;q=0.8"),
        ("accept-language", "en-GB,en;q=0.7,de;q=0.3"),
        ("accept-encoding", "gzip, deflate, br, zstd"),
        ("referer", "https://shop.example.com/products/shoes?colour=red&size=42"),
        ("authorization", "Bearer eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJiZW5jaCJ9.c2lnbmF0dXJl"),
        ("cookie", &format!("session={}", "c".repeat(4096))),
    ] {
        all.push((name.to_owned(), value.to_owned()));
    }
    all
}

pub(super) fn run(bench: &mut Bench) -> Result<()> {
    let all = [(Routes::ONE, Extra::None), (Routes::ONE, Extra::Http2), (Routes::ONE, Extra::Tls)];
    let subjects = bench.launch_all(&all)?;
    let (bin, certificate, time) = (bench.programs.bin.clone(), bench.certificate.clone(), bench.plan.time);
    let given = Given { bin: &bin, certificate: &certificate, time };
    for subject in &subjects {
        // So that the first round finds warm pools and caches, as the others do.
        (KINDS[0].load)(&given, subject)?;
    }
    for kind in &KINDS {
        for round in 0..bench.plan.rounds {
            bench.say(kind.what, round);
            for subject in &subjects {
                let row = cpu_row(Group::Work, kind.what);
                let done = bench.measure(row, round, subject, |to| (kind.load)(&given, to))?;
                let Some((load, _)) = done else { continue };
                let row = Row { group: Group::Throughput, what: kind.what, unit: "requests/s" };
                bench.results.add_higher(row, subject.peer, round, load.rate());
            }
        }
    }
    for subject in &subjects {
        let row = Row { group: Group::Process, what: "memory after the loads of all kinds", unit: "MiB" };
        bench.results.add(row, subject.peer, 0, subject.running.rss_kib()? / 1024.0);
    }
    Ok(())
}
