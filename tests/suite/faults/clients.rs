//! Clients that stall, vanish, and send what nobody can use.

use super::*;
use e2e::faulty::Seen;
use e2e::load::{Ask, Speak, load, tally};
use e2e::wire::{Role, Wire};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Bytes of an answer that nobody reads to its end.
const HUGE: usize = 64 * 1024 * 1024;
/// Memory that a stalled client may cost, bytes.
const COST: u64 = 2 * 1024 * 1024;
/// What an HTTP/2 connection to an upstream may hold, bytes: its window (Envoy's default is 24 MiB).
const WINDOW: u64 = 25 * 1024 * 1024;
/// Clients that stall at a time.
const STALLED: usize = 16;

fn config() -> String {
    let routes = [
        route("/plain/", "up", "timeout: 0s"),
        route("/h2/", "up2", "timeout: 0s"),
        route("/retry/", "up", &format!("timeout: 0s, retry_policy: {{retry_on: 5xx, {RETRIES}}}")),
    ];
    let clusters = [cluster("up", "$UP", UNLIMITED), cluster("up2", "$UP", &format!("{UNLIMITED}, {HTTP2}"))];
    bootstrap(&[web(&routes)], &clusters)
}

async fn resident(site: &mut Site) -> u64 {
    Footprint::of(site.proxy.process().pid()).unwrap().resident
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_do_not_read_hold_up_their_upstream_and_cost_little_memory() {
    let mut site = Site::start(true, &config()).await;
    // Each of the two workers has a connection of its own.
    for (path, most) in [("/plain/", STALLED as u64 * COST), ("/h2/", STALLED as u64 * COST + 2 * WINDOW)] {
        site.up.take();
        let before = resident(&mut site).await;
        let mut stalled = Vec::new();
        for n in 0..STALLED {
            let mut wire = Wire::connect(site.web).await.unwrap();
            let ask = Ask::get(format!("stalled{n}"), path, &format!("bytes:{HUGE}"));
            wire.send(&ask.bytes()).await.unwrap();
            assert_eq!(wire.head().await.unwrap().unwrap().status(), 200);
            stalled.push(wire);
        }
        // Others get through beside them; not on the same upstream connection, the window of which is full.
        let told = load(
            site.web,
            Speak::Http2,
            16,
            (0..64).map(|n| Ask::get(format!("o{n}"), "/plain/", "bytes:100000")).collect(),
        )
        .await;
        assert_eq!(tally(&told), BTreeMap::from([("200 (100000 bytes)".to_owned(), 64)]));
        let gained = resident(&mut site).await.saturating_sub(before);
        assert!(gained < most, "{path}: {gained} bytes for {STALLED} stalled clients");
        // One reads on once the others are gone, and gets all of it.
        let mut reader = stalled.pop().unwrap();
        drop(stalled);
        let mut answer = e2e::wire::Message {
            start: "HTTP/1.1 200 OK".into(),
            headers: vec![("content-length".into(), HUGE.to_string())],
            ..Default::default()
        };
        reader.body(&mut answer, Role::Response).await.unwrap();
        assert!(answer.body.len() == HUGE && !answer.truncated, "{path}: {} bytes", answer.body.len());
        drop(reader);
        site.quiet().await;
    }
    site.over().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_clients_that_do_not_read_hold_up_their_upstream_and_cost_little_memory() {
    let mut site = Site::start(true, &config()).await;
    let before = resident(&mut site).await;
    let mut held = Vec::new();
    let mut tasks = JoinSet::new();
    for n in 0..STALLED {
        let stream = TcpStream::connect(site.web).await.unwrap();
        let (send, connection) = h2::client::handshake(stream).await.unwrap();
        tasks.spawn(async move {
            let _ = connection.await;
        });
        let mut send = send.ready().await.unwrap();
        let ask = Ask::get(format!("stalled{n}"), "/plain/", &format!("head:{HUGE} data:{HUGE}"));
        let (response, _) = send.send_request(ask.head().unwrap(), true).unwrap();
        // The window is never given back.
        held.push((response.await.unwrap(), send));
    }
    let told = load(
        site.web,
        Speak::Http1,
        16,
        (0..64).map(|n| Ask::get(format!("o{n}"), "/plain/", "bytes:100000")).collect(),
    )
    .await;
    assert_eq!(tally(&told), BTreeMap::from([("200 (100000 bytes)".to_owned(), 64)]));
    let gained = resident(&mut site).await.saturating_sub(before);
    assert!(gained < STALLED as u64 * COST, "{gained} bytes for {STALLED} stalled clients");
    drop(held);
    tasks.shutdown().await;
    site.quiet().await;
    site.over().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_vanish_leave_nothing_behind() {
    let site = Site::start(true, &config()).await;
    let whole = |seen: &[Seen]| seen.iter().filter(|seen| seen.whole).count();
    for path in ["/plain/", "/h2/", "/retry/"] {
        // In the middle of the request: the origin has begun to get it, and never gets it whole.
        site.up.take();
        let mut vanishing = Vec::new();
        for n in 0..40 {
            let mut wire = Wire::connect(site.web).await.unwrap();
            let bytes = Ask::get(format!("in{n}"), path, "ok").sending("POST", 50_000).bytes();
            wire.send(&bytes[..bytes.len() - 20_000]).await.unwrap();
            vanishing.push(wire);
        }
        eventually("all have begun", async || {
            ensure!(site.up.seen() == 40, "{}", site.up.seen());
            Ok(())
        })
        .await;
        for (n, wire) in vanishing.into_iter().enumerate() {
            if n % 2 == 0 { drop(wire) } else { wire.reset().unwrap() }
        }
        site.quiet().await;
        let seen = site.up.take();
        assert_eq!((seen.len(), whole(&seen)), (40, 0), "{path}: none again, none whole");
        // In the middle of the answer, and while waiting for it.
        for script in ["head:100000 data:50000 hang", "hang"] {
            let mut vanishing = Vec::new();
            for n in 0..40 {
                let mut wire = Wire::connect(site.web).await.unwrap();
                wire.send(&Ask::get(format!("out{n}"), path, script).bytes()).await.unwrap();
                if script != "hang" {
                    wire.head().await.unwrap().unwrap();
                }
                vanishing.push(wire);
            }
            eventually("all have come", async || {
                ensure!(site.up.seen() == 40, "{}", site.up.seen());
                Ok(())
            })
            .await;
            for (n, wire) in vanishing.into_iter().enumerate() {
                if n % 2 == 0 { drop(wire) } else { wire.reset().unwrap() }
            }
            site.quiet().await;
            assert_eq!(site.up.take().len(), 40, "{path} {script}: none again");
        }
        // Streams of one connection that are reset, and the connection's end.
        let stream = TcpStream::connect(site.web).await.unwrap();
        let (mut send, connection) = h2::client::handshake(stream).await.unwrap();
        let driver = tokio::spawn(connection);
        let mut streams = Vec::new();
        for n in 0..40 {
            send = send.ready().await.unwrap();
            let ask = Ask::get(format!("stream{n}"), path, "hang");
            streams.push(send.send_request(ask.head().unwrap(), true).unwrap());
        }
        eventually("all have come", async || {
            ensure!(site.up.seen() == 40, "{}", site.up.seen());
            Ok(())
        })
        .await;
        for (_, stream) in streams.iter_mut().take(20) {
            stream.send_reset(h2::Reason::CANCEL);
        }
        eventually("half are gone", async || {
            let active = site.proxy.stats().await?["http.web.downstream_rq_active"];
            ensure!(active == 20, "{active}");
            Ok(())
        })
        .await;
        driver.abort();
        drop((streams, send));
        site.quiet().await;
        assert_eq!(site.up.take().len(), 40, "{path}: none again");
    }
    // Nothing of it harmed those that follow.
    let told = load(
        site.web,
        Speak::Http1,
        8,
        (0..40).map(|n| Ask::get(format!("f{n}"), "/plain/", "ok")).collect(),
    )
    .await;
    assert_eq!(tally(&told), BTreeMap::from([("200 ok".to_owned(), 40)]));
    site.over().await;
}

/// Requests of a kind.
const EACH: usize = 40;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn request_heads_that_are_too_large_are_refused_as_by_envoy_and_disturb_nobody() {
    let sites = Site::pair(&config()).await;
    for speak in [Speak::Http1, Speak::Http2] {
        let mut outcomes = Vec::new();
        for site in &sites {
            site.up.take();
            let mut asks = Vec::new();
            for n in 0..EACH {
                let of = |kind: &str| Ask::get(format!("{kind}-{n}"), "/plain/", "bytes:3000");
                // Envoy's limit is 60 KiB.
                asks.push(of("wide").header("x-wide", "w".repeat(50_000)));
                asks.push(of("over").header("x-wide", "w".repeat(62_000)));
                asks.push(of("good").sending("POST", 500));
            }
            let told = load(site.web, speak, 12, asks).await;
            let seen = site.up.take();
            let mut outcome = BTreeMap::new();
            for kind in ["wide", "over", "good"] {
                let of_kind = |id: &str| id.split_once('-').is_some_and(|(k, _)| k == kind);
                let told = told.iter().filter(|(id, _)| of_kind(id));
                let told = tally(&told.map(|(id, verdict)| (id.clone(), verdict.clone())).collect());
                let came = seen.iter().filter(|seen| of_kind(&seen.id)).count();
                outcome.insert(kind, (told, came));
            }
            outcomes.push(outcome);
        }
        if speak == Speak::Http2 {
            // Envoy resets such a stream, and ours says why.
            let all = |verdict: &str| BTreeMap::from([(verdict.to_owned(), EACH)]);
            assert_eq!(outcomes[0].insert("over", (all("431"), 0)), Some((all("431"), 0)), "ours");
            let [ours, envoy] = &mut outcomes[..] else { panic!("two sides") };
            assert_eq!(envoy["over"].1, 0, "Envoy");
            envoy.insert("over", ours["over"].clone());
        }
        assert_eq!(outcomes[0], outcomes[1], "{speak:?}: ours (left) as Envoy");
        let served = (BTreeMap::from([("200 (3000 bytes)".to_owned(), EACH)]), EACH);
        assert_eq!((&outcomes[0]["good"], &outcomes[0]["wide"]), (&served, &served), "{speak:?}");
        assert_eq!(outcomes[0]["over"].1, 0, "{speak:?}: nothing of them reaches an upstream");
    }
    for site in sites {
        site.over().await;
    }
}
