//! Host choice: which of a list of hosts gets the next request.
//!
//! A [`Balancer`] is built for one list of weighted hosts and shared by all workers; a [`Selector`] adds
//! priorities, localities, health and panic; [`Subsets`] have a selector for each part of the hosts. All of them know
//! hosts by index only: who they are is the caller's affair.
//! Adding a policy is one file with a `FACTORY`, its `mod` line, and a line in [`BUILTIN`].

mod alias;
mod bounded;
mod group;
mod least_request;
mod list;
mod maglev;
mod murmur;
pub mod priority;
mod random;
mod ring_hash;
mod round_robin;
mod selector;
mod slow_start;
mod subset;
mod twister;

pub use selector::{Picked, Selector, SelectorOptions};
pub use subset::{Labels, Subsets, Via};

use crate::config::LbPolicy;
use std::time::Duration;

/// Every policy there is.
pub const BUILTIN: &[Factory] =
    &[round_robin::FACTORY, least_request::FACTORY, random::FACTORY, ring_hash::FACTORY, maglev::FACTORY];

/// A host by its place in the list that the chooser was built over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostIndex(pub u32);

/// What a choice may want to know. Asked only when a policy needs it.
pub trait Facts {
    /// Requests a host has in hand.
    fn active(&self, host: HostIndex) -> u32;
    /// Requests that all hosts have in hand.
    fn total_active(&self) -> u32;
    /// The time, on the clock of [`HostView::healthy_since`].
    fn now(&self) -> Duration;
}

/// What a choice is made from.
#[derive(Clone, Copy)]
pub struct PickCx<'a> {
    /// 64 random bits.
    pub random: u64,
    /// The request's hash, for policies that keep a client on a host.
    pub hash: Option<u64>,
    /// How many hosts were picked for this request and rejected by the caller: policies that hash go on from there.
    pub attempt: u32,
    /// Priorities that get no load while another one can take it.
    pub tried_priorities: &'a [u32],
    /// What else is known.
    pub facts: &'a dyn Facts,
}

impl PickCx<'_> {
    /// What decides in policies that hash: chance, for requests without a hash.
    fn hash_or_random(&self) -> u64 {
        self.hash.unwrap_or(self.random)
    }
}

/// A policy over a fixed list of hosts.
pub trait Balancer: Send + Sync + std::fmt::Debug {
    /// The next host; `None` when there is none.
    fn pick(&self, cx: &PickCx<'_>) -> Option<HostIndex>;
}

/// A host as a policy sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate<'a> {
    /// `1..`.
    pub weight: u32,
    /// Its weight among all, its locality's weight taken in: the list's sum is 1 or less.
    pub share: f64,
    /// What is hashed; unique. Empty unless the policy hashes.
    pub key: &'a str,
}

impl<'a> Candidate<'a> {
    /// A list of nothing but weights and keys.
    pub fn list(hosts: impl IntoIterator<Item = (u32, &'a str)>) -> Vec<Self> {
        let mut list: Vec<_> =
            hosts.into_iter().map(|(weight, key)| Self { weight, share: 0.0, key }).collect();
        let sum: u64 = list.iter().map(|host| u64::from(host.weight)).sum();
        for host in &mut list {
            host.share = f64::from(host.weight) / sum as f64;
        }
        list
    }
}

/// Builds one policy.
#[derive(Clone, Copy, Debug)]
pub struct Factory {
    /// Envoy's name of the policy.
    pub name: &'static str,
    /// Makes a balancer over hosts; `None` when `policy` is another one. `seed` decides where a rotation starts, so
    /// that proxies do not march in step.
    pub build: Build,
}

/// See [`Factory::build`].
pub type Build = fn(policy: &LbPolicy, hosts: &[Candidate<'_>], seed: u64) -> Option<Box<dyn Balancer>>;

/// A host as far as choosing goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostView<'a> {
    /// 0 is the highest.
    pub priority: u32,
    /// `1..`.
    pub weight: u32,
    /// Whether it may be used.
    pub health: Health,
    /// Left out of the sums that decide on panic and spilling over (Envoy: "excluded").
    pub excluded: bool,
    /// Tells localities apart.
    pub locality: u32,
    /// Its locality's weight; zero when it has none.
    pub locality_weight: u32,
    /// What is hashed. Empty unless the policy hashes.
    pub key: &'a str,
    /// Since when it may be used; `None` when that does not matter.
    pub healthy_since: Option<Duration>,
}

impl Default for HostView<'_> {
    /// A healthy host of weight 1 in the only locality of priority 0.
    fn default() -> Self {
        Self {
            priority: 0,
            weight: 1,
            health: Health::Healthy,
            excluded: false,
            locality: 0,
            locality_weight: 0,
            key: "",
            healthy_since: None,
        }
    }
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
}

/// The balancer of a policy over these hosts.
pub fn build(policy: &LbPolicy, hosts: &[Candidate<'_>], seed: u64) -> Box<dyn Balancer> {
    BUILTIN
        .iter()
        .find_map(|factory| (factory.build)(policy, hosts, seed))
        .expect("INVARIANT: BUILTIN has a factory for every policy of the configuration; a test holds it")
}

/// The next number of a sequence that looks random (splitmix64): several draws from one random number.
pub fn mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A random number scaled to `0..bound`.
fn scale(random: u64, bound: u64) -> u64 {
    ((u128::from(random) * u128::from(bound)) >> 64) as u64
}

/// Whether all hosts weigh the same.
fn are_equal(hosts: &[Candidate<'_>]) -> bool {
    hosts.windows(2).all(|pair| pair[0].weight == pair[1].weight)
}

#[cfg(test)]
mod tests;
