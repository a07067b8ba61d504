//! A manager, its health thread and real sockets.

use crate::stats::Registry;
use crate::transport::socket::{self, Sharing};
use crate::upstream::dns::SystemResolver;
use crate::upstream::testing::{assignment, eds, fixed, value};
use crate::upstream::{HealthFlag, Manager, Origin};
use data_plane_core::config::{Cluster, HealthCheck, Probe, TcpProbe};
use data_plane_core::guard::health::Pace;
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_millis(10);

/// Checks often whether a connection can be made.
fn check() -> Arc<HealthCheck> {
    Arc::new(HealthCheck {
        pace: Pace {
            interval: INTERVAL,
            no_traffic_interval: INTERVAL,
            no_traffic_healthy_interval: INTERVAL,
            unhealthy_interval: INTERVAL,
            unhealthy_edge_interval: INTERVAL,
            healthy_edge_interval: INTERVAL,
            initial_jitter: Duration::ZERO,
            interval_jitter: Duration::ZERO,
            interval_jitter_percent: 0,
            unhealthy_threshold: 2,
            healthy_threshold: 1,
        },
        timeout: Duration::from_secs(1),
        alt_port: None,
        reuse_connection: true,
        probe: Probe::Tcp(TcpProbe::default()),
        event_logs: Vec::new(),
        log_failures: false,
        log_successes: false,
    })
}

struct Scene {
    registry: Registry,
    manager: Manager,
}

impl Scene {
    fn new() -> Self {
        let registry = Registry::new(1);
        Self { manager: Manager::new(&registry, Arc::new(SystemResolver::new())), registry }
    }

    fn take(&self, cluster: Cluster) {
        self.manager.set_cluster(Arc::new(cluster), Origin::Static);
    }

    fn assign(&self, name: &str, hosts: &[SocketAddr]) {
        self.manager.set_assignment(name, Some(Arc::new(assignment(hosts))));
    }

    /// The hosts of a cluster that serves, with their flags.
    fn hosts(&self, name: &str) -> Option<BTreeMap<SocketAddr, String>> {
        let clusters = self.manager.clusters();
        let snapshot = clusters.load();
        let hosts = snapshot.get(name)?.hosts();
        Some(hosts.iter().map(|host| (host.address, host.health_state().to_string())).collect())
    }

