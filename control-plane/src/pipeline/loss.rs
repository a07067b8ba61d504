//! The guard against mass loss, with a clock, logs and metrics.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, gauge};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::model::guard::{Ended, Guard, Options, Turn};
use crate::model::{Change, Instance, InstanceId, ServiceName, World};

/// Acceptances that may wait for the pipeline. Full: the call waits.
pub(super) const ACCEPT_QUEUE: usize = 16;

/// A service most of whose instances are lost, and held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Since when.
    pub since: SystemTime,
    /// Until when at the latest; `None`: until they are back or the loss is accepted.
    pub until: Option<SystemTime>,
    /// The lost instances, as they were.
    pub lost: Vec<Arc<Instance>>,
    /// Healthy instances that are there.
    pub live: usize,
}

/// Somebody accepts the loss of a service's instances.
#[derive(Debug)]
pub(super) struct Accept {
    pub(super) service: ServiceName,
    pub(super) reply: oneshot::Sender<Option<Vec<InstanceId>>>,
}

/// The guard as the pipeline runs it.
pub(super) struct Losses {
    guard: Guard,
    /// One moment on both clocks, so that what is told of another does not waver.
    epoch: (Instant, SystemTime),
    services: Gauge,
    instances: Gauge,
    holds: Counter,
}

impl std::fmt::Debug for Losses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Losses").field("guard", &self.guard).finish_non_exhaustive()
    }
}

impl Losses {
    pub(super) fn new(options: Options, kept: &BTreeMap<ServiceName, Hold>) -> Self {
        describe_gauge!("mass_loss_held_services", "Services most of whose instances are lost, and held.");
        describe_gauge!("mass_loss_held_instances", "Lost instances that are held.");
        describe_counter!(
            "mass_loss_holds_total",
            "Times that most of a service was lost at once, and held."
        );
        let epoch = (Instant::now(), SystemTime::now());
        let mut guard = Guard::new(options);
        for (service, hold) in kept {
            let age = epoch.1.duration_since(hold.since).unwrap_or_default();
            let since = epoch.0.checked_sub(age).unwrap_or(epoch.0);
            guard.restore(service.clone(), since.into_std(), hold.lost.clone(), hold.live);
        }
        Self {
            guard,
            epoch,
            services: gauge!("mass_loss_held_services"),
            instances: gauge!("mass_loss_held_instances"),
            holds: counter!("mass_loss_holds_total"),
        }
    }

    /// Takes in what one event changed.
    pub(super) fn see(&mut self, world: &World, change: &Change, now: Instant) {
        for service in &change.services {
            let instances = world.services().get(service);
            if let Some(turn) = self.guard.see(service, instances, &change.left, now.into_std()) {
                self.tell(service, &turn);
            }
        }
    }

    /// Ends what has lasted too long.
    pub(super) fn tick(&mut self, now: Instant, waiting: &mut Change) {
        if self.next().is_none_or(|at| at > now) {
            return;
        }
        for (service, turn) in self.guard.tick(now.into_std()) {
            self.tell(&service, &turn);
            waiting.services.insert(service);
        }
    }

    /// When to look again.
    pub(super) fn next(&self) -> Option<Instant> {
        self.guard.next().map(Instant::from_std)
    }

    pub(super) fn accept(&mut self, accept: Accept, waiting: &mut Change) {
        let Accept { service, reply } = accept;
        let let_go = self.guard.accept(&service);
        if let Some(ids) = &let_go {
            info!(%service, let_go = ids.len(), "the loss was accepted; lost instances are let go");
            waiting.services.insert(service);
        }
        let _ = reply.send(let_go); // whoever asked may have left
    }

    /// What is held now.
    pub(super) fn holds(&self) -> BTreeMap<ServiceName, Hold> {
        let wall = |at: std::time::Instant| {
            let at = Instant::from_std(at);
            match at.checked_duration_since(self.epoch.0) {
                Some(after) => self.epoch.1 + after,
                None => self.epoch.1 - self.epoch.0.duration_since(at),
            }
        };
        let held = self.guard.held().map(|h| {
            let hold = Hold { since: wall(h.since), until: h.until.map(wall), lost: h.lost, live: h.live };
            (h.service.clone(), hold)
        });
        let held: BTreeMap<_, _> = held.collect();
        self.services.set(held.len() as f64);
        self.instances.set(held.values().map(|h| h.lost.len()).sum::<usize>() as f64);
        held
    }

    fn tell(&self, service: &ServiceName, turn: &Turn) {
        match *turn {
            Turn::Began { lost, live } => {
                self.holds.increment(1);
                warn!(%service, lost, live, "most instances are lost at once; the last known ones serve on");
            }
            Turn::Ended { why: Ended::Back, let_go } => {
                info!(%service, let_go, "enough instances are back; lost ones are no longer held");
            }
            Turn::Ended { why: Ended::TooLong, let_go } => {
                warn!(%service, let_go, "lost instances were held for the longest time; they are let go");
            }
        }
    }
}
