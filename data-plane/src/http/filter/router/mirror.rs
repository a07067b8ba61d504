//! Copies of requests to other clusters (Envoy `request_mirror_policies`): sent once all of a request is there,
//! their answers read and forgotten. They are bounded by the limits and the breaker of the cluster that they go to,
//! and their hosts are judged by how they answer.

use super::books::outcome;
use super::replay::Replay;
use super::reply::outcome_of;
use crate::codec::Body;
use crate::http::stream::StreamCx;
use crate::http::worker::Worker;
use crate::upstream::{Admission, Cluster, Host, Outcome, PickRequest, Snapshot, Traffic};
use data_plane_core::config::{Mirror, MirrorCluster};
use data_plane_core::headers::{HeaderId, RequestHead};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// How long a copy may take where its route has no timeout: nobody waits for it who could give up.
const LONGEST: Duration = Duration::from_secs(5 * 60);

/// What hosts of copies end with, before the port.
const MARK: &str = "-shadow";

/// A copy to be made.
pub(super) struct Copy {
    cluster: Arc<Cluster>,
    mark_host: bool,
    host: Option<Box<str>>,
}

/// The copies to make of one request.
pub(super) fn choose(
    mirrors: &[Mirror],
    head: &RequestHead,
    clusters: &Snapshot,
    cx: &StreamCx,
) -> Vec<Copy> {
    let runtime = |key: &str| cx.served.hcm.runtime.per_million(key);
    let chosen = mirrors.iter().filter(|mirror| {
        mirror.fraction.as_ref().is_none_or(|fraction| fraction.takes(cx.random, Some(&runtime)))
    });
    let copy = |mirror: &Mirror| {
        let name = match &mirror.cluster {
            MirrorCluster::Named(name) => name.as_ref(),
            MirrorCluster::Header(header) => {
                std::str::from_utf8(head.headers.get(header.as_bytes())?).ok()?
            }
        };
        // A cluster that does not exist gets no copy, as in Envoy.
        let cluster = Arc::clone(clusters.get(name)?);
        Some(Copy { cluster, mark_host: mirror.mark_host, host: mirror.host.clone() })
    };
    chosen.filter_map(copy).collect()
}

/// Sends the copies once the whole body is there.
pub(super) fn start(
    copies: Vec<Copy>,
    replay: &Replay,
    head: &RequestHead,
    timeout: Option<Duration>,
    cx: &StreamCx,
) {
    if copies.is_empty() {
        return;
    }
    let head = head.clone();
    let grpc = cx.grpc;
    let worker = Rc::clone(&cx.served.worker);
    let local = cx.served.interface.unwrap_or_else(|| cx.served.local().ip());
    replay.once_whole(move |body| {
        for copy in copies {
            let mut head = head.clone();
            copy.mark(&mut head, local);
            let sender = Rc::clone(&worker);
            worker.spawn(send(sender, copy.cluster, head, body(), timeout.unwrap_or(LONGEST), grpc));
        }
    });
}

async fn send(
    worker: Rc<Worker>,
    cluster: Arc<Cluster>,
    head: RequestHead,
    body: Body,
    timeout: Duration,
    grpc: bool,
) {
    let charge = |status| cluster.stats.codes().charge(status, Traffic::Internal, false);
    let Some(host) = cluster.pick(&PickRequest::random(worker.random())) else { return charge(503) };
    let since = Instant::now();
    let Ok(admission) = cluster.admit(since) else { return charge(503) };
    let sent = Sent { cluster: &cluster, host: &host, since };
    let deadline = since + timeout;
    let answered = timeout_at(deadline, worker.upstream.send(&cluster, &host, &head, body)).await;
    let exchange = match answered {
        Ok(Ok(exchange)) => exchange,
        Ok(Err(error)) => {
            host.stats().error();
            charge(503);
            return sent.finish(admission, outcome_of(&error.kind));
        }
        Err(_) => {
            sent.expired();
            charge(504);
            return sent.finish(admission, Outcome::Timeout);
        }
    };
    host.stats().response(exchange.head.status);
    charge(exchange.head.status);
    cluster.heed(&host, &exchange.head);
    sent.finish(admission, outcome(&exchange.head, grpc));
    // Read to its end, so that the connection serves again.
    let mut body = exchange.body;
    let rest = async { while let Some(Ok(_)) = body.frame().await {} };
    if timeout_at(deadline, rest).await.is_err() {
        sent.expired();
    }
}

/// A copy under way.
struct Sent<'a> {
    cluster: &'a Cluster,
    host: &'a Host,
    since: Instant,
}

impl Sent<'_> {
    fn finish(&self, admission: Admission, outcome: Outcome) {
        admission.finish(self.host, outcome, self.since.elapsed());
    }

    fn expired(&self) {
        self.cluster.stats.upstream_rq_timeout.inc();
        self.host.stats().timeout();
    }
}

impl Copy {
    fn mark(&self, head: &mut RequestHead, local: IpAddr) {
        if let Some(host) = &self.host {
            head.authority = host.to_string();
        } else if self.mark_host {
            head.authority = marked(&head.authority);
        }
        head.headers.set_id(HeaderId::XEnvoyInternal, b"true");
        let local = local.to_string();
        let forwarded = match head.headers.get_id(HeaderId::XForwardedFor) {
            Some(value) => [value, b",", local.as_bytes()].concat(),
            None => local.into_bytes(),
        };
        head.headers.set_id(HeaderId::XForwardedFor, &forwarded);
    }
}

/// `host:port` as `host-shadow:port`.
fn marked(authority: &str) -> String {
    let end = match authority.rfind(':') {
        // The last colon of an IPv6 address without a port is within its brackets.
        Some(colon) if !authority[colon..].contains(']') => colon,
        _ => authority.len(),
    };
    format!("{}{MARK}{}", &authority[..end], &authority[end..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::testing::{Act, Setup, Upstream, ok, run_paused};

    #[test]
    fn a_copy_that_nobody_answers_ends_though_its_route_has_no_timeout() {
        run_paused(async {
            let (up, silent) = (Upstream::start(|_| ok("x")).await, Upstream::start(|_| Act::Silence).await);
            let routes = "- { match: { prefix: / }, route: { cluster: up, timeout: 0s, request_mirror_policies: [{ cluster: copy }] } }\n";
            let (up, silenced) = ([up.address], [silent.address]);
            let clusters = [("up", &up[..]), ("copy", &silenced)];
            let proxy = Setup { routes, clusters: &clusters, ..Setup::default() }.start();
            assert!(proxy.get("/").await.starts_with("HTTP/1.1 200 OK\n"));
            let begun = Instant::now();
            while proxy.stat("cluster.copy.upstream_rq_timeout") == 0 {
                assert!(begun.elapsed() < LONGEST * 2, "it goes on for ever");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            assert!(begun.elapsed() > LONGEST - Duration::from_secs(2), "its answer is waited for");
            assert_eq!(silent.seen().len(), 1);
            assert_eq!(proxy.stat("cluster.copy.upstream_rq_active"), 0);
        });
    }

    #[test]
    fn the_mark_comes_before_the_port() {
        for (authority, expected) in [
            ("web", "web-shadow"),
            ("web:80", "web-shadow:80"),
            ("127.0.0.1:80", "127.0.0.1-shadow:80"),
            ("[::1]:80", "[::1]-shadow:80"),
            ("[::1]", "[::1]-shadow"),
        ] {
            assert_eq!(marked(authority), expected);
        }
    }
}
