//! `server.*` and `runtime.*` stats: the process as a whole.

use crate::runtime::Runtime;
use crate::stat_block;
use crate::stats::Registry;
use std::time::Instant;

stat_block! {
    /// `server.`
    pub(super) struct ServerStats {
        counters: debug_assertion_failures, dynamic_unknown_fields, envoy_bug_failures, static_unknown_fields;
        gauges: concurrency, days_until_first_cert_expiring, hot_restart_epoch, hot_restart_generation,
            ignored_fields, live, memory_allocated, memory_heap_size, memory_physical_size, parent_connections,
            state, stats_recent_lookups, total_connections, uptime;
        histograms: initialization_time_ms;
    }
}

stat_block! {
    /// `runtime.`
    pub(super) struct RuntimeStats {
        counters: deprecated_feature_use, load_error, load_success, override_dir_exists, override_dir_not_exists;
        gauges: admin_overrides_active, deprecated_feature_seen_since_process_start, num_keys, num_layers;
        histograms: ;
    }
}

/// `days_until_first_cert_expiring` without certificates, as Envoy's.
const NO_CERTIFICATES: u64 = u32::MAX as u64;

/// Stats of the process.
pub(super) struct Gauges {
    pub(super) server: ServerStats,
    pub(super) runtime: RuntimeStats,
    started: Instant,
}

/// Memory of the process in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Memory {
    /// Private pages in use.
    pub(super) anonymous: u64,
    /// Private address space.
    pub(super) heap: u64,
    /// Pages in use, shared ones too.
    pub(super) physical: u64,
}

impl Gauges {
    pub(super) fn new(registry: &Registry, concurrency: usize, runtime: &Runtime) -> Self {
        let server = ServerStats::new(&registry.scope("server.", "server.", &[]));
        server.concurrency.set(concurrency as u64);
        let out = Self {
            server,
            runtime: RuntimeStats::new(&registry.scope("runtime.", "runtime.", &[])),
            started: Instant::now(),
        };
        out.certificates_end_in(None);
        out.runtime.load_success.inc();
        out.runtime_changed(runtime);
        out
    }

    pub(super) fn runtime_changed(&self, runtime: &Runtime) {
        let values = runtime.values();
        self.runtime.num_keys.set(values.len() as u64);
        self.runtime.num_layers.set(runtime.layers().len() as u64);
        self.runtime.admin_overrides_active.set(u64::from(values.iter().any(|v| !v.admin.is_empty())));
    }

    pub(super) fn refresh(&self, connections: usize) {
        self.server.uptime.set(self.started.elapsed().as_secs());
        self.server.total_connections.set(connections as u64);
        let memory = memory();
        self.server.memory_allocated.set(memory.anonymous);
        self.server.memory_heap_size.set(memory.heap);
        self.server.memory_physical_size.set(memory.physical);
    }

    /// The days until the first certificate expires; `None`: there are none.
    pub(super) fn certificates_end_in(&self, days: Option<u64>) {
        self.server.days_until_first_cert_expiring.set(days.unwrap_or(NO_CERTIFICATES));
    }

    pub(super) fn uptime_secs(&self) -> u64 {
        self.started.elapsed().as_secs()
    }
}

/// From `/proc/self/status`; zeros where there is none.
pub(super) fn memory() -> Memory {
    std::fs::read_to_string("/proc/self/status").map(|status| parse(&status)).unwrap_or_default()
}

fn parse(status: &str) -> Memory {
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let kib: u64 = line.and_then(|l| l.trim().strip_suffix("kB")?.trim().parse().ok()).unwrap_or(0);
        kib * 1024
    };
    Memory { anonymous: field("RssAnon"), heap: field("VmData"), physical: field("VmRSS") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_the_systems_own_account() {
        let status = "Name:\tx\nVmRSS:\t    2048 kB\nRssAnon:\t    1024 kB\nVmData:\t     512 kB\n";
        let memory = parse(status);
        assert_eq!((memory.physical, memory.anonymous, memory.heap), (2 << 20, 1 << 20, 512 << 10));
    }
}
