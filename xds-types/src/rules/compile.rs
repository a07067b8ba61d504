//! `validate.rules` options to compiled rules, once for each message type.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, RwLock};

use prost_reflect::{
    DescriptorPool, DynamicMessage, ExtensionDescriptor, FieldDescriptor, Kind, MessageDescriptor, Value,
};
use regex::Regex;

use super::constraint::Range;
use super::string::{Form, StringRule};
use crate::descriptors;

/// The rules of one message type.
#[derive(Debug, Default)]
pub(super) struct MessageRules {
    /// Fields that have rules, or messages that may have some.
    pub(super) fields: Vec<FieldRules>,
    /// Oneofs one of whose fields must be set.
    pub(super) required_oneofs: Vec<Vec<FieldDescriptor>>,
}

/// The rules of one field.
#[derive(Debug)]
pub(super) struct FieldRules {
    pub(super) field: FieldDescriptor,
    /// Must be set.
    pub(super) required: bool,
    /// What its value, or its list or map as a whole, must be.
    pub(super) rule: Option<Rule>,
    /// Of lists: what each element must be. Of maps: what each value must be.
    pub(super) each: Option<Rule>,
    /// Of maps: what each key must be.
    pub(super) key: Option<Rule>,
    /// What to do with messages in it.
    pub(super) inside: Inside,
    /// Whether the default value means absent: only what is set is checked.
    pub(super) only_if_set: bool,
}

/// The messages in a field.
#[derive(Debug)]
pub(super) enum Inside {
    /// None, or none that may have rules.
    Nothing,
    /// Of this type; its rules are compiled when first needed.
    Message(MessageDescriptor, OnceLock<Arc<MessageRules>>),
    /// Payloads of `Any`.
    Any,
}

/// What a value must be.
#[derive(Debug)]
pub(super) enum Rule {
    Int(Range<i128>),
    Float(Range<f64>),
    /// In nanoseconds.
    Duration(Range<i128>),
    Bool(bool),
    String(Box<StringRule>),
    Bytes {
        min: Option<u64>,
        max: Option<u64>,
    },
    Enum {
        range: Range<i128>,
        defined_only: bool,
    },
    List {
        min: Option<u64>,
        max: Option<u64>,
        unique: bool,
    },
    Map {
        min: Option<u64>,
        max: Option<u64>,
    },
    AnyType {
        among: Vec<String>,
        not_among: Vec<String>,
    },
}

/// A rule that an update of Envoy's protos brought and that nobody has taught us.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct UnknownRule(pub(super) String);

struct Extensions {
    rules: ExtensionDescriptor,
    required: ExtensionDescriptor,
    disabled: ExtensionDescriptor,
    ignored: ExtensionDescriptor,
}

/// The rules of the messages of one pool, each compiled when first asked for.
pub(crate) struct Compiled {
    extensions: Extensions,
    known: RwLock<HashMap<String, Arc<MessageRules>>>,
}

impl Compiled {
    pub(crate) fn new(pool: &DescriptorPool) -> Self {
        let get = |name| {
            pool.get_extension_by_name(name)
                .expect("INVARIANT: the embedded descriptors hold the extensions of validate.proto")
        };
        let extensions = Extensions {
            rules: get("validate.rules"),
            required: get("validate.required"),
            disabled: get("validate.disabled"),
            ignored: get("validate.ignored"),
        };
        Self { extensions, known: RwLock::default() }
    }
}

/// The rules of a message type, compiled at the first call for it.
pub(super) fn rules_of(of: &MessageDescriptor) -> Arc<MessageRules> {
    let generation = descriptors::generation(of);
    let known = &generation.rules.known;
    if let Some(known) = known.read().ok().and_then(|known| known.get(of.full_name()).cloned()) {
        return known;
    }
    // A test holds that every rule there is compiles, so that nothing is passed over here.
    let compiled = Arc::new(compile(of).unwrap_or_default());
    if let Ok(mut known) = known.write() {
        known.insert(of.full_name().to_owned(), Arc::clone(&compiled));
    }
    compiled
}

/// Compiles the rules of one message type.
pub(super) fn compile(of: &MessageDescriptor) -> Result<MessageRules, UnknownRule> {
    let generation = descriptors::generation(of);
    let extensions = &generation.rules.extensions;
    let options = of.options();
    let set = |extension| options.get_extension(extension).as_bool() == Some(true);
    if set(&extensions.disabled) || set(&extensions.ignored) {
        return Ok(MessageRules::default());
    }
    let mut compiled = MessageRules::default();
    for field in of.fields() {
        if let Some(rules) = compile_field(field, extensions)? {
            compiled.fields.push(rules);
        }
    }
    for oneof in of.oneofs().filter(|o| !o.is_synthetic()) {
        if oneof.options().get_extension(&extensions.required).as_bool() == Some(true) {
            compiled.required_oneofs.push(oneof.fields().collect());
        }
    }
    Ok(compiled)
}

