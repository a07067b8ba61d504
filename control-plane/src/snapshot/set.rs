//! Sets of resources of one type, and the snapshot that a group of nodes sees.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, LazyLock};

use xds_types::ResourceType;

use super::{Resource, Version, changed};

/// Resources of one type, by name.
#[derive(Debug)]
pub struct Set {
    version: Version,
    resources: BTreeMap<Arc<str>, Arc<Resource>>,
}

impl Set {
    /// A set of resources of one type.
    pub fn new(resources: BTreeMap<Arc<str>, Arc<Resource>>) -> Self {
        let version = Version::of_all(resources.iter().map(|(name, r)| (&**name, r.version)));
        Self { version, resources }
    }

    /// Hash of all names and versions.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The resources by name.
    pub fn resources(&self) -> &BTreeMap<Arc<str>, Arc<Resource>> {
        &self.resources
    }

    /// One resource.
    pub fn get(&self, name: &str) -> Option<&Arc<Resource>> {
        self.resources.get(name)
    }
}

impl FromIterator<Arc<Resource>> for Set {
    fn from_iter<I: IntoIterator<Item = Arc<Resource>>>(iter: I) -> Self {
        Self::new(iter.into_iter().map(|r| (r.name.clone(), r)).collect())
    }
}

/// Resources made when they are first asked for by name. Implementations answer the same for the same name.
pub trait Resolve: Send + Sync + fmt::Debug {
    /// The resource of this type and name, if there is one.
    fn resolve(&self, kind: ResourceType, name: &str) -> Option<Arc<Resource>>;
}

static EMPTY: LazyLock<Arc<Set>> = LazyLock::new(|| Arc::new(Set::new(BTreeMap::new())));

/// What one group of nodes sees: a set for each type, and resources made on demand.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Number of the publication; grows.
    sequence: u64,
    sets: BTreeMap<ResourceType, Arc<Set>>,
    /// Against the snapshot of the previous publication; absent type: equal sets.
    changed: BTreeMap<ResourceType, Arc<[Arc<str>]>>,
    lazy: Option<Arc<dyn Resolve>>,
}

impl Snapshot {
    /// The snapshot of publication `sequence`, whose predecessor in the same group is `before`.
    pub fn new(
        sequence: u64,
        sets: BTreeMap<ResourceType, Arc<Set>>,
        lazy: Option<Arc<dyn Resolve>>,
        before: Option<&Snapshot>,
    ) -> Self {
        let mut this = Self { sequence, sets, changed: BTreeMap::new(), lazy };
        let Some(before) = before else { return this };
        for &kind in ResourceType::ALL {
            let (old, new) = (before.set(kind), this.set(kind));
            if !Arc::ptr_eq(old, new) {
                let names = changed(old, new);
                if !names.is_empty() {
                    this.changed.insert(kind, names.into());
                }
            }
        }
        this
    }

    /// Number of the publication.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The resources that a wildcard means.
    pub fn set(&self, kind: ResourceType) -> &Arc<Set> {
        self.sets.get(&kind).unwrap_or(&EMPTY)
    }

    /// One resource by name, made on demand when no set has it.
    pub fn get(&self, kind: ResourceType, name: &str) -> Option<Arc<Resource>> {
        self.set(kind).get(name).cloned().or_else(|| self.lazy.as_ref()?.resolve(kind, name))
    }

    /// Names that were added, changed or removed since the previous publication, when all of them are known:
    /// `None` for a reader that last saw another snapshot than the previous one, and where resources are made
    /// on demand.
    pub fn changed_since(&self, seen: u64, kind: ResourceType) -> Option<&[Arc<str>]> {
        if seen == self.sequence {
            return Some(&[]);
        }
        let known = self.lazy.is_none() && seen.checked_add(1) == Some(self.sequence);
        known.then(|| self.changed.get(&kind).map_or(&[] as &[_], |names| names))
    }

    /// Whether every set equals that of another snapshot. Resources made on demand are not compared.
    pub fn same_sets(&self, other: &Snapshot) -> bool {
        ResourceType::ALL.iter().all(|&kind| self.set(kind).version() == other.set(kind).version())
    }

    /// Whether resources are made on demand.
    pub fn is_lazy(&self) -> bool {
        self.lazy.is_some()
    }

    /// The snapshot with other sets.
    pub(super) fn with_set(mut self, kind: ResourceType, set: Set) -> Self {
        self.sets.insert(kind, Arc::new(set));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use xds_types::envoy::config::cluster::v3::Cluster;

    fn cluster(name: &str, alt: &str) -> Arc<Resource> {
        let c = Cluster { name: name.into(), alt_stat_name: alt.into(), ..Cluster::default() };
        Arc::new(Resource::encode(ResourceType::Cluster, name, &c, vec![], vec![]))
    }

    fn snapshot(sequence: u64, clusters: Vec<Arc<Resource>>, before: Option<&Snapshot>) -> Snapshot {
        let sets = [(ResourceType::Cluster, Arc::new(clusters.into_iter().collect()))].into();
        Snapshot::new(sequence, sets, None, before)
    }

    #[test]
    fn a_reader_one_publication_behind_learns_which_names_to_look_at() {
        let one = snapshot(1, vec![cluster("a", "1"), cluster("b", "1"), cluster("c", "1")], None);
        let two = snapshot(2, vec![cluster("a", "1"), cluster("b", "2"), cluster("d", "1")], Some(&one));
        let names: Vec<&str> =
            two.changed_since(1, ResourceType::Cluster).unwrap().iter().map(|n| &**n).collect();
        assert_eq!(names, ["b", "c", "d"]);
        assert_eq!(two.changed_since(2, ResourceType::Cluster), Some(&[] as &[_]));
        assert_eq!(two.changed_since(0, ResourceType::Cluster), None, "it must look at everything");
        assert_eq!(two.changed_since(1, ResourceType::Listener), Some(&[] as &[_]));
    }

    #[test]
    fn a_set_version_depends_on_names_and_contents_only() {
        let a: Set = [cluster("a", "1"), cluster("b", "1")].into_iter().collect();
        let b: Set = [cluster("b", "1"), cluster("a", "1")].into_iter().collect();
        let c: Set = [cluster("b", "1"), cluster("a", "2")].into_iter().collect();
        assert_eq!(a.version(), b.version());
        assert_ne!(a.version(), c.version());
    }
}
