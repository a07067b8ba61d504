//! MAGLEV: a table of prime size that hosts fill in turns, each in an order of its own; a request goes to the host
//! at its hash modulo the size (<https://research.google/pubs/maglev-a-fast-and-reliable-software-network-load-balancer/>).
//!
//! Offsets, skips and turns are Envoy's, so that the same key finds the same host.

use super::bounded::bounded;
use super::{Balancer, Candidate, Factory, HostIndex, PickCx};
use crate::config::LbPolicy;
use xxhash_rust::xxh64::xxh64;

pub(super) const FACTORY: Factory = Factory {
    name: "envoy.load_balancing_policies.maglev",
    build: |policy, hosts, _| {
        let LbPolicy::Maglev(config) = policy else { return None };
        Some(bounded(Table::new(config.table_size, hosts), hosts, config.hashing.balance_factor))
    },
};

/// Hosts by slot, in as few bytes as do.
#[derive(Debug)]
pub(super) enum Table {
    Narrow(Box<[u16]>),
    Wide(Box<[u32]>),
}

const FREE: u32 = u32::MAX;

impl Table {
    pub(super) fn new(size: u32, hosts: &[Candidate<'_>]) -> Self {
        if hosts.is_empty() {
            return Self::Narrow(Box::default());
        }
        let slots = fill(size, hosts);
        match slots.iter().map(|host| u16::try_from(*host)).collect::<Result<_, _>>() {
            Ok(narrow) => Self::Narrow(narrow),
            Err(_) => Self::Wide(slots.into()),
        }
    }
}

/// A host while the table is filled.
struct Turn {
    host: u32,
    share: f64,
    due: f64,
    /// Its next slot.
    slot: u64,
    skip: u64,
}

fn fill(size: u32, hosts: &[Candidate<'_>]) -> Vec<u32> {
    let most = hosts.iter().map(|host| host.share).fold(0.0, f64::max);
    let mut order: Vec<u32> = (0..hosts.len() as u32).collect();
    order.sort_by_key(|host| hosts[*host as usize].key);
    let size = u64::from(size);
    let mut turns: Vec<_> = order
        .into_iter()
        .map(|host| {
            let Candidate { key, share, .. } = hosts[host as usize];
            let slot = xxh64(key.as_bytes(), 0) % size;
            let skip = xxh64(key.as_bytes(), 1) % (size - 1).max(1) + 1;
            Turn { host, share, due: 0.0, slot, skip }
        })
        .collect();
    let mut slots = vec![FREE; size as usize];
    let (mut filled, mut round) = (0, 1.0);
    while filled < size {
        for turn in &mut turns {
            if filled == size {
                break;
            }
            // The heaviest has a turn in every round, one of half its weight in every other.
            if round * turn.share < turn.due {
                continue;
            }
            turn.due += most;
            while slots[turn.slot as usize] != FREE {
                turn.slot = (turn.slot + turn.skip) % size;
            }
            slots[turn.slot as usize] = turn.host;
            turn.slot = (turn.slot + turn.skip) % size;
            filled += 1;
        }
        round += 1.0;
    }
    slots
}

impl Balancer for Table {
    fn pick(&self, cx: &PickCx<'_>) -> Option<HostIndex> {
        let mut hash = cx.hash_or_random();
        if cx.attempt > 0 {
            // Envoy: another slot, far away.
            hash ^= (u64::MAX - u64::from(cx.attempt)).wrapping_add(1);
        }
        let at = |len: usize| hash.checked_rem(len as u64).map(|at| at as usize);
        match self {
            Self::Narrow(slots) => Some(HostIndex(slots[at(slots.len())?].into())),
            Self::Wide(slots) => Some(HostIndex(slots[at(slots.len())?])),
        }
    }
}
