//! The router: the end of every chain. Chooses a cluster and a host, edits the request for upstream, and turns
//! what comes back, or does not, into a response (Envoy `envoy.filters.http.router`).

use super::{Built, Factory};
use crate::codec::{Body, BodyError};
use crate::http::local_reply::{Cause, LocalReply, Reset};
use crate::http::stream::StreamCx;
use crate::http::{BuildError, Deps, timeouts};
use crate::upstream::{Cluster, Exchange, Host, Traffic, UpstreamErrorKind};
use data_plane_core::config::{DirectResponse, Forward, HttpFilterKind};
use data_plane_core::headers::{HeaderId, RequestHead, ResponseHead};
use data_plane_core::route::{Answer, Matched};
use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;
use tokio::time::Instant;

/// See the module.
pub(super) const FACTORY: Factory = Factory { name: "envoy.filters.http.router", build };

/// Request headers that steer the router and go no further.
const CONSUMED: &[HeaderId] = &[
    HeaderId::XEnvoyRetryOn,
    HeaderId::XEnvoyRetryGrpcOn,
    HeaderId::XEnvoyMaxRetries,
    HeaderId::XEnvoyRetriableHeaderNames,
    HeaderId::XEnvoyRetriableStatusCodes,
    HeaderId::XEnvoyHedgeOnPerTryTimeout,
    HeaderId::XEnvoyUpstreamAltStatName,
    HeaderId::XEnvoyUpstreamRqTimeoutMs,
    HeaderId::XEnvoyUpstreamRqPerTryTimeoutMs,
    HeaderId::XEnvoyUpstreamRqTimeoutAltResponse,
];

/// A configured router.
#[derive(Clone, Debug)]
pub struct Router {
    pub(in crate::http) suppress_envoy_headers: bool,
    dynamic_stats: bool,
    respect_expected_rq_timeout: bool,
}

fn build(config: &HttpFilterKind, _deps: &Deps) -> Option<Result<Built, BuildError>> {
    let HttpFilterKind::Router { suppress_envoy_headers, dynamic_stats, respect_expected_rq_timeout } =
        config;
    Some(Ok(Built::Router(Router {
        suppress_envoy_headers: *suppress_envoy_headers,
        dynamic_stats: *dynamic_stats,
        respect_expected_rq_timeout: *respect_expected_rq_timeout,
    })))
}

/// Where a request goes.
pub(in crate::http) struct Target {
    cluster: Arc<Cluster>,
    host: Arc<Host>,
}

impl Router {
    /// Decides what becomes of a request, and makes it ready to be sent.
    ///
    /// # Errors
    /// The answer, when it is not an upstream's.
    pub(in crate::http) fn route(
        &self,
        head: &mut RequestHead,
        cx: &mut StreamCx,
    ) -> Result<Target, LocalReply> {
        let served = Rc::clone(&cx.served);
        let stats = &served.hcm.stats.manager;
        stats.rq_total.inc();
        let Some((table, id)) = cx.table.clone().zip(cx.route) else {
            stats.no_route.inc();
            return Err(Cause::RouteNotFound.into());
        };
        let matched = table.matched(id);
        let forward = match matched.answer() {
            Answer::Forward(forward) => forward,
            Answer::Redirect(redirect) => {
                stats.rq_direct_response.inc();
                return Err(Cause::Redirect(redirect.status, matched.location(head)).into());
            }
            Answer::Direct(direct) => {
                stats.rq_direct_response.inc();
                return Err(direct_response(direct, head, cx));
            }
        };
        let clusters = served.worker.clusters.load();
        let Some(cluster) = matched.cluster(head).and_then(|name| clusters.get(name)) else {
            stats.no_cluster.inc();
            return Err(Cause::ClusterNotFound(forward.cluster_not_found_status).into());
        };
        let cluster = Arc::clone(cluster);
        cx.cluster = Some(Arc::clone(&cluster));
        cx.attempts = 1;
        self.prepare(&matched, forward, head, cx);
        let Some(host) = cluster.pick(served.worker.random(), None) else {
            self.charge(cx, head, 503, false);
            return Err(Cause::NoHealthyUpstream.into());
        };
        if matched.wants_endpoint_host() {
            matched.rewrite_host(head, &host.hostname, !self.suppress_envoy_headers);
        }
        cx.host = Some(Arc::clone(&host));
        Ok(Target { cluster, host })
    }

