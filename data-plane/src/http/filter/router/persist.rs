//! Requests that are more than one attempt: retries, timeouts of single tries, copies.

use super::attempt::Failed;
use super::books::{charge_retry, settle};
use super::replay::Replay;
use super::reply::reset_of;
use super::{Router, Target, mirror};
use crate::codec::Body;
use crate::http::alarm::Alarm;
use crate::http::local_reply::{Cause, LocalReply, Reset};
use crate::http::stream::StreamCx;
use crate::http::timeouts::RouteTimeout;
use crate::http::vitals::{Expired, Vitals};
use crate::upstream::{Exchange, Limit, Outcome, Permit};
use data_plane_core::guard::retry::{self, Retries};
use data_plane_core::headers::{HeaderId, RequestHead, ResponseFlags, ResponseHead};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;
use tokio::time::Instant;

/// What a request needs beside one attempt.
pub(super) struct Plan {
    pub(super) retries: Option<Retries>,
    /// Most bytes of the body that are kept.
    pub(super) body_limit: u64,
    pub(super) timeout: RouteTimeout,
    pub(super) mirrors: Vec<mirror::Copy>,
}

/// How one try ended.
enum Ended {
    Answered(Exchange),
    Failed(Failed),
    /// A timeout of the try passed.
    Expired(Expired),
}

/// What comes after a try.
enum Next {
    /// What it ended with is the request's answer.
    Final,
    /// Another try, after this.
    Again(Duration),
}

/// What is remembered from try to try.
struct Course {
    retries: Option<Retries>,
    /// Held from the decision for a try to the end of it.
    permit: Option<Permit>,
    /// Something of the request was sent.
    started: bool,
}

impl Router {
    /// Tries until there is an answer worth having, or no try is left.
    ///
    /// # Errors
    /// The answer when none came from upstream.
    pub(super) async fn persist(
        &self,
        target: &Target,
        plan: Plan,
        head: &mut RequestHead,
        body: Body,
        cx: &mut StreamCx,
    ) -> Result<(ResponseHead, Body), LocalReply> {
        let Plan { retries, body_limit, timeout, mirrors } = plan;
        let keeps = retries.is_some() || !mirrors.is_empty();
        let abandoned = target.cluster.stats.retry_or_shadow_abandoned.clone();
        let replay = Replay::new(body, if keeps { body_limit } else { 0 }, keeps.then_some(abandoned));
        mirror::start(mirrors, &replay, head, timeout.route, cx);
        let mut course = Course { retries, permit: None, started: false };
        loop {
            let ended = self.bounded(target, timeout, head, replay.body(), cx).await;
            course.started |= cx.vitals.progress.is_ready().is_some();
            let next =
                if replay.is_lost() { Next::Final } else { self.next(target, &mut course, &ended, cx) };
            let Next::Again(wait) = next else {
                // The retry is over as soon as it is decided that there is no other.
                course.permit = None;
                return self.finish(ended, timeout, head, cx);
            };
            let by_timeout = matches!(ended, Ended::Expired(_));
            // The connection closes or its stream is reset, unless all of the response has come already.
            drop(ended);
            if !pause(wait, &replay, cx).await {
                return Err(Cause::RetryBufferExceeded.into());
            }
            self.prepare_again(timeout, by_timeout, head, cx);
        }
    }

    /// One attempt within the timeouts of one.
    async fn bounded(
        &self,
        target: &Target,
        timeout: RouteTimeout,
        head: &mut RequestHead,
        body: Body,
        cx: &mut StreamCx,
    ) -> Ended {
        let mut alarm = Alarm::new(&cx.served.worker.alarms);
        let vitals = cx.vitals.clone();
        let done = {
            let mut attempt = pin!(self.attempt(target, head, body, cx));
            poll_fn(|task| {
                if let Poll::Ready(done) = attempt.as_mut().poll(task) {
                    return Poll::Ready(Ok(done));
                }
                let Some((deadline, expired)) = try_deadline(&vitals, timeout) else { return Poll::Pending };
                alarm.poll(task, Some(deadline)).map(|_| Err(expired))
            })
            .await
        };
        match done {
            Ok(Ok(exchange)) => Ended::Answered(exchange),
            Ok(Err(failed)) => Ended::Failed(failed),
            Err(expired) => {
                let stats = &target.cluster.stats;
                match expired {
                    Expired::TryIdle => stats.upstream_rq_per_try_idle_timeout.inc(),
                    _ => stats.upstream_rq_per_try_timeout.inc(),
                }
                if let Some(host) = &cx.host {
                    host.stats().timeout();
                }
                settle(cx, Outcome::Timeout, Instant::now());
                Ended::Expired(expired)
            }
        }
    }

