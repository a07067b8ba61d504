//! How hits are counted: fixed window, token bucket, sliding window.
//!
//! Pure: time is an argument, in nanoseconds since the Unix epoch. The script in `redis.lua` says the same in
//! microseconds; a test holds the two together. Hits that are refused are not counted.

use std::time::Duration;

/// How hits are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// From the start of each unit of time.
    FixedWindow,
    /// Tokens come back evenly; a hit takes one.
    TokenBucket {
        /// Tokens when full, at least 1.
        burst: u32,
    },
    /// This window's hits and a share of the last one's.
    SlidingWindow,
}

/// A number of hits in a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rate {
    /// Hits in `window`.
    pub hits: u32,
    /// The time; more than zero.
    pub window: Duration,
    /// How they are counted.
    pub algorithm: Algorithm,
}

/// What is asked of a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hits {
    /// Take so many; 0 only looks.
    Take(u64),
    /// Give so many back.
    Return(u64),
}

/// What a counter remembers. All zero when nothing was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Windows: number of the current one since the epoch. Token bucket: when it is full again, in nanoseconds
    /// times the rate's hits.
    at: u128,
    /// Windows: hits in it.
    count: u64,
    /// Sliding window: hits in the one before.
    before: u64,
}

/// What a counter says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether the hits are within the limit.
    pub allowed: bool,
    /// Hits that are left.
    pub remaining: u32,
    /// Until the window ends or the bucket is full; when refused, until the same hits would be let through.
    pub reset: Duration,
}

impl Rate {
    /// Counts hits.
    pub fn decide(&self, state: &mut State, hits: Hits, now: u64) -> Verdict {
        match self.algorithm {
            Algorithm::FixedWindow => self.fixed(state, hits, now),
            Algorithm::TokenBucket { burst } => self.bucket(state, hits, now, burst),
            Algorithm::SlidingWindow => self.sliding(state, hits, now),
        }
    }

    /// When a state is as good as none, nanoseconds since the epoch.
    pub fn forgotten_at(&self, state: &State) -> u64 {
        let window = self.window_nanos();
        let end = match self.algorithm {
            Algorithm::FixedWindow => (state.at + 1) * window,
            Algorithm::SlidingWindow => (state.at + 2) * window,
            Algorithm::TokenBucket { .. } => state.at.div_ceil(self.scale()),
        };
        u64::try_from(end).unwrap_or(u64::MAX)
    }

    /// Hits beyond which a limit is near: those above this share of it.
    pub fn near(&self, ratio: f64) -> u32 {
        let most = match self.algorithm {
            Algorithm::TokenBucket { burst } => burst,
            Algorithm::FixedWindow | Algorithm::SlidingWindow => self.hits,
        };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a u32")]
        let near = (f64::from(most) * ratio).floor() as u32;
        near
    }

    /// Most hits at once.
    pub fn capacity(&self) -> u32 {
        match self.algorithm {
            Algorithm::TokenBucket { burst } => burst,
            Algorithm::FixedWindow | Algorithm::SlidingWindow => self.hits,
        }
    }

    fn window_nanos(&self) -> u128 {
        self.window.as_nanos().max(1)
    }

    /// A bucket's time runs this many times faster, so that a token costs a whole number: the window.
    fn scale(&self) -> u128 {
        u128::from(self.hits.max(1))
    }

    fn fixed(&self, state: &mut State, hits: Hits, now: u64) -> Verdict {
        let window = self.window_nanos();
        let index = u128::from(now) / window;
        // A clock that went backwards stays in the window it had reached.
        if index > state.at {
            *state = State { at: index, count: 0, before: 0 };
        }
        let end = (state.at + 1) * window;
        let allowed = match hits {
            Hits::Take(n) => {
                let fits = state.count.saturating_add(n) <= u64::from(self.hits);
                state.count += if fits { n } else { 0 };
                fits
            }
            Hits::Return(n) => {
                state.count = state.count.saturating_sub(n);
                true
            }
        };
        let remaining = u64::from(self.hits).saturating_sub(state.count);
        Verdict { allowed, remaining: clamp(remaining.into()), reset: nanos(end.saturating_sub(now.into())) }
    }

    fn bucket(&self, state: &mut State, hits: Hits, now: u64, burst: u32) -> Verdict {
        let (scale, cost) = (self.scale(), self.window_nanos());
        let now = u128::from(now) * scale;
        // The bucket lacks what time has yet to bring back.
        let room = u128::from(burst) * cost;
        let full_at = state.at.clamp(now, now + room);
        let none = self.hits == 0; // it never fills: nothing passes
        let (allowed, after) = match hits {
            Hits::Take(n) => {
                let after = full_at.saturating_add(u128::from(n).saturating_mul(cost));
                let fits = after <= now + room && !(none && n > 0);
                (fits, if fits { after } else { full_at })
            }
            Hits::Return(n) => (true, full_at.saturating_sub(u128::from(n).saturating_mul(cost)).max(now)),
        };
        state.at = after;
        let missing = after - now;
        let remaining = if none { 0 } else { (room - missing) / cost };
        let wait = match hits {
            Hits::Take(n) if !allowed => {
                // What a full bucket does not hold is never let through.
                let wanted = u128::from(n).saturating_mul(cost).min(room);
                (after + wanted).saturating_sub(now + room)
            }
            _ => missing,
        };
        Verdict { allowed, remaining: clamp(remaining), reset: nanos(wait.div_ceil(scale)) }
    }

    fn sliding(&self, state: &mut State, hits: Hits, now: u64) -> Verdict {
        let window = self.window_nanos();
        let index = u128::from(now) / window;
        if index > state.at {
            let before = if index == state.at + 1 { state.count } else { 0 };
            *state = State { at: index, count: 0, before };
        }
        let limit = u128::from(self.hits);
        let end = (state.at + 1) * window;
        let left = end.saturating_sub(now.into()).min(window);
        // Rounded up: a part of a hit is a hit, so that the bound holds.
        let weighted = (u128::from(state.before) * left).div_ceil(window);
        let allowed = match hits {
            Hits::Take(n) => {
                let fits = weighted + u128::from(state.count) + u128::from(n) <= limit;
                state.count += if fits { n } else { 0 };
                fits
            }
            Hits::Return(n) => {
                state.count = state.count.saturating_sub(n);
                true
            }
        };
        let remaining = limit.saturating_sub(weighted + u128::from(state.count));
        let wait = match hits {
            Hits::Take(n) if !allowed => {
                let others = u128::from(state.count) + u128::from(n);
                match limit.checked_sub(others) {
                    // The last window's hits fade until only so many count.
                    Some(room) if state.before > 0 => {
                        left.saturating_sub(room * window / u128::from(state.before))
                    }
                    _ => left,
                }
            }
            _ => left,
        };
        Verdict { allowed, remaining: clamp(remaining), reset: nanos(wait) }
    }
}

fn clamp(n: u128) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn nanos(n: u128) -> Duration {
    Duration::from_nanos(u64::try_from(n).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests;
