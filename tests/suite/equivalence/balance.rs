//! Balancing: the same key finds the same host, and load is shared in the same way.

use e2e::pair::{Pair, Side, http_listener, routes};
use e2e::upstream::Upstream;
use e2e::wire::{Role, Wire};
use std::collections::BTreeMap;
use std::fmt::Write as _;

const HOSTS: usize = 9;
const KEYS: usize = 400;

/// Upstreams that both proxies send to, so that keys made of addresses are the same.
async fn hosts() -> Vec<Upstream> {
    let mut hosts = Vec::new();
    for at in 0..HOSTS {
        hosts.push(Upstream::start(&format!("host-{at}")).await.unwrap());
    }
    hosts
}

/// One endpoint in flow style: fields of the endpoint (`hostname: x`), then of what holds it.
fn endpoint(host: &Upstream, inner: &str, outer: &str) -> String {
    format!(
        "{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}{inner}}}{outer}}}",
        host.addr.port()
    )
}

/// A cluster of groups of endpoints; each group has fields (`priority: 1`) of its own.
fn cluster(name: &str, fields: &str, groups: &[(&str, Vec<String>)]) -> String {
    let mut text = String::new();
    for (fields, endpoints) in groups {
        let comma = if fields.is_empty() { "" } else { ", " };
        let _ = write!(text, "{{{fields}{comma}lb_endpoints: [{}]}},", endpoints.join(", "));
    }
    format!("{{name: {name}, {fields}, load_assignment: {{cluster_name: {name}, endpoints: [{text}]}}}}")
}

fn plain(hosts: &[Upstream]) -> Vec<String> {
    hosts.iter().map(|host| endpoint(host, "", "")).collect()
}

fn with(hosts: &[Upstream], inner: impl Fn(usize) -> String, outer: impl Fn(usize) -> String) -> Vec<String> {
    hosts.iter().enumerate().map(|(at, host)| endpoint(host, &inner(at), &outer(at))).collect()
}

fn weighted(hosts: &[Upstream]) -> Vec<String> {
    with(hosts, |_| String::new(), |at| format!(", load_balancing_weight: {}", 1 + at % 4))
}

/// The first few of these are unhealthy.
fn ailing(hosts: &[Upstream], sick: usize, how: &str) -> Vec<String> {
    let health = |at| if at < sick { format!(", health_status: {how}") } else { String::new() };
    with(hosts, |_| String::new(), health)
}

/// A listener `web` with a route for each cluster at `/NAME`, hashed by `x-key`.
fn listener(names: &[String]) -> String {
    let table: Vec<_> = names
        .iter()
        .map(|name| {
            format!(
                "{{match: {{path: /{name}}}, route: {{cluster: {name}, hash_policy: [{{header: {{header_name: x-key}}}}]}}}}"
            )
        })
        .collect();
    http_listener("web", "", &routes(&table.join(",\n")))
}

/// The names of clusters written by [`cluster`].
fn names(clusters: &[String]) -> Vec<String> {
    let name = |text: &String| text["{name: ".len()..text.find(',').unwrap()].to_owned();
    clusters.iter().map(name).collect()
}

/// Which host answers each key.
async fn chosen(side: &Side, cluster: &str, keys: usize) -> Vec<String> {
    let mut wire = Wire::connect(side.at("web")).await.unwrap();
    let mut chosen = Vec::new();
    for key in 0..keys {
        let ask = format!("GET /{cluster} HTTP/1.1\r\nhost: test\r\nx-key: key-{key}\r\n\r\n");
        wire.send(ask.as_bytes()).await.unwrap();
        let answer = wire.message(Role::Response).await.unwrap().expect("an answer");
        let host = answer.header("x-instance").map(ToOwned::to_owned);
        chosen.push(host.unwrap_or_else(|| answer.status().to_string()));
    }
    chosen
}

