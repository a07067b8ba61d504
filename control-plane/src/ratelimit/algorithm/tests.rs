//! Laws of the algorithms, over times and hits at random.

use super::*;
use proptest::prelude::*;

const SECOND: u64 = 1_000_000_000;
const START: u64 = 1_700_000_000 * SECOND;

fn rate(hits: u32, seconds: u64, algorithm: Algorithm) -> Rate {
    Rate { hits, window: Duration::from_secs(seconds), algorithm }
}

/// Hits that passed, with the time of each.
fn run(rate: Rate, steps: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let (mut now, mut state, mut passed) = (START, State::default(), Vec::new());
    for (wait, hits) in steps {
        now += wait;
        let verdict = rate.decide(&mut state, Hits::Take(*hits), now);
        if verdict.allowed {
            passed.push((now, *hits));
        }
    }
    passed
}

fn steps() -> impl Strategy<Value = Vec<(u64, u64)>> {
    proptest::collection::vec((0..SECOND / 2, 0u64..4), 1..300)
}

proptest! {
    #[test]
    fn a_fixed_window_never_lets_more_through_than_its_limit(limit in 0u32..20, steps in steps()) {
        let passed = run(rate(limit, 1, Algorithm::FixedWindow), &steps);
        let mut by_window = std::collections::BTreeMap::<u64, u64>::new();
        for (at, hits) in passed {
            *by_window.entry(at / SECOND).or_default() += hits;
        }
        prop_assert!(by_window.values().all(|n| *n <= u64::from(limit)));
    }

    #[test]
    fn a_fixed_window_lets_single_hits_through_until_its_limit(limit in 0u32..20, tries in 0u32..40) {
        let passed = run(rate(limit, 60, Algorithm::FixedWindow), &vec![(0, 1); tries as usize]);
        prop_assert_eq!(passed.len(), limit.min(tries) as usize);
    }

    /// Over any time: the burst, and what came back meanwhile.
    #[test]
    fn a_bucket_lets_through_its_burst_and_what_comes_back(
        limit in 1u32..20, burst in 1u32..30, steps in steps(),
    ) {
        let passed = run(rate(limit, 1, Algorithm::TokenBucket { burst }), &steps);
        for (i, (from, _)) in passed.iter().enumerate() {
            let mut sum = 0u128;
            for (to, hits) in &passed[i..] {
                sum += u128::from(*hits);
                let back = u128::from(to - from) * u128::from(limit) / u128::from(SECOND);
                prop_assert!(sum <= u128::from(burst) + back + 1, "{sum} hits in {} ns", to - from);
            }
        }
    }

    #[test]
    fn a_bucket_that_refuses_says_when_it_will_not(limit in 1u32..20, burst in 1u32..10, steps in steps()) {
        let rate = rate(limit, 1, Algorithm::TokenBucket { burst });
        let (mut now, mut state) = (START, State::default());
        for (wait, hits) in steps {
            now += wait;
            let verdict = rate.decide(&mut state, Hits::Take(hits), now);
            if !verdict.allowed && hits <= u64::from(burst) {
                let reset = u64::try_from(verdict.reset.as_nanos()).unwrap();
                prop_assert!(rate.decide(&mut state.clone(), Hits::Take(hits), now + reset).allowed);
                prop_assert!(!rate.decide(&mut state.clone(), Hits::Take(hits), now + reset - 1).allowed);
            }
        }
    }

    /// A window that begins `s` into an aligned one lets through at most `R (1 + s / W)`.
    #[test]
    fn a_sliding_window_exceeds_its_limit_by_no_more_than_its_estimate_can_miss(
        limit in 1u32..20, steps in steps(), offset in 0..SECOND,
    ) {
        let passed = run(rate(limit, 1, Algorithm::SlidingWindow), &steps);
        let last = passed.last().map_or(0, |(at, _)| (at - START) / SECOND);
        for window in 0..=last {
            let from = START + window * SECOND + offset;
            let sum: u64 =
                passed.iter().filter(|(at, _)| (from..from + SECOND).contains(at)).map(|(_, n)| n).sum();
            let bound = u128::from(limit) * u128::from(SECOND + offset);
            prop_assert!(u128::from(sum) * u128::from(SECOND) <= bound, "{sum} of {limit} at {offset}");
        }
    }

    #[test]
    fn a_sliding_window_that_refuses_says_when_it_will_not(limit in 1u32..20, steps in steps()) {
        let rate = rate(limit, 1, Algorithm::SlidingWindow);
        let (mut now, mut state) = (START, State::default());
        for (wait, hits) in steps {
            now += wait;
            let verdict = rate.decide(&mut state, Hits::Take(hits), now);
            // In the same window; what does not fit into it may have to wait for the fading of its own hits too.
            let reset = u64::try_from(verdict.reset.as_nanos()).unwrap();
            if !verdict.allowed && hits <= u64::from(limit) && (now + reset) / SECOND == now / SECOND {
                prop_assert!(rate.decide(&mut state.clone(), Hits::Take(hits), now + reset).allowed);
            }
        }
    }

    #[test]
    fn what_is_left_is_what_can_still_be_taken(
        limit in 1u32..20, steps in steps(), kind in 0usize..3, burst in 1u32..9,
    ) {
        let algorithm = [Algorithm::FixedWindow, Algorithm::TokenBucket { burst }, Algorithm::SlidingWindow][kind];
        let rate = rate(limit, 1, algorithm);
        let (mut now, mut state) = (START, State::default());
        for (wait, hits) in steps {
            now += wait;
            let left = rate.decide(&mut state, Hits::Take(hits), now).remaining;
            prop_assert!(rate.decide(&mut state.clone(), Hits::Take(left.into()), now).allowed);
            prop_assert!(!rate.decide(&mut state.clone(), Hits::Take(u64::from(left) + 1), now).allowed);
        }
    }

    #[test]
    fn a_forgotten_state_is_as_good_as_none(limit in 1u32..20, steps in steps(), kind in 0usize..3) {
        let algorithm =
            [Algorithm::FixedWindow, Algorithm::TokenBucket { burst: 3 }, Algorithm::SlidingWindow][kind];
        let rate = rate(limit, 1, algorithm);
        let (mut now, mut state) = (START, State::default());
        for (wait, hits) in steps {
            now += wait;
            rate.decide(&mut state, Hits::Take(hits), now);
        }
        let then = rate.forgotten_at(&state).max(now);
        let (mut old, mut new) = (state, State::default());
        prop_assert_eq!(rate.decide(&mut old, Hits::Take(1), then), rate.decide(&mut new, Hits::Take(1), then));
    }
}

