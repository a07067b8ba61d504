//! A circuit breaker: closed while calls do well, open once too many fail, then half open for a few probes.
//!
//! Ours: Envoy has limits under that name, and no such thing. A call is admitted with a [`Ticket`], which its result
//! is told with; results of calls that were admitted before the breaker last changed count for nothing. Times are
//! since any fixed moment.

use std::time::Duration;

/// Parts that a window is divided into: old calls leave it one part at a time.
const BUCKETS: usize = 10;

/// Knobs of a breaker. What is `None` opens nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Failed calls in the window that open it, percent (`1..=100`).
    pub failure_percent: Option<u32>,
    /// Failed calls in a row that open it (`1..`), whatever `minimum_calls` says.
    pub consecutive_failures: Option<u32>,
    /// Slow calls in the window that open it.
    pub slow: Option<Slow>,
    /// How far back calls are looked at. Default 10 s.
    pub window: Duration,
    /// Calls in the window from which percentages are looked at (`1..`). Default 20.
    pub minimum_calls: u32,
    /// How long it stays open the first time. Default 5 s.
    pub open_time: Duration,
    /// Each time that probes fail it stays open twice as long, up to this. Default 60 s, or `open_time` where that
    /// is longer.
    pub max_open_time: Duration,
    /// It stays open up to so many percent longer, so that proxies do not probe in step. Default 10.
    pub jitter_percent: u32,
    /// Calls that it lets through while half open; all must succeed for it to close (`1..`). Default 3.
    pub probes: u32,
}

/// When slow calls open a breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slow {
    /// A call that takes at least so long is slow.
    pub duration: Duration,
    /// Slow calls in the window that open it, percent (`1..=100`).
    pub percent: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            failure_percent: None,
            consecutive_failures: None,
            slow: None,
            window: Duration::from_secs(10),
            minimum_calls: 20,
            open_time: Duration::from_secs(5),
            max_open_time: Duration::from_secs(60),
            jitter_percent: 10,
            probes: 3,
        }
    }
}

/// How a call went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Well.
    Success,
    /// Not well.
    Failure,
    /// It says nothing: given up before it could.
    Void,
}

/// Leave to make a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a call whose result is not told holds a probe's place"]
pub struct Ticket {
    era: u64,
}

/// Whether calls are let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// All.
    Closed,
    /// None.
    Open,
    /// A few, to see how they go.
    HalfOpen,
}

/// What opened it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Failures in a row.
    ConsecutiveFailures,
    /// The share of failures.
    FailureRatio,
    /// The share of slow calls.
    SlowRatio,
    /// A probe failed.
    Probe,
}

/// A change of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// No calls for `wait`.
    Opened {
        /// Why.
        reason: Reason,
        /// How long.
        wait: Duration,
    },
    /// Probes.
    HalfOpened,
    /// All calls.
    Closed,
}

/// Calls of one part of the window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Bucket {
    /// Which part of time it is of.
    number: u64,
    total: u32,
    failures: u32,
    slow: u32,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Closed { in_a_row: u32 },
    Open { until: Duration },
    HalfOpen { left: u32, passed: u32, until: Duration },
}

/// A breaker.
#[derive(Clone, Debug)]
pub struct Circuit {
    options: Options,
    phase: Phase,
    /// Counts changes: a ticket of another era says nothing.
    era: u64,
    /// Times it opened without closing in between.
    openings: u32,
    buckets: [Bucket; BUCKETS],
}

impl Circuit {
    /// A closed one.
    pub fn new(options: Options) -> Self {
        Self {
            options,
            phase: Phase::Closed { in_a_row: 0 },
            era: 0,
            openings: 0,
            buckets: Default::default(),
        }
    }

    /// What it was made with.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Whether calls are let through. One that is open stays so until somebody asks after its time.
    pub fn state(&self) -> State {
        match self.phase {
            Phase::Closed { .. } => State::Closed,
            Phase::Open { .. } => State::Open,
            Phase::HalfOpen { .. } => State::HalfOpen,
        }
    }

    /// Calls, failures and slow calls in the window.
    pub fn counts(&self, now: Duration) -> (u32, u32, u32) {
        let newest = self.number(now);
        let live = self.buckets.iter().filter(|b| newest.saturating_sub(b.number) < BUCKETS as u64);
        live.fold((0, 0, 0), |(total, failures, slow), b| {
            (total + b.total, failures + b.failures, slow + b.slow)
        })
    }

