//! RANDOM: each host with the same chance, whatever its weight (as measured on Envoy 1.40).

use super::{Balancer, Factory, HostIndex, PickCx, scale};
use crate::config::LbPolicy;

pub(super) const FACTORY: Factory = Factory {
    name: "envoy.load_balancing_policies.random",
    build: |policy, hosts, _| {
        matches!(policy, LbPolicy::Random)
            .then(|| Box::new(Random { hosts: hosts.len() as u32 }) as Box<dyn Balancer>)
    },
};

#[derive(Debug)]
struct Random {
    hosts: u32,
}

impl Balancer for Random {
    fn pick(&self, cx: &PickCx<'_>) -> Option<HostIndex> {
        (self.hosts > 0).then(|| HostIndex(scale(cx.random, u64::from(self.hosts)) as u32))
    }
}
