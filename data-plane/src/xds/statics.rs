//! Static clusters and listeners: those of the bootstrap, at the start and when it is read again.

use super::apply::{State, chain_of};
use super::kind::Kind;
use super::{ListenerFailure, Reloaded};
use crate::upstream;
use data_plane_core::{config, translate};
use std::sync::Arc;

impl State {
    /// Takes the static part of `bootstrap` in the place of the present one. All listeners are prepared before
    /// anything changes, so that a bad one changes nothing.
    pub(super) fn set_static(
        &mut self,
        bootstrap: &config::Bootstrap,
    ) -> Result<Reloaded, Vec<ListenerFailure>> {
        let mut prepared = Vec::new();
        // Before listeners: their contexts are built from them.
        let before = self.secrets.set_static(&bootstrap.secrets)?;
        let mut failures = Vec::new();
        for listener in &bootstrap.listeners {
            if self.static_listeners.get(&listener.name) == Some(listener) {
                continue;
            }
            match self.listeners.prepare(Arc::clone(listener)) {
                Ok(one) => prepared.push(one),
                Err(error) => {
                    failures.push(ListenerFailure { name: listener.name.clone(), reason: chain_of(&error) });
                }
            }
        }
        if !failures.is_empty() {
            self.secrets.restore_static(&before);
            return Err(failures);
        }
        // Whether there is an ADS stream only a start decides.
        let ads = self.sources.ads;
        self.sources = translate::Sources { ads, ..translate::Sources::of(bootstrap) };
        let mut changed = Reloaded::default();
        self.replace_clusters(bootstrap, &mut changed);
        self.replace_listeners(bootstrap, &mut changed);
        for one in prepared {
            changed.listeners.push(one.config().name.clone());
            self.waiting.insert(one.config().name.clone(), one);
        }
        Ok(changed)
    }

    fn replace_clusters(&mut self, bootstrap: &config::Bootstrap, changed: &mut Reloaded) {
        let next = bootstrap.clusters.iter().map(|c| (c.name.clone(), Arc::clone(c))).collect();
        let old = std::mem::replace(&mut self.static_clusters, next);
        for name in old.into_keys().filter(|name| !self.static_clusters.contains_key(name)) {
            self.held.remove(&name);
            self.upstream.remove_cluster(&name);
            changed.clusters_removed.push(name);
        }
        for cluster in &bootstrap.clusters {
            // A static cluster takes the place of a dynamic one of its name.
            self.inventory.remove(Kind::Cluster, &cluster.name);
            if self.set_cluster(cluster, upstream::Origin::Static) {
                changed.clusters.push(cluster.name.clone());
            }
        }
    }

    fn replace_listeners(&mut self, bootstrap: &config::Bootstrap, changed: &mut Reloaded) {
        let next = bootstrap.listeners.iter().map(|l| (l.name.clone(), Arc::clone(l))).collect();
        let old = std::mem::replace(&mut self.static_listeners, next);
        for name in old.into_keys().filter(|name| !self.static_listeners.contains_key(name)) {
            self.waiting.remove(&name);
            self.listeners.remove(&name);
            changed.listeners_removed.push(name);
        }
        for name in self.static_listeners.keys() {
            self.inventory.remove(Kind::Listener, name);
        }
    }
}
