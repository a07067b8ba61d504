//! The guard against mass loss: when most of a service's instances vanish at once, they are held.
//!
//! A dead network between instances and their store looks the same as dead instances, and serving nothing is the
//! worse mistake: proxies check health for themselves. So the last known instances are served on, for a while, and
//! that is said. What left because somebody asked, or said that it drains, is no loss.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Health, Instance, InstanceId, ServiceName};

/// When instances are held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Held when a service is smaller by more than this share than it was within the window, in percent; 0: never.
    /// Default 50.
    pub percent: u8,
    /// Services with fewer instances than this are not guarded. Default 3.
    pub least: usize,
    /// What is lost within this time is lost at once: the longest lease, or time to notice. Default 60 s.
    pub window: Duration,
    /// Held for this long at most; `None`: until the instances are back or the loss is accepted. Default 10 min.
    pub longest: Option<Duration>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            percent: 50,
            least: 3,
            window: Duration::from_secs(60),
            longest: Some(Duration::from_secs(600)),
        }
    }
}

/// Why a hold ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Enough instances are back, or others have come.
    Back,
    /// [`Options::longest`] has passed.
    TooLong,
}

/// What became of a service's hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Its lost instances are held from now on.
    Began {
        /// Lost, and held.
        lost: usize,
        /// Still there.
        live: usize,
    },
    /// They are no longer.
    Ended {
        /// Why.
        why: Ended,
        /// Instances let go.
        let_go: usize,
    },
}

/// The guard over all services. Pure: time comes as an argument and never goes backwards.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    options: Options,
    /// Every service as last seen.
    seen: BTreeMap<ServiceName, Arc<[Arc<Instance>]>>,
    /// Services that lost something lately.
    losses: BTreeMap<ServiceName, Losses>,
}

#[derive(Clone, Debug, Default)]
struct Losses {
    gone: BTreeMap<InstanceId, Lost>,
    /// How many there were, and until when: the largest first, each later one smaller. What left on request is not
    /// counted in them.
    sizes: VecDeque<(usize, Instant)>,
    held_since: Option<Instant>,
}

#[derive(Clone, Debug)]
struct Lost {
    /// As it was when it took traffic.
    instance: Arc<Instance>,
    at: Instant,
}

/// A service whose lost instances are held.
#[derive(Clone, Debug)]
pub struct Held<'a> {
    /// Which.
    pub service: &'a ServiceName,
    /// Since when.
    pub since: Instant,
    /// Until when at the latest.
    pub until: Option<Instant>,
    /// The lost instances, as they were.
    pub lost: Vec<Arc<Instance>>,
    /// Instances that are there.
    pub live: usize,
}

impl Guard {
    /// A guard that has seen nothing yet.
    pub fn new(options: Options) -> Self {
        Self { options, ..Self::default() }
    }

    /// Goes on with a hold of the process before this one.
    pub fn restore(&mut self, service: ServiceName, since: Instant, lost: Vec<Arc<Instance>>, live: usize) {
        if self.options.percent == 0 || lost.is_empty() {
            return;
        }
        let sizes = [(lost.len() + live, since)].into();
        let gone = lost.into_iter().map(|i| (i.id.clone(), Lost { instance: i, at: since })).collect();
        self.losses.insert(service, Losses { gone, sizes, held_since: Some(since) });
    }

    /// Takes in that a service's instances differ now. `left` are those that went because somebody asked.
    pub fn see(
        &mut self,
        service: &ServiceName,
        instances: Option<&Arc<[Arc<Instance>]>>,
        left: &BTreeSet<(ServiceName, InstanceId)>,
        now: Instant,
    ) -> Option<Turn> {
        if self.options.percent == 0 {
            return None;
        }
        let before = match instances {
            Some(all) => self.seen.insert(service.clone(), all.clone()),
            None => self.seen.remove(service),
        };
        let all = instances.map_or(&[][..], |all| all);
        let live: BTreeMap<&InstanceId, &Arc<Instance>> =
            all.iter().filter(|i| i.health == Health::Healthy).map(|i| (&i.id, i)).collect();
        let sockets: BTreeSet<_> = live.values().map(|i| i.socket()).collect();
        let parted: BTreeSet<&InstanceId> = all
            .iter()
            .filter(|i| i.health == Health::Draining)
            .map(|i| &i.id)
            .chain(left.iter().filter(|(of, _)| of == service).map(|(_, id)| id))
            .collect();
        // One that came back under another name is back.
        let is_lost = |i: &Instance| {
            !live.contains_key(&i.id) && !parted.contains(&i.id) && !sockets.contains(&i.socket())
        };

        let losses = self.losses.entry(service.clone()).or_default();
        losses.gone.retain(|_, lost| is_lost(&lost.instance));
        let before = before.iter().flat_map(|all| all.iter()).filter(|i| i.health == Health::Healthy);
        let (mut size, mut leaving) = (0, 0);
        for instance in before {
            size += 1;
            leaving += usize::from(parted.contains(&instance.id));
            if is_lost(instance) {
                let lost = || Lost { instance: instance.clone(), at: now };
                losses.gone.entry(instance.id.clone()).or_insert_with(lost);
            }
        }
        losses.resize(size, leaving, live.len(), now);
        self.weigh(service, now)
    }

