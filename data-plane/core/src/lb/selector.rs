//! Choice over priorities and health: a share of the load for each priority, a balancer for each of its lists.

use super::group::{Builder, Group, Totals};
use super::list::Earlier;
use super::priority::{self, Counts, Share};
use super::{Health, HostIndex, HostView, PickCx, mix};
use crate::config::{LbPolicy, LocalityLb};

/// Knobs of a [`Selector`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SelectorOptions {
    /// Below this percentage of usable hosts, all are used. Default 50; 0: never.
    pub panic_threshold: u8,
    /// In panic nobody is picked, except by policies that hash.
    pub fail_traffic_on_panic: bool,
    /// In percent. Default 140.
    pub overprovisioning_factor: u32,
    /// The health of a priority is that of its weight, not of its number of hosts.
    pub weighted_priority_health: bool,
    /// Which localities get the requests of a priority.
    pub locality_lb: LocalityLb,
}

impl Default for SelectorOptions {
    fn default() -> Self {
        Self {
            panic_threshold: 50,
            fail_traffic_on_panic: false,
            overprovisioning_factor: 140,
            weighted_priority_health: false,
            locality_lb: LocalityLb::Alike,
        }
    }
}

/// What a choice came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Picked {
    /// The host; `None` when none may be used.
    pub host: Option<HostIndex>,
    /// Hosts were used, or would have been, whatever their health.
    pub in_panic: bool,
}

/// Chooses over priorities and health.
#[derive(Debug)]
pub struct Selector {
    /// Priorities that have hosts, highest first.
    levels: Box<[Level]>,
    /// Who gets load: ends of shares in percent, all healthy hosts first, then degraded ones.
    turns: Box<[Turn]>,
    /// The policy goes by a request's hash, and so does the priority.
    hashes: bool,
    fail_on_panic: bool,
}

#[derive(Debug)]
struct Level {
    priority: u32,
    in_panic: bool,
    /// In percent, to share the load anew without priorities that were tried.
    availability: priority::Availability,
    /// In panic: all.
    healthy: Group,
    /// `None`: as the healthy ones.
    degraded: Option<Group>,
}

#[derive(Clone, Copy, Debug)]
struct Turn {
    end: u32,
    level: u32,
    degraded: bool,
}

impl Selector {
    /// Builds for a list of hosts. What `earlier` has for a list with equal hosts is taken over.
    pub fn build(
        policy: &LbPolicy,
        hosts: &[HostView<'_>],
        options: SelectorOptions,
        earlier: Option<&Self>,
        seed: u64,
    ) -> Self {
        let members: Vec<_> = (0..hosts.len() as u32).map(HostIndex).collect();
        Plan { policy, hosts, members: &members, totals: None, options, earlier, seed }.build()
    }

    /// The next host.
    pub fn pick(&self, cx: &PickCx<'_>) -> Picked {
        let (turn, random) = if let ([only], []) = (&self.turns[..], cx.tried_priorities) {
            (*only, cx.random)
        } else {
            let point = if self.hashes { cx.hash_or_random() } else { cx.random };
            let found = if cx.tried_priorities.is_empty() {
                find(&self.turns, point)
            } else {
                find(&self.turns_without(cx.tried_priorities), point)
            };
            let Some(turn) = found else { return Picked { host: None, in_panic: self.levels.is_empty() } };
            // The priority has used up some of the randomness. Where it stands for a hash, it stays the same.
            let mut state = cx.random;
            (turn, if self.hashes { cx.random } else { mix(&mut state) })
        };
        let Some(level) = self.levels.get(turn.level as usize) else {
            return Picked { host: None, in_panic: false };
        };
        if level.in_panic && self.fail_on_panic {
            return Picked { host: None, in_panic: true };
        }
        let group = match &level.degraded {
            Some(degraded) if turn.degraded => degraded,
            _ => &level.healthy,
        };
        Picked { host: group.pick(&PickCx { random, ..*cx }), in_panic: level.in_panic }
    }

    /// Whether any priority that gets load uses its hosts whatever their health.
    pub fn in_panic(&self) -> bool {
        self.turns.iter().any(|turn| self.levels[turn.level as usize].in_panic)
    }

    /// Shares of the load when priorities that were tried get none (Envoy `previous_priorities`).
    fn turns_without(&self, tried: &[u32]) -> Box<[Turn]> {
        let left: Vec<_> = self
            .levels
            .iter()
            .map(
                |level| if tried.contains(&level.priority) { Default::default() } else { level.availability },
            )
            .collect();
        match priority::distribute(&left) {
            Some(shares) => turns(&shares),
            // Nobody else can take it: all are as good as never tried.
            None => self.turns.clone(),
        }
    }
}

/// What a [`Selector`] over some of a cluster's hosts is built from.
#[derive(Clone, Copy)]
pub(super) struct Plan<'a> {
    pub(super) policy: &'a LbPolicy,
    /// All hosts of the cluster.
    pub(super) hosts: &'a [HostView<'a>],
    /// Those to choose among, ascending.
    pub(super) members: &'a [HostIndex],
    /// What localities are in the cluster, where that matters to their weights among the members.
    pub(super) totals: Option<&'a Totals>,
    pub(super) options: SelectorOptions,
    /// What it has for a list with equal hosts is taken over.
    pub(super) earlier: Option<&'a Selector>,
    pub(super) seed: u64,
}

