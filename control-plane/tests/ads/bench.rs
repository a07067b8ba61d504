//! Figures, on demand: `cargo test -p control-plane --test ads --release -- --ignored --nocapture`.

use std::time::{Duration, Instant};

use super::client::{Client, Control, instance, node};
use serde_json::json;
use xds_types::ResourceType::{Cluster as CDS, ClusterLoadAssignment as EDS};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn from_an_event_to_the_last_of_many_delta_clients() {
    const CLUSTERS: usize = 100;
    const ENDPOINTS: u16 = 50;
    let clients: usize = std::env::var("CLIENTS").ok().and_then(|n| n.parse().ok()).unwrap_or(1000);
    let names: Vec<String> = (0..CLUSTERS).map(|i| format!("service-{i}")).collect();
    let backends: Vec<_> = names.iter().map(|n| json!({"service": n})).collect();
    let objects = [
        json!(["Gateway", "edge", {"listeners": [{"name": "http", "port": 8080}]}]),
        json!(["Route", "shop", {"gateways": ["edge"], "rules": [{"backends": backends}]}]),
    ];
    let instances = names.iter().flat_map(|n| (1..=ENDPOINTS).map(|p| instance(n, p))).collect();
    let control = Control::start_with(&objects, instances, Duration::from_micros(1)).await;
    let wanted: Vec<&str> = names.iter().map(String::as_str).collect();
    let started = Instant::now();
    let mut all = Vec::new();
    for i in 0..clients {
        let mut c = Client::delta(control.channel().await, node(&format!("p{i}"), "edge", "envoy")).await;
        c.ask(CDS, &[]).await;
        c.ask(EDS, &wanted).await;
        all.push(c);
    }
    for c in &mut all {
        c.accept(CDS, &[]).await;
        c.accept(EDS, &wanted).await;
    }
    println!("{clients} clients, initial sync {:?}, rss {} KiB", started.elapsed(), rss());
    for round in 0..5u16 {
        let started = Instant::now();
        control.register(instance("service-7", 1000 + round)).await;
        for c in &mut all {
            c.accept(EDS, &wanted).await;
        }
        println!("one endpoint changed: last client after {:?}", started.elapsed());
    }
}

fn rss() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4
}
