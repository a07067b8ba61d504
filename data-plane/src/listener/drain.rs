//! How listeners end: removed, drained with their ports open, stopped.

use super::manager::{Info, Listener, Lists, Manager, Raised, State};
use super::runtime::Chain;
use crate::task::{Pace, Phase};
use data_plane_core::config;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Time between two looks at what drains.
const DRAIN_CHECK: Duration = Duration::from_millis(500);

/// Which listeners, by the direction of their traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// Those whose `traffic_direction` is `INBOUND`.
    Inbound,
    /// All.
    All,
}

impl Direction {
    pub(super) fn covers(self, listener: &config::Listener) -> bool {
        self == Self::All || listener.inbound
    }
}

/// What happens once the time to drain is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Afterwards {
    /// Listeners are stopped.
    Stop,
    /// They go on, and tell every client to leave.
    GoOn,
}

/// What drains.
#[derive(Default)]
pub(super) struct Draining {
    /// Removed, with connections that finish.
    removed: Vec<(u64, Info)>,
    /// Those whose connections finish, so that they can be hastened.
    chains: Vec<Weak<Chain>>,
    tasks: JoinSet<()>,
    /// Whose clients are told to leave though new ones are accepted.
    pub(super) told: Option<Direction>,
    /// Which accept nothing any more.
    pub(super) stopped: Option<Direction>,
}

impl Draining {
    /// Listeners that were removed and have connections.
    pub(super) fn listeners(&self) -> impl Iterator<Item = Info> {
        self.removed.iter().map(|(_, info)| info.clone())
    }
}

impl Manager {
    /// Closes a listener's sockets and drains its connections: at once, or when listeners are active that take
    /// addresses of it over. False when there is none of that name.
    ///
    /// # Panics
    /// Outside a tokio runtime: the time to drain is counted there.
    pub fn remove(&self, name: &str) -> bool {
        let inner = &*self.0;
        let lists = &mut *inner.lists.lock();
        let found = match lists.active.get_mut(name) {
            Some(listener) if !listener.leaving => {
                listener.leaving = true;
                inner.stats.listener_removed.inc();
                true
            }
            _ => false,
        };
        self.let_go(lists);
        found
    }

    /// Ends the listeners that were removed and that no other takes over any more.
    pub(super) fn let_go(&self, lists: &mut Lists) {
        let goes = |listener: &Listener| listener.leaving && !lists.has_heir(listener);
        let names: Vec<_> =
            lists.active.iter().filter(|(_, l)| goes(l)).map(|(name, _)| name.clone()).collect();
        let gone: Vec<_> = names.iter().filter_map(|name| lists.active.remove(name)).collect();
        if lists.drop_lent() || !gone.is_empty() {
            self.0.publish(lists);
        }
        for listener in gone {
            self.retire(lists, &listener, self.0.pace);
        }
    }

    /// Stops all listeners and drains all connections, for good. Clients are told at once: someone waits for it.
    ///
    /// # Panics
    /// Outside a tokio runtime: the time to drain is counted there.
    pub fn drain_all(&self) {
        self.stop(Direction::All, Pace::AtOnce);
    }

    /// Stops listeners and drains their connections, for good.
    ///
    /// # Panics
    /// Outside a tokio runtime: the time to drain is counted there.
    pub fn stop(&self, direction: Direction, pace: Pace) {
        let inner = &*self.0;
        let lists = &mut *inner.lists.lock();
        lists.draining.stopped = lists.draining.stopped.max(Some(direction));
        let (stopped, active): (Vec<_>, Vec<_>) = std::mem::take(&mut lists.active)
            .into_iter()
            .partition(|(_, listener)| direction.covers(&listener.config));
        lists.active = active.into_iter().collect();
        inner.publish(lists);
        for (_, listener) in &stopped {
            inner.stats.listener_stopped.inc();
            self.retire(lists, listener, pace);
        }
        if direction == Direction::All && pace == Pace::AtOnce {
            lists.draining.chains.iter().filter_map(Weak::upgrade).for_each(|chain| chain.drain(pace));
        }
    }

    /// Tells clients to leave while new ones are still accepted (and told so too); stops the listeners after the
    /// drain time, or not. Does nothing when that is under way already.
    ///
    /// # Panics
    /// Outside a tokio runtime: the time to drain is counted there.
    pub fn discourage(&self, direction: Direction, afterwards: Afterwards) {
        let inner = &*self.0;
        let lists = &mut *inner.lists.lock();
        if lists.draining.told >= Some(direction) {
            return;
        }
        lists.draining.told = Some(direction);
        for listener in lists.active.values().filter(|l| direction.covers(&l.config)) {
            listener.runtime.all_chains().for_each(|chain| chain.drain(inner.pace));
        }
        if afterwards == Afterwards::GoOn {
            return;
        }
        let (weak, drain_time) = (Arc::downgrade(&self.0), inner.drain_time);
        lists.draining.tasks.spawn(async move {
            tokio::time::sleep(drain_time).await;
            if let Some(inner) = weak.upgrade() {
                Self(inner).stop(direction, Pace::AtOnce);
            }
        });
    }

    fn retire(&self, lists: &mut Lists, listener: &Listener, pace: Pace) {
        let chains = listener.runtime.all_chains().cloned().collect();
        let id = lists.id();
        lists.draining.removed.push((id, listener.info(State::Draining)));
        self.drain(lists, chains, Some(id), pace);
    }

    /// Lets the connections of chains finish, ends them after the drain time. `listener` is in the list of those
    /// that drain until then.
    pub(super) fn drain(
        &self,
        lists: &mut Lists,
        chains: Vec<Arc<Chain>>,
        listener: Option<u64>,
        pace: Pace,
    ) {
        let inner = &*self.0;
        lists.draining.chains.retain(|chain| chain.strong_count() > 0);
        for chain in &chains {
            chain.drain(pace);
            lists.draining.chains.push(Arc::downgrade(chain));
        }
        let draining = if listener.is_some() {
            Raised::new(&inner.stats.total_listeners_draining)
        } else {
            Raised::by(&inner.stats.total_filter_chains_draining, chains.len())
        };
        let deadline = Instant::now() + inner.drain_time;
        let weak = Arc::downgrade(&self.0);
        let tasks = &mut lists.draining.tasks;
        while tasks.try_join_next().is_some() {}
        tasks.spawn(async move {
            // A connection accepted just before has its chain but is not counted there yet: look after a while.
            tokio::time::sleep(DRAIN_CHECK.min(deadline.saturating_duration_since(Instant::now()))).await;
            while Instant::now() < deadline && chains.iter().any(|c| c.connections() > 0) {
                tokio::time::sleep(DRAIN_CHECK.min(deadline.saturating_duration_since(Instant::now()))).await;
            }
            for chain in &chains {
                chain.advance(Phase::Stopped);
            }
            drop(draining);
            if let (Some(inner), Some(listener)) = (weak.upgrade(), listener) {
                inner.lists.lock().draining.removed.retain(|(id, _)| *id != listener);
            }
        });
    }
}