    /// Decides what comes after a try.
    fn next(&self, target: &Target, course: &mut Course, ended: &Ended, cx: &mut StreamCx) -> Next {
        let Some(retries) = &mut course.retries else { return Next::Final };
        let stats = &target.cluster.stats;
        let response = if let Ended::Answered(exchange) = ended { Some(&exchange.head) } else { None };
        let wanted = match ended {
            Ended::Answered(exchange) => retries.wants_response(&exchange.head),
            Ended::Expired(_) => retries.wants_reset(retry::Reset::Other, course.started),
            Ended::Failed(Failed::Upstream(error)) => match reset_of(&error.kind) {
                Ok(reset) => retries.wants_reset(kind(reset), course.started),
                // The client failed: there is nobody to try for.
                Err(_) => return Next::Final,
            },
            Ended::Failed(Failed::NoHost | Failed::BreakerOpen(_)) => return Next::Final,
        };
        // What is held for the try that ended is free for the next one.
        let was_retry = course.permit.take().is_some();
        if !wanted {
            if was_retry {
                stats.upstream_rq_retry_success.inc();
            }
            return Next::Final;
        }
        if !retries.spend() {
            stats.upstream_rq_retry_limit_exceeded.inc();
            cx.flags |= ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED;
            return Next::Final;
        }
        let Some(permit) = target.cluster.usage.acquire(target.priority, Limit::Retries) else {
            stats.upstream_rq_retry_overflow.inc();
            cx.flags |= ResponseFlags::UPSTREAM_OVERFLOW;
            return Next::Final;
        };
        course.permit = Some(permit);
        stats.upstream_rq_retry.inc();
        if let Some(host) = &cx.host {
            host.stats().error();
        }
        if let Some(response) = response {
            charge_retry(self, cx, response.status);
        }
        let worker = &cx.served.worker;
        let wait = retries.wait(response, worker.clock.wall(Instant::now()), worker.random());
        if wait.rate_limited {
            stats.upstream_rq_retry_backoff_ratelimited.inc();
        } else {
            stats.upstream_rq_retry_backoff_exponential.inc();
        }
        Next::Again(wait.time)
    }

    /// What the last try ended with, for the client.
    fn finish(
        &self,
        ended: Ended,
        timeout: RouteTimeout,
        head: &RequestHead,
        cx: &mut StreamCx,
    ) -> Result<(ResponseHead, Body), LocalReply> {
        match ended {
            Ended::Answered(exchange) => {
                cx.vitals.try_idle.set(timeout.per_try_idle);
                Ok(self.answered(exchange, head, cx))
            }
            Ended::Failed(failed) => Err(self.failed(failed, head, cx)),
            Ended::Expired(expired) => {
                let reply = LocalReply::from(Cause::TryTimeout { expired, quiet: cx.quiet_timeout });
                self.charge(cx, head, reply.status, false);
                if let Some(host) = &cx.host {
                    host.stats().error();
                }
                Err(reply)
            }
        }
    }

    /// Tells the upstream which try the next one is, and how much time is left.
    fn prepare_again(&self, timeout: RouteTimeout, by_timeout: bool, head: &mut RequestHead, cx: &StreamCx) {
        let mut digits = itoa::Buffer::new();
        let Some(matched) = cx.route() else { return };
        if matched.virtual_host.include_request_attempt_count {
            let count = digits.format(cx.attempts + 1);
            head.headers.set_id(HeaderId::XEnvoyAttemptCount, count.as_bytes());
        }
        if matched.virtual_host.include_is_timeout_retry {
            let value: &[u8] = if by_timeout { b"true" } else { b"false" };
            head.headers.set_id(HeaderId::XEnvoyIsTimeoutRetry, value);
        }
        if self.suppress_envoy_headers {
            return;
        }
        let elapsed = cx.vitals.complete.get().map_or(Duration::ZERO, |at| at.elapsed());
        if let Some(expected) = timeout.expected_after(elapsed) {
            let expected = digits.format(expected.as_millis() as u64);
            head.headers.set_id(HeaderId::XEnvoyExpectedRqTimeoutMs, expected.as_bytes());
        }
    }
}

/// Waits before the next try. False when more of the body has come meanwhile than may be kept.
async fn pause(wait: Duration, replay: &Replay, cx: &StreamCx) -> bool {
    let mut alarm = Alarm::new(&cx.served.worker.alarms);
    let until = Instant::now() + wait;
    poll_fn(|task| {
        if replay.poll_more(task).is_ready() {
            return Poll::Ready(false);
        }
        alarm.poll(task, Some(until)).map(|_| true)
    })
    .await
}

/// The next deadline of a try that waits for the head of a response. Both count from when there is a connection.
fn try_deadline(vitals: &Vitals, timeout: RouteTimeout) -> Option<(Instant, Expired)> {
    let ready = vitals.progress.is_ready()?.at;
    let per_try = timeout.per_try.zip(vitals.complete.get());
    let per_try = per_try.map(|(timeout, complete)| (complete.max(ready) + timeout, Expired::Try));
    let idle = timeout.per_try_idle.map(|idle| (vitals.activity.get().max(ready) + idle, Expired::TryIdle));
    [per_try, idle].into_iter().flatten().min_by_key(|(at, _)| *at)
}

fn kind(reset: Reset) -> retry::Reset {
    match reset {
        Reset::ConnectFailure | Reset::ConnectTimeout => retry::Reset::Connect,
        Reset::RemoteRefused => retry::Reset::Refused,
        Reset::Overflow => retry::Reset::Overflow,
        Reset::Termination | Reset::Remote | Reset::Local | Reset::Protocol => retry::Reset::Other,
    }
}
