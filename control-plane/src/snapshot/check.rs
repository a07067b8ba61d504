//! References that lead nowhere.
//!
//! A listener whose route configuration is missing makes Envoy wait: 15 s at an update, and as long as it takes
//! at its start (xds.md, "RDS missing"). So such a listener is never published. A route may name a cluster that
//! does not exist: Envoy answers 503 for it and serves the rest.

use std::fmt;
use std::sync::Arc;

use xds_types::ResourceType;

use super::{Reference, Set, Snapshot};

/// A reference that leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dangling {
    /// The resource that names another.
    pub from: Reference,
    /// The one that is missing.
    pub to: Reference,
}

impl fmt::Display for Dangling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, to } = self;
        write!(f, "{} {} names {} {}, which does not exist", from.kind, from.name, to.kind, to.name)
    }
}

/// Every reference of a snapshot's sets that leads nowhere.
pub fn dangling(snapshot: &Snapshot) -> Vec<Dangling> {
    let mut found = Vec::new();
    for &kind in ResourceType::ALL {
        for (name, resource) in snapshot.set(kind).resources() {
            for to in &resource.references {
                if snapshot.set(to.kind).get(&to.name).is_none() {
                    let from = Reference { kind, name: name.clone() };
                    found.push(Dangling { from, to: to.clone() });
                }
            }
        }
    }
    found
}

/// Leaves out listeners and clusters that name what is missing, and says which. Other dangling references are
/// reported and kept.
pub fn withhold_dangling(snapshot: Snapshot) -> (Snapshot, Vec<Dangling>) {
    let found = dangling(&snapshot);
    let mut snapshot = snapshot;
    for kind in [ResourceType::Listener, ResourceType::Cluster] {
        let bad = |name: &str| found.iter().any(|d| d.from.kind == kind && *d.from.name == *name);
        if found.iter().any(|d| d.from.kind == kind) {
            let kept: Set =
                snapshot.set(kind).resources().values().filter(|r| !bad(&r.name)).map(Arc::clone).collect();
            snapshot = snapshot.with_set(kind, kept);
        }
    }
    (snapshot, found)
}

#[cfg(test)]
mod tests {
    use super::super::Resource;
    use super::*;
    use xds_types::envoy::config::listener::v3::Listener;
    use xds_types::envoy::config::route::v3::RouteConfiguration;

    fn listener(name: &str, route: &str) -> Arc<Resource> {
        let l = Listener { name: name.into(), ..Listener::default() };
        let to = Reference::new(ResourceType::RouteConfiguration, route);
        Arc::new(Resource::encode(ResourceType::Listener, name, &l, vec![to], vec![]))
    }

    fn route(name: &str, cluster: &str) -> Arc<Resource> {
        let r = RouteConfiguration { name: name.into(), ..RouteConfiguration::default() };
        let to = Reference::new(ResourceType::Cluster, cluster);
        Arc::new(Resource::encode(ResourceType::RouteConfiguration, name, &r, vec![to], vec![]))
    }

    #[test]
    fn a_listener_without_its_routes_is_withheld_and_a_route_without_its_cluster_is_kept() {
        let sets = [
            (
                ResourceType::Listener,
                Arc::new([listener("good", "r"), listener("bad", "gone")].into_iter().collect()),
            ),
            (ResourceType::RouteConfiguration, Arc::new([route("r", "missing")].into_iter().collect())),
        ];
        let (snapshot, found) = withhold_dangling(Snapshot::new(1, sets.into(), None, None));
        let names: Vec<&str> =
            snapshot.set(ResourceType::Listener).resources().keys().map(|n| &**n).collect();
        assert_eq!(names, ["good"]);
        assert!(snapshot.set(ResourceType::RouteConfiguration).get("r").is_some());
        let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(
            lines,
            ["LDS bad names RDS gone, which does not exist", "RDS r names CDS missing, which does not exist"]
        );
    }
}
