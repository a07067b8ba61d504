//! Choice among a part of the hosts: those whose metadata is what a request asks for.
//!
//! The parts are made when the hosts are known, as Envoy makes them: each selector divides the hosts that have all of
//! its keys. A request that asks for exactly the keys of a selector finds its part by one look into a table; others
//! fall back.

use super::group::Totals;
use super::selector::Plan;
use super::{HostIndex, HostView, PickCx, Picked, Selector, SelectorOptions, mix};
use crate::config::{
    FALLBACK_LIST, LbPolicy, LocalityLb, MetadataMatch, SelectorFallback, SubsetConfig, SubsetFallback,
    SubsetSelector, encode,
};
use foldhash::fast::FixedState;
use hashbrown::HashMap;
use hashbrown::hash_map::Entry;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Labels of a host.
pub type Labels = BTreeMap<String, Value>;

type ByCode<T> = HashMap<Box<[u8]>, T, FixedState>;

/// The hosts of a cluster, divided.
#[derive(Debug)]
pub struct Subsets {
    config: Arc<SubsetConfig>,
    /// By [`MetadataMatch::code`] of what is asked for.
    table: ByCode<Subset>,
    /// All hosts, where anything falls back to them.
    any: Option<Selector>,
    /// The default subset, where anything falls back to it.
    default: Option<Selector>,
    duplicates: u64,
}

#[derive(Debug)]
enum Subset {
    Many(Selector),
    Single(HostIndex),
}

/// How a choice among subsets was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// The subset that was asked for.
    Subset,
    /// The cluster's fallback, which had a host.
    Fallback,
    /// Any host, as the cluster's fallback had none.
    Panic,
    /// A selector's own fallback, or nothing at all.
    Other,
}

/// Nobody was even looked at.
const NOBODY: (Picked, Via) = (Picked { host: None, in_panic: false }, Via::Other);

/// Members of a subset to be.
struct Draft {
    members: Vec<HostIndex>,
    single: bool,
}

impl Subsets {
    /// Divides hosts; `labels` are theirs, one by one. What `earlier` has for lists with equal hosts is taken over.
    pub fn build(
        config: &Arc<SubsetConfig>,
        policy: &LbPolicy,
        hosts: &[HostView<'_>],
        labels: &[&Labels],
        options: SelectorOptions,
        earlier: Option<&Self>,
        seed: u64,
    ) -> Self {
        let aware = config.locality_weight_aware && options.locality_lb == LocalityLb::Weighted;
        let totals = aware.then(|| Totals::new(hosts, config.scale_locality_weight));
        let locality_lb = if aware { options.locality_lb } else { LocalityLb::Alike };
        let options = SelectorOptions { locality_lb, ..options };
        let mut state = seed;
        let mut selector = |members: &[HostIndex], earlier: Option<&Selector>| {
            let totals = totals.as_ref();
            let seed = mix(&mut state);
            Plan { policy, hosts, members, totals, options, earlier, seed }.build()
        };
        let drafts = divide(config, labels);
        let mut duplicates = 0;
        let mut table: ByCode<Subset> = ByCode::with_capacity_and_hasher(drafts.len(), FixedState::default());
        for (code, Draft { members, single }) in drafts {
            let subset = if single {
                duplicates += members.len() as u64 - 1;
                // The first of the highest priority. INVARIANT: a draft has members.
                let first = members.iter().min_by_key(|member| hosts[member.0 as usize].priority);
                first.map(|first| Subset::Single(*first))
            } else {
                let earlier = earlier.and_then(|earlier| earlier.table.get(&code)).and_then(Subset::selector);
                Some(Subset::Many(selector(&members, earlier)))
            };
            table.extend(subset.map(|subset| (code, subset)));
        }
        let needs = Needs::of(config);
        let all: Vec<_> = (0..hosts.len() as u32).map(HostIndex).collect();
        let any = needs.any.then(|| selector(&all, earlier.and_then(|earlier| earlier.any.as_ref())));
        let default = needs.default.then(|| {
            let mut members = all.clone();
            members.retain(|host| config.default_subset.is_met(labels[host.0 as usize], config.list_as_any));
            selector(&members, earlier.and_then(|earlier| earlier.default.as_ref()))
        });
        Self { config: Arc::clone(config), table, any, default, duplicates }
    }

    /// The next host for a request that asks for `wanted`.
    pub fn pick(&self, wanted: Option<&MetadataMatch>, cx: &PickCx<'_>) -> (Picked, Via) {
        let Some(wanted) = wanted.filter(|wanted| !wanted.is_empty()) else { return self.fall_back(cx) };
        if self.config.fallback_list
            && let Some(Value::Array(list)) = wanted.get(FALLBACK_LIST)
        {
            return self.pick_in_turn(wanted, list, cx);
        }
        self.pick_of(wanted, cx)
    }

    /// How many subsets there are.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// How many subsets there are that `other` has not.
    pub fn more_than(&self, other: Option<&Self>) -> usize {
        let known = |code: &[u8]| other.is_some_and(|other| other.table.contains_key(code));
        self.table.keys().filter(|code| !known(code)).count()
    }

    /// Hosts that are never asked for, as the only one that their subset uses is another.
    pub fn duplicates(&self) -> u64 {
        self.duplicates
    }

    /// Tries what `list` holds, each laid over `wanted`, until there is a host. Allocates: few requests ask so.
    fn pick_in_turn(&self, wanted: &MetadataMatch, list: &[Value], cx: &PickCx<'_>) -> (Picked, Via) {
        let base = wanted.only(|key| key != FALLBACK_LIST);
        let mut last = NOBODY;
        let turns = list.iter().map(|entry| match entry {
            Value::Object(fields) => base.merged(&fields.iter().collect()),
            _ => base.clone(),
        });
        let turns = turns.chain(list.is_empty().then(|| base.clone()));
        for wanted in turns {
            let (picked, via) = self.pick_of(&wanted, cx);
            last = (Picked { in_panic: last.0.in_panic || picked.in_panic, ..picked }, via);
            if picked.host.is_some() {
                break;
            }
        }
        last
    }

    fn pick_of(&self, wanted: &MetadataMatch, cx: &PickCx<'_>) -> (Picked, Via) {
        if self.config.allow_redundant_keys {
            let fits = |selector: &&SubsetSelector| selector.keys.iter().all(|key| wanted.get(key).is_some());
            return match self.config.selectors.iter().find(fits) {
                Some(selector) if selector.keys.len() < wanted.iter().len() => {
                    self.pick_exactly(&wanted.only(|key| has(&selector.keys, key)), cx)
                }
                Some(_) | None => self.pick_exactly(wanted, cx),
            };
        }
        self.pick_exactly(wanted, cx)
    }

    fn pick_exactly(&self, wanted: &MetadataMatch, cx: &PickCx<'_>) -> (Picked, Via) {
        if let Some(subset) = self.table.get(wanted.code()) {
            return (subset.pick(cx), Via::Subset);
        }
        let by_keys = self.config.selectors.iter().filter(|selector| wanted.has_just(&selector.keys));
        match by_keys.filter_map(|selector| selector.fallback.as_ref()).next() {
            None => self.fall_back(cx),
            Some(SelectorFallback::Nobody) => NOBODY,
            Some(SelectorFallback::Any) => of(self.any.as_ref(), cx),
            Some(SelectorFallback::Default) => of(self.default.as_ref(), cx),
            // Fewer keys every time, so that it ends.
            Some(SelectorFallback::Keys(keys)) => self.pick_of(&wanted.only(|key| has(keys, key)), cx),
        }
    }

    /// What the cluster has for requests that no subset is there for.
    fn fall_back(&self, cx: &PickCx<'_>) -> (Picked, Via) {
        let fallback = match self.config.fallback {
            SubsetFallback::Nobody => return NOBODY,
            SubsetFallback::Any => self.any.as_ref(),
            SubsetFallback::Default => self.default.as_ref(),
        };
        let (picked, _) = of(fallback, cx);
        if picked.host.is_some() {
            return (picked, Via::Fallback);
        }
        if !self.config.panic_mode_any {
            return (picked, Via::Other);
        }
        let (any, _) = of(self.any.as_ref(), cx);
        let via = if any.host.is_some() { Via::Panic } else { Via::Other };
        (Picked { in_panic: picked.in_panic || any.in_panic, ..any }, via)
    }
}

impl Subset {
    fn pick(&self, cx: &PickCx<'_>) -> Picked {
        match self {
            Self::Many(selector) => selector.pick(cx),
            Self::Single(host) => Picked { host: Some(*host), in_panic: false },
        }
    }

