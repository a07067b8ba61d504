//! `envoy.service.ratelimit.v3.RateLimitService`: a call's descriptors, decided one by one.

use std::sync::Arc;

use arc_swap::ArcSwap;
use metrics::{Counter, counter};
use tonic::{Request, Response, Status};
use xds_types::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use xds_types::envoy::service::ratelimit::v3::rate_limit_response::{Code, DescriptorStatus, RateLimit};
use xds_types::envoy::service::ratelimit::v3::rate_limit_service_server::{
    RateLimitService, RateLimitServiceServer,
};
use xds_types::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
use xds_types::google::protobuf::Duration as ProtoDuration;
use xds_types::portolan::config::v1::RateLimitUnit;

use super::algorithm::{Hits, Verdict};
use super::limits::{Limits, Met, NEAR};
use super::memory::{self, Memory};
use super::options::Failure;
use super::redis::{Away, Redis};

/// Descriptors of one call; more are refused.
const MAX_DESCRIPTORS: usize = 256;

/// Where hits are counted.
#[derive(Debug)]
pub enum Backend {
    /// In this process.
    Memory(Memory),
    /// In Redis, and while that is away as the failure mode says.
    Redis {
        /// Redis.
        redis: Redis,
        /// What counts while it is away.
        failure: Failure,
        /// For [`Failure::Local`].
        memory: Memory,
    },
}

/// The service. Clones share everything.
#[derive(Clone, Debug)]
pub struct Limiter {
    shared: Arc<Shared>,
}

struct Shared {
    limits: ArcSwap<Limits>,
    backend: Backend,
    shadow: bool,
    calls: Calls,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Limiter").field("backend", &self.backend).finish_non_exhaustive()
    }
}

struct Calls {
    ok: Counter,
    over: Counter,
    error: Counter,
    fallback: Counter,
}

impl Limiter {
    /// A service without limits. In shadow it refuses nothing.
    pub fn new(backend: Backend, shadow: bool) -> Self {
        super::stats::describe();
        let calls = Calls {
            ok: counter!("ratelimit_requests_total", "answer" => "ok"),
            over: counter!("ratelimit_requests_total", "answer" => "over_limit"),
            error: counter!("ratelimit_requests_total", "answer" => "error"),
            fallback: counter!("ratelimit_fallback_total"),
        };
        Self { shared: Arc::new(Shared { limits: ArcSwap::default(), backend, shadow, calls }) }
    }

    /// Puts other limits in force. Counters of limits that stay as they were go on.
    pub fn set(&self, limits: Limits) {
        self.shared.limits.store(Arc::new(limits));
    }

    /// The gRPC service.
    pub fn server(&self) -> RateLimitServiceServer<Self> {
        RateLimitServiceServer::new(self.clone())
    }

    /// Decides a call.
    ///
    /// # Errors
    /// The call makes no sense, or Redis is away and the failure mode is [`Failure::Error`].
    pub async fn decide(&self, request: &RateLimitRequest) -> Result<RateLimitResponse, Status> {
        let RateLimitRequest { domain, descriptors, hits_addend } = request;
        if domain.is_empty() {
            return Err(Status::invalid_argument("domain must not be empty"));
        }
        if descriptors.is_empty() || descriptors.len() > MAX_DESCRIPTORS {
            let message = format!("descriptors must be 1 to {MAX_DESCRIPTORS}");
            return Err(Status::invalid_argument(message));
        }
        let limits = self.shared.limits.load();
        let mut met: Vec<Option<Met>> = descriptors.iter().map(|d| meet(&limits, domain, d)).collect();
        drop(limits);
        replace(&mut met);
        let hits = |d: &RateLimitDescriptor| {
            // As Envoy: none said is one, at both levels; a descriptor may say 0, to look only.
            let n = d.hits_addend.as_ref().map_or(u64::from((*hits_addend).max(1)), |n| n.value);
            if d.is_negative_hits { Hits::Return(n) } else { Hits::Take(n) }
        };
        let one = |(d, m): (&RateLimitDescriptor, Option<Met>)| {
            let hits = hits(d);
            async move {
                match m {
                    Some(met) => self.count(&met, hits).await,
                    None => Ok((DescriptorStatus { code: Code::Ok.into(), ..Default::default() }, true)),
                }
            }
        };
        let mut all = descriptors.iter().zip(met);
        let statuses = match (all.next(), descriptors.len()) {
            (Some(only), 1) => vec![one(only).await?],
            (first, _) => {
                // At once, so that they go to Redis together.
                let all = first.into_iter().chain(all);
                futures_util::future::try_join_all(all.map(one)).await?
            }
        };
        let passes = self.shared.shadow || statuses.iter().all(|(_, passes)| *passes);
        let overall = if passes { Code::Ok } else { Code::OverLimit };
        Ok(RateLimitResponse {
            overall_code: overall.into(),
            statuses: statuses.into_iter().map(|(status, _)| status).collect(),
            ..RateLimitResponse::default()
        })
    }

