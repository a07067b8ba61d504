use super::super::dns::{Answer, ResolveError};
use super::super::pick::PickRequest;
use super::super::testing::{assignment, cluster, dns_options, eds, endpoint, fixed, group, socket, value};
use super::*;
use crate::upstream::Priority;
use data_plane_core::config::{DnsOptions, EndpointAddress, EndpointHealth, LbPolicy, UpstreamProtocol};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

/// Answers from a script; fails once it is used up.
#[derive(Default)]
struct Script(Mutex<VecDeque<Result<Answer, ResolveError>>>);

impl Script {
    fn new(answers: impl IntoIterator<Item = Result<Answer, ResolveError>>) -> Arc<Self> {
        Arc::new(Self(Mutex::new(answers.into_iter().collect())))
    }

    fn left(&self) -> usize {
        self.0.lock().len()
    }
}

impl Resolve for Script {
    fn resolve<'a>(&'a self, _: &'a str, _: &'a DnsOptions) -> BoxFuture<'a, Result<Answer, ResolveError>> {
        let next = self.0.lock().pop_front().unwrap_or(Err(ResolveError::Timeout));
        async move { next }.boxed()
    }
}

fn addr(n: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, n], 80))
}

fn answer(hosts: &[u8], ttl_s: u64) -> Result<Answer, ResolveError> {
    let addresses = hosts.iter().map(|n| addr(*n).ip()).collect();
    Ok(Answer { addresses, ttl: Some(Duration::from_secs(ttl_s)) })
}

fn strict_dns(name: &str, options: DnsOptions) -> config::Cluster {
    let endpoint = endpoint(EndpointAddress::Name("web.test".into(), 80));
    cluster(name, Discovery::StrictDns(group(vec![endpoint]), options))
}

fn dynamic() -> Origin {
    Origin::Dynamic { version: "1".into() }
}

fn manager(resolver: Arc<Script>) -> (Manager, Registry) {
    let registry = Registry::new(1);
    (Manager::new(&registry, resolver), registry)
}

fn set(manager: &Manager, config: config::Cluster) -> Change {
    manager.set_cluster(Arc::new(config), dynamic())
}

fn serving(manager: &Manager, name: &str) -> Option<Arc<Cluster>> {
    manager.clusters().load().get(name).cloned()
}

fn addresses(manager: &Manager, name: &str) -> Vec<SocketAddr> {
    serving(manager, name).map_or_else(Vec::new, |c| c.hosts().iter().map(|h| h.address).collect())
}

fn host(manager: &Manager, name: &str, address: SocketAddr) -> Arc<super::super::Host> {
    let cluster = serving(manager, name).expect("the cluster serves");
    let hosts = cluster.hosts();
    hosts.iter().find(|h| h.address == address).cloned().expect("the host is a member")
}

/// Lets spawned tasks run without moving the clock.
async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

#[test]
fn a_static_cluster_serves_at_once() {
    let (manager, registry) = manager(Script::new([]));
    assert_eq!(set(&manager, fixed("a", &[addr(1), addr(2)])), Change::Added);
    assert!(manager.is_warm("a"));
    assert_eq!(addresses(&manager, "a"), [addr(1), addr(2)]);
    assert_eq!(value(&registry, "cluster_manager.active_clusters"), 1);
    assert_eq!(value(&registry, "cluster_manager.cluster_added"), 1);
    assert_eq!(value(&registry, "cluster.a.membership_total"), 2);
    assert_eq!(value(&registry, "cluster.a.membership_healthy"), 2);
}

#[test]
fn an_equal_configuration_changes_nothing() {
    let (manager, registry) = manager(Script::new([]));
    set(&manager, fixed("a", &[addr(1)]));
    let before = serving(&manager, "a").unwrap();
    assert_eq!(set(&manager, fixed("a", &[addr(1)])), Change::Unchanged);
    assert!(Arc::ptr_eq(&before, &serving(&manager, "a").unwrap()));
    assert_eq!(value(&registry, "cluster_manager.cluster_modified"), 0);
}

