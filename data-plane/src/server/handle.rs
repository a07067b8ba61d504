//! The outside's hold on a running proxy.

use crate::stats::Registry;
use std::net::SocketAddr;
use std::time::Duration;

/// A listener as seen from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerInfo {
    /// Its name.
    pub name: String,
    /// The addresses it is bound to; port 0 is resolved.
    pub addresses: Vec<SocketAddr>,
}

/// A running proxy. Dropping it stops the proxy at once.
#[derive(Debug)]
pub struct Handle {
    admin: Option<SocketAddr>,
    stats: Registry,
}

impl Handle {
    /// Where the admin server listens.
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// All metrics.
    pub fn stats(&self) -> &Registry {
        &self.stats
    }

    /// The active listeners and where they are bound.
    pub fn listeners(&self) -> Vec<ListenerInfo> {
        Vec::new()
    }

    /// The first bound address of a listener, once it is active.
    pub fn listener_addr(&self, name: &str) -> Option<SocketAddr> {
        self.listeners().into_iter().find(|l| l.name == name)?.addresses.first().copied()
    }

    /// Waits until the proxy serves (`/ready` says LIVE); false after `limit`. Blocks the thread.
    pub fn ready(&self, limit: Duration) -> bool {
        let _ = limit;
        false
    }

    /// Begins to drain as on SIGTERM: not ready, no new connections, ends when idle or at the drain time.
    pub fn drain(&self) {}

    /// Ends at once.
    pub fn stop(&self) {}

    /// Waits until every thread has ended. Blocks the thread.
    pub fn join(self) {}
}