    /// Waits until a cluster's hosts are these.
    fn becomes(&self, name: &str, want: &[(SocketAddr, &str)]) {
        let want: BTreeMap<_, _> = want.iter().map(|(host, flags)| (*host, (*flags).to_owned())).collect();
        let start = Instant::now();
        while self.hosts(name).as_ref() != Some(&want) {
            assert!(start.elapsed() < Duration::from_secs(20), "{:?}, not {want:?}", self.hosts(name));
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Accepts every connection until dropped: a queue that nobody empties is full after some checks.
struct Listening {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    accepting: Option<JoinHandle<()>>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        let _ = TcpStream::connect(self.address);
        let _ = self.accepting.take().map(JoinHandle::join);
    }
}

fn listen() -> (Listening, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let accept = move || {
        let _ = listener.incoming().find(|_| stopped.load(Ordering::Acquire));
    };
    (Listening { address, stop, accepting: Some(std::thread::spawn(accept)) }, address)
}

/// An address that refuses, and that nobody else gets meanwhile.
fn refuse() -> (socket2::Socket, SocketAddr) {
    let held = socket::bind("127.0.0.1:0".parse().unwrap(), Sharing::Exclusive).unwrap();
    let address = socket::local_address(&held).unwrap();
    (held, address)
}

#[tokio::test]
async fn a_cluster_warms_until_its_hosts_were_checked_and_follows_them() {
    let scene = Scene::new();
    let ((_alive, up), (held, down)) = (listen(), refuse());
    scene.take(Cluster { health_check: Some(check()), ..fixed("a", &[up, down]) });
    scene.becomes("a", &[(up, "healthy"), (down, "/failed_active_hc")]);
    assert_eq!(value(&scene.registry, "cluster.a.membership_healthy"), 1);
    socket::listen(&held, 16).unwrap();
    scene.becomes("a", &[(up, "healthy"), (down, "healthy")]);
    drop(held);
    scene.becomes("a", &[(up, "healthy"), (down, "/failed_active_hc")]);
}

#[tokio::test]
async fn a_new_host_is_unhealthy_before_its_first_check() {
    let scene = Scene::new();
    let (_alive, up) = listen();
    // Its check never ends: the address answers nothing.
    let silent: SocketAddr = "192.0.2.1:9".parse().unwrap();
    let patient = HealthCheck { timeout: Duration::from_secs(60), ..(*check()).clone() };
    scene.take(Cluster { health_check: Some(Arc::new(patient)), ..eds("a") });
    scene.assign("a", &[up]);
    scene.becomes("a", &[(up, "healthy")]);
    scene.assign("a", &[up, silent]);
    scene.becomes("a", &[(up, "healthy"), (silent, "/failed_active_hc")]);
}

#[tokio::test]
async fn a_host_without_checks_is_healthy_at_once() {
    let scene = Scene::new();
    let mut cluster = Cluster { health_check: Some(check()), ..eds("a") };
    cluster.ignore_new_hosts_until_first_check = true;
    scene.take(cluster);
    let mut endpoints = assignment(&["192.0.2.1:9".parse().unwrap()]);
    let endpoint = &mut endpoints.localities[0].endpoints[0];
    endpoint.check =
        Some(Box::new(data_plane_core::config::EndpointCheck { disabled: true, ..Default::default() }));
    scene.manager.set_assignment("a", Some(Arc::new(endpoints)));
    assert_eq!(scene.hosts("a").unwrap().into_values().collect::<Vec<_>>(), ["healthy"]);
}

#[tokio::test]
async fn a_host_that_is_no_longer_named_stays_while_its_checks_pass() {
    let scene = Scene::new();
    let ((_alive, named), (listener, forgotten)) = (listen(), listen());
    scene.take(Cluster { health_check: Some(check()), ..eds("a") });
    scene.assign("a", &[named, forgotten]);
    scene.becomes("a", &[(named, "healthy"), (forgotten, "healthy")]);
    scene.assign("a", &[named]);
    scene.becomes("a", &[(named, "healthy"), (forgotten, "/pending_dynamic_removal")]);
    scene.assign("a", &[forgotten]);
    scene.becomes("a", &[(named, "/pending_dynamic_removal"), (forgotten, "healthy")]);
    scene.assign("a", &[named]);
    drop(listener);
    scene.becomes("a", &[(named, "healthy")]);
    assert_eq!(value(&scene.registry, "cluster.a.membership_total"), 1);
}

#[tokio::test]
async fn a_host_leaves_at_once_where_its_health_does_not_count() {
    let scene = Scene::new();
    let ((_a, named), (_b, forgotten)) = (listen(), listen());
    scene.take(Cluster { health_check: Some(check()), ignore_health_on_host_removal: true, ..eds("a") });
    scene.assign("a", &[named, forgotten]);
    scene.becomes("a", &[(named, "healthy"), (forgotten, "healthy")]);
    scene.assign("a", &[named]);
    assert_eq!(scene.hosts("a").unwrap().len(), 1);
}

#[tokio::test]
async fn a_cluster_that_is_replaced_serves_until_the_new_one_is_checked_and_drops_old_findings() {
    let scene = Scene::new();
    let ((_alive, up), (_held, down)) = (listen(), refuse());
    let checked = Cluster { health_check: Some(check()), ..fixed("a", &[up, down]) };
    scene.take(checked.clone());
    scene.becomes("a", &[(up, "healthy"), (down, "/failed_active_hc")]);
    let silent: SocketAddr = "192.0.2.1:9".parse().unwrap();
    let slow = HealthCheck { timeout: Duration::from_millis(300), ..(*check()).clone() };
    scene.take(Cluster { health_check: Some(Arc::new(slow)), ..fixed("a", &[up, silent]) });
    assert!(scene.hosts("a").unwrap().contains_key(&down), "the old one serves");
    scene.becomes("a", &[(up, "healthy"), (silent, "/failed_active_hc/active_hc_timeout")]);
    scene.take(fixed("a", &[up, silent]));
    assert!(scene.hosts("a").unwrap().values().all(|flags| flags == "healthy"), "nobody checks any more");
    let clusters = scene.manager.clusters();
    let host = clusters.load().get("a").unwrap().hosts().iter().next().cloned().unwrap();
    assert!(!host.health_state().has(HealthFlag::FailedActiveHc));
}
