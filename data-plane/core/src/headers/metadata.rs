//! Dynamic metadata: what filters say of a stream, by namespace, for other filters, rate limits and logs.

use serde_json::{Map, Value};

/// A protobuf `Struct`.
pub type Fields = Map<String, Value>;

/// Values by namespace. Allocates nothing while nothing is said; namespaces are few and scanned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata(Vec<(Box<str>, Fields)>);

/// Where a value is inside of metadata (Envoy `type.metadata.v3.MetadataKey`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetadataKey {
    /// The namespace: usually a filter's name.
    pub namespace: Box<str>,
    /// From the namespace to the value; empty: the whole namespace.
    pub path: Box<[PathSegment]>,
}

/// A step of a [`MetadataKey`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathSegment {
    /// A field of an object.
    Key(Box<str>),
    /// An element of a list.
    Index(u32),
}

impl Metadata {
    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is said in a namespace.
    pub fn namespace(&self, name: &str) -> Option<&Fields> {
        self.0.iter().find(|(known, _)| **known == *name).map(|(_, fields)| fields)
    }

    /// Adds fields to a namespace; one that is there is replaced as a whole (Envoy `setDynamicMetadata`).
    pub fn merge(&mut self, namespace: &str, fields: Fields) {
        if fields.is_empty() {
            return;
        }
        self.fields(namespace).extend(fields);
    }

    /// The fields of a namespace, to be changed; made when it is not there.
    pub fn fields(&mut self, namespace: &str) -> &mut Fields {
        let known = self.0.iter().position(|(known, _)| **known == *namespace);
        let at = known.unwrap_or_else(|| {
            self.0.push((namespace.into(), Fields::new()));
            self.0.len() - 1
        });
        &mut self.0[at].1
    }

    /// The value at `key`. A `null` is as good as none. The whole namespace is asked for by [`Self::namespace`].
    pub fn get(&self, key: &MetadataKey) -> Option<&Value> {
        let (first, rest) = key.path.split_first()?;
        let PathSegment::Key(first) = first else { return None };
        let mut value = self.namespace(&key.namespace)?.get(&**first)?;
        for segment in rest {
            value = match segment {
                PathSegment::Key(key) => value.get(&**key)?,
                PathSegment::Index(index) => value.get(*index as usize)?,
            };
        }
        (!value.is_null()).then_some(value)
    }

    /// The text at `key`; other kinds of values are as good as none.
    pub fn text(&self, key: &MetadataKey) -> Option<&str> {
        self.get(key)?.as_str()
    }
}

impl FromIterator<(Box<str>, Fields)> for Metadata {
    fn from_iter<I: IntoIterator<Item = (Box<str>, Fields)>>(namespaces: I) -> Self {
        let mut all: Vec<_> = namespaces.into_iter().collect();
        all.sort_by(|(a, _), (b, _)| a.cmp(b));
        Self(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn fields(value: Value) -> Fields {
        let Value::Object(fields) = value else { panic!("an object") };
        fields
    }

    fn key(namespace: &str, path: &[&str]) -> MetadataKey {
        let segment = |step: &&str| match step.parse() {
            Ok(index) => PathSegment::Index(index),
            Err(_) => PathSegment::Key((*step).into()),
        };
        MetadataKey { namespace: namespace.into(), path: path.iter().map(segment).collect() }
    }

    #[test]
    fn values_are_found_by_their_path() {
        let mut metadata = Metadata::default();
        metadata.merge("jwt", fields(json!({"sub": "me", "roles": ["a", "b"], "none": null, "o": {"n": 7}})));
        for (path, expected) in [
            (&["sub"][..], Some(json!("me"))),
            (&["roles", "1"], Some(json!("b"))),
            (&["roles", "2"], None),
            (&["o", "n"], Some(json!(7))),
            (&["o", "x"], None),
            (&["sub", "x"], None),
            (&["none"], None),
            (&["0"], None),
            (&[], None),
        ] {
            assert_eq!(metadata.get(&key("jwt", path)), expected.as_ref(), "{path:?}");
        }
        assert_eq!(metadata.text(&key("jwt", &["o", "n"])), None, "a number is no text");
        assert_eq!(metadata.get(&key("other", &["sub"])), None);
    }

    #[test]
    fn fields_of_one_namespace_are_merged_one_level_deep() {
        let mut metadata = Metadata::default();
        metadata.merge("n", fields(json!({"a": {"x": 1}, "b": 1})));
        metadata.merge("n", fields(json!({"a": {"y": 2}})));
        assert_eq!(metadata.namespace("n"), Some(&fields(json!({"a": {"y": 2}, "b": 1}))));
    }

    #[test]
    fn nothing_said_is_empty() {
        let mut metadata = Metadata::default();
        metadata.merge("n", Fields::new());
        assert!(metadata.is_empty());
    }
}
