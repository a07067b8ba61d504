use super::*;
use proptest::prelude::*;

const MS: fn(u64) -> Duration = Duration::from_millis;

fn options() -> Options {
    Options {
        failure_percent: Some(50),
        window: MS(1000),
        minimum_calls: 4,
        open_time: MS(100),
        max_open_time: MS(400),
        jitter_percent: 0,
        probes: 2,
        ..Options::default()
    }
}

/// One call that ends at once.
fn call(circuit: &mut Circuit, call: Call, at: u64) -> Option<Change> {
    let (ticket, change) = circuit.admit(MS(at)).ok()?;
    circuit.finish(ticket, call, MS(0), MS(at), 0).or(change)
}

fn opened(reason: Reason, wait: u64) -> Option<Change> {
    Some(Change::Opened { reason, wait: MS(wait) })
}

#[test]
fn failures_open_it_once_there_are_enough_calls() {
    let mut circuit = Circuit::new(options());
    assert_eq!(call(&mut circuit, Call::Failure, 0), None);
    assert_eq!(call(&mut circuit, Call::Failure, 1), None);
    assert_eq!(call(&mut circuit, Call::Success, 2), None);
    assert_eq!(call(&mut circuit, Call::Success, 3), opened(Reason::FailureRatio, 100), "the fourth call");
    assert_eq!(circuit.admit(MS(50)), Err(MS(53)), "the rest of the wait");
}

#[test]
fn old_failures_are_forgotten() {
    let mut circuit = Circuit::new(options());
    for at in 0..3 {
        assert_eq!(call(&mut circuit, Call::Failure, at), None);
    }
    assert_eq!(call(&mut circuit, Call::Failure, 1100), None, "the window has moved on");
    assert_eq!(circuit.counts(MS(1100)), (1, 1, 0));
}

#[test]
fn a_row_of_failures_needs_no_minimum() {
    let mut circuit = Circuit::new(Options {
        consecutive_failures: Some(3),
        failure_percent: None,
        minimum_calls: 100,
        ..options()
    });
    for result in [Call::Failure, Call::Failure, Call::Success, Call::Failure, Call::Void, Call::Failure] {
        assert_eq!(call(&mut circuit, result, 0), None);
    }
    assert_eq!(call(&mut circuit, Call::Failure, 0), opened(Reason::ConsecutiveFailures, 100));
}

#[test]
fn slow_calls_open_it_too() {
    let slow = Slow { duration: MS(10), percent: 100 };
    let mut circuit = Circuit::new(Options { slow: Some(slow), failure_percent: None, ..options() });
    let mut change = None;
    for _ in 0..4 {
        let (ticket, _) = circuit.admit(MS(0)).unwrap();
        change = circuit.finish(ticket, Call::Success, MS(10), MS(10), 0);
    }
    assert_eq!(change, opened(Reason::SlowRatio, 100));
}

#[test]
fn probes_decide_and_waits_double() {
    let mut circuit = Circuit::new(Options { consecutive_failures: Some(1), ..options() });
    assert_eq!(call(&mut circuit, Call::Failure, 0), opened(Reason::ConsecutiveFailures, 100));
    let (first, change) = circuit.admit(MS(100)).unwrap();
    assert_eq!(change, Some(Change::HalfOpened));
    let (second, _) = circuit.admit(MS(100)).unwrap();
    assert!(circuit.admit(MS(100)).is_err(), "two probes and no more");
    assert_eq!(circuit.finish(first, Call::Success, MS(0), MS(101), 0), None);
    assert_eq!(circuit.finish(second, Call::Failure, MS(0), MS(101), 0), opened(Reason::Probe, 200));
    for (at, wait) in [(301, 400), (701, 400)] {
        assert_eq!(call(&mut circuit, Call::Failure, at), opened(Reason::Probe, wait));
    }
    assert_eq!(call(&mut circuit, Call::Success, 1101), Some(Change::HalfOpened));
    assert_eq!(call(&mut circuit, Call::Success, 1101), Some(Change::Closed));
    assert_eq!(call(&mut circuit, Call::Failure, 1102), opened(Reason::ConsecutiveFailures, 100), "anew");
}

#[test]
fn a_probe_that_says_nothing_gives_its_place_back() {
    let mut circuit = Circuit::new(Options { consecutive_failures: Some(1), probes: 1, ..options() });
    call(&mut circuit, Call::Failure, 0);
    assert_eq!(call(&mut circuit, Call::Void, 100), Some(Change::HalfOpened));
    assert_eq!(call(&mut circuit, Call::Success, 101), Some(Change::Closed));
}

