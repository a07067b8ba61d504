//! Hosts of one priority that may be used, by locality where localities have weights.

use super::list::{Earlier, List, Place};
use super::round_robin::RoundRobin;
use super::{Balancer, Candidate, HostIndex, HostView, PickCx, SelectorOptions, mix};
use crate::config::{LbPolicy, LocalityLb};

#[derive(Debug)]
pub(super) struct Group {
    /// Whose turn it is; `None` with one list.
    turns: Option<RoundRobin>,
    lists: Box<[List]>,
}

/// What groups are built from.
pub(super) struct Builder<'a> {
    pub(super) policy: &'a LbPolicy,
    pub(super) hosts: &'a [HostView<'a>],
    /// Those of the hosts that are chosen among, ascending.
    pub(super) members: &'a [HostIndex],
    pub(super) totals: Option<&'a Totals>,
    pub(super) options: &'a SelectorOptions,
    pub(super) earlier: Earlier,
    pub(super) seed: u64,
}

/// Hosts of one locality, counted.
#[derive(Default)]
struct Locality {
    id: u32,
    weight: u32,
    usable: Vec<HostIndex>,
    /// All that are not excluded.
    counted: u32,
    members: u32,
}

/// Localities of a whole cluster, for the weights that they have in a part of it.
#[derive(Debug)]
pub(super) struct Totals {
    list: Vec<Total>,
    /// Weights shrink with the share of a locality's hosts that are in the part.
    scaled: bool,
}

#[derive(Debug)]
struct Total {
    priority: u32,
    locality: u32,
    weight: u32,
    hosts: u32,
}

