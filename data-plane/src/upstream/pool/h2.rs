//! One worker's HTTP/2 connections to one host.

use super::link::{Books, Link, Owner, Protocol, room};
use super::queue::Queue;
use super::request::{Active, Pending, Sharing};
use super::{
    Exchange, Failure, Progress, SendOptions, Shared, UpstreamError, UpstreamErrorKind, is_safe_to_repeat,
};
use crate::codec::{Body, ClientOptions, h2};
use crate::upstream::cluster::Cluster;
use crate::upstream::host::Host;
use crate::upstream::limits::{Limit, Priority};
use crate::upstream::tls::Names;
use data_plane_core::headers::{RequestHead, Version};
use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;

/// Connections to one host: the first with room takes a request, so that as few as possible are in use.
pub(super) struct Pool {
    me: Weak<Self>,
    /// Out of the requests that it serves.
    names: Option<Rc<Names>>,
    shared: Rc<Shared>,
    priority: Priority,
    /// The latest of its identity: a name's address may move.
    host: RefCell<Arc<Host>>,
    cluster: RefCell<Arc<Cluster>>,
    options: RefCell<Arc<ClientOptions>>,
    /// Connections that take requests.
    conns: RefCell<Vec<Rc<Conn>>>,
    waiters: Queue<Result<Stream, Failure>>,
    connecting: Cell<usize>,
    /// All connections, those being made and those that only finish included.
    open: Cell<usize>,
    /// Requests that a connection takes at a time, as far as is known.
    each: Cell<usize>,
}

struct Conn {
    client: h2::Client,
    books: Rc<Books>,
    pool: Weak<Pool>,
    streams: Cell<usize>,
    idle_since: Cell<u64>,
}

/// Room for one request on a connection, given back when dropped.
struct Stream(Rc<Conn>);

impl Stream {
    fn new(conn: &Rc<Conn>) -> Self {
        conn.streams.set(conn.streams.get() + 1);
        Self(Rc::clone(conn))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let conn = &self.0;
        conn.streams.set(conn.streams.get() - 1);
        if let Some(pool) = conn.pool.upgrade() {
            if conn.streams.get() == 0 {
                conn.idle_since.set(pool.shared.tick());
            }
            pool.offer(conn);
        }
    }
}

impl Conn {
    fn has_room(&self) -> bool {
        self.streams.get() < self.client.max_concurrent()
    }
}

impl Pool {
    pub(super) fn new(
        shared: &Rc<Shared>,
        cluster: &Arc<Cluster>,
        host: &Arc<Host>,
        priority: Priority,
        names: Option<Rc<Names>>,
    ) -> Rc<Self> {
        Rc::new_cyclic(|me| Self {
            me: Weak::clone(me),
            names: names.clone(),
            shared: Rc::clone(shared),
            priority,
            host: RefCell::new(Arc::clone(host)),
            options: RefCell::new(Arc::new(ClientOptions::new(&cluster.config))),
            cluster: RefCell::new(Arc::clone(cluster)),
            conns: RefCell::default(),
            waiters: Queue::default(),
            connecting: Cell::new(0),
            open: Cell::new(0),
            each: Cell::new(cluster.config.http2.max_concurrent_streams.max(1) as usize),
        })
    }

    /// Sends a request and waits for the response's head.
    pub(super) async fn send(
        self: Rc<Self>,
        cluster: &Arc<Cluster>,
        host: &Arc<Host>,
        head: &RequestHead,
        body: Body,
        options: SendOptions<'_>,
    ) -> Result<Exchange, UpstreamError> {
        self.follow(cluster, host);
        let mut body = body;
        let mut repeated = false;
        // Held while the request is repeated.
        let mut _retry = None;
        loop {
            let stream = match self.take() {
                Some(stream) => stream,
                None => match self.wait(cluster, host).await {
                    Ok(stream) => stream,
                    Err(failure) => return Err(failure.with(Some(body))),
                },
            };
            let conn = Rc::clone(&stream.0);
            let reused = conn.books.requests() > 0;
            let sent = self.exchange(stream, cluster, host, head, body, options.progress).await;
            let (error, may_repeat) = match sent {
                Ok(exchange) => return Ok(exchange),
                Err(failed) => failed,
            };
            let refused = error.kind == UpstreamErrorKind::Refused;
            if repeated || !may_repeat || !(refused || reused) || !is_safe_to_repeat(&error.kind, head) {
                return Err(error);
            }
            // GOAWAY ends a connection: what it did not take up goes to the next without further ado. A host that
            // refuses a stream is at its limit, and one that fails may have begun: neither gets more than is allowed.
            if !refused || conn.client.is_usable() {
                if refused && options.retries {
                    return Err(error);
                }
                _retry = cluster.usage.acquire(self.priority, Limit::Retries);
                if _retry.is_none() {
                    cluster.stats.upstream_rq_retry_overflow.inc();
                    return Err(error);
                }
            }
            repeated = true;
            match error.body {
                Some(untouched) => body = untouched,
                None => return Err(error),
            }
        }
    }