fn compile_field(field: FieldDescriptor, extensions: &Extensions) -> Result<Option<FieldRules>, UnknownRule> {
    let options = field.options();
    let mut rules = FieldRules {
        required: false,
        rule: None,
        each: None,
        key: None,
        inside: inside(&field),
        only_if_set: field.supports_presence(),
        field,
    };
    if options.has_extension(&extensions.rules) {
        let extension = options.get_extension(&extensions.rules);
        for (name, value) in set_fields(extension.as_message()) {
            rules.take(&name, value)?;
        }
    }
    // In a oneof, `required` only speaks of the case that is set, and that case then is a message.
    if rules.field.containing_oneof().is_some_and(|o| !o.is_synthetic()) {
        rules.required = false;
    }
    let idle = !rules.required && rules.rule.is_none() && rules.each.is_none() && rules.key.is_none();
    Ok((!idle || !matches!(rules.inside, Inside::Nothing)).then_some(rules))
}

/// The messages in a field: the field itself, its elements, or its map values.
fn inside(field: &FieldDescriptor) -> Inside {
    let mut kind = field.kind();
    if field.is_map() {
        kind = match &kind {
            Kind::Message(entry) => entry.map_entry_value_field().kind(),
            _ => return Inside::Nothing,
        };
    }
    match kind {
        Kind::Message(of) if of.full_name() == "google.protobuf.Any" => Inside::Any,
        Kind::Message(of) if of.package_name() == "google.protobuf" => Inside::Nothing,
        Kind::Message(of) => Inside::Message(of, OnceLock::new()),
        _ => Inside::Nothing,
    }
}

impl FieldRules {
    /// Takes one member of `validate.FieldRules`.
    fn take(&mut self, name: &str, value: &Value) -> Result<(), UnknownRule> {
        let Some(message) = value.as_message() else { return Err(UnknownRule(name.to_owned())) };
        self.required |= flag(message, "required");
        self.only_if_set |= flag(message, "ignore_empty");
        if name == "message" {
            known(message, name, &["required", "skip"])?;
            if flag(message, "skip") {
                self.inside = Inside::Nothing;
            }
            return Ok(());
        }
        self.rule = rule(name, message)?;
        for (member, nested) in set_fields(Some(message)) {
            let target = match member.as_str() {
                "items" | "values" => &mut self.each,
                "keys" => &mut self.key,
                _ => continue,
            };
            for (name, value) in set_fields(nested.as_message()) {
                match (name.as_str(), value.as_message()) {
                    ("message", Some(message)) if flag(message, "skip") => self.inside = Inside::Nothing,
                    // An element of a list is never absent.
                    ("message", Some(_)) => {}
                    (name, Some(message)) => *target = rule(name, message)?,
                    _ => return Err(UnknownRule(name)),
                }
            }
        }
        Ok(())
    }
}

/// A typed rule; `None` when it only says `required`.
fn rule(name: &str, m: &DynamicMessage) -> Result<Option<Rule>, UnknownRule> {
    const RANGE: [&str; 8] = ["const", "lt", "lte", "gt", "gte", "in", "not_in", "ignore_empty"];
    let number = |key: &str| get(m, key).and_then(|v| integer(&v)).and_then(|v| u64::try_from(v).ok());
    Ok(Some(match name {
        "float" | "double" => {
            known(m, name, &RANGE)?;
            Rule::Float(range(m, |v| v.as_f64().or_else(|| v.as_f32().map(f64::from))))
        }
        "int32" | "int64" | "uint32" | "uint64" | "sint32" | "sint64" | "fixed32" | "fixed64"
        | "sfixed32" | "sfixed64" => {
            known(m, name, &RANGE)?;
            Rule::Int(range(m, integer))
        }
        "duration" => {
            known(m, name, &["required", "const", "lt", "lte", "gt", "gte", "in", "not_in"])?;
            Rule::Duration(range(m, |v| v.as_message().and_then(nanoseconds)))
        }
        "enum" => {
            known(m, name, &["const", "defined_only", "in", "not_in"])?;
            Rule::Enum { range: range(m, integer), defined_only: flag(m, "defined_only") }
        }
        "bool" => {
            known(m, name, &["const"])?;
            return Ok(get(m, "const").and_then(|v| v.as_bool()).map(Rule::Bool));
        }
        "string" => Rule::String(Box::new(string_rule(m)?)),
        "bytes" => {
            known(m, name, &["len", "min_len", "max_len", "ignore_empty"])?;
            let len = number("len");
            Rule::Bytes { min: len.or(number("min_len")), max: len.or(number("max_len")) }
        }
        "repeated" => {
            known(m, name, &["min_items", "max_items", "unique", "items", "ignore_empty"])?;
            Rule::List { min: number("min_items"), max: number("max_items"), unique: flag(m, "unique") }
        }
        "map" => {
            // no_sparse speaks of absent messages as values, which the wire cannot hold.
            known(m, name, &["min_pairs", "max_pairs", "no_sparse", "keys", "values", "ignore_empty"])?;
            Rule::Map { min: number("min_pairs"), max: number("max_pairs") }
        }
        "any" => {
            known(m, name, &["required", "in", "not_in"])?;
            Rule::AnyType { among: strings(m, "in"), not_among: strings(m, "not_in") }
        }
        "timestamp" => {
            known(m, name, &["required"])?;
            return Ok(None);
        }
        other => return Err(UnknownRule(other.to_owned())),
    }))
}

