//! What is known of the hosts of one cluster: a task that checks them, rules on findings, and tells what changed.

use super::events::{self, Cause, EventLog};
use super::probe::{Prober, Report};
use crate::upstream::cluster::Cluster;
use crate::upstream::flags::HealthFlag;
use crate::upstream::host::Host;
use crate::upstream::outlier::{Detection, Monitor, OutlierStats};
use data_plane_core::config::HealthCheck;
use data_plane_core::guard::health::{Check, Failure, Step, Verdict};
use data_plane_core::guard::outlier::{self, Finding, History, Origin, Ruling, Sample, Sweep};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

/// Shortest time between two host sets of a cluster: changes within it are taken up together.
const MERGE: Duration = Duration::from_millis(10);

/// Hosts of a cluster from which on a turn is worth waiting for company.
const MANY: usize = 64;

/// Without anything to wait for.
const FAR: Duration = Duration::from_secs(3600);

/// What a cluster's task tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::upstream) enum Told {
    /// Every host has been checked once: the cluster may serve.
    Checked,
    /// Flags of hosts changed.
    Changed,
}

/// A cluster to watch.
pub(in crate::upstream) struct Job {
    pub(in crate::upstream) cluster: Arc<Cluster>,
    /// It serves already; else its hosts' flags are left alone until all have been checked once.
    pub(in crate::upstream) serving: bool,
    /// Rung when hosts came or left, and when a worker found something.
    pub(in crate::upstream) bell: Arc<Notify>,
    /// Ends the task.
    pub(in crate::upstream) stop: CancellationToken,
    pub(in crate::upstream) told: Box<dyn Fn(Told) + Send>,
    pub(in crate::upstream) log: EventLog,
    /// Where ejections are logged.
    pub(in crate::upstream) outlier_log: Option<PathBuf>,
}

/// What is known of one host.
struct Member {
    host: Arc<Host>,
    checked: Option<Checked>,
    history: History,
}

/// Its active checks.
struct Checked {
    state: Check,
    prober: Rc<Prober>,
    /// When it is checked next; `None`: under way.
    due: Option<Instant>,
}

struct Watch {
    job: Job,
    /// Times of histories are since then.
    epoch: Instant,
    members: BTreeMap<u64, Member>,
    next_sweep: Option<Instant>,
    dirty: bool,
    published: Option<Instant>,
}

/// Watches a cluster until its job's `stop`.
pub(super) async fn run(job: Job, room: Rc<Semaphore>) {
    let (bell, stop) = (Arc::clone(&job.bell), job.stop.clone());
    let now = Instant::now();
    let next_sweep = job.cluster.detection().map(|detection| now + detection.options.interval);
    let mut watch =
        Watch { job, epoch: now, members: BTreeMap::new(), next_sweep, dirty: false, published: None };
    let mut probes: JoinSet<(u64, Rc<Prober>, Report)> = JoinSet::new();
    loop {
        let now = Instant::now();
        watch.meet(now);
        watch.rule_on_findings(now);
        if watch.next_sweep.is_some_and(|due| due <= now) {
            watch.sweep(now);
        }
        for (id, prober) in watch.start_due(now) {
            let room = Rc::clone(&room);
            probes.spawn_local(async move {
                // Never closed.
                let _permit = room.acquire().await;
                let report = prober.run().await;
                (id, prober, report)
            });
        }
        watch.publish(now);
        let wake = watch.next_wake(now);
        // All cancel safe.
        tokio::select! {
            () = stop.cancelled() => return,
            () = bell.notified() => {}
            Some(done) = probes.join_next(), if !probes.is_empty() => {
                // A probe that panicked was reported; its host is checked no more until it changes.
                for (id, prober, report) in std::iter::once(done).chain(std::iter::from_fn(|| probes.try_join_next())).flatten() {
                    watch.take(id, &prober, report);
                }
            }
            () = sleep_until(wake) => {}
        }
        if watch.members.len() > MANY {
            // Each turn looks at all hosts: let some more happen first.
            sleep(MERGE).await;
        }
    }
}

impl Watch {
    fn check(&self) -> Option<&Arc<HealthCheck>> {
        self.job.cluster.config.health_check.as_ref()
    }

    fn detection(&self) -> Option<Arc<Detection>> {
        self.job.cluster.detection().cloned()
    }

