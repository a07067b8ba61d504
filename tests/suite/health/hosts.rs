//! Hosts that come, go and fail while requests are sent.

use super::{bootstrap, check, cluster, flags};
use e2e::client::Client;
use e2e::envoy::Envoy;
use e2e::pair::{http_listener, routes};
use e2e::patient::{Mood, Patient, Seen};
use e2e::{eventually, proxy};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

const RETRY: &str = "{match: {prefix: /}, route: {cluster: up}}";

/// Requests without a pause until told to stop: how many were answered 200, and how many otherwise.
struct Load {
    stop: Arc<AtomicBool>,
    good: Arc<AtomicU64>,
    bad: Arc<AtomicU64>,
    tasks: tokio::task::JoinSet<()>,
}

impl Load {
    fn start(url: &str) -> Self {
        let (stop, good, bad) = <(Arc<AtomicBool>, Arc<AtomicU64>, Arc<AtomicU64>)>::default();
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let (url, client) = (url.to_owned(), Client::h1());
            let (stop, good, bad) = (Arc::clone(&stop), Arc::clone(&good), Arc::clone(&bad));
            tasks.spawn(async move {
                while !stop.load(Relaxed) {
                    let answered = client.get(&url).await.is_ok_and(|answer| answer.status == 200);
                    if answered { &good } else { &bad }.fetch_add(1, Relaxed);
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            });
        }
        Self { stop, good, bad, tasks }
    }

    async fn end(mut self) -> (u64, u64) {
        self.stop.store(true, Relaxed);
        while self.tasks.join_next().await.is_some() {}
        (self.good.load(Relaxed), self.bad.load(Relaxed))
    }
}

/// Waits until balancing has taken up the hosts' health: `membership_*` is told of what is chosen from.
async fn balanced(proxy: &Envoy, name: &str, want: u64) {
    eventually(&format!("{name} is {want}"), async || {
        let stats = proxy.stats().await.map_err(|e| e.to_string())?;
        let now = stats[&format!("cluster.up.{name}")];
        if now == want { Ok(()) } else { Err(now.to_string()) }
    })
    .await;
}