    async fn exchange(
        &self,
        stream: Stream,
        cluster: &Arc<Cluster>,
        host: &Arc<Host>,
        head: &RequestHead,
        body: Body,
        progress: Option<&Progress>,
    ) -> Result<Exchange, (UpstreamError, bool)> {
        let conn = Rc::clone(&stream.0);
        let request = match Active::new(cluster, host, Sharing::Stream, self.priority, Under(stream)) {
            Ok(request) => request,
            Err((failure, _)) => return Err((failure.with(Some(body)), false)),
        };
        conn.books.begin();
        if let Some(progress) = progress {
            progress.ready(Version::Http2, conn.books.local_address());
        }
        if cluster.config.max_requests_per_connection.is_some_and(|max| conn.books.requests() >= max.into()) {
            cluster.stats.upstream_cx_max_requests.inc();
            self.forget(&conn);
        }
        match conn.client.exchange(head, body).await {
            Ok((head, body)) => Ok(Exchange {
                protocol: head.version,
                head,
                body: request.follow(body),
                upstream_local_address: conn.books.local_address(),
                tls: conn.books.tls(),
            }),
            Err(error) => {
                if !conn.client.is_usable() {
                    self.gone(&conn);
                }
                let may_repeat = !error.response_started && error.unsent_body.is_some();
                let error = UpstreamError::from_exchange(error, cluster);
                request.end(error.kind.end());
                Err((error, may_repeat))
            }
        }
    }

    /// Follows an update of the cluster or of the host.
    fn follow(&self, cluster: &Arc<Cluster>, host: &Arc<Host>) {
        if !Arc::ptr_eq(&self.host.borrow(), host) {
            *self.host.borrow_mut() = Arc::clone(host);
        }
        if !Arc::ptr_eq(&self.cluster.borrow(), cluster) {
            *self.options.borrow_mut() = Arc::new(ClientOptions::new(&cluster.config));
            if !cluster.has_tls_of(&self.cluster.borrow()) {
                // Taken out first: dropping connections runs code of this pool.
                let outdated = std::mem::take(&mut *self.conns.borrow_mut());
                drop(outdated);
            }
            *self.cluster.borrow_mut() = Arc::clone(cluster);
        }
    }

    /// Room on a connection that is there.
    fn take(&self) -> Option<Stream> {
        let found = {
            let conns = self.conns.borrow();
            let usable = |conn: &&Rc<Conn>| conn.has_room() && conn.client.is_usable();
            conns.iter().find(usable).map(Stream::new)
        };
        if found.is_none() {
            self.drop_unusable();
        }
        found
    }

    async fn wait(&self, cluster: &Arc<Cluster>, host: &Arc<Host>) -> Result<Stream, Failure> {
        let pending = Pending::new(cluster, host, self.priority)?;
        let turn = self.waiters.join();
        self.connect_for_waiters();
        let given = turn.await;
        pending.done();
        given.unwrap_or(Err(Failure { kind: UpstreamErrorKind::Terminated, transport: None }))
    }

    /// Makes as many connections as the waiters fill, within the limits.
    fn connect_for_waiters(&self) {
        let Some(me) = self.me.upgrade() else { return };
        let cluster = Arc::clone(&self.cluster.borrow());
        let wanted = self.waiters.len().div_ceil(self.each.get());
        while self.connecting.get() < wanted {
            let room = room(&cluster, &self.host.borrow(), self.priority, self.open.get());
            let Some(permit) = room else { return };
            let owner: Weak<dyn Owner> = {
                let me: Weak<Self> = Weak::clone(&self.me);
                me
            };
            let books = Books::open(
                &cluster,
                &self.host.borrow(),
                owner,
                permit,
                Protocol::Http2,
                self.names.clone(),
            );
            self.open.set(self.open.get() + 1);
            self.connecting.set(self.connecting.get() + 1);
            let (me, cluster) = (Rc::clone(&me), Arc::clone(&cluster));
            self.shared.spawn(async move {
                let connected = me.connect(&cluster, books).await;
                me.connecting.set(me.connecting.get() - 1);
                match connected {
                    Ok(conn) => {
                        me.conns.borrow_mut().push(Rc::clone(&conn));
                        conn.idle_since.set(me.shared.tick());
                        me.offer(&conn);
                        // The host may take fewer at a time than was hoped for.
                        me.each.set(conn.client.max_concurrent().max(1));
                        me.connect_for_waiters();
                    }
                    Err(failure) => {
                        let ejected = me.waiters.give_all(|| Err(failure.clone()));
                        cluster.stats.upstream_rq_pending_failure_eject.add(ejected as u64);
                    }
                }
            });
        }
    }