    fn since(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.epoch)
    }

    /// Takes up who came and who left.
    fn meet(&mut self, now: Instant) {
        let hosts = Arc::clone(&self.job.cluster.hosts());
        let same = hosts.len() == self.members.len()
            && hosts.iter().all(|host| {
                self.members.get(&host.id()).is_some_and(|member| Arc::ptr_eq(&member.host, host))
            });
        if same {
            return;
        }
        let mut old = std::mem::take(&mut self.members);
        for host in hosts.iter() {
            if let Some(mut member) = old.remove(&host.id()) {
                if member.host.address != host.address
                    && let (Some(checked), Some(check)) = (&mut member.checked, self.check())
                {
                    // LOGICAL_DNS: the host stays, and moves.
                    checked.prober = Prober::new(&self.job.cluster, check, host);
                    checked.due.get_or_insert(now);
                }
                member.host = Arc::clone(host);
                self.members.insert(host.id(), member);
                continue;
            }
            if self.members.contains_key(&host.id()) {
                continue;
            }
            let checked = self.check().filter(|_| host.is_checked()).map(|check| {
                let pending = self.job.cluster.config.ignore_new_hosts_until_first_check;
                Checked {
                    state: Check::new(pending),
                    prober: Prober::new(&self.job.cluster, check, host),
                    due: Some(now + check.pace.first(fastrand::u64(..))),
                }
            });
            let member = Member { host: Arc::clone(host), checked, history: History::default() };
            self.members.insert(host.id(), member);
        }
        self.count();
        if let Some(detection) = self.detection() {
            self.count_ejected(&detection.stats);
        }
    }

    /// The hosts whose check is due.
    fn start_due(&mut self, now: Instant) -> Vec<(u64, Rc<Prober>)> {
        let mut due = Vec::new();
        for (id, member) in &mut self.members {
            if let Some(checked) = &mut member.checked
                && checked.due.is_some_and(|at| at <= now)
            {
                checked.due = None;
                due.push((*id, Rc::clone(&checked.prober)));
            }
        }
        if !due.is_empty()
            && let Some(stats) = self.job.cluster.check_stats()
        {
            stats.attempt.add(due.len() as u64);
        }
        due
    }

    /// Takes what a check found.
    fn take(&mut self, id: u64, prober: &Rc<Prober>, report: Report) {
        let (Some(check), Some(member)) = (self.check().cloned(), self.members.get_mut(&id)) else { return };
        let Some(checked) = member.checked.as_mut().filter(|checked| Rc::ptr_eq(&checked.prober, prober))
        else {
            return;
        };
        if report.exclude {
            checked.state.exclude();
        }
        let step = checked.state.take(report.verdict, &check.pace);
        let stats = &self.job.cluster.stats;
        let traffic = stats.is_used() && stats.upstream_cx_total.value() > 0;
        let now = Instant::now();
        checked.due = Some(now + check.pace.next(&step, traffic, fastrand::u64(..)));
        let well = step.passed && !checked.state.is_failed();
        self.tell(id, &step, &report);
        let unejects = self
            .detection()
            .filter(|detection| well && detection.options.successful_active_health_check_uneject_host);
        if let Some(detection) = unejects {
            self.uneject(id, &detection, now);
        }
    }

    /// Counts and logs a verdict, and writes the host's flags.
    fn tell(&mut self, id: u64, step: &Step, report: &Report) {
        let (Some(check), Some(member)) = (self.check(), self.members.get(&id)) else { return };
        if let Some(stats) = self.job.cluster.check_stats() {
            if step.passed { &stats.success } else { &stats.failure }.inc();
            match report.failure {
                Some(Failure::Network | Failure::NetworkTimeout) => stats.network_failure.inc(),
                Some(Failure::Passive) => stats.passive_failure.inc(),
                Some(Failure::Active) | None => {}
            }
        }
        let cluster = &*self.job.cluster.config.name;
        if step.ejected || step.recovered {
            let (host, failure) = (member.host.address, report.failure);
            tracing::debug!(cluster, %host, ?failure, healthy = step.recovered, "health of a host changed");
        }
        if !check.event_logs.is_empty() {
            for (what, content) in events::of_check(step, report, (check.log_failures, check.log_successes)) {
                let event = events::health_event(cluster, &check.probe, &member.host, what, content);
                check.event_logs.iter().for_each(|path| self.job.log.write(path, &event));
            }
        }
        if step.ejected || step.recovered || step.degraded.is_some() {
            self.count();
        }
        if self.job.serving && self.members.get(&id).is_some_and(Member::write_flags) {
            self.dirty = true;
        }
    }

    /// Brings the gauges of checks up to date.
    fn count(&self) {
        let Some(stats) = self.job.cluster.check_stats() else { return };
        let states = || self.members.values().filter_map(|member| member.checked.as_ref());
        stats.healthy.set(states().filter(|checked| !checked.state.is_failed()).count() as u64);
        stats.degraded.set(states().filter(|checked| checked.state.is_degraded()).count() as u64);
    }

    /// Takes what workers found.
    fn rule_on_findings(&mut self, now: Instant) {
        let ids: Vec<u64> = self.members.keys().copied().collect();
        for id in &ids {
            self.rule_on_answers(*id);
        }
        let Some(detection) = self.detection() else { return };
        for id in ids {
            let Some(monitor) = self.members.get(&id).and_then(|m| m.host.monitor().cloned()) else {
                continue;
            };
            for finding in monitor.take_findings() {
                // As Envoy: what is out already is not found again.
                if !self.is_ejected(id) {
                    self.rule(id, finding, [0.0; 3], &detection, now);
                }
            }
        }
    }

    /// Answers that asked for their host to be left out (`x-envoy-immediate-health-check-fail`).
    fn rule_on_answers(&mut self, id: u64) {
        let Some(check) = self.check().cloned() else { return };
        let Some(member) = self.members.get_mut(&id) else { return };
        let Some(checked) = member.checked.as_mut().filter(|_| member.host.take_complaint()) else { return };
        checked.state.exclude();
        let verdict = Verdict::Fail { failure: Failure::Passive, retriable: false };
        let step = checked.state.take(verdict, &check.pace);
        self.tell(id, &step, &Report { verdict, ..Report::fail(Failure::Passive) });
    }

    fn is_ejected(&self, id: u64) -> bool {
        self.members.get(&id).is_some_and(|member| member.history.is_ejected())
    }

    fn rule(&mut self, id: u64, finding: Finding, rates: [f64; 3], detection: &Detection, now: Instant) {
        count_detected(&detection.stats, finding);
        let at = self.since(now);
        let room = (self.members.values().filter(|m| m.history.is_ejected()).count(), self.members.len());
        let Some(member) = self.members.get_mut(&id) else { return };
        let ruling = member.history.rule(finding, room, &detection.options, at, fastrand::u64(..));
        let stats = &detection.stats;
        if ruling == Ruling::Overflow {
            stats.ejections_overflow.inc();
            return;
        }
        if matches!(finding, Finding::Consecutive5xx | Finding::SuccessRate) {
            stats.ejections_total.inc();
        }
        let enforced = ruling == Ruling::Ejected;
        let cluster = &*self.job.cluster.config.name;
        if let Some(path) = &self.job.outlier_log {
            let cause = Cause { finding, rates, enforced, history: &member.history };
            self.job.log.write(path, &events::eject_event(cluster, &member.host, &cause, at));
        }
        if enforced {
            count_enforced(stats, finding);
            tracing::debug!(cluster, host = %member.host.address, ?finding, "host ejected");
            self.dirty |= member.host.identity().set_flag(HealthFlag::FailedOutlierCheck, true);
            self.count_ejected(&detection.stats);
        }
    }

    fn uneject(&mut self, id: u64, detection: &Detection, now: Instant) {
        let at = self.since(now);
        let Some(member) = self.members.get_mut(&id).filter(|member| member.history.is_ejected()) else {
            return;
        };
        member.history.uneject(at);
        if let Some(monitor) = member.host.monitor() {
            monitor.reset_rows();
        }
        let cluster = &*self.job.cluster.config.name;
        tracing::debug!(cluster, host = %member.host.address, "host no longer ejected");
        self.dirty |= member.host.identity().set_flag(HealthFlag::FailedOutlierCheck, false);
        if let Some(path) = &self.job.outlier_log {
            self.job.log.write(path, &events::uneject_event(cluster, &member.host, &member.history, at));
        }
        self.count_ejected(&detection.stats);
    }

    fn count_ejected(&self, stats: &OutlierStats) {
        let ejected = self.members.values().filter(|member| member.history.is_ejected()).count();
        stats.ejections_active.set(ejected as u64);
    }

    /// Lets hosts in whose time is over, and compares the others.
    fn sweep(&mut self, now: Instant) {
        let Some(detection) = self.detection() else { return };
        self.next_sweep = Some(now + detection.options.interval);
        let at = self.since(now);
        let over: Vec<u64> = self
            .members
            .iter()
            .filter(|(_, m)| m.history.until(&detection.options).is_some_and(|until| until <= at))
            .map(|(id, _)| *id)
            .collect();
        for id in over {
            self.uneject(id, &detection, now);
        }
        let monitors: Vec<(u64, Arc<Monitor>)> =
            self.members.iter().filter_map(|(id, m)| Some((*id, Arc::clone(m.host.monitor()?)))).collect();
        let samples: Vec<[Sample; 2]> = monitors.iter().map(|(_, monitor)| monitor.take_samples()).collect();
        for (index, origin) in [Origin::External, Origin::Local].into_iter().enumerate() {
            let of_origin: Vec<Sample> = monitors
                .iter()
                .zip(&samples)
                .map(|((id, _), samples)| Sample { ejected: self.is_ejected(*id), ..samples[index] })
                .collect();
            let found: Sweep = outlier::sweep(&of_origin, origin, &detection.options);
            detection.show(index, &found);
            for ((_, monitor), rate) in monitors.iter().zip(&found.rates) {
                monitor.show(index, *rate);
            }
            for (place, finding) in &found.findings {
                let rate = found.rates[*place].unwrap_or(0.0);
                let rates = [rate, found.average.unwrap_or(0.0), found.threshold.unwrap_or(0.0)];
                self.rule(monitors[*place].0, *finding, rates, &detection, now);
            }
        }
        self.members.values_mut().for_each(|member| member.history.forgive());
    }

    /// Tells what changed.
    fn publish(&mut self, now: Instant) {
        if !self.job.serving {
            let waits = |member: &Member| member.checked.as_ref().is_some_and(|c| c.state.is_new());
            if self.members.values().any(waits) {
                return;
            }
            self.job.serving = true;
            self.members.values().for_each(|member| _ = member.write_flags());
            self.dirty = false;
            return (self.job.told)(Told::Checked);
        }
        if self.dirty && self.published.is_none_or(|last| now >= last + MERGE) {
            self.dirty = false;
            self.published = Some(now);
            (self.job.told)(Told::Changed);
        }
    }

    fn next_wake(&self, now: Instant) -> Instant {
        let checks = self.members.values().filter_map(|member| member.checked.as_ref()?.due).min();
        let merged = self.published.filter(|_| self.dirty).map(|last| last + MERGE);
        [checks, self.next_sweep, merged].into_iter().flatten().min().unwrap_or(now + FAR)
    }
}

