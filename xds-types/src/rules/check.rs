//! Compiled rules against a message.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Arc, OnceLock};

use prost_reflect::{DynamicMessage, Kind, MapKey, MessageDescriptor, ReflectMessage as _, Value};

use super::compile::{FieldRules, Inside, MessageRules, Rule, integer, nanoseconds, rules_of};
use super::constraint::check_count;
use super::{MAX_VIOLATIONS, Violation};
use crate::any;
use crate::text::format_duration;
use crate::typed_struct::is_typed_struct;

/// Nesting of messages, payloads of `Any` included, past which a message is refused; bounds the stack.
const MAX_DEPTH: u32 = 200;

/// One walk over one message.
#[derive(Default)]
pub(super) struct Checker {
    path: String,
    depth: u32,
    found: Vec<Violation>,
    omitted: usize,
}

impl Checker {
    pub(super) fn run(mut self, message: &DynamicMessage) -> Vec<Violation> {
        let descriptor = message.descriptor();
        if descriptor.full_name() == "google.protobuf.Any" {
            self.payload(message);
        } else {
            self.message(message, &rules_of(&descriptor));
        }
        if self.omitted > 0 {
            let message = format!("and {} more", self.omitted);
            self.found.push(Violation { path: String::new(), message });
        }
        self.found
    }

    fn fail(&mut self, message: impl Into<String>) {
        if self.found.len() < MAX_VIOLATIONS {
            self.found.push(Violation { path: self.path.clone(), message: message.into() });
        } else {
            self.omitted += 1;
        }
    }

    /// Runs with a longer path.
    fn at(&mut self, extend: impl FnOnce(&mut String), run: impl FnOnce(&mut Self)) {
        let len = self.path.len();
        extend(&mut self.path);
        run(self);
        self.path.truncate(len);
    }

    fn message(&mut self, message: &DynamicMessage, rules: &MessageRules) {
        if self.depth >= MAX_DEPTH {
            return self.fail("is nested too deeply");
        }
        self.depth += 1;
        for rules in &rules.fields {
            let set = message.has_field(&rules.field);
            if set || rules.required || !rules.only_if_set {
                self.at(
                    |path| crate::text::push_field(path, rules.field.name()),
                    |this| this.field(message, rules, set),
                );
            }
        }
        for oneof in &rules.required_oneofs {
            if !oneof.iter().any(|field| message.has_field(field)) {
                let names: Vec<String> = oneof.iter().map(|f| format!("`{}`", f.name())).collect();
                match names.as_slice() {
                    [only] => self.fail(format!("{only} is required")),
                    names => self.fail(format!("one of {} is required", names.join(", "))),
                }
            }
        }
        self.depth -= 1;
    }

    fn field(&mut self, message: &DynamicMessage, rules: &FieldRules, set: bool) {
        if !set && rules.required {
            return self.fail("is required");
        }
        if !set && rules.only_if_set {
            return;
        }
        let value = message.get_field(&rules.field);
        let kind = rules.field.kind();
        if let Some(wrong) = rules.rule.as_ref().and_then(|rule| check(rule, &value, &kind)) {
            self.fail(wrong);
        }
        match &*value {
            Value::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    if rules.each.is_none() && matches!(rules.inside, Inside::Nothing) {
                        break;
                    }
                    self.at(|path| _ = write!(path, "[{index}]"), |this| this.element(item, rules, &kind));
                }
            }
            Value::Map(map) => self.map(map, rules, &kind),
            Value::Message(child) => self.inside(child, &rules.inside),
            _ => {}
        }
    }

    fn map(&mut self, map: &HashMap<MapKey, Value>, rules: &FieldRules, kind: &Kind) {
        if rules.each.is_none() && rules.key.is_none() && matches!(rules.inside, Inside::Nothing) {
            return;
        }
        let Some(entry) = kind.as_message() else { return };
        let (key_kind, value_kind) =
            (entry.map_entry_key_field().kind(), entry.map_entry_value_field().kind());
        let mut entries: Vec<(String, &MapKey, &Value)> =
            map.iter().map(|(k, v)| (crate::text::map_key_text(k), k, v)).collect();
        entries.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        for (text, key, value) in entries {
            self.at(
                |path| _ = write!(path, "[{text:?}]"),
                |this| {
                    let key = Value::from(key.clone());
                    if let Some(wrong) = rules.key.as_ref().and_then(|rule| check(rule, &key, &key_kind)) {
                        this.fail(format!("the key {wrong}"));
                    }
                    this.element(value, rules, &value_kind);
                },
            );
        }
    }

    /// An element of a list or the value of a map entry.
    fn element(&mut self, value: &Value, rules: &FieldRules, kind: &Kind) {
        if let Some(wrong) = rules.each.as_ref().and_then(|rule| check(rule, value, kind)) {
            self.fail(wrong);
        }
        if let Value::Message(child) = value {
            self.inside(child, &rules.inside);
        }
    }

    fn inside(&mut self, child: &DynamicMessage, inside: &Inside) {
        match inside {
            Inside::Nothing => {}
            Inside::Any => self.payload(child),
            Inside::Message(of, cell) => self.message(child, resolve(of, cell)),
        }
    }

    /// The payload of an `Any`, at the path of the `Any` itself.
    fn payload(&mut self, any: &DynamicMessage) {
        if self.depth >= MAX_DEPTH {
            return self.fail("is nested too deeply");
        }
        let (url, bytes) = (any.get_field_by_name("type_url"), any.get_field_by_name("value"));
        let (Some(url), Some(bytes)) = (url, bytes) else { return };
        let (Some(url), Some(bytes)) = (url.as_str(), bytes.as_bytes()) else { return };
        if url.is_empty() && bytes.is_empty() {
            return;
        }
        let decoded = match any::type_name(url) {
            Ok(name) if is_typed_struct(name) => any::typed_struct_message(name, bytes),
            _ => any::decode(url, bytes),
        };
        match decoded {
            Ok(message) => {
                self.depth += 1;
                if message.descriptor().full_name() == "google.protobuf.Any" {
                    self.payload(&message);
                } else {
                    self.message(&message, &rules_of(&message.descriptor()));
                }
                self.depth -= 1;
            }
            Err(any::Error::UnknownType(_)) => {}
            Err(any::Error::TypedStruct { errors, .. }) => {
                for error in errors.list {
                    self.at(
                        |path| crate::text::push_path(path, &error.path),
                        |this| this.fail(error.message),
                    );
                }
            }
            Err(error) => self.fail(error.to_string()),
        }
    }
}

