//! The world: what every source holds, and the one view that it merges into.
//!
//! Several sources may be used at once. Their instances and objects are united; where two hold the same
//! object, or the same instance id of a service, the source configured first wins, and the other takes over
//! when the first lets go. A source that has been lost keeps what it held: only its own events remove.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Health, Instance, InstanceId, Object, ObjectKey, ServiceName, SourceId};

/// Everything that a source holds at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Held {
    /// Instances. Of two with the same service and id the later counts.
    pub instances: Vec<Instance>,
    /// Objects. Of two with the same key the later counts.
    pub objects: Vec<Object>,
}

/// Why an instance is no longer there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// Somebody asked for it.
    Asked,
    /// Its lease ended or its checks failed, or nobody knows.
    Lost,
}

/// What a source tells. Events of one source are applied in the order in which it sent them.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// All that the source holds, in place of what it held. The first one marks the source synced. Later ones
    /// follow a compaction, an index that went backwards, or a lost watch: the world takes the difference.
    Resync {
        /// Who says it.
        source: SourceId,
        /// All that it holds.
        held: Held,
    },
    /// What the source held when this process last ran, read from disk. Ignored once the source has synced.
    Restore {
        /// Whose state it is.
        source: SourceId,
        /// What it held.
        held: Held,
    },
    /// An instance was added or changed.
    UpsertInstance {
        /// Who says it.
        source: SourceId,
        /// The instance.
        instance: Instance,
    },
    /// An instance is gone.
    RemoveInstance {
        /// Who says it.
        source: SourceId,
        /// Its service.
        service: ServiceName,
        /// Its id.
        id: InstanceId,
        /// Why.
        why: Gone,
    },
    /// All instances of one service, in place of those the source held (stores that answer by service).
    ReplaceService {
        /// Who says it.
        source: SourceId,
        /// The service.
        service: ServiceName,
        /// Its instances; those of other services are ignored. Empty: the service is gone.
        instances: Vec<Instance>,
        /// Why those that are not among them are gone. One that was unhealthy before is lost in any case.
        why: Gone,
    },
    /// An object was written.
    UpsertObject {
        /// Who says it.
        source: SourceId,
        /// The object.
        object: Object,
    },
    /// An object was deleted.
    RemoveObject {
        /// Who says it.
        source: SourceId,
        /// Which.
        key: ObjectKey,
    },
}

impl Event {
    /// Who says it.
    pub fn source(&self) -> &SourceId {
        match self {
            Self::Resync { source, .. }
            | Self::Restore { source, .. }
            | Self::UpsertInstance { source, .. }
            | Self::RemoveInstance { source, .. }
            | Self::ReplaceService { source, .. }
            | Self::UpsertObject { source, .. }
            | Self::RemoveObject { source, .. } => source,
        }
    }
}

/// How far a source can be trusted to have told everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sync {
    /// It has told nothing yet.
    #[default]
    Waiting,
    /// What it held when this process last ran stands in for it.
    Restored,
    /// It has listed everything at least once.
    Synced,
}

/// What one source holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Contribution {
    /// Whether it has told everything.
    pub sync: Sync,
    /// Instances by service. No service is empty.
    pub instances: BTreeMap<ServiceName, Arc<BTreeMap<InstanceId, Arc<Instance>>>>,
    /// Objects.
    pub objects: BTreeMap<ObjectKey, Arc<Object>>,
}

/// What changed in the merged view.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Services whose merged instances differ.
    pub services: BTreeSet<ServiceName>,
    /// Instances that a source let go because somebody asked.
    pub left: BTreeSet<(ServiceName, InstanceId)>,
    /// Objects that differ.
    pub objects: BTreeSet<ObjectKey>,
    /// A source went from waiting to restored or synced.
    pub sync: bool,
}

