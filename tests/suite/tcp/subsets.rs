//! Connections to a part of a cluster's hosts, by their metadata.

use super::{both, compare_logs, listener};
use e2e::pair::Pair;
use e2e::tcp::Client;

#[tokio::test]
async fn connections_go_to_the_subset_of_hosts_that_is_asked_for() {
    let endpoint = |port: &str, labels: &str| {
        format!(
            "{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}, \
             metadata: {{filter_metadata: {{envoy.lb: {{{labels}}}}}}}}}"
        )
    };
    let hosts = format!(
        "{{name: up, lb_subset_config: {{fallback_policy: NO_FALLBACK, subset_selectors: [{{keys: [stage]}}, {{keys: [stage, version]}}]}}, \
         load_assignment: {{cluster_name: up, endpoints: [{{lb_endpoints: [{}, {}]}}]}}}}",
        endpoint("$TCP", "stage: prod, version: '1'"),
        endpoint("$REFUSED", "stage: dev, version: '2'"),
    );
    let lb = |fields: &str| format!("metadata_match: {{filter_metadata: {{envoy.lb: {{{fields}}}}}}}");
    let weighted = |own: &str| format!("weighted_clusters: {{clusters: [{{name: up, weight: 1{own}}}]}}");
    let cases = [
        ("prod", format!("cluster: up, {}", lb("stage: prod"))),
        ("dev", format!("cluster: up, {}", lb("stage: dev"))),
        ("none", format!("cluster: up, {}", lb("stage: none"))),
        ("all", "cluster: up".to_owned()),
        ("inherited", format!("{}, {}", weighted(""), lb("stage: prod"))),
        ("merged", format!("{}, {}", weighted(&format!(", {}", lb("version: '1'"))), lb("stage: prod"))),
        ("apart", format!("{}, {}", weighted(&format!(", {}", lb("version: '2'"))), lb("stage: prod"))),
    ];
    let listeners: Vec<String> = cases.iter().map(|(name, fields)| listener(name, fields)).collect();
    let mut pair = Pair::start(&listeners, &[hosts]).await.unwrap();
    let (envoy, ours) = both(&pair, async |side| {
        let mut told = Vec::new();
        for (name, _) in &cases {
            for _ in 0..5 {
                let mut client = Client::send(side.at(name), b"DO echo\nhello").await.unwrap();
                let _ = client.finish().await;
                // Whether it ends by a reset is a matter of what was on its way.
                told.push(format!("{name}: {:?}", client.rest().await.unwrap().0));
            }
        }
        told
    })
    .await;
    assert_eq!(ours, envoy, "ours (left) as Envoy");
    let names: Vec<&str> = cases.iter().map(|(name, _)| *name).collect();
    compare_logs(&mut pair, &names).await;
}
