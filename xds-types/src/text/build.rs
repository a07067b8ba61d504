//! The marked tree to a message, guided by its descriptor.
//!
//! Goes on after an error, so that all are found at once. Scalars are in `scalar`, the well-known types and
//! `Any` in `wkt`.

use std::collections::{HashMap, HashSet};

use prost_reflect::{Cardinality, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value};

use super::errors::Errors;
use super::nearest::suggestion;
use super::positions::{At, Place, Positions, Step};
use super::tree::{Data, NodeId, Style, Tree};
use super::{Options, UnknownFields};

/// Nesting of values past which a message is refused; bounds the stack.
const MAX_DEPTH: u32 = 100;

/// Nesting of messages on the wire past which decoders refuse (prost and protobuf both stop at 100).
const MAX_WIRE_DEPTH: u32 = 95;

/// Values that aliases may add to those of the text itself.
const ALIAS_ALLOWANCE: usize = 100_000;

/// How deep the walk is: in values of the text, and in messages on the wire since the last `Any`.
#[derive(Clone, Copy, Default)]
pub(crate) struct Depth {
    values: u32,
    wire: u32,
}

impl Depth {
    pub(crate) fn down(self, messages: u32) -> Self {
        Self { values: self.values + 1, wire: self.wire + messages }
    }

    /// In the payload of an `Any`, which is decoded on its own.
    pub(crate) fn payload(self) -> Self {
        Self { values: self.values + 1, wire: 1 }
    }
}

/// An entry of an object after `<<` is resolved.
#[derive(Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) key: NodeId,
    pub(crate) value: NodeId,
    merged: bool,
}

/// One walk over one document.
pub(crate) struct Build<'t> {
    pub(crate) tree: &'t Tree<'t>,
    pub(crate) positions: Positions,
    pub(crate) errors: Errors,
    pub(crate) ignored: Errors,
    options: Options,
    visits_left: usize,
}

impl<'t> Build<'t> {
    pub(crate) fn new(tree: &'t Tree<'t>, root: Place, source: &str, options: Options) -> Self {
        Self {
            tree,
            positions: Positions::new(root),
            errors: Errors::new(source),
            ignored: Errors::new(source),
            options,
            visits_left: tree.len().saturating_mul(16).saturating_add(ALIAS_ALLOWANCE),
        }
    }

    /// Records an error about a value.
    pub(crate) fn fail(&mut self, at: At, message: impl Into<String>) {
        self.fail_at(at, message, self.positions.place(at));
    }

    fn fail_at(&mut self, at: At, message: impl Into<String>, place: Place) {
        let path = self.positions.path(at);
        self.errors.push(path, message.into(), Some(place));
    }

    /// Counts a value; `false` when the walk must stop here.
    pub(crate) fn enter(&mut self, at: At, depth: Depth) -> bool {
        if self.visits_left == 0 {
            return false;
        }
        self.visits_left -= 1;
        if self.visits_left == 0 {
            self.fail(at, "aliases expand to too many values");
            return false;
        }
        if depth.values > MAX_DEPTH || depth.wire > MAX_WIRE_DEPTH {
            self.fail(at, "is nested too deeply");
            return false;
        }
        true
    }

    /// A message out of an object, whatever its type.
    pub(crate) fn message(
        &mut self,
        of: &MessageDescriptor,
        node: NodeId,
        at: At,
        depth: Depth,
    ) -> Option<DynamicMessage> {
        if !self.enter(at, depth) {
            return None;
        }
        if of.package_name() == "google.protobuf"
            && let Some(known) = self.well_known(of, node, at, depth)
        {
            return known;
        }
        let entries = self.object(node, at)?;
        self.fields(of, &entries, at, depth, &[])
    }

