use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

fn names(names: &[&str]) -> Interest {
    Interest::of(names.iter().copied())
}

fn sotw(names: &[&str], version: &str, nonce: &str) -> Option<SotwRequest> {
    Some(SotwRequest {
        names: names.iter().map(|n| n.to_string()).collect(),
        version: version.into(),
        nonce: nonce.into(),
        error: None,
    })
}

#[test]
fn sotw_first_request_has_neither_nonce_nor_version() {
    let mut machine = Sotw::default();
    assert_eq!(machine.set_interest(Interest::everything()), None, "no stream yet");
    assert_eq!(machine.open(), sotw(&[], "", ""));
}

#[test]
fn sotw_sends_nothing_until_a_name_is_wanted() {
    let mut machine = Sotw::default();
    assert_eq!(machine.open(), None, "an empty list would ask for everything");
    assert_eq!(machine.set_interest(names(&["a"])), sotw(&["a"], "", ""));
}

#[test]
fn sotw_ack_carries_the_new_version_and_a_nack_the_last_accepted() {
    let mut machine = Sotw::default();
    let _ = machine.set_interest(Interest::everything());
    let _ = machine.open();
    let first = machine.received("n1".into());
    assert_eq!(machine.settled(first, Ok("v1".into())), sotw(&[], "v1", "n1"));
    let second = machine.received("n2".into());
    let nack = machine.settled(second, Err("bad".into())).unwrap();
    assert_eq!(
        (nack.version.as_str(), nack.nonce.as_str(), nack.error.as_deref()),
        ("v1", "n2", Some("bad"))
    );
}

#[test]
fn sotw_names_that_change_while_a_response_waits_go_with_its_answer() {
    let mut machine = Sotw::default();
    let _ = machine.open();
    let _ = machine.set_interest(names(&["a"]));
    let pending = machine.received("n1".into());
    assert_eq!(machine.set_interest(names(&["a", "b"])), None, "it would answer n1");
    assert_eq!(machine.settled(pending, Ok("v1".into())), sotw(&["a", "b"], "v1", "n1"));
}

#[test]
fn sotw_dropping_the_last_name_says_so() {
    let mut machine = Sotw::default();
    let _ = machine.open();
    let _ = machine.set_interest(names(&["a"]));
    assert_eq!(machine.set_interest(names(&[])), sotw(&[], "", ""));
    assert_eq!(machine.set_interest(names(&[])), None, "nothing new");
}

#[test]
fn sotw_reconnect_repeats_names_and_version_without_nonce() {
    let mut machine = Sotw::default();
    let _ = machine.open();
    let _ = machine.set_interest(names(&["a"]));
    let pending = machine.received("n1".into());
    let _ = machine.settled(pending, Ok("v1".into()));
    machine.close();
    assert_eq!(machine.set_interest(names(&["a", "b"])), None);
    assert_eq!(machine.open(), sotw(&["a", "b"], "v1", ""));
}

#[test]
fn sotw_response_overtaken_by_a_newer_one_is_not_answered() {
    let mut machine = Sotw::default();
    let _ = machine.set_interest(Interest::everything());
    let _ = machine.open();
    let (first, second) = (machine.received("n1".into()), machine.received("n2".into()));
    assert_eq!(machine.settled(first, Ok("v1".into())), None);
    assert_eq!(machine.settled(second, Ok("v2".into())), sotw(&[], "v2", "n2"));
}

#[test]
fn responses_of_a_lost_stream_are_not_answered_on_the_next() {
    let mut machine = Sotw::default();
    let _ = machine.set_interest(Interest::everything());
    let _ = machine.open();
    let pending = machine.received("n1".into());
    machine.close();
    let _ = machine.open();
    assert_eq!(machine.settled(pending, Ok("v1".into())), None);

    let mut machine = Delta::default();
    let _ = machine.set_interest(Interest::everything());
    let _ = machine.open();
    let pending = machine.received("n1".into());
    machine.close();
    let _ = machine.open();
    assert_eq!(machine.settled(pending, DeltaOutcome::default()), None);
}

