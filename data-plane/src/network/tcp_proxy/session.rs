//! One connection's way through a TCP proxy: its host, its bytes, its end, its log.

use super::Proxy;
use crate::http::{Connection, Worker};
use crate::network::relay::{Fault, Way};
use crate::task::{Phase, Shutdown};
use crate::transport::{Stream, socket};
use crate::upstream::{Cluster, Host, Outcome, PickRequest, TcpConnection, TcpError, UpstreamErrorKind};
use data_plane_core::headers::{
    ByteCounts, Downstream, LogType, Record, ResponseFlags, Timing, Tls, Upstream,
};
use data_plane_core::proxy_protocol::Ends;
use data_plane_core::route::hash_address;
use std::future::{Future, pending, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
use std::time::{Duration, SystemTime};
use tokio::time::Instant;

/// Further picks when one yields a host that could not be connected before.
const OTHER_HOSTS: u32 = 3;

/// What is known of the connection; counted and logged when dropped, however that comes.
pub(super) struct Session {
    proxy: Arc<Proxy>,
    worker: Rc<Worker>,
    facts: Downstream,
    filter_chain: Arc<str>,
    begun: Instant,
    start: SystemTime,
    stream_id: u128,
    random: u64,
    flags: ResponseFlags,
    attempts: u32,
    cluster: Option<Arc<Cluster>>,
    host: Option<Arc<Host>>,
    transport_failure: Option<Box<str>>,
    local: Option<SocketAddr>,
    tls: Option<Arc<Tls>>,
    connect: Option<Duration>,
    /// From the client to the host, and back.
    up: Way,
    down: Way,
    /// Bytes held as the gauges show them, up and down.
    shown: (usize, usize),
    /// Pauses of reading from the client that are counted, and whether the last one is over.
    paused: (u64, bool),
}

/// Why a session ends while bytes flow.
enum End {
    /// Both ways are over.
    Whole,
    Idle,
    /// As [`Fault`], of the side that is the client's.
    Client(io::Error),
    Host(io::Error),
    /// The listener drains.
    Drained,
}

impl Session {
    /// Serves a connection to its end.
    pub(super) async fn serve(proxy: Arc<Proxy>, connection: Connection<Stream>, worker: Rc<Worker>) {
        let (stream_id, random) =
            (u128::from(worker.random()) << 64 | u128::from(worker.random()), worker.random());
        let begun = Instant::now();
        let Connection { mut io, buffer_limit, mut shutdown, .. } = connection;
        let mut session = Self {
            start: worker.wall(begun),
            facts: Downstream {
                remote: connection.peer,
                direct_remote: connection.direct_peer,
                local: connection.local,
                direct_local: connection.direct_local,
                server_name: connection.server_name,
                connection_id: connection.id,
                handshake: connection.handshake,
                transport_failure: None,
                tls: connection.tls,
            },
            filter_chain: connection.filter_chain,
            proxy: Arc::clone(&proxy),
            worker,
            begun,
            stream_id,
            random,
            flags: ResponseFlags::NONE,
            attempts: 0,
            cluster: None,
            host: None,
            transport_failure: None,
            local: None,
            tls: None,
            connect: None,
            up: Way::default(),
            down: Way::default(),
            shown: (0, 0),
            paused: (0, true),
        };
        if proxy.config.log_options.on_start {
            session.log(LogType::TcpConnectionStart);
        }
        let life = proxy.config.max_duration.map(|most| session.jittered(most));
        let draining = shutdown.clone();
        let limit = usize::try_from(buffer_limit).unwrap_or(usize::MAX).max(1);
        let too_long = tokio::select! {
            () = session.carry(&mut io, limit, draining) => false,
            () = until(life.map(|life| begun + life)) => true,
            () = shutdown.reached(Phase::Stopped) => false,
        };
        if too_long {
            session.flags |= ResponseFlags::DURATION_TIMEOUT;
            proxy.stats.max_downstream_connection_duration.inc();
        }
    }

    fn jittered(&self, most: Duration) -> Duration {
        let share = f64::from(self.proxy.config.max_duration_jitter_per_million) / 1e6;
        let drawn = (self.random >> 11) as f64 / (1_u64 << 53) as f64;
        most + most.mul_f64(share * drawn)
    }

    async fn carry(&mut self, client: &mut Stream, limit: usize, draining: Shutdown) {
        let Some(mut host) = self.establish().await else { return };
        if self.proxy.config.log_options.on_connected {
            self.log(LogType::TcpUpstreamConnected);
        }
        match self.relay(client, &mut host, limit, draining).await {
            End::Whole => {}
            End::Idle => self.proxy.stats.idle_timeout.inc(),
            End::Drained => self.proxy.stats.downstream_cx_drain_close.inc(),
            // What failed for one side fails for the other, so that it is not taken for a proper end.
            End::Client(error) if is_reset(&error) => host.reset(),
            End::Client(_) => {}
            End::Host(error) => {
                if is_reset(&error) {
                    self.flags |= ResponseFlags::UPSTREAM_REMOTE_RESET;
                    socket::reset_on_close(client.get_ref().tcp());
                }
            }
        }
    }

    /// A connection to a host, after as many attempts as are allowed.
    async fn establish(&mut self) -> Option<TcpConnection> {
        let proxy = Arc::clone(&self.proxy);
        let mut failed: Vec<u64> = Vec::new();
        loop {
            let target = proxy.config.clusters.pick(self.worker.random());
            let found = target
                .and_then(|target| Some((target, self.worker.clusters.load().get(&target.name).cloned()?)));
            let Some((target, cluster)) = found else {
                self.flags |= ResponseFlags::NO_CLUSTER_FOUND;
                proxy.stats.downstream_cx_no_route.inc();
                return None;
            };
            self.cluster = Some(Arc::clone(&cluster));
            if self.attempts >= proxy.config.max_connect_attempts {
                self.flags |= ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED;
                cluster.stats.upstream_cx_connect_attempts_exceeded.inc();
                return None;
            }
            let tried = |host: &Host| failed.contains(&host.id());
            let picked = cluster.pick(&PickRequest {
                random: self.worker.random(),
                subset: target.metadata_match.as_deref(),
                hash: proxy.config.hash_source_ip.then(|| hash_address(self.facts.remote.ip())),
                avoid: (!failed.is_empty()).then_some(&tried),
                avoid_attempts: OTHER_HOSTS,
                ..PickRequest::default()
            });
            let Some(host) = picked else {
                self.flags |= ResponseFlags::NO_HEALTHY_UPSTREAM;
                return None;
            };
            let now = Instant::now();
            let Ok(admission) = cluster.admit(now) else {
                self.flags |= ResponseFlags::UPSTREAM_OVERFLOW;
                return None;
            };
            let client = Ends { source: self.facts.remote, destination: self.facts.local };
            let upstream = Rc::clone(&self.worker.upstream);
            let TcpError { kind, transport_failure } = match upstream.connect(&cluster, &host, client).await {
                Ok(connection) => {
                    admission.finish(&host, Outcome::Connected, now.elapsed());
                    self.attempts += 1;
                    self.host = Some(host);
                    self.local = connection.local_address();
                    self.tls = connection.tls();
                    self.connect = Some(now.elapsed());
                    return Some(connection);
                }
                Err(error) => error,
            };
            let outcome = match kind {
                UpstreamErrorKind::Overflow => {
                    self.flags |= ResponseFlags::UPSTREAM_OVERFLOW;
                    return None;
                }
                UpstreamErrorKind::ConnectTimeout => Outcome::ConnectTimeout,
                _ => Outcome::ConnectFailure,
            };
            admission.finish(&host, outcome, now.elapsed());
            failed.push(host.id());
            self.attempts += 1;
            self.host = Some(host);
            self.transport_failure = transport_failure;
            self.flags |= ResponseFlags::UPSTREAM_CONNECTION_FAILURE;
        }
    }

    /// Carries bytes both ways until both are over or it must end.
    async fn relay(
        &mut self,
        client: &mut Stream,
        host: &mut TcpConnection,
        limit: usize,
        draining: Shutdown,
    ) -> End {
        let proxy = Arc::clone(&self.proxy);
        let worker = Rc::clone(&self.worker);
        let idle = proxy.config.idle_timeout;
        let interval = proxy.config.log_options.interval;
        let mut activity = Instant::now();
        // Set once and looked at when it is over: bytes cost no timer.
        let mut idle_timer = pin!(tokio::time::sleep(idle.unwrap_or_default()));
        let mut log_timer = pin!(tokio::time::sleep(interval.unwrap_or_default()));
        poll_fn(|cx| {
            let before = self.moved();
            let up = self.up.poll(cx, client, host, &worker, limit);
            let down = self.down.poll(cx, host, client, &worker, limit);
            let moved = self.moved() != before;
            self.show_held();
            match (up, down) {
                (Poll::Ready(Err(Fault::Source(error))), _) | (_, Poll::Ready(Err(Fault::Sink(error)))) => {
                    return Poll::Ready(End::Client(error));
                }
                (Poll::Ready(Err(Fault::Sink(error))), _) | (_, Poll::Ready(Err(Fault::Source(error)))) => {
                    return Poll::Ready(End::Host(error));
                }
                _ if self.up.is_over() && self.down.is_over() => return Poll::Ready(End::Whole),
                _ => {}
            }
            if moved {
                activity = Instant::now();
                let drains = || draining.phase() >= Phase::Draining || proxy.fails.load(Relaxed);
                if proxy.config.check_drain_close && drains() {
                    return Poll::Ready(End::Drained);
                }
            }
            if let Some(interval) = interval {
                while log_timer.as_mut().poll(cx).is_ready() {
                    self.log(LogType::TcpPeriodic);
                    log_timer.as_mut().reset(Instant::now() + interval);
                }
            }
            if let Some(idle) = idle {
                while idle_timer.as_mut().poll(cx).is_ready() {
                    if Instant::now() >= activity + idle {
                        return Poll::Ready(End::Idle);
                    }
                    idle_timer.as_mut().reset(activity + idle);
                }
            }
            Poll::Pending
        })
        .await
    }

    fn moved(&self) -> (u64, u64, u64, u64) {
        (self.up.read, self.up.written, self.down.read, self.down.written)
    }

    /// Brings the gauges of held bytes and the counts of pauses up to date.
    fn show_held(&mut self) {
        let stats = &self.proxy.stats;
        let held = (self.up.held(), self.down.held());
        if held != self.shown {
            stats.downstream_cx_rx_bytes_buffered.add(held.0 as i64 - self.shown.0 as i64);
            stats.downstream_cx_tx_bytes_buffered.add(held.1 as i64 - self.shown.1 as i64);
            self.shown = held;
        }
        let (counted, resumed) = self.paused;
        if self.up.pauses > counted {
            let new = self.up.pauses - counted;
            stats.downstream_flow_control_paused_reading_total.add(new);
            stats.downstream_flow_control_resumed_reading_total.add(new - u64::from(resumed));
            self.paused = (self.up.pauses, false);
        }
        if !self.paused.1 && held.0 == 0 {
            stats.downstream_flow_control_resumed_reading_total.inc();
            self.paused.1 = true;
        }
    }

    fn log(&self, log_type: LogType) {
        if self.proxy.logs.is_empty() {
            return;
        }
        let (up, down) = (&self.up, &self.down);
        let now = self.begun.elapsed();
        let bytes = |received, sent| ByteCounts {
            body_received: received,
            body_sent: sent,
            wire_received: received,
            wire_sent: sent,
            ..ByteCounts::ZERO
        };
        let upstream = self.host.as_ref().map(|host| Upstream {
            address: host.address,
            hostname: &host.hostname,
            local: self.local,
            protocol: None,
            connection_id: None,
            connect: self.connect,
            transport_failure: self.transport_failure.as_deref(),
            tls: self.tls.as_deref(),
        });
        let cluster = self.cluster.as_ref().map(|cluster| &cluster.config);
        let record = Record {
            now,
            timing: Timing { end: (log_type == LogType::TcpConnectionEnd).then_some(now), ..Timing::NONE },
            flags: self.flags,
            downstream_bytes: bytes(up.read, down.written),
            upstream_bytes: bytes(down.read, up.written),
            downstream: Some(&self.facts),
            upstream: upstream.as_ref(),
            cluster: cluster.map(|cluster| &*cluster.name),
            cluster_stat_name: cluster.map(|cluster| &*cluster.stat_name),
            attempts: self.attempts,
            filter_chain: &self.filter_chain,
            stream_id: self.stream_id,
            log_type,
            process: Some(&self.proxy.process),
            ..Record::new(self.start)
        };
        let runtime = |key: &str| self.proxy.runtime.per_million(key);
        self.proxy.logs.append(self.worker.index, &record, self.random, Some(&runtime));
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // What is held is lost with it.
        self.up.forget();
        self.down.forget();
        self.show_held();
        self.log(LogType::TcpConnectionEnd);
    }
}

/// Whether the peer is gone other than by a proper end.
fn is_reset(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}

/// `None`: for ever.
async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => pending().await,
    }
}
