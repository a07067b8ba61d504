//! What is built of secrets, and built anew when one of them changed.

use super::secrets::Source;
use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use std::sync::Arc;

/// The last that could be built; shared by all threads.
pub(super) struct Rebuilt<T> {
    source: Source,
    /// With the version of the secrets that it is good for.
    held: ArcSwapOption<(u64, Arc<T>)>,
    building: Mutex<()>,
}

impl<T> Rebuilt<T> {
    /// Builds, unless secrets are still to come.
    ///
    /// # Errors
    /// What is written in place cannot be used.
    pub(super) fn new(
        source: Source,
        build: impl FnOnce(&Source) -> Result<T, String>,
    ) -> Result<Self, String> {
        let version = source.version();
        let held = match source.is_ready() {
            true => Some(Arc::new((version, Arc::new(build(&source)?)))),
            false => None,
        };
        Ok(Self { source, held: ArcSwapOption::new(held), building: Mutex::default() })
    }

    /// Whether there is something.
    pub(super) fn is_ready(&self) -> bool {
        self.held.load().is_some()
    }

    /// What is good now; `None` while a secret is missing. Secrets that changed are taken up; if that fails, what was
    /// there stays.
    pub(super) fn current(&self, build: impl FnOnce(&Source) -> Result<T, String>) -> Option<Arc<T>> {
        let held = self.held.load();
        let version = self.source.version();
        let last = held.as_ref().map(|held| Arc::clone(&held.1));
        if held.as_ref().is_some_and(|held| held.0 == version) {
            return last;
        }
        // One thread builds; the others go on with what there is.
        let Some(_building) = self.building.try_lock() else { return last };
        if !self.source.is_ready() {
            return last;
        }
        let now = match build(&self.source) {
            Ok(fresh) => Some(Arc::new(fresh)),
            Err(reason) => {
                tracing::error!(%reason, "a changed secret cannot be used; the former one stays");
                last
            }
        };
        if let Some(now) = &now {
            // One that failed is not tried again before the next change.
            self.held.store(Some(Arc::new((version, Arc::clone(now)))));
        }
        now
    }
}
