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

impl Default for Set {
    fn default() -> Self {
        Self::new(BTreeMap::new())
    }
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

static EMPTY: LazyLock<Arc<Set>> = LazyLock::new(|| Arc::new(Set::default()));

/// What one group of nodes sees: a set for each type, and resources made on demand.
#[derive(Clone, Debug)]
pub struct Snapshot {
    id: u64,
    /// The snapshot that `changed` is against.
    before: Option<u64>,
    sets: BTreeMap<ResourceType, Arc<Set>>,
    /// Names that differ; absent type: equal sets.
    changed: BTreeMap<ResourceType, Arc<[Arc<str>]>>,
    lazy: Option<Arc<dyn Resolve>>,
}

impl Snapshot {
    /// A snapshot whose id no other one has, and the one that its readers saw before, if they are known to.
    pub fn new(
        id: u64,
        sets: BTreeMap<ResourceType, Arc<Set>>,
        lazy: Option<Arc<dyn Resolve>>,
        before: Option<&Snapshot>,
    ) -> Self {
        Self { id, before: None, sets, changed: BTreeMap::new(), lazy }.after(before)
    }

    /// This snapshot, as the one that follows another for the same readers.
    #[must_use]
    pub fn after(mut self, before: Option<&Snapshot>) -> Self {
        let Some(before) = before else { return self };
        self.before = Some(before.id);
        self.changed.clear();
        for &kind in ResourceType::ALL {
            let (old, new) = (before.set(kind), self.set(kind));
            if !Arc::ptr_eq(old, new) {
                let names = changed(old, new);
                if !names.is_empty() {
                    self.changed.insert(kind, names.into());
                }
            }
        }
        self
    }

    /// Its id.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The resources that a wildcard means.
    pub fn set(&self, kind: ResourceType) -> &Arc<Set> {
        self.sets.get(&kind).unwrap_or(&EMPTY)
    }

    /// One resource by name, made on demand when no set has it.
    pub fn get(&self, kind: ResourceType, name: &str) -> Option<Arc<Resource>> {
        self.set(kind).get(name).cloned().or_else(|| self.lazy.as_ref()?.resolve(kind, name))
    }

    /// Names that were added, changed or removed since the snapshot that a reader last saw, when they are
    /// known: `None` when it saw another than the one before, and where resources are made on demand.
    pub fn changed_since(&self, seen: u64, kind: ResourceType) -> Option<&[Arc<str>]> {
        if seen == self.id {
            return Some(&[]);
        }
        let known = self.lazy.is_none() && self.before == Some(seen);
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

    fn snapshot(id: u64, clusters: Vec<Arc<Resource>>, before: Option<&Snapshot>) -> Snapshot {
        let sets = [(ResourceType::Cluster, Arc::new(clusters.into_iter().collect()))].into();
        Snapshot::new(id, sets, None, before)
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