    /// Sets timeouts and everything that the upstream is to see.
    fn prepare(&self, matched: &Matched<'_>, forward: &Forward, head: &mut RequestHead, cx: &mut StreamCx) {
        let timeout = timeouts::route_timeout(forward, &head.headers, self.respect_expected_rq_timeout);
        cx.quiet_timeout = head.headers.contains_id(HeaderId::XEnvoyUpstreamRqTimeoutAltResponse);
        // One pass for all, and none at all for the many requests that carry no such header.
        if head.headers.iter().any(|header| CONSUMED.contains(&header.id)) {
            head.headers.retain(|header| !CONSUMED.contains(&header.id));
        }
        cx.vitals.route.set(timeout.route);
        if let Some(expected) = timeout.expected.filter(|_| !self.suppress_envoy_headers) {
            let mut digits = itoa::Buffer::new();
            let expected_ms = digits.format(expected.as_millis() as u64);
            head.headers.set_id(HeaderId::XEnvoyExpectedRqTimeoutMs, expected_ms.as_bytes());
        }
        if matched.virtual_host.include_request_attempt_count {
            head.headers.set_id(HeaderId::XEnvoyAttemptCount, b"1");
        }
        let keep_original = !self.suppress_envoy_headers;
        cx.with_record(None, None, None, |record| matched.finalize_request(head, record, keep_original));
    }

    /// Sends a request and waits for the head of the response.
    ///
    /// # Errors
    /// The answer when none came from upstream.
    pub(in crate::http) async fn forward(
        &self,
        target: Target,
        head: &RequestHead,
        body: Body,
        cx: &mut StreamCx,
    ) -> Result<(ResponseHead, Body), LocalReply> {
        let Target { cluster, host } = target;
        let served = Rc::clone(&cx.served);
        cx.moments.upstream_sent = Some(cx.start);
        let sent = served.worker.upstream.send(&cluster, &host, head, body).await;
        match sent {
            Ok(exchange) => Ok(self.answered(exchange, &host, head, cx)),
            Err(error) => {
                // One word, so that it is one field of a log line.
                cx.upstream.transport_failure =
                    error.transport_failure.map(|why| why.replace(' ', "_").into());
                Err(self.failed(&error.kind, &host, head, cx))
            }
        }
    }

    fn answered(
        &self,
        exchange: Exchange,
        host: &Host,
        request: &RequestHead,
        cx: &mut StreamCx,
    ) -> (ResponseHead, Body) {
        let now = Instant::now();
        let Exchange { mut head, body, upstream_local_address, protocol } = exchange;
        cx.vitals.activity.set(now);
        cx.moments.upstream_head = Some(now);
        cx.upstream.local = upstream_local_address;
        cx.upstream.protocol = Some(protocol);
        cx.upstream.canary = head.headers.get_id(HeaderId::XEnvoyUpstreamCanary) == Some(b"true");
        cx.details = Cow::Borrowed("via_upstream");
        host.stats().response(upstream_status(&head, cx.grpc));
        self.charge(cx, request, head.status, cx.upstream.canary);
        // Not for an answer that came before the end of the request: there is nothing to measure from.
        if let Some(complete) = cx.vitals.complete.get().filter(|_| !self.suppress_envoy_headers) {
            let elapsed = now.saturating_duration_since(complete).as_millis() as u64;
            let mut digits = itoa::Buffer::new();
            head.headers.set_id(HeaderId::XEnvoyUpstreamServiceTime, digits.format(elapsed).as_bytes());
        }
        cx.status = Some(head.status);
        self.edit_response(&mut head, request, cx);
        Self::count_attempts(&mut head, cx);
        (head, body)
    }

