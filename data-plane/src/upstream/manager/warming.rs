//! From a configuration to a cluster that serves: its first hosts, their first checks, and taking the place of what
//! served before.

use super::{Inner, Offer, Slot, State, publish_counts, retire};
use crate::upstream::flags::HealthFlag;
use crate::upstream::health::{Job, Told};
use crate::upstream::members;
use data_plane_core::config::{self, Assignment, Discovery};
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use tokio_util::sync::{CancellationToken, DropGuard};

impl Inner {
    /// Gives a warming slot the hosts that are known already.
    pub(super) fn seed(&self, state: &mut State, name: &str) {
        let State { entries, services, .. } = &*state;
        let Some(entry) = entries.get(name) else { return };
        let Some(slot) = &entry.warming else { return };
        let carried = slot.assignment.clone();
        match &slot.cluster.config.discovery {
            Discovery::Static(assignment) => {
                let assignment = Arc::new(assignment.clone());
                self.warm_up(state, name, Some(&assignment));
            }
            Discovery::Eds { service_name, .. } => {
                let service = services.get(&**service_name);
                let known = carried.or_else(|| service.and_then(|s| s.assignment.clone()));
                if known.is_some() && entry.active.is_some() {
                    entry.stats.membership.assignment_use_cached.inc();
                }
                if known.is_some() || service.is_some_and(|s| s.answered) {
                    self.warm_up(state, name, known.as_ref());
                }
            }
            Discovery::StrictDns(_, options) | Discovery::LogicalDns(_, options) => {
                if carried.is_some() || !options.wait_for_warm {
                    self.warm_up(state, name, carried.as_ref());
                }
            }
        }
    }

    /// Gives the warming slot its hosts, none when there are none. It serves at once, or where hosts are health
    /// checked, once all have been.
    pub(super) fn warm_up(&self, state: &mut State, name: &str, assignment: Option<&Arc<Assignment>>) {
        let Some(entry) = state.entries.get_mut(name) else { return };
        let Some(slot) = &mut entry.warming else { return };
        if slot.held.is_some() {
            slot.held = Some(Offer::Hosts(assignment.cloned()));
            return;
        }
        if slot.watch.is_none() {
            if let Some(old) = &entry.active
                && speaks_alike(&old.cluster.config, &slot.cluster.config)
            {
                // Connections of the old cluster serve the new one too, so hosts keep their identity.
                slot.cluster.set_hosts(Arc::clone(&old.cluster.hosts()));
            }
            slot.assignment = None;
        }
        self.assign(slot, assignment.unwrap_or(&Arc::default()));
        if slot.watch.is_some() {
            return;
        }
        if slot.cluster.config.health_check.is_some() {
            let checked = slot.cluster.hosts().iter().any(|host| host.is_checked());
            slot.watch = Some(self.watch(slot, !checked, state.outlier_log.clone()));
            if checked {
                return;
            }
        }
        self.activate(state, name);
    }

    /// Lets the warming slot serve.
    fn activate(&self, state: &mut State, name: &str) {
        let Some(entry) = state.entries.get_mut(name) else { return };
        let Some(mut slot) = entry.warming.take() else { return };
        let cluster = Arc::clone(&slot.cluster);
        // What was found of hosts before was found in another way.
        let checks = cluster.config.health_check.is_some();
        for host in cluster.hosts().iter() {
            let identity = host.identity();
            identity.set_flag(HealthFlag::FailedOutlierCheck, false);
            if !checks {
                FOUND_BY_CHECKS.iter().for_each(|flag| _ = identity.set_flag(*flag, false));
            }
        }
        if checks || entry.active.is_some() {
            let (hosts, _) = members::refreshed(&cluster.hosts(), &cluster);
            publish_counts(&cluster, &hosts);
            cluster.set_hosts(Arc::new(hosts));
        }
        if slot.watch.is_none() && cluster.detection().is_some() {
            slot.watch = Some(self.watch(&slot, true, state.outlier_log.clone()));
        }
        if matches!(cluster.config.discovery, Discovery::Static(_)) {
            // Never compared again, and the configuration has it.
            slot.assignment = None;
        }
        cluster.stats.membership.warming_state.set(0);
        let old = entry.active.replace(slot);
        state.warming -= 1;
        state.active += usize::from(old.is_none());
        if let Some(old) = old {
            retire(&old.cluster.hosts());
            for host in cluster.hosts().iter() {
                host.identity().revive();
            }
            self.clusters.publish(name, Some(cluster));
            self.clusters.announce_departures();
        } else {
            self.clusters.publish(name, Some(cluster));
        }
    }

    /// Starts the task that watches a slot's hosts.
    fn watch(&self, slot: &Slot, serving: bool, outlier_log: Option<PathBuf>) -> DropGuard {
        let stop = CancellationToken::new();
        let (me, id, name) = (Weak::clone(&self.me), slot.id, slot.cluster.config.name.clone());
        self.health.watch(Job {
            cluster: Arc::clone(&slot.cluster),
            serving,
            bell: Arc::clone(slot.cluster.bell()),
            stop: stop.clone(),
            told: Box::new(move |told| {
                if let Some(inner) = me.upgrade() {
                    inner.told(&name, id, told);
                }
            }),
            log: self.health.log(),
            outlier_log,
        });
        stop.drop_guard()
    }

    /// Takes what the task of a slot found.
    fn told(&self, name: &str, id: u64, told: Told) {
        let state = &mut *self.state.lock();
        let Some(entry) = state.entries.get(name) else { return };
        match told {
            Told::Checked if entry.warming.as_ref().is_some_and(|slot| slot.id == id) => {
                self.activate(state, name);
                self.link_services(state, name);
                self.publish_counts(state);
            }
            Told::Changed => {
                if let Some(slot) = entry.active.as_ref().filter(|slot| slot.id == id) {
                    self.refresh_slot(slot);
                }
            }
            Told::Checked => {}
        }
    }
}

/// What only active checks set.
const FOUND_BY_CHECKS: [HealthFlag; 5] = [
    HealthFlag::FailedActiveHc,
    HealthFlag::DegradedActiveHc,
    HealthFlag::PendingActiveHc,
    HealthFlag::ExcludedViaImmediateHcFail,
    HealthFlag::ActiveHcTimeout,
];

/// Whether a connection made for one configuration may carry requests of the other.
fn speaks_alike(a: &config::Cluster, b: &config::Cluster) -> bool {
    a.protocol == b.protocol
        && a.http1 == b.http1
        && a.http2 == b.http2
        && a.max_headers_count == b.max_headers_count
        && a.max_response_headers_kb == b.max_response_headers_kb
        && a.per_connection_buffer_limit_bytes == b.per_connection_buffer_limit_bytes
        && a.tcp_keepalive == b.tcp_keepalive
}