    /// The fields of a message out of the entries of an object; `skip` holds keys that are not fields.
    pub(crate) fn fields(
        &mut self,
        of: &MessageDescriptor,
        entries: &[Entry],
        at: At,
        depth: Depth,
        skip: &[&str],
    ) -> Option<DynamicMessage> {
        let mut message = DynamicMessage::new(of.clone());
        let mut seen: Vec<(u32, Place)> = Vec::with_capacity(entries.len());
        let mut chosen: Vec<(usize, String)> = Vec::new();
        let before = self.errors.count();
        for entry in entries {
            let key = self.tree.get(entry.key);
            let Some(name) = self.key_text(entry.key, at) else { continue };
            if skip.contains(&name) {
                continue;
            }
            let field = of.get_field_by_name(name).or_else(|| of.get_field_by_json_name(name));
            let Some(field) = field else {
                self.unknown_field(of, name, key.place, at);
                continue;
            };
            if let Some((_, first)) = seen.iter().find(|(number, _)| *number == field.number()) {
                if !entry.merged {
                    let message = format!("is given twice; first at {}:{}", first.line, first.column);
                    let child = self.positions.child(at, Step::Field(field.name()), key.place);
                    self.fail_at(child, message, key.place);
                }
                continue;
            }
            seen.push((field.number(), key.place));
            let child = self.positions.child(at, Step::Field(field.name()), self.value_place(entry));
            let Some(value) = self.field(&field, entry.value, child, depth) else { continue };
            if let Some(oneof) = field.containing_oneof().filter(|o| !o.is_synthetic()) {
                let index = oneof.path().last().map_or(0, |i| *i as usize);
                if let Some((_, first)) = chosen.iter().find(|(i, _)| *i == index) {
                    let message = format!("excludes `{first}`, which is set too; only one of them may be");
                    self.fail_at(child, message, key.place);
                    continue;
                }
                chosen.push((index, field.name().to_owned()));
            }
            message.set_field(&field, value);
        }
        (self.errors.count() == before).then_some(message)
    }

    fn unknown_field(&mut self, of: &MessageDescriptor, name: &str, place: Place, at: At) {
        if self.errors.is_full() {
            return self.errors.push(String::new(), String::new(), None);
        }
        let names: Vec<String> = of.fields().map(|f| f.name().to_owned()).collect();
        let message = format!("no such field{}", suggestion(name, names.iter().map(String::as_str)));
        let child = self.positions.child(at, Step::Field(name), place);
        match self.options.unknown_fields {
            UnknownFields::Refuse => self.fail_at(child, message, place),
            UnknownFields::Report => {
                let path = self.positions.path(child);
                self.ignored.push(path, message, Some(place));
            }
        }
    }

    /// The value of a field; `None` when it is absent (null) or wrong.
    pub(crate) fn field(
        &mut self,
        field: &FieldDescriptor,
        node: NodeId,
        at: At,
        depth: Depth,
    ) -> Option<Value> {
        let kind = field.kind();
        if self.is_null(node) && !(field.cardinality() != Cardinality::Repeated && takes_null(&kind)) {
            return None;
        }
        if field.is_map() {
            return self.map(&kind, node, at, depth);
        }
        if field.is_list() {
            return self.list(&kind, node, at, depth);
        }
        self.single(&kind, node, at, depth)
    }

    /// A value that is not repeated.
    pub(crate) fn single(&mut self, kind: &Kind, node: NodeId, at: At, depth: Depth) -> Option<Value> {
        match kind {
            Kind::Message(of) => self.message(of, node, at, depth.down(1)).map(Value::Message),
            kind => self.scalar(kind, node, at),
        }
    }

    /// A list; a single value stands for a list of one, as in Envoy.
    fn list(&mut self, kind: &Kind, node: NodeId, at: At, depth: Depth) -> Option<Value> {
        let tree = self.tree;
        let Data::List(items) = &tree.get(node).data else {
            let child = self.positions.child(at, Step::Index(0), tree.get(node).place);
            return self.single(kind, node, child, depth).map(|v| Value::List(vec![v]));
        };
        if !self.enter(at, depth) {
            return None;
        }
        let mut values = Vec::with_capacity(items.len());
        for (index, &item) in items.iter().enumerate() {
            let child = self.positions.child(at, Step::Index(index as u32), tree.get(item).place);
            if self.is_null(item) && !takes_null(kind) {
                self.fail(child, "must not be null");
            } else if let Some(value) = self.single(kind, item, child, depth) {
                values.push(value);
            }
        }
        (values.len() == items.len()).then_some(Value::List(values))
    }

