//! What filter chains are built with.

use crate::export::Exporters;
use crate::http::{AccessLogs, Deps, RouteSlots};
use crate::runtime::Runtime;
use crate::stats::Registry;
use crate::trace::{self, Tracers};
use crate::transport::local_interface_address;
use crate::transport::tls::slot::SecretSlots;
use crate::xds;
use data_plane_core::config;
use data_plane_core::headers::Process;
use data_plane_core::headers::forwarded::UserAgent;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// What the filter chains of the proxy `node` are built with.
pub(super) fn of(
    node: &config::Node,
    registry: &Registry,
    runtime: &Runtime,
    secrets: &SecretSlots,
    access_logs: &AccessLogs,
    exporters: &Exporters,
) -> Deps {
    let traced = trace::Node {
        id: node.id.as_str().into(),
        cluster: node.cluster.as_str().into(),
        zone: node.locality.zone.as_str().into(),
        address: Some(local_interface_address()),
    };
    Deps {
        secrets: secrets.clone(),
        stats: registry.clone(),
        routes: RouteSlots::default(),
        access_logs: access_logs.clone(),
        process: Arc::new(process()),
        agent: Arc::new(UserAgent { cluster: node.cluster.as_str().into(), node: node.id.as_str().into() }),
        exporters: exporters.clone(),
        node: Arc::new(xds::node(node)),
        tracers: Tracers::new(exporters.clone(), runtime.clone(), registry.clone(), traced),
        runtime: runtime.clone(),
        fails_health_checks: Arc::new(AtomicBool::new(false)),
    }
}

fn process() -> Process {
    let hostname = rustix::system::uname().nodename().to_string_lossy().into_owned();
    // Names and values that are not text cannot be configured either.
    let environment =
        std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
    Process { hostname, environment: environment.collect(), ..Process::default() }
}
