//! RANDOM: each host with a chance by its weight.

use super::alias::AliasTable;
use super::{Balancer, Factory, HostIndex, PickCx, are_equal, scale};
use crate::config::LbPolicy;

pub(super) const FACTORY: Factory = Factory {
    name: "envoy.load_balancing_policies.random",
    build: |policy, weights, _| {
        matches!(policy, LbPolicy::Random).then(|| Box::new(Random::new(weights)) as Box<dyn Balancer>)
    },
};

#[derive(Debug)]
enum Random {
    Equal(u32),
    Weighted(AliasTable),
}

impl Random {
    fn new(weights: &[u32]) -> Self {
        if are_equal(weights) {
            Self::Equal(weights.len() as u32)
        } else {
            Self::Weighted(AliasTable::new(weights))
        }
    }
}

impl Balancer for Random {
    fn pick(&self, cx: &PickCx<'_>) -> Option<HostIndex> {
        match self {
            Self::Equal(hosts) => (*hosts > 0).then(|| HostIndex(scale(cx.random, u64::from(*hosts)) as u32)),
            Self::Weighted(table) => table.pick(cx.random).map(HostIndex),
        }
    }
}
