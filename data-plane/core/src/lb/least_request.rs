//! LEAST_REQUEST: of a few random hosts, or of all, the one with the fewest requests in hand.
//!
//! With unequal weights Envoy keeps a schedule by `weight / (active + 1)^bias`. Here that law comes from sampling,
//! which needs no lock over workers: a few hosts are drawn by weight, and one of them by `1 / (active + 1)^bias`.

use super::alias::AliasTable;
use super::round_robin::RoundRobin;
use super::{Balancer, Factory, HostIndex, PickCx, are_equal, mix, scale};
use crate::config::LbPolicy;

pub(super) const FACTORY: Factory = Factory {
    name: "envoy.load_balancing_policies.least_request",
    build: |policy, hosts, seed| {
        let LbPolicy::LeastRequest(config) = policy else { return None };
        let bias = config.active_request_bias.get();
        Some(match config.choices {
            _ if !are_equal(hosts) && bias == 0.0 => Box::new(RoundRobin::new(hosts, seed)),
            choices if !are_equal(hosts) => Box::new(Weighted {
                table: AliasTable::new(hosts),
                // One more than asked: with two the pull towards idle hosts is weak.
                choices: choices
                    .map_or(MOST_CHOICES, |choices| (choices as usize).max(1) + 1)
                    .min(MOST_CHOICES),
                pull: Pull::new(bias),
            }),
            Some(choices) => Box::new(Equal { hosts: hosts.len() as u32, choices: choices.max(1) }),
            None => Box::new(All { hosts: hosts.len() as u32 }),
        })
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
        let mut fewest = cx.facts.active(best);
        for _ in 1..self.choices.min(self.hosts.saturating_mul(2)) {
            let host = draw();
            let active = cx.facts.active(host);
            if active < fewest {
                (best, fewest) = (host, active);
            }
        }
        Some(best)
    }
}

/// Hosts looked at before all are.
const DRAWS: u32 = 4;

/// FULL_SCAN: of all hosts with the fewest requests any.
#[derive(Debug)]
struct All {
    hosts: u32,
}

impl Balancer for All {
    fn pick(&self, cx: &PickCx<'_>) -> Option<HostIndex> {
        if self.hosts == 0 {
            return None;
        }
        let mut state = cx.random;
        // An idle host drawn by chance is as good as one of all idle hosts: no scan brings a better one.
        for _ in 0..DRAWS {
            let host = HostIndex(scale(mix(&mut state), u64::from(self.hosts)) as u32);
            if cx.facts.active(host) == 0 {
                return Some(host);
            }
        }
        let (mut best, mut fewest, mut tied) = (HostIndex(0), u32::MAX, 0);
        for host in (0..self.hosts).map(HostIndex) {
            let active = cx.facts.active(host);
            if active < fewest || tied == 0 {
                (best, fewest, tied) = (host, active, 1);
            } else if active == fewest {
                // Each of those that tie is kept with its fair chance.
                tied += 1;
                if scale(mix(&mut state), tied) == 0 {
                    best = host;
                }
            }
        }
        Some(best)
    }
}

#[derive(Debug)]
struct Weighted {
    table: AliasTable,
    /// At most [`MOST_CHOICES`].
    choices: usize,
    pull: Pull,
}

/// More draws than this bring nothing.
const MOST_CHOICES: usize = 8;

impl Balancer for Weighted {
    fn pick(&self, cx: &PickCx<'_>) -> Option<HostIndex> {
        let mut state = cx.random;
        let mut drawn = [(0, u64::MAX); MOST_CHOICES];
        let mut sum = 0;
        for place in drawn.iter_mut().take(self.choices) {
            let host = self.table.pick(mix(&mut state))?;
            sum += self.pull.of(cx.facts.active(HostIndex(host)));
            *place = (host, sum);
        }
        let point = scale(mix(&mut state), sum);
        // Sums rise, so that those not above the point are the ones before the host it falls on: counted, since a branch
        // would be foreseen wrongly.
        let before = drawn.iter().take(self.choices).filter(|(_, end)| *end <= point).count();
        drawn.get(before).map(|(host, _)| HostIndex(*host))
    }
}

/// `2^32 / (active + 1)^bias`.
#[derive(Debug)]
enum Pull {
    Inverse,
    /// Of the first few numbers of requests; later ones are worked out.
    Power(Box<[u64]>, f64),
}

impl Pull {
    fn new(bias: f64) -> Self {
        if bias == 1.0 {
            return Self::Inverse;
        }
        Self::Power((0..256).map(|active| power(active, bias)).collect(), bias)
    }

    fn of(&self, active: u32) -> u64 {
        match self {
            Self::Inverse => (1 << 32) / (u64::from(active) + 1),
            Self::Power(known, bias) => {
                known.get(active as usize).copied().unwrap_or_else(|| power(active, *bias))
            }
        }
    }
}

fn power(active: u32, bias: f64) -> u64 {
    ((1_u64 << 32) as f64 / (f64::from(active) + 1.0).powf(bias)).max(1.0) as u64
}
