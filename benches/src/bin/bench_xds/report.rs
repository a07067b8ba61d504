//! Figures for people.

use std::time::Duration;

use crate::plane::Kind;
use crate::requests::Mode;

/// What one combination came to.
#[derive(Debug)]
pub(crate) struct Row {
    pub store: Kind,
    pub mode: Mode,
    pub debounce: String,
    pub clients: usize,
    /// Until the last proxy had everything.
    pub sync: Duration,
    pub sync_cpu: Duration,
    /// Median of a write that changes nothing, for the store's share of the rounds.
    pub write: Duration,
    pub median: Duration,
    pub p99: Duration,
    /// CPU of the control plane for each round.
    pub round_cpu: Duration,
    /// Bytes of responses for each round, over all proxies.
    pub round_bytes: u64,
    /// Resident bytes without proxies, with all of them idle, and after the rounds.
    pub resident_before: u64,
    pub resident_synced: u64,
    pub resident_after: u64,
    /// Responses beyond one for each proxy and round.
    pub extra: u64,
    pub pushed_for_nothing: u64,
}

impl Row {
    /// CPU of one change pushed to one proxy and acknowledged by it, the share of the store and the build included.
    fn cpu_us_per_push(&self) -> f64 {
        self.round_cpu.as_secs_f64() * 1e6 / self.clients.max(1) as f64
    }

    fn kib_per_proxy(&self) -> f64 {
        let most = self.resident_synced.max(self.resident_after);
        most.saturating_sub(self.resident_before) as f64 / 1024.0 / self.clients.max(1) as f64
    }
}

fn ms(d: Duration) -> f64 {
    d.as_secs_f64() * 1e3
}

/// The head of the table.
pub(crate) fn heading() {
    println!(
        "{:<9} {:<6} {:>8} {:>7} | {:>8} {:>8} | {:>8} {:>9} {:>8} {:>8} {:>7} {:>9} | {:>7} {:>7} {:>7} {:>8} | {:>6} {:>6}",
        "store",
        "mode",
        "debounce",
        "proxies",
        "sync ms",
        "cpu ms",
        "write ms",
        "last ACK",
        "p99 ms",
        "cpu ms",
        "cpu us",
        "KiB",
        "RSS MiB",
        "synced",
        "after",
        "KiB/",
        "extra",
        "no-op"
    );
    println!(
        "{:<9} {:<6} {:>8} {:>7} | {:>8} {:>8} | {:>8} {:>9} {:>8} {:>8} {:>7} {:>9} | {:>7} {:>7} {:>7} {:>8} | {:>6} {:>6}",
        "",
        "",
        "ms",
        "",
        "",
        "",
        "",
        "median ms",
        "",
        "a round",
        "a push",
        "a round",
        "before",
        "",
        "",
        "proxy",
        "pushes",
        "pushes"
    );
}

/// One line of it.
pub(crate) fn row(r: &Row) {
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    println!(
        "{:<9} {:<6} {:>8} {:>7} | {:>8.0} {:>8.0} | {:>8.1} {:>9.1} {:>8.1} {:>8.1} {:>7.1} {:>9.0} | {:>7.1} {:>7.1} {:>7.1} {:>8.1} | {:>6} {:>6}",
        format!("{:?}", r.store).to_lowercase(),
        format!("{:?}", r.mode).to_lowercase(),
        r.debounce,
        r.clients,
        ms(r.sync),
        ms(r.sync_cpu),
        ms(r.write),
        ms(r.median),
        ms(r.p99),
        ms(r.round_cpu),
        r.cpu_us_per_push(),
        r.round_bytes as f64 / 1024.0,
        mib(r.resident_before),
        mib(r.resident_synced),
        mib(r.resident_after),
        r.kib_per_proxy(),
        r.extra,
        r.pushed_for_nothing,
    );
}

/// The targets, each with the rows that it is about and whether they meet it.
pub(crate) fn targets(rows: &[Row]) {
    println!("targets:");
    let target = |what: &str, about: &dyn Fn(&Row) -> bool, met: &dyn Fn(&Row) -> (bool, String)| {
        let mut any = false;
        for r in rows.iter().filter(|r| about(r)) {
            any = true;
            let (met, figure) = met(r);
            let verdict = if met { "met" } else { "MISSED" };
            println!(
                "  {verdict:<7} {what}: {figure} ({:?}, {:?}, debounce {}, {} proxies)",
                r.store, r.mode, r.debounce, r.clients
            );
        }
        if !any {
            println!("  -       {what}: not measured in this run");
        }
    };
    target(
        "etcd write to ACK by 100 proxies < 200 ms median with the default debounce",
        &|r| r.store == Kind::Etcd && r.clients == 100 && r.debounce == "default",
        &|r| (r.median < Duration::from_millis(200), format!("{:.1} ms", ms(r.median))),
    );
    target(
        "last of 1000 delta proxies < 60 ms p99 without debounce (store write included)",
        &|r| r.mode == Mode::Delta && r.clients == 1000 && r.debounce == "0",
        &|r| (r.p99 < Duration::from_millis(60), format!("{:.1} ms", ms(r.p99))),
    );
    target("memory < 50 KiB for each idle proxy", &|r| r.clients >= 1000, &|r| {
        (r.kib_per_proxy() < 50.0, format!("{:.1} KiB", r.kib_per_proxy()))
    });
    let pushes: u64 = rows.iter().map(|r| r.pushed_for_nothing).sum();
    let verdict = if pushes == 0 { "met" } else { "MISSED" };
    println!("  {verdict:<7} writes that change nothing push nothing: {pushes} pushes in all");
}
