//! How load is shared over priorities by health, and when hosts are used whatever their health (panic).
//!
//! Envoy's arithmetic (`intro/arch_overview/upstream/load_balancing/{priority,degraded,panic_threshold}`), in
//! whole percents as Envoy reckons.

use super::{Health, HostView};

/// Hosts of one priority, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Healthy hosts.
    pub healthy_hosts: u64,
    /// Degraded hosts.
    pub degraded_hosts: u64,
    /// Hosts that are not excluded.
    pub counted_hosts: u64,
    /// All hosts.
    pub hosts: u64,
    /// Healthy hosts, or their weight.
    pub healthy: u64,
    /// Degraded hosts, or their weight.
    pub degraded: u64,
    /// Hosts that are not excluded, or their weight.
    pub counted: u64,
}

impl Counts {
    /// Counts a host; `by_weight` decides what the health of the priority is made of.
    pub fn add(&mut self, host: &HostView<'_>, by_weight: bool) {
        let amount = if by_weight { u64::from(host.weight) } else { 1 };
        self.hosts += 1;
        if !host.excluded {
            self.counted_hosts += 1;
            self.counted += amount;
        }
        match host.health {
            Health::Healthy => {
                self.healthy_hosts += 1;
                self.healthy += amount;
            }
            Health::Degraded => {
                self.degraded_hosts += 1;
                self.degraded += amount;
            }
            Health::Unhealthy => {}
        }
    }

    /// How much of the load it could take. `overprovisioning_factor` is percent.
    pub fn availability(&self, overprovisioning_factor: u32) -> Availability {
        let percent = |amount: u64| match self.counted {
            0 => 0,
            counted => (u64::from(overprovisioning_factor) * amount / counted).min(100) as u32,
        };
        Availability { healthy: percent(self.healthy), degraded: percent(self.degraded) }
    }

    /// Whether too few hosts may be used.
    pub fn is_in_panic(&self, panic_threshold: u8) -> bool {
        let usable = (self.healthy_hosts + self.degraded_hosts) * 100;
        self.counted_hosts == 0 || usable < u64::from(panic_threshold) * self.counted_hosts
    }
}

/// How much of the load a priority could take, in percent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Availability {
    /// By its healthy hosts.
    pub healthy: u32,
    /// By its degraded hosts.
    pub degraded: u32,
}

/// What one priority gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Percent of all load that goes to its healthy hosts; in panic, to all of them.
    pub healthy: u32,
    /// Percent of all load that goes to its degraded hosts; in panic, to all of them.
    pub degraded: u32,
    /// Its hosts are used whatever their health.
    pub panic: bool,
}

/// Shares the load over priorities, highest first. The shares sum up to 100 unless there are no hosts.
/// `panic_threshold` and `overprovisioning_factor` are percents.
pub fn shares(priorities: &[Counts], panic_threshold: u8, overprovisioning_factor: u32) -> Vec<Share> {
    let mut none = vec![Share::default(); priorities.len()];
    if priorities.iter().all(|counts| counts.hosts == 0) {
        return none;
    }
    let available: Vec<_> =
        priorities.iter().map(|counts| counts.availability(overprovisioning_factor)).collect();
    let total = normalized(&available);
    if total == 0 && panic_threshold == 0 {
        // Nobody may be used; the load that the first priority is given finds no host.
        none[0].healthy = 100;
        return none;
    }
    let mut shares = distribute(&available).unwrap_or(none);
    // Envoy: never panic while all priorities together can take the whole load.
    if total < 100 {
        for (share, counts) in shares.iter_mut().zip(priorities) {
            share.panic = counts.is_in_panic(panic_threshold);
        }
        if shares.iter().all(|share| share.panic) {
            share_by_size(&mut shares, priorities);
        }
    }
    shares
}

/// Shares the load by what priorities could take, highest first; `None` when they can take nothing.
pub fn distribute(available: &[Availability]) -> Option<Vec<Share>> {
    let total = normalized(available);
    if total == 0 {
        return None;
    }
    let mut shares = vec![Share::default(); available.len()];
    let mut left = 100;
    for (share, available) in shares.iter_mut().zip(available) {
        share.healthy = left.min(available.healthy * 100 / total);
        left -= share.healthy;
    }
    for (share, available) in shares.iter_mut().zip(available) {
        share.degraded = left.min(available.degraded * 100 / total);
        left -= share.degraded;
    }
    // What rounding left goes to the first priority that has something.
    if let Some(at) = available.iter().position(|available| available.healthy > 0) {
        shares[at].healthy += left;
    } else if let Some(at) = available.iter().position(|available| available.degraded > 0) {
        shares[at].degraded += left;
    }
    Some(shares)
}

