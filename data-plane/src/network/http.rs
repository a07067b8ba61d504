//! The HTTP connection manager as a network filter.

use super::{BuildResult, Built, Factory, LocalBoxFuture, NetworkFilter};
use crate::http::{self, Connection, Deps, Hcm, Worker};
use crate::stats::Scope;
use crate::transport::{ByteCounters, Stream};
use data_plane_core::config;
use std::rc::Rc;
use std::sync::Arc;

/// See the module.
pub(super) const FACTORY: Factory = Factory { name: "envoy.filters.network.http_connection_manager", build };

struct Http(Arc<Hcm>);

impl NetworkFilter for Http {
    fn serve(&self, mut connection: Connection<Stream>, worker: Rc<Worker>) -> LocalBoxFuture<'static, ()> {
        let (rx, tx) = self.0.byte_counters();
        connection.io.count_into(Some(ByteCounters { rx, tx }));
        Box::pin(http::serve(Arc::clone(&self.0), connection, worker))
    }
}

fn build(config: &config::NetworkFilter, deps: &Deps, listener: &Scope) -> Option<BuildResult> {
    let config::NetworkFilter::Http(config) = config else { return None };
    Some(Hcm::build(Arc::clone(config), deps, listener).map(|hcm| Built::Terminal(Arc::new(Http(hcm)))))
}