#[test]
fn returned_hits_may_be_taken_again() {
    for algorithm in [Algorithm::FixedWindow, Algorithm::TokenBucket { burst: 2 }, Algorithm::SlidingWindow] {
        let rate = rate(2, 60, algorithm);
        let mut state = State::default();
        assert!(rate.decide(&mut state, Hits::Take(2), START).allowed);
        assert!(!rate.decide(&mut state, Hits::Take(1), START).allowed, "{algorithm:?}");
        assert!(rate.decide(&mut state, Hits::Return(5), START).allowed);
        assert_eq!(rate.decide(&mut state, Hits::Take(0), START).remaining, 2, "{algorithm:?}");
    }
}

#[test]
fn a_clock_that_goes_back_opens_no_new_window() {
    for algorithm in [Algorithm::FixedWindow, Algorithm::SlidingWindow] {
        let rate = rate(1, 1, algorithm);
        let mut state = State::default();
        assert!(rate.decide(&mut state, Hits::Take(1), START).allowed);
        assert!(!rate.decide(&mut state, Hits::Take(1), START - 5 * SECOND).allowed, "{algorithm:?}");
    }
}

#[test]
fn a_limit_of_zero_refuses_everything() {
    for algorithm in [Algorithm::FixedWindow, Algorithm::TokenBucket { burst: 1 }, Algorithm::SlidingWindow] {
        let verdict = rate(0, 1, algorithm).decide(&mut State::default(), Hits::Take(1), START);
        assert_eq!((verdict.allowed, verdict.remaining), (false, 0), "{algorithm:?}");
    }
}
