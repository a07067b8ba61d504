//! Files of events: a JSON object a line, as Envoy writes them.
//!
//! Whoever has an event hands it over without waiting; the health thread writes. A file is opened for each batch, so
//! that one that was moved away begins anew.

use super::probe::Report;
use crate::upstream::host::Host;
use data_plane_core::config::Probe;
use data_plane_core::guard::health::{Failure, Step};
use data_plane_core::guard::outlier::{Finding, History};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use tokio::sync::mpsc;

/// Events that wait to be written; further ones are dropped.
const QUEUE: usize = 4096;

/// A file and a line for it.
pub(super) type Entry = (PathBuf, String);

/// Where events go; the default one drops them.
#[derive(Clone, Debug, Default)]
pub(in crate::upstream) struct EventLog(Option<mpsc::Sender<Entry>>);

impl EventLog {
    pub(super) fn new() -> (Self, mpsc::Receiver<Entry>) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        (Self(Some(sender)), receiver)
    }

    /// Appends an event to a file, later.
    pub(in crate::upstream) fn write(&self, path: &Path, event: &Value) {
        let Some(queue) = &self.0 else { return };
        if queue.try_send((path.to_owned(), format!("{event}\n"))).is_err() {
            tracing::warn!(path = %path.display(), "too many events at once: one is not logged");
        }
    }
}

/// The writing side.
pub(super) struct Writer {
    queue: mpsc::Receiver<Entry>,
    /// Files that could not be written, each told once.
    broken: HashSet<PathBuf>,
}

impl Writer {
    pub(super) fn new(queue: mpsc::Receiver<Entry>) -> Self {
        Self { queue, broken: HashSet::new() }
    }

    /// Waits for an event and writes it, with all that are there.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(super) async fn write_next(&mut self) {
        match self.queue.recv().await {
            Some((path, lines)) => self.write(path, lines),
            None => std::future::pending().await,
        }
    }

    /// Writes what is there.
    pub(super) fn flush(&mut self) {
        if let Ok((path, lines)) = self.queue.try_recv() {
            self.write(path, lines);
        }
    }

    fn write(&mut self, mut path: PathBuf, mut lines: String) {
        while let Ok((next, line)) = self.queue.try_recv() {
            if next != path {
                self.append(std::mem::replace(&mut path, next), std::mem::take(&mut lines));
            }
            lines += &line;
        }
        self.append(path, lines);
    }

    fn append(&mut self, path: PathBuf, lines: String) {
        let opened = OpenOptions::new().append(true).create(true).open(&path);
        match opened.and_then(|mut file| file.write_all(lines.as_bytes())) {
            Ok(()) => _ = self.broken.remove(&path),
            Err(error) => {
                if self.broken.insert(path.clone()) {
                    tracing::warn!(path = %path.display(), %error, "cannot write events");
                }
            }
        }
    }
}

/// Now, as Envoy writes it: milliseconds and Z.
pub(in crate::upstream) fn now_rfc3339() -> String {
    let now = SystemTime::now();
    let millis = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().subsec_millis();
    let text = humantime_seconds(now);
    format!("{text}.{millis:03}Z")
}

fn humantime_seconds(now: SystemTime) -> String {
    let stamp = time::OffsetDateTime::from(now);
    let (year, month, day) = stamp.to_calendar_date();
    let (hour, minute, second) = stamp.to_hms();
    format!("{year:04}-{:02}-{day:02}T{hour:02}:{minute:02}:{second:02}", u8::from(month))
}

/// The events of a verdict, as `(what, its content)` of Envoy's `HealthCheckEvent`.
pub(super) fn of_check(
    step: &Step,
    report: &Report,
    (log_failures, log_successes): (bool, bool),
) -> Vec<(&'static str, Value)> {
    let mut events = Vec::new();
    let failure_type = match report.failure {
        Some(Failure::Passive) => "PASSIVE",
        Some(Failure::Network) => "NETWORK",
        Some(Failure::NetworkTimeout) => "NETWORK_TIMEOUT",
        Some(Failure::Active) | None => "ACTIVE",
    };
    let status = report.status.unwrap_or(0);
    if step.ejected {
        let event = json!({ "failure_type": failure_type, "http_status_code": status });
        events.push(("eject_unhealthy_event", event));
    }
    if step.recovered {
        events.push(("add_healthy_event", json!({ "first_check": step.first })));
    }
    if step.passed && !step.recovered && log_successes {
        events.push(("successful_health_check_event", json!({})));
    }
    match step.degraded {
        Some(true) => events.push(("degraded_healthy_host", json!({}))),
        Some(false) => events.push(("no_longer_degraded_host", json!({}))),
        None => {}
    }
    if !step.passed && (step.first || log_failures) {
        let event = json!({
            "failure_type": failure_type,
            "first_check": step.first,
            "http_status_code": status,
        });
        events.push(("health_check_failure_event", event));
    }
    events
}

