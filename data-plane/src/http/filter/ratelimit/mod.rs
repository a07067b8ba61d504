//! Asks a rate limit service about requests (Envoy `envoy.filters.http.ratelimit`). Whatever the service does, the
//! answer is there within the configured timeout: its own, or what the failure mode says.

mod answer;
mod question;

use super::limits::{Limits, takes};
use super::local_ratelimit::RESOURCE_EXHAUSTED;
use super::{Built, CONTINUE, Factory, HttpFilter, HttpFilterConfig, Step, Verdict};
use crate::http::local_reply::{Added, LocalReply};
use crate::http::stream::StreamCx;
use crate::http::{BuildError, Deps};
use crate::upstream::{Cluster, GrpcCall, RateLimitStats, Traffic, unary};
use answer::Headers;
use bytes::Bytes;
use data_plane_core::config::{
    FilterOverride, FilterOverrideKind, GlobalRateLimit, HttpFilter as Config, HttpFilterKind,
    RateLimitPerRoute, RequestType, VirtualHostLimits,
};
use data_plane_core::headers::edit::HeaderEdits;
use data_plane_core::headers::{RequestHead, ResponseFlags, ResponseHead};
use data_plane_core::route::Answer as RouteAnswer;
use data_plane_core::translate;
use std::sync::Arc;
use xds_types::envoy::service::ratelimit::v3::rate_limit_response::Code;
use xds_types::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};

/// See the module.
pub(super) const FACTORY: Factory = Factory { name: "envoy.filters.http.ratelimit", build };

const METHOD: &str = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";

/// The filter.
struct Filter {
    name: Box<str>,
    shared: Arc<Shared>,
}

struct Shared {
    config: Arc<GlobalRateLimit>,
    response_edits: Option<Arc<HeaderEdits>>,
    service_cluster: Box<str>,
}

fn build(filter: &Config, deps: &Deps) -> Option<Result<Built, BuildError>> {
    let HttpFilterKind::RateLimit(config) = &filter.kind else { return None };
    let edits = &config.response_edits;
    let shared = Shared {
        response_edits: (!edits.is_empty()).then(|| Arc::new(edits.clone())),
        config: Arc::clone(config),
        service_cluster: deps.agent.cluster.clone(),
    };
    let filter = Filter { name: filter.name.clone(), shared: Arc::new(shared) };
    Some(Ok(Built::Filter(Arc::new(filter))))
}

impl HttpFilterConfig for Filter {
    fn start(&self, cx: &StreamCx) -> Option<Box<dyn HttpFilter>> {
        let per_route = cx.filter_override(&self.name).and_then(of_route).map(Arc::clone);
        Some(Box::new(Asking { shared: Arc::clone(&self.shared), per_route, headers: Headers::default() }))
    }
}

fn of_route(entry: &FilterOverride) -> Option<&Arc<RateLimitPerRoute>> {
    match &entry.config {
        Some(FilterOverrideKind::RateLimit(config)) => Some(config),
        _ => None,
    }
}

/// One stream.
struct Asking {
    shared: Arc<Shared>,
    per_route: Option<Arc<RateLimitPerRoute>>,
    /// For the answer to the client, wherever it comes from.
    headers: Headers,
}

impl HttpFilter for Asking {
    fn on_request<'a>(&'a mut self, head: &'a mut RequestHead, cx: &'a mut StreamCx) -> Step<'a> {
        let config = &self.shared.config;
        let internal = head.headers.get(b"x-envoy-internal") == Some(b"true");
        let wanted = match config.requests {
            RequestType::Both => true,
            RequestType::Internal => internal,
            RequestType::External => !internal,
        };
        if !wanted || !takes(&config.enabled, cx) {
            return CONTINUE;
        }
        // Envoy limits requests that go to a cluster, and charges that cluster.
        let Some(cluster) = cluster_of(head, cx) else { return CONTINUE };
        let Some(question) = self.question(head, cx) else { return CONTINUE };
        Step::Wait(Box::pin(self.ask(question, cluster, head, cx)))
    }

    fn on_response<'a>(&'a mut self, head: &'a mut ResponseHead, _: &'a mut StreamCx) -> Step<'a> {
        for (name, value) in self.headers.take() {
            head.headers.append(&name, &value);
        }
        CONTINUE
    }
}

fn cluster_of(head: &RequestHead, cx: &StreamCx) -> Option<Arc<Cluster>> {
    let matched = cx.route()?;
    let RouteAnswer::Forward(_) = matched.answer() else { return None };
    cx.served.worker.clusters.load().get(matched.cluster(head)?).map(Arc::clone)
}