#[test]
fn delta_changes_travel_as_differences() {
    let mut machine = Delta::default();
    assert_eq!(machine.open(), None);
    let first = machine.set_interest(names(&["a", "b"])).unwrap();
    assert_eq!((first.subscribe, first.unsubscribe), (vec!["a".to_owned(), "b".into()], vec![]));
    let second = machine.set_interest(names(&["b", "c"])).unwrap();
    assert_eq!((second.subscribe, second.unsubscribe), (vec!["c".to_owned()], vec!["a".into()]));
    assert_eq!(machine.set_interest(names(&["b", "c"])), None);
}

#[test]
fn delta_wildcard_opens_with_no_names() {
    let mut machine = Delta::default();
    let _ = machine.set_interest(Interest::everything());
    assert_eq!(machine.open(), Some(DeltaRequest::default()));
}

#[test]
fn delta_answers_every_response_once_with_its_own_nonce() {
    let mut machine = Delta::default();
    let _ = machine.set_interest(Interest::everything());
    let _ = machine.open();
    let (first, second) = (machine.received("n1".into()), machine.received("n2".into()));
    let bad = DeltaOutcome { error: Some("bad".into()), ..DeltaOutcome::default() };
    assert_eq!(machine.settled(first, bad).unwrap().error.as_deref(), Some("bad"));
    let ack = machine.settled(second, DeltaOutcome::default()).unwrap();
    assert_eq!((ack.nonce.as_str(), ack.error), ("n2", None));
}

#[test]
fn delta_reconnect_tells_what_is_held_but_not_what_was_refused_removed_or_dropped() {
    let mut machine = Delta::default();
    let _ = machine.open();
    let _ = machine.set_interest(names(&["a", "b", "c", "d"]));
    let pending = machine.received("n1".into());
    let _ = machine.settled(
        pending,
        DeltaOutcome {
            applied: ["a", "b", "d", "unasked"].map(|n| (n.into(), "1".into())).into(),
            removed: vec![],
            error: Some("c is bad".into()),
        },
    );
    let pending = machine.received("n2".into());
    let removed = DeltaOutcome { removed: vec!["b".into()], ..DeltaOutcome::default() };
    let _ = machine.settled(pending, removed);
    machine.close();
    let _ = machine.set_interest(names(&["a", "b", "c"]));
    let first = machine.open().unwrap();
    assert_eq!(first.subscribe, ["a", "b", "c"]);
    assert_eq!(first.held, BTreeMap::from([("a".to_owned(), "1".to_owned())]));
}

#[derive(Clone, Debug)]
enum Step {
    Open,
    Close,
    Want(Vec<u8>),
    Respond,
    /// Settle the oldest (true) or newest waiting response, well or badly.
    Settle(bool, bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        1 => Just(Step::Open),
        1 => Just(Step::Close),
        3 => prop::collection::vec(0_u8..6, 0..4).prop_map(Step::Want),
        4 => Just(Step::Respond),
        4 => (any::<bool>(), any::<bool>()).prop_map(|(oldest, good)| Step::Settle(oldest, good)),
    ];
    prop::collection::vec(step, 1..80)
}

fn wanted(ids: &[u8]) -> Interest {
    Interest::of(ids.iter().map(|id| id.to_string()))
}

