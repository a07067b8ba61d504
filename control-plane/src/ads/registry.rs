//! Who is connected, and what each acknowledged or refused: what `status` shows.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use parking_lot::Mutex;

use crate::model::ObjectKey;

/// Identity of a stream in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(pub u64);

/// The dialect of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// State of the world.
    Sotw,
    /// Incremental.
    Delta,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sotw => "sotw",
            Self::Delta => "delta",
        })
    }
}

/// A refusal by a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nack {
    /// Version of the refused response.
    pub version: String,
    /// What the client said.
    pub reason: String,
    /// When.
    pub at: SystemTime,
    /// Resources of the refused response that may be at fault: those that the reason names, else all.
    pub resources: Vec<Arc<str>>,
    /// Objects that those were made of.
    pub objects: Vec<ObjectKey>,
}

/// One node's standing refusal of what was made of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// `node.id`.
    pub node: String,
    /// Its group.
    pub group: String,
    /// Type of what it refuses, as in [`NodeStatus::types`].
    pub kind: String,
    /// What it said.
    pub nack: Nack,
}

/// One type on one stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TypeStatus {
    /// Names subscribed.
    pub subscribed: usize,
    /// Everything is subscribed.
    pub wildcard: bool,
    /// Version of the newest response.
    pub sent: Option<(String, SystemTime)>,
    /// Version last acknowledged.
    pub acked: Option<(String, SystemTime)>,
    /// A refusal that stands: what it was about has been neither replaced nor withdrawn.
    pub nack: Option<Box<Nack>>,
}

/// One stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeStatus {
    /// `node.id`.
    pub id: String,
    /// Node group (`node.cluster`).
    pub group: String,
    /// `node.user_agent_name` and version.
    pub user_agent: String,
    /// Address of the peer.
    pub peer: String,
    /// Dialect.
    pub mode: Mode,
    /// When the stream opened.
    pub connected: SystemTime,
    /// By type: short name (`CDS`), or a type URL that is not served.
    pub types: BTreeMap<String, TypeStatus>,
}

/// Every open stream. Streams write when something happens on them; `status` reads.
#[derive(Debug, Default)]
pub struct Registry {
    next: AtomicU64,
    streams: Mutex<BTreeMap<StreamId, NodeStatus>>,
}

impl Registry {
    /// An empty registry.
    pub fn new() -> Self {
        Self::default()
    }

    /// Every stream whose node is known.
    pub fn nodes(&self) -> Vec<(StreamId, NodeStatus)> {
        self.streams.lock().iter().map(|(id, node)| (*id, node.clone())).collect()
    }

    /// Streams open.
    pub fn len(&self) -> usize {
        self.streams.lock().len()
    }

    /// Whether no stream is open.
    pub fn is_empty(&self) -> bool {
        self.streams.lock().is_empty()
    }

    /// Every refusal that stands.
    pub fn standing(&self) -> Vec<Refusal> {
        let streams = self.streams.lock();
        let all = streams.values().flat_map(|node| node.types.iter().map(move |(kind, t)| (node, kind, t)));
        let refusal = |(node, kind, status): (&NodeStatus, &String, &TypeStatus)| {
            let (node, group) = (node.id.clone(), node.group.clone());
            Some(Refusal { node, group, kind: kind.clone(), nack: *status.nack.clone()? })
        };
        all.filter_map(refusal).collect()
    }

    /// Every refusal that stands, by the objects that may be at fault.
    pub fn refusals(&self) -> BTreeMap<ObjectKey, Vec<Refusal>> {
        let mut found: BTreeMap<ObjectKey, Vec<Refusal>> = BTreeMap::new();
        for refusal in self.standing() {
            for object in &refusal.nack.objects {
                found.entry(object.clone()).or_default().push(refusal.clone());
            }
        }
        found
    }

    /// Enters a stream.
    pub(super) fn enter(&self, node: NodeStatus) -> StreamId {
        let id = StreamId(self.next.fetch_add(1, Ordering::Relaxed));
        self.streams.lock().insert(id, node);
        id
    }

    /// Changes what is known of one type of a stream.
    pub(super) fn update(&self, id: StreamId, kind: &str, change: impl FnOnce(&mut TypeStatus)) {
        if let Some(node) = self.streams.lock().get_mut(&id) {
            match node.types.get_mut(kind) {
                Some(status) => change(status),
                None => change(node.types.entry(kind.to_owned()).or_default()),
            }
        }
    }

    /// Forgets a stream.
    pub(super) fn leave(&self, id: StreamId) {
        self.streams.lock().remove(&id);
    }
}
