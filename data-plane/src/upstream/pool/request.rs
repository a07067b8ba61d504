//! A request's place in the counts: waiting for a connection, then under way.

use super::{Failure, UpstreamErrorKind};
use crate::codec::{Body, BodyError, BodySource, Frame};
use crate::transport::Pipe;
use crate::upstream::cluster::Cluster;
use crate::upstream::host::Host;
use crate::upstream::limits::{Limit, Priority};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};

/// HTTP/2 NO_ERROR.
const NO_ERROR: u32 = 0;

/// A request that waits for a connection; counted as cancelled when dropped.
pub(super) struct Pending<'a> {
    cluster: &'a Cluster,
    host: &'a Host,
    priority: Priority,
    cancelled: bool,
}

impl<'a> Pending<'a> {
    pub(super) fn new(cluster: &'a Cluster, host: &'a Host, priority: Priority) -> Result<Self, Failure> {
        if !cluster.usage.take(priority, Limit::Pending) {
            cluster.stats.upstream_rq_pending_overflow.inc();
            return Err(Failure::OVERFLOW);
        }
        cluster.stats.upstream_rq_pending_total.inc();
        cluster.stats.upstream_rq_pending_active.inc();
        host.stats().rq_pending_active.fetch_add(1, Relaxed);
        Ok(Self { cluster, host, priority, cancelled: true })
    }

    /// The wait is over.
    pub(super) fn done(mut self) {
        self.cancelled = false;
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.cluster.usage.give_back(self.priority, Limit::Pending);
        self.cluster.stats.upstream_rq_pending_active.dec();
        self.host.stats().rq_pending_active.fetch_sub(1, Relaxed);
        if self.cancelled {
            self.cluster.stats.upstream_rq_cancelled.inc();
        }
    }
}

/// How a request that is under way ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// With a response, or without one for a reason counted elsewhere.
    Done,
    /// We gave up.
    Cancelled,
    /// The connection ended.
    Terminated,
    /// The host reset the stream.
    Reset(u32),
}

/// Whether a request has its connection for itself. Envoy counts resets of streams only: where the request is
/// alone, its reset is the end of the connection and counted as that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sharing {
    /// HTTP/1.
    Alone,
    /// HTTP/2.
    Stream,
}

/// A request that is under way, on a connection of `C`; counted as reset by us when dropped.
pub(super) struct Active<C> {
    cluster: Arc<Cluster>,
    host: Arc<Host>,
    end: End,
    sharing: Sharing,
    priority: Priority,
    /// What the request holds of its connection.
    _connection: C,
}

impl<C> Active<C> {
    pub(super) fn new(
        cluster: &Arc<Cluster>,
        host: &Arc<Host>,
        sharing: Sharing,
        priority: Priority,
        connection: C,
    ) -> Result<Self, (Failure, C)> {
        let stats = &cluster.stats;
        if !cluster.usage.take(priority, Limit::Requests) {
            stats.upstream_rq_pending_overflow.inc();
            return Err((Failure::OVERFLOW, connection));
        }
        stats.upstream_rq_total.inc();
        stats.upstream_rq_active.inc();
        host.stats().rq_total.fetch_add(1, Relaxed);
        host.stats().rq_active.fetch_add(1, Relaxed);
        let (cluster, host) = (Arc::clone(cluster), Arc::clone(host));
        Ok(Self { cluster, host, end: End::Cancelled, sharing, priority, _connection: connection })
    }

    /// The request ended so.
    pub(super) fn end(mut self, end: End) {
        self.end = end;
    }

    /// Keeps the request counted until `body` is over.
    pub(super) fn follow(self, body: Body) -> Body
    where
        C: 'static,
    {
        match body {
            Body::Stream(body) => Body::Stream(Box::new(Followed { body, request: Some(self) })),
            at_hand => {
                self.end(End::Done);
                at_hand
            }
        }
    }
}

impl<C> Drop for Active<C> {
    fn drop(&mut self) {
        let stats = &self.cluster.stats;
        self.cluster.usage.give_back(self.priority, Limit::Requests);
        stats.upstream_rq_active.dec();
        self.host.stats().rq_active.fetch_sub(1, Relaxed);
        match self.end {
            _ if self.sharing == Sharing::Alone => {}
            End::Done => {}
            End::Cancelled => stats.upstream_rq_tx_reset.inc(),
            End::Terminated => stats.upstream_rq_pending_failure_eject.inc(),
            End::Reset(NO_ERROR) => stats.upstream_rq_rx_reset_no_error.inc(),
            End::Reset(_) => stats.upstream_rq_rx_reset.inc(),
        }
    }
}

/// A response body whose request is counted until its end.
struct Followed<C> {
    body: Box<dyn BodySource>,
    request: Option<Active<C>>,
}

impl<C> Followed<C> {
    fn ended(&mut self, end: End) {
        if let Some(request) = self.request.take() {
            request.end(end);
        }
    }
}

impl From<&BodyError> for End {
    fn from(error: &BodyError) -> Self {
        match error {
            BodyError::Closed | BodyError::Io(_) => Self::Terminated,
            BodyError::Reset(code) => Self::Reset(*code),
            BodyError::Protocol(_) | BodyError::Timeout => Self::Cancelled,
        }
    }
}

impl<C> BodySource for Followed<C> {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        let polled = self.body.poll_frame(cx);
        match &polled {
            Poll::Ready(None) => self.ended(End::Done),
            Poll::Ready(Some(Err(error))) => self.ended(error.into()),
            _ => {}
        }
        polled
    }

    fn poll_pipe(&mut self, cx: &mut Context<'_>, pipe: &mut Pipe) -> Option<Poll<Result<usize, BodyError>>> {
        let polled = self.body.poll_pipe(cx, pipe);
        if let Some(Poll::Ready(Err(error))) = &polled {
            self.ended(error.into());
        }
        polled
    }

    fn remaining(&self) -> Option<u64> {
        self.body.remaining()
    }
}

impl UpstreamErrorKind {
    /// How a request that failed so is counted.
    pub(super) fn end(&self) -> End {
        match self {
            Self::Terminated => End::Terminated,
            Self::Reset(code) => End::Reset(*code),
            Self::RequestBody(_) | Self::Protocol(_) => End::Cancelled,
            Self::ConnectFailure | Self::ConnectTimeout | Self::Refused | Self::Overflow => End::Done,
        }
    }
}