    fn map(&mut self, kind: &Kind, node: NodeId, at: At, depth: Depth) -> Option<Value> {
        let entry = kind.as_message()?;
        let (key_kind, value_kind) =
            (entry.map_entry_key_field().kind(), entry.map_entry_value_field().kind());
        let entries = self.object(node, at)?;
        let mut map = HashMap::with_capacity(entries.len());
        let mut seen = HashSet::new();
        let mut whole = true;
        for entry in &entries {
            let Some(text) = self.key_text(entry.key, at) else {
                whole = false;
                continue;
            };
            if !seen.insert(text) {
                whole &= entry.merged || self.twice(text, entry, at);
                continue;
            }
            let child = self.positions.child(at, Step::Key(text), self.value_place(entry));
            let Some(key) = map_key(&key_kind, text) else {
                self.fail(child, format!("`{text}` is not a key of this map"));
                whole = false;
                continue;
            };
            if self.is_null(entry.value) && !takes_null(&value_kind) {
                // A message out of null is the empty message, as in Envoy; a scalar is not.
                match &value_kind {
                    Kind::Message(of) => _ = map.insert(key, Value::Message(DynamicMessage::new(of.clone()))),
                    _ => {
                        self.fail(child, "must not be null");
                        whole = false;
                    }
                }
                continue;
            }
            match self.single(&value_kind, entry.value, child, depth.down(1)) {
                Some(value) => _ = map.insert(key, value),
                None => whole = false,
            }
        }
        whole.then_some(Value::Map(map))
    }

    /// Reports a key that comes twice. Always false.
    pub(crate) fn twice(&mut self, key: &str, entry: &Entry, at: At) -> bool {
        let place = self.tree.get(entry.key).place;
        let child = self.positions.child(at, Step::Key(key), place);
        self.fail_at(child, "is given twice", place);
        false
    }

    /// The entries of an object: `!ignore` ones dropped, `<<` resolved.
    pub(crate) fn object(&mut self, node: NodeId, at: At) -> Option<Vec<Entry>> {
        let tree = self.tree;
        let Data::Map(own) = &tree.get(node).data else {
            let found = self.describe(node);
            self.fail(at, format!("must be an object, not {found}"));
            return None;
        };
        let mut entries = Vec::with_capacity(own.len());
        let mut merges = Vec::new();
        for &(key, value) in own {
            let node = tree.get(key);
            if node.ignored {
                continue;
            }
            if matches!(&node.data, Data::Scalar(text, Style::Plain) if text == "<<") {
                merges.push(value);
            } else {
                entries.push(Entry { key, value, merged: false });
            }
        }
        if !merges.is_empty() {
            let mut known = entries.iter().filter_map(|e| scalar_text(tree, e.key)).collect();
            for value in merges {
                self.merge(value, at, &mut entries, &mut known, 0);
            }
        }
        Some(entries)
    }

    /// Adds the entries of what stands behind a `<<`: an object, or a list of them, the earlier ones winning.
    fn merge(
        &mut self,
        node: NodeId,
        at: At,
        entries: &mut Vec<Entry>,
        known: &mut HashSet<&'t str>,
        depth: u32,
    ) {
        if !self.enter(at, Depth { values: depth, wire: 0 }) {
            return;
        }
        let tree = self.tree;
        match &tree.get(node).data {
            Data::Map(own) => {
                let is_merge =
                    |k: NodeId| matches!(&tree.get(k).data, Data::Scalar(t, Style::Plain) if t == "<<");
                for &(key, value) in own.iter().filter(|(k, _)| !is_merge(*k) && !tree.get(*k).ignored) {
                    let new = scalar_text(tree, key).is_none_or(|text| known.insert(text));
                    if self.enter(at, Depth::default()) && new {
                        entries.push(Entry { key, value, merged: true });
                    }
                }
                for &(_, value) in own.iter().filter(|(k, _)| is_merge(*k)) {
                    self.merge(value, at, entries, known, depth + 1);
                }
            }
            Data::List(items) => {
                for &item in items {
                    self.merge(item, at, entries, known, depth + 1);
                }
            }
            Data::Scalar(..) => {
                self.fail_at(at, "`<<` must name an object or a list of objects", tree.get(node).place);
            }
        }
    }

