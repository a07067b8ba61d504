//! One upstream connection: how it is made, and the books that are kept on it.

use super::{Failure, UpstreamErrorKind};
use crate::transport::tls::Offer;
use crate::transport::{ByteCounters, Counted, Socket, Stream, socket};
use crate::upstream::cluster::Cluster;
use crate::upstream::host::Host;
use crate::upstream::limits::{Limit, Permit, Priority};
use crate::upstream::tls::{self, Names};
use data_plane_core::config::UpstreamProtocol;
use data_plane_core::headers::Tls;
use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// What a pool wants to know of its connections.
pub(super) trait Owner {
    /// One is gone. Called from drops: never while the pool's own lists are borrowed.
    fn closed(&self);
}

/// Protocol of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
    Tcp,
}

/// A connection's books: counted from the moment connecting starts until [`Link`] is dropped, wherever that is.
pub(super) struct Books {
    cluster: Arc<Cluster>,
    host: Arc<Host>,
    owner: Weak<dyn Owner>,
    permit: Cell<Option<Permit>>,
    started: Instant,
    established: Cell<bool>,
    remote: Cell<bool>,
    requests: Cell<u64>,
    active: Cell<u32>,
    local_address: Cell<Option<SocketAddr>>,
    tls: RefCell<Option<Arc<Tls>>>,
    /// Out of the request that it is made for.
    names: Option<Rc<Names>>,
    protocol: Protocol,
    offer: Offer,
}

impl Books {
    /// Opens the books of a connection about to be made. Dropping them before a [`Link`] has them, as when
    /// connecting fails, closes them.
    pub(super) fn open(
        cluster: &Arc<Cluster>,
        host: &Arc<Host>,
        owner: Weak<dyn Owner>,
        permit: Permit,
        protocol: Protocol,
        names: Option<Rc<Names>>,
    ) -> OpenBooks {
        let stats = &cluster.stats;
        stats.upstream_cx_total.inc();
        stats.upstream_cx_active.inc();
        match protocol {
            Protocol::Http1 => stats.upstream_cx_http1_total.inc(),
            Protocol::Http2 => stats.upstream_cx_http2_total.inc(),
            Protocol::Tcp => {}
        }
        host.stats().cx_total.fetch_add(1, Relaxed);
        host.stats().cx_active.fetch_add(1, Relaxed);
        OpenBooks(Rc::new(Self {
            cluster: Arc::clone(cluster),
            host: Arc::clone(host),
            owner,
            permit: Cell::new(Some(permit)),
            started: Instant::now(),
            established: Cell::new(false),
            remote: Cell::new(false),
            requests: Cell::new(0),
            active: Cell::new(0),
            local_address: Cell::new(None),
            tls: RefCell::new(None),
            names,
            protocol,
            offer: match (cluster.config.protocol, protocol) {
                (_, Protocol::Tcp) => Offer::Nothing,
                (UpstreamProtocol::Auto, _) => Offer::Either,
                (_, Protocol::Http1) => Offer::Http1,
                (_, Protocol::Http2) => Offer::Http2,
            },
        }))
    }

    /// A request begins on the connection.
    pub(super) fn begin(&self) {
        self.requests.set(self.requests.get() + 1);
        self.active.set(self.active.get() + 1);
    }

    /// A request is over.
    pub(super) fn end(&self) {
        self.active.set(self.active.get().saturating_sub(1));
    }

    /// Requests begun so far.
    pub(super) fn requests(&self) -> u64 {
        self.requests.get()
    }

    /// Since connecting started.
    pub(super) fn age(&self) -> std::time::Duration {
        self.started.elapsed()
    }

    /// The connection ended by our side's end, which came after the other's.
    pub(super) fn ended_here(&self) {
        self.remote.set(false);
    }

    /// Our side's address.
    pub(super) fn local_address(&self) -> Option<SocketAddr> {
        self.local_address.get()
    }

    /// Its host.
    pub(super) fn host_id(&self) -> u64 {
        self.host.id()
    }

    /// What TLS agreed upon.
    pub(super) fn tls(&self) -> Option<Arc<Tls>> {
        self.tls.borrow().clone()
    }

    fn close(&self) {
        let stats = &self.cluster.stats;
        stats.upstream_cx_active.dec();
        self.host.stats().cx_active.fetch_sub(1, Relaxed);
        drop(self.permit.take());
        let is_tcp = self.protocol == Protocol::Tcp;
        if self.established.get() || is_tcp {
            stats.upstream_cx_destroy.inc();
            let with_active = self.active.get() > 0;
            if with_active {
                stats.upstream_cx_destroy_with_active_rq.inc();
            }
            match (self.remote.get(), with_active) {
                (true, false) => stats.upstream_cx_destroy_remote.inc(),
                (false, false) => stats.upstream_cx_destroy_local.inc(),
                (true, true) => {
                    stats.upstream_cx_destroy_remote.inc();
                    stats.upstream_cx_destroy_remote_with_active_rq.inc();
                }
                (false, true) => {
                    stats.upstream_cx_destroy_local.inc();
                    stats.upstream_cx_destroy_local_with_active_rq.inc();
                }
            }
            stats.upstream_cx_length_ms.record(millis(self.started));
            if !is_tcp {
                stats.upstream_rq_per_cx.record(self.requests.get());
            }
        }
        if let Some(owner) = self.owner.upgrade() {
            owner.closed();
        }
    }
}

