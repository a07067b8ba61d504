//! What may be tuned, by runtime keys under `telemetry.` (`layered_runtime`), read when an exporter is opened.

use crate::runtime::Runtime;
use std::path::PathBuf;
use std::time::Duration;

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

impl Knobs {
    /// As `runtime` says now; what it does not say, or says in a form that is no number, has its default.
    pub fn read(runtime: &Runtime) -> Self {
        let text = |key: &str| runtime.text(&format!("telemetry.{key}"));
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
