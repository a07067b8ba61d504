//! Which objects are in force: checks at admission, and quarantine for what was written past it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use xds_types::portolan::config::v1::Resource;

use crate::model::{Object, ObjectKey, Problem, Problems, SourceId, World};

/// One object: its newest revision, and the one in force.
#[derive(Clone, Debug, PartialEq)]
pub struct ObjectState {
    /// Source that holds it.
    pub source: SourceId,
    /// Newest revision; `None` once it was deleted.
    pub newest: Arc<Object>,
    /// Revision that proxies are given: the newest, or the last good one, or none.
    pub in_force: Option<Arc<Object>>,
    /// What is wrong with the newest revision: errors when it is not in force, warnings otherwise.
    pub problems: Vec<Problem>,
}

impl ObjectState {
    /// Whether the newest revision is set aside.
    pub fn is_quarantined(&self) -> bool {
        self.in_force.as_ref().is_none_or(|o| !Arc::ptr_eq(o, &self.newest))
    }
}

/// Every object and what is in force of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Objects {
    states: BTreeMap<ObjectKey, ObjectState>,
}

impl Objects {
    /// Every object.
    pub fn states(&self) -> &BTreeMap<ObjectKey, ObjectState> {
        &self.states
    }

    /// Objects in force, in order of kind and name.
    pub fn in_force(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.states.values().filter_map(|s| s.in_force.as_ref())
    }
}

/// What admission says of a write.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Admission {
    /// Everything wrong. The write is refused when there are errors among them.
    pub problems: Problems,
}

impl Admission {
    /// Whether the write may go to the store.
    pub fn is_accepted(&self) -> bool {
        !self.problems.has_errors()
    }
}

/// Checks a write before it goes to the store: all of these objects, and the deletion of others, at once.
pub fn admit(current: &Objects, writes: &[Resource], deletes: &[ObjectKey]) -> Admission {
    let _ = (current, writes, deletes);
    Admission::default()
}

/// Decides what is in force after objects changed in the world.
pub fn settle(before: &Objects, world: &World, changed: &BTreeSet<ObjectKey>) -> Objects {
    let mut after = before.clone();
    for key in changed {
        match world.objects().get(key) {
            None => {
                after.states.remove(key);
            }
            Some((source, object)) => {
                let state = ObjectState {
                    source: source.clone(),
                    newest: object.clone(),
                    in_force: Some(object.clone()),
                    problems: Vec::new(),
                };
                after.states.insert(key.clone(), state);
            }
        }
    }
    after
}