    fn selector(&self) -> Option<&Selector> {
        match self {
            Self::Many(selector) => Some(selector),
            Self::Single(_) => None,
        }
    }
}

fn of(selector: Option<&Selector>, cx: &PickCx<'_>) -> (Picked, Via) {
    selector.map_or(NOBODY, |selector| (selector.pick(cx), Via::Other))
}

fn has(keys: &[Box<str>], key: &str) -> bool {
    keys.iter().any(|known| **known == *key)
}

/// Who anything falls back to.
#[derive(Default)]
struct Needs {
    any: bool,
    default: bool,
}

impl Needs {
    fn of(config: &SubsetConfig) -> Self {
        let by_selector =
            |wanted: &SelectorFallback| config.selectors.iter().any(|s| s.fallback.as_ref() == Some(wanted));
        let falls_back = config.fallback != SubsetFallback::Nobody;
        Self {
            any: config.fallback == SubsetFallback::Any
                || falls_back && config.panic_mode_any
                || by_selector(&SelectorFallback::Any),
            default: config.fallback == SubsetFallback::Default || by_selector(&SelectorFallback::Default),
        }
    }
}

/// The members of each subset, ascending.
fn divide(config: &SubsetConfig, labels: &[&Labels]) -> ByCode<Draft> {
    let mut drafts = ByCode::default();
    for selector in &config.selectors {
        for (at, labels) in labels.iter().enumerate() {
            for code in codes(selector, labels, config.list_as_any) {
                let draft = match drafts.entry(code.into_boxed_slice()) {
                    Entry::Occupied(known) => known.into_mut(),
                    Entry::Vacant(free) => {
                        free.insert(Draft { members: Vec::new(), single: selector.single_host })
                    }
                };
                draft.members.push(HostIndex(at as u32));
            }
        }
    }
    for draft in drafts.values_mut() {
        // Lists may name a value twice, and selectors the same keys.
        draft.members.sort_unstable();
        draft.members.dedup();
    }
    drafts
}

/// The subsets of one selector that a host is in: none when it lacks a key; where lists stand for each of their
/// elements, one for each combination.
fn codes(selector: &SubsetSelector, labels: &Labels, list_as_any: bool) -> Vec<Vec<u8>> {
    let mut codes = vec![Vec::new()];
    for key in &selector.keys {
        match labels.get(&**key) {
            None => return Vec::new(),
            Some(Value::Array(values)) if list_as_any => {
                codes = codes
                    .iter()
                    .flat_map(|stem| {
                        values.iter().map(|value| {
                            let mut code = stem.clone();
                            encode(key, value, &mut code);
                            code
                        })
                    })
                    .collect();
            }
            Some(value) => codes.iter_mut().for_each(|code| encode(key, value, code)),
        }
    }
    codes
}

#[cfg(test)]
mod tests;
