//! What is counted of each limit, on `/metrics`.
//!
//! Labels come from configuration, except where `detailed_metric` asks for one series a value; those are bounded.

use std::collections::HashMap;
use std::sync::Arc;

use metrics::{Counter, counter, describe_counter};
use parking_lot::Mutex;

/// Series of values of one limit, at most; further values are counted under `other`.
const DETAILED: usize = 1000;

/// Names and meanings of the metrics. Called once.
pub(super) fn describe() {
    describe_counter!("ratelimit_hits_total", "Hits asked for.");
    describe_counter!("ratelimit_within_limit_total", "Hits let through.");
    describe_counter!(
        "ratelimit_over_limit_total",
        "Hits refused, or, in shadow mode, that would have been."
    );
    describe_counter!("ratelimit_near_limit_total", "Hits let through above 80 % of the limit.");
    describe_counter!("ratelimit_shadow_mode_total", "Hits over the limit that shadow mode let through.");
    describe_counter!("ratelimit_backend_errors_total", "Decisions that Redis did not take in time.");
    describe_counter!("ratelimit_fallback_total", "Decisions taken as the failure mode says.");
    describe_counter!(
        "ratelimit_evicted_total",
        "Counters given up for want of room before their time; their limits begin anew."
    );
    describe_counter!("ratelimit_requests_total", "Calls of ShouldRateLimit, by what they were answered.");
}

/// The counters of one limit.
#[derive(Clone)]
pub struct RuleStats {
    hits: Counter,
    within: Counter,
    over: Counter,
    near: Counter,
    shadow: Counter,
}

impl std::fmt::Debug for RuleStats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RuleStats")
    }
}

impl RuleStats {
    /// Those of a limit, by its domain and its path.
    pub fn new(domain: &str, limit: &str) -> Self {
        let labels = [("domain", domain.to_owned()), ("limit", limit.to_owned())];
        Self {
            hits: counter!("ratelimit_hits_total", &labels),
            within: counter!("ratelimit_within_limit_total", &labels),
            over: counter!("ratelimit_over_limit_total", &labels),
            near: counter!("ratelimit_near_limit_total", &labels),
            shadow: counter!("ratelimit_shadow_mode_total", &labels),
        }
    }

    /// Counts hits that were let through, of which `near` were above the share of the limit that is near.
    pub fn within(&self, hits: u64, near: u64) {
        self.hits.increment(hits);
        self.within.increment(hits);
        self.near.increment(near);
    }

    /// Counts hits that were refused, or let through by shadow mode.
    pub fn over(&self, hits: u64, shadow: bool) {
        self.hits.increment(hits);
        self.over.increment(hits);
        if shadow {
            self.shadow.increment(hits);
        }
    }
}

/// The counters of a limit's values.
#[derive(Clone, Debug)]
pub struct Detailed {
    domain: Box<str>,
    limit: Box<str>,
    values: Arc<Mutex<HashMap<Box<str>, RuleStats>>>,
}

impl Detailed {
    /// Those of a limit, by its domain and its path.
    pub fn new(domain: &str, limit: &str) -> Self {
        Self { domain: domain.into(), limit: limit.into(), values: Arc::default() }
    }

    /// Those of one value.
    pub fn of(&self, value: &str) -> RuleStats {
        let mut values = self.values.lock();
        if let Some(stats) = values.get(value) {
            return stats.clone();
        }
        let value = if values.len() < DETAILED { value } else { "other" };
        let make = || RuleStats::new(&self.domain, &format!("{}:{value}", self.limit));
        values.entry(value.into()).or_insert_with(make).clone()
    }
}
