//! One attempt: every one of them goes through [`Router::attempt`], the first as well as retries.

use super::books::{Underway, outcome, settle};
use super::reply::outcome_of;
use super::{Router, Target};
use crate::codec::Body;
use crate::http::stream::{StreamCx, UpstreamFacts};
use crate::turn;
use crate::upstream::{Exchange, Host, PickRequest, Refused, SendOptions, UpstreamError};
use data_plane_core::config::Avoid;
use data_plane_core::headers::{HeaderId, RequestHead};
use data_plane_core::proxy_protocol::Ends;
use serde_json::Value;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Why an attempt has no response.
pub(super) enum Failed {
    /// There is no host to send to.
    NoHost,
    /// The cluster's circuit breaker is open; with when to try again.
    BreakerOpen(Option<Duration>),
    /// It was sent, or would have been.
    Upstream(UpstreamError),
}

impl Router {
    /// Chooses a host, asks for leave, sends, and tells how it went. Returns once the head of a response is there.
    ///
    /// # Errors
    /// There is none. The body is given back where it is whole.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the request; what it means for the guard is for whoever drops it to
    /// [`settle`].
    pub(super) async fn attempt(
        &self,
        target: &Target,
        head: &mut RequestHead,
        body: Body,
        cx: &mut StreamCx,
    ) -> Result<Exchange, Failed> {
        let served = Rc::clone(&cx.served);
        let cluster = &target.cluster;
        let vitals = cx.vitals.clone();
        cx.attempts += 1;
        vitals.progress.reset();
        cx.upstream = UpstreamFacts::default();
        let Some(host) = self.choose(target, cx) else {
            return Err(Failed::NoHost);
        };
        if target.rewrite_host {
            match cx.route().filter(|_| cx.attempts == 1) {
                Some(matched) => matched.rewrite_host(head, &host.hostname, !self.suppress_envoy_headers),
                // What was asked for is on record since the first.
                None if !host.hostname.is_empty() => head.authority = host.hostname.to_string(),
                None => {}
            }
        }
        cx.host = Some(Arc::clone(&host));
        if target.avoid.is_some() {
            cx.tried.note(&host);
        }
        let now = turn::now();
        let admission = match cluster.admit(now) {
            Ok(admission) => admission,
            Err(Refused::BreakerOpen { retry_after }) => return Err(Failed::BreakerOpen(retry_after)),
        };
        cx.attempt = Some(Underway::new(admission, now));
        cx.moments.upstream_sent.get_or_insert(cx.start);
        cx.forward_trace(head);
        // The connection's own ends, not what its headers claim.
        let client = Ends { source: served.facts.remote, destination: served.facts.local };
        let options = SendOptions {
            priority: target.priority,
            progress: Some(&vitals.progress),
            client: Some(client),
            retries: target.retries,
        };
        match served.worker.upstream.send_with(cluster, &host, head, body, options).await {
            Ok(exchange) => {
                let now = turn::now();
                cx.vitals.activity.set(now);
                cx.moments.upstream_head = Some(now);
                cx.upstream.local = exchange.upstream_local_address;
                cx.upstream.protocol = Some(exchange.protocol);
                cx.upstream.tls = exchange.tls.clone();
                cx.upstream.canary =
                    exchange.head.headers.get_id(HeaderId::XEnvoyUpstreamCanary) == Some(b"true");
                cluster.heed(&host, &exchange.head);
                settle(cx, outcome(&exchange.head, cx.grpc), now);
                Ok(exchange)
            }
            Err(mut error) => {
                cx.upstream.transport_failure = error.transport_failure.take();
                if vitals.progress.is_ready().is_none() {
                    // Nothing was sent.
                    cx.moments.upstream_sent = None;
                }
                settle(cx, outcome_of(&error.kind), turn::now());
                Err(Failed::Upstream(error))
            }
        }
    }

    /// A host for the next attempt. Further tries avoid what the policy wants avoided.
    fn choose(&self, target: &Target, cx: &mut StreamCx) -> Option<Arc<Host>> {
        let request = PickRequest {
            random: cx.served.worker.random(),
            hash: cx.hash,
            subset: target.subset.as_deref(),
            ..PickRequest::default()
        };
        let Some(policy) = target.avoid.as_deref().filter(|_| cx.attempts > 1) else {
            return target.cluster.pick(&request);
        };
        let tried = &cx.tried;
        let avoid = |host: &Host| policy.avoid.iter().any(|avoid| is_avoided(avoid, host, &tried.hosts));
        let request = PickRequest {
            avoid: (!policy.avoid.is_empty()).then_some(&avoid),
            avoid_attempts: policy.host_attempts,
            tried_priorities: tried.priorities(policy.previous_priorities),
            ..request
        };
        target.cluster.pick(&request)
    }
}

/// Hosts tried, where the retry policy wants to know.
#[derive(Debug, Default)]
pub(in crate::http) struct Tried {
    hosts: Vec<u64>,
    priorities: Vec<u32>,
}

impl Tried {
    fn note(&mut self, host: &Host) {
        self.hosts.push(host.id());
        self.priorities.push(host.priority);
    }

    /// Priorities to do without: those of whole rounds of `frequency` tries.
    fn priorities(&self, frequency: Option<u32>) -> &[u32] {
        let round = frequency.map_or(usize::MAX, |frequency| frequency as usize);
        &self.priorities[..self.priorities.len() / round * round]
    }
}

fn is_avoided(avoid: &Avoid, host: &Host, tried: &[u64]) -> bool {
    match avoid {
        Avoid::Previous => tried.contains(&host.id()),
        Avoid::Canary => host.labels.get("canary") == Some(&Value::Bool(true)),
        Avoid::Metadata(wanted) => {
            !wanted.is_empty() && wanted.iter().all(|(key, value)| host.labels.get(key) == Some(value))
        }
    }
}