    fn failed(
        &self,
        kind: &UpstreamErrorKind,
        host: &Host,
        request: &RequestHead,
        cx: &mut StreamCx,
    ) -> LocalReply {
        let reset = match kind {
            UpstreamErrorKind::ConnectFailure => Reset::ConnectFailure,
            UpstreamErrorKind::ConnectTimeout => Reset::ConnectTimeout,
            UpstreamErrorKind::Terminated => Reset::Termination,
            UpstreamErrorKind::Reset(_) => Reset::Remote,
            UpstreamErrorKind::Refused => Reset::RemoteRefused,
            UpstreamErrorKind::Protocol(_) => Reset::Protocol,
            UpstreamErrorKind::Overflow => Reset::Overflow,
            UpstreamErrorKind::RequestBody(error) => return client_body_failed(error),
        };
        let connected =
            matches!(reset, Reset::Termination | Reset::Remote | Reset::RemoteRefused | Reset::Protocol);
        if let Some(cluster) = cx.cluster.as_ref().filter(|_| connected) {
            cx.upstream.protocol = Some(cluster.version_for(request.version));
        }
        let mut reply = LocalReply::from(Cause::Upstream(reset, cx.upstream.transport_failure.as_deref()));
        reply.overloaded &= !self.suppress_envoy_headers;
        host.stats().error();
        self.charge(cx, request, reply.status, false);
        reply
    }

    /// The route's timeout passed before a response began: the books of it, and what to answer.
    pub(in crate::http) fn timed_out(&self, request: &RequestHead, cx: &mut StreamCx) -> LocalReply {
        let reply = LocalReply::from(Cause::ResponseTimeout { quiet: cx.quiet_timeout });
        charge_timeout(cx);
        self.charge(cx, request, reply.status, false);
        if let Some(host) = &cx.host {
            host.stats().error();
        }
        reply
    }

    /// What routes and this router add to a response, local replies included.
    pub(in crate::http) fn edit_response(
        &self,
        head: &mut ResponseHead,
        request: &RequestHead,
        cx: &StreamCx,
    ) {
        let Some(matched) = cx.route() else { return };
        cx.with_record(Some(request), None, None, |record| matched.finalize_response(head, record));
    }

    /// Says how often a request was tried, where the virtual host wants it.
    pub(in crate::http) fn count_attempts(head: &mut ResponseHead, cx: &StreamCx) {
        if cx.attempts > 0 && cx.route().is_some_and(|r| r.virtual_host.include_attempt_count_in_response) {
            let mut digits = itoa::Buffer::new();
            head.headers.set_id(HeaderId::XEnvoyAttemptCount, digits.format(cx.attempts).as_bytes());
        }
    }

    /// Counts a response by status in the cluster's stats.
    fn charge(&self, cx: &StreamCx, request: &RequestHead, status: u16, canary: bool) {
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

fn traffic(request: &RequestHead) -> Traffic {
    match request.headers.get_id(HeaderId::XEnvoyInternal) {
        Some(b"true") => Traffic::Internal,
        _ => Traffic::External,
    }
}

/// The status a host is judged by: that of gRPC responses which are over with their head is in grpc-status.
fn upstream_status(head: &ResponseHead, grpc: bool) -> u16 {
    match head.headers.get_id(HeaderId::GrpcStatus).filter(|_| grpc) {
        // Deadline, internal, unavailable, data loss and the like count as the server's fault.
        Some(b"2" | b"4" | b"13" | b"14" | b"15") => 503,
        _ => head.status,
    }
}

fn direct_response(direct: &DirectResponse, head: &RequestHead, cx: &StreamCx) -> LocalReply {
    // Envoy names the request's own address in 201 and 3xx.
    let location = (direct.status == 201 || (300..400).contains(&direct.status))
        .then(|| format!("{}://{}{}", head.scheme.as_str(), head.authority, head.path).into());
    let Some((format, content_type)) = &direct.body_format else {
        let reply = LocalReply::from(Cause::Direct(direct.status, direct.body.clone()));
        return LocalReply { location, ..reply };
    };
    let mut body = Vec::new();
    cx.with_record(Some(head), None, None, |record| format.render(record, &mut body));
    let mut reply = LocalReply::from(Cause::Direct(direct.status, body.into()));
    reply.content_type = Some(content_type.clone());
    reply.location = location;
    reply
}

/// The client's part of the exchange failed. It is mostly gone; one that broke the protocol may still listen.
fn client_body_failed(error: &BodyError) -> LocalReply {
    let (status, body, details, protocol) = match error {
        BodyError::Protocol(_) => (400, "Bad Request", "http1.codec_error", true),
        _ => (400, "", "downstream_remote_disconnect", false),
    };
    Cause::Codec { status, body, details, protocol }.into()
}
