//! Other values for a field: what a change of it is tried with.

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value};
use std::collections::HashMap;

/// One change.
pub(crate) struct Case {
    /// The field's new value.
    pub(crate) value: Value,
    /// How to name it in messages and exceptions.
    pub(crate) label: String,
    /// The other cases of the field are alternatives: one that shows is enough.
    pub(crate) any_will_do: bool,
}

/// Texts to try: a word, a path, a host, an address, a scheme.
const TEXTS: &[&str] = &["sweep", "/sweep", "sweep.example.com", "127.0.0.7", "http"];

/// Fields whose rules know a few values only.
const KNOWN: &[(&str, &str)] = &[
    ("envoy.config.accesslog.v3.ResponseFlagFilter.flags", "DPE"),
    ("envoy.config.route.v3.RateLimit.HitsAddend.format", "%PROTOCOL%"),
    ("envoy.extensions.filters.http.ratelimit.v3.RateLimit.request_type", "internal"),
    (
        "envoy.extensions.transport_sockets.tls.v3.CertificateValidationContext.verify_certificate_hash",
        "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
    ),
    (
        "envoy.extensions.transport_sockets.tls.v3.CertificateValidationContext.verify_certificate_spki",
        "BvqYIYSbgK2vCJpQhObf77vv+bQWtc5ek5RIOwPiC9A=",
    ),
];

/// Numbers to try.
const NUMBERS: &[u32] = &[7, 404, 1, 70_000];

/// Deep enough to reach what any translator looks at.
const DEPTH: usize = 5;

/// The changes of `field` in `message`.
pub(crate) fn cases(message: &DynamicMessage, field: &FieldDescriptor) -> Vec<Case> {
    let current = message.get_field(field).into_owned();
    let set = message.has_field(field);
    if let Some(value) = known(field) {
        let label = value.to_string();
        let value = match current {
            Value::List(list) => Value::List(list.into_iter().chain([value]).collect()),
            _ => value,
        };
        return vec![Case { value, label, any_will_do: true }];
    }
    if field.is_map() {
        return map_cases(field, current);
    }
    if field.is_list() {
        let Value::List(list) = current else { unreachable!() };
        return singles(&field.kind(), None)
            .into_iter()
            .map(|(value, label, any_will_do)| {
                let mut list = list.clone();
                list.push(value);
                Case { value: Value::List(list), label, any_will_do }
            })
            .collect();
    }
    // A message that is there is visited by itself.
    if set && matches!(field.kind(), Kind::Message(of) if !super::is_leaf(of.full_name())) {
        return Vec::new();
    }
    // A value equal to the default is told apart only in a oneof.
    let current = (set || field.containing_oneof().is_none()).then_some(current);
    singles(&field.kind(), current.as_ref())
        .into_iter()
        .map(|(value, label, any_will_do)| Case { value, label, any_will_do })
        .collect()
}

fn known(field: &FieldDescriptor) -> Option<Value> {
    let (_, text) = KNOWN.iter().find(|(name, _)| *name == field.full_name())?;
    Some(Value::String((*text).into()))
}

fn map_cases(field: &FieldDescriptor, current: Value) -> Vec<Case> {
    let (Value::Map(map), Kind::Message(entry)) = (current, field.kind()) else { unreachable!() };
    singles(&entry.map_entry_value_field().kind(), None)
        .into_iter()
        .map(|(value, label, any_will_do)| {
            let mut map = map.clone();
            map.insert(MapKey::String("sweep".into()), value);
            Case { value: Value::Map(map), label, any_will_do }
        })
        .collect()
}

