//! What a collector of spans that fails does to requests: nothing, it should be.

use crate::bench::{Bench, Subject, cpu_row};
use crate::config::{Extra, Routes};
use crate::load::Request;
use crate::load::paced::{self, Pace};
use crate::load::tools::{self, Scheme};
use crate::results::{Group, Peer, Row};
use anyhow::{Context, Result};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

const CONNECTIONS: usize = 64;
/// Requests a second for latencies.
const RATE: f64 = 4_800.0;

/// How the collector is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mood {
    Healthy,
    /// Answers after this.
    Slow(Duration),
    Refusing,
    /// Takes connections, and nothing from them.
    BlackHole,
    /// Nobody listens.
    Dead,
}

const MOODS: [(Mood, &str); 5] = [
    (Mood::Healthy, "healthy"),
    (Mood::Slow(Duration::from_secs(5)), "5 s slow"),
    (Mood::Refusing, "refusing, with 503"),
    (Mood::BlackHole, "black hole"),
    (Mood::Dead, "dead"),
];

pub(super) fn run(bench: &mut Bench) -> Result<()> {
    let mut subjects = Vec::new();
    for (mood, what) in MOODS {
        let port = if mood == Mood::Healthy { bench.collector() } else { start(mood)? };
        for peer in bench.plan.peers.clone() {
            if matches!(peer, Peer::Portolan | Peer::Envoy) {
                let mut proxy = bench.proxy(&[(Routes::ONE, Extra::Tracing)])?;
                proxy.collector = port;
                subjects.push((what, bench.launch(peer, proxy)?));
            }
        }
    }
    for round in 0..bench.plan.rounds {
        bench.say("collectors", round);
        let mut healthy = Vec::new();
        for (what, subject) in &subjects {
            let Some(now) = measure(bench, round, what, subject)? else { continue };
            if *what == MOODS[0].1 {
                healthy.push((subject.peer, now));
                continue;
            }
            let Some((_, before)) = healthy.iter().find(|(peer, _)| *peer == subject.peer) else { continue };
            for (unit, before, now) in
                [("of healthy, CPU/request", before.0, now.0), ("of healthy, p50", before.1, now.1)]
            {
                bench.results.add(row(what, unit), subject.peer, round, now / before);
            }
        }
    }
    Ok(())
}

fn row<'a>(what: &'a str, unit: &'static str) -> Row<'a> {
    Row { group: Group::Collectors, what, unit }
}

/// CPU time for a request and the median latency, us.
fn measure(bench: &mut Bench, round: usize, what: &str, subject: &Subject) -> Result<Option<(f64, f64)>> {
    let (bin, time) = (bench.programs.bin.clone(), bench.plan.time);
    let request = Request::plain(subject.port(Extra::Tracing));
    let done = bench.measure(cpu_row(Group::Collectors, what), round, subject, |_| {
        tools::wrk(&bin, &request, Scheme::Http, CONNECTIONS, time)
    })?;
    let Some((_, cpu)) = done else { return Ok(None) };
    let p50 = paced::run(&request, CONNECTIONS, Pace::Rate(RATE), bench.plan.paced())?.quantile_us(0.5);
    let p50 = p50.context("no latencies")?;
    bench.results.add(row(what, "us p50 at 4,800/s"), subject.peer, round, p50);
    Ok(Some((cpu, p50)))
}

/// Starts a collector for as long as the harness runs, and says where it is.
fn start(mood: Mood) -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = listener.local_addr()?.port();
    if mood == Mood::Dead {
        return Ok(port);
    }
    std::thread::spawn(move || {
        let mut held = Vec::new();
        for stream in listener.incoming().flatten() {
            match mood {
                Mood::BlackHole => held.push(stream),
                // Whoever is answered knows; what fails here is the proxy's to deal with.
                _ => drop(std::thread::spawn(move || answer(mood, &stream))),
            }
        }
    });
    Ok(port)
}

/// Answers the requests of a connection.
fn answer(mood: Mood, stream: &TcpStream) -> Result<()> {
    let mut reader = BufReader::new(stream);
    let mut writer = stream;
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let line = line.trim_end();
            if line.is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse()?;
            }
        }
        std::io::copy(&mut reader.by_ref().take(length), &mut std::io::sink())?;
        let status = match mood {
            Mood::Slow(time) => {
                std::thread::sleep(time);
                "200 OK"
            }
            _ => "503 Service Unavailable",
        };
        write!(writer, "HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n")?;
    }
}
