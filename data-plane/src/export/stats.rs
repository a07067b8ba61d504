//! What is counted of an exporter, `telemetry.<exporter>.`.

use crate::stat_block;

stat_block! {
    /// Metrics of an exporter; items are spans or log entries.
    pub(super) struct Stats {
        counters: items_accepted, items_sent, dropped_overflow, dropped_memory, dropped_expired, dropped_rejected,
            dropped_at_end, batches_sent, batches_failed, batches_rejected, retries, breaker_opened, dead_letters,
            dead_letters_failed, dead_letters_overwritten, dead_letters_replayed;
        gauges: queue_depth, queue_bytes, in_flight, breaker_state, dead_letter_bytes;
        histograms: batch_size, batch_bytes, latency_ms;
    }
}
