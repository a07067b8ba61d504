//! One request's state: what filters, the router and access logs know of it.

use super::filter::router::{Tried, Underway};
use super::hcm::Served;
use super::local_reply::is_grpc;
use super::tracing::Traced;
use super::vitals::SharedVitals;
use super::worker::Table;
use crate::codec::{Body, Request};
use crate::turn;
use crate::upstream::{Cluster, Host};
use data_plane_core::config;
use data_plane_core::headers::forwarded::Origin;
use data_plane_core::headers::{
    ByteCounts, Downstream, HeaderList, Metadata, Record, RequestHead, ResponseFlags, ResponseHead, Timing,
    Tls, Upstream, Version,
};
use data_plane_core::route::{HashPeer, Hashed, Matched, RouteId};
use std::borrow::Cow;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// What is known of one stream beside its heads. Filters may read all of it and set flags.
pub struct StreamCx {
    pub(super) served: Rc<Served>,
    pub(super) vitals: SharedVitals,
    /// Moment the request's head came in.
    pub(super) start: Instant,
    /// The client asked for 204 in place of the route's 504.
    pub(super) quiet_timeout: bool,
    /// The request asks for an upgrade, which is enabled.
    pub(super) upgrade: bool,
    /// Fixed for the stream: decides shares and weighted clusters.
    pub(super) random: u64,
    pub(super) origin: Origin,
    pub(super) protocol: Version,
    /// Bytes of the request's head on the wire.
    pub(super) head_bytes: usize,
    pub(super) grpc: bool,
    pub(super) table: Option<Rc<Table>>,
    pub(super) route: Option<RouteId>,
    pub(super) cluster: Option<Arc<Cluster>>,
    pub(super) host: Option<Arc<Host>>,
    /// What balancing policies that hash go by.
    pub(super) hash: Option<u64>,
    /// Cookies that the client is given so that it hashes alike next time.
    pub(super) new_cookies: Vec<String>,
    pub(super) upstream: UpstreamFacts,
    /// Requests sent upstream.
    pub(super) attempts: u32,
    /// Hosts tried, where the retry policy wants to know.
    pub(super) tried: Tried,
    /// The attempt that waits for the head of a response.
    pub(super) attempt: Option<Underway>,
    pub(super) status: Option<u16>,
    /// What went wrong (`%RESPONSE_FLAGS%`).
    pub flags: ResponseFlags,
    /// Why the status is what it is (`%RESPONSE_CODE_DETAILS%`).
    pub details: Cow<'static, str>,
    /// Body bytes sent to the client.
    pub(super) sent: u64,
    /// Bytes of a local reply's body.
    pub(super) local_body: bytes::Bytes,
    pub(super) moments: Moments,
    pub(super) traced: Traced,
    /// A check of this proxy's health.
    pub(super) health_check: bool,
    /// What filters said of the stream.
    metadata: Metadata,
}

/// What is known of the upstream side once it answered or failed.
#[derive(Default)]
pub(super) struct UpstreamFacts {
    pub(super) local: Option<SocketAddr>,
    pub(super) protocol: Option<Version>,
    pub(super) transport_failure: Option<Box<str>>,
    pub(super) tls: Option<Arc<Tls>>,
    /// The answer said x-envoy-upstream-canary.
    pub(super) canary: bool,
}

/// When things happened.
#[derive(Default)]
pub(super) struct Moments {
    pub(super) upstream_sent: Option<Instant>,
    pub(super) upstream_head: Option<Instant>,
    pub(super) upstream_body: Option<Instant>,
    pub(super) upstream_end: Option<Instant>,
    pub(super) answered: Option<Instant>,
    pub(super) end: Option<Instant>,
}

impl StreamCx {
    pub(super) fn new(served: &Rc<Served>, request: &Request) -> Self {
        let mut cx = Self::bare(served, request.head.version);
        if let Some(length) = whole_length(&request.body) {
            cx.vitals.complete.set(Some(cx.start));
            cx.vitals.received.set(length);
        }
        cx.head_bytes = request.head_bytes;
        cx.grpc = is_grpc(&request.head);
        cx
    }

