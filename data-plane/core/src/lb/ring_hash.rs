//! RING_HASH: each host has points on a ring by its weight; a request goes to the first point not before its hash.
//!
//! The points are Envoy's, so that the same key finds the same host: the k-th of a host is the hash of
//! `<key>_<k>`, and how many it has comes from the same floating-point sums.

use super::bounded::bounded;
use super::murmur::murmur2;
use super::{Balancer, Candidate, Factory, HostIndex, PickCx};
use crate::config::{HashFunction, LbPolicy, RingHash};
use std::fmt::Write;
use xxhash_rust::xxh64::xxh64;

pub(super) const FACTORY: Factory = Factory {
    name: "envoy.load_balancing_policies.ring_hash",
    build: |policy, hosts, _| {
        let LbPolicy::RingHash(config) = policy else { return None };
        Some(bounded(Ring::new(config, hosts), hosts, config.hashing.balance_factor))
    },
};

#[derive(Debug)]
pub(super) struct Ring {
    /// Ascending.
    points: Box<[u64]>,
    /// Whose point it is.
    hosts: Box<[u32]>,
    /// For each value of a hash's upper bits: the first point that has it, or more.
    starts: Box<[u32]>,
    /// What is left of a hash above `shift` bits says where to start.
    shift: u32,
}

impl Ring {
    pub(super) fn new(config: &RingHash, hosts: &[Candidate<'_>]) -> Self {
        let least = hosts.iter().map(|host| host.share).fold(1.0, f64::min);
        // The lightest host gets a whole number of points.
        let scale =
            ((least * config.minimum_ring_size as f64).ceil() / least).min(config.maximum_ring_size as f64);
        let mut ring: Vec<(u64, u32)> = Vec::with_capacity(scale.ceil() as usize);
        let mut key = String::new();
        // Running sums, as numbers of points are no whole numbers otherwise.
        let (mut have, mut want) = (0.0, 0.0);
        for (at, host) in hosts.iter().enumerate() {
            key.clear();
            key.push_str(host.key);
            key.push('_');
            let stem = key.len();
            want += scale * host.share;
            let mut point = 0_u64;
            while have < want {
                key.truncate(stem);
                let _ = write!(key, "{point}");
                let hash = match config.hash_function {
                    HashFunction::XxHash => xxh64(key.as_bytes(), 0),
                    HashFunction::Murmur2 => murmur2(key.as_bytes()),
                };
                ring.push((hash, at as u32));
                point += 1;
                have += 1.0;
            }
        }
        ring.sort_unstable();
        let bits = (ring.len() as u64).next_power_of_two().trailing_zeros().max(1);
        let shift = u64::BITS - bits;
        let mut starts = Vec::with_capacity(1 << bits);
        let mut at = 0;
        for bucket in 0..1_u64 << bits {
            while ring.get(at).is_some_and(|(point, _)| point >> shift < bucket) {
                at += 1;
            }
            starts.push(at as u32);
        }
        let (points, hosts): (Vec<_>, Vec<_>) = ring.into_iter().unzip();
        Self { points: points.into(), hosts: hosts.into(), starts: starts.into(), shift }
    }
}

impl Balancer for Ring {
    fn pick(&self, cx: &PickCx<'_>) -> Option<HostIndex> {
        if self.points.is_empty() {
            return None;
        }
        let hash = cx.hash_or_random();
        let start = self.starts[(hash >> self.shift) as usize] as usize;
        let later = self.points[start..].iter().position(|point| *point >= hash);
        let at = later.map_or(0, |later| start + later);
        // Envoy: as if the hosts of the points before were not there.
        let at = (at + cx.attempt as usize) % self.points.len();
        Some(HostIndex(self.hosts[at]))
    }
}
