//! Copies of requests to other clusters (Envoy `request_mirror_policies`): sent once all of a request is there,
//! their answers read and forgotten. They are bounded by the limits of the cluster that they go to.

use super::replay::Replay;
use crate::codec::Body;
use crate::http::stream::StreamCx;
use crate::http::worker::Worker;
use crate::upstream::{Cluster, PickRequest, Snapshot, Traffic};
use data_plane_core::config::{Mirror, MirrorCluster};
use data_plane_core::headers::{HeaderId, RequestHead};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

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
    let worker = Rc::clone(&cx.served.worker);
    let local = cx.served.interface.unwrap_or_else(|| cx.served.local().ip());
    replay.once_whole(move |body| {
        for copy in copies {
            let mut head = head.clone();
            copy.mark(&mut head, local);
            let sender = Rc::clone(&worker);
            worker.spawn(send(sender, copy.cluster, head, body(), timeout));
        }
    });
}

async fn send(
    worker: Rc<Worker>,
    cluster: Arc<Cluster>,
    head: RequestHead,
    body: Body,
    timeout: Option<Duration>,
) {
    let Some(host) = cluster.pick(&PickRequest::random(worker.random())) else { return };
    let exchange = async {
        let Ok(exchange) = worker.upstream.send(&cluster, &host, &head, body).await else {
            host.stats().error();
            return;
        };
        host.stats().response(exchange.head.status);
        cluster.stats.codes().charge(exchange.head.status, Traffic::Internal, false);
        // Read to its end, so that the connection serves again.
        let mut body = exchange.body;
        while let Some(Ok(_)) = body.frame().await {}
    };
    match timeout {
        Some(timeout) => {
            if tokio::time::timeout(timeout, exchange).await.is_err() {
                cluster.stats.upstream_rq_timeout.inc();
                host.stats().timeout();
            }
        }
        None => exchange.await,
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
    use super::marked;

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