impl Change {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty() && self.objects.is_empty() && !self.sync
    }

    /// Adds another change to this one.
    pub fn merge(&mut self, other: Self) {
        self.services.extend(other.services);
        self.left.extend(other.left);
        self.objects.extend(other.objects);
        self.sync |= other.sync;
    }
}

/// The world. Cloning shares the contents.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct World {
    sources: BTreeMap<SourceId, Contribution>,
    services: BTreeMap<ServiceName, Arc<[Arc<Instance>]>>,
    objects: BTreeMap<ObjectKey, (SourceId, Arc<Object>)>,
}

impl World {
    /// A world in which these sources have told nothing yet.
    pub fn new(sources: impl IntoIterator<Item = SourceId>) -> Self {
        let sources = sources.into_iter().map(|s| (s, Contribution::default())).collect();
        Self { sources, ..Self::default() }
    }

    /// Every source and what it holds, the one that wins first.
    pub fn sources(&self) -> &BTreeMap<SourceId, Contribution> {
        &self.sources
    }

    /// Whether every source has listed everything at least once.
    pub fn is_synced(&self) -> bool {
        self.sources.values().all(|c| c.sync == Sync::Synced)
    }

    /// Whether every source has told something: itself, or by its kept state.
    pub fn is_restored(&self) -> bool {
        self.sources.values().all(|c| c.sync != Sync::Waiting)
    }

    /// Registered services and their instances, sorted by id. No service is empty.
    pub fn services(&self) -> &BTreeMap<ServiceName, Arc<[Arc<Instance>]>> {
        &self.services
    }

    /// Instances of a service, sorted by id.
    pub fn instances(&self, service: &str) -> &[Arc<Instance>] {
        self.services.get(service).map_or(&[], |all| all)
    }

    /// Puts instances that no source holds into the merged view, in the place of those with their ids, until the
    /// service changes again.
    pub fn hold(&mut self, service: &ServiceName, instances: Vec<Arc<Instance>>) {
        let mut all: BTreeMap<InstanceId, Arc<Instance>> =
            self.instances(service.as_str()).iter().map(|i| (i.id.clone(), i.clone())).collect();
        all.extend(instances.into_iter().map(|i| (i.id.clone(), i)));
        self.services.insert(service.clone(), all.into_values().collect());
    }

    /// The newest revision of every object, valid or not, with the source that holds it.
    pub fn objects(&self) -> &BTreeMap<ObjectKey, (SourceId, Arc<Object>)> {
        &self.objects
    }

    fn merge_service(&mut self, service: &ServiceName, change: &mut Change) {
        let mut merged: BTreeMap<&InstanceId, &Arc<Instance>> = BTreeMap::new();
        for held in self.sources.values().filter_map(|c| c.instances.get(service)) {
            for (id, instance) in held.iter() {
                merged.entry(id).or_insert(instance);
            }
        }
        if merged.is_empty() {
            if self.services.remove(service).is_some() {
                change.services.insert(service.clone());
            }
            return;
        }
        let merged: Arc<[Arc<Instance>]> = merged.into_values().cloned().collect();
        if self.services.get(service) != Some(&merged) {
            self.services.insert(service.clone(), merged);
            change.services.insert(service.clone());
        }
    }

    fn merge_object(&mut self, key: &ObjectKey, change: &mut Change) {
        let winner = self
            .sources
            .iter()
            .find_map(|(source, c)| c.objects.get(key).map(|object| (source.clone(), object.clone())));
        // A write that changed nothing but the revision is a change too: status shows the revision.
        match winner {
            Some(winner) if self.objects.get(key) == Some(&winner) => return,
            Some(winner) => {
                self.objects.insert(key.clone(), winner);
            }
            None if self.objects.remove(key).is_none() => return,
            None => {}
        }
        change.objects.insert(key.clone());
    }

