//! Parts of a cluster's hosts by metadata (Envoy `LbSubsetConfig`), and what requests ask of them.

use serde_json::Value;
use std::collections::BTreeMap;

/// How a cluster's hosts are divided by their metadata `envoy.lb`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubsetConfig {
    /// By which keys. With `allow_redundant_keys` those with most keys come first.
    pub selectors: Vec<SubsetSelector>,
    /// Who gets requests that no subset is there for. Default: nobody.
    pub fallback: SubsetFallback,
    /// What hosts of the default subset have; empty: all hosts are.
    pub default_subset: MetadataMatch,
    /// A request may ask for more keys than a selector has: the first selector counts that has none but those.
    pub allow_redundant_keys: bool,
    /// Localities keep their weights within a subset.
    pub locality_weight_aware: bool,
    /// Such a weight shrinks with the share of the locality's hosts that are in the subset.
    pub scale_locality_weight: bool,
    /// When the fallback has no host either, any host of the cluster will do.
    pub panic_mode_any: bool,
    /// A host whose value is a list has each of its elements.
    pub list_as_any: bool,
    /// Requests may ask for several things in turn, under the key [`FALLBACK_LIST`].
    pub fallback_list: bool,
}

/// Where a request lists what it asks for in turn; see [`SubsetConfig::fallback_list`].
pub const FALLBACK_LIST: &str = "fallback_list";

/// Divides hosts: those that have all of the keys, with equal values, are a subset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubsetSelector {
    /// Ascending, at least one.
    pub keys: Box<[Box<str>]>,
    /// Of a subset only one host is used, whatever its health.
    pub single_host: bool,
    /// Who gets requests with these keys that no subset is there for; `None`: as the cluster says.
    pub fallback: Option<SelectorFallback>,
}

/// Who gets requests that no subset is there for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SubsetFallback {
    /// Nobody: they fail as if there were no hosts.
    #[default]
    Nobody,
    /// Any host.
    Any,
    /// The default subset.
    Default,
}

/// Who gets requests that ask by a selector's keys and have no subset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SelectorFallback {
    /// Nobody.
    Nobody,
    /// Any host.
    Any,
    /// The default subset.
    Default,
    /// The subset that these keys alone ask for: ascending, fewer than the selector's.
    Keys(Box<[Box<str>]>),
}

/// What a host's metadata `envoy.lb` must hold for a request (`metadata_match` of routes), ordered by key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetadataMatch {
    entries: Box<[(Box<str>, Value)]>,
    /// All of it as [`encode`] writes it: what subsets are found by.
    code: Box<[u8]>,
}

impl MetadataMatch {
    /// Keys and values, ordered by key.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(key, value)| (&**key, value))
    }

    /// Whether it asks for nothing.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The value asked for under `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        let at = self.entries.binary_search_by(|(known, _)| (**known).cmp(key)).ok()?;
        Some(&self.entries[at].1)
    }

    /// Both; where both ask for a key, what `over` asks for (a weighted cluster's over its route's).
    pub fn merged(&self, over: &Self) -> Self {
        let kept = self.entries.iter().filter(|(key, _)| over.get(key).is_none());
        over.entries.iter().chain(kept).cloned().collect()
    }

    /// The part of it whose keys `keep` holds for.
    pub fn only(&self, keep: impl Fn(&str) -> bool) -> Self {
        self.entries.iter().filter(|(key, _)| keep(key)).cloned().collect()
    }

    /// Its entries one after the other as [`encode`] writes them.
    pub fn code(&self) -> &[u8] {
        &self.code
    }

    /// Whether it asks for exactly these keys, which ascend.
    pub fn has_just(&self, keys: &[Box<str>]) -> bool {
        self.entries.len() == keys.len() && self.entries.iter().zip(keys).all(|((a, _), b)| a == b)
    }

    /// Whether a host with these labels has all that is asked for.
    pub fn is_met(&self, labels: &BTreeMap<String, Value>, list_as_any: bool) -> bool {
        self.iter().all(|(key, wanted)| match labels.get(key) {
            Some(Value::Array(values)) if list_as_any => values.iter().any(|value| is_same(value, wanted)),
            Some(value) => is_same(value, wanted),
            None => false,
        })
    }
}

