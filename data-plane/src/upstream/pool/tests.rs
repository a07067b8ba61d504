//! Pools over real loopback sockets, against a host that does what the test says.

mod http2;

use super::*;
use crate::codec::Frame;
use crate::stats::Registry;
use crate::upstream::dns::{Answer, Resolve, ResolveError, SystemResolver};
use crate::upstream::limits::Priority;
use crate::upstream::manager::{Manager, Origin};
use crate::upstream::pick::PickRequest;
use crate::upstream::testing::{assignment, cluster, dns_options, eds, endpoint, fixed, group};
use bytes::Bytes;
use data_plane_core::config::{self, CircuitThresholds, Discovery, DnsOptions, EndpointAddress};
use data_plane_core::headers::{HeaderList, Scheme};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use std::net::IpAddr;
use std::sync::atomic::Ordering::Relaxed;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;
use tokio::time::Instant;

/// How long anything may take; ample for a loaded machine.
const PATIENCE: Duration = Duration::from_secs(20);

struct Bench {
    manager: Manager,
    local: Local,
    registry: Registry,
    host: TcpListener,
}

/// Runs `test` with pools whose one cluster, `a`, has one host.
fn with_host<F: Future<Output = ()>>(
    adapt: impl FnOnce(&mut config::Cluster),
    test: impl FnOnce(Rc<Bench>) -> F,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let host = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let registry = Registry::new(1);
        let manager = Manager::new(&registry, Arc::new(SystemResolver::new()));
        let local = Local::new(manager.clusters());
        let mut config = fixed("a", &[host.local_addr().unwrap()]);
        adapt(&mut config);
        manager.set_cluster(Arc::new(config), Origin::Static);
        let keeper = local.clone();
        tokio::task::spawn_local(async move { keeper.maintain().await });
        let bench = Rc::new(Bench { manager, local, registry, host });
        tokio::time::timeout(PATIENCE, test(bench)).await.expect("the test ends in time");
    });
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn head(method: &str, path: &str) -> RequestHead {
    RequestHead {
        method: method.to_owned().into(),
        path: path.into(),
        authority: "web.test".into(),
        scheme: Scheme::Http,
        version: Version::Http11,
        headers: HeaderList::default(),
    }
}

impl Bench {
    fn cluster(&self) -> Arc<Cluster> {
        Arc::clone(self.manager.clusters().load().get("a").unwrap())
    }

    async fn send(&self, method: &str, path: &str, body: Body) -> Result<Exchange, UpstreamError> {
        let cluster = self.cluster();
        let host = cluster.pick(&PickRequest::random(0)).expect("a host");
        self.local.send(&cluster, &host, &head(method, path), body).await
    }

    fn start(self: &Rc<Self>, method: &'static str, path: &'static str) -> Sent {
        let bench = Rc::clone(self);
        tokio::task::spawn_local(async move { bench.send(method, path, Body::Empty).await })
    }

    async fn accept(&self) -> Peer {
        Peer(self.host.accept().await.unwrap().0)
    }

    fn value(&self, name: &str) -> u64 {
        self.registry.value(&format!("cluster.a.{name}")).unwrap_or(0)
    }

    /// Everything that is counted up and down is down.
    async fn is_quiet(&self) {
        let host = self.cluster().pick(&PickRequest::random(0));
        eventually("nothing is left over", || {
            let usage = &self.cluster().usage;
            use super::super::limits::Limit::{Connections, Pending, Requests};
            let host_active = host
                .as_ref()
                .map_or(0, |h| h.stats().cx_active.load(Relaxed) + h.stats().rq_active.load(Relaxed));
            ["upstream_cx_active", "upstream_rq_active", "upstream_rq_pending_active"]
                .iter()
                .all(|name| self.value(name) == 0)
                && [Connections, Pending, Requests]
                    .iter()
                    .all(|limit| usage.used(Priority::Default, *limit) == 0)
                && host_active == 0
        })
        .await;
    }
}

type Sent = tokio::task::JoinHandle<Result<Exchange, UpstreamError>>;

/// The host's side of a connection.
struct Peer(TcpStream);