#[tokio::test]
async fn the_same_key_finds_the_same_host() {
    let hosts = hosts().await;
    let named = |name: &str| with(&hosts, |at| format!(", hostname: {name}{at}.test"), |_| String::new());
    let tagged = with(
        &hosts,
        |_| String::new(),
        |at| format!(", metadata: {{filter_metadata: {{envoy.lb: {{hash_key: tag-{at}}}}}}}"),
    );
    let by_name = "common_lb_config: {consistent_hashing_lb_config: {use_hostname_for_hashing: true}}";
    let extension = |name: &str, message: &str, fields: &str| {
        format!(
            "load_balancing_policy: {{policies: [{{typed_extension_config: {{name: {name}, typed_config: {{\"@type\": \
             type.googleapis.com/envoy.extensions.load_balancing_policies.{message}{fields}}}}}}}]}}"
        )
    };
    let (a, b) = hosts.split_at(5);
    let zones = |one: &str, two: &str| {
        vec![
            (format!("locality: {{zone: a}}, {one}"), weighted(a)),
            (format!("locality: {{zone: b}}, {two}"), plain(b)),
        ]
    };
    let groups = |list: Vec<(String, Vec<String>)>, name: &str, fields: &str| {
        let list: Vec<_> = list.iter().map(|(fields, hosts)| (fields.as_str(), hosts.clone())).collect();
        cluster(name, fields, &list)
    };
    let by_locality = "common_lb_config: {locality_weighted_lb_config: {}}";
    let clusters = vec![
        cluster("ring", "lb_policy: RING_HASH", &[("", plain(&hosts))]),
        cluster("ring_weighted", "lb_policy: RING_HASH", &[("", weighted(&hosts))]),
        cluster(
            "ring_murmur",
            "lb_policy: RING_HASH, ring_hash_lb_config: {hash_function: MURMUR_HASH_2}",
            &[("", weighted(&hosts))],
        ),
        cluster(
            "ring_small",
            "lb_policy: RING_HASH, ring_hash_lb_config: {minimum_ring_size: 3, maximum_ring_size: 25}",
            &[("", weighted(&hosts))],
        ),
        cluster(
            "ring_named",
            &format!("type: STRICT_DNS, lb_policy: RING_HASH, {by_name}"),
            &[("", named("ring"))],
        ),
        cluster("ring_tagged", "lb_policy: RING_HASH", &[("", tagged.clone())]),
        cluster(
            "ring_bounded",
            "lb_policy: RING_HASH, common_lb_config: {consistent_hashing_lb_config: {hash_balance_factor: 120}}",
            &[("", weighted(&hosts))],
        ),
        cluster("maglev", "lb_policy: MAGLEV", &[("", plain(&hosts))]),
        cluster("maglev_weighted", "lb_policy: MAGLEV", &[("", weighted(&hosts))]),
        cluster(
            "maglev_small",
            "lb_policy: MAGLEV, maglev_lb_config: {table_size: 101}",
            &[("", weighted(&hosts))],
        ),
        cluster(
            "maglev_named",
            &format!("type: STRICT_DNS, lb_policy: MAGLEV, {by_name}"),
            &[("", named("table"))],
        ),
        cluster("maglev_tagged", "lb_policy: MAGLEV", &[("", tagged)]),
        cluster(
            "ring_listed",
            &extension(
                "ring",
                "ring_hash.v3.RingHash",
                ", minimum_ring_size: 500, hash_function: MURMUR_HASH_2",
            ),
            &[("", plain(&hosts))],
        ),
        cluster(
            "maglev_listed",
            &extension("maglev", "maglev.v3.Maglev", ", table_size: 1009, locality_weighted_lb_config: {}"),
            &[("locality: {zone: z}, load_balancing_weight: 2", plain(&hosts))],
        ),
        cluster(
            "weightless_zones",
            &format!("lb_policy: MAGLEV, {by_locality}"),
            &[("load_balancing_weight: 2", plain(&hosts))],
        ),
        groups(
            zones("load_balancing_weight: 3", "load_balancing_weight: 1"),
            "ring_zones",
            &format!("lb_policy: RING_HASH, {by_locality}"),
        ),
        groups(
            zones("load_balancing_weight: 1", "load_balancing_weight: 4"),
            "maglev_zones",
            &format!("lb_policy: MAGLEV, {by_locality}"),
        ),
        // Priorities follow the hash too: this holds the sums of priorities, health and panic to Envoy's.
        cluster(
            "spilling",
            "lb_policy: RING_HASH",
            &[("priority: 0", ailing(a, 2, "UNHEALTHY")), ("priority: 1", plain(b))],
        ),
        cluster(
            "degraded",
            "lb_policy: RING_HASH",
            &[("priority: 0", ailing(a, 3, "DEGRADED")), ("priority: 1", plain(b))],
        ),
        cluster(
            "part_in_panic",
            "lb_policy: RING_HASH",
            &[("priority: 0", ailing(a, 4, "UNHEALTHY")), ("priority: 1", ailing(b, 2, "UNHEALTHY"))],
        ),
        cluster(
            "in_panic",
            "lb_policy: MAGLEV",
            &[("priority: 0", ailing(a, 5, "UNHEALTHY")), ("priority: 1", ailing(b, 4, "TIMEOUT"))],
        ),
        cluster(
            "never_in_panic",
            "lb_policy: MAGLEV, common_lb_config: {healthy_panic_threshold: {value: 0}}",
            &[("priority: 0", ailing(a, 4, "UNHEALTHY")), ("priority: 1", ailing(b, 3, "UNHEALTHY"))],
        ),
        // What no endpoints have is a priority without hosts.
        cluster(
            "gaps",
            "lb_policy: RING_HASH",
            &[("priority: 1", ailing(a, 2, "UNHEALTHY")), ("priority: 4", plain(b))],
        ),
        cluster(
            "gaps_in_panic",
            "lb_policy: MAGLEV",
            &[("priority: 2", ailing(a, 4, "UNHEALTHY")), ("priority: 5", ailing(b, 3, "UNHEALTHY"))],
        ),
        cluster(
            "draining",
            "lb_policy: RING_HASH",
            &[("priority: 0", ailing(a, 3, "DRAINING")), ("priority: 1", plain(b))],
        ),
    ];
    let names = names(&clusters);
    let pair = Pair::start(&[listener(&names)], &clusters).await.unwrap();
    let mut wrong = String::new();
    for name in &names {
        let (envoy, ours) = tokio::join!(chosen(&pair.envoy, name, KEYS), chosen(&pair.ours, name, KEYS));
        let others = envoy.iter().zip(&ours).filter(|(a, b)| a != b).count();
        if others > 0 {
            let _ = writeln!(
                wrong,
                "{name}: {others} of {KEYS} keys; {:?}",
                envoy.iter().zip(&ours).take(8).collect::<Vec<_>>()
            );
        }
        let all: std::collections::BTreeSet<_> = envoy.iter().collect();
        assert!(all.len() >= 2 || name == "weightless_zones", "{name}: the keys spread over {all:?} only");
    }
    assert!(wrong.is_empty(), "keys that find another host than with Envoy:\n{wrong}");
}

