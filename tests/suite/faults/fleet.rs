//! Changes and losses around a proxy while requests go through it: none of them is lost.

use super::*;
use e2e::client::Client;
use e2e::control::Control;
use e2e::dns::Dns;
use e2e::load::{Ask, Clients};
use e2e::store::Etcd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;
use tokio::task::JoinSet;

/// Requests without a pause until told to stop.
struct Steady {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    tasks: JoinSet<BTreeMap<String, usize>>,
}

impl Steady {
    /// Clients that keep their connection and end by themselves once no new one is taken.
    fn start(web: SocketAddr, clients: usize, method: &'static str, path: &'static str) -> Self {
        let (stop, done) = <(Arc<AtomicBool>, Arc<AtomicUsize>)>::default();
        let mut tasks = JoinSet::new();
        for client in 0..clients {
            let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
            tasks.spawn(async move {
                let mut told = BTreeMap::new();
                let mut one = Clients::new(web, 1);
                for n in 0.. {
                    if stop.load(Relaxed) {
                        break;
                    }
                    let body = if method == "POST" { 300 } else { 0 };
                    let ask = Ask::get(format!("{client}-{n}"), path, "ok").sending(method, body);
                    let verdict = one.round(vec![ask]).await.into_values().next().unwrap_or_default();
                    if verdict.contains("onnection refused") {
                        break;
                    }
                    *told.entry(verdict).or_default() += 1;
                    done.fetch_add(1, Relaxed);
                }
                told
            });
        }
        Self { stop, done, tasks }
    }

    /// Waits for some more requests to be done.
    async fn goes_on(&self) {
        let then = self.done.load(Relaxed) + 100;
        eventually("requests go on", async || {
            let done = self.done.load(Relaxed);
            if done >= then { Ok(()) } else { Err(format!("{done} of {then}")) }
        })
        .await;
    }

    /// What was answered in all.
    async fn end(mut self) -> BTreeMap<String, usize> {
        self.stop.store(true, Relaxed);
        self.told().await
    }

    async fn told(&mut self) -> BTreeMap<String, usize> {
        let mut all = BTreeMap::new();
        while let Some(told) = self.tasks.join_next().await {
            for (verdict, count) in told.unwrap() {
                *all.entry(verdict).or_default() += count;
            }
        }
        all
    }
}

fn only_good(told: &BTreeMap<String, usize>, what: &str) {
    assert!(told.len() == 1 && told.contains_key("200 ok"), "{what}: {told:?}");
}

/// Moves a discovery response into its place.
fn place(dir: &Path, file: &str, kind: &str, resource: &str) {
    let resource = format!("{{'@type': type.googleapis.com/envoy.config.{kind}, {}", &resource[1..]);
    let draft = dir.join(format!(".{file}"));
    std::fs::write(&draft, format!("{{resources: [{resource}]}}")).unwrap();
    std::fs::rename(draft, dir.join(file)).unwrap();
}

