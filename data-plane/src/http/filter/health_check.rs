//! Answers health checks of this proxy, or passes them on (Envoy `envoy.filters.http.health_check`).

use super::{Built, CONTINUE, Factory, HttpFilter, HttpFilterConfig, Step, Verdict};
use crate::http::local_reply::{Added, LocalReply};
use crate::http::stream::StreamCx;
use crate::http::{BuildError, Deps};
use bytes::Bytes;
use data_plane_core::config::{self, HealthCheckFilter, HttpFilterKind};
use data_plane_core::headers::{HeaderId, RequestHead, ResponseFlags, ResponseHead};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::time::Instant;

/// See the module.
pub(super) const FACTORY: Factory = Factory { name: "envoy.filters.http.health_check", build };

/// Names the cluster that a check was answered by.
const CHECKED_CLUSTER: &[u8] = b"x-envoy-upstream-healthchecked-cluster";

/// The configured filter.
struct Shared {
    config: Arc<HealthCheckFilter>,
    fails: Arc<AtomicBool>,
    /// `--service-cluster`.
    own_cluster: Box<str>,
    cache: Cache,
}

/// The last answer of an upstream. As Envoy's, it holds until the next whole multiple of its time.
struct Cache {
    epoch: Instant,
    time: Option<Duration>,
    /// Status, `degraded`, and the number of the time it is good for.
    answer: AtomicU64,
}

impl Cache {
    const DEGRADED: u64 = 1 << 16;

    fn number(&self, now: Instant) -> Option<u64> {
        let time = self.time?.as_millis().max(1);
        let since = now.saturating_duration_since(self.epoch).as_millis();
        // Room for the status below; 0 is never a number.
        Some((u64::try_from(since / time).unwrap_or(u64::MAX) & (u64::MAX >> 20)) + 1)
    }

    fn put(&self, now: Instant, status: u16, degraded: bool) {
        if let Some(number) = self.number(now) {
            let degraded = if degraded { Self::DEGRADED } else { 0 };
            self.answer.store(number << 17 | degraded | u64::from(status), Relaxed);
        }
    }

    fn get(&self, now: Instant) -> Option<(u16, bool)> {
        let answer = self.answer.load(Relaxed);
        let fresh = self.number(now) == Some(answer >> 17);
        fresh.then_some(((answer & 0xffff) as u16, answer & Self::DEGRADED != 0))
    }
}

struct Filter(Arc<Shared>);

fn build(filter: &config::HttpFilter, deps: &Deps) -> Option<Result<Built, BuildError>> {
    let HttpFilterKind::HealthCheck(config) = &filter.kind else { return None };
    let cache = Cache { epoch: Instant::now(), time: config.cache_time, answer: AtomicU64::new(0) };
    let shared = Shared {
        config: Arc::clone(config),
        fails: Arc::clone(&deps.fails_health_checks),
        own_cluster: deps.agent.cluster.clone(),
        cache,
    };
    Some(Ok(Built::Filter(Arc::new(Filter(Arc::new(shared))))))
}

impl HttpFilterConfig for Filter {
    fn start(&self, _: &StreamCx) -> Option<Box<dyn HttpFilter>> {
        Some(Box::new(Checking { shared: Arc::clone(&self.0), is_check: false }))
    }
}

/// One stream.
struct Checking {
    shared: Arc<Shared>,
    is_check: bool,
}

impl Shared {
    /// The answer of this proxy itself.
    fn answer(&self, cx: &StreamCx) -> LocalReply {
        if self.fails.load(Relaxed) {
            return failed("health_check_failed");
        }
        if self.config.pass_through {
            let Some((status, degraded)) = self.cache.get(Instant::now()) else {
                return LocalReply::new(200, "health_check_ok");
            };
            let flags = if (200..300).contains(&status) {
                ResponseFlags::NONE
            } else {
                ResponseFlags::FAILED_LOCAL_HEALTH_CHECK
            };
            let mut reply = LocalReply::new(status, "health_check_cached").flags(flags);
            if degraded {
                let name = Bytes::from_static(b"x-envoy-degraded");
                reply.added =
                    Some(Box::new(Added { headers: vec![(name, Bytes::new())], ..Added::default() }));
            }
            return reply;
        }
        let clusters = cx.served.worker.clusters.load();
        for (name, least) in &self.config.cluster_min_healthy {
            let Some(cluster) = clusters.get(name) else {
                return failed("health_check_failed_no_cluster_found");
            };
            let membership = &cluster.stats.membership;
            let total = membership.membership_total.value();
            if total == 0 && *least > 0 {
                return failed("health_check_failed_cluster_empty");
            }
            let well = membership.membership_healthy.value() + membership.membership_degraded.value();
            if well * 100 < total * u64::from(*least) {
                return failed("health_check_failed_cluster_unhealthy");
            }
        }
        let details = if self.config.cluster_min_healthy.is_empty() {
            "health_check_ok"
        } else {
            "health_check_ok_cluster_healthy"
        };
        LocalReply::new(200, details)
    }
}

fn failed(details: &'static str) -> LocalReply {
    LocalReply::new(503, details).flags(ResponseFlags::FAILED_LOCAL_HEALTH_CHECK)
}

impl HttpFilter for Checking {
    fn on_request<'a>(&'a mut self, head: &'a mut RequestHead, cx: &'a mut StreamCx) -> Step<'a> {
        let shared = &self.shared;
        if !shared.config.headers.iter().all(|matcher| matcher.matches(head)) {
            return CONTINUE;
        }
        self.is_check = true;
        cx.health_check = true;
        let cached = || shared.cache.get(Instant::now()).is_some();
        if shared.config.pass_through && !shared.fails.load(Relaxed) && !cached() {
            return CONTINUE;
        }
        Step::Done(Verdict::Reply(shared.answer(cx)))
    }

    fn on_response<'a>(&'a mut self, head: &'a mut ResponseHead, _: &'a mut StreamCx) -> Step<'a> {
        let shared = &self.shared;
        if self.is_check {
            let degraded = head.headers.contains_id(HeaderId::XEnvoyDegraded);
            shared.cache.put(Instant::now(), head.status, degraded);
            head.headers.set(CHECKED_CLUSTER, shared.own_cluster.as_bytes());
        }
        if shared.fails.load(Relaxed) {
            head.headers.set_id(HeaderId::XEnvoyImmediateHealthCheckFail, b"true");
        }
        CONTINUE
    }
}
