//! From an assignment to a host set, keeping the identity of hosts that stay.

use super::host::{Host, HostSet, Identity};
use data_plane_core::config::{self, Assignment, EndpointAddress, EndpointHealth};
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
    cluster: &config::Cluster,
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
            if let Some(same) = known.get(&key).filter(|host| is_same(host, address, endpoint, group)) {
                hosts.push(Arc::clone(same));
                continue;
            }
            let identity = match known.get(&key) {
                Some(host) => Arc::clone(host.identity()),
                None => Arc::clone(fresh.entry(key).or_insert_with(|| Identity::new(new_id()))),
            };
            let locality = locality.get_or_insert_with(|| Arc::new(group.locality.clone()));
            hosts.push(Arc::new(Host::new(address, endpoint, locality, group.priority, identity)));
        }
    }
    let changed = hosts.len() != old.len() || !hosts.iter().zip(old.iter()).all(|(a, b)| Arc::ptr_eq(a, b));
    known.retain(|key, _| !seen.contains(key));
    let left: Vec<_> = known.into_values().map(|host| Arc::clone(host.identity())).collect();
    let membership_changed = !left.is_empty() || !fresh.is_empty();
    // Rotations start anywhere, so that proxies do not march in step.
    let hosts = Arc::new(HostSet::new(hosts, cluster, assignment.overprovisioning_factor, fastrand::u64(..)));
    Update { hosts, left, membership_changed, changed }
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
        && host.health == endpoint.health
        && host.labels == endpoint.labels
        && host.priority == group.priority
        && *host.locality == group.locality
}

/// What the membership gauges show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) total: u64,
    pub(super) healthy: u64,
    pub(super) degraded: u64,
    pub(super) max_weight: u64,
}

pub(super) fn counts(hosts: &HostSet) -> Counts {
    hosts.iter().fold(Counts::default(), |counts, host| Counts {
        total: counts.total + 1,
        healthy: counts.healthy + u64::from(host.health == EndpointHealth::Healthy),
        degraded: counts.degraded + u64::from(host.health == EndpointHealth::Degraded),
        max_weight: counts.max_weight.max(host.weight.into()),
    })
}
