//! Choice over priorities and health: a share of the load for each priority, a balancer for each of its lists.

use super::priority::{self, Counts};
use super::{Balancer, Health, HostIndex, HostView, PickCx, build, mix};
use crate::config::LbPolicy;

/// Knobs of a [`Selector`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SelectorOptions {
    /// Below this percentage of usable hosts, all are used. Default 50; 0: never.
    pub panic_threshold: u8,
    /// In percent. Default 140.
    pub overprovisioning_factor: u32,
}

impl Default for SelectorOptions {
    fn default() -> Self {
        Self { panic_threshold: 50, overprovisioning_factor: 140 }
    }
}

/// Chooses over priorities and health.
#[derive(Debug)]
pub struct Selector {
    /// Lists that get load, each with the end of its share in percent.
    lists: Vec<(u32, List)>,
    in_panic: bool,
}

/// Hosts that are chosen among by one balancer.
#[derive(Debug)]
struct List {
    balancer: Box<dyn Balancer>,
    /// Their places in the list of all hosts; `None` when it is that list.
    hosts: Option<Box<[HostIndex]>>,
}

impl Selector {
    /// Builds for a list of hosts.
    pub fn build(policy: &LbPolicy, hosts: &[HostView], options: SelectorOptions, seed: u64) -> Self {
        // Priorities that have hosts, so that a gap in the numbers costs nothing.
        let mut levels: Vec<u32> = hosts.iter().map(|host| host.priority).collect();
        levels.sort_unstable();
        levels.dedup();
        let mut counts = vec![Counts::default(); levels.len()];
        for host in hosts {
            let Ok(level) = levels.binary_search(&host.priority) else { continue };
            let counts = &mut counts[level];
            match host.health {
                Health::Healthy => counts.healthy += 1,
                Health::Degraded => counts.degraded += 1,
                Health::Unhealthy => {}
                Health::Excluded => continue,
            }
            counts.total += 1;
        }
        let shares = priority::shares(&counts, options.panic_threshold, options.overprovisioning_factor);
        let mut seed = seed;
        let mut end = 0;
        let mut lists = Vec::new();
        for (level, share) in levels.iter().zip(&shares) {
            let mut add = |percent: u32, usable: &dyn Fn(Health) -> bool| {
                if percent > 0 {
                    end += percent;
                    let of_level = |host: &HostView| host.priority == *level && usable(host.health);
                    lists.push((end, List::build(policy, hosts, of_level, mix(&mut seed))));
                }
            };
            if share.panic {
                add(share.healthy + share.degraded, &|health| health != Health::Excluded);
            } else {
                add(share.healthy, &|health| health == Health::Healthy);
                add(share.degraded, &|health| health == Health::Degraded);
            }
        }
        let in_panic = shares.iter().any(|share| share.panic && share.healthy + share.degraded > 0);
        Self { lists, in_panic }
    }

    /// The next host; `None` when none may be used.
    pub fn pick(&self, cx: &PickCx<'_>) -> Option<HostIndex> {
        if let [(_, only)] = &self.lists[..] {
            return only.pick(cx);
        }
        let point = (cx.hash.unwrap_or(cx.random) % 100) as u32;
        let (_, list) = self.lists.iter().find(|(end, _)| point < *end)?;
        // The priority has used up some of the randomness.
        let mut state = cx.random;
        list.pick(&PickCx { random: mix(&mut state), ..*cx })
    }

    /// Whether hosts get requests whatever their health.
    pub fn in_panic(&self) -> bool {
        self.in_panic
    }
}

impl List {
    fn build(policy: &LbPolicy, hosts: &[HostView], filter: impl Fn(&HostView) -> bool, seed: u64) -> Self {
        let chosen = || hosts.iter().enumerate().filter(|(_, host)| filter(host));
        let weights: Vec<u32> = chosen().map(|(_, host)| host.weight.max(1)).collect();
        let places =
            (weights.len() != hosts.len()).then(|| chosen().map(|(at, _)| HostIndex(at as u32)).collect());
        Self { balancer: build(policy, &weights, seed), hosts: places }
    }

    fn pick(&self, cx: &PickCx<'_>) -> Option<HostIndex> {
        let Some(hosts) = &self.hosts else { return self.balancer.pick(cx) };
        let active = |at: HostIndex| (cx.active)(hosts[at.0 as usize]);
        let at = self.balancer.pick(&PickCx { active: &active, ..*cx })?;
        Some(hosts[at.0 as usize])
    }
}
