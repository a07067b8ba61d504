//! A limit of connections at a time, over all workers.

use super::{BuildResult, Built, Entry, Factory, Gate};
use crate::http::{Connection, Deps};
use crate::stat_block;
use crate::stats::Scope;
use crate::transport::Stream;
use data_plane_core::config::{self, ConnectionLimit};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// See the module.
pub(super) const FACTORY: Factory = Factory { name: "envoy.filters.network.connection_limit", build };

stat_block! {
    /// Metrics of a connection limit, `connection_limit.<prefix>.`.
    struct Stats {
        counters: limited_connections;
        gauges: active_connections;
        histograms: ;
    }
}

struct Limit {
    config: ConnectionLimit,
    shared: Arc<Shared>,
}

struct Shared {
    active: AtomicU64,
    stats: Stats,
}

/// One connection of the limit.
struct Place(Arc<Shared>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Relaxed);
        self.0.stats.active_connections.dec();
    }
}

impl Gate for Limit {
    fn enter(&self, _: &Connection<Stream>) -> Entry {
        if !self.config.enabled {
            return Entry::Passes(None);
        }
        let take = |active: u64| (active < self.config.max_connections).then(|| active + 1);
        if self.shared.active.fetch_update(Relaxed, Relaxed, take).is_err() {
            self.shared.stats.limited_connections.inc();
            return Entry::Closes { after: self.config.delay };
        }
        self.shared.stats.active_connections.inc();
        Entry::Passes(Some(Box::new(Place(Arc::clone(&self.shared)))))
    }
}

fn build(config: &config::NetworkFilter, deps: &Deps, _: &Scope) -> Option<BuildResult> {
    let config::NetworkFilter::ConnectionLimit(config) = config else { return None };
    let prefix = format!("connection_limit.{}.", config.stat_prefix);
    let scope = deps.stats.scope(
        &prefix,
        "connection_limit.",
        &[("envoy_connection_limit_prefix", &config.stat_prefix)],
    );
    let shared = Arc::new(Shared { active: AtomicU64::new(0), stats: Stats::new(&scope) });
    Some(Ok(Built::Gate(Arc::new(Limit { config: config.clone(), shared }))))
}