/// Shares of the hosts in percent.
fn shares(chosen: &[String]) -> BTreeMap<&str, f64> {
    let mut shares = BTreeMap::new();
    for host in chosen {
        *shares.entry(host.as_str()).or_insert(0.0) += 100.0 / chosen.len() as f64;
    }
    shares
}

#[tokio::test]
async fn weighted_clusters_go_by_the_hash_where_they_are_told_to() {
    let hosts = hosts().await;
    let clusters: Vec<_> = (0..3)
        .map(|at| cluster(&format!("c{at}"), "lb_policy: RANDOM", &[("", plain(&hosts[at..=at]))]))
        .collect();
    let weighted = "weighted_clusters: {use_hash_policy: true, clusters: [{name: c0, weight: 50}, {name: c1, weight: 30}, {name: c2, weight: 20}]}";
    let by = "hash_policy: [{header: {header_name: x-key}}, {query_parameter: {name: k}}]";
    let table = format!(
        "{{match: {{path: /by}}, route: {{{weighted}, {by}}}}}, {{match: {{path: /none}}, route: {{{weighted}}}}}"
    );
    let pair = Pair::start(&[http_listener("web", "", &routes(&table))], &clusters).await.unwrap();
    let (envoy, ours) = tokio::join!(chosen(&pair.envoy, "by", KEYS), chosen(&pair.ours, "by", KEYS));
    assert_eq!(envoy, ours);
    assert_eq!(shares(&ours).len(), 3);
    // Without a hash by chance.
    let ours = chosen(&pair.ours, "none", KEYS).await;
    assert_eq!(shares(&ours).len(), 3, "{ours:?}");
}