proptest! {
    #[test]
    fn sotw_never_acks_what_was_not_applied_and_never_answers_a_nonce_twice(steps in steps()) {
        let mut machine = Sotw::default();
        let (mut open, mut next, mut interest) = (false, 0_u32, Interest::default());
        let mut waiting: VecDeque<(Pending, String)> = VecDeque::new();
        // Of the current stream: nonces that were answered, and whether the newest was.
        let mut answered: HashSet<String> = HashSet::new();
        let mut applied: HashMap<String, bool> = HashMap::new();
        let mut last: Option<SotwRequest> = None;
        for step in steps {
            let mut answers = None;
            let request = match step {
                Step::Open if !open => {
                    open = true;
                    answered.clear();
                    last = None;
                    machine.open()
                }
                Step::Close if open => {
                    open = false;
                    machine.close();
                    None
                }
                Step::Want(ids) => {
                    interest = wanted(&ids);
                    machine.set_interest(interest.clone())
                }
                Step::Respond if open => {
                    next += 1;
                    let nonce = format!("n{next}");
                    waiting.push_back((machine.received(nonce.clone()), nonce));
                    None
                }
                Step::Settle(oldest, good) => {
                    let Some((pending, nonce)) = (if oldest { waiting.pop_front() } else { waiting.pop_back() }) else { continue };
                    applied.insert(nonce.clone(), good);
                    answers = Some(nonce.clone());
                    machine.settled(pending, if good { Ok(format!("v-{nonce}")) } else { Err("bad".into()) })
                }
                _ => None,
            };
            let Some(request) = request else { continue };
            prop_assert!(open, "requests need a stream");
            if request.nonce.is_empty() {
                prop_assert!(request.error.is_none());
            } else if answered.insert(request.nonce.clone()) {
                prop_assert_eq!(answers.as_ref(), Some(&request.nonce), "the first request with a nonce answers it");
                let good = applied[&request.nonce];
                prop_assert_eq!(request.error.is_none(), good);
                if good {
                    prop_assert_eq!(&request.version, &format!("v-{}", request.nonce));
                }
            } else {
                prop_assert!(request.error.is_none(), "a nonce is refused once");
                prop_assert!(answers.is_none(), "a response is answered once");
            }
            if let Some(version) = request.version.strip_prefix("v-") {
                prop_assert!(applied[version], "only applied versions are told");
            }
            last = Some(request);
        }
        // Once all is settled, the server knows what is wanted.
        while let Some((pending, nonce)) = waiting.pop_front() {
            last = machine.settled(pending, Ok(format!("v-{nonce}"))).or(last);
        }
        if open && let Some(last) = last {
            let told: Vec<_> = interest.names.iter().map(|n| n.to_string()).collect();
            prop_assert_eq!(last.names, told);
        }
    }

    #[test]
    fn delta_server_always_knows_what_is_wanted_and_every_response_is_answered_once(steps in steps()) {
        let mut machine = Delta::default();
        let (mut open, mut next, mut interest) = (false, 0_u32, Interest::default());
        let mut waiting: VecDeque<(Pending, String, u32)> = VecDeque::new();
        let mut stream = 0_u32;
        let mut subscribed: HashSet<String> = HashSet::new();
        let mut answered: HashSet<String> = HashSet::new();
        let mut first = false;
        for step in steps {
            let mut answers = None;
            let request = match step {
                Step::Open if !open => {
                    (open, first) = (true, true);
                    stream += 1;
                    subscribed.clear();
                    machine.open()
                }
                Step::Close if open => {
                    open = false;
                    machine.close();
                    None
                }
                Step::Want(ids) => {
                    interest = wanted(&ids);
                    machine.set_interest(interest.clone())
                }
                Step::Respond if open => {
                    next += 1;
                    let nonce = format!("n{next}");
                    waiting.push_back((machine.received(nonce.clone()), nonce, stream));
                    None
                }
                Step::Settle(oldest, good) => {
                    let Some((pending, nonce, of)) = (if oldest { waiting.pop_front() } else { waiting.pop_back() }) else { continue };
                    let outcome = DeltaOutcome {
                        applied: vec![("1".into(), nonce.as_str().into())],
                        error: (!good).then(|| "bad".to_owned()),
                        ..DeltaOutcome::default()
                    };
                    let request = machine.settled(pending, outcome);
                    prop_assert_eq!(request.is_some(), open && of == stream, "answered iff its stream lives");
                    if let Some(request) = &request {
                        prop_assert_eq!(request.error.is_none(), good);
                        prop_assert_eq!(&request.nonce, &nonce);
                    }
                    answers = Some(nonce);
                    request
                }
                _ => None,
            };
            if let Some(request) = request {
                prop_assert!(open);
                if !request.nonce.is_empty() {
                    prop_assert_eq!(answers.as_ref(), Some(&request.nonce));
                    prop_assert!(answered.insert(request.nonce.clone()), "answered twice");
                }
                prop_assert!(first || request.held.is_empty(), "held versions go with the first request only");
                for name in request.subscribe {
                    prop_assert!(subscribed.insert(name), "subscribed twice");
                }
                for name in request.unsubscribe {
                    prop_assert!(subscribed.remove(&name), "unsubscribed without a subscription");
                }
                first = false;
            }
            prop_assert!(machine.held().keys().all(|name| interest.covers(name)));
            if open {
                let known: HashSet<String> = interest.names.iter().map(|n| n.to_string()).collect();
                prop_assert_eq!(&subscribed, &known);
            }
        }
    }
}
