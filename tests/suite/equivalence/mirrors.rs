//! Copies of requests: which are sent, what they say, and what is counted of them.

use super::clusters;
use anyhow::{Result, ensure};
use e2e::eventually;
use e2e::pair::{Case, Pair, Side, cluster, difference, http_listener};
use e2e::wire::{Role, Wire};
use std::collections::BTreeMap;

/// Name, what is asked, and how many requests come of it at the origins.
fn cases() -> Vec<(Case, usize)> {
    let get = |path: &str, headers: &[&str]| Case::ask(path, &format!("GET {path}"), headers);
    let chunks = b"POST /copied?q HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n";
    vec![
        (get("/copied", &["x-a: 1", "host: web:8080", "user-agent: me"]), 2),
        (get("/copied", &["x-forwarded-for: 1.2.3.4", "x-envoy-retry-on: 5xx"]), 2),
        (get("/copied", &["host: [::1]:80"]), 2),
        (Case::with_body("body", "POST /copied", &["x-do: echo"], b"body"), 2),
        (
            Case::new("chunks", chunks.as_slice())
                .differs("the copy of a body that is there says its length"),
            2,
        ),
        (get("/bare", &["host: web:8080"]), 2),
        (get("/literal", &["host: web:8080"]), 2),
        (get("/twice", &[]), 3),
        (get("/never", &[]), 1),
        (get("/by-header", &["x-copy: copy"]), 2),
        (get("/by-header", &["x-copy: unknown"]), 1),
        (get("/by-header", &[]), 1),
        (get("/edited", &["x-a: 1", "x-b: 2"]), 2),
        (get("/copied", &["x-do: status:500"]), 2),
        (get("/short", &["x-do: never"]), 2),
        (get("/refused", &[]), 1),
        (get("/empty", &[]), 1),
    ]
}

fn table() -> String {
    let route = |path: &str, fields: &str, mirrors: &str| {
        format!(
            "{{match: {{prefix: {path}}}, route: {{cluster: up, request_mirror_policies: [{mirrors}] {fields}}}}}"
        )
    };
    let routes = [
        route("/copied", "", "{cluster: copy}"),
        route("/bare", "", "{cluster: copy, disable_shadow_host_suffix_append: true}"),
        route("/literal", "", "{cluster: copy, host_rewrite_literal: 'other.test:99'}"),
        route("/twice", "", "{cluster: copy}, {cluster: copy}"),
        route("/never", "", "{cluster: copy, runtime_fraction: {default_value: {numerator: 0}}}"),
        route("/by-header", "", "{cluster_header: x-copy}"),
        route("/edited", ", prefix_rewrite: /e, host_rewrite_literal: origin.test", "{cluster: copy}"),
        route("/short", ", timeout: 0.3s", "{cluster: copy}"),
        route("/judged", "", "{cluster: judged}"),
        route("/refused", "", "{cluster: refused}"),
        route("/empty", "", "{cluster: empty}"),
        "{match: {prefix: /}, route: {cluster: up}}".into(),
    ];
    format!(
        "virtual_hosts: [{{name: all, domains: ['*'], request_headers_to_add: [{{header: {{key: x-added, value: 'yes'}}}}], routes: [{}]}}]",
        routes.join(", ")
    )
}

/// Asks, and waits until so many requests have come; all of them, in the order of their text.
async fn seen(side: &Side, case: &Case, count: usize) -> String {
    side.origin.take();
    let mut wire = Wire::connect(side.at("web")).await.unwrap();
    wire.send(&case.bytes).await.unwrap();
    let answer = wire.message(Role::Response).await.unwrap().expect("an answer");
    let mut requests = Vec::new();
    eventually(&format!("{}: {}: the copies come", side.name, case.name), async || -> Result<()> {
        requests.extend(side.origin.take().iter().map(|message| side.normal(&message.describe(">"))));
        ensure!(requests.len() >= count, "{} of {count}:\n{}", requests.len(), requests.concat());
        Ok(())
    })
    .await;
    requests.sort();
    format!("< {}\n{}", answer.status(), requests.concat())
}

/// Counts of requests of the clusters that get copies, but for those of time.
async fn counts(side: &Side) -> BTreeMap<String, u64> {
    let stats = side.proxy.stats().await.unwrap();
    let of_requests = |name: &str| {
        let copied = ["copy", "refused", "empty"].map(|cluster| format!("cluster.{cluster}."));
        copied.iter().any(|prefix| name.starts_with(prefix))
            && name.contains("upstream_rq")
            && !name.ends_with("_time")
    };
    stats.into_iter().filter(|(name, value)| *value > 0 && of_requests(name)).collect()
}

#[tokio::test]
async fn copies_are_sent_and_counted_as_envoys() {
    let judged = "outlier_detection: {consecutive_5xx: 2, interval: 3600s, base_ejection_time: 3600s, max_ejection_percent: 100}";
    let clusters = [
        clusters(),
        vec![
            cluster("copy", "$ORIGIN", ""),
            cluster(
                "judged",
                "$ORIGIN",
                &format!("{judged}, common_lb_config: {{healthy_panic_threshold: {{value: 0}}}}"),
            ),
        ],
    ]
    .concat();
    let pair = Pair::start(&[http_listener("web", "", &table())], &clusters).await.unwrap();
    let mut wrong = String::new();
    for (case, count) in cases() {
        let (envoy, ours) = tokio::join!(seen(&pair.envoy, &case, count), seen(&pair.ours, &case, count));
        if (envoy == ours) == case.differs.is_some() {
            wrong += &format!("=== {}\n{}\n", case.name, difference(&envoy, &ours));
        }
    }
    assert!(wrong.is_empty(), "copies must be Envoy's (- Envoy, + ours):\n{wrong}");
    eventually("the same is counted", async || -> Result<()> {
        let (envoy, ours) = (counts(&pair.envoy).await, counts(&pair.ours).await);
        let text =
            |counts: &BTreeMap<_, _>| counts.iter().map(|(k, v)| format!("{k}: {v}\n")).collect::<String>();
        ensure!(envoy == ours, "{}", difference(&text(&envoy), &text(&ours)));
        ensure!(envoy.contains_key("cluster.copy.upstream_rq_total"), "nothing is counted");
        Ok(())
    })
    .await;

    // How copies are answered counts for their host, and one that is ejected gets no more.
    let failing = Case::ask("judged", "GET /judged", &["x-do: status:500"]);
    for side in [&pair.envoy, &pair.ours] {
        for _ in 0..2 {
            seen(side, &failing, 2).await;
        }
        eventually(&format!("{}: the host is ejected", side.name), async || -> Result<()> {
            let stats = side.proxy.stats().await?;
            let ejected = stats["cluster.judged.outlier_detection.ejections_enforced_consecutive_5xx"];
            ensure!(ejected == 1, "{ejected}");
            Ok(())
        })
        .await;
        seen(side, &failing, 1).await;
        let stats = side.proxy.stats().await.unwrap();
        assert_eq!(stats["cluster.judged.upstream_rq_total"], 2, "{}: no copy goes to it", side.name);
    }
}
