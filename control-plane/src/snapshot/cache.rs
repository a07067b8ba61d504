//! The slot between the pipeline, which publishes, and the streams, which read.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::watch;

use super::Snapshot;

/// Who a client is, as far as it decides which resources it sees.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Audience {
    /// A proxy of a node group.
    Proxy {
        /// Its group (`node.cluster`).
        group: Arc<str>,
    },
    /// A gRPC client that asks for services by name.
    Grpc,
}

/// One publication: a snapshot for each audience.
#[derive(Debug)]
pub struct Published {
    /// Number of the publication; grows by one.
    pub sequence: u64,
    /// When.
    pub at: SystemTime,
    /// Groups that some gateway names.
    pub groups: BTreeMap<Arc<str>, Arc<Snapshot>>,
    /// What proxies of every other group see: the gateways that name no group.
    pub others: Arc<Snapshot>,
    /// What gRPC clients see.
    pub grpc: Arc<Snapshot>,
}

impl Published {
    /// The snapshot of an audience.
    pub fn snapshot(&self, audience: &Audience) -> &Arc<Snapshot> {
        match audience {
            Audience::Proxy { group } => self.groups.get(group).unwrap_or(&self.others),
            Audience::Grpc => &self.grpc,
        }
    }
}

/// The newest publication. Readers see whole publications only, and may skip some.
#[derive(Debug)]
pub struct Cache {
    slot: watch::Sender<Option<Arc<Published>>>,
}

impl Default for Cache {
    fn default() -> Self {
        Self::new()
    }
}

impl Cache {
    /// A cache in which nothing was published: readers wait.
    pub fn new() -> Self {
        Self { slot: watch::Sender::new(None) }
    }

    /// Makes a publication the newest.
    pub fn publish(&self, published: Arc<Published>) {
        self.slot.send_replace(Some(published));
    }

    /// The newest publication; `None` before the first.
    pub fn latest(&self) -> Option<Arc<Published>> {
        self.slot.borrow().clone()
    }

    /// Tells of each publication from now on; the newest is there to be read at once.
    pub fn subscribe(&self) -> watch::Receiver<Option<Arc<Published>>> {
        self.slot.subscribe()
    }
}