#[test]
fn an_eds_cluster_warms_until_its_assignment_comes() {
    let (manager, registry) = manager(Script::new([]));
    set(&manager, eds("a"));
    assert!(serving(&manager, "a").is_none(), "a cluster without hosts known must not serve");
    assert!(!manager.is_warm("a"));
    assert_eq!(*manager.warming().borrow(), 1);
    assert_eq!(value(&registry, "cluster_manager.warming_clusters"), 1);
    assert_eq!(value(&registry, "cluster.a.warming_state"), 1);

    manager.set_assignment("a", Some(Arc::new(assignment(&[addr(1)]))));
    assert!(manager.is_warm("a"));
    assert_eq!(addresses(&manager, "a"), [addr(1)]);
    assert_eq!(*manager.warming().borrow(), 0);
    assert_eq!(value(&registry, "cluster.a.warming_state"), 0);
}

#[test]
fn an_assignment_that_never_comes_makes_the_cluster_serve_without_hosts() {
    let (manager, _) = manager(Script::new([]));
    set(&manager, eds("a"));
    manager.set_assignment("a", None);
    let cluster = serving(&manager, "a").expect("warming has ended");
    assert!(cluster.pick(&PickRequest::random(0)).is_none());
    assert_eq!(cluster.stats.upstream_cx_none_healthy.value(), 1);
}

#[test]
fn an_assignment_that_goes_away_leaves_the_hosts_in_place() {
    let (manager, _) = manager(Script::new([]));
    set(&manager, eds("a"));
    manager.set_assignment("a", Some(Arc::new(assignment(&[addr(1)]))));
    manager.set_assignment("a", None);
    assert_eq!(addresses(&manager, "a"), [addr(1)], "Envoy: traffic goes on");
}

#[test]
fn the_old_cluster_serves_until_the_new_one_is_warm() {
    let (manager, registry) = manager(Script::new([]));
    set(&manager, fixed("a", &[addr(1)]));
    assert_eq!(set(&manager, eds("a")), Change::Updated);
    assert_eq!(addresses(&manager, "a"), [addr(1)], "make before break");
    assert_eq!(
        manager.infos().iter().map(|i| i.state).collect::<Vec<_>>(),
        [ClusterState::Active, ClusterState::Warming]
    );
    manager.set_assignment("a", Some(Arc::new(assignment(&[addr(2)]))));
    assert_eq!(addresses(&manager, "a"), [addr(2)]);
    assert_eq!(value(&registry, "cluster_manager.active_clusters"), 1);
    assert_eq!(value(&registry, "cluster_manager.cluster_modified"), 1);
    assert_eq!(value(&registry, "cluster.a.membership_total"), 1);
}

#[test]
fn going_back_to_what_serves_forgets_what_was_warming() {
    let (manager, registry) = manager(Script::new([]));
    set(&manager, fixed("a", &[addr(1)]));
    set(&manager, eds("a"));
    assert_eq!(set(&manager, fixed("a", &[addr(1)])), Change::Updated);
    assert!(manager.is_warm("a"));
    manager.set_assignment("a", Some(Arc::new(assignment(&[addr(2)]))));
    assert_eq!(addresses(&manager, "a"), [addr(1)], "nothing asks for the assignment any more");
    assert_eq!(value(&registry, "cluster_manager.warming_clusters"), 0);
}

#[test]
fn an_update_with_equal_discovery_serves_at_once_with_the_same_hosts() {
    let (manager, registry) = manager(Script::new([]));
    set(&manager, eds("a"));
    manager.set_assignment("a", Some(Arc::new(assignment(&[addr(1)]))));
    let before = host(&manager, "a", addr(1));

    set(&manager, config::Cluster { connect_timeout: Duration::from_secs(1), ..eds("a") });
    let after = host(&manager, "a", addr(1));
    assert!(Arc::ptr_eq(&before, &after), "pools and stats survive");
    assert!(!after.is_retired());
    assert!(manager.is_warm("a"));
    assert_eq!(value(&registry, "cluster.a.assignment_use_cached"), 1);
}

#[test]
fn an_update_of_the_protocol_gives_hosts_a_new_identity() {
    let (manager, _) = manager(Script::new([]));
    set(&manager, fixed("a", &[addr(1)]));
    let before = host(&manager, "a", addr(1));
    set(&manager, config::Cluster { protocol: UpstreamProtocol::Http2, ..fixed("a", &[addr(1)]) });
    let after = host(&manager, "a", addr(1));
    assert_ne!(before.id(), after.id(), "connections of the old protocol are of no use");
    assert!(before.is_retired() && !after.is_retired());
}

