//! Active health checking of one host: what a verdict changes, and when the next check is due. As Envoy's
//! `HealthCheckerImplBase`.

use std::time::Duration;

/// How often hosts are checked and how many verdicts it takes to change one's mind (Envoy
/// `config.core.v3.HealthCheck`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Between checks of a healthy host.
    pub interval: Duration,
    /// Between checks of a host of a cluster that never had a connection. Default 60 s.
    pub no_traffic_interval: Duration,
    /// The same while the host is healthy. Default: as `no_traffic_interval`.
    pub no_traffic_healthy_interval: Duration,
    /// Between checks of an unhealthy host. Default: as `interval`.
    pub unhealthy_interval: Duration,
    /// After the first failures of a healthy host. Default: as `unhealthy_interval`.
    pub unhealthy_edge_interval: Duration,
    /// After the first successes of an unhealthy host. Default: as `interval`.
    pub healthy_edge_interval: Duration,
    /// The first check comes up to so much later. Default 0.
    pub initial_jitter: Duration,
    /// Every wait is up to so much longer. Default 0.
    pub interval_jitter: Duration,
    /// Every wait is up to so many percent longer. Default 0.
    pub interval_jitter_percent: u32,
    /// Failures in a row that make a host unhealthy. An answer that says so outright needs one only.
    pub unhealthy_threshold: u32,
    /// Successes in a row that make a host healthy. The first check of all needs one only.
    pub healthy_threshold: u32,
}

/// What a check failed of (Envoy `HealthCheckFailureType`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The host answered that it is unwell.
    Active,
    /// Its answer to an ordinary request said so.
    Passive,
    /// No connection, or not one that could be used.
    Network,
    /// No answer in time.
    NetworkTimeout,
}

/// What came of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The host is well.
    Pass {
        /// It asks to be used less (`x-envoy-degraded`).
        degraded: bool,
    },
    /// It is not.
    Fail {
        /// Why.
        failure: Failure,
        /// Counts against `unhealthy_threshold`, whatever the failure is.
        retriable: bool,
    },
}

/// Where a verdict left the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    /// Where it was.
    Unchanged,
    /// On its way to change: a threshold is not reached yet.
    Pending,
    /// Elsewhere.
    Changed,
}

/// What a verdict did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The check passed.
    pub passed: bool,
    /// What became of the host's standing.
    pub transition: Transition,
    /// It was the first verdict on this host.
    pub first: bool,
    /// The host went from unhealthy to healthy.
    pub recovered: bool,
    /// The host went from healthy to unhealthy.
    pub ejected: bool,
    /// `Some`: whether it is degraded changed to this.
    pub degraded: Option<bool>,
}

/// One host's standing with its health check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    failed: bool,
    degraded: bool,
    pending: bool,
    timed_out: bool,
    excluded: bool,
    first: bool,
    passes: u32,
    failures: u32,
}

impl Check {
    /// A host that was never checked: unhealthy until its first check passes. `pending`: left out of all sums
    /// meanwhile (`ignore_new_hosts_until_first_hc`).
    pub fn new(pending: bool) -> Self {
        Self {
            failed: true,
            degraded: false,
            pending,
            timed_out: false,
            excluded: false,
            first: true,
            passes: 0,
            failures: 0,
        }
    }

    /// Fails its checks.
    pub fn is_failed(&self) -> bool {
        self.failed
    }

    /// Passes, and asks to be used less.
    pub fn is_degraded(&self) -> bool {
        self.degraded
    }

    /// Waits for its first check outside of all sums.
    pub fn is_pending(&self) -> bool {
        self.pending
    }

    /// Fails for timeouts.
    pub fn is_timed_out(&self) -> bool {
        self.timed_out
    }

    /// An answer asked for it to be left out.
    pub fn is_excluded(&self) -> bool {
        self.excluded
    }

    /// Was never checked.
    pub fn is_new(&self) -> bool {
        self.first
    }

    /// An answer of the host asked for it to be left out at once (`x-envoy-immediate-health-check-fail`).
    pub fn exclude(&mut self) {
        self.excluded = true;
    }

    /// Takes a verdict.
    pub fn take(&mut self, verdict: Verdict, pace: &Pace) -> Step {
        let mut step = Step {
            passed: matches!(verdict, Verdict::Pass { .. }),
            transition: Transition::Unchanged,
            first: self.first,
            recovered: false,
            ejected: false,
            degraded: None,
        };
        match verdict {
            Verdict::Pass { degraded } => self.pass(degraded, pace, &mut step),
            Verdict::Fail { failure, retriable } => self.fail(failure, retriable, pace, &mut step),
        }
        self.first = false;
        step
    }

    fn pass(&mut self, degraded: bool, pace: &Pace, step: &mut Step) {
        self.failures = 0;
        if self.failed {
            self.passes += 1;
            if self.first || self.passes >= pace.healthy_threshold {
                (self.failed, self.timed_out, self.excluded) = (false, false, false);
                step.recovered = true;
                step.transition = Transition::Changed;
            } else {
                step.transition = Transition::Pending;
            }
        }
        self.end_pending(step);
        if degraded != self.degraded {
            self.degraded = degraded;
            step.degraded = Some(degraded);
            if step.transition == Transition::Unchanged {
                step.transition = Transition::Changed;
            }
        }
    }

    fn fail(&mut self, failure: Failure, retriable: bool, pace: &Pace, step: &mut Step) {
        self.passes = 0;
        let network = matches!(failure, Failure::Network | Failure::NetworkTimeout);
        if !self.failed {
            self.failures += 1;
            if (!network && !retriable) || self.failures >= pace.unhealthy_threshold {
                self.failed = true;
                step.ejected = true;
                step.transition = Transition::Changed;
            } else {
                step.transition = Transition::Pending;
            }
        }
        // A host may go from one to the other while it fails for different reasons.
        self.timed_out = self.failed && failure == Failure::NetworkTimeout;
        self.end_pending(step);
    }

    /// The sums change even where the verdict does not.
    fn end_pending(&mut self, step: &mut Step) {
        if std::mem::take(&mut self.pending) {
            step.transition = Transition::Changed;
        }
    }
}

impl Pace {
    /// The wait before a host's first check.
    pub fn first(&self, random: u64) -> Duration {
        below(self.initial_jitter, random)
    }

    /// The wait for the next check after `step`. `traffic`: the cluster had a connection at some time. Never zero.
    pub fn next(&self, step: &Step, traffic: bool, random: u64) -> Duration {
        let pending = step.transition == Transition::Pending;
        let base = match (traffic, step.passed, pending) {
            (true, true, false) => self.interval,
            (true, true, true) => self.healthy_edge_interval,
            (true, false, false) => self.unhealthy_interval,
            (true, false, true) => self.unhealthy_edge_interval,
            (false, true, false) => self.no_traffic_healthy_interval,
            (false, ..) => self.no_traffic_interval,
        };
        let share = base.saturating_mul(self.interval_jitter_percent) / 100;
        // One draw for both would tie them together.
        let wait = base + below(share, random) + below(self.interval_jitter, random.rotate_left(32));
        wait.max(Duration::from_millis(1))
    }
}

/// A moment in `0..bound`.
fn below(bound: Duration, random: u64) -> Duration {
    let nanos = (bound.as_nanos() * u128::from(random)) >> 64;
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests;
