//! `/telemetry`: how the export of spans and logs does (ours; Envoy has no such page).

use super::page::Page;
use super::proxy::Proxy;
use crate::export::Report;
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

pub(super) fn page(proxy: &dyn Proxy) -> Page {
    let reports = proxy.telemetry();
    let healthy = reports.iter().all(|report| report.breaker == "closed");
    let exporters: Vec<_> = reports.iter().map(exporter).collect();
    Page::json(&json!({ "healthy": healthy, "exporters": exporters }))
}

fn exporter(report: &Report) -> Value {
    let Report {
        name,
        cluster,
        protocol,
        breaker,
        depth,
        memory,
        items,
        batches,
        dead_letter_bytes,
        last_success,
        last_error,
    } = report;
    let tries = batches.0 + batches.1;
    let success = if tries == 0 { Value::Null } else { json!(batches.0 as f64 / tries as f64) };
    json!({
        "name": name,
        "cluster": cluster,
        "protocol": protocol,
        "breaker": breaker,
        "queued_items": depth,
        "held_bytes": memory.0,
        "memory_limit_bytes": memory.1,
        "accepted_items": items.0,
        "sent_items": items.1,
        "dropped_items": items.2,
        "sent_batches": batches.0,
        "failed_batches": batches.1,
        "success_rate": success,
        "dead_letter_bytes": dead_letter_bytes,
        "last_success_unix_ms": last_success.map(millis),
        "last_error_unix_ms": last_error.as_ref().map(|(at, _)| millis(*at)),
        "last_error": last_error.as_ref().map(|(_, error)| error),
    })
}

fn millis(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}
