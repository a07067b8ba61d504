//! Static clusters and listeners: those of the bootstrap, at the start and when it is read again.

use super::apply::{State, chain_of};
use super::findings::{Findings, UnknownFields};
use super::kind::Kind;
use super::secrets::Secrets;
use super::{Reloaded, StaticFailure};
use crate::listener::{self, Leaving, Prepared};
use crate::stats::Registry;
use crate::transport::tls::slot::SecretSlots;
use crate::upstream;
use data_plane_core::config;
use data_plane_core::translate::{self, DataLoader};
use std::rc::Rc;
use std::sync::Arc;

/// Whether the static part of `bootstrap` can be had, but for its addresses: what `listeners` was told to do with
/// them is done.
///
/// # Errors
/// Everything that cannot be had.
pub fn check(
    bootstrap: &config::Bootstrap,
    listeners: &listener::Manager,
    slots: &SecretSlots,
    registry: &Registry,
    data: Arc<dyn DataLoader + Send + Sync>,
) -> Result<(), Vec<StaticFailure>> {
    let mut failures = bad_clusters(bootstrap);
    // Nothing that is static comes by what this tells of.
    let counter = registry.scope("server.", "server.", &[]).counter(&["dynamic_unknown_fields"]);
    let findings = Rc::new(Findings::new(UnknownFields::default(), counter));
    let mut secrets = Secrets::new(slots.clone(), registry.clone(), data, findings);
    match secrets.set_static(&bootstrap.secrets) {
        Ok(_) => {
            let all = bootstrap.listeners.iter().enumerate();
            // Kept to the end, so that no two have one address.
            let _prepared = prepare(listeners, all, &mut Leaving::default(), &mut failures);
        }
        Err(bad) => failures.extend(bad),
    }
    if failures.is_empty() { Ok(()) } else { Err(failures) }
}

/// Clusters whose TLS cannot be had.
fn bad_clusters(bootstrap: &config::Bootstrap) -> Vec<StaticFailure> {
    let failure = |(index, cluster): (usize, &Arc<config::Cluster>)| {
        let reason = upstream::tls::check(cluster).err()?;
        let (name, reason) = (cluster.name.clone(), format!("TLS: {reason}"));
        Some(StaticFailure { kind: Kind::Cluster, index, name, reason })
    };
    bootstrap.clusters.iter().enumerate().filter_map(failure).collect()
}

fn prepare<'a>(
    manager: &listener::Manager,
    listeners: impl Iterator<Item = (usize, &'a Arc<config::Listener>)>,
    leaving: &mut Leaving,
    failures: &mut Vec<StaticFailure>,
) -> Vec<Prepared> {
    let mut prepared = Vec::new();
    for (index, listener) in listeners {
        match manager.prepare_among(Arc::clone(listener), leaving) {
            Ok(one) => prepared.push(one),
            Err(error) => {
                let (name, reason) = (listener.name.clone(), chain_of(&error));
                failures.push(StaticFailure { kind: Kind::Listener, index, name, reason });
            }
        }
    }
    prepared
}

impl State {
    /// Takes the static part of `bootstrap` in the place of the present one. Clusters are checked and listeners
    /// prepared before anything changes, so that a bad one changes nothing.
    pub(super) fn set_static(
        &mut self,
        bootstrap: &config::Bootstrap,
    ) -> Result<Reloaded, Vec<StaticFailure>> {
        let mut failures = bad_clusters(bootstrap);
        // Before listeners: their contexts are built from them.
        let before = match self.secrets.set_static(&bootstrap.secrets) {
            Ok(before) => before,
            Err(bad) => {
                failures.extend(bad);
                return Err(failures);
            }
        };
        let stays =
            |listener: &Arc<config::Listener>| self.static_listeners.get(&listener.name) == Some(listener);
        let staying: Vec<_> = bootstrap.listeners.iter().filter(|l| stays(l)).map(|l| &l.name).collect();
        let gone = self.static_listeners.keys().filter(|name| !staying.contains(name));
        let mut leaving = self.listeners.leaving(gone.map(|name| &**name));
        let fresh = bootstrap.listeners.iter().enumerate().filter(|(_, l)| !stays(l));
        let prepared = prepare(&self.listeners, fresh, &mut leaving, &mut failures);
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
