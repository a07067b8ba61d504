//! Where delivered secrets are read from: a slot per name and source, written by `xds`, read by TLS contexts.
//!
//! A slot is empty until its secret came. Contexts remember the version that they were built from, and are built
//! anew once it moved.

use arc_swap::ArcSwapOption;
use data_plane_core::config::{SdsReference, Secret};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::AcqRel, Ordering::Acquire};

/// The secret under one name of one source.
#[derive(Default)]
pub struct SecretSlot {
    secret: ArcSwapOption<Secret>,
    version: AtomicU64,
}

impl SecretSlot {
    /// The secret now; `None` until it came.
    pub fn load(&self) -> Option<Arc<Secret>> {
        self.secret.load_full()
    }

    /// Counts changes: zero while nothing came. Read it before [`Self::load`], so that a change between them is
    /// seen as one that is still to come.
    pub fn version(&self) -> u64 {
        self.version.load(Acquire)
    }

    /// Replaces the secret. What was built from its predecessor stays in use by those who hold it.
    pub fn set(&self, secret: Option<Arc<Secret>>) {
        self.secret.store(secret);
        self.version.fetch_add(1, AcqRel);
    }

    /// Whether there is a secret.
    pub fn is_ready(&self) -> bool {
        self.secret.load().is_some()
    }
}

impl fmt::Debug for SecretSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ready = self.is_ready();
        f.debug_struct("SecretSlot").field("version", &self.version()).field("ready", &ready).finish()
    }
}

/// References of one name, few of them, each with its slot.
type SameName = Vec<(SdsReference, Arc<SecretSlot>)>;

/// All slots; clones share them.
#[derive(Clone, Debug, Default)]
pub struct SecretSlots(Arc<Mutex<HashMap<Box<str>, SameName>>>);

impl SecretSlots {
    /// The slot of a reference, made empty if there is none. Equal names of different sources are different slots.
    pub fn get(&self, reference: &SdsReference) -> Arc<SecretSlot> {
        let mut slots = self.0.lock();
        let same_name = slots.entry(reference.name.clone()).or_default();
        if let Some((_, slot)) = same_name.iter().find(|(known, _)| known == reference) {
            return Arc::clone(slot);
        }
        let slot = Arc::<SecretSlot>::default();
        same_name.push((reference.clone(), Arc::clone(&slot)));
        slot
    }

    /// Forgets the slots that nobody else holds.
    pub fn prune(&self) {
        self.0.lock().retain(|_, same_name| {
            same_name.retain(|(_, slot)| Arc::strong_count(slot) > 1);
            !same_name.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use data_plane_core::config::{GenericSecret, SecretKind, SecretType};

    fn reference(name: &str, path: Option<&str>) -> SdsReference {
        let source = path.map(|path| data_plane_core::config::ConfigSource::Path {
            path: path.into(),
            watched_directory: None,
        });
        SdsReference { name: name.into(), wants: SecretType::Generic, source }
    }

    fn secret(name: &str) -> Arc<Secret> {
        let kind = SecretKind::Generic(Arc::new(GenericSecret::default()));
        Arc::new(Secret { name: name.into(), kind, files: Default::default() })
    }

    #[test]
    fn a_slot_is_empty_until_set_and_counts_changes() {
        let slots = SecretSlots::default();
        let slot = slots.get(&reference("a", None));
        assert!(slot.load().is_none() && slot.version() == 0 && !slot.is_ready());
        slots.get(&reference("a", None)).set(Some(secret("a")));
        assert!(slot.version() == 1 && slot.load().is_some());
    }

    #[test]
    fn equal_names_of_different_sources_are_different_secrets() {
        let slots = SecretSlots::default();
        slots.get(&reference("a", Some("x.yaml"))).set(Some(secret("a")));
        assert!(!slots.get(&reference("a", Some("y.yaml"))).is_ready());
        assert!(!slots.get(&reference("a", None)).is_ready());
    }

    #[test]
    fn slots_that_nobody_holds_are_forgotten() {
        let slots = SecretSlots::default();
        let held = slots.get(&reference("a", None));
        held.set(Some(secret("a")));
        slots.get(&reference("b", None)).set(Some(secret("b")));
        slots.prune();
        assert!(slots.get(&reference("a", None)).is_ready());
        assert!(!slots.get(&reference("b", None)).is_ready());
    }
}
