//! Outlier detection on the request path: counts of a host, and the findings that cannot wait for a sweep.
//!
//! Workers add to atomics; rows of failures that reach their threshold are left as bits for the health thread,
//! which rules on them.

use super::guard::Outcome;
use crate::stat_block;
use crate::stats::Scope;
use data_plane_core::config::OutlierDetection;
use data_plane_core::guard::outlier::{Finding, Sample, Sweep};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use tokio::sync::Notify;

stat_block! {
    /// Metrics of outlier detection, `cluster.<name>.outlier_detection.`.
    pub struct OutlierStats {
        counters: ejections_consecutive_5xx, ejections_detected_consecutive_5xx,
            ejections_detected_consecutive_gateway_failure, ejections_detected_consecutive_local_origin_failure,
            ejections_detected_degradation, ejections_detected_failure_percentage,
            ejections_detected_local_origin_failure_percentage, ejections_detected_local_origin_success_rate,
            ejections_detected_success_rate, ejections_enforced_consecutive_5xx,
            ejections_enforced_consecutive_gateway_failure, ejections_enforced_consecutive_local_origin_failure,
            ejections_enforced_failure_percentage, ejections_enforced_local_origin_failure_percentage,
            ejections_enforced_local_origin_success_rate, ejections_enforced_success_rate,
            ejections_enforced_total, ejections_overflow, ejections_success_rate, ejections_total;
        gauges: ejections_active;
        histograms: ;
    }
}

/// A number that is -1 while it is not known.
#[derive(Debug)]
pub(super) struct Shown(AtomicU64);

impl Default for Shown {
    fn default() -> Self {
        Self(AtomicU64::new((-1.0_f64).to_bits()))
    }
}

impl Shown {
    pub(super) fn set(&self, value: Option<f64>) {
        self.0.store(value.unwrap_or(-1.0).to_bits(), Relaxed);
    }

    pub(super) fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Relaxed))
    }
}

/// Outlier detection of a cluster.
#[derive(Debug)]
pub struct Detection {
    pub(super) options: Arc<OutlierDetection>,
    pub(super) stats: OutlierStats,
    /// Wakes the health thread.
    bell: Arc<Notify>,
    /// Mean and threshold of the last sweep: external, then local origin.
    shown: [(Shown, Shown); 2],
}

impl Detection {
    pub(super) fn new(options: Arc<OutlierDetection>, scope: &Scope, bell: Arc<Notify>) -> Arc<Self> {
        let stats = OutlierStats::new(&scope.child("outlier_detection.", "outlier_detection.", &[]));
        stats.ejections_active.set(0);
        Arc::new(Self { options, stats, bell, shown: Default::default() })
    }

    /// Mean success rate of the last sweep and the threshold below which hosts were outliers, for external and for
    /// local origin; -1: not known.
    pub fn success_rates(&self) -> [(f64, f64); 2] {
        [0, 1].map(|origin: usize| (self.shown[origin].0.get(), self.shown[origin].1.get()))
    }

    pub(super) fn show(&self, origin: usize, sweep: &Sweep) {
        self.shown[origin].0.set(sweep.average);
        self.shown[origin].1.set(sweep.threshold);
    }
}

/// Successes and failures since the last sweep.
#[derive(Debug, Default)]
struct Rate {
    success: AtomicU64,
    failure: AtomicU64,
}

impl Rate {
    fn count(&self, success: bool) {
        if success { &self.success } else { &self.failure }.fetch_add(1, Relaxed);
    }

    fn take(&self) -> Sample {
        let (success, failure) = (self.success.swap(0, Relaxed), self.failure.swap(0, Relaxed));
        Sample { success, total: success + failure, ejected: false }
    }
}

/// Failures in a row.
#[derive(Debug, Default)]
struct Row(AtomicU32);

impl Row {
    /// One more; whether it reached `threshold` just now.
    fn fail(&self, threshold: u32) -> bool {
        self.0.fetch_add(1, Relaxed).wrapping_add(1) == threshold
    }

    fn end(&self) {
        // Mostly zero already: a load that all workers share.
        if self.0.load(Relaxed) != 0 {
            self.0.store(0, Relaxed);
        }
    }
}

/// Findings that come of rows, as bits.
const ROWS: [Finding; 3] =
    [Finding::Consecutive5xx, Finding::ConsecutiveGatewayFailure, Finding::ConsecutiveLocalOriginFailure];

/// What is counted of one host.
#[derive(Debug)]
pub struct Monitor {
    detection: Arc<Detection>,
    /// By [`ROWS`].
    rows: [Row; 3],
    found: AtomicU8,
    external: Rate,
    local: Rate,
    /// Success rates of the last sweep: external, then local origin.
    shown: [Shown; 2],
}

impl Monitor {
    pub(super) fn new(detection: &Arc<Detection>) -> Arc<Self> {
        Arc::new(Self {
            detection: Arc::clone(detection),
            rows: Default::default(),
            found: AtomicU8::new(0),
            external: Rate::default(),
            local: Rate::default(),
            shown: Default::default(),
        })
    }

    /// Whether it counts for this detection.
    pub(super) fn is_of(&self, detection: Option<&Arc<Detection>>) -> bool {
        detection.is_some_and(|detection| Arc::ptr_eq(&self.detection, detection))
    }

    /// Success rates of the last sweep for external and for local origin, percent; -1: not known.
    pub fn success_rates(&self) -> [f64; 2] {
        [self.shown[0].get(), self.shown[1].get()]
    }

    pub(super) fn show(&self, origin: usize, rate: Option<f64>) {
        self.shown[origin].set(rate);
    }