/// Values of a kind other than `current`: value, label, whether they are alternatives.
fn singles(kind: &Kind, current: Option<&Value>) -> Vec<(Value, String, bool)> {
    let alternatives = |values: Vec<Value>| -> Vec<(Value, String, bool)> {
        let values = values.into_iter().filter(|v| Some(v) != current);
        values
            .map(|v| {
                let label = v.to_string();
                (v, label, true)
            })
            .collect()
    };
    match kind {
        Kind::Bool => alternatives(vec![Value::Bool(true), Value::Bool(false)]),
        Kind::String => alternatives(TEXTS.iter().map(|t| Value::String((*t).into())).collect()),
        Kind::Bytes => alternatives(vec![Value::Bytes(b"sweep".as_slice().into())]),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => {
            alternatives(NUMBERS.iter().map(|n| Value::I32(*n as i32)).collect())
        }
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
            alternatives(NUMBERS.iter().map(|n| Value::I64(i64::from(*n))).collect())
        }
        Kind::Uint32 | Kind::Fixed32 => alternatives(NUMBERS.iter().map(|n| Value::U32(*n)).collect()),
        Kind::Uint64 | Kind::Fixed64 => {
            alternatives(NUMBERS.iter().map(|n| Value::U64(u64::from(*n))).collect())
        }
        Kind::Float => alternatives(NUMBERS.iter().map(|n| Value::F32(*n as f32)).collect()),
        Kind::Double => alternatives(NUMBERS.iter().map(|n| Value::F64(f64::from(*n))).collect()),
        // Each value of an enum is a setting of its own.
        Kind::Enum(of) => of
            .values()
            .filter(|v| Some(&Value::EnumNumber(v.number())) != current)
            .filter(|v| current.is_none() || v.number() != 0 || current != Some(&Value::EnumNumber(0)))
            .map(|v| (Value::EnumNumber(v.number()), v.name().to_owned(), false))
            .collect(),
        Kind::Message(of) => alternatives(messages(of)),
    }
}

/// Filled messages of a type: with true flags, then with false ones; wrappers one for each value.
fn messages(of: &MessageDescriptor) -> Vec<Value> {
    let name = of.full_name();
    match name {
        "google.protobuf.Any" => return vec![Value::Message(any())],
        "google.protobuf.Duration" => {
            return [7, 3].map(|s| with(of, "seconds", Value::I64(s))).to_vec();
        }
        "google.protobuf.Struct" => {
            let text = with(&value_type(of), "string_value", Value::String("sweep".into()));
            let fields = Value::Map(HashMap::from([(MapKey::String("sweep".into()), text)]));
            return vec![with(of, "fields", fields)];
        }
        "google.protobuf.Value" => return vec![with(of, "string_value", Value::String("sweep".into()))],
        _ if name.starts_with("google.protobuf.") && name.ends_with("Value") => {
            let field = of.get_field_by_name("value").unwrap();
            return singles(&field.kind(), None).into_iter().map(|(v, ..)| with(of, "value", v)).collect();
        }
        _ => {}
    }
    vec![Value::Message(filled(of, DEPTH))]
}

fn value_type(structure: &MessageDescriptor) -> MessageDescriptor {
    let Kind::Message(entry) = structure.get_field_by_name("fields").unwrap().kind() else { unreachable!() };
    let Kind::Message(value) = entry.map_entry_value_field().kind() else { unreachable!() };
    value
}

fn with(of: &MessageDescriptor, field: &str, value: Value) -> Value {
    let mut message = DynamicMessage::new(of.clone());
    message.set_field_by_name(field, value);
    Value::Message(message)
}

/// A payload that no extension point knows.
fn any() -> DynamicMessage {
    let packed = xds_types::any::pack(&xds_types::envoy::config::core::v3::Locality::default());
    xds_types::descriptors::to_dynamic(&packed)
}

/// A message with every field set, the first of each oneof, as deep as `depth`.
fn filled(of: &MessageDescriptor, depth: usize) -> DynamicMessage {
    let mut message = DynamicMessage::new(of.clone());
    for field in of.fields() {
        let first = field.containing_oneof().is_none_or(|o| o.fields().next().as_ref() == Some(&field));
        if !first || field.is_map() {
            continue;
        }
        let value = match field.kind() {
            Kind::Message(inner) if depth > 0 => messages_at(&inner, depth - 1),
            Kind::Message(_) => continue,
            Kind::Enum(of) => Value::EnumNumber(of.values().last().unwrap().number()),
            Kind::Uint32 if field.name() == "status" => Value::U32(404),
            kind => known(&field).unwrap_or_else(|| singles(&kind, None).swap_remove(0).0),
        };
        // Some lists must have two elements.
        let value = if field.is_list() { Value::List(vec![value.clone(), value]) } else { value };
        message.set_field(&field, value);
    }
    message
}

fn messages_at(of: &MessageDescriptor, depth: usize) -> Value {
    if of.full_name().starts_with("google.protobuf.") {
        return messages(of).swap_remove(0);
    }
    Value::Message(filled(of, depth))
}