#[test]
fn probes_that_never_come_back_do_not_keep_it_half_open() {
    let mut circuit = Circuit::new(Options { consecutive_failures: Some(1), probes: 1, ..options() });
    call(&mut circuit, Call::Failure, 0);
    let (lost, _) = circuit.admit(MS(100)).unwrap();
    assert_eq!(circuit.admit(MS(200)), Err(MS(300)));
    let (fresh, _) = circuit.admit(MS(500)).unwrap();
    assert_eq!(circuit.finish(lost, Call::Failure, MS(400), MS(500), 0), None, "too late to count");
    assert_eq!(circuit.finish(fresh, Call::Success, MS(0), MS(500), 0), Some(Change::Closed));
}

#[test]
fn results_of_calls_from_before_it_opened_count_for_nothing() {
    let mut circuit = Circuit::new(Options { consecutive_failures: Some(1), ..options() });
    let (late, _) = circuit.admit(MS(0)).unwrap();
    call(&mut circuit, Call::Failure, 0);
    let _ = circuit.admit(MS(100)).unwrap();
    assert_eq!(circuit.finish(late, Call::Failure, MS(100), MS(100), 0), None);
    assert_eq!(circuit.state(), State::HalfOpen);
}

/// The same by brute force: every call since it last closed is remembered.
struct Model {
    options: Options,
    state: State,
    until: u64,
    openings: u32,
    in_a_row: u32,
    calls: Vec<(u64, bool)>,
    era: u64,
    given: u32,
    passed: u32,
}

impl Model {
    fn admit(&mut self, now: u64) -> Option<u64> {
        if self.state == State::Open && now >= self.until
            || self.state == State::HalfOpen && self.given == self.options.probes && now >= self.until
        {
            self.state = State::HalfOpen;
            self.era += 1;
            self.until = now + 400;
            (self.given, self.passed) = (0, 0);
        }
        match self.state {
            State::Closed => Some(self.era),
            State::HalfOpen if self.given < self.options.probes => {
                self.given += 1;
                Some(self.era)
            }
            _ => None,
        }
    }

    fn finish(&mut self, era: u64, call: Call, now: u64) {
        if era != self.era {
            return;
        }
        let open = match (self.state, call) {
            (State::HalfOpen, Call::Void) => {
                self.given -= 1;
                false
            }
            (State::HalfOpen, Call::Success) => {
                self.passed += 1;
                if self.passed == self.options.probes {
                    self.state = State::Closed;
                    self.era += 1;
                    (self.openings, self.in_a_row) = (0, 0);
                    self.calls.clear();
                }
                false
            }
            (State::HalfOpen, Call::Failure) => true,
            (State::Closed, Call::Success | Call::Failure) => {
                self.in_a_row = if call == Call::Failure { self.in_a_row + 1 } else { 0 };
                self.calls.push((now, call == Call::Failure));
                let live = self.calls.iter().filter(|(at, _)| now / 100 - at / 100 < 10);
                let (total, failed) =
                    live.fold((0, 0), |(t, f), (_, failed)| (t + 1, f + u32::from(*failed)));
                self.in_a_row >= 5 || (total >= 4 && failed * 2 >= total)
            }
            _ => false,
        };
        if open {
            self.state = State::Open;
            self.era += 1;
            self.until = now + (100 << self.openings.min(2));
            self.openings += 1;
        }
    }
}

proptest! {
    #[test]
    fn it_does_what_the_model_does(steps in proptest::collection::vec((0_u8..5, 0_u64..60, 0_usize..8), 1..300)) {
        let options = Options { consecutive_failures: Some(5), ..options() };
        let mut circuit = Circuit::new(options.clone());
        let mut model = Model {
            options, state: State::Closed, until: 0, openings: 0, in_a_row: 0, calls: Vec::new(), era: 0, given: 0,
            passed: 0,
        };
        let (mut now, mut under_way) = (0, Vec::new());
        for (what, wait, which) in steps {
            now += wait;
            if what < 2 {
                let admitted = circuit.admit(MS(now)).ok();
                let expected = model.admit(now);
                prop_assert_eq!(admitted.is_some(), expected.is_some());
                under_way.extend(admitted.map(|(ticket, _)| ticket).zip(expected));
            } else if !under_way.is_empty() {
                let (ticket, era) = under_way.swap_remove(which % under_way.len());
                let call = [Call::Success, Call::Failure, Call::Void][usize::from(what) - 2];
                circuit.finish(ticket, call, MS(0), MS(now), 0);
                model.finish(era, call, now);
            }
            prop_assert_eq!(circuit.state(), model.state);
        }
    }

    #[test]
    fn waits_stay_within_their_bounds(random: u64, failures in 1_u32..12) {
        let mut circuit = Circuit::new(Options {
            consecutive_failures: Some(1), probes: 1, jitter_percent: 20, ..options()
        });
        let mut now = Duration::ZERO;
        for _ in 0..failures {
            let (ticket, _) = circuit.admit(now).unwrap();
            let Some(Change::Opened { wait, .. }) = circuit.finish(ticket, Call::Failure, MS(0), now, random) else {
                return Err(TestCaseError::fail("a failed probe opens it"));
            };
            prop_assert!(wait >= MS(100) && wait <= MS(480));
            now += wait;
        }
    }
}
