//! Host choice: policies and localities (Envoy `config.cluster.v3.Cluster.*LbConfig` and
//! `extensions.load_balancing_policies`).

use super::f64Bits;
use crate::matcher::{Regex, Substitution};
use std::time::Duration;

/// Host choice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LbPolicy {
    /// Weighted round robin.
    RoundRobin {
        /// New hosts get their share by and by.
        slow_start: Option<SlowStart>,
    },
    /// Few active requests. With unequal weights: weight over active requests.
    LeastRequest(LeastRequest),
    /// Any host, whatever its weight.
    Random,
    /// A hash ring (ketama).
    RingHash(RingHash),
    /// A Maglev table.
    Maglev(Maglev),
}

impl LbPolicy {
    /// Weighted round robin as it is without configuration.
    pub const ROUND_ROBIN: Self = Self::RoundRobin { slow_start: None };

    /// Whether a request's hash decides.
    pub fn hashes(&self) -> bool {
        matches!(self, Self::RingHash(_) | Self::Maglev(_))
    }

    /// How hosts that just became healthy are spared.
    pub fn slow_start(&self) -> Option<&SlowStart> {
        match self {
            Self::RoundRobin { slow_start } => slow_start.as_ref(),
            Self::LeastRequest(LeastRequest { slow_start, .. }) => slow_start.as_ref(),
            Self::Random | Self::RingHash(_) | Self::Maglev(_) => None,
        }
    }

    /// How keys of hosts are made, for policies that hash.
    pub fn hashing(&self) -> Option<&Hashing> {
        match self {
            Self::RingHash(RingHash { hashing, .. }) | Self::Maglev(Maglev { hashing, .. }) => Some(hashing),
            Self::RoundRobin { .. } | Self::LeastRequest(_) | Self::Random => None,
        }
    }
}

/// Least request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeastRequest {
    /// Hosts looked at; `None`: all of them (FULL_SCAN). Default 2.
    pub choices: Option<u32>,
    /// With unequal weights, `weight / (active + 1)^bias` decides. Default 1; 0: weights alone.
    pub active_request_bias: f64Bits,
    /// New hosts get their share by and by.
    pub slow_start: Option<SlowStart>,
}

impl Default for LeastRequest {
    fn default() -> Self {
        Self { choices: Some(2), active_request_bias: f64Bits::new(1.0), slow_start: None }
    }
}

/// How hosts that just became healthy are spared (Envoy `SlowStartConfig`): their weight is multiplied by
/// `max(min_weight, (time since / window)^(1 / aggression))`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlowStart {
    /// How long.
    pub window: Duration,
    /// `> 0`. Default 1: linear.
    pub aggression: f64Bits,
    /// Percent, `0..=100`. Default 10.
    pub min_weight_percent: f64Bits,
}

/// A hash ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RingHash {
    /// Least entries. Default 1024.
    pub minimum_ring_size: u64,
    /// Most entries, at least `minimum_ring_size`. Default and bound 8 Mi.
    pub maximum_ring_size: u64,
    /// What hashes host keys. Requests are hashed by xxHash always.
    pub hash_function: HashFunction,
    /// See there.
    pub hashing: Hashing,
}

impl Default for RingHash {
    fn default() -> Self {
        Self {
            minimum_ring_size: 1024,
            maximum_ring_size: 8 << 20,
            hash_function: HashFunction::XxHash,
            hashing: Hashing::default(),
        }
    }
}

/// Hash of a ring's host keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HashFunction {
    /// xxHash64.
    #[default]
    XxHash,
    /// MurmurHash2, 64 bits, as std::hash of libstdc++.
    Murmur2,
}

/// A Maglev table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Maglev {
    /// Entries, a prime up to 5,000,011. Default 65537.
    pub table_size: u32,
    /// See there.
    pub hashing: Hashing,
}

impl Default for Maglev {
    fn default() -> Self {
        Self { table_size: 65_537, hashing: Hashing::default() }
    }
}

/// What ring and table have in common (Envoy `ConsistentHashingLbConfig`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hashing {
    /// Host names are keys, not addresses. A host's metadata `envoy.lb` `hash_key` goes before both.
    pub use_hostname: bool,
    /// Most requests a host may have in hand, in percent of its share; `None`: any number. `100..`.
    pub balance_factor: Option<u32>,
}

/// A part of what a request is hashed by (Envoy `RouteAction.HashPolicy`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HashPolicy {
    /// What is hashed.
    pub source: HashSource,
    /// Once there is a hash, later policies do not count.
    pub terminal: bool,
}

/// What is hashed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashSource {
    /// All values of a header.
    Header {
        /// Lowercase.
        name: Box<str>,
        /// Applied to each value.
        rewrite: Option<(Regex, Substitution)>,
    },
    /// A cookie's value.
    Cookie(HashCookie),
    /// The client's address as it is trusted, without port.
    SourceIp,
    /// The first value of a query parameter.
    Query(Box<str>),
}

/// A cookie that requests are hashed by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HashCookie {
    /// Its name.
    pub name: Box<str>,
    /// When set, clients without the cookie are given one for that many seconds; zero: for the session.
    pub ttl_seconds: Option<u64>,
    /// Path of a cookie that is given; may be empty.
    pub path: Box<str>,
    /// Further attributes of a cookie that is given; values may be empty.
    pub attributes: Vec<(Box<str>, Box<str>)>,
}

/// Which localities get the requests of a priority.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LocalityLb {
    /// All alike. Envoy's zone aware routing comes to this without a `local_cluster_name`.
    #[default]
    Alike,
    /// By their weight and health; those without a weight get nothing.
    Weighted,
}
