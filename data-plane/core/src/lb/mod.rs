//! Host choice: which of a list of hosts gets the next request.
//!
//! A [`Balancer`] is built for one list of weighted hosts and shared by all workers; a [`Selector`] adds
//! priorities, health and panic. Both know hosts by index only: who they are is the caller's affair.
//! Adding a policy is one file with a `FACTORY`, its `mod` line, and a line in [`BUILTIN`].

mod alias;
mod least_request;
pub mod priority;
mod random;
mod round_robin;
mod selector;

pub use selector::{Selector, SelectorOptions};

use crate::config::LbPolicy;

/// Every policy there is.
pub const BUILTIN: &[Factory] = &[round_robin::FACTORY, least_request::FACTORY, random::FACTORY];

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
#[derive(Clone, Copy, Debug)]
pub struct Factory {
    /// Envoy's name of the policy.
    pub name: &'static str,
    /// Makes a balancer over hosts of these weights (each `1..`); `None` when `policy` is another one.
    /// `seed` decides where a rotation starts, so that proxies do not march in step.
    pub build: Build,
}

/// See [`Factory::build`].
pub type Build = fn(policy: &LbPolicy, weights: &[u32], seed: u64) -> Option<Box<dyn Balancer>>;

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

/// The balancer of a policy over hosts of these weights.
pub fn build(policy: &LbPolicy, weights: &[u32], seed: u64) -> Box<dyn Balancer> {
    BUILTIN
        .iter()
        .find_map(|factory| (factory.build)(policy, weights, seed))
        .expect("INVARIANT: BUILTIN has a factory for every policy of the configuration; a test holds it")
}

/// The next number of a sequence that looks random (splitmix64): several draws from one random number.
fn mix(state: &mut u64) -> u64 {
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
fn are_equal(weights: &[u32]) -> bool {
    weights.windows(2).all(|pair| pair[0] == pair[1])
}

#[cfg(test)]
mod tests;