    /// Of a message that no request could be made of.
    pub(super) fn bare(served: &Rc<Served>, protocol: Version) -> Self {
        let start = turn::now();
        Self {
            vitals: SharedVitals::new(start),
            start,
            quiet_timeout: false,
            upgrade: false,
            random: served.worker.random(),
            origin: Origin { client: served.facts.remote, internal: false },
            protocol,
            head_bytes: 0,
            grpc: false,
            table: None,
            route: None,
            cluster: None,
            host: None,
            hash: None,
            new_cookies: Vec::new(),
            upstream: UpstreamFacts::default(),
            attempts: 0,
            tried: Tried::default(),
            attempt: None,
            status: None,
            flags: ResponseFlags::NONE,
            details: Cow::Borrowed(""),
            sent: 0,
            local_body: bytes::Bytes::new(),
            moments: Moments::default(),
            traced: Traced::default(),
            health_check: false,
            metadata: Metadata::default(),
            served: Rc::clone(served),
        }
    }

    /// Hashes the request by its route.
    pub(super) fn hash_request(&mut self, matched: &Matched<'_>, head: &RequestHead) {
        let Hashed { hash, cookies } = matched.hash(head, &self.hash_peer());
        (self.hash, self.new_cookies) = (hash, cookies);
    }

    /// Whose request it is, for hashes.
    pub(super) fn hash_peer(&self) -> HashPeer {
        let Downstream { remote, local, .. } = self.served.facts;
        HashPeer { client: self.origin.client.ip(), remote, local }
    }

    /// The route taken; `None` when none matches, or before routing.
    pub fn route(&self) -> Option<Matched<'_>> {
        self.table.as_ref().zip(self.route).map(|(table, id)| table.matched(id))
    }

    /// What the most specific level of the route says of the filter of that configured name; levels that only
    /// enable it do not count.
    pub fn filter_override(&self, name: &str) -> Option<&config::FilterOverride> {
        if !self.table.as_ref()?.overrides_filters() {
            return None;
        }
        self.route()?.filter_overrides(name).find(|entry| entry.config.is_some()).map(|entry| &**entry)
    }

    /// Whether the route disables the filter of that name, or enables it; `None`: it says nothing.
    pub(super) fn is_filter_disabled(&self, name: &str) -> Option<bool> {
        self.route()?.filter_overrides(name).next().map(|entry| entry.disabled)
    }

    /// What filters said of the stream so far.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// To say something of the stream. Allocates once something is said.
    pub fn metadata_mut(&mut self) -> &mut Metadata {
        &mut self.metadata
    }

    /// The client as far as it can be trusted.
    pub fn client(&self) -> SocketAddr {
        self.origin.client
    }

    /// Whether the request was read to its end.
    pub(super) fn is_request_complete(&self) -> bool {
        self.vitals.complete.get().is_some()
    }

    /// Calls `f` with all that is known now.
    pub(super) fn with_record<T>(
        &self,
        request: Option<&RequestHead>,
        response: Option<&ResponseHead>,
        trailers: Option<&HeaderList>,
        f: impl FnOnce(&Record<'_>) -> T,
    ) -> T {
        let served = &*self.served;
        let moved: Downstream;
        let downstream = if self.origin.client == served.facts.remote {
            &served.facts
        } else {
            moved = Downstream { remote: self.origin.client, ..served.facts.clone() };
            &moved
        };
        // An attempt that was given up has told how far it got and no more.
        let ready = self.vitals.progress.is_ready();
        let upstream = self.host.as_ref().map(|host| Upstream {
            address: host.address,
            hostname: &host.hostname,
            local: self.upstream.local.or_else(|| ready?.local_address),
            protocol: self.upstream.protocol.or_else(|| ready.map(|ready| ready.protocol)),
            connection_id: None,
            connect: None,
            transport_failure: self.upstream.transport_failure.as_deref(),
            tls: self.upstream.tls.as_deref(),
        });
        let route = self.route();
        let received = self.vitals.received.get();
        let end = self.moments.end;
        let record = Record {
            request,
            response,
            trailers,
            protocol: Some(self.protocol),
            now: end.map_or_else(|| self.start.elapsed(), |end| end.saturating_duration_since(self.start)),
            timing: self.timing(),
            status: self.status,
            status_details: (!self.details.is_empty()).then_some(&*self.details),
            flags: self.flags,
            downstream_bytes: ByteCounts {
                body_received: received,
                body_sent: self.sent,
                header_received: self.head_bytes as u64,
                wire_received: self.head_bytes as u64 + received,
                wire_sent: self.sent,
                ..ByteCounts::ZERO
            },
            upstream_bytes: if self.attempts > 0 {
                ByteCounts { body_received: self.sent, body_sent: received, ..ByteCounts::ZERO }
            } else {
                ByteCounts::ZERO
            },
            local_reply_body: (!self.local_body.is_empty()).then_some(&*self.local_body),
            downstream: Some(downstream),
            upstream: upstream.as_ref(),
            cluster: self.cluster.as_ref().map(|cluster| &*cluster.config.name),
            cluster_stat_name: self.cluster.as_ref().map(|cluster| &*cluster.config.stat_name),
            attempts: self.attempts,
            route: route.as_ref().map_or("", |route| &route.route.name),
            virtual_host: route.as_ref().map_or("", |route| &route.virtual_host.name),
            filter_chain: &served.filter_chain,
            stream_id: u128::from(self.random) << 64 | u128::from(served.facts.connection_id),
            trace: self.traced.trace.as_ref().map(|trace| trace.ids()),
            traced: self.traced.decided,
            process: Some(&served.hcm.process),
            health_check: self.health_check,
            metadata: (!self.metadata.is_empty()).then_some(&self.metadata),
            ..Record::new(served.worker.clock.wall(self.start))
        };
        f(&record)
    }

    fn timing(&self) -> Timing {
        let since = |at: Option<Instant>| -> Option<Duration> {
            at.map(|at| at.saturating_duration_since(self.start))
        };
        Timing {
            downstream_rx_end: since(self.vitals.complete.get()),
            upstream_tx_begin: since(self.moments.upstream_sent),
            upstream_tx_end: since(
                self.vitals.complete.get().filter(|_| self.moments.upstream_sent.is_some()),
            ),
            upstream_rx_begin: since(self.moments.upstream_head),
            upstream_rx_body_begin: since(self.moments.upstream_body),
            upstream_rx_end: since(self.moments.upstream_end),
            downstream_tx_begin: since(self.moments.answered),
            downstream_tx_end: since(self.moments.end.filter(|_| self.moments.answered.is_some())),
            end: since(self.moments.end),
            ..Timing::NONE
        }
    }
}

