//! Where workers leave their items: a bounded queue per worker, which only the export thread contends for.

use super::knobs::{Knobs, Overflow};
use super::{Item, thread::Status};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use tokio::sync::Notify;
use tokio::time::Instant;

/// The queues of an exporter. Its exporter ends once the last handle is dropped and what it holds is sent.
pub struct Queue<T>(Arc<Shared<T>>);

impl<T> std::fmt::Debug for Queue<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("exporter", &self.0.status.name).finish_non_exhaustive()
    }
}

/// What queues and the export thread share.
pub(super) struct Shared<T> {
    /// One for each worker; 0 is for other threads.
    shards: Box<[Mutex<VecDeque<Entry<T>>>]>,
    /// Bytes of items and batches.
    held: AtomicUsize,
    /// A batch is there.
    pub(super) wake: Notify,
    woken: AtomicBool,
    pub(super) closed: AtomicBool,
    pub(super) status: Arc<Status>,
}

/// An item that waits.
pub(super) struct Entry<T> {
    pub(super) item: T,
    pub(super) bytes: usize,
    pub(super) since: Instant,
}

impl<T: Item> Queue<T> {
    pub(super) fn new(workers: usize, status: Arc<Status>) -> Self {
        Self(Arc::new(Shared {
            shards: (0..=workers).map(|_| Mutex::default()).collect(),
            held: AtomicUsize::new(0),
            wake: Notify::new(),
            woken: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            status,
        }))
    }

    /// Leaves an item, from worker `worker`. Never waits.
    pub fn push(&self, worker: usize, item: T) {
        let shared = &*self.0;
        let (knobs, stats) = (&shared.status.knobs, &shared.status.stats);
        let bytes = item.bytes();
        let mut shard = shared.shards.get(worker).unwrap_or(&shared.shards[0]).lock();
        let mut lost = 0;
        while shard.len() >= knobs.queue_entries || shared.held.load(Relaxed) + bytes > knobs.memory_bytes {
            let full = if shard.len() >= knobs.queue_entries {
                &stats.dropped_overflow
            } else {
                &stats.dropped_memory
            };
            full.inc();
            let oldest = match knobs.overflow {
                Overflow::DropNewest => None,
                Overflow::DropOldest => shard.pop_front(),
            };
            let Some(oldest) = oldest else {
                shared.release(lost);
                return;
            };
            lost += oldest.bytes;
            shared.release(std::mem::take(&mut lost));
        }
        shard.push_back(Entry { item, bytes, since: Instant::now() });
        let ripe = shard.len() >= knobs.batch_entries;
        drop(shard);
        shared.held.fetch_add(bytes, Relaxed);
        stats.items_accepted.inc();
        if ripe && !shared.woken.swap(true, Relaxed) {
            shared.wake.notify_one();
        }
    }

    pub(super) fn shared(&self) -> &Arc<Shared<T>> {
        &self.0
    }
}

impl<T> Drop for Queue<T> {
    fn drop(&mut self) {
        self.0.closed.store(true, Relaxed);
        self.0.wake.notify_one();
    }
}

impl<T> Shared<T> {
    /// Takes up to so many items that have waited longest in their queues.
    pub(super) fn take(&self, knobs: &Knobs) -> Vec<Entry<T>> {
        self.woken.store(false, Relaxed);
        let (mut taken, mut bytes) = (Vec::new(), 0);
        for shard in &self.shards {
            let mut shard = shard.lock();
            while let Some(next) = shard.front() {
                let fits = taken.len() < knobs.batch_entries
                    && (taken.is_empty() || bytes + next.bytes <= knobs.batch_bytes);
                let Some(entry) = fits.then(|| shard.pop_front()).flatten() else { return taken };
                bytes += entry.bytes;
                taken.push(entry);
            }
        }
        taken
    }

    /// Items that wait.
    pub(super) fn depth(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    /// Bytes of items and batches.
    pub(super) fn held(&self) -> usize {
        self.held.load(Relaxed)
    }

    /// So many bytes more are held.
    pub(super) fn hold(&self, bytes: usize) {
        self.held.fetch_add(bytes, Relaxed);
    }

    /// So many bytes are held no more.
    pub(super) fn release(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Relaxed);
    }
}
