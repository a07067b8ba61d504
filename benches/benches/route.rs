//! Route match and host choice: the cost must follow neither the number of routes nor that of hosts.

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use data_plane_core::config::{
    Action, ClusterChoice, DirectResponse, Forward, Hashing, LbPolicy, LeastRequest, Maglev, MetadataMatch,
    PathMatch, RequireTls, RingHash, Route, RouteConfig, RouteMatch, SlowStart, SubsetConfig, SubsetFallback,
    SubsetSelector, VirtualHost, f64Bits,
};
use data_plane_core::headers::edit::HeaderEdits;
use data_plane_core::headers::{HeaderList, RequestHead, Scheme, Version};
use data_plane_core::lb::{Facts, HostIndex, HostView, PickCx, Selector, SelectorOptions, Subsets};
use data_plane_core::matcher::Regex;
use data_plane_core::route::{RouteQuery, RouteTable};
use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

fn head(path: &str) -> RequestHead {
    let mut headers = HeaderList::default();
    for (name, value) in [("user-agent", "bench"), ("accept", "*/*"), ("x-forwarded-proto", "http")] {
        headers.append(name.as_bytes(), value.as_bytes());
    }
    RequestHead {
        method: "GET".into(),
        path: path.into(),
        authority: "www.example.com".into(),
        scheme: Scheme::Http,
        version: Version::Http11,
        headers,
    }
}

fn route(path: PathMatch, action: Action) -> Route {
    let matches = RouteMatch {
        path,
        case_sensitive: true,
        fraction: None,
        headers: Vec::new(),
        query: Vec::new(),
        grpc: false,
    };
    Route {
        name: "".into(),
        matches,
        action,
        tracing: None,
        request_edits: HeaderEdits::default(),
        response_edits: HeaderEdits::default(),
        overrides: Default::default(),
        metadata: Default::default(),
    }
}

fn to_cluster() -> Action {
    Action::Forward(Box::new(Forward {
        upgrades: Vec::new(),
        cluster: ClusterChoice::Named("backend".into()),
        metadata_match: None,
        cluster_not_found_status: 503,
        path_rewrite: None,
        host_rewrite: None,
        append_x_forwarded_host: false,
        timeout: Some(Duration::from_secs(15)),
        idle_timeout: None,
        max_stream_duration: None,
        grpc_timeout_header_max: None,
        grpc_timeout_header_offset: Duration::ZERO,
        rate_limits: Vec::new(),
        include_vh_rate_limits: false,
        hash_policy: Vec::new(),
        retry: None,
        body_limit: Default::default(),
        mirrors: [].into(),
        high_priority: false,
    }))
}

fn config(routes: Vec<Route>) -> Arc<RouteConfig> {
    let virtual_host = VirtualHost {
        name: "all".into(),
        domains: vec!["*.example.com".into()],
        routes,
        require_tls: RequireTls::No,
        request_edits: HeaderEdits::default(),
        response_edits: HeaderEdits::default(),
        include_request_attempt_count: false,
        include_attempt_count_in_response: false,
        include_is_timeout_retry: false,
        rate_limits: Vec::new(),
        overrides: Default::default(),
    };
    Arc::new(RouteConfig {
        name: "bench".into(),
        virtual_hosts: vec![virtual_host],
        request_edits: HeaderEdits::default(),
        response_edits: HeaderEdits::default(),
        internal_only_headers: Vec::new(),
        most_specific_header_mutations_wins: false,
        ignore_port_in_host_matching: false,
        ignore_path_parameters: false,
        validate_clusters: false,
        overrides: Default::default(),
    })
}

fn prefix(at: usize) -> PathMatch {
    PathMatch::Prefix(format!("/service/{at}/api").into())
}

fn exact(at: usize) -> PathMatch {
    PathMatch::Exact(format!("/service/{at}/api/users").into())
}

fn regex(at: usize) -> PathMatch {
    PathMatch::Regex(Regex::new(&format!("/service/{at}/api/[a-z]+")).expect("the expression is valid"))
}

/// Of n routes the last one matches.
fn last_route(c: &mut Criterion) {
    let mut group = c.benchmark_group("last_route");
    type Path = fn(usize) -> PathMatch;
    let kinds: [(&str, Path, usize); 3] =
        [("prefix", prefix, 10_000), ("exact", exact, 10_000), ("regex", regex, 1_000)];
    for (kind, path, most) in kinds {
        for n in [1, 100, 1_000, 10_000].into_iter().filter(|n| *n <= most) {
            let table = RouteTable::build(config((0..n).map(|at| route(path(at), to_cluster())).collect()));
            let head = head(&format!("/service/{}/api/users", n - 1));
            group.bench_function(BenchmarkId::new(kind, n), |b| {
                b.iter(|| {
                    let query = RouteQuery {
                        head: &head,
                        random: 7,
                        is_tls: false,
                        internal: false,
                        runtime: None,
                        peer: None,
                    };
                    black_box(table.route(&query).and_then(|matched| matched.cluster(&head)).is_some())
                });
            });
        }
    }
    group.finish();
}

fn build(c: &mut Criterion) {
    let direct = || Action::Direct(DirectResponse { status: 200, body: "".into(), body_format: None });
    let config = config((0..10_000).map(|at| route(prefix(at), direct())).collect());
    c.bench_function("build_10000_prefixes", |b| {
        b.iter_batched(|| config.clone(), RouteTable::build, BatchSize::LargeInput);
    });
}

