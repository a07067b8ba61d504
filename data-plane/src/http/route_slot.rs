//! Where routes are read from: a slot per RDS resource, written by `xds`, read once per request.

use arc_swap::ArcSwapOption;
use data_plane_core::route::RouteTable;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;

/// The routes under one RDS name. Empty until first published: requests are answered 404 meanwhile.
#[derive(Default)]
pub struct RouteSlot(ArcSwapOption<RouteTable>);

impl RouteSlot {
    /// Replaces the routes; requests already routed keep theirs.
    pub fn publish(&self, table: Option<Arc<RouteTable>>) {
        self.0.store(table);
    }

    /// The routes now.
    pub fn load(&self) -> arc_swap::Guard<Option<Arc<RouteTable>>> {
        self.0.load()
    }

    /// Whether routes were published.
    pub fn is_ready(&self) -> bool {
        self.0.load().is_some()
    }
}

/// All slots by RDS name; shared by those that publish and those that build connection managers.
#[derive(Clone, Default)]
pub struct RouteSlots(Arc<Mutex<HashMap<Box<str>, Arc<RouteSlot>>>>);

impl RouteSlots {
    /// The slot of `name`, made empty if there is none.
    pub fn slot(&self, name: &str) -> Arc<RouteSlot> {
        let mut slots = self.0.lock();
        if let Some(slot) = slots.get(name) {
            return Arc::clone(slot);
        }
        let slot = Arc::<RouteSlot>::default();
        slots.insert(name.into(), Arc::clone(&slot));
        slot
    }

    /// Forgets the slots that no connection manager holds any more. Returns their names.
    pub fn prune(&self) -> Vec<Box<str>> {
        let mut gone = Vec::new();
        self.0.lock().retain(|name, slot| {
            let used = Arc::strong_count(slot) > 1;
            if !used {
                gone.push(name.clone());
            }
            used
        });
        gone
    }
}