impl Member {
    /// Writes what checks found into the host's flags; whether that changed anything.
    fn write_flags(&self) -> bool {
        let Some(Checked { state, .. }) = &self.checked else { return false };
        let identity = self.host.identity();
        let flags = [
            (HealthFlag::FailedActiveHc, state.is_failed()),
            (HealthFlag::DegradedActiveHc, state.is_degraded()),
            (HealthFlag::PendingActiveHc, state.is_pending()),
            (HealthFlag::ExcludedViaImmediateHcFail, state.is_excluded()),
            (HealthFlag::ActiveHcTimeout, state.is_timed_out()),
        ];
        flags.into_iter().fold(false, |changed, (flag, on)| identity.set_flag(flag, on) || changed)
    }
}

fn count_detected(stats: &OutlierStats, finding: Finding) {
    match finding {
        Finding::Consecutive5xx => {
            stats.ejections_detected_consecutive_5xx.inc();
            stats.ejections_consecutive_5xx.inc();
        }
        Finding::ConsecutiveGatewayFailure => stats.ejections_detected_consecutive_gateway_failure.inc(),
        Finding::ConsecutiveLocalOriginFailure => {
            stats.ejections_detected_consecutive_local_origin_failure.inc();
        }
        Finding::SuccessRate => {
            stats.ejections_detected_success_rate.inc();
            stats.ejections_success_rate.inc();
        }
        Finding::SuccessRateLocalOrigin => stats.ejections_detected_local_origin_success_rate.inc(),
        Finding::FailurePercentage => stats.ejections_detected_failure_percentage.inc(),
        Finding::FailurePercentageLocalOrigin => {
            stats.ejections_detected_local_origin_failure_percentage.inc()
        }
    }
}

fn count_enforced(stats: &OutlierStats, finding: Finding) {
    stats.ejections_enforced_total.inc();
    match finding {
        Finding::Consecutive5xx => stats.ejections_enforced_consecutive_5xx.inc(),
        Finding::ConsecutiveGatewayFailure => stats.ejections_enforced_consecutive_gateway_failure.inc(),
        Finding::ConsecutiveLocalOriginFailure => {
            stats.ejections_enforced_consecutive_local_origin_failure.inc();
        }
        Finding::SuccessRate => stats.ejections_enforced_success_rate.inc(),
        Finding::SuccessRateLocalOrigin => stats.ejections_enforced_local_origin_success_rate.inc(),
        Finding::FailurePercentage => stats.ejections_enforced_failure_percentage.inc(),
        Finding::FailurePercentageLocalOrigin => {
            stats.ejections_enforced_local_origin_failure_percentage.inc()
        }
    }
}