/// Books that close when dropped.
pub(super) struct OpenBooks(Rc<Books>);

impl Drop for OpenBooks {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// A connection and its books: what codecs read and write.
pub(super) struct Link {
    stream: Stream,
    books: OpenBooks,
}

impl Link {
    /// Connects within the cluster's `connect_timeout`. On failure the books come back, so that waiters hear of it
    /// before the pool does.
    ///
    /// # Cancel safety
    /// Dropping the future gives up the connection.
    pub(super) async fn connect(books: OpenBooks) -> Result<Self, (Failure, OpenBooks)> {
        let (cluster, host) = (Arc::clone(&books.0.cluster), Arc::clone(&books.0.host));
        let stats = &cluster.stats;
        let failed = || {
            stats.upstream_cx_connect_fail.inc();
            host.stats().cx_connect_fail.fetch_add(1, Relaxed);
        };
        let connecting = async {
            let connected = socket::connect(host.address, cluster.config.tcp_keepalive).await;
            let stream = connected.map_err(|error| Failure::connect(&error))?;
            let local = stream.local_addr().ok();
            let names = books.0.names.as_deref();
            let secured = tls::secure(&cluster, (&*host).into(), stream, books.0.offer, names).await;
            match secured {
                Ok((io, facts)) => Ok((io, facts, local)),
                Err(reason) => Err(Failure {
                    kind: UpstreamErrorKind::ConnectFailure,
                    transport: Some(reason).filter(|reason| !reason.is_empty()),
                }),
            }
        };
        match tokio::time::timeout(cluster.config.connect_timeout, connecting).await {
            Ok(Ok((io, facts, local))) => {
                stats.upstream_cx_connect_ms.record(millis(books.0.started));
                books.0.established.set(true);
                books.0.local_address.set(local);
                books.0.tls.replace(facts);
                let counters = ByteCounters {
                    rx: stats.upstream_cx_rx_bytes_total.clone(),
                    tx: stats.upstream_cx_tx_bytes_total.clone(),
                };
                Ok(Self { stream: Counted::new(io, Some(counters)), books })
            }
            Ok(Err(failure)) => {
                books.0.remote.set(true);
                failed();
                Err((failure, books))
            }
            Err(_) => {
                failed();
                stats.upstream_cx_connect_timeout.inc();
                Err((Failure { kind: UpstreamErrorKind::ConnectTimeout, transport: None }, books))
            }
        }
    }

    /// Closes the connection and keeps the books.
    pub(super) fn into_books(self) -> OpenBooks {
        self.books
    }

    /// The stream, for what concerns the socket itself.
    pub(super) fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Whether ALPN yielded HTTP/2.
    pub(super) fn is_http2(&self) -> bool {
        self.stream.get_ref().alpn() == Some(b"h2")
    }

    /// Its books.
    pub(super) fn books(&self) -> &Rc<Books> {
        &self.books.0
    }
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

impl Socket for Link {
    fn plain(&self) -> Option<&TcpStream> {
        self.stream.plain()
    }

    fn count(&mut self, received: usize, sent: usize) {
        self.stream.count(received, sent);
    }

    fn broke(&mut self) {
        self.books.0.remote.set(true);
    }
}

impl AsyncRead for Link {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (before, room) = (buf.filled().len(), buf.remaining());
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        match &polled {
            Poll::Ready(Ok(())) if room > 0 && buf.filled().len() == before => self.books.0.remote.set(true),
            Poll::Ready(Err(_)) => self.books.0.remote.set(true),
            _ => {}
        }
        polled
    }
}

impl AsyncWrite for Link {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        if matches!(polled, Poll::Ready(Err(_))) {
            self.books.0.remote.set(true);
        }
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        if matches!(polled, Poll::Ready(Err(_))) {
            self.books.0.remote.set(true);
        }
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Room for one more connection of a pool; `None` when the cluster's limit is reached. A pool without any may
/// always make one (Envoy), or what waits in it could wait for ever.
pub(super) fn room(cluster: &Cluster, host: &Host, priority: Priority, open: usize) -> Option<Permit> {
    let full = |limit: u32| host.stats().cx_active.load(Relaxed) >= i64::from(limit);
    if !cluster.config.max_connections_per_host.is_some_and(full)
        && let Some(permit) = cluster.usage.acquire(priority, Limit::Connections)
    {
        return Some(permit);
    }
    cluster.stats.upstream_cx_overflow.inc();
    (open == 0).then(|| cluster.usage.acquire_beyond(priority, Limit::Connections))
}
