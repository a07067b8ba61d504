//! The hosts of a cluster at one moment, and picking one.

use super::host::Host;
use super::pick::PickRequest;
use super::stats::ClusterStats;
use data_plane_core::config::{self, Assignment, Locality};
use data_plane_core::lb::{
    Facts, HostIndex, HostView, PickCx, Picked, Selector, SelectorOptions, Subsets, Via, mix,
};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::time::Instant;

/// What an assignment says of all its hosts together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Together {
    overprovisioning_factor: u32,
    weighted_priority_health: bool,
}

impl Together {
    fn of(assignment: &Assignment) -> Self {
        Self {
            overprovisioning_factor: assignment.overprovisioning_factor,
            weighted_priority_health: assignment.weighted_priority_health,
        }
    }
}

/// The hosts of a cluster at one moment, ready to be picked from.
#[derive(Debug)]
pub struct HostSet {
    hosts: Box<[Arc<Host>]>,
    choice: Choice,
    together: Together,
    /// Where the clock of the choice starts.
    epoch: Instant,
}

/// How a host is chosen.
#[derive(Debug)]
enum Choice {
    /// Among all.
    All(Selector),
    /// Among those with the metadata that is asked for.
    Subsets(Subsets),
}

/// A choice that was made.
#[derive(Debug, Default)]
pub(super) struct Pick {
    /// `None` when there is nobody to choose.
    pub(super) host: Option<Arc<Host>>,
    /// Hosts were used, or would have been, whatever their health.
    pub(super) in_panic: bool,
    /// How, among subsets.
    pub(super) via: Option<Via>,
}

impl Default for HostSet {
    /// Nobody.
    fn default() -> Self {
        let policy = config::LbPolicy::ROUND_ROBIN;
        Self {
            hosts: Box::default(),
            choice: Choice::All(Selector::build(&policy, &[], SelectorOptions::default(), None, 0)),
            together: Together::default(),
            epoch: Instant::now(),
        }
    }
}

impl HostSet {
    /// What `old` has that is still right is taken over. `seed` decides where rotations start.
    pub(super) fn new(
        hosts: Vec<Arc<Host>>,
        cluster: &config::Cluster,
        assignment: &Assignment,
        old: &Self,
        seed: u64,
    ) -> Self {
        Self::build(hosts, cluster, Together::of(assignment), old, seed)
    }

    /// The same hosts, but those that are not to be kept, with their health of now.
    pub(super) fn rebuilt(&self, cluster: &config::Cluster, keep: impl Fn(&Host) -> bool, seed: u64) -> Self {
        let hosts = self.hosts.iter().filter(|host| keep(host)).cloned().collect();
        Self::build(hosts, cluster, self.together, self, seed)
    }

    fn build(
        hosts: Vec<Arc<Host>>,
        cluster: &config::Cluster,
        together: Together,
        old: &Self,
        seed: u64,
    ) -> Self {
        let options = SelectorOptions {
            panic_threshold: cluster.healthy_panic_threshold,
            fail_traffic_on_panic: cluster.fail_traffic_on_panic,
            overprovisioning_factor: together.overprovisioning_factor,
            weighted_priority_health: together.weighted_priority_health,
            locality_lb: cluster.locality_lb,
        };
        let keys: Vec<String> = match cluster.lb.hashing() {
            Some(hashing) => hosts.iter().map(|host| host.hash_key(hashing.use_hostname)).collect(),
            None => Vec::new(),
        };
        let now = Instant::now();
        let since: Vec<Option<Instant>> = match cluster.lb.slow_start() {
            Some(_) => hosts.iter().map(|host| host.healthy_since(now)).collect(),
            None => Vec::new(),
        };
        let epoch = since.iter().flatten().min().copied().unwrap_or(now);
        let mut localities: HashMap<&Locality, u32> = HashMap::new();
        let views: Vec<_> = hosts
            .iter()
            .enumerate()
            .map(|(at, host)| {
                let next = localities.len() as u32;
                let state = host.health_state();
                HostView {
                    priority: host.priority,
                    weight: host.weight,
                    health: state.coarse(),
                    excluded: state.is_excluded(),
                    locality: *localities.entry(&*host.locality).or_insert(next),
                    locality_weight: host.locality_weight,
                    key: keys.get(at).map_or("", String::as_str),
                    healthy_since: since.get(at).copied().flatten().map(|since| since - epoch),
                }
            })
            .collect();
        let choice = match &cluster.subsets {
            None => Choice::All(Selector::build(&cluster.lb, &views, options, old.selector(), seed)),
            Some(config) => {
                let labels: Vec<_> = hosts.iter().map(|host| &host.labels).collect();
                let (lb, old) = (&cluster.lb, old.subsets());
                Choice::Subsets(Subsets::build(config, lb, &views, &labels, options, old, seed))
            }
        };
        drop(views);
        Self { choice, hosts: hosts.into(), together, epoch }
    }

    /// Whether `assignment` says the same as the one that the set was made of, hosts aside.
    pub(super) fn is_balanced_as(&self, assignment: &Assignment) -> bool {
        self.together == Together::of(assignment)
    }

    /// All hosts, in configured order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Arc<Host>> {
        self.hosts.iter()
    }

    /// Number of hosts.
    pub fn len(&self) -> usize {
        self.hosts.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty()
    }

    /// Its subsets, where it has any.
    pub(super) fn subsets(&self) -> Option<&Subsets> {
        match &self.choice {
            Choice::All(_) => None,
            Choice::Subsets(subsets) => Some(subsets),
        }
    }

    fn selector(&self) -> Option<&Selector> {
        match &self.choice {
            Choice::All(selector) => Some(selector),
            Choice::Subsets(_) => None,
        }
    }

    /// Chooses a host. `stats` are the cluster's.
    pub(super) fn pick(&self, request: &PickRequest<'_>, stats: &ClusterStats) -> Pick {
        let facts = HostFacts { set: self, stats };
        let mut state = request.random;
        let mut attempt = 0;
        loop {
            let cx = PickCx {
                random: if attempt == 0 { request.random } else { mix(&mut state) },
                hash: request.hash,
                attempt,
                tried_priorities: request.tried_priorities,
                facts: &facts,
            };
            let (Picked { host, in_panic }, via) = match &self.choice {
                Choice::All(selector) => (selector.pick(&cx), None),
                Choice::Subsets(subsets) => {
                    let (picked, via) = subsets.pick(request.subset, &cx);
                    (picked, Some(via))
                }
            };
            let host = host.and_then(|HostIndex(at)| self.hosts.get(at as usize));
            let enough = attempt == request.avoid_attempts;
            match (host, request.avoid) {
                (Some(host), Some(avoid)) if !enough && avoid(host) => attempt += 1,
                _ => return Pick { host: host.cloned(), in_panic, via },
            }
        }
    }
}

struct HostFacts<'a> {
    set: &'a HostSet,
    stats: &'a ClusterStats,
}

impl Facts for HostFacts<'_> {
    fn active(&self, host: HostIndex) -> u32 {
        let active = self.set.hosts[host.0 as usize].stats().rq_active.load(Relaxed);
        u32::try_from(active.max(0)).unwrap_or(u32::MAX)
    }

    fn total_active(&self) -> u32 {
        u32::try_from(self.stats.upstream_rq_active.value()).unwrap_or(u32::MAX)
    }

    fn now(&self) -> Duration {
        self.set.epoch.elapsed()
    }
}
