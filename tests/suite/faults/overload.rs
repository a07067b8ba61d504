//! Limits under load: circuit breakers, retry budgets, and upstreams of which nothing works.

use super::*;
use e2e::load::{Ask, Clients, Speak, load, tally};
use tokio::task::JoinSet;

fn limits(fields: &str) -> String {
    format!("circuit_breakers: {{thresholds: [{{track_remaining: true, {fields}}}]}}")
}

fn asks(count: usize, path: &str, script: &str) -> Vec<Ask> {
    (0..count).map(|n| Ask::get(format!("{}{n}", path.trim_matches('/')), path, script)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_over_a_limit_is_refused_and_limits_are_whole_again_afterwards() {
    let clusters = [
        cluster("requests", "$UP", &format!("{}, {HTTP2}", limits("max_requests: 5"))),
        cluster("pending", "$UP", &limits("max_connections: 4, max_pending_requests: 3")),
        cluster("retries", "$UP", &limits("max_retries: 2")),
    ];
    let routes = [
        route("/requests/", "requests", "timeout: 0s"),
        route("/pending/", "pending", "timeout: 0s"),
        route("/retries/", "retries", &format!("timeout: 0s, retry_policy: {{retry_on: 5xx, {RETRIES}}}")),
    ];
    let config = bootstrap(&[web(&routes)], &clusters);
    {
        let site = Site::start_with(true, &config, 1).await;
        // Path, script, answered 503 at once, seen meanwhile, gauges meanwhile.
        let cases = [
            ("requests", "gate ok", 15, 5, &[("rq_open", 1), ("remaining_rq", 0)][..]),
            (
                "pending",
                "gate ok",
                13,
                4,
                &[("cx_open", 1), ("rq_pending_open", 1), ("remaining_pending", 0)],
            ),
            ("retries", "status:503|gate ok", 18, 22, &[("rq_retry_open", 1), ("remaining_retries", 0)]),
        ];
        for round in 0..3 {
            for (name, script, refused, seen, gauges) in cases {
                let requests = if name == "requests" { 5 } else { 1024 };
                let pending = if name == "pending" { 3 } else { 1024 };
                let retries = if name == "retries" { 2 } else { 3 };
                let what = format!("{} {name} round {round}", site.name);
                site.up.gate(false);
                site.up.take();
                let mut all = asks(20, &format!("/{name}/"), script);
                let (web, later) = (site.web, all.split_off(4));
                let mut told = JoinSet::new();
                // Connections first: what waits for one counts as pending.
                for (n, ask) in all.into_iter().enumerate() {
                    told.spawn(async move { Clients::new(web, 1).round(vec![ask]).await });
                    eventually("it is there", async || {
                        let seen = site.up.seen();
                        if seen > n { Ok(()) } else { Err(format!("{seen}")) }
                    })
                    .await;
                }
                told.spawn(async move { Clients::new(web, 16).round(later).await });
                let counter = match name {
                    "requests" | "pending" => "upstream_rq_pending_overflow",
                    _ => "upstream_rq_retry_overflow",
                };
                let counter = format!("cluster.{name}.{counter}");
                eventually(&format!("{what}: {refused} are refused"), async || {
                    let stats = site.proxy.stats().await?;
                    let got = stats[&counter];
                    ensure!(
                        got == (round + 1) * refused && site.up.seen() == seen,
                        "{got} {}",
                        site.up.seen()
                    );
                    for (gauge, value) in gauges {
                        let got = stats[&format!("cluster.{name}.circuit_breakers.default.{gauge}")];
                        ensure!(got == *value, "{gauge}: {got}");
                    }
                    Ok(())
                })
                .await;
                site.up.gate(true);
                let told = tally(&told.join_all().await.into_iter().flatten().collect());
                let good = told.get("200 ok").copied().unwrap_or_default();
                assert_eq!(good as u64, 20 - refused, "{what}: {told:?}");
                let word = if name == "retries" {
                    "503 ok".into()
                } else {
                    format!("{RESET}reset reason: overflow")
                };
                assert!(told.keys().all(|v| v == "200 ok" || v.starts_with(&word)), "{what}: {told:?}");
                site.quiet().await;
                let after = site.proxy.stats().await.unwrap();
                let prefix = format!("cluster.{name}.circuit_breakers.default.");
                for (gauge, whole) in [
                    ("remaining_rq", requests),
                    ("remaining_pending", pending),
                    ("remaining_retries", retries),
                ] {
                    assert_eq!(after[&format!("{prefix}{gauge}")], whole, "{what}: {gauge}");
                }
            }
        }
        site.over().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retries_do_not_amplify_an_outage() {
    let clusters = [
        cluster(
            "counted",
            "$UP",
            &limits("max_requests: 9999, max_pending_requests: 9999, max_connections: 9999, max_retries: 5"),
        ),
        cluster(
            "shared",
            "$UP",
            &limits(
                "max_requests: 9999, max_pending_requests: 9999, max_connections: 9999, retry_budget: {budget_percent: {value: 25}, min_retry_concurrency: 2}",
            ),
        ),
        cluster(
            "dead",
            "$REFUSED",
            &limits("max_requests: 9999, max_pending_requests: 9999, max_connections: 9999, max_retries: 5"),
        ),
    ];
    let retried = "timeout: 0s, retry_policy: {retry_on: \"5xx,reset,connect-failure\", num_retries: 8, retry_back_off: {base_interval: 0.001s, max_interval: 0.002s}}";
    let routes = ["counted", "shared", "dead"].map(|name| route(&format!("/{name}/"), name, retried));
    let site = Site::start(true, &bootstrap(&[web(&routes)], &clusters)).await;
    // All requests are under way when the first is answered; every retry waits, so that what is at the origin at a
    // time is what there is of retries.
    for (path, failing, most) in [
        ("/counted/", "gate status:503|hang", 5),
        ("/counted/", "gate reset|hang", 5),
        ("/shared/", "gate status:503|hang", 10),
        ("/shared/", "gate reset|hang", 10),
    ] {
        site.up.gate(false);
        site.up.take();
        let mut clients = Clients::new(site.web, 40);
        let all = asks(40, path, failing);
        let told = tokio::spawn(async move { clients.round(all).await });
        eventually("all are under way", async || {
            ensure!(site.up.seen() == 40, "{}", site.up.seen());
            Ok(())
        })
        .await;
        site.up.gate(true);
        let counter = |what: &str| format!("cluster.{}.{what}", path.trim_matches('/'));
        let retries = eventually("what may be retried is, the rest is answered", async || {
            let stats = site.proxy.stats().await?;
            let active = stats[&counter("upstream_rq_active")];
            let seen = site.up.seen() - 40;
            ensure!(active as usize == seen, "{active} under way, {seen} retries");
            Ok(seen)
        })
        .await;
        assert!((2..=most).contains(&retries), "{path} {failing}: {retries} retries at a time");
        told.abort();
        site.quiet().await;
    }
    // Whoever cannot connect is tried again no more often than the limit lets through at a time.
    let told = load(site.web, Speak::Http2, 32, asks(400, "/dead/", "ok")).await;
    assert!(told.values().all(|verdict| verdict.starts_with("503 ")), "{:?}", tally(&told));
    let stats = site.proxy.stats().await.unwrap();
    let (retry, over, spent) = (
        stats["cluster.dead.upstream_rq_retry"],
        stats["cluster.dead.upstream_rq_retry_overflow"],
        stats["cluster.dead.upstream_rq_retry_limit_exceeded"],
    );
    assert_eq!(over + spent, 400, "each ends by a limit: {retry} {over} {spent}");
    site.over().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_tell_what_waits_for_them_as_envoys_do() {
    let hole = cluster("hole", "$HOLE", &format!("{UNLIMITED}, connect_timeout: 60s"));
    let config = bootstrap(&[web(&[route("/hole/", "hole", "timeout: 0s")])], &[hole]);
    let mut told = Vec::new();
    for site in Site::pair(&config).await {
        let mut clients = Clients::new(site.web, 6);
        let waiting = tokio::spawn(async move { clients.round(asks(6, "/hole/", "ok")).await });
        let lines = eventually(&format!("{}: all wait", site.name), async || {
            let text = site.proxy.admin("/clusters").await?.text();
            let numbers =
                |line: &str| Some(line.strip_prefix("hole::127.0.0.1:")?.split_once("::")?.1.to_owned());
            let lines: Vec<String> = text.lines().filter_map(numbers).collect();
            ensure!(lines.iter().any(|line| line == "rq_pending_active::6"), "{lines:?}");
            Ok(lines)
        })
        .await;
        told.push(lines);
        waiting.abort();
        site.quiet().await;
    }
    assert_eq!(told[0], told[1], "ours, then Envoy's");
}
