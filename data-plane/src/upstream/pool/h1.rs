//! One worker's HTTP/1.1 connections to one host.

use super::link::{Books, Link, OpenBooks, Owner, Protocol, room};
use super::queue::Queue;
use super::request::{Active, Pending, Sharing};
use super::{Exchange, Failure, Progress, SendOptions, Shared, UpstreamError, is_safe_to_repeat};
use crate::codec::h1::{ClientConn, Reuse};
use crate::codec::{Body, ClientOptions};
use crate::upstream::cluster::Cluster;
use crate::upstream::host::Host;
use crate::upstream::limits::{Limit, Priority};
use crate::upstream::tls::Names;
use data_plane_core::headers::{RequestHead, Version};
use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;

type Conn = ClientConn<Link>;

/// Connections to one host: idle ones in a stack, so that the one used last is used next and others grow old.
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
    idle: RefCell<Vec<Idle>>,
    waiters: Queue<Result<Conn, Failure>>,
    /// Connections being made for waiters.
    connecting: Cell<usize>,
    /// All connections, those being made and those in use included.
    open: Cell<usize>,
}

struct Idle {
    conn: Conn,
    since: u64,
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
            idle: RefCell::default(),
            waiters: Queue::default(),
            connecting: Cell::new(0),
            open: Cell::new(0),
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
        let progress = options.progress;
        self.follow(cluster, host);
        let conn = match self.take_idle() {
            Some(conn) => conn,
            None => match self.wait(cluster, host).await {
                Ok(conn) => conn,
                Err(failure) => return Err(failure.with(Some(body))),
            },
        };
        let reused = conn.io().books().requests() > 0;
        let error = match self.exchange(conn, cluster, host, head, body, progress).await {
            Ok(exchange) => return Ok(exchange),
            Err(error) => error,
        };
        if !reused || !error.may_repeat || !is_safe_to_repeat(&error.error.kind, head) {
            return Err(error.error);
        }
        // The host closed a connection it had kept: most likely, the request never had a chance. Others of that age
        // are no better, so it goes on a fresh one.
        let Some(_retry) = cluster.usage.acquire(self.priority, Limit::Retries) else {
            cluster.stats.upstream_rq_retry_overflow.inc();
            return Err(error.error);
        };
        let UpstreamError { body: Some(body), kind, transport_failure } = error.error else {
            return Err(error.error);
        };
        let Some(permit) = room(cluster, host, self.priority, self.open.get()) else {
            return Err(UpstreamError { kind, body: Some(body), transport_failure });
        };
        let books = Books::open(cluster, host, self.owner(), permit, Protocol::Http1, self.names.clone());
        self.open.set(self.open.get() + 1);
        let conn = match self.connect(cluster, books).await {
            Ok(link) => ClientConn::new(link, Arc::clone(&self.options.borrow())),
            Err((failure, _)) => return Err(failure.with(Some(body))),
        };
        self.exchange(conn, cluster, host, head, body, progress).await.map_err(|error| error.error)
    }

    async fn exchange(
        &self,
        conn: Conn,
        cluster: &Arc<Cluster>,
        host: &Arc<Host>,
        head: &RequestHead,
        body: Body,
        progress: Option<&Progress>,
    ) -> Result<Exchange, Failed> {
        let books = Rc::clone(conn.io().books());
        let request = match Active::new(cluster, host, Sharing::Alone, self.priority, ()) {
            Ok(request) => request,
            Err((failure, ())) => {
                self.hand_over(conn);
                return Err(Failed { error: failure.with(Some(body)), may_repeat: false });
            }
        };
        books.begin();
        if let Some(progress) = progress {
            progress.ready(Version::Http11, books.local_address());
        }
        let Some(reuse) = self.me.upgrade() else {
            return Err(Failed { error: Failure::TERMINATED.with(Some(body)), may_repeat: false });
        };
        match conn.exchange(head, body, reuse).await {
            Ok((head, body)) => Ok(Exchange {
                protocol: head.version,
                head,
                body: request.follow(body),
                upstream_local_address: books.local_address(),
                tls: books.tls(),
            }),
            Err(error) => {
                let may_repeat = !error.response_started && error.unsent_body.is_some();
                let error = UpstreamError::from_exchange(error, cluster);
                request.end(error.kind.end());
                Err(Failed { error, may_repeat })
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
                let outdated = std::mem::take(&mut *self.idle.borrow_mut());
                drop(outdated);
            }
            *self.cluster.borrow_mut() = Arc::clone(cluster);
        }
    }

    /// The connection used last that is still of use.
    fn take_idle(&self) -> Option<Conn> {
        loop {
            // The borrow ends before a dead connection is dropped.
            let Idle { mut conn, .. } = self.idle.borrow_mut().pop()?;
            if conn.is_alive() {
                return Some(conn);
            }
        }
    }

    async fn wait(&self, cluster: &Arc<Cluster>, host: &Arc<Host>) -> Result<Conn, Failure> {
        let pending = Pending::new(cluster, host, self.priority)?;
        let turn = self.waiters.join();
        self.connect_for_waiters();
        let given = turn.await;
        pending.done();
        given.unwrap_or(Err(Failure::TERMINATED))
    }

    /// Makes as many connections as there are waiters without one, within the limits.
    fn connect_for_waiters(&self) {
        let Some(me) = self.me.upgrade() else { return };
        let cluster = Arc::clone(&self.cluster.borrow());
        let waiting = self.waiters.len();
        while self.connecting.get() < waiting {
            let room = room(&cluster, &self.host.borrow(), self.priority, self.open.get());
            let Some(permit) = room else { return };
            let books = Books::open(
                &cluster,
                &self.host.borrow(),
                self.owner(),
                permit,
                Protocol::Http1,
                self.names.clone(),
            );
            self.open.set(self.open.get() + 1);
            self.connecting.set(self.connecting.get() + 1);
            let (me, cluster) = (Rc::clone(&me), Arc::clone(&cluster));
            self.shared.spawn(async move {
                let connected = me.connect(&cluster, books).await;
                me.connecting.set(me.connecting.get() - 1);
                match connected {
                    Ok(link) => {
                        let options = Arc::clone(&me.options.borrow());
                        me.hand_over(ClientConn::new(link, options));
                    }
                    Err((failure, _books)) => {
                        // Envoy: none of those that wait is better off with this host.
                        let ejected = me.waiters.give_all(|| Err(failure.clone()));
                        let stats = &me.cluster.borrow().stats;
                        stats.upstream_rq_pending_failure_eject.add(ejected as u64);
                    }
                }
            });
        }
    }

    async fn connect(&self, cluster: &Cluster, books: OpenBooks) -> Result<Link, (Failure, OpenBooks)> {
        let link = Link::connect(books).await?;
        if self.shared.agreed(cluster, link.books().host_id(), link.is_http2()) == Some(Version::Http2) {
            return Err((Failure::OTHER_PROTOCOL, link.into_books()));
        }
        Ok(link)
    }

    /// Gives a connection to the first waiter, or keeps it.
    fn hand_over(&self, conn: Conn) {
        if let Some(Ok(conn)) = self.waiters.give(Ok(conn)) {
            if self.host.borrow().is_retired() {
                return;
            }
            let since = self.shared.tick();
            self.idle.borrow_mut().push(Idle { conn, since });
        }
    }

    fn owner(&self) -> Weak<dyn Owner> {
        let me: Weak<Self> = Weak::clone(&self.me);
        me
    }

    /// Closes idle connections that are dead, old, idle for too long or of a host that left. `now` is the tick.
    /// Returns whether the pool is of no more use.
    pub(super) fn sweep(&self, now: u64) -> bool {
        let cluster = Arc::clone(&self.cluster.borrow());
        let (config, stats) = (&cluster.config, &cluster.stats);
        let retired = self.host.borrow().is_retired();
        let idle = std::mem::take(&mut *self.idle.borrow_mut());
        let mut kept = Vec::with_capacity(idle.len());
        for mut entry in idle {
            let age = entry.conn.io().books().age();
            if retired || !entry.conn.is_alive() {
                continue;
            }
            if config
                .idle_timeout
                .is_some_and(|limit| now.saturating_sub(entry.since) >= limit.as_secs().max(1))
            {
                stats.upstream_cx_idle_timeout.inc();
            } else if config.max_connection_duration.is_some_and(|limit| age >= limit) {
                stats.upstream_cx_max_duration_reached.inc();
            } else {
                kept.push(entry);
            }
        }
        // Dropping connections may have made some for waiters; those come first in the stack.
        let mut idle = self.idle.borrow_mut();
        kept.append(&mut idle);
        *idle = kept;
        self.open.get() == 0
    }
}

impl Reuse<Link> for Pool {
    fn put(&self, conn: Conn) {
        let books = Rc::clone(conn.io().books());
        books.end();
        let cluster = Arc::clone(&self.cluster.borrow());
        let (config, stats) = (&cluster.config, &cluster.stats);
        if config.max_requests_per_connection.is_some_and(|limit| books.requests() >= limit.into()) {
            stats.upstream_cx_max_requests.inc();
        } else if config.max_connection_duration.is_some_and(|limit| books.age() >= limit) {
            stats.upstream_cx_max_duration_reached.inc();
        } else {
            self.hand_over(conn);
        }
    }

    fn discard(&self, conn: Conn) {
        conn.io().books().end();
        self.cluster.borrow().stats.upstream_cx_close_notify.inc();
    }
}

impl Owner for Pool {
    fn closed(&self) {
        self.open.set(self.open.get().saturating_sub(1));
        self.connect_for_waiters();
    }
}

/// A failed exchange, and whether the request may be repeated as far as the connection is concerned.
struct Failed {
    error: UpstreamError,
    may_repeat: bool,
}

impl Failure {
    const TERMINATED: Self = Self { kind: super::UpstreamErrorKind::Terminated, transport: None };
}
