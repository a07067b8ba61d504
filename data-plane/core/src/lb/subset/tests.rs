use super::*;
use crate::config::{LeastRequest, Maglev, RingHash};
use crate::lb::{Facts, Health};
use proptest::prelude::*;
use serde_json::json;
use std::collections::BTreeSet;
use std::time::Duration;

struct Idle;

impl Facts for Idle {
    fn active(&self, _: HostIndex) -> u32 {
        0
    }

    fn total_active(&self) -> u32 {
        0
    }

    fn now(&self) -> Duration {
        Duration::ZERO
    }
}

fn cx(random: u64) -> PickCx<'static> {
    PickCx { random, hash: None, attempt: 0, tried_priorities: &[], facts: &Idle }
}

fn labels(value: &Value) -> Labels {
    value.as_object().unwrap().clone().into_iter().collect()
}

fn wanted(value: &Value) -> MetadataMatch {
    value.as_object().unwrap().iter().collect()
}

fn by(keys: &[&str]) -> SubsetSelector {
    let keys = keys.iter().map(|key| (*key).into()).collect();
    SubsetSelector { keys, single_host: false, fallback: None }
}

fn build(config: &SubsetConfig, policy: &LbPolicy, hosts: &[(HostView<'_>, Labels)]) -> Subsets {
    built(config, policy, hosts, SelectorOptions::default(), None)
}

fn built(
    config: &SubsetConfig,
    policy: &LbPolicy,
    hosts: &[(HostView<'_>, Labels)],
    options: SelectorOptions,
    earlier: Option<&Subsets>,
) -> Subsets {
    let views: Vec<_> = hosts.iter().map(|(view, _)| *view).collect();
    let labels: Vec<_> = hosts.iter().map(|(_, labels)| labels).collect();
    Subsets::build(&Arc::new(config.clone()), policy, &views, &labels, options, earlier, 5)
}

/// How often each host is chosen in `picks` picks, and how it was.
fn chosen(subsets: &Subsets, wanted: Option<&MetadataMatch>, picks: u32) -> (BTreeMap<u32, u32>, Via) {
    let (mut counts, mut state, mut last) = (BTreeMap::new(), 1, Via::Other);
    for _ in 0..picks {
        let (picked, via) = subsets.pick(wanted, &cx(mix(&mut state)));
        last = via;
        if let Some(host) = picked.host {
            *counts.entry(host.0).or_default() += 1;
        }
    }
    (counts, last)
}

fn hosts(list: &[Value]) -> Vec<(HostView<'static>, Labels)> {
    list.iter().map(|value| (HostView::default(), labels(value))).collect()
}

#[test]
fn health_and_panic_are_those_of_the_subset() {
    let ill = HostView { health: Health::Unhealthy, ..HostView::default() };
    let label = |v: &str| labels(&json!({"v": v}));
    let hosts = [
        (HostView::default(), label("a")),
        (ill, label("a")),
        (ill, label("b")),
        (ill, label("b")),
        (HostView::default(), label("b")),
        (HostView::default(), label("c")),
        (HostView::default(), label("c")),
    ];
    let config = SubsetConfig { selectors: vec![by(&["v"])], ..SubsetConfig::default() };
    let subsets = build(&config, &LbPolicy::ROUND_ROBIN, &hosts);
    let panics = |v: &str| subsets.pick(Some(&wanted(&json!({"v": v}))), &cx(0)).0.in_panic;
    assert_eq!(chosen(&subsets, Some(&wanted(&json!({"v": "a"}))), 9).0, BTreeMap::from([(0, 9)]));
    assert!(!panics("a"));
    let b = chosen(&subsets, Some(&wanted(&json!({"v": "b"}))), 9).0;
    assert_eq!(b, BTreeMap::from([(2, 3), (3, 3), (4, 3)]), "a third is below the threshold");
    assert!(panics("b") && !panics("c"));
}

#[test]
fn load_spills_over_the_priorities_of_the_subset() {
    let at = |priority, health| HostView { priority, health, ..HostView::default() };
    let (a, b) = (labels(&json!({"v": "a"})), labels(&json!({"v": "b"})));
    let hosts = [
        (at(0, Health::Unhealthy), a.clone()),
        (at(0, Health::Healthy), b.clone()),
        (at(1, Health::Healthy), a),
        (at(1, Health::Healthy), b),
    ];
    let config = SubsetConfig { selectors: vec![by(&["v"])], ..SubsetConfig::default() };
    let subsets = build(&config, &LbPolicy::ROUND_ROBIN, &hosts);
    assert_eq!(chosen(&subsets, Some(&wanted(&json!({"v": "a"}))), 9).0, BTreeMap::from([(2, 9)]));
    assert_eq!(chosen(&subsets, Some(&wanted(&json!({"v": "b"}))), 9).0, BTreeMap::from([(1, 9)]));
}

#[test]
fn localities_weigh_in_a_subset_only_where_asked_and_by_their_part_of_it() {
    let options = SelectorOptions { locality_lb: LocalityLb::Weighted, ..SelectorOptions::default() };
    // Locality 0 weighs 100 and has one of its four hosts in the subset; locality 1 weighs 50 and has all.
    let hosts: Vec<_> = [(0, 100, "a"), (0, 100, "-"), (0, 100, "-"), (0, 100, "-"), (1, 50, "a")]
        .map(|(locality, locality_weight, v)| {
            (HostView { locality, locality_weight, ..HostView::default() }, labels(&json!({"v": v})))
        })
        .into();
    for (aware, scaled, expected) in
        [(false, false, [50, 50]), (true, false, [67, 33]), (true, true, [33, 67])]
    {
        let config = SubsetConfig {
            selectors: vec![by(&["v"])],
            locality_weight_aware: aware,
            scale_locality_weight: scaled,
            ..SubsetConfig::default()
        };
        let subsets = built(&config, &LbPolicy::ROUND_ROBIN, &hosts, options, None);
        let counts = chosen(&subsets, Some(&wanted(&json!({"v": "a"}))), 300).0;
        let share = |host| (counts[&host] + 1) / 3;
        assert_eq!([share(0), share(4)], expected, "{aware} {scaled} {counts:?}");
    }
}

#[test]
fn a_fallback_without_hosts_leads_to_any_host_where_that_is_wished() {
    let hosts = hosts(&[json!({"v": "a"}), json!({})]);
    let config = SubsetConfig {
        selectors: vec![by(&["v"])],
        fallback: SubsetFallback::Default,
        default_subset: wanted(&json!({"v": "none"})),
        ..SubsetConfig::default()
    };
    let nobody = build(&config, &LbPolicy::ROUND_ROBIN, &hosts);
    assert_eq!(chosen(&nobody, None, 4), (BTreeMap::new(), Via::Other));
    let any = build(&SubsetConfig { panic_mode_any: true, ..config }, &LbPolicy::ROUND_ROBIN, &hosts);
    assert_eq!(chosen(&any, None, 4), (BTreeMap::from([(0, 2), (1, 2)]), Via::Panic));
}

#[test]
fn what_is_listed_is_tried_in_turn() {
    let hosts = hosts(&[json!({"v": 1, "s": "x"}), json!({"v": 2, "s": "x"})]);
    let config =
        SubsetConfig { selectors: vec![by(&["s", "v"])], fallback_list: true, ..SubsetConfig::default() };
    let subsets = build(&config, &LbPolicy::ROUND_ROBIN, &hosts);
    let pick = |value: Value| chosen(&subsets, Some(&wanted(&value)), 1).0.into_keys().next();
    assert_eq!(pick(json!({"s": "x", "fallback_list": [{"v": 3}, {"v": 2}, {"v": 1}]})), Some(1));
    assert_eq!(pick(json!({"s": "x", "v": 1, "fallback_list": [{"v": 2}]})), Some(1), "over what is there");
    assert_eq!(pick(json!({"s": "x", "v": 1, "fallback_list": []})), Some(0));
    assert_eq!(pick(json!({"s": "x", "fallback_list": [{"v": 3}, 7]})), None);
    let off = build(&SubsetConfig { fallback_list: false, ..config }, &LbPolicy::ROUND_ROBIN, &hosts);
    let list = json!({"s": "x", "v": 1, "fallback_list": []});
    assert!(chosen(&off, Some(&wanted(&list)), 1).0.is_empty(), "a key like any other");
}

#[test]
fn of_a_single_host_subset_the_first_host_serves_whatever_its_health() {
    let view = |priority, health| HostView { priority, health, ..HostView::default() };
    let label = || labels(&json!({"v": 1}));
    let hosts = [
        (view(1, Health::Healthy), label()),
        (view(0, Health::Unhealthy), label()),
        (view(0, Health::Healthy), label()),
    ];
    let single = SubsetSelector { single_host: true, ..by(&["v"]) };
    let config = SubsetConfig { selectors: vec![single], ..SubsetConfig::default() };
    let subsets = build(&config, &LbPolicy::ROUND_ROBIN, &hosts);
    assert_eq!(chosen(&subsets, Some(&wanted(&json!({"v": 1}))), 9).0, BTreeMap::from([(1, 9)]));
    assert_eq!(subsets.duplicates(), 2);
}

#[test]
fn a_rotation_goes_on_when_hosts_of_other_subsets_change() {
    let config = SubsetConfig { selectors: vec![by(&["v"])], ..SubsetConfig::default() };
    let few = hosts(&[json!({"v": 1}), json!({"v": 1}), json!({"v": 1})]);
    let more = hosts(&[json!({"v": 1}), json!({"v": 1}), json!({"v": 1}), json!({"v": 2})]);
    let wanted = wanted(&json!({"v": 1}));
    let before = build(&config, &LbPolicy::ROUND_ROBIN, &few);
    let first = before.pick(Some(&wanted), &cx(0)).0.host.unwrap();
    let after = built(&config, &LbPolicy::ROUND_ROBIN, &more, SelectorOptions::default(), Some(&before));
    let second = after.pick(Some(&wanted), &cx(0)).0.host.unwrap();
    assert_eq!(second.0, (first.0 + 1) % 3);
    assert_eq!((after.more_than(Some(&before)), before.more_than(Some(&after)), after.len()), (1, 0, 2));
}

/// What [`Subsets::pick`] promises, by looking at all hosts: who may be chosen, and how.
fn naive(config: &SubsetConfig, hosts: &[Labels], wanted: &BTreeMap<String, Value>) -> (BTreeSet<u32>, Via) {
    let filter = |holds: &dyn Fn(&Labels) -> bool| -> BTreeSet<u32> {
        (0..hosts.len() as u32).filter(|at| holds(&hosts[*at as usize])).collect()
    };
    let has = |labels: &Labels, key: &str, value: &Value| match labels.get(key) {
        Some(Value::Array(list)) if config.list_as_any => list.contains(value),
        Some(other) => other == value,
        None => false,
    };
    let any = || filter(&|_| true);
    let default =
        || filter(&|labels| config.default_subset.iter().all(|(key, value)| has(labels, key, value)));
    let mut wanted = wanted.clone();
    if config.allow_redundant_keys {
        let fits = |s: &&SubsetSelector| s.keys.iter().all(|key| wanted.contains_key(&**key));
        if let Some(selector) = config.selectors.iter().find(fits) {
            wanted.retain(|key, _| selector.keys.iter().any(|known| **known == **key));
        }
    }
    let exact = |s: &&SubsetSelector| {
        s.keys.len() == wanted.len() && s.keys.iter().all(|key| wanted.contains_key(&**key))
    };
    if let Some(selector) = config.selectors.iter().find(exact) {
        let members = filter(&|labels| wanted.iter().all(|(key, value)| has(labels, key, value)));
        if !members.is_empty() {
            return (members, Via::Subset);
        }
        let fallback = config.selectors.iter().filter(exact).find_map(|s| s.fallback.as_ref());
        match fallback.or(selector.fallback.as_ref()) {
            None => {}
            Some(SelectorFallback::Nobody) => return (BTreeSet::new(), Via::Other),
            Some(SelectorFallback::Any) => return (any(), Via::Other),
            Some(SelectorFallback::Default) => return (default(), Via::Other),
            Some(SelectorFallback::Keys(keys)) => {
                wanted.retain(|key, _| keys.iter().any(|known| **known == **key));
                return naive(config, hosts, &wanted);
            }
        }
    }
    let (found, via) = match config.fallback {
        SubsetFallback::Nobody => return (BTreeSet::new(), Via::Other),
        SubsetFallback::Any => (any(), Via::Fallback),
        SubsetFallback::Default => (default(), Via::Fallback),
    };
    match (found.is_empty(), config.panic_mode_any && !hosts.is_empty()) {
        (true, true) => (any(), Via::Panic),
        (true, false) => (found, Via::Other),
        (false, _) => (found, via),
    }
}

fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!("x")),
        Just(json!("y")),
        Just(json!(1)),
        Just(json!(["x", "y"])),
        Just(json!(["y", "y", 1])),
        Just(json!([])),
    ]
}

fn any_labels() -> impl Strategy<Value = Labels> {
    prop::collection::btree_map("[abc]", any_value(), 0..4)
}

fn any_keys() -> impl Strategy<Value = Box<[Box<str>]>> {
    prop::sample::subsequence(vec!["a", "b", "c"], 1..4)
        .prop_map(|keys| keys.into_iter().map(Into::into).collect())
}

fn any_selector() -> impl Strategy<Value = SubsetSelector> {
    (any_keys(), 0..5).prop_map(|(keys, fallback)| SubsetSelector {
        fallback: match fallback {
            0 => Some(SelectorFallback::Nobody),
            1 => Some(SelectorFallback::Any),
            2 => Some(SelectorFallback::Default),
            3 if keys.len() > 1 => Some(SelectorFallback::Keys(keys[1..].into())),
            _ => None,
        },
        keys,
        single_host: false,
    })
}

fn any_config() -> impl Strategy<Value = SubsetConfig> {
    let fallback =
        prop_oneof![Just(SubsetFallback::Nobody), Just(SubsetFallback::Any), Just(SubsetFallback::Default)];
    let selectors = prop::collection::vec(any_selector(), 0..4);
    (selectors, fallback, any_labels(), any::<[bool; 3]>()).prop_map(
        |(mut selectors, fallback, default, [allow_redundant_keys, panic_mode_any, list_as_any])| {
            if allow_redundant_keys {
                selectors.sort_by_key(|selector| std::cmp::Reverse(selector.keys.len()));
            }
            SubsetConfig {
                selectors,
                fallback,
                default_subset: default.iter().collect(),
                allow_redundant_keys,
                panic_mode_any: panic_mode_any && fallback != SubsetFallback::Nobody,
                list_as_any,
                ..SubsetConfig::default()
            }
        },
    )
}

fn policies() -> [LbPolicy; 5] {
    [
        LbPolicy::ROUND_ROBIN,
        LbPolicy::LeastRequest(LeastRequest::default()),
        LbPolicy::Random,
        LbPolicy::RingHash(RingHash { minimum_ring_size: 64, ..RingHash::default() }),
        LbPolicy::Maglev(Maglev { table_size: 101, ..Maglev::default() }),
    ]
}

proptest! {
    #[test]
    fn hosts_are_those_that_a_look_at_all_of_them_finds(
        config in any_config(),
        list in prop::collection::vec(any_labels(), 0..8),
        asked in any_labels(),
        policy in 0..5_usize,
    ) {
        let keys: Vec<_> = (0..list.len()).map(|at| format!("10.0.0.{at}:80")).collect();
        let hosts: Vec<_> = list
            .iter()
            .zip(&keys)
            .map(|(labels, key)| (HostView { key, ..HostView::default() }, labels.clone()))
            .collect();
        let policy = &policies()[policy];
        let subsets = build(&config, policy, &hosts);
        let asked_for: MetadataMatch = asked.iter().collect();
        let (may, via) = naive(&config, &list, &asked);
        let (counts, how) = chosen(&subsets, Some(&asked_for), 200);
        let is: BTreeSet<u32> = counts.into_keys().collect();
        prop_assert!(is.is_subset(&may), "{:?} of {:?}", is, may);
        prop_assert_eq!(how, via);
        if policy.hashes() {
            prop_assert_eq!(is.is_empty(), may.is_empty());
        } else {
            prop_assert_eq!(is, may, "every host of the subset is used");
        }
    }
}