impl FromIterator<(Box<str>, Value)> for MetadataMatch {
    /// Of a key given twice the first counts.
    fn from_iter<I: IntoIterator<Item = (Box<str>, Value)>>(values: I) -> Self {
        let mut values: Vec<_> = values.into_iter().collect();
        values.sort_by(|(a, _), (b, _)| a.cmp(b));
        values.dedup_by(|(a, _), (b, _)| a == b);
        let mut code = Vec::new();
        values.iter().for_each(|(key, value)| encode(key, value, &mut code));
        Self { entries: values.into(), code: code.into() }
    }
}

impl<'a> FromIterator<(&'a String, &'a Value)> for MetadataMatch {
    fn from_iter<I: IntoIterator<Item = (&'a String, &'a Value)>>(values: I) -> Self {
        values.into_iter().map(|(key, value)| (key.as_str().into(), value.clone())).collect()
    }
}

/// Whether two values are the same: numbers by their worth, as in protobuf, which knows one kind of number.
fn is_same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| is_same(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len()
                && a.iter().all(|(key, value)| b.get(key).is_some_and(|other| is_same(value, other)))
        }
        _ => a == b,
    }
}

/// Writes an entry so that two lists of entries read alike just when their keys are equal and their values the same.
pub fn encode(key: &str, value: &Value, into: &mut Vec<u8>) {
    encode_text(key, into);
    encode_value(value, into);
}

fn encode_text(text: &str, into: &mut Vec<u8>) {
    into.extend_from_slice(&(text.len() as u32).to_le_bytes());
    into.extend_from_slice(text.as_bytes());
}

fn encode_value(value: &Value, into: &mut Vec<u8>) {
    match value {
        Value::Null => into.push(b'0'),
        Value::Bool(false) => into.push(b'f'),
        Value::Bool(true) => into.push(b't'),
        Value::Number(number) => {
            into.push(b'n');
            // The zeros are one number.
            let number = number.as_f64().filter(|number| *number != 0.0).unwrap_or(0.0);
            into.extend_from_slice(&number.to_bits().to_le_bytes());
        }
        Value::String(text) => {
            into.push(b's');
            encode_text(text, into);
        }
        Value::Array(values) => {
            into.push(b'l');
            into.extend_from_slice(&(values.len() as u32).to_le_bytes());
            values.iter().for_each(|value| encode_value(value, into));
        }
        Value::Object(fields) => {
            into.push(b'o');
            into.extend_from_slice(&(fields.len() as u32).to_le_bytes());
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by_key(|(key, _)| *key);
            fields.into_iter().for_each(|(key, value)| encode(key, value, into));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn wanted(value: &Value) -> MetadataMatch {
        value.as_object().unwrap().iter().collect()
    }

    #[test]
    fn a_weighted_clusters_word_counts_over_its_routes() {
        let route = wanted(&json!({"stage": "prod", "version": 1}));
        let merged = route.merged(&wanted(&json!({"version": 2, "zone": "a"})));
        assert_eq!(merged, wanted(&json!({"stage": "prod", "version": 2, "zone": "a"})));
    }

    #[test]
    fn numbers_are_what_they_are_worth() {
        assert_eq!(wanted(&json!({"v": 1})).code(), wanted(&json!({"v": 1.0})).code());
        assert!(wanted(&json!({"v": 1})).is_met(&BTreeMap::from([("v".into(), json!(1.0))]), false));
        assert_ne!(wanted(&json!({"v": 1})).code(), wanted(&json!({"v": "1"})).code());
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (-2_i64..3).prop_map(Value::from),
            (-2_i64..3).prop_map(|n| Value::from(n as f64 / 2.0)),
            "[ab]{0,2}".prop_map(Value::from),
        ];
        leaf.prop_recursive(2, 6, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::btree_map("[ab]{0,1}", inner, 0..3)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn codes_are_equal_just_when_values_are_the_same(
            a in prop::collection::btree_map("[ab]{0,2}", any_value(), 0..3),
            b in prop::collection::btree_map("[ab]{0,2}", any_value(), 0..3),
        ) {
            let same = a.len() == b.len()
                && a.iter().all(|(key, value)| b.get(key).is_some_and(|other| is_same(value, other)));
            let code = |of: &BTreeMap<String, Value>| of.iter().collect::<MetadataMatch>().code().to_vec();
            prop_assert_eq!(code(&a) == code(&b), same, "{:?} {:?}", a, b);
        }
    }
}
