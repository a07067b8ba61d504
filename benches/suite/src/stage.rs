//! What is measured, in the order in which it is.

mod change;
mod clusters;
mod collectors;
mod connections;
mod features;
mod memory;
mod rates;
mod requests;
mod routes;
mod start;
mod tables;
mod updates;
mod workers;

use crate::bench::Bench;
use anyhow::Result;

/// A part of the run, which begins with fresh processes.
pub(crate) struct Stage {
    /// For `--only`.
    pub(crate) name: &'static str,
    pub(crate) run: fn(&mut Bench) -> Result<()>,
}

pub(crate) const ALL: [Stage; 12] = [
    Stage { name: "requests", run: requests::run },
    Stage { name: "rates", run: rates::run },
    Stage { name: "connections", run: connections::run },
    Stage { name: "memory", run: memory::run },
    Stage { name: "start", run: start::run },
    Stage { name: "routes", run: routes::run },
    Stage { name: "features", run: features::run },
    Stage { name: "collectors", run: collectors::run },
    Stage { name: "clusters", run: clusters::run },
    Stage { name: "tables", run: tables::run },
    Stage { name: "updates", run: updates::run },
    Stage { name: "workers", run: workers::run },
];
