use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn samples(rates: &[(u64, u64)]) -> Vec<Sample> {
    rates.iter().map(|(success, total)| Sample { success: *success, total: *total, ejected: false }).collect()
}

fn rule(history: &mut History, room: (usize, usize), options: &Options, at: u32) -> Ruling {
    history.rule(Finding::Consecutive5xx, room, options, at * SECOND, 0)
}

#[test]
fn as_many_hosts_are_out_as_the_percentage_has_room_for() {
    let with = |percent, one| Options {
        max_ejection_percent: percent,
        always_eject_one_host: one,
        ..Options::default()
    };
    for (options, room, want) in [
        (with(10, false), (0, 10), Ruling::Ejected),
        (with(10, false), (1, 10), Ruling::Overflow),
        (with(10, false), (0, 2), Ruling::Overflow),
        (with(10, true), (0, 2), Ruling::Ejected),
        (with(10, true), (1, 2), Ruling::Overflow),
        (with(50, false), (0, 2), Ruling::Ejected),
        (with(100, false), (9, 10), Ruling::Ejected),
        (with(0, false), (0, 1000), Ruling::Overflow),
    ] {
        assert_eq!(rule(&mut History::default(), room, &options, 0), want, "{room:?} of {options:?}");
    }
}

#[test]
fn ejections_grow_up_to_the_longest_and_shrink_with_good_conduct() {
    let options = Options { max_ejection_time: 70 * SECOND, ..Options::default() };
    let mut history = History::default();
    let mut lengths = Vec::new();
    for at in 0..5_u32 {
        assert_eq!(rule(&mut history, (0, 10), &options, at * 1000), Ruling::Ejected);
        lengths.push((history.until(&options).unwrap() - at * 1000 * SECOND).as_secs());
        history.uneject((at * 1000 + 500) * SECOND);
    }
    assert_eq!(lengths, [30, 60, 70, 70, 70]);
    assert_eq!(history.ejections(), 5);
    (0..4).for_each(|_| history.forgive());
    rule(&mut history, (0, 10), &options, 9000);
    assert_eq!(history.until(&options), Some(9030 * SECOND), "all is forgiven");
    history.forgive();
    assert_eq!(history.until(&options), Some(9030 * SECOND), "not while it is out");
}

#[test]
fn a_host_that_is_out_is_not_put_out_once_more() {
    let (options, mut history) = (Options::default(), History::default());
    assert_eq!(rule(&mut history, (0, 10), &options, 1), Ruling::Ejected);
    let options = Options { max_ejection_percent: 50, ..options };
    assert_eq!(rule(&mut history, (1, 10), &options, 1), Ruling::NotEnforced);
    assert_eq!(history.ejections(), 1);
}

#[test]
fn what_is_not_enforced_leaves_the_host_in() {
    let options = Options { enforcing_consecutive_5xx: 30, ..Options::default() };
    for (random, want) in [(29, Ruling::Ejected), (30, Ruling::NotEnforced), (199, Ruling::NotEnforced)] {
        let mut history = History::default();
        let got = history.rule(Finding::Consecutive5xx, (0, 10), &options, SECOND, random);
        assert_eq!((got, history.is_ejected()), (want, want == Ruling::Ejected));
    }
    let gateway = Finding::ConsecutiveGatewayFailure;
    let got = History::default().rule(gateway, (0, 10), &Options::default(), SECOND, 0);
    assert_eq!(got, Ruling::NotEnforced, "Envoy's default");
}

#[test]
fn a_host_far_below_the_others_is_an_outlier() {
    let mut hosts = samples(&[(100, 100); 9]);
    hosts.push(Sample { success: 50, total: 100, ejected: false });
    let found = sweep(&hosts, Origin::External, &Options::default());
    // Mean 95, deviation 15: 95 - 1.9 * 15.
    assert_eq!((found.average, found.threshold.map(f64::round)), (Some(95.0), Some(67.0)));
    assert_eq!(found.findings, [(9, Finding::SuccessRate)]);
    assert_eq!(found.rates[9], Some(50.0));
    let found = sweep(&hosts, Origin::Local, &Options::default());
    assert_eq!(found.findings, [(9, Finding::SuccessRateLocalOrigin)]);
}

#[test]
fn too_few_hosts_or_requests_are_not_compared() {
    let options = Options::default();
    assert_eq!(sweep(&samples(&[(0, 100); 4]), Origin::External, &options).average, None);
    let found =
        sweep(&samples(&[(10, 99), (99, 99), (99, 99), (99, 99), (99, 99)]), Origin::External, &options);
    assert_eq!(found.average, None);
    assert!(found.rates.iter().all(Option::is_some), "enough for failure percentages: shown");
    assert_eq!(found.findings, [(0, Finding::FailurePercentage)], "89 of 99 failed");
}

#[test]
fn hosts_that_are_out_are_not_looked_at() {
    let mut hosts = samples(&[(100, 100), (100, 100), (100, 100), (100, 100), (0, 100)]);
    hosts[4].ejected = true;
    let found = sweep(&hosts, Origin::External, &Options::default());
    assert_eq!((found.findings.len(), found.rates[4]), (0, None));
}

proptest::proptest! {
    #[test]
    fn never_more_hosts_are_out_than_allowed(
        findings in proptest::collection::vec((0_usize..10, 0_u64..100), 1..80),
        percent in 0_u32..=100,
        one: bool,
    ) {
        let options =
            Options { max_ejection_percent: percent, always_eject_one_host: one, ..Options::default() };
        let mut hosts = vec![History::default(); 10];
        for (now, (host, random)) in findings.into_iter().enumerate() {
            let now = now as u32 * SECOND;
            for history in &mut hosts {
                if history.until(&options).is_some_and(|until| until <= now) {
                    history.uneject(now);
                }
            }
            let active = hosts.iter().filter(|h| h.is_ejected()).count();
            if !hosts[host].is_ejected() {
                hosts[host].rule(Finding::Consecutive5xx, (active, 10), &options, now, random);
            }
            let active = hosts.iter().filter(|h| h.is_ejected()).count();
            let most = (percent as usize / 10).max(usize::from(one));
            proptest::prop_assert!(active <= most, "{active} of 10 at {percent} %");
        }
    }

    #[test]
    fn the_worst_host_is_found_first(rates in proptest::collection::vec(0_u64..=100, 5..20)) {
        let hosts = samples(&rates.iter().map(|rate| (*rate, 100)).collect::<Vec<_>>());
        let found = sweep(&hosts, Origin::External, &Options::default());
        let by_rate: Vec<usize> =
            found.findings.iter().filter(|(_, f)| *f == Finding::SuccessRate).map(|(p, _)| *p).collect();
        if let Some(best_found) = by_rate.iter().map(|p| rates[*p]).max() {
            let spared = rates.iter().enumerate().filter(|(p, _)| !by_rate.contains(p)).map(|(_, r)| *r).min();
            proptest::prop_assert!(spared.is_none_or(|spared| spared > best_found));
        }
    }
}
