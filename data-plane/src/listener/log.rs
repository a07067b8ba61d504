//! Logs of connections, where a listener asks for them (Envoy `Listener.access_log`): each connection is told of when
//! it ends, also those that no filter chain served.

use crate::http::{BuildError, ConnectionLogs, Deps, Told};
use crate::runtime::Runtime;
use crate::transport::Tally;
use data_plane_core::config;
use data_plane_core::headers::{ByteCounts, Downstream, LogType, Process, Record, ResponseFlags, Tls};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::time::Instant;

/// As Envoy says of a connection that no chain takes.
const NO_CHAIN: &str = "filter_chain_not_found";
/// As Envoy says of a handshake that took too long.
const TOO_LONG: &str = "transport socket timeout was reached";

/// The logs of a listener.
pub(super) struct Logs {
    logs: ConnectionLogs,
    process: Arc<Process>,
    runtime: Runtime,
}

impl Logs {
    /// Opens what `configured` names; `None` when that is nothing.
    ///
    /// # Errors
    /// A file, or an exporter, cannot be opened.
    pub(super) fn open(
        configured: &config::ConnectionLogs,
        deps: &Deps,
    ) -> Result<Option<Arc<Self>>, BuildError> {
        let logs = ConnectionLogs::open(configured, deps)?;
        if logs.is_empty() {
            return Ok(None);
        }
        Ok(Some(Arc::new(Self { logs, process: Arc::clone(&deps.process), runtime: deps.runtime.clone() })))
    }

    /// A connection has been accepted by worker `worker` (from 1).
    pub(super) fn begin(
        self: &Arc<Self>,
        worker: usize,
        peer: SocketAddr,
        local: SocketAddr,
        began: Instant,
    ) -> Box<Entry> {
        Box::new(Entry {
            logs: Arc::clone(self),
            worker,
            start: SystemTime::now(),
            began,
            facts: Downstream {
                remote: peer,
                direct_remote: peer,
                local,
                direct_local: local,
                server_name: None,
                connection_id: 0,
                handshake: None,
                transport_failure: None,
                tls: None,
            },
            filter_chain: Arc::from(""),
            flags: ResponseFlags::NONE,
            details: None,
            termination: None,
            moved: Arc::default(),
            told: Arc::default(),
        })
    }
}

/// A connection; it is told of when this is dropped.
pub(super) struct Entry {
    logs: Arc<Logs>,
    worker: usize,
    start: SystemTime,
    began: Instant,
    facts: Downstream,
    filter_chain: Arc<str>,
    flags: ResponseFlags,
    details: Option<&'static str>,
    termination: Option<&'static str>,
    moved: Arc<Tally>,
    told: Arc<Told>,
}

impl Entry {
    /// A proxy in front says whose connection it is.
    pub(super) fn told_ends(&mut self, remote: SocketAddr, local: SocketAddr) {
        (self.facts.remote, self.facts.local) = (remote, local);
    }

    /// No chain takes it.
    pub(super) fn found_no_chain(&mut self) {
        self.flags |= ResponseFlags::NO_ROUTE_FOUND;
        self.details = Some(NO_CHAIN);
    }

    /// A chain takes it.
    pub(super) fn found_chain(&mut self, name: &Arc<str>, server_name: Option<&str>, id: u64) {
        self.filter_chain = Arc::clone(name);
        self.facts.server_name = server_name.map(Into::into);
        self.facts.connection_id = id;
    }

    /// TLS is agreed upon.
    pub(super) fn secured(&mut self, tls: &Arc<Tls>, handshake: Option<Duration>) {
        self.facts.tls = Some(Arc::clone(tls));
        self.facts.handshake = handshake;
    }

    /// TLS was not agreed upon.
    pub(super) fn not_secured(&mut self, reason: &str) {
        self.facts.transport_failure = Some(reason.into());
    }

    /// TLS was not agreed upon in time.
    pub(super) fn not_secured_in_time(&mut self) {
        self.termination = Some(TOO_LONG);
    }

    /// Where its bytes are counted.
    pub(super) fn moved(&self) -> &Arc<Tally> {
        &self.moved
    }

    /// Where the chain says what it found.
    pub(super) fn told(&self) -> &Arc<Told> {
        &self.told
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let now = self.began.elapsed();
        if self.told.is_broken() {
            self.flags |= ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR;
        }
        let mut record = Record {
            protocol: self.told.version(),
            now,
            status_details: self.details,
            termination_details: self.termination,
            flags: self.flags,
            downstream_bytes: ByteCounts {
                body_received: self.moved.received(),
                body_sent: self.moved.sent(),
                ..ByteCounts::ZERO
            },
            downstream: Some(&self.facts),
            filter_chain: &self.filter_chain,
            log_type: LogType::NotSet,
            process: Some(&self.logs.process),
            ..Record::new(self.start)
        };
        record.timing.end = Some(now);
        let runtime = |key: &str| self.logs.runtime.per_million(key);
        self.logs.logs.append(self.worker, &record, fastrand::u64(..), Some(&runtime));
    }
}
