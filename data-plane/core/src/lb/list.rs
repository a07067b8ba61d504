//! Hosts that are chosen among by one balancer.

use super::slow_start::Windows;
use super::{Balancer, Candidate, Facts, HostIndex, HostView, PickCx, build};
use crate::config::LbPolicy;
use std::sync::Arc;
use std::time::Duration;

/// Balancers of an earlier set, to be taken over where their list is the same.
pub(super) type Earlier = std::collections::HashMap<u128, Arc<dyn Balancer>>;

/// A place in the list of all hosts with its share of the load.
pub(super) type Place = (HostIndex, f64);

#[derive(Debug)]
pub(super) struct List {
    balancer: Arc<dyn Balancer>,
    fingerprint: u128,
    /// Their places in the list of all hosts; `None` when it is that list.
    places: Option<Box<[HostIndex]>>,
    windows: Option<Windows>,
}

impl List {
    pub(super) fn build(
        policy: &LbPolicy,
        hosts: &[HostView<'_>],
        places: &[Place],
        earlier: &Earlier,
        seed: u64,
    ) -> Self {
        let view = |place: HostIndex| &hosts[place.0 as usize];
        let candidates: Vec<_> = places
            .iter()
            .map(|(place, share)| Candidate {
                weight: view(*place).weight.max(1),
                share: *share,
                key: view(*place).key,
            })
            .collect();
        let fingerprint = fingerprint(&candidates);
        let known = earlier.get(&fingerprint).cloned();
        let slow_start = policy.slow_start();
        let whole = places.len() == hosts.len()
            && places.iter().enumerate().all(|(at, (place, _))| place.0 as usize == at);
        Self {
            balancer: known.unwrap_or_else(|| build(policy, &candidates, seed).into()),
            fingerprint,
            places: (!whole).then(|| places.iter().map(|(place, _)| *place).collect()),
            windows: slow_start
                .and_then(|s| Windows::new(s, places.iter().map(|(place, _)| view(*place).healthy_since))),
        }
    }

    pub(super) fn pick(&self, cx: &PickCx<'_>) -> Option<HostIndex> {
        let Some(places) = &self.places else { return self.choose(cx) };
        let facts = Placed { facts: cx.facts, places };
        let at = self.choose(&PickCx { facts: &facts, ..*cx })?;
        Some(places[at.0 as usize])
    }

    fn choose(&self, cx: &PickCx<'_>) -> Option<HostIndex> {
        match &self.windows {
            None => self.balancer.pick(cx),
            Some(windows) => windows.pick(cx, |cx| self.balancer.pick(cx)),
        }
    }

    pub(super) fn keep(&self, into: &mut Earlier) {
        into.insert(self.fingerprint, Arc::clone(&self.balancer));
    }
}

/// What tells two lists apart for a balancer.
fn fingerprint(hosts: &[Candidate<'_>]) -> u128 {
    let mut bytes = Vec::with_capacity(hosts.len() * 32);
    for host in hosts {
        bytes.extend_from_slice(&host.weight.to_le_bytes());
        bytes.extend_from_slice(&host.share.to_bits().to_le_bytes());
        bytes.extend_from_slice(&(host.key.len() as u32).to_le_bytes());
        bytes.extend_from_slice(host.key.as_bytes());
    }
    let half = |seed| u128::from(xxhash_rust::xxh64::xxh64(&bytes, seed));
    half(0) << 64 | half(1)
}

/// Facts of a list's hosts.
struct Placed<'a> {
    facts: &'a dyn Facts,
    places: &'a [HostIndex],
}

impl Facts for Placed<'_> {
    fn active(&self, host: HostIndex) -> u32 {
        self.facts.active(self.places[host.0 as usize])
    }

    fn total_active(&self) -> u32 {
        self.facts.total_active()
    }

    fn now(&self) -> Duration {
        self.facts.now()
    }
}
