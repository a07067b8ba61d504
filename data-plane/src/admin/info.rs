//! What the process is and how it is: `/ready /server_info /memory /certs /init_dump`.

use super::page::Page;
use super::proxy::{Proxy, ServerState};
use http::StatusCode;
use serde_json::{Value, json};

pub(super) fn ready(proxy: &dyn Proxy) -> Page {
    let state = proxy.state();
    let status = if state == ServerState::Live { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Page::error(status, format!("{}\n", state.name()))
}

pub(super) fn server(proxy: &dyn Proxy) -> Page {
    let about = proxy.about();
    let uptime = format!("{}s", about.uptime.as_secs());
    Page::json(&json!({
        "version": about.version,
        "state": proxy.state().name(),
        "uptime_current_epoch": uptime,
        "uptime_all_epochs": uptime,
        "hot_restart_version": "disabled",
        "hot_restart_initializing": false,
        "command_line_options": about.command_line,
        "node": about.node,
    }))
}

pub(super) fn memory(proxy: &dyn Proxy) -> Page {
    let memory = proxy.memory();
    // Envoy's keys; the allocator tells nothing about its free lists.
    Page::json(&json!({
        "allocated": memory.allocated.to_string(),
        "heap_size": memory.heap.to_string(),
        "pageheap_unmapped": "0",
        "pageheap_free": "0",
        "total_thread_cache": "0",
        "total_physical_bytes": memory.physical.to_string(),
    }))
}

pub(super) fn certs(proxy: &dyn Proxy) -> Page {
    Page::json(&proxy.certificates())
}

pub(super) fn init(proxy: &dyn Proxy) -> Page {
    let mut kinds: Vec<(String, Vec<Value>)> = Vec::new();
    for (kind, name) in proxy.unready() {
        match kinds.iter_mut().find(|(k, _)| *k == kind) {
            Some((_, names)) => names.push(name.into()),
            None => kinds.push((kind, vec![name.into()])),
        }
    }
    let dumps: Vec<Value> =
        kinds.into_iter().map(|(kind, names)| json!({ "name": kind, "target_names": names })).collect();
    let value = if dumps.is_empty() { json!({}) } else { json!({ "unready_targets_dumps": dumps }) };
    Page::json(&value)
}
