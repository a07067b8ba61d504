//! The order of the start, and waits that end.
//!
//! As Envoy: static clusters warm up, then clusters are asked for (CDS, with EDS beside it) and warm up, then
//! listeners are (LDS, with RDS beside it), then the proxy is live. Every wait for a control plane ends at its
//! `initial_fetch_timeout`. Responses are acknowledged once applied; those of clusters on the aggregated stream, once
//! the proxy is live, when they are warm, as Envoy does it: a server that waits for them moves no route to a cluster
//! that does not serve yet.

use super::Xds;
use super::apply::{Phase, State};
use super::kind::Kind;
use super::secrets;
use super::wanted::ALL;
use data_plane_core::config::{self, ConfigSource, Discovery};
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{info, warn};

/// Longest wait for static clusters before control planes are asked: names that do not resolve must not keep a
/// proxy from its configuration.
const STATIC_CLUSTERS: Duration = Duration::from_secs(15);

/// Without a deadline to look at.
const FAR: Duration = Duration::from_secs(3600);

/// Brings the proxy up and keeps its waits. Ends only when static listeners cannot serve at the start: with their names, and why.
pub(super) async fn run(xds: &Xds) -> Vec<(Box<str>, String)> {
    let start = async {
        let failed = start(xds).await;
        if failed.is_empty() {
            std::future::pending::<()>().await;
        }
        failed
    };
    tokio::select! {
        failed = start => failed,
        // Both for ever.
        ((), ()) = async { tokio::join!(timers(xds), follow_warming(xds)) } => Vec::new(),
    }
}

/// Answers which static listeners cannot serve.
async fn start(xds: &Xds) -> Vec<(Box<str>, String)> {
    let began = Instant::now();
    if timeout(STATIC_CLUSTERS, static_clusters(xds)).await.is_err() {
        warn!("static clusters are not warm yet; going on");
    }
    xds.enter(Phase::Clusters);
    until(xds, |state| state.wanted.is_settled(Kind::Cluster, ALL)).await;
    let mut warming = xds.upstream().warming();
    // The manager lives as long as we do.
    let _ = warming.wait_for(|left| *left == 0).await;
    xds.enter(Phase::Listeners);
    let settled = |state: &State| state.wanted.is_settled(Kind::Listener, ALL) && state.waiting.is_empty();
    until(xds, |state| settled(state) || !state.fatal.is_empty()).await;
    let fatal = xds.with(|state| state.fatal.clone());
    if fatal.is_empty() {
        xds.enter(Phase::Live);
        info!(took_ms = began.elapsed().as_millis() as u64, "all dependencies initialized");
    }
    fatal
}

/// Waits for the clusters that a control plane may be reached by.
async fn static_clusters(xds: &Xds) {
    let mut warming = xds.upstream().warming();
    let names: Vec<_> = xds.with(|state| {
        // Those whose endpoints or secrets come from a server cannot be the way to it.
        let served = |secret: &config::SdsReference| {
            matches!(secret.source, Some(ConfigSource::Ads { .. } | ConfigSource::Grpc { .. }))
        };
        let primary = state
            .static_clusters
            .values()
            .filter(|c| !matches!(c.discovery, Discovery::Eds { .. }) && !secrets::of_cluster(c).any(served));
        primary.map(|c| c.name.clone()).collect()
    });
    while !names.iter().all(|name| xds.upstream().is_warm(name)) {
        if warming.changed().await.is_err() {
            return;
        }
    }
}

async fn until(xds: &Xds, done: impl Fn(&State) -> bool) {
    let mut changes = xds.changes();
    while !xds.with(&done) {
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// Ends waits that took too long.
async fn timers(xds: &Xds) {
    let mut changes = xds.changes();
    loop {
        let next = xds.with(|state| {
            state.wanted.next_deadline().into_iter().chain(state.secrets.next_deadline()).min()
        });
        tokio::select! {
            // Both cancel safe.
            () = sleep_until(next.unwrap_or_else(|| Instant::now() + FAR)) => xds.expire(),
            changed = changes.changed() => if changed.is_err() { return },
        }
    }
}

/// Once replacements are warm, what only their predecessors wanted is not wanted any more.
async fn follow_warming(xds: &Xds) {
    let mut warming = xds.upstream().warming();
    while warming.changed().await.is_ok() {
        if *warming.borrow_and_update() == 0 {
            xds.refresh();
        }
    }
}