impl Peer {
    /// The path of the next request.
    async fn request(&mut self) -> String {
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"\r\n\r\n") {
            match self.0.read_u8().await {
                Ok(byte) => bytes.push(byte),
                Err(_) => return String::new(),
            }
        }
        let text = String::from_utf8(bytes).unwrap();
        text.split(' ').nth(1).unwrap_or_default().to_owned()
    }

    async fn answer(&mut self, response: &str) {
        self.0.write_all(response.as_bytes()).await.unwrap();
    }

    async fn ok(&mut self) {
        self.answer("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    }

    async fn is_closed(&mut self) -> bool {
        !matches!(self.0.read(&mut [0; 64]).await, Ok(n) if n > 0)
    }
}

async fn text(mut exchange: Exchange) -> Result<String, BodyError> {
    let mut out = Vec::new();
    while let Some(frame) = exchange.body.frame().await {
        if let Frame::Data(bytes) = frame? {
            out.extend_from_slice(&bytes);
        }
    }
    Ok(String::from_utf8(out).unwrap())
}

fn limits(adapt: impl FnOnce(&mut CircuitThresholds)) -> [CircuitThresholds; 2] {
    let mut limits = CircuitThresholds::default();
    adapt(&mut limits);
    [limits, CircuitThresholds::default()]
}

#[test]
fn a_connection_takes_the_next_request_when_its_response_is_over() {
    with_host(
        |_| {},
        |bench| async move {
            let first = bench.start("GET", "/1");
            let mut peer = bench.accept().await;
            assert_eq!(peer.request().await, "/1");
            peer.ok().await;
            let exchange = first.await.unwrap().unwrap();
            assert_eq!(exchange.head.status, 200);
            assert_eq!(exchange.upstream_local_address, Some(peer.0.peer_addr().unwrap()));
            assert_eq!(text(exchange).await.unwrap(), "ok");

            let second = bench.start("POST", "/2");
            assert_eq!(peer.request().await, "/2");
            peer.ok().await;
            text(second.await.unwrap().unwrap()).await.unwrap();
            assert_eq!(bench.value("upstream_cx_total"), 1);
            assert_eq!(bench.value("upstream_cx_http1_total"), 1);
            assert_eq!(bench.value("upstream_cx_active"), 1);
            assert_eq!(bench.value("upstream_rq_total"), 2);
            assert_eq!(bench.value("upstream_rq_pending_total"), 1, "only the first waited");
            assert_eq!(bench.value("upstream_rq_active"), 0);
            let received = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".len() as u64 * 2;
            eventually("bytes are counted", || bench.value("upstream_cx_rx_bytes_total") == received).await;
        },
    );
}

#[test]
fn the_connection_used_last_is_used_next() {
    with_host(
        |_| {},
        |bench| async move {
            let (one, two) = (bench.start("GET", "/1"), bench.start("GET", "/2"));
            let (mut first, mut second) = (bench.accept().await, bench.accept().await);
            first.request().await;
            second.request().await;
            first.ok().await;
            let done = tokio::select! { done = one => done, done = two => done };
            text(done.unwrap().unwrap()).await.unwrap();
            second.ok().await;
            eventually("both are idle", || bench.value("upstream_rq_active") == 0).await;

            let third = bench.start("GET", "/3");
            assert_eq!(second.request().await, "/3", "the stack's top, not its bottom");
            second.ok().await;
            text(third.await.unwrap().unwrap()).await.unwrap();
        },
    );
}

#[test]
fn a_request_waits_for_a_connection_where_no_more_may_be_made() {
    let one = |config: &mut config::Cluster| config.circuit_breakers = limits(|l| l.max_connections = 1);
    with_host(one, |bench| async move {
        let first = bench.start("GET", "/1");
        let mut peer = bench.accept().await;
        peer.request().await;
        let second = bench.start("GET", "/2");
        eventually("the second waits", || bench.value("upstream_rq_pending_active") == 1).await;
        assert_eq!(bench.value("upstream_cx_overflow"), 1);
        bench.manager.refresh_stats();
        assert_eq!(bench.value("circuit_breakers.default.cx_open"), 1);
        peer.ok().await;
        text(first.await.unwrap().unwrap()).await.unwrap();
        assert_eq!(peer.request().await, "/2", "on the connection that became free");
        peer.ok().await;
        text(second.await.unwrap().unwrap()).await.unwrap();
        assert_eq!(bench.value("upstream_cx_total"), 1);
    });
}

#[test]
fn a_connection_that_ends_makes_room_for_those_that_wait() {
    let one = |config: &mut config::Cluster| config.circuit_breakers = limits(|l| l.max_connections = 1);
    with_host(one, |bench| async move {
        let first = bench.start("GET", "/1");
        let mut peer = bench.accept().await;
        peer.request().await;
        let second = bench.start("GET", "/2");
        eventually("the second waits", || bench.value("upstream_rq_pending_active") == 1).await;
        drop(peer);
        assert_eq!(first.await.unwrap().err().unwrap().kind, UpstreamErrorKind::Terminated);
        let mut peer = bench.accept().await;
        assert_eq!(peer.request().await, "/2");
        peer.ok().await;
        text(second.await.unwrap().unwrap()).await.unwrap();
    });
}

#[test]
fn more_waiting_requests_than_allowed_overflow() {
    let tight = |config: &mut config::Cluster| {
        config.circuit_breakers = limits(|l| {
            l.max_connections = 1;
            l.max_pending_requests = 1;
        });
    };
    with_host(tight, |bench| async move {
        let first = bench.start("GET", "/1");
        let mut peer = bench.accept().await;
        peer.request().await;
        let second = bench.start("GET", "/2");
        eventually("the second waits", || bench.value("upstream_rq_pending_active") == 1).await;
        let error = bench.send("POST", "/3", Body::Full(Bytes::from_static(b"x"))).await.err().unwrap();
        assert_eq!(error.kind, UpstreamErrorKind::Overflow);
        assert!(matches!(error.body, Some(Body::Full(_))), "the body comes back for a retry elsewhere");
        assert_eq!(bench.value("upstream_rq_pending_overflow"), 1);
        second.abort();
        assert!(second.await.is_err());
        assert_eq!(bench.value("upstream_rq_cancelled"), 1);
        first.abort();
        assert!(peer.is_closed().await, "a cancelled request closes its connection");
        assert_eq!(bench.value("upstream_rq_tx_reset"), 0, "as Envoy: only streams are reset");
        assert_eq!(bench.value("upstream_cx_destroy_local_with_active_rq"), 1);
        bench.is_quiet().await;
    });
}

#[test]
fn more_requests_at_a_time_than_allowed_overflow_and_keep_the_connection() {
    let tight = |config: &mut config::Cluster| config.circuit_breakers = limits(|l| l.max_requests = 1);
    with_host(tight, |bench| async move {
        let first = bench.start("GET", "/1");
        let mut peer = bench.accept().await;
        peer.request().await;
        let second = bench.start("GET", "/2");
        let mut other = bench.accept().await;
        assert_eq!(second.await.unwrap().err().unwrap().kind, UpstreamErrorKind::Overflow);
        peer.ok().await;
        text(first.await.unwrap().unwrap()).await.unwrap();
        assert_eq!(bench.value("upstream_cx_active"), 2, "the connection made for the second is kept");
        let third = bench.start("GET", "/3");
        let served = tokio::select! { path = peer.request() => path, path = other.request() => path };
        assert_eq!(served, "/3");
        third.abort();
    });
}

#[test]
fn a_host_that_refuses_fails_every_request_that_waits() {
    with_host(
        |_| {},
        |bench| async move {
            let cluster = bench.cluster();
            let host = cluster.pick(&PickRequest::random(0)).unwrap();
            let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            bench.manager.set_cluster(Arc::new(fixed("a", &[free])), Origin::Static);
            let errors = tokio::join!(
                bench.send("GET", "/1", Body::Empty),
                bench.send("POST", "/2", Body::Full(Bytes::from_static(b"x")))
            );
            for error in [errors.0.err().unwrap(), errors.1.err().unwrap()] {
                assert_eq!(error.kind, UpstreamErrorKind::ConnectFailure);
                assert_eq!(
                    error.transport_failure.as_deref(),
                    Some("delayed connect error: Connection refused")
                );
                assert!(error.body.is_some());
            }
            assert!(bench.value("upstream_cx_connect_fail") >= 1);
            assert_eq!(bench.value("upstream_rq_pending_failure_eject"), 2);
            assert_eq!(bench.value("upstream_cx_destroy"), 0, "never established");
            assert_eq!(bench.value("upstream_rq_total"), 0, "never sent");
            assert!(host.is_retired());
            bench.is_quiet().await;
        },
    );
}

#[test]
fn a_host_that_does_not_accept_fails_after_the_connect_timeout() {
    // Once the queue of a socket that nobody accepts from is full, the kernel answers no more.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let fill = || std::net::TcpStream::connect_timeout(&address, Duration::from_millis(50));
    let queued: Vec<_> = std::iter::from_fn(|| fill().ok()).take(64).collect();
    assert!(queued.len() < 64, "the queue fills up");

    let slow = move |config: &mut config::Cluster| {
        config.connect_timeout = Duration::from_millis(20);
        config.discovery = Discovery::Static(assignment(&[address]));
    };
    with_host(slow, |bench| async move {
        let error = bench.send("GET", "/", Body::Empty).await.err().unwrap();
        assert_eq!(error.kind, UpstreamErrorKind::ConnectTimeout);
        assert_eq!(bench.value("upstream_cx_connect_timeout"), 1);
        assert_eq!(bench.value("upstream_cx_connect_fail"), 1);
        bench.is_quiet().await;
    });
}

#[test]
fn a_cancelled_request_leaves_its_connection_being_made_to_others() {
    with_host(
        |_| {},
        |bench| async move {
            let mut first = Box::pin(bench.send("GET", "/1", Body::Empty));
            assert!((&mut first).now_or_never().is_none(), "it connects");
            assert_eq!(bench.value("upstream_rq_pending_active"), 1);
            drop(first);
            assert_eq!(bench.value("upstream_rq_cancelled"), 1);
            let mut peer = bench.accept().await;
            let second = bench.start("GET", "/2");
            assert_eq!(peer.request().await, "/2");
            second.abort();
            assert!(peer.is_closed().await);
            bench.is_quiet().await;
        },
    );
}

#[test]
fn a_host_that_closes_within_the_head_ends_the_request() {
    with_host(
        |_| {},
        |bench| async move {
            let sent = bench.start("GET", "/1");
            let mut peer = bench.accept().await;
            peer.request().await;
            peer.answer("HTTP/1.1 200 OK\r\ncont").await;
            drop(peer);
            // As Envoy: what had begun is broken off, which is against the protocol.
            let kind = sent.await.unwrap().err().unwrap().kind;
            assert_eq!(kind, UpstreamErrorKind::Protocol("closed within a response's head"));
            assert_eq!(bench.value("upstream_cx_destroy_remote_with_active_rq"), 1);
            assert_eq!(bench.value("upstream_cx_total"), 1, "not repeated: a response had begun");
            bench.is_quiet().await;
        },
    );
}

#[test]
fn a_host_that_talks_nonsense_is_a_protocol_error() {
    with_host(
        |_| {},
        |bench| async move {
            let sent = bench.start("GET", "/1");
            let mut peer = bench.accept().await;
            peer.request().await;
            peer.answer("SSH-2.0-nonsense\r\n\r\n").await;
            let error = sent.await.unwrap().err().unwrap();
            assert!(matches!(error.kind, UpstreamErrorKind::Protocol(_)), "{error:?}");
            assert_eq!(bench.value("upstream_cx_protocol_error"), 1);
            bench.is_quiet().await;
        },
    );
}

#[test]
fn a_body_that_breaks_off_is_an_error_and_leaves_nothing_behind() {
    with_host(
        |_| {},
        |bench| async move {
            let sent = bench.start("GET", "/1");
            let mut peer = bench.accept().await;
            peer.request().await;
            peer.answer("HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\nbeginning").await;
            let exchange = sent.await.unwrap().unwrap();
            assert_eq!(bench.value("upstream_rq_active"), 1, "active until its body is over");
            drop(peer);
            assert_eq!(text(exchange).await, Err(BodyError::Closed));
            bench.is_quiet().await;
        },
    );
}

#[test]
fn a_body_that_nobody_wants_closes_the_connection() {
    with_host(
        |_| {},
        |bench| async move {
            let sent = bench.start("GET", "/1");
            let mut peer = bench.accept().await;
            peer.request().await;
            peer.answer("HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\nbeginning").await;
            drop(sent.await.unwrap().unwrap());
            assert!(peer.is_closed().await);
            assert_eq!(bench.value("upstream_cx_destroy_local_with_active_rq"), 1);
            bench.is_quiet().await;
        },
    );
}

/// One request, so that a connection is idle.
async fn warmed(bench: &Rc<Bench>) -> Peer {
    let sent = bench.start("GET", "/warm");
    let mut peer = bench.accept().await;
    peer.request().await;
    peer.ok().await;
    text(sent.await.unwrap().unwrap()).await.unwrap();
    peer
}

#[test]
fn a_get_on_a_connection_that_was_just_closed_goes_on_a_fresh_one() {
    with_host(
        |_| {},
        |bench| async move {
            let mut stale = warmed(&bench).await;
            let sent = bench.start("GET", "/2");
            assert_eq!(stale.request().await, "/2");
            drop(stale);
            let mut fresh = bench.accept().await;
            assert_eq!(fresh.request().await, "/2");
            fresh.ok().await;
            assert_eq!(sent.await.unwrap().unwrap().head.status, 200);
        },
    );
}

#[test]
fn a_post_that_may_have_been_processed_is_not_repeated() {
    with_host(
        |_| {},
        |bench| async move {
            let mut stale = warmed(&bench).await;
            let sent = bench.start("POST", "/2");
            assert_eq!(stale.request().await, "/2");
            drop(stale);
            assert_eq!(sent.await.unwrap().err().unwrap().kind, UpstreamErrorKind::Terminated);
            assert_eq!(bench.value("upstream_cx_total"), 1);
            bench.is_quiet().await;
        },
    );
}

#[test]
fn a_request_is_repeated_once_only() {
    with_host(
        |_| {},
        |bench| async move {
            let mut stale = warmed(&bench).await;
            let sent = bench.start("GET", "/2");
            stale.request().await;
            drop(stale);
            let mut fresh = bench.accept().await;
            fresh.request().await;
            drop(fresh);
            assert_eq!(sent.await.unwrap().err().unwrap().kind, UpstreamErrorKind::Terminated);
            bench.is_quiet().await;
        },
    );
}

#[test]
fn a_connection_closed_while_idle_is_noticed_before_it_is_used() {
    with_host(
        |_| {},
        |bench| async move {
            let stale = warmed(&bench).await;
            drop(stale);
            // Loopback delivers the close before anything sent later; the reactor has seen it after a turn or two.
            eventually("the close arrives", || {
                bench.local.sweep();
                bench.value("upstream_cx_active") == 0
            })
            .await;
            assert_eq!(bench.value("upstream_cx_destroy_remote"), 1);
            assert_eq!(bench.value("upstream_cx_destroy_with_active_rq"), 0);
            let sent = bench.start("POST", "/2");
            let mut fresh = bench.accept().await;
            assert_eq!(fresh.request().await, "/2", "a POST that could not have been repeated");
            fresh.ok().await;
            text(sent.await.unwrap().unwrap()).await.unwrap();
        },
    );
}

#[test]
fn a_response_that_closes_the_connection_does_not_count_as_a_broken_request() {
    with_host(
        |_| {},
        |bench| async move {
            let sent = bench.start("GET", "/1");
            let mut peer = bench.accept().await;
            peer.request().await;
            peer.answer("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok").await;
            text(sent.await.unwrap().unwrap()).await.unwrap();
            assert!(peer.is_closed().await);
            assert_eq!(bench.value("upstream_cx_close_notify"), 1);
            assert_eq!(bench.value("upstream_cx_destroy_with_active_rq"), 0);
            bench.is_quiet().await;
        },
    );
}

#[test]
fn a_connection_ends_after_as_many_requests_as_it_may_carry() {
    with_host(
        |config| config.max_requests_per_connection = Some(1),
        |bench| async move {
            let mut peer = warmed(&bench).await;
            assert!(peer.is_closed().await);
            assert_eq!(bench.value("upstream_cx_max_requests"), 1);
            bench.is_quiet().await;
            warmed(&bench).await;
            assert_eq!(bench.value("upstream_cx_total"), 2);
        },
    );
}

#[test]
fn an_idle_connection_closes_after_the_idle_timeout() {
    with_host(
        |config| config.idle_timeout = Some(Duration::from_secs(30)),
        |bench| async move {
            let mut peer = warmed(&bench).await;
            bench.local.0.shared.tick.set(29);
            bench.local.sweep();
            assert_eq!(bench.value("upstream_cx_active"), 1);
            bench.local.0.shared.tick.set(30);
            bench.local.sweep();
            assert!(peer.is_closed().await);
            assert_eq!(bench.value("upstream_cx_idle_timeout"), 1);
            bench.is_quiet().await;
        },
    );
}

#[test]
fn an_old_connection_closes_once_it_is_idle() {
    with_host(
        |config| config.max_connection_duration = Some(Duration::from_millis(1)),
        |bench| async move {
            let sent = bench.start("GET", "/1");
            let mut peer = bench.accept().await;
            peer.request().await;
            tokio::time::sleep(Duration::from_millis(2)).await;
            peer.ok().await;
            text(sent.await.unwrap().unwrap()).await.unwrap();
            assert!(peer.is_closed().await);
            assert_eq!(bench.value("upstream_cx_max_duration_reached"), 1);
            bench.is_quiet().await;
        },
    );
}

#[test]
fn a_host_that_leaves_finishes_what_it_has_and_keeps_no_connection() {
    with_host(
        |config| *config = eds("a"),
        |bench| async move {
            let address = bench.host.local_addr().unwrap();
            bench.manager.set_assignment("a", Some(Arc::new(assignment(&[address]))));
            let (one, two) = (bench.start("GET", "/1"), bench.start("GET", "/2"));
            let (mut idle, mut busy) = (bench.accept().await, bench.accept().await);
            idle.request().await;
            busy.request().await;
            idle.ok().await;
            eventually("one is idle", || bench.value("upstream_rq_active") == 1).await;

            bench.manager.set_assignment("a", Some(Arc::new(assignment(&[]))));
            assert!(idle.is_closed().await, "idle connections close at once");
            busy.ok().await;
            for sent in [one, two] {
                assert_eq!(text(sent.await.unwrap().unwrap()).await.unwrap(), "ok");
            }
            assert!(busy.is_closed().await, "and others when they are done");
            bench.is_quiet().await;
            bench.local.sweep();
            assert!(bench.local.0.h1.borrow().is_empty(), "the pool is gone");
        },
    );
}

#[test]
fn a_name_whose_address_moves_keeps_its_connections_and_makes_new_ones_to_the_new_address() {
    with_host(
        |_| {},
        |bench| async move {
            let endpoint =
                endpoint(EndpointAddress::Name("127.0.0.1".into(), bench.host.local_addr().unwrap().port()));
            let options = DnsOptions { refresh_rate: Duration::from_millis(1), ..dns_options() };
            let moving = Arc::new(Moving(Mutex::new("127.0.0.1".parse().unwrap())));
            let resolver: Arc<dyn Resolve> = Arc::<Moving>::clone(&moving);
            let manager = Manager::new(&bench.registry, resolver);
            let logical = cluster("l", Discovery::LogicalDns(group(vec![endpoint]), options));
            manager.set_cluster(Arc::new(logical), Origin::Static);
            let clusters = manager.clusters();
            eventually("the name resolves", || clusters.load().get("l").is_some()).await;
            let local = Local::new(clusters.clone());
            let start = |path| {
                let (local, cluster) = (local.clone(), Arc::clone(clusters.load().get("l").unwrap()));
                let host = cluster.pick(&PickRequest::random(0)).unwrap();
                tokio::task::spawn_local(async move {
                    local.send(&cluster, &host, &head("GET", path), Body::Empty).await
                })
            };
            let sent = start("/1");
            let mut old = bench.accept().await;
            old.request().await;

            let port = bench.host.local_addr().unwrap().port();
            let elsewhere = TcpListener::bind(("127.0.0.2", port)).await.unwrap();
            *moving.0.lock() = "127.0.0.2".parse().unwrap();
            let moved = elsewhere.local_addr().unwrap();
            let address = || clusters.load().get("l").unwrap().pick(&PickRequest::random(0)).unwrap().address;
            eventually("the address moves", || address() == moved).await;
            let second = start("/2");
            let mut new = Peer(elsewhere.accept().await.unwrap().0);
            assert_eq!(new.request().await, "/2");
            new.ok().await;
            text(second.await.unwrap().unwrap()).await.unwrap();
            old.ok().await;
            text(sent.await.unwrap().unwrap()).await.unwrap();
            let third = start("/3");
            assert_eq!(old.request().await, "/3", "the old connection goes on");
            third.abort();
        },
    );
}

/// Resolves every name to one address, which the test changes.
struct Moving(Mutex<IpAddr>);

impl Resolve for Moving {
    fn resolve<'a>(&'a self, _: &'a str, _: &'a DnsOptions) -> BoxFuture<'a, Result<Answer, ResolveError>> {
        let addresses = vec![*self.0.lock()];
        async move { Ok(Answer { addresses, ttl: None }) }.boxed()
    }
}