/// What all events of a host's checks hold.
pub(super) fn health_event(cluster: &str, probe: &Probe, host: &Host, what: &str, content: Value) -> Value {
    let kind = match probe {
        Probe::Http(_) => "HTTP",
        Probe::Tcp(_) => "TCP",
        Probe::Grpc(_) => "GRPC",
    };
    let mut event = json!({
        "health_checker_type": kind,
        "host": { "socket_address": {
            "protocol": "TCP",
            "address": host.address.ip().to_string(),
            "port_value": host.address.port(),
            "resolver_name": "",
            "ipv4_compat": false,
            "network_namespace_filepath": "",
        } },
        "cluster_name": cluster,
        "timestamp": now_rfc3339(),
        "locality": {
            "region": host.locality.region,
            "zone": host.locality.zone,
            "sub_zone": host.locality.sub_zone,
        },
    });
    event[what] = content;
    event
}

/// What an ejection was for.
pub(super) struct Cause<'a> {
    pub(super) finding: Finding,
    /// The host's success rate in the last sweep, its cluster's, and the threshold.
    pub(super) rates: [f64; 3],
    pub(super) enforced: bool,
    pub(super) history: &'a History,
}

/// Envoy's `OutlierDetectionEvent` of an ejection.
pub(super) fn eject_event(cluster: &str, host: &Host, cause: &Cause<'_>, now: Duration) -> Value {
    let name = match cause.finding {
        Finding::Consecutive5xx => "CONSECUTIVE_5XX",
        Finding::ConsecutiveGatewayFailure => "CONSECUTIVE_GATEWAY_FAILURE",
        Finding::ConsecutiveLocalOriginFailure => "CONSECUTIVE_LOCAL_ORIGIN_FAILURE",
        Finding::SuccessRate => "SUCCESS_RATE",
        Finding::SuccessRateLocalOrigin => "SUCCESS_RATE_LOCAL_ORIGIN",
        Finding::FailurePercentage => "FAILURE_PERCENTAGE",
        Finding::FailurePercentageLocalOrigin => "FAILURE_PERCENTAGE_LOCAL_ORIGIN",
    };
    let history = cause.history;
    let mut event = outlier_event(name, cluster, host, "EJECT", history);
    event["enforced"] = cause.enforced.into();
    if let Some(last) = history.last_unejection() {
        event["secs_since_last_action"] = now.saturating_sub(last).as_secs().to_string().into();
    }
    // As Envoy: whole numbers.
    let [rate, average, threshold] = cause.rates.map(|rate| rate.max(0.0) as u32);
    match cause.finding {
        Finding::SuccessRate | Finding::SuccessRateLocalOrigin => {
            event["eject_success_rate_event"] = json!({
                "host_success_rate": rate,
                "cluster_average_success_rate": average,
                "cluster_success_rate_ejection_threshold": threshold,
            });
        }
        Finding::FailurePercentage | Finding::FailurePercentageLocalOrigin => {
            event["eject_failure_percentage_event"] = json!({ "host_success_rate": rate });
        }
        _ => event["eject_consecutive_event"] = json!({}),
    }
    event
}

/// Envoy's `OutlierDetectionEvent` of a host's return.
pub(super) fn uneject_event(cluster: &str, host: &Host, history: &History, now: Duration) -> Value {
    let mut event = outlier_event("CONSECUTIVE_5XX", cluster, host, "UNEJECT", history);
    event["enforced"] = false.into();
    if let Some(last) = history.last_ejection() {
        event["secs_since_last_action"] = now.saturating_sub(last).as_secs().to_string().into();
    }
    event
}

fn outlier_event(kind: &str, cluster: &str, host: &Host, action: &str, history: &History) -> Value {
    json!({
        "type": kind,
        "timestamp": now_rfc3339(),
        "cluster_name": cluster,
        "upstream_url": host.address.to_string(),
        "action": action,
        "num_ejections": history.ejections(),
    })
}
