//! wrk and h2load.

use super::{Load, Request};
use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// How wrk asks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Scheme {
    Http,
    Https,
}

/// Closed loop over keep-alive HTTP/1.1 connections; with `connection: close` in the request over new ones.
pub(crate) fn wrk(
    bin: &Path,
    request: &Request,
    scheme: Scheme,
    connections: usize,
    time: Duration,
) -> Result<Load> {
    let scheme = if scheme == Scheme::Https { "https" } else { "http" };
    let mut command = Command::new(bin.join("wrk"));
    command.args(["-t1", &format!("-c{connections}"), &format!("-d{}s", time.as_secs().max(1))]);
    // In this case, or wrk sends one of its own too.
    command.args(["-H", &format!("Host: {}", request.host)]);
    for (name, value) in &request.headers {
        command.args(["-H", &format!("{name}: {value}")]);
    }
    command.arg(format!("{scheme}://127.0.0.1:{}{}", request.port, request.path));
    read_wrk(&output(&mut command)?)
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("running {command:?}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{command:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    Ok(text)
}

/// `N requests in 3.00s, ..`, and the two lines that tell of failures.
fn read_wrk(text: &str) -> Result<Load> {
    let done =
        text.lines().find_map(|line| line.split_once(" requests in ")).context("wrk counts nothing")?;
    let seconds = |text: &str| -> Option<f64> {
        let (number, unit) = text.split_at(text.find(|c: char| c.is_ascii_alphabetic())?);
        let unit = [("us", 1e-6), ("ms", 1e-3), ("s", 1.), ("m", 60.)]
            .into_iter()
            .find(|(name, _)| *name == unit)?;
        Some(number.parse::<f64>().ok()? * unit.1)
    };
    let took = done.1.split(',').next().and_then(seconds).context("wrk tells no time")?;
    let (mut errors, mut refused) = (0, 0);
    for line in text.lines() {
        if let Some((_, count)) = line.split_once("Non-2xx or 3xx responses:") {
            refused += count.trim().parse::<u64>()?;
        }
        if let Some((_, counts)) = line.split_once("Socket errors:") {
            errors += counts.split([' ', ',']).filter_map(|word| word.parse::<u64>().ok()).sum::<u64>();
        }
    }
    // wrk counts refusals among the requests.
    let requests = done.0.trim().parse::<u64>()?.saturating_sub(refused);
    Ok(Load {
        requests,
        errors: errors + refused,
        took: Duration::from_secs_f64(took),
        latencies: Vec::new(),
    })
}

/// How h2load asks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Asks {
    /// Closed loop over so many streams of each HTTP/2 connection, with prior knowledge.
    Streams(usize),
    /// So many requests a second over HTTP/1.1, in bursts of one for each connection.
    Bursts(usize),
}

/// Requests for `/`.
pub(crate) fn h2load(bin: &Path, port: u16, connections: usize, asks: Asks, time: Duration) -> Result<Load> {
    let mut command = Command::new(bin.join("h2load"));
    command.args([format!("-c{connections}"), "-t1".into()]);
    match asks {
        Asks::Streams(streams) => command.arg(format!("-m{streams}")),
        Asks::Bursts(rate) => command.args(["--h1", &format!("--rps={}", rate / connections)]),
    };
    command.args(["-D", &time.as_secs().max(1).to_string(), &format!("http://127.0.0.1:{port}/")]);
    read_h2load(&output(&mut command)?, time)
}

/// `requests: T total, S started, D done, OK succeeded, F failed, E errored, T timeout`.
fn read_h2load(text: &str, time: Duration) -> Result<Load> {
    let line =
        text.lines().find_map(|line| line.strip_prefix("requests: ")).context("h2load counts nothing")?;
    let count = |what: &str| -> Result<u64> {
        let part = line
            .split(',')
            .find_map(|part| part.trim().strip_suffix(what))
            .with_context(|| line.to_owned())?;
        Ok(part.trim().parse()?)
    };
    Ok(Load { requests: count("succeeded")?, errors: count("failed")?, took: time, latencies: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrk_is_read_with_its_failures() {
        let text = "Running 3s test\n  1 threads and 64 connections\n  189013 requests in 3.10s, 229.87MB read\n  \
                    Socket errors: connect 1, read 2, write 0, timeout 3\n  Non-2xx or 3xx responses: 5\nRequests/sec: 60971.4\n";
        let load = read_wrk(text).unwrap();
        assert_eq!((load.requests, load.errors, load.took), (189_008, 11, Duration::from_millis(3100)));
        assert!(read_wrk("unable to connect").is_err());
    }

    #[test]
    fn h2load_is_read_with_its_failures() {
        let text = "finished in 3.01s, 24000.00 req/s, 24.53MB/s\nrequests: 72000 total, 72256 started, 72000 done, \
                    71999 succeeded, 1 failed, 1 errored, 0 timeout\n";
        let load = read_h2load(text, Duration::from_secs(3)).unwrap();
        assert_eq!((load.requests, load.errors), (71_999, 1));
        assert!(read_h2load("", Duration::ZERO).is_err());
    }
}