    /// The text of a key; keys are strings whatever they look like.
    pub(crate) fn key_text(&mut self, key: NodeId, at: At) -> Option<&'t str> {
        let text = scalar_text(self.tree, key);
        if text.is_none() {
            self.fail_at(at, "a key must be a string", self.tree.get(key).place);
        }
        text
    }

    /// Whether a key is this text.
    pub(crate) fn key_is(&self, key: NodeId, name: &str) -> bool {
        scalar_text(self.tree, key) == Some(name)
    }

    /// The text of a value that must be a string.
    pub(crate) fn string(&mut self, node: NodeId, at: At) -> Option<&'t str> {
        let text = scalar_text(self.tree, node).filter(|_| !self.is_null(node));
        if text.is_none() {
            self.fail(at, format!("must be a string, not {}", self.describe(node)));
        }
        text
    }

    /// Where a field's value is said to be: the value, or its key when the value is a block below it.
    pub(crate) fn value_place(&self, entry: &Entry) -> Place {
        let (key, value) = (self.tree.get(entry.key).place, self.tree.get(entry.value));
        let below = !matches!(value.data, Data::Scalar(..)) && value.place.line != key.line;
        let empty = matches!(&value.data, Data::Scalar(text, Style::Plain) if text.is_empty());
        if below || empty { key } else { value.place }
    }

    /// What a node is, for "must be a number, not ...".
    pub(crate) fn describe(&self, node: NodeId) -> String {
        use super::tree::Scalar;
        match &self.tree.get(node).data {
            Data::List(_) => "a list".to_owned(),
            Data::Map(_) => "an object".to_owned(),
            Data::Scalar(text, style) => match Scalar::resolve(text, *style) {
                Scalar::Null => "null".to_owned(),
                Scalar::Bool(_) => format!("the boolean `{text}`"),
                Scalar::Int(_) | Scalar::Number(_) => format!("the number {text}"),
                Scalar::Plain(_) | Scalar::Quoted(_) => format!("the string {}", quoted(text)),
            },
        }
    }

    pub(crate) fn is_null(&self, node: NodeId) -> bool {
        matches!(
            &self.tree.get(node).data,
            Data::Scalar(text, style) if super::tree::Scalar::resolve(text, *style) == super::tree::Scalar::Null
        )
    }
}

/// A text in quotes, cut when long.
pub(crate) fn quoted(text: &str) -> String {
    const LONGEST: usize = 60;
    match text.char_indices().nth(LONGEST) {
        Some((cut, _)) => format!("{:?}...", &text[..cut]),
        None => format!("{text:?}"),
    }
}

fn scalar_text<'t>(tree: &'t Tree<'t>, node: NodeId) -> Option<&'t str> {
    match &tree.get(node).data {
        Data::Scalar(text, _) => Some(text),
        _ => None,
    }
}

/// Types for which null is a value.
fn takes_null(kind: &Kind) -> bool {
    match kind {
        Kind::Message(of) => of.full_name() == "google.protobuf.Value",
        Kind::Enum(of) => of.full_name() == "google.protobuf.NullValue",
        _ => false,
    }
}

fn map_key(kind: &Kind, text: &str) -> Option<MapKey> {
    Some(match kind {
        Kind::String => MapKey::String(text.to_owned()),
        Kind::Bool => MapKey::Bool(text.parse().ok()?),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => MapKey::I32(text.parse().ok()?),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => MapKey::I64(text.parse().ok()?),
        Kind::Uint32 | Kind::Fixed32 => MapKey::U32(text.parse().ok()?),
        Kind::Uint64 | Kind::Fixed64 => MapKey::U64(text.parse().ok()?),
        _ => return None,
    })
}
