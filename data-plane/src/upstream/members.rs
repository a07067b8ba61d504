//! From an assignment to a host set, keeping the identity of hosts that stay.

use super::cluster::Cluster;
use super::flags::{HealthFlag, HealthState};
use super::host::{Host, Identity};
use super::host_set::HostSet;
use super::outlier::Monitor;
use data_plane_core::config::{self, Assignment, Discovery, EndpointAddress};
use data_plane_core::lb::Health;
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

/// What makes a host the same host after an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Key {
    Address(SocketAddr),
    /// LOGICAL_DNS: one host whose address moves.
    Logical,
}

/// How an assignment becomes hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Hosts are their addresses; an address named twice is two hosts that share an identity.
    Static,
    /// Hosts are their addresses; of an address named twice the first counts (Envoy: EDS, STRICT_DNS).
    Unique,
    /// One host whose address moves.
    Logical,
}

/// What an update made of a host set.
pub(super) struct Update {
    /// The new set.
    pub(super) hosts: Arc<HostSet>,
    /// Identities of the old set that the new one has not.
    pub(super) left: Vec<Arc<Identity>>,
    /// Hosts came or left.
    pub(super) membership_changed: bool,
    /// Anything at all changed.
    pub(super) changed: bool,
}

/// The hosts of `assignment`. Those of `old` that stay keep their identity, and all of themselves when nothing
/// about them changed. `new_id` makes identities.
pub(super) fn update(
    old: &HostSet,
    assignment: &Assignment,
    kind: Kind,
    cluster: &Cluster,
    mut new_id: impl FnMut() -> u64,
) -> Update {
    let key_of = |address| if kind == Kind::Logical { Key::Logical } else { Key::Address(address) };
    let mut known: HashMap<Key, &Arc<Host>> = old.iter().map(|host| (key_of(host.address), host)).collect();
    let mut fresh: HashMap<Key, Arc<Identity>> = HashMap::new();
    let mut seen = HashSet::new();
    let mut hosts = Vec::with_capacity(old.len());
    for group in &assignment.localities {
        let mut locality = None;
        for endpoint in &group.endpoints {
            // INVARIANT: names are resolved before an assignment comes here.
            let EndpointAddress::Socket(address) = endpoint.address else { continue };
            let key = key_of(address);
            if !seen.insert(key) && kind != Kind::Static {
                continue;
            }
            // A host that is checked in another way is another host.
            let before = known.get(&key).filter(|host| host.check == endpoint.check);
            if let Some(host) = before {
                host.identity().set_flag(HealthFlag::PendingDynamicRemoval, false);
            }
            let monitor = before.and_then(|host| host.monitor()).filter(|m| m.is_of(cluster.detection()));
            let monitor = monitor.cloned().or_else(|| cluster.detection().map(Monitor::new));
            if let Some(same) = before.filter(|host| is_same(host, address, endpoint, group))
                && same.monitor().map(Arc::as_ptr) == monitor.as_ref().map(Arc::as_ptr)
            {
                hosts.push(Arc::clone(same));
                continue;
            }
            let identity = match before {
                Some(host) => Arc::clone(host.identity()),
                None => Arc::clone(
                    fresh
                        .entry(key)
                        .or_insert_with(|| Identity::new(new_id(), initial(&cluster.config, endpoint))),
                ),
            };
            let locality = locality.get_or_insert_with(|| Arc::new(group.locality.clone()));
            hosts.push(Arc::new(Host::new(address, endpoint, locality, group, monitor, identity)));
        }
    }
    if keeps_healthy(&cluster.config) {
        // As Envoy: a control plane that lost sight of a host is not believed before its checks fail as well.
        for host in old.iter().filter(|host| may_stay(host)) {
            if seen.insert(key_of(host.address)) {
                host.identity().set_flag(HealthFlag::PendingDynamicRemoval, true);
                hosts.push(Arc::clone(host));
            }
        }
    }
    let changed = hosts.len() != old.len()
        || !hosts.iter().zip(old.iter()).all(|(a, b)| Arc::ptr_eq(a, b))
        || !old.is_balanced_as(assignment);
    let stay: HashSet<u64> = hosts.iter().map(|host| host.id()).collect();
    known.retain(|_, host| !stay.contains(&host.id()));
    let left: Vec<_> = known.into_values().map(|host| Arc::clone(host.identity())).collect();
    let membership_changed = !left.is_empty() || !fresh.is_empty();
    // Rotations start anywhere, so that proxies do not march in step.
    let hosts = Arc::new(HostSet::new(hosts, &cluster.config, assignment, old, fastrand::u64(..)));
    Update { hosts, left, membership_changed, changed }
}

/// What is known of a host that was never checked.
fn initial(cluster: &config::Cluster, endpoint: &config::Endpoint) -> HealthState {
    let none = HealthState::default();
    if cluster.health_check.is_none() || endpoint.check.as_ref().is_some_and(|check| check.disabled) {
        return none;
    }
    let failed = none.and(HealthFlag::FailedActiveHc);
    if cluster.ignore_new_hosts_until_first_check { failed.and(HealthFlag::PendingActiveHc) } else { failed }
}

/// Whether hosts that their source no longer names stay for as long as their checks pass.
fn keeps_healthy(cluster: &config::Cluster) -> bool {
    cluster.health_check.is_some()
        && !cluster.ignore_health_on_host_removal
        && matches!(cluster.discovery, Discovery::Eds { .. } | Discovery::StrictDns(..))
}

fn may_stay(host: &Host) -> bool {
    host.is_checked() && !host.identity().flags().has(HealthFlag::FailedActiveHc)
}

/// The same hosts with their health of now, without those that only their checks had kept; and who left.
pub(super) fn refreshed(old: &HostSet, cluster: &Cluster) -> (HostSet, Vec<Arc<Identity>>) {
    let leaves = |host: &Host| {
        let flags = host.identity().flags();
        flags.has(HealthFlag::PendingDynamicRemoval) && flags.has(HealthFlag::FailedActiveHc)
    };
    let left = old.iter().filter(|host| leaves(host)).map(|host| Arc::clone(host.identity())).collect();
    (old.rebuilt(&cluster.config, |host| !leaves(host), fastrand::u64(..)), left)
}

fn is_same(
    host: &Host,
    address: SocketAddr,
    endpoint: &config::Endpoint,
    group: &config::LocalityEndpoints,
) -> bool {
    host.address == address
        && host.hostname == endpoint.hostname
        && host.weight == endpoint.weight.max(1)
        && host.eds_health == endpoint.health
        && host.labels == endpoint.labels
        && host.transport_labels == endpoint.transport_labels
        && host.priority == group.priority
        && host.locality_weight == group.weight.unwrap_or(0)
        && *host.locality == group.locality
}

/// What the membership gauges show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) total: u64,
    pub(super) healthy: u64,
    pub(super) degraded: u64,
    pub(super) excluded: u64,
    pub(super) max_weight: u64,
}

pub(super) fn counts(hosts: &HostSet) -> Counts {
    hosts.iter().fold(Counts::default(), |counts, host| Counts {
        total: counts.total + 1,
        healthy: counts.healthy + u64::from(host.health_state().coarse() == Health::Healthy),
        degraded: counts.degraded + u64::from(host.health_state().coarse() == Health::Degraded),
        excluded: counts.excluded + u64::from(host.health_state().is_excluded()),
        max_weight: counts.max_weight.max(host.weight.into()),
    })
}
