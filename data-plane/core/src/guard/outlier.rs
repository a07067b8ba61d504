//! Outlier detection: which hosts of a cluster do so much worse than they should that they get no requests for a
//! while, for how long, and how many at a time. As Envoy's `DetectorImpl`.
//!
//! Counting is the caller's: requests are counted on workers, decisions made elsewhere.

use std::time::Duration;

/// Knobs (Envoy `config.cluster.v3.OutlierDetection`). Shares are percents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// 5xx in a row; 0: not looked at. Default 5.
    pub consecutive_5xx: u32,
    /// 502, 503 and 504 in a row; 0: not looked at. Default 5.
    pub consecutive_gateway_failure: u32,
    /// Failures on our side in a row, where they are told apart; 0: not looked at. Default 5.
    pub consecutive_local_origin_failure: u32,
    /// Between sweeps, which look at rates and let hosts back in. Default 10 s.
    pub interval: Duration,
    /// How long an ejection lasts, times the number of ejections. Default 30 s.
    pub base_ejection_time: Duration,
    /// Longest ejection. Default 300 s, or the base where that is longer.
    pub max_ejection_time: Duration,
    /// An ejection lasts up to so much longer. Default 0.
    pub max_ejection_time_jitter: Duration,
    /// Most hosts that are out at a time. Default 10.
    pub max_ejection_percent: u32,
    /// One host may be out whatever `max_ejection_percent` says. Default false.
    pub always_eject_one_host: bool,
    /// Share of ejections for 5xx in a row that take place. Default 100.
    pub enforcing_consecutive_5xx: u32,
    /// The same for gateway failures. Default 0.
    pub enforcing_consecutive_gateway_failure: u32,
    /// The same for failures on our side. Default 100.
    pub enforcing_consecutive_local_origin_failure: u32,
    /// The same for success rates. Default 100.
    pub enforcing_success_rate: u32,
    /// The same for success rates on our side. Default 100.
    pub enforcing_local_origin_success_rate: u32,
    /// The same for failure percentages. Default 0.
    pub enforcing_failure_percentage: u32,
    /// The same for failure percentages on our side. Default 0.
    pub enforcing_failure_percentage_local_origin: u32,
    /// Hosts with enough requests that success rates are compared from. Default 5.
    pub success_rate_minimum_hosts: u32,
    /// Requests in an interval that are enough. Default 100.
    pub success_rate_request_volume: u32,
    /// Standard deviations below the mean, in thousandths, that make an outlier. Default 1900.
    pub success_rate_stdev_factor: u32,
    /// Failures that make an outlier. Default 85.
    pub failure_percentage_threshold: u32,
    /// Hosts with enough requests that failure percentages are looked at from. Default 5.
    pub failure_percentage_minimum_hosts: u32,
    /// Requests in an interval that are enough. Default 50.
    pub failure_percentage_request_volume: u32,
    /// Failures on our side (connecting, timeouts, resets) count for themselves. Default false.
    pub split_external_local_origin_errors: bool,
    /// A successful active health check ends an ejection. Default true.
    pub successful_active_health_check_uneject_host: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            consecutive_5xx: 5,
            consecutive_gateway_failure: 5,
            consecutive_local_origin_failure: 5,
            interval: Duration::from_secs(10),
            base_ejection_time: Duration::from_secs(30),
            max_ejection_time: Duration::from_secs(300),
            max_ejection_time_jitter: Duration::ZERO,
            max_ejection_percent: 10,
            always_eject_one_host: false,
            enforcing_consecutive_5xx: 100,
            enforcing_consecutive_gateway_failure: 0,
            enforcing_consecutive_local_origin_failure: 100,
            enforcing_success_rate: 100,
            enforcing_local_origin_success_rate: 100,
            enforcing_failure_percentage: 0,
            enforcing_failure_percentage_local_origin: 0,
            success_rate_minimum_hosts: 5,
            success_rate_request_volume: 100,
            success_rate_stdev_factor: 1900,
            failure_percentage_threshold: 85,
            failure_percentage_minimum_hosts: 5,
            failure_percentage_request_volume: 50,
            split_external_local_origin_errors: false,
            successful_active_health_check_uneject_host: true,
        }
    }
}

/// What a host was found at (Envoy `OutlierEjectionType`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Finding {
    /// 5xx in a row.
    Consecutive5xx,
    /// 502, 503, 504 in a row.
    ConsecutiveGatewayFailure,
    /// Failures on our side in a row.
    ConsecutiveLocalOriginFailure,
    /// Success rate far below the others'.
    SuccessRate,
    /// The same on our side.
    SuccessRateLocalOrigin,
    /// Too many failures.
    FailurePercentage,
    /// Too many failures on our side.
    FailurePercentageLocalOrigin,
}

/// Whose failures are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The host's, or everybody's where they are not told apart.
    External,
    /// Ours: connecting, timeouts, resets.
    Local,
}

/// What became of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ruling {
    /// The host is out.
    Ejected,
    /// Found, and let be: `enforcing_*`.
    NotEnforced,
    /// Too many hosts are out.
    Overflow,
}

/// One host's history. Times are since any fixed moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    ejected: bool,
    ejections: u32,
    /// Ejections that the next one's length is multiplied by.
    backoff: u32,
    jitter: Duration,
    last_ejection: Option<Duration>,
    last_unejection: Option<Duration>,
}

impl History {
    /// Whether it is out.
    pub fn is_ejected(&self) -> bool {
        self.ejected
    }

    /// How often it was out.
    pub fn ejections(&self) -> u32 {
        self.ejections
    }

    /// When it was last put out.
    pub fn last_ejection(&self) -> Option<Duration> {
        self.last_ejection
    }