fn assignment(ports: &[u16]) -> String {
    let all: Vec<String> = ports
        .iter()
        .map(|port| {
            format!(
                "{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}}}"
            )
        })
        .collect();
    format!("{{cluster_name: eds, endpoints: [{{lb_endpoints: [{}]}}]}}", all.join(", "))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_that_flap_cost_no_request() {
    let mut ups = Vec::new();
    for _ in 0..3 {
        ups.push(Faulty::start().await.unwrap());
    }
    let ports: Vec<u16> = ups.iter().map(|up| up.addr.port()).collect();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("eds.yaml");
    let eds = format!(
        "{{name: eds, type: EDS, eds_cluster_config: {{eds_config: {{resource_api_version: V3, path_config_source: {{path: {}}}}}}}, {UNLIMITED}}}",
        file.display()
    );
    let eds2 = eds
        .replace("name: eds,", "name: eds2,")
        .replace("eds_cluster_config: {", "eds_cluster_config: {service_name: eds, ")
        .replace(UNLIMITED, &format!("{UNLIMITED}, {HTTP2}"));
    place(dir.path(), "eds.yaml", "endpoint.v3.ClusterLoadAssignment", &assignment(&ports));
    let routes = [route("/h1/", "eds", "timeout: 0s"), route("/h2/", "eds2", "timeout: 0s")];
    let site = Site::start(true, &bootstrap(&[web(&routes)], &[eds, eds2])).await;
    let loads = [Steady::start(site.web, 6, "POST", "/h1/"), Steady::start(site.web, 6, "POST", "/h2/")];
    for round in 0..24_u64 {
        // One or two of three, never the same as before.
        let shown: Vec<u16> = (0..=round % 2).map(|n| ports[((round + n) % 3) as usize]).collect();
        place(dir.path(), "eds.yaml", "endpoint.v3.ClusterLoadAssignment", &assignment(&shown));
        eventually("the update is taken", async || {
            let stats = site.proxy.stats().await?;
            for cluster in ["eds", "eds2"] {
                ensure!(
                    stats[&format!("cluster.{cluster}.membership_total")] == shown.len() as u64,
                    "not yet"
                );
                ensure!(stats[&format!("cluster.{cluster}.update_success")] > round, "not yet");
            }
            Ok(())
        })
        .await;
        loads[0].goes_on().await;
    }
    let mut total = 0;
    for load in loads {
        let told = load.end().await;
        only_good(&told, "while endpoints flap");
        total += told["200 ok"];
    }
    let seen: usize = ups.iter().map(Faulty::seen).sum();
    assert_eq!(seen, total, "every POST came once");
    drop(ups);
    site.over().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_fails_is_left_out_and_nobody_notices() {
    let (sick, well, better) =
        (Faulty::start().await.unwrap(), Faulty::start().await.unwrap(), Faulty::start().await.unwrap());
    let ports = [&sick, &well, &better].map(|up| up.addr.port());
    let assignment = assignment(&ports).replace("cluster_name: eds", "cluster_name: many");
    let many = format!(
        "{{name: many, load_assignment: {assignment}, {UNLIMITED}, outlier_detection: {{consecutive_5xx: 5, interval: 600s, \
         base_ejection_time: 600s, max_ejection_percent: 50}}}}"
    );
    let policy = format!(
        "timeout: 0s, retry_policy: {{retry_on: \"5xx,reset\", {RETRIES}, host_selection_retry_max_attempts: 5, retry_host_predicate: \
         [{{name: envoy.retry_host_predicates.previous_hosts, typed_config: {{\"@type\": \
         type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate}}}}]}}"
    );
    let site = Site::start(true, &bootstrap(&[web(&[route("/many/", "many", &policy)])], &[many])).await;
    let load = Steady::start(site.web, 8, "GET", "/many/");
    load.goes_on().await;
    assert!(sick.seen() > 0);
    sick.take();
    sick.always(Some("status:503|status:503"));
    eventually("it is ejected", async || {
        let stats = site.proxy.stats().await?;
        ensure!(stats["cluster.many.outlier_detection.ejections_active"] == 1, "not yet");
        Ok(())
    })
    .await;
    load.goes_on().await;
    let after = sick.seen();
    load.goes_on().await;
    assert_eq!(sick.seen(), after, "an ejected host is asked nothing");
    only_good(&load.end().await, "beside a host that fails");
    drop((sick, well, better));
    site.over().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_whose_checks_flap_cost_no_request() {
    let ups = [Faulty::start().await.unwrap(), Faulty::start().await.unwrap()];
    let assignment = assignment(&ups.each_ref().map(|up| up.addr.port()))
        .replace("cluster_name: eds", "cluster_name: many");
    let many = format!(
        "{{name: many, load_assignment: {assignment}, {UNLIMITED}, health_checks: [{{timeout: 5s, interval: 0.03s, no_traffic_interval: 0.03s, \
         unhealthy_threshold: 1, healthy_threshold: 1, http_health_check: {{path: /hz, request_headers_to_add: \
         [{{header: {{key: x-id, value: check}}}}]}}}}]}}"
    );
    let site =
        Site::start(true, &bootstrap(&[web(&[route("/many/", "many", "timeout: 0s")])], &[many])).await;
    let load = Steady::start(site.web, 8, "POST", "/many/");
    let flaps = async |healthy: u64| {
        eventually("the check's verdict counts", async || {
            let is = site.proxy.stats().await?["cluster.many.membership_healthy"];
            ensure!(is == healthy, "{is}");
            Ok(())
        })
        .await;
    };
    flaps(2).await;
    for round in 0..8 {
        // Work is done well all the time; only checks fail.
        ups[round % 2].checks(503);
        flaps(1).await;
        load.goes_on().await;
        ups[round % 2].checks(200);
        flaps(2).await;
        load.goes_on().await;
    }
    only_good(&load.end().await, "while checks flap");
    drop(ups);
    site.over().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_do_not_resolve_keep_the_last_addresses_and_follow_when_they_do() {
    let dns = Dns::start().await.unwrap();
    let (one, two) = (Faulty::start().await.unwrap(), Faulty::start().await.unwrap());
    // The same port at two addresses: what a name means is told by which of them it is.
    drop(two);
    let two = Faulty::start_at(SocketAddr::from(([127, 0, 0, 2], one.addr.port()))).await.unwrap();
    let named = format!(
        "{{name: named, type: STRICT_DNS, dns_refresh_rate: 0.05s, dns_failure_refresh_rate: {{base_interval: 0.05s, max_interval: 0.05s}}, \
         dns_lookup_family: V4_ONLY, {UNLIMITED}, typed_dns_resolver_config: {{name: c, typed_config: {{\"@type\": \
         type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig, resolvers: \
         [{{socket_address: {{address: 127.0.0.1, port_value: {}}}}}]}}}}, load_assignment: {{cluster_name: named, endpoints: [{{lb_endpoints: \
         [{{endpoint: {{address: {{socket_address: {{address: shop.test, port_value: {}}}}}}}}}]}}]}}}}",
        dns.addr.port(),
        one.addr.port()
    );
    dns.answer(&["127.0.0.1"]);
    let site =
        Site::start(true, &bootstrap(&[web(&[route("/named/", "named", "timeout: 0s")])], &[named])).await;
    let load = Steady::start(site.web, 8, "POST", "/named/");
    load.goes_on().await;
    for _ in 0..3 {
        dns.fail();
        let failures = site.proxy.stats().await.unwrap()["cluster.named.update_failure"];
        eventually("questions fail", async || {
            let now = site.proxy.stats().await?["cluster.named.update_failure"];
            ensure!(now >= failures + 2, "{now}");
            Ok(())
        })
        .await;
        load.goes_on().await;
        for (address, up) in [("127.0.0.2", &two), ("127.0.0.1", &one)] {
            dns.answer(&[address]);
            let before = up.seen();
            eventually("the name means another", async || {
                let seen = up.seen();
                ensure!(seen > before + 20, "{seen} after {before}");
                Ok(())
            })
            .await;
        }
    }
    let told = load.end().await;
    only_good(&told, "while names fail");
    assert_eq!(one.seen() + two.seen(), told["200 ok"], "every POST came once");
    drop((one, two));
    site.over().await;
}

const OBJECTS: &str = "
kind: Service
name: shop
---
kind: Route
name: shop
spec: {gateways: [edge], rules: [{backends: [{service: shop}]}]}
";

fn gateway(port: u16, limit: u32) -> String {
    format!(
        "
kind: Gateway
name: edge
spec:
  group: edge
  listeners: [{{name: web, address: 127.0.0.1, port: {port}}}]
  limits: {{max_request_headers: {limit}}}
"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn losing_the_store_and_the_control_plane_costs_no_request() {
    let mut etcd = Etcd::start().await.unwrap();
    let mut control =
        Control::start(&["--store", &format!("etcd://{}", etcd.endpoint().trim_start_matches("http://"))])
            .await
            .unwrap();
    let (one, two) = (Faulty::start().await.unwrap(), Faulty::start().await.unwrap());
    let port = free_port().unwrap();
    control.apply(&gateway(port, 90)).await.unwrap();
    control.apply(OBJECTS).await.unwrap();
    control.register("shop", "one", one.addr, None).await.unwrap();
    let mut proxy =
        e2e::proxy::start(&control.bootstrap("edge", "proxy-1", true).await.unwrap()).await.unwrap();
    let web = eventually("the gateway's listener is there", async || proxy.listener("edge/web").await).await;
    let client = Client::h1();
    eventually("it serves", async || {
        let answer = client.get(&format!("http://{web}/")).await?;
        ensure!(answer.status == 200, "{}", answer.status);
        Ok(())
    })
    .await;
    let load = Steady::start(web, 8, "POST", "/");
    load.goes_on().await;
    for round in 0..2_u32 {
        etcd.kill();
        load.goes_on().await;
        control.kill();
        load.goes_on().await;
        etcd.restart().await.unwrap();
        control.restart().await.unwrap();
        load.goes_on().await;
        // It is heard again: an instance that comes is used, one that goes is not.
        eventually("an instance is registered", async || {
            control.register("shop", "two", two.addr, None).await
        })
        .await;
        let before = two.seen();
        eventually("the other is used", async || {
            let seen = two.seen();
            ensure!(seen > before + 5, "{seen}");
            Ok(())
        })
        .await;
        // The listener changes under the load.
        eventually("an update is taken", async || control.apply(&gateway(port, 91 + round)).await).await;
        load.goes_on().await;
        control.deregister("shop", "two").await.unwrap();
        eventually("the other is left alone", async || {
            let before = two.seen();
            load.goes_on().await;
            ensure!(two.seen() == before, "still asked");
            Ok(())
        })
        .await;
    }
    let told = load.end().await;
    only_good(&told, "while the control plane is lost and found");
    proxy.process().check().unwrap();
    let log = proxy.process().log();
    assert!(!log.contains("panicked"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listeners_that_change_under_load_cost_no_request() {
    let dir = tempfile::tempdir().unwrap();
    let lds = dir.path().join("lds.yaml");
    let port = free_port().unwrap();
    let listener = |path: &str, fields: &str| {
        web(&[route("/", path, "timeout: 0s")])
            .replace("port_value: 0", &format!("port_value: {port}"))
            .replace("stat_prefix: web, delayed", &format!("stat_prefix: web, {fields}delayed"))
            .replace("$DIR", &dir.path().display().to_string())
    };
    place(dir.path(), "lds.yaml", "listener.v3.Listener", &listener("up", ""));
    let clusters = [cluster("up", "$UP", UNLIMITED), cluster("up2", "$UP", &format!("{UNLIMITED}, {HTTP2}"))];
    let config = bootstrap(&[], &clusters).replacen(
        "static_resources",
        &format!("dynamic_resources: {{lds_config: {{resource_api_version: V3, path_config_source: {{path: {}}}}}}}, static_resources", lds.display()),
        1,
    );
    let site = Site::start(true, &config).await;
    let load = Steady::start(site.web, 8, "POST", "/");
    for round in 0..10 {
        let fields = format!("server_name: s{round}, ");
        let before = site.proxy.stats().await.unwrap()["listener_manager.lds.update_success"];
        place(
            dir.path(),
            "lds.yaml",
            "listener.v3.Listener",
            &listener(if round % 2 == 0 { "up2" } else { "up" }, &fields),
        );
        eventually("the update is taken", async || {
            let now = site.proxy.stats().await?["listener_manager.lds.update_success"];
            ensure!(now > before, "{now}");
            Ok(())
        })
        .await;
        load.goes_on().await;
    }
    let told = load.end().await;
    only_good(&told, "while the listener changes");
    assert_eq!(site.up.seen(), told["200 ok"], "every POST came once");
    site.over().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reloading_under_load_costs_no_request() {
    let clusters = |fields: &str| {
        [
            cluster("up", "$UP", &format!("{UNLIMITED}{fields}")),
            cluster("up2", "$UP", &format!("{UNLIMITED}, {HTTP2}")),
        ]
    };
    let routes = |to: &str| web(&[route("/", to, "timeout: 0s")]);
    let mut site = Site::start(true, &bootstrap(&[routes("up")], &clusters(""))).await;
    // The listener stays where it is.
    let file = site.proxy.dir().join("bootstrap.yaml");
    let load = Steady::start(site.web, 8, "POST", "/");
    let text = std::fs::read_to_string(&file).unwrap();
    for round in 0..8 {
        load.goes_on().await;
        let next = text.replace("max_requests: 9999", &format!("max_requests: {}", 9000 + round));
        let next = if round % 2 == 0 { next.replace("cluster: up,", "cluster: up2,") } else { next };
        std::fs::write(&file, next).unwrap();
        site.proxy.process().signal("HUP").unwrap();
        eventually("it is read", async || {
            let dump = site.proxy.admin("/config_dump").await?.text();
            ensure!(dump.contains(&format!("\"max_requests\": {}", 9000 + round)), "not yet");
            Ok(())
        })
        .await;
    }
    load.goes_on().await;
    let told = load.end().await;
    only_good(&told, "while reloading");
    assert_eq!(site.up.seen(), told["200 ok"], "every POST came once");
    site.over().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn draining_under_load_answers_everything_it_took() {
    for path in ["/h1/", "/h2/"] {
        let routes = [route("/h1/", "up", "timeout: 0s"), route("/h2/", "up2", "timeout: 0s")];
        let clusters =
            [cluster("up", "$UP", UNLIMITED), cluster("up2", "$UP", &format!("{UNLIMITED}, {HTTP2}"))];
        let mut site = Site::start(true, &bootstrap(&[web(&routes)], &clusters)).await;
        let mut load = Steady::start(site.web, 16, "POST", path);
        load.goes_on().await;
        site.proxy.process().signal("TERM").unwrap();
        // Clients go on until no new connection is taken.
        let told = load.told().await;
        only_good(&told, "while draining");
        assert_eq!(site.up.seen(), told["200 ok"], "every POST came once");
        let status = site.proxy.process().wait(Duration::from_secs(30)).unwrap();
        assert!(status.success(), "{status}");
        let log = site.proxy.process().log();
        assert!(!log.contains("panicked"), "{log}");
    }
}
