//! The router: the end of every chain. Chooses a cluster and a host, edits the request for upstream, and turns
//! what comes back, or does not, into a response (Envoy `envoy.filters.http.router`).

mod attempt;
mod books;
mod mirror;
mod persist;
mod replay;
mod reply;

use super::{Built, Factory};
use crate::codec::Body;
use crate::http::local_reply::{Cause, LocalReply};
use crate::http::stream::StreamCx;
use crate::http::timeouts::{self, RouteTimeout};
use crate::http::{BuildError, Deps};
use crate::upstream::{Cluster, Priority};
use data_plane_core::config::{Forward, HttpFilter, HttpFilterKind, MetadataMatch, RetryPolicy};
use data_plane_core::guard::retry::Retries;
use data_plane_core::headers::{HeaderId, HeaderIds, Record, RequestHead, ResponseHead};
use data_plane_core::route::{Answer, Matched};
use persist::Plan;
use reply::direct_response;
use std::rc::Rc;
use std::sync::Arc;

pub(in crate::http) use attempt::Tried;
pub(in crate::http) use books::{Underway, charge_timeout};

/// See the module.
pub(super) const FACTORY: Factory = Factory { name: "envoy.filters.http.router", build };

/// Request headers that steer the router and go no further.
const CONSUMED: HeaderIds = HeaderIds::of(&[
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
]);

/// A configured router.
#[derive(Clone, Debug)]
pub struct Router {
    pub(in crate::http) suppress_envoy_headers: bool,
    dynamic_stats: bool,
    respect_expected_rq_timeout: bool,
}

fn build(config: &HttpFilter, _deps: &Deps) -> Option<Result<Built, BuildError>> {
    let HttpFilterKind::Router { suppress_envoy_headers, dynamic_stats, respect_expected_rq_timeout } =
        &config.kind
    else {
        return None;
    };
    Some(Ok(Built::Router(Router {
        suppress_envoy_headers: *suppress_envoy_headers,
        dynamic_stats: *dynamic_stats,
        respect_expected_rq_timeout: *respect_expected_rq_timeout,
    })))
}

/// Metadata of streams that hosts are chosen by.
const ASKED_OF_HOSTS: &str = "envoy.lb";

/// What is asked of a host's metadata: by the route, and over that by what filters said of the stream.
fn wanted(matched: &Matched<'_>, cx: &StreamCx) -> Option<Arc<MetadataMatch>> {
    let of_route = matched.metadata_match();
    let Some(said) = cx.metadata().namespace(ASKED_OF_HOSTS) else { return of_route.cloned() };
    let said: MetadataMatch = said.iter().collect();
    Some(Arc::new(match of_route {
        Some(of_route) => of_route.merged(&said),
        None => said,
    }))
}

/// Where a request goes.
pub(in crate::http) struct Target {
    cluster: Arc<Cluster>,
    /// The host of the request becomes the name of the host that is chosen.
    rewrite_host: bool,
    priority: Priority,
    /// What is asked of the host's metadata, where that matters.
    subset: Option<Arc<MetadataMatch>>,
    /// The policy, where it has hosts that further tries avoid.
    avoid: Option<Arc<RetryPolicy>>,
    /// What there is beside one attempt.
    plan: Option<Box<Plan>>,
    /// There is a retry policy.
    retries: bool,
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
        if cluster.config.lb.hashes() {
            // Before the route edits the request, as Envoy.
            cx.hash_request(&matched, head);
        }
        let subset = cluster.config.subsets.is_some().then(|| wanted(&matched, cx)).flatten();
        cx.cluster = Some(Arc::clone(&cluster));
        let retries = Retries::new(forward.retry.as_ref(), head);
        let retried = retries.is_some();
        let timeout = self.prepare(&matched, forward, head, cx);
        let mirrored = !forward.mirrors.is_empty();
        let plan = if retries.is_some() || mirrored || timeout.per_try.or(timeout.per_try_idle).is_some() {
            let mirrors =
                if mirrored { mirror::choose(&forward.mirrors, head, &clusters, cx) } else { Vec::new() };
            let body_limit = forward.body_limit.bytes(served.buffer_limit);
            Some(Box::new(Plan { retries, body_limit, timeout, mirrors }))
        } else {
            None
        };
        Ok(Target {
            cluster,
            rewrite_host: matched.wants_endpoint_host(),
            priority: Priority::high(forward.high_priority),
            subset,
            avoid: forward.retry.as_ref().filter(|policy| policy.chooses_hosts()).map(Arc::clone),
            plan,
            retries: retried,
        })
    }

    /// Sends a request and waits for the head of the response.
    ///
    /// # Errors
    /// The answer when none came from upstream.
    pub(in crate::http) async fn forward(
        &self,
        mut target: Target,
        head: &mut RequestHead,
        body: Body,
        cx: &mut StreamCx,
    ) -> Result<(ResponseHead, Body), LocalReply> {
        if let Some(plan) = target.plan.take() {
            // In a box, so that requests without do not hold its memory.
            return Box::pin(self.persist(&target, *plan, head, body, cx)).await;
        }
        match self.attempt(&target, head, body, cx).await {
            Ok(exchange) => Ok(self.answered(exchange, head, cx)),
            Err(failed) => Err(self.failed(failed, head, cx)),
        }
    }

    /// Sets timeouts and everything that the upstream is to see.
    fn prepare(
        &self,
        matched: &Matched<'_>,
        forward: &Forward,
        head: &mut RequestHead,
        cx: &mut StreamCx,
    ) -> RouteTimeout {
        let timeout = timeouts::route_timeout(forward, &head.headers, self.respect_expected_rq_timeout);
        cx.quiet_timeout = head.headers.contains_id(HeaderId::XEnvoyUpstreamRqTimeoutAltResponse);
        // One pass for all, and none at all for the many requests that carry no such header.
        if head.headers.contains_any(CONSUMED) {
            head.headers.retain(|header| !CONSUMED.contains(header.id));
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
        matched.finalize_request(
            head,
            &|edit| cx.with_record(None, None, None, |record| edit(&Record { attempts: 1, ..*record })),
            keep_original,
        );
        timeout
    }

    /// What routes and this router add to a response, local replies included.
    pub(in crate::http) fn edit_response(
        &self,
        head: &mut ResponseHead,
        request: &RequestHead,
        cx: &StreamCx,
    ) {
        let Some(matched) = cx.route() else { return };
        matched.finalize_response(head, &|edit| {
            cx.with_record(Some(request), None, None, |record| edit(record));
        });
    }

    /// Says how often a request was tried, where the virtual host wants it.
    pub(in crate::http) fn count_attempts(head: &mut ResponseHead, cx: &StreamCx) {
        if cx.attempts > 0 && cx.route().is_some_and(|r| r.virtual_host.include_attempt_count_in_response) {
            let mut digits = itoa::Buffer::new();
            head.headers.set_id(HeaderId::XEnvoyAttemptCount, digits.format(cx.attempts).as_bytes());
        }
    }
}