#[test]
fn a_removed_cluster_finishes_its_requests() {
    with_host(
        |_| {},
        |bench| async move {
            let cluster = bench.cluster();
            let sent = bench.start("GET", "/1");
            let mut peer = bench.accept().await;
            peer.request().await;
            bench.manager.remove_cluster("a");
            peer.ok().await;
            assert_eq!(text(sent.await.unwrap().unwrap()).await.unwrap(), "ok");
            assert!(peer.is_closed().await);
            assert_eq!(cluster.stats.upstream_cx_active.value(), 0);
        },
    );
}

#[test]
fn what_alpn_yielded_is_forgotten_with_the_last_pool_of_a_host() {
    with_host(
        |_| {},
        |bench| async move {
            let peer = warmed(&bench).await;
            let auto = {
                let other = config::Cluster { protocol: UpstreamProtocol::Auto, ..fixed("b", &[]) };
                bench.manager.set_cluster(Arc::new(other), Origin::Static);
                Arc::clone(bench.manager.clusters().load().get("b").unwrap())
            };
            let pooled = bench.cluster().pick(&PickRequest::random(0)).unwrap().id();
            let shared = &bench.local.0.shared;
            for host in pooled..pooled + 100 {
                shared.agreed(&auto, host, true);
            }
            bench.local.sweep();
            let left: Vec<u64> = shared.agreed.borrow().keys().copied().collect();
            assert_eq!(left, [pooled], "hosts without a pool are forgotten, the others are not");
            drop(peer);
            eventually("the pool goes, and with it what its host agreed to", || {
                bench.local.sweep();
                shared.agreed.borrow().is_empty()
            })
            .await;
        },
    );
}

#[test]
fn limits_are_shared_by_workers_but_each_may_hold_one_connection() {
    let one = |config: &mut config::Cluster| config.circuit_breakers = limits(|l| l.max_connections = 1);
    with_host(one, |bench| async move {
        let _busy = warmed(&bench).await;
        let other = Local::new(bench.manager.clusters());
        let cluster = bench.cluster();
        let host = cluster.pick(&PickRequest::random(0)).unwrap();
        let sent = {
            let (other, cluster) = (other.clone(), Arc::clone(&cluster));
            tokio::task::spawn_local(async move {
                other.send(&cluster, &host, &head("GET", "/other"), Body::Empty).await
            })
        };
        let mut peer = bench.accept().await;
        assert_eq!(peer.request().await, "/other");
        peer.ok().await;
        text(sent.await.unwrap().unwrap()).await.unwrap();
        assert_eq!(bench.value("upstream_cx_active"), 2);
        assert_eq!(bench.value("upstream_cx_overflow"), 1);
    });
}
