//! Layered runtime: static layers flattened into keys and values; and protobuf structs as JSON.

use super::format::number_text;
use crate::path::{Diagnostics, Path};
use std::collections::{BTreeMap, HashSet};
use xds_types::envoy::config::bootstrap::v3::runtime_layer::{AdminLayer, LayerSpecifier};
use xds_types::envoy::config::bootstrap::v3::{LayeredRuntime, RuntimeLayer};
use xds_types::google::protobuf::value::Kind;
use xds_types::google::protobuf::{ListValue, Struct, Value};

/// What the layers say.
pub(super) struct Runtime {
    /// Sorted by key; of several layers the last wins.
    pub(super) values: Vec<(String, String)>,
    /// The admin server may add values.
    pub(super) admin_layer: bool,
}

/// The layers. Without any there is one admin layer, as in Envoy.
pub(super) fn layers(proto: Option<LayeredRuntime>, at: &Path<'_>, d: &mut Diagnostics) -> Runtime {
    let Some(LayeredRuntime { layers }) = proto else {
        return Runtime { values: Vec::new(), admin_layer: true };
    };
    let at = at.field("layers");
    let mut values = BTreeMap::new();
    let mut names = HashSet::new();
    let mut admin_layer = false;
    for (index, RuntimeLayer { name, layer_specifier }) in layers.into_iter().enumerate() {
        let at = at.index(index);
        match layer_specifier {
            Some(LayerSpecifier::StaticLayer(Struct { fields })) => {
                let at = at.field("static_layer");
                for (key, value) in fields {
                    flatten(key, value, &mut values, &at, d);
                }
            }
            Some(LayerSpecifier::AdminLayer(AdminLayer {})) if admin_layer => {
                d.reject(&at.field("admin_layer"), "at most one admin layer is allowed");
            }
            Some(LayerSpecifier::AdminLayer(AdminLayer {})) => admin_layer = true,
            Some(LayerSpecifier::DiskLayer(_)) => {
                d.reject(&at.field("disk_layer"), "runtime on disk is not supported");
            }
            Some(LayerSpecifier::RtdsLayer(_)) => {
                d.reject(&at.field("rtds_layer"), "runtime discovery (RTDS) is not supported");
            }
            None => _ = d.reject(&at, "one of static_layer, admin_layer is required"),
        }
        if !names.insert(name.clone()) {
            d.reject(&at.field("name"), format_args!("duplicate layer name {name:?}"));
        }
    }
    Runtime { values: values.into_iter().collect(), admin_layer }
}

/// Nested objects join their keys with dots; an object with a numerator is a fractional percent.
fn flatten(
    key: String,
    value: Value,
    values: &mut BTreeMap<String, String>,
    at: &Path<'_>,
    d: &mut Diagnostics,
) {
    let Value { kind } = value;
    let text = match kind {
        Some(Kind::StringValue(text)) => text,
        Some(Kind::NumberValue(number)) => number_text(number),
        Some(Kind::BoolValue(value)) => value.to_string(),
        Some(Kind::StructValue(object)) if object.fields.contains_key("numerator") => {
            serde_json::Value::Object(json_object(object)).to_string()
        }
        Some(Kind::StructValue(Struct { fields })) => {
            for (inner, value) in fields {
                flatten(format!("{key}.{inner}"), value, values, at, d);
            }
            return;
        }
        Some(Kind::ListValue(_) | Kind::NullValue(_)) | None => {
            d.reject(&at.key(&key), "must be a text, a number, a boolean or an object");
            return;
        }
    };
    values.insert(key, text);
}

/// A protobuf struct as a JSON object.
pub(super) fn json_object(proto: Struct) -> serde_json::Map<String, serde_json::Value> {
    let Struct { fields } = proto;
    // Sorted, so that the same message always gives the same text.
    let sorted: BTreeMap<_, _> = fields.into_iter().collect();
    sorted.into_iter().map(|(key, value)| (key, json(value))).collect()
}

fn json(proto: Value) -> serde_json::Value {
    let Value { kind } = proto;
    match kind {
        Some(Kind::StringValue(text)) => text.into(),
        Some(Kind::NumberValue(number)) if number.fract() == 0.0 && number.abs() < 1e15 => {
            (number as i64).into()
        }
        Some(Kind::NumberValue(number)) => number.into(),
        Some(Kind::BoolValue(value)) => value.into(),
        Some(Kind::StructValue(object)) => serde_json::Value::Object(json_object(object)),
        Some(Kind::ListValue(ListValue { values })) => values.into_iter().map(json).collect(),
        Some(Kind::NullValue(_)) | None => serde_json::Value::Null,
    }
}