#[test]
fn hosts_that_stay_keep_themselves_and_hosts_that_leave_are_retired() {
    let (manager, registry) = manager(Script::new([]));
    set(&manager, eds("a"));
    manager.set_assignment("a", Some(Arc::new(assignment(&[addr(1), addr(2)]))));
    let (one, two) = (host(&manager, "a", addr(1)), host(&manager, "a", addr(2)));
    let cluster = serving(&manager, "a").unwrap();
    let mut departures = manager.clusters().departures();

    manager.set_assignment("a", Some(Arc::new(assignment(&[addr(2), addr(3)]))));
    assert!(Arc::ptr_eq(&two, &host(&manager, "a", addr(2))));
    assert!(one.is_retired() && !two.is_retired());
    assert!(Arc::ptr_eq(&cluster, &serving(&manager, "a").unwrap()), "the snapshot is not rebuilt");
    assert!(departures.has_changed().unwrap(), "pools are told");
    departures.mark_unchanged();
    assert_eq!(value(&registry, "cluster.a.membership_change"), 2);
}

#[test]
fn a_changed_weight_keeps_the_identity_and_is_no_membership_change() {
    let (manager, registry) = manager(Script::new([]));
    set(&manager, eds("a"));
    manager.set_assignment("a", Some(Arc::new(assignment(&[addr(1)]))));
    let before = host(&manager, "a", addr(1));
    let heavier = config::Endpoint { weight: 7, ..socket(addr(1)) };
    manager.set_assignment("a", Some(Arc::new(group(vec![heavier]))));
    let after = host(&manager, "a", addr(1));
    assert_eq!((after.id(), after.weight), (before.id(), 7));
    assert!(!after.is_retired());
    assert_eq!(value(&registry, "cluster.a.membership_change"), 1, "only the first assignment");
    assert_eq!(value(&registry, "cluster.a.max_host_weight"), 7);
}

#[test]
fn a_cluster_that_closes_connections_on_host_changes_begins_anew() {
    let (manager, _) = manager(Script::new([]));
    set(&manager, config::Cluster { close_connections_on_host_change: true, ..eds("a") });
    manager.set_assignment("a", Some(Arc::new(assignment(&[addr(1)]))));
    let before = host(&manager, "a", addr(1));
    let heavier = config::Endpoint { weight: 7, ..socket(addr(1)) };
    manager.set_assignment("a", Some(Arc::new(group(vec![heavier]))));
    assert!(!before.is_retired(), "the members are the same");
    manager.set_assignment("a", Some(Arc::new(assignment(&[addr(1), addr(2)]))));
    assert!(before.is_retired(), "pools of hosts that stay drain too");
    assert!(!host(&manager, "a", addr(1)).is_retired());
}

#[test]
fn an_equal_assignment_rebuilds_nothing() {
    let (manager, registry) = manager(Script::new([]));
    set(&manager, eds("a"));
    manager.set_assignment("a", Some(Arc::new(assignment(&[addr(1)]))));
    let before = Arc::clone(&serving(&manager, "a").unwrap().hosts());
    manager.set_assignment("a", Some(Arc::new(assignment(&[addr(1)]))));
    assert!(Arc::ptr_eq(&before, &serving(&manager, "a").unwrap().hosts()));
    assert_eq!(value(&registry, "cluster.a.update_no_rebuild"), 1);
}

#[test]
fn of_an_address_assigned_twice_the_first_counts() {
    let (manager, _) = manager(Script::new([]));
    set(&manager, eds("a"));
    let second = config::Endpoint { weight: 9, ..socket(addr(1)) };
    manager.set_assignment("a", Some(Arc::new(group(vec![socket(addr(1)), second]))));
    assert_eq!(addresses(&manager, "a"), [addr(1)]);
    assert_eq!(host(&manager, "a", addr(1)).weight, 1);
}

#[test]
fn a_static_address_written_twice_gets_twice_the_requests_over_one_pool() {
    let (manager, _) = manager(Script::new([]));
    set(&manager, fixed("a", &[addr(1), addr(2), addr(1)]));
    let cluster = serving(&manager, "a").unwrap();
    let picked: Vec<_> =
        (0..300).filter_map(|_| cluster.pick(&PickRequest::random(fastrand::u64(..)))).collect();
    let to_first = picked.iter().filter(|h| h.address == addr(1)).count();
    assert_eq!(to_first, 200);
    let hosts = cluster.hosts();
    let ids: Vec<_> = hosts.iter().map(|h| h.id()).collect();
    assert_eq!(ids[0], ids[2], "one identity, one pool");
}