fn normalized(available: &[Availability]) -> u32 {
    available.iter().map(|a| a.healthy + a.degraded).sum::<u32>().min(100)
}

/// All priorities panic: each gets load by its number of hosts.
fn share_by_size(shares: &mut [Share], priorities: &[Counts]) {
    let all: u64 = priorities.iter().map(|counts| counts.hosts).sum();
    let mut left = 100;
    for (share, counts) in shares.iter_mut().zip(priorities) {
        share.healthy = (counts.hosts * 100 / all.max(1)) as u32;
        share.degraded = 0;
        left -= share.healthy;
    }
    if let Some(at) = priorities.iter().position(|counts| counts.hosts > 0) {
        shares[at].healthy += left;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(healthy: u64, degraded: u64, total: u64) -> Counts {
        Counts {
            healthy_hosts: healthy,
            degraded_hosts: degraded,
            counted_hosts: total,
            hosts: total,
            healthy,
            degraded,
            counted: total,
        }
    }

    fn healthy(priorities: &[Counts]) -> Vec<u32> {
        shares(priorities, 50, 140).iter().map(|share| share.healthy).collect()
    }

    #[test]
    fn load_spills_as_envoys_documentation_shows() {
        // Priority 0 of 100 hosts, priority 1 of 100: Envoy's table of the priority levels page.
        for (p0, p1, want) in [
            (100, 100, [100, 0]),
            (72, 100, [100, 0]),
            (71, 100, [99, 1]),
            (50, 100, [70, 30]),
            (25, 100, [35, 65]),
            (0, 100, [0, 100]),
        ] {
            assert_eq!(healthy(&[counts(p0, 0, 100), counts(p1, 0, 100)]), want, "{p0} {p1}");
        }
    }

    #[test]
    fn too_little_health_is_normalised() {
        let got = shares(&[counts(25, 0, 100), counts(25, 0, 100)], 0, 140);
        assert_eq!([got[0].healthy, got[1].healthy], [50, 50]);
        assert_eq!(healthy(&[counts(5, 0, 100), counts(5, 0, 100), counts(100, 0, 100)]), [7, 7, 86]);
    }

    #[test]
    fn degraded_hosts_take_what_healthy_ones_cannot() {
        let got = shares(&[counts(25, 75, 100)], 50, 140);
        assert_eq!((got[0].healthy, got[0].degraded, got[0].panic), (35, 65, false));
        let got = shares(&[counts(5, 0, 100), counts(0, 100, 100)], 50, 140);
        assert_eq!((got[0].healthy, got[1].degraded), (7, 93));
    }

    #[test]
    fn a_priority_panics_below_the_threshold_only_when_health_is_short_overall() {
        let panics = |priorities: &[Counts], threshold| -> Vec<bool> {
            shares(priorities, threshold, 140).iter().map(|share| share.panic).collect()
        };
        assert_eq!(panics(&[counts(49, 0, 100)], 50), [true]);
        assert_eq!(panics(&[counts(50, 0, 100)], 50), [false]);
        assert_eq!(panics(&[counts(49, 0, 100)], 0), [false]);
        assert_eq!(panics(&[counts(10, 0, 100), counts(100, 0, 100)], 50), [false, false]);
        assert_eq!(panics(&[counts(10, 0, 100), counts(55, 0, 100)], 50), [true, false]);
        assert_eq!(panics(&[counts(10, 0, 100), counts(30, 0, 100)], 50), [true, true]);
    }

    #[test]
    fn in_total_panic_load_follows_size() {
        assert_eq!(healthy(&[counts(0, 0, 10), counts(0, 0, 30)]), [25, 75]);
        assert_eq!(healthy(&[counts(0, 0, 1), counts(0, 0, 2)]), [34, 66]);
    }

    #[test]
    fn without_hosts_nobody_gets_anything() {
        assert_eq!(shares(&[], 50, 140), []);
        assert_eq!(shares(&[counts(0, 0, 0)], 50, 140), [Share::default()]);
    }

    proptest::proptest! {
        #[test]
        fn shares_sum_up_to_a_hundred(
            list in proptest::collection::vec((0_u64..50, 0_u64..50, 0_u64..50), 1..5),
            threshold in 0_u8..=100,
        ) {
            let priorities: Vec<_> =
                list.iter().map(|(healthy, degraded, rest)| counts(*healthy, *degraded, healthy + degraded + rest)).collect();
            let sum: u32 = shares(&priorities, threshold, 140).iter().map(|share| share.healthy + share.degraded).sum();
            let hosts: u64 = priorities.iter().map(|counts| counts.hosts).sum();
            proptest::prop_assert_eq!(sum, if hosts == 0 { 0 } else { 100 });
        }
    }
}