#[tokio::test]
async fn load_is_shared_alike() {
    const REQUESTS: usize = 1_200;
    let hosts = hosts().await;
    let (a, b) = hosts.split_at(5);
    let zone = |name: &str, weight: u32, hosts: Vec<String>| {
        (format!("locality: {{zone: {name}}}, load_balancing_weight: {weight}"), hosts)
    };
    let by_locality = |name: &str, groups: &[(String, Vec<String>)]| {
        let groups: Vec<_> = groups.iter().map(|(fields, hosts)| (fields.as_str(), hosts.clone())).collect();
        cluster(name, "common_lb_config: {locality_weighted_lb_config: {}}", &groups)
    };
    let policy = |name: &str| format!("lb_policy: {name}");
    let clusters = vec![
        cluster("rr_weighted", &policy("ROUND_ROBIN"), &[("", weighted(&hosts))]),
        cluster("lr_weighted", &policy("LEAST_REQUEST"), &[("", weighted(&hosts))]),
        cluster("random_weighted", &policy("RANDOM"), &[("", weighted(&hosts))]),
        cluster(
            "rr_spilling",
            &policy("ROUND_ROBIN"),
            &[("priority: 0", ailing(a, 2, "UNHEALTHY")), ("priority: 1", plain(b))],
        ),
        cluster(
            "rr_degraded",
            &policy("ROUND_ROBIN"),
            &[("priority: 0", ailing(a, 3, "DEGRADED")), ("priority: 1", plain(b))],
        ),
        cluster("rr_panic", &policy("ROUND_ROBIN"), &[("", ailing(&hosts, 5, "UNHEALTHY"))]),
        cluster(
            "rr_fail_in_panic",
            "lb_policy: ROUND_ROBIN, common_lb_config: {zone_aware_lb_config: {fail_traffic_on_panic: true}}",
            &[("", ailing(&hosts, 5, "UNHEALTHY"))],
        ),
        cluster(
            "none_healthy",
            "common_lb_config: {healthy_panic_threshold: {value: 0}}",
            &[("", ailing(&hosts, HOSTS, "UNHEALTHY"))],
        ),
        by_locality("zones", &[zone("a", 3, weighted(a)), zone("b", 1, plain(b))]),
        by_locality("zones_ailing", &[zone("a", 2, ailing(a, 3, "UNHEALTHY")), zone("b", 1, plain(b))]),
    ];
    let names = names(&clusters);
    let pair = Pair::start(&[listener(&names)], &clusters).await.unwrap();
    let mut wrong = String::new();
    for name in &names {
        let (envoy, ours) =
            tokio::join!(chosen(&pair.envoy, name, REQUESTS), chosen(&pair.ours, name, REQUESTS));
        let (envoy, ours) = (shares(&envoy), shares(&ours));
        let apart = envoy.keys().chain(ours.keys()).map(|host| {
            let share = |of: &BTreeMap<&str, f64>| of.get(host).copied().unwrap_or(0.0);
            (share(&envoy) - share(&ours)).abs()
        });
        // Five sigma of two samples at a share of a tenth come to about six percent.
        if apart.fold(0.0, f64::max) > 6.0 {
            let _ = writeln!(wrong, "{name}:\n  envoy {envoy:.1?}\n  ours  {ours:.1?}");
        }
    }
    assert!(wrong.is_empty(), "shares in percent that differ:\n{wrong}");
}
