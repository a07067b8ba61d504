//! What filters that only say something of a stream make of headers: values for dynamic metadata.

use crate::config::{HeaderRule, MetadataValue, SetMetadata};
use crate::headers::Metadata;
use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde_json::Value;
use std::borrow::Cow;

/// Longest value that is taken over, bytes (Envoy).
const MAX_VALUE: usize = 8 * 1024;

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Says what a rule makes of the value of its header or cookie; `None`: there is none.
pub fn of_header(rule: &HeaderRule, value: Option<&[u8]>, metadata: &mut Metadata) {
    let chosen = if value.is_some() { &rule.present } else { &rule.missing };
    let Some(said) = chosen else { return };
    if let Some(made) = made(said, value.unwrap_or_default()) {
        metadata.fields(&said.namespace).insert(said.key.to_string(), made);
    }
}

fn made(said: &MetadataValue, value: &[u8]) -> Option<Value> {
    let value = if !said.value.is_empty() {
        Cow::Borrowed(said.value.as_bytes())
    } else if let Some((regex, substitution)) = &said.rewrite {
        Cow::Owned(regex.replace_all(value, substitution))
    } else {
        Cow::Borrowed(value)
    };
    if value.is_empty() || value.len() >= MAX_VALUE {
        return None;
    }
    let value = if said.base64 {
        Cow::Owned(BASE64.decode(&*value).ok().filter(|decoded| !decoded.is_empty())?)
    } else {
        value
    };
    let text = String::from_utf8_lossy(&value);
    if !said.number {
        return Some(text.into());
    }
    let number: f64 = text.trim().parse().ok()?;
    // Whole numbers as such, as protobuf writes them.
    if number.fract() == 0.0 && number.abs() < 1e15 {
        Some((number as i64).into())
    } else {
        serde_json::Number::from_f64(number).map(Value::Number)
    }
}

/// Says what is configured. What is there is kept, or merged into.
pub fn of_config(entry: &SetMetadata, metadata: &mut Metadata) {
    match metadata.namespace(&entry.namespace) {
        None => metadata.merge(&entry.namespace, entry.value.clone()),
        Some(_) if !entry.overwrite => {}
        Some(_) => {
            let fields = metadata.fields(&entry.namespace);
            for (key, value) in &entry.value {
                update(fields.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
    }
}

/// Objects are merged, lists joined, all else is replaced (Envoy `StructUtil::update`).
fn update(old: &mut Value, new: &Value) {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            for (key, value) in new {
                update(old.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (Value::Array(old), Value::Array(new)) => old.extend(new.iter().cloned()),
        (old, new) => *old = new.clone(),
    }
}

/// The value of a cookie in `cookie` headers.
pub fn cookie<'a>(headers: impl Iterator<Item = &'a [u8]>, name: &str) -> Option<&'a [u8]> {
    headers.flat_map(|header| header.split(|byte| *byte == b';')).find_map(|pair| {
        let pair = pair.trim_ascii();
        let (key, value) = pair.split_at_checked(pair.iter().position(|byte| *byte == b'=')?)?;
        let value = &value[1..];
        let unquoted = value.strip_prefix(b"\"").and_then(|v| v.strip_suffix(b"\"")).unwrap_or(value);
        (key == name.as_bytes()).then_some(unquoted)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::HeaderSource;
    use crate::headers::Fields;
    use crate::matcher::{Regex, Substitution};
    use serde_json::json;

    fn said() -> MetadataValue {
        MetadataValue {
            namespace: "n".into(),
            key: "k".into(),
            value: "".into(),
            rewrite: None,
            number: false,
            base64: false,
        }
    }

    fn fields(value: Value) -> Fields {
        match value {
            Value::Object(fields) => fields,
            _ => panic!("an object"),
        }
    }

    #[test]
    fn headers_become_values() {
        let regex = Regex::new("^(.)(.*)$").unwrap();
        let rewrite = || Some((regex.clone(), Substitution::new(r"\2-\1", &regex).unwrap()));
        for (said, value, expected) in [
            (said(), "v", Some(json!("v"))),
            (said(), "", None),
            (MetadataValue { value: "fixed".into(), ..said() }, "v", Some(json!("fixed"))),
            (MetadataValue { rewrite: rewrite(), ..said() }, "abc", Some(json!("bc-a"))),
            (MetadataValue { number: true, ..said() }, "12", Some(json!(12))),
            (MetadataValue { number: true, ..said() }, "1.5", Some(json!(1.5))),
            (MetadataValue { number: true, ..said() }, "x", None),
            (MetadataValue { base64: true, ..said() }, "aGVsbG8", Some(json!("hello"))),
            (MetadataValue { base64: true, ..said() }, "aGVsbG8=", Some(json!("hello"))),
            (MetadataValue { base64: true, ..said() }, "!", None),
        ] {
            assert_eq!(made(&said, value.as_bytes()), expected, "{said:?} {value}");
        }
        assert_eq!(made(&said(), &vec![b'x'; MAX_VALUE]), None, "too long");
    }

    #[test]
    fn a_rule_tells_a_missing_header_from_an_empty_one() {
        let rule = HeaderRule {
            source: HeaderSource::Header("h".into()),
            present: Some(said()),
            missing: Some(MetadataValue { value: "none".into(), ..said() }),
            remove: false,
        };
        let told = |value: Option<&[u8]>| {
            let mut metadata = Metadata::default();
            of_header(&rule, value, &mut metadata);
            metadata.namespace("n").map(|fields| fields["k"].clone())
        };
        assert_eq!(told(Some(b"v")), Some(json!("v")));
        assert_eq!(told(Some(b"")), None);
        assert_eq!(told(None), Some(json!("none")));
    }

    #[test]
    fn configured_values_are_merged_where_allowed() {
        let mut metadata = Metadata::default();
        let mut say = |overwrite, value| {
            let entry = SetMetadata { namespace: "n".into(), overwrite, value: fields(value) };
            of_config(&entry, &mut metadata);
            Value::Object(metadata.namespace("n").unwrap().clone())
        };
        assert_eq!(say(false, json!({"a": {"x": 1}, "l": [1]})), json!({"a": {"x": 1}, "l": [1]}));
        assert_eq!(say(false, json!({"a": 2})), json!({"a": {"x": 1}, "l": [1]}));
        assert_eq!(say(true, json!({"a": {"y": 2}, "l": [2]})), json!({"a": {"x": 1, "y": 2}, "l": [1, 2]}));
        assert_eq!(say(true, json!({"a": 7, "b": null})), json!({"a": 7, "l": [1, 2], "b": null}));
    }

    #[test]
    fn cookies_are_found_by_name() {
        let headers = [&b"a=1; b=\"two\""[..], b"c=3=3;d"];
        for (name, expected) in [("a", Some("1")), ("b", Some("two")), ("c", Some("3=3")), ("d", None)] {
            assert_eq!(cookie(headers.into_iter(), name), expected.map(str::as_bytes), "{name}");
        }
    }
}