    /// Counts the end of an attempt.
    pub(super) fn record(&self, outcome: Outcome) {
        if !self.detection.options.split_external_local_origin_errors {
            if let Some(status) = outcome.status() {
                self.external(status);
            }
            return;
        }
        match outcome {
            Outcome::Response { .. } => {
                self.local_success();
                if let Some(status) = outcome.status() {
                    self.external(status);
                }
            }
            Outcome::Connected => self.local_success(),
            Outcome::ConnectFailure | Outcome::ConnectTimeout => self.local_failure(),
            // There was a connection first.
            Outcome::Reset | Outcome::Timeout => {
                self.local_success();
                self.local_failure();
            }
            Outcome::Void => {}
        }
    }

    fn external(&self, status: u16) {
        let failed = (500..600).contains(&status);
        self.external.count(!failed);
        if !failed {
            self.rows[0].end();
            self.rows[1].end();
            return;
        }
        let options = &self.detection.options;
        if !matches!(status, 502..=504) {
            self.rows[1].end();
        } else if self.rows[1].fail(options.consecutive_gateway_failure) {
            self.find(1);
        }
        if self.rows[0].fail(options.consecutive_5xx) {
            self.find(0);
        }
    }

    fn local_success(&self) {
        self.local.count(true);
        self.rows[2].end();
    }

    fn local_failure(&self) {
        self.local.count(false);
        if self.rows[2].fail(self.detection.options.consecutive_local_origin_failure) {
            self.find(2);
        }
    }

    #[cold]
    fn find(&self, row: usize) {
        self.found.fetch_or(1 << row, Relaxed);
        self.detection.bell.notify_one();
    }

    /// What was found since the last call; the rows begin anew.
    pub(super) fn take_findings(&self) -> impl Iterator<Item = Finding> {
        let found = if self.found.load(Relaxed) == 0 { 0 } else { self.found.swap(0, Relaxed) };
        let rows = ROWS.iter().enumerate().filter(move |(row, _)| found & (1 << row) != 0);
        rows.map(|(row, finding)| {
            self.rows[row].end();
            *finding
        })
    }

    /// All rows begin anew.
    pub(super) fn reset_rows(&self) {
        self.rows.iter().for_each(Row::end);
    }

    /// What was counted since the last call: external, then local origin.
    pub(super) fn take_samples(&self) -> [Sample; 2] {
        [self.external.take(), self.local.take()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Registry;

    fn monitor(options: OutlierDetection) -> Arc<Monitor> {
        let scope = Registry::new(1).scope("cluster.a.", "cluster.", &[]);
        Monitor::new(&Detection::new(Arc::new(options), &scope, Arc::default()))
    }

    fn response(status: u16) -> Outcome {
        Outcome::Response { status, grpc_status: None }
    }

    fn findings(options: &OutlierDetection, outcomes: &[Outcome]) -> Vec<Finding> {
        let monitor = monitor(options.clone());
        outcomes.iter().for_each(|outcome| monitor.record(*outcome));
        monitor.take_findings().collect()
    }

    #[test]
    fn rows_of_failures_are_found_at_their_threshold() {
        let options = OutlierDetection {
            consecutive_5xx: 3,
            consecutive_gateway_failure: 2,
            consecutive_local_origin_failure: 2,
            ..OutlierDetection::default()
        };
        let (five, gateway) = (Finding::Consecutive5xx, Finding::ConsecutiveGatewayFailure);
        let grpc = |code| Outcome::Response { status: 200, grpc_status: Some(code) };
        for (outcomes, want) in [
            (&[response(500), response(500)][..], &[][..]),
            (&[response(500), response(500), response(501)], &[five]),
            (&[response(500), response(200), response(500), response(500)], &[]),
            (&[response(503), response(502)], &[gateway]),
            (&[response(503), response(500), response(503)], &[five]),
            (&[Outcome::Timeout, Outcome::ConnectFailure], &[gateway]),
            (&[Outcome::Reset, Outcome::Void, Outcome::Reset], &[gateway]),
            (&[grpc(14), grpc(0), grpc(14)], &[]),
            (&[grpc(13), grpc(2), grpc(12)], &[five]),
            (&[response(404), response(499), response(429), response(600)], &[]),
        ] {
            assert_eq!(findings(&options, outcomes), want, "{outcomes:?}");
        }
        let split = OutlierDetection { split_external_local_origin_errors: true, ..options };
        let local = Finding::ConsecutiveLocalOriginFailure;
        for (outcomes, want) in [
            (&[Outcome::ConnectFailure, Outcome::ConnectTimeout][..], &[local][..]),
            (&[Outcome::ConnectFailure, response(503), Outcome::ConnectFailure], &[]),
            (&[response(503), Outcome::ConnectFailure, response(503)], &[gateway]),
            (&[Outcome::ConnectFailure, Outcome::Connected, Outcome::ConnectFailure], &[]),
            (&[Outcome::Timeout, Outcome::Timeout], &[]),
        ] {
            assert_eq!(findings(&split, outcomes), want, "split: {outcomes:?}");
        }
    }

    #[test]
    fn zero_turns_a_row_off() {
        let options = OutlierDetection {
            consecutive_5xx: 0,
            consecutive_gateway_failure: 0,
            ..OutlierDetection::default()
        };
        assert_eq!(findings(&options, &[response(503); 20]), []);
    }

    #[test]
    fn samples_are_of_one_interval() {
        let monitor = monitor(OutlierDetection::default());
        for outcome in [response(200), response(500), Outcome::Void, Outcome::Timeout] {
            monitor.record(outcome);
        }
        let [external, local] = monitor.take_samples();
        assert_eq!((external.success, external.total, local.total), (1, 3, 0));
        assert_eq!(monitor.take_samples()[0].total, 0);
    }
}
