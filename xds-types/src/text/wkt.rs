//! The well-known types, which JSON writes in their own ways, and `Any`.

use std::collections::{HashMap, HashSet};

use prost_reflect::{DynamicMessage, MapKey, MessageDescriptor, Value};

use super::build::{Build, Depth, Entry};
use super::nearest::suggestion;
use super::positions::{At, Step};
use super::time;
use super::tree::{Data, NodeId, Scalar};
use crate::canonical;
use crate::descriptors;
use crate::typed_struct::is_typed_struct;

/// Types whose JSON is not an object of their fields; inside `Any` they stand under `value`.
pub(super) fn is_special(of: &MessageDescriptor) -> bool {
    let name = of.full_name().strip_prefix("google.protobuf.");
    name.is_some_and(|n| {
        matches!(n, "Any" | "Duration" | "Timestamp" | "Struct" | "Value" | "ListValue" | "FieldMask")
            || n.ends_with("Value")
    })
}

impl Build<'_> {
    /// A message of `google.protobuf`; the outer `None` means that it is read like any other.
    pub(super) fn well_known(
        &mut self,
        of: &MessageDescriptor,
        node: NodeId,
        at: At,
        depth: Depth,
    ) -> Option<Option<DynamicMessage>> {
        let is_object = matches!(self.tree.get(node).data, Data::Map(_));
        Some(match of.name() {
            "Any" => self.any(of, node, at, depth),
            "Struct" => self.structure(of, node, at, depth),
            "Value" => self.value(of, node, at, depth),
            "ListValue" => self.list_value(of, node, at, depth),
            // Envoy also takes the object form of these, such as `{seconds: 5}`.
            _ if is_object => return None,
            "Duration" => self.time(of, node, at, time::parse_duration, "a duration such as `5s` or `0.25s`"),
            "Timestamp" => {
                self.time(of, node, at, time::parse_timestamp, "a time such as `2026-01-31T23:59:59Z`")
            }
            "FieldMask" => self.field_mask(of, node, at),
            name if name.ends_with("Value") => {
                let field = of.get_field_by_name("value")?;
                let value = self.single(&field.kind(), node, at, depth);
                value.map(|value| with(of, [("value", value)]))
            }
            _ => return None,
        })
    }

    fn time(
        &mut self,
        of: &MessageDescriptor,
        node: NodeId,
        at: At,
        parse: fn(&str) -> Option<(i64, i32)>,
        wanted: &str,
    ) -> Option<DynamicMessage> {
        let parsed = match &self.tree.get(node).data {
            Data::Scalar(text, _) => parse(text),
            _ => None,
        };
        let Some((seconds, nanos)) = parsed else {
            self.fail(at, format!("must be {wanted}, not {}", self.describe(node)));
            return None;
        };
        Some(with(of, [("seconds", Value::I64(seconds)), ("nanos", Value::I32(nanos))]))
    }

    /// `a.b,cD` -> paths `a.b`, `c_d`.
    fn field_mask(&mut self, of: &MessageDescriptor, node: NodeId, at: At) -> Option<DynamicMessage> {
        let Data::Scalar(text, _) = &self.tree.get(node).data else {
            self.fail(at, format!("must be field paths separated by commas, not {}", self.describe(node)));
            return None;
        };
        let paths = text.split(',').map(str::trim).filter(|p| !p.is_empty());
        let paths = paths.map(|p| Value::String(snake_case(p))).collect();
        Some(with(of, [("paths", Value::List(paths))]))
    }

    fn structure(
        &mut self,
        of: &MessageDescriptor,
        node: NodeId,
        at: At,
        depth: Depth,
    ) -> Option<DynamicMessage> {
        let entries = self.object(node, at)?;
        self.structure_of(of, &entries, at, depth)
    }

    fn structure_of(
        &mut self,
        of: &MessageDescriptor,
        entries: &[Entry],
        at: At,
        depth: Depth,
    ) -> Option<DynamicMessage> {
        let value_of = descriptors::message("google.protobuf.Value")?;
        let mut fields = HashMap::with_capacity(entries.len());
        let mut seen = HashSet::new();
        let mut whole = true;
        for entry in entries {
            let Some(key) = self.key_text(entry.key, at) else {
                whole = false;
                continue;
            };
            if !seen.insert(key) {
                whole &= self.twice(key, entry, at);
                continue;
            }
            let child = self.positions.child(at, Step::Key(key), self.value_place(entry));
            // On the wire: the map entry and the Value.
            match self.message(&value_of, entry.value, child, depth.down(2)) {
                Some(value) => _ = fields.insert(MapKey::String(key.to_owned()), Value::Message(value)),
                None => whole = false,
            }
        }
        whole.then(|| with(of, [("fields", Value::Map(fields))]))
    }

    /// An untyped value, with Envoy's conversions: a YAML float and an integer past 32 bits become strings.
    fn value(
        &mut self,
        of: &MessageDescriptor,
        node: NodeId,
        at: At,
        depth: Depth,
    ) -> Option<DynamicMessage> {
        let tree = self.tree;
        let (field, value) = match &tree.get(node).data {
            Data::List(_) => {
                let list = descriptors::message("google.protobuf.ListValue")?;
                let list = self.list_value(&list, node, at, depth.down(1))?;
                ("list_value", Value::Message(list))
            }
            Data::Map(_) => {
                let structure = descriptors::message("google.protobuf.Struct")?;
                let structure = self.structure(&structure, node, at, depth.down(1))?;
                ("struct_value", Value::Message(structure))
            }
            Data::Scalar(text, style) => match Scalar::resolve(text, *style) {
                Scalar::Null => ("null_value", Value::EnumNumber(0)),
                Scalar::Bool(value) => ("bool_value", Value::Bool(value)),
                Scalar::Int(value) if *style == super::tree::Style::Json || i32::try_from(value).is_ok() => {
                    ("number_value", Value::F64(value as f64))
                }
                Scalar::Int(value) => ("string_value", Value::String(value.to_string())),
                Scalar::Number(number) => match number.parse::<f64>() {
                    Ok(value) if value.is_finite() => ("number_value", Value::F64(value)),
                    _ => {
                        self.fail(at, format!("{number} is too large for a 64-bit number"));
                        return None;
                    }
                },
                Scalar::Plain(text) | Scalar::Quoted(text) => {
                    ("string_value", Value::String(text.to_owned()))
                }
            },
        };
        Some(with(of, [(field, value)]))
    }

    fn list_value(
        &mut self,
        of: &MessageDescriptor,
        node: NodeId,
        at: At,
        depth: Depth,
    ) -> Option<DynamicMessage> {
        let tree = self.tree;
        let Data::List(items) = &tree.get(node).data else {
            self.fail(at, format!("must be a list, not {}", self.describe(node)));
            return None;
        };
        let value_of = descriptors::message("google.protobuf.Value")?;
        let mut values = Vec::with_capacity(items.len());
        for (index, &item) in items.iter().enumerate() {
            let child = self.positions.child(at, Step::Index(index as u32), tree.get(item).place);
            values.extend(self.message(&value_of, item, child, depth.down(1)).map(Value::Message));
        }
        (values.len() == items.len()).then(|| with(of, [("values", Value::List(values))]))
    }

    /// `{"@type": url, ...fields}`; types of the first group stand under `value`. `{}` is the empty `Any`.
    fn any(&mut self, of: &MessageDescriptor, node: NodeId, at: At, depth: Depth) -> Option<DynamicMessage> {
        let entries = self.object(node, at)?;
        if entries.is_empty() {
            return Some(DynamicMessage::new(of.clone()));
        }
        let typed = entries.iter().find(|e| self.key_is(e.key, "@type"));
        let Some(typed) = typed else {
            self.fail(at, "must hold `@type`, the type of the message that stands here");
            return None;
        };
        let type_at = self.positions.child(at, Step::Field("@type"), self.value_place(typed));
        let Data::Scalar(url, _) = &self.tree.get(typed.value).data else {
            self.fail(type_at, "must be a string such as `type.googleapis.com/package.Message`");
            return None;
        };
        let payload = self.payload_type(url, type_at)?;
        let message = if is_special(&payload) {
            self.special_payload(&payload, &entries, at, depth)?
        } else {
            let message = self.fields(&payload, &entries, at, depth.payload(), &["@type"])?;
            if is_typed_struct(payload.full_name()) {
                self.check_typed_struct(&entries, at, depth);
            }
            message
        };
        let bytes = canonical::encode_dynamic(&message);
        Some(with(
            of,
            [("type_url", Value::String(url.clone().into_owned())), ("value", Value::Bytes(bytes.into()))],
        ))
    }

    fn payload_type(&mut self, url: &str, at: At) -> Option<MessageDescriptor> {
        let Some((host, name)) = url.rsplit_once('/') else {
            let known = descriptors::message(url).is_some();
            let hint = if known { format!("; write `type.googleapis.com/{url}`") } else { String::new() };
            self.fail(at, format!("{url:?} is not of the form `type.googleapis.com/package.Message`{hint}"));
            return None;
        };
        if host.is_empty() {
            self.fail(at, format!("{url:?} must begin with `type.googleapis.com/`"));
            return None;
        }
        let found = descriptors::message(name);
        if found.is_none() && self.errors.is_full() {
            self.fail(at, ""); // only counted
        } else if found.is_none() {
            let names =
                descriptors::pool().all_messages().map(|m| m.full_name().to_owned()).collect::<Vec<_>>();
            let near = suggestion(name, names.iter().map(String::as_str));
            self.fail(at, format!("no message type `{name}` is known{near}"));
        }
        found
    }

    fn special_payload(
        &mut self,
        of: &MessageDescriptor,
        entries: &[Entry],
        at: At,
        depth: Depth,
    ) -> Option<DynamicMessage> {
        let mut value = None;
        for entry in entries {
            if self.key_is(entry.key, "value") {
                value = Some(*entry);
            } else if !self.key_is(entry.key, "@type") {
                let place = self.tree.get(entry.key).place;
                let key = self.key_text(entry.key, at)?;
                let child = self.positions.child(at, Step::Field(key), place);
                self.fail(child, format!("no such field; a `{}` stands under `value`", of.full_name()));
            }
        }
        let Some(value) = value else {
            return Some(DynamicMessage::new(of.clone()));
        };
        let child = self.positions.child(at, Step::Field("value"), self.value_place(&value));
        self.message(of, value.value, child, depth.payload())
    }

    /// Reads the `value` of a `TypedStruct` as the message it names, only for the errors and the places: a
    /// path such as `typed_config.stat_prefix` then leads to the field.
    fn check_typed_struct(&mut self, entries: &[Entry], at: At, depth: Depth) {
        let find = |b: &Self, name: &str| entries.iter().find(|e| b.key_is(e.key, name)).copied();
        let (Some(url), Some(value)) =
            (find(self, "type_url").or_else(|| find(self, "typeUrl")), find(self, "value"))
        else {
            return;
        };
        let Data::Scalar(url, _) = &self.tree.get(url.value).data else { return };
        let known = crate::any::type_name(url).ok().and_then(descriptors::message);
        let Some(of) = known.filter(|of| !is_special(of)) else { return };
        if let Some(fields) = self.object(value.value, at) {
            self.fields(&of, &fields, at, depth.payload(), &[]);
        }
    }
}

/// A message with these fields set.
pub(super) fn with<const N: usize>(of: &MessageDescriptor, fields: [(&str, Value); N]) -> DynamicMessage {
    let mut message = DynamicMessage::new(of.clone());
    for (name, value) in fields {
        message.set_field_by_name(name, value);
    }
    message
}

fn snake_case(path: &str) -> String {
    let mut out = String::with_capacity(path.len() + 4);
    for c in path.chars() {
        if c.is_ascii_uppercase() {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}