#[test]
fn unhealthy_and_draining_hosts_get_no_requests() {
    let (manager, registry) = manager(Script::new([]));
    set(&manager, eds("a"));
    let with = |n, health| config::Endpoint { health, ..socket(addr(n)) };
    manager.set_assignment(
        "a",
        Some(Arc::new(group(vec![
            with(1, EndpointHealth::Healthy),
            with(2, EndpointHealth::Healthy),
            with(3, EndpointHealth::Unhealthy),
            with(4, EndpointHealth::Draining),
        ]))),
    );
    let cluster = serving(&manager, "a").unwrap();
    for _ in 0..100 {
        let host = cluster.pick(&PickRequest::random(fastrand::u64(..))).unwrap();
        assert!(host.eds_health == EndpointHealth::Healthy, "{} was picked", host.address);
    }
    assert_eq!(value(&registry, "cluster.a.membership_healthy"), 2);
    assert_eq!(value(&registry, "cluster.a.membership_total"), 4);
}

#[test]
fn clusters_that_share_an_eds_name_get_its_assignment_together() {
    let (manager, _) = manager(Script::new([]));
    set(&manager, eds("shared"));
    set(&manager, config::Cluster { name: "b".into(), stat_name: "b".into(), ..eds("shared") });
    manager.set_assignment("shared", Some(Arc::new(assignment(&[addr(1)]))));
    assert_eq!(addresses(&manager, "shared"), [addr(1)]);
    assert_eq!(addresses(&manager, "b"), [addr(1)]);
    assert_ne!(host(&manager, "shared", addr(1)).id(), host(&manager, "b", addr(1)).id());

    set(&manager, config::Cluster { name: "c".into(), stat_name: "c".into(), ..eds("shared") });
    assert_eq!(addresses(&manager, "c"), [addr(1)], "what is known serves a later cluster at once");
}

#[test]
fn a_removed_cluster_is_gone_with_its_stats_and_its_hosts_are_retired() {
    let (manager, registry) = manager(Script::new([]));
    set(&manager, eds("a"));
    manager.set_assignment("a", Some(Arc::new(assignment(&[addr(1)]))));
    let one = host(&manager, "a", addr(1));
    assert!(manager.remove_cluster("a"));
    assert!(!manager.remove_cluster("a"));
    assert!(serving(&manager, "a").is_none());
    assert!(one.is_retired());
    assert_eq!(value(&registry, "cluster_manager.active_clusters"), 0);
    assert!(!registry.collect().iter().any(|m| m.scope.prefix.starts_with("cluster.a.")));

    set(&manager, eds("a"));
    assert!(serving(&manager, "a").is_none(), "the assignment went with the last cluster that asked for it");
}

#[test]
fn limits_in_use_stay_counted_over_an_update() {
    let (manager, _) = manager(Script::new([]));
    set(&manager, fixed("a", &[addr(1)]));
    let permit =
        serving(&manager, "a").unwrap().usage.acquire(Priority::Default, super::super::Limit::Requests);
    set(&manager, config::Cluster { lb: LbPolicy::Random, ..fixed("a", &[addr(1)]) });
    let cluster = serving(&manager, "a").unwrap();
    assert_eq!(cluster.usage.used(Priority::Default, super::super::Limit::Requests), 1);
    drop(permit);
    assert_eq!(cluster.usage.used(Priority::Default, super::super::Limit::Requests), 0);
}

#[test]
fn one_of_ten_thousand_clusters_changes_without_copying_them_all() {
    let (manager, _) = manager(Script::new([]));
    for n in 0..10_000 {
        set(&manager, fixed(&format!("c{n}"), &[addr(1)]));
    }
    let clusters = manager.clusters();
    let before = Arc::clone(&clusters.load());
    set(&manager, fixed("c77", &[addr(2)]));
    let after = clusters.load();
    assert_eq!(after.len(), 10_000);
    let changed = before.iter().filter(|c| !Arc::ptr_eq(c, after.get(&c.config.name).unwrap())).count();
    assert_eq!(changed, 1);
}

