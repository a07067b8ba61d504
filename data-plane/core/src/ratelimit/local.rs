//! The buckets of a local rate limit, and which of them a request takes from.

use super::descriptor::{Descriptor, Entry};
use super::lru::Buckets;
use crate::config::LocalRateLimit;
use crate::guard::TokenBucket;
use foldhash::fast::FixedState;
use hashbrown::HashTable;
use smallvec::SmallVec;
use std::fmt;
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The buckets of one configuration, shared by all that obey it.
pub struct LocalLimiter {
    default: Option<Arc<TokenBucket>>,
    always_default: bool,
    rules: Box<[Rule]>,
    /// Places of rules without open values, by their entries.
    fixed: HashTable<u32>,
    /// Places of the others.
    open: Box<[u32]>,
    hasher: FixedState,
}

/// The buckets of one configured descriptor.
struct Rule {
    entries: Vec<(Box<str>, Box<str>)>,
    shadow: bool,
    bucket: Holder,
}

enum Holder {
    One(Arc<TokenBucket>),
    /// One for each combination of the open values.
    Many(Mutex<Buckets>),
}

/// What becomes of a request.
#[derive(Clone, Debug)]
pub struct Decision {
    /// Whether it is under its limits.
    pub allowed: bool,
    /// It is not, and goes on all the same: the limit is a shadow.
    pub shadow: bool,
    /// The bucket that decided, for X-RateLimit headers.
    pub bucket: Option<Arc<TokenBucket>>,
    /// X-RateLimit headers in place of what the filter says.
    pub x_ratelimit: Option<bool>,
}

impl fmt::Debug for LocalLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalLimiter").field("rules", &self.rules.len()).finish_non_exhaustive()
    }
}

impl LocalLimiter {
    /// Full buckets. `now` is counted from an epoch that the caller keeps; `seed` is a random number.
    pub fn new(config: &LocalRateLimit, now: Duration, seed: u64) -> Self {
        let rules = config.descriptors.iter().map(|rule| {
            let open = rule.entries.iter().any(|(_, value)| value.is_empty());
            let bucket = if open {
                Holder::Many(Mutex::new(Buckets::new(config.max_dynamic_descriptors, rule.fill, seed)))
            } else {
                Holder::One(Arc::new(TokenBucket::new(rule.fill, now)))
            };
            Rule { entries: rule.entries.clone(), shadow: rule.shadow, bucket }
        });
        let rules: Box<[Rule]> = rules.collect();
        let hasher = FixedState::with_seed(seed);
        let hash = |rule: &Rule| hash(&hasher, rule.entries.iter().map(|(key, value)| (&**key, &**value)));
        let (mut fixed, mut open) = (HashTable::new(), Vec::new());
        for (at, rule) in (0_u32..).zip(&rules) {
            match rule.bucket {
                Holder::One(_) => {
                    fixed.insert_unique(hash(rule), at, |at| hash(&rules[*at as usize]));
                }
                Holder::Many(_) => open.push(at),
            }
        }
        Self {
            default: config.bucket.map(|fill| Arc::new(TokenBucket::new(fill, now))),
            always_default: config.always_consume_default,
            rules,
            fixed,
            open: open.into(),
            hasher,
        }
    }

    /// Takes from the buckets of a request: of every descriptor that matches, the slowest to fill first, until one
    /// refuses that is no shadow; then from the default one.
    pub fn decide(&self, descriptors: &[Descriptor<'_>], now: Duration) -> Decision {
        let mut matched: SmallVec<[(&Descriptor<'_>, Arc<TokenBucket>, bool); 4]> = descriptors
            .iter()
            .filter_map(|descriptor| {
                let rule = self.rule(&descriptor.entries)?;
                Some((descriptor, rule.bucket.get(&descriptor.entries, now), rule.shadow))
            })
            .collect();
        matched.sort_by(|(_, a, _), (_, b, _)| a.rate().total_cmp(&b.rate()));
        let mut shadowed = None;
        for (descriptor, bucket, shadow) in &matched {
            let hits = descriptor.hits.unwrap_or(1);
            if descriptor.negative && descriptor.hits.is_some() {
                bucket.refill(hits, now);
            } else if !bucket.take(hits, now) {
                let (bucket, x_ratelimit) = (Some(Arc::clone(bucket)), descriptor.x_ratelimit);
                let decision = Decision { allowed: false, shadow: *shadow, bucket, x_ratelimit };
                if !shadow {
                    return decision;
                }
                shadowed.get_or_insert(decision);
            }
        }
        let first = matched.first().map(|(descriptor, bucket, _)| (bucket, descriptor.x_ratelimit));
        let default = self.default.as_ref().filter(|_| first.is_none() || self.always_default);
        if let Some(default) = default.filter(|default| !default.take(1, now)) {
            let bucket = Some(Arc::clone(default));
            return Decision { allowed: false, shadow: false, bucket, x_ratelimit: None };
        }
        let (bucket, x_ratelimit) = first.map_or((default, None), |(bucket, x)| (Some(bucket), x));
        let bucket = bucket.map(Arc::clone);
        shadowed.unwrap_or(Decision { allowed: true, shadow: false, bucket, x_ratelimit })
    }

    /// The rule of a descriptor: all keys and values are equal. One without open values comes first.
    fn rule(&self, entries: &[Entry<'_>]) -> Option<&Rule> {
        let fits = |at: &u32| {
            let rule = &self.rules[*at as usize];
            rule.entries.len() == entries.len()
                && rule.entries.iter().zip(entries).all(|((key, value), entry)| {
                    **key == *entry.key && (value.is_empty() || **value == *entry.value)
                })
        };
        let hash = hash(&self.hasher, entries.iter().map(|entry| (&*entry.key, &*entry.value)));
        let at = self.fixed.find(hash, fits).or_else(|| self.open.iter().find(|at| fits(at)))?;
        Some(&self.rules[*at as usize])
    }
}

fn hash<'a>(hasher: &FixedState, entries: impl Iterator<Item = (&'a str, &'a str)>) -> u64 {
    hasher.hash_one(entries.collect::<SmallVec<[(&str, &str); 4]>>())
}

impl Holder {
    fn get(&self, entries: &[Entry<'_>], now: Duration) -> Arc<TokenBucket> {
        match self {
            Self::One(bucket) => Arc::clone(bucket),
            Self::Many(buckets) => {
                // Held for a lookup; nothing in it panics half way.
                let mut buckets = buckets.lock().unwrap_or_else(PoisonError::into_inner);
                buckets.get(entries.iter().map(|entry| &*entry.value), now)
            }
        }
    }
}

#[cfg(test)]
mod tests;
