//! The health check filter beside the real Envoy's.

use e2e::client::Client;
use e2e::pair::{Case, Pair, cluster, http_listener, routes};

/// A listener with the filter before its router.
fn listener(name: &str, filter: &str) -> String {
    let plain = http_listener(name, "", &routes("{match: {prefix: /}, route: {cluster: up}}"));
    let filter = format!(
        "http_filters: [{{name: health, typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.http.health_check.v3.HealthCheck, \
         headers: [{{name: ':path', string_match: {{exact: /healthz}}}}], {filter}}}}}, "
    );
    plain.replacen("http_filters: [", &filter, 1)
}

#[tokio::test]
async fn checks_are_answered_and_passed_on_as_by_envoy() {
    let listeners = [
        listener("own", "pass_through_mode: false"),
        listener(
            "enough",
            "pass_through_mode: false, cluster_min_healthy_percentages: {up: {value: 100}, empty: {value: 0}}",
        ),
        listener("empty", "pass_through_mode: false, cluster_min_healthy_percentages: {empty: {value: 1}}"),
        listener("sick", "pass_through_mode: false, cluster_min_healthy_percentages: {sick: {value: 1}}"),
        listener("none", "pass_through_mode: false, cluster_min_healthy_percentages: {nobody: {value: 1}}"),
        listener("passed", "pass_through_mode: true"),
        listener("cached", "pass_through_mode: true, cache_time: 3600s"),
    ];
    let sick = "health_checks: [{timeout: 1s, interval: 1s, unhealthy_threshold: 1, healthy_threshold: 1, tcp_health_check: {}}]";
    let clusters = [
        cluster("up", "$ORIGIN", ""),
        cluster("sick", "$REFUSED", sick),
        "{name: empty, load_assignment: {cluster_name: empty}}".into(),
    ];
    let pair = Pair::start(&listeners, &clusters).await.unwrap();
    let mut cases = Vec::new();
    for name in ["own", "enough", "empty", "sick", "none", "passed"] {
        cases.push(Case::ask(format!("{name}: a check"), "GET /healthz", &[]).at(name));
        cases.push(Case::ask(format!("{name}: another"), "GET /healthz?a", &[]).at(name));
    }
    cases.push(
        Case::ask("a degraded answer is passed on", "GET /healthz", &["x-do: status:201"]).at("cached"),
    );
    cases.push(Case::ask("and stands for the next", "GET /healthz", &["x-do: status:500"]).at("cached"));
    pair.compare(&cases).await;
    for side in [&pair.envoy, &pair.ours] {
        let url = format!("http://{}/healthcheck/fail", side.proxy.admin);
        assert_eq!(Client::h1().send("POST", &url, &[], "").await.unwrap().status, 200);
    }
    let mut cases = Vec::new();
    for name in ["own", "enough", "passed", "cached"] {
        let case = Case::ask(format!("{name}: a check while failing"), "GET /healthz", &[]).at(name);
        cases.push(
            case.differs("Envoy says connection: close on every answer meanwhile; ours when it drains"),
        );
    }
    pair.compare(&cases).await;
}
