use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn pace() -> Pace {
    Pace {
        interval: SECOND,
        no_traffic_interval: 60 * SECOND,
        no_traffic_healthy_interval: 50 * SECOND,
        unhealthy_interval: 2 * SECOND,
        unhealthy_edge_interval: 3 * SECOND,
        healthy_edge_interval: 4 * SECOND,
        initial_jitter: Duration::ZERO,
        interval_jitter: Duration::ZERO,
        interval_jitter_percent: 0,
        unhealthy_threshold: 3,
        healthy_threshold: 2,
    }
}

const PASS: Verdict = Verdict::Pass { degraded: false };
const DEGRADED: Verdict = Verdict::Pass { degraded: true };
const UNWELL: Verdict = Verdict::Fail { failure: Failure::Active, retriable: false };
const BUSY: Verdict = Verdict::Fail { failure: Failure::Active, retriable: true };
const GONE: Verdict = Verdict::Fail { failure: Failure::Network, retriable: false };
const SLOW: Verdict = Verdict::Fail { failure: Failure::NetworkTimeout, retriable: false };

/// Failed after each verdict, and seconds to the next check.
fn story(verdicts: &[Verdict]) -> Vec<(bool, u64)> {
    let (mut check, pace) = (Check::new(false), pace());
    let mut step = |verdict: &Verdict| {
        let step = check.take(*verdict, &pace);
        (check.is_failed(), pace.next(&step, true, 0).as_secs())
    };
    verdicts.iter().map(&mut step).collect()
}

#[test]
fn the_first_success_is_enough_and_later_ones_need_the_threshold() {
    assert_eq!(story(&[PASS]), [(false, 1)]);
    assert_eq!(story(&[UNWELL, PASS, PASS]), [(true, 2), (true, 4), (false, 1)]);
    assert_eq!(story(&[UNWELL, PASS, GONE, PASS, PASS]).last(), Some(&(false, 1)), "a failure starts anew");
}

#[test]
fn an_answer_that_says_so_needs_no_threshold_and_the_network_does() {
    assert_eq!(story(&[PASS, UNWELL]), [(false, 1), (true, 2)]);
    assert_eq!(story(&[PASS, GONE, SLOW, GONE]), [(false, 1), (false, 3), (false, 3), (true, 2)]);
    assert_eq!(story(&[PASS, BUSY, BUSY, PASS, BUSY, BUSY])[5], (false, 3), "a success starts anew");
}

#[test]
fn clusters_without_traffic_are_checked_at_their_own_pace() {
    let (mut check, pace) = (Check::new(false), pace());
    let step = check.take(PASS, &pace);
    assert_eq!(pace.next(&step, false, 0), 50 * SECOND);
    let step = check.take(GONE, &pace);
    assert_eq!(pace.next(&step, false, 0), 60 * SECOND);
}

#[test]
fn timeouts_show_only_while_they_are_why_it_fails() {
    let (mut check, pace) = (Check::new(false), pace());
    check.take(SLOW, &pace);
    assert!(check.is_failed() && check.is_timed_out());
    check.take(GONE, &pace);
    assert!(check.is_failed() && !check.is_timed_out());
    check.take(SLOW, &pace);
    check.take(PASS, &pace);
    check.take(PASS, &pace);
    assert!(!check.is_failed() && !check.is_timed_out());
    check.take(SLOW, &pace);
    assert!(!check.is_timed_out(), "it does not fail yet");
}

#[test]
fn an_exclusion_ends_with_recovery() {
    let (mut check, pace) = (Check::new(false), pace());
    check.take(PASS, &pace);
    check.exclude();
    let step = check.take(Verdict::Fail { failure: Failure::Passive, retriable: false }, &pace);
    assert!(step.ejected && check.is_excluded());
    check.take(PASS, &pace);
    assert!(check.is_excluded());
    check.take(PASS, &pace);
    assert!(!check.is_excluded() && !check.is_failed());
}

#[test]
fn any_first_verdict_ends_pending() {
    for verdict in [PASS, UNWELL, GONE] {
        let mut check = Check::new(true);
        let step = check.take(verdict, &pace());
        assert!(!check.is_pending());
        assert_eq!((step.transition, step.first), (Transition::Changed, true), "{verdict:?}");
        assert!(!check.take(verdict, &pace()).first);
    }
}

#[test]
fn degradation_is_told_when_it_comes_and_goes() {
    let (mut check, pace) = (Check::new(false), pace());
    assert_eq!(check.take(DEGRADED, &pace).degraded, Some(true));
    assert_eq!(check.take(DEGRADED, &pace).degraded, None);
    let step = check.take(PASS, &pace);
    assert_eq!((step.degraded, step.transition), (Some(false), Transition::Changed));
}

proptest::proptest! {
    #[test]
    fn waits_stay_within_their_jitter(random: u64, percent in 0_u32..200, jitter_ms in 0_u64..5000) {
        let pace = Pace {
            interval_jitter: Duration::from_millis(jitter_ms),
            interval_jitter_percent: percent,
            initial_jitter: SECOND,
            ..pace()
        };
        let step = Check::new(false).take(PASS, &pace);
        let wait = pace.next(&step, true, random);
        proptest::prop_assert!(wait >= SECOND);
        proptest::prop_assert!(wait <= SECOND + SECOND * percent / 100 + Duration::from_millis(jitter_ms));
        proptest::prop_assert!(pace.first(random) < SECOND);
    }

    #[test]
    fn a_host_changes_its_standing_only_at_its_thresholds(
        verdicts in proptest::collection::vec(0_usize..4, 1..60),
        healthy in 1_u32..4,
        unhealthy in 1_u32..4,
    ) {
        let pace = Pace { healthy_threshold: healthy, unhealthy_threshold: unhealthy, ..pace() };
        let mut check = Check::new(false);
        let (mut failed, mut run) = (true, 0_u32);
        for (index, which) in verdicts.into_iter().enumerate() {
            let verdict = [PASS, UNWELL, BUSY, GONE][which];
            let step = check.take(verdict, &pace);
            // The run of verdicts against the present standing.
            let against = (verdict == PASS) == failed;
            run = if against { run + 1 } else { 0 };
            let enough = match verdict {
                PASS => index == 0 || run >= healthy,
                UNWELL => true,
                _ => run >= unhealthy,
            };
            if against && enough {
                (failed, run) = (!failed, 0);
            }
            proptest::prop_assert_eq!(check.is_failed(), failed);
            proptest::prop_assert!(!(step.recovered && step.ejected));
        }
    }
}
