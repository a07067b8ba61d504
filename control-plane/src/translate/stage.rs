//! A stage, read: the objects that one node group gets in place of those in force for all, and those it goes without.

use std::sync::Arc;

use crate::model::{Object, ObjectKey};

/// A Stage and its objects.
#[derive(Clone, Debug)]
pub struct Staged {
    stage: Arc<Object>,
    objects: Vec<Arc<Object>>,
    deletes: Vec<ObjectKey>,
}

impl Staged {
    /// Reads a Stage; `None` when it is none. Objects that cannot be read are quarantined in the world that they make.
    pub fn new(stage: &Arc<Object>) -> Option<Self> {
        let spec = stage.stage()?;
        let (mut objects, mut deletes) = (Vec::new(), Vec::new());
        for one in &spec.objects {
            let Ok(key) = one.object.parse::<ObjectKey>() else { continue }; // checked before it came into force
            match one.deleted {
                true => deletes.push(key),
                false => objects.push(Arc::new(Object::stored(key, stage.revision, &one.text))),
            }
        }
        Some(Self { stage: stage.clone(), objects, deletes })
    }

    /// The object that it is.
    pub fn stage(&self) -> &Arc<Object> {
        &self.stage
    }

    /// Its key; the name is that of the group.
    pub fn key(&self) -> &ObjectKey {
        &self.stage.key
    }

    /// Its node group.
    pub fn group(&self) -> &Arc<str> {
        self.stage.key.name.shared()
    }

    /// What it puts in place.
    pub fn objects(&self) -> &[Arc<Object>] {
        &self.objects
    }

    /// What it takes away.
    pub fn deletes(&self) -> &[ObjectKey] {
        &self.deletes
    }
}