/// A few requests on every host.
struct Busy;

impl Facts for Busy {
    fn active(&self, host: HostIndex) -> u32 {
        host.0 & 3
    }

    fn total_active(&self) -> u32 {
        1_500
    }

    fn now(&self) -> Duration {
        Duration::from_secs(3600)
    }
}

fn host_choice(c: &mut Criterion) {
    let mut group = c.benchmark_group("host_choice_of_1000");
    let full_scan = LeastRequest { choices: None, ..LeastRequest::default() };
    let bounded = Hashing { balance_factor: Some(150), ..Hashing::default() };
    let slow_start = SlowStart {
        window: Duration::from_secs(60),
        aggression: f64Bits::new(1.0),
        min_weight_percent: f64Bits::new(10.0),
    };
    let policies = [
        ("round_robin", LbPolicy::ROUND_ROBIN),
        ("round_robin_after_slow_start", LbPolicy::RoundRobin { slow_start: Some(slow_start) }),
        ("least_request", LbPolicy::LeastRequest(LeastRequest::default())),
        ("least_request_full_scan", LbPolicy::LeastRequest(full_scan)),
        ("random", LbPolicy::Random),
        ("ring_hash", LbPolicy::RingHash(RingHash::default())),
        (
            "ring_hash_bounded",
            LbPolicy::RingHash(RingHash { hashing: bounded.clone(), ..RingHash::default() }),
        ),
        ("maglev", LbPolicy::Maglev(Maglev::default())),
        ("maglev_bounded", LbPolicy::Maglev(Maglev { hashing: bounded, ..Maglev::default() })),
    ];
    let keys: Vec<_> = (0..1_000).map(|at| format!("10.0.{}.{}:8080", at / 250, at % 250)).collect();
    for (name, policy) in policies {
        for (kind, weights) in [("equal", 1), ("weighted", 7)] {
            let hosts: Vec<_> = (0..1_000)
                .map(|at| HostView {
                    weight: 1 + at % weights,
                    key: &keys[at as usize],
                    healthy_since: Some(Duration::ZERO),
                    ..HostView::default()
                })
                .collect();
            let selector = Selector::build(&policy, &hosts, SelectorOptions::default(), None, 1);
            group.bench_function(BenchmarkId::new(name, kind), |b| {
                b.iter(|| {
                    let cx = PickCx {
                        random: fastrand::u64(..),
                        hash: None,
                        attempt: 0,
                        tried_priorities: &[],
                        facts: &Busy,
                    };
                    black_box(selector.pick(&cx))
                });
            });
        }
    }
    group.finish();
}

/// A request with metadata finds its part of the hosts first: of 1,000 hosts a third, and one of single hosts.
fn subset_choice(c: &mut Criterion) {
    let mut group = c.benchmark_group("subset_choice_of_1000");
    let by = |keys: &[&str], single_host| SubsetSelector {
        keys: keys.iter().map(|key| (*key).into()).collect(),
        single_host,
        fallback: None,
    };
    let config = Arc::new(SubsetConfig {
        selectors: vec![by(&["stage", "version"], false), by(&["id"], true)],
        fallback: SubsetFallback::Any,
        ..SubsetConfig::default()
    });
    let label = |key: &str, value: String| (key.to_owned(), serde_json::Value::from(value));
    let labels: Vec<BTreeMap<_, _>> = (0..1_000)
        .map(|at| {
            let version = label("version", format!("1.{}", at % 3));
            [label("stage", "prod".into()), version, label("id", format!("host-{at}"))].into()
        })
        .collect();
    let keys: Vec<_> = (0..1_000).map(|at| format!("10.0.{}.{}:8080", at / 250, at % 250)).collect();
    let hosts: Vec<_> = keys.iter().map(|key| HostView { key, ..HostView::default() }).collect();
    let labels: Vec<_> = labels.iter().collect();
    let asked = |pairs: &[(&str, &str)]| -> MetadataMatch {
        let pair = |(key, value): &(&str, &str)| (Box::<str>::from(*key), serde_json::Value::from(*value));
        pairs.iter().map(pair).collect()
    };
    let asked = [
        ("subset", asked(&[("stage", "prod"), ("version", "1.1")])),
        ("single", asked(&[("id", "host-777")])),
        ("fallback", asked(&[("stage", "prod"), ("version", "2.0")])),
    ];
    let policies = [
        ("round_robin", LbPolicy::ROUND_ROBIN),
        ("least_request", LbPolicy::LeastRequest(LeastRequest::default())),
        ("maglev", LbPolicy::Maglev(Maglev::default())),
    ];
    for (name, policy) in policies {
        let subsets = Subsets::build(&config, &policy, &hosts, &labels, SelectorOptions::default(), None, 1);
        for (kind, asked) in &asked {
            group.bench_function(BenchmarkId::new(name, kind), |b| {
                b.iter(|| {
                    let cx = PickCx {
                        random: fastrand::u64(..),
                        hash: None,
                        attempt: 0,
                        tried_priorities: &[],
                        facts: &Busy,
                    };
                    black_box(subsets.pick(Some(asked), &cx))
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, last_route, build, host_choice, subset_choice);
criterion_main!(benches);
