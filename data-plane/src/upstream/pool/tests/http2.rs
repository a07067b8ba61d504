//! HTTP/2 pools over real loopback sockets.

use super::*;
use ::h2::server::{Connection, SendResponse};
use ::h2::{Reason, RecvStream};
use data_plane_core::config::UpstreamProtocol;

fn speak_h2(config: &mut config::Cluster) {
    config.protocol = UpstreamProtocol::Http2;
}

/// The host's side of a connection.
struct Peer2(Connection<TcpStream, Bytes>);

struct Asked {
    path: String,
    _body: RecvStream,
    reply: SendResponse<Bytes>,
}

impl Asked {
    fn ok(mut self) {
        let mut stream = self.reply.send_response(http::Response::new(()), false).unwrap();
        stream.send_data(Bytes::from_static(b"ok"), true).unwrap();
    }
}

impl Peer2 {
    async fn accept(bench: &Bench, max_streams: u32) -> Self {
        let (stream, _) = bench.host.accept().await.unwrap();
        let mut builder = ::h2::server::Builder::new();
        Self(builder.max_concurrent_streams(max_streams).handshake(stream).await.unwrap())
    }

    /// The next request; `None` when the connection is over.
    async fn request(&mut self) -> Option<Asked> {
        let (request, reply) = self.0.accept().await?.ok()?;
        let path = request.uri().path().to_owned();
        Some(Asked { path, _body: request.into_body(), reply })
    }

    /// Drives the connection while `other` runs.
    async fn during<T>(&mut self, other: impl Future<Output = T>) -> T {
        tokio::pin!(other);
        loop {
            tokio::select! {
                biased;
                done = &mut other => return done,
                asked = self.0.accept() => if asked.is_none() { return other.await },
            }
        }
    }

    /// Whether the client ends the connection.
    async fn is_closed(&mut self) -> bool {
        self.request().await.is_none()
    }
}

#[test]
fn requests_share_a_connection() {
    with_host(speak_h2, |bench| async move {
        let (one, two) = (bench.start("GET", "/1"), bench.start("GET", "/2"));
        let mut peer = Peer2::accept(&bench, 100).await;
        let (first, second) = (peer.request().await.unwrap(), peer.request().await.unwrap());
        assert_eq!(bench.value("upstream_rq_active"), 2);
        second.ok();
        first.ok();
        for sent in [one, two] {
            let exchange = peer.during(sent).await.unwrap().unwrap();
            assert_eq!(exchange.protocol, Version::Http2);
            assert_eq!(peer.during(text(exchange)).await.unwrap(), "ok");
        }
        assert_eq!(bench.value("upstream_cx_total"), 1);
        assert_eq!(bench.value("upstream_cx_http2_total"), 1);
        assert_eq!(bench.value("upstream_rq_total"), 2);
        assert_eq!(bench.value("upstream_rq_active"), 0);
        assert_eq!(bench.value("upstream_cx_active"), 1);
    });
}

#[test]
fn a_full_connection_is_joined_by_another() {
    with_host(
        |config| {
            speak_h2(config);
            config.http2.max_concurrent_streams = 1;
        },
        |bench| async move {
            let (one, two) = (bench.start("GET", "/1"), bench.start("GET", "/2"));
            let mut first = Peer2::accept(&bench, 100).await;
            let asked_first = first.request().await.unwrap();
            let mut second = Peer2::accept(&bench, 100).await;
            let asked_second = first.during(second.request()).await.unwrap();
            assert_ne!(asked_first.path, asked_second.path);
            asked_first.ok();
            asked_second.ok();
            for sent in [one, two] {
                let exchange = second.during(first.during(sent)).await.unwrap().unwrap();
                second.during(first.during(text(exchange))).await.unwrap();
            }
            assert_eq!(bench.value("upstream_cx_total"), 2);
        },
    );
}

