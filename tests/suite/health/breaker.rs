//! Our circuit breaker, end to end.

use super::{bootstrap, cluster};
use e2e::client::Client;
use e2e::envoy::Envoy;
use e2e::pair::{http_listener, routes};
use e2e::patient::{Mood, Patient};
use e2e::{eventually, proxy};
use std::time::Duration;

fn breaker(fields: &str) -> String {
    // So written, the real Envoy takes it too.
    format!(
        "metadata: {{typed_filter_metadata: {{portolan.circuit_breaker: {{'@type': type.googleapis.com/xds.type.v3.TypedStruct, \
         type_url: type.googleapis.com/portolan.extensions.v1.CircuitBreaker, value: {{{fields}}}}}}}}}"
    )
}

#[tokio::test]
async fn it_opens_answers_at_once_probes_and_closes() {
    let patient = Patient::start(Mood { work: 503, ..Mood::default() }).await.unwrap();
    let log = tempfile::NamedTempFile::new().unwrap();
    let fields = format!(
        "consecutive_failures: 5, open_time: 0.5s, jitter_percent: 0, probes: 2, event_log_path: {}",
        log.path().display()
    );
    let web = http_listener("web", "", &routes("{match: {prefix: /}, route: {cluster: up}}"));
    let up = cluster("up", &[patient.addr.port()], &breaker(&fields));
    let proxy = proxy::start(&bootstrap(&[web], &[up])).await.unwrap();
    let url = format!("http://{}/", proxy.listener("web").await.unwrap());
    let client = Client::h1();
    for _ in 0..5 {
        let answer = client.get(&url).await.unwrap();
        assert_eq!((answer.status, answer.text()), (503, "work".into()), "the upstream's own");
    }
    patient.take();
    for _ in 0..20 {
        let answer = client.get(&url).await.unwrap();
        assert_eq!((answer.status, answer.header("retry-after")), (503, "1"));
        assert_ne!(answer.text(), "work");
    }
    assert_eq!(patient.take().work, 0, "nobody was asked");
    let text = proxy.admin("/clusters").await.unwrap().text();
    assert!(text.contains("up::circuit_breaker::state::open\n"), "{text}");
    patient.set(|mood| mood.work = 200);
    eventually("it closes", async || {
        let status = client.get(&url).await.map_err(|e| e.to_string())?.status;
        let text = proxy.admin("/clusters").await.map_err(|e| e.to_string())?.text();
        if text.contains("up::circuit_breaker::state::closed\n") { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
    for _ in 0..20 {
        assert_eq!(client.get(&url).await.unwrap().status, 200);
    }
    let stats = proxy.stats().await.unwrap();
    let of = |name: &str| stats[&format!("cluster.up.circuit_breaker.{name}")];
    assert_eq!((of("opened"), of("half_opened"), of("closed"), of("state")), (1, 1, 1, 0));
    assert!(of("rejected") >= 20);
    let events = eventually("events are written", async || {
        let text = std::fs::read_to_string(log.path()).unwrap_or_default();
        if text.lines().count() == 3 { Ok(text) } else { Err(text) }
    })
    .await;
    for (line, event) in events.lines().zip(["opened", "half_opened", "closed"]) {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!((&line["event"], &line["cluster_name"]), (&event.into(), &"up".into()));
    }
}

#[tokio::test]
async fn while_all_fails_the_upstream_sees_probes_only() {
    let patient =
        Patient::start(Mood { work: 500, delay: Duration::from_millis(2), ..Mood::default() }).await.unwrap();
    let fields = "failure_percent: 50, minimum_requests: 10, window: 2s, open_time: 0.2s, max_open_time: 0.4s, \
                  jitter_percent: 0, probes: 2";
    let web = http_listener("web", "", &routes("{match: {prefix: /}, route: {cluster: up}}"));
    let up = cluster("up", &[patient.addr.port()], &breaker(fields));
    let proxy = proxy::start(&bootstrap(&[web], &[up])).await.unwrap();
    let url = format!("http://{}/", proxy.listener("web").await.unwrap());
    let end = std::time::Instant::now() + Duration::from_secs(2);
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let url = url.clone();
        tasks.spawn(async move {
            let (client, mut sent) = (Client::h1(), 0_u64);
            while std::time::Instant::now() < end {
                assert!(client.get(&url).await.unwrap().status >= 500);
                sent += 1;
            }
            sent
        });
    }
    let mut sent = 0;
    while let Some(done) = tasks.join_next().await {
        sent += done.unwrap();
    }
    let seen = patient.take().work;
    // Ten and those under way to open it, then two probes each 0.2, 0.4, 0.4 .. s.
    assert!(seen <= 18 + 2 * 7, "{seen} of {sent}");
    assert!(sent > 10 * seen, "{seen} of {sent}");
}

#[tokio::test]
async fn copies_ask_the_breaker_of_their_cluster() {
    let good = Patient::start(Mood::default()).await.unwrap();
    let bad = Patient::start(Mood { work: 503, ..Mood::default() }).await.unwrap();
    let web = http_listener(
        "web",
        "",
        &routes("{match: {prefix: /}, route: {cluster: up, request_mirror_policies: [{cluster: copy}]}}"),
    );
    let clusters = [
        cluster("up", &[good.addr.port()], ""),
        cluster("copy", &[bad.addr.port()], &breaker("consecutive_failures: 3, open_time: 3600s")),
    ];
    let proxy = proxy::start(&bootstrap(&[web], &clusters)).await.unwrap();
    let url = format!("http://{}/", proxy.listener("web").await.unwrap());
    let client = Client::h1();
    let count = async |name: &str| {
        let stats = proxy.stats().await.unwrap();
        stats.get(&format!("cluster.copy.circuit_breaker.{name}")).copied().unwrap_or_default()
    };
    eventually("copies that fail open it", async || {
        assert_eq!(client.get(&url).await.unwrap().status, 200, "copies are nobody else's affair");
        if count("opened").await == 1 { Ok(()) } else { Err("closed") }
    })
    .await;
    let before = count("rejected").await;
    for _ in 0..5 {
        assert_eq!(client.get(&url).await.unwrap().status, 200);
    }
    eventually("copies are refused", async || {
        let refused = count("rejected").await - before;
        if refused >= 5 { Ok(()) } else { Err(format!("{refused} so far")) }
    })
    .await;
    // Those that were under way when it opened.
    assert!(bad.take().work <= 8);
    assert!(good.take().work >= 8);
}

#[tokio::test]
async fn envoy_takes_the_same_file_and_passes_over_it() {
    let patient = Patient::start(Mood::default()).await.unwrap();
    let web = http_listener("web", "", &routes("{match: {prefix: /}, route: {cluster: up}}"));
    let up = cluster("up", &[patient.addr.port()], &breaker("failure_percent: 50"));
    let envoy = Envoy::start(&bootstrap(&[web], &[up])).await.unwrap();
    let url = format!("http://{}/", envoy.listener("web").await.unwrap());
    assert_eq!(Client::h1().get(&url).await.unwrap().status, 200);
    assert!(envoy.admin("/config_dump").await.unwrap().text().contains("portolan.circuit_breaker"));
}
