//! Where instances and objects come from.
//!
//! A source watches one store and tells what it sees as [`Event`]s over one bounded channel that all sources
//! share. It tells [`Event::Resync`] once it has listed everything, which marks it synced, and single changes
//! from then on; after a lost watch, a compaction, or an index that went backwards it lists again and tells
//! `Resync` again, and the world takes the difference, so that a broken store never reads as an empty one.
//! A source never builds protos of xDS, and never decides whether an object is valid.

use tokio::sync::mpsc;

pub use crate::model::{Event, Gone, Held, SourceId};

/// Events that may wait for the pipeline, over all sources. Full: `send` waits, so a source pauses its watch
/// (the store keeps its events); nothing is dropped. The pipeline empties it between builds, so that it fills
/// only while a build runs.
pub const EVENT_QUEUE: usize = 4096;

/// Where sources send.
pub type Sender = mpsc::Sender<Event>;

/// Where the pipeline receives.
pub type Receiver = mpsc::Receiver<Event>;

/// The one channel between all sources and the pipeline, of [`EVENT_QUEUE`].
pub fn channel() -> (Sender, Receiver) {
    mpsc::channel(EVENT_QUEUE)
}

pub mod consul;
pub mod embedded;
pub mod etcd;
pub mod file;
pub mod keys;
pub mod retry;
pub mod store;
