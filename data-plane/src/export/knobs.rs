//! What may be tuned, by runtime keys under `telemetry.` (`layered_runtime`), read when an exporter is opened.

use crate::runtime::Runtime;
use std::path::PathBuf;
use std::time::Duration;
use xds_types::text::suggestion;

/// Which item is dropped when there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overflow {
    /// The one that comes.
    DropNewest,
    /// The one that has waited longest in the worker's queue.
    DropOldest,
}

/// The knobs of an exporter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Knobs {
    /// `telemetry.queue_entries`: items that a worker's queue holds. Default 2048.
    pub queue_entries: usize,
    /// `telemetry.memory_bytes`: items and batches of an exporter, all workers together. Default 16 MiB.
    pub memory_bytes: usize,
    /// `telemetry.overflow`: `drop_newest` (default) or `drop_oldest`.
    pub overflow: Overflow,
    /// `telemetry.batch_entries`: items in a batch at most; so many waiting in one queue are sent at once.
    /// Default 512.
    pub batch_entries: usize,
    /// `telemetry.batch_bytes`: a batch at most, by the size of its items. Default 1 MiB.
    pub batch_bytes: usize,
    /// `telemetry.flush_interval_ms`: longest wait of an item for its batch. Default 1000.
    pub flush_interval: Duration,
    /// `telemetry.ttl_ms`: items older than this are not sent any more. Default 60000.
    pub ttl: Duration,
    /// `telemetry.timeout_ms`: one request, where the configuration of the collector sets none. Default 10000.
    pub timeout: Duration,
    /// `telemetry.in_flight`: requests at a time. Default 4.
    pub in_flight: usize,
    /// `telemetry.retry_base_ms`, `telemetry.retry_max_ms`: bounds of the wait after a failure, which is random and
    /// doubles. Default 100, and the flush interval.
    pub retry: (Duration, Duration),
    /// `telemetry.breaker_failures`: requests failed in a row that stop sending. Default 5.
    pub breaker_failures: u32,
    /// `telemetry.breaker_open_ms`, `telemetry.breaker_max_open_ms`: how long nothing is sent, doubling while probes
    /// fail. Default 500, and nine tenths of the flush interval: a collector that is back is found within one.
    pub breaker_open: (Duration, Duration),
    /// `telemetry.dead_letter_dir`: where batches go that could not be delivered; a folder per exporter in it.
    /// Default none: they are dropped.
    pub dead_letter_dir: Option<PathBuf>,
    /// `telemetry.dead_letter_bytes`: files of an exporter at most; the oldest go. Default 64 MiB.
    pub dead_letter_bytes: u64,
    /// `telemetry.replay`: send dead letters again once the collector is back. Default true.
    pub replay: bool,
}

/// What a knob may be set to.
#[derive(Clone, Copy)]
enum Takes {
    /// A whole number from 0.
    Number,
    /// One of these.
    One(&'static [&'static str]),
    /// Any text.
    Text,
}

/// What all keys begin with.
const PREFIX: &str = "telemetry.";

/// Every knob.
const KNOBS: &[(&str, Takes)] = &[
    ("queue_entries", Takes::Number),
    ("memory_bytes", Takes::Number),
    ("overflow", Takes::One(&["drop_newest", "drop_oldest"])),
    ("batch_entries", Takes::Number),
    ("batch_bytes", Takes::Number),
    ("flush_interval_ms", Takes::Number),
    ("ttl_ms", Takes::Number),
    ("timeout_ms", Takes::Number),
    ("in_flight", Takes::Number),
    ("retry_base_ms", Takes::Number),
    ("retry_max_ms", Takes::Number),
    ("breaker_failures", Takes::Number),
    ("breaker_open_ms", Takes::Number),
    ("breaker_max_open_ms", Takes::Number),
    ("dead_letter_dir", Takes::Text),
    ("dead_letter_bytes", Takes::Number),
    ("replay", Takes::One(&["true", "false"])),
];