/// The length of a body that is all at hand.
pub(super) fn whole_length(body: &Body) -> Option<u64> {
    match body {
        Body::Empty => Some(0),
        Body::Full(bytes) => Some(bytes.len() as u64),
        Body::Frames(_) | Body::Stream(_) => None,
    }
}

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The whole answer went out.
    Answered,
    /// The client went away.
    Aborted,
    /// The answer was broken off by this side or by the upstream.
    Broken,
}

/// A stream under way. Finishes itself as aborted when it is dropped before it ended.
pub(super) struct Stream {
    pub(super) head: RequestHead,
    pub(super) cx: StreamCx,
    finished: bool,
}

impl Stream {
    /// Takes a request's head; its body stays with the caller.
    pub(super) fn begin(served: &Rc<Served>, request: Request) -> (Self, Body) {
        let cx = StreamCx::new(served, &request);
        served.hcm.stats.request(cx.protocol);
        (Self { head: request.head, cx, finished: false }, request.body)
    }

    /// Settles the books: gauges, durations, access logs. Once a stream.
    pub(super) fn finish(
        &mut self,
        end: End,
        now: Instant,
        response: Option<&ResponseHead>,
        trailers: Option<&HeaderList>,
    ) {
        if std::mem::replace(&mut self.finished, true) {
            return;
        }
        let cx = &mut self.cx;
        cx.moments.end = Some(now);
        let served = Rc::clone(&cx.served);
        let stats = &served.hcm.stats.manager;
        match end {
            End::Answered => {}
            End::Broken => stats.downstream_rq_tx_reset.inc(),
            End::Aborted => {
                stats.downstream_rq_rx_reset.inc();
                cx.flags |= ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION;
                if cx.status.is_none() || cx.details == "via_upstream" {
                    cx.details = Cow::Borrowed("downstream_remote_disconnect");
                }
            }
        }
        stats.downstream_rq_active.dec();
        stats.downstream_rq_time.record(now.saturating_duration_since(cx.start).as_millis() as u64);
        served.hcm.log(&self.cx, Some(&self.head), response, trailers);
        self.cx.end_trace(&self.head, response, trailers);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if !self.finished {
            self.finish(End::Aborted, turn::now(), None, None);
        }
    }
}