    async fn connect(
        self: &Rc<Self>,
        cluster: &Cluster,
        books: super::link::OpenBooks,
    ) -> Result<Rc<Conn>, Failure> {
        let link = Link::connect(books).await.map_err(|(failure, _)| failure)?;
        if self.shared.agreed(cluster, link.books().host_id(), link.is_http2()) == Some(Version::Http11) {
            return Err(Failure::OTHER_PROTOCOL);
        }
        let books = Rc::clone(link.books());
        let options = Arc::clone(&self.options.borrow());
        let starting = tokio::time::timeout(cluster.config.connect_timeout, h2::connect(link, options));
        let (client, driver) = match starting.await {
            Ok(Ok(started)) => started,
            Ok(Err(_)) => return Err(Failure { kind: UpstreamErrorKind::ConnectFailure, transport: None }),
            Err(_) => {
                cluster.stats.upstream_cx_connect_timeout.inc();
                return Err(Failure { kind: UpstreamErrorKind::ConnectTimeout, transport: None });
            }
        };
        let conn = Rc::new(Conn {
            client,
            books,
            pool: Rc::downgrade(self),
            streams: Cell::new(0),
            idle_since: Cell::new(0),
        });
        let (pool, ended) = (Rc::downgrade(self), Rc::downgrade(&conn));
        self.shared.spawn(async move {
            driver.await;
            if let (Some(pool), Some(conn)) = (pool.upgrade(), ended.upgrade()) {
                pool.forget(&conn);
            }
        });
        Ok(conn)
    }

    /// Gives a connection's room to waiters.
    fn offer(&self, conn: &Rc<Conn>) {
        let is_ours = || self.conns.borrow().iter().any(|c| Rc::ptr_eq(c, conn));
        while self.waiters.len() > 0 && conn.has_room() && conn.client.is_usable() && is_ours() {
            // A stream that comes back drops here and offers itself again, so look at the queue first.
            drop(self.waiters.give(Ok(Stream::new(conn))));
        }
    }

    /// The host takes no more requests on the connection.
    fn gone(&self, conn: &Rc<Conn>) {
        if self.forget(conn) {
            self.cluster.borrow().stats.upstream_cx_close_notify.inc();
        }
    }

    /// Takes a connection out of use: it ends with the last request that holds it.
    fn forget(&self, conn: &Rc<Conn>) -> bool {
        let mut conns = self.conns.borrow_mut();
        let before = conns.len();
        conns.retain(|c| !Rc::ptr_eq(c, conn));
        conns.len() != before
    }

    fn drop_unusable(&self) {
        let all: Vec<_> = self.conns.borrow().iter().map(Rc::clone).collect();
        for conn in all.iter().filter(|conn| !conn.client.is_usable()) {
            self.gone(conn);
        }
    }

    /// Closes connections that are old, idle for too long or of a host that left. `now` is the tick. Returns
    /// whether the pool is of no more use.
    pub(super) fn sweep(&self, now: u64) -> bool {
        self.drop_unusable();
        let cluster = Arc::clone(&self.cluster.borrow());
        let (config, stats) = (&cluster.config, &cluster.stats);
        let all: Vec<_> = self.conns.borrow().iter().map(Rc::clone).collect();
        for conn in &all {
            let idle = now.saturating_sub(conn.idle_since.get());
            if self.host.borrow().is_retired() {
                self.forget(conn);
            } else if conn.streams.get() == 0
                && config.idle_timeout.is_some_and(|limit| idle >= limit.as_secs().max(1))
            {
                stats.upstream_cx_idle_timeout.inc();
                self.forget(conn);
            } else if config.max_connection_duration.is_some_and(|limit| conn.books.age() >= limit) {
                stats.upstream_cx_max_duration_reached.inc();
                self.forget(conn);
            }
        }
        self.open.get() == 0
    }
}

impl Owner for Pool {
    fn closed(&self) {
        self.open.set(self.open.get().saturating_sub(1));
        self.connect_for_waiters();
    }
}

/// A request's hold on its connection: room for a stream, and a line in the books.
struct Under(Stream);

impl Drop for Under {
    fn drop(&mut self) {
        self.0.0.books.end();
    }
}