impl Knobs {
    /// Runtime keys among `values` that say something of exporters which is not understood, and why.
    pub fn check(values: &[(String, String)]) -> Vec<(&str, String)> {
        let ours = values.iter().filter_map(|(key, value)| Some((key, key.strip_prefix(PREFIX)?, value)));
        ours.filter_map(|(key, name, value)| {
            let reason = match KNOBS.iter().find(|(known, _)| *known == name) {
                None => {
                    let names = KNOBS.iter().map(|(known, _)| *known);
                    Some(format!("no such knob of exporters{}", suggestion(name, names)))
                }
                Some((_, Takes::Text)) => None,
                Some((_, Takes::Number)) => {
                    value.parse::<u64>().is_err().then(|| format!("{value:?} is not a whole number"))
                }
                Some((_, Takes::One(of))) => (!of.contains(&value.as_str()))
                    .then(|| format!("{value:?} is not one of {}", of.join(", "))),
            };
            Some((key.as_str(), reason?))
        })
        .collect()
    }

    /// As `runtime` says now; what it does not say has its default. So has what [`Self::check`] finds fault with.
    pub fn read(runtime: &Runtime) -> Self {
        let text = |key: &str| {
            debug_assert!(KNOBS.iter().any(|(known, _)| *known == key), "{key} is in the table");
            runtime.text(&format!("{PREFIX}{key}"))
        };
        let number = |key: &str, default: u64| text(key).and_then(|v| v.parse().ok()).unwrap_or(default);
        let size =
            |key: &str, default: u64| usize::try_from(number(key, default).max(1)).unwrap_or(usize::MAX);
        let ms = |key: &str, default: u64| Duration::from_millis(number(key, default).max(1));
        let flush_interval = ms("flush_interval_ms", 1_000);
        let interval_ms = flush_interval.as_millis() as u64;
        let most_open_ms = (interval_ms * 9 / 10).max(1);
        Self {
            queue_entries: size("queue_entries", 2_048),
            memory_bytes: size("memory_bytes", 16 << 20),
            overflow: match text("overflow").as_deref() {
                Some("drop_oldest") => Overflow::DropOldest,
                _ => Overflow::DropNewest,
            },
            batch_entries: size("batch_entries", 512),
            batch_bytes: size("batch_bytes", 1 << 20),
            flush_interval,
            ttl: ms("ttl_ms", 60_000),
            timeout: ms("timeout_ms", 10_000),
            in_flight: size("in_flight", 4),
            retry: (ms("retry_base_ms", 100), ms("retry_max_ms", interval_ms)),
            breaker_failures: u32::try_from(number("breaker_failures", 5).max(1)).unwrap_or(u32::MAX),
            breaker_open: (
                ms("breaker_open_ms", most_open_ms.min(500)),
                ms("breaker_max_open_ms", most_open_ms),
            ),
            dead_letter_dir: text("dead_letter_dir")
                .filter(|dir| !dir.is_empty())
                .map(|dir| PathBuf::from(&*dir)),
            dead_letter_bytes: number("dead_letter_bytes", 64 << 20),
            replay: text("replay").as_deref() != Some("false"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_understood_is_named_with_what_was_meant() {
        let pair = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
        let values = [
            ("telemetry.queue_entries", "10k"),
            ("telemetry.queue_entires", "10"),
            ("telemetry.overflow", "drop_latest"),
            ("telemetry.replay", "false"),
            ("telemetry.dead_letter_dir", "/x"),
            ("telemetry.ttl_ms", "100"),
            ("telemetry.in_flight", "-1"),
            ("upstream.healthy_panic_threshold", "x"),
        ]
        .map(pair);
        let told: Vec<String> =
            Knobs::check(&values).into_iter().map(|(key, reason)| format!("{key}: {reason}")).collect();
        assert_eq!(
            told,
            [
                "telemetry.queue_entries: \"10k\" is not a whole number",
                "telemetry.queue_entires: no such knob of exporters; did you mean `queue_entries`?",
                "telemetry.overflow: \"drop_latest\" is not one of drop_newest, drop_oldest",
                "telemetry.in_flight: \"-1\" is not a whole number",
            ]
        );
    }

    #[test]
    fn every_knob_that_is_read_is_in_the_table() {
        // Reading asserts it.
        Knobs::read(&Runtime::default());
    }
}