#[test]
fn a_connection_that_goes_away_finishes_and_takes_nothing_new() {
    with_host(speak_h2, |bench| async move {
        let first = bench.start("GET", "/1");
        let mut old = Peer2::accept(&bench, 100).await;
        let asked = old.request().await.unwrap();
        old.0.graceful_shutdown();
        let gone = || {
            bench.local.sweep();
            bench.value("upstream_cx_close_notify") == 1
        };
        old.during(eventually("GOAWAY arrives", gone)).await;

        let second = bench.start("GET", "/2");
        let mut new = old.during(Peer2::accept(&bench, 100)).await;
        let asked_new = old.during(new.request()).await.unwrap();
        assert_eq!(asked_new.path, "/2");
        asked_new.ok();
        new.during(async { text(second.await.unwrap().unwrap()).await.unwrap() }).await;
        asked.ok();
        let done = async { text(first.await.unwrap().unwrap()).await.unwrap() };
        assert_eq!(old.during(done).await, "ok", "what was under way is finished");
        assert!(old.is_closed().await);
        eventually("one is left", || bench.value("upstream_cx_active") == 1).await;
    });
}

#[test]
fn a_refused_stream_is_sent_again_once_whatever_its_method() {
    with_host(speak_h2, |bench| async move {
        let sent = bench.start("POST", "/1");
        let mut peer = Peer2::accept(&bench, 100).await;
        let mut asked = peer.request().await.unwrap();
        asked.reply.send_reset(Reason::REFUSED_STREAM);
        let again = peer.request().await.unwrap();
        assert_eq!(again.path, "/1");
        again.ok();
        assert_eq!(peer.during(sent).await.unwrap().unwrap().head.status, 200);

        let sent = bench.start("POST", "/2");
        for _ in 0..2 {
            peer.request().await.unwrap().reply.send_reset(Reason::REFUSED_STREAM);
        }
        let error = peer.during(sent).await.unwrap().err().unwrap();
        assert_eq!(error.kind, UpstreamErrorKind::Refused, "the router may know another host");
        assert!(error.body.is_some());
    });
}

#[test]
fn a_reset_stream_fails_alone() {
    with_host(speak_h2, |bench| async move {
        let (one, two) = (bench.start("GET", "/1"), bench.start("GET", "/2"));
        let mut peer = Peer2::accept(&bench, 100).await;
        let (mut first, second) = (peer.request().await.unwrap(), peer.request().await.unwrap());
        first.reply.send_reset(Reason::INTERNAL_ERROR);
        second.ok();
        let results = [peer.during(one).await.unwrap(), peer.during(two).await.unwrap()];
        let (failed, answered): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_err);
        let kinds: Vec<_> = failed.into_iter().map(|e| e.err().unwrap().kind).collect();
        assert_eq!(kinds, [UpstreamErrorKind::Reset(2)]);
        assert_eq!(answered.len(), 1);
        assert_eq!(bench.value("upstream_rq_rx_reset"), 1);
    });
}

#[test]
fn a_cancelled_request_resets_its_stream_and_keeps_the_connection() {
    with_host(speak_h2, |bench| async move {
        let sent = bench.start("GET", "/1");
        let mut peer = Peer2::accept(&bench, 100).await;
        let mut asked = peer.request().await.unwrap();
        sent.abort();
        let reason = peer.during(std::future::poll_fn(|cx| asked.reply.poll_reset(cx))).await;
        assert_eq!(reason.unwrap(), Reason::CANCEL);
        let next = bench.start("GET", "/2");
        let asked = peer.request().await.unwrap();
        assert_eq!(asked.path, "/2");
        asked.ok();
        peer.during(async { text(next.await.unwrap().unwrap()).await.unwrap() }).await;
        assert_eq!(bench.value("upstream_rq_tx_reset"), 1);
        assert_eq!(bench.value("upstream_cx_total"), 1);
        assert_eq!(bench.value("upstream_rq_active"), 0);
    });
}

