//! LEAST_REQUEST: of a few random hosts, the one with the fewest requests in hand.
//!
//! With unequal weights Envoy keeps a schedule by `weight / (active + 1)`. Here that law comes from sampling,
//! which needs no lock over workers: a few hosts are drawn by weight, and one of them by `1 / (active + 1)`.

use super::alias::AliasTable;
use super::{Balancer, Factory, HostIndex, PickCx, are_equal, mix, scale};
use crate::config::LbPolicy;
use smallvec::SmallVec;

pub(super) const FACTORY: Factory = Factory {
    name: "envoy.load_balancing_policies.least_request",
    build: |policy, weights, _| match policy {
        LbPolicy::LeastRequest { choices } => {
            let choices = (*choices).max(1);
            Some(if are_equal(weights) {
                Box::new(Equal { hosts: weights.len() as u32, choices })
            } else {
                // One more than asked: with two the pull towards idle hosts is weak.
                Box::new(Weighted { table: AliasTable::new(weights), choices: choices.saturating_add(1) })
            })
        }
        LbPolicy::RoundRobin | LbPolicy::Random => None,
    },
};

#[derive(Debug)]
struct Equal {
    hosts: u32,
    choices: u32,
}

impl Balancer for Equal {
    fn pick(&self, cx: &PickCx<'_>) -> Option<HostIndex> {
        if self.hosts == 0 {
            return None;
        }
        let mut state = cx.random;
        let mut draw = || HostIndex(scale(mix(&mut state), u64::from(self.hosts)) as u32);
        let mut best = draw();
        // Hosts are drawn with replacement, and of equal ones the first stays, as in Envoy.
        let mut fewest = (cx.active)(best);
        for _ in 1..self.choices.min(self.hosts.saturating_mul(2)) {
            let host = draw();
            let active = (cx.active)(host);
            if active < fewest {
                (best, fewest) = (host, active);
            }
        }
        Some(best)
    }
}

#[derive(Debug)]
struct Weighted {
    table: AliasTable,
    choices: u32,
}

/// More draws than this bring nothing.
const MOST_CHOICES: u32 = 8;

impl Balancer for Weighted {
    fn pick(&self, cx: &PickCx<'_>) -> Option<HostIndex> {
        let mut state = cx.random;
        let mut drawn = SmallVec::<[(u32, u64); MOST_CHOICES as usize]>::new();
        let mut sum = 0;
        for _ in 0..self.choices.min(MOST_CHOICES) {
            let host = self.table.pick(mix(&mut state))?;
            sum += (1 << 32) / (u64::from((cx.active)(HostIndex(host))) + 1);
            drawn.push((host, sum));
        }
        let point = scale(mix(&mut state), sum);
        drawn.iter().find(|(_, end)| point < *end).or(drawn.last()).map(|(host, _)| HostIndex(*host))
    }
}
