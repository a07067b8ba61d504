//! Messages to JSON, as Envoy's `/config_dump` prints them: proto field names, defaults left out, `Any`
//! expanded to any depth. Never fails: what cannot be expanded is printed as bytes.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost_reflect::{DynamicMessage, Kind, MapKey, ReflectMessage as _, Value};
use serde_json::{Map, Value as Json};

use super::time::{format_duration, format_timestamp};
use super::wkt::is_special;
use crate::any;
use crate::google::protobuf::Any;

/// Nesting of messages past which an `Any` is printed as bytes; bounds the stack.
const MAX_DEPTH: u32 = 200;

/// A dynamic message as JSON.
pub fn dynamic_to_json(message: &DynamicMessage) -> Json {
    print(message, 0)
}

/// An `Any` as JSON: `{"@type": url, ..}`.
pub fn any_to_json(any: &Any) -> Json {
    payload(&any.type_url, &any.value, 0)
}

fn print(message: &DynamicMessage, depth: u32) -> Json {
    let descriptor = message.descriptor();
    if descriptor.package_name() == "google.protobuf"
        && let Some(known) = well_known(message, descriptor.name(), depth)
    {
        return known;
    }
    let mut object = Map::new();
    for (field, value) in message.fields() {
        object.insert(field.name().to_owned(), print_value(value, &field.kind(), depth + 1));
    }
    Json::Object(object)
}

fn print_value(value: &Value, kind: &Kind, depth: u32) -> Json {
    match value {
        Value::Bool(v) => Json::Bool(*v),
        Value::I32(v) => Json::from(*v),
        Value::U32(v) => Json::from(*v),
        Value::I64(v) => Json::String(v.to_string()),
        Value::U64(v) => Json::String(v.to_string()),
        Value::F32(v) if v.is_finite() => number(v.to_string().parse().unwrap_or(f64::from(*v))),
        Value::F32(v) => number(f64::from(*v)),
        Value::F64(v) => number(*v),
        Value::String(v) => Json::String(v.clone()),
        Value::Bytes(v) => Json::String(STANDARD.encode(v)),
        Value::EnumNumber(v) => match kind.as_enum().and_then(|e| e.get_value(*v)) {
            Some(named) => Json::String(named.name().to_owned()),
            None => Json::from(*v),
        },
        Value::Message(v) => print(v, depth),
        Value::List(v) => v.iter().map(|item| print_value(item, kind, depth)).collect(),
        Value::Map(v) => {
            let value_kind = kind.as_message().map(|e| e.map_entry_value_field().kind());
            let Some(value_kind) = value_kind else { return Json::Null };
            let mut entries: Vec<(String, &Value)> = v.iter().map(|(k, v)| (key(k), v)).collect();
            entries.sort_unstable_by(|a, b| a.0.cmp(&b.0));
            entries.into_iter().map(|(k, v)| (k, print_value(v, &value_kind, depth + 1))).collect()
        }
    }
}

/// `None` for messages that are printed like any other.
fn well_known(message: &DynamicMessage, name: &str, depth: u32) -> Option<Json> {
    let get = |field: &str| message.get_field_by_name(field);
    match name {
        "Any" => {
            let (url, value) = (get("type_url")?, get("value")?);
            Some(payload(url.as_str()?, value.as_bytes()?, depth))
        }
        "Duration" => {
            let (seconds, nanos) = (get("seconds")?.as_i64()?, get("nanos")?.as_i32()?);
            Some(Json::String(format_duration(seconds, nanos)))
        }
        "Timestamp" => format_timestamp(get("seconds")?.as_i64()?, get("nanos")?.as_i32()?).map(Json::String),
        "FieldMask" => {
            let paths = get("paths")?;
            let paths: Vec<&str> = paths.as_list()?.iter().filter_map(Value::as_str).collect();
            Some(Json::String(paths.join(",")))
        }
        "Struct" => Some(print_value(&*get("fields")?, &field_kind(message, "fields")?, depth)),
        "ListValue" => Some(print_value(&*get("values")?, &field_kind(message, "values")?, depth)),
        "Value" => Some(match message.fields().next() {
            Some((field, value)) if field.name() != "null_value" => print_value(value, &field.kind(), depth),
            _ => Json::Null,
        }),
        name if name.ends_with("Value") => {
            Some(print_value(&*get("value")?, &field_kind(message, "value")?, depth))
        }
        _ => None,
    }
}

fn field_kind(message: &DynamicMessage, name: &str) -> Option<Kind> {
    message.descriptor().get_field_by_name(name).map(|f| f.kind())
}

fn payload(url: &str, bytes: &[u8], depth: u32) -> Json {
    let mut object = Map::new();
    if url.is_empty() && bytes.is_empty() {
        return Json::Object(object);
    }
    object.insert("@type".to_owned(), Json::String(url.to_owned()));
    let decoded = if depth < MAX_DEPTH { any::decode(url, bytes).ok() } else { None };
    match decoded {
        Some(message) if is_special(&message.descriptor()) => {
            object.insert("value".to_owned(), print(&message, depth + 1));
        }
        Some(message) => {
            if let Json::Object(fields) = print(&message, depth + 1) {
                object.extend(fields);
            }
        }
        None => _ = object.insert("value".to_owned(), Json::String(STANDARD.encode(bytes))),
    }
    Json::Object(object)
}

fn number(value: f64) -> Json {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if value.fract() == 0.0 && value.abs() < EXACT {
        return Json::from(value as i64);
    }
    match serde_json::Number::from_f64(value) {
        Some(number) => Json::Number(number),
        None if value.is_nan() => Json::from("NaN"),
        None if value > 0.0 => Json::from("Infinity"),
        None => Json::from("-Infinity"),
    }
}

/// A map key as JSON writes it.
pub(crate) fn key(key: &MapKey) -> String {
    match key {
        MapKey::Bool(v) => v.to_string(),
        MapKey::I32(v) => v.to_string(),
        MapKey::I64(v) => v.to_string(),
        MapKey::U32(v) => v.to_string(),
        MapKey::U64(v) => v.to_string(),
        MapKey::String(v) => v.clone(),
    }
}