#[tokio::test(start_paused = true)]
async fn a_dns_cluster_warms_with_every_address_of_its_name() {
    let (manager, registry) = manager(Script::new([answer(&[1, 2], 30)]));
    set(&manager, strict_dns("a", dns_options()));
    assert!(serving(&manager, "a").is_none());
    settle().await;
    assert_eq!(addresses(&manager, "a"), [addr(1), addr(2)]);
    assert_eq!(&*host(&manager, "a", addr(1)).hostname, "web.test");
    assert_eq!(value(&registry, "cluster.a.update_success"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_name_that_fails_at_first_makes_the_cluster_serve_without_hosts() {
    let (manager, registry) = manager(Script::new([Err(ResolveError::Timeout), answer(&[1], 30)]));
    set(&manager, strict_dns("a", dns_options()));
    settle().await;
    assert!(manager.is_warm("a"));
    assert!(addresses(&manager, "a").is_empty());
    assert_eq!(value(&registry, "cluster.a.update_failure"), 1);
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(addresses(&manager, "a"), [addr(1)], "tried again after the refresh rate");
}

#[tokio::test(start_paused = true)]
async fn the_last_good_answer_survives_failures() {
    let (manager, _) = manager(Script::new([answer(&[1], 30)]));
    set(&manager, strict_dns("a", dns_options()));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(addresses(&manager, "a"), [addr(1)]);
}

#[tokio::test(start_paused = true)]
async fn a_name_that_no_longer_exists_takes_its_hosts_away() {
    let (manager, registry) = manager(Script::new([answer(&[1], 30), Ok(Answer::default())]));
    set(&manager, strict_dns("a", dns_options()));
    settle().await;
    let one = host(&manager, "a", addr(1));
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert!(addresses(&manager, "a").is_empty());
    assert!(one.is_retired());
    assert_eq!(value(&registry, "cluster.a.update_empty"), 1);
}

#[tokio::test(start_paused = true)]
async fn ttl_decides_the_next_resolution_only_when_respected() {
    for (respect_ttl, after_6_s, after_61_s) in [(false, 0, 0), (true, 1, 0)] {
        let script = Script::new([answer(&[1], 60), answer(&[2], 60)]);
        let (manager, _) = manager(Arc::clone(&script));
        set(&manager, strict_dns("a", DnsOptions { respect_ttl, ..dns_options() }));
        tokio::time::sleep(Duration::from_secs(6)).await;
        assert_eq!(script.left(), after_6_s, "respect_ttl: {respect_ttl}");
        tokio::time::sleep(Duration::from_secs(55)).await;
        assert_eq!(script.left(), after_61_s, "respect_ttl: {respect_ttl}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_logical_dns_host_keeps_its_identity_when_its_address_moves() {
    let (manager, _) = manager(Script::new([answer(&[1, 2], 30), answer(&[3], 30)]));
    let endpoint = endpoint(EndpointAddress::Name("web.test".into(), 80));
    set(&manager, cluster("a", Discovery::LogicalDns(group(vec![endpoint]), dns_options())));
    settle().await;
    assert_eq!(addresses(&manager, "a"), [addr(1)], "one host: the first address");
    let before = host(&manager, "a", addr(1));
    tokio::time::sleep(Duration::from_secs(6)).await;
    let after = host(&manager, "a", addr(3));
    assert_eq!(before.id(), after.id());
    assert!(!after.is_retired(), "connections to the old address go on");
}

#[tokio::test(start_paused = true)]
async fn an_update_with_equal_discovery_goes_on_with_the_running_resolution() {
    let script = Script::new([answer(&[1], 30), answer(&[2], 30)]);
    let (manager, _) = manager(Arc::clone(&script));
    set(&manager, strict_dns("a", dns_options()));
    settle().await;
    set(&manager, config::Cluster { lb: LbPolicy::Random, ..strict_dns("a", dns_options()) });
    settle().await;
    assert_eq!(script.left(), 1, "nothing was asked anew");
    assert_eq!(addresses(&manager, "a"), [addr(1)]);
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(addresses(&manager, "a"), [addr(2)], "the new cluster hears of later answers");
}

#[tokio::test(start_paused = true)]
async fn a_removed_cluster_resolves_no_more() {
    let script = Script::new([answer(&[1], 30), answer(&[2], 30)]);
    let (manager, _) = manager(Arc::clone(&script));
    set(&manager, strict_dns("a", dns_options()));
    settle().await;
    manager.remove_cluster("a");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(script.left(), 1);
}