fn string_rule(m: &DynamicMessage) -> Result<StringRule, UnknownRule> {
    let mut rule =
        StringRule { among: strings(m, "in"), not_among: strings(m, "not_in"), ..StringRule::default() };
    let strict = get(m, "strict").and_then(|v| v.as_bool()).unwrap_or(true);
    for (name, value) in set_fields(Some(m)) {
        let text = || value.as_str().map(str::to_owned);
        match name.as_str() {
            "const" => rule.equal = text(),
            "len" => (rule.min_chars, rule.max_chars) = (value.as_u64(), value.as_u64()),
            "min_len" => rule.min_chars = value.as_u64(),
            "max_len" => rule.max_chars = value.as_u64(),
            "len_bytes" => (rule.min_bytes, rule.max_bytes) = (value.as_u64(), value.as_u64()),
            "min_bytes" => rule.min_bytes = value.as_u64(),
            "max_bytes" => rule.max_bytes = value.as_u64(),
            "pattern" => {
                let pattern = value.as_str().and_then(|p| Regex::new(p).ok());
                rule.pattern = Some(pattern.ok_or_else(|| UnknownRule(format!("pattern {value}")))?);
            }
            "prefix" => rule.prefix = text(),
            "suffix" => rule.suffix = text(),
            "contains" => rule.contains = text(),
            "not_contains" => rule.not_contains = text(),
            "hostname" => rule.form = Some(Form::Hostname),
            "ip" => rule.form = Some(Form::Ip),
            "ipv4" => rule.form = Some(Form::Ipv4),
            "ipv6" => rule.form = Some(Form::Ipv6),
            "address" => rule.form = Some(Form::Address),
            "uri" => rule.form = Some(Form::Uri),
            "uri_ref" => rule.form = Some(Form::UriReference),
            "well_known_regex" => {
                rule.form = match (value.as_enum_number(), strict) {
                    (Some(1), true) => Some(Form::HeaderName),
                    (Some(2), true) => Some(Form::HeaderValue),
                    (Some(1 | 2), false) => Some(Form::HeaderText),
                    _ => return Err(UnknownRule(format!("well_known_regex {value}"))),
                };
            }
            "in" | "not_in" | "strict" | "ignore_empty" => {}
            other => return Err(UnknownRule(format!("string.{other}"))),
        }
    }
    Ok(rule)
}

fn range<T>(m: &DynamicMessage, read: impl Fn(&Value) -> Option<T>) -> Range<T> {
    let one = |name| get(m, name).and_then(|v| read(&v));
    let many = |name| match get(m, name) {
        Some(Value::List(values)) => values.iter().filter_map(&read).collect(),
        _ => Vec::new(),
    };
    Range {
        equal: one("const"),
        more_than: one("gt"),
        at_least: one("gte"),
        less_than: one("lt"),
        at_most: one("lte"),
        among: many("in"),
        not_among: many("not_in"),
    }
}

/// Any integer or enum number.
pub(super) fn integer(value: &Value) -> Option<i128> {
    Some(match value {
        Value::I32(v) | Value::EnumNumber(v) => i128::from(*v),
        Value::I64(v) => i128::from(*v),
        Value::U32(v) => i128::from(*v),
        Value::U64(v) => i128::from(*v),
        _ => return None,
    })
}

/// A `google.protobuf.Duration` in nanoseconds.
pub(super) fn nanoseconds(duration: &DynamicMessage) -> Option<i128> {
    let seconds = duration.get_field_by_name("seconds")?.as_i64()?;
    let nanos = duration.get_field_by_name("nanos")?.as_i32()?;
    Some(i128::from(seconds) * 1_000_000_000 + i128::from(nanos))
}

fn set_fields(m: Option<&DynamicMessage>) -> Vec<(String, &Value)> {
    m.into_iter().flat_map(|m| m.fields().map(|(f, v)| (f.name().to_owned(), v))).collect()
}

/// A member that is set.
fn get(m: &DynamicMessage, name: &str) -> Option<Value> {
    if !m.has_field_by_name(name) {
        return None;
    }
    m.get_field_by_name(name).map(std::borrow::Cow::into_owned)
}

fn flag(m: &DynamicMessage, name: &str) -> bool {
    get(m, name).and_then(|v| v.as_bool()) == Some(true)
}

fn strings(m: &DynamicMessage, name: &str) -> Vec<String> {
    match get(m, name) {
        Some(Value::List(values)) => values.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect(),
        _ => Vec::new(),
    }
}

/// Refuses members that are not known.
fn known(m: &DynamicMessage, rule: &str, names: &[&str]) -> Result<(), UnknownRule> {
    match set_fields(Some(m)).into_iter().find(|(name, _)| !names.contains(&name.as_str())) {
        Some((name, _)) => Err(UnknownRule(format!("{rule}.{name}"))),
        None => Ok(()),
    }
}
