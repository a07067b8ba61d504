//! Connections for bytes alone: made for one client's connection, never shared, gone with it.

use super::link::{Books, Link, Owner, Protocol};
use super::request::Pending;
use super::{Failure, Local, UpstreamErrorKind};
use crate::transport::{Socket, socket};
use crate::upstream::cluster::Cluster;
use crate::upstream::host::Host;
use crate::upstream::limits::{Limit, Permit, Priority};
use crate::upstream::tls::Names;
use data_plane_core::headers::Tls;
use data_plane_core::proxy_protocol::Ends;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A connection to a host, counted until dropped: as a connection, and as a request under way, since that is what
/// balancing looks at.
pub struct TcpConnection {
    link: Link,
    _under_way: UnderWay,
}

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpError {
    /// What happened: [`UpstreamErrorKind::Overflow`], or one of connecting.
    pub kind: UpstreamErrorKind,
    /// What the system or TLS said.
    pub transport_failure: Option<Box<str>>,
}

impl From<Failure> for TcpError {
    fn from(Failure { kind, transport }: Failure) -> Self {
        Self { kind, transport_failure: transport }
    }
}

/// Nobody waits for the end of these connections.
struct Nobody;

impl Owner for Nobody {
    fn closed(&self) {}
}

struct UnderWay {
    cluster: Arc<Cluster>,
    host: Arc<Host>,
    /// Requests are not limited here, as in Envoy: connections are.
    _permit: Permit,
}

impl UnderWay {
    fn new(cluster: &Arc<Cluster>, host: &Arc<Host>) -> Self {
        cluster.stats.upstream_rq_total.inc();
        cluster.stats.upstream_rq_active.inc();
        host.stats().rq_total.fetch_add(1, Relaxed);
        host.stats().rq_active.fetch_add(1, Relaxed);
        let permit = cluster.usage.acquire_beyond(Priority::Default, Limit::Requests);
        Self { cluster: Arc::clone(cluster), host: Arc::clone(host), _permit: permit }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.cluster.stats.upstream_rq_active.dec();
        self.host.stats().rq_active.fetch_sub(1, Relaxed);
    }
}

impl Local {
    /// Connects to `host` within the cluster's `connect_timeout` and limits, TLS included. `client` is whose
    /// connection it is for, told to hosts of clusters that want to know.
    ///
    /// # Errors
    /// A limit is reached, or the host cannot be connected.
    ///
    /// # Cancel safety
    /// Dropping the future gives up the connection.
    pub async fn connect(
        &self,
        cluster: &Arc<Cluster>,
        host: &Arc<Host>,
        client: Ends,
    ) -> Result<TcpConnection, TcpError> {
        let config = &cluster.config;
        let full = |limit: u32| host.stats().cx_active.load(Relaxed) >= i64::from(limit);
        let permit = match config.max_connections_per_host.is_some_and(full) {
            true => None,
            false => cluster.usage.acquire(Priority::Default, Limit::Connections),
        };
        let Some(permit) = permit else {
            cluster.stats.upstream_cx_overflow.inc();
            return Err(Failure::OVERFLOW.into());
        };
        let pending = Pending::new(cluster, host, Priority::Default)?;
        let names = Names::of_client(cluster, Some(client)).map(Rc::new);
        let books = Books::open(cluster, host, Weak::<Nobody>::new(), permit, Protocol::Tcp, names);
        match Box::pin(Link::connect(books)).await {
            Ok(link) => {
                pending.done();
                link.books().begin();
                Ok(TcpConnection { link, _under_way: UnderWay::new(cluster, host) })
            }
            Err((failure, _books)) => {
                pending.done();
                cluster.stats.upstream_rq_pending_failure_eject.inc();
                Err(failure.into())
            }
        }
    }
}

impl TcpConnection {
    /// Our side's address.
    pub fn local_address(&self) -> Option<SocketAddr> {
        self.link.books().local_address()
    }

    /// What TLS agreed upon; `None`: plaintext.
    pub fn tls(&self) -> Option<Arc<Tls>> {
        self.link.books().tls()
    }

    /// The host is told of a failure when this is dropped: its system resets the connection.
    pub fn reset(&self) {
        socket::reset_on_close(self.link.stream().get_ref().tcp());
    }
}

impl Socket for TcpConnection {
    fn plain(&self) -> Option<&TcpStream> {
        self.link.plain()
    }

    fn count(&mut self, received: usize, sent: usize) {
        self.link.count(received, sent);
    }

    fn broke(&mut self) {
        self.link.broke();
    }
}

impl AsyncRead for TcpConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.link).poll_read(cx, buf)
    }
}

impl AsyncWrite for TcpConnection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.link).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.link).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.link).poll_shutdown(cx);
        if matches!(polled, Poll::Ready(Ok(()))) {
            // As Envoy counts: whoever ends last ends the connection.
            self.link.books().ended_here();
        }
        polled
    }
}