    /// When it was last let in again.
    pub fn last_unejection(&self) -> Option<Duration> {
        self.last_unejection
    }

    /// Rules on a finding against this host, which was not out when it was looked at. `active` of `total` hosts of the
    /// cluster are out.
    pub fn rule(
        &mut self,
        finding: Finding,
        (active, total): (usize, usize),
        options: &Options,
        now: Duration,
        random: u64,
    ) -> Ruling {
        let percent = 100.0 * (active + 1) as f64 / total.max(1) as f64;
        let room = percent <= f64::from(options.max_ejection_percent.min(100))
            || (options.always_eject_one_host && active == 0);
        if !room {
            return Ruling::Overflow;
        }
        // Another finding of the same sweep may have put it out.
        if self.ejected || random % 100 >= u64::from(options.enforcing(finding)) {
            return Ruling::NotEnforced;
        }
        self.ejected = true;
        self.ejections += 1;
        self.last_ejection = Some(now);
        if options.base_ejection_time.saturating_mul(self.backoff)
            < options.max_ejection_time + options.base_ejection_time
        {
            self.backoff += 1;
        }
        // The low bits have decided already.
        let nanos = (options.max_ejection_time_jitter.as_nanos() * u128::from(random.rotate_left(32))) >> 64;
        self.jitter = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        Ruling::Ejected
    }

    /// When its ejection is over; `None`: it is not out.
    pub fn until(&self, options: &Options) -> Option<Duration> {
        let since = self.last_ejection.filter(|_| self.ejected)?;
        let length = options.base_ejection_time.saturating_mul(self.backoff).min(options.max_ejection_time);
        Some(since + length + self.jitter)
    }

    /// Lets it in again.
    pub fn uneject(&mut self, now: Duration) {
        self.ejected = false;
        self.last_unejection = Some(now);
    }

    /// A sweep found it in: its next ejection is shorter again.
    pub fn forgive(&mut self) {
        if !self.ejected {
            self.backoff = self.backoff.saturating_sub(1);
        }
    }
}

impl Options {
    /// The share of rulings that take effect.
    fn enforcing(&self, finding: Finding) -> u32 {
        match finding {
            Finding::Consecutive5xx => self.enforcing_consecutive_5xx,
            Finding::ConsecutiveGatewayFailure => self.enforcing_consecutive_gateway_failure,
            Finding::ConsecutiveLocalOriginFailure => self.enforcing_consecutive_local_origin_failure,
            Finding::SuccessRate => self.enforcing_success_rate,
            Finding::SuccessRateLocalOrigin => self.enforcing_local_origin_success_rate,
            Finding::FailurePercentage => self.enforcing_failure_percentage,
            Finding::FailurePercentageLocalOrigin => self.enforcing_failure_percentage_local_origin,
        }
    }
}

/// What one host did in the last interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Requests that succeeded.
    pub success: u64,
    /// All requests.
    pub total: u64,
    /// It is out, and not looked at.
    pub ejected: bool,
}

/// What a sweep found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sweep {
    /// Success rate of each host with enough requests, percent.
    pub rates: Vec<Option<f64>>,
    /// Mean of the success rates that were compared; `None`: too few.
    pub average: Option<f64>,
    /// Below this a host is an outlier.
    pub threshold: Option<f64>,
    /// Hosts by place, with what they were found at.
    pub findings: Vec<(usize, Finding)>,
}

/// Compares the hosts of a cluster.
pub fn sweep(hosts: &[Sample], origin: Origin, options: &Options) -> Sweep {
    let mut out = Sweep { rates: vec![None; hosts.len()], ..Sweep::default() };
    let enough = |least: u32| hosts.len() >= least as usize;
    if !enough(options.success_rate_minimum_hosts) && !enough(options.failure_percentage_minimum_hosts) {
        return out;
    }
    let (by_rate, by_failures) = match origin {
        Origin::External => (Finding::SuccessRate, Finding::FailurePercentage),
        Origin::Local => (Finding::SuccessRateLocalOrigin, Finding::FailurePercentageLocalOrigin),
    };
    let (mut compared, mut counted) = (Vec::new(), Vec::new());
    for (place, host) in hosts.iter().enumerate().filter(|(_, host)| !host.ejected && host.total > 0) {
        let rate = host.success as f64 * 100.0 / host.total as f64;
        let has = |volume: u32| host.total >= u64::from(volume);
        if has(options.success_rate_request_volume.min(options.failure_percentage_request_volume)) {
            out.rates[place] = Some(rate);
        }
        if has(options.success_rate_request_volume) {
            compared.push((place, rate));
        }
        if has(options.failure_percentage_request_volume) {
            counted.push((place, rate));
        }
    }
    if !compared.is_empty() && compared.len() >= options.success_rate_minimum_hosts as usize {
        let count = compared.len() as f64;
        let mean = compared.iter().map(|(_, rate)| rate).sum::<f64>() / count;
        let variance = compared.iter().map(|(_, rate)| (rate - mean).powi(2)).sum::<f64>() / count;
        let factor = f64::from(options.success_rate_stdev_factor) / 1000.0;
        let threshold = mean - factor * variance.sqrt();
        out.findings
            .extend(compared.iter().filter(|(_, rate)| *rate < threshold).map(|(p, _)| (*p, by_rate)));
        (out.average, out.threshold) = (Some(mean), Some(threshold));
    }
    if !counted.is_empty() && counted.len() >= options.failure_percentage_minimum_hosts as usize {
        let most = f64::from(options.failure_percentage_threshold);
        let found = counted.iter().filter(|(_, rate)| 100.0 - rate >= most);
        out.findings.extend(found.map(|(place, _)| (*place, by_failures)));
    }
    out
}

#[cfg(test)]
mod tests;
