//! Limits requests by token buckets of this proxy (Envoy `envoy.filters.http.local_ratelimit`). The buckets are
//! shared exactly by all workers.

use super::limits::{Limits, takes};
use super::{Built, CONTINUE, Factory, HttpFilter, HttpFilterConfig, Step, Verdict};
use crate::http::local_reply::{Added, LocalReply};
use crate::http::stream::StreamCx;
use crate::http::{BuildError, Deps};
use crate::stat_block;
use data_plane_core::config::{FilterOverrideKind, HttpFilter as Config, HttpFilterKind, LocalRateLimit};
use data_plane_core::guard::TokenBucket;
use data_plane_core::headers::{RequestHead, ResponseFlags, ResponseHead};
use data_plane_core::ratelimit::{Decision, LocalLimiter};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// See the module.
pub(super) const FACTORY: Factory = Factory { name: "envoy.filters.http.local_ratelimit", build };

/// gRPC's RESOURCE_EXHAUSTED.
pub(super) const RESOURCE_EXHAUSTED: u32 = 8;

stat_block! {
    /// `<stat_prefix>.http_local_rate_limit.`.
    struct Stats {
        counters: enabled, enforced, ok, rate_limited, shadow_mode;
        gauges: ;
        histograms: ;
    }
}

/// The filter, with what routes may put in place of its configuration.
struct Filter {
    name: Box<str>,
    own: Arc<Shared>,
    deps: Deps,
}

/// What is built from one configuration.
struct Shared {
    config: Arc<LocalRateLimit>,
    limiter: LocalLimiter,
    stats: Stats,
    service_cluster: Box<str>,
    /// Where the time of buckets begins.
    epoch: Instant,
}

fn build(filter: &Config, deps: &Deps) -> Option<Result<Built, BuildError>> {
    let HttpFilterKind::LocalRateLimit(config) = &filter.kind else { return None };
    let own = Arc::new(Shared::new(config, deps));
    let filter = Filter { name: filter.name.clone(), own, deps: deps.clone() };
    Some(Ok(Built::Filter(Arc::new(filter))))
}

impl HttpFilterConfig for Filter {
    fn start(&self, cx: &StreamCx) -> Option<Box<dyn HttpFilter>> {
        let of_route = cx.filter_override(&self.name).and_then(|entry| match &entry.config {
            Some(FilterOverrideKind::LocalRateLimit(config)) => {
                entry.built.get_or_build(|| Arc::new(Shared::new(config, &self.deps)))
            }
            _ => None,
        });
        let shared = of_route.unwrap_or(&self.own);
        // Without a share nothing is looked at.
        shared.config.enabled.as_ref()?;
        Some(Box::new(Limiting { shared: Arc::clone(shared), bucket: None }))
    }
}

impl Shared {
    fn new(config: &Arc<LocalRateLimit>, deps: &Deps) -> Self {
        let prefix = &*config.stat_prefix;
        let scope = deps.stats.scope(
            &format!("{prefix}.http_local_rate_limit."),
            "http_local_rate_limit.",
            &[("envoy_local_http_ratelimit_prefix", prefix)],
        );
        Self {
            config: Arc::clone(config),
            limiter: LocalLimiter::new(config, Duration::ZERO, fastrand::u64(..)),
            stats: Stats::new(&scope),
            service_cluster: deps.agent.cluster.clone(),
            epoch: Instant::now(),
        }
    }

    fn now(&self, at: Instant) -> Duration {
        at.saturating_duration_since(self.epoch)
    }

    /// Takes from the buckets of a request.
    fn decide(self: &Arc<Self>, head: &RequestHead, cx: &StreamCx) -> Decision {
        let of_connection = self.config.per_connection.then(|| {
            cx.served.keep(Arc::as_ptr(self) as usize, || OfConnection {
                limiter: LocalLimiter::new(&self.config, self.now(cx.start), cx.served.worker.random()),
                _key: Arc::clone(self),
            })
        });
        let limiter = of_connection.as_ref().map_or(&self.limiter, |kept| &kept.limiter);
        let now = self.now(cx.start);
        if self.config.descriptors.is_empty() {
            return limiter.decide(&[], now);
        }
        let limits = Limits {
            own: &self.config.rate_limits,
            stage: self.config.stage,
            virtual_host: self.config.virtual_host_limits,
            service_cluster: &self.service_cluster,
            // Envoy: here every key turns its rate limit off.
            is_disabled: &|_| true,
        };
        limits.with_descriptors(head, cx, |descriptors| limiter.decide(descriptors, now))
    }
}

/// The buckets of one connection.
struct OfConnection {
    limiter: LocalLimiter,
    /// Keeps the address that it is kept under.
    _key: Arc<Shared>,
}

/// One stream.
struct Limiting {
    shared: Arc<Shared>,
    /// Decided, and its state is told in the answer's headers.
    bucket: Option<Arc<TokenBucket>>,
}

impl HttpFilter for Limiting {
    fn on_request<'a>(&'a mut self, head: &'a mut RequestHead, cx: &'a mut StreamCx) -> Step<'a> {
        let (config, stats) = (&self.shared.config, &self.shared.stats);
        if !config.enabled.as_ref().is_some_and(|share| takes(share, cx)) {
            return CONTINUE;
        }
        stats.enabled.inc();
        let Decision { allowed, shadow, bucket, x_ratelimit } = self.shared.decide(head, cx);
        let told =
            |bucket: Option<Arc<TokenBucket>>| bucket.filter(|_| x_ratelimit.unwrap_or(config.x_ratelimit));
        if allowed {
            stats.ok.inc();
            self.bucket = told(bucket);
            return CONTINUE;
        }
        stats.rate_limited.inc();
        if shadow {
            stats.shadow_mode.inc();
            self.bucket = told(bucket);
            return CONTINUE;
        }
        if !config.enforced.as_ref().is_some_and(|share| takes(share, cx)) {
            self.bucket = told(bucket);
            if !config.request_edits.is_empty() {
                cx.with_record(None, None, None, |record| config.request_edits.apply_request(head, record));
            }
            return CONTINUE;
        }
        stats.enforced.inc();
        let mut reply = LocalReply::new(config.status, "local_rate_limited").body("local_rate_limited");
        reply.flags = ResponseFlags::RATE_LIMITED;
        reply.grpc_status = config.resource_exhausted.then_some(RESOURCE_EXHAUSTED);
        let wait = (config.retry_after && config.status == 429).then(|| {
            let wait = bucket.as_ref().map(|bucket| bucket.next_token(self.shared.now(cx.start)));
            wait.unwrap_or_default().as_secs_f64().ceil().max(1.0) as u64
        });
        if wait.is_some() || !config.response_edits.is_empty() {
            let edits = Some(Arc::clone(&config.response_edits));
            reply.added = Some(Box::new(Added { edits, retry_after: wait, ..Added::default() }));
        }
        self.bucket = told(bucket);
        Step::Done(Verdict::Reply(reply))
    }

    fn on_response<'a>(&'a mut self, head: &'a mut ResponseHead, cx: &'a mut StreamCx) -> Step<'a> {
        if let Some(bucket) = self.bucket.take() {
            let mut digits = itoa::Buffer::new();
            let now = self.shared.now(cx.start);
            let headers = [
                (&b"x-ratelimit-limit"[..], bucket.max()),
                (b"x-ratelimit-remaining", bucket.remaining(now)),
                (b"x-ratelimit-reset", bucket.next_token(now).as_secs()),
            ];
            for (name, value) in headers {
                head.headers.append(name, digits.format(value).as_bytes());
            }
        }
        CONTINUE
    }
}