    fn replace(&mut self, source: &SourceId, held: Held, sync: Sync) -> Change {
        let mut change = Change::default();
        let contribution = self.sources.entry(source.clone()).or_default();
        change.sync = contribution.sync != sync;

        let mut instances: BTreeMap<ServiceName, BTreeMap<InstanceId, Arc<Instance>>> = BTreeMap::new();
        for i in held.instances {
            instances.entry(i.service.clone()).or_default().insert(i.id.clone(), Arc::new(i));
        }
        let objects: BTreeMap<_, _> =
            held.objects.into_iter().map(|o| (o.key.clone(), Arc::new(o))).collect();
        let new = Contribution {
            sync,
            instances: instances.into_iter().map(|(name, all)| (name, Arc::new(all))).collect(),
            objects,
        };
        let old = std::mem::replace(contribution, new);

        let new = &self.sources[source];
        let differs = |name: &&ServiceName| old.instances.get(*name) != new.instances.get(*name);
        let services: BTreeSet<ServiceName> =
            old.instances.keys().chain(new.instances.keys()).filter(differs).cloned().collect();
        let keys: BTreeSet<ObjectKey> = old
            .objects
            .keys()
            .chain(new.objects.keys())
            .filter(|key| old.objects.get(*key) != new.objects.get(*key))
            .cloned()
            .collect();
        for service in &services {
            self.merge_service(service, &mut change);
        }
        for key in &keys {
            self.merge_object(key, &mut change);
        }
        change
    }

    fn edit_service(
        &mut self,
        source: &SourceId,
        service: &ServiceName,
        edit: impl FnOnce(&mut BTreeMap<InstanceId, Arc<Instance>>),
    ) -> Change {
        let held = &mut self.sources.entry(source.clone()).or_default().instances;
        let all = Arc::make_mut(held.entry(service.clone()).or_default());
        edit(all);
        if all.is_empty() {
            held.remove(service);
        }
        let mut change = Change::default();
        self.merge_service(service, &mut change);
        change
    }
}

/// Folds one event into a world, and says what differs in the merged view.
pub fn apply(mut world: World, event: Event) -> (World, Change) {
    let change = match event {
        Event::Resync { source, held } => world.replace(&source, held, Sync::Synced),
        Event::Restore { source, held } => {
            if world.sources.get(&source).is_some_and(|c| c.sync == Sync::Synced) {
                Change::default() // the store itself is fresher than what was kept of it
            } else {
                world.replace(&source, held, Sync::Restored)
            }
        }
        Event::UpsertInstance { source, instance } => {
            let service = instance.service.clone();
            world.edit_service(&source, &service, |all| {
                all.insert(instance.id.clone(), Arc::new(instance));
            })
        }
        Event::RemoveInstance { source, service, id, why } => {
            let mut change = world.edit_service(&source, &service, |all| {
                all.remove(&id);
            });
            if why == Gone::Asked {
                change.left.insert((service, id));
            }
            change
        }
        Event::ReplaceService { source, service, instances, why } => {
            let mut left = BTreeSet::new();
            let mut change = world.edit_service(&source, &service, |all| {
                let before = std::mem::take(all);
                let own = instances.into_iter().filter(|i| i.service == service);
                all.extend(own.map(|i| (i.id.clone(), Arc::new(i))));
                if why == Gone::Asked {
                    let gone = before.into_values().filter(|i| !all.contains_key(&i.id));
                    let parted = gone.filter(|i| i.health != Health::Unhealthy);
                    left.extend(parted.map(|i| (service.clone(), i.id.clone())));
                }
            });
            change.left = left;
            change
        }
        Event::UpsertObject { source, object } => {
            let key = object.key.clone();
            world.sources.entry(source).or_default().objects.insert(key.clone(), Arc::new(object));
            let mut change = Change::default();
            world.merge_object(&key, &mut change);
            change
        }
        Event::RemoveObject { source, key } => {
            world.sources.entry(source).or_default().objects.remove(&key);
            let mut change = Change::default();
            world.merge_object(&key, &mut change);
            change
        }
    };
    (world, change)
}

#[cfg(test)]
mod tests;
