//! Health of hosts: the verdicts of checks and of outlier detection beside the real Envoy, hosts that come and go
//! under load, our circuit breaker.

mod breaker;
mod filter;
mod hosts;
mod verdicts;

use anyhow::{Result, ensure};
use e2e::envoy::Envoy;
use std::collections::BTreeMap;

/// A bootstrap for these listeners and clusters.
fn bootstrap(listeners: &[String], clusters: &[String]) -> String {
    format!(
        "{{admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}}}, node: {{id: node-1, cluster: fleet}}, \
         static_resources: {{listeners: [\n{}\n], clusters: [\n{}\n]}}}}\n",
        listeners.join(",\n"),
        clusters.join(",\n")
    )
}

/// A cluster of these endpoints.
fn cluster(name: &str, ports: &[u16], fields: &str) -> String {
    let endpoints: Vec<String> = ports
        .iter()
        .map(|port| {
            format!(
                "{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}}}"
            )
        })
        .collect();
    format!(
        "{{name: {name}, connect_timeout: 1s, load_assignment: {{cluster_name: {name}, endpoints: [{{lb_endpoints: [{}]}}]}}, {fields}}}",
        endpoints.join(", ")
    )
}

/// A check every 50 ms, whether there is traffic or not.
fn check(fields: &str) -> String {
    format!(
        "health_checks: [{{timeout: 0.5s, interval: 0.05s, no_traffic_interval: 0.05s, unhealthy_threshold: 2, \
         healthy_threshold: 2, {fields}}}]"
    )
}

/// `cluster::address` and its `health_flags`.
async fn flags(proxy: &Envoy) -> Result<BTreeMap<String, String>> {
    let text = proxy.admin("/clusters").await?.text();
    let of_line = |line: &str| {
        let (host, flags) = line.split_once("::health_flags::")?;
        Some((host.to_owned(), flags.to_owned()))
    };
    let flags: BTreeMap<_, _> = text.lines().filter_map(of_line).collect();
    ensure!(!flags.is_empty(), "no hosts in {text}");
    Ok(flags)
}