    /// Counts hits on one limit; whether they pass.
    async fn count(&self, met: &Met, hits: Hits) -> Result<(DescriptorStatus, bool), Status> {
        let rule = &met.rule;
        let number = match hits {
            Hits::Take(n) | Hits::Return(n) => n,
        };
        let taken = matches!(hits, Hits::Take(_));
        let Some(rate) = &rule.rate else {
            rule.stats.within(number, 0);
            let status = DescriptorStatus {
                code: Code::Ok.into(),
                limit_remaining: u32::MAX,
                ..DescriptorStatus::default()
            };
            return Ok((status, true));
        };
        let verdict = match &self.shared.backend {
            Backend::Memory(memory) => memory.decide(&met.key, rate, hits, memory::now()),
            Backend::Redis { redis, failure, memory } => match redis.decide(&met.key, rate, hits).await {
                Ok(verdict) => verdict,
                Err(Away) => {
                    self.shared.calls.fallback.increment(1);
                    match failure {
                        Failure::Local => memory.decide(&met.key, rate, hits, memory::now()),
                        Failure::Open => {
                            Verdict { allowed: true, remaining: rate.capacity(), reset: rate.window }
                        }
                        Failure::Closed => Verdict { allowed: false, remaining: 0, reset: rate.window },
                        Failure::Error => return Err(Status::unavailable("Redis is away")),
                    }
                }
            },
        };
        let passes = verdict.allowed || rule.shadow;
        if taken {
            let near = u64::from(rate.capacity().saturating_sub(verdict.remaining))
                .saturating_sub(u64::from(rate.near(NEAR)))
                .min(number);
            let shadow = rule.shadow || self.shared.shadow;
            let detailed = rule.detailed.as_ref().map(|d| d.of(&met.key));
            for stats in std::iter::once(&rule.stats).chain(&detailed) {
                match verdict.allowed {
                    true => stats.within(number, near),
                    false => stats.over(number, shadow),
                }
            }
        }
        let reset = verdict.reset;
        let status = DescriptorStatus {
            code: if passes { Code::Ok } else { Code::OverLimit }.into(),
            current_limit: Some(RateLimit {
                name: rule.name.to_string(),
                requests_per_unit: rate.hits,
                unit: rule.unit,
            }),
            limit_remaining: verdict.remaining,
            // Rounded up: who comes back at the full second is not refused again.
            duration_until_reset: Some(ProtoDuration {
                seconds: i64::try_from(reset.as_secs() + u64::from(reset.subsec_nanos() > 0))
                    .unwrap_or(i64::MAX),
                nanos: 0,
            }),
            ..DescriptorStatus::default()
        };
        Ok((status, passes))
    }
}

fn meet(limits: &Limits, domain: &str, descriptor: &RateLimitDescriptor) -> Option<Met> {
    match &descriptor.limit {
        Some(brought) => {
            // Both protos number the units alike.
            let unit = RateLimitUnit::try_from(brought.unit).ok()?;
            limits.brought(domain, &descriptor.entries, brought.requests_per_unit, unit)
        }
        None => limits.meet(domain, &descriptor.entries),
    }
}

/// Takes away limits that others of the same call stand in place of.
fn replace(met: &mut [Option<Met>]) {
    if met.iter().flatten().all(|m| m.rule.replaces.is_empty()) {
        return;
    }
    let replaced: Vec<Box<str>> =
        met.iter().flatten().flat_map(|m| m.rule.replaces.iter().cloned()).collect();
    for one in met {
        let gone = |m: &Met| !m.rule.name.is_empty() && replaced.contains(&m.rule.name);
        if one.as_ref().is_some_and(gone) {
            *one = None;
        }
    }
}

#[tonic::async_trait]
impl RateLimitService for Limiter {
    async fn should_rate_limit(
        &self,
        request: Request<RateLimitRequest>,
    ) -> Result<Response<RateLimitResponse>, Status> {
        let answer = self.decide(request.get_ref()).await;
        let calls = &self.shared.calls;
        match &answer {
            Ok(a) if a.overall_code == i32::from(Code::Ok) => calls.ok.increment(1),
            Ok(_) => calls.over.increment(1),
            Err(_) => calls.error.increment(1),
        }
        answer.map(Response::new)
    }
}

#[cfg(test)]
mod tests;