    /// Asks for leave to make a call.
    ///
    /// # Errors
    /// How long to wait before asking again.
    pub fn admit(&mut self, now: Duration) -> Result<(Ticket, Option<Change>), Duration> {
        let mut change = None;
        match self.phase {
            Phase::Closed { .. } => {}
            Phase::Open { until } if now < until => return Err(until - now),
            Phase::Open { .. } => {
                change = Some(Change::HalfOpened);
                self.half_open(now);
            }
            // Probes that never came back must not keep it half open for ever.
            Phase::HalfOpen { left: 0, until, .. } if now >= until => self.half_open(now),
            Phase::HalfOpen { left: 0, until, .. } => return Err(until - now),
            Phase::HalfOpen { .. } => {}
        }
        if let Phase::HalfOpen { left, .. } = &mut self.phase {
            *left -= 1;
        }
        Ok((Ticket { era: self.era }, change))
    }

    /// Takes the result of a call that took `elapsed`.
    pub fn finish(
        &mut self,
        ticket: Ticket,
        call: Call,
        elapsed: Duration,
        now: Duration,
        random: u64,
    ) -> Option<Change> {
        if ticket.era != self.era {
            return None;
        }
        let slow = self.options.slow.is_some_and(|slow| elapsed >= slow.duration);
        match &mut self.phase {
            Phase::Open { .. } => None,
            Phase::Closed { .. } if call == Call::Void => None,
            Phase::HalfOpen { left, .. } if call == Call::Void => {
                *left += 1;
                None
            }
            Phase::HalfOpen { .. } if call == Call::Failure || slow => {
                Some(self.open(Reason::Probe, now, random))
            }
            Phase::HalfOpen { passed, .. } => {
                *passed += 1;
                (*passed >= self.options.probes).then(|| self.close())
            }
            Phase::Closed { in_a_row } => {
                let failed = call == Call::Failure;
                *in_a_row = if failed { in_a_row.saturating_add(1) } else { 0 };
                let in_a_row = *in_a_row;
                self.count(failed, slow, now);
                let reason = self.reason(in_a_row, now)?;
                Some(self.open(reason, now, random))
            }
        }
    }

    /// What speaks for opening.
    fn reason(&self, in_a_row: u32, now: Duration) -> Option<Reason> {
        if self.options.consecutive_failures.is_some_and(|most| in_a_row >= most) {
            return Some(Reason::ConsecutiveFailures);
        }
        if self.options.failure_percent.is_none() && self.options.slow.is_none() {
            return None;
        }
        let (total, failures, slow) = self.counts(now);
        if total < self.options.minimum_calls {
            return None;
        }
        let reached =
            |count: u32, percent: u32| u64::from(count) * 100 >= u64::from(percent) * u64::from(total);
        if self.options.failure_percent.is_some_and(|percent| reached(failures, percent)) {
            return Some(Reason::FailureRatio);
        }
        self.options.slow.is_some_and(|limit| reached(slow, limit.percent)).then_some(Reason::SlowRatio)
    }

    fn open(&mut self, reason: Reason, now: Duration, random: u64) -> Change {
        let doubled = self.options.open_time.saturating_mul(1 << self.openings.min(20));
        let wait = doubled.min(self.options.max_open_time.max(self.options.open_time));
        let jitter = wait.saturating_mul(self.options.jitter_percent) / 100;
        let nanos = (jitter.as_nanos() * u128::from(random)) >> 64;
        let wait = wait + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.openings = self.openings.saturating_add(1);
        self.era += 1;
        self.phase = Phase::Open { until: now + wait };
        Change::Opened { reason, wait }
    }

    fn half_open(&mut self, now: Duration) {
        self.era += 1;
        self.phase =
            Phase::HalfOpen { left: self.options.probes, passed: 0, until: now + self.options.max_open_time };
    }

    fn close(&mut self) -> Change {
        self.era += 1;
        self.openings = 0;
        self.buckets = Default::default();
        self.phase = Phase::Closed { in_a_row: 0 };
        Change::Closed
    }

    fn number(&self, now: Duration) -> u64 {
        let part = (self.options.window / BUCKETS as u32).as_nanos().max(1);
        u64::try_from(now.as_nanos() / part).unwrap_or(u64::MAX)
    }

    fn count(&mut self, failed: bool, slow: bool, now: Duration) {
        let number = self.number(now);
        let bucket = &mut self.buckets[(number % BUCKETS as u64) as usize];
        if bucket.number != number {
            *bucket = Bucket { number, ..Bucket::default() };
        }
        bucket.total = bucket.total.saturating_add(1);
        bucket.failures = bucket.failures.saturating_add(u32::from(failed));
        bucket.slow = bucket.slow.saturating_add(u32::from(slow));
    }
}

#[cfg(test)]
mod tests;
