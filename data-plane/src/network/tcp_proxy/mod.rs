//! The TCP proxy as a network filter: a connection's bytes to a host of a cluster and back.

mod session;
mod stats;

use super::{BuildResult, Built, Factory, LocalBoxFuture, NetworkFilter};
use crate::http::{BuildError, Connection, ConnectionLogs, Deps, Worker};
use crate::runtime::Runtime;
use crate::stats::Scope;
use crate::transport::{ByteCounters, Stream};
use data_plane_core::config;
use data_plane_core::headers::Process;
use session::Session;
use stats::Stats;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// See the module.
pub(super) const FACTORY: Factory = Factory { name: "envoy.filters.network.tcp_proxy", build };

/// A TCP proxy, shared by workers and connections.
struct Proxy {
    config: Arc<config::TcpProxy>,
    stats: Stats,
    logs: ConnectionLogs,
    process: Arc<Process>,
    runtime: Runtime,
    /// Health checks fail.
    fails: Arc<AtomicBool>,
}

struct TcpProxy(Arc<Proxy>);

impl NetworkFilter for TcpProxy {
    fn serve(&self, mut connection: Connection<Stream>, worker: Rc<Worker>) -> LocalBoxFuture<'static, ()> {
        let stats = &self.0.stats;
        stats.downstream_cx_total.inc();
        connection.io.count_into(Some(ByteCounters {
            rx: stats.downstream_cx_rx_bytes_total.clone(),
            tx: stats.downstream_cx_tx_bytes_total.clone(),
        }));
        Box::pin(Session::serve(Arc::clone(&self.0), connection, worker))
    }
}

fn build(config: &config::NetworkFilter, deps: &Deps, _listener: &Scope) -> Option<BuildResult> {
    let config::NetworkFilter::Tcp(config) = config else { return None };
    Some(Proxy::new(config, deps).map(|proxy| Built::Terminal(Arc::new(TcpProxy(Arc::new(proxy))))))
}

impl Proxy {
    fn new(config: &Arc<config::TcpProxy>, deps: &Deps) -> Result<Self, BuildError> {
        let prefix = &*config.stat_prefix;
        let scope = deps.stats.scope(&format!("tcp.{prefix}."), "tcp.", &[("envoy_tcp_prefix", prefix)]);
        Ok(Self {
            config: Arc::clone(config),
            stats: Stats::new(&scope),
            logs: ConnectionLogs::open(&config.access_log, deps)?,
            process: Arc::clone(&deps.process),
            runtime: deps.runtime.clone(),
            fails: Arc::clone(&deps.fails_health_checks),
        })
    }
}
