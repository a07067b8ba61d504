//! Bounded load: no host gets much more than its share, even where all keys fall on it
//! (<https://arxiv.org/abs/1608.01350>, with random jumps as in <https://arxiv.org/abs/1908.08762>).

use super::twister::Twister;
use super::{Balancer, Candidate, HostIndex, PickCx};

/// `inner`, or with a factor `inner` with a bound: see [`crate::config::Hashing::balance_factor`].
pub(super) fn bounded(
    inner: impl Balancer + 'static,
    hosts: &[Candidate<'_>],
    factor: Option<u32>,
) -> Box<dyn Balancer> {
    match factor {
        None => Box::new(inner),
        Some(factor) => {
            let shares = hosts.iter().map(|host| host.share).collect();
            Box::new(Bounded { inner: Box::new(inner), shares, factor })
        }
    }
}

#[derive(Debug)]
struct Bounded {
    inner: Box<dyn Balancer>,
    shares: Box<[f64]>,
    /// Percent.
    factor: u32,
}

impl Bounded {
    /// What a host has in hand over what it may have: above 1 it is overloaded.
    fn load(&self, host: HostIndex, cx: &PickCx<'_>) -> f64 {
        let slots =
            (cx.facts.total_active().wrapping_add(1)).wrapping_mul(self.factor).wrapping_add(99) / 100;
        let slots = (f64::from(slots) * self.shares[host.0 as usize]).ceil().max(1.0);
        f64::from(cx.facts.active(host)) / slots
    }
}

impl Balancer for Bounded {
    fn pick(&self, cx: &PickCx<'_>) -> Option<HostIndex> {
        let host = self.inner.pick(cx)?;
        let load = self.load(host, cx);
        if load <= 1.0 {
            return Some(host);
        }
        // Envoy's shuffle, which begins with the hash: the same key tries the same hosts in the same order.
        let (mut best, mut least) = (host, load);
        let mut order: Vec<u32> = (0..self.shares.len() as u32).collect();
        let mut random = Twister::new(cx.hash_or_random() as u32);
        for at in 0..order.len() {
            let other = at + random.below((order.len() - at) as u32) as usize;
            order.swap(at, other);
            let candidate = HostIndex(order[at]);
            if candidate == host {
                continue;
            }
            let load = self.load(candidate, cx);
            if load <= 1.0 {
                return Some(candidate);
            }
            if load < least {
                (best, least) = (candidate, load);
            }
        }
        Some(best)
    }
}