    /// Ends what has lasted too long. To be called at [`Guard::next`].
    pub fn tick(&mut self, now: Instant) -> Vec<(ServiceName, Turn)> {
        let services: Vec<_> = self.losses.keys().cloned().collect();
        services.into_iter().filter_map(|s| self.weigh(&s, now).map(|turn| (s, turn))).collect()
    }

    /// When to look again, if nothing is seen before.
    pub fn next(&self) -> Option<Instant> {
        let one = |losses: &Losses| match losses.held_since {
            Some(since) => self.options.longest.map(|longest| since + longest),
            None => {
                let gone = losses.gone.values().map(|lost| lost.at);
                gone.chain(losses.sizes.front().map(|(_, until)| *until))
                    .min()
                    .map(|at| at + self.options.window)
            }
        };
        self.losses.values().filter_map(one).min()
    }

    /// Lets go what is held of a service, on request. Answers which; `None` when nothing is held.
    pub fn accept(&mut self, service: &ServiceName) -> Option<Vec<InstanceId>> {
        self.losses.get(service)?.held_since?;
        Some(self.losses.remove(service)?.gone.into_keys().collect())
    }

    /// What is held.
    pub fn held(&self) -> impl Iterator<Item = Held<'_>> {
        self.losses.iter().filter_map(|(service, losses)| {
            let since = losses.held_since?;
            Some(Held {
                service,
                since,
                until: self.options.longest.map(|longest| since + longest),
                lost: losses.gone.values().map(|lost| lost.instance.clone()).collect(),
                live: self.live(service),
            })
        })
    }

    fn live(&self, service: &ServiceName) -> usize {
        let all = self.seen.get(service).map_or(&[][..], |all| all);
        all.iter().filter(|i| i.health == Health::Healthy).count()
    }

    /// Begins or ends the hold of a service, by how much smaller it is than it was.
    fn weigh(&mut self, service: &ServiceName, now: Instant) -> Option<Turn> {
        let live = self.live(service);
        let Options { percent, least, window, longest } = self.options;
        let losses = self.losses.get_mut(service)?;
        if losses.held_since.is_none() {
            losses.forget(|at| at + window <= now);
        }
        let before = losses.sizes.front().map_or(live, |(size, _)| *size).max(live);
        let too_many = (before - live) * 100 > usize::from(percent) * before;
        let lost = losses.gone.len();
        let turn = match losses.held_since {
            Some(since) if longest.is_some_and(|longest| now >= since + longest) => {
                *losses = Losses::default();
                Some(Turn::Ended { why: Ended::TooLong, let_go: lost })
            }
            Some(_) if too_many && lost > 0 => None,
            Some(_) => {
                losses.held_since = None;
                losses.forget(|at| at + window <= now);
                Some(Turn::Ended { why: Ended::Back, let_go: lost })
            }
            None if too_many && lost > 0 && before >= least => {
                losses.held_since = Some(now);
                Some(Turn::Began { lost, live })
            }
            None => None,
        };
        // As many as ever: what is gone has been replaced.
        if before == live || (losses.gone.is_empty() && losses.sizes.is_empty()) {
            self.losses.remove(service);
        }
        turn
    }
}

impl Losses {
    /// Of `size` instances, `leaving` left on request; now there are `live`.
    fn resize(&mut self, size: usize, leaving: usize, live: usize, now: Instant) {
        for (size, _) in &mut self.sizes {
            *size = size.saturating_sub(leaving);
        }
        let size = size.saturating_sub(leaving);
        if live < size {
            while self.sizes.back().is_some_and(|(smaller, _)| *smaller <= size) {
                self.sizes.pop_back();
            }
            self.sizes.push_back((size, now));
        }
    }

    fn forget(&mut self, is_old: impl Fn(Instant) -> bool) {
        self.gone.retain(|_, lost| !is_old(lost.at));
        while self.sizes.front().is_some_and(|(_, until)| is_old(*until)) {
            self.sizes.pop_front();
        }
    }
}

#[cfg(test)]
mod tests;