fn resolve<'r>(of: &MessageDescriptor, cell: &'r OnceLock<Arc<MessageRules>>) -> &'r MessageRules {
    cell.get_or_init(|| rules_of(of))
}

/// What is wrong with a value, or with a list or map as a whole.
fn check(rule: &Rule, value: &Value, kind: &Kind) -> Option<String> {
    match (rule, value) {
        (Rule::Duration(range), Value::Message(duration)) => {
            range.check(nanoseconds(duration)?, show_duration)
        }
        (Rule::AnyType { among, not_among }, Value::Message(any)) => {
            let url = any.get_field_by_name("type_url")?;
            let url = url.as_str()?;
            if !among.is_empty() && !among.iter().any(|a| a == url) {
                return Some(format!("must hold one of {}", among.join(", ")));
            }
            not_among.iter().any(|a| a == url).then(|| format!("must not hold {url}"))
        }
        // The wrappers: rules speak of the value in them.
        (rule, Value::Message(wrapper)) => {
            let field = wrapper.descriptor().get_field_by_name("value")?;
            check(rule, &wrapper.get_field(&field), &field.kind())
        }
        (Rule::Int(range), value) => range.check(integer(value)?, |v| v),
        (Rule::Float(range), Value::F64(v)) => range.check(*v, |v| v),
        (Rule::Float(range), Value::F32(v)) => range.check(f64::from(*v), |v| v),
        (Rule::Bool(wanted), Value::Bool(v)) => (v != wanted).then(|| format!("must be {wanted}")),
        (Rule::String(rule), Value::String(v)) => rule.check(v),
        (Rule::Bytes { min, max }, Value::Bytes(v)) => check_count(v.len() as u64, *min, *max, "byte", "be"),
        (Rule::Enum { range, defined_only }, value) => {
            let number = integer(value)?;
            let of = kind.as_enum()?;
            let name =
                |v: i128| i32::try_from(v).ok().and_then(|v| of.get_value(v).map(|v| v.name().to_owned()));
            if *defined_only && name(number).is_none() {
                return Some(format!("{number} is not a value of the enum {}", of.name()));
            }
            range.check(number, |v| name(v).unwrap_or_else(|| v.to_string()))
        }
        (Rule::List { min, max, unique }, Value::List(items)) => {
            check_count(items.len() as u64, *min, *max, "element", "have")
                .or_else(|| if *unique { repeated(items) } else { None })
        }
        (Rule::Map { min, max }, Value::Map(map)) => {
            check_count(map.len() as u64, *min, *max, "entry", "have").map(|m| m.replace("entrys", "entries"))
        }
        _ => None,
    }
}

/// Which elements of a list are equal.
fn repeated(items: &[Value]) -> Option<String> {
    let mut seen: HashMap<String, usize> = HashMap::with_capacity(items.len());
    items.iter().enumerate().find_map(|(index, item)| {
        let first = seen.insert(item.to_string(), index)?;
        Some(format!("must not repeat an element: [{index}] is [{first}] again"))
    })
}

fn show_duration(nanos: i128) -> String {
    let (seconds, rest) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
    format_duration(i64::try_from(seconds).unwrap_or(i64::MAX), i32::try_from(rest).unwrap_or(0))
}
