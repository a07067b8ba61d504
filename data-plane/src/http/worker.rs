//! What one worker thread shares between its connections.

use super::alarm::Alarms;
use super::clock::Clock;
use super::route_slot::RouteSlot;
use crate::task::Shutdown;
use crate::upstream::{Clusters, Local};
use data_plane_core::route::RouteTable;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Slots remembered before the memory is cleared, so that routes of removed managers go.
const TABLES: usize = 64;

/// Most bytes passed on in one go.
const SCRATCH_BYTES: usize = 64 << 10;

/// A route table, counted within a worker: workers do not fight over its shared count.
pub(super) type Table = Arc<RouteTable>;

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
    tables: RefCell<Vec<(*const RouteSlot, Rc<Table>)>>,
    /// What goes on beside requests; ends with the worker.
    beside: RefCell<JoinSet<()>>,
    scratch: RefCell<Box<[u8]>>,
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
            tables: RefCell::default(),
            beside: RefCell::default(),
            scratch: RefCell::default(),
        })
    }

    /// Runs `task` on this worker beside requests. The caller knows what bounds how many there are.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        let mut beside = self.beside.borrow_mut();
        while beside.try_join_next().is_some() {}
        beside.spawn_local(task);
    }

    /// Wall-clock time at `now`.
    pub fn wall(&self, now: Instant) -> SystemTime {
        self.clock.wall(now)
    }

    /// Room for bytes that are read and passed on in one go, for as long as `f` runs: connections that carry bytes
    /// hold none of their own while nothing is held up.
    pub fn with_scratch<T>(&self, f: impl FnOnce(&mut [u8]) -> T) -> T {
        let mut scratch = self.scratch.take();
        if scratch.is_empty() {
            scratch = vec![0; SCRATCH_BYTES].into();
        }
        let result = f(&mut scratch);
        self.scratch.replace(scratch);
        result
    }

    /// A fresh random number; not for secrets.
    pub fn random(&self) -> u64 {
        let mut rng = self.random.replace(fastrand::Rng::with_seed(0));
        let value = rng.u64(..);
        self.random.set(rng);
        value
    }

    /// The routes in `slot` now. Each worker counts one reference of its own to a table, and its streams count
    /// within the worker.
    pub(super) fn table(&self, slot: &Arc<RouteSlot>) -> Option<Rc<Table>> {
        let now = slot.load();
        let now = now.as_ref()?;
        let mut tables = self.tables.borrow_mut();
        let key = Arc::as_ptr(slot);
        let known = tables.iter().position(|(slot, _)| *slot == key);
        if let Some(index) = known {
            let table = &mut tables[index].1;
            if !Arc::ptr_eq(table, now) {
                *table = Rc::new(Arc::clone(now));
            }
            return Some(Rc::clone(table));
        }
        if tables.len() >= TABLES {
            tables.clear();
        }
        let table = Rc::new(Arc::clone(now));
        tables.push((key, Rc::clone(&table)));
        Some(table)
    }
}