impl Totals {
    pub(super) fn new(hosts: &[HostView<'_>], scaled: bool) -> Self {
        let mut list: Vec<Total> = Vec::new();
        for host in hosts {
            let is_its = |total: &Total| (total.priority, total.locality) == (host.priority, host.locality);
            match list.iter().rposition(is_its) {
                Some(at) => list[at].hosts += 1,
                None => list.push(Total {
                    priority: host.priority,
                    locality: host.locality,
                    weight: host.locality_weight,
                    hosts: 1,
                }),
            }
        }
        Self { list, scaled }
    }

    /// Gives localities of a part the weights that they have in it. As in Envoy one that has no host there still
    /// counts, unless weights are scaled.
    fn apply(&self, priority: u32, localities: &mut Vec<Locality>) {
        for total in self.list.iter().filter(|total| total.priority == priority) {
            match localities.iter_mut().find(|locality| locality.id == total.locality) {
                Some(locality) if self.scaled => {
                    let share = (u64::from(total.weight) * u64::from(locality.members)) as f32;
                    locality.weight = (share / total.hosts as f32).round() as u32;
                }
                None if !self.scaled => localities.push(Locality {
                    id: total.locality,
                    weight: total.weight,
                    ..Locality::default()
                }),
                Some(_) | None => {}
            }
        }
    }
}

impl Locality {
    /// Its weight, less when too few of its hosts may be used.
    fn effective_weight(&self, overprovisioning_factor: u32) -> f64 {
        if self.counted == 0 {
            return 0.0;
        }
        let health =
            self.usable.len() as f64 * (f64::from(overprovisioning_factor) / 100.0) / f64::from(self.counted);
        f64::from(self.weight) * health.min(1.0)
    }
}

impl Builder<'_> {
    /// The hosts of a priority that `usable` holds for. In panic localities have no weight, except in policies
    /// that hash.
    pub(super) fn group(
        &mut self,
        priority: u32,
        in_panic: bool,
        usable: impl Fn(&HostView<'_>) -> bool,
    ) -> Group {
        let localities = self.localities(priority, usable);
        if self.options.locality_lb == LocalityLb::Weighted {
            if self.policy.hashes() {
                let places = shares(self.hosts, &localities);
                return Group { turns: None, lists: [self.list(&places)].into() };
            }
            if !in_panic && let Some(group) = self.by_weight(&localities) {
                return group;
            }
        }
        let usable = localities.into_iter().flat_map(|locality| locality.usable);
        let mut usable: Vec<_> = usable.collect();
        // In configured order, whatever their localities.
        usable.sort_unstable();
        Group { turns: None, lists: [self.list(&flat(self.hosts, &usable, 1.0))].into() }
    }

    fn localities(&self, priority: u32, usable: impl Fn(&HostView<'_>) -> bool) -> Vec<Locality> {
        let mut localities: Vec<Locality> = Vec::new();
        let members = self.members.iter().map(|member| (*member, &self.hosts[member.0 as usize]));
        for (member, host) in members.filter(|(_, host)| host.priority == priority) {
            // Hosts of a locality stand together, mostly.
            let known = localities.iter().rposition(|locality| locality.id == host.locality);
            let known = known.unwrap_or_else(|| {
                let fresh =
                    Locality { id: host.locality, weight: host.locality_weight, ..Locality::default() };
                localities.push(fresh);
                localities.len() - 1
            });
            let locality = &mut localities[known];
            locality.members += 1;
            locality.counted += u32::from(!host.excluded);
            if usable(host) {
                locality.usable.push(member);
            }
        }
        if let Some(totals) = self.totals {
            totals.apply(priority, &mut localities);
        }
        localities
    }

    /// Localities in turn by their weights; `None` when none has any.
    fn by_weight(&mut self, localities: &[Locality]) -> Option<Group> {
        let factor = self.options.overprovisioning_factor;
        let weighted: Vec<_> = localities
            .iter()
            .map(|locality| (locality, locality.effective_weight(factor)))
            .filter(|(_, weight)| *weight > 0.0)
            .collect();
        let most = weighted.iter().map(|(_, weight)| *weight).fold(0.0, f64::max);
        if weighted.is_empty() {
            return None;
        }
        // Whole numbers keep their rotation; others are kept to a ten-thousandth of the heaviest.
        let whole = weighted.iter().all(|(_, weight)| weight.fract() == 0.0);
        let unit = if whole { 1.0 } else { most / 10_000.0 };
        let turns: Vec<_> =
            weighted.iter().map(|(_, weight)| (((weight / unit).round() as u32).max(1), "")).collect();
        let seed = mix(&mut self.seed);
        let lists: Box<[List]> = weighted
            .iter()
            .map(|(locality, _)| self.list(&flat(self.hosts, &locality.usable, 1.0)))
            .collect();
        let turns = (lists.len() > 1).then(|| RoundRobin::new(&Candidate::list(turns), seed));
        Some(Group { turns, lists })
    }

    fn list(&mut self, places: &[Place]) -> List {
        let seed = mix(&mut self.seed);
        List::build(self.policy, self.hosts, places, &self.earlier, seed)
    }
}

/// Hosts with their part of `whole` by weight.
fn flat(hosts: &[HostView<'_>], places: &[HostIndex], whole: f64) -> Vec<Place> {
    let weight = |place: &HostIndex| hosts[place.0 as usize].weight.max(1);
    let sum: u64 = places.iter().map(|place| u64::from(weight(place))).sum();
    places.iter().map(|place| (*place, f64::from(weight(place)) * whole / sum as f64)).collect()
}

/// Hosts with their part of their locality's part (Envoy's `normalizeLocalityWeights`): what a locality without
/// usable hosts would get is nobody's.
fn shares(hosts: &[HostView<'_>], localities: &[Locality]) -> Vec<Place> {
    let sum: u64 = localities.iter().map(|locality| u64::from(locality.weight)).sum();
    let weighted = localities.iter().filter(|locality| locality.weight > 0);
    weighted
        .flat_map(|locality| flat(hosts, &locality.usable, f64::from(locality.weight) / sum as f64))
        .collect()
}

impl Group {
    pub(super) fn pick(&self, cx: &PickCx<'_>) -> Option<HostIndex> {
        match &self.turns {
            None => self.lists.first()?.pick(cx),
            Some(turns) => self.lists.get(turns.pick(cx)?.0 as usize)?.pick(cx),
        }
    }

    pub(super) fn keep(&self, into: &mut Earlier) {
        self.lists.iter().for_each(|list| list.keep(into));
    }
}
