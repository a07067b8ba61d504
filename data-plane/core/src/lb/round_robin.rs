//! ROUND_ROBIN: hosts in turn, heavier ones more often and evenly spread.
//!
//! All workers count on one atomic, so that the rotation is the same with one worker or many. The order is made
//! when the hosts are known: worst-case fair weighted fair queueing (WF2Q), in which no host is ever a whole
//! turn ahead of its share or behind it.

use super::{Balancer, Candidate, Factory, HostIndex, PickCx, are_equal, scale};
use crate::config::LbPolicy;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicU64, Ordering};

pub(super) const FACTORY: Factory = Factory {
    name: "envoy.load_balancing_policies.round_robin",
    build: |policy, hosts, seed| {
        matches!(policy, LbPolicy::RoundRobin { .. })
            .then(|| Box::new(RoundRobin::new(hosts, seed)) as Box<dyn Balancer>)
    },
};

/// Longest rotation that is written out: 4 bytes a turn. Longer ones are spread by a low-discrepancy sequence.
const LONGEST: u64 = 1 << 14;

#[derive(Debug)]
pub(super) struct RoundRobin {
    turn: AtomicU64,
    order: Order,
}

#[derive(Debug)]
enum Order {
    /// One after the other.
    Equal(u64),
    /// A whole rotation.
    Rotation(Box<[u32]>),
    /// Ends of each host's part of the whole weight.
    Spread(Box<[u64]>),
}

impl RoundRobin {
    pub(super) fn new(hosts: &[Candidate<'_>], seed: u64) -> Self {
        let order = if are_equal(hosts) {
            Order::Equal(hosts.len() as u64)
        } else {
            let weight = |host: &Candidate<'_>| u64::from(host.weight.max(1));
            let divisor = hosts.iter().fold(0, |a, host| gcd(a, weight(host)));
            let reduced: Vec<u64> = hosts.iter().map(|host| weight(host) / divisor).collect();
            if reduced.iter().sum::<u64>() <= LONGEST {
                Order::Rotation(rotation(&reduced))
            } else {
                let ends = reduced.iter().scan(0, |end, weight| {
                    *end += weight;
                    Some(*end)
                });
                Order::Spread(ends.collect())
            }
        };
        Self { turn: AtomicU64::new(seed >> 1), order }
    }
}

impl Balancer for RoundRobin {
    fn pick(&self, _: &PickCx<'_>) -> Option<HostIndex> {
        // Relaxed: only the number matters, nothing is published by it.
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        match &self.order {
            Order::Equal(hosts) => turn.checked_rem(*hosts).map(|at| HostIndex(at as u32)),
            Order::Rotation(order) => Some(HostIndex(order[(turn % order.len() as u64) as usize])),
            Order::Spread(ends) => {
                // Multiples of the golden ratio fall evenly everywhere, at any number of turns.
                let point = scale(turn.wrapping_mul(0x9E37_79B9_7F4A_7C15), *ends.last()?);
                Some(HostIndex(ends.partition_point(|end| *end <= point) as u32))
            }
        }
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The order in which hosts come in one rotation of `sum(weights)` turns.
///
/// The j-th turn of a host of weight w may begin at `j / w` of the rotation and should be over by `(j + 1) / w`.
/// Of the hosts whose turn may begin, the one whose turn should be over first is next.
fn rotation(weights: &[u64]) -> Box<[u32]> {
    let total: u64 = weights.iter().sum();
    // Times are multiplied by `total * w` where compared, to stay in integers: a turn of host i begins at the
    // first slot not before j * total / w.
    let begin = |host: usize, turn: u64| (turn * total).div_ceil(weights[host]);
    let mut waiting: BinaryHeap<Reverse<(u64, usize, u64)>> =
        (0..weights.len()).map(|host| Reverse((0, host, 0))).collect();
    let mut ready: BinaryHeap<Reverse<Due>> = BinaryHeap::new();
    (0..total)
        .map(|slot| {
            while let Some(Reverse((at, host, turn))) = waiting.peek().copied()
                && at <= slot
            {
                waiting.pop();
                ready.push(Reverse(Due { turn: turn + 1, weight: weights[host], host }));
            }
            let Reverse(due) =
                ready.pop().expect("INVARIANT: the shares sum up to one, so a turn is always due");
            waiting.push(Reverse((begin(due.host, due.turn), due.host, due.turn)));
            due.host as u32
        })
        .collect()
}

/// A turn that should be over by `turn / weight`.
#[derive(PartialEq, Eq)]
struct Due {
    turn: u64,
    weight: u64,
    host: usize,
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.turn * other.weight).cmp(&(other.turn * self.weight)).then(self.host.cmp(&other.host))
    }
}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