/// Waits until a host has no request in hand.
async fn idle(proxy: &Envoy, host: &str) {
    eventually(&format!("{host} is idle"), async || {
        let text = proxy.admin("/clusters").await.map_err(|e| e.to_string())?.text();
        let busy = text.lines().find(|line| line.starts_with(&format!("{host}::rq_active::")));
        match busy {
            Some(line) if line.ends_with("::rq_active::0") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

#[tokio::test]
async fn a_host_that_fails_its_checks_gets_no_requests_until_it_passes() {
    let mut patients = Vec::new();
    for _ in 0..3 {
        patients.push(Patient::start(Mood::default()).await.unwrap());
    }
    let ports: Vec<u16> = patients.iter().map(|patient| patient.addr.port()).collect();
    let log = tempfile::NamedTempFile::new().unwrap();
    let probe = format!("event_log_path: {}, http_health_check: {{path: /hz}}", log.path().display());
    let web = http_listener("web", "", &routes(RETRY));
    let proxy = proxy::start(&bootstrap(&[web], &[cluster("up", &ports, &check(&probe))])).await.unwrap();
    let url = format!("http://{}/", proxy.listener("web").await.unwrap());
    let load = Load::start(&url);
    let host = format!("up::{}", patients[0].addr);
    let becomes = async |want: &str| {
        eventually(&format!("{host} is {want}"), async || {
            let flags = flags(&proxy).await.map_err(|e| e.to_string())?;
            if flags[&host] == want { Ok(()) } else { Err(flags[&host].clone()) }
        })
        .await;
    };
    for _ in 0..3 {
        // It says that it is leaving before it stops working: nothing is lost.
        patients[0].set(|mood| mood.check = 503);
        becomes("/failed_active_hc").await;
        balanced(&proxy, "membership_healthy", 2).await;
        idle(&proxy, &host).await;
        patients[0].take();
        let (mut seen, answered) = (Seen::default(), load.good.load(Relaxed));
        eventually("checks and others' requests go on", async || {
            let more = patients[0].take();
            (seen.checks, seen.work) = (seen.checks + more.checks, seen.work + more.work);
            let others = load.good.load(Relaxed) - answered;
            if seen.checks > 3 && others > 50 { Ok(()) } else { Err(format!("{seen:?}, {others}")) }
        })
        .await;
        assert_eq!(seen.work, 0, "no requests while it fails");
        patients[0].set(|mood| mood.check = 200);
        becomes("healthy").await;
        eventually(
            "it works again",
            async || {
                if patients[0].take().work > 0 { Ok(()) } else { Err("no requests") }
            },
        )
        .await;
    }
    let (good, bad) = load.end().await;
    assert!(good > 100, "{good}");
    assert_eq!(bad, 0, "of {good}");
    let stats = proxy.stats().await.unwrap();
    assert_eq!(stats["cluster.up.health_check.healthy"], 3);
    assert_eq!(stats["cluster.up.membership_healthy"], 3);
    assert!(stats["cluster.up.health_check.failure"] >= 3);
    let events = std::fs::read_to_string(log.path()).unwrap();
    assert_eq!(events.matches("eject_unhealthy_event").count(), 3, "{events}");
    assert_eq!(events.matches("add_healthy_event").count(), 6, "{events}");
}

#[tokio::test]
async fn a_cluster_serves_once_every_host_was_checked() {
    let slow = Patient::start(Mood { silent: true, ..Mood::default() }).await.unwrap();
    let good = Patient::start(Mood::default()).await.unwrap();
    let ports = [slow.addr.port(), good.addr.port()];
    let web = http_listener("web", "", &routes(RETRY));
    let probe = "http_health_check: {path: /hz}, timeout: 1s";
    let fields = check(probe).replacen("timeout: 0.5s, ", "", 1);
    let begun = std::time::Instant::now();
    let proxy = proxy::start(&bootstrap(&[web], &[cluster("up", &ports, &fields)])).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(1), "ready after the slow host's first check");
    let url = format!("http://{}/", proxy.listener("web").await.unwrap());
    for _ in 0..20 {
        assert_eq!(Client::h1().get(&url).await.unwrap().status, 200);
    }
    assert_eq!(slow.take().work, 0);
}

#[tokio::test]
async fn an_answer_may_take_its_host_out_at_once() {
    let leaving = vec![("x-envoy-immediate-health-check-fail", "1")];
    let gone = Patient::start(Mood { work_headers: leaving, ..Mood::default() }).await.unwrap();
    let good = Patient::start(Mood::default()).await.unwrap();
    let ports = [gone.addr.port(), good.addr.port()];
    let web = http_listener("web", "", &routes(RETRY));
    let hourly = "health_checks: [{timeout: 1s, interval: 3600s, unhealthy_threshold: 9, healthy_threshold: 9, \
                  http_health_check: {path: /hz}}]";
    let proxy = proxy::start(&bootstrap(&[web], &[cluster("up", &ports, hourly)])).await.unwrap();
    let url = format!("http://{}/", proxy.listener("web").await.unwrap());
    let client = Client::h1();
    let want = "/failed_active_hc/excluded_via_immediate_hc_fail";
    eventually("the host is out", async || {
        client.get(&url).await.map_err(|e| e.to_string())?;
        let flags = flags(&proxy).await.map_err(|e| e.to_string())?;
        let now = flags[&format!("up::{}", gone.addr)].clone();
        if now == want { Ok(()) } else { Err(now) }
    })
    .await;
    balanced(&proxy, "membership_excluded", 1).await;
    gone.take();
    for _ in 0..10 {
        assert_eq!(client.get(&url).await.unwrap().status, 200);
    }
    assert_eq!(gone.take().work, 0);
    let stats = proxy.stats().await.unwrap();
    assert_eq!(stats["cluster.up.health_check.passive_failure"], 1);
    assert_eq!(stats["cluster.up.membership_excluded"], 1);
}

#[tokio::test]
async fn an_ejected_host_comes_back_after_its_time() {
    let flapping = Patient::start(Mood { work: 500, ..Mood::default() }).await.unwrap();
    let good = Patient::start(Mood::default()).await.unwrap();
    let ports = [flapping.addr.port(), good.addr.port()];
    let detection = "outlier_detection: {consecutive_5xx: 2, interval: 0.1s, base_ejection_time: 0.5s, max_ejection_percent: 50}";
    let web = http_listener("web", "", &routes(RETRY));
    let proxy = proxy::start(&bootstrap(&[web], &[cluster("up", &ports, detection)])).await.unwrap();
    let url = format!("http://{}/", proxy.listener("web").await.unwrap());
    let client = Client::h1();
    let ejected = async || {
        let flags = flags(&proxy).await.unwrap();
        flags[&format!("up::{}", flapping.addr)] == "/failed_outlier_check"
    };
    eventually("ejected", async || {
        client.get(&url).await.map_err(|e| e.to_string())?;
        if ejected().await { Ok(()) } else { Err("in".to_owned()) }
    })
    .await;
    flapping.set(|mood| mood.work = 200);
    flapping.take();
    eventually("back", async || if ejected().await { Err("out") } else { Ok(()) }).await;
    eventually("working", async || {
        client.get(&url).await.map_err(|e| e.to_string())?;
        if flapping.take().work > 0 { Ok(()) } else { Err("idle".to_owned()) }
    })
    .await;
    assert_eq!(proxy.stats().await.unwrap()["cluster.up.outlier_detection.ejections_active"], 0);
}
