//! What one worker thread shares between its connections.

use super::alarm::Alarms;
use super::clock::Clock;
use crate::task::Shutdown;
use crate::upstream::{Clusters, Local};
use std::cell::Cell;
use std::rc::Rc;

/// A worker's context: made once in its thread, shared by `Rc`.
pub struct Worker {
    /// `1..=N`, the worker's shard of stats.
    pub index: usize,
    /// This worker's pools.
    pub upstream: Rc<Local>,
    /// The clusters.
    pub clusters: Clusters,
    /// Of the process.
    pub shutdown: Shutdown,
    pub(super) clock: Clock,
    pub(super) alarms: Rc<Alarms>,
    random: Cell<fastrand::Rng>,
}

impl Worker {
    /// The context of worker `index` (from 1).
    pub fn new(index: usize, upstream: Rc<Local>, clusters: Clusters, shutdown: Shutdown) -> Rc<Self> {
        Rc::new(Self {
            index,
            upstream,
            clusters,
            shutdown,
            clock: Clock::default(),
            alarms: Rc::default(),
            random: Cell::new(fastrand::Rng::new()),
        })
    }

    /// A fresh random number; not for secrets.
    pub(super) fn random(&self) -> u64 {
        let mut rng = self.random.replace(fastrand::Rng::with_seed(0));
        let value = rng.u64(..);
        self.random.set(rng);
        value
    }
}