impl Plan<'_> {
    pub(super) fn build(self) -> Selector {
        let Self { policy, hosts, members, totals, options, earlier, seed } = self;
        let views = || members.iter().map(|member| &hosts[member.0 as usize]);
        // Priorities that have hosts, so that a gap in the numbers costs nothing.
        let mut levels: Vec<u32> = views().map(|host| host.priority).collect();
        levels.sort_unstable();
        levels.dedup();
        let mut counts = vec![Counts::default(); levels.len()];
        for host in views() {
            if let Ok(level) = levels.binary_search(&host.priority) {
                counts[level].add(host, options.weighted_priority_health);
            }
        }
        let shares = priority::shares(&counts, options.panic_threshold, options.overprovisioning_factor);
        let mut known = Earlier::default();
        for level in earlier.iter().flat_map(|earlier| &earlier.levels) {
            level.healthy.keep(&mut known);
            level.degraded.iter().for_each(|group| group.keep(&mut known));
        }
        let mut builder = Builder { policy, hosts, members, totals, options: &options, earlier: known, seed };
        let level = |((priority, share), counts): ((&u32, &Share), &Counts)| {
            let in_panic = share.panic;
            let healthy =
                builder.group(*priority, in_panic, |host| in_panic || host.health == Health::Healthy);
            // Envoy: rings and tables are made of healthy hosts only.
            let degraded = (!in_panic && !policy.hashes() && counts.degraded_hosts > 0)
                .then(|| builder.group(*priority, false, |host| host.health == Health::Degraded));
            let availability = counts.availability(options.overprovisioning_factor);
            Level { priority: *priority, in_panic, availability, healthy, degraded }
        };
        let levels = levels.iter().zip(&shares).zip(&counts).map(level).collect();
        Selector {
            levels,
            turns: turns(&shares),
            hashes: policy.hashes(),
            fail_on_panic: options.fail_traffic_on_panic && !policy.hashes(),
        }
    }
}

fn turns(shares: &[Share]) -> Box<[Turn]> {
    let healthy = shares.iter().enumerate().map(|(level, share)| (level, share.healthy, false));
    let degraded = shares.iter().enumerate().map(|(level, share)| (level, share.degraded, true));
    let mut end = 0;
    healthy
        .chain(degraded)
        .filter(|(_, percent, _)| *percent > 0)
        .map(|(level, percent, degraded)| {
            end += percent;
            Turn { end, level: level as u32, degraded }
        })
        .collect()
}

fn find(turns: &[Turn], point: u64) -> Option<Turn> {
    let point = (point % 100) as u32;
    turns.iter().find(|turn| point < turn.end).copied()
}
