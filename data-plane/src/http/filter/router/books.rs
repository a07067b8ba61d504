//! What is charged for requests and their ends: the cluster's stats, the host's, the guard's.

use super::Router;
use crate::http::stream::StreamCx;
use crate::upstream::{Admission, Outcome, Traffic};
use data_plane_core::headers::{HeaderId, RequestHead, ResponseHead};
use tokio::time::Instant;

/// An attempt that has been admitted and has not ended yet.
pub(in crate::http) struct Underway {
    admission: Admission,
    since: Instant,
}

impl Underway {
    pub(super) fn new(admission: Admission, since: Instant) -> Self {
        Self { admission, since }
    }
}

/// The attempt under way, if there is one, ended so: the guard learns of it. Dropped without, it says nothing.
pub(super) fn settle(cx: &mut StreamCx, outcome: Outcome, now: Instant) {
    cx.attempt_status(match outcome {
        Outcome::Response { status, .. } => Some(status),
        _ => None,
    });
    if let (Some(Underway { admission, since }), Some(host)) = (cx.attempt.take(), &cx.host) {
        admission.finish(host, outcome, now.saturating_duration_since(since));
    }
}

impl Router {
    /// Counts a response by status in the cluster's stats.
    pub(super) fn charge(&self, cx: &StreamCx, request: &RequestHead, status: u16, canary: bool) {
        if let Some(cluster) = cx.cluster.as_ref().filter(|_| self.dynamic_stats) {
            cluster.stats.codes().charge(status, traffic(request), canary);
        }
    }

    /// The upstream's answer has ended: how long it took.
    pub(in crate::http) fn completed(&self, request: &RequestHead, cx: &mut StreamCx, now: Instant) {
        cx.moments.upstream_end = Some(now);
        let Some(complete) = cx.vitals.complete.get().filter(|_| self.dynamic_stats) else { return };
        let Some(cluster) = &cx.cluster else { return };
        let elapsed = now.saturating_duration_since(complete).as_millis() as u64;
        cluster.stats.codes().time(elapsed, traffic(request), cx.upstream.canary);
    }
}

/// Counts a request that ran into the route's timeout.
pub(in crate::http) fn charge_timeout(cx: &StreamCx) {
    if let Some(cluster) = &cx.cluster {
        cluster.stats.upstream_rq_timeout.inc();
    }
    if let Some(host) = &cx.host {
        host.stats().timeout();
    }
}

/// Counts a response that leads to another try.
pub(super) fn charge_retry(router: &Router, cx: &StreamCx, status: u16) {
    if let Some(cluster) = cx.cluster.as_ref().filter(|_| router.dynamic_stats) {
        cluster.stats.codes().charge_retry(status);
    }
}

fn traffic(request: &RequestHead) -> Traffic {
    match request.headers.get_id(HeaderId::XEnvoyInternal) {
        Some(b"true") => Traffic::Internal,
        _ => Traffic::External,
    }
}

/// The status a host is judged by: that of gRPC responses which are over with their head is in grpc-status.
pub(super) fn upstream_status(head: &ResponseHead, grpc: bool) -> u16 {
    match head.headers.get_id(HeaderId::GrpcStatus).filter(|_| grpc) {
        // Deadline, internal, unavailable, data loss and the like count as the server's fault.
        Some(b"2" | b"4" | b"13" | b"14" | b"15") => 503,
        _ => head.status,
    }
}

/// What the guard is told of a response.
pub(super) fn outcome(head: &ResponseHead, grpc: bool) -> Outcome {
    let grpc_status = head.headers.get_id(HeaderId::GrpcStatus).filter(|_| grpc);
    let grpc_status = grpc_status.and_then(|value| std::str::from_utf8(value).ok()?.parse().ok());
    Outcome::Response { status: head.status, grpc_status }
}
