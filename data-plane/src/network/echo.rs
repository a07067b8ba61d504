//! Every byte back to who sent it, and the end too.

use super::relay::Way;
use super::{BuildResult, Built, Factory, LocalBoxFuture, NetworkFilter};
use crate::http::{Connection, Deps, Worker};
use crate::stats::Scope;
use crate::task::Phase;
use crate::transport::Stream;
use data_plane_core::config;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;

/// See the module.
pub(super) const FACTORY: Factory = Factory { name: "envoy.filters.network.echo", build };

struct Echo;

impl NetworkFilter for Echo {
    fn serve(&self, connection: Connection<Stream>, worker: Rc<Worker>) -> LocalBoxFuture<'static, ()> {
        Box::pin(async move {
            let Connection { io, buffer_limit, mut shutdown, .. } = connection;
            let limit = usize::try_from(buffer_limit).unwrap_or(usize::MAX).max(1);
            let (mut source, mut sink) = tokio::io::split(io);
            let mut way = Way::default();
            tokio::select! {
                // However it ends, the connection is over.
                _ = poll_fn(|cx| way.poll(cx, &mut source, &mut sink, &worker, limit)) => {}
                () = shutdown.reached(Phase::Stopped) => {}
            }
        })
    }
}

fn build(config: &config::NetworkFilter, _: &Deps, _: &Scope) -> Option<BuildResult> {
    let config::NetworkFilter::Echo = config else { return None };
    Some(Ok(Built::Terminal(Arc::new(Echo))))
}
