//! Our circuit breaker at run time: one for all workers, behind a lock that only clusters with a breaker take.

use super::guard::Outcome;
use super::health::{EventLog, now_rfc3339};
use crate::stat_block;
use crate::stats::Scope;
use data_plane_core::config::CircuitBreaker;
use data_plane_core::guard::circuit::{Call, Change, Circuit, Reason, State, Ticket};
use parking_lot::Mutex;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tracing::{info, warn};

stat_block! {
    /// Metrics of our breaker, `cluster.<name>.circuit_breaker.`. `state`: 0 closed, 1 open, 2 half open.
    pub struct CircuitStats {
        counters: closed, half_opened, opened, opened_consecutive_failures, opened_failure_ratio, opened_probe,
            opened_slow_ratio, rejected;
        gauges: state;
        histograms: ;
    }
}

/// A cluster's breaker. Outlives updates of the cluster that leave it as it is.
#[derive(Debug)]
pub struct Breaker {
    cluster: Box<str>,
    config: Arc<CircuitBreaker>,
    circuit: Mutex<Circuit>,
    /// Times are since then.
    epoch: Instant,
    stats: CircuitStats,
    log: EventLog,
}

impl Breaker {
    /// A closed one.
    pub(super) fn new(cluster: &str, config: Arc<CircuitBreaker>, scope: &Scope, log: EventLog) -> Arc<Self> {
        let stats = CircuitStats::new(&scope.child("circuit_breaker.", "circuit_breaker.", &[]));
        stats.state.set(0);
        Arc::new(Self {
            cluster: cluster.into(),
            circuit: Mutex::new(Circuit::new(config.options.clone())),
            config,
            epoch: Instant::now(),
            stats,
            log,
        })
    }

    /// Whether it is made of this.
    pub(super) fn is_of(&self, config: &CircuitBreaker) -> bool {
        *self.config == *config
    }

    /// Whether calls are let through.
    pub fn state(&self) -> State {
        self.circuit.lock().state()
    }

    /// Requests, failures and slow requests in its window.
    pub fn counts(&self) -> (u32, u32, u32) {
        self.circuit.lock().counts(self.epoch.elapsed())
    }

    pub(super) fn admit(&self, now: Instant) -> Result<Ticket, Duration> {
        let now = now.saturating_duration_since(self.epoch);
        let admitted = self.circuit.lock().admit(now);
        match admitted {
            Ok((ticket, change)) => {
                if let Some(change) = change {
                    self.tell(change);
                }
                Ok(ticket)
            }
            Err(wait) => {
                self.stats.rejected.inc();
                Err(wait)
            }
        }
    }

    pub(super) fn finish(&self, ticket: Ticket, outcome: Outcome, elapsed: Duration) {
        let call = match outcome.status() {
            None => Call::Void,
            Some(500..=599) => Call::Failure,
            Some(_) => Call::Success,
        };
        let change =
            self.circuit.lock().finish(ticket, call, elapsed, self.epoch.elapsed(), fastrand::u64(..));
        if let Some(change) = change {
            self.tell(change);
        }
    }

    /// Counts and logs a change of state.
    #[cold]
    fn tell(&self, change: Change) {
        let cluster = &*self.cluster;
        let (requests, failures, slow) = self.counts();
        let mut event = json!({
            "timestamp": now_rfc3339(),
            "cluster_name": cluster,
            "requests": requests,
            "failures": failures,
            "slow": slow,
        });
        match change {
            Change::Opened { reason, wait } => {
                self.stats.opened.inc();
                let (name, counter) = match reason {
                    Reason::ConsecutiveFailures => {
                        ("consecutive_failures", &self.stats.opened_consecutive_failures)
                    }
                    Reason::FailureRatio => ("failure_ratio", &self.stats.opened_failure_ratio),
                    Reason::SlowRatio => ("slow_ratio", &self.stats.opened_slow_ratio),
                    Reason::Probe => ("probe", &self.stats.opened_probe),
                };
                counter.inc();
                let wait_ms = wait.as_millis() as u64;
                warn!(cluster, reason = name, wait_ms, requests, failures, slow, "circuit breaker opened");
                event["event"] = "opened".into();
                event["reason"] = name.into();
                event["wait_ms"] = wait_ms.into();
            }
            Change::HalfOpened => {
                self.stats.half_opened.inc();
                info!(cluster, "circuit breaker half open");
                event["event"] = "half_opened".into();
            }
            Change::Closed => {
                self.stats.closed.inc();
                info!(cluster, "circuit breaker closed");
                event["event"] = "closed".into();
            }
        }
        if let Some(path) = &self.config.event_log {
            self.log.write(path, &event);
        }
    }

    /// Brings its gauge up to date.
    pub(super) fn publish(&self) {
        self.stats.state.set(match self.state() {
            State::Closed => 0,
            State::Open => 1,
            State::HalfOpen => 2,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Registry;
    use data_plane_core::guard::circuit::Options;

    #[tokio::test(start_paused = true)]
    async fn workers_share_one_breaker_and_its_probes() {
        let registry = Registry::new(2);
        let options = Options { consecutive_failures: Some(4), probes: 2, ..Options::default() };
        let config = Arc::new(CircuitBreaker { options, event_log: None });
        let scope = registry.scope("cluster.a.", "cluster.", &[]);
        let breaker = Breaker::new("a", config, &scope, EventLog::default());
        let pass = |outcome| match breaker.admit(Instant::now()) {
            Ok(ticket) => {
                breaker.finish(ticket, outcome, Duration::ZERO);
                true
            }
            Err(_) => false,
        };
        assert!((0..4).all(|_| pass(Outcome::Timeout)));
        assert!(!pass(Outcome::Connected));
        assert_eq!(breaker.state(), State::Open);
        tokio::time::advance(Duration::from_secs(6)).await;
        let held: Vec<_> = (0..5).filter_map(|_| breaker.admit(Instant::now()).ok()).collect();
        assert_eq!(held.len(), 2, "two probes, whoever asks");
        for ticket in held {
            breaker.finish(ticket, Outcome::Response { status: 404, grpc_status: None }, Duration::ZERO);
        }
        assert_eq!(breaker.state(), State::Closed);
        breaker.publish();
        for (name, want) in [("opened", 1), ("half_opened", 1), ("closed", 1), ("rejected", 4), ("state", 0)]
        {
            assert_eq!(registry.value(&format!("cluster.a.circuit_breaker.{name}")), Some(want), "{name}");
        }
    }
}
