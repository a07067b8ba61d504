//! The access logs of connections: lines, and entries for gRPC services.

use super::grpc_log::ConnectionLog;
use super::{BuildError, Deps, LineLog};
use data_plane_core::config;
use data_plane_core::headers::Record;
use data_plane_core::matcher::Runtime;

/// All logs of one proxy or listener.
pub struct ConnectionLogs {
    lines: Vec<LineLog>,
    entries: Vec<ConnectionLog>,
}

impl ConnectionLogs {
    /// Opens what is configured.
    ///
    /// # Errors
    /// A file, or an exporter, cannot be opened.
    pub fn open(config: &config::ConnectionLogs, deps: &Deps) -> Result<Self, BuildError> {
        let config::ConnectionLogs { lines, entries } = config;
        Ok(Self {
            lines: lines.iter().map(|log| LineLog::open(log, deps)).collect::<Result<_, _>>()?,
            entries: entries.iter().map(|log| ConnectionLog::open(log, deps)).collect::<Result<_, _>>()?,
        })
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty() && self.entries.is_empty()
    }

    /// Logs what a record says wherever it is to be logged. `random` is the connection's.
    pub fn append(&self, worker: usize, record: &Record<'_>, random: u64, runtime: Option<Runtime<'_>>) {
        for log in &self.lines {
            log.append(worker, record, random, runtime);
        }
        for log in &self.entries {
            log.append(worker, record, random, runtime);
        }
    }
}
