//! The buckets of a descriptor with open values: one for each combination seen, the least recently used forgotten.

use crate::guard::{Fill, TokenBucket};
use foldhash::fast::FixedState;
use hashbrown::HashTable;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::Duration;

/// No node.
const NONE: u32 = u32::MAX;

/// Buckets by values, at most so many.
pub(super) struct Buckets {
    most: usize,
    fill: Fill,
    nodes: Vec<Node>,
    table: HashTable<u32>,
    hasher: FixedState,
    newest: u32,
    oldest: u32,
}

struct Node {
    values: Box<[Box<str>]>,
    hash: u64,
    bucket: Arc<TokenBucket>,
    newer: u32,
    older: u32,
}

impl Buckets {
    /// `seed`: a random number, since clients choose the values.
    pub(super) fn new(most: u32, fill: Fill, seed: u64) -> Self {
        Self {
            most: most.max(1) as usize,
            fill,
            nodes: Vec::new(),
            table: HashTable::new(),
            hasher: FixedState::with_seed(seed),
            newest: NONE,
            oldest: NONE,
        }
    }

    /// The bucket of these values; a new one is full.
    pub(super) fn get<'a>(
        &mut self,
        values: impl Iterator<Item = &'a str> + Clone,
        now: Duration,
    ) -> Arc<TokenBucket> {
        let hash = self.hash(values.clone());
        let nodes = &self.nodes;
        let same = |at: &u32| nodes[*at as usize].values.iter().map(|v| &**v).eq(values.clone());
        if let Some(at) = self.table.find(hash, same).copied() {
            self.unlink(at);
            self.link(at);
            return Arc::clone(&self.nodes[at as usize].bucket);
        }
        let bucket = Arc::new(TokenBucket::new(self.fill, now));
        let values = values.map(Into::into).collect();
        let node = Node { values, hash, bucket: Arc::clone(&bucket), newer: NONE, older: NONE };
        let at = if self.nodes.len() < self.most {
            self.nodes.push(node);
            (self.nodes.len() - 1) as u32
        } else {
            let at = self.oldest;
            self.unlink(at);
            if let Ok(entry) = self.table.find_entry(self.nodes[at as usize].hash, |known| *known == at) {
                entry.remove();
            }
            self.nodes[at as usize] = node;
            at
        };
        let nodes = &self.nodes;
        self.table.insert_unique(hash, at, |at| nodes[*at as usize].hash);
        self.link(at);
        bucket
    }

    fn hash<'a>(&self, values: impl Iterator<Item = &'a str>) -> u64 {
        // Each with its length, so that ("ab", "c") and ("a", "bc") differ.
        self.hasher.hash_one(values.collect::<smallvec::SmallVec<[&str; 4]>>())
    }

    fn unlink(&mut self, at: u32) {
        let (newer, older) = (self.nodes[at as usize].newer, self.nodes[at as usize].older);
        match newer {
            NONE => self.newest = older,
            newer => self.nodes[newer as usize].older = older,
        }
        match older {
            NONE => self.oldest = newer,
            older => self.nodes[older as usize].newer = newer,
        }
    }

    fn link(&mut self, at: u32) {
        self.nodes[at as usize].newer = NONE;
        self.nodes[at as usize].older = self.newest;
        match self.newest {
            NONE => self.oldest = at,
            newest => self.nodes[newest as usize].newer = at,
        }
        self.newest = at;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FILL: Fill = Fill { max: 1, per_fill: 1, interval: Duration::from_secs(3600) };

    fn take(buckets: &mut Buckets, values: &[&str]) -> bool {
        buckets.get(values.iter().copied(), Duration::ZERO).take(1, Duration::ZERO)
    }

    #[test]
    fn each_combination_has_a_bucket_of_its_own() {
        let mut buckets = Buckets::new(20, FILL, 1);
        assert!(take(&mut buckets, &["ab", "c"]));
        assert!(!take(&mut buckets, &["ab", "c"]));
        assert!(take(&mut buckets, &["a", "bc"]));
        assert!(take(&mut buckets, &["a"]));
    }

    proptest! {
        /// As a list of the values last used.
        #[test]
        fn the_least_recently_used_is_forgotten(
            most in 1_u32..6, uses in prop::collection::vec(0_u8..9, 1..200),
        ) {
            let mut buckets = Buckets::new(most, FILL, 1);
            let mut recent: Vec<u8> = Vec::new();
            for value in uses {
                let known = recent.contains(&value);
                recent.retain(|v| *v != value);
                recent.insert(0, value);
                recent.truncate(most as usize);
                let fresh = take(&mut buckets, &[&value.to_string()]);
                prop_assert_eq!(fresh, !known);
                prop_assert!(buckets.nodes.len() <= most as usize && buckets.table.len() == buckets.nodes.len());
            }
        }
    }
}
