//! Counters in memory: sharded, and bounded by entries.
//!
//! A shard that is full gives up a counter that means nothing any more, else, of a few that it looks at, the one
//! that would soonest. Limits of one control plane alone: what another counts is not seen.

use std::hash::BuildHasher;
use std::time::Duration;

use foldhash::quality::RandomState;
use metrics::{Counter, Gauge, counter, gauge};
use parking_lot::Mutex;

use super::algorithm::{Hits, Rate, State, Verdict};

/// Shards, so that requests seldom wait for each other.
const SHARDS: usize = 64;
/// Counters looked at for one to give up.
const LOOKS: usize = 8;

/// The counters.
pub struct Memory {
    shards: Box<[Mutex<Shard>]>,
    /// Two hashers with seeds of their own: a key is its two hashes, which no client can foresee.
    hashers: [RandomState; 2],
    entries: Gauge,
    evicted: Counter,
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Memory").field("entries", &self.len()).finish_non_exhaustive()
    }
}

struct Shard {
    places: std::collections::HashMap<u128, usize, RandomState>,
    entries: Vec<Entry>,
    most: usize,
    /// Where eviction looks next.
    hand: usize,
}

struct Entry {
    key: u128,
    rate: Rate,
    state: State,
}

impl Memory {
    /// Room for so many counters, at least one a shard.
    pub fn new(most: usize) -> Self {
        let shard = || {
            Mutex::new(Shard {
                places: std::collections::HashMap::with_hasher(RandomState::default()),
                entries: Vec::new(),
                most: most.div_ceil(SHARDS).max(1),
                hand: 0,
            })
        };
        Self {
            shards: (0..SHARDS).map(|_| shard()).collect(),
            hashers: [RandomState::default(), RandomState::default()],
            entries: gauge!("ratelimit_memory_entries"),
            evicted: counter!("ratelimit_evicted_total"),
        }
    }

    /// Counters there are.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|s| s.lock().entries.len()).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Counts hits under a key. The same key with another rate is another counter.
    pub fn decide(&self, key: &str, rate: &Rate, hits: Hits, now: u64) -> Verdict {
        let [one, two] = self.hashers.each_ref().map(|h| h.hash_one((key, rate)));
        let key = u128::from(one) << 64 | u128::from(two);
        let index = usize::try_from(two % SHARDS as u64).unwrap_or_default();
        let mut shard = self.shards[index].lock();
        let (place, change) = shard.place(key, rate, now);
        let verdict = rate.decide(&mut shard.entries[place].state, hits, now);
        drop(shard);
        match change {
            Change::None => {}
            Change::Added => self.entries.increment(1.0),
            Change::Evicted => self.evicted.increment(1),
        }
        verdict
    }
}

enum Change {
    None,
    Added,
    /// One that still meant something.
    Evicted,
}

impl Shard {
    fn place(&mut self, key: u128, rate: &Rate, now: u64) -> (usize, Change) {
        if let Some(place) = self.places.get(&key) {
            return (*place, Change::None);
        }
        let entry = Entry { key, rate: *rate, state: State::default() };
        if self.entries.len() < self.most {
            self.entries.push(entry);
            self.places.insert(key, self.entries.len() - 1);
            return (self.entries.len() - 1, Change::Added);
        }
        let forgotten = |e: &Entry| e.rate.forgotten_at(&e.state);
        let mut victim = self.hand % self.entries.len();
        for i in 0..LOOKS.min(self.entries.len()) {
            let place = (self.hand + i) % self.entries.len();
            if forgotten(&self.entries[place]) < forgotten(&self.entries[victim]) {
                victim = place;
            }
        }
        self.hand = (self.hand + LOOKS) % self.entries.len();
        let live = forgotten(&self.entries[victim]) > now;
        self.places.remove(&self.entries[victim].key);
        self.entries[victim] = entry;
        self.places.insert(key, victim);
        (victim, if live { Change::Evicted } else { Change::None })
    }
}

/// Now, as the algorithms count it: nanoseconds since the epoch.
pub fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ratelimit::algorithm::Algorithm;

    const NOW: u64 = 1_700_000_000_000_000_000;

    fn rate(seconds: u64) -> Rate {
        Rate { hits: 1, window: Duration::from_secs(seconds), algorithm: Algorithm::FixedWindow }
    }

    #[test]
    fn keys_are_counted_apart_and_so_are_rates_of_one_key() {
        let memory = Memory::new(1000);
        for (key, rate) in [("a", rate(60)), ("b", rate(60)), ("a", rate(3600))] {
            assert!(memory.decide(key, &rate, Hits::Take(1), NOW).allowed);
            assert!(!memory.decide(key, &rate, Hits::Take(1), NOW).allowed);
        }
    }

    #[test]
    fn a_million_clients_take_no_more_than_the_room_there_is() {
        let memory = Memory::new(10_000);
        for i in 0..100_000 {
            memory.decide(&format!("client {i}"), &rate(60), Hits::Take(1), NOW + i);
        }
        assert!(memory.len() <= 10_000 + SHARDS);
    }

    #[test]
    fn counters_of_longer_windows_outlive_a_flood_of_shorter_ones() {
        let memory = Memory::new(64 * 100);
        let day = rate(24 * 3600);
        assert!(memory.decide("customer", &day, Hits::Take(1), NOW).allowed);
        for i in 0..100_000u64 {
            memory.decide(&format!("client {i}"), &rate(1), Hits::Take(1), NOW + i);
        }
        assert!(!memory.decide("customer", &day, Hits::Take(1), NOW + 200_000).allowed);
    }

    #[test]
    fn threads_together_pass_no_more_than_the_limit() {
        let memory = Memory::new(1000);
        let rate = Rate { hits: 1000, ..rate(3600) };
        let passed: usize = std::thread::scope(|scope| {
            let one = || (0..1000).filter(|_| memory.decide("k", &rate, Hits::Take(1), NOW).allowed).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(one)).collect();
            threads.into_iter().map(|t| t.join().unwrap()).sum()
        });
        assert_eq!(passed, 1000);
    }
}
