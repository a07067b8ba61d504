//! What is held of each kind but secrets: the last good form of every resource, and why a newer one was refused.

use super::kind::Kind;
use data_plane_core::path::Finding;
use data_plane_core::translate::Resource;
use std::collections::BTreeMap;
use std::time::SystemTime;
use xds_types::google::protobuf::Any;

/// Dynamic resources by kind and name.
#[derive(Debug, Default)]
pub(super) struct Inventory {
    kinds: [BTreeMap<Box<str>, Entry>; Kind::ALL.len()],
}

/// One resource. At least one side is set.
#[derive(Clone, Debug, Default)]
pub struct Entry {
    /// What is in force.
    pub good: Option<Good>,
    /// The newest attempt, when it was refused.
    pub refused: Option<Refused>,
}

/// A resource in force.
#[derive(Clone, Debug)]
pub struct Good {
    /// As received, for `/config_dump` and to see that an update changes nothing.
    pub raw: Any,
    /// The version it came with.
    pub version: Box<str>,
    /// When it came.
    pub updated: SystemTime,
    /// As translated.
    pub resource: Resource,
    /// Fields that were set and have no effect.
    pub ignored: Vec<Finding>,
}

/// A resource that was refused.
#[derive(Clone, Debug)]
pub struct Refused {
    /// As received.
    pub raw: Any,
    /// The version it came with.
    pub version: Box<str>,
    /// When it came.
    pub at: SystemTime,
    /// Why.
    pub details: String,
}

impl Inventory {
    pub(super) fn of(&self, kind: Kind) -> &BTreeMap<Box<str>, Entry> {
        &self.kinds[kind as usize]
    }

    pub(super) fn good(&self, kind: Kind, name: &str) -> Option<&Good> {
        self.of(kind).get(name)?.good.as_ref()
    }

    /// Fields that were set and have no effect, of all that is in force.
    pub(super) fn ignored(&self) -> usize {
        let good = self.kinds.iter().flat_map(BTreeMap::values).filter_map(|entry| entry.good.as_ref());
        good.map(|good| good.ignored.len()).sum()
    }

    /// Whether that is what is in force, so that nothing has to be done for it.
    pub(super) fn is_in_force(&self, kind: Kind, name: &str, raw: &Any) -> bool {
        let Some(entry) = self.of(kind).get(name) else { return false };
        let failed = entry.refused.as_ref().is_some_and(|refused| refused.raw == *raw);
        !failed && entry.good.as_ref().is_some_and(|good| good.raw == *raw)
    }

    pub(super) fn accept(&mut self, kind: Kind, name: &str, good: Good) {
        let entry = Entry { good: Some(good), refused: None };
        self.kinds[kind as usize].insert(name.into(), entry);
    }

    /// The resource in force came again under a new version.
    pub(super) fn touch(&mut self, kind: Kind, name: &str, version: &str) {
        if let Some(entry) = self.kinds[kind as usize].get_mut(name) {
            entry.refused = None;
            if let Some(good) = &mut entry.good {
                good.version = version.into();
            }
        }
    }

    pub(super) fn refuse(&mut self, kind: Kind, name: &str, refused: Refused) {
        self.kinds[kind as usize].entry(name.into()).or_default().refused = Some(refused);
    }

    /// What was taken for good turns out not to be; it is tried again when it comes again.
    pub(super) fn fail(&mut self, kind: Kind, name: &str, details: &str) {
        let Some(entry) = self.kinds[kind as usize].get_mut(name) else { return };
        if let Some(Good { raw, version, .. }) = &entry.good {
            let (raw, version) = (raw.clone(), version.clone());
            let (at, details) = (SystemTime::now(), details.into());
            entry.refused = Some(Refused { raw, version, at, details });
        }
    }

    /// Forgets a resource; true if it was in force.
    pub(super) fn remove(&mut self, kind: Kind, name: &str) -> bool {
        self.kinds[kind as usize].remove(name).is_some_and(|entry| entry.good.is_some())
    }
}