impl Asking {
    /// What to ask; `None` when the request has no descriptor.
    fn question(&self, head: &RequestHead, cx: &StreamCx) -> Option<RateLimitRequest> {
        let config = &self.shared.config;
        let per_route = self.per_route.as_deref();
        let of_route = per_route.filter(|per_route| !per_route.rate_limits.is_empty());
        let is_disabled = |key: &str| {
            let key = format!("ratelimit.{key}.http_filter_enabled");
            let share = cx.served.hcm.runtime.per_million(&key).unwrap_or(1_000_000);
            cx.served.worker.random() % 1_000_000 >= u64::from(share)
        };
        let limits = Limits {
            own: of_route.map_or(&config.rate_limits, |per_route| &per_route.rate_limits),
            stage: config.stage,
            virtual_host: per_route.map_or(VirtualHostLimits::Override, |p| p.virtual_host_limits),
            service_cluster: &self.shared.service_cluster,
            is_disabled: &is_disabled,
        };
        let domain = per_route.map(|per_route| &*per_route.domain).filter(|domain| !domain.is_empty());
        limits.with_descriptors(head, cx, |descriptors| {
            question::question(domain.unwrap_or(&config.domain), descriptors)
        })
    }

    async fn ask(
        &mut self,
        question: RateLimitRequest,
        cluster: Arc<Cluster>,
        head: &mut RequestHead,
        cx: &mut StreamCx,
    ) -> Verdict {
        let shared = Arc::clone(&self.shared);
        let config = &shared.config;
        let call = GrpcCall { target: &config.service, path: METHOD, timeout: config.timeout, metadata: &[] };
        let worker = std::rc::Rc::clone(&cx.served.worker);
        let answer = unary(&worker.clusters, &worker.upstream, worker.random(), call, &question).await;
        let stats = cluster.stats.rate_limits(&config.stat_prefix);
        match answer {
            Ok(answer) => self.decided(answer, &cluster, stats, head, cx),
            Err(error) => {
                tracing::debug!(%error, cluster = &*config.service.cluster, "the rate limit service gave no answer");
                self.failed(stats, cx)
            }
        }
    }

    fn decided(
        &mut self,
        answer: RateLimitResponse,
        cluster: &Cluster,
        stats: &RateLimitStats,
        head: &mut RequestHead,
        cx: &mut StreamCx,
    ) -> Verdict {
        let config = &self.shared.config;
        let over = answer.overall_code == i32::from(Code::OverLimit);
        let RateLimitResponse {
            overall_code: _,
            statuses,
            response_headers_to_add,
            request_headers_to_add,
            raw_body,
            dynamic_metadata,
            quota: _,
        } = answer;
        if let Some(fields) = dynamic_metadata {
            cx.metadata_mut().merge(&config.metadata_namespace, translate::fields(fields));
        }
        self.headers.add_all(response_headers_to_add);
        if over {
            stats.over_limit().inc();
            cluster.stats.codes().charge(429, Traffic::Internal, false);
            if !config.no_ratelimited_header {
                self.headers.add("x-envoy-ratelimited", "true");
            }
        } else {
            stats.ok().inc();
        }
        if config.x_ratelimit {
            self.headers.add_limits(&statuses);
        }
        if over && takes(&config.enforced, cx) {
            let mut reply =
                LocalReply::new(config.status, "request_rate_limited").body(Bytes::from(raw_body));
            reply.flags = ResponseFlags::RATE_LIMITED;
            reply.grpc_status = config.resource_exhausted.then_some(RESOURCE_EXHAUSTED);
            let edits = self.shared.response_edits.clone();
            if config.retry_after && config.status == 429 {
                self.headers.add_retry_after(&statuses);
            }
            reply.added = Some(Box::new(Added { edits, headers: self.headers.take(), retry_after: None }));
            return Verdict::Reply(reply);
        }
        for (name, value) in answer::pairs(request_headers_to_add) {
            head.headers.append(&name, &value);
        }
        Verdict::Continue
    }

    fn failed(&self, stats: &RateLimitStats, cx: &StreamCx) -> Verdict {
        let config = &self.shared.config;
        stats.error().inc();
        if !takes(&config.failure_mode_deny, cx) {
            stats.failure_mode_allowed().inc();
            return Verdict::Continue;
        }
        let mut reply = LocalReply::new(config.status_on_error, "rate_limiter_error");
        reply.flags = ResponseFlags::RATE_LIMIT_SERVICE_ERROR;
        Verdict::Reply(reply)
    }
}
