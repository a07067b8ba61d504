//! How load is shared over priorities by health, and when hosts are used whatever their health (panic).
//!
//! Envoy's arithmetic (`intro/arch_overview/upstream/load_balancing/{priority,degraded,panic_threshold}`), in
//! whole percents as Envoy reckons.

/// Hosts of one priority, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Healthy hosts.
    pub healthy: u32,
    /// Degraded hosts.
    pub degraded: u32,
    /// All hosts but excluded ones.
    pub total: u32,
}

/// What one priority gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Percent of all load that goes to its healthy hosts; in panic, to all of them.
    pub healthy: u32,
    /// Percent of all load that goes to its degraded hosts.
    pub degraded: u32,
    /// Its hosts are used whatever their health.
    pub panic: bool,
}

/// Shares the load over priorities, highest first. The shares sum up to 100 unless there are no hosts.
/// `panic_threshold` and `overprovisioning_factor` are percents.
pub fn shares(priorities: &[Counts], panic_threshold: u8, overprovisioning_factor: u32) -> Vec<Share> {
    let mut shares = vec![Share::default(); priorities.len()];
    if priorities.iter().all(|counts| counts.total == 0) {
        return shares;
    }
    let health = |hosts: u32, counts: &Counts| match counts.total {
        0 => 0,
        total => {
            let percent = u64::from(overprovisioning_factor) * u64::from(hosts) / u64::from(total);
            percent.min(100) as u32
        }
    };
    let healthy: Vec<_> = priorities.iter().map(|counts| health(counts.healthy, counts)).collect();
    let degraded: Vec<_> = priorities.iter().map(|counts| health(counts.degraded, counts)).collect();
    let available = healthy.iter().chain(&degraded).sum::<u32>().min(100);
    if available == 0 && panic_threshold == 0 {
        // Nobody may be used; the load that the first priority is given finds no host.
        shares[0].healthy = 100;
        return shares;
    }
    // Envoy: never panic while all priorities together can take the whole load.
    if available < 100 {
        for (share, counts) in shares.iter_mut().zip(priorities) {
            share.panic = is_in_panic(counts, panic_threshold);
        }
    }
    if shares.iter().zip(priorities).all(|(share, counts)| share.panic || counts.total == 0) {
        share_by_size(&mut shares, priorities);
        return shares;
    }
    let mut left = 100;
    for (share, health) in shares.iter_mut().zip(&healthy) {
        share.healthy = left.min(health * 100 / available.max(1));
        left -= share.healthy;
    }
    for (share, health) in shares.iter_mut().zip(&degraded) {
        share.degraded = left.min(health * 100 / available.max(1));
        left -= share.degraded;
    }
    // What rounding left goes to the first priority that has something.
    if let Some(share) = shares.iter_mut().find(|share| share.healthy > 0) {
        share.healthy += left;
    } else if let Some(share) = shares.iter_mut().find(|share| share.degraded > 0) {
        share.degraded += left;
    }
    shares
}

/// Whether too few hosts of a priority may be used.
pub fn is_in_panic(counts: &Counts, panic_threshold: u8) -> bool {
    let usable = u64::from(counts.healthy + counts.degraded) * 100;
    counts.total == 0 || usable < u64::from(panic_threshold) * u64::from(counts.total)
}

/// All priorities panic: each gets load by its number of hosts.
fn share_by_size(shares: &mut [Share], priorities: &[Counts]) {
    let all: u64 = priorities.iter().map(|counts| u64::from(counts.total)).sum();
    let mut left = 100;
    for (share, counts) in shares.iter_mut().zip(priorities) {
        share.healthy = (u64::from(counts.total) * 100 / all.max(1)) as u32;
        share.panic = true;
        left -= share.healthy;
    }
    if let Some(share) = shares.iter_mut().find(|share| share.healthy > 0) {
        share.healthy += left;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(healthy: u32, degraded: u32, total: u32) -> Counts {
        Counts { healthy, degraded, total }
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
            list in proptest::collection::vec((0_u32..50, 0_u32..50, 0_u32..50), 1..5),
            threshold in 0_u8..=100,
        ) {
            let priorities: Vec<_> =
                list.iter().map(|(healthy, degraded, rest)| counts(*healthy, *degraded, healthy + degraded + rest)).collect();
            let sum: u32 = shares(&priorities, threshold, 140).iter().map(|share| share.healthy + share.degraded).sum();
            let hosts: u32 = priorities.iter().map(|counts| counts.total).sum();
            proptest::prop_assert_eq!(sum, if hosts == 0 { 0 } else { 100 });
        }
    }
}