#[test]
fn a_connection_that_breaks_ends_its_requests_and_leaves_nothing_behind() {
    with_host(speak_h2, |bench| async move {
        let (one, two) = (bench.start("POST", "/1"), bench.start("POST", "/2"));
        let mut peer = Peer2::accept(&bench, 100).await;
        let asked = (peer.request().await.unwrap(), peer.request().await.unwrap());
        drop((peer, asked));
        for sent in [one, two] {
            let kind = sent.await.unwrap().err().unwrap().kind;
            assert!(matches!(kind, UpstreamErrorKind::Terminated), "{kind:?}");
        }
        bench.is_quiet().await;
        assert_eq!(bench.value("upstream_cx_destroy_remote_with_active_rq"), 1);
    });
}

#[test]
fn a_connection_ends_after_its_last_allowed_request() {
    with_host(
        |config| {
            speak_h2(config);
            config.max_requests_per_connection = Some(1);
        },
        |bench| async move {
            let sent = bench.start("GET", "/1");
            let mut peer = Peer2::accept(&bench, 100).await;
            peer.request().await.unwrap().ok();
            peer.during(async { text(sent.await.unwrap().unwrap()).await.unwrap() }).await;
            assert!(peer.is_closed().await);
            assert_eq!(bench.value("upstream_cx_max_requests"), 1);
            bench.is_quiet().await;
        },
    );
}

#[test]
fn an_idle_connection_closes_after_the_idle_timeout() {
    with_host(
        |config| {
            speak_h2(config);
            config.idle_timeout = Some(Duration::from_secs(30));
        },
        |bench| async move {
            let sent = bench.start("GET", "/1");
            let mut peer = Peer2::accept(&bench, 100).await;
            peer.request().await.unwrap().ok();
            peer.during(async { text(sent.await.unwrap().unwrap()).await.unwrap() }).await;
            bench.local.0.shared.tick.set(30);
            bench.local.sweep();
            assert!(peer.is_closed().await);
            assert_eq!(bench.value("upstream_cx_idle_timeout"), 1);
            bench.is_quiet().await;
        },
    );
}

#[test]
fn a_host_that_leaves_finishes_its_streams_first() {
    with_host(
        |config| {
            *config = eds("a");
            speak_h2(config);
        },
        |bench| async move {
            let address = bench.host.local_addr().unwrap();
            bench.manager.set_assignment("a", Some(Arc::new(assignment(&[address]))));
            let sent = bench.start("GET", "/1");
            let mut peer = Peer2::accept(&bench, 100).await;
            let asked = peer.request().await.unwrap();
            bench.manager.set_assignment("a", Some(Arc::new(assignment(&[]))));
            tokio::task::yield_now().await;
            asked.ok();
            let done = async { text(sent.await.unwrap().unwrap()).await.unwrap() };
            assert_eq!(peer.during(done).await, "ok");
            assert!(peer.is_closed().await);
            bench.is_quiet().await;
        },
    );
}

#[test]
fn the_client_s_protocol_decides_where_the_cluster_follows_it() {
    with_host(
        |config| config.protocol = UpstreamProtocol::Downstream,
        |bench| async move {
            let http1 = bench.start("GET", "/1");
            let mut peer = bench.accept().await;
            assert_eq!(peer.request().await, "/1");
            peer.ok().await;
            assert_eq!(http1.await.unwrap().unwrap().protocol, Version::Http11);

            let cluster = bench.cluster();
            let host = cluster.pick(&PickRequest::random(0)).unwrap();
            let local = bench.local.clone();
            let http2 = tokio::task::spawn_local(async move {
                let mut head = head("GET", "/2");
                head.version = Version::Http2;
                local.send(&cluster, &host, &head, Body::Empty).await
            });
            let mut peer = Peer2::accept(&bench, 100).await;
            peer.request().await.unwrap().ok();
            assert_eq!(peer.during(http2).await.unwrap().unwrap().protocol, Version::Http2);
        },
    );
}
